//! Samples that the caller holds in memory, and where samples are read in general.
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use onnx_shrink_ir::Tensor;

use super::{Raw, SampleProblem, Source, fit::Inputs};

/// The arrays of one sample, by the names of the model's inputs.
///
/// An array has the input's rank, or one less: the batch axis may be left out. `y`, `label` or `labels` is the sample's label,
/// unless an input has that name.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    arrays: Vec<(String, Tensor)>,
}

impl Feed {
    /// No array yet.
    pub fn new() -> Feed {
        Feed::default()
    }

    /// And this array.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, array: Tensor) -> Feed {
        self.arrays.push((name.into(), array));
        self
    }
}

/// Where samples are read.
#[derive(Clone, Debug)]
pub enum Data {
    /// A file or a folder
    Path(PathBuf),
    /// Memory
    Memory(Arc<[Feed]>),
}

impl Data {
    /// The file or folder, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Data::Path(path) => Some(path),
            Data::Memory(_) => None,
        }
    }
}

/// As messages name it.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Path(path) => path.display().fmt(f),
            Data::Memory(_) => f.write_str("the samples in memory"),
        }
    }
}

impl From<PathBuf> for Data {
    fn from(path: PathBuf) -> Data {
        Data::Path(path)
    }
}

impl From<&PathBuf> for Data {
    fn from(path: &PathBuf) -> Data {
        Data::Path(path.clone())
    }
}

impl From<&Path> for Data {
    fn from(path: &Path) -> Data {
        Data::Path(path.to_owned())
    }
}

impl From<&str> for Data {
    fn from(path: &str) -> Data {
        Data::Path(path.into())
    }
}

impl From<Vec<Feed>> for Data {
    fn from(feeds: Vec<Feed>) -> Data {
        Data::Memory(feeds.into())
    }
}

impl From<&Data> for Data {
    fn from(data: &Data) -> Data {
        data.clone()
    }
}

/// Samples in memory.
pub(super) struct Feeds(pub(super) Arc<[Feed]>);

impl Source for Feeds {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, index: usize) -> String {
        format!("sample {index}")
    }

    fn read(&self, index: usize, _: &Inputs) -> Result<Raw, SampleProblem> {
        Ok(Raw { arrays: self.0[index].arrays.clone(), others: Vec::new(), label: None })
    }
}
