//! `completions`: a script that completes the command line in a shell.
use clap::Args;
use clap_complete::Shell;
use onnx_shrink_driver::{ExitCode, Failure};

use super::{Command, Session};
use crate::cli;

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

impl Command for Completions {
    const NAME: &'static str = "completions";
    const ABOUT: &'static str = "Print a script that completes commands, options and values in a shell";
    const AFTER_HELP: &'static str = "\
Examples:
  onnx-shrink completions bash > ~/.local/share/bash-completion/completions/onnx-shrink
  onnx-shrink completions zsh > ~/.zfunc/_onnx-shrink         (with ~/.zfunc in $fpath)
  onnx-shrink completions fish > ~/.config/fish/completions/onnx-shrink.fish";

    fn run(self, session: &mut Session<'_>) -> Result<ExitCode, Failure> {
        let mut command = cli::command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        session.print(&String::from_utf8(script).map_err(Failure::bug)?);
        Ok(ExitCode::Done)
    }
}
