//! A reference evaluator for the tests of passes: the definitions of ONNX as naive loops.
//!
//! All numbers are f64, rounded once to the type of the result (integers wrap): slow, and nearer to the real function
//! than any engine. Knows the ops that the tests use; every other op is refused by name.
#![allow(clippy::needless_range_loop, reason = "loops over axes read several lists at once")]
use std::collections::HashMap;

use ndarray::{ArrayD, ArrayViewD, Axis, Dimension, IxDyn, Slice, Zip};
use onnx_shrink_ir::{
    DataType, Evaluate, EvaluateError, Graph, Observe, OpId, Prepared, Tensor, ValueId,
    ops::{
        AutoPad, AveragePool, BatchNormalization, Cast, Clip, Concat, Constant, ConstantOfShape, Conv, ConvTranspose,
        DequantizeLinear, Flatten, Gather, Gemm, HardSigmoid, InstanceNormalization, LayerNormalization, LeakyRelu,
        MaxPool, QuantizeLinear, Reduce, Reshape, Softmax, Split, SplitLengths, Squeeze, Transpose, Unsqueeze,
        axis_from_front,
    },
    ops_between,
};

type Array = ArrayD<f64>;
type Computed<T> = Result<T, String>;

/// The evaluator.
#[derive(Clone, Copy, Debug)]
pub struct Reference;

struct Ready<'g>(&'g Graph);

impl Evaluate for Reference {
    fn op(&self, graph: &Graph, op: OpId, inputs: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, EvaluateError> {
        compute(graph, op, inputs).map(|outputs| outputs.into_iter().map(Some).collect()).map_err(|reason| {
            let (label, op_type) = (graph.label_of(op).to_owned(), graph.op(op).op_type().to_owned());
            EvaluateError::Failed { op: label, op_type, reason }
        })
    }

    fn prepare<'g>(&'g self, graph: &'g Graph) -> Result<Box<dyn Prepared + 'g>, EvaluateError> {
        Ok(Box::new(Ready(graph)))
    }
}

impl Prepared for Ready<'_> {
    fn run(&self, inputs: &[Option<Tensor>], observe: Observe<'_>) -> Result<Vec<Tensor>, EvaluateError> {
        let mut values = HashMap::new();
        for (&input, tensor) in self.0.inputs().iter().zip(inputs) {
            if let Some(tensor) = tensor {
                values.insert(input, tensor.clone());
            }
        }
        run(self.0, values, observe)
    }

    fn run_part(&self, given: &[(ValueId, Tensor)], wanted: &[ValueId]) -> Result<Vec<Tensor>, EvaluateError> {
        let graph = self.0;
        let mut values: HashMap<ValueId, Tensor> = given.iter().cloned().collect();
        for value in graph.values() {
            if let Some(constant) = graph.constant(value) {
                values.entry(value).or_insert_with(|| constant.clone());
            }
        }
        let known: Vec<ValueId> = given.iter().map(|(value, _)| *value).collect();
        for op in ops_between(graph, &known, wanted) {
            let node = graph.op(op);
            let inputs: Vec<_> = node.inputs().iter().map(|value| value.map(|value| values[&value].clone())).collect();
            for (value, tensor) in node.outputs().iter().zip(Reference.op(graph, op, &inputs)?) {
                if let (Some(value), Some(tensor)) = (value, tensor) {
                    values.insert(*value, tensor);
                }
            }
        }
        Ok(wanted.iter().map(|value| values[value].clone()).collect())
    }
}

/// The outputs of `graph`; `values` holds its inputs and what it captures.
fn run(
    graph: &Graph,
    mut values: HashMap<ValueId, Tensor>,
    observe: Observe<'_>,
) -> Result<Vec<Tensor>, EvaluateError> {
    for value in graph.values() {
        if let Some(default) = graph.default_of(value) {
            values.entry(value).or_insert_with(|| default.clone());
        }
    }
    for &input in graph.inputs() {
        observe(input, &values[&input]);
    }
    for op in graph.ops() {
        let node = graph.op(op);
        let outputs = if node.is("If") {
            let condition = node.input(0).and_then(|value| values.get(&value)).and_then(Tensor::to_scalar_f64);
            let wanted = if condition == Some(0.0) { "else_branch" } else { "then_branch" };
            let place = node.regions().iter().position(|region| node.region_name(region) == wanted).unwrap_or(0);
            let captures = graph.captures(op).into_iter().filter(|(region, ..)| *region == place);
            let captured = captures.map(|(_, outer, inner)| (inner, values[&outer].clone())).collect();
            run(&node.regions()[place].graph, captured, &mut |_, _| {})?.into_iter().map(Some).collect()
        } else {
            let inputs: Vec<_> = node.inputs().iter().map(|value| value.map(|value| values[&value].clone())).collect();
            Reference.op(graph, op, &inputs)?
        };
        for (value, tensor) in node.outputs().iter().zip(outputs) {
            if let (Some(value), Some(tensor)) = (value, tensor) {
                observe(*value, &tensor);
                values.insert(*value, tensor);
            }
        }
    }
    Ok(graph.outputs().iter().map(|output| values[output].clone()).collect())
}

