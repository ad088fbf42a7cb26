//! Reductions along axes.
use super::Reader;
use crate::graph::{Graph, OpId, ValueId};

/// `ReduceMean`, `ReduceSum` and the others of their form, with constant axes: attributes first, inputs since opset 13
/// (ReduceSum) and 18.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// The axes that are reduced, as written; `None`: none is stated
    pub axes: Option<Vec<i64>>,
    /// Whether they stay, with length 1
    pub keeps_axes: bool,
    /// Whether no axes means that nothing is reduced, and not that all are
    pub none_is_identity: bool,
}

impl Reduce {
    /// The op as a reduction; `None` when it is none or its axes are not constant.
    pub fn of(graph: &Graph, op: OpId) -> Option<Reduce> {
        let name = graph.op(op).op_type();
        let mut reader = Reader::of(graph, op, name).filter(|_| name.starts_with("Reduce"))?;
        let keeps_axes = reader.int_or("keepdims", 1)? != 0;
        let none_is_identity = reader.flag("noop_with_empty_axes")?;
        let stated = reader.ints("axes")?;
        let axes = reader.ints_input(1)?.or(stated);
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(2, 1)?;
        Some(Reduce { x, y, axes, keeps_axes, none_is_identity })
    }
}
