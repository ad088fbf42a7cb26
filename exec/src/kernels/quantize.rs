//! QuantizeLinear and DynamicQuantizeLinear: `q = saturate(round(x / scale) + zero)`, rounding half to even.
//!
//! **Never** multiplies by 1/scale: that differs from the division on ties. NaN becomes the type's lowest number, as in
//! ONNX Runtime (measured).
use half::{bf16, f16};
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    cells::squeeze,
    grain::Grain,
    layout::{Outputs, failed, one, unsupported},
    numbers::{slice, widened},
    small_float::Format,
};
use crate::kernel::{Call, KernelError};

/// The smallest and the largest number of an integer type of at most 16 bits.
pub(super) fn limits(dtype: DataType) -> Option<(i32, i32)> {
    Some(match dtype {
        DataType::Uint8 => (0, 255),
        DataType::Int8 => (-128, 127),
        DataType::Uint16 => (0, 65535),
        DataType::Int16 => (-32768, 32767),
        DataType::Uint4 => (0, 15),
        DataType::Int4 => (-8, 7),
        DataType::Uint2 => (0, 3),
        DataType::Int2 => (-2, 1),
        _ => return None,
    })
}

/// 1.5·2^23: a float of at most 22 bits plus this has its integer part, rounded half to even, in its low bits.
const ROUNDER: f32 = 12_582_912.0;

/// One number of [`quantize_run`]: `ratio` is x/scale.
#[inline(always)]
fn quantized(ratio: f32, low: f32, high: f32, zero: i32) -> i32 {
    // Bounds are integers, so clamping before rounding is the same; comparisons this way round turn NaN into `low`.
    let ratio = if ratio > low { ratio } else { low };
    let ratio = if ratio < high { ratio } else { high };
    ((ratio + ROUNDER).to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32) + zero
}

/// `out = saturate(round(x / scale) + zero)`; the cast keeps the low bits of a number that is inside `limits`.
#[inline]
pub(super) fn quantize_run<Q>(
    x: &[f32],
    scale: f32,
    zero: i32,
    limits: (i32, i32),
    out: &mut [Q],
    cast: impl Fn(i32) -> Q,
) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the same loop, compiled for more of the processor than every one has")]
        // SAFETY: the processor has AVX2, as was just asked.
        return unsafe { quantize_run_avx2(x, scale, zero, limits, out, cast) };
    }
    quantize_loop(x, scale, zero, limits, out, cast);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_run_avx2<Q>(x: &[f32], scale: f32, zero: i32, limits: (i32, i32), out: &mut [Q], cast: impl Fn(i32) -> Q) {
    quantize_loop(x, scale, zero, limits, out, cast);
}

#[inline(always)]
fn quantize_loop<Q>(x: &[f32], scale: f32, zero: i32, limits: (i32, i32), out: &mut [Q], cast: impl Fn(i32) -> Q) {
    let (low, high) = ((limits.0 - zero) as f32, (limits.1 - zero) as f32);
    for (out, &x) in out.iter_mut().zip(x) {
        *out = cast(quantized(x / scale, low, high, zero));
    }
}