fn rounded(dtype: DataType, array: &Array) -> Computed<Tensor> {
    let wrapped = |bits: u32, signed: bool| {
        let modulus = 2f64.powi(bits as i32);
        array.mapv(|x| {
            let x = x.trunc().rem_euclid(modulus);
            if signed && x >= modulus / 2.0 { x - modulus } else { x }
        })
    };
    let tensor = match dtype {
        DataType::Int8 | DataType::Int16 | DataType::Int32 => {
            Tensor::from_f64(dtype, &wrapped(dtype.bits() as u32, true))
        }
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => {
            Tensor::from_f64(dtype, &wrapped(dtype.bits() as u32, false))
        }
        _ => Tensor::from_f64(dtype, array),
    };
    tensor.ok_or_else(|| format!("no numbers of type {dtype}"))
}

fn numbers(tensor: &Tensor) -> Computed<Array> {
    tensor.to_f64().ok_or_else(|| format!("{} holds no numbers", tensor.dtype()))
}

fn broadcast_dims(a: &[usize], b: &[usize]) -> Computed<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(format!("{a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

fn zip(a: &Array, b: &Array, f: impl Fn(f64, f64) -> f64) -> Computed<Array> {
    let dims = broadcast_dims(a.shape(), b.shape())?;
    let (a, b) = (spread(a, &dims)?, spread(b, &dims)?);
    Ok(Zip::from(&a).and(&b).map_collect(|&a, &b| f(a, b)))
}

fn spread<'a>(a: &'a Array, dims: &[usize]) -> Computed<ArrayViewD<'a, f64>> {
    a.broadcast(IxDyn(dims)).ok_or_else(|| format!("{:?} does not broadcast to {dims:?}", a.shape()))
}

fn reshaped(array: &Array, dims: &[usize]) -> Computed<Array> {
    array.as_standard_layout().into_owned().into_shape_with_order(IxDyn(dims)).map_err(|error| error.to_string())
}

/// Inputs of one op, with complaints.
struct Inputs<'a>(&'a [Option<Tensor>]);

impl Inputs<'_> {
    fn has(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Option::is_some)
    }
    fn tensor(&self, index: usize) -> Computed<&Tensor> {
        self.0.get(index).and_then(Option::as_ref).ok_or_else(|| format!("input {index} is missing"))
    }
    fn array(&self, index: usize) -> Computed<Array> {
        numbers(self.tensor(index)?)
    }
    fn ints(&self, index: usize) -> Computed<Vec<i64>> {
        self.tensor(index)?.to_i64_vec().ok_or_else(|| format!("input {index} is not of integers"))
    }
}

