//! Why samples cannot be used, in sentences that say what to change.
use std::path::PathBuf;

use onnx_shrink_ir::{TensorType, proto::LoadError};

/// Samples that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct SampleError {
    /// The path that the user gave, or the sample's own
    pub path: PathBuf,
    /// What is wrong, and what helps
    #[source]
    pub problem: SampleProblem,
}

/// What is wrong with samples, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum SampleProblem {
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
    #[error("array `{array}` has a value that is not finite ({value}, at place {place}); remove the sample or mend it")]
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
