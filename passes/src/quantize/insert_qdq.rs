//! Puts Quantize/Dequantize pairs around the units that a placement chose, and their weights and biases in integers.
//!
//! ```onnx before
//! # x: float[1,2,4,4]; w: float[3,2,3,3]; b: float[3]
//! y = Conv (x, w, b)
//! ```
//! ```onnx after
//! q = QuantizeLinear (x, x_scale, x_zero_point)
//! d = DequantizeLinear (q, x_scale, x_zero_point)
//! w_d = DequantizeLinear <axis = 0> (w_q, w_scale)
//! b_d = DequantizeLinear <axis = 0> (b_q, b_scale)
//! c = Conv (d, w_d, b_d)
//! p = QuantizeLinear (c, y_scale, y_zero_point)
//! y = DequantizeLinear (p, y_scale, y_zero_point)
//! ```
//! So for `ort-cpu`; what another engine wants stands in its row of [`crate::target`]. Activations are u8 per tensor with zero
//! exact; weights s8 per output channel with zero point 0, such that no pair of them
//! saturates anywhere ([`crate::numerics::weight_scales`]); biases s32 with the scale f32(s_x·s_w), corrected by (W − Ŵ)·E\[x\] with the mean
//! that calibration saw (Nagel et al. 2019, arXiv 1906.04721, §4.2).
//!
//! **Class:** approximate. **Legal when** the unit's form is one of [`crate::analysis::units`]. Which forms engines fuse,
//! and that Gemm needs the zero point of its weight, was found by looking at what ONNX Runtime 1.16 to 1.32 makes of them.
use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, Array2};
use onnx_shrink_ir::{
    DataType, DisjointSets, Graph, NewOp, OpId, Patch, Tensor, TensorType, ValueId, ValueRef, attributes,
    ops::{RowOrder, WeightShape, WeightedLayer, is_clip},
};

use crate::{
    Class, Context, Description, Pass, Result, When,
    analysis::units::{Form, Unit, Units, paired, readers},
    calibration::{calibrators::Calibrator, collect::Calibration},
    numerics::{
        rounding::Inputs,
        weight_scales::{ScaleRule, output_shift, quantize_rows, up_to_power_of_two},
    },
    target::{Bias, Pairing, Target},
};

/// See the [module](self).
pub struct InsertQdq<'a> {
    /// What the samples showed
    pub calibration: &'a Calibration,
    /// Which part of it 8 bits cover
    pub calibrator: Calibrator,
    /// The units of the graph
    pub units: &'a Units,
    /// Which of them run in integers
    pub integer: &'a [bool],
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "insert-qdq",
    class: Class::Approximate,
    about: "inserts Q/DQ pairs where the target gains from them",
    when: When::Requested("--int8 with ranges"),
};

impl Pass for InsertQdq<'_> {
    fn description(&self) -> &'static Description {
        &PASS
    }

    /// Works on the graph that `units` was found in; a body has none of them.
    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() {
            return Ok(());
        }
        let mut insertion = Insertion::new(self, graph);
        let mut paired = if self.units.target.pairs_behind_moves { BTreeSet::new() } else { insertion.moved() };
        paired.extend(&insertion.theirs);
        for value in insertion.quantized.clone().into_iter().filter(|value| !paired.contains(value)) {
            insertion.pair(graph, cx, value)?;
        }
        for (index, unit) in self.units.units.iter().enumerate() {
            if self.integer[index] && unit.is_weighted() {
                insertion.weights(graph, cx, unit)?;
            }
        }
        Ok(())
    }
}

/// Scale and zero point of an activation.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Parameters {
    scale: f32,
    zero_point: i32,
}

