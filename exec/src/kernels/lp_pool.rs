//! LpPool: `(Σ |x|^p)^(1/p)` over windows; padding adds nothing.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    layout::{Outputs, check_size, failed, one, product, unsupported},
    numbers::slice,
    window::Window,
};
use crate::kernel::Call;

/// LpPool
pub(super) fn lp_pool(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    if x.dtype() != DataType::Float || call.opset < 2 {
        return unsupported(format!("LpPool of {} in opset {}", x.dtype(), call.opset));
    }
    let Some(kernel) = call.op.ints("kernel_shape") else { return failed("kernel_shape is missing") };
    let kernel = super::layout::dims_of(kernel, "kernel_shape")?;
    if x.dims().len() != kernel.len() + 2 {
        return failed(format!("a kernel {kernel:?} over {:?}", x.dims()));
    }
    let p = f64::from(call.op.int("p").unwrap_or(2) as i32);
    let spatial = &x.dims()[2..];
    let window = Window::of(call, spatial, &kernel)?;
    check_size(call, DataType::Double, &kernel)?;
    let mut dims = x.dims()[..2].to_vec();
    dims.extend(&window.output);
    let mut out = vec![0f32; check_size(call, DataType::Float, &dims)?];
    let numbers = slice::<f32>(x)?;
    let (area, positions) = (product(spatial), product(&window.output));
    let mut taps = Vec::new();
    for position in 0..positions {
        window.taps(spatial, position, &mut taps);
        for plane in 0..dims[0] * dims[1] {
            let powers = taps.iter().flatten().map(|&at| f64::from(numbers[plane * area + at]).abs().powf(p));
            out[plane * positions + position] = powers.sum::<f64>().powf(1.0 / p) as f32;
        }
    }
    one(Tensor::from_vec(&dims, out))
}
