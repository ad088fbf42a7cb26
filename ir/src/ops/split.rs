//! Splitting.
use super::Reader;
use crate::graph::{Graph, OpId, ValueId};

/// Where the lengths of the parts of a split stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitLengths {
    /// Nowhere: parts of one length, the last one maybe shorter
    Equal,
    /// In the node, before opset 13
    Stated(Vec<i64>),
    /// In an input, since opset 13
    Input(ValueId),
}

/// `Split`.
#[derive(Clone, Debug)]
pub struct Split {
    /// Input
    pub x: ValueId,
    /// As written: negative counts from the back
    pub axis: i64,
    /// How long the parts are
    pub lengths: SplitLengths,
}

impl Split {
    /// The op as a `Split`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Split> {
        let mut reader = Reader::of(graph, op, "Split")?;
        let axis = reader.int_or("axis", 0)?;
        reader.ignore("num_outputs"); // as many as there are
        let lengths = match (reader.op.input(1), reader.ints("split")?) {
            (Some(lengths), _) => SplitLengths::Input(lengths),
            (None, Some(lengths)) => SplitLengths::Stated(lengths),
            (None, None) => SplitLengths::Equal,
        };
        let x = reader.op.input(0)?;
        reader.finish(2, usize::MAX)?;
        Some(Split { x, axis, lengths })
    }
}