/// The parameters that cover [low, high] and zero in the integers `a` … `b`: s = (h − l)/(b − a), z = rne(a − l/s);
/// symmetric: s = max(−l, h)/127, z in the middle.
fn parameters(target: &Target, (low, high): (f64, f64)) -> Parameters {
    let (low, high) = (low.min(0.0), high.max(0.0));
    let (least, most) = target.span();
    let middle = if target.activations == DataType::Int8 { 0 } else { 128 };
    let mut scale = if target.symmetric { high.max(-low) / 127.0 } else { (high - low) / f64::from(most - least) };
    if target.power_of_two {
        scale = up_to_power_of_two(scale);
    }
    let one = if target.scale_of_one { 1.0 } else { 1f32.next_up() };
    let scale = if scale as f32 == 1.0 { one } else { scale as f32 };
    if !scale.is_normal() {
        return Parameters { scale: one, zero_point: if target.symmetric { middle } else { least } };
    }
    if target.symmetric {
        return Parameters { scale, zero_point: middle };
    }
    let zero_point = (f64::from(least) - low / f64::from(scale)).round_ties_even();
    Parameters { scale, zero_point: zero_point.clamp(f64::from(least), f64::from(most)) as i32 }
}

/// A zero point, or a row of equal ones, in the target's type of activations.
fn zero_points(target: &Target, dims: &[usize], zero_point: i32) -> Tensor {
    let count = dims.iter().product();
    match target.activations {
        DataType::Int8 => Tensor::from_vec(dims, vec![zero_point as i8; count]),
        _ => Tensor::from_vec(dims, vec![zero_point as u8; count]),
    }
}

/// Integers −128 … 127 in the target's type of weights: u8 has its zero at 128.
fn weight_integers(target: &Target, dims: &[usize], integers: Vec<i8>) -> Tensor {
    match target.weights {
        DataType::Uint8 => Tensor::from_vec(dims, integers.into_iter().map(|w| (i16::from(w) + 128) as u8).collect()),
        _ => Tensor::from_vec(dims, integers),
    }
}

/// Constants that the patches made, to be shared: key is type, dimensions and bytes.
type Shared = BTreeMap<(DataType, Vec<usize>, Vec<u8>), ValueId>;

struct Insertion<'a> {
    plan: &'a InsertQdq<'a>,
    parameters: BTreeMap<ValueId, Parameters>,
    quantized: Vec<ValueId>,
    made_integer: BTreeSet<ValueId>,
    /// Values that the file quantizes itself
    theirs: BTreeSet<ValueId>,
    /// Inputs of ops that read a value with the parameters of another one
    again: BTreeMap<(OpId, usize), ValueId>,
    shared: Shared,
}

/// Ranges that differ by more are not worth one scale: the narrow one would lose two bits.
const SHARED_SPREAD: f64 = 4.0;

