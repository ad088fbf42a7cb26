//! Normalizations.
use super::Reader;
use crate::{
    attributes,
    graph::{Graph, NewOp, OpId, ValueId},
};

/// `BatchNormalization` in inference: `y = (x - mean) / sqrt(var + epsilon) · scale + bias`, per channel (axis 1).
#[derive(Clone, Debug)]
pub struct BatchNormalization {
    /// Input of shape [N, C, …]
    pub x: ValueId,
    /// One factor per channel
    pub scale: ValueId,
    /// One summand per channel
    pub bias: ValueId,
    /// Mean per channel
    pub mean: ValueId,
    /// Variance per channel
    pub var: ValueId,
    /// Output, of the shape of `x`
    pub y: ValueId,
    /// Added to the variance
    pub epsilon: f32,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl BatchNormalization {
    /// The op as a batch normalization in inference; `None` when it is none, trains, or normalizes per cell
    /// (`spatial = 0` of opset 7 and 8; opsets before 7 with `is_test = 0`).
    pub fn of(graph: &Graph, op: OpId) -> Option<BatchNormalization> {
        let mut reader = Reader::of(graph, op, "BatchNormalization")?;
        let epsilon = reader.float("epsilon")?.unwrap_or(1e-5);
        reader.ignore("momentum");
        let opset = graph.opset();
        let inference = match opset {
            ..7 => reader.int_or("is_test", 0)? == 1 && reader.int_or("spatial", 1)? == 1,
            7 | 8 => reader.int_or("spatial", 1)? == 1,
            9..14 => true,
            14.. => reader.int_or("training_mode", 0)? == 0,
        };
        if opset == 1 {
            reader.ignore("consumed_inputs"); // a hint about memory
        }
        // Opset 7 to 13 trains when the further outputs are wanted.
        let alone = reader.op.outputs().iter().skip(1).all(Option::is_none);
        let input = |index| reader.op.input(index);
        let (x, scale, bias, mean, var) = (input(0)?, input(1)?, input(2)?, input(3)?, input(4)?);
        let y = reader.op.output(0)?;
        let node = reader.finish(5, 5)?;
        (inference && alone).then_some(BatchNormalization { x, scale, bias, mean, var, y, epsilon, node })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.node.name()
    }
}

/// `InstanceNormalization`: `y = (x - mean) / sqrt(var + epsilon) · scale + bias`, mean and variance over the axes from 2 on.
#[derive(Clone, Debug)]
pub struct InstanceNormalization {
    /// Input of shape [N, C, …]
    pub x: ValueId,
    /// One factor per channel
    pub scale: ValueId,
    /// One summand per channel
    pub bias: ValueId,
    /// Output, of the shape of `x`
    pub y: ValueId,
    /// Added to the variance
    pub epsilon: f32,
    /// The node as in the file
    pub node: NewOp,
}

impl InstanceNormalization {
    /// The op as an instance normalization; `None` when it is none.
    pub fn of(graph: &Graph, op: OpId) -> Option<InstanceNormalization> {
        let mut reader = Reader::of(graph, op, "InstanceNormalization").filter(|_| graph.opset() >= 6)?;
        let epsilon = reader.float("epsilon")?.unwrap_or(1e-5);
        let input = |index| reader.op.input(index);
        let (x, scale, bias, y) = (input(0)?, input(1)?, input(2)?, reader.op.output(0)?);
        let node = reader.finish(3, 1)?;
        Some(InstanceNormalization { x, scale, bias, y, epsilon, node })
    }

    /// A new node with this epsilon; its inputs are x, scale and bias.
    pub fn plain(name: &str, epsilon: f32) -> NewOp {
        NewOp::new("InstanceNormalization").named(name).with(attributes::float("epsilon", epsilon))
    }
}

/// The first opset with [`LayerNormalization`].
pub const LAYER_NORMALIZATION: i64 = 17;

/// `LayerNormalization` over the axes from `axis` on.
#[derive(Clone, Debug)]
pub struct LayerNormalization {
    /// Input
    pub x: ValueId,
    /// One factor for each number that is normalized together
    pub scale: ValueId,
    /// One summand for each; `None`: 0
    pub bias: Option<ValueId>,
    /// Output, of the shape of `x`
    pub y: ValueId,
    /// The first axis that is normalized over, as written: negative counts from the back
    pub axis: i64,
    /// Added to the variance
    pub epsilon: f32,
    /// The node as in the file
    pub node: NewOp,
}

impl LayerNormalization {
    /// The op as a layer normalization; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<LayerNormalization> {
        let mut reader = Reader::of(graph, op, "LayerNormalization")?;
        let (axis, epsilon) = (reader.int_or("axis", -1)?, reader.float("epsilon")?.unwrap_or(1e-5));
        reader.ignore("stash_type"); // in which type it computes
        let (x, scale, bias, y) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.input(2), reader.op.output(0)?);
        let node = reader.finish(3, 3)?;
        Some(LayerNormalization { x, scale, bias, y, axis, epsilon, node })
    }

    /// A new node over the axes from `axis` on; its inputs are x, scale and bias.
    pub fn plain(name: &str, axis: i64, epsilon: f32) -> NewOp {
        let attributes = [attributes::int("axis", axis), attributes::float("epsilon", epsilon)];
        attributes.into_iter().fold(NewOp::new("LayerNormalization").named(name), NewOp::with)
    }
}

/// A new `RMSNormalization` over the axes from `axis` on; its inputs are x and scale.
pub fn rms_normalization(name: &str, axis: i64, epsilon: f32) -> NewOp {
    let attributes = [attributes::int("axis", axis), attributes::float("epsilon", epsilon)];
    attributes.into_iter().fold(NewOp::new("RMSNormalization").named(name), NewOp::with)
}