/// By its power series: enough terms for what tests put in.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut sum, mut power) = (0.0, x);
    for n in 0..120 {
        sum += power / f64::from(2 * n + 1);
        power *= -x * x / f64::from(n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn axis(axis: i64, rank: usize) -> Computed<usize> {
    axis_from_front(axis, rank).ok_or_else(|| format!("axis {axis} of rank {rank}"))
}

fn compute(graph: &Graph, id: OpId, inputs: &[Option<Tensor>]) -> Computed<Vec<Tensor>> {
    let op = graph.op(id);
    if !op.domain().is_empty() {
        return Err(format!("domain {}", op.domain()));
    }
    let x = Inputs(inputs);
    let dtype = || x.tensor(0).map(Tensor::dtype);
    let unary = |f: fn(f64) -> f64| Ok(vec![rounded(dtype()?, &x.array(0)?.mapv(f))?]);
    let binary = |f: fn(f64, f64) -> f64| Ok(vec![rounded(dtype()?, &zip(&x.array(0)?, &x.array(1)?, f)?)?]);
    let compare = |f: fn(f64, f64) -> f64| Ok(vec![rounded(DataType::Bool, &zip(&x.array(0)?, &x.array(1)?, f)?)?]);
    let fold = |f: fn(f64, f64) -> f64| -> Computed<Array> {
        (1..inputs.len()).try_fold(x.array(0)?, |sum, index| zip(&sum, &x.array(index)?, f))
    };
    let one = |array: Array| Ok(vec![rounded(dtype()?, &array)?]);
    match op.op_type() {
        "Identity" | "Dropout" => Ok(vec![x.tensor(0)?.clone()]),
        "Relu" => unary(|x| if x < 0.0 { 0.0 } else { x }),
        "Neg" => unary(|x| -x),
        "Abs" => unary(f64::abs),
        "Reciprocal" => unary(f64::recip),
        "Sqrt" => unary(f64::sqrt),
        "Exp" => unary(f64::exp),
        "Floor" => unary(f64::floor),
        "Log" => unary(f64::ln),
        "HardSwish" => unary(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "LeakyRelu" => {
            let alpha = f64::from(LeakyRelu::of(graph, id).ok_or("this form of LeakyRelu")?.alpha);
            one(x.array(0)?.mapv(|x| if x < 0.0 { alpha * x } else { x }))
        }
        "HardSigmoid" => {
            let HardSigmoid { alpha, beta, .. } = HardSigmoid::of(graph, id).ok_or("this form of HardSigmoid")?;
            let (alpha, beta) = (f64::from(alpha), f64::from(beta));
            one(x.array(0)?.mapv(|x| (alpha * x + beta).clamp(0.0, 1.0)))
        }
        "Erf" => unary(erf),
        "Gelu" => unary(|x| x * 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))),
        "Not" => unary(|x| f64::from(x == 0.0)),
        "Tanh" => unary(f64::tanh),
        "Sigmoid" => unary(|x| 1.0 / (1.0 + (-x).exp())),
        "Add" => binary(|a, b| a + b),
        "Sub" => binary(|a, b| a - b),
        "Mul" => binary(|a, b| a * b),
        "Div" => binary(|a, b| a / b),
        "Pow" => binary(f64::powf),
        "Equal" => compare(|a, b| f64::from(a == b)),
        "Greater" => compare(|a, b| f64::from(a > b)),
        "Less" => compare(|a, b| f64::from(a < b)),
        "Sum" => one(fold(|a, b| a + b)?),
        "Max" => one(fold(f64::max)?),
        "Min" => one(fold(f64::min)?),
        "Mean" => one(fold(|a, b| a + b)? / inputs.len() as f64),
        "Clip" => {
            let stated = Clip::of(graph, id).map_or((None, None), |clip| (clip.min, clip.max));
            let bound = |index, stated: Option<f64>, default: f64| -> Computed<f64> {
                if x.has(index) {
                    return x.tensor(index)?.to_scalar_f64().ok_or_else(|| "bound".to_owned());
                }
                Ok(stated.unwrap_or(default))
            };
            let (min, max) = (bound(1, stated.0, f64::NEG_INFINITY)?, bound(2, stated.1, f64::INFINITY)?);
            one(x.array(0)?.mapv(|x| x.max(min).min(max)))
        }
        "Where" => {
            let (a, b) = (x.array(1)?, x.array(2)?);
            let chosen = zip(&x.array(0)?, &a, |c, a| if c != 0.0 { a } else { f64::NAN })?;
            let otherwise = zip(&x.array(0)?, &b, |c, b| if c == 0.0 { b } else { f64::NAN })?;
            let both = zip(&chosen, &otherwise, |a, b| if a.is_nan() { b } else { a })?;
            Ok(vec![rounded(x.tensor(1)?.dtype(), &both)?])
        }
        "Cast" => Ok(vec![rounded(Cast::of(graph, id).ok_or("this form of Cast")?.to, &x.array(0)?)?]),
        "Constant" => {
            let tensor = Constant::of(graph, id).and_then(|constant| constant.tensor());
            Ok(vec![tensor.ok_or("this form of Constant")?])
        }
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
            let dims = new_dims(graph, id, &x)?;
            Ok(vec![x.tensor(0)?.reshaped(&dims).ok_or_else(|| format!("cannot become {dims:?}"))?])
        }
        "Shape" => {
            let dims: Vec<i64> = x.tensor(0)?.dims().iter().map(|&dim| dim as i64).collect();
            let shape = onnx_shrink_ir::ops::Shape::of(graph, id).ok_or("attributes")?;
            let dims = dims[shape.axes(dims.len())].to_vec();
            Ok(vec![Tensor::from_vec(&[dims.len()], dims)])
        }
        "Size" => Ok(vec![Tensor::scalar(x.tensor(0)?.len() as i64)]),
        "ConstantOfShape" => {
            let dims: Vec<usize> = x.ints(0)?.into_iter().map(|dim| dim as usize).collect();
            let value = ConstantOfShape::of(graph, id).ok_or("this form of ConstantOfShape")?.value;
            let number = value.to_scalar_f64().ok_or("value")?;
            Ok(vec![rounded(value.dtype(), &Array::from_elem(IxDyn(&dims), number))?])
        }
        "Transpose" => {
            let array = x.array(0)?;
            let perm = match op.attributes() {
                [] => (0..array.ndim()).rev().collect(),
                _ => Transpose::of(graph, id).ok_or("this form of Transpose")?.perm,
            };
            one(array.permuted_axes(IxDyn(&perm)))
        }
        "Concat" => {
            let arrays = (0..inputs.len()).map(|index| x.array(index)).collect::<Computed<Vec<_>>>()?;
            let axis = axis(Concat::of(graph, id).ok_or("this form of Concat")?.axis, arrays[0].ndim())?;
            let views: Vec<_> = arrays.iter().map(|array| array.view()).collect();
            one(ndarray::concatenate(Axis(axis), &views).map_err(|error| error.to_string())?)
        }
        "Softmax" => {
            let array = x.array(0)?;
            let softmax = Softmax::of(graph, id).ok_or("this form of Softmax")?;
            let axis = Axis(axis(softmax.axis, array.ndim())?);
            if softmax.to_the_end && axis.0 + 1 != array.ndim() {
                return Err("a Softmax of several axes".to_owned());
            }
            let largest = array.fold_axis(axis, f64::NEG_INFINITY, |a, b| a.max(*b)).insert_axis(axis);
            let powers = (array - largest).mapv(f64::exp);
            one(&powers / &powers.sum_axis(axis).insert_axis(axis))
        }
        "MaxPool" => one(max_pool(&MaxPool::of(graph, id).ok_or("this form of MaxPool")?, x.array(0)?)?),
        "GlobalAveragePool" => {
            let axes = (2..x.array(0)?.ndim()).collect();
            one(mean(x.array(0)?, axes))
        }
        "LayerNormalization" => {
            let norm = LayerNormalization::of(graph, id).ok_or("this form of LayerNormalization")?;
            let array = x.array(0)?;
            let axes: Vec<usize> = (axis(norm.axis, array.ndim())?..array.ndim()).collect();
            let centered = zip(&array, &mean(array.clone(), axes.clone()), |a, b| a - b)?;
            let variance = mean(centered.mapv(|x| x * x), axes);
            let normed = zip(&centered, &variance, |a, v| a / (v + f64::from(norm.epsilon)).sqrt())?;
            let scaled = zip(&normed, &x.array(1)?, |a, b| a * b)?;
            one(if x.has(2) { zip(&scaled, &x.array(2)?, |a, b| a + b)? } else { scaled })
        }
        "InstanceNormalization" => {
            let norm = InstanceNormalization::of(graph, id).ok_or("this form of InstanceNormalization")?;
            let array = x.array(0)?;
            let axes: Vec<usize> = (2..array.ndim()).collect();
            let along = |index: usize| -> Computed<Array> {
                let mut dims = vec![1; array.ndim()];
                dims[1] = array.shape()[1];
                reshaped(&x.array(index)?, &dims)
            };
            let centered = zip(&array, &mean(array.clone(), axes.clone()), |a, b| a - b)?;
            let variance = mean(centered.mapv(|x| x * x), axes);
            let scaled = zip(&centered, &variance, |a, v| a / (v + f64::from(norm.epsilon)).sqrt())?;
            one(zip(&zip(&scaled, &along(1)?, |a, b| a * b)?, &along(2)?, |a, b| a + b)?)
        }
        "AveragePool" => {
            let array = x.array(0)?;
            let whole: Vec<i64> = array.shape()[2..].iter().map(|&side| side as i64).collect();
            let is_whole = AveragePool::of(graph, id).is_some_and(|pool| pool.kernel_shape == whole);
            if !is_whole || op.attributes().len() > 1 {
                return Err("only a window as large as the image".to_owned());
            }
            let axes = (2..array.ndim()).collect();
            one(mean(array, axes))
        }
        "ReduceMean" | "ReduceSum" | "ReduceMax" => {
            let array = x.array(0)?;
            let reduce = Reduce::of(graph, id).ok_or("this form of reduction")?;
            // Axes that are an input are no constant for an op alone.
            let axes = if x.has(1) { x.ints(1)? } else { reduce.axes.ok_or("axes")? };
            let axes = axes.into_iter().map(|axis_| axis(axis_, array.ndim())).collect::<Computed<Vec<usize>>>()?;
            let kept: Vec<usize> =
                (0..array.ndim()).filter(|axis| !axes.contains(axis)).map(|axis| array.shape()[axis]).collect();
            let reduced = match op.op_type() {
                "ReduceMean" => mean(array, axes),
                "ReduceSum" => axes.iter().fold(array, |sum, &axis| sum.sum_axis(Axis(axis)).insert_axis(Axis(axis))),
                _ => axes.iter().fold(array, |most, &axis| {
                    most.fold_axis(Axis(axis), f64::NEG_INFINITY, |a, b| a.max(*b)).insert_axis(Axis(axis))
                }),
            };
            one(if reduce.keeps_axes { reduced } else { reshaped(&reduced, &kept)? })
        }
        "Gather" => {
            let (array, indices) = (x.array(0)?, x.ints(1)?);
            let axis = axis(Gather::of(graph, id).ok_or("this form of Gather")?.axis, array.ndim())?;
            let length = array.shape()[axis] as i64;
            let indices: Vec<usize> =
                indices.into_iter().map(|index| (if index < 0 { index + length } else { index }) as usize).collect();
            let mut dims = array.shape()[..axis].to_vec();
            dims.extend(x.tensor(1)?.dims());
            dims.extend(&array.shape()[axis + 1..]);
            one(reshaped(&array.select(Axis(axis), &indices), &dims)?)
        }
        "Slice" => {
            let mut array = x.array(0)?;
            let (starts, ends, axes, steps) = match onnx_shrink_ir::ops::Slice::of(graph, id) {
                Some(slice) => (slice.starts, slice.ends, slice.axes, slice.steps),
                None => {
                    let (starts, ends) = (x.ints(1)?, x.ints(2)?);
                    let axes = if x.has(3) { x.ints(3)? } else { (0..starts.len() as i64).collect() };
                    let steps = if x.has(4) { x.ints(4)? } else { vec![1; starts.len()] };
                    (starts, ends, axes, steps)
                }
            };
            for (k, &axis_as_written) in axes.iter().enumerate() {
                let axis = axis(axis_as_written, array.ndim())?;
                let length = array.shape()[axis] as i64;
                let from_front = |index: i64| if index < 0 { index.saturating_add(length) } else { index };
                let (low, high) = if steps[k] > 0 { (0, length) } else { (-1, length - 1) };
                let end = from_front(ends[k]).clamp(low, high);
                let mut index = from_front(starts[k]).clamp(0, if steps[k] > 0 { length } else { length - 1 });
                let mut indices = Vec::new();
                while (steps[k] > 0 && index < end) || (steps[k] < 0 && index > end) {
                    indices.push(index as usize);
                    index += steps[k];
                }
                array = array.select(Axis(axis), &indices);
            }
            one(array)
        }
        "Expand" => {
            let array = x.array(0)?;
            let dims: Vec<usize> = x.ints(1)?.into_iter().map(|dim| dim as usize).collect();
            one(spread(&array, &broadcast_dims(array.shape(), &dims)?)?.to_owned())
        }
        "Tile" => {
            let mut array = x.array(0)?;
            for (axis, repeat) in x.ints(1)?.into_iter().enumerate() {
                let copies: Vec<_> = (0..repeat).map(|_| array.view()).collect();
                array = ndarray::concatenate(Axis(axis), &copies).map_err(|error| error.to_string())?;
            }
            one(array)
        }
        "Pad" => {
            let array = x.array(0)?;
            let pad = onnx_shrink_ir::ops::Pad::of(graph, id).ok_or("this form of Pad")?;
            let pads = pad.pads_of_rank(array.ndim()).ok_or("pads")?;
            let onnx_shrink_ir::ops::PadMode::Constant(value) = pad.mode else { return Err("mode".to_owned()) };
            one(padded(&array, &pads, value)?)
        }
        "Split" => {
            let array = x.array(0)?;
            let split = Split::of(graph, id).ok_or("this form of Split")?;
            let axis = axis(split.axis, array.ndim())?;
            let (count, length) = (op.outputs().len(), array.shape()[axis]);
            let sizes = match split.lengths {
                SplitLengths::Equal => vec![length.div_ceil(count) as i64; count],
                SplitLengths::Stated(lengths) => lengths,
                SplitLengths::Input(_) => x.ints(1)?,
            };
            let mut start = 0usize;
            sizes
                .into_iter()
                .map(|size| {
                    let end = (start + size as usize).min(length);
                    let part = array.slice_axis(Axis(axis), Slice::from(start..end)).to_owned();
                    start = end;
                    rounded(dtype()?, &part)
                })
                .collect()
        }
        "MatMul" => one(matmul(&x.array(0)?, &x.array(1)?)?),
        "Gemm" => {
            let gemm = Gemm::of(graph, id).ok_or("this form of Gemm")?;
            let side =
                |index, transposed| x.array(index).map(|array| if transposed { array.reversed_axes() } else { array });
            let product = matmul(&side(0, gemm.trans_a)?, &side(1, gemm.trans_b)?)? * f64::from(gemm.alpha);
            one(if x.has(2) { zip(&product, &(x.array(2)? * f64::from(gemm.beta)), |a, b| a + b)? } else { product })
        }
        "Conv" => one(conv(&Conv::of(graph, id).ok_or("this form of Conv")?, &x)?),
        "ConvTranspose" => one(conv_transpose(&ConvTranspose::of(graph, id).ok_or("this form of ConvTranspose")?, &x)?),
        "BatchNormalization" => {
            let norm = BatchNormalization::of(graph, id).ok_or("this form of BatchNormalization")?;
            let array = x.array(0)?;
            let mut dims = vec![1; array.ndim()];
            dims[1] = array.shape()[1];
            let channel = |index| reshaped(&x.array(index)?, &dims);
            let deviation = (channel(4)? + f64::from(norm.epsilon)).mapv(f64::sqrt);
            one((array - channel(3)?) / deviation * channel(1)? + channel(2)?)
        }
        "QuantizeLinear" | "DequantizeLinear" => {
            let array = x.array(0)?;
            let quantizes = op.op_type() == "QuantizeLinear";
            let zero_type = x.tensor(2).map_or(DataType::Uint8, Tensor::dtype);
            let mut dims = vec![1; array.ndim()];
            let scale = x.array(1)?;
            if scale.len() > 1 {
                let stated = DequantizeLinear::of(graph, id).map(|pair| pair.axis);
                let stated = stated.or_else(|| Some(QuantizeLinear::of(graph, id)?.axis));
                dims[axis(stated.ok_or("this form of it")?, array.ndim())?] = scale.len();
            }
            let scale = reshaped(&scale, &dims)?;
            let zero = if x.has(2) { reshaped(&x.array(2)?, &dims)? } else { Array::zeros(IxDyn(&dims)) };
            if !quantizes {
                return Ok(vec![rounded(DataType::Float, &((array - zero) * scale))?]);
            }
            let steps = zip(&array, &scale, |x, scale| f64::from(x as f32 / scale as f32).round_ties_even())?;
            Ok(vec![Tensor::from_f64(zero_type, &(steps + zero)).ok_or("type")?]) // saturates
        }
        other => Err(format!("the reference evaluator of the tests does not know {other}")),
    }
}

