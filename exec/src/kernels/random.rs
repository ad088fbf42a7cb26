//! Random ops, with numbers that are made up: the same for the same value's name on every call, so that two models that draw
//! under one name draw the same.
//!
//! ONNX leaves the generator open; here it is SplitMix64, and a normal number is the sum of twelve uniform ones, less 6: no
//! function whose last bit differs between processors. **Never** runs unless the run asks for it ([`Call::random`]).
use ndarray::ArrayD;
use onnx_shrink_ir::{DataType, Op, Tensor};

use super::{
    layout::{Outputs, check_size, dims_of, failed, one, unsupported},
    numbers::{bool_tensor, narrowed, widened},
};
use crate::kernel::{Call, Kernel, KernelError};

/// The kernel of a random op; `None` for others. Dropout, which is random in training only, is not among them.
pub(crate) fn find(op: &Op) -> Option<Kernel> {
    let kernel: Kernel = match op.op_type() {
        "RandomNormal" | "RandomNormalLike" => normal,
        "RandomUniform" | "RandomUniformLike" => uniform,
        "Bernoulli" => bernoulli,
        "Multinomial" => multinomial,
        _ => return None,
    };
    Some(kernel).filter(|_| op.domain().is_empty())
}

/// SplitMix64.
struct Generator(u64);

