//! Folding `y · factor + shift` into what makes `y`: the weights of a Conv, ConvTranspose, Gemm or MatMul, or a constant that is
//! multiplied or added. Batch normalization and arithmetic with constants are both of this form.
//!
//! On its way up the map passes ops that it commutes with ([`Affine::through`](crate::lossless::affine::Affine)); they are made again behind
//! what it was folded into. All arithmetic is in f64 and rounded once to the element type of the weights. **Never** folds into a
//! weight that may be overridden, into an op whose result someone else sees, or to numbers that are not finite.
use ndarray::ArrayD;
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, Tensor, TensorType, ValueId, ValueRef,
    ops::{Binary, BinaryKind, Gemm, LayerKind, WeightedLayer},
};

use crate::{
    Miss,
    lossless::affine::{Affine, single},
    net_bytes,
    target::onnx_runtime::ATTENTION_NOT_RECOGNIZED,
};

/// Ops that a map passes at most on its way to a layer.
const DEPTH: usize = 12;

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
    let mut folding = Folding { graph, patch: Patch::new(anchor), removed: vec![anchor], added: 0 };
    let result = Made { name: graph.name_of(to).to_owned(), ty: graph.ty(to).or(graph.ty(from)).cloned() };
    let y = folding.fold(from, anchor, affine, result, 0)?;
    folding.patch.replace(to, y);
    net_bytes::check(graph, &folding.patch, &folding.removed, folding.added, growth)?;
    Ok(folding.patch)
}

/// Name and type of a value to be.
struct Made {
    name: String,
    ty: Option<TensorType>,
}

impl Made {
    /// Those of `value`.
    fn like(graph: &Graph, value: ValueId) -> Made {
        Made { name: graph.name_of(value).to_owned(), ty: graph.ty(value).cloned() }
    }
}

struct Folding<'g> {
    graph: &'g Graph,
    patch: Patch,
    removed: Vec<OpId>,
    added: usize,
}

