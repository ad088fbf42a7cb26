//! Elementwise ops of one input.
//!
//! Half floats are computed as f32 and rounded once at the end.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    layout::{Outputs, failed, one, unsupported},
    numbers::{bool_tensor, bools, by_integer, by_type, narrowed, slice, widened},
};
use crate::kernel::Call;

/// `f32` or `f64` of every element of a float tensor.
fn floats(call: &Call<'_>, single: impl Fn(f32) -> f32, double: impl Fn(f64) -> f64) -> Outputs {
    let x = call.input(0)?;
    let wide = widened(x);
    let out = match wide.dtype() {
        DataType::Float => {
            Tensor::from_vec(x.dims(), slice::<f32>(&wide)?.iter().map(|&x| single(x)).collect::<Vec<_>>())
        }
        DataType::Double => {
            Tensor::from_vec(x.dims(), slice::<f64>(&wide)?.iter().map(|&x| double(x)).collect::<Vec<_>>())
        }
        other => return unsupported(format!("this function of {other}")),
    };
    one(narrowed(out, x.dtype()))
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = |$x:ident: $F:ident| $body:expr;)*) => { $(
        $(#[$doc])*
        pub(super) fn $name(call: &Call<'_>) -> Outputs {
            floats(call, |$x: f32| { type $F = f32; let _: $F = $x; $body }, |$x: f64| { type $F = f64; let _: $F = $x; $body })
        }
    )* };
}

functions! {
    /// Sigmoid
    sigmoid = |x: F| 1.0 / (1.0 + (-x).exp());
    /// HardSwish
    hard_swish = |x: F| x * (x / 6.0 + 0.5).clamp(0.0, 1.0);
    /// Sqrt
    sqrt = |x: F| x.sqrt();
    /// Exp
    exp = |x: F| x.exp();
    /// Log
    log = |x: F| x.ln();
    /// Reciprocal
    reciprocal = |x: F| 1.0 / x;
    /// Floor
    floor = |x: F| x.floor();
    /// Ceil
    ceil = |x: F| x.ceil();
    /// Round, half to even
    round = |x: F| x.round_ties_even();
}

/// Within 3 units in the last place, at a quarter of the time of the exact one: Taylor's series near 0, where the other
/// form cancels.
fn fast_tanh(x: f32) -> f32 {
    if x.abs() < 0.45 {
        let s = x * x;
        let series = 62.0 / 2835.0 - s * (1382.0 / 155_925.0 - s * (21844.0 / 6_081_075.0));
        return x * (1.0 - s * (1.0 / 3.0 - s * (2.0 / 15.0 - s * (17.0 / 315.0 - s * series))));
    }
    1.0 - 2.0 / ((2.0 * x).exp() + 1.0)
}

/// Tanh
pub(super) fn tanh(call: &Call<'_>) -> Outputs {
    floats(call, fast_tanh, f64::tanh)
}

/// LeakyRelu
pub(super) fn leaky_relu(call: &Call<'_>) -> Outputs {
    let alpha = call.op.float("alpha").unwrap_or(0.01);
    let double = f64::from(alpha);
    floats(call, |x| if x < 0.0 { alpha * x } else { x }, |x| if x < 0.0 { double * x } else { x })
}

/// HardSigmoid
pub(super) fn hard_sigmoid(call: &Call<'_>) -> Outputs {
    let (alpha, beta) = (call.op.float("alpha").unwrap_or(0.2), call.op.float("beta").unwrap_or(0.5));
    let (wide_alpha, wide_beta) = (f64::from(alpha), f64::from(beta));
    floats(call, |x| (alpha * x + beta).clamp(0.0, 1.0), |x| (wide_alpha * x + wide_beta).clamp(0.0, 1.0))
}

/// Celu
pub(super) fn celu(call: &Call<'_>) -> Outputs {
    let alpha = call.op.float("alpha").unwrap_or(1.0);
    let wide = f64::from(alpha);
    floats(
        call,
        |x| x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0),
        |x| x.max(0.0) + (wide * (x / wide).exp_m1()).min(0.0),
    )
}

/// Swish
pub(super) fn swish(call: &Call<'_>) -> Outputs {
    let alpha = call.op.float("alpha").unwrap_or(1.0);
    let wide = f64::from(alpha);
    floats(call, |x| x / (1.0 + (-alpha * x).exp()), |x| x / (1.0 + (-wide * x).exp()))
}

/// Runs one expression on floats and on integers.
macro_rules! any_number {
    ($call:expr, $x:ident: $T:ident => $float:expr, $signed:expr, $unsigned:expr) => {{
        let x = $call.input(0)?;
        let wide = widened(x);
        let out = match wide.dtype() {
            DataType::Float => {
                type $T = f32;
                Tensor::from_vec(x.dims(), slice::<f32>(&wide)?.iter().map(|&$x| $float).collect::<Vec<$T>>())
            }
            DataType::Double => {
                type $T = f64;
                Tensor::from_vec(x.dims(), slice::<f64>(&wide)?.iter().map(|&$x| $float).collect::<Vec<$T>>())
            }
            dtype => by_type!(dtype, [Int8 = i8, Int16 = i16, Int32 = i32, Int64 = i64], $T => {
                Tensor::from_vec(x.dims(), slice::<$T>(&wide)?.iter().map(|&$x| $signed).collect::<Vec<$T>>())
            }, by_type!(dtype, [Uint8 = u8, Uint16 = u16, Uint32 = u32, Uint64 = u64], $T => {
                Tensor::from_vec(x.dims(), slice::<$T>(&wide)?.iter().map(|&$x| $unsigned).collect::<Vec<$T>>())
            }, return unsupported(format!("this function of {dtype}")))),
        };
        one(narrowed(out, x.dtype()))
    }};
}

