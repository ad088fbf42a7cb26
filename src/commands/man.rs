//! `man`: the manual page of the program or of one command.
use clap::Args;
use onnx_shrink_driver::{ExitCode, Failure};

use super::{Command, OTHERS, Session};
use crate::cli;

/// The arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The page of this command (default: of the main form)
    #[arg(value_name = "COMMAND", value_parser = clap::builder::PossibleValuesParser::new(OTHERS.iter().map(|entry| entry.name)))]
    pub command: Option<String>,
}

impl Command for Man {
    const NAME: &'static str = "man";
    const ABOUT: &'static str = "Print the manual page, in roff";
    const AFTER_HELP: &'static str = "\
Examples:
  onnx-shrink man > onnx-shrink.1
  onnx-shrink man inspect | man -l -";

    fn run(self, session: &mut Session<'_>) -> Result<ExitCode, Failure> {
        let mut all = cli::command();
        all.build();
        let command = match &self.command {
            None => all,
            // (Once built, a command's display name is that of its page: onnx-shrink-inspect.)
            Some(name) => match all.find_subcommand(name) {
                Some(command) => command.clone().version(env!("CARGO_PKG_VERSION")),
                None => return Err(Failure::usage(format_args!("there is no command `{name}`"))),
            },
        };
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(Failure::bug)?;
        session.print(&String::from_utf8(page).map_err(Failure::bug)?);
        Ok(ExitCode::Done)
    }
}
