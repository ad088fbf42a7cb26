//! The net-bytes rule: a rewrite may not add more bytes than die with it.
//!
//! Why: folded Tile, Expand and ConstantOfShape, and tied weights folded twice, are how other tools make files ten times
//! as large. An op counts as a fixed number of bytes, so that small shape arithmetic may be folded.
use onnx_shrink_ir::{Graph, OpId, Patch, Tensor, Use, ValueId};

use crate::Miss;

/// Bytes that an op takes in a file, with its names and an attribute or two.
pub(crate) const OP: usize = 64;

/// Fails with [`Miss::Grows`] when `patch`, which removes the ops `removed` and adds `added_ops`, adds over `growth` bytes.
pub(crate) fn check(
    graph: &Graph,
    patch: &Patch,
    removed: &[OpId],
    added_ops: usize,
    growth: usize,
) -> Result<(), Miss> {
    let dying = dying_constants(graph, removed).into_iter().filter(|&value| !patch.reads(value));
    let gone =
        dying.filter_map(|value| graph.constant(value)).map(Tensor::byte_len).sum::<usize>() + OP * removed.len();
    let added = patch.constant_bytes() + OP * added_ops;
    if added > gone.saturating_add(growth) { Err(Miss::Grows { added, removed: gone }) } else { Ok(()) }
}

/// Constants that only the ops `removed` use.
pub(crate) fn dying_constants(graph: &Graph, removed: &[OpId]) -> Vec<ValueId> {
    let mut read: Vec<ValueId> =
        removed.iter().flat_map(|&op| graph.op(op).inputs().iter().copied().flatten()).collect();
    read.sort();
    read.dedup();
    let only_removed = |value: ValueId| {
        graph.uses(value).iter().all(|place| matches!(place, Use::Input(op, _) if removed.contains(op)))
    };
    read.into_iter().filter(|&value| graph.constant(value).is_some() && only_removed(value)).collect()
}
