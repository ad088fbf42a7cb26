//! What a model tells about the numbers of its inputs: the table that token ids index, whether integers are a mask or lengths, the
//! mean and deviation that it normalizes by.
//!
//! An input is followed through data-movement ops and Casts to the ops that compute with it. **Never** goes by names.
use std::collections::BTreeSet;

use onnx_shrink_ir::{DataType, Dim, Graph, OpId, Tensor, Use, ValueId};

/// What the numbers of an input are like.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Numbers {
    /// Floats around a mean
    Floats { mean: f64, deviation: f64 },
    /// Whole numbers from `least` to `most`; some of them are `special`, as the id of padding is
    Range { least: i64, most: i64, special: Vec<i64> },
    /// Ones, and then zeros
    Mask,
    /// Lengths or steps, at most as many as this dimension has; `None`: as the shortest open one
    Lengths(Option<Dim>),
}

/// Ops that hand on the numbers of their first input.
const MOVES: [&str; 11] =
    ["Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"];

/// Most ops that are looked at for an input.
const MOST_OPS: usize = 256;

/// What `graph` tells about the numbers of `input`; `None`: nothing.
pub(super) fn numbers(graph: &Graph, input: ValueId) -> Option<Numbers> {
    let dtype = graph.ty(input)?.dtype;
    if dtype.is_float() {
        return floats(graph, input);
    }
    let mut told = Told::default();
    for (op, port) in readers(graph, input) {
        told.hear(graph, op, port, dtype);
    }
    told.numbers()
}

/// The ops that compute with `input`, and by which of their inputs.
fn readers(graph: &Graph, input: ValueId) -> Vec<(OpId, usize)> {
    let (mut found, mut open, mut seen) = (Vec::new(), vec![input], BTreeSet::from([input]));
    while let Some(value) = open.pop() {
        for place in graph.uses(value) {
            let Use::Input(op, port) = place else { continue };
            let node = graph.op(op);
            let moves = port == 0 && node.domain().is_empty() && MOVES.contains(&node.op_type()) || node.is("Concat");
            match moves {
                true => open.extend(node.outputs().iter().flatten().copied().filter(|output| seen.insert(*output))),
                false => found.push((op, port)),
            }
            if found.len() + seen.len() > MOST_OPS {
                return found;
            }
        }
    }
    found
}

/// What the readers of whole numbers tell.
#[derive(Default)]
struct Told {
    /// Rows of the smallest table
    rows: Option<usize>,
    compared: BTreeSet<i64>,
    is_mask: bool,
    lengths: Option<Option<Dim>>,
    bits: Option<(i64, i64)>,
}

impl Told {
    fn hear(&mut self, graph: &Graph, op: OpId, port: usize, dtype: DataType) {
        let node = graph.op(op);
        let dims = |value: Option<ValueId>| -> Option<Vec<Dim>> {
            let value = value?;
            match graph.constant(value) {
                Some(tensor) => Some(tensor.dims().iter().map(|&dim| Dim::Known(dim)).collect()),
                None => graph.ty(value)?.shape.clone(),
            }
        };
        match (node.op_type(), port) {
            ("Gather", 1) => {
                let axis = node.int("axis").unwrap_or(0);
                let rows = dims(node.input(0)).and_then(|shape| {
                    let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
                    shape.get(usize::try_from(axis).ok()?)?.known()
                });
                self.rows = self.rows.into_iter().chain(rows).min();
            }
            ("OneHot", 0) => {
                let depth = node.input(1).and_then(|depth| graph.constant(depth)).and_then(Tensor::to_scalar_f64);
                self.rows = self.rows.into_iter().chain(depth.map(|depth| depth as usize)).min();
            }
            ("LSTM" | "GRU" | "RNN", 4) => {
                let axis = usize::from(node.int("layout") == Some(1));
                self.lengths = Some(dims(node.input(0)).and_then(|shape| shape.get(axis).cloned()));
            }
            ("ReverseSequence", 1) => {
                let axis = usize::try_from(node.int("time_axis").unwrap_or(0)).unwrap_or(0);
                self.lengths = Some(dims(node.input(0)).and_then(|shape| shape.get(axis).cloned()));
            }
            ("Equal", _) => {
                let constant = node.input(1 - port).and_then(|other| graph.constant(other));
                self.compared
                    .extend(constant.filter(|one| one.len() <= 8).and_then(Tensor::to_i64_vec).into_iter().flatten());
            }
            ("Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual", _) => {
                let is_constant = node.input(1 - port).is_some_and(|other| graph.constant(other).is_some());
                if !is_constant {
                    self.lengths.get_or_insert(None);
                }
            }
            ("Range" | "ConstantOfShape" | "TopK" | "Pad", _) => {
                self.lengths.get_or_insert(None);
            }
            ("DequantizeLinear", 0) if dtype.bits() <= 8 => {
                let signed = dtype == DataType::Int8;
                self.bits = Some(if signed { (-128, 127) } else { (0, 255) });
            }
            ("Where", 0) | ("Not" | "And" | "Or" | "Xor", _) => self.is_mask = true,
            ("Sub" | "Mul", _) if dtype.bits() > 8 => self.is_mask = true,
            _ => {}
        }
    }

