//! A tensor on its way through a graph, with the engine's form of it where that exists already.
use std::sync::OnceLock;

use onnx_shrink_ir::Tensor;

use crate::tract::Held;

/// A tensor, and tract's form of it once an op needed that.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) tensor: Tensor,
    pub(crate) held: OnceLock<Held>,
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value { tensor, held: OnceLock::new() }
    }
}
