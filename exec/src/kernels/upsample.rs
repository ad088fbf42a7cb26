//! Upsample, which Resize replaced in opset 10: nearest (the element at `floor(i / scale)`) and linear.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    cells::{Cells, picked},
    layout::{Outputs, check_size, failed, one, product, strides_of, unsupported},
    numbers::{slice, widened},
};
use crate::kernel::Call;

/// Upsample
pub(super) fn upsample(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    if call.opset < 7 {
        return unsupported("Upsample as before opset 7");
    }
    let scales: Vec<f32> = match call.opset {
        ..9 => call.op.floats("scales").unwrap_or(&[]).to_vec(),
        _ => slice::<f32>(call.input(1)?)?.into_owned(),
    };
    if scales.len() != x.dims().len() || scales.iter().any(|scale| !(1.0..1e6).contains(scale)) {
        return failed(format!("scales {scales:?} for an input of shape {:?}", x.dims()));
    }
    let dims: Vec<usize> =
        x.dims().iter().zip(&scales).map(|(&dim, &scale)| (dim as f32 * scale).floor() as usize).collect();
    let count = check_size(call, x.dtype(), &dims)?;
    match call.op.string("mode").unwrap_or("nearest") {
        "nearest" => {
            let (strides, own) = (strides_of(x.dims()), strides_of(&dims));
            let maps: Vec<Vec<usize>> = (0..dims.len())
                .map(|axis| {
                    let last = x.dims()[axis].saturating_sub(1);
                    (0..dims[axis])
                        .map(|n| ((n as f32 / scales[axis]).floor() as usize).min(last) * strides[axis] as usize)
                        .collect()
                })
                .collect();
            let picks: Vec<usize> = (0..count)
                .map(|at| (0..dims.len()).map(|axis| maps[axis][at / own[axis] as usize % dims[axis]]).sum())
                .collect();
            let cells = Cells::of(&[x])?;
            one(cells.tensor(&dims, picked(cells.first(), cells.size, &picks))?)
        }
        "linear" | "bilinear" => {
            if x.dtype() != DataType::Float {
                return unsupported(format!("linear upsampling of {}", x.dtype()));
            }
            let wide = widened(x);
            let mut numbers = slice::<f32>(&wide)?.into_owned();
            let mut now = x.dims().to_vec();
            // A linear interpolation over several axes is one after the other.
            for axis in 0..dims.len() {
                if dims[axis] == now[axis] || numbers.is_empty() {
                    continue;
                }
                let (outer, length, inner) = (product(&now[..axis]), now[axis], product(&now[axis + 1..]));
                let mut next = Vec::with_capacity(outer * dims[axis] * inner);
                for outer in 0..outer {
                    for n in 0..dims[axis] {
                        let at = (n as f32 / scales[axis]).min((length - 1) as f32);
                        let low = at.floor() as usize;
                        let (part, high) = (at - low as f32, (low + 1).min(length - 1));
                        let row = |place: usize| &numbers[(outer * length + place) * inner..][..inner];
                        next.extend(row(low).iter().zip(row(high)).map(|(&a, &b)| a * (1.0 - part) + b * part));
                    }
                }
                numbers = next;
                now[axis] = dims[axis];
            }
            if numbers.len() != count {
                return failed("an empty input cannot be interpolated");
            }
            one(Tensor::from_vec(&dims, numbers))
        }
        mode => failed(format!("mode {mode} is none of ONNX's")),
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::run_with;

    #[test]
    fn both_modes() {
        for (mode, expected) in [("nearest", vec![1., 1., 2., 2.]), ("linear", vec![1., 1.5, 2., 2.])] {
            let attributes = vec![attributes::string("mode", mode), attributes::floats("scales", &[1.0, 2.0])];
            let out = run_with("Upsample", 7, attributes, &[Some(Tensor::from_vec(&[1, 2], vec![1f32, 2.]))]);
            assert_eq!(out.expect("runs")[0].as_ref().and_then(Tensor::to_f64_vec), Some(expected), "{mode}");
        }
    }
}
