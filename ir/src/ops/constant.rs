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

#[cfg(test)]
mod tests {
    use super::{Constant, ConstantOfShape};
    use crate::text::parse_graph;

    #[test]
    fn a_constant_is_stated_in_several_ways() {
        for (value, wanted) in [("value_ints = [3, 4]", vec![3.0, 4.0]), ("value_float = 0.5", vec![0.5])] {
            let graph =
                parse_graph(&format!("g () => (float y) {{ y = Constant <{value}> () }}"), 17).expect("a graph").graph;
            let constant = Constant::of(&graph, graph.ops()[0]).expect("a constant");
            assert!(!constant.is_sparse());
            assert_eq!(constant.tensor().and_then(|tensor| tensor.to_f64_vec()), Some(wanted), "{value}");
        }
    }

    #[test]
    fn a_shape_is_filled_with_zeros_where_nothing_is_stated() {
        let graph = parse_graph("g (int64[2] n) => (float y) { y = ConstantOfShape (n) }", 17).expect("a graph").graph;
        let filled = ConstantOfShape::of(&graph, graph.ops()[0]).expect("a constant");
        assert_eq!(filled.value.to_f64_vec(), Some(vec![0.0]));
    }
}
