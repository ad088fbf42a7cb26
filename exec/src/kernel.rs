//! What a kernel is: a function from one call of an op to its outputs.
//!
//! A kernel **never** sees the graph, **never** keeps state, and **never** panics on bad inputs: it fails with a sentence.
use onnx_shrink_ir::{Op, Tensor};

/// One call of an op.
pub struct Call<'a> {
    /// The op with its attributes
    pub op: &'a Op,
    /// Version of ONNX's ops
    pub opset: i64,
    /// Inputs by position; `None` where an optional one is left out
    pub inputs: &'a [Option<Tensor>],
    /// The most bytes that one output may take
    pub max_bytes: usize,
}

/// Why a kernel gives no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The kernel does not do these types or attributes; another engine may
    #[error("{0}")]
    Unsupported(String),
    /// The inputs do not fit the op
    #[error("{0}")]
    Failed(String),
}

/// Computes the outputs of one op, by position.
pub type Kernel = fn(&Call<'_>) -> Result<Vec<Option<Tensor>>, KernelError>;

impl<'a> Call<'a> {
    /// Input `index`, which the op requires.
    pub fn input(&self, index: usize) -> Result<&'a Tensor, KernelError> {
        self.optional(index).ok_or_else(|| KernelError::Failed(format!("input {index} is missing")))
    }

    /// Input `index`, unless left out.
    pub fn optional(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index).and_then(Option::as_ref)
    }
}