    /// The strongest of what was told: a table must not be left, lengths must not be passed.
    fn numbers(self) -> Option<Numbers> {
        let special: Vec<i64> = self.compared.iter().copied().collect();
        if let Some(rows) = self.rows.filter(|rows| *rows > 0) {
            let most = rows as i64 - 1;
            let special = special.into_iter().filter(|number| (0..=most).contains(number)).collect();
            return Some(Numbers::Range { least: 0, most, special });
        }
        if let Some(dim) = self.lengths {
            return Some(Numbers::Lengths(dim));
        }
        if let Some((least, most)) = self.bits {
            return Some(Numbers::Range { least, most, special });
        }
        if self.is_mask || special == [0] || special == [1] {
            return Some(Numbers::Mask);
        }
        let (least, most) = (*self.compared.first()?, *self.compared.last()?);
        Some(Numbers::Range { least: least.min(0), most: most.max(2), special })
    }
}

/// The mean and deviation that the first layers tell: by `Sub` and `Div` (or `Add` and `Mul`) with constants, or by the statistics of
/// a batch norm, at the input or behind the first convolution.
fn floats(graph: &Graph, input: ValueId) -> Option<Numbers> {
    // The value at hand is `scale` · input + `offset`.
    let (mut scale, mut offset) = (1.0, 0.0);
    let mut value = input;
    for _ in 0..8 {
        let (op, port) = graph.only_use(value)?;
        let node = graph.op(op);
        let constant = |index: usize| node.input(index).and_then(|value| graph.constant(value));
        let number = || mean(constant(1 - port)?);
        match (node.op_type(), port) {
            ("Add", 0 | 1) => offset += number()?,
            ("Sub", 0) => offset -= number()?,
            ("Mul", 0 | 1) => (scale, offset) = (scale * number()?, offset * number()?),
            ("Div", 0) => (scale, offset) = (scale / number()?, offset / number()?),
            ("BatchNormalization", 0) => {
                let (of, variance) = (mean(constant(3)?)?, mean(constant(4)?)?);
                return around(of, variance.sqrt(), scale, offset);
            }
            ("Conv", 0) if (scale, offset) == (1.0, 0.0) => return before_conv(graph, op),
            ("Conv" | "MatMul" | "Gemm", 0) if (scale, offset) != (1.0, 0.0) => return around(0.0, 1.0, scale, offset),
            (op_type, 0) if node.domain().is_empty() && MOVES.contains(&op_type) => {}
            _ => return None,
        }
        value = node.output(0)?;
    }
    None
}

/// What becomes numbers of this mean and deviation by `scale` and `offset`.
fn around(mean: f64, deviation: f64, scale: f64, offset: f64) -> Option<Numbers> {
    let (mean, deviation) = ((mean - offset) / scale, (deviation / scale).abs());
    let fits = mean.is_finite() && deviation.is_finite() && deviation > 1e-4 * mean.abs().max(1e-6);
    fits.then_some(Numbers::Floats { mean, deviation })
}

