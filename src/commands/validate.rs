//! `validate`: whether one model does what another does.
use std::path::PathBuf;

use clap::Args;
use onnx_shrink_driver::{
    ExitCode, Failure, Gates,
    paths::Paths,
    samples::Data,
    validate::{self, Standard, validate},
};

use super::{
    Command, Session,
    arguments::choice::{STANDARD, one_of},
    shrink::SampleArguments,
};
use crate::{
    progress,
    text::{style::Style, validate as text},
};

/// The arguments of `validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// The model that is right
    #[arg(value_name = "A")]
    pub before: PathBuf,

    /// The model that is judged
    #[arg(value_name = "B")]
    pub after: PathBuf,

    /// Compare every value that both models have under one name, the worst first
    #[arg(long)]
    pub all_values: bool,

    /// Print every value, not only the worst
    #[arg(long, requires = "all_values")]
    pub all: bool,

    /// Everything as JSON (docs/validate.md)
    #[arg(long)]
    pub json: bool,

    /// What B is judged as
    #[arg(long = "as", value_parser = one_of(STANDARD), default_value = "auto", value_name = "STANDARD")]
    pub standard: Standard,

    /// Change a gate: lossless-rel, lossless-rel-fp16, sqnr, drop, max-bytes; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub gate: Vec<String>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub samples: SampleArguments,
}

impl Validate {
    /// Refuses what nothing here can be judged by.
    fn check(&self, gates: &Gates) -> Result<(), Failure> {
        let SampleArguments { data, validation_data, .. } = &self.samples;
        if data.is_some() && validation_data.is_some() {
            return Err(Failure::usage("validate judges on all of --data: leave out --validation-data, or --data"));
        }
        let has_samples = data.is_some() || validation_data.is_some();
        if !has_samples && self.samples.skip_bad_samples {
            return Err(Failure::usage("--skip-bad-samples is about samples, and there are none: give --data DIR"));
        }
        if !has_samples && let Some(flag) = self.samples.options().given() {
            return Err(Failure::usage(format_args!(
                "{flag} says how images become samples: give them with --data DIR"
            )));
        }
        for &gate in &gates.given {
            let flag = gates.flag(gate);
            if gate.is_of_pruning() {
                let why = "is for runs with --prune: say sqnr or drop";
                return Err(Failure::usage(format_args!("{flag} {why}")));
            }
            if gate.wants_samples() && !has_samples {
                let why = "needs real samples to judge by, made-up ones tell nothing of accuracy: give --data DIR";
                return Err(Failure::usage(format_args!("{flag} {why}")));
            }
        }
        Ok(())
    }
}

impl Command for Validate {
    const NAME: &'static str = "validate";
    const ABOUT: &'static str = "Run two models on samples and judge the second by the gates";
    const AFTER_HELP: &'static str = "\
Examples:
  onnx-shrink validate model.onnx small.onnx --data eval/
  onnx-shrink validate model.onnx small.onnx --data eval/ --all-values   which layer is off, the worst first
  onnx-shrink validate model.onnx small.onnx --data eval/ --gate drop=0.003 --json

All of --data judges. Without it, samples are made up.

Exit codes: 0 every gate holds; 1 a model cannot be used, or A does not run; 2 the command line is wrong;
3 the samples cannot be used; 4 a gate that was given could not be judged; 5 a gate fails, the inputs or outputs differ, or B does not run.";

    fn run(self, session: &mut Session<'_>) -> Result<ExitCode, Failure> {
        let paths =
            Paths::default().model(&self.before).model(&self.after).samples("--data", self.samples.data.as_deref());
        paths.samples("--validation-data", self.samples.validation_data.as_deref()).print().check()?;
        let mut gates = Gates::default();
        for gate in &self.gate {
            gates.set(gate).map_err(|problem| Failure::usage(format_args!("--gate: {problem}")))?;
        }
        self.check(&gates)?;
        let request = validate::Validate {
            before: self.before.into(),
            after: self.after.into(),
            data: self.samples.validation_data.as_ref().or(self.samples.data.as_ref()).map(Data::from),
            sample_options: self.samples.options(),
            bad_samples: self.samples.bad_samples(),
            gates,
            standard: self.standard,
            all_values: self.all_values,
        };
        let progress = progress::for_stderr(session.quiet);
        let verdict = validate(&request, progress.as_ref())?;
        if self.json {
            session.print_json(&verdict)?;
        } else if !session.quiet {
            session.print(&text::render(&verdict, self.all, &Style::detect(session.terminal)));
        }
        Ok(if verdict.passed { ExitCode::Done } else { ExitCode::Different })
    }
}
