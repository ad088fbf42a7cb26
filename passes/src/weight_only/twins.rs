//! Tied weights: a table that is looked up and, transposed, multiplied by.
use onnx_shrink_ir::{Graph, OpId, ValueId};

use crate::{analysis::computed::Computed, weight_only::fold_weights::tied_source};

/// A table that is looked up, and a layer that multiplies by it: its integers can serve both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    /// The table
    pub table: ValueId,
    /// The layer: a MatMul behind a Transpose of it
    pub layer: OpId,
    /// Its name, which its MatMulInteger has where each run finds the ranges
    pub name: String,
}

/// The twins of the graph before [`FoldWeights`](crate::weight_only::FoldWeights), by ops and values of the graph right behind it.
pub fn twins(before: &Graph, after: &Graph) -> Vec<Twin> {
    let computed = Computed::of(before);
    let of = |layer: OpId| {
        let weight = before.op(layer).input(1).filter(|_| before.op(layer).is("MatMul") && after.has_op(layer))?;
        let transpose = before.producer(weight).filter(|_| computed.has(weight) && tied_source(before, weight))?;
        let table = after.find(before.name_of(before.op(transpose).input(0)?))?;
        let name = after.label_of(layer).to_owned();
        let is_folded = after.op(layer).input(1).is_some_and(|weight| after.constant(weight).is_some());
        (is_folded && after.constant(table).is_some()).then_some(Twin { table, layer, name })
    };
    before.ops().into_iter().filter_map(of).collect()
}
