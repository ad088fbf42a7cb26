//! Stores float constants in 8 bits, where the ops that read them stay float.
//!
//! ```onnx before
//! # x: float[16,64]; w: float[64,32]
//! y = MatMul (x, w)
//! ```
//! ```onnx after
//! c = Cast <to = 1> (w_q)
//! m = Mul (c, w_scale)
//! y = MatMul (x, m)
//! ```
//! Engines fold Cast and Mul when they load the file: it is a quarter of the size and runs as before. (A DequantizeLinear in
//! their place runs at every inference: measured with ONNX Runtime 1.16 to 1.32.) With the mean of what the op reads, from samples or
//! batch norms, the bias takes up the mean error: b += (W − Ŵ)·E\[x\].
//!
//! The smallest constants are stored in 16-bit floats instead (Cast alone): 8 % of the bytes of all weights, 35 % where nothing
//! tells the mean of what the op reads.
//! A constant of the two values 0 and c is stored exactly (Cast → Mul), one of 0 and −∞, too (Cast → Log), and so is a table that
//! 16 bits hold ([`crate::weight_only::tables`]).
//!
//! **Class:** approximate. **Legal when** the constant is float and something other than a Quantize or Dequantize reads it.
//! **Does not** touch vectors (biases, norms), tables that are coordinates, nor what would not become smaller.

use std::collections::BTreeSet;

use ndarray::{Array1, ArrayD, ArrayViewD, Axis, Zip};
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, Tensor, TensorType, Use, ValueId, attributes,
    ops::{LayerKind, RowOrder, WeightLayout, WeightedLayer, clip_bounds},
};

use crate::{
    Class, Context, Description, Miss, Pass, Result, Statistics, When,
    calibration::collect::Calibration,
    numerics::{
        moments::clipped,
        rounding::Inputs,
        weight_scales::{output_shift, quantize_rows},
    },
    target::Pairing,
    weight_only::{
        least_bits::{Least, LeastBits, SMALL_SHARE},
        store_fp16::store_half,
        stored::{is_too_noisy, keeps_enough, scales_stored_weights},
        tables::{Role, Roles, store_before_rounding},
        twins::Twin,
    },
};

/// See the [module](self).
#[derive(Default)]
pub struct StoreInt8<'a> {
    /// What samples showed of the main graph's values, if there were any
    pub calibration: Option<&'a Calibration>,
    /// Types of ops whose weights are stored in 16 bits, not in 8
    pub halves: &'static [&'static str],
    /// What single constants must have at least
    pub least: Option<&'a LeastBits>,
    /// Tables that layers in integers multiply by, too: stored once for both
    pub twins: &'a [Twin],
}

/// Bytes that the two nodes and their names take.
pub(super) const OVERHEAD: usize = 120;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "store-int8",
    class: Class::Approximate,
    about: "stores float constants in 8 bits",
    when: When::Requested("--int8"),
};

impl Pass for StoreInt8<'_> {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if graph.opset() < 7 {
            return Ok(()); // Mul does not broadcast before
        }
        let roles = Roles::of(graph);
        let small = match self.least {
            Some(least) if least.alone => BTreeSet::new(),
            _ => self.small_constants(graph, cx, &roles),
        };
        for value in graph.values() {
            if !graph.has_value(value) {
                continue; // a bias that went with its weight
            }
            match self.store(graph, cx, value, small.contains(&value), &roles) {
                Ok(patch) => {
                    cx.apply(graph, patch)?;
                }
                Err(Some((op, miss))) => cx.missed(graph, op, &miss),
                Err(None) => {}
            }
        }
        Ok(())
    }
}

/// The constant `value`, if it is one that is worth storing: float, two axes or more, and larger than what it takes.
fn candidate(graph: &Graph, value: ValueId) -> Option<&Tensor> {
    let is_worth = |tensor: &&Tensor| {
        tensor.dtype() == DataType::Float && tensor.dims().len() >= 2 && tensor.byte_len() >= 4 * OVERHEAD
    };
    graph.constant(value).filter(is_worth).filter(|_| !scales_stored_weights(graph, value))
}

/// Whether `op`, which is none of ONNX's own, multiplies by integers that it unpacks itself: what else it reads are their scales.
fn reads_integers(graph: &Graph, op: OpId) -> bool {
    let is_packed = |value: &ValueId| {
        graph
            .constant(*value)
            .is_some_and(|tensor| tensor.dims().len() >= 2 && tensor.dtype().is_integer() && tensor.dtype().bits() <= 8)
    };
    !graph.op(op).domain().is_empty() && graph.op(op).inputs().iter().flatten().any(is_packed)
}

/// [`SMALL_SHARE`] when nothing tells what rounding does to the mean of the outputs: no samples and no batch norm.
const BLIND_SHARE: f64 = 0.35;

