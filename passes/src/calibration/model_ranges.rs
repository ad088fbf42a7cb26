//! Ranges that follow from the model, without samples.
//!
//! Batch norm says of its output that channel c is near N(β, γ²): its range is β ± 6γ (Nagel et al. 2019, arXiv
//! 1906.04721, §4.1). From there means and deviations go through Relu, Clip, Add, Concat, pools, layers with constant
//! weights; ranges also through what is bounded (Sigmoid, Tanh, Clip) and by interval arithmetic. What follows from nothing
//! gets no range and stays float. Formulas: `docs/methods.md` §1. **Never** runs the model.
use std::collections::BTreeMap;

use onnx_shrink_ir::{
    DataType, Graph, Op, OpId, Tensor, ValueId,
    ops::{Concat, LeakyRelu, PadMode, Resize, ResizeMode, RowOrder, WeightedLayer, clip_bounds, is_clip},
    semantics,
};

use crate::Statistics;
use crate::{
    calibration::collect::{Calibration, Observed},
    numerics::moments::clipped,
};

/// Deviations that a range covers to both sides of a mean.
const DEVIATIONS: f64 = 6.0;

/// Why no ranges follow.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ModelRangesError {
    /// Nothing tells how large values are
    #[error("the model has no batch norm, so the ranges of its values do not follow from it: calibrate with --data")]
    NoBatchNorm,
    /// A range was given for a value that is no input
    #[error("the model has no float input `{0}`; its inputs are: {1}")]
    NoInput(String, String),
}

/// What is known of a value.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    low: f64,
    high: f64,
    /// Mean and deviation per position of axis 1
    channels: Option<Vec<(f64, f64)>>,
}

impl Known {
    fn bounded(low: f64, high: f64) -> Known {
        Known { low, high, channels: None }
    }

    /// A range of ± 6 deviations around each mean.
    fn normal(channels: Vec<(f64, f64)>) -> Option<Known> {
        let low = channels.iter().map(|(mean, deviation)| mean - DEVIATIONS * deviation).fold(f64::INFINITY, f64::min);
        let high =
            channels.iter().map(|(mean, deviation)| mean + DEVIATIONS * deviation).fold(-f64::INFINITY, f64::max);
        (low.is_finite() && high.is_finite()).then_some(Known { low, high, channels: Some(channels) })
    }

    /// The same value with its range cut to [low, high].
    fn within(self, low: f64, high: f64) -> Known {
        let (low, high) = (self.low.max(low), self.high.min(high));
        Known { low: low.min(high), high, ..self }
    }

    fn clip(&self, low: f64, high: f64) -> Known {
        let channels = self.channels.as_ref().filter(|_| low == 0.0);
        let channels = channels.map(|all| all.iter().map(|&(m, s)| clipped(m, s, high)).collect());
        Known { low: self.low.clamp(low, high), high: self.high.clamp(low, high), channels }
    }
}

/// What calibration would have seen, as far as it follows from `graph`: ranges as extremes, and means. `statistics` are
/// batch norm's, by name of the value; `inputs` are ranges of inputs, by name.
pub fn model_ranges(
    graph: &Graph,
    statistics: &BTreeMap<String, Statistics>,
    inputs: &BTreeMap<String, (f64, f64)>,
) -> Result<Calibration, ModelRangesError> {
    if statistics.is_empty() {
        return Err(ModelRangesError::NoBatchNorm);
    }
    let mut known: BTreeMap<ValueId, Known> = BTreeMap::new();
    let is_float = |value: ValueId| graph.ty(value).is_some_and(|ty| ty.dtype == DataType::Float);
    let names: Vec<&str> =
        graph.inputs().iter().filter(|input| is_float(**input)).map(|input| graph.name_of(*input)).collect();
    for (name, &(low, high)) in inputs {
        if !names.contains(&name.as_str()) {
            return Err(ModelRangesError::NoInput(name.clone(), names.join(", ")));
        }
        let Some(value) = graph.find(name) else { continue };
        let channels = axis_1(graph, value).map(|count| {
            let (low, high) = (low.min(high), high.max(low));
            vec![((low + high) / 2.0, (high - low) / 12f64.sqrt()); count]
        });
        known.insert(value, Known { low, high, channels });
    }
    for op in graph.ops() {
        let node = graph.op(op);
        let sight = Sight { graph, known: &known, node };
        let of_op = sight.output(op);
        for (index, &output) in node.outputs().iter().enumerate() {
            let Some(output) = output.filter(|output| is_float(*output)) else { continue };
            let told = statistics.get(graph.name_of(output)).and_then(|told| {
                let channels: Vec<(f64, f64)> = told.mean.iter().copied().zip(told.deviation.iter().copied()).collect();
                Known::normal(channels)
            });
            let follows = of_op.clone().filter(|_| index == 0 || node.is("Split"));
            if let Some(known_of_output) = told.or(follows) {
                known.insert(output, known_of_output);
            }
        }
    }
    let mut calibration = Calibration { from_model: true, ..Calibration::default() };
    for (value, known) in known {
        let Some(dims) = dims(graph, value) else { continue };
        let means = known.channels.map(|channels| channels.into_iter().map(|(mean, _)| mean).collect());
        calibration.values.insert(value, Observed::told(dims, (known.low as f32, known.high as f32), means));
    }
    Ok(calibration)
}

