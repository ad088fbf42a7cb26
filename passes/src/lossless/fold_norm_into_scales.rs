//! Folds `y · factor + shift` per channel into the scales and the bias of a quantized Conv: its integers stay.
//!
//! A file of quantization-aware training has Conv (DequantizeLinear (x), DequantizeLinear (w)) with a BatchNormalization behind it,
//! which engines run in float. With the factor k of a channel its scale becomes `s · |k|`; where k is negative its integers change
//! their sign. The bias `(b − mean) · k + shift` is a float: ONNX Runtime makes integers of it from 1.24 on, and nothing is rounded twice.
//!
//! **Legal when** the weight's integers are symmetric (zero points 0, no −128 where a sign changes), its scale is one or one a filter, and all
//! results are finite. **Never** computes a weight in float.
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, Tensor, ValueId, attributes,
    ops::{Conv, DequantizeLinear},
};

use crate::Miss;

/// A DequantizeLinear of constants.
struct Pair {
    integers: ValueId,
    scales: Vec<f64>,
}

impl Pair {
    /// The pair that makes `value`, with zero points 0 and one scale, or one for each of the `channels` along axis 0.
    fn of(graph: &Graph, value: ValueId, channels: usize) -> Option<Pair> {
        let pair = DequantizeLinear::making(graph, value).filter(|pair| pair.block_size == 0)?;
        let numbers = |value: ValueId| graph.constant(value).and_then(Tensor::to_f64_vec);
        let scales = numbers(pair.scale)?;
        let zero = pair.zero_point.is_none_or(|zero| numbers(zero).is_some_and(|zero| zero.iter().all(|z| *z == 0.0)));
        let along_channels = pair.axis_of(graph.constant(pair.x)?.dims().len()) == Some(0);
        let fits = scales.len() == 1 || (scales.len() == channels && along_channels);
        (fits && zero).then_some(Pair { integers: pair.x, scales })
    }

    fn scale(&self, channel: usize) -> f64 {
        self.scales[channel % self.scales.len()]
    }
}

/// The edits that let the quantized Conv which makes `from` make `to` at once; `NotThisPattern` where none does.
pub(crate) fn into_scales(
    graph: &Graph,
    anchor: OpId,
    (from, to): (ValueId, ValueId),
    (factor, shift): (&[f64], &[f64]),
) -> Result<Patch, Miss> {
    let conv = graph.producer(from).and_then(|op| Conv::of(graph, op)).ok_or(Miss::NotThisPattern)?;
    let channels = factor.len();
    let weight = Pair::of(graph, conv.w, channels).ok_or(Miss::NotThisPattern)?;
    let integers = graph.constant(weight.integers).filter(|tensor| tensor.dtype() == DataType::Int8);
    let integers = integers.filter(|tensor| tensor.dims().first() == Some(&channels)).ok_or(Miss::NotThisPattern)?;
    if graph.only_use(from).map(|(op, _)| op) != Some(anchor) {
        return Err(Miss::OtherUses(from));
    }
    let old = match conv.b {
        None => vec![0.0; channels],
        Some(b) => old_bias(graph, b, channels).ok_or(Miss::NotConstant(b))?,
    };

    let mut numbers = integers.as_slice::<i8>().ok_or(Miss::NotThisPattern)?.into_owned();
    let taps = (numbers.len() / channels.max(1)).max(1);
    let mut scales = Vec::with_capacity(channels);
    for (channel, (row, k)) in numbers.chunks_mut(taps).zip(factor).enumerate() {
        let scale = (weight.scale(channel) * k.abs()) as f32;
        if *k == 0.0 {
            row.fill(0);
            scales.push(weight.scale(channel) as f32);
            continue;
        }
        if *k < 0.0 {
            if row.contains(&i8::MIN) {
                return Err(Miss::Form("a weight of -128 whose sign would change"));
            }
            row.iter_mut().for_each(|q| *q = -*q);
        }
        if !scale.is_normal() {
            return Err(Miss::NotFinite(conv.w));
        }
        scales.push(scale);
    }
    let bias: Vec<f64> = (0..channels).map(|channel| old[channel] * factor[channel] + shift[channel]).collect();
    if bias.iter().any(|b| !(*b as f32).is_finite()) {
        return Err(Miss::NotFinite(from));
    }

    let mut patch = Patch::new(anchor);
    let integers = match factor.iter().all(|k| *k > 0.0) {
        true => weight.integers.into(),
        false => patch.constant("w", Tensor::from_vec(integers.dims(), numbers)),
    };
    let per_channel = NewOp::new("DequantizeLinear").with(attributes::int("axis", 0));
    let ty = graph.ty(conv.w).cloned();
    let scale_values = patch.constant("s", Tensor::from_vec(&[channels], scales.clone()));
    let w = patch.op(per_channel, &[Some(integers), Some(scale_values)], "d", ty);
    let bias = patch.constant("b", Tensor::from_vec(&[channels], bias.iter().map(|b| *b as f32).collect()));
    let ty = graph.ty(to).or(graph.ty(from)).cloned();
    let y = patch.op(conv.to_op(), &[Some(conv.x.into()), Some(w), Some(bias)], graph.name_of(to), ty);
    patch.replace(to, y);
    Ok(patch)
}

