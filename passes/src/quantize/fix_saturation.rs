//! Gives 8-bit weights that others quantized scales with which their sums are the same on every processor.
//!
//! ```onnx before
//! # x: uint8[1,2]; w: int8[2,2] = {100, 100, 100, -100}; t: float[2] = {0.5, 0.5}; s: float = {0.5}; z: uint8 = {3}
//! d = DequantizeLinear (x, s, z)
//! v = DequantizeLinear <axis = 0> (w, t)
//! y = Gemm <transB = 1> (d, v)
//! ```
//! ```onnx after
//! # w: int8[2,2] = {63, 64, 100, -100}; t: float[2] = {0.7874016, 0.5}
//! d = DequantizeLinear (x, s, z)
//! v = DequantizeLinear <axis = 0> (w, t)
//! y = Gemm <transB = 1> (d, v)
//! ```
//! A row in which some pair a, b has a + b outside of −128 … 128 gets the least scale with which none can
//! ([`crate::numerics::weight_scales`]) and is rounded so that the sum of its errors is small, too ([`crate::numerics::rounding`]); all others stay as they
//! are. A bias in 32 bits goes with its weight: its scale is the product of
//! the scales of input and weight. Convolutions with one scale for all channels get one for each; matrices keep one, which
//! runs faster.
//!
//! **Class:** approximate: up to one bit of the weights of those rows. **Legal when** the scale of the weight is constant
//! and belongs to its output channels. **Source:** `docs/engines.md` §2.5–6, §9. **Does not** look at ops of other domains.
use ndarray::Array2;
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, Tensor, ValueId, ValueRef, attributes,
    ops::{DequantizeLinear, LayerKind, RowOrder, WeightedLayer},
};

use crate::{
    Class, Context, Description, Miss, Result, Rewrite, When,
    analysis::saturation::{IntegerWeight, Written, saturating},
    numerics::{rounding::Inputs, weight_scales::quantize_rows},
    target::Pairing,
};

/// See the [module](self).
pub struct FixSaturation;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fix-saturation",
    class: Class::Approximate,
    about: "gives int8 weights of another tool new scales where sums of products can saturate",
    when: When::Requested("input that is quantized already"),
};

impl Rewrite for FixSaturation {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        repair(graph, op)
    }
}

/// Scales as a file states them: of the whole weight, or of each output channel.
struct Scales {
    numbers: Vec<f64>,
    zero_points: Vec<f64>,
}

impl Scales {
    fn of(graph: &Graph, scale: Option<ValueId>, zero_point: Option<ValueId>, rows: usize) -> Result<Scales, Miss> {
        let scale = scale.ok_or(Miss::NotThisPattern)?;
        let numbers = constant(graph, scale)?;
        let zero_points = zero_point.map_or(Ok(vec![0.0]), |zero_point| constant(graph, zero_point))?;
        let fits = |numbers: &[f64]| numbers.len() == 1 || numbers.len() == rows;
        if !fits(&numbers) || !fits(&zero_points) || numbers.iter().any(|scale| !scale.is_finite() || *scale <= 0.0) {
            return Err(Miss::Form("the weight's scales are not one for each output channel"));
        }
        Ok(Scales { numbers, zero_points })
    }

    fn at(&self, row: usize) -> f64 {
        self.numbers[row % self.numbers.len()]
    }

    fn zero_point(&self, row: usize) -> f64 {
        self.zero_points[row % self.zero_points.len()]
    }
}

fn constant(graph: &Graph, value: ValueId) -> Result<Vec<f64>, Miss> {
    graph.constant(value).and_then(Tensor::to_f64_vec).ok_or(Miss::NotConstant(value))
}

/// A bias in 32 bits, one a row, with the scale that the file states for each.
struct Bias {
    value: ValueId,
    /// Its Dequantize, and the op and input that read it; `None` for QLinearConv
    read: Option<(OpId, OpId, usize)>,
    /// What the numbers stand for
    real: Vec<f64>,
}

