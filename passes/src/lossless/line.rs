//! `factor · x + shift` with one number each: Add, Sub, Mul or Div by a constant of one element.
use onnx_shrink_ir::{
    Graph, OpId, ValueId,
    ops::{Binary, BinaryKind},
};

/// The op `y = factor · x + shift`; `y` has the shape of `x`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// The number that x is multiplied by
    pub factor: f64,
    /// The number that is added behind
    pub shift: f64,
}

impl Line {
    /// The op as a line; `None` when it is none, or its constant has more axes than x and broadcasts it.
    pub(crate) fn of(graph: &Graph, op: OpId) -> Option<Line> {
        let binary = Binary::of(graph, op)?;
        let side = binary.with_constant(graph)?;
        let constant = graph.constant(side.constant)?;
        let number = constant.to_scalar_f64().filter(|number| number.is_finite())?;
        let axes = constant.dims().len();
        if axes > 0 && graph.ty(side.x)?.rank()? < axes {
            return None;
        }
        let (factor, shift) = match (binary.kind, side.is_left) {
            (BinaryKind::Add, _) => (1.0, number),
            (BinaryKind::Sub, false) => (1.0, -number),
            (BinaryKind::Sub, true) => (-1.0, number),
            (BinaryKind::Mul, _) => (number, 0.0),
            (BinaryKind::Div, false) if number != 0.0 => (1.0 / number, 0.0),
            _ => return None,
        };
        Some(Line { x: side.x, y: binary.y, factor, shift })
    }

    /// The line that alone reads `value`.
    pub(crate) fn behind(graph: &Graph, value: ValueId) -> Option<Line> {
        Line::of(graph, graph.only_use(value)?.0)
    }
}
