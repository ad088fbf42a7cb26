//! Models written down in code.
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{
    DataType, Evaluate, EvaluateError, Model, Tensor, TensorType,
    convert::tensor_to_proto,
    import,
    proto::schema::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto},
};

/// An op node.
pub fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: Some(op_type.to_owned()),
        input: names(inputs),
        output: names(outputs),
        attribute: attributes,
        ..NodeProto::default()
    }
}

/// A declaration; `dims` below 0 are unknown.
pub fn info(name: &str, dtype: DataType, dims: &[i64]) -> ValueInfoProto {
    let dims =
        dims.iter().map(|&dim| usize::try_from(dim).map_or(onnx_shrink_ir::Dim::Unknown, onnx_shrink_ir::Dim::Known));
    let ty = TensorType { dtype, shape: Some(dims.collect()) };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty.to_proto()), ..ValueInfoProto::default() }
}

/// A declaration without a type.
pub fn bare(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() }
}

/// A graph; constants are (name, tensor).
pub fn graph(
    inputs: Vec<ValueInfoProto>,
    constants: &[(&str, Tensor)],
    nodes: Vec<NodeProto>,
    outputs: Vec<ValueInfoProto>,
) -> GraphProto {
    GraphProto {
        name: Some("g".to_owned()),
        input: inputs,
        initializer: constants.iter().map(|(name, tensor)| tensor_to_proto(tensor, name)).collect(),
        node: nodes,
        output: outputs,
        ..GraphProto::default()
    }
}

/// The model of `graph` for `opset`.
pub fn model(opset: i64, graph: GraphProto) -> Model {
    let import_of = OperatorSetIdProto { domain: None, version: Some(opset) };
    let proto =
        ModelProto { ir_version: Some(8), opset_import: vec![import_of], graph: Some(graph), ..ModelProto::default() };
    import(proto).expect("a model")
}

/// The outputs for `inputs`, and the names that were observed.
pub fn run(model: &Model, inputs: &[Tensor]) -> Result<(Vec<Tensor>, Vec<String>), EvaluateError> {
    let engine = Interpreter::default();
    let prepared = engine.prepare(&model.graph)?;
    let inputs: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
    let mut seen = Vec::new();
    let outputs = prepared.run(&inputs, &mut |value, _| seen.push(model.graph.name_of(value).to_owned()))?;
    let again = prepared.run(&inputs, &mut |_, _| {})?;
    assert_eq!(outputs, again, "the same bits on every call");
    Ok((outputs, seen))
}

/// A float tensor.
pub fn floats(dims: &[usize], numbers: &[f32]) -> Tensor {
    Tensor::from_vec(dims, numbers.to_vec())
}
