//! The command line: arguments to a command, failures to a line and an exit code.
//!
//! **Nothing** else ends the process. (Panics are caught once more where passes run: [`lossless`](crate::lossless).)
use std::{
    io::{IsTerminal, Write},
    panic::{self, AssertUnwindSafe},
};

use anyhow::anyhow;
use clap::{
    ArgAction, ArgMatches, Args, FromArgMatches,
    error::{ContextKind, ContextValue},
};

use crate::{
    commands::{Command as _, OTHERS, Session, shrink::Shrink},
    panics,
    request::{ExitCode, Failure},
};

const AFTER_HELP: &str = "\
Examples:
  onnx-shrink model.onnx -o small.onnx                       lossless: the same results, fewer ops and bytes
  onnx-shrink model.onnx -o small.onnx --int8 --data calib/  8 bits, calibrated and validated on samples
  onnx-shrink model.onnx -o small.onnx --int8 --data photos/ --resize 256 --crop 224x224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225       samples that are images
  onnx-shrink model.onnx -o small.onnx --report report.json  what was done, and what not and why, for machines
  cat model.onnx | onnx-shrink - -o - > small.onnx

Samples are .npz files with arrays named as the graph's inputs (and `y` for the label), made with numpy.savez.

Exit codes: 0 written; 1 the input cannot be used; 2 the command line is wrong, or the output cannot be written;
3 the samples cannot be used; 4 a gate failed, nothing was written; 5 a difference was found; 70 a bug of onnx-shrink.";

/// The whole command line.
pub fn command() -> clap::Command {
    let verbose = clap::Arg::new("verbose")
        .short('v')
        .long("verbose")
        .action(ArgAction::Count)
        .global(true)
        .help_heading("Output")
        .help("Print more on standard error: -v passes, -vv rewrites, -vvv everything");
    let command = Shrink::augment_args(clap::Command::new(Shrink::NAME))
        .about(Shrink::ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(AFTER_HELP)
        .max_term_width(120)
        .arg(verbose);
    if OTHERS.is_empty() {
        return command;
    }
    let command = command.args_conflicts_with_subcommands(true).subcommand_negates_reqs(true);
    command.subcommands(OTHERS.iter().map(|entry| (entry.define)()))
}

/// The program.
pub fn main() -> std::process::ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            if let Some(ContextValue::String(answer)) = error.get(ContextKind::Custom) {
                let _ = std::io::stdout().write_all(answer.as_bytes());
                return ExitCode::Done.into();
            }
            let _ = error.print(); // help goes to stdout, errors to stderr; a closed one is no failure of ours
            return if error.use_stderr() { ExitCode::Usage.into() } else { ExitCode::Done.into() };
        }
    };
    start_logging(matches.get_count("verbose"), matches.get_flag("quiet"));
    panics::keep_quiet();
    let outcome = guarded(|| {
        start_threads(matches.get_one::<usize>("threads").copied().unwrap_or(0))?;
        let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
        let terminal = out.is_terminal();
        dispatch(&matches, &mut Session { out: &mut out, err: &mut err, terminal })
    });
    match outcome {
        Ok(code) => code.into(),
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{}", sentence(&failure));
            failure.code.into()
        }
    }
}

fn dispatch(matches: &ArgMatches, session: &mut Session<'_>) -> Result<ExitCode, Failure> {
    if let Some((name, matches)) = matches.subcommand()
        && let Some(entry) = OTHERS.iter().find(|entry| entry.name == name)
    {
        return (entry.run)(matches, session);
    }
    Shrink::from_arg_matches(matches).map_err(Failure::usage)?.run(session)
}

/// The line that is printed for `failure`.
fn sentence(failure: &Failure) -> String {
    let text = failure.to_string().replace('\n', " ");
    match failure.code {
        ExitCode::Bug => format!(
            "error: {text}\nthis is a bug in onnx-shrink: please report it, with the command line, and the model if you can"
        ),
        _ => format!("error: {text}"),
    }
}

fn start_logging(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, 2) => log::LevelFilter::Debug,
        (false, _) => log::LevelFilter::Trace,
    };
    // Engines and codecs have much to say that helps nobody here, until everything is asked for.
    let others = if verbose > 2 { log::LevelFilter::Debug } else { log::LevelFilter::Error };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(others).filter_module("onnx_shrink", level).format_timestamp(None).format_target(verbose > 0);
    builder.filter_module("egg", others.min(log::LevelFilter::Warn)); // it has a line for every match
    let _ = builder.try_init(); // fails only if a library user has a logger already
}

fn start_threads(threads: usize) -> Result<(), Failure> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.map_err(|error| Failure::usage(format_args!("--threads {threads}: {error}")))
}

/// `work`, with a panic made into a [`Failure`].
fn guarded(work: impl FnOnce() -> Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload| Err(Failure::bug(anyhow!("{}", panics::text_of(payload.as_ref())))))
}

#[cfg(test)]
mod tests {
    use super::{command, guarded, sentence};
    use crate::request::{ExitCode, Failure};

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_panic_is_a_bug_to_report() {
        let failure = guarded(|| panic!("index out of\nbounds")).unwrap_err();
        assert_eq!(failure.code, ExitCode::Bug);
        let text = sentence(&failure);
        assert!(text.starts_with("error: ") && text.contains("bounds") && text.contains("please report"), "{text}");
    }

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let cause = anyhow::anyhow!("no such file").context("m.onnx");
        assert_eq!(sentence(&Failure::input(cause)), "error: m.onnx: no such file");
    }
}
