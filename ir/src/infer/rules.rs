//! Shapes of outputs, op by op.
//!
//! Most rules are those of `rten-shape-inference`; here attributes and inputs of ONNX's opsets are brought into the one
//! form that they know. **Never** guesses: what a rule does not cover is unknown.
use crate::{
    graph::Op,
    semantics::{self, Effect, Semantics},
};
use rten_shape_inference::{SymExpr, SymTensor, ops};

use super::{
    algebra, foreign, generate, layout,
    node::{Axes, Node},
    outputs::{Outputs, same, scalar},
    resize, symbols, values, windows,
};

/// Whether the one output of `op` has the shape of its first input.
fn has_shape_of_its_input(op: &Op) -> bool {
    let by_effect = |row: &Semantics| match row.effect {
        Effect::Elementwise => row.is_unary() && row.op_type != "Dropout",
        Effect::Normalization => !matches!(row.op_type, "BatchNormalization" | "LayerNormalization"),
        Effect::Quantization => row.op_type != "DynamicQuantizeLinear",
        _ => false,
    };
    semantics::of(op).is_some_and(by_effect)
        || matches!(
            op.op_type(),
            "Affine"
                | "Bernoulli"
                | "BitCast"
                | "CumProd"
                | "CumSum"
                | "EyeLike"
                | "Identity"
                | "ImageScaler"
                | "PRelu"
                | "RandomNormalLike"
                | "RandomUniformLike"
                | "RegexFullMatch"
                | "ReverseSequence"
                | "RotaryEmbedding"
                | "Scatter"
                | "ScatterElements"
                | "ScatterND"
                | "TensorScatter"
                | "Trilu"
        )
}

