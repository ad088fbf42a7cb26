//! Ops that make constants.
use onnx_shrink_proto::schema::{AttributeProto, attribute_proto::AttributeType};

use super::Reader;
use crate::{
    convert,
    graph::{Graph, OpId, ValueId},
    tensor::Tensor,
};

/// `Constant`: a tensor that the node states.
#[derive(Clone, Copy, Debug)]
pub struct Constant<'g> {
    /// Output
    pub y: ValueId,
    value: &'g AttributeProto,
}

impl<'g> Constant<'g> {
    /// The op as a `Constant`; `None` when it is none, or states no value or several.
    pub fn of(graph: &'g Graph, op: OpId) -> Option<Constant<'g>> {
        let reader = Reader::of(graph, op, "Constant")?;
        let y = reader.op.output(0)?;
        match reader.op.attributes() {
            [value] => Some(Constant { y, value }),
            _ => None,
        }
    }

    /// Whether it is stated as a sparse tensor.
    pub fn is_sparse(&self) -> bool {
        self.value.name() == "sparse_value"
    }

    /// The tensor; `None` for sparse ones, strings, and what is malformed.
    pub fn tensor(&self) -> Option<Tensor> {
        let value = self.value;
        match value.name() {
            "value" => convert::tensor_from_proto(value.t.as_deref()?).ok(),
            "value_float" => Some(Tensor::scalar(value.f?)),
            "value_int" => Some(Tensor::scalar(value.i?)),
            "value_floats" => Some(Tensor::from_vec(&[value.floats.len()], value.floats.clone())),
            "value_ints" => Some(Tensor::from_vec(&[value.ints.len()], value.ints.clone())),
            _ => None,
        }
    }
}

/// `ConstantOfShape`: one number everywhere.
#[derive(Clone, Debug)]
pub struct ConstantOfShape {
    /// The output's dimensions
    pub shape: ValueId,
    /// Output
    pub y: ValueId,
    /// The number, a tensor of one element
    pub value: Tensor,
}

impl ConstantOfShape {
    /// The op as a `ConstantOfShape`; `None` when it is none or its value is malformed.
    pub fn of(graph: &Graph, op: OpId) -> Option<ConstantOfShape> {
        let mut reader = Reader::of(graph, op, "ConstantOfShape")?;
        let value = match reader.get("value", AttributeType::Tensor)? {
            Some(value) => convert::tensor_from_proto(value.t.as_deref()?).ok()?,
            None => Tensor::from_vec(&[1], vec![0f32]),
        };
        let (shape, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        (value.len() == 1).then_some(ConstantOfShape { shape, y, value })
    }
}
