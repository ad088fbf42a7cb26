//! A sample as a file gives it, and as the model takes it.
use onnx_shrink_ir::Tensor;

/// What a file gives for one sample, before it is held against the model.
pub(super) struct Raw {
    /// Arrays with their names; see [`UNNAMED`]
    pub(super) arrays: Vec<(String, Tensor)>,
    /// Arrays that nothing wants, described for messages
    pub(super) others: Vec<String>,
    /// A label that does not stand among the arrays
    pub(super) label: Option<Tensor>,
}

/// The name of an array that has none, as numpy gives it.
pub(super) const UNNAMED: &str = "arr_0";

/// A sample as the model takes it.
#[derive(Clone, Debug)]
pub struct FittedSample {
    /// In the order of the graph's inputs; `None`: the input has a default, and the sample does not give it
    pub inputs: Vec<Option<Tensor>>,
    /// The array `y`, `label` or `labels`
    pub label: Option<Tensor>,
    /// Where it comes from, for messages: a file name, or a place in a file
    pub name: String,
}
