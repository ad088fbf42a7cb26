//! ConvInteger and QLinearConv: products of 8-bit integers less their zero points, summed in i32 with wrap-around.
//!
//! Padding is the zero point, so it adds nothing. Rows of windows are laid out side by side (im2col), 64 at a time, and
//! each output is one dot product of i16.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    layout::{Outputs, check_size, failed, integers, one, product},
    numbers::slice,
    quantize::{limits, quantize_run},
    window::Window,
};
use crate::kernel::{Call, KernelError};

/// Windows laid out at a time.
const BLOCK: usize = 64;

/// The 8-bit integers of `tensor` as i16.
pub(super) fn eight_bits(tensor: &Tensor) -> Result<Vec<i16>, KernelError> {
    match tensor.dtype() {
        DataType::Uint8 => Ok(slice::<u8>(tensor)?.iter().map(|&x| i16::from(x)).collect()),
        DataType::Int8 => Ok(slice::<i8>(tensor)?.iter().map(|&x| i16::from(x)).collect()),
        other => Err(KernelError::Unsupported(format!("integer products of {other}"))),
    }
}

/// Σ a·b in i32, wrapping.
#[inline]
pub(super) fn dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).fold(0i32, |sum, (&a, &b)| sum.wrapping_add(i32::from(a) * i32::from(b)))
}

/// A zero point: one number, or one for each of `count` channels.
fn channel_zeros(zero: Option<&Tensor>, like: &Tensor, count: usize) -> Result<Vec<i16>, KernelError> {
    let Some(zero) = zero else { return Ok(vec![0; count]) };
    if zero.dtype() != like.dtype() {
        return failed(format!("a zero point is {}, its tensor {}", zero.dtype(), like.dtype()));
    }
    match integers(zero, "a zero point")?.as_slice() {
        [zero] => Ok(vec![*zero as i16; count]),
        zeros if zeros.len() == count => Ok(zeros.iter().map(|&zero| zero as i16).collect()),
        zeros => failed(format!("{} zero points for {count} channels", zeros.len())),
    }
}

/// The sums, and the shape of the output [N, M, spatial…].
fn sums(
    call: &Call<'_>,
    x: &Tensor,
    w: &Tensor,
    x_zero: Option<&Tensor>,
    w_zero: Option<&Tensor>,
) -> Result<(Vec<i32>, Vec<usize>), KernelError> {
    let (xd, wd) = (x.dims(), w.dims());
    if xd.len() < 3 || wd.len() != xd.len() {
        return failed(format!("input {xd:?} and weights {wd:?} are no convolution"));
    }
    let groups = call.op.int("group").unwrap_or(1);
    let (channels, outputs) = (xd[1], wd[0]);
    let fits = usize::try_from(groups).is_ok_and(|groups| {
        groups > 0 && outputs.is_multiple_of(groups) && wd[1].checked_mul(groups) == Some(channels)
    });
    if !fits {
        return failed(format!("input {xd:?} and weights {wd:?} do not fit {groups} groups"));
    }
    let groups = groups as usize;
    let window = Window::of(call, &xd[2..], &wd[2..])?;
    let mut dims = vec![xd[0], outputs];
    dims.extend(&window.output);
    let mut out = vec![0i32; check_size(call, DataType::Int32, &dims)?];
    let mut numbers = eight_bits(x)?;
    let [x_zero] = channel_zeros(x_zero, x, 1)?[..] else { return failed("the input has several zero points") };
    numbers.iter_mut().for_each(|x| *x -= x_zero);
    let mut weights = eight_bits(w)?;
    let length = product(&wd[1..]);
    if length == 0 || out.is_empty() {
        return Ok((out, dims));
    }
    for (row, zero) in weights.chunks_mut(length).zip(channel_zeros(w_zero, w, outputs)?) {
        row.iter_mut().for_each(|w| *w -= zero);
    }
    let (area, positions) = (product(&xd[2..]), product(&window.output));
    let (in_group, out_group, taps_count) = (wd[1], outputs / groups, product(&wd[2..]));
    let mut taps = Vec::new();
    // Windows do not depend on sample and channel: their places are worked out once a block.
    for first in (0..positions).step_by(BLOCK) {
        let count = BLOCK.min(positions - first);
        let mut places = Vec::with_capacity(count * taps_count);
        for position in first..first + count {
            window.taps(&xd[2..], position, &mut taps);
            places.extend_from_slice(&taps);
        }
        let mut columns = vec![0i16; count * length];
        for sample in 0..xd[0] {
            for group in 0..groups {
                for channel in 0..in_group {
                    let plane = &numbers[(sample * channels + group * in_group + channel) * area..][..area];
                    for (column, places) in columns.chunks_mut(length).zip(places.chunks(taps_count)) {
                        let column = &mut column[channel * taps_count..][..taps_count];
                        for (cell, place) in column.iter_mut().zip(places) {
                            *cell = place.map_or(0, |place| plane[place]);
                        }
                    }
                }
                for output in group * out_group..(group + 1) * out_group {
                    let row = &weights[output * length..][..length];
                    let out = &mut out[(sample * outputs + output) * positions + first..][..count];
                    for (out, column) in out.iter_mut().zip(columns.chunks(length)) {
                        *out = dot(row, column);
                    }
                }
            }
        }
    }
    Ok((out, dims))
}

