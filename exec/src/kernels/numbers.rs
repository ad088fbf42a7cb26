//! Numbers as the ops see them: dispatch over element types, and half floats computed as f32.
//!
//! For + − × ÷ and √ on halves the detour over f32 is exact: f32 has more than twice their bits plus two, so rounding
//! twice equals rounding once (Figueroa 1995, "When is double rounding innocuous?").
use std::borrow::Cow;

use half::{bf16, f16};
use onnx_shrink_ir::{DataType, Element, Tensor};

use super::layout::failed;
use crate::kernel::KernelError;

/// Runs `$body` with `$T` the Rust type of `$dtype`, for the types listed; `$other` for the rest.
macro_rules! by_type {
    ($dtype:expr, [$($variant:ident = $type:ty),* $(,)?], $T:ident => $body:expr, $other:expr) => {
        match $dtype {
            $(onnx_shrink_ir::DataType::$variant => {
                type $T = $type;
                $body
            })*
            _ => $other,
        }
    };
}
pub(super) use by_type;

/// [`by_type`] for f32, f64 and the integers of 8 to 64 bits.
macro_rules! by_number {
    ($dtype:expr, $T:ident => $body:expr, $other:expr) => {
        $crate::kernels::numbers::by_type!($dtype, [Float = f32, Double = f64, Uint8 = u8, Int8 = i8, Uint16 = u16,
            Int16 = i16, Uint32 = u32, Int32 = i32, Uint64 = u64, Int64 = i64], $T => $body, $other)
    };
}
pub(super) use by_number;

/// [`by_type`] for the integers of 8 to 64 bits.
macro_rules! by_integer {
    ($dtype:expr, $T:ident => $body:expr, $other:expr) => {
        $crate::kernels::numbers::by_type!($dtype, [Uint8 = u8, Int8 = i8, Uint16 = u16, Int16 = i16, Uint32 = u32,
            Int32 = i32, Uint64 = u64, Int64 = i64], $T => $body, $other)
    };
}
pub(super) use by_integer;

/// The elements as `T`s.
pub(super) fn slice<T: Element>(tensor: &Tensor) -> Result<Cow<'_, [T]>, KernelError> {
    match tensor.as_slice::<T>() {
        Some(slice) => Ok(slice),
        None => failed(format!("an input is {} where {} is needed", tensor.dtype(), T::DTYPE)),
    }
}

/// Booleans, one byte each.
pub(super) fn bools(tensor: &Tensor) -> Result<Cow<'_, [u8]>, KernelError> {
    match tensor.dtype() {
        DataType::Bool => slice::<u8>(tensor),
        dtype => failed(format!("an input is {dtype} where bool is needed")),
    }
}

/// Whether the type is a half float, computed as f32.
pub(super) fn is_half(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float16 | DataType::Bfloat16)
}

/// A half tensor as f32; other tensors as they are.
pub(super) fn widened(tensor: &Tensor) -> Tensor {
    let numbers: Vec<f32> = match tensor.dtype() {
        DataType::Float16 => match tensor.as_slice::<f16>() {
            Some(halves) => halves.iter().map(|half| half.to_f32()).collect(),
            None => return tensor.clone(),
        },
        DataType::Bfloat16 => match tensor.as_slice::<bf16>() {
            Some(halves) => halves.iter().map(|half| half.to_f32()).collect(),
            None => return tensor.clone(),
        },
        _ => return tensor.clone(),
    };
    Tensor::from_vec(tensor.dims(), numbers)
}

/// An f32 tensor rounded to the half type `dtype`; other tensors as they are.
pub(super) fn narrowed(tensor: Tensor, dtype: DataType) -> Tensor {
    let Some(numbers) = tensor.as_slice::<f32>() else { return tensor };
    match dtype {
        DataType::Float16 => {
            Tensor::from_vec(tensor.dims(), numbers.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>())
        }
        DataType::Bfloat16 => {
            Tensor::from_vec(tensor.dims(), numbers.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>())
        }
        _ => {
            drop(numbers);
            tensor
        }
    }
}

/// Booleans (bytes 0 and 1) as a tensor.
pub(super) fn bool_tensor(dims: &[usize], bytes: Vec<u8>) -> Result<Tensor, KernelError> {
    Tensor::new(DataType::Bool, dims, bytes.into()).or_else(|error| failed(error.to_string()))
}
