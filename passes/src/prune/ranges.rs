//! What each channel can be, whatever the input: interval arithmetic on the weights.
//!
//! A channel whose interval is a point is constant. Sums of many terms are widened by what f32 may round, so that "never
//! above 0" holds for the engine's numbers, too. **Never** looks at samples.
use std::collections::BTreeMap;

use ndarray::Axis;
use onnx_shrink_ir::{
    Graph, OpId, ValueId,
    ops::{
        AutoPad, AveragePool, BatchNormalization, Binary, BinaryKind, Conv, LayerKind, LeakyRelu, Pad, PadMode,
        RowOrder, WeightedLayer, clip_bounds, is_clip,
    },
};

use super::groups::{Groups, Unit};

/// All numbers that a channel can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Weights whose sum of magnitudes is no more than this are zeros: what weight decay leaves of a dead channel. Activations of
/// 1e8 would add 1e-7. (Measured: mlperf_tiny_vww96 has 980 such rows, of 1e-29 to 1e-16; the next are above 1e-6.)
pub(crate) const NOTHING: f64 = 1e-15;

/// What one rounding of f32 may change, times a small number of roundings in a row.
const ROUNDING: f64 = 4.0 / (1u64 << 24) as f64;

impl Range {
    const ANY: Range = Range { low: f64::NEG_INFINITY, high: f64::INFINITY };

    fn point(number: f64) -> Range {
        Range { low: number, high: number }
    }

