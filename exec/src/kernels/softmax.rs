//! Softmax and LogSoftmax of ONNX before opset 13, where all axes from `axis` on are one; later ones too.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    layout::{Outputs, axis_attribute, one, product, unsupported},
    numbers::{narrowed, slice, widened},
};
use crate::kernel::Call;

fn normalized(call: &Call<'_>, log: bool) -> Outputs {
    let x = call.input(0)?;
    let dims = x.dims();
    let coerced = call.opset < 13;
    let axis = axis_attribute(call, if coerced { 1 } else { -1 }, dims.len())?;
    let (length, inner) = match coerced {
        true => (product(&dims[axis..]), 1),
        false => (dims[axis], product(&dims[axis + 1..])),
    };
    let wide = widened(x);
    macro_rules! run {
        ($type:ty) => {{
            let mut out = slice::<$type>(&wide)?.into_owned();
            let block = length * inner;
            if block > 0 {
                for block in out.chunks_mut(block) {
                    for start in 0..inner {
                        let peak = block[start..].iter().step_by(inner).fold(<$type>::NEG_INFINITY, |a, &b| a.max(b));
                        let mut sum = 0f64;
                        for x in block[start..].iter_mut().step_by(inner) {
                            *x -= peak;
                            let power = x.exp();
                            sum += f64::from(power);
                            if !log {
                                *x = power;
                            }
                        }
                        let (ln, sum) = (sum.ln() as $type, sum as $type);
                        for x in block[start..].iter_mut().step_by(inner) {
                            *x = if log { *x - ln } else { *x / sum };
                        }
                    }
                }
            }
            Tensor::from_vec(dims, out)
        }};
    }
    let out = match wide.dtype() {
        DataType::Float => run!(f32),
        DataType::Double => run!(f64),
        other => return unsupported(format!("exponentials of {other}")),
    };
    one(narrowed(out, x.dtype()))
}

/// Softmax
pub(super) fn softmax(call: &Call<'_>) -> Outputs {
    normalized(call, false)
}

/// LogSoftmax
pub(super) fn log_softmax(call: &Call<'_>) -> Outputs {
    normalized(call, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::run;

    #[test]
    fn before_opset_13_the_axes_are_one() {
        let x = Tensor::from_vec(&[1, 2, 2], vec![0f32; 4]);
        assert_eq!(run("Softmax", 11, &[x]).to_f64_vec(), Some(vec![0.25; 4]));
    }
}