impl StoreInt8<'_> {
    /// The smallest constants, as many as have [`SMALL_SHARE`] of the bytes: first and last layers and depthwise filters,
    /// whose rounding costs most where their bytes cost least.
    fn small_constants(&self, graph: &Graph, cx: &Context<'_>, roles: &Roles) -> BTreeSet<ValueId> {
        let mut total = 0;
        let mut by_size = Vec::new();
        for value in graph.values() {
            let Some(tensor) = graph.constant(value) else { continue };
            match tensor.dtype() {
                DataType::Float => total += tensor.byte_len(),
                DataType::Int8 => total += 4 * tensor.byte_len(),
                _ => {}
            }
            if candidate(graph, value).is_some() && roles.role(value) != Role::Coordinate {
                by_size.push((tensor.byte_len(), value));
            }
        }
        by_size.sort();
        let mut taken = 0.0;
        by_size.retain(|(bytes, value)| {
            let share = if self.knows_mean(graph, cx, *value) { SMALL_SHARE } else { BLIND_SHARE };
            let fits = taken + *bytes as f64 <= share * total as f64;
            taken += if fits { *bytes as f64 } else { 0.0 };
            fits
        });
        by_size.into_iter().map(|(_, value)| value).collect()
    }

    /// Whether the bias of the op that reads `weight` can take up the error of its mean.
    fn knows_mean(&self, graph: &Graph, cx: &Context<'_>, weight: ValueId) -> bool {
        let Some((op, 1)) = graph.only_use(weight) else { return self.calibration.is_some() };
        let Some(x) = graph.op(op).input(0) else { return false };
        self.calibration.is_some() || self.mean(graph, cx, x, graph.op(op).is("Conv")).is_some()
    }
}

/// A constant in 8 bits, as the two ops read it.
struct Stored {
    integers: Tensor,
    scales: Tensor,
    error: ArrayD<f64>,
}

