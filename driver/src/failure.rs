//! How a run can fail: a sentence, its causes, and the exit code of the program that it stands for.
//!
//! **Never** knows what the run was for: every module may fail with it.
use std::fmt;

use onnx_shrink_ir::{EvaluateError, conform::nearest};

/// How a run of the program ends. Documented in `--help`; numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The file was written, or the models are equal
    Done = 0,
    /// The input model cannot be used
    Input = 1,
    /// The command line is wrong, or names an output that cannot be written
    Usage = 2,
    /// The samples cannot be used
    Samples = 3,
    /// A gate failed; nothing was written
    Gate = 4,
    /// `diff` or `validate` found a difference
    Different = 5,
    /// A bug of this program
    Bug = 70,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(code as u8)
    }
}

/// Why a run ended without a result: the sentence, its causes, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends
    pub code: ExitCode,
    /// What went wrong; `{:#}` prints the chain on one line
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure that ends with `code`.
    pub fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Failure {
        Failure { code, error: error.into() }
    }

    /// The input model cannot be used.
    pub fn input(error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(ExitCode::Input, error)
    }

    /// The command line is wrong.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(ExitCode::Usage, anyhow::anyhow!("{message}"))
    }

    /// The samples cannot be used.
    pub fn samples(error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(ExitCode::Samples, error)
    }

    /// A gate failed.
    pub fn gate(message: impl fmt::Display) -> Failure {
        Failure::new(ExitCode::Gate, anyhow::anyhow!("{message}"))
    }

    /// Something that cannot happen, happened.
    pub fn bug(error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(ExitCode::Bug, error)
    }
}

/// What the model cannot be run on is the samples' fault, where it is their form; else the model's.
impl From<onnx_shrink_passes::SampleError> for Failure {
    fn from(error: onnx_shrink_passes::SampleError) -> Failure {
        use onnx_shrink_passes::SampleError;
        match error {
            SampleError::Read(error) => Failure::samples(anyhow::Error::from_boxed(error)),
            SampleError::Run(error @ EvaluateError::Input { .. }) => Failure::samples(error),
            SampleError::Run(error) => Failure::input(error),
            SampleError::None => Failure::samples(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// " (did you mean `x`?)", where one of `known` is near to `word`.
pub fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}
