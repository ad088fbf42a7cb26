//! Layers in integers, as Quantize/Dequantize pairs state them: read by the passes that write them in another form.
//!
//! A layer is a Conv, Gemm or MatMul whose input and weight come from Dequantize and whose bias, if any, is one of int32.
//! Its end is the Quantize that alone reads its result, a Relu or Clip between them included, or else the float result.
//! **Never** takes a form apart that it does not know whole.
use ndarray::Array2;
use onnx_shrink_ir::{
    DataType, Graph, OpId, Tensor, Use, ValueId,
    ops::{DequantizeLinear, LayerKind, RowOrder, WeightedLayer, clip_bounds},
};

use crate::{Miss, numerics::accumulator::Bound};

/// A value in 8 bits with what its numbers stand for: scale·(q − zero_point). The last two may be known at run time only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// u8
    pub value: ValueId,
    /// One float
    pub scale: ValueId,
    /// One u8
    pub zero_point: ValueId,
}

impl Quantized {
    /// Scale and zero point, where they are constant.
    pub fn constants(&self, graph: &Graph) -> Option<(f32, u8)> {
        Some((scalar::<f32>(graph, self.scale)?, scalar::<u8>(graph, self.zero_point)?))
    }
}

/// The one number of a constant.
pub fn scalar<T: onnx_shrink_ir::Element>(graph: &Graph, value: ValueId) -> Option<T> {
    match graph.constant(value)?.as_slice::<T>()?.as_ref() {
        [number] => Some(*number),
        _ => None,
    }
}

/// What the Dequantize that makes `value` reads, when it is one of u8 with one scale for all.
pub fn dequantized(graph: &Graph, value: ValueId) -> Option<Quantized> {
    let op = graph.op(graph.producer(value)?);
    if !op.is("DequantizeLinear") {
        return None;
    }
    let quantized = Quantized { value: op.input(0)?, scale: op.input(1)?, zero_point: op.input(2)? };
    let is_one = |value: ValueId, dtype: DataType| {
        let ty = graph.ty(value);
        ty.is_some_and(|ty| ty.dtype == dtype && ty.dims().is_some_and(|dims| dims.iter().product::<usize>() == 1))
    };
    let fits = is_one(quantized.scale, DataType::Float) && is_one(quantized.zero_point, DataType::Uint8);
    (fits && graph.constant(quantized.value).is_none()).then_some(quantized)
}

/// The Quantize to u8 that alone reads `value`: the op, and what it makes.
pub fn quantized(graph: &Graph, value: ValueId) -> Option<(OpId, Quantized)> {
    let (op, 0) = graph.only_use(value)? else { return None };
    let node = graph.op(op);
    if !node.is("QuantizeLinear") {
        return None;
    }
    let made = Quantized { value: node.output(0)?, scale: node.input(1)?, zero_point: node.input(2)? };
    made.constants(graph)?;
    Some((op, made))
}

/// Where a layer ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// In 8 bits
    Quantized {
        /// What its Quantize makes
        made: Quantized,
        /// The Relu or Clip before it
        activation: Option<OpId>,
        /// The least number that the activation lets through
        low: u8,
        /// The largest
        high: u8,
    },
    /// In float: the layer's result, the bias included
    Float(ValueId),
}

/// One layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The Conv, Gemm or MatMul of floats between the pairs
    pub float: WeightedLayer,
    /// What it reads
    pub x: Quantized,
    /// Its weight, in int8, with zero point 0
    pub weight: ValueId,
    /// Scales of the weight, one a channel or one
    pub weight_scale: ValueId,
    /// The bias, int32 of scale s_x·s_w
    pub bias: Option<ValueId>,
    /// Scales of the bias
    pub bias_scale: Option<ValueId>,
    /// Where it ends
    pub end: End,
}

/// The layer of `op`; `Err(NotThisPattern)` for what is none.
pub fn layer_of(graph: &Graph, op: OpId) -> Result<Layer, Miss> {
    let float = WeightedLayer::of_floats(graph, op).filter(|layer| layer.kind != LayerKind::ConvTranspose);
    let float = float.ok_or(Miss::NotThisPattern)?;
    if !float.is_plain() {
        return Err(Miss::Form("alpha, beta or transA"));
    }
    let x = dequantized(graph, float.x).ok_or(Miss::NotThisPattern)?;
    let (weight, weight_scale) = weight_of(graph, &float)?;
    let mut end = float.y;
    let mut bias = None;
    if let Some(value) = float.bias {
        bias = Some(integer_bias(graph, value).ok_or(Miss::Form("a bias that is not int32"))?);
    } else if float.kind == LayerKind::MatMul
        && let Some(added) = float.added_bias(graph)
        && let Some(found) = integer_bias(graph, added.bias)
    {
        bias = Some(found);
        end = added.sum;
    }
    let (bias, bias_scale) = bias.unzip();
    Ok(Layer { float, x, weight, weight_scale, bias, bias_scale, end: end_of(graph, end) })
}

