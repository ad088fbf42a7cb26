//! Cast and CastLike between booleans, integers of 2 to 64 bits, floats, and the storage floats.
//!
//! Integers wrap, floats are rounded once, floats to integers are truncated; beyond the integer's range ONNX leaves the
//! result open: narrow and unsigned types then wrap, as compilers on x86 do. **Never** touches strings.
#![allow(clippy::unnecessary_cast, reason = "bodies are written once for all types, the target's own among them")]
use half::{bf16, f16};
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    cells::{spread, squeeze},
    layout::{Outputs, check_size, failed, one, unsupported},
    numbers::{by_number, slice},
    small_float::Format,
};
use crate::kernel::{Call, KernelError};

/// Cast.
pub(super) fn cast(call: &Call<'_>) -> Outputs {
    let number = call.op.int("to").unwrap_or(0);
    match i32::try_from(number).ok().and_then(DataType::from_number) {
        Some(dtype) => converted(call, call.input(0)?, dtype).map(|tensor| vec![Some(tensor)]),
        None => failed(format!("to = {number} is no element type")),
    }
}

/// CastLike.
pub(super) fn cast_like(call: &Call<'_>) -> Outputs {
    one(converted(call, call.input(0)?, call.input(1)?.dtype())?)
}

fn converted(call: &Call<'_>, x: &Tensor, to: DataType) -> Result<Tensor, KernelError> {
    use DataType::*;
    if x.dtype() == to {
        return Ok(x.clone());
    }
    if x.dtype() == String || to == String {
        return unsupported("casts from and to strings");
    }
    check_size(call, to, x.dims())?;
    // First every source as plain numbers …
    let plain = match x.dtype() {
        Float16 => Tensor::from_vec(x.dims(), slice::<f16>(x)?.iter().map(|x| x.to_f32()).collect::<Vec<_>>()),
        Bfloat16 => Tensor::from_vec(x.dims(), slice::<bf16>(x)?.iter().map(|x| x.to_f32()).collect::<Vec<_>>()),
        Bool => Tensor::from_vec(x.dims(), slice::<u8>(x)?.iter().map(|&x| u8::from(x != 0)).collect::<Vec<_>>()),
        Uint4 | Int4 | Uint2 | Int2 => Tensor::from_vec(x.dims(), x.unpack().expect("2-bit and 4-bit integers unpack")),
        Float8e8m0 => {
            let codes = x.bytes().map_or(&[][..], |bytes| bytes);
            let power = |&code: &u8| if code == 255 { f32::NAN } else { 2f64.powi(i32::from(code) - 127) as f32 };
            Tensor::from_vec(x.dims(), codes.iter().map(power).collect::<Vec<_>>())
        }
        dtype => match Format::of(dtype) {
            Some(format) => {
                let bytes = x.bytes().map_or(&[][..], |bytes| bytes);
                let codes = if dtype.bits() == 4 { spread(bytes, 4, x.len()) } else { bytes.to_vec() };
                Tensor::from_vec(x.dims(), codes.iter().map(|&code| format.decode(code)).collect::<Vec<_>>())
            }
            None => x.clone(),
        },
    };
    // … then those to the target.
    let dims = x.dims();
    if let Some(format) = Format::of(to) {
        let saturate = call.op.int("saturate").unwrap_or(1) != 0;
        let numbers = to_f32(&plain)?;
        let codes: Vec<u8> = numbers.iter().map(|&x| format.encode(x, saturate)).collect();
        return raw(to, dims, if to.bits() == 4 { squeeze(&codes, 4) } else { codes });
    }
    match to {
        Float => Ok(Tensor::from_vec(dims, to_f32(&plain)?)),
        Double => Ok(Tensor::from_vec(dims, to_f64(&plain)?)),
        Float16 => Ok(Tensor::from_vec(dims, halves(&plain, f16::from_f32)?)),
        Bfloat16 => Ok(Tensor::from_vec(dims, halves(&plain, bf16::from_f32)?)),
        Bool => {
            let bits: Vec<bool> = by_number!(plain.dtype(), T => {
                slice::<T>(&plain)?.iter().map(|&x| x != T::default()).collect()
            }, return refused(x.dtype(), to));
            Ok(Tensor::from_bools(dims, &bits))
        }
        Uint8 | Int8 | Uint16 | Int16 | Uint32 | Int32 | Uint64 | Int64 => {
            super::numbers::by_integer!(to, D => {
                let numbers: Vec<D> = match plain.dtype() {
                    Float => slice::<f32>(&plain)?.iter().map(|&x| wrapped(f64::from(x)) as D).collect(),
                    Double => slice::<f64>(&plain)?.iter().map(|&x| wrapped(x) as D).collect(),
                    dtype => super::numbers::by_integer!(dtype, S => {
                        slice::<S>(&plain)?.iter().map(|&x| x as D).collect()
                    }, return refused(x.dtype(), to)),
                };
                Ok(Tensor::from_vec(dims, numbers))
            }, refused(x.dtype(), to))
        }
        Uint4 | Int4 | Uint2 | Int2 => {
            let fields: Vec<u8> = match plain.dtype() {
                Float | Double => to_f64(&plain)?.into_iter().map(|x| wrapped(x) as u8).collect(),
                dtype => super::numbers::by_integer!(dtype, S => {
                    slice::<S>(&plain)?.iter().map(|&x| x as u8).collect()
                }, return refused(x.dtype(), to)),
            };
            raw(to, dims, squeeze(&fields, to.bits()))
        }
        Float8e8m0 => {
            let saturate = call.op.int("saturate").unwrap_or(1) != 0;
            let mode = call.op.string("round_mode").unwrap_or("up");
            let codes = to_f32(&plain)?.into_iter().map(|x| power_of_two(x, mode, saturate)).collect();
            raw(to, dims, codes)
        }
        _ => refused(x.dtype(), to),
    }
}

