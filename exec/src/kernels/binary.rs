//! Elementwise ops of two inputs: arithmetic, comparison, logic, bits. Shapes broadcast as numpy's do.
//!
//! Integers wrap; integer division truncates and **never** divides by zero. Half floats are computed as f32.
use onnx_shrink_ir::{DataType, Element, Tensor};

use super::{
    layout::{Outputs, broadcast_dims, broadcast_strides, check_size, coalesce, failed, one, rows, unsupported},
    numbers::{bool_tensor, bools, by_integer, by_number, is_half, narrowed, slice, widened},
};
use crate::kernel::{Call, KernelError};

/// `f` of every pair, the operands read as tensors of `dims`.
pub(super) fn zipped<A: Copy, B: Copy, R>(
    (a, a_dims): (&[A], &[usize]),
    (b, b_dims): (&[B], &[usize]),
    dims: &[usize],
    f: impl Fn(A, B) -> R,
) -> Result<Vec<R>, KernelError> {
    if a_dims == b_dims && a_dims == dims {
        return Ok(a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect());
    }
    if dims.contains(&0) {
        return Ok(Vec::new());
    }
    match (a, b) {
        (_, [b]) if a_dims == dims => return Ok(a.iter().map(|&a| f(a, *b)).collect()),
        ([a], _) if b_dims == dims => return Ok(b.iter().map(|&b| f(*a, b)).collect()),
        _ => {}
    }
    let (sa, sb) = (broadcast_strides(a_dims, dims)?, broadcast_strides(b_dims, dims)?);
    let (merged, [sa, sb]) = coalesce(dims, [&sa, &sb]);
    let last = merged.len() - 1;
    let (length, step_a, step_b) = (merged[last], sa[last] as usize, sb[last] as usize);
    let mut out = Vec::with_capacity(dims.iter().product());
    rows(&merged, [&sa, &sb], |[at, bt]| {
        let (at, bt) = (at as usize, bt as usize);
        match (step_a, step_b) {
            (1, 1) => out.extend(a[at..at + length].iter().zip(&b[bt..bt + length]).map(|(&a, &b)| f(a, b))),
            (1, 0) => out.extend(a[at..at + length].iter().map(|&a| f(a, b[bt]))),
            (0, 1) => out.extend(b[bt..bt + length].iter().map(|&b| f(a[at], b))),
            _ => out.extend((0..length).map(|n| f(a[at + n * step_a], b[bt + n * step_b]))),
        }
    });
    Ok(out)
}

/// What numbers can do, with integers that wrap.
pub(super) trait Arithmetic: Element + PartialOrd + Default + Send + Sync {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Integers: truncated; the divisor is not 0
    fn div(self, other: Self) -> Self;
    /// With the sign of the dividend (C's fmod and %)
    fn truncated_rem(self, other: Self) -> Self;
    /// With the sign of the divisor
    fn floored_rem(self, other: Self) -> Self;
    /// The larger; NaN when either is
    fn larger(self, other: Self) -> Self;
    /// The smaller; NaN when either is
    fn smaller(self, other: Self) -> Self;
    fn to_f64(self) -> f64;
    /// Integers: truncated
    fn from_f64(x: f64) -> Self;
    const INTEGER: bool;
}

macro_rules! integer_arithmetic {
    ($($type:ty),*) => { $(impl Arithmetic for $type {
        #[inline(always)]
        fn add(self, other: Self) -> Self { self.wrapping_add(other) }
        #[inline(always)]
        fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
        #[inline(always)]
        fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
        fn div(self, other: Self) -> Self { if other == 0 { 0 } else { self.wrapping_div(other) } }
        fn truncated_rem(self, other: Self) -> Self { if other == 0 { 0 } else { self.wrapping_rem(other) } }
        #[allow(unused_comparisons)]
        fn floored_rem(self, other: Self) -> Self {
            let rem = self.truncated_rem(other);
            if rem != 0 && ((rem < 0) != (other < 0)) { rem.wrapping_add(other) } else { rem }
        }
        #[inline(always)]
        fn larger(self, other: Self) -> Self { self.max(other) }
        #[inline(always)]
        fn smaller(self, other: Self) -> Self { self.min(other) }
        #[inline(always)]
        fn to_f64(self) -> f64 { self as f64 }
        #[inline(always)]
        fn from_f64(x: f64) -> Self { x as Self }
        const INTEGER: bool = true;
    })* };
}
integer_arithmetic!(u8, i8, u16, i16, u32, i32, u64, i64);