/// New weights: integers in the layout of the file, and by which factor each row's scale grew.
struct Repaired {
    integers: Tensor,
    factors: Vec<f64>,
}

fn repair(graph: &Graph, op: OpId) -> Result<Patch, Miss> {
    let weight = IntegerWeight::of(graph, op).ok_or(Miss::NotThisPattern)?;
    if weight.saturating_pairs(graph).is_none_or(|(pairs, _)| pairs == 0) {
        return Err(Miss::NotThisPattern);
    }
    match weight.written {
        Written::Pairs(by) => pairs(graph, op, &weight, by),
        Written::Operator => operator(graph, op, &weight),
        Written::Accumulator => accumulator(graph, op, &weight),
    }
}

/// Rows with a pair that can saturate get another scale; with `whole`, all get one scale together. `least` by row bounds it
/// from below, in units of the old one.
fn requantize(
    graph: &Graph,
    op: OpId,
    weight: &IntegerWeight,
    scales: &Scales,
    whole: bool,
    least: &[f64],
) -> Result<Repaired, Miss> {
    let dims = graph.constant(weight.value).map(|tensor| tensor.dims().to_vec()).ok_or(Miss::NotThisPattern)?;
    let mut rows = weight.rows(graph).ok_or(Miss::NotThisPattern)?;
    // Zero points that are not zero are given up, for all rows: engines want one for all.
    let shifted = scales.zero_points.iter().any(|zero_point| *zero_point != 0.0);
    let can_saturate: Vec<bool> = rows.outer_iter().map(|row| saturating(row.iter().copied()) > 0).collect();
    for (index, mut row) in rows.outer_iter_mut().enumerate() {
        row -= scales.zero_point(index);
    }
    let inputs = assumed(graph, op, weight, &dims);
    let mut integers = rows.mapv(|w| w as i8);
    let mut factors = vec![1.0; rows.nrows()];
    let chosen: Vec<usize> = (0..rows.nrows()).filter(|row| whole || shifted || can_saturate[*row]).collect();
    let part = Array2::from_shape_fn((chosen.len(), rows.ncols()), |(row, column)| rows[(chosen[row], column)]);
    let mut least: Vec<f64> = chosen.iter().map(|row| least.get(*row).copied().unwrap_or(0.0)).collect();
    let mut quantized = quantize_rows(&part, &inputs, Pairing::Neighbours, &least);
    if whole {
        let largest = quantized.scales.iter().copied().fold(0.0, f32::max);
        least.fill(f64::from(largest));
        quantized = quantize_rows(&part, &inputs, Pairing::Neighbours, &least);
    }
    for (place, &row) in chosen.iter().enumerate() {
        integers.row_mut(row).assign(&quantized.integers.row(place));
        factors[row] = f64::from(quantized.scales[place]);
    }
    let integers = weight.layer.layout.from_rows(integers, &dims, RowOrder::ChannelsLast);
    let integers = integers.expect("as many rows as the weight has").into_iter().collect();
    Ok(Repaired { integers: Tensor::from_vec(&dims, integers), factors })
}

/// What the numbers that the weights of `op` meet are like, by the zero point that the file states for them.
fn assumed(graph: &Graph, op: OpId, weight: &IntegerWeight, dims: &[usize]) -> Inputs {
    let node = graph.op(op);
    let stated = match weight.written {
        Written::Pairs(_) => node.input(0).and_then(|x| graph.op(graph.producer(x)?).input(2)),
        Written::Operator | Written::Accumulator => node.input(2),
    };
    let zero_point = stated.and_then(|value| graph.constant(value)).and_then(|tensor| {
        let first = if tensor.dtype() == DataType::Int8 { 128.0 } else { 0.0 };
        tensor.to_scalar_f64().map(|zero_point| zero_point + first)
    });
    Inputs::quantized(if weight.layer.is_conv() { &dims[2..] } else { &[] }, zero_point)
}

fn name(graph: &Graph, value: ValueId) -> &str {
    graph.name_of(value)
}

