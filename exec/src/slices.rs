//! Taking tensors apart along an axis, and putting them together: what Loop and Scan do with their sequences.
use bytes::Bytes;
use onnx_shrink_ir::{Tensor, element_count};

use crate::kernel::KernelError;

fn whole_bytes(tensor: &Tensor) -> Result<(&Bytes, usize), KernelError> {
    match tensor.bytes() {
        Some(bytes) if tensor.dtype().bits() >= 8 => Ok((bytes, tensor.dtype().bits() / 8)),
        _ => Err(KernelError::Unsupported(format!("sequences of {}", tensor.dtype()))),
    }
}

/// The part of `tensor` at `index` along `axis`, without that axis. Both must be within the shape.
pub(crate) fn take(tensor: &Tensor, axis: usize, index: usize) -> Result<Tensor, KernelError> {
    let (bytes, width) = whole_bytes(tensor)?;
    let dims = tensor.dims();
    let inner: usize = dims[axis + 1..].iter().product::<usize>() * width;
    let outer: usize = dims[..axis].iter().product();
    let mut rest = dims.to_vec();
    rest.remove(axis);
    let data = if outer == 1 {
        bytes.slice(index * inner..(index + 1) * inner)
    } else {
        let mut data = Vec::with_capacity(outer * inner);
        for block in 0..outer {
            let start = (block * dims[axis] + index) * inner;
            data.extend_from_slice(&bytes[start..start + inner]);
        }
        Bytes::from(data)
    };
    Tensor::new(tensor.dtype(), &rest, data).map_err(|error| KernelError::Failed(error.to_string()))
}

/// Equally shaped tensors, at least one, one after the other along a new axis `axis`.
pub(crate) fn stack(parts: &[Tensor], axis: usize, max_bytes: usize) -> Result<Tensor, KernelError> {
    let Some(first) = parts.first() else { return Err(KernelError::Failed("nothing to stack".to_owned())) };
    let (_, width) = whole_bytes(first)?;
    if axis > first.dims().len() {
        return Err(KernelError::Failed(format!("axis {axis} of parts {:?}", first.dims())));
    }
    let mut dims = first.dims().to_vec();
    dims.insert(axis, parts.len());
    let total = element_count(&dims).and_then(|count| count.checked_mul(width)).filter(|&total| total <= max_bytes);
    let Some(total) = total else {
        return Err(KernelError::Failed(format!("the result {dims:?} passes the limit of {max_bytes} bytes")));
    };
    let outer: usize = first.dims()[..axis].iter().product();
    let inner: usize = first.dims()[axis..].iter().product::<usize>() * width;
    let mut data = Vec::with_capacity(total);
    for block in 0..outer {
        for part in parts {
            if part.dims() != first.dims() || part.dtype() != first.dtype() {
                let found = format!("a step makes {}, the first made {}", part.ty(), first.ty());
                return Err(KernelError::Failed(found));
            }
            data.extend_from_slice(&whole_bytes(part)?.0[block * inner..(block + 1) * inner]);
        }
    }
    Tensor::new(first.dtype(), &dims, Bytes::from(data)).map_err(|error| KernelError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::Tensor;

    use super::{stack, take};

    #[test]
    fn what_is_taken_apart_goes_together_again() {
        let tensor = Tensor::from_vec(&[2, 3, 2], (0i32..12).collect());
        for axis in 0..3 {
            let parts: Vec<_> = (0..tensor.dims()[axis]).map(|index| take(&tensor, axis, index).unwrap()).collect();
            assert_eq!(stack(&parts, axis, 1000).unwrap(), tensor);
        }
        assert_eq!(take(&tensor, 1, 2).unwrap(), Tensor::from_vec(&[2, 2], vec![4i32, 5, 10, 11]));
        assert!(stack(&[tensor], 0, 40).is_err(), "48 bytes pass a limit of 40");
    }
}