impl StoreInt8<'_> {
    /// The patch that stores `value`, in 16 bits if `small`, or why not (`None`: nobody would expect it).
    pub(super) fn store(
        &self,
        graph: &Graph,
        cx: &Context<'_>,
        value: ValueId,
        small: bool,
        roles: &Roles,
    ) -> Result<Patch, Option<(OpId, Miss)>> {
        let tensor = candidate(graph, value).ok_or(None)?;
        let uses = graph.uses(value);
        let mut first: Option<(OpId, Option<usize>)> = None;
        for place in &uses {
            match *place {
                Use::Output(_) => return Err(None),
                Use::Input(op, index) => {
                    if graph.op(op).op_type().ends_with("uantizeLinear") || reads_integers(graph, op) {
                        return Err(None);
                    }
                    first = first.or(Some((op, Some(index))));
                }
                Use::Capture(op, ..) => first = first.or(Some((op, None))),
            }
        }
        let Some((op, index)) = first else { return Err(None) };
        let least = self.least.and_then(|least| least.of(graph.name_of(value)));
        match store_before_rounding(graph, (value, tensor), op, roles.role(value), least) {
            Ok(Some(patch)) => return Ok(patch),
            Ok(None) => {}
            Err(miss) => return Err(Some((op, miss))),
        }
        let array = tensor.to_f64().ok_or(None)?;
        if array.iter().any(|x| !x.is_finite()) {
            return Err(Some((op, Miss::NotFinite(value))));
        }
        if let Some(patch) = self.share(graph, value, &array, op) {
            return Ok(patch);
        }
        let small = small || least == Some(Least::Sixteen);
        let in_halves = self.halves.iter().any(|name| graph.op(op).is(name));
        if (small || in_halves)
            && let Some(patch) = store_half(graph, value, &array, op)
        {
            return Ok(patch);
        }
        if in_halves {
            return Err(Some((op, Miss::Form("the target does not read its weights in 8 bits beside integer layers"))));
        }
        let stored = stored(graph, &array, op, index).ok_or(None)?;
        let bytes = stored.integers.byte_len() + stored.scales.byte_len() + OVERHEAD;
        if bytes >= tensor.byte_len() {
            return Err(Some((op, Miss::Grows { added: bytes, removed: tensor.byte_len() })));
        }
        let signal: f64 = array.iter().map(|x| x * x).sum();
        let noise: f64 = stored.error.iter().map(|x| x * x).sum();
        if is_too_noisy(signal, noise) {
            return Err(Some((op, Miss::Form("8 bits keep too little of its range"))));
        }
        let shift = match (uses.as_slice(), index) {
            ([Use::Input(..)], Some(1)) => self.shift(graph, cx, op, &stored.error),
            _ => None,
        };
        let mut patch = Patch::new(op);
        let ty = Some(tensor.ty());
        let integers = patch.constant("w", stored.integers);
        let scales = patch.constant("s", stored.scales);
        let cast = NewOp::new("Cast").with(attributes::int("to", DataType::Float as i64));
        let cast = patch.op(cast, &[Some(integers)], "c", ty.clone());
        let product = patch.op(NewOp::new("Mul"), &[Some(cast), Some(scales)], "m", ty);
        patch.replace(value, product);
        if let Some(shift) = shift {
            correct_bias(graph, &mut patch, op, shift);
        }
        Ok(patch)
    }

    /// The table `value` by the integers of a layer that multiplies by it: scaled by column, and turned.
    fn share(&self, graph: &Graph, value: ValueId, array: &ArrayD<f64>, op: OpId) -> Option<Patch> {
        let twins = self.twins.iter().filter(|twin| twin.table == value && !graph.is_input(value));
        let (integers, scales) = twins.filter_map(|twin| integer_weight(graph, twin)).next()?;
        let stored = graph.constant(integers)?.to_f64()? * graph.constant(scales)?.to_f64()?;
        let turned = stored.reversed_axes();
        if turned.shape() != array.shape() || !keeps_enough(array.iter().copied(), turned.iter().copied()) {
            return None;
        }
        let mut patch = Patch::new(op);
        let ty = graph.ty(integers).map(|ty| TensorType { dtype: DataType::Float, ..ty.clone() });
        let cast = NewOp::new("Cast").with(attributes::int("to", DataType::Float as i64));
        let cast = patch.op(cast, &[Some(integers.into())], "c", ty.clone());
        let product = patch.op(NewOp::new("Mul"), &[Some(cast), Some(scales.into())], "m", ty);
        let turn = NewOp::new("Transpose").with(attributes::ints("perm", &[1, 0]));
        let table = patch.op(turn, &[Some(product)], "t", graph.ty(value).cloned());
        patch.replace(value, table);
        Some(patch)
    }

    /// Σ error·E\[x\] per output channel of `op`, when the mean of what it reads is known.
    fn shift(&self, graph: &Graph, cx: &Context<'_>, op: OpId, error: &ArrayD<f64>) -> Option<Array1<f64>> {
        let takes_it =
            |layer: &WeightedLayer| matches!(layer.kind, LayerKind::Conv | LayerKind::Gemm) && layer.is_plain();
        let layer = WeightedLayer::of(graph, op).filter(takes_it)?;
        let mean = self.mean(graph, cx, layer.x, layer.is_conv())?;
        let shape = layer.layout.shape(error.shape())?;
        output_shift(&layer.layout.rows(error.clone(), RowOrder::ChannelsLast)?, &mean, &shape)
    }

    /// The mean of `x` per channel (axis 1) or per position of the last axis.
    fn mean(&self, graph: &Graph, cx: &Context<'_>, x: ValueId, by_channel: bool) -> Option<Vec<f64>> {
        let calibration = self.calibration.filter(|_| !cx.is_in_body());
        if let Some(seen) = calibration.and_then(|calibration| calibration.values.get(&x)) {
            let mean = if by_channel { seen.channel_mean() } else { seen.last_axis_mean() };
            return (!mean.is_empty()).then_some(mean);
        }
        if !by_channel {
            return None;
        }
        let known = |value: ValueId| cx.statistics.get(graph.name_of(value));
        if let Some(statistics) = known(x) {
            return Some(statistics.mean.clone());
        }
        let before = graph.producer(x)?;
        let statistics = known(graph.op(before).input(0)?)?;
        let (low, high) = clip_bounds(graph, before)?;
        (low == 0.0).then(|| mean_of_clip(statistics, high))
    }
}

/// The mean of min(max(x, 0), upper) per channel.
fn mean_of_clip(statistics: &Statistics, upper: f64) -> Vec<f64> {
    statistics.mean.iter().zip(&statistics.deviation).map(|(&m, &s)| clipped(m, s, upper).0).collect()
}

/// Integers of shape `[K, N]` and scales of shape `[N]` of the layer of `twin` as it computes now.
fn integer_weight(graph: &Graph, twin: &Twin) -> Option<(ValueId, ValueId)> {
    let of_form = |value: ValueId, dims: usize, dtype: DataType| {
        graph.constant(value).is_some_and(|tensor| tensor.dims().len() == dims && tensor.dtype() == dtype)
    };
    let (integers, scales) = if graph.has_op(twin.layer) && graph.op(twin.layer).is("MatMul") {
        let pair = graph.op(graph.producer(graph.op(twin.layer).input(1)?)?);
        let is_zero = |zero: ValueId| {
            graph.constant(zero).and_then(Tensor::to_f64_vec).is_some_and(|zero| zero.iter().all(|z| *z == 0.0))
        };
        if !pair.is("DequantizeLinear") || !pair.input(2).is_none_or(is_zero) {
            return None;
        }
        (pair.input(0)?, pair.input(1)?)
    } else {
        let products = graph.ops_of("MatMulInteger");
        let product = products.into_iter().find(|op| graph.label_of(*op) == twin.name)?;
        let (cast, _) = graph.only_use(graph.op(product).output(0)?)?;
        let (scaled, _) = graph.only_use(graph.op(cast).output(0)?)?;
        let scale = graph.producer(graph.op(scaled).input(1)?)?;
        (graph.op(product).input(1)?, graph.op(scale).input(1)?)
    };
    (of_form(integers, 2, DataType::Int8) && of_form(scales, 1, DataType::Float)).then_some((integers, scales))
}

