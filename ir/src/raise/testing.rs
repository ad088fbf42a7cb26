//! Small models for the tests of the rules, and models as text.
use onnx_shrink_proto::schema::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};

use crate::{
    convert::tensor_to_proto,
    graph::{Graph, ValueId},
    import::import,
    model::Model,
    patch::declaration,
    raise::{RaiseError, raise},
    tensor::Tensor,
    types::{DataType, TensorType},
};

/// A node.
pub(super) fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: &[AttributeProto]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        attribute: attributes.to_vec(),
        ..NodeProto::default()
    }
}

/// A graph with float inputs; an initializer is given by name and tensor. The outputs are those of the last node, of unknown type.
pub(super) fn graph(inputs: &[(&str, &[usize])], initializers: &[(&str, Tensor)], nodes: &[NodeProto]) -> GraphProto {
    let float = |(name, dims): &(&str, &[usize])| declaration(name, &TensorType::fixed(DataType::Float, dims));
    let output = |name: &String| declaration(name, &TensorType { dtype: DataType::Float, shape: None });
    let last = nodes.last().map_or(&[][..], |node| &node.output);
    GraphProto {
        name: Some("g".to_owned()),
        input: inputs.iter().map(float).collect(),
        output: last.iter().filter(|name| !name.is_empty()).map(output).collect(),
        initializer: initializers
            .iter()
            .map(|(name, tensor)| tensor_to_proto(tensor, name))
            .collect::<Vec<TensorProto>>(),
        node: nodes.to_vec(),
        ..GraphProto::default()
    }
}

/// A model of `opset` and IR version 6.
pub(super) fn model_of(opset: i64, graph: GraphProto) -> Model {
    let import_of = OperatorSetIdProto { domain: None, version: Some(opset) };
    let proto =
        ModelProto { ir_version: Some(6), opset_import: vec![import_of], graph: Some(graph), ..ModelProto::default() };
    import(proto).unwrap()
}

/// A model of one node that reads the float input `x` of these dimensions.
pub(super) fn one(opset: i64, dims: &[usize], node: NodeProto) -> Model {
    model_of(opset, graph(&[("x", dims)], &[], &[node]))
}

/// The ops of a graph, one a line: constants stand where they are used, as type, dimensions and numbers.
pub(super) fn show(graph: &Graph) -> String {
    let value = |value: &Option<ValueId>| match value {
        None => "-".to_owned(),
        Some(value) => match graph.constant(*value) {
            Some(tensor) => format!("{}{:?}", tensor.ty(), tensor.to_f64_vec().unwrap()),
            None => graph.name_of(*value).to_owned(),
        },
    };
    let list = |values: &[Option<ValueId>]| values.iter().map(value).collect::<Vec<_>>().join(", ");
    let attribute = |attribute: &AttributeProto| {
        let value = match (attribute.i, attribute.f, &attribute.s) {
            (Some(i), ..) => i.to_string(),
            (_, Some(f), _) => format!("{f:?}"),
            (.., Some(s)) => String::from_utf8_lossy(s).into_owned(),
            _ => format!("{:?}", attribute.ints),
        };
        format!("{}={value}", attribute.name())
    };
    let line = |id| {
        let op = graph.op(id);
        let mut attributes = op.attributes().iter().map(attribute).collect::<Vec<_>>().join(" ");
        if !attributes.is_empty() {
            attributes = format!("<{attributes}>");
        }
        format!("{} = {}{attributes}({})", list(op.outputs()), op.op_type(), list(op.inputs()))
    };
    graph.ops().into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The ops after raising.
pub(super) fn raised(mut model: Model, target: i64) -> String {
    raise(&mut model, target).unwrap();
    assert_eq!(model.opset(), target);
    show(&model.graph)
}

/// The sentence with which raising fails; the model must be as it was.
pub(super) fn refused(mut model: Model, target: i64) -> String {
    let before = crate::export(&model);
    let error: RaiseError = raise(&mut model, target).unwrap_err();
    assert_eq!(crate::export(&model), before, "the model was touched");
    error.to_string()
}
