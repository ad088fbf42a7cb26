//! Folding `y · factor + shift`, one number per output channel, into the op that makes `y`: Conv, ConvTranspose, Gemm or
//! MatMul. Batch normalization and arithmetic with constants are both of this form.
//!
//! All arithmetic is in f64 and rounded once to the element type of the weights. **Never** folds into a weight that may be
//! overridden, into an op whose result someone else sees, or to numbers that are not finite.
use ndarray::{ArrayD, Axis};
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, Tensor, TensorType, ValueId, ValueRef,
    ops::{Conv, ConvTranspose, Gemm, MatMul},
};

use crate::{Miss, net_bytes};

/// An op that is linear in its weights, with one weight slice and one bias per output channel.
pub(crate) enum Linear {
    Conv(Conv),
    ConvTranspose(ConvTranspose),
    Gemm(Gemm),
    MatMul(MatMul),
}

/// The map of each output channel; a list of one number is the same for all channels.
pub(crate) struct Affine {
    /// `None`: 1
    pub factor: Option<Vec<f64>>,
    /// `None`: 0
    pub shift: Option<Vec<f64>>,
    /// A constant of shape [channels] that is `shift`, if there is one
    pub shift_value: Option<ValueId>,
    /// What a new bias is named for
    pub shift_name: String,
}

impl Linear {
    /// The op as one of the four; `None` when it is none, or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Linear> {
        match graph.op(op).op_type() {
            "Conv" => Conv::of(graph, op).map(Linear::Conv),
            "ConvTranspose" => ConvTranspose::of(graph, op).map(Linear::ConvTranspose),
            // Before opset 7 the bias of a Gemm is not broadcast.
            "Gemm" if graph.opset() >= 7 => Gemm::of(graph, op).map(Linear::Gemm),
            "MatMul" => MatMul::of(graph, op).map(Linear::MatMul),
            _ => None,
        }
    }

    /// The weights.
    pub fn weight(&self) -> ValueId {
        match self {
            Linear::Conv(conv) => conv.w,
            Linear::ConvTranspose(conv) => conv.w,
            Linear::Gemm(gemm) => gemm.b,
            Linear::MatMul(matmul) => matmul.b,
        }
    }

    fn bias(&self) -> Option<ValueId> {
        match self {
            Linear::Conv(conv) => conv.b,
            Linear::ConvTranspose(conv) => conv.b,
            Linear::Gemm(gemm) => gemm.c,
            Linear::MatMul(_) => None,
        }
    }

    /// Rank of the output and the axis of its channels; `None` when not known.
    pub fn output_axis(&self, graph: &Graph) -> Option<(usize, usize)> {
        match self {
            Linear::Conv(conv) => Some((conv.strides.len() + 2, 1)),
            Linear::ConvTranspose(conv) => Some((conv.strides.len() + 2, 1)),
            Linear::Gemm(_) => Some((2, 1)),
            Linear::MatMul(matmul) => {
                let rank = |value| graph.ty(value).and_then(TensorType::rank);
                let (left, right) = (rank(matmul.a)?, rank(matmul.b)?);
                (left >= 2 && right == 2).then_some((left, left - 1))
            }
        }
    }

    /// Number of output channels, from the type of the weights.
    pub fn channels(&self, graph: &Graph) -> Option<usize> {
        let dims = graph.ty(self.weight())?.dims()?;
        match self {
            Linear::Conv(_) => dims.first().copied(),
            Linear::ConvTranspose(conv) => dims.get(1)?.checked_mul(usize::try_from(conv.group).ok()?),
            Linear::Gemm(gemm) => dims.get(usize::from(!gemm.trans_b)).copied(),
            Linear::MatMul(_) => dims.get(1).filter(|_| dims.len() == 2).copied(),
        }
    }

    /// Multiplies the slice of each output channel in `weight` by its factor.
    fn scale(&self, weight: &mut ArrayD<f64>, factor: &[f64]) {
        match self {
            Linear::Conv(_) => scale_axis(weight, 0, factor),
            Linear::Gemm(gemm) => scale_axis(weight, usize::from(!gemm.trans_b), factor),
            Linear::MatMul(_) => scale_axis(weight, 1, factor),
            Linear::ConvTranspose(conv) => {
                // Rows of group g make the output channels g·columns .. (g+1)·columns.
                let columns = weight.shape()[1];
                let rows = (weight.shape()[0] / conv.group.max(1) as usize).max(1);
                for (row, mut slice) in weight.axis_iter_mut(Axis(0)).enumerate() {
                    let group = row / rows;
                    for (column, mut kernel) in slice.axis_iter_mut(Axis(0)).enumerate() {
                        kernel *= factor[group * columns + column];
                    }
                }
            }
        }
    }
}

fn scale_axis(weight: &mut ArrayD<f64>, axis: usize, factor: &[f64]) {
    for (mut slice, factor) in weight.axis_iter_mut(Axis(axis)).zip(factor) {
        slice *= *factor;
    }
}

