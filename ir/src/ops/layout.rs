//! Ops that move elements without computing.
use super::{Reader, axis_from_front, set, set_int, unset};
use crate::{
    attributes,
    graph::{Graph, NewOp, OpId, ValueId},
};

/// `Reshape` (opset 5 and later).
#[derive(Clone, Debug)]
pub struct Reshape {
    /// Input
    pub x: ValueId,
    /// The new shape
    pub shape: ValueId,
    /// Output
    pub y: ValueId,
    /// Whether 0 in the shape means 0 and not "as in the input"
    pub allowzero: bool,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl Reshape {
    /// The op as a `Reshape`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Reshape> {
        let mut reader = Reader::of(graph, op, "Reshape")?;
        let allowzero = reader.flag("allowzero")?;
        let (x, shape, y) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.output(0)?);
        let node = reader.finish(2, 1)?;
        Some(Reshape { x, shape, y, allowzero, node })
    }

    /// The node; its inputs are the data and the shape.
    pub fn to_op(&self) -> NewOp {
        let mut node = self.node.clone();
        set_int(&mut node, "allowzero", i64::from(self.allowzero), 0);
        node
    }
}

/// `Transpose`.
#[derive(Clone, Debug)]
pub struct Transpose {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Axis `k` of the output is axis `perm[k]` of the input
    pub perm: Vec<usize>,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl Transpose {
    /// The op as a `Transpose`; `None` when it is none, or neither `perm` nor the rank is known.
    pub fn of(graph: &Graph, op: OpId) -> Option<Transpose> {
        let mut reader = Reader::of(graph, op, "Transpose")?;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        let perm = match reader.ints("perm")? {
            Some(perm) => perm.into_iter().map(|axis| usize::try_from(axis).ok()).collect::<Option<Vec<_>>>()?,
            None => (0..graph.ty(x)?.rank()?).rev().collect(),
        };
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        let node = reader.finish(1, 1)?;
        sorted.into_iter().eq(0..perm.len()).then_some(Transpose { x, y, perm, node })
    }

    /// The node; its input is x.
    pub fn to_op(&self) -> NewOp {
        let mut node = self.node.clone();
        let perm: Vec<i64> = self.perm.iter().map(|&axis| axis as i64).collect();
        set(&mut node, attributes::ints("perm", &perm), false);
        node
    }
}

/// `Flatten`: to rank 2, split before `axis`.
#[derive(Clone, Debug)]
pub struct Flatten {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// As written: negative counts from the back
    pub axis: i64,
}

impl Flatten {
    /// The op as a `Flatten`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Flatten> {
        let mut reader = Reader::of(graph, op, "Flatten")?;
        let axis = reader.int_or("axis", 1)?;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        Some(Flatten { x, y, axis })
    }
}

/// The axes of a Squeeze or an Unsqueeze: an attribute before opset 13, an input since.
fn axes(reader: &mut Reader<'_>) -> Option<Option<Vec<i64>>> {
    if reader.graph.opset() < 13 { reader.ints("axes") } else { reader.ints_input(1) }
}

/// `Squeeze` with constant axes.
#[derive(Clone, Debug)]
pub struct Squeeze {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// As written; `None`: every axis of length 1
    pub axes: Option<Vec<i64>>,
}

impl Squeeze {
    /// The op as a `Squeeze`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Squeeze> {
        let mut reader = Reader::of(graph, op, "Squeeze")?;
        let axes = axes(&mut reader)?;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(2, 1)?;
        Some(Squeeze { x, y, axes })
    }
}

/// `Unsqueeze` with constant axes.
#[derive(Clone, Debug)]
pub struct Unsqueeze {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// As written, in the output's numbering
    pub axes: Vec<i64>,
}

impl Unsqueeze {
    /// The op as an `Unsqueeze`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Unsqueeze> {
        let mut reader = Reader::of(graph, op, "Unsqueeze")?;
        let axes = axes(&mut reader)??;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(2, 1)?;
        Some(Unsqueeze { x, y, axes })
    }
}