macro_rules! float_arithmetic {
    ($($type:ty),*) => { $(impl Arithmetic for $type {
        #[inline(always)]
        fn add(self, other: Self) -> Self { self + other }
        #[inline(always)]
        fn sub(self, other: Self) -> Self { self - other }
        #[inline(always)]
        fn mul(self, other: Self) -> Self { self * other }
        #[inline(always)]
        fn div(self, other: Self) -> Self { self / other }
        fn truncated_rem(self, other: Self) -> Self { self % other }
        fn floored_rem(self, other: Self) -> Self {
            let rem = self % other;
            match rem {
                0.0 => rem.copysign(other),
                _ if (rem < 0.0) != (other < 0.0) => rem + other,
                _ => rem,
            }
        }
        #[inline(always)]
        fn larger(self, other: Self) -> Self { if self >= other || self.is_nan() { self } else { other } }
        #[inline(always)]
        fn smaller(self, other: Self) -> Self { if self <= other || self.is_nan() { self } else { other } }
        #[inline(always)]
        fn to_f64(self) -> f64 { f64::from(self) }
        #[inline(always)]
        fn from_f64(x: f64) -> Self { x as Self }
        const INTEGER: bool = false;
    })* };
}
float_arithmetic!(f32, f64);

/// The two inputs, and the shape of the result.
pub(super) fn operands<'a>(call: &Call<'a>) -> Result<(&'a Tensor, &'a Tensor, Vec<usize>), KernelError> {
    if call.opset < 7 && (call.op.int("broadcast").unwrap_or(0) != 0 || call.op.attribute("axis").is_some()) {
        return unsupported("broadcasting as before opset 7");
    }
    let (a, b) = (call.input(0)?, call.input(1)?);
    let dims = broadcast_dims(a.dims(), b.dims())?;
    Ok((a, b, dims))
}

fn same_types(a: &Tensor, b: &Tensor) -> Result<DataType, KernelError> {
    if a.dtype() == b.dtype() {
        Ok(a.dtype())
    } else {
        failed(format!("its inputs are {} and {}", a.dtype(), b.dtype()))
    }
}

