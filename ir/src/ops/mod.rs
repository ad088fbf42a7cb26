//! Typed views of the ops that passes read and rewrite.
//!
//! Why: a pass must never read attribute strings. A view has the op's inputs and output by the names of the
//! specification, and its attributes with defaults filled in. `View::of` gives `None` for another op type, for an
//! attribute that the view does not know or that has the wrong type, for a left-out input that is required, and for
//! opsets with another meaning: what is not understood is not rewritten. `to_op` makes the node again, as it was in
//! the file except for what was changed: names, doc strings and the order of attributes stay.
//! **Never** looks beyond the op and the types and constants of its inputs.
mod activation;
mod constant;
mod conv;
mod elementwise;
mod layout;
mod linear;
mod norm;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod split;
mod weight_layout;
mod weighted;

pub use activation::{Clip, HardSigmoid, LeakyRelu, Relu, Softmax, clip_bounds, is_clip};
pub use constant::{Constant, ConstantOfShape};
pub use conv::{AutoPad, Conv, ConvTranspose};
pub use elementwise::{Binary, BinaryKind, Cast, ConstantSide, Dropout, has_older_broadcast};
pub use layout::{
    Concat, Expand, Flatten, Gather, Pad, PadMode, Reshape, Shape, Slice, Squeeze, Tile, Transpose, Unsqueeze,
};
pub use linear::{Gemm, MatMul};
pub use norm::{BatchNormalization, InstanceNormalization, LAYER_NORMALIZATION, LayerNormalization, rms_normalization};
pub use pool::{AveragePool, MaxPool};
pub use quantize::{DequantizeLinear, QuantizeLinear};
pub use reduce::Reduce;
pub use resize::{Resize, ResizeCoordinates, ResizeMode, ResizeScales};
pub use split::{Split, SplitLengths};
pub use weight_layout::{RowOrder, WeightLayout, WeightShape};
pub use weighted::{AddedBias, LayerKind, Operands, WeightedLayer, parameter_inputs, weight_inputs};

use onnx_shrink_proto::schema::{AttributeProto, attribute_proto::AttributeType};

use crate::{
    attributes,
    graph::{Graph, NewOp, Op, OpId, ValueId},
    tensor::Tensor,
};

/// Whether the op draws random numbers: another result each time. Dropout does where it may be in training mode.
pub fn is_random(graph: &Graph, id: OpId) -> bool {
    let op = graph.op(id);
    let by_type =
        ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"];
    op.domain().is_empty() && by_type.contains(&op.op_type()) || op.is("Dropout") && Dropout::of(graph, id).is_none()
}