/// The edits that let the producer of `from` make `to` at once, which `anchor` makes of `from` by `affine`.
pub(crate) fn into_producer(
    graph: &Graph,
    anchor: OpId,
    (from, to): (ValueId, ValueId),
    affine: &Affine,
    growth: usize,
) -> Result<Patch, Miss> {
    let producer = graph.producer(from).ok_or(Miss::NotThisPattern)?;
    let linear = Linear::of(graph, producer).ok_or(Miss::NotThisPattern)?;
    if graph.only_use(from).map(|(op, _)| op) != Some(anchor) {
        return Err(Miss::OtherUses(from));
    }
    let weight = linear.weight();
    let channels = linear.channels(graph).ok_or(Miss::UnknownType(weight))?;
    let dtype = graph.ty(weight).map(|ty| ty.dtype).filter(|dtype| dtype.is_float()).ok_or(Miss::NotThisPattern)?;
    let spread = |numbers: &Option<Vec<f64>>, neutral: f64| match numbers.as_deref() {
        None => Ok(vec![neutral; channels]),
        Some([number]) => Ok(vec![*number; channels]),
        Some(numbers) if numbers.len() == channels => Ok(numbers.to_vec()),
        Some(_) => Err(Miss::Form("one number per channel")),
    };
    let (factor, shift) = (spread(&affine.factor, 1.0)?, spread(&affine.shift, 0.0)?);

    let mut patch = Patch::new(anchor);
    let mut new_weight = ValueRef::from(weight);
    if affine.factor.is_some() {
        let mut numbers = graph.constant_f64(weight).ok_or(Miss::NotConstant(weight))?;
        linear.scale(&mut numbers, &factor);
        let tensor = rounded(dtype, &numbers).ok_or(Miss::NotFinite(weight))?;
        new_weight = patch.constant(&folded_name(graph.name_of(weight)), tensor);
    }
    let bias = linear.bias();
    let new_bias = match (bias, affine.shift_value, &affine.shift) {
        (None, _, None) => None,
        (None, Some(value), Some(_)) if affine.factor.is_none() => Some(ValueRef::from(value)),
        _ => {
            let old = match bias {
                None => vec![0.0; channels],
                Some(bias) => old_bias(graph, &linear, bias, channels)?,
            };
            let numbers: Vec<f64> = (0..channels).map(|m| old[m] * factor[m] + shift[m]).collect();
            let tensor = rounded(dtype, &ndarray::arr1(&numbers).into_dyn()).ok_or(Miss::NotFinite(weight))?;
            Some(patch.constant(&folded_name(&affine.shift_name), tensor))
        }
    };
    let (node, first) = node_for(graph, linear, new_bias.is_some())?;
    let ty = graph.ty(to).or(graph.ty(from)).cloned();
    let mut inputs = vec![Some(ValueRef::from(first)), Some(new_weight)];
    inputs.extend(new_bias.map(Some));
    let y = patch.op(node, &inputs, graph.name_of(to), ty);
    patch.replace(to, y);
    net_bytes::check(graph, &patch, &[producer, anchor], 1, growth)?;
    Ok(patch)
}

/// The node that takes the place of `linear`, and its first input.
fn node_for(graph: &Graph, linear: Linear, has_bias: bool) -> Result<(NewOp, ValueId), Miss> {
    Ok(match linear {
        Linear::Conv(conv) => (conv.to_op(), conv.x),
        Linear::ConvTranspose(conv) => (conv.to_op(), conv.x),
        Linear::Gemm(gemm) => (Gemm { beta: 1.0, ..gemm.clone() }.to_op(), gemm.a),
        Linear::MatMul(matmul) if !has_bias => (matmul.to_op(), matmul.a),
        Linear::MatMul(matmul) => {
            let ty = graph.ty(matmul.a).ok_or(Miss::UnknownType(matmul.a))?;
            // A Gemm is of matrices, and engines have it for few element types.
            let of_matrices = ty.rank().ok_or(Miss::UnknownType(matmul.a))? == 2;
            let known_type = matches!(ty.dtype, DataType::Float | DataType::Float16 | DataType::Double);
            if !of_matrices || !known_type || graph.opset() < 7 {
                return Err(Miss::NotThisPattern);
            }
            (Gemm::plain(matmul.name(), false), matmul.a)
        }
    })
}

/// The bias per channel, with the factor that a Gemm gives it.
fn old_bias(graph: &Graph, linear: &Linear, bias: ValueId, channels: usize) -> Result<Vec<f64>, Miss> {
    let tensor = graph.constant(bias).ok_or(Miss::NotConstant(bias))?;
    let numbers = tensor.to_f64_vec().ok_or(Miss::NotThisPattern)?;
    let beta = if let Linear::Gemm(gemm) = linear { f64::from(gemm.beta) } else { 1.0 };
    let per_channel = match tensor.dims() {
        [] | [1] | [1, 1] => vec![numbers[0]; channels],
        [length] | [1, length] if *length == channels => numbers,
        _ => return Err(Miss::Form("a bias that is not one number per channel")),
    };
    Ok(per_channel.into_iter().map(|number| number * beta).collect())
}

/// The numbers rounded once; `None` when one is not finite, or all are below what float16 holds in full.
fn rounded(dtype: DataType, numbers: &ArrayD<f64>) -> Option<Tensor> {
    let tensor = Tensor::from_f64(dtype, numbers)?;
    let finite = tensor.to_f64_vec()?.iter().all(|number| number.is_finite());
    let largest = numbers.iter().fold(0.0, |largest: f64, number| largest.max(number.abs()));
    let least_normal = if dtype == DataType::Float16 { 2f64.powi(-14) } else { 0.0 };
    (finite && (largest == 0.0 || largest >= least_normal)).then_some(tensor)
}

/// `name_folded`, once.
fn folded_name(name: &str) -> String {
    if name.ends_with("_folded") { name.to_owned() } else { format!("{name}_folded") }
}