/// Rounds `x` to the type in which the division is done.
fn rounded_to(precision: DataType, x: f32) -> f32 {
    match precision {
        DataType::Float16 => f16::from_f32(x).to_f32(),
        DataType::Bfloat16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// x as f32.
fn dividend(x: &Tensor) -> Result<Tensor, KernelError> {
    match x.dtype() {
        DataType::Float | DataType::Float16 | DataType::Bfloat16 => Ok(widened(x)),
        DataType::Int32 => {
            Ok(Tensor::from_vec(x.dims(), slice::<i32>(x)?.iter().map(|&x| x as f32).collect::<Vec<_>>()))
        }
        DataType::Double => {
            Ok(Tensor::from_vec(x.dims(), slice::<f64>(x)?.iter().map(|&x| x as f32).collect::<Vec<_>>()))
        }
        other => unsupported(format!("quantizing {other}")),
    }
}

/// QuantizeLinear.
pub(super) fn quantize_linear(call: &Call<'_>) -> Outputs {
    let (x, scale, zero) = (call.input(0)?, call.input(1)?, call.optional(2));
    let named = call.op.int("output_dtype").filter(|&number| number != 0);
    let named = named.map(|number| {
        let dtype = i32::try_from(number).ok().and_then(DataType::from_number);
        dtype.map_or_else(|| failed(format!("output_dtype {number} is no element type")), Ok)
    });
    let named = named.transpose()?;
    let dtype = zero.map(Tensor::dtype).or(named).unwrap_or(DataType::Uint8);
    if named.is_some_and(|named| named != dtype) {
        return failed(format!("output_dtype is not the zero point's type, {dtype}"));
    }
    if !matches!(scale.dtype(), DataType::Float | DataType::Float16 | DataType::Bfloat16) {
        return unsupported(format!("a scale of type {}", scale.dtype()));
    }
    let precision = match call.op.int("precision").unwrap_or(0) {
        0 => scale.dtype(),
        number => match i32::try_from(number).ok().and_then(DataType::from_number) {
            Some(precision @ (DataType::Float | DataType::Float16 | DataType::Bfloat16)) => precision,
            _ => return unsupported(format!("precision {number}")),
        },
    };
    let grain = Grain::of(call, x, scale, zero)?;
    let mut wide = dividend(x)?;
    let scale = widened(scale);
    let scales = slice::<f32>(&scale)?;
    if precision != DataType::Float {
        // The division is done here, in that precision; what follows divides by 1.
        let mut ratios = slice::<f32>(&wide)?.into_owned();
        grain.runs(|first, count, at| {
            for x in &mut ratios[first..first + count] {
                *x = rounded_to(precision, rounded_to(precision, *x) / rounded_to(precision, scales[at]));
            }
        });
        wide = Tensor::from_vec(x.dims(), ratios);
    }
    let numbers = slice::<f32>(&wide)?;
    let divisor = |at: usize| if precision == DataType::Float { scales[at] } else { 1.0 };
    if let Some(format) = Format::of(dtype) {
        let saturate = call.op.int("saturate").unwrap_or(1) != 0;
        let zeros: Option<Vec<f32>> =
            zero.and_then(Tensor::bytes).map(|bytes| bytes.iter().map(|&code| format.decode(code)).collect());
        if dtype == DataType::Float4e2m1
            && zero.is_some_and(|zero| zero.bytes().is_some_and(|b| b.iter().any(|&b| b != 0)))
        {
            return unsupported(format!("a zero point other than 0 for {dtype}"));
        }
        let mut out = vec![0u8; x.len()];
        grain.runs(|first, count, at| {
            let zero = zeros.as_ref().and_then(|zeros| zeros.get(at)).copied().unwrap_or(0.0);
            for (out, &x) in out[first..first + count].iter_mut().zip(&numbers[first..first + count]) {
                *out = format.encode(x / divisor(at) + zero, saturate);
            }
        });
        let out = if dtype.bits() == 4 { squeeze(&out, 4) } else { out };
        return raw(dtype, x.dims(), out);
    }
    let Some(limits) = limits(dtype) else { return unsupported(format!("quantizing to {dtype}")) };
    let zeros = zero.map(|zero| super::layout::integers(zero, "the zero point")).transpose()?;
    let zero_at = |at: usize| zeros.as_ref().map_or(0, |zeros| zeros[at] as i32);
    macro_rules! run {
        ($type:ty) => {{
            let mut out = vec![<$type>::default(); x.len()];
            grain.runs(|first, count, at| {
                let part = first..first + count;
                quantize_run(&numbers[part.clone()], divisor(at), zero_at(at), limits, &mut out[part], |q| q as $type)
            });
            out
        }};
    }
    match dtype {
        DataType::Uint8 => one(Tensor::from_vec(x.dims(), run!(u8))),
        DataType::Int8 => one(Tensor::from_vec(x.dims(), run!(i8))),
        DataType::Uint16 => one(Tensor::from_vec(x.dims(), run!(u16))),
        DataType::Int16 => one(Tensor::from_vec(x.dims(), run!(i16))),
        _ => raw(dtype, x.dims(), squeeze(&run!(u8), dtype.bits())),
    }
}

fn raw(dtype: DataType, dims: &[usize], bytes: Vec<u8>) -> Outputs {
    Tensor::new(dtype, dims, bytes.into()).map_or_else(|error| failed(error.to_string()), one)
}

/// DynamicQuantizeLinear: u8, its scale and its zero point from the smallest and largest number, 0 included.
pub(super) fn dynamic_quantize_linear(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let numbers = slice::<f32>(x)?;
    let (low, high) = numbers.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let scale = (high - low) / 255.0;
    // All zeros: any scale is right; 1 keeps the division defined, as ONNX Runtime does.
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even() as u8;
    let mut out = vec![0u8; numbers.len()];
    quantize_run(&numbers, scale, i32::from(zero), (0, 255), &mut out, |q| q as u8);
    Ok(vec![Some(Tensor::from_vec(x.dims(), out)), Some(Tensor::scalar(scale)), Some(Tensor::scalar(zero))])
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn ties_go_to_even_and_ends_saturate() {
        let x = [0.5f32, 1.5, 2.5, -0.5, -1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30, -1e30];
        let out = run(
            "QuantizeLinear",
            13,
            &[Tensor::from_vec(&[10], x.to_vec()), Tensor::scalar(1f32), Tensor::scalar(10u8)],
        );
        assert_eq!(out.to_i64_vec(), Some(vec![10, 12, 12, 10, 8, 255, 0, 0, 255, 0]));
        let out = run(
            "QuantizeLinear",
            13,
            &[Tensor::from_vec(&[10], x.to_vec()), Tensor::scalar(1f32), Tensor::scalar(-10i8)],
        );
        assert_eq!(out.to_i64_vec(), Some(vec![-10, -8, -8, -10, -12, 127, -128, -128, 127, -128]));
    }

    #[test]
    fn the_division_is_a_division() {
        // x / 0.037 is a tie for many multiples; the product with 1/0.037 falls on the other side for some.
        let scale = 0.037f32;
        let x: Vec<f32> = (0..2000).map(|n| (n as f32 - 1000.0 + 0.5) * scale * 0.12).collect();
        let expected: Vec<i64> =
            x.iter().map(|x| ((x / scale).round_ties_even() as i64 + 3).clamp(-128, 127)).collect();
        let out =
            run("QuantizeLinear", 13, &[Tensor::from_vec(&[2000], x), Tensor::scalar(scale), Tensor::scalar(3i8)]);
        assert_eq!(out.to_i64_vec(), Some(expected));
    }

    #[test]
    fn sixteen_bits_and_all_zero_points_stay_exact() {
        for zero in [0u16, 1, 32768, 65535] {
            let x: Vec<f32> = (-70000..70000).step_by(977).map(|n| n as f32 + 0.5).collect();
            let expected: Vec<i64> =
                x.iter().map(|x| (x.round_ties_even() as i64 + i64::from(zero)).clamp(0, 65535)).collect();
            let dims = [x.len()];
            let out =
                run("QuantizeLinear", 21, &[Tensor::from_vec(&dims, x), Tensor::scalar(1f32), Tensor::scalar(zero)]);
            assert_eq!(out.to_i64_vec(), Some(expected));
        }
    }

    #[test]
    fn per_axis_and_blocked() {
        let x = Tensor::from_vec(&[2, 3], vec![1f32, 2., 3., 4., 5., 6.]);
        let scale = Tensor::from_vec(&[2], vec![1f32, 2.]);
        let out = run_with("QuantizeLinear", 13, vec![attributes::int("axis", -2)], &[Some(x.clone()), Some(scale)]);
        assert_eq!(out.expect("runs")[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![1, 2, 3, 2, 2, 3]));
        let scale = Tensor::from_vec(&[2, 2], vec![1f32, 3., 2., 6.]);
        let attributes = vec![attributes::int("axis", 1), attributes::int("block_size", 2)];
        let out = run_with("QuantizeLinear", 21, attributes, &[Some(x.clone()), Some(scale)]);
        assert_eq!(out.expect("runs")[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![1, 2, 1, 2, 2, 1]));
        let bad = Tensor::from_vec(&[2], vec![1f32, 2.]);
        assert!(run_with("QuantizeLinear", 13, vec![], &[Some(x), Some(bad)]).is_err());
    }

    #[test]
    fn four_bits_are_packed() {
        let attributes = vec![attributes::int("output_dtype", DataType::Int4 as i64)];
        let x = Tensor::from_vec(&[3], vec![-100f32, 1.0, 100.0]);
        let out = run_with("QuantizeLinear", 21, attributes, &[Some(x), Some(Tensor::scalar(1f32))]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![-8, 1, 7]));
    }
}