fn refused<T>(from: DataType, to: DataType) -> Result<T, KernelError> {
    unsupported(format!("a cast from {from} to {to}"))
}

fn raw(dtype: DataType, dims: &[usize], bytes: Vec<u8>) -> Result<Tensor, KernelError> {
    Tensor::new(dtype, dims, bytes.into()).or_else(|error| failed(error.to_string()))
}

/// Truncated, as an integer whose low bits a narrower type takes.
#[inline(always)]
fn wrapped(x: f64) -> i128 {
    if x < 0.0 { i128::from(x as i64) } else { i128::from(x as u64) }
}

fn to_f32(plain: &Tensor) -> Result<Vec<f32>, KernelError> {
    Ok(by_number!(plain.dtype(), T => {
        slice::<T>(plain)?.iter().map(|&x| x as f32).collect()
    }, return refused(plain.dtype(), DataType::Float)))
}

fn to_f64(plain: &Tensor) -> Result<Vec<f64>, KernelError> {
    Ok(by_number!(plain.dtype(), T => {
        slice::<T>(plain)?.iter().map(|&x| x as f64).collect()
    }, return refused(plain.dtype(), DataType::Double)))
}

/// Half floats, each rounded once.
fn halves<H>(plain: &Tensor, narrow: fn(f32) -> H) -> Result<Vec<H>, KernelError> {
    match plain.dtype() {
        DataType::Float => Ok(slice::<f32>(plain)?.iter().map(|&x| narrow(x)).collect()),
        _ => Ok(to_f64(plain)?.into_iter().map(|x| narrow(rounded_to_odd(x))).collect()),
    }
}

/// `x` as f32, an inexact one with its last bit set: rounding that to half is as rounding `x` (Boldo and Melquiond 2008,
/// "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd"). `half`'s own conversion from
/// f64 ignores the lower half of the mantissa.
fn rounded_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if x.is_nan() || f64::from(nearest) == x {
        return nearest;
    }
    let beyond = u32::from(f64::from(nearest).abs() > x.abs());
    f32::from_bits((nearest.to_bits() - beyond) | 1)
}

/// The code of the power of two at `x` (the sign does not count): the next one up or down, or the nearest.
fn power_of_two(x: f32, mode: &str, saturate: bool) -> u8 {
    const NAN: u8 = 255;
    if x.is_nan() {
        return NAN;
    }
    if x.is_infinite() {
        return if saturate { 254 } else { NAN };
    }
    let x = f64::from(x.abs());
    if x < 2f64.powi(-127) {
        return if saturate { 0 } else { NAN };
    }
    let exponent = ((x.to_bits() >> 52) as i32) - 1023;
    let ratio = x / 2f64.powi(exponent);
    let up = match mode {
        "up" => ratio > 1.0,
        "down" => false,
        _ => ratio >= 1.5,
    };
    match exponent + 127 + i32::from(up) {
        code if code <= 254 => code as u8,
        _ if saturate => 254,
        _ => NAN,
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::run_with;

    fn cast_to(x: Tensor, to: DataType) -> Tensor {
        let out = run_with("Cast", 21, vec![attributes::int("to", to as i64)], &[Some(x)]).expect("runs");
        out[0].clone().expect("an output")
    }

    #[test]
    fn truncation_wrap_and_booleans() {
        let x = Tensor::from_vec(&[4], vec![-1.9f32, 1.9, 200.5, -0.0]);
        assert_eq!(cast_to(x.clone(), DataType::Int32).to_i64_vec(), Some(vec![-1, 1, 200, 0]));
        assert_eq!(cast_to(x.clone(), DataType::Bool).to_i64_vec(), Some(vec![1, 1, 1, 0]));
        assert_eq!(cast_to(x, DataType::Uint8).to_i64_vec(), Some(vec![255, 1, 200, 0]));
        let x = Tensor::from_vec(&[2], vec![200i16, -1]);
        assert_eq!(cast_to(x, DataType::Int8).to_i64_vec(), Some(vec![-56, -1]));
        let x = Tensor::from_vec(&[2], vec![i64::MIN, i64::MAX]);
        assert_eq!(cast_to(x.clone(), DataType::Int32).to_i64_vec(), Some(vec![0, -1]));
        assert_eq!(cast_to(cast_to(x.clone(), DataType::Uint64), DataType::Int64), x);
    }

    #[test]
    fn halves_round_once() {
        // 1 + 2^-11 + 2^-40 rounds up in one step, but down by way of f32.
        let x = Tensor::from_vec(&[1], vec![1.0 + 2f64.powi(-11) + 2f64.powi(-40)]);
        assert_eq!(cast_to(x, DataType::Float16).to_f64_vec(), Some(vec![1.0 + 2f64.powi(-10)]));
        let x = Tensor::from_vec(&[2], vec![-1.0 - 2f64.powi(-11) + 2f64.powi(-40), f64::MAX]);
        assert_eq!(cast_to(x, DataType::Float16).to_f64_vec(), Some(vec![-1.0, f64::INFINITY]));
        let x = Tensor::from_vec(&[2], vec![70000i32, -3]);
        assert_eq!(cast_to(x, DataType::Float16).to_f64_vec(), Some(vec![f64::INFINITY, -3.0]));
    }

    #[test]
    fn strings_are_refused() {
        let x = Tensor::strings(&[1], vec!["1".into()]).expect("one string");
        let out = run_with("Cast", 21, vec![attributes::int("to", 1)], &[Some(x)]);
        assert!(matches!(out, Err(KernelError::Unsupported(_))));
    }
}