/// A tensor of float scales: one a row, or of one element as `like` has it.
fn scale_tensor(graph: &Graph, like: Option<ValueId>, scales: &[f32], whole: bool) -> Tensor {
    if whole {
        let like = like.and_then(|like| graph.constant(like)).filter(|tensor| tensor.len() == 1);
        let dims = like.map_or(&[][..], Tensor::dims);
        return Tensor::from_vec(dims, vec![scales.first().copied().unwrap_or(1.0)]);
    }
    Tensor::from_vec(&[scales.len()], scales.to_vec())
}

fn grown(scales: &Scales, repaired: &Repaired) -> Vec<f32> {
    repaired.factors.iter().enumerate().map(|(row, factor)| (scales.at(row) * factor) as f32).collect()
}

/// Lower bounds of factors with which a bias in steps of `x_scale` times the weight's scale fits its 32 bits.
fn least_for(bias: Option<&Bias>, x_scale: f64, scales: &Scales) -> Vec<f64> {
    let step = |row: usize| x_scale * scales.at(row) * 2f64.powi(30);
    bias.map_or_else(Vec::new, |bias| bias.real.iter().enumerate().map(|(row, b)| b.abs() / step(row)).collect())
}

fn integers(bias: &Bias, scales: &[f64]) -> Vec<i32> {
    bias.real.iter().zip(scales).map(|(b, scale)| (b / scale).round_ties_even() as i32).collect()
}

/// Conv, Gemm or MatMul between Dequantizes; `by` is that of the weight.
fn pairs(graph: &Graph, op: OpId, weight: &IntegerWeight, by: OpId) -> Result<Patch, Miss> {
    let (node, dequantize) = (graph.op(op), graph.op(by));
    let dims = graph.constant(weight.value).map(Tensor::dims).ok_or(Miss::NotConstant(weight.value))?;
    let rows = weight.rows(graph).ok_or(Miss::NotThisPattern)?.nrows();
    let scales = Scales::of(graph, dequantize.input(1), dequantize.input(2), rows)?;
    let axis = weight.layer.layout.output_axis(dims.len()).ok_or(Miss::NotThisPattern)?;
    let stated = DequantizeLinear::of(graph, by).and_then(|pair| pair.axis_of(dims.len()));
    if scales.numbers.len() > 1 && (stated != Some(axis) || dims[axis] != rows) {
        return Err(Miss::Form("the weight's scales are not one for each output channel"));
    }
    let whole = scales.numbers.len() == 1 && !(weight.layer.is_conv() && graph.opset() >= 13);
    let x = node.input(0).and_then(|x| graph.producer(x));
    let x_scale = x.and_then(|x| graph.constant(graph.op(x).input(1)?)?.to_scalar_f64());
    let bias = bias_of_pairs(graph, &weight.layer, rows)?;
    let least = least_for(bias.as_ref(), x_scale.unwrap_or(f64::INFINITY), &scales);
    let repaired = requantize(graph, op, weight, &scales, whole, &least)?;
    let new_scales = grown(&scales, &repaired);

    let mut patch = Patch::new(op);
    let integers_value = patch.constant(name(graph, weight.value), repaired.integers.clone());
    let scale_base = dequantize.input(1).map_or("s", |scale| name(graph, scale));
    let tensor = scale_tensor(graph, dequantize.input(1), &new_scales, whole);
    let zeros = Tensor::from_vec(tensor.dims(), vec![0i8; tensor.len()]);
    let scale_value = patch.constant(scale_base, tensor);
    let mut inputs = vec![Some(integers_value), Some(scale_value)];
    if let Some(zero_point) = dequantize.input(2) {
        inputs.push(Some(patch.constant(name(graph, zero_point), zeros)));
    }
    let new = again(graph, by, (!whole).then_some(axis));
    let output = dequantize.output(0).ok_or(Miss::NotThisPattern)?;
    let made = patch.op(new, &inputs, name(graph, output), graph.ty(output).cloned());
    take_place(graph, &mut patch, by, op, 1, made);
    if let Some(Bias { value, read: Some((dequantize, reader, index)), .. }) = &bias
        && let Some(bias) = &bias
    {
        let factor = |row: usize| repaired.factors[row];
        let old = Scales::of(graph, graph.op(*dequantize).input(1), None, rows)?;
        let steps: Vec<f32> = (0..rows)
            .map(|row| match x_scale {
                Some(x_scale) => x_scale as f32 * new_scales[row],
                None => (old.at(row) * factor(row)) as f32,
            })
            .collect();
        let steps_f64: Vec<f64> = steps.iter().map(|step| f64::from(*step)).collect();
        let dims = graph.constant(*value).map(Tensor::dims).ok_or(Miss::NotConstant(*value))?;
        let numbers = patch.constant(name(graph, *value), Tensor::from_vec(dims, integers(bias, &steps_f64)));
        let old = graph.op(*dequantize);
        let tensor = scale_tensor(graph, old.input(1), &steps, whole);
        let zeros = Tensor::from_vec(tensor.dims(), vec![0i32; tensor.len()]);
        let scale = patch.constant(old.input(1).map_or("s", |scale| name(graph, scale)), tensor);
        let mut inputs = vec![Some(numbers), Some(scale)];
        if let Some(zero_point) = old.input(2) {
            inputs.push(Some(patch.constant(name(graph, zero_point), zeros)));
        }
        let new = again(graph, *dequantize, (!whole).then(|| dims.len().saturating_sub(1)));
        let output = old.output(0).ok_or(Miss::NotThisPattern)?;
        let made = patch.op(new, &inputs, name(graph, output), graph.ty(output).cloned());
        take_place(graph, &mut patch, *dequantize, *reader, *index, made);
    }
    Ok(patch)
}

