//! Elements as opaque cells, so that an op that only moves elements works for every element type.
//!
//! A cell is the bytes of an element. Elements narrower than a byte take one byte each while they move; strings move as
//! indices into a table. **Nothing** here looks at a value.
use std::borrow::Cow;

use bytemuck::Pod;
use bytes::Bytes;
use onnx_shrink_ir::{DataType, Tensor, element_count};

use super::layout::{failed, unsupported};
use crate::kernel::KernelError;

/// The elements of one or several tensors of one type.
pub(super) struct Cells<'a> {
    dtype: DataType,
    /// Bytes of a cell: 1, 2, 4, 8 or 16
    pub(super) size: usize,
    /// The cells of each tensor
    pub(super) data: Vec<Cow<'a, [u8]>>,
    strings: Vec<Bytes>,
}

impl<'a> Cells<'a> {
    /// The cells of `tensors`, which must be of one type.
    pub(super) fn of(tensors: &[&'a Tensor]) -> Result<Cells<'a>, KernelError> {
        let dtype = tensors.first().map_or(DataType::Float, |tensor| tensor.dtype());
        if let Some(other) = tensors.iter().find(|tensor| tensor.dtype() != dtype) {
            return failed(format!("its inputs are of different types, {dtype} and {}", other.dtype()));
        }
        let mut cells = Cells { dtype, size: dtype.bits().div_ceil(8).max(1), data: Vec::new(), strings: Vec::new() };
        if dtype == DataType::String {
            cells.size = 4;
        }
        for tensor in tensors {
            let data = match (tensor.bytes(), dtype.bits()) {
                (None, _) => {
                    let first = cells.strings.len();
                    let strings = tensor.as_strings().expect("a tensor without bytes holds strings");
                    cells.strings.extend_from_slice(strings);
                    if u32::try_from(cells.strings.len()).is_err() {
                        return unsupported("more than 2^32 strings");
                    }
                    let indices: Vec<u32> = (first..cells.strings.len()).map(|index| index as u32).collect();
                    Cow::Owned(bytemuck::cast_slice(&indices).to_vec())
                }
                (Some(bytes), bits @ (2 | 4)) => Cow::Owned(spread(bytes, bits, tensor.len())),
                (Some(_), 6) => return unsupported(format!("moving {dtype} elements")),
                (Some(bytes), _) => Cow::Borrowed(bytes.as_ref()),
            };
            cells.data.push(data);
        }
        Ok(cells)
    }

    /// The only tensor's cells.
    pub(super) fn first(&self) -> &[u8] {
        self.data.first().map_or(&[], |data| data)
    }

    /// A tensor of the cells `data`.
    pub(super) fn tensor(&self, dims: &[usize], data: impl Into<Bytes>) -> Result<Tensor, KernelError> {
        let data: Bytes = data.into();
        let result = match self.dtype.bits() {
            0 => {
                let indices: Vec<u32> = bytemuck::pod_collect_to_vec(&data);
                let strings = indices.iter().map(|&index| self.strings[index as usize].clone());
                Tensor::strings(dims, strings.collect())
            }
            bits @ (2 | 4) => Tensor::new(self.dtype, dims, squeeze(&data, bits).into()),
            _ => Tensor::new(self.dtype, dims, data),
        };
        result.or_else(|error| failed(error.to_string()))
    }

    /// A cell of zeros (an empty string for strings).
    pub(super) fn zero(&mut self) -> Vec<u8> {
        if self.dtype == DataType::String {
            self.strings.push(Bytes::new());
            return ((self.strings.len() - 1) as u32).to_le_bytes().to_vec();
        }
        vec![0; self.size]
    }
}

/// One byte for each field of `bits` bits.
pub(super) fn spread(bytes: &[u8], bits: usize, count: usize) -> Vec<u8> {
    let (per_byte, mask) = (8 / bits, (1u8 << bits) - 1);
    (0..count).map(|index| (bytes[index / per_byte] >> (bits * (index % per_byte))) & mask).collect()
}

/// Fields of `bits` bits, the first in the low bits of a byte, from one byte each.
pub(super) fn squeeze(fields: &[u8], bits: usize) -> Vec<u8> {
    let (per_byte, mask) = (8 / bits, (1u8 << bits) - 1);
    fields
        .chunks(per_byte)
        .map(|chunk| {
            chunk.iter().enumerate().fold(0, |byte, (place, &field)| byte | ((field & mask) << (bits * place)))
        })
        .collect()
}

/// Runs `$body` with `$T` the integer type of a cell's size.
macro_rules! by_cell {
    ($size:expr, $T:ident => $body:expr) => {
        match $size {
            1 => {
                type $T = u8;
                $body
            }
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            8 => {
                type $T = u64;
                $body
            }
            _ => {
                type $T = u128;
                $body
            }
        }
    };
}
pub(super) use by_cell;

/// [`super::layout::strided`] over cells.
pub(super) fn strided_cells(source: &[u8], size: usize, offset: isize, dims: &[usize], strides: &[isize]) -> Bytes {
    by_cell!(size, T => {
        let cells = super::layout::cast::<T>(source);
        into_bytes(super::layout::strided::<T>(&cells, offset, dims, strides))
    })
}

/// The cell `sources[pick]` for every pick, in order. The caller has checked the picks.
pub(super) fn picked(source: &[u8], size: usize, picks: &[usize]) -> Bytes {
    by_cell!(size, T => {
        let cells = super::layout::cast::<T>(source);
        into_bytes(picks.iter().map(|&pick| cells[pick]).collect::<Vec<T>>())
    })
}

/// Owner of cells whose bytes a tensor shares.
struct Owned<T>(Vec<T>);
impl<T: Pod> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The bytes of cells, without a copy.
pub(super) fn into_bytes<T: Pod + Send + Sync>(cells: Vec<T>) -> Bytes {
    Bytes::from_owner(Owned(cells))
}

/// `tensor`'s elements at other places: see [`super::layout::strided`].
pub(super) fn restrided(
    tensor: &Tensor,
    out_dims: &[usize],
    offset: isize,
    dims: &[usize],
    strides: &[isize],
) -> Result<Tensor, KernelError> {
    debug_assert_eq!(element_count(out_dims), element_count(dims));
    let cells = Cells::of(&[tensor])?;
    let data = strided_cells(cells.first(), cells.size, offset, dims, strides);
    cells.tensor(out_dims, data)
}