/// Reads the attributes of one op; at the end each must have been read.
struct Reader<'a> {
    graph: &'a Graph,
    op: &'a Op,
    read: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// A reader of `op`, if it is ONNX's own op of this type and has no body.
    fn of(graph: &'a Graph, op: OpId, op_type: &str) -> Option<Reader<'a>> {
        let op = graph.op(op);
        (op.is(op_type) && op.regions().is_empty()).then(|| Reader { graph, op, read: Vec::new() })
    }

    /// The attribute `name`, which must be of type `kind`: `Some(None)` when it is not there, `None` when it does not fit.
    fn get(&mut self, name: &'static str, kind: AttributeType) -> Option<Option<&'a AttributeProto>> {
        self.read.push(name);
        match self.op.attribute(name) {
            None => Some(None),
            // A file of IR version 1 may leave the type out.
            Some(found) if found.ref_attr_name.as_deref().unwrap_or("").is_empty() => {
                matches!(found.r#type, None | Some(0))
                    .then_some(())
                    .or((found.r#type == Some(kind as i32)).then_some(()))?;
                Some(Some(found))
            }
            Some(_) => None,
        }
    }

    fn int(&mut self, name: &'static str) -> Option<Option<i64>> {
        Some(self.get(name, AttributeType::Int)?.map(AttributeProto::i))
    }

    fn int_or(&mut self, name: &'static str, default: i64) -> Option<i64> {
        Some(self.int(name)?.unwrap_or(default))
    }

    fn flag(&mut self, name: &'static str) -> Option<bool> {
        match self.int_or(name, 0)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn ints(&mut self, name: &'static str) -> Option<Option<Vec<i64>>> {
        Some(self.get(name, AttributeType::Ints)?.map(|attribute| attribute.ints.clone()))
    }

    fn float(&mut self, name: &'static str) -> Option<Option<f32>> {
        Some(self.get(name, AttributeType::Float)?.map(AttributeProto::f))
    }

    fn floats(&mut self, name: &'static str) -> Option<Option<Vec<f32>>> {
        Some(self.get(name, AttributeType::Floats)?.map(|attribute| attribute.floats.clone()))
    }

    fn string(&mut self, name: &'static str) -> Option<Option<&'a str>> {
        match self.get(name, AttributeType::String)? {
            None => Some(None),
            Some(attribute) => std::str::from_utf8(attribute.s()).ok().map(Some),
        }
    }

    /// Reads past an attribute that means nothing to values.
    fn ignore(&mut self, name: &'static str) {
        self.read.push(name);
    }

    /// The constant integers of input `index`: `Some(None)` when the input is left out, `None` when it is not constant.
    fn ints_input(&self, index: usize) -> Option<Option<Vec<i64>>> {
        match self.op.input(index) {
            None => Some(None),
            Some(value) => Some(Some(self.graph.constant(value)?.to_i64_vec()?)),
        }
    }

    /// The node, if every attribute has been read and there are at most `inputs` inputs and `outputs` outputs.
    fn finish(self, inputs: usize, outputs: usize) -> Option<NewOp> {
        let all_read = self.op.attributes().iter().all(|attribute| self.read.contains(&attribute.name()));
        let fits = self.op.inputs().len() <= inputs && self.op.outputs().len() <= outputs;
        (all_read && fits).then(|| NewOp { node: self.op.proto().clone() })
    }
}

/// Sets an attribute: in its place when the node has it, at the end when it differs from `default`.
fn set(op: &mut NewOp, value: AttributeProto, is_default: bool) {
    let attributes = &mut op.node.attribute;
    match attributes.iter_mut().find(|attribute| attribute.name == value.name) {
        Some(place) => {
            let doc_string = place.doc_string.take();
            *place = AttributeProto { doc_string, ..value };
        }
        None if is_default => {}
        None => attributes.push(value),
    }
}

fn set_int(op: &mut NewOp, name: &str, value: i64, default: i64) {
    set(op, attributes::int(name, value), value == default);
}

fn set_ints(op: &mut NewOp, name: &str, values: &[i64], default: i64) {
    set(op, attributes::ints(name, values), values.iter().all(|&value| value == default));
}

fn set_float(op: &mut NewOp, name: &str, value: f32, default: f32) {
    set(op, attributes::float(name, value), value.to_bits() == default.to_bits());
}

/// Takes an attribute away.
fn unset(op: &mut NewOp, name: &str) {
    op.node.attribute.retain(|attribute| attribute.name() != name);
}

/// `axis` counted from the front, of `rank` axes; `None` when it is out of bounds.
pub fn axis_from_front(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis + rank } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

impl Graph {
    /// The constant numbers of `value`, as f64; `None` when it is not constant or holds no numbers.
    pub fn constant_f64(&self, value: ValueId) -> Option<ndarray::ArrayD<f64>> {
        self.constant(value)?.to_f64()
    }

    /// The one constant number of `value` (any rank, one element).
    pub fn constant_scalar(&self, value: ValueId) -> Option<f64> {
        self.constant(value).and_then(Tensor::to_scalar_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DataType, TensorType};

    pub(super) fn one_op(node: NewOp, inputs: &[TensorType]) -> (Graph, OpId) {
        let mut graph = Graph::new(17);
        let inputs =
            inputs.iter().enumerate().map(|(k, ty)| Some(graph.insert_value(&format!("i{k}"), Some(ty.clone()))));
        let inputs: Vec<_> = inputs.collect();
        let y = graph.insert_value("y", None);
        let op = graph.insert_op(1, node.node, inputs, vec![Some(y)], Vec::new());
        (graph, op)
    }

    #[test]
    fn a_view_refuses_an_attribute_that_it_does_not_know() {
        let types =
            [TensorType::fixed(DataType::Float, &[1, 2, 4, 4]), TensorType::fixed(DataType::Float, &[3, 2, 3, 3])];
        let known = NewOp::new("Conv").with(attributes::int("group", 1));
        let (graph, op) = one_op(known.clone(), &types);
        assert!(Conv::of(&graph, op).is_some());
        let (graph, op) = one_op(known.clone().with(attributes::int("fused_relu", 1)), &types);
        assert!(Conv::of(&graph, op).is_none());
        let (graph, op) = one_op(NewOp::new("Conv").with(attributes::float("group", 1.0)), &types);
        assert!(Conv::of(&graph, op).is_none());
    }

    #[test]
    fn a_conv_is_made_again_as_it_was_with_defaults_left_out() {
        let types =
            [TensorType::fixed(DataType::Float, &[1, 2, 4, 4]), TensorType::fixed(DataType::Float, &[3, 2, 3, 3])];
        let node = NewOp::new("Conv").named("c").with(attributes::ints("pads", &[0, 0, 1, 1]));
        let (graph, op) = one_op(node.clone(), &types);
        let conv = Conv::of(&graph, op).expect("a conv");
        assert_eq!((conv.group, conv.strides.as_slice(), conv.pads.as_slice()), (1, &[1, 1][..], &[0, 0, 1, 1][..]));
        assert_eq!(conv.to_op().node, node.node);
        let wider = Conv { pads: vec![1, 1, 2, 2], group: 2, ..conv }.to_op();
        assert_eq!(wider.node.attribute[0].ints, [1, 1, 2, 2]);
        assert_eq!(wider.node.attribute[1].i, Some(2));
    }
}