/// The bias as floats: a constant of one number a channel, or integers behind a DequantizeLinear.
fn old_bias(graph: &Graph, b: ValueId, channels: usize) -> Option<Vec<f64>> {
    let numbers = match graph.constant(b) {
        Some(constant) => constant.to_f64_vec()?,
        None => {
            let pair = Pair::of(graph, b, channels)?;
            let integers = graph.constant(pair.integers)?.to_f64_vec()?;
            integers.iter().enumerate().map(|(channel, q)| q * pair.scale(channel)).collect()
        }
    };
    (numbers.len() == channels).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use crate::{
        Class, FoldBatchNorm, Options,
        testing::{assert_same_values, check_missed, parse, run},
    };

    fn model(integers: &str, bias: &str) -> String {
        format!(
            "g (float[1,1,2,2] x) => (float[1,2,2,2] y) <float s = {{0.5}}, uint8 z = {{128}}, int8[2,1,1,1] w = {{{integers}}},
            float[2] ws = {{0.25, 0.5}}, float[2] b = {{1, -2}}, int32[2] bq = {{8, 4}}, float[2] bs = {{0.125, 0.25}},
            float[2] k = {{2, -3}}, float[2] o = {{1, 2}}, float[2] m = {{0.5, 1}}, float[2] v = {{1, 4}}, float[1,1,2,2] d, float[2,1,1,1] wd, float[1,2,2,2] t> {{
            q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  wd = DequantizeLinear <axis = 0> (w, ws)
            bd = DequantizeLinear <axis = 0> (bq, bs)  t = Conv ({bias})
            y = BatchNormalization <epsilon = 0.0> (t, k, o, m, v) }}"
        )
    }

    #[test]
    fn a_norm_goes_into_scales_and_bias() {
        for bias in ["d, wd", "d, wd, b", "d, wd, bd"] {
            let before = parse(&model("64, -100", bias)).graph;
            let mut graph = before.detached();
            run(&FoldBatchNorm, &mut graph, Options::default());
            graph.sweep();
            assert!(graph.ops_of("BatchNormalization").is_empty(), "{bias}");
            assert_eq!(graph.ops_of("DequantizeLinear").len(), 2, "{bias}: of x and of the weight");
            assert_same_values(&before, &graph, Class::Rounding);
        }
    }

    #[test]
    fn the_least_integer_keeps_its_sign() {
        check_missed(
            &FoldBatchNorm,
            &model("64, -128", "d, wd, b"),
            "no rule for this form: a weight of -128 whose sign would change",
        );
    }
}
