//! What a job reads and writes: files, standard streams, or memory.
use std::{
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

/// Where a model is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file; external data lie beside it
    File(PathBuf),
    /// Standard input
    Stdin,
    /// The bytes of a file without external data
    Memory(Bytes),
}

impl Input {
    /// The file, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Input::File(path) => Some(path),
            Input::Stdin | Input::Memory(_) => None,
        }
    }
}

/// As messages and reports name it.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::File(path) => path.display().fmt(f),
            Input::Stdin => f.write_str("-"),
            Input::Memory(_) => f.write_str("the model in memory"),
        }
    }
}

/// `-` is standard input.
impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Input {
        if path == Path::new("-") { Input::Stdin } else { Input::File(path) }
    }
}

impl From<&Path> for Input {
    fn from(path: &Path) -> Input {
        path.to_owned().into()
    }
}

impl From<&PathBuf> for Input {
    fn from(path: &PathBuf) -> Input {
        path.clone().into()
    }
}

impl From<&str> for Input {
    fn from(path: &str) -> Input {
        PathBuf::from(path).into()
    }
}

impl From<Bytes> for Input {
    fn from(bytes: Bytes) -> Input {
        Input::Memory(bytes)
    }
}

impl From<Vec<u8>> for Input {
    fn from(bytes: Vec<u8>) -> Input {
        Input::Memory(bytes.into())
    }
}

/// Where a model is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A file
    File(PathBuf),
    /// Standard output
    Stdout,
    /// Memory: the result holds the bytes
    Memory,
}

/// As messages and reports name it.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::File(path) => path.display().fmt(f),
            Output::Stdout => f.write_str("-"),
            Output::Memory => f.write_str("memory"),
        }
    }
}

/// `-` is standard output.
impl From<PathBuf> for Output {
    fn from(path: PathBuf) -> Output {
        if path == Path::new("-") { Output::Stdout } else { Output::File(path) }
    }
}

impl From<&Path> for Output {
    fn from(path: &Path) -> Output {
        path.to_owned().into()
    }
}

impl From<&str> for Output {
    fn from(path: &str) -> Output {
        PathBuf::from(path).into()
    }
}