macro_rules! arithmetic {
    ($($(#[$doc:meta])* $name:ident = $method:ident),* $(,)?) => { $(
        $(#[$doc])*
        pub(super) fn $name(call: &Call<'_>) -> Outputs {
            let (a, b, dims) = operands(call)?;
            combined(call, a, b, &dims, &Combine::$method).map(|tensor| vec![Some(tensor)])
        }
    )* };
}

arithmetic! {
    /// Add
    add = Add,
    /// Sub
    sub = Sub,
    /// Mul
    mul = Mul,
    /// Div
    div = Div,
}

/// How two numbers become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Combine {
    Add,
    Sub,
    Mul,
    Div,
    FloorRem,
    TruncRem,
    Max,
    Min,
}

/// `how` of two tensors of one type.
pub(super) fn combined(
    call: &Call<'_>,
    a: &Tensor,
    b: &Tensor,
    dims: &[usize],
    how: &Combine,
) -> Result<Tensor, KernelError> {
    let dtype = same_types(a, b)?;
    check_size(call, dtype, dims)?;
    if is_half(dtype) {
        return Ok(narrowed(combined_plain(&widened(a), &widened(b), dims, *how)?, dtype));
    }
    combined_plain(a, b, dims, *how)
}

fn combined_plain(a: &Tensor, b: &Tensor, dims: &[usize], how: Combine) -> Result<Tensor, KernelError> {
    by_number!(a.dtype(), T => {
        let (x, y) = (slice::<T>(a)?, slice::<T>(b)?);
        let divides = matches!(how, Combine::Div | Combine::FloorRem | Combine::TruncRem);
        if divides && T::INTEGER && y.contains(&T::default()) && !dims.contains(&0) {
            return failed("an integer division by zero");
        }
        let (x, y) = ((&x[..], a.dims()), (&y[..], b.dims()));
        let out = match how {
            Combine::Add => zipped(x, y, dims, <T as Arithmetic>::add),
            Combine::Sub => zipped(x, y, dims, <T as Arithmetic>::sub),
            Combine::Mul => zipped(x, y, dims, <T as Arithmetic>::mul),
            Combine::Div => zipped(x, y, dims, <T as Arithmetic>::div),
            Combine::FloorRem => zipped(x, y, dims, <T as Arithmetic>::floored_rem),
            Combine::TruncRem => zipped(x, y, dims, <T as Arithmetic>::truncated_rem),
            Combine::Max => zipped(x, y, dims, <T as Arithmetic>::larger),
            Combine::Min => zipped(x, y, dims, <T as Arithmetic>::smaller),
        }?;
        Ok(Tensor::from_vec(dims, out))
    }, unsupported(format!("arithmetic on {}", a.dtype())))
}

/// Mod: the sign is the divisor's, with `fmod` the dividend's.
pub(super) fn modulo(call: &Call<'_>) -> Outputs {
    let (a, b, dims) = operands(call)?;
    let fmod = call.op.int("fmod").unwrap_or(0) != 0;
    if !fmod && a.dtype().is_float() && call.opset < 28 {
        return failed("Mod of floats needs fmod = 1 before opset 28");
    }
    one(combined(call, a, b, &dims, if fmod { &Combine::TruncRem } else { &Combine::FloorRem })?)
}

/// Pow: the result has the base's type.
pub(super) fn pow(call: &Call<'_>) -> Outputs {
    let (a, b, dims) = operands(call)?;
    let dtype = a.dtype();
    check_size(call, dtype, &dims)?;
    let (base, exponent) = (widened(a), widened(b));
    let exponents: Vec<f64> = match exponent.to_f64_vec() {
        Some(exponents) if dtype != DataType::Bool => exponents,
        _ => return unsupported(format!("a power of {dtype} and {}", b.dtype())),
    };
    let y = (&exponents[..], b.dims());
    let result = match base.dtype() {
        DataType::Float => {
            let x = slice::<f32>(&base)?;
            let power = |x: f32, y: f64| if y == 2.0 { x * x } else { f64::from(x).powf(y) as f32 };
            Tensor::from_vec(&dims, zipped((&x[..], a.dims()), y, &dims, power)?)
        }
        DataType::Double => {
            let x = slice::<f64>(&base)?;
            Tensor::from_vec(&dims, zipped((&x[..], a.dims()), y, &dims, f64::powf)?)
        }
        other => by_integer!(other, T => {
            let x = slice::<T>(&base)?;
            let power = |x: T, y: f64| {
                if y >= 0.0 && y.fract() == 0.0 && y < 64.0 { x.wrapping_pow(y as u32) } else { T::from_f64((x as f64).powf(y)) }
            };
            Tensor::from_vec(&dims, zipped((&x[..], a.dims()), y, &dims, power)?)
        }, return unsupported(format!("a power of {dtype}"))),
    };
    one(narrowed(result, dtype))
}

macro_rules! comparison {
    ($($(#[$doc:meta])* $name:ident = $operator:tt),* $(,)?) => { $(
        $(#[$doc])*
        pub(super) fn $name(call: &Call<'_>) -> Outputs {
            let (a, b, dims) = operands(call)?;
            let dtype = same_types(a, b)?;
            check_size(call, DataType::Bool, &dims)?;
            if dtype == DataType::String {
                let (Some(x), Some(y)) = (a.as_strings(), b.as_strings()) else { return failed("strings are missing") };
                let (x, y): (Vec<&[u8]>, Vec<&[u8]>) = (x.iter().map(|x| &x[..]).collect(), y.iter().map(|y| &y[..]).collect());
                let out = zipped((&x, a.dims()), (&y, b.dims()), &dims, |x, y| u8::from(x $operator y))?;
                return one(bool_tensor(&dims, out)?);
            }
            let (x, y) = (widened(a), widened(b));
            let plain = if dtype == DataType::Bool { DataType::Uint8 } else { x.dtype() };
            let out = by_number!(plain, T => {
                let (x, y) = (slice::<T>(&x)?, slice::<T>(&y)?);
                zipped((&x[..], a.dims()), (&y[..], b.dims()), &dims, |x, y| u8::from(x $operator y))?
            }, return unsupported(format!("comparing {dtype}")));
            one(bool_tensor(&dims, out)?)
        }
    )* };
}

comparison! {
    /// Equal
    equal = ==,
    /// Less
    less = <,
    /// LessOrEqual
    less_or_equal = <=,
    /// Greater
    greater = >,
    /// GreaterOrEqual
    greater_or_equal = >=,
}

macro_rules! logic {
    ($($(#[$doc:meta])* $name:ident = $operator:tt),* $(,)?) => { $(
        $(#[$doc])*
        pub(super) fn $name(call: &Call<'_>) -> Outputs {
            let (a, b, dims) = operands(call)?;
            check_size(call, DataType::Bool, &dims)?;
            let (x, y) = (bools(a)?, bools(b)?);
            let out = zipped((&x[..], a.dims()), (&y[..], b.dims()), &dims, |x, y| u8::from((x != 0) $operator (y != 0)))?;
            one(bool_tensor(&dims, out)?)
        }
    )* };
}

logic! {
    /// And
    and = &,
    /// Or
    or = |,
    /// Xor
    xor = ^,
}

macro_rules! bitwise {
    ($($(#[$doc:meta])* $name:ident = $operator:tt),* $(,)?) => { $(
        $(#[$doc])*
        pub(super) fn $name(call: &Call<'_>) -> Outputs {
            let (a, b, dims) = operands(call)?;
            let dtype = same_types(a, b)?;
            check_size(call, dtype, &dims)?;
            by_integer!(dtype, T => {
                let (x, y) = (slice::<T>(a)?, slice::<T>(b)?);
                let out = zipped((&x[..], a.dims()), (&y[..], b.dims()), &dims, |x, y| x $operator y)?;
                one(Tensor::from_vec(&dims, out))
            }, unsupported(format!("bits of {dtype}")))
        }
    )* };
}

bitwise! {
    /// BitwiseAnd
    bitwise_and = &,
    /// BitwiseOr
    bitwise_or = |,
    /// BitwiseXor
    bitwise_xor = ^,
}

/// BitShift: a shift by a negative count or by the type's width and more leaves the sign alone (0 or −1).
// The body is written once for all integer types, u32 among them.
#[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions)]
pub(super) fn bit_shift(call: &Call<'_>) -> Outputs {
    let (a, b, dims) = operands(call)?;
    let dtype = same_types(a, b)?;
    check_size(call, dtype, &dims)?;
    let left = match call.op.string("direction") {
        Some("LEFT") => true,
        Some("RIGHT") => false,
        other => return failed(format!("direction {other:?} is neither LEFT nor RIGHT")),
    };
    by_integer!(dtype, T => {
        let (x, y) = (slice::<T>(a)?, slice::<T>(b)?);
        let shift = |x: T, y: T| match u32::try_from(y) {
            Ok(count) if count < T::BITS => if left { x << count } else { x >> count },
            _ if !left && x < T::default() => T::default().wrapping_sub(1),
            _ => 0,
        };
        let out = zipped((&x[..], a.dims()), (&y[..], b.dims()), &dims, shift)?;
        one(Tensor::from_vec(&dims, out))
    }, unsupported(format!("shifting {dtype}")))
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn broadcasting_of_every_kind() {
        let a = Tensor::from_vec(&[2, 1, 3], vec![0i64, 1, 2, 3, 4, 5]);
        let b = Tensor::from_vec(&[2, 1], vec![10i64, 20]);
        let out = run("Add", 13, &[a, b]);
        assert_eq!(out.dims(), [2, 2, 3]);
        assert_eq!(out.to_i64_vec(), Some(vec![10, 11, 12, 20, 21, 22, 13, 14, 15, 23, 24, 25]));
        let channel = Tensor::from_vec(&[1, 2, 1, 1], vec![1f32, -1.0]);
        let x = Tensor::from_vec(&[1, 2, 1, 2], vec![1f32, 2., 3., 4.]);
        assert_eq!(run("Mul", 13, &[x.clone(), channel.clone()]).to_f64_vec(), Some(vec![1., 2., -3., -4.]));
        assert_eq!(run("Sub", 13, &[channel, x]).to_f64_vec(), Some(vec![0., -1., -4., -5.]));
        let empty = Tensor::from_vec(&[0, 3], Vec::<f32>::new());
        assert_eq!(run("Add", 13, &[empty, Tensor::scalar(1f32)]).dims(), [0, 3]);
    }

    #[test]
    fn division_truncates_and_fails_on_zero() {
        let out = run("Div", 14, &[Tensor::from_vec(&[2], vec![-7i32, 7]), Tensor::scalar(2i32)]);
        assert_eq!(out.to_i64_vec(), Some(vec![-3, 3]));
        for op in ["Div", "Mod"] {
            let out = run_with(op, 14, vec![], &[Some(Tensor::scalar(1i32)), Some(Tensor::scalar(0i32))]);
            assert!(matches!(out, Err(KernelError::Failed(_))), "{op}");
        }
        let out = run("Div", 14, &[Tensor::scalar(i32::MIN), Tensor::scalar(-1i32)]);
        assert_eq!(out.to_i64_vec(), Some(vec![i64::from(i32::MIN)]));
    }

    #[test]
    fn remainders_have_the_right_sign() {
        let inputs = [Tensor::from_vec(&[4], vec![-4i32, 7, 5, -8]), Tensor::from_vec(&[4], vec![3i32, -3, 8, -3])];
        assert_eq!(run("Mod", 13, &inputs).to_i64_vec(), Some(vec![2, -2, 5, -2]));
        let out = run_with("Mod", 13, vec![attributes::int("fmod", 1)], &inputs.map(Some)).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![-1, 1, 5, -2]));
    }

    #[test]
    fn shifts_beyond_the_width() {
        let inputs = [Tensor::from_vec(&[3], vec![-8i8, 8, -8]), Tensor::from_vec(&[3], vec![8i8, 9, -1])];
        for (direction, expected) in [("RIGHT", vec![-1, 0, -1]), ("LEFT", vec![0, 0, 0])] {
            let attributes = vec![attributes::string("direction", direction)];
            let out = run_with("BitShift", 11, attributes, &inputs.clone().map(Some)).expect("runs");
            assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(expected));
        }
    }

    #[test]
    fn shapes_that_do_not_fit_fail() {
        let out = run_with(
            "Add",
            13,
            vec![],
            &[Some(Tensor::from_vec(&[2], vec![1f32; 2])), Some(Tensor::from_vec(&[3], vec![1f32; 3]))],
        );
        assert!(matches!(out, Err(KernelError::Failed(_))));
    }
}