    /// The one number, if it is one and finite.
    pub(crate) fn constant(self) -> Option<f64> {
        (self.low == self.high && self.low.is_finite()).then_some(self.low)
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Range {
        let (a, b) = (f(self.low), f(self.high));
        if a.is_nan() || b.is_nan() { Range::ANY } else { Range { low: a.min(b), high: a.max(b) } }
    }

    fn with(self, other: Range) -> Range {
        Range { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    fn times(self, other: Range) -> Range {
        let product = |a: f64, b: f64| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
        let corners = [
            product(self.low, other.low),
            product(self.low, other.high),
            product(self.high, other.low),
            product(self.high, other.high),
        ];
        Range {
            low: corners.into_iter().fold(f64::INFINITY, f64::min),
            high: corners.into_iter().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    fn plus(self, other: Range) -> Range {
        Range { low: self.low + other.low, high: self.high + other.high }
    }
}

/// `bias + Σ w·x` for `terms` of weights and ranges of x.
fn sum(bias: f64, terms: impl Iterator<Item = (f64, Range)> + Clone) -> Range {
    let magnitude: f64 = terms.clone().map(|(w, _)| w.abs()).sum();
    if magnitude <= NOTHING {
        return Range::point(bias);
    }
    let mut total = Range::point(bias);
    let mut size = bias.abs();
    for (w, x) in terms.filter(|(w, _)| *w != 0.0) {
        let term = Range::point(w).times(x);
        total = total.plus(term);
        size += term.low.abs().max(term.high.abs());
    }
    if total.constant().is_some() || !size.is_finite() && total.low == total.high {
        return total;
    }
    // Sums of numbers of one sign keep it, whatever is rounded.
    let slack = if size.is_finite() { size * ROUNDING } else { 0.0 };
    let low = if total.low >= 0.0 && total.low < slack { 0.0 } else { total.low - slack };
    let high = if total.high <= 0.0 && -total.high < slack { 0.0 } else { total.high + slack };
    if low.is_nan() || high.is_nan() { Range::ANY } else { Range { low, high } }
}

/// The ranges of the channels of every value that has channels along exactly one axis.
pub(crate) struct Ranges<'a> {
    graph: &'a Graph,
    groups: &'a Groups,
    by_value: BTreeMap<ValueId, (usize, Vec<Range>)>,
}

impl<'a> Ranges<'a> {
    pub(crate) fn of(graph: &'a Graph, groups: &'a Groups) -> Ranges<'a> {
        let mut ranges = Ranges { graph, groups, by_value: BTreeMap::new() };
        for op in graph.ops() {
            ranges.op(op);
        }
        ranges
    }

    /// The range of each channel of `value` along `axis`; all numbers where nothing is known.
    pub(crate) fn along(&self, value: ValueId, axis: usize, count: usize) -> Vec<Range> {
        match self.by_value.get(&value) {
            Some((own, ranges)) if *own == axis && ranges.len() == count => ranges.clone(),
            _ => vec![Range::ANY; count],
        }
    }

    fn units(&self, value: ValueId) -> Option<(usize, &'a [Unit])> {
        let axes = self.groups.axes.get(&value)?;
        let mut labelled = axes.iter().enumerate().filter_map(|(axis, units)| Some((axis, units.as_deref()?)));
        labelled.next().filter(|_| labelled.next().is_none())
    }

    fn op(&mut self, op: OpId) {
        let node = self.graph.op(op);
        let Some(y) = node.output(0) else { return };
        let Some((axis, units)) = self.units(y) else { return };
        let ranges = self.ranges(op, axis, units);
        if let Some(ranges) = ranges.filter(|ranges| ranges.len() == units.len()) {
            self.by_value.insert(y, (axis, ranges));
        }
    }

    /// The ranges of the channels that `op` makes along `axis` of its first output; `None`: nothing is known.
    fn ranges(&self, op: OpId, axis: usize, units: &[Unit]) -> Option<Vec<Range>> {
        let node = self.graph.op(op);
        let x = node.input(0)?;
        match node.op_type() {
            "Conv" | "Gemm" | "MatMul" => self.weighted(op),
            "BatchNormalization" => {
                let norm = BatchNormalization::of(self.graph, op)?;
                let list = |value: ValueId| self.graph.constant(value)?.to_f64_vec();
                let (scale, bias, mean, var) = (list(norm.scale)?, list(norm.bias)?, list(norm.mean)?, list(norm.var)?);
                let ranges = self.along(x, axis, units.len()).into_iter().enumerate().map(|(k, range)| {
                    let factor = scale[k] / (var[k] + f64::from(norm.epsilon)).sqrt();
                    sum(bias[k] - mean[k] * factor, [(factor, range)].into_iter())
                });
                Some(ranges.collect())
            }
            _ if is_clip(node) => {
                let (low, high) = clip_bounds(self.graph, op)?;
                self.each(x, axis, units, |x| x.max(low).min(high))
            }
            "LeakyRelu" => {
                let slope = f64::from(LeakyRelu::of(self.graph, op)?.alpha).max(0.0);
                self.each(x, axis, units, |x| if x < 0.0 { x * slope } else { x })
            }
            "Sigmoid" => self.each(x, axis, units, |x| 1.0 / (1.0 + (-x).exp())),
            "Tanh" => self.each(x, axis, units, f64::tanh),
            "Identity" | "Dropout" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Reshape" | "MaxPool"
            | "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceMax" => self.moved(x, units),
            "AveragePool" => {
                let pool = AveragePool::of(self.graph, op)?;
                let padded = pool.pads.iter().any(|&pad| pad != 0)
                    || matches!(pool.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
                let zero = if padded { Some(Range::point(0.0)) } else { None };
                Some(self.moved(x, units)?.into_iter().map(|x| zero.map_or(x, |zero| x.with(zero))).collect())
            }
            "Pad" => match Pad::of(self.graph, op)?.mode {
                PadMode::Constant(value) => {
                    Some(self.moved(x, units)?.into_iter().map(|x| x.with(Range::point(value))).collect())
                }
                _ => self.moved(x, units),
            },
            "Concat" => {
                let mut all = Vec::new();
                for &input in node.inputs().iter().flatten() {
                    let count = match self.units(input) {
                        Some((own, units)) if own == axis => units.len(),
                        _ => self.graph.ty(input)?.shape.as_ref()?.get(axis)?.known()?,
                    };
                    all.extend(self.along(input, axis, count));
                }
                Some(all)
            }
            "Add" | "Sub" | "Mul" => self.binary(op, axis, units),
            _ => None,
        }
    }

    fn each(&self, x: ValueId, axis: usize, units: &[Unit], f: impl Fn(f64) -> f64 + Copy) -> Option<Vec<Range>> {
        Some(self.along(x, axis, units.len()).into_iter().map(|range| range.map(f)).collect())
    }

    /// Channels that stay in order, each perhaps a run of positions now.
    fn moved(&self, x: ValueId, units: &[Unit]) -> Option<Vec<Range>> {
        let (_, before) = self.units(x)?;
        let (_, ranges) = self.by_value.get(&x)?;
        let run = units.len().checked_div(before.len()).filter(|run| run * before.len() == units.len())?;
        let same = units.iter().enumerate().all(|(k, unit)| before[k / run] == *unit);
        same.then(|| (0..units.len()).map(|k| ranges[k / run]).collect())
    }

    /// Each output is a sum over the channels of its group.
    fn weighted(&self, op: OpId) -> Option<Vec<Range>> {
        let layer = WeightedLayer::of_floats(self.graph, op)?;
        let rows = layer.rows(self.graph, RowOrder::ChannelsFirst)?;
        let shape = layer.shape(self.graph)?;
        let biases = match layer.bias {
            Some(bias) => self.graph.constant(bias)?.to_f64_vec()?,
            None => vec![0.0],
        };
        let bias = |row: usize| biases.get(if biases.len() == 1 { 0 } else { row }).copied().unwrap_or(f64::NAN);
        let axis = match layer.kind {
            LayerKind::MatMul => self.graph.ty(layer.x)?.rank()?.checked_sub(1)?,
            LayerKind::Conv | LayerKind::ConvTranspose | LayerKind::Gemm => 1,
        };
        let x = self.along(layer.x, axis, shape.channels());
        let pads = layer.is_conv() && is_padded(&Conv::of(self.graph, op)?);
        let (alpha, beta) = (f64::from(layer.alpha), f64::from(layer.beta));
        let (taps, per_group) = (shape.taps(), (shape.outputs / shape.groups).max(1));
        let one = |(row, weights): (usize, ndarray::ArrayView1<'_, f64>)| {
            let first = row / per_group * shape.inputs;
            let terms = weights.iter().enumerate().map(|(k, &w)| {
                let range = x[first + k / taps];
                (w * alpha, if pads { range.with(Range::point(0.0)) } else { range })
            });
            sum(bias(row) * beta, terms)
        };
        Some(rows.outer_iter().enumerate().map(one).collect())
    }

    /// Two values with channels, or one and a constant along them.
    fn binary(&self, op: OpId, axis: usize, units: &[Unit]) -> Option<Vec<Range>> {
        let binary = Binary::of(self.graph, op)?;
        let rank = self.graph.ty(binary.y)?.rank()?;
        let side = |value: ValueId| -> Option<Vec<Range>> {
            let own = (axis + self.graph.ty(value)?.rank()?).checked_sub(rank);
            let Some(numbers) = self.graph.constant_f64(value) else {
                return Some(self.along(value, own?, units.len()));
            };
            let extent = |array: ndarray::ArrayViewD<'_, f64>| {
                let low = array.iter().copied().fold(f64::INFINITY, f64::min);
                let high = array.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                Range { low, high }
            };
            match own {
                Some(own) if numbers.shape()[own] == units.len() => {
                    Some(numbers.axis_iter(Axis(own)).map(extent).collect())
                }
                _ => Some(vec![extent(numbers.view()); units.len()]),
            }
        };
        let (a, b) = (side(binary.a)?, side(binary.b)?);
        let join = |(a, b): (Range, Range)| match binary.kind {
            BinaryKind::Add => Some(sum(0.0, [(1.0, a), (1.0, b)].into_iter())),
            BinaryKind::Sub => Some(sum(0.0, [(1.0, a), (-1.0, b)].into_iter())),
            BinaryKind::Mul => Some(a.times(b)),
            BinaryKind::Div | BinaryKind::Pow => None,
        };
        a.into_iter().zip(b).map(join).collect()
    }
}

/// Whether zeros stand around the input.
pub(crate) fn is_padded(conv: &Conv) -> bool {
    match conv.auto_pad {
        AutoPad::NotSet => conv.pads.iter().any(|&pad| pad != 0),
        AutoPad::Valid => false,
        AutoPad::SameUpper | AutoPad::SameLower => true,
    }
}