impl<'a> Insertion<'a> {
    fn new(plan: &'a InsertQdq<'a>, graph: &Graph) -> Insertion<'a> {
        let units = &plan.units.units;
        let on = || units.iter().zip(plan.integer).filter(|(_, on)| **on).map(|(unit, _)| unit);
        let mut quantized = BTreeSet::new();
        let mut made_integer = BTreeSet::new();
        for unit in on() {
            quantized.extend(unit.inputs.iter().map(|(_, value)| *value));
            for &output in &unit.outputs {
                let (by, _) = readers(graph, plan.units, output);
                if !unit.ends_float || by.iter().any(|reader| plan.integer[*reader]) {
                    quantized.insert(output);
                    made_integer.insert(output);
                }
            }
        }
        let mut ranges: BTreeMap<ValueId, (f64, f64)> = BTreeMap::new();
        let mut at_least_zero: BTreeMap<ValueId, Option<f64>> = BTreeMap::new();
        for &value in &quantized {
            let range = match plan.calibration.values.get(&value) {
                Some(seen) => plan.calibrator.range(&seen.histogram),
                None => graph.constant(value).and_then(range_of_constant).unwrap_or((0.0, 0.0)),
            };
            ranges.insert(value, range);
        }
        let target = plan.units.target;
        let mut fixed: BTreeMap<ValueId, Parameters> = BTreeMap::new();
        let mut theirs = BTreeSet::new();
        for &value in &quantized {
            if let Some((scale, zero_point)) = paired(graph, value, target) {
                fixed.insert(value, Parameters { scale, zero_point });
                theirs.insert(value);
            }
        }
        for unit in on() {
            let Some(&output) = unit.outputs.first() else { continue };
            let Some(range) = ranges.get_mut(&output) else { continue };
            if let Some((_, scale, zero_point)) = target.fixed.iter().find(|(op, ..)| graph.op(unit.op).is(op)) {
                fixed.insert(output, Parameters { scale: *scale, zero_point: *zero_point });
            }
            if graph.op(unit.op).is("Sigmoid") {
                *range = (0.0, 1.0);
            }
            if unit.activation.is_some() {
                at_least_zero.insert(output, unit.upper);
                *range = (0.0, unit.upper.map_or(range.1, |upper| range.1.min(upper)).max(0.0));
            }
        }
        // Moved values keep their parameters; joined values get common ones where that costs neither bits nor the
        // fusion of a Relu (its output's range must begin at zero).
        let mut groups = DisjointSets::new(graph.bound()); // by index of the value
        let mut again = BTreeMap::new();
        for unit in on().filter(|unit| unit.form == Form::Shared && unit.inputs.len() == 1) {
            for &output in &unit.outputs {
                groups.join(unit.inputs[0].1.index(), output.index());
            }
        }
        for unit in on().filter(|unit| unit.form == Form::Shared && unit.inputs.len() > 1) {
            let output = unit.outputs[0].index();
            let mut members: Vec<usize> = unit.inputs.iter().map(|(_, value)| groups.least(value.index())).collect();
            members.push(groups.least(output));
            let whole: Vec<ValueId> =
                quantized.iter().copied().filter(|value| members.contains(&groups.least(value.index()))).collect();
            let spans: Vec<(f64, f64)> = whole.iter().filter_map(|value| ranges.get(value).copied()).collect();
            let low = spans.iter().fold(0f64, |low, span| low.min(span.0));
            let high = spans.iter().fold(0f64, |high, span| high.max(span.1));
            let near = spans.iter().all(|span| (span.1.max(0.0) - span.0.min(0.0)) * SHARED_SPREAD >= high - low);
            let fuses = whole
                .iter()
                .filter_map(|value| at_least_zero.get(value))
                .all(|upper| low >= 0.0 && upper.is_none_or(|upper| high <= upper));
            if target.one_scale.contains(&graph.op(unit.op).op_type()) {
                for &(index, value) in &unit.inputs {
                    // What has a scale of its own is brought to that of the others by another pair.
                    if fixed.keys().any(|known| groups.least(known.index()) == groups.least(value.index())) {
                        again.insert((unit.op, index), unit.outputs[0]);
                    } else {
                        groups.join(value.index(), output);
                    }
                }
            } else if near && fuses && !whole.iter().any(|value| fixed.contains_key(value)) {
                for (_, value) in &unit.inputs {
                    groups.join(value.index(), output);
                }
            }
        }
        let mut joined: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for (value, range) in &ranges {
            let whole = joined.entry(groups.least(value.index())).or_insert(*range);
            *whole = (whole.0.min(range.0), whole.1.max(range.1));
        }
        let fixed: BTreeMap<usize, Parameters> =
            fixed.into_iter().map(|(value, parameters)| (groups.least(value.index()), parameters)).collect();
        let of = |value: ValueId| {
            let group = groups.least(value.index());
            fixed.get(&group).copied().unwrap_or_else(|| parameters(target, joined[&group]))
        };
        let parameters = ranges.keys().map(|&value| (value, of(value))).collect();
        let quantized = quantized.into_iter().collect();
        Insertion { plan, parameters, quantized, made_integer, theirs, again, shared: Shared::new() }
    }

    /// Values that integer units make by moving others with the same parameters.
    fn moved(&self) -> BTreeSet<ValueId> {
        let units = self.plan.units.units.iter().zip(self.plan.integer);
        let moves = units.filter(|(unit, on)| {
            let same = |value: &ValueId| self.parameters.get(value) == self.parameters.get(&unit.outputs[0]);
            **on && unit.form == Form::Shared && unit.inputs.iter().all(|(_, value)| same(value))
        });
        moves.flat_map(|(unit, _)| unit.outputs.iter().copied()).collect()
    }

    /// A constant that is in the file once, however many ops read it.
    fn constant(&self, patch: &mut Patch, fresh: &mut Vec<(Key, ValueRef)>, base: &str, tensor: Tensor) -> ValueRef {
        let bytes = tensor.bytes().expect("scales, zero points and weights are numbers").to_vec();
        let key = (tensor.dtype(), tensor.dims().to_vec(), bytes);
        if let Some(&value) = self.shared.get(&key) {
            return value.into();
        }
        if let Some((_, value)) = fresh.iter().find(|(known, _)| *known == key) {
            return *value;
        }
        let value = patch.constant(base, tensor);
        fresh.push((key, value));
        value
    }

    fn apply(
        &mut self,
        graph: &mut Graph,
        cx: &mut Context<'_>,
        patch: Patch,
        fresh: Vec<(Key, ValueRef)>,
    ) -> Result<()> {
        if let Some(applied) = cx.apply(graph, patch)? {
            for (key, value) in fresh {
                if let ValueRef::New(index) = value
                    && graph.has_value(applied.values[index])
                {
                    self.shared.insert(key, applied.values[index]);
                }
            }
        }
        Ok(())
    }

    /// The Quantize/Dequantize pair of `value`. An integer kernel's output goes to its Quantize alone, so everybody reads
    /// the Dequantize; of a float value only the integer units do.
    fn pair(&mut self, graph: &mut Graph, cx: &mut Context<'_>, value: ValueId) -> Result<()> {
        let Parameters { scale, zero_point } = self.parameters[&value];
        let target = self.plan.units.target;
        let (units, _) = readers(graph, self.plan.units, value);
        let integer_readers: Vec<&Unit> =
            units.iter().filter(|unit| self.plan.integer[**unit]).map(|unit| &self.plan.units.units[*unit]).collect();
        let Some(anchor) = graph.producer(value).or_else(|| integer_readers.first().map(|unit| unit.op)) else {
            return Ok(());
        };
        let mut patch = Patch::new(anchor);
        let mut fresh = Vec::new();
        let scale_value = self.constant(&mut patch, &mut fresh, "s", Tensor::scalar(scale));
        let zero_value = self.constant(&mut patch, &mut fresh, "z", zero_points(target, &[], zero_point));
        let ty = graph.ty(value).cloned();
        let bytes = ty.clone().map(|ty| TensorType { dtype: target.activations, ..ty });
        let parameters = [Some(scale_value), Some(zero_value)];
        let inputs = |x: ValueRef| [Some(x), parameters[0], parameters[1]];
        let q = match graph
            .constant(value)
            .and_then(|constant| quantized_constant(target, self.parameters[&value], constant))
        {
            Some(integers) => self.constant(&mut patch, &mut fresh, "c", integers),
            None => patch.op(NewOp::new("QuantizeLinear"), &inputs(value.into()), "q", bytes),
        };
        let d = patch.op(NewOp::new("DequantizeLinear"), &inputs(q), "d", ty.clone());
        if self.made_integer.contains(&value) {
            patch.replace(value, d);
            let apart = self.float_between(graph, value);
            let axes: BTreeSet<usize> = apart.iter().map(|(_, axis)| *axis).collect();
            for axis in axes {
                let Some(length) = self.length(value, axis) else { continue };
                // The engine would make an integer kernel of a float op between Dequantize and Quantize, with weights of
                // its own making; it does not when the Dequantize is per axis.
                let scales = Tensor::from_vec(&[length], vec![scale; length]);
                let zeros = zero_points(target, &[length], zero_point);
                let scales = self.constant(&mut patch, &mut fresh, "s", scales);
                let zeros = self.constant(&mut patch, &mut fresh, "z", zeros);
                let inputs = [Some(q), Some(scales), Some(zeros)];
                let own = patch.op(dequantize(axis as i64), &inputs, "d", ty.clone());
                for (op, _) in apart.iter().filter(|(_, of)| *of == axis) {
                    patch.set_input(*op, 0, Some(own));
                }
            }
        } else {
            for unit in &integer_readers {
                for &(index, read) in &unit.inputs {
                    if read == value {
                        patch.set_input(unit.op, index, Some(d));
                    }
                }
            }
        }
        for unit in integer_readers {
            for &(index, read) in &unit.inputs {
                let Some(like) = self.again.get(&(unit.op, index)).filter(|_| read == value) else { continue };
                let Parameters { scale, zero_point } = self.parameters[like];
                let scale = self.constant(&mut patch, &mut fresh, "s", Tensor::scalar(scale));
                let zero = self.constant(&mut patch, &mut fresh, "z", zero_points(target, &[], zero_point));
                let bytes = ty.clone().map(|ty| TensorType { dtype: target.activations, ..ty });
                let q = patch.op(NewOp::new("QuantizeLinear"), &[Some(d), Some(scale), Some(zero)], "q", bytes);
                let inputs = [Some(q), Some(scale), Some(zero)];
                let own = patch.op(NewOp::new("DequantizeLinear"), &inputs, "d", ty.clone());
                patch.set_input(unit.op, index, Some(own));
            }
        }
        self.apply(graph, cx, patch, fresh)
    }

    fn length(&self, value: ValueId, axis: usize) -> Option<usize> {
        self.plan.calibration.values.get(&value)?.dims.get(axis).copied().filter(|length| *length > 0)
    }

    /// Float ops that read the integer value `value` and whose own output is quantized next, each with the axis of
    /// `value` whose length its weight fixes.
    fn float_between(&self, graph: &Graph, value: ValueId) -> Vec<(OpId, usize)> {
        let quantized_by_engine = self.plan.units.target.quantizes_between_pairs;
        let rank = self.plan.calibration.values.get(&value).map_or(0, |seen| seen.dims.len());
        let is_float = |op: OpId| self.plan.units.of_op.get(&op).is_none_or(|unit| !self.plan.integer[*unit]);
        let mut between = Vec::new();
        for place in graph.uses(value) {
            let onnx_shrink_ir::Use::Input(op, index) = place else { continue };
            if !is_float(op) || index != 0 || !quantized_by_engine.iter().any(|name| graph.op(op).is(name)) {
                continue;
            }
            let mut end = graph.op(op).output(0);
            if let Some((next, _)) = end.and_then(|end| graph.only_use(end))
                && is_clip(graph.op(next))
            {
                end = graph.op(next).output(0);
            }
            if end.is_some_and(|end| self.parameters.contains_key(&end)) {
                between.push((op, if graph.op(op).is("MatMul") { rank.saturating_sub(1) } else { 1 }));
            }
        }
        between
    }

    /// Weight and bias of `unit` in integers.
    fn weights(&mut self, graph: &mut Graph, cx: &mut Context<'_>, unit: &Unit) -> Result<()> {
        let layer = WeightedLayer::of(graph, unit.op).expect("a weighted unit is a layer");
        let weight = layer.constant(graph).expect("the weight of a unit is constant");
        let (dims, layout) = (weight.dims().to_vec(), layer.layout);
        let shape = layout.shape(&dims).expect("the weight of a unit has a rank that it can have");
        let rows = layer.rows(graph, RowOrder::ChannelsLast).expect("the weight of a unit is of floats");
        let x = unit.inputs[0].1;
        let b = unit.bias.map_or(layer.bias, |(_, bias)| Some(bias));
        let target = self.plan.units.target;
        let pairing = if shape.is_depthwise() { Pairing::None } else { target.pairing };
        let per_channel = target.per_channel.contains(&graph.op(unit.op).op_type());
        let rule = ScaleRule { pairing, per_channel, power_of_two: target.power_of_two };
        let x_scale = self.parameters[&x].scale;
        let bias = b.and_then(|b| graph.constant(b)).and_then(Tensor::to_f64_vec);
        // The bias must fit its 32 bits beside the sums: |b| / (s_x s_w) <= 2^30.
        let least: Vec<f64> = bias.iter().flatten().map(|b| b.abs() / (f64::from(x_scale) * 2f64.powi(30))).collect();
        let inputs = Inputs::centred(&shape.kernel);
        let quantized = quantize_rows(&rows, &inputs, rule, &least);
        debug_assert!(pairing == Pairing::None || quantized.saturating_pairs() == 0);
        let correction = self.correction(x, &shape, &(&rows - &quantized.dequantized()));
        let count = quantized.scales.len();
        let mut corrected = Array1::from(bias.clone().unwrap_or_else(|| vec![0.0; count]));
        if let Some(correction) = &correction
            && corrected.len() == count
        {
            corrected += correction;
        }
        let has_bias = bias.is_some() || (correction.is_some() && layer.bias_input.is_some());

        let mut patch = Patch::new(unit.op);
        let mut fresh = Vec::new();
        let integers = layout.from_rows(quantized.integers, &dims, RowOrder::ChannelsLast);
        let integers = integers.expect("as many numbers as the weight has").into_iter().collect();
        let integers = self.constant(&mut patch, &mut fresh, "w", weight_integers(target, &dims, integers));
        // One scale for all channels is a scalar, and the axis says nothing.
        let axis = layout.output_axis(dims.len()).expect("the weight of a unit has a rank that it can have");
        let (shape, axis): (&[usize], i64) = if per_channel { (&[count], axis as i64) } else { (&[], 1) };
        let scalars = shape.iter().product::<usize>();
        let of_shape = |numbers: &[f32]| Tensor::from_vec(shape, numbers[..scalars.min(numbers.len())].to_vec());
        let scales = self.constant(&mut patch, &mut fresh, "s", of_shape(&quantized.scales));
        let mut inputs = vec![Some(integers), Some(scales)];
        if !layer.is_conv() || target.weights == DataType::Uint8 {
            let zeros = weight_integers(target, shape, vec![0; scalars]);
            inputs.push(Some(self.constant(&mut patch, &mut fresh, "z", zeros)));
        }
        let weight = patch.op(dequantize(axis), &inputs, "d", Some(TensorType::fixed(DataType::Float, &dims)));
        patch.set_input(unit.op, 1, Some(weight));
        if has_bias {
            let ty = Some(TensorType::fixed(DataType::Float, &[count]));
            let bias = if target.bias == Bias::Float {
                let corrected: Vec<f32> = corrected.iter().map(|b| *b as f32).collect();
                patch.constant("b", Tensor::from_vec(&[count], corrected))
            } else {
                let scales: Vec<f32> = quantized.scales.iter().map(|scale| x_scale * scale).collect();
                let integers: Vec<i32> = corrected
                    .iter()
                    .zip(&scales)
                    .map(|(b, scale)| (b / f64::from(*scale)).round_ties_even() as i32)
                    .collect();
                let integers = patch.constant("b", Tensor::from_vec(&[count], integers));
                let scales = self.constant(&mut patch, &mut fresh, "s", of_shape(&scales));
                let axis = if per_channel { 0 } else { 1 };
                patch.op(dequantize(axis), &[Some(integers), Some(scales)], "d", ty)
            };
            match unit.bias {
                Some((add, old)) => {
                    let index = graph.op(add).inputs().iter().position(|input| *input == Some(old)).unwrap_or(1);
                    patch.set_input(add, index, Some(bias));
                }
                None => patch.set_input(unit.op, 2, Some(bias)),
            }
        }
        self.apply(graph, cx, patch, fresh)
    }

    /// What the rounding of the weights of a layer that reads `x` takes from the mean of each output: Σ (W − Ŵ)·E\[x\].
    fn correction(&self, x: ValueId, shape: &WeightShape, difference: &Array2<f64>) -> Option<Array1<f64>> {
        let seen = self.plan.calibration.values.get(&x)?;
        let mean = if shape.kernel.is_empty() { seen.last_axis_mean() } else { seen.channel_mean() };
        output_shift(difference, &mean, shape)
    }
}

