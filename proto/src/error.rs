//! Why a model could not be loaded or saved.
//!
//! Each level says its place and leaves the cause to `source()`, so that the chain on one line (`{:#}` of `anyhow`) is a
//! sentence: "m.onnx: initializer `w`: external data `w.bin` has 1024 bytes, 4096 are needed; copy the whole file next to
//! the model". **Never** repeats a cause in its own text.
use std::{fmt, io, path::PathBuf};

use prost::DecodeError;

/// A file could not be used as a model.
#[derive(Debug, thiserror::Error)]
#[error("{}{place}", file.display())]
pub struct LoadError {
    /// The model's file, as the caller named it.
    pub file: PathBuf,
    /// Where in it.
    pub place: Place,
    /// What is wrong, and what helps.
    #[source]
    pub problem: Box<Problem>,
}

/// Where in a model a problem lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    WholeFile,
    /// One tensor: "initializer `w`", "attribute `value` of node `n`".
    Tensor(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::WholeFile => Ok(()),
            Place::Tensor(name) => write!(f, ": {name}"),
        }
    }
}

/// What is wrong with a model, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file itself cannot be read.
    #[error(transparent)]
    File(#[from] FileProblem),
    /// Zero bytes.
    #[error("the file is empty; copy or download it again")]
    Empty,
    /// Recognized as something else.
    #[error("this is not an ONNX model but {what}")]
    SomethingElse {
        /// What it seems to be, with the remedy.
        what: &'static str,
    },
    /// Not protobuf of the right kind, and not recognized.
    #[error("this is not an ONNX model, or it is damaged at byte {offset}")]
    NotOnnx {
        /// The first byte that makes no sense.
        offset: usize,
    },
    /// Starts as a model and ends early.
    #[error("the file ends after {found} bytes, at least {needed} are needed; copy or download it again")]
    Truncated {
        /// Bytes in the file.
        found: usize,
        /// Bytes that its first part announces.
        needed: u64,
    },
    /// The wire format breaks inside a message.
    #[error("the file is damaged at byte {offset}, in {path}, or no ONNX model; copy or download it again")]
    Damaged {
        /// The message that is broken: `ModelProto.graph.node[3]`.
        path: String,
        /// The first byte that makes no sense.
        offset: usize,
    },
    /// A field has a wrong type, or text is not UTF-8.
    #[error("the file is not an ONNX model, or it is damaged")]
    Decode(#[source] DecodeError),
    /// More nested messages than the decoder takes.
    #[error("subgraphs (bodies of If, Loop, Scan) are nested more than 33 deep, in {path}; flatten the model first")]
    TooDeep {
        /// The innermost message that was reached, shortened.
        path: String,
    },
    /// Would decode to far more memory than its size suggests.
    #[error(
        "the model's structure needs {needed} bytes of memory, {allowed} are allowed for its size; it is made to exhaust memory, or damaged"
    )]
    TooMuchMemory {
        /// What the messages need at least.
        needed: u64,
        /// The budget, see [`Limits`](crate::Limits).
        allowed: u64,
    },
    /// Decodes, but to nothing.
    #[error("the model has no graph; is this another kind of protobuf file?")]
    NoGraph,
    /// External data, but the model came from no folder.
    #[error(
        "its data lies in the file `{location}`, and a model from standard input has no folder; give the model as a file"
    )]
    ExternalDataNoFolder {
        /// The `location` in the model.
        location: String,
    },
    /// `data_location` is EXTERNAL, but no `location` is given.
    #[error("external data without a `location`; export the model again")]
    ExternalDataNoLocation,
    /// Data inside and outside.
    #[error("data both in the model and in `{location}`; export the model again")]
    ExternalDataTwice {
        /// The `location` in the model.
        location: String,
    },
    /// A path out of the model's folder.
    #[error(
        "external data `{location}` lies outside of the model's folder, where nothing is read; copy the file next to the model"
    )]
    ExternalDataOutside {
        /// The `location` in the model.
        location: String,
    },
    /// `offset` or `length` is not a count of bytes.
    #[error("external data `{location}`: {key} `{value}` is not a number of bytes; export the model again")]
    ExternalDataNumber {
        /// The `location` in the model.
        location: String,
        /// `offset` or `length`.
        key: &'static str,
        /// What stands there.
        value: String,
    },
    /// The file cannot be read.
    #[error("external data `{location}`")]
    ExternalDataFile {
        /// The `location` in the model.
        location: String,
        /// Why not.
        #[source]
        source: FileProblem,
    },
    /// `offset + length` lies behind the end.
    #[error("external data `{location}` has {found} bytes, {needed} are needed; copy the whole file next to the model")]
    ExternalDataShort {
        /// The `location` in the model.
        location: String,
        /// `offset + length`.
        needed: u64,
        /// The size of the file.
        found: u64,
    },
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// Nothing there.
    #[error("no such file")]
    Missing,
    /// A folder.
    #[error("this is a folder, not a file")]
    Folder,
    /// A pipe, a socket or a device.
    #[error("this is not a regular file but a pipe or a device; copy it to a file first")]
    NotRegular,
    /// All else that the system says.
    #[error("cannot be read")]
    Io(#[source] io::Error),
}

/// A model could not be written. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
#[error("{}", file.display())]
pub struct SaveError {
    /// The file that was to be written, as the caller named it.
    pub file: PathBuf,
    /// What is wrong, and what helps.
    #[source]
    pub problem: SaveProblem,
}

/// Why a model could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveProblem {
    /// The target is a folder.
    #[error("cannot be written: this is a folder; name a file in it")]
    Folder,
    /// The target's folder is not there.
    #[error("cannot be written: the folder `{}` does not exist; create it first", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// The target is there, and nobody may write it.
    #[error("cannot be written: the file is write-protected; remove it, or choose another name")]
    WriteProtected,
    /// Not the name of one file.
    #[error(
        "`{name}` cannot be the name of the external data: it must be a file name without a folder, and not the model's own"
    )]
    DataName {
        /// What was asked for.
        name: String,
    },
    /// Another model would lose its data.
    #[error("`{name}` cannot be the name of the external data: `{model}` reads that file; choose another name")]
    DataInUse {
        /// What was asked for.
        name: String,
        /// The model that reads it.
        model: String,
    },
    /// A named pipe that would wait for its other end.
    #[error("cannot be written: nobody reads from this pipe; start its reader first, or write to a file")]
    NoPipeReader,
    /// A protobuf message ends at 2 GiB.
    #[error("the model has {size} bytes, an ONNX file at most {limit}; write it to a file with external data")]
    TooLarge {
        /// Bytes of the message.
        size: usize,
        /// The largest message that every reader takes.
        limit: usize,
    },
    /// What the system says.
    #[error("cannot {action}")]
    Io {
        /// What was tried: "write the model".
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
