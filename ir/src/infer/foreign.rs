//! Ops outside of ONNX's main domain whose shapes are plain.
use rten_shape_inference::{SymTensor, ops};

use super::{
    algebra::broadcast_all,
    node::Node,
    outputs::{Outputs, same},
    windows,
};

/// Ops of `ai.onnx.ml` whose shapes are plain.
pub(super) fn machine_learning(node: &mut Node<'_>) -> Outputs {
    match node.op.op_type() {
        "Binarizer" | "Imputer" | "LabelEncoder" | "Normalizer" | "Scaler" => Some(vec![same(node, 0)?]),
        "LinearClassifier" | "SVMClassifier" | "TreeEnsembleClassifier" => {
            let batch = node.shape(0).filter(|data| data.len() == 2)?[0].clone();
            let scores = SymTensor::from_shape(vec![batch.clone(), node.symbols.gen_positive()]);
            Some(vec![SymTensor::from_shape(vec![batch]), scores])
        }
        _ => None,
    }
}

/// Ops of ONNX Runtime's own domain that its quantizer and optimizer write.
pub(super) fn microsoft(node: &mut Node<'_>) -> Outputs {
    let channels_last = node.int_or("channels_last", 0) != 0;
    match node.op.op_type() {
        "BiasGelu"
        | "FastGelu"
        | "Gelu"
        | "QuickGelu"
        | "QLinearLeakyRelu"
        | "QLinearSigmoid"
        | "QLinearSoftmax"
        | "SimplifiedLayerNormalization"
        | "SkipLayerNormalization"
        | "DequantizeLinear"
        | "QuantizeLinear" => Some(vec![same(node, 0)?]),
        "QLinearAdd" | "QLinearMul" => {
            let pair = [node.input(0)?.clone(), node.input(3)?.clone()];
            broadcast_all(node, &pair)
        }
        "FusedConv" => windows::conv(node, 0, 1),
        "QLinearAveragePool" if !channels_last => windows::pool(node, 0),
        "QLinearGlobalAveragePool" if !channels_last => {
            let data = vec![node.input(0).cloned()];
            node.by(&ops::GlobalPool, data)
        }
        "EmbedLayerNormalization" => {
            let (ids, words) = (node.shape(0)?, node.shape(2)?);
            match (ids.as_slice(), words.as_slice()) {
                ([batch, length], [_, hidden]) => {
                    Some(vec![SymTensor::from_shape(vec![batch.clone(), length.clone(), hidden.clone()])])
                }
                _ => None,
            }
        }
        _ => None,
    }
}