impl Folding<'_> {
    /// The value `value · factor + shift`, made without an op for it; `reader` alone reads `value`.
    fn fold(
        &mut self,
        value: ValueId,
        reader: OpId,
        affine: &Affine,
        result: Made,
        depth: usize,
    ) -> Result<ValueRef, Miss> {
        let graph = self.graph;
        let producer = graph.producer(value).ok_or(Miss::NotThisPattern)?;
        let is_only = graph.only_use(value).map(|(op, _)| op) == Some(reader);
        if let Some(layer) = float_layer(graph, producer) {
            let may_be_attention = layer.kind == LayerKind::MatMul && graph.opset() < ATTENTION_NOT_RECOGNIZED;
            if depth > 0 && may_be_attention {
                return Err(Miss::NotThisPattern);
            }
            if is_only
                && layer.kind == LayerKind::MatMul
                && graph.default_of(layer.weight).is_none()
                && affine.shift.is_none()
            {
                return self.product(&layer, affine, result, depth);
            }
            if depth > 0 && layer.constant(graph).is_none() {
                return Err(Miss::NotThisPattern);
            }
            return if is_only { self.layer(&layer, affine, result) } else { Err(Miss::OtherUses(value)) };
        }
        if !is_only || depth == DEPTH {
            return Err(Miss::NotThisPattern);
        }
        self.removed.push(producer);
        if let Some(binary) = Binary::of(graph, producer) {
            return self.arithmetic(producer, &binary, affine, result, depth);
        }
        let node = graph.op(producer);
        let mut inputs: Vec<Option<ValueRef>> = node.inputs().iter().map(|input| input.map(ValueRef::from)).collect();
        for (place, affine) in affine.through(graph, producer).ok_or(Miss::NotThisPattern)? {
            let input = node.input(place).ok_or(Miss::NotThisPattern)?;
            inputs[place] = Some(self.fold(input, producer, &affine, Made::like(graph, input), depth + 1)?);
        }
        self.added += 1;
        Ok(self.patch.copy_of(node, &inputs, Vec::new(), &[Some((&result.name, result.ty))])[0])
    }

    /// Into the constant of the arithmetic `binary`: a product takes the factor, a sum the shift, and its other side the factor.
    fn arithmetic(
        &mut self,
        op: OpId,
        binary: &Binary,
        affine: &Affine,
        result: Made,
        depth: usize,
    ) -> Result<ValueRef, Miss> {
        let graph = self.graph;
        let side = binary.with_constant(graph).ok_or(Miss::NotThisPattern)?;
        let tensor = graph.constant(side.constant).ok_or(Miss::NotThisPattern)?;
        let wide = matches!(tensor.dtype(), DataType::Float | DataType::Double);
        let numbers = tensor.to_f64().filter(|_| wide).ok_or(Miss::NotThisPattern)?;
        let is_sum = matches!(binary.kind, BinaryKind::Add | BinaryKind::Sub);
        let is_product = matches!(binary.kind, BinaryKind::Mul | BinaryKind::Div) && affine.shift.is_none();
        if !is_sum && !is_product {
            return Err(Miss::NotThisPattern);
        }
        let inverted = |numbers: &ArrayD<f64>| match (binary.kind, side.is_left) {
            (BinaryKind::Div, false) => numbers.mapv(f64::recip),
            (BinaryKind::Sub, false) => -numbers,
            _ => numbers.clone(),
        };
        let mut new = inverted(&numbers);
        if let Some(factor) = &affine.factor {
            new = broadcast(&new, factor, |a, b| a * b).ok_or(Miss::NotThisPattern)?;
        }
        if let Some(shift) = &affine.shift {
            new = broadcast(&new, shift, |a, b| a + b).ok_or(Miss::NotThisPattern)?;
        }
        let largest = |numbers: &ArrayD<f64>| numbers.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let given = [&affine.factor, &affine.shift].into_iter().flatten();
        let longest = given.clone().map(ArrayD::len).max().unwrap_or(0).max(numbers.len());
        // Sums of large numbers round on purpose: x + 2^23 - 2^23.
        let tame = 2f64.powi(if is_sum { 16 } else { 32 });
        let is_tame = |numbers: &ArrayD<f64>| largest(numbers) <= tame;
        let not_tiny = |numbers: &ArrayD<f64>| is_sum || numbers.iter().all(|x| x.abs() >= 2f64.powi(-32));
        let holds = |numbers: &ArrayD<f64>| is_tame(numbers) && not_tiny(numbers);
        if new.len() > longest || !holds(&new) || !holds(&numbers) || !given.clone().all(is_tame) {
            return Err(Miss::NotThisPattern);
        }
        let rank = graph.ty(side.x).and_then(TensorType::rank);
        if new.ndim() > 0 && rank.is_none_or(|rank| rank < new.ndim()) {
            return Err(Miss::NotThisPattern);
        }
        let tensor = rounded(tensor.dtype(), &new).ok_or(Miss::NotFinite(side.constant))?;
        let constant = self.patch.constant(&folded_name(graph.name_of(side.constant)), tensor);
        let mut x = ValueRef::from(side.x);
        if is_sum && affine.factor.is_some() {
            let factor = Affine { shift: None, shift_value: None, ..affine.clone() };
            x = self.fold(side.x, op, &factor, Made::like(graph, side.x), depth + 1)?;
        }
        let kind = match (binary.kind, side.is_left) {
            (BinaryKind::Div, false) => "Mul",
            (BinaryKind::Sub, false) => "Add",
            _ => graph.op(op).op_type(),
        };
        let inputs = if side.is_left { [Some(constant), Some(x)] } else { [Some(x), Some(constant)] };
        self.added += 1;
        Ok(self.patch.op(NewOp::new(kind).named(graph.op(op).name()), &inputs, &result.name, result.ty))
    }

    /// Into one side of a product of two activations: one number, and no shift.
    fn product(
        &mut self,
        layer: &WeightedLayer,
        affine: &Affine,
        result: Made,
        depth: usize,
    ) -> Result<ValueRef, Miss> {
        let graph = self.graph;
        if affine.shift.is_some() || affine.factor.as_ref().is_none_or(|factor| factor.len() != 1) || depth == DEPTH {
            return Err(Miss::NotThisPattern);
        }
        let affine = affine.mapped(single).ok_or(Miss::NotThisPattern)?;
        let node = graph.op(layer.op);
        let mut inputs: Vec<Option<ValueRef>> = node.inputs().iter().map(|input| input.map(ValueRef::from)).collect();
        for place in 0..2 {
            let input = node.input(place).ok_or(Miss::NotThisPattern)?;
            let before = (self.patch.clone(), self.removed.clone(), self.added);
            match self.fold(input, layer.op, &affine, Made::like(graph, input), depth + 1) {
                Ok(scaled) => {
                    inputs[place] = Some(scaled);
                    self.removed.push(layer.op);
                    self.added += 1;
                    return Ok(self.patch.copy_of(node, &inputs, Vec::new(), &[Some((&result.name, result.ty))])[0]);
                }
                Err(_) => (self.patch, self.removed, self.added) = before,
            }
        }
        Err(Miss::NotThisPattern)
    }

    /// Into the weights and the bias of `layer`.
    fn layer(&mut self, layer: &WeightedLayer, affine: &Affine, result: Made) -> Result<ValueRef, Miss> {
        let graph = self.graph;
        let weight = layer.weight;
        let channels = layer.shape(graph).ok_or(Miss::UnknownType(weight))?.outputs;
        let dtype = graph.ty(weight).map(|ty| ty.dtype).filter(|dtype| dtype.is_float()).ok_or(Miss::NotThisPattern)?;
        let spread = |numbers: &Option<ArrayD<f64>>, neutral: f64| match numbers {
            None => Ok(vec![neutral; channels]),
            Some(numbers) => per_channel(graph, layer, numbers, channels),
        };
        let (factor, shift) = (spread(&affine.factor, 1.0)?, spread(&affine.shift, 0.0)?);
        let mut new_weight = ValueRef::from(weight);
        if affine.factor.is_some() {
            let mut numbers = graph.constant_f64(weight).ok_or(Miss::NotConstant(weight))?;
            layer.layout.scale_outputs(&mut numbers, &factor).ok_or(Miss::UnknownType(weight))?;
            let tensor = rounded(dtype, &numbers).ok_or(Miss::NotFinite(weight))?;
            new_weight = self.patch.constant(&folded_name(graph.name_of(weight)), tensor);
        }
        let new_bias = match (layer.bias, affine.shift_value, &affine.shift) {
            (None, _, None) => None,
            (None, Some(value), Some(_)) if affine.factor.is_none() => Some(ValueRef::from(value)),
            _ => {
                let old = match layer.bias {
                    None => vec![0.0; channels],
                    Some(bias) => old_bias(graph, layer, bias, channels)?,
                };
                let numbers: Vec<f64> = (0..channels).map(|m| old[m] * factor[m] + shift[m]).collect();
                let tensor = rounded(dtype, &ndarray::arr1(&numbers).into_dyn()).ok_or(Miss::NotFinite(weight))?;
                Some(self.patch.constant(&folded_name(&affine.shift_name), tensor))
            }
        };
        let node = node_for(graph, layer, new_bias.is_some())?;
        let mut inputs = vec![Some(ValueRef::from(layer.x)), Some(new_weight)];
        inputs.extend(new_bias.map(Some));
        self.removed.push(layer.op);
        self.added += 1;
        Ok(self.patch.op(node, &inputs, &result.name, result.ty))
    }
}