/// What makes the mean and variance that the batch norm behind a convolution knows, channel by channel, as near as one mean and one
/// deviation come.
fn before_conv(graph: &Graph, conv: OpId) -> Option<Numbers> {
    let node = graph.op(conv);
    let weight = graph.constant(node.input(1)?)?;
    let (norm, 0) = graph.only_use(node.output(0)?)? else { return None };
    let statistics = graph.op(norm);
    if !statistics.is("BatchNormalization") {
        return None;
    }
    let constant = |index: usize| graph.constant(statistics.input(index)?)?.to_f64_vec();
    let (means, variances) = (constant(3)?, constant(4)?);
    let bias = node.input(2).and_then(|bias| graph.constant(bias)).and_then(Tensor::to_f64_vec);
    let numbers = weight.to_f64_vec()?;
    let rows = numbers.chunks_exact((numbers.len() / means.len().max(1)).max(1));
    let (mut along, mut square, mut spread, mut energy) = (0.0, 0.0, 0.0, 0.0);
    for (channel, (row, (mean, variance))) in rows.zip(means.iter().zip(&variances)).enumerate() {
        let sum: f64 = row.iter().sum();
        let shift = bias.as_ref().and_then(|bias| bias.get(channel)).copied().unwrap_or(0.0);
        along += sum * (mean - shift);
        square += sum * sum;
        spread += variance;
        energy += row.iter().map(|weight| weight * weight).sum::<f64>();
    }
    let (mean, deviation) = (along / square, (spread / energy).sqrt());
    let fits = mean.is_finite() && deviation.is_finite() && (1e-3..=300.0).contains(&deviation);
    fits.then_some(Numbers::Floats { mean: mean.clamp(-3.0 * deviation, 3.0 * deviation), deviation })
}