fn new_dims(graph: &Graph, id: OpId, x: &Inputs<'_>) -> Computed<Vec<usize>> {
    let (op, dims) = (graph.op(id), x.tensor(0)?.dims());
    Ok(match op.op_type() {
        "Reshape" => {
            let wanted = x.ints(1)?;
            let allowzero = Reshape::of(graph, id).ok_or("this form of Reshape")?.allowzero;
            let mut new: Vec<usize> = Vec::new();
            for (axis, &dim) in wanted.iter().enumerate() {
                new.push(match dim {
                    0 if !allowzero => *dims.get(axis).ok_or("0 beyond the rank")?,
                    -1 => 1,
                    dim => dim as usize,
                });
            }
            if let Some(axis) = wanted.iter().position(|&dim| dim == -1) {
                let rest: usize = new.iter().product();
                new[axis] = x.tensor(0)?.len() / rest.max(1);
            }
            new
        }
        "Flatten" => {
            let at = Flatten::of(graph, id).ok_or("this form of Flatten")?.axis;
            let at = if at < 0 { at + dims.len() as i64 } else { at } as usize;
            vec![dims[..at].iter().product(), dims[at..].iter().product()]
        }
        "Squeeze" => {
            match if x.has(1) { Some(x.ints(1)?) } else { Squeeze::of(graph, id).ok_or("this form of Squeeze")?.axes } {
                None => dims.iter().copied().filter(|&dim| dim != 1).collect(),
                Some(axes) => {
                    let axes = axes.into_iter().map(|a| axis(a, dims.len())).collect::<Computed<Vec<_>>>()?;
                    (0..dims.len()).filter(|axis| !axes.contains(axis)).map(|axis| dims[axis]).collect()
                }
            }
        }
        _ => {
            let axes =
                if x.has(1) { x.ints(1)? } else { Unsqueeze::of(graph, id).ok_or("this form of Unsqueeze")?.axes };
            let rank = dims.len() + axes.len();
            let axes = axes.into_iter().map(|a| axis(a, rank)).collect::<Computed<Vec<_>>>()?;
            let mut rest = dims.iter();
            (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { rest.next().copied().unwrap_or(1) }).collect()
        }
    })
}