/// Least and largest number of a constant, and zero; `None` where it has no numbers.
fn range_of_constant(constant: &Tensor) -> Option<(f64, f64)> {
    let numbers = constant.to_f64_vec()?;
    Some(numbers.iter().fold((0.0, 0.0), |(low, high), x| (f64::min(low, *x), f64::max(high, *x))))
}

/// `constant` in the target's type of activations; `None` where it is not float or not finite.
fn quantized_constant(target: &Target, parameters: Parameters, constant: &Tensor) -> Option<Tensor> {
    let numbers = constant.to_f64_vec().filter(|numbers| numbers.iter().all(|x| x.is_finite()))?;
    let (least, most) = target.span();
    let one = |x: f64| {
        let q = (x / f64::from(parameters.scale)).round_ties_even() + f64::from(parameters.zero_point);
        q.clamp(f64::from(least), f64::from(most)) as i32
    };
    let integers = numbers.into_iter().map(one);
    Some(match target.activations {
        DataType::Int8 => Tensor::from_vec(constant.dims(), integers.map(|q| q as i8).collect()),
        _ => Tensor::from_vec(constant.dims(), integers.map(|q| q as u8).collect()),
    })
}

type Key = (DataType, Vec<usize>, Vec<u8>);

/// A Dequantize along `axis`; 1 is the default.
fn dequantize(axis: i64) -> NewOp {
    match axis {
        1 => NewOp::new("DequantizeLinear"),
        _ => NewOp::new("DequantizeLinear").with(attributes::int("axis", axis)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ORT_CPU;

    #[test]
    fn zero_is_exact_and_the_ends_are_covered() {
        let Parameters { scale, zero_point } = parameters(&ORT_CPU, (-1.0, 3.0));
        assert_eq!(zero_point, 64);
        assert!((f64::from(scale) * 255.0 - 4.0).abs() < 1e-6);
        assert_eq!(parameters(&ORT_CPU, (0.5, 2.0)).zero_point, 0);
        let of = |name: &str| parameters(Target::named(name).unwrap(), (-1.0, 3.0));
        assert_eq!(of("ort-arm64").zero_point, 64 - 128);
        assert_eq!(of("tensorrt"), Parameters { scale: 3.0 / 127.0, zero_point: 0 });
        assert_eq!(of("vitis"), Parameters { scale: 1.0 / 32.0, zero_point: 0 });
        assert_eq!(parameters(&ORT_CPU, (0.0, 0.0)), Parameters { scale: 1.0, zero_point: 0 });
    }

    /// OpenVINO drops a Multiply by 1 before it looks for integer layers, and then finds none (`docs/engines.md` §10.1).
    #[test]
    fn a_scale_of_one_is_the_next_float_where_an_engine_would_drop_it() {
        assert_eq!(parameters(&ORT_CPU, (0.0, 255.0)).scale, 1.0);
        let target = Target::named("openvino").unwrap();
        assert_eq!(parameters(target, (0.0, 255.0)), Parameters { scale: 1f32.next_up(), zero_point: 0 });
        assert_eq!(parameters(target, (0.0, 0.0)).scale, 1f32.next_up());
    }
}