/// `Expand`.
#[derive(Clone, Debug)]
pub struct Expand {
    /// Input
    pub x: ValueId,
    /// The shape to broadcast with
    pub shape: ValueId,
    /// Output
    pub y: ValueId,
}

impl Expand {
    /// The op as an `Expand`; `None` when it is none.
    pub fn of(graph: &Graph, op: OpId) -> Option<Expand> {
        let reader = Reader::of(graph, op, "Expand")?;
        let (x, shape, y) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.output(0)?);
        reader.finish(2, 1)?;
        Some(Expand { x, shape, y })
    }
}

/// `Tile` with constant repeats (opset 6 and later).
#[derive(Clone, Debug)]
pub struct Tile {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// One per axis
    pub repeats: Vec<i64>,
}

impl Tile {
    /// The op as a `Tile`; `None` when it is none or the repeats are not constant.
    pub fn of(graph: &Graph, op: OpId) -> Option<Tile> {
        let reader = Reader::of(graph, op, "Tile").filter(|_| graph.opset() >= 6)?;
        let repeats = reader.ints_input(1)??;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(2, 1)?;
        Some(Tile { x, y, repeats })
    }
}

/// `Slice` with constant bounds: attributes before opset 10, inputs since.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// First index per axis, as written
    pub starts: Vec<i64>,
    /// One past the last index per axis, as written
    pub ends: Vec<i64>,
    /// The axes that the bounds are of, as written
    pub axes: Vec<i64>,
    /// Steps, 1 where the node has none
    pub steps: Vec<i64>,
}

impl Slice {
    /// The op as a `Slice`; `None` when it is none, a bound is not constant, or the lists differ in length.
    pub fn of(graph: &Graph, op: OpId) -> Option<Slice> {
        let mut reader = Reader::of(graph, op, "Slice")?;
        let (starts, ends, axes, steps) = if graph.opset() < 10 {
            (reader.ints("starts")??, reader.ints("ends")??, reader.ints("axes")?, None)
        } else {
            (reader.ints_input(1)??, reader.ints_input(2)??, reader.ints_input(3)?, reader.ints_input(4)?)
        };
        let count = starts.len();
        let axes = axes.unwrap_or_else(|| (0..count as i64).collect());
        let steps = steps.unwrap_or_else(|| vec![1; count]);
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(5, 1)?;
        let fits = ends.len() == count && axes.len() == count && steps.len() == count;
        fits.then_some(Slice { x, y, starts, ends, axes, steps })
    }
}

/// What a `Pad` fills in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// The same number everywhere
    Constant(f64),
    /// Mirrored without the edge
    Reflect,
    /// The edge repeated
    Edge,
    /// The other side
    Wrap,
}

impl PadMode {
    /// What the `Pad` `op` fills in, its amounts constant or not; `None` when it is none or the number is not constant.
    pub fn of(graph: &Graph, op: OpId) -> Option<PadMode> {
        PadMode::read(&mut Reader::of(graph, op, "Pad")?)
    }

    fn read(reader: &mut Reader<'_>) -> Option<PadMode> {
        let graph = reader.graph;
        Some(match reader.string("mode")?.unwrap_or("constant") {
            "constant" if graph.opset() < 11 => PadMode::Constant(reader.float("value")?.map_or(0.0, f64::from)),
            "constant" => PadMode::Constant(match reader.op.input(2) {
                Some(value) => graph.constant_scalar(value)?,
                None => 0.0,
            }),
            "reflect" => PadMode::Reflect,
            "edge" => PadMode::Edge,
            "wrap" => PadMode::Wrap,
            _ => return None,
        })
    }
}

/// `Pad` with constant amounts: attributes before opset 11, inputs since, with axes since 18.
#[derive(Clone, Debug)]
pub struct Pad {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Begins, then ends: of every axis, or of `axes`
    pub pads: Vec<i64>,
    /// The axes that are padded, as written; `None`: all
    pub axes: Option<Vec<i64>>,
    /// What is filled in
    pub mode: PadMode,
}