/// Dimensions of a value, a free first one (the batch) as 1.
fn dims(graph: &Graph, value: ValueId) -> Option<Vec<usize>> {
    let shape = graph.ty(value)?.shape.as_ref()?;
    let dim = |(axis, dim): (usize, &onnx_shrink_ir::Dim)| dim.known().or((axis == 0).then_some(1));
    shape.iter().enumerate().map(dim).collect()
}

fn axis_1(graph: &Graph, value: ValueId) -> Option<usize> {
    graph.ty(value)?.shape.as_ref()?.get(1)?.known()
}

/// One op and what is known before it.
struct Sight<'a> {
    graph: &'a Graph,
    known: &'a BTreeMap<ValueId, Known>,
    node: &'a Op,
}

impl Sight<'_> {
    fn input(&self, index: usize) -> Option<Known> {
        let value = self.node.input(index)?;
        if let Some(constant) = self.graph.constant(value) {
            let numbers = constant.to_f64_vec().filter(|numbers| !numbers.is_empty())?;
            let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            return (low.is_finite() && high.is_finite()).then(|| Known::bounded(low, high));
        }
        self.known.get(&value).cloned()
    }

    /// What follows for the (first) output of the op.
    fn output(&self, op: OpId) -> Option<Known> {
        let node = self.node;
        if !node.domain().is_empty() {
            return None;
        }
        match node.op_type() {
            "Conv" | "Gemm" | "MatMul" => self.weighted(op),
            _ if is_clip(node) => {
                let (low, high) = clip_bounds(self.graph, op)?;
                match self.input(0) {
                    Some(x) if low <= high => Some(x.clip(low, high)),
                    _ => (low.is_finite() && high.is_finite()).then(|| Known::bounded(low, high)),
                }
            }
            // The least of x·min(max(x/6 + ½, 0), 1) is −3/8, at −3/2.
            "HardSwish" => self.input(0).map(|x| Known::bounded(x.low.clamp(-0.375, 0.0), x.high.max(0.0))),
            "LeakyRelu" => self.input(0).and_then(|x| {
                let slope = f64::from(LeakyRelu::of(self.graph, op)?.alpha);
                let at = |x: f64| if x < 0.0 { x * slope } else { x };
                Some(Known::bounded(at(x.low).min(at(x.high)).min(0.0), at(x.low).max(at(x.high))))
            }),
            "Add" => self.add(1.0),
            "Sub" => self.add(-1.0),
            "Mul" => {
                let (a, b) = (self.input(0)?, self.input(1)?);
                let corners = [a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high];
                let low = corners.iter().copied().fold(f64::INFINITY, f64::min);
                Some(Known::bounded(low, corners.iter().copied().fold(f64::NEG_INFINITY, f64::max)))
            }
            "Neg" => self.input(0).map(|x| Known::bounded(-x.high, -x.low)),
            "Concat" => self.concat(op),
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" | "Identity" | "Dropout" => self.input(0),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshaped(),
            "Slice" => self.input(0).map(|x| {
                let count = |value: Option<ValueId>| value.and_then(|value| axis_1(self.graph, value));
                let whole = count(node.input(0)).is_some() && count(node.input(0)) == count(node.output(0));
                Known { channels: x.channels.filter(|_| whole), ..x }
            }),
            "Transpose" | "Split" | "Gather" | "Expand" | "Tile" | "DepthToSpace" | "SpaceToDepth" => {
                self.input(0).map(|x| Known::bounded(x.low, x.high))
            }
            "Resize" if Resize::of(self.graph, op)?.mode != ResizeMode::Cubic => self.input(0),
            "Pad" => self.padded(op),
            _ => {
                let (low, high) = semantics::of(node)?.range?;
                (low.is_finite() && high.is_finite()).then(|| Known::bounded(low, high))
            }
        }
    }

    /// The sum of both inputs, the second times `sign`: means add, deviations add (the worst case of correlation).
    fn add(&self, sign: f64) -> Option<Known> {
        let (a, b) = (self.input(0)?, self.input(1)?);
        let (low, high) = if sign < 0.0 { (-b.high, -b.low) } else { (b.low, b.high) };
        let sum = Known::bounded(a.low + low, a.high + high);
        let (Some(x), Some(y)) = (&a.channels, &b.channels) else { return Some(sum) };
        if x.len() != y.len() {
            return Some(sum);
        }
        let channels = x.iter().zip(y).map(|(x, y)| (x.0 + sign * y.0, x.1 + y.1)).collect();
        Known::normal(channels).map(|normal| normal.within(sum.low, sum.high))
    }

    /// Channels side by side; the range is that of all.
    fn concat(&self, op: OpId) -> Option<Known> {
        let count = self.node.inputs().len();
        let all: Vec<Known> = (0..count).map(|index| self.input(index)).collect::<Option<_>>()?;
        let low = all.iter().map(|known| known.low).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(|known| known.high).fold(f64::NEG_INFINITY, f64::max);
        let beside: Option<Vec<Vec<(f64, f64)>>> = all.into_iter().map(|known| known.channels).collect();
        let by_channel = Concat::of(self.graph, op)?.axis == 1;
        let channels = beside.filter(|_| by_channel).map(|all| all.concat());
        Some(Known { low, high, channels })
    }

    /// Zeros around; whole channels of them have the mean 0.
    fn padded(&self, op: OpId) -> Option<Known> {
        let x = self.input(0)?;
        match PadMode::of(self.graph, op)? {
            PadMode::Constant(0.0) => {}
            PadMode::Constant(_) => return None,
            PadMode::Reflect | PadMode::Edge | PadMode::Wrap => return Some(Known::bounded(x.low, x.high)),
        }
        let pads = self.numbers(1).filter(|pads| pads.len() >= 4 && self.node.input(3).is_none());
        let channels = x.channels.zip(pads).and_then(|(channels, pads)| {
            let (before, after) = (pads[1], pads[pads.len() / 2 + 1]);
            let zeros = |count: f64| vec![(0.0, 0.0); count as usize];
            (before >= 0.0 && after >= 0.0).then(|| [zeros(before), channels, zeros(after)].concat())
        });
        Some(Known { low: x.low.min(0.0), high: x.high.max(0.0), channels })
    }

    /// Images as rows, [N, C, H, W] to [N, C·H·W]: each channel's mean stands for its H·W numbers.
    fn reshaped(&self) -> Option<Known> {
        let x = self.input(0)?;
        let count = self.node.output(0).and_then(|y| axis_1(self.graph, y));
        let channels = x.channels.zip(count).and_then(|(channels, count)| {
            let each = count.checked_div(channels.len()).filter(|each| each * channels.len() == count && *each > 0)?;
            Some(channels.into_iter().flat_map(|channel| std::iter::repeat_n(channel, each)).collect())
        });
        Some(Known { channels, ..x })
    }

    fn numbers(&self, index: usize) -> Option<Vec<f64>> {
        self.graph.constant(self.node.input(index)?).and_then(Tensor::to_f64_vec)
    }

    /// E\[y\] = W·E\[x\] + b, Var\[y\] = Σ W²·Var\[x\]: a convolution's taps see independent numbers, which is why ranges are wide.
    fn weighted(&self, op: OpId) -> Option<Known> {
        let channels = self.input(0)?.channels?;
        let layer = WeightedLayer::of(self.graph, op).filter(WeightedLayer::is_plain)?;
        let rows = layer.rows(self.graph, RowOrder::ChannelsFirst)?;
        let shape = layer.shape(self.graph)?;
        let fits = layer.is_conv() || dims(self.graph, layer.x)?.len() == 2;
        if !fits || rows.is_empty() || channels.len() != shape.channels() {
            return None;
        }
        let bias = layer.bias_input.and_then(|index| self.numbers(index)).filter(|bias| !bias.is_empty());
        let (taps, per_group) = (shape.taps(), shape.outputs / shape.groups);
        let one = |(row, weights): (usize, ndarray::ArrayView1<'_, f64>)| {
            let first = row / per_group * shape.inputs;
            let start = bias.as_ref().map_or(0.0, |bias| bias[row.min(bias.len() - 1)]);
            moments(weights.iter(), |column| channels[first + column / taps], start)
        };
        Known::normal(rows.outer_iter().enumerate().map(one).collect())
    }
}

