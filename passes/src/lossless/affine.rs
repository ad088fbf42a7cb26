//! Folding `y · factor + shift`, one number per output channel, into the op that makes `y`: Conv, ConvTranspose, Gemm or
//! MatMul. Batch normalization and arithmetic with constants are both of this form.
//!
//! All arithmetic is in f64 and rounded once to the element type of the weights. **Never** folds into a weight that may be
//! overridden, into an op whose result someone else sees, or to numbers that are not finite.
use ndarray::ArrayD;
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, Tensor, ValueId, ValueRef,
    ops::{Gemm, LayerKind, WeightedLayer},
};

use crate::{Miss, net_bytes};

/// The map of each output channel; a list of one number is the same for all channels.
pub(crate) struct Affine {
    /// `None`: 1
    pub factor: Option<Vec<f64>>,
    /// `None`: 0
    pub shift: Option<Vec<f64>>,
    /// A constant of shape `[channels]` that is `shift`, if there is one
    pub shift_value: Option<ValueId>,
    /// What a new bias is named for
    pub shift_name: String,
}

/// The op as a layer that the map can be folded into: one of floats, and no Gemm before opset 7, whose bias is not broadcast.
pub(crate) fn float_layer(graph: &Graph, op: OpId) -> Option<WeightedLayer> {
    WeightedLayer::of_floats(graph, op).filter(|layer| layer.kind != LayerKind::Gemm || graph.opset() >= 7)
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
    let layer = float_layer(graph, producer).ok_or(Miss::NotThisPattern)?;
    if graph.only_use(from).map(|(op, _)| op) != Some(anchor) {
        return Err(Miss::OtherUses(from));
    }
    let weight = layer.weight;
    let channels = layer.shape(graph).ok_or(Miss::UnknownType(weight))?.outputs;
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
        layer.layout.scale_outputs(&mut numbers, &factor).ok_or(Miss::UnknownType(weight))?;
        let tensor = rounded(dtype, &numbers).ok_or(Miss::NotFinite(weight))?;
        new_weight = patch.constant(&folded_name(graph.name_of(weight)), tensor);
    }
    let new_bias = match (layer.bias, affine.shift_value, &affine.shift) {
        (None, _, None) => None,
        (None, Some(value), Some(_)) if affine.factor.is_none() => Some(ValueRef::from(value)),
        _ => {
            let old = match layer.bias {
                None => vec![0.0; channels],
                Some(bias) => old_bias(graph, &layer, bias, channels)?,
            };
            let numbers: Vec<f64> = (0..channels).map(|m| old[m] * factor[m] + shift[m]).collect();
            let tensor = rounded(dtype, &ndarray::arr1(&numbers).into_dyn()).ok_or(Miss::NotFinite(weight))?;
            Some(patch.constant(&folded_name(&affine.shift_name), tensor))
        }
    };
    let node = node_for(graph, &layer, new_bias.is_some())?;
    let ty = graph.ty(to).or(graph.ty(from)).cloned();
    let mut inputs = vec![Some(ValueRef::from(layer.x)), Some(new_weight)];
    inputs.extend(new_bias.map(Some));
    let y = patch.op(node, &inputs, graph.name_of(to), ty);
    patch.replace(to, y);
    net_bytes::check(graph, &patch, &[producer, anchor], 1, growth)?;
    Ok(patch)
}

/// The node that takes the place of `layer`.
fn node_for(graph: &Graph, layer: &WeightedLayer, has_bias: bool) -> Result<NewOp, Miss> {
    let node = graph.op(layer.op);
    if layer.kind == LayerKind::MatMul && has_bias {
        let ty = graph.ty(layer.x).ok_or(Miss::UnknownType(layer.x))?;
        // A Gemm is of matrices, and engines have it for few element types.
        let of_matrices = ty.rank().ok_or(Miss::UnknownType(layer.x))? == 2;
        let known_type = matches!(ty.dtype, DataType::Float | DataType::Float16 | DataType::Double);
        if !of_matrices || !known_type || graph.opset() < 7 {
            return Err(Miss::NotThisPattern);
        }
        return Ok(Gemm::plain(node.name(), false));
    }
    match Gemm::of(graph, layer.op) {
        Some(gemm) => Ok(Gemm { beta: 1.0, ..gemm }.to_op()),
        None => Ok(NewOp { node: node.proto().clone() }),
    }
}

/// The bias per channel, with the factor that a Gemm gives it.
fn old_bias(graph: &Graph, layer: &WeightedLayer, bias: ValueId, channels: usize) -> Result<Vec<f64>, Miss> {
    let tensor = graph.constant(bias).ok_or(Miss::NotConstant(bias))?;
    let numbers = tensor.to_f64_vec().ok_or(Miss::NotThisPattern)?;
    let beta = f64::from(layer.beta);
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