/// The constants of a Dequantize of int8 with zero point 0 along the axis of the outputs.
fn weight_of(graph: &Graph, float: &WeightedLayer) -> Result<(ValueId, ValueId), Miss> {
    let from = DequantizeLinear::making(graph, float.weight).filter(|from| from.block_size == 0);
    let from = from.ok_or(Miss::NotThisPattern)?;
    let tensor = graph.constant(from.x).ok_or(Miss::NotConstant(from.x))?;
    let scales = graph.constant(from.scale).ok_or(Miss::NotConstant(from.scale))?;
    if tensor.dtype() != DataType::Int8 || scales.dtype() != DataType::Float {
        return Err(Miss::Form("the weight is not int8"));
    }
    if let Some(zero) = from.zero_point {
        let zeros = graph.constant(zero).and_then(Tensor::to_i64_vec).ok_or(Miss::NotConstant(zero))?;
        if zeros.iter().any(|zero| *zero != 0) {
            return Err(Miss::Form("a weight with a zero point"));
        }
    }
    let rank = tensor.dims().len();
    let shape = float.layout.shape(tensor.dims()).ok_or(Miss::Form("a weight of this rank"))?;
    let along_outputs = from.axis_of(rank).is_some_and(|axis| Some(axis) == float.layout.output_axis(rank));
    if scales.len() != 1 && !(along_outputs && scales.len() == shape.outputs) {
        return Err(Miss::Form("scales that are not one an output"));
    }
    Ok((from.x, from.scale))
}

/// The constants of the Dequantize of an int32 vector.
fn integer_bias(graph: &Graph, value: ValueId) -> Option<(ValueId, ValueId)> {
    let op = graph.op(graph.producer(value)?);
    let (integers, scale) = (op.input(0)?, op.input(1)?);
    let is_bias =
        graph.constant(integers)?.dtype() == DataType::Int32 && graph.constant(scale)?.dtype() == DataType::Float;
    (op.is("DequantizeLinear") && is_bias).then_some((integers, scale))
}

fn end_of(graph: &Graph, value: ValueId) -> End {
    let mut end = value;
    let mut bounds = None;
    if let Some((op, 0)) = graph.only_use(value)
        && let Some(found) = clip_bounds(graph, op)
        && let Some(output) = graph.op(op).output(0)
    {
        bounds = Some((op, found));
        end = output;
    }
    let Some((_, made)) = quantized(graph, end) else { return End::Float(value) };
    let Some((scale, zero)) = made.constants(graph) else { return End::Float(value) };
    // Quantizing is monotone: what the activation cuts off, the quantized bound cuts off.
    let quantize = |x: f64| ((x / f64::from(scale)).round_ties_even() + f64::from(zero)).clamp(0.0, 255.0) as u8;
    let (low, high) = bounds.map_or((0, 255), |(_, (low, high))| (quantize(low), quantize(high)));
    End::Quantized { made, activation: bounds.map(|(op, _)| op), low, high }
}

impl Layer {
    /// The weight's integers, one row an output, channels fastest, and its dimensions.
    pub fn rows(&self, graph: &Graph) -> Option<(Array2<i8>, Vec<usize>)> {
        let tensor = graph.constant(self.weight)?;
        let rows = self.float.layout.rows(tensor.to_f64()?, RowOrder::ChannelsLast)?;
        Some((rows.mapv(|w| w as i8), tensor.dims().to_vec()))
    }

    /// Scales of the weight, one an output.
    pub fn weight_scales(&self, graph: &Graph, outputs: usize) -> Option<Vec<f32>> {
        let scales = graph.constant(self.weight_scale)?;
        let scales = scales.as_slice::<f32>()?;
        match scales.as_ref() {
            [scale] => Some(vec![*scale; outputs]),
            scales => (scales.len() == outputs).then(|| scales.to_vec()),
        }
    }

    /// The bias, one an output; zeros where there is none.
    pub fn biases(&self, graph: &Graph, outputs: usize) -> Option<Vec<i32>> {
        let Some(bias) = self.bias else { return Some(vec![0; outputs]) };
        let bias = graph.constant(bias)?;
        let bias = bias.as_slice::<i32>()?;
        (bias.len() == outputs).then(|| bias.to_vec())
    }

    /// What the sums can reach, over all outputs.
    pub fn bound(&self, graph: &Graph) -> Option<Bound> {
        let (rows, _) = self.rows(graph)?;
        let zero = self.x.constants(graph).map(|(_, zero)| zero);
        let biases = self.biases(graph, rows.nrows())?;
        let of = |(row, bias): (ndarray::ArrayView1<'_, i8>, i32)| {
            Bound::of(row.iter().copied(), zero).with_bias(i64::from(bias))
        };
        rows.outer_iter().zip(biases).map(of).reduce(Bound::or)
    }

    /// Whether its scales are those of integer arithmetic: the bias has the scale f32(s_x·s_w), to a few units in the last place.
    pub fn bias_fits(&self, graph: &Graph, x_scale: f32, outputs: usize) -> bool {
        let Some(bias_scale) = self.bias_scale else { return true };
        let (Some(scales), Some(stated)) = (
            self.weight_scales(graph, outputs),
            graph.constant(bias_scale).and_then(|scales| scales.as_slice::<f32>().map(|scales| scales.into_owned())),
        ) else {
            return false;
        };
        let near = |(w, b): (&f32, &f32)| (x_scale * w - b).abs() <= b.abs() * 1e-6;
        match stated.as_slice() {
            [one] => scales.iter().all(|w| near((w, one))),
            many => many.len() == outputs && scales.iter().zip(many).all(near),
        }
    }
}

/// Ops that read `value`; `None` when a body or an output does, too.
pub fn op_readers(graph: &Graph, value: ValueId) -> Option<Vec<(OpId, usize)>> {
    let op = |place| match place {
        Use::Input(op, index) => Some((op, index)),
        Use::Capture(..) | Use::Output(_) => None,
    };
    graph.uses(value).into_iter().map(op).collect()
}