fn padded(array: &Array, pads: &[i64], value: f64) -> Computed<Array> {
    let rank = array.ndim();
    let dims: Vec<i64> = (0..rank).map(|axis| array.shape()[axis] as i64 + pads[axis] + pads[rank + axis]).collect();
    let dims: Vec<usize> = dims.into_iter().map(|dim| usize::try_from(dim).unwrap_or(0)).collect();
    Ok(Array::from_shape_fn(IxDyn(&dims), |index| {
        let inner: Option<Vec<usize>> = (0..rank)
            .map(|axis| usize::try_from(index[axis] as i64 - pads[axis]).ok().filter(|&at| at < array.shape()[axis]))
            .collect();
        inner.map_or(value, |inner| array[IxDyn(&inner)])
    }))
}

/// As numpy's matmul, for ranks of at least 2.
fn matmul(a: &Array, b: &Array) -> Computed<Array> {
    if a.ndim() < 2 || b.ndim() < 2 {
        return Err("vectors".to_owned());
    }
    let split =
        |array: &Array| (array.shape()[..array.ndim() - 2].to_vec(), array.shape()[array.ndim() - 2..].to_vec());
    let ((batch_a, last_a), (batch_b, last_b)) = (split(a), split(b));
    let batch = broadcast_dims(&batch_a, &batch_b)?;
    let spread_batch = |array: &Array, last: &[usize]| -> Computed<Array> {
        Ok(spread(array, &[batch.as_slice(), last].concat())?.to_owned())
    };
    let (a, b) = (spread_batch(a, &last_a)?, spread_batch(b, &last_b)?);
    if last_a[1] != last_b[0] {
        return Err(format!("{last_a:?} times {last_b:?}"));
    }
    let rank = batch.len();
    Ok(Array::from_shape_fn(IxDyn(&[batch.as_slice(), &[last_a[0], last_b[1]]].concat()), |index| {
        let at = |row: usize, column: usize| {
            let mut at = index.clone();
            (at[rank], at[rank + 1]) = (row, column);
            at
        };
        (0..last_a[1]).map(|k| a[at(index[rank], k)] * b[at(k, index[rank + 1])]).sum()
    }))
}

