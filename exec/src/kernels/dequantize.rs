//! DequantizeLinear: `(q - zero) · scale`, the product in the output's type.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    cells::spread,
    grain::Grain,
    layout::{Outputs, check_size, failed, integers, one, unsupported},
    numbers::{narrowed, slice, widened},
    small_float::Format,
};
use crate::kernel::Call;

/// `out = (q - zero)·scale`.
fn dequantize_run<Q: Copy + Into<i32>>(q: &[Q], scale: f32, zero: i32, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the same loop, compiled for more of the processor than every one has")]
        // SAFETY: the processor has AVX2, as was just asked.
        return unsafe { dequantize_run_avx2(q, scale, zero, out) };
    }
    dequantize_loop(q, scale, zero, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dequantize_run_avx2<Q: Copy + Into<i32>>(q: &[Q], scale: f32, zero: i32, out: &mut [f32]) {
    dequantize_loop(q, scale, zero, out);
}

#[inline(always)]
fn dequantize_loop<Q: Copy + Into<i32>>(q: &[Q], scale: f32, zero: i32, out: &mut [f32]) {
    for (out, &q) in out.iter_mut().zip(q) {
        *out = q.into().wrapping_sub(zero) as f32 * scale;
    }
}

/// DequantizeLinear.
pub(super) fn dequantize_linear(call: &Call<'_>) -> Outputs {
    let (x, scale, zero) = (call.input(0)?, call.input(1)?, call.optional(2));
    if let Some(zero) = zero
        && zero.dtype() != x.dtype()
    {
        return failed(format!("the zero point is {}, the input {}", zero.dtype(), x.dtype()));
    }
    if !matches!(scale.dtype(), DataType::Float | DataType::Float16 | DataType::Bfloat16) {
        return unsupported(format!("a scale of type {}", scale.dtype()));
    }
    let dtype = match call.op.int("output_dtype").unwrap_or(0) {
        0 => scale.dtype(),
        number => match i32::try_from(number).ok().and_then(DataType::from_number) {
            Some(dtype @ (DataType::Float | DataType::Float16 | DataType::Bfloat16)) => dtype,
            _ => return unsupported(format!("output_dtype {number}")),
        },
    };
    check_size(call, DataType::Float, x.dims())?;
    let grain = Grain::of(call, x, scale, zero)?;
    let scale = widened(scale);
    let scales = slice::<f32>(&scale)?;
    let mut out = vec![0f32; x.len()];
    if let Some(format) = Format::of(x.dtype()) {
        let codes = |tensor: &Tensor| {
            let bytes = tensor.bytes().map_or(&[][..], |bytes| bytes);
            if tensor.dtype().bits() == 4 { spread(bytes, 4, tensor.len()) } else { bytes.to_vec() }
        };
        let (codes, zeros) = (codes(x), zero.map(codes));
        let table: Vec<f32> = (0..=255).map(|code| format.decode(code)).collect();
        grain.runs(|first, count, at| {
            let zero = zeros.as_ref().map_or(0.0, |zeros| table[usize::from(zeros[at])]);
            for (out, &code) in out[first..first + count].iter_mut().zip(&codes[first..first + count]) {
                *out = (table[usize::from(code)] - zero) * scales[at];
            }
        });
        return one(narrowed(Tensor::from_vec(x.dims(), out), dtype));
    }
    let zeros = zero.map(|zero| integers(zero, "the zero point")).transpose()?;
    let zero_at = |at: usize| zeros.as_ref().map_or(0, |zeros| zeros[at] as i32);
    macro_rules! run {
        ($numbers:expr) => {{
            let numbers = $numbers;
            grain.runs(|first, count, at| {
                let part = first..first + count;
                dequantize_run(&numbers[part.clone()], scales[at], zero_at(at), &mut out[part]);
            })
        }};
    }
    match x.dtype() {
        DataType::Uint8 => run!(slice::<u8>(x)?),
        DataType::Int8 => run!(slice::<i8>(x)?),
        DataType::Uint16 => run!(slice::<u16>(x)?),
        DataType::Int16 => run!(slice::<i16>(x)?),
        DataType::Int32 => run!(slice::<i32>(x)?),
        other => match x.unpack() {
            Some(numbers) => run!(numbers),
            None => return unsupported(format!("dequantizing {other}")),
        },
    }
    one(narrowed(Tensor::from_vec(x.dims(), out), dtype))
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn per_tensor_axis_and_block() {
        let x = Tensor::from_vec(&[2, 2], vec![0u8, 128, 255, 1]);
        let out = run("DequantizeLinear", 13, &[x.clone(), Tensor::scalar(0.5f32), Tensor::scalar(128u8)]);
        assert_eq!(out.to_f64_vec(), Some(vec![-64.0, 0.0, 63.5, -63.5]));
        let (scale, zero) = (Tensor::from_vec(&[2], vec![1f32, 2.0]), Tensor::from_vec(&[2], vec![0u8, 1]));
        let out = run("DequantizeLinear", 13, &[x.clone(), scale, zero]);
        assert_eq!(out.to_f64_vec(), Some(vec![0.0, 254.0, 255.0, 0.0]));
        let scale = Tensor::from_vec(&[1, 2], vec![1f32, 2.0]);
        let attributes = vec![attributes::int("axis", 0), attributes::int("block_size", 2)];
        let out = run_with("DequantizeLinear", 21, attributes, &[Some(x), Some(scale)]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_f64_vec), Some(vec![0.0, 256.0, 255.0, 2.0]));
    }

    #[test]
    fn int32_bias_and_int4() {
        let x = Tensor::from_vec(&[2], vec![i32::MAX, -3]);
        let out = run("DequantizeLinear", 13, &[x, Tensor::scalar(0.5f32)]);
        assert_eq!(out.to_f64_vec(), Some(vec![f64::from(i32::MAX as f32) * 0.5, -1.5]));
        let x = Tensor::new(DataType::Int4, &[3], vec![0x8F, 0x07].into()).expect("three fields");
        let out = run("DequantizeLinear", 21, &[x, Tensor::scalar(2f32)]);
        assert_eq!(out.to_f64_vec(), Some(vec![-2.0, -16.0, 14.0]));
    }
}
