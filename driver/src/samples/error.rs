//! Why samples cannot be used, in sentences that say what to change.
use std::{error::Error as _, fmt};

use onnx_shrink_ir::{TensorType, proto::LoadError};
use serde::Serialize;

/// Samples that cannot be used. The sentence has the whole reason: a path alone helps nobody, and not every reader asks for causes.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {}", problem.with_causes())]
pub struct SampleError {
    /// What the user gave, or the sample's own name
    pub place: String,
    /// What is wrong, and what helps
    pub problem: Box<SampleProblem>,
}

impl SampleError {
    /// `problem` at `place`.
    pub(super) fn at(place: impl fmt::Display, problem: SampleProblem) -> SampleError {
        SampleError { place: place.to_string(), problem: Box::new(problem) }
    }
}

/// A sample that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadSample {
    /// Its name: a file, or a place in a file
    pub sample: String,
    /// What is wrong with it
    pub reason: String,
}

impl fmt::Display for BadSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.sample, self.reason)
    }
}

/// Bad samples that a sentence names with their reasons, at most.
const MOST_NAMED: usize = 3;

/// The first of `bad`, each with its reason, and how many more there are.
pub(super) fn name_some(bad: &[BadSample]) -> String {
    let named: Vec<String> = bad.iter().take(MOST_NAMED).map(BadSample::to_string).collect();
    let more = match bad.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    named.join("; ") + &more
}

/// The sentence of [`SampleProblem::Bad`].
fn refusal(bad: &[BadSample], all: usize) -> String {
    match bad {
        [only] if all == 1 => format!("its one sample cannot be used: {only}"),
        [first, ..] if bad.len() == all => format!("none of the {all} samples can be used; the first is {first}"),
        _ => {
            let (count, named) = (bad.len(), name_some(bad));
            let what = if count == 1 { "mend or remove it" } else { "mend or remove them" };
            format!(
                "{count} of {all} samples cannot be used: {named} ({what}; --skip-bad-samples goes on with the others)"
            )
        }
    }
}

