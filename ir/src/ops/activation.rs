//! Activations.
use super::Reader;
use crate::{
    attributes,
    graph::{Graph, NewOp, Op, OpId, ValueId},
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

/// Least and largest number that the op `op`, a `Relu` or a `Clip` with constant bounds, lets through; `None` for other ops.
pub fn clip_bounds(graph: &Graph, op: OpId) -> Option<(f64, f64)> {
    match Relu::of(graph, op) {
        Some(_) => Some((0.0, f64::INFINITY)),
        None => {
            let clip = Clip::of(graph, op)?;
            Some((clip.min.unwrap_or(f64::NEG_INFINITY), clip.max.unwrap_or(f64::INFINITY)))
        }
    }
}

/// Whether the op is a `Relu` or a `Clip`, of any form: what engines fuse into the layer before it.
pub fn is_clip(op: &Op) -> bool {
    op.is("Relu") || op.is("Clip")
}

/// `LeakyRelu`: x where it is positive, else `alpha · x`.
#[derive(Clone, Copy, Debug)]
pub struct LeakyRelu {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Slope below 0
    pub alpha: f32,
}

impl LeakyRelu {
    /// The op as a `LeakyRelu`; `None` when it is none.
    pub fn of(graph: &Graph, op: OpId) -> Option<LeakyRelu> {
        let mut reader = Reader::of(graph, op, "LeakyRelu")?;
        let alpha = reader.float("alpha")?.unwrap_or(0.01);
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        Some(LeakyRelu { x, y, alpha })
    }
}

/// `HardSigmoid`: `max(0, min(1, alpha · x + beta))`.
#[derive(Clone, Copy, Debug)]
pub struct HardSigmoid {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Slope
    pub alpha: f32,
    /// Value at 0
    pub beta: f32,
}

impl HardSigmoid {
    /// The op as a `HardSigmoid`; `None` when it is none.
    pub fn of(graph: &Graph, op: OpId) -> Option<HardSigmoid> {
        let mut reader = Reader::of(graph, op, "HardSigmoid")?;
        let (alpha, beta) = (reader.float("alpha")?.unwrap_or(0.2), reader.float("beta")?.unwrap_or(0.5));
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        Some(HardSigmoid { x, y, alpha, beta })
    }

    /// A new node with these numbers; its input is x.
    pub fn plain(name: &str, alpha: f32, beta: f32) -> NewOp {
        let numbers = [attributes::float("alpha", alpha), attributes::float("beta", beta)];
        numbers.into_iter().fold(NewOp::new("HardSigmoid").named(name), NewOp::with)
    }
}

/// `Softmax`, `LogSoftmax` or `Hardmax`.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// As written: negative counts from the back
    pub axis: i64,
    /// Whether the axes behind `axis` belong to it, too: opsets before 13
    pub to_the_end: bool,
}

impl Softmax {
    /// The op as one of the three; `None` when it is none of them.
    pub fn of(graph: &Graph, op: OpId) -> Option<Softmax> {
        let name = graph.op(op).op_type();
        let mut reader =
            Reader::of(graph, op, name).filter(|_| matches!(name, "Softmax" | "LogSoftmax" | "Hardmax"))?;
        let to_the_end = graph.opset() < 13;
        let axis = reader.int_or("axis", if to_the_end { 1 } else { -1 })?;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        Some(Softmax { x, y, axis, to_the_end })
    }

    /// A new Softmax along `axis`; its input is x.
    pub fn plain(name: &str, axis: i64) -> NewOp {
        NewOp::new("Softmax").named(name).with(attributes::int("axis", axis))
    }
}