/// Every index of an array of these dimensions.
fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    ndarray::indices(IxDyn(dims)).into_iter().map(|index| index.slice().to_vec()).collect()
}

fn conv(conv: &Conv, inputs: &Inputs<'_>) -> Computed<Array> {
    let (mut x, w) = (inputs.array(0)?, inputs.array(1)?);
    let rank = w.ndim() - 2;
    let mut pads = conv.pads.clone();
    let kernel = w.shape()[2..].to_vec();
    for axis in 0..rank {
        let (size, stride) = (x.shape()[2 + axis] as i64, conv.strides[axis]);
        let span = (kernel[axis] as i64 - 1) * conv.dilations[axis] + 1;
        let total = ((size + stride - 1) / stride - 1) * stride + span - size;
        let total = total.max(0);
        (pads[axis], pads[rank + axis]) = match conv.auto_pad {
            AutoPad::NotSet => (pads[axis], pads[rank + axis]),
            AutoPad::Valid => (0, 0),
            AutoPad::SameUpper => (total / 2, total - total / 2),
            AutoPad::SameLower => (total - total / 2, total / 2),
        };
    }
    let all: Vec<i64> = [&[0, 0][..], &pads[..rank], &[0, 0], &pads[rank..]].concat();
    x = padded(&x, &all, 0.0)?;
    let (channels, filters) = (w.shape()[1], w.shape()[0] / conv.group as usize);
    let mut dims = vec![x.shape()[0], w.shape()[0]];
    for axis in 0..rank {
        let span = (kernel[axis] - 1) * conv.dilations[axis] as usize + 1;
        dims.push((x.shape()[2 + axis] - span) / conv.strides[axis] as usize + 1);
    }
    let bias = if inputs.has(2) { inputs.array(2)? } else { Array::zeros(IxDyn(&[w.shape()[0]])) };
    let cells = indices(&kernel);
    Ok(Array::from_shape_fn(IxDyn(&dims), |out| {
        let (n, m) = (out[0], out[1]);
        let mut sum = bias[[m].as_slice()];
        for c in 0..channels {
            for cell in &cells {
                let mut at = vec![n, m / filters * channels + c];
                at.extend(
                    (0..rank).map(|k| out[2 + k] * conv.strides[k] as usize + cell[k] * conv.dilations[k] as usize),
                );
                sum += x[IxDyn(&at)] * w[IxDyn(&[&[m, c], cell.as_slice()].concat())];
            }
        }
        sum
    }))
}

