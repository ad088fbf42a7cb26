//! The form of a kernel of ours: one function per op, from a call to its outputs.
//!
//! **Never** knows the graph: a kernel sees its node's attributes and the tensors, and nothing else.
use onnx_shrink_ir::{Op, Tensor};

/// Why a kernel made nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The kernel does not do this element type, attribute or form; another engine may
    #[error("{0}")]
    Unsupported(String),
    /// The op cannot be computed on these inputs
    #[error("{0}")]
    Failed(String),
}

impl From<String> for KernelError {
    fn from(reason: String) -> KernelError {
        KernelError::Failed(reason)
    }
}

/// One call of an op.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The op: its type, attributes, and which inputs and outputs it has
    pub op: &'a Op,
    /// The version of ONNX's own ops
    pub opset: i64,
    /// Input tensors by position; `None` where an optional input is left out
    pub inputs: &'a [Option<Tensor>],
    /// Bytes that one result may take at most
    pub max_bytes: usize,
    /// What random ops draw by: the name of the op's first output. `None`: they do not run
    pub random: Option<&'a str>,
}

/// Outputs by position (at least as many as the op has), or why there are none.
pub type Outputs = Result<Vec<Option<Tensor>>, KernelError>;

/// A kernel: deterministic, free of state.
pub type Kernel = fn(&Call<'_>) -> Outputs;

impl<'a> Call<'a> {
    /// Input `index`, which the op cannot do without.
    pub fn input(&self, index: usize) -> Result<&'a Tensor, KernelError> {
        self.optional(index).ok_or_else(|| KernelError::Failed(format!("input {index} is missing")))
    }

    /// Input `index`, unless left out.
    pub fn optional(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index)?.as_ref()
    }

    /// The integer attribute `name`, or `default`.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.op.int(name).unwrap_or(default)
    }

    /// The float attribute `name`, or `default`.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.op.float(name).unwrap_or(default)
    }

    /// The list of integers `name`; `None` when the attribute is not there.
    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.op.ints(name)
    }

    /// The string attribute `name`, or `default`; also when it is not UTF-8.
    pub fn string(&self, name: &str, default: &'a str) -> &'a str {
        self.op.string(name).unwrap_or(default)
    }

    /// `axis` of a tensor of rank `rank`, counted from the end where negative.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, KernelError> {
        let signed = i64::try_from(rank).unwrap_or(i64::MAX);
        usize::try_from(if axis < 0 { axis.saturating_add(signed) } else { axis })
            .ok()
            .filter(|&axis| axis < rank)
            .ok_or_else(|| KernelError::Failed(format!("axis {axis} of a tensor of rank {rank}")))
    }

    /// Refuses a result of `dims` whose elements take `bits` each, when it would pass the limit.
    pub fn check_size(&self, dims: &[usize], bits: usize) -> Result<(), KernelError> {
        let bytes =
            onnx_shrink_ir::element_count(dims).and_then(|count| count.checked_mul(bits)).map(|n| n.div_ceil(8));
        if bytes.is_some_and(|bytes| bytes <= self.max_bytes) {
            return Ok(());
        }
        Err(KernelError::Failed(format!("the result {dims:?} passes the limit of {} bytes", self.max_bytes)))
    }
}
