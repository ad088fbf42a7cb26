//! Ops that move, select or order numbers: they do the same to 8-bit integers as to what those stand for.
//!
//! **Never** an op that makes numbers which were not there, but Pad, whose zeros become zero points.
//! **Source:** `docs/methods.md` §3, pair rules 5 to 7 and 9; ONNX's op specifications: which take 8-bit integers since when.
use onnx_shrink_ir::{
    Graph, OpId,
    ops::{MaxPool, Pad, PadMode, Resize},
};

use crate::Exactness;

/// How an op runs on integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Inputs that hold numbers, and not places or sizes
    pub data: Vec<usize>,
    /// Why it is exact
    pub exactness: Exactness,
    /// Whether it runs slower in integers than in floats where its neighbours are no integer kernels
    pub is_slow_alone: bool,
    /// The input that says with what it pads: zero before, the zero point after
    pub pads_with: Option<usize>,
}

/// How `op` runs on integers; `None` when it does not.
pub(crate) fn movable(graph: &Graph, op: OpId) -> Option<Move> {
    let node = graph.op(op);
    if !node.domain().is_empty() || !node.regions().is_empty() {
        return None;
    }
    let opset = graph.opset();
    let moves = |data: Vec<usize>| Move { data, exactness: Exactness::Lossless, is_slow_alone: false, pads_with: None };
    Some(match node.op_type() {
        "Transpose" | "Reshape" | "Squeeze" | "Unsqueeze" | "Slice" | "Split" | "Gather" | "GatherElements"
        | "Expand" | "Tile" | "DepthToSpace" => moves(vec![0]),
        "Flatten" if opset >= 9 => moves(vec![0]),
        "Concat" if opset >= 4 => moves((0..node.inputs().len()).collect()),
        "MaxPool" if opset >= 12 => {
            MaxPool::of(graph, op)?;
            Move { exactness: Exactness::Monotone, is_slow_alone: true, ..moves(vec![0]) }
        }
        "Resize" if opset >= 11 => {
            Resize::of(graph, op).filter(Resize::only_selects)?;
            Move { is_slow_alone: true, ..moves(vec![0]) }
        }
        "Pad" if opset >= 13 => {
            let pad = Pad::of(graph, op)?;
            let pads_with = match pad.mode {
                PadMode::Constant(0.0) => Some(2),
                PadMode::Constant(_) => return None,
                _ if node.input(2).is_none() => None,
                _ => return None,
            };
            Move { pads_with, ..moves(vec![0]) }
        }
        _ => return None,
    })
}
