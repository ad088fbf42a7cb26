//! What a rule of inference gives: the shapes of an op's outputs.
use rten_shape_inference::SymTensor;

use super::{node::Node, symbols};

/// What is known of an op's outputs; `None` where nothing is.
pub(super) type Outputs = Option<Vec<SymTensor>>;

/// The shape of a scalar.
pub(super) fn scalar() -> SymTensor {
    SymTensor::from_shape(Vec::new())
}

/// The shape of input `index`.
pub(super) fn same(node: &Node<'_>, index: usize) -> Option<SymTensor> {
    node.input(index).cloned().map(symbols::shape_only)
}
