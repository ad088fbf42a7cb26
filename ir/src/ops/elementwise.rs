//! Elementwise ops of two inputs, casts and dropout.
use super::Reader;
use crate::{
    graph::{Graph, NewOp, OpId, ValueId},
    types::DataType,
};

/// Which arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryKind {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
    /// a to the power of b
    Pow,
}

/// `Add`, `Sub`, `Mul`, `Div` or `Pow`, broadcast as numpy does (opset 7 and later).
#[derive(Clone, Debug)]
pub struct Binary {
    /// Which one
    pub kind: BinaryKind,
    /// Left
    pub a: ValueId,
    /// Right
    pub b: ValueId,
    /// Output
    pub y: ValueId,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl Binary {
    /// The op as elementwise arithmetic; `None` when it is none, or of an opset with the older broadcast rules.
    pub fn of(graph: &Graph, op: OpId) -> Option<Binary> {
        let kind = match graph.op(op).op_type() {
            "Add" => BinaryKind::Add,
            "Sub" => BinaryKind::Sub,
            "Mul" => BinaryKind::Mul,
            "Div" => BinaryKind::Div,
            "Pow" => BinaryKind::Pow,
            _ => return None,
        };
        if graph.opset() < 7 {
            return None;
        }
        let reader = Reader::of(graph, op, graph.op(op).op_type())?;
        let (a, b, y) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.output(0)?);
        let node = reader.finish(2, 1)?;
        Some(Binary { kind, a, b, y, node })
    }

    /// The node; its inputs are a and b.
    pub fn to_op(&self) -> NewOp {
        self.node.clone()
    }

    /// Its two sides, where one of them is constant and the other is not.
    pub fn with_constant(&self, graph: &Graph) -> Option<ConstantSide> {
        match (graph.constant(self.a), graph.constant(self.b)) {
            (None, Some(_)) => Some(ConstantSide { x: self.a, constant: self.b, is_left: false }),
            (Some(_), None) => Some(ConstantSide { x: self.b, constant: self.a, is_left: true }),
            _ => None,
        }
    }
}

/// The sides of a [`Binary`] with a constant.
#[derive(Clone, Copy, Debug)]
pub struct ConstantSide {
    /// The side that is not constant
    pub x: ValueId,
    /// The constant
    pub constant: ValueId,
    /// Whether the constant is the left side
    pub is_left: bool,
}

/// `Cast`.
#[derive(Clone, Debug)]
pub struct Cast {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Its element type
    pub to: DataType,
}

impl Cast {
    /// The op as a `Cast`; `None` when it is none, or casts to an element type that this version does not know.
    pub fn of(graph: &Graph, op: OpId) -> Option<Cast> {
        let mut reader = Reader::of(graph, op, "Cast")?;
        let to = DataType::from_number(i32::try_from(reader.int("to")??).ok()?)?;
        reader.ignore("saturate"); // for 8-bit floats made from wider types
        reader.ignore("round_mode"); // for 8-bit powers of two
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        Some(Cast { x, y, to })
    }
}

/// `Dropout` in inference, where it does nothing.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// Input
    pub x: ValueId,
    /// Output, equal to `x`
    pub y: ValueId,
    /// The mask, when the node has it
    pub mask: Option<ValueId>,
}

impl Dropout {
    /// The op as a `Dropout` that does nothing; `None` when it is none, or trains or may train.
    pub fn of(graph: &Graph, op: OpId) -> Option<Dropout> {
        let mut reader = Reader::of(graph, op, "Dropout")?;
        let inference = match graph.opset() {
            ..7 => reader.int_or("is_test", 0)? == 1,
            7..12 => true,
            12.. => match reader.op.input(2) {
                None => true,
                Some(training) => graph.constant_scalar(training) == Some(0.0),
            },
        };
        for name in ["ratio", "seed", "consumed_inputs"] {
            reader.ignore(name);
        }
        let (x, y, mask) = (reader.op.input(0)?, reader.op.output(0)?, reader.op.output(1));
        reader.finish(3, 2)?;
        inference.then_some(Dropout { x, y, mask })
    }
}

/// Whether the op broadcasts by the rules of opsets before 7: its second input alone, along axes that it states.
pub fn has_older_broadcast(graph: &Graph, op: OpId) -> bool {
    graph.opset() < 7 && graph.op(op).attribute("broadcast").is_some()
}