/// `reader` reads `made` where it read the Dequantize `old`; so does everybody, where `reader` is the only one.
fn take_place(graph: &Graph, patch: &mut Patch, old: OpId, reader: OpId, index: usize, made: ValueRef) {
    match graph.op(old).output(0) {
        Some(output) if graph.only_use(output) == Some((reader, index)) => patch.replace(output, made),
        _ => patch.set_input(reader, index, Some(made)),
    }
}

/// The Dequantize `op` again, along `axis` where it is per channel; without its name where it stays for others.
fn again(graph: &Graph, op: OpId, axis: Option<usize>) -> NewOp {
    let mut node = graph.op(op).proto().clone();
    node.attribute.retain(|attribute| attribute.name() != "axis");
    if graph.op(op).output(0).and_then(|output| graph.only_use(output)).is_none() {
        node.name = None;
    }
    let new = NewOp { node };
    match axis {
        Some(1) | None => new,
        Some(axis) => new.with(attributes::int("axis", axis as i64)),
    }
}

/// The bias of a Conv or Gemm, or of the Add that alone reads a MatMul, where it is dequantized from 32 bits.
fn bias_of_pairs(graph: &Graph, layer: &WeightedLayer, rows: usize) -> Result<Option<Bias>, Miss> {
    let place = match layer.kind {
        LayerKind::MatMul => layer.added_bias(graph).map(|added| (added.add, added.input, added.bias)),
        _ => layer.bias.zip(layer.bias_input).map(|(bias, input)| (layer.op, input, bias)),
    };
    let Some((reader, index, bias)) = place else { return Ok(None) };
    let Some(dequantize) = graph.producer(bias) else { return Ok(None) };
    let node = graph.op(dequantize);
    let Some(value) = node.input(0).filter(|_| node.is("DequantizeLinear")) else { return Ok(None) };
    let Some(tensor) = graph.constant(value).filter(|tensor| tensor.dtype() == DataType::Int32) else {
        return Ok(None);
    };
    let scales = Scales::of(graph, node.input(1), node.input(2), rows)?;
    let numbers = tensor.to_f64_vec().ok_or(Miss::NotConstant(value))?;
    if numbers.len() != rows {
        return Err(Miss::Form("the bias is not one number for each output channel"));
    }
    let real = numbers.iter().enumerate().map(|(row, b)| (b - scales.zero_point(row)) * scales.at(row)).collect();
    Ok(Some(Bias { value, read: Some((dequantize, reader, index)), real }))
}