/// Mean and deviation of `start` + Σ w·x.
fn moments<'w>(weights: impl Iterator<Item = &'w f64>, of: impl Fn(usize) -> (f64, f64), start: f64) -> (f64, f64) {
    let (mut mean, mut variance) = (start, 0.0);
    for (column, w) in weights.enumerate() {
        let (m, s) = of(column);
        mean += w * m;
        variance += w * w * s * s;
    }
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    fn ranges(model: &str, inputs: &[(&str, (f64, f64))]) -> Result<BTreeMap<String, (f32, f32)>, ModelRangesError> {
        let mut graph = parse(model).graph;
        onnx_shrink_ir::infer::infer(&mut graph);
        let told = Statistics { mean: vec![0.0, 1.0], deviation: vec![1.0, 0.5] };
        let statistics = BTreeMap::from([("n".to_owned(), told)]);
        let statistics = if graph.find("n").is_some() { statistics } else { BTreeMap::new() };
        let inputs = inputs.iter().map(|(name, range)| ((*name).to_owned(), *range)).collect();
        let calibration = model_ranges(&graph, &statistics, &inputs)?;
        let of = |(value, seen): (ValueId, Observed)| {
            (graph.name_of(value).to_owned(), (seen.histogram.min, seen.histogram.max))
        };
        Ok(calibration.values.into_iter().map(of).collect())
    }

    const MODEL: &str = "g (float[1,2,2,2] x) => (float[1,1] y) <float[2,2,1,1] w = {1, 0, 0, 1}, float[8,1] m =
        {1, 1, 1, 1, 0, 0, 0, 0}, float six = {6}, float zero = {0}> {
        n = Conv (x, w)  r = Relu (n)  a = Add (r, r)  c = Clip (n, zero, six)  s = Sigmoid (x)  o = Mul (r, s)
        f = Flatten (c)  y = MatMul (f, m) }";

    #[test]
    fn ranges_follow_from_batch_norm_and_bounds() {
        let found = ranges(MODEL, &[]).unwrap();
        assert_eq!(found["n"], (-6.0, 6.0), "0 ± 6·1 holds 1 ± 6·½");
        assert_eq!(found["r"], (0.0, 6.0));
        assert_eq!(found["c"], (0.0, 6.0));
        assert_eq!(found["s"], (0.0, 1.0));
        assert_eq!(found["o"], (0.0, 6.0));
        assert!(found["a"].0 == 0.0 && found["a"].1 > 6.0 && found["a"].1 <= 12.0, "{:?}", found["a"]);
        assert!(!found.contains_key("x"), "nothing tells what the input is");
        // Four numbers of mean 0.4 and deviation 0.58.
        let (low, high) = found["y"];
        assert!((-8.0..0.0).contains(&low) && (6.0..10.0).contains(&high), "{low} {high}");
    }

    #[test]
    fn an_input_has_the_range_that_was_given() {
        let found = ranges(MODEL, &[("x", (-1.0, 3.0))]).unwrap();
        assert_eq!(found["x"], (-1.0, 3.0));
        let error = ranges(MODEL, &[("z", (0.0, 1.0))]).unwrap_err();
        assert_eq!(error.to_string(), "the model has no float input `z`; its inputs are: x");
    }

    #[test]
    fn without_batch_norm_nothing_follows() {
        let model = "g (float[1,2] x) => (float[1,2] y) { y = Relu (x) }";
        assert_eq!(ranges(model, &[]), Err(ModelRangesError::NoBatchNorm));
    }
}
