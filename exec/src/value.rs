//! A tensor on its way through a graph, with the engine's form of it where that exists already.
use std::sync::OnceLock;

use onnx_shrink_ir::{DataType, Tensor};

use crate::{kernel::KernelError, tract::held::Held};

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

impl Value {
    /// max(x, 0) in the place of x, NaN kept, and true; the same value and false where something else holds its numbers,
    /// too, or they are no floats of the engine's.
    pub(crate) fn rectified(self) -> Result<(Value, bool), KernelError> {
        let Value { tensor, held } = self;
        match held.into_inner() {
            Some(held) if tensor.dtype() == DataType::Float => {
                drop(tensor); // it shares the bytes
                let (held, done) = held.rectified();
                Ok((Value { tensor: held.tensor()?, held: OnceLock::from(held) }, done))
            }
            _ => Ok((Value::from(tensor), false)),
        }
    }
}
