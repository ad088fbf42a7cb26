//! Activations.
use super::Reader;
use crate::{
    attributes,
    graph::{Graph, NewOp, OpId, ValueId},
};

/// `Relu`: the greater of x and 0.
#[derive(Clone, Debug)]
pub struct Relu {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl Relu {
    /// The op as a `Relu`; `None` when it is none.
    pub fn of(graph: &Graph, op: OpId) -> Option<Relu> {
        let mut reader = Reader::of(graph, op, "Relu")?;
        if graph.opset() < 6 {
            reader.ignore("consumed_inputs");
        }
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        let node = reader.finish(1, 1)?;
        Some(Relu { x, y, node })
    }

    /// The node; its input is x.
    pub fn to_op(&self) -> NewOp {
        self.node.clone()
    }
}

/// `Clip` with constant bounds, in both its forms (attributes before opset 11, inputs since).
#[derive(Clone, Debug)]
pub struct Clip {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Lower bound; `None`: none
    pub min: Option<f64>,
    /// Upper bound; `None`: none
    pub max: Option<f64>,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl Clip {
    /// The op as a `Clip`; `None` when it is none or a bound is not constant.
    pub fn of(graph: &Graph, op: OpId) -> Option<Clip> {
        let mut reader = Reader::of(graph, op, "Clip")?;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        let (min, max) = if graph.opset() < 11 {
            if graph.opset() < 6 {
                reader.ignore("consumed_inputs");
            }
            (reader.float("min")?.map(f64::from), reader.float("max")?.map(f64::from))
        } else {
            let bound = |index| match reader.op.input(index) {
                None => Some(None),
                Some(value) => graph.constant_scalar(value).map(Some),
            };
            (bound(1)?, bound(2)?)
        };
        let node = reader.finish(3, 1)?;
        Some(Clip { x, y, min, max, node })
    }

    /// The node for opsets before 11, bounds as attributes; its input is x.
    pub fn to_op_with_attributes(&self) -> NewOp {
        let mut node = self.node.clone();
        node.node.attribute.retain(|attribute| !matches!(attribute.name(), "min" | "max"));
        for (name, bound) in [("min", self.min), ("max", self.max)] {
            if let Some(bound) = bound {
                node.node.attribute.push(attributes::float(name, bound as f32));
            }
        }
        node
    }
}