/// The numbers of `numbers`, one per output channel of `layer`.
fn per_channel(graph: &Graph, layer: &WeightedLayer, numbers: &ArrayD<f64>, channels: usize) -> Result<Vec<f64>, Miss> {
    if numbers.ndim() == 0 {
        return Ok(vec![numbers.iter().copied().sum(); channels]);
    }
    let (rank, channel_axis) = layer.output_axis(graph).ok_or(Miss::UnknownType(layer.y))?;
    let outer = rank.checked_sub(numbers.ndim()).ok_or(Miss::Form("a constant of more dimensions than the result"))?;
    let mut dims = numbers.shape().iter().enumerate();
    if !dims.all(|(axis, &dim)| dim == 1 || (outer + axis == channel_axis && dim == channels)) {
        return Err(Miss::Form("a constant that varies along more than the channels"));
    }
    let numbers: Vec<f64> = numbers.iter().copied().collect();
    Ok(if let [number] = numbers[..] { vec![number; channels] } else { numbers })
}

/// `f` of both, broadcast; `None` when they do not fit.
fn broadcast(a: &ArrayD<f64>, b: &ArrayD<f64>, f: impl Fn(f64, f64) -> f64) -> Option<ArrayD<f64>> {
    let rank = a.ndim().max(b.ndim());
    let dim =
        |array: &ArrayD<f64>, axis: usize| (axis + array.ndim()).checked_sub(rank).map_or(1, |at| array.shape()[at]);
    let dims: Vec<usize> = (0..rank).map(|axis| dim(a, axis).max(dim(b, axis))).collect();
    let (a, b) = (a.broadcast(dims.clone())?, b.broadcast(dims)?);
    Some(ndarray::Zip::from(a).and(b).map_collect(|&a, &b| f(a, b)))
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

/// `tensor` times -1, of its type; `None` when it holds no numbers.
pub(crate) fn negated(tensor: &Tensor) -> Option<Tensor> {
    Tensor::from_f64(tensor.dtype(), &-tensor.to_f64()?)
}

/// `name_folded`, once.
fn folded_name(name: &str) -> String {
    if name.ends_with("_folded") { name.to_owned() } else { format!("{name}_folded") }
}
