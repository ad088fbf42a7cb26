//! The command line: arguments to a command, failures to a line and an exit code.
//!
//! **Nothing** else ends the process. (Panics of passes are caught in the driver, too, where they run.)
use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::LazyLock,
};

use anyhow::anyhow;
use clap::{
    ArgAction, ArgMatches, Args, FromArgMatches,
    builder::{Styles, styling::AnsiColor},
    error::{ContextKind, ContextValue},
};
use onnx_shrink_driver::{ExitCode, Failure, panics, request::used_threads};
use onnx_shrink_ir::{conform::nearest, op_schema};

use crate::{
    commands::{Command as _, OTHERS, Session, shrink::Shrink},
    text::style::colour_wanted,
};

const AFTER_HELP: &str = "\
For examples and exit codes: onnx-shrink --help. For a command: onnx-shrink help <COMMAND>.";

const AFTER_LONG_HELP: &str = "\
Examples:
  Lossless: the same results, fewer ops and bytes
      onnx-shrink model.onnx -o small.onnx

  8 bits, calibrated and validated on samples
      onnx-shrink model.onnx -o small.onnx --int8 --data calib/

  Samples that are images
      onnx-shrink model.onnx -o small.onnx --int8 --data photos/ --resize 256 --crop 224x224 \\
          --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225

  What was done, and what not and why, for machines
      onnx-shrink model.onnx -o small.onnx --report report.json

  In a pipe
      cat model.onnx | onnx-shrink - -o - > small.onnx

Samples are .npz files with arrays named as the graph's inputs (and `y` for the label), made with
numpy.savez.

Exit codes:
  0   written
  1   the input cannot be used
  2   the command line is wrong, or the output cannot be written
  3   the samples, or one of them, cannot be used (--skip-bad-samples goes on without it)
  4   a gate failed, or one that was given could not be judged; nothing was written
  5   a difference was found (diff, validate)
  70  a bug of onnx-shrink";

/// Colours of help and errors; they are left out where NO_COLOR is set or nobody looks.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The version, that of the source where who built the program said it (ONNX_SHRINK_COMMIT), and what it knows of ONNX.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("ONNX_SHRINK_COMMIT").map_or_else(String::new, |commit| format!(" ({commit})"));
    format!("{}{commit}\nONNX opsets 1 to {}", env!("CARGO_PKG_VERSION"), op_schema::newest())
});

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
        .long_version(LONG_VERSION.as_str())
        .after_help(AFTER_HELP)
        .after_long_help(AFTER_LONG_HELP)
        .styles(STYLES)
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
    let matches = match command().try_get_matches_from(with_dashes(std::env::args_os())) {
        Ok(matches) => matches,
        Err(mut error) => {
            if let Some(ContextValue::String(answer)) = error.get(ContextKind::Custom) {
                let _ = std::io::stdout().write_all(answer.as_bytes());
                return ExitCode::Done.into();
            }
            suggest_dashes(&mut error);
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
        let quiet = matches.get_flag("quiet");
        dispatch(&matches, &mut Session { out: &mut out, err: &mut err, terminal, quiet })
    });
    match outcome {
        Ok(code) => code.into(),
        Err(failure) => {
            let mut text = sentence(&failure);
            if let Some(hint) = hint(&matches, &failure) {
                text += &hint;
            }
            let red = colour_wanted(std::io::stderr().is_terminal());
            let text = if red { text.replacen("error:", "\x1b[1;31merror:\x1b[0m", 1) } else { text };
            let _ = writeln!(std::io::stderr(), "{text}");
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

/// The arguments with dashes in the names of options: `--keep_float` is what other tools would write.
fn with_dashes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut options = true;
    let dashed = |argument: OsString| match argument.to_str() {
        Some("--") => {
            options = false;
            argument
        }
        Some(text) if options && text.starts_with("--") => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            (name.replace('_', "-") + value).into()
        }
        _ => argument,
    };
    arguments.map(dashed).collect()
}

/// Suggested options as the help writes them: their other spellings may be nearer, but teach nothing.
fn suggest_dashes(error: &mut clap::Error) {
    if let Some(ContextValue::String(suggested)) = error.get(ContextKind::SuggestedArg) {
        let dashed = ContextValue::String(suggested.replace('_', "-"));
        error.insert(ContextKind::SuggestedArg, dashed);
    }
}

/// What to do when a model that is not there looks like a command.
fn hint(matches: &ArgMatches, failure: &Failure) -> Option<String> {
    let input = matches.try_get_one::<PathBuf>("input").ok()??;
    if !matches!(failure.code, ExitCode::Input | ExitCode::Usage) || input.exists() {
        return None;
    }
    let word = input.to_str()?;
    let near = nearest(word, OTHERS.iter().map(|entry| entry.name))?;
    Some(format!("\n\n  tip: a command with a similar name exists: onnx-shrink {near}"))
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
    let built = rayon::ThreadPoolBuilder::new().num_threads(used_threads(threads)).build_global();
    built.map_err(|error| Failure::usage(format_args!("--threads {threads}: {error}")))
}

/// `work`, with a panic made into a [`Failure`].
fn guarded(work: impl FnOnce() -> Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload| Err(Failure::bug(anyhow!("{}", panics::text_of(payload.as_ref())))))
}

#[cfg(test)]
mod tests {
    use super::{command, guarded, nearest, sentence, with_dashes};
    use crate::commands::OTHERS;
    use onnx_shrink_driver::{ExitCode, Failure};

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_misspelt_command_is_near_and_a_file_is_not() {
        for (word, near) in
            [("inspct", true), ("isnpect", true), ("valdate", true), ("mn", true), ("in", false), ("m", false)]
        {
            assert_eq!(nearest(word, OTHERS.iter().map(|entry| entry.name)).is_some(), near, "{word}");
        }
    }

    #[test]
    fn options_may_be_written_with_underscores() {
        let arguments = ["--keep_float", "a_b", "--gate=x_y", "--", "--my_model.onnx"].map(std::ffi::OsString::from);
        let dashed = with_dashes(arguments.into_iter());
        assert_eq!(dashed, ["--keep-float", "a_b", "--gate=x_y", "--", "--my_model.onnx"]);
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