/// Neg
pub(super) fn neg(call: &Call<'_>) -> Outputs {
    any_number!(call, x: T => -x, x.wrapping_neg(), x.wrapping_neg())
}

/// Abs
pub(super) fn abs(call: &Call<'_>) -> Outputs {
    any_number!(call, x: T => x.abs(), x.wrapping_abs(), x)
}

/// Sign: 0 for 0, NaN for NaN
pub(super) fn sign(call: &Call<'_>) -> Outputs {
    any_number!(call, x: T => if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x }, x.signum(), x.min(1))
}

/// Relu; NaN stays
pub(super) fn relu(call: &Call<'_>) -> Outputs {
    any_number!(call, x: T => if x < 0.0 { 0.0 } else { x }, x.max(0), x)
}

/// Not
pub(super) fn not(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    one(bool_tensor(x.dims(), bools(x)?.iter().map(|&x| u8::from(x == 0)).collect())?)
}

/// BitwiseNot
pub(super) fn bitwise_not(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    by_integer!(x.dtype(), T => {
        one(Tensor::from_vec(x.dims(), slice::<T>(x)?.iter().map(|&x| !x).collect::<Vec<T>>()))
    }, unsupported(format!("bits of {}", x.dtype())))
}

fn tested(call: &Call<'_>, test: impl Fn(f64) -> bool) -> Outputs {
    let x = call.input(0)?;
    match x.to_f64_vec() {
        Some(numbers) if x.dtype().is_float() => {
            one(bool_tensor(x.dims(), numbers.into_iter().map(|x| u8::from(test(x))).collect())?)
        }
        _ => unsupported(format!("testing {}", x.dtype())),
    }
}

/// IsNaN
pub(super) fn is_nan(call: &Call<'_>) -> Outputs {
    tested(call, f64::is_nan)
}

/// IsInf
pub(super) fn is_inf(call: &Call<'_>) -> Outputs {
    let negative = call.op.int("detect_negative").unwrap_or(1) != 0;
    let positive = call.op.int("detect_positive").unwrap_or(1) != 0;
    tested(call, |x| x.is_infinite() && if x > 0.0 { positive } else { negative })
}

/// Dropout: outside of training the input, and a mask of ones.
pub(super) fn dropout(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let training = match call.optional(2) {
        Some(mode) => mode.to_scalar_f64().is_none_or(|mode| mode != 0.0),
        None => call.opset < 7 && call.op.int("is_test").unwrap_or(0) == 0,
    };
    if training && call.random.is_some() {
        return super::random::dropout(call);
    }
    if training {
        return unsupported("dropout in training mode");
    }
    if call.op.outputs().len() < 2 {
        return one(x.clone());
    }
    if call.opset < 10 {
        return failed("the mask of Dropout has no defined type before opset 10");
    }
    Ok(vec![Some(x.clone()), Some(bool_tensor(x.dims(), vec![1; x.len()])?)])
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn rounding_and_signs() {
        let x = Tensor::from_vec(&[5], vec![0.5f32, 1.5, -2.5, f32::INFINITY, -0.4]);
        assert_eq!(run("Round", 11, &[x]).to_f64_vec(), Some(vec![0.0, 2.0, -2.0, f64::INFINITY, 0.0]));
        assert_eq!(run("Sign", 13, &[Tensor::from_vec(&[3], vec![3u8, 0, 9])]).to_i64_vec(), Some(vec![1, 0, 1]));
        assert_eq!(run("Abs", 13, &[Tensor::scalar(i8::MIN)]).to_i64_vec(), Some(vec![-128]));
        assert_eq!(run("Relu", 14, &[Tensor::from_vec(&[2], vec![-3i32, 3])]).to_i64_vec(), Some(vec![0, 3]));
    }

    #[test]
    fn tanh_is_close_everywhere() {
        let mut worst = 0f64;
        for step in -40_000..40_000 {
            let x = step as f32 * 2.5e-4;
            let exact = f64::from(x).tanh();
            let gap = (f64::from(fast_tanh(x)) - exact).abs();
            if exact != 0.0 {
                worst = worst.max(gap / exact.abs());
            }
        }
        assert!(worst < 3.6e-7, "{worst:e}");
        assert_eq!((fast_tanh(f32::INFINITY), fast_tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(fast_tanh(f32::NAN).is_nan());
        assert!(fast_tanh(-0.0).is_sign_negative());
    }

    #[test]
    fn infinities_by_sign() {
        let x = Tensor::from_vec(&[3], vec![f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        let out = run_with("IsInf", 10, vec![attributes::int("detect_negative", 0)], &[Some(x.clone())]);
        assert_eq!(out.expect("runs")[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![1, 0, 0]));
        assert_eq!(run("IsNaN", 13, &[x]).to_i64_vec(), Some(vec![0, 0, 1]));
    }
}