/// ConvInteger.
pub(super) fn conv_integer(call: &Call<'_>) -> Outputs {
    let (sums, dims) = sums(call, call.input(0)?, call.input(1)?, call.optional(2), call.optional(3))?;
    one(Tensor::from_vec(&dims, sums))
}

/// QLinearConv: the sums plus bias, times `x_scale·w_scale/y_scale`, quantized.
pub(super) fn qlinear_conv(call: &Call<'_>) -> Outputs {
    let (x, w, y_zero) = (call.input(0)?, call.input(3)?, call.input(7)?);
    let (mut sums, dims) = sums(call, x, w, Some(call.input(2)?), Some(call.input(5)?))?;
    let outputs = dims[1];
    let positions = product(&dims[2..]);
    if let Some(bias) = call.optional(8) {
        let bias = slice::<i32>(bias)?;
        if bias.len() != outputs {
            return failed(format!("{} biases for {outputs} channels", bias.len()));
        }
        if positions > 0 {
            for (plane, &bias) in sums.chunks_mut(positions).zip(bias.iter().cycle()) {
                plane.iter_mut().for_each(|sum| *sum = sum.wrapping_add(bias));
            }
        }
    }
    let (xs, ws, ys) = (slice::<f32>(call.input(1)?)?, slice::<f32>(call.input(4)?)?, slice::<f32>(call.input(6)?)?);
    let ([xs], [ys]) = (&xs[..], &ys[..]) else { return failed("the scales of input and output must be scalars") };
    if ws.len() != 1 && ws.len() != outputs {
        return failed(format!("{} weight scales for {outputs} channels", ws.len()));
    }
    let factors: Vec<f32> = (0..outputs).map(|m| xs * ws[m % ws.len()] / ys).collect();
    let products: Vec<f32> = match positions {
        0 => Vec::new(),
        _ => sums
            .chunks(positions)
            .zip(factors.iter().cycle())
            .flat_map(|(plane, &factor)| plane.iter().map(move |&sum| sum as f32 * factor))
            .collect(),
    };
    requantized(&products, &dims, y_zero)
}

/// Numbers in steps of the output, rounded, moved by the zero point, saturated to its type.
pub(super) fn requantized(steps: &[f32], dims: &[usize], zero: &Tensor) -> Outputs {
    let zero_number = super::layout::integer(zero, "the output's zero point")? as i32;
    match (zero.dtype(), limits(zero.dtype())) {
        (DataType::Uint8, Some(limits)) => {
            let mut out = vec![0u8; steps.len()];
            quantize_run(steps, 1.0, zero_number, limits, &mut out, |q| q as u8);
            one(Tensor::from_vec(dims, out))
        }
        (DataType::Int8, Some(limits)) => {
            let mut out = vec![0i8; steps.len()];
            quantize_run(steps, 1.0, zero_number, limits, &mut out, |q| q as i8);
            one(Tensor::from_vec(dims, out))
        }
        (other, _) => super::layout::unsupported(format!("an output of type {other}")),
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn padding_is_the_zero_point_and_groups_stay_apart() {
        let x = Tensor::from_vec(&[1, 2, 3], vec![1u8, 2, 3, 4, 5, 6]);
        let w = Tensor::from_vec(&[2, 1, 2], vec![1i8, 1, 2, -1]);
        let attributes = vec![attributes::int("group", 2), attributes::ints("pads", &[1, 0])];
        let inputs = [Some(x), Some(w), Some(Tensor::scalar(1u8))];
        let out = run_with("ConvInteger", 10, attributes, &inputs).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![0, 1, 3, -3, 2, 3]));
    }

    #[test]
    fn each_output_channel_has_its_scale() {
        let x = Tensor::from_vec(&[1, 1, 1, 2], vec![10u8, 20]);
        let w = Tensor::from_vec(&[2, 1, 1, 1], vec![1i8, 1]);
        let out = run(
            "QLinearConv",
            10,
            &[
                x,
                Tensor::scalar(1f32),
                Tensor::scalar(0u8),
                w,
                Tensor::from_vec(&[2], vec![1f32, 0.5]),
                Tensor::from_vec(&[2], vec![0i8, 0]),
                Tensor::scalar(2f32),
                Tensor::scalar(1u8),
                Tensor::from_vec(&[2], vec![0i32, 2]),
            ],
        );
        assert_eq!(out.to_i64_vec(), Some(vec![6, 11, 4, 7]));
    }

    #[test]
    fn a_kernel_beyond_the_input_fails() {
        let (x, w) = (Tensor::from_vec(&[1, 1, 2], vec![1u8; 2]), Tensor::from_vec(&[1, 1, 3], vec![1u8; 3]));
        assert!(run_with("ConvInteger", 10, vec![], &[Some(x), Some(w)]).is_err());
    }
}