impl Generator {
    /// The generator of the call's op.
    fn of(call: &Call<'_>) -> Result<Generator, KernelError> {
        let Some(name) = call.random else { return unsupported("it is random") };
        // FNV-1a
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        Ok(Generator(name.bytes().fold(0xCBF2_9CE4_8422_2325, hash)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of mean 0 and variance 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Dimensions and element type of what the op makes.
fn form(call: &Call<'_>) -> Result<(Vec<usize>, DataType), KernelError> {
    let like = call.optional(0);
    let stated = call.op.int("dtype").map(|code| {
        let known = i32::try_from(code).ok().and_then(DataType::from_number);
        known.ok_or_else(|| KernelError::Failed(format!("ONNX has no element type {code}")))
    });
    let dtype = stated.transpose()?.or(like.map(Tensor::dtype)).unwrap_or(DataType::Float);
    let dims = match (like, call.ints("shape")) {
        (Some(like), _) => like.dims().to_vec(),
        (None, Some(shape)) => dims_of(shape, "shape")?,
        (None, None) => return failed("attribute `shape` is missing"),
    };
    Ok((dims, dtype))
}

/// Numbers that `draw` makes, as a tensor of the op's form.
fn drawn(call: &Call<'_>, mut draw: impl FnMut(&mut Generator, usize) -> f64) -> Outputs {
    let (dims, dtype) = form(call)?;
    let mut generator = Generator::of(call)?;
    check_size(call, DataType::Double, &dims)?;
    let mut at = 0..;
    let numbers = ArrayD::from_shape_simple_fn(dims, || draw(&mut generator, at.next().unwrap_or(0)));
    let tensor = Tensor::from_f64(dtype, &numbers);
    tensor.map_or_else(|| unsupported(format!("random numbers of {dtype}")), one)
}

fn normal(call: &Call<'_>) -> Outputs {
    let (mean, scale) = (f64::from(call.float("mean", 0.0)), f64::from(call.float("scale", 1.0)));
    drawn(call, |generator, _| mean + scale * generator.normal())
}

fn uniform(call: &Call<'_>) -> Outputs {
    let (low, high) = (f64::from(call.float("low", 0.0)), f64::from(call.float("high", 1.0)));
    drawn(call, |generator, _| low + (high - low) * generator.uniform())
}

/// 1 with the probability that stands in the input.
fn bernoulli(call: &Call<'_>) -> Outputs {
    let Some(chances) = call.input(0)?.to_f64_vec() else { return unsupported("these chances") };
    let chance = |at: usize| chances.get(at).copied().unwrap_or(0.0);
    drawn(call, |generator, at| f64::from(u8::from(generator.uniform() < chance(at))))
}

/// Classes, by logarithms of their chances (which need not sum to 1).
fn multinomial(call: &Call<'_>) -> Outputs {
    let logits = call.input(0)?;
    let &[batch, classes] = logits.dims() else { return failed("its input is no matrix") };
    let Some(numbers) = logits.to_f64_vec().filter(|_| classes > 0) else { return unsupported("these chances") };
    let count = usize::try_from(call.int("sample_size", 1)).unwrap_or(0);
    let is_wide = match call.op.int("dtype") {
        None | Some(6) => false,
        Some(7) => true,
        Some(other) => return failed(format!("draws of element type {other}")),
    };
    let dims = [batch, count];
    let mut generator = Generator::of(call)?;
    let mut drawn = Vec::with_capacity(check_size(call, DataType::Int64, &dims)?);
    for row in numbers.chunks(classes) {
        let peak = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut total = 0.0;
        let sums: Vec<f64> = row
            .iter()
            .map(|logit| {
                total += (logit - peak).exp();
                total
            })
            .collect();
        for _ in 0..count {
            let at = generator.uniform() * total;
            drawn.push(sums.iter().position(|sum| at < *sum).unwrap_or(classes - 1) as i64);
        }
    }
    one(match is_wide {
        true => Tensor::from_vec(&dims, drawn),
        false => Tensor::from_vec(&dims, drawn.into_iter().map(|class| class as i32).collect::<Vec<_>>()),
    })
}

/// Dropout in training: elements are 0 with the chance `ratio`, the others are larger for that.
pub(super) fn dropout(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let mut generator = Generator::of(call)?;
    let ratio = match call.optional(1) {
        Some(ratio) => ratio.to_scalar_f64().unwrap_or(f64::NAN),
        None => f64::from(call.float("ratio", 0.5)),
    };
    if !(0.0..1.0).contains(&ratio) {
        return failed(format!("a ratio of {ratio}"));
    }
    let kept: Vec<u8> = (0..x.len()).map(|_| u8::from(generator.uniform() >= ratio)).collect();
    let wide = widened(x);
    let Some(numbers) = wide.as_slice::<f32>() else { return unsupported(format!("dropout of {}", x.dtype())) };
    let scale = (1.0 / (1.0 - ratio)) as f32;
    let dropped: Vec<f32> = numbers.iter().zip(&kept).map(|(x, &kept)| x * f32::from(kept) * scale).collect();
    let dropped = narrowed(Tensor::from_vec(x.dims(), dropped), x.dtype());
    if call.op.outputs().len() < 2 {
        return one(dropped);
    }
    if call.opset < 10 {
        return unsupported("the mask of Dropout before opset 10");
    }
    Ok(vec![Some(dropped), Some(bool_tensor(x.dims(), kept)?)])
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Tensor, attributes};

    use crate::kernels::tests::run_random;

    #[test]
    fn the_same_name_draws_the_same_numbers_and_another_draws_others() {
        let shape = || vec![attributes::ints("shape", &[4, 1000])];
        let one = run_random("RandomNormal", shape(), &[], Some("a")).unwrap();
        let numbers = one.to_f64_vec().unwrap();
        let mean = numbers.iter().sum::<f64>() / 4000.0;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4000.0;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
        assert_eq!(run_random("RandomNormal", shape(), &[], Some("a")).unwrap(), one);
        assert_ne!(run_random("RandomNormal", shape(), &[], Some("b")).unwrap(), one);
        assert!(run_random("RandomNormal", shape(), &[], None).unwrap_err().to_string().contains("random"));
    }

    #[test]
    fn bounds_chances_and_types_hold() {
        let bounds = vec![attributes::float("low", 2.0), attributes::float("high", 3.0), attributes::int("dtype", 11)];
        let like = Tensor::from_vec(&[500], vec![1.0f32; 500]);
        let uniform = run_random("RandomUniformLike", bounds, &[like], Some("a")).unwrap();
        assert_eq!(uniform.ty().to_string(), "double[500]");
        assert!(uniform.to_f64_vec().unwrap().iter().all(|x| (2.0..3.0).contains(x)));
        let chances = Tensor::from_vec(&[3], vec![0.0f32, 1.0, 1.0]);
        let drawn = run_random("Bernoulli", vec![attributes::int("dtype", 9)], &[chances], Some("a")).unwrap();
        assert_eq!((drawn.ty().to_string(), drawn.to_f64_vec()), ("bool[3]".to_owned(), Some(vec![0.0, 1.0, 1.0])));
        let logits = Tensor::from_vec(&[1, 3], vec![-100.0f32, 0.0, -100.0]);
        let classes = run_random("Multinomial", vec![attributes::int("sample_size", 4)], &[logits], Some("a")).unwrap();
        assert_eq!((classes.ty().to_string(), classes.to_i64_vec()), ("int32[1,4]".to_owned(), Some(vec![1; 4])));
    }

    #[test]
    fn dropout_in_training_keeps_the_mean() {
        let x = Tensor::from_vec(&[4000], vec![1.0f32; 4000]);
        let inputs = [x, Tensor::scalar(0.25f32), Tensor::from_bools(&[], &[true])];
        let y = run_random("Dropout", vec![], &inputs, Some("y")).unwrap().to_f64_vec().unwrap();
        let mean = y.iter().sum::<f64>() / 4000.0;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        assert!(y.iter().all(|y| *y == 0.0 || (y - 4.0 / 3.0).abs() < 1e-6));
    }
}
