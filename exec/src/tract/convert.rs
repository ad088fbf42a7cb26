//! Tensors: ours to tract's and back. One copy into tract, none out of it.
use std::sync::Arc;

use half::{bf16, f16, slice::HalfFloatSliceExt};
use onnx_shrink_ir::{DataType, Tensor};
use tract_onnx::prelude as tract;

use super::held::Held;
use crate::{kernel::KernelError, value::Value};

/// A tract tensor as ours, which shares its bytes. Symbolic numbers become int64.
pub(super) fn from_tract(tensor: Arc<tract::Tensor>) -> Result<Value, KernelError> {
    let held = Held::from_engine(tensor)?;
    let value = Value::from(held.tensor()?);
    if held.is_plain() {
        let _ = value.held.set(held);
    }
    Ok(value)
}

/// A 16-bit float tensor as float; `None` for other types.
pub(super) fn widened(tensor: &Tensor) -> Option<Tensor> {
    let numbers = match tensor.dtype() {
        DataType::Float16 => tensor.as_slice::<f16>()?.to_f32_vec(),
        DataType::Bfloat16 => tensor.as_slice::<bf16>()?.to_f32_vec(),
        _ => return None,
    };
    Some(Tensor::from_vec(tensor.dims(), numbers))
}

/// A float tensor rounded to the 16-bit float type `dtype`, ties to even.
pub(super) fn narrowed(tensor: &Tensor, dtype: DataType) -> Result<Tensor, KernelError> {
    let Some(numbers) = tensor.as_slice::<f32>() else {
        return Err(KernelError::Failed(format!("{} is no float", tensor.dtype())));
    };
    if dtype == DataType::Bfloat16 {
        return Ok(Tensor::from_vec(tensor.dims(), numbers.iter().map(|&x| bf16::from_f32(x)).collect()));
    }
    let mut rounded = vec![f16::ZERO; numbers.len()];
    rounded.convert_from_f32_slice(&numbers);
    Ok(Tensor::from_vec(tensor.dims(), rounded))
}
