//! `inspect`: what a model is, and what `--int8` would do to it.
use std::path::PathBuf;

use clap::Args;
use onnx_shrink_driver::{
    ExitCode, Failure,
    inspect::{self, inspect},
    paths::Paths,
    samples::Data,
};

use super::{Command, Session, arguments::target::TargetArguments, shrink::SampleArguments};
use crate::{
    progress,
    text::{inspect as text, style::Style},
};

/// The arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The model to look at; `-` is standard input
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,

    /// Every row of every table
    #[arg(long, conflicts_with = "json")]
    pub all: bool,

    /// Everything as JSON (docs/inspect.md)
    #[arg(long)]
    pub json: bool,

    /// Do not find out what --int8 would do: faster for large models
    #[arg(long)]
    pub no_int8: bool,

    /// Which channels --prune would keep or remove together, and which it must keep and why
    #[arg(long)]
    pub groups: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: TargetArguments,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub samples: SampleArguments,
}

impl Command for Inspect {
    const NAME: &'static str = "inspect";
    const ABOUT: &'static str = "Show what a model is: types, ops, bytes, work, and what --int8 would do";
    const AFTER_HELP: &'static str = "\
Examples:
  onnx-shrink inspect model.onnx
  onnx-shrink inspect model.onnx --data calib/   shapes and layers as the first samples show them
  onnx-shrink inspect model.onnx --groups --no-int8   channels that go together
  onnx-shrink inspect model.onnx --json | jq .work.multiply_adds

Exit codes: 0 done; 1 the model cannot be used; 2 the command line is wrong; 3 the samples cannot be used.";

    fn run(self, session: &mut Session<'_>) -> Result<ExitCode, Failure> {
        let paths = Paths::default().model(&self.model).samples("--data", self.samples.data.as_deref());
        paths.samples("--validation-data", self.samples.validation_data.as_deref()).print().check()?;
        let request = inspect::Inspect {
            input: self.model.into(),
            data: self.samples.data.as_ref().or(self.samples.validation_data.as_ref()).map(Data::from),
            sample_options: self.samples.options(),
            bad_samples: self.samples.bad_samples(),
            groups: self.groups,
            plan: (!self.no_int8).then_some(self.target.target),
        };
        let progress = progress::for_stderr(session.quiet);
        let found = inspect(&request, progress.as_ref())?;
        if self.json {
            session.print_json(&found)?;
        } else {
            session.print(&text::render(&found, self.all, &Style::detect(session.terminal)));
        }
        Ok(ExitCode::Done)
    }
}
