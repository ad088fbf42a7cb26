//! Shapes of outputs, op by op.
//!
//! Most rules are those of `rten-shape-inference`; here attributes and inputs of ONNX's opsets are brought into the one
//! form that they know. **Never** guesses: what a rule does not cover is unknown.
use rten_shape_inference::{BinaryOp, ReductionOp, SymExpr, SymTensor, ops};

use super::{
    layout,
    node::{Axes, Node, constant_op, resolve},
    symbols, values, windows,
};
use crate::types::DataType;

type Outputs = Option<Vec<SymTensor>>;

/// What is known of the outputs of `node`, by position; `None`, or fewer outputs than the op has, where nothing is.
pub(super) fn infer(node: &mut Node<'_>) -> Outputs {
    match node.op.domain() {
        "" => {}
        "ai.onnx.ml" => return machine_learning(node),
        "com.microsoft" => return microsoft(node),
        _ => return None,
    }
    if let Some(elements) = values::infer(node) {
        return Some(vec![elements]);
    }
    match node.op.op_type() {
        "Abs"
        | "Acos"
        | "Acosh"
        | "Affine"
        | "Asin"
        | "Asinh"
        | "Atan"
        | "Atanh"
        | "Bernoulli"
        | "BitCast"
        | "BitwiseNot"
        | "Cast"
        | "CastLike"
        | "Ceil"
        | "Celu"
        | "Clip"
        | "Cos"
        | "Cosh"
        | "CumProd"
        | "CumSum"
        | "DequantizeLinear"
        | "Elu"
        | "Erf"
        | "Exp"
        | "EyeLike"
        | "Floor"
        | "Gelu"
        | "GroupNormalization"
        | "HardSigmoid"
        | "HardSwish"
        | "Hardmax"
        | "Identity"
        | "ImageScaler"
        | "InstanceNormalization"
        | "IsInf"
        | "IsNaN"
        | "LRN"
        | "LeakyRelu"
        | "Log"
        | "LogSoftmax"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "Mish"
        | "Neg"
        | "Not"
        | "PRelu"
        | "QuantizeLinear"
        | "RMSNormalization"
        | "RandomNormalLike"
        | "RandomUniformLike"
        | "Reciprocal"
        | "RegexFullMatch"
        | "Relu"
        | "ReverseSequence"
        | "RotaryEmbedding"
        | "Round"
        | "Scatter"
        | "ScatterElements"
        | "ScatterND"
        | "Selu"
        | "Shrink"
        | "Sigmoid"
        | "Sign"
        | "Sin"
        | "Sinh"
        | "Softmax"
        | "Softplus"
        | "Softsign"
        | "Sqrt"
        | "Swish"
        | "Tan"
        | "Tanh"
        | "TensorScatter"
        | "ThresholdedRelu"
        | "Trilu" => Some(vec![same(node, 0)?]),
        "Add" | "And" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Div" | "Equal" | "Greater"
        | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Max" | "Mean" | "Min" | "Mod" | "Mul" | "Or" | "Pow" | "Sub"
        | "StringConcat" | "Sum" | "Where" | "Xor" => {
            // Before opset 7 the second input was broadcast to the first, by attributes.
            if node.graph.opset() < 7 { Some(vec![same(node, 0)?]) } else { broadcast(node, 0..node.op.inputs().len()) }
        }
        "ArgMax" | "ArgMin" => {
            let axis = node.int_or("axis", 0);
            reduced(node, Axes::Known(vec![axis]))
        }
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => {
            let axes = node.axes("axes", 1);
            reduced(node, axes)
        }
        "BatchNormalization" => {
            let statistics = node.input(3).cloned().map_or_else(unknown, symbols::shape_only);
            Some(vec![same(node, 0)?, statistics.clone(), statistics.clone(), statistics.clone(), statistics])
        }
        "Dropout" => Some(vec![same(node, 0)?, same(node, 0)?]),
        "DynamicQuantizeLinear" => Some(vec![same(node, 0)?, scalar(), scalar()]),
        "LayerNormalization" => layer_normalization(node),
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => {
            let none = node.op.string("reduction") == Some("none");
            Some(vec![if none { same(node, 1)? } else { scalar() }, same(node, 0)?])
        }
        "Conv" | "ConvInteger" | "DeformConv" => windows::conv(node, 0, 1),
        "QLinearConv" => windows::conv(node, 0, 3),
        "ConvTranspose" => windows::conv_transpose(node),
        "MaxPool" | "AveragePool" | "LpPool" => windows::pool(node, 0),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => node.as_is(&ops::GlobalPool),
        "MatMul" | "MatMulInteger" => matmul(node, 0, 1),
        "QLinearMatMul" => matmul(node, 0, 3),
        "Gemm" => {
            let (transpose_a, transpose_b) = (node.int_or("transA", 0) != 0, node.int_or("transB", 0) != 0);
            node.as_is(&ops::Gemm { transpose_a, transpose_b })
        }
        "Einsum" => {
            let equation = node.op.string("equation")?.to_owned();
            node.as_is(&ops::Einsum { equation: &equation })
        }
        "RNN" | "GRU" | "LSTM" => recurrent(node),
        "Constant" => constant(node),
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
        "Resize" | "Upsample" => layout::resize(node),
        "ConstantOfShape" => layout::constant_of_shape(node),
        "Tile" if node.op.inputs().len() == 2 => node.as_is(&ops::Tile),
        "Expand" => match node.input(1)?.values() {
            Some(sizes) if sizes.len() > symbols::MAX_RANK => None,
            Some(sizes) => {
                let pair = [node.input(0)?.clone(), SymTensor::from_shape(sizes.to_vec())];
                broadcast_all(node, &pair)
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
        "SpaceToDepth" => space_to_depth(node),
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
        "Range" => range(node),
        "NonZero" if node.rank(0) != Some(0) => node.as_is(&ops::NonZero),
        "Compress" | "Unique" => selected(node),
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
        "CenterCropPad" => center_crop_pad(node),
        "OptionalHasElement" | "SequenceLength" => Some(vec![scalar()]),
        "Crop" => crop(node),
        _ => None,
    }
}

/// Ops of `ai.onnx.ml` whose shapes are plain.
fn machine_learning(node: &mut Node<'_>) -> Outputs {
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
fn microsoft(node: &mut Node<'_>) -> Outputs {
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

fn unknown() -> SymTensor {
    SymTensor::unknown("no rule")
}

fn scalar() -> SymTensor {
    SymTensor::from_shape(Vec::new())
}

/// The shape of input `index`.
fn same(node: &Node<'_>, index: usize) -> Option<SymTensor> {
    node.input(index).cloned().map(symbols::shape_only)
}

fn axis32(node: &Node<'_>, name: &str, default: i64) -> Option<i32> {
    i32::try_from(node.int_or(name, default)).ok().filter(|axis| axis.abs() < 1 << 20)
}

fn broadcast(node: &mut Node<'_>, inputs: std::ops::Range<usize>) -> Outputs {
    let inputs: Option<Vec<SymTensor>> = inputs.map(|index| node.input(index).cloned()).collect();
    broadcast_all(node, &inputs?)
}

/// The common shape of `inputs`, step by step, so that no expression becomes deep.
fn broadcast_all(node: &mut Node<'_>, inputs: &[SymTensor]) -> Outputs {
    let mut result = symbols::shape_only(inputs.first()?.clone());
    for input in &inputs[1..] {
        let (a, b) = (without_bounds(&result, input), without_bounds(input, &result));
        let wide = node.by(&BinaryOp, vec![Some(a), Some(b)])?.pop()?;
        result = symbols::tame(wide, node.symbols);
    }
    Some(vec![result])
}

/// The shape of `a`, with min(x, number) replaced by x where it meets x in `b`: were the number less than x, it would have
/// to be 1, and the result would be x all the same. So a table of 512 places, cut to a length, takes that length's name.
fn without_bounds(a: &SymTensor, b: &SymTensor) -> SymTensor {
    let (Some(dims), Some(others)) = (a.shape(), b.shape()) else { return symbols::shape_only(a.clone()) };
    let (rank, count) = (dims.len(), others.len());
    let others: Vec<SymExpr> = others.collect();
    let dims = dims.enumerate().map(|(index, size)| {
        let other = (index + count).checked_sub(rank).and_then(|place| others.get(place));
        match (&size, other) {
            (SymExpr::Min(x, y), Some(other)) => match (&**x, &**y) {
                (SymExpr::Value(bound), x) | (x, SymExpr::Value(bound)) if *bound >= 1 && x == other => x.clone(),
                _ => size,
            },
            _ => size,
        }
    });
    SymTensor::from_shape(dims.collect())
}

fn reduced(node: &mut Node<'_>, axes: Axes) -> Outputs {
    let keep_dims = node.int_or("keepdims", 1) != 0;
    let rank = node.rank(0)?;
    let axes: Option<Vec<i32>> = match axes {
        Axes::Absent => None,
        Axes::Known(axes) if axes.is_empty() => None,
        Axes::Known(axes) => Some(axes.iter().map(|&axis| i32::try_from(axis).ok()).collect::<Option<_>>()?),
        Axes::Unknown if keep_dims => return Some(vec![SymTensor::from_shape(node.symbols.gen_shape(rank))]),
        Axes::Unknown => return None,
    };
    if axes.is_none() && node.int_or("noop_with_empty_axes", 0) != 0 {
        return Some(vec![same(node, 0)?]);
    }
    let data = vec![node.input(0).cloned()];
    node.by(&ReductionOp { axes: axes.as_deref(), keep_dims }, data)
}

fn layer_normalization(node: &mut Node<'_>) -> Outputs {
    let Some(mut dims) = node.shape(0) else { return Some(vec![same(node, 0)?]) };
    let axis = resolve(node.int_or("axis", -1), dims.len())?;
    dims[axis..].fill(SymExpr::Value(1));
    let statistics = SymTensor::from_shape(dims);
    Some(vec![same(node, 0)?, statistics.clone(), statistics])
}

/// MatMul; a vector stands for a matrix of one row (left) or column (right), which the result does not have.
fn matmul(node: &mut Node<'_>, a: usize, b: usize) -> Outputs {
    let (mut left, mut right) = (node.shape(a)?, node.shape(b)?);
    let (row, column) = (left.len() == 1, right.len() == 1);
    if row {
        left.insert(0, SymExpr::Value(1));
    }
    if column {
        right.push(SymExpr::Value(1));
    }
    if left.len() < 2 || right.len() < 2 {
        return None;
    }
    let inputs = vec![Some(SymTensor::from_shape(left)), Some(SymTensor::from_shape(right))];
    let mut dims: Vec<SymExpr> = node.by(&ops::MatMul, inputs)?.pop()?.shape()?.collect();
    if column {
        dims.pop()?;
    }
    if row {
        dims.remove(dims.len().checked_sub(if column { 1 } else { 2 })?);
    }
    Some(vec![SymTensor::from_shape(dims)])
}

/// RNN, GRU and LSTM: Y [length, directions, batch, hidden], Y_h and Y_c [directions, batch, hidden]; layout 1 has the
/// batch first.
fn recurrent(node: &mut Node<'_>) -> Outputs {
    let input = node.shape(0).filter(|input| input.len() == 3)?;
    let hidden = match node.op.int("hidden_size") {
        Some(size) => layout::small(size)?,
        None => node.shape(2).filter(|weight| weight.len() == 3)?[2].clone(),
    };
    let directions = SymExpr::Value(if node.op.string("direction") == Some("bidirectional") { 2 } else { 1 });
    let batch_first = node.int_or("layout", 0) != 0;
    let (length, batch) = if batch_first { (&input[1], &input[0]) } else { (&input[0], &input[1]) };
    let (all, last) = if batch_first {
        (
            vec![batch.clone(), length.clone(), directions.clone(), hidden.clone()],
            vec![batch.clone(), directions, hidden],
        )
    } else {
        (
            vec![length.clone(), directions.clone(), batch.clone(), hidden.clone()],
            vec![directions, batch.clone(), hidden],
        )
    };
    let last = SymTensor::from_shape(last);
    Some(vec![SymTensor::from_shape(all), last.clone(), last])
}

fn constant(node: &mut Node<'_>) -> Outputs {
    if let Some(tensor) = constant_op(node.op) {
        return Some(vec![symbols::from_constant(&tensor, node.symbols)]);
    }
    if node.op.attribute("value_string").is_some() {
        return Some(vec![scalar()]);
    }
    if let Some(strings) = node.op.attribute("value_strings") {
        return Some(vec![SymTensor::from_shape(vec![layout::small(i64::try_from(strings.strings.len()).ok()?)?])]);
    }
    let sparse = node.op.attribute("sparse_value")?.sparse_tensor.as_ref()?;
    let dims: Option<Vec<_>> = sparse.dims.iter().map(|&size| layout::small(size)).collect();
    Some(vec![SymTensor::from_shape(dims?)])
}

fn space_to_depth(node: &mut Node<'_>) -> Outputs {
    let data = node.shape(0).filter(|data| data.len() == 4)?;
    let block = node.op.int("blocksize").filter(|&block| (1..1 << 15).contains(&block))?;
    let (side, square) = (layout::small(block)?, layout::small(block * block)?);
    let dims = vec![data[0].clone(), data[1].clone() * square, data[2].clone() / side.clone(), data[3].clone() / side];
    Some(vec![SymTensor::from_shape(dims)])
}

/// Range; of floats only where the bounds are whole numbers, so that no rounding is involved.
fn range(node: &mut Node<'_>) -> Outputs {
    if node.dtype(0).is_some_and(DataType::is_float) {
        let bound = |index: usize| {
            let number = node.constant(index)?.to_scalar_f64()?;
            (number.fract() == 0.0 && number.abs() < 16_777_216.0).then_some(number as i64)
        };
        let length = match (bound(0), bound(1), bound(2)) {
            (Some(start), Some(limit), Some(delta)) if delta != 0 => {
                let (span, step) = if delta > 0 { (limit - start, delta) } else { (start - limit, -delta) };
                layout::small(if span <= 0 { 0 } else { (span - 1) / step + 1 })?
            }
            _ => node.symbols.gen_positive(),
        };
        return Some(vec![SymTensor::from_shape(vec![length])]);
    }
    node.as_is(&ops::Range)
}

/// Compress and Unique, which keep an unknown number of slices.
fn selected(node: &mut Node<'_>) -> Outputs {
    let count = node.symbols.gen_positive();
    let list = SymTensor::from_shape(vec![count.clone()]);
    let data = match node.op.int("axis") {
        None => list.clone(),
        Some(axis) => {
            let mut dims = node.shape(0)?;
            let axis = resolve(axis, dims.len())?;
            dims[axis] = count;
            SymTensor::from_shape(dims)
        }
    };
    let inverse = SymTensor::from_shape(vec![node.symbols.gen_positive()]);
    Some(vec![data, list.clone(), inverse, list])
}

/// Crop, an op of the first exporters: `border` left, top, right, bottom; or `scale` height and width from there.
fn crop(node: &mut Node<'_>) -> Outputs {
    let data = node.shape(0).filter(|data| data.len() == 4)?;
    let [left, top, right, bottom] = *node.op.ints("border")? else { return None };
    let (height, width) = match node.op.ints("scale") {
        Some(&[height, width]) => (layout::small(height)?, layout::small(width)?),
        _ => {
            let by =
                |size: &SymExpr, begin: i64, end: i64| Some(size.clone() - layout::small(begin.checked_add(end)?)?);
            (by(&data[2], top, bottom)?, by(&data[3], left, right)?)
        }
    };
    Some(vec![SymTensor::from_shape(vec![data[0].clone(), data[1].clone(), height, width])])
}

/// CenterCropPad: the sizes of input 1 along the axes, or along all.
fn center_crop_pad(node: &mut Node<'_>) -> Outputs {
    let mut dims = node.shape(0)?;
    let axes: Vec<usize> = match node.op.ints("axes") {
        Some(axes) => axes.iter().map(|&axis| resolve(axis, dims.len())).collect::<Option<_>>()?,
        None => (0..dims.len()).collect(),
    };
    let sizes = match node.input(1)?.as_vector() {
        Some(sizes) => sizes.to_vec(),
        None => node.symbols.gen_shape(axes.len()),
    };
    if sizes.len() != axes.len() {
        return None;
    }
    for (axis, size) in axes.into_iter().zip(sizes) {
        dims[axis] = size;
    }
    Some(vec![SymTensor::from_shape(dims)])
}