fn mean(tensor: &Tensor) -> Option<f64> {
    let numbers = tensor.to_f64_vec()?;
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

/// Whether the first axis of `input` is one of steps and no batch: a recurrent op or a Scan goes along it.
pub(super) fn has_steps_first(graph: &Graph, input: ValueId) -> bool {
    let Some(first) = graph.ty(input).and_then(|ty| ty.shape.as_ref()?.first()) else { return false };
    let Dim::Symbol(symbol) = first else { return steps_along(graph, input) };
    let named = |value: Option<ValueId>| {
        let shape = value.and_then(|value| graph.ty(value)?.shape.as_ref()?.first());
        matches!(shape, Some(Dim::Symbol(other)) if other == symbol)
    };
    let is_recurrent = |op: &OpId| {
        let node = graph.op(*op);
        ["LSTM", "GRU", "RNN"].iter().any(|op_type| node.is(op_type))
            && node.int("layout").unwrap_or(0) == 0
            && named(node.input(0))
    };
    steps_along(graph, input) || graph.ops_in_id_order().iter().any(is_recurrent)
}

/// Whether a recurrent op or a Scan reads `input` as it is.
fn steps_along(graph: &Graph, input: ValueId) -> bool {
    graph.uses(input).into_iter().any(|place| match place {
        Use::Input(op, port) => {
            let node = graph.op(op);
            let states = node.inputs().len() as i64 - node.int("num_scan_inputs").unwrap_or(0);
            node.is("Scan") && port as i64 >= states
                || port == 0
                    && ["LSTM", "GRU", "RNN"].iter().any(|op_type| node.is(op_type))
                    && node.int("layout").unwrap_or(0) == 0
        }
        _ => false,
    })
}

/// Sides of square images that tables of the model fit: as many rows as cells of its grids.
pub(super) fn image_sides(graph: &Graph) -> Vec<usize> {
    let long: BTreeSet<usize> = graph
        .values()
        .into_iter()
        .filter_map(|value| graph.constant(value))
        .flat_map(|tensor| tensor.dims().iter().copied().filter(|dim| *dim >= 49).collect::<Vec<_>>())
        .collect();
    let fits = |side: &usize| {
        let cells = |step: usize| (side / step) * (side / step);
        let sum = cells(8) + cells(16) + cells(32);
        // (All cells, those of one step, with 1 or 3 boxes in each, with and without a class token.)
        let counts = [sum, cells(8), cells(16), cells(32), cells(14)];
        counts.iter().any(|count| *count >= 49 && [*count, 3 * count, count + 1].iter().any(|rows| long.contains(rows)))
    };
    [640, 416, 320, 224, 256, 512, 384, 300, 608, 1280].into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::text::parse_graph;

    use super::{Numbers, has_steps_first, image_sides, numbers};

    fn told(text: &str) -> Option<Numbers> {
        let mut graph = parse_graph(text, 17).unwrap().graph;
        onnx_shrink_ir::infer::infer(&mut graph);
        numbers(&graph, graph.inputs()[0])
    }

    #[test]
    fn whole_numbers_fit_what_reads_them() {
        let table = "m (int64[b, t] ids) => (float[b, t, 2] y) <float[3, 2] e = {1, 2, 3, 4, 5, 6}, int64 pad = {1}>
                     { c = Cast <to = 7> (ids) q = Equal (ids, pad) y = Gather (e, c) }";
        assert_eq!(told(table), Some(Numbers::Range { least: 0, most: 2, special: vec![1] }));
        let mask =
            "m (int64[b, t] mask) => (float[b, t] y) <float one = {1}> { c = Cast <to = 1> (mask) y = Sub (one, c) }";
        assert_eq!(told(mask), Some(Numbers::Mask));
        let rate = "m (int64 rate) => (bool y) <int64 k = {16000}> { y = Equal (rate, k) }";
        assert_eq!(told(rate), Some(Numbers::Range { least: 0, most: 16000, special: vec![16000] }));
        let lengths = "m (int32[b] lens, float[t, b, 2] x) => (float[t, 1, b, 1] y)
            <float[1, 1, 2] w = {1, 2}, float[1, 1, 1] r = {1}> { y = RNN <hidden_size = 1> (x, w, r, , lens) }";
        assert!(matches!(told(lengths), Some(Numbers::Lengths(Some(_)))), "{:?}", told(lengths));
        assert_eq!(told("m (int64[n] x) => (int64[n] y) { y = Abs (x) }"), None);
    }

    #[test]
    fn floats_fit_what_normalizes_them() {
        let scaled = "m (float[N, 3] x) => (float[N, 1] y) <float m = {128}, float s = {64}, float[3, 1] w = {1, 2, 3}>
                      { c = Sub (x, m) d = Div (c, s) y = MatMul (d, w) }";
        assert_eq!(told(scaled), Some(Numbers::Floats { mean: 128.0, deviation: 64.0 }));
        let norm = "m (float[N, 1] x) => (float[N, 1] y) <float[1] a = {1}, float[1] b = {0}, float[1] m = {3}, float[1] v = {4}>
                    { y = BatchNormalization (x, a, b, m, v) }";
        assert_eq!(told(norm), Some(Numbers::Floats { mean: 3.0, deviation: 2.0 }));
        let conv = "m (float[N, 1, h, w] x) => (float[N, 1, h, w] y)
                    <float[1, 1, 1, 1] k = {2}, float[1] a = {1}, float[1] b = {0}, float[1] m = {3}, float[1] v = {4}>
                    { c = Conv (x, k) y = BatchNormalization (c, a, b, m, v) }";
        assert_eq!(told(conv), Some(Numbers::Floats { mean: 1.5, deviation: 1.0 }));
    }

    #[test]
    fn steps_and_sides_are_known_from_their_readers() {
        let steps = "m (float[time, 2, 2] x) => (float y) <float[1, 1, 2] w = {1, 2}, float[1, 1, 1] r = {1}>
                     { z = Relu (x) h = RNN <hidden_size = 1> (z, w, r) y = ReduceSum (h) }";
        let mut graph = parse_graph(steps, 17).unwrap().graph;
        onnx_shrink_ir::infer::infer(&mut graph);
        assert!(has_steps_first(&graph, graph.inputs()[0]));
        let tokens: Vec<String> = (0..197).map(|number| number.to_string()).collect();
        let vit = format!(
            "m (float[N, 197] x) => (float[N, 197] y) <float[1, 197] p = {{{}}}> {{ y = Add (x, p) }}",
            tokens.join(", ")
        );
        assert_eq!(image_sides(&parse_graph(&vit, 17).unwrap().graph), [224]);
    }
}