fn conv_transpose(conv: &ConvTranspose, inputs: &Inputs<'_>) -> Computed<Array> {
    if conv.output_shape.is_some() || conv.auto_pad != AutoPad::NotSet {
        return Err("output_shape or auto_pad".to_owned());
    }
    let (x, w) = (inputs.array(0)?, inputs.array(1)?);
    let rank = w.ndim() - 2;
    let kernel = &w.shape()[2..];
    let (group, filters) = (conv.group as usize, w.shape()[1]);
    let channels = x.shape()[1] / group;
    let mut dims = vec![x.shape()[0], filters * group];
    for axis in 0..rank {
        let span = (kernel[axis] as i64 - 1) * conv.dilations[axis] + 1;
        let length = (x.shape()[2 + axis] as i64 - 1) * conv.strides[axis] + span + conv.output_padding[axis];
        dims.push((length - conv.pads[axis] - conv.pads[rank + axis]) as usize);
    }
    let mut y = Array::zeros(IxDyn(&dims));
    for at in indices(x.shape()) {
        for cell in indices(kernel) {
            let place: Option<Vec<usize>> = (0..rank)
                .map(|k| {
                    let place = at[2 + k] as i64 * conv.strides[k] + cell[k] as i64 * conv.dilations[k] - conv.pads[k];
                    usize::try_from(place).ok().filter(|&place| place < dims[2 + k])
                })
                .collect();
            let Some(place) = place else { continue };
            for j in 0..filters {
                let m = at[1] / channels * filters + j;
                let weight = w[IxDyn(&[&[at[1], j], cell.as_slice()].concat())];
                y[IxDyn(&[&[at[0], m], place.as_slice()].concat())] += x[IxDyn(&at)] * weight;
            }
        }
    }
    if inputs.has(2) {
        let mut bias = vec![1; rank + 2];
        bias[1] = filters * group;
        y = y + reshaped(&inputs.array(2)?, &bias)?;
    }
    Ok(y)
}

