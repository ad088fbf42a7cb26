//! A patch whose constants are in the file once, however many ops of however many patches read them.
//!
//! Why: on small models scales and zero points are a good part of the file. **Never** merges tensors that differ in type,
//! shape or a bit.
use std::collections::BTreeMap;

use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, TensorType, ValueId, ValueRef};

use crate::{Context, Result};

type Key = (DataType, Vec<usize>, Vec<u8>);

fn key(tensor: &Tensor) -> Option<Key> {
    Some((tensor.dtype(), tensor.dims().to_vec(), tensor.bytes()?.to_vec()))
}

/// Constants that earlier patches made, or that the graph had.
#[derive(Default)]
pub(super) struct Constants(BTreeMap<Key, ValueId>);

/// Constants of the graph of at most so many bytes are found again.
const KNOWN_BYTES: usize = 64;

impl Constants {
    /// The small constants of `graph`.
    pub fn of(graph: &Graph) -> Constants {
        let mut known = BTreeMap::new();
        for value in graph.values() {
            let small = graph.constant(value).filter(|tensor| tensor.byte_len() <= KNOWN_BYTES);
            if let Some(key) = small.and_then(key) {
                known.entry(key).or_insert(value);
            }
        }
        Constants(known)
    }
}

/// A patch to be.
pub(super) struct Draft<'c> {
    /// The patch
    pub patch: Patch,
    constants: &'c mut Constants,
    fresh: Vec<(Key, ValueRef)>,
}

impl<'c> Draft<'c> {
    /// An empty patch that stands for `anchor`.
    pub fn new(anchor: OpId, constants: &'c mut Constants) -> Draft<'c> {
        Draft { patch: Patch::new(anchor), constants, fresh: Vec::new() }
    }

    /// The constant `tensor`.
    pub fn constant(&mut self, graph: &Graph, base: &str, tensor: Tensor) -> ValueRef {
        let Some(key) = key(&tensor) else { return self.patch.constant(base, tensor) };
        if let Some(&value) = self.constants.0.get(&key).filter(|value| graph.has_value(**value)) {
            return value.into();
        }
        if let Some((_, value)) = self.fresh.iter().find(|(known, _)| *known == key) {
            return *value;
        }
        let value = self.patch.constant(base, tensor);
        self.fresh.push((key, value));
        value
    }

    /// An op with all of `inputs` and one output.
    pub fn op(&mut self, op: NewOp, inputs: &[ValueRef], base: &str, ty: Option<TensorType>) -> ValueRef {
        let inputs: Vec<Option<ValueRef>> = inputs.iter().copied().map(Some).collect();
        self.patch.op(op, &inputs, base, ty)
    }

    /// Applies the patch; the values that it made, by their number, or `None` when it was denied.
    pub fn apply(self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<Option<Vec<ValueId>>> {
        let Some(applied) = cx.apply(graph, self.patch)? else { return Ok(None) };
        for (key, value) in self.fresh {
            if let ValueRef::New(index) = value
                && graph.has_value(applied.values[index])
            {
                self.constants.0.insert(key, applied.values[index]);
            }
        }
        Ok(Some(applied.values))
    }
}
