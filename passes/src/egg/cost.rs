//! What a term costs, in integers.
//!
//! First the elements that ops write (views write none), then the ops, then the bytes of constants that rules made, then
//! how much of it is new: of two equally good graphs the one that stands in the file wins.
use onnx_shrink_ir::{Dim, Tensor};

use super::{
    EGraph,
    analysis::{Data, Leaf},
    language::{Kind, Node},
};

/// The cost of a set of nodes; compared from the first field to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Elements that ops write
    pub moved: u64,
    /// Ops
    pub ops: u64,
    /// Bytes of constants that rules made
    pub bytes: u64,
    /// Ops that the file does not have
    pub new: u64,
}

impl Cost {
    /// The sum; stays at the greatest number rather than passing it.
    #[must_use]
    pub fn plus(self, other: Cost) -> Cost {
        Cost {
            moved: self.moved.saturating_add(other.moved),
            ops: self.ops.saturating_add(other.ops),
            bytes: self.bytes.saturating_add(other.bytes),
            new: self.new.saturating_add(other.new),
        }
    }
}

/// A length that nobody knows counts as this many elements; ops are compared at the same shape, so it matters little.
const UNKNOWN_LENGTH: u64 = 16;

/// Elements of a value of which `data` is known.
fn elements(data: &Data) -> u64 {
    let length = |dim: &Dim| dim.known().map_or(UNKNOWN_LENGTH, |length| length as u64);
    let Some(shape) = &data.shape else { return UNKNOWN_LENGTH.pow(3) };
    shape.iter().fold(1u64, |product, dim| product.saturating_mul(length(dim)))
}

/// What `node` itself costs when its class has `data`.
pub fn of_node(egraph: &EGraph, node: &Node, data: &Data, is_new: bool) -> Cost {
    match node.kind {
        Kind::Attr(_) => Cost::default(),
        Kind::Value(number) => match egraph.analysis.leaf_of(number) {
            Leaf::Existing(_) => Cost::default(),
            Leaf::Made(tensor, _) => Cost { bytes: bytes(tensor), ..Cost::default() },
        },
        Kind::Op(op) => {
            let moved = if op.is_view() { 0 } else { elements(data) };
            Cost { moved, ops: 1, bytes: 0, new: u64::from(is_new) }
        }
    }
}

/// What an Identity costs that has to stand before a graph output.
pub fn of_identity(data: &Data) -> Cost {
    Cost { moved: elements(data), ops: 1, ..Cost::default() }
}

fn bytes(tensor: &Tensor) -> u64 {
    tensor.byte_len() as u64
}
