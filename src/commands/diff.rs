//! `onnx-shrink diff A B`: what changed between two models.
use std::path::{Path, PathBuf};

use clap::Args;
use onnx_shrink_driver::{
    ExitCode, Failure,
    diff::{self, Compared, diff_files},
    paths::Paths,
    request::checked_file,
};
use onnx_shrink_ir::proto;

use super::{Command, Session};
use crate::{
    page,
    text::{diff as text, style::colour_wanted},
};

/// The arguments of `diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
Names of ops and of values inside, and the order of ops, make no difference. Names of inputs and outputs do, unless
--ignore-names.

Exit codes: 0 equal; 5 different; 1 a model cannot be read; 2 the command line is wrong, or a file cannot be written.")]
pub struct Diff {
    /// The one model; `-` is standard input
    #[arg(value_name = "A")]
    pub a: PathBuf,

    /// The other
    #[arg(value_name = "B")]
    pub b: PathBuf,

    /// Print JSON (docs/diff.md says what is in it)
    #[arg(long)]
    pub json: bool,

    /// Write a page that shows both graphs side by side
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Name every op and every detail
    #[arg(long)]
    pub all: bool,

    /// Look at no name, not even at those of inputs and outputs
    #[arg(long)]
    pub ignore_names: bool,
}

impl Command for Diff {
    const NAME: &'static str = "diff";
    const ABOUT: &'static str = "Tell what changed between two models; exit code 5 when they differ";

    fn run(self, session: &mut Session<'_>) -> Result<ExitCode, Failure> {
        if self.a == Path::new("-") && self.b == Path::new("-") {
            return Err(Failure::usage(
                "both models are `-`: standard input can be read once; name a file for the other",
            ));
        }
        let mut paths = Paths::default().model(&self.a).model(&self.b);
        if let Some(page) = &self.html {
            checked_file(page)?;
            paths = paths.write("--html", page);
        }
        paths.print().check()?;
        let options = diff::Options { ignore_names: self.ignore_names };
        let Compared { diff: found, a, b } = diff_files(&self.a.into(), &self.b.into(), options)?;
        if let Some(file) = &self.html {
            let page = page::render(&found, &a, &b).map_err(Failure::bug)?;
            proto::save_bytes(page.as_bytes(), file).map_err(|error| Failure::new(ExitCode::Usage, error))?;
        }
        let text = match self.json {
            true => serde_json::to_string_pretty(&found).map_err(Failure::bug)? + "\n",
            false => text::render(&found, text::Style { color: colour_wanted(session.terminal), all: self.all }),
        };
        // A reader that has gone away is no failure of ours.
        let _ = session.out.write_all(text.as_bytes()).and_then(|()| session.out.flush());
        Ok(if found.equal { ExitCode::Done } else { ExitCode::Different })
    }
}