/// What is known of the outputs of `node`, by position; `None`, or fewer outputs than the op has, where nothing is.
pub(super) fn infer(node: &mut Node<'_>) -> Outputs {
    match node.op.domain() {
        "" => {}
        "ai.onnx.ml" => return foreign::machine_learning(node),
        "com.microsoft" => return foreign::microsoft(node),
        _ => return None,
    }
    if let Some(elements) = values::infer(node) {
        return Some(vec![elements]);
    }
    if has_shape_of_its_input(node.op) {
        return Some(vec![same(node, 0)?]);
    }
    match node.op.op_type() {
        "Add" | "And" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Div" | "Equal" | "Greater"
        | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Max" | "Mean" | "Min" | "Mod" | "Mul" | "Or" | "Pow" | "Sub"
        | "StringConcat" | "Sum" | "Where" | "Xor" => {
            // Before opset 7 the second input was broadcast to the first, by attributes.
            if node.graph.opset() < 7 {
                Some(vec![same(node, 0)?])
            } else {
                algebra::broadcast(node, 0..node.op.inputs().len())
            }
        }
        "ArgMax" | "ArgMin" => {
            let axis = node.int_or("axis", 0);
            algebra::reduced(node, Axes::Known(vec![axis]))
        }
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => {
            let axes = node.axes("axes", 1);
            algebra::reduced(node, axes)
        }
        "BatchNormalization" => {
            let statistics = node.input(3).cloned().map_or_else(unknown, symbols::shape_only);
            Some(vec![same(node, 0)?, statistics.clone(), statistics.clone(), statistics.clone(), statistics])
        }
        "Dropout" => Some(vec![same(node, 0)?, same(node, 0)?]),
        "DynamicQuantizeLinear" => Some(vec![same(node, 0)?, scalar(), scalar()]),
        "LayerNormalization" => algebra::layer_normalization(node),
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => {
            let none = node.op.string("reduction") == Some("none");
            Some(vec![if none { same(node, 1)? } else { scalar() }, same(node, 0)?])
        }
        "Conv" | "ConvInteger" | "DeformConv" => windows::conv(node, 0, 1),
        "QLinearConv" => windows::conv(node, 0, 3),
        "ConvTranspose" => windows::conv_transpose(node),
        "MaxPool" | "AveragePool" | "LpPool" => windows::pool(node, 0),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => node.as_is(&ops::GlobalPool),
        "MatMul" | "MatMulInteger" => algebra::matmul(node, 0, 1),
        "QLinearMatMul" => algebra::matmul(node, 0, 3),
        "Gemm" => {
            let (transpose_a, transpose_b) = (node.int_or("transA", 0) != 0, node.int_or("transB", 0) != 0);
            node.as_is(&ops::Gemm { transpose_a, transpose_b })
        }
        "Einsum" => {
            let equation = node.op.string("equation")?.to_owned();
            node.as_is(&ops::Einsum { equation: &equation })
        }
        "RNN" | "GRU" | "LSTM" => algebra::recurrent(node),
        "Constant" => generate::constant(node),
        "Shape" => {
            let bound =
                |name: &str| node.op.int(name).map(|bound| i32::try_from(bound).ok().filter(|b| b.abs() < 1 << 20));
            let (start, end) = (bound("start"), bound("end"));
            if start == Some(None) || end == Some(None) {
                return None;
            }
            let shape = ops::Shape { start: start.flatten(), end: end.flatten() };
            match node.input(0)?.ndim() {
                Some(_) => node.as_is(&shape),
                None => Some(vec![SymTensor::from_shape(vec![node.symbols.gen_positive()])]),
            }
        }
        "Size" => layout::size(node),
        "Reshape" => layout::reshape(node),
        "Flatten" => layout::flatten(node),
        "Squeeze" | "Unsqueeze" => layout::squeeze(node),
        "Transpose" => layout::transpose(node),
        "Concat" => layout::concat(node),
        "Split" => layout::split(node),
        "Slice" => layout::slice(node),
        "Pad" => layout::pad(node),
        "Resize" | "Upsample" => resize::resize(node),
        "ConstantOfShape" => generate::constant_of_shape(node),
        "Tile" if node.op.inputs().len() == 2 => node.as_is(&ops::Tile),
        "Expand" => match node.input(1)?.values() {
            Some(sizes) if sizes.len() > symbols::MAX_RANK => None,
            Some(sizes) => {
                let pair = [node.input(0)?.clone(), SymTensor::from_shape(sizes.to_vec())];
                algebra::broadcast_all(node, &pair)
            }
            None => node.as_is(&ops::Expand),
        },
        "Gather" => {
            let axis = axis32(node, "axis", 0)?;
            node.as_is(&ops::Gather { axis })
        }
        "GatherElements" => node.as_is(&ops::GatherElements),
        "GatherND" => {
            let batch_dims =
                usize::try_from(node.int_or("batch_dims", 0)).ok().filter(|&dims| dims <= symbols::MAX_RANK)?;
            node.as_is(&ops::GatherND { batch_dims })
        }
        "DepthToSpace" => {
            let block_size = u32::try_from(node.op.int("blocksize")?).ok().filter(|&size| size > 0)?;
            node.as_is(&ops::DepthToSpace { block_size })
        }
        "SpaceToDepth" => resize::space_to_depth(node),
        "TopK" => {
            let k = match node.op.int("k") {
                Some(k) => layout::vector(&[k])?,
                None => node.input(1)?.clone(),
            };
            let axis = Some(axis32(node, "axis", -1)?);
            let inputs = vec![node.input(0).cloned(), Some(k)];
            node.by(&ops::TopK { axis }, inputs)
        }
        "OneHot" => {
            let axis = axis32(node, "axis", -1)?;
            let mut inputs = node.inputs.clone();
            // The depth may be a float; what is behind its point does not count.
            if let Some(depth) = node.constant(1).and_then(|depth| depth.to_scalar_f64()) {
                inputs[1] = Some(SymTensor::from_scalar(layout::small(depth as i64)?));
            }
            node.by(&ops::OneHot { axis }, inputs)
        }
        "Range" => generate::range(node),
        "NonZero" if node.rank(0) != Some(0) => node.as_is(&ops::NonZero),
        "Compress" | "Unique" => generate::selected(node),
        "NonMaxSuppression" => node.as_is(&ops::NonMaxSuppression),
        "GridSample" => node.as_is(&ops::GridSample),
        "RandomNormal" | "RandomUniform" => {
            let dims: Option<Vec<_>> = node.op.ints("shape")?.iter().map(|&size| layout::small(size)).collect();
            Some(vec![SymTensor::from_shape(dims?)])
        }
        "Multinomial" => {
            let sample_size = usize::try_from(node.int_or("sample_size", 1)).ok().filter(|&size| size < 1 << 30)?;
            node.as_is(&ops::Multinomial { sample_size })
        }
        "RoiAlign" => {
            let (data, rois) = (node.shape(0).filter(|data| data.len() == 4)?, node.shape(1)?);
            let (height, width) = (node.int_or("output_height", 1), node.int_or("output_width", 1));
            let dims = vec![rois.first()?.clone(), data[1].clone(), layout::small(height)?, layout::small(width)?];
            Some(vec![SymTensor::from_shape(dims)])
        }
        "Det" => {
            let data = node.shape(0)?;
            Some(vec![SymTensor::from_shape(data[..data.len().checked_sub(2)?].to_vec())])
        }
        "STFT" => {
            let onesided = node.int_or("onesided", 1) != 0;
            node.as_is(&ops::STFT { onesided })
        }
        "DFT" => {
            let (inverse, onesided) = (node.int_or("inverse", 0) != 0, node.int_or("onesided", 0) != 0);
            let mut inputs = node.inputs.clone();
            inputs.resize(3, None);
            if node.graph.opset() < 20 {
                let axis = axis32(node, "axis", 1)?;
                inputs[2] = Some(SymTensor::from_scalar(SymExpr::Value(axis)));
            }
            node.by(&ops::DFT { inverse, onesided }, inputs)
        }
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => {
            let length = node.input(0)?.as_scalar().cloned();
            let length = length.unwrap_or_else(|| node.symbols.gen_positive());
            Some(vec![SymTensor::from_shape(vec![length])])
        }
        "Attention" => {
            let heads = |name: &str| node.op.int(name).map(|heads| u32::try_from(heads).ok());
            let (q_num_heads, kv_num_heads) = (heads("q_num_heads"), heads("kv_num_heads"));
            if q_num_heads == Some(None) || kv_num_heads == Some(None) {
                return None;
            }
            let rule = ops::Attention { q_num_heads: q_num_heads.flatten(), kv_num_heads: kv_num_heads.flatten() };
            node.as_is(&rule)
        }
        "CenterCropPad" => resize::center_crop_pad(node),
        "OptionalHasElement" | "SequenceLength" => Some(vec![scalar()]),
        "Crop" => resize::crop(node),
        _ => None,
    }
}

fn unknown() -> SymTensor {
    SymTensor::unknown("no rule")
}

fn axis32(node: &Node<'_>, name: &str, default: i64) -> Option<i32> {
    i32::try_from(node.int_or(name, default)).ok().filter(|axis| axis.abs() < 1 << 20)
}