/// The mean along `axes`, which stay with length 1.
fn mean(mut array: ArrayD<f64>, axes: Vec<usize>) -> ArrayD<f64> {
    for axis in axes {
        let length = array.shape()[axis] as f64;
        array = (array.sum_axis(Axis(axis)) / length).insert_axis(Axis(axis));
    }
    array
}

fn max_pool(pool: &MaxPool, x: Array) -> Computed<Array> {
    if pool.ceil_mode || pool.auto_pad != AutoPad::NotSet {
        return Err("ceil_mode or auto_pad".to_owned());
    }
    let rank = pool.kernel_shape.len();
    let pads: Vec<i64> = [&[0, 0][..], &pool.pads[..rank], &[0, 0], &pool.pads[rank..]].concat();
    let x = padded(&x, &pads, f64::NEG_INFINITY)?;
    let mut dims = x.shape()[..2].to_vec();
    for axis in 0..rank {
        let span = (pool.kernel_shape[axis] - 1) * pool.dilations[axis] + 1;
        dims.push(((x.shape()[2 + axis] as i64 - span) / pool.strides[axis] + 1) as usize);
    }
    let kernel: Vec<usize> = pool.kernel_shape.iter().map(|&side| side as usize).collect();
    let cells = indices(&kernel);
    Ok(Array::from_shape_fn(IxDyn(&dims), |out| {
        let value = |cell: &Vec<usize>| {
            let mut at = vec![out[0], out[1]];
            at.extend((0..rank).map(|k| out[2 + k] * pool.strides[k] as usize + cell[k] * pool.dilations[k] as usize));
            x[IxDyn(&at)]
        };
        cells.iter().map(value).fold(f64::NEG_INFINITY, f64::max)
    }))
}