/// What is wrong with samples, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum SampleProblem {
    /// Samples among others that cannot be read, or that the model does not run on
    #[error("{}", refusal(bad, *all))]
    Bad {
        /// These, in order
        bad: Vec<BadSample>,
        /// How many samples there are
        all: usize,
    },
    /// One sample of many
    #[error("sample `{sample}`")]
    InSample {
        /// Its name
        sample: String,
        /// What is wrong with it
        #[source]
        problem: Box<SampleProblem>,
    },
    /// The system's word
    #[error("cannot be read")]
    Io(#[from] std::io::Error),
    /// Nothing there
    #[error("no such file or folder")]
    Missing,
    /// No sample in it
    #[error(
        "{found} in it; wanted are .npz files (arrays named as the inputs), .npy files, images (.jpg, .png) or test_data_set_* folders"
    )]
    Empty {
        /// What is there instead
        found: String,
    },
    /// Two forms in one folder
    #[error("it mixes {one} and {other}; put one kind of samples into a folder of its own")]
    Mixed {
        /// A form with an example
        one: String,
        /// Another
        other: String,
    },
    /// A file of no known form
    #[error("this is no form of samples that is known; give a folder, or an .npz or .npy file")]
    UnknownForm,
    /// A malformed file
    #[error("{0}")]
    Format(String),
    /// A malformed array
    #[error("array `{array}`: {problem}")]
    Array {
        /// Its name
        array: String,
        /// What is wrong with it
        problem: String,
    },
    /// An array that the model cannot take
    #[error("array `{array}` is {found}, the model's input is {expected}; {hint}")]
    DoesNotFit {
        /// Its name
        array: String,
        /// What it is
        found: TensorType,
        /// What it should be
        expected: TensorType,
        /// What helps
        hint: String,
    },
    /// An input that nothing gives
    #[error("no array for the model's input `{input}`: the arrays are {found}, the model wants {wanted}")]
    InputMissing {
        /// The input's name
        input: String,
        /// The arrays that are there
        found: String,
        /// The model's inputs
        wanted: String,
    },
    /// A form that has room for one input only
    #[error("{form} can give one input, the model has {count}: {wanted}; use .npz files with arrays of these names")]
    SeveralInputs {
        /// The form
        form: &'static str,
        /// Number of inputs
        count: usize,
        /// Their names and types
        wanted: String,
    },
    /// One name, two numbers
    #[error("dimension `{symbol}` is {one} in `{first}` and {other} in `{second}`; it must be the same number")]
    Symbol {
        /// The dimension's name
        symbol: String,
        /// Its size in the first input
        one: usize,
        /// The first input
        first: String,
        /// Its size in the second
        other: usize,
        /// The second input
        second: String,
    },
    /// NaN or infinity
    #[error("array `{array}` has a value that is not finite ({value}, at place {place})")]
    NotFinite {
        /// Its name
        array: String,
        /// The value
        value: f64,
        /// Its place, counted over all elements
        place: usize,
    },
    /// Inputs that are no tensors
    #[error("the model's input `{input}` is no tensor but a sequence, map or optional; samples cannot give it")]
    NoTensor {
        /// The input's name
        input: String,
    },
    /// A malformed tensor file
    #[error("input {0}")]
    TensorFile(usize, #[source] Box<LoadError>),
    /// An image that cannot be decoded
    #[error("not an image that can be read")]
    Image(#[from] image::ImageError),
    /// An image of the wrong size
    #[error(
        "the image has {width}x{height} pixels, the model's input `{input}` wants {wanted_width}x{wanted_height}; say {hint}"
    )]
    ImageSize {
        /// Its width
        width: u32,
        /// Its height
        height: u32,
        /// The input's name
        input: String,
        /// The width that is wanted
        wanted_width: usize,
        /// The height that is wanted
        wanted_height: usize,
        /// The flags that help
        hint: String,
    },
}

impl SampleProblem {
    /// What is wrong with the sample itself, where another sentence names it.
    pub(super) fn of_sample(self) -> SampleProblem {
        match self {
            SampleProblem::InSample { problem, .. } => *problem,
            problem => problem,
        }
    }

    /// The sentence with its causes, on one line.
    pub(super) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text.replace('\n', " ")
    }
}

#[cfg(test)]
mod tests {
    use super::{BadSample, SampleError, SampleProblem};

    fn bad(count: usize, all: usize) -> String {
        let one = |index: usize| BadSample { sample: format!("{index}.npz"), reason: "it is cut off".to_owned() };
        let problem = Box::new(SampleProblem::Bad { bad: (0..count).map(one).collect(), all });
        SampleError { place: "calib".into(), problem }.to_string()
    }

    #[test]
    fn bad_samples_are_named_with_their_reasons() {
        let way_out = "--skip-bad-samples goes on with the others";
        assert_eq!(
            bad(1, 24),
            format!("calib: 1 of 24 samples cannot be used: `0.npz`: it is cut off (mend or remove it; {way_out})")
        );
        let many = bad(5, 24);
        assert!(many.contains("`2.npz`: it is cut off; and 2 more (mend or remove them") && !many.contains("`3.npz`"));
        assert_eq!(bad(24, 24), "calib: none of the 24 samples can be used; the first is `0.npz`: it is cut off");
        assert_eq!(bad(1, 1), "calib: its one sample cannot be used: `0.npz`: it is cut off");
    }

    #[test]
    fn the_sentence_has_the_cause_of_a_cause() {
        let io = std::io::Error::other("the disk is gone");
        let inner = SampleProblem::InSample { sample: "a.png".to_owned(), problem: Box::new(SampleProblem::Io(io)) };
        let error = SampleError { place: "photos".into(), problem: Box::new(inner) };
        assert_eq!(error.to_string(), "photos: sample `a.png`: cannot be read: the disk is gone");
    }
}