/// QLinearConv and QLinearMatMul.
fn operator(graph: &Graph, op: OpId, weight: &IntegerWeight) -> Result<Patch, Miss> {
    let node = graph.op(op);
    let rows = weight.rows(graph).ok_or(Miss::NotThisPattern)?.nrows();
    let scales = Scales::of(graph, node.input(4), node.input(5), rows)?;
    let whole = scales.numbers.len() == 1 && !weight.layer.is_conv();
    let x_scale = node.input(1).and_then(|x| graph.constant(x)).and_then(Tensor::to_scalar_f64);
    let bias = match node.input(8).filter(|_| weight.layer.is_conv()) {
        Some(value) => {
            let x_scale = x_scale.ok_or(Miss::Form("the input's scale is not constant"))?;
            let numbers = constant(graph, value)?;
            let real = numbers.iter().enumerate().map(|(row, b)| b * x_scale * scales.at(row)).collect();
            Some(Bias { value, read: None, real })
        }
        None => None,
    };
    let least = least_for(bias.as_ref(), x_scale.unwrap_or(f64::INFINITY), &scales);
    let repaired = requantize(graph, op, weight, &scales, whole, &least)?;
    let new_scales = grown(&scales, &repaired);
    let mut patch = Patch::new(op);
    let integers_value = patch.constant(name(graph, weight.value), repaired.integers.clone());
    patch.set_input(op, 3, Some(integers_value));
    let tensor = scale_tensor(graph, node.input(4), &new_scales, whole);
    let zeros = Tensor::from_vec(tensor.dims(), vec![0i8; tensor.len()]);
    let scale_value = patch.constant(node.input(4).map_or("s", |scale| name(graph, scale)), tensor);
    patch.set_input(op, 4, Some(scale_value));
    let zero_value = patch.constant(node.input(5).map_or("z", |zero_point| name(graph, zero_point)), zeros);
    patch.set_input(op, 5, Some(zero_value));
    if let (Some(bias), Some(x_scale)) = (&bias, x_scale) {
        let steps: Vec<f64> = new_scales.iter().map(|scale| x_scale * f64::from(*scale)).collect();
        let dims = graph.constant(bias.value).map(Tensor::dims).ok_or(Miss::NotConstant(bias.value))?;
        let numbers = integers(bias, &steps);
        if dims.iter().product::<usize>() != numbers.len() || numbers.len() != rows {
            return Err(Miss::Form("the bias is not one number for each output channel"));
        }
        let value = patch.constant(name(graph, bias.value), Tensor::from_vec(dims, numbers));
        patch.set_input(op, 8, Some(value));
    }
    Ok(patch)
}

