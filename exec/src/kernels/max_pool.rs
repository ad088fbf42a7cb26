//! MaxPool over two spatial dimensions of floats, without dilations: rows of the window first, as whole rows, then columns.
//!
//! **Never** sees NaN: which number is the largest is then a matter of order, and that of another engine. Other forms are
//! not done here.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    layout::{Outputs, check_size, dims_of, failed, one, unsupported},
    numbers::slice,
    window::Window,
};
use crate::kernel::Call;

/// MaxPool
pub(super) fn max_pool(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let Some(kernel) = call.op.ints("kernel_shape") else { return failed("kernel_shape is missing") };
    let [batch, channels, height, width] = *x.dims() else { return unsupported("MaxPool but over two dimensions") };
    let automatic = call.op.string("auto_pad").unwrap_or("NOTSET") != "NOTSET";
    let simple = x.dtype() == DataType::Float
        && kernel.len() == 2
        && call.op.outputs().len() == 1
        && call.op.ints("dilations").is_none_or(|steps| steps.iter().all(|&step| step == 1))
        && call.op.ints("pads").is_none_or(|pads| pads.iter().all(|&pad| pad >= 0))
        && !(automatic && call.op.int("ceil_mode").unwrap_or(0) != 0);
    if !simple {
        return unsupported("MaxPool in this form");
    }
    let numbers = slice::<f32>(x)?;
    if numbers.iter().fold(false, |nan, x| nan | x.is_nan()) {
        return unsupported("the maximum of NaN");
    }
    let kernel = dims_of(kernel, "kernel_shape")?;
    let window = Window::of(call, &[height, width], &kernel)?;
    let dims = [batch, channels, window.output[0], window.output[1]];
    let mut out = vec![f32::NEG_INFINITY; check_size(call, DataType::Float, &dims)?];
    let (Some(rows), Some(columns)) = (spans(&window, 0, height), spans(&window, 1, width)) else {
        return unsupported("windows that lie wholly in the padding");
    };
    let stride = window.strides[1];
    let inner = columns.iter().take_while(|(from, to)| to - from == kernel[1]).count();
    let mut tallest = vec![0f32; width];
    for (plane, out) in numbers.chunks_exact((height * width).max(1)).zip(out.chunks_exact_mut(dims[2] * dims[3])) {
        for (&(from, to), out) in rows.iter().zip(out.chunks_exact_mut(dims[3])) {
            tallest.copy_from_slice(&plane[from * width..(from + 1) * width]);
            for row in plane[from * width..to * width].chunks_exact(width).skip(1) {
                for (tallest, &x) in tallest.iter_mut().zip(row) {
                    *tallest = if x > *tallest { x } else { *tallest };
                }
            }
            // From the first window on those that are whole, when none is cut in front, lie evenly.
            let even = if window.before[1] == 0 { inner } else { 0 };
            for tap in 0..kernel[1] {
                for (out, &x) in out[..even].iter_mut().zip(tallest[tap.min(width)..].iter().step_by(stride)) {
                    *out = if x > *out { x } else { *out };
                }
            }
            for (out, &(from, to)) in out.iter_mut().zip(&columns).skip(even) {
                *out = tallest[from..to].iter().fold(*out, |most, &x| if x > most { x } else { most });
            }
        }
    }
    one(Tensor::from_vec(&dims, out))
}

/// Where each window begins and ends along spatial axis `axis` of `size` elements, padding aside; `None` when one has
/// nothing but padding.
fn spans(window: &Window, axis: usize, size: usize) -> Option<Vec<(usize, usize)>> {
    let span = |place: usize| {
        let start = (place * window.strides[axis]) as i64 - window.before[axis];
        let (from, to) = (start.max(0), (start + window.kernel[axis] as i64).min(size as i64));
        (from < to).then_some((from as usize, to as usize))
    };
    (0..window.output[axis]).map(span).collect()
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Tensor, attributes};

    use super::super::tests::run_with;

    #[test]
    fn windows_at_every_edge_are_those_of_the_definition() {
        let (height, width) = (7usize, 9usize);
        let mut state = 3u64;
        let numbers: Vec<f32> = (0..2 * height * width)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 - 8e6
            })
            .collect();
        for (kernel, stride, pads, ceil) in [
            ([3i64, 3], [2i64, 2], [0i64, 0, 0, 0], 0i64),
            ([3, 3], [2, 2], [1, 1, 1, 1], 0),
            ([3, 2], [2, 3], [0, 1, 2, 0], 1),
            ([2, 2], [2, 2], [0, 0, 0, 0], 1),
            ([1, 1], [3, 1], [0, 0, 0, 0], 0),
            ([7, 9], [1, 1], [3, 4, 3, 4], 0),
        ] {
            let list = |name, numbers: &[i64]| attributes::ints(name, numbers);
            let given = vec![
                list("kernel_shape", &kernel),
                list("strides", &stride),
                list("pads", &pads),
                attributes::int("ceil_mode", ceil),
            ];
            let x = Tensor::from_vec(&[1, 2, height, width], numbers.clone());
            let found = run_with("MaxPool", 12, given, &[Some(x)]).expect("runs")[0].clone().expect("an output");
            let (rows, columns) = (found.dims()[2], found.dims()[3]);
            let found = found.as_slice::<f32>().expect("floats").into_owned();
            for (at, &found) in found.iter().enumerate() {
                let (plane, row, column) = (at / rows / columns, (at / columns % rows) as i64, (at % columns) as i64);
                let mut most = f32::NEG_INFINITY;
                for y in 0..kernel[0] {
                    for x in 0..kernel[1] {
                        let (y, x) = (row * stride[0] - pads[0] + y, column * stride[1] - pads[1] + x);
                        if (0..height as i64).contains(&y) && (0..width as i64).contains(&x) {
                            most = most.max(numbers[(plane * height + y as usize) * width + x as usize]);
                        }
                    }
                }
                assert_eq!(found, most, "{kernel:?} {stride:?} {pads:?} {ceil} at {at}");
            }
        }
    }

    #[test]
    fn not_a_number_is_left_to_others() {
        let x = Tensor::from_vec(&[1, 1, 1, 2], vec![f32::NAN, 1.0]);
        assert!(run_with("MaxPool", 12, vec![attributes::ints("kernel_shape", &[1, 1])], &[Some(x)]).is_err());
    }
}
