//! The commands. `shrink` is the main form, without a name; every other is a file here and a line in [`OTHERS`].
use std::io::Write;

use clap::{ArgMatches, Args};
use onnx_shrink_driver::{ExitCode, Failure};

pub mod arguments;
pub mod calibrate;
pub mod completions;
pub mod diff;
pub mod inspect;
pub mod man;
pub mod shrink;
pub mod validate;

/// What a command needs of the program around it.
pub struct Session<'a> {
    /// Where results go: standard output
    pub out: &'a mut dyn Write,
    /// Where notes go that are no results: standard error
    pub err: &'a mut dyn Write,
    /// Whether standard output is a terminal
    pub terminal: bool,
    /// Whether nothing but results and errors is wanted
    pub quiet: bool,
}

impl Session<'_> {
    /// Prints a result. A reader that has gone away is no failure of ours.
    pub fn print(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// Prints a result as JSON.
    pub fn print_json(&mut self, result: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(result).map_err(Failure::bug)?;
        self.print(&(text + "\n"));
        Ok(())
    }
}

/// A command: typed arguments, and what they do.
pub trait Command: Args {
    /// Its name on the command line
    const NAME: &'static str;
    /// One line for the help
    const ABOUT: &'static str;
    /// What follows the options in the help: examples, exit codes
    const AFTER_HELP: &'static str = "";

    /// Does it. `Ok` is how the program ends when nothing went wrong: [`ExitCode::Done`] or [`ExitCode::Different`].
    fn run(self, session: &mut Session<'_>) -> Result<ExitCode, Failure>;
}

/// A command with its types erased, for the list.
pub struct Entry {
    /// Its name on the command line
    pub name: &'static str,
    /// Its command line
    pub define: fn() -> clap::Command,
    /// Does it
    pub run: fn(&ArgMatches, &mut Session<'_>) -> Result<ExitCode, Failure>,
}

impl Entry {
    /// The entry of the command `C`.
    pub const fn of<C: Command>() -> Entry {
        Entry {
            name: C::NAME,
            define: || {
                // (What the type's own comment says would be the text, if this came before.)
                let command = C::augment_args(clap::Command::new(C::NAME)).about(C::ABOUT);
                if C::AFTER_HELP.is_empty() { command } else { command.after_help(C::AFTER_HELP) }
            },
            run: |matches, session| match C::from_arg_matches(matches) {
                Ok(command) => command.run(session),
                Err(error) => Err(Failure::usage(error)),
            },
        }
    }
}

/// The commands that have a name.
pub const OTHERS: &[Entry] = &[
    Entry::of::<calibrate::CalibrateShard>(),
    Entry::of::<diff::Diff>(),
    Entry::of::<inspect::Inspect>(),
    Entry::of::<validate::Validate>(),
    Entry::of::<completions::Completions>(),
    Entry::of::<man::Man>(),
];
