//! Element types of outputs: from the op's schema, and from attributes where the schema leaves it open.
use super::Node;
use crate::{
    op_schema::{Occurrence, Schema, find, tensor_type},
    types::DataType,
};

/// The element type of each output of `node`; `None` where it is unknown or the output is no tensor.
pub(super) fn infer(node: &Node<'_>) -> Vec<Option<DataType>> {
    let op = node.op;
    let opset = if op.domain().is_empty() { node.graph.opset() } else { i64::MAX };
    let schema = find(op.domain(), op.op_type(), opset);
    (0..op.outputs().len())
        .map(|index| match special(node, index) {
            Special::Is(dtype) => dtype,
            Special::AsSchema => schema.and_then(|schema| by_schema(node, schema, index)),
        })
        .collect()
}

/// The type that the schema gives to output `index`: a fixed one, that of an input under the same type name, or the only
/// one that is allowed.
fn by_schema(node: &Node<'_>, schema: &Schema, index: usize) -> Option<DataType> {
    let output = schema.output(index)?;
    if output.occurrence == Occurrence::Variadic && !output.homogeneous {
        return None;
    }
    let Some(constraint) = schema.constraint(output.ty) else { return tensor_type(output.ty) };
    let bound = (0..node.op.inputs().len()).find_map(|input| {
        let formal = schema.input(input)?;
        (formal.ty == output.ty && formal.homogeneous).then(|| node.dtype(input)).flatten()
    });
    bound.or(match constraint.allowed {
        [only] => tensor_type(only),
        _ => None,
    })
}

enum Special {
    AsSchema,
    Is(Option<DataType>),
}

fn special(node: &Node<'_>, index: usize) -> Special {
    let op = node.op;
    let by_attribute = |name: &str| op.int(name).filter(|&number| number != 0).and_then(number);
    let constant =
        |name: &str| op.attribute(name).and_then(|a| a.t.as_ref()).and_then(|t| DataType::from_number(t.data_type()));
    let dtype = match (op.domain(), op.op_type()) {
        ("", "Cast") => match op.string("to") {
            Some(name) => DataType::ALL.iter().copied().find(|dtype| dtype.name().eq_ignore_ascii_case(name)),
            None => by_attribute("to"),
        },
        ("", "BitCast") => by_attribute("to"),
        ("", "Constant") => return Special::Is(constant_type(node)),
        ("", "ConstantOfShape") => match op.attribute("value") {
            Some(_) => constant("value"),
            None => Some(DataType::Float),
        },
        ("", "EyeLike" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli") => match op.attribute("dtype") {
            Some(_) => by_attribute("dtype"),
            None => node.dtype(0),
        },
        ("", "RandomNormal" | "RandomUniform") => by_attribute("dtype").or(Some(DataType::Float)),
        ("", "Multinomial") => by_attribute("dtype").or(Some(DataType::Int32)),
        ("", "HannWindow" | "HammingWindow" | "BlackmanWindow" | "MelWeightMatrix") => {
            by_attribute("output_datatype").or(Some(DataType::Float))
        }
        ("", "QuantizeLinear") => match by_attribute("output_dtype") {
            Some(dtype) => Some(dtype),
            None if op.input(2).is_some() => node.dtype(2),
            None => Some(DataType::Uint8),
        },
        ("", "DequantizeLinear") => match by_attribute("output_dtype") {
            Some(dtype) => Some(dtype),
            None if node.graph.opset() < 19 => Some(DataType::Float),
            None => node.dtype(1),
        },
        ("", "LayerNormalization") if index > 0 => by_attribute("stash_type").or(Some(DataType::Float)),
        ("", "SequenceLength") => Some(DataType::Int64),
        ("", "Affine" | "ImageScaler" | "Crop") => node.dtype(0),
        ("ai.onnx.ml", "LinearClassifier" | "SVMClassifier" | "TreeEnsembleClassifier") => match index {
            0 => {
                let strings = ["classlabels_strings", "classlabels_string"];
                let named = strings.iter().any(|name| op.attribute(name).is_some_and(|a| !a.strings.is_empty()));
                Some(if named { DataType::String } else { DataType::Int64 })
            }
            _ => Some(DataType::Float),
        },
        (
            "com.microsoft",
            "FastGelu" | "Gelu" | "BiasGelu" | "QuickGelu" | "FusedConv" | "FusedMatMul" | "Attention",
        ) if index == 0 => node.dtype(0),
        (
            "com.microsoft",
            "QLinearAdd"
            | "QLinearMul"
            | "QLinearSoftmax"
            | "QLinearSigmoid"
            | "QLinearLeakyRelu"
            | "QLinearAveragePool"
            | "QLinearGlobalAveragePool"
            | "SkipLayerNormalization"
            | "SimplifiedLayerNormalization",
        ) if index == 0 => node.dtype(0),
        _ => return Special::AsSchema,
    };
    Special::Is(dtype)
}

fn constant_type(node: &Node<'_>) -> Option<DataType> {
    let has = |name: &str| node.op.attribute(name).is_some();
    if let Some(value) = node.op.attribute("value") {
        return value.t.as_ref().and_then(|tensor| DataType::from_number(tensor.data_type()));
    }
    if let Some(sparse) = node.op.attribute("sparse_value") {
        let values = sparse.sparse_tensor.as_ref()?.values.as_ref()?;
        return DataType::from_number(values.data_type());
    }
    if has("value_float") || has("value_floats") {
        Some(DataType::Float)
    } else if has("value_int") || has("value_ints") {
        Some(DataType::Int64)
    } else if has("value_string") || has("value_strings") {
        Some(DataType::String)
    } else {
        None
    }
}

fn number(number: i64) -> Option<DataType> {
    DataType::from_number(i32::try_from(number).ok()?)
}