/// ConvInteger and MatMulInteger: the scale stands in the Mul behind the Cast of the sums, or in a Mul of two scales before it.
fn accumulator(graph: &Graph, op: OpId, weight: &IntegerWeight) -> Result<Patch, Miss> {
    let node = graph.op(op);
    let rows = weight.rows(graph).ok_or(Miss::NotThisPattern)?.nrows();
    let unscaled = Miss::Form("the sums are not scaled by one Mul with a constant scale of the weight");
    let next = |value: Option<ValueId>, op_type: &str| {
        value.and_then(|value| graph.only_use(value)).filter(|(op, _)| graph.op(*op).is(op_type))
    };
    let cast = next(node.output(0), "Cast").ok_or(unscaled.clone())?;
    let (mut mul, mut index) = next(graph.op(cast.0).output(0), "Mul").ok_or(unscaled.clone())?;
    index = 1 - index.min(1);
    if let Some(of_scales) = graph.op(mul).input(index).and_then(|value| graph.producer(value))
        && graph.op(of_scales).is("Mul")
        && graph.op(of_scales).output(0).and_then(|value| graph.only_use(value)).is_some()
    {
        mul = of_scales;
        index = usize::from(graph.op(mul).input(0).is_none_or(|value| graph.constant(value).is_none()));
    }
    let scale = graph.op(mul).input(index).ok_or(unscaled.clone())?;
    let tensor = graph.constant(scale).ok_or(unscaled.clone())?;
    let by_row = tensor.len() == rows && tensor.len() > 1;
    let last = tensor.dims().last().copied().unwrap_or(1);
    let in_place = if weight.layer.is_conv() { last == 1 } else { last == rows };
    if tensor.dtype() != DataType::Float || !(tensor.len() == 1 || (by_row && in_place)) {
        return Err(unscaled);
    }
    let scales = Scales::of(graph, Some(scale), node.input(3), rows)?;
    if scales.zero_points.iter().any(|zero_point| *zero_point != 0.0) {
        return Err(Miss::Form("the weight's zero point is not zero"));
    }
    let repaired = requantize(graph, op, weight, &scales, !by_row, &[])?;
    let numbers = grown(&scales, &repaired)[..tensor.len()].to_vec();
    let mut patch = Patch::new(op);
    let integers_value = patch.constant(name(graph, weight.value), repaired.integers.clone());
    patch.set_input(op, 1, Some(integers_value));
    let scale_value = patch.constant(name(graph, scale), Tensor::from_vec(tensor.dims(), numbers));
    patch.set_input(mul, index, Some(scale_value));
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::Model;

    use super::FixSaturation;
    use crate::{
        Options,
        analysis::saturation::saturating_layers,
        testing::{check_missed, check_same, parse, run},
    };

    /// `body` with a weight that saturates, after the pass.
    fn repaired(constants: &str, body: &str, output: &str) -> Model {
        let text = format!(
            "g (uint8[1,2] x) => ({output} y) <float s = {{0.5}}, uint8 z = {{3}}, int8 wz = {{0}}, int8[2,2] w = {{100, 100, 100, -100}}, {constants}> {{ {body} }}"
        );
        let mut model = parse(&text);
        assert_eq!(saturating_layers(&model.graph).len(), 1, "{body}");
        run(&FixSaturation, &mut model.graph, Options::default());
        assert_eq!(saturating_layers(&model.graph), [], "{body}");
        model
    }

    fn numbers(model: &Model, op_type: &str, index: usize) -> Vec<f64> {
        let graph = &model.graph;
        let op = graph.op(graph.ops_of(op_type)[0]);
        graph.constant(op.input(index).unwrap()).unwrap().to_f64_vec().unwrap()
    }

    #[test]
    fn only_the_rows_that_saturate_change_and_their_bias_goes_with_them() {
        let model = repaired(
            "float[2] t = {0.5, 0.25}, int32[2] b = {1000, 1000}, float[2] bt = {0.25, 0.125}",
            "d = DequantizeLinear (x, s, z)  v = DequantizeLinear <axis = 0> (w, t)  c = DequantizeLinear <axis = 0> (b, bt)
             y = Gemm <transB = 1> (d, v, c)",
            "float[1,2]",
        );
        let graph = &model.graph;
        let of = |bytes: usize| {
            let is = |op: &onnx_shrink_ir::OpId| {
                graph
                    .constant(graph.op(*op).input(0).unwrap_or_else(|| panic!("an input")))
                    .is_some_and(|tensor| tensor.byte_len() == bytes)
            };
            let op = graph.ops_of("DequantizeLinear").into_iter().find(is).expect("one");
            [0, 1].map(|index| graph.constant(graph.op(op).input(index).unwrap()).unwrap().to_f64_vec().unwrap())
        };
        let [weights, scales] = of(4);
        let [bias, bias_scales] = of(8);
        assert_eq!(weights[2..], [100.0, -100.0]);
        assert_eq!((scales[1], bias[1], bias_scales[1]), (0.25, 1000.0, 0.125));
        assert!((weights[0] * scales[0] - 50.0).abs() <= scales[0] * 0.51);
        assert!((bias[0] * bias_scales[0] - 250.0).abs() <= bias_scales[0] / 2.0);
        assert_eq!(bias_scales[0], f64::from(0.5f32 * scales[0] as f32));
    }

    #[test]
    fn a_matrix_keeps_one_scale() {
        let body = "q = QLinearMatMul (x, s, z, w, s, wz, s, z)  y = DequantizeLinear (q, s, z)";
        let model = repaired("float t = {0.5}", body, "float[1,2]");
        assert_eq!(numbers(&model, "QLinearMatMul", 4).len(), 1);
        let body = "i = MatMulInteger (x, w, z)  f = Cast <to = 1> (i)  y = Mul (f, t)";
        let model = repaired("float t = {0.25}", body, "float[1,2]");
        let (weights, scale) = (numbers(&model, "MatMulInteger", 1), numbers(&model, "Mul", 1)[0]);
        assert!(weights.iter().all(|w| (w.abs() * scale - 25.0).abs() <= scale * 0.51), "{weights:?} {scale}");
    }

    #[test]
    fn a_convolution_gets_a_scale_for_each_channel_and_its_bias_keeps_its_value() {
        let text = "g (uint8[1,2,3] x) => (uint8[1,2,3] y) <int8[2,2,1] w = {100, 100, 1, 2}, float s = {0.5}, uint8 z = {3}, int8 wz = {0}, int32[2] b = {100, 100}> {
            y = QLinearConv (x, s, z, w, s, wz, s, z, b) }";
        let mut model = parse(text);
        run(&FixSaturation, &mut model.graph, Options::default());
        assert_eq!(saturating_layers(&model.graph), []);
        let (scales, bias) = (numbers(&model, "QLinearConv", 4), numbers(&model, "QLinearConv", 8));
        assert_eq!((scales[1], bias[1]), (0.5, 100.0));
        assert!((bias[0] * scales[0] - 50.0).abs() <= scales[0] * 0.51, "{bias:?} {scales:?}");
    }

    #[test]
    fn others_of_a_shared_weight_keep_it() {
        let constants = "float[2] t = {0.5, 0.5}, float[2,2] r = {1, 2, 3, 4}";
        let body =
            "d = DequantizeLinear (x, s, z)  v = DequantizeLinear <axis = 0> (w, t)  a = Gemm <transB = 1> (d, v)
                    f = Mul (r, v)  y = MatMul (a, f)";
        let model = repaired(constants, body, "float[1,2]");
        assert_eq!(model.graph.ops_of("DequantizeLinear").len(), 3);
    }

    #[test]
    fn what_is_sound_stays_and_what_is_not_understood_says_why() {
        check_same(
            &FixSaturation,
            "g (uint8[1,2] x) => (float[1,2] y) <int8[2,2] w = {64, 64, 1, 127}, float s = {0.5}> {
                d = DequantizeLinear (x, s)  v = DequantizeLinear (w, s)  y = Gemm <transB = 1> (d, v) }",
        );
        check_missed(
            &FixSaturation,
            "g (uint8[1,2] x, float t) => (float[1,2] y) <int8[2,2] w = {100, 100, 1, 127}> {
                i = MatMulInteger (x, w)  f = Cast <to = 1> (i)  y = Mul (f, t) }",
            "no rule for this form: the sums are not scaled by one Mul with a constant scale of the weight",
        );
        check_missed(
            &FixSaturation,
            "g (uint8[1,2] x) => (float[1,2] y) <int8[2,2] w = {100, 100, 1, 127}, float s = {0.5}, float[2] t = {0.5, 1}> {
                d = DequantizeLinear (x, s)  v = DequantizeLinear (w, t)  y = Gemm <transB = 1> (d, v) }",
            "no rule for this form: the weight's scales are not one for each output channel",
        );
    }
}