impl Pad {
    /// The op as a `Pad`; `None` when it is none or an amount or the value is not constant.
    pub fn of(graph: &Graph, op: OpId) -> Option<Pad> {
        let mut reader = Reader::of(graph, op, "Pad")?;
        let mode = PadMode::read(&mut reader)?;
        let (pads, axes) = match graph.opset() {
            ..2 => (reader.ints("paddings")??, None),
            2..11 => (reader.ints("pads")??, None),
            11.. => (reader.ints_input(1)??, reader.ints_input(3)?),
        };
        if graph.opset() < 11 {
            reader.ignore("value"); // of another mode than `constant`
        }
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(4, 1)?;
        let fits = axes.as_ref().is_none_or(|axes| pads.len() == 2 * axes.len());
        (fits && pads.len().is_multiple_of(2)).then_some(Pad { x, y, pads, axes, mode })
    }

    /// Begins, then ends, of each of `rank` axes; `None` when the amounts do not fit that rank.
    pub fn pads_of_rank(&self, rank: usize) -> Option<Vec<i64>> {
        let Some(axes) = &self.axes else {
            return (self.pads.len() == 2 * rank).then(|| self.pads.clone());
        };
        let mut pads = vec![0; 2 * rank];
        for (place, &axis) in axes.iter().enumerate() {
            let axis = axis_from_front(axis, rank)?;
            pads[axis] = self.pads[place];
            pads[rank + axis] = self.pads[axes.len() + place];
        }
        Some(pads)
    }
}

/// `Concat` (opset 4 and later).
#[derive(Clone, Debug)]
pub struct Concat {
    /// Inputs, in order
    pub inputs: Vec<ValueId>,
    /// Output
    pub y: ValueId,
    /// As written: negative counts from the back
    pub axis: i64,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl Concat {
    /// The op as a `Concat`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Concat> {
        let mut reader = Reader::of(graph, op, "Concat")?;
        let axis = match reader.int("axis")? {
            Some(axis) => axis,
            None if graph.opset() < 4 => 1,
            None => return None,
        };
        let inputs = reader.op.inputs().iter().copied().collect::<Option<Vec<_>>>()?;
        let y = reader.op.output(0)?;
        let node = reader.finish(usize::MAX, 1)?;
        Some(Concat { inputs, y, axis, node })
    }

    /// The node; its inputs are any number of tensors.
    pub fn to_op(&self) -> NewOp {
        let mut node = self.node.clone();
        unset(&mut node, "axis");
        set(&mut node, attributes::int("axis", self.axis), false);
        node
    }
}

/// `Gather`.
#[derive(Clone, Debug)]
pub struct Gather {
    /// Input
    pub x: ValueId,
    /// Indices; negative ones count from the back
    pub indices: ValueId,
    /// Output
    pub y: ValueId,
    /// As written
    pub axis: i64,
}

impl Gather {
    /// The op as a `Gather`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Gather> {
        let mut reader = Reader::of(graph, op, "Gather")?;
        let axis = reader.int_or("axis", 0)?;
        let (x, indices, y) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.output(0)?);
        reader.finish(2, 1)?;
        Some(Gather { x, indices, y, axis })
    }
}

/// `Shape`, with the slice of opset 15.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// First axis, as written
    pub start: i64,
    /// One past the last axis, as written; `None`: to the end
    pub end: Option<i64>,
}

impl Shape {
    /// The op as a `Shape`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Shape> {
        let mut reader = Reader::of(graph, op, "Shape")?;
        let (start, end) = (reader.int_or("start", 0)?, reader.int("end")?);
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        Some(Shape { x, y, start, end })
    }

    /// The axes of an input of this rank whose lengths the output has.
    pub fn axes(&self, rank: usize) -> std::ops::Range<usize> {
        let length = rank as i64;
        let clamp = |axis: i64| (if axis < 0 { axis.saturating_add(length) } else { axis }).clamp(0, length) as usize;
        let (start, end) = (clamp(self.start), self.end.map_or(rank, clamp));
        start..end.max(start)
    }
}