/// The constant in 8 bits with the scales that suit the op that reads it; `None` when it has no shape for it.
fn stored(graph: &Graph, array: &ArrayD<f64>, op: OpId, index: Option<usize>) -> Option<Stored> {
    let dims = array.shape();
    let rank = dims.len();
    let layer = WeightedLayer::of(graph, op).filter(|layer| index == Some(layer.weight_input));
    // The axes that keep a scale each; along the others numbers share one.
    let kept: Vec<usize> = match layer.map(|layer| layer.layout) {
        Some(layout @ WeightLayout::Conv { .. }) => {
            let rows = layout.rows(array.clone(), RowOrder::ChannelsLast)?;
            let quantized = quantize_rows(&rows, &Inputs::centred(&dims[2..]), Pairing::None, &[]);
            let integers = layout.from_rows(quantized.integers, dims, RowOrder::ChannelsLast)?;
            let mut shape = vec![1; rank];
            shape[0] = dims[0];
            let integers = Tensor::from_vec(dims, integers.into_iter().collect());
            return finish(array, integers, Tensor::from_vec(&shape, quantized.scales));
        }
        // Outputs of several groups share a column: a scale each for the input channels instead.
        Some(WeightLayout::ConvTranspose { groups: 2.. }) => vec![0],
        Some(layout @ WeightLayout::ConvTranspose { .. }) => vec![layout.output_axis(rank)?],
        Some(layout @ WeightLayout::Matrix { .. }) => {
            let shared = layout.input_axis(rank)?;
            (0..rank).filter(|axis| *axis != shared).collect()
        }
        // Rows of a table, gates of a recurrent layer, anything else: along the last axis, if it is long enough.
        None if dims[rank - 1] >= 16 => (0..rank - 1).collect(),
        None => Vec::new(),
    };
    let shape: Vec<usize> = (0..rank).map(|axis| if kept.contains(&axis) { dims[axis] } else { 1 }).collect();
    let fold = |array: ArrayViewD<'_, f64>, axis| {
        array.fold_axis(Axis(axis), 0.0, |a: &f64, b| a.max(b.abs())).insert_axis(Axis(axis))
    };
    let mut shared = (0..rank).filter(|axis| !kept.contains(axis));
    let first = shared.next().map_or_else(|| array.mapv(f64::abs), |axis| fold(array.view(), axis));
    let largest = shared.fold(first, |largest, axis| fold(largest.view(), axis));
    let scales =
        largest.mapv(|largest| if largest > 0.0 { ((largest / 127.0) as f32).max(f32::MIN_POSITIVE) } else { 1.0 });
    let spread = scales.broadcast(dims)?;
    let integers: Vec<i8> = array
        .iter()
        .zip(spread.iter())
        .map(|(x, scale)| (x / f64::from(*scale)).round_ties_even().clamp(-127.0, 127.0) as i8)
        .collect();
    finish(array, Tensor::from_vec(dims, integers), Tensor::from_vec(&shape, scales.iter().copied().collect()))
}

fn finish(array: &ArrayD<f64>, integers: Tensor, scales: Tensor) -> Option<Stored> {
    let mut error = integers.to_f64()?;
    Zip::from(&mut error).and(array).and_broadcast(&scales.to_f64()?).for_each(|q, w, scale| *q = w - *q * scale);
    Some(Stored { integers, scales, error })
}

/// Adds `shift` to the bias of `op`, unless that is not a constant vector of its length.
fn correct_bias(graph: &Graph, patch: &mut Patch, op: OpId, shift: Array1<f64>) {
    let bias = match graph.op(op).input(2) {
        Some(b) => {
            let Some(tensor) = graph.constant(b) else { return };
            if tensor.dtype() != DataType::Float || tensor.dims() != [shift.len()] {
                return;
            }
            let Some(numbers) = tensor.to_f64_vec() else { return };
            Array1::from(numbers) + shift
        }
        None => shift,
    };
    let bias = Tensor::from_vec(&[bias.len()], bias.iter().map(|b| *b as f32).collect());
    let bias = patch.constant("b", bias);
    patch.set_input(op, 2, Some(bias));
}
