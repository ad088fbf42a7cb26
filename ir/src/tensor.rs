//! Tensors: element type, dimensions, and bytes as ONNX's `raw_data` has them (little endian, row-major).
//!
//! Why bytes: a tensor of a loaded model stays a slice of the memory map until a pass makes a new one; cloning is cheap.
//! **Never** reinterprets bytes of the file as numbers without checking their alignment.
use std::{borrow::Cow, sync::Arc};

use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

use crate::types::{DataType, TensorType};

/// A constant tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DataType,
    dims: Vec<usize>,
    data: Data,
}

#[derive(Clone, Debug, PartialEq)]
enum Data {
    Raw(Bytes),
    Strings(Arc<Vec<Bytes>>),
}

/// Why bytes and dimensions do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Dimensions whose product passes the address space
    #[error("dimensions {0:?} have too many elements")]
    TooLarge(Vec<usize>),
    /// A byte count that does not fit
    #[error("{found} bytes of data, {dtype}{dims:?} needs {needed}")]
    Length {
        /// Element type
        dtype: DataType,
        /// Dimensions
        dims: Vec<usize>,
        /// Bytes that they need
        needed: usize,
        /// Bytes that are there
        found: usize,
    },
}

/// Numbers that a tensor's bytes can be read as.
pub trait Element: Pod {
    /// The element type that is stored this way.
    const DTYPE: DataType;
}

macro_rules! elements { ($($type:ty = $dtype:ident),*) => { $(impl Element for $type { const DTYPE: DataType = DataType::$dtype; })* } }
elements!(
    f32 = Float,
    f64 = Double,
    f16 = Float16,
    bf16 = Bfloat16,
    u8 = Uint8,
    i8 = Int8,
    u16 = Uint16,
    i16 = Int16,
    u32 = Uint32,
    i32 = Int32,
    u64 = Uint64,
    i64 = Int64
);

/// Product of the dimensions; `None` when it overflows.
pub fn element_count(dims: &[usize]) -> Option<usize> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
}

/// Owner of a vector of numbers whose bytes a tensor shares, without a copy.
struct Numbers<T>(Vec<T>);
impl<T: Pod> AsRef<[u8]> for Numbers<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Tensor {
    /// A tensor over `data`, which must be exactly as long as `dims` of `dtype` take.
    pub fn new(dtype: DataType, dims: &[usize], data: Bytes) -> Result<Tensor, TensorError> {
        let needed = element_count(dims)
            .and_then(|count| dtype.byte_len(count))
            .ok_or_else(|| TensorError::TooLarge(dims.to_vec()))?;
        if needed != data.len() {
            return Err(TensorError::Length { dtype, dims: dims.to_vec(), needed, found: data.len() });
        }
        Ok(Tensor { dtype, dims: dims.to_vec(), data: Data::Raw(data) })
    }

    /// A tensor of strings.
    pub fn strings(dims: &[usize], strings: Vec<Bytes>) -> Result<Tensor, TensorError> {
        match element_count(dims) {
            Some(needed) if needed == strings.len() => {
                Ok(Tensor { dtype: DataType::String, dims: dims.to_vec(), data: Data::Strings(Arc::new(strings)) })
            }
            Some(needed) => {
                Err(TensorError::Length { dtype: DataType::String, dims: dims.to_vec(), needed, found: strings.len() })
            }
            None => Err(TensorError::TooLarge(dims.to_vec())),
        }
    }

    /// A tensor of `numbers` in row-major order.
    ///
    /// # Panics
    /// When their count is not the product of `dims`: a mistake of the caller.
    pub fn from_vec<T: Element + Send + Sync>(dims: &[usize], numbers: Vec<T>) -> Tensor {
        assert_eq!(element_count(dims), Some(numbers.len()), "dims {dims:?}");
        Tensor { dtype: T::DTYPE, dims: dims.to_vec(), data: Data::Raw(Bytes::from_owner(Numbers(numbers))) }
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element + Send + Sync>(number: T) -> Tensor {
        Tensor::from_vec(&[], vec![number])
    }

    /// A tensor of booleans.
    pub fn from_bools(dims: &[usize], bools: &[bool]) -> Tensor {
        let bytes: Vec<u8> = bools.iter().map(|&bit| u8::from(bit)).collect();
        Tensor { dtype: DataType::Bool, ..Tensor::from_vec(dims, bytes) }
    }

    /// A tensor of the floating-point or integer type `dtype` from f64, each rounded once (integers: half to even, saturating).
    /// `None` for types that have no such conversion here (strings, complex, 8-bit and narrower storage types).
    pub fn from_f64(dtype: DataType, array: &ArrayD<f64>) -> Option<Tensor> {
        let dims = array.shape();
        let numbers = array.iter().copied();
        macro_rules! integers {
            ($type:ty) => {
                Tensor::from_vec(dims, numbers.map(|x| x.round_ties_even() as $type).collect::<Vec<$type>>())
            };
        }
        Some(match dtype {
            DataType::Float => Tensor::from_vec(dims, numbers.map(|x| x as f32).collect()),
            DataType::Double => Tensor::from_vec(dims, numbers.collect()),
            DataType::Float16 => Tensor::from_vec(dims, numbers.map(f16::from_f64).collect()),
            DataType::Bfloat16 => Tensor::from_vec(dims, numbers.map(bf16::from_f64).collect()),
            DataType::Uint8 => integers!(u8),
            DataType::Int8 => integers!(i8),
            DataType::Uint16 => integers!(u16),
            DataType::Int16 => integers!(i16),
            DataType::Uint32 => integers!(u32),
            DataType::Int32 => integers!(i32),
            DataType::Uint64 => integers!(u64),
            DataType::Int64 => integers!(i64),
            DataType::Bool => Tensor::from_bools(dims, &numbers.map(|x| x != 0.0).collect::<Vec<_>>()),
            _ => return None,
        })
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        element_count(&self.dims).unwrap_or(0)
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// The type with all dimensions known.
    pub fn ty(&self) -> TensorType {
        TensorType::fixed(self.dtype, &self.dims)
    }

    /// The bytes as in `raw_data`; `None` for strings.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.data {
            Data::Raw(bytes) => Some(bytes),
            Data::Strings(_) => None,
        }
    }

    /// The strings of a string tensor.
    pub fn as_strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Strings(strings) => Some(strings),
            Data::Raw(_) => None,
        }
    }

    /// Bytes that the data takes in a file.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Data::Raw(bytes) => bytes.len(),
            Data::Strings(strings) => strings.iter().map(|text| text.len() + 2).sum(),
        }
    }

    /// The numbers, when the element type is `T`'s (for booleans use `u8`); copied only if the bytes are not aligned.
    pub fn as_slice<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        let matches = self.dtype == T::DTYPE || (self.dtype == DataType::Bool && T::DTYPE == DataType::Uint8);
        let bytes = self.bytes().filter(|_| matches)?;
        Some(match bytemuck::try_cast_slice(bytes) {
            Ok(slice) => Cow::Borrowed(slice),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
        })
    }

    /// The numbers as f64, row-major, for float, integer and boolean types (4-bit and 2-bit ones unpacked; 64-bit
    /// integers beyond 2^53 rounded); `None` for the others.
    pub fn to_f64_vec(&self) -> Option<Vec<f64>> {
        macro_rules! numbers {
            ($type:ty) => {
                self.as_slice::<$type>()?.iter().map(|&x| f64::from(x)).collect()
            };
        }
        Some(match self.dtype {
            DataType::Float => numbers!(f32),
            DataType::Double => self.as_slice::<f64>()?.into_owned(),
            DataType::Float16 => numbers!(f16),
            DataType::Bfloat16 => numbers!(bf16),
            DataType::Uint8 | DataType::Bool => numbers!(u8),
            DataType::Int8 => numbers!(i8),
            DataType::Uint16 => numbers!(u16),
            DataType::Int16 => numbers!(i16),
            DataType::Uint32 => numbers!(u32),
            DataType::Int32 => numbers!(i32),
            DataType::Uint64 => self.as_slice::<u64>()?.iter().map(|&x| x as f64).collect(),
            DataType::Int64 => self.as_slice::<i64>()?.iter().map(|&x| x as f64).collect(),
            DataType::Uint4 | DataType::Int4 | DataType::Uint2 | DataType::Int2 => {
                self.unpack()?.iter().map(|&x| f64::from(x)).collect()
            }
            _ => return None,
        })
    }

    /// The numbers as an array of f64; `None` as for [`Tensor::to_f64_vec`].
    pub fn to_f64(&self) -> Option<ArrayD<f64>> {
        ArrayD::from_shape_vec(IxDyn(&self.dims), self.to_f64_vec()?).ok()
    }

    /// The numbers as i64, for integer and boolean types; `None` for the others and for u64 beyond i64.
    pub fn to_i64_vec(&self) -> Option<Vec<i64>> {
        macro_rules! numbers {
            ($type:ty) => {
                self.as_slice::<$type>()?.iter().map(|&x| i64::from(x)).collect()
            };
        }
        Some(match self.dtype {
            DataType::Uint8 | DataType::Bool => numbers!(u8),
            DataType::Int8 => numbers!(i8),
            DataType::Uint16 => numbers!(u16),
            DataType::Int16 => numbers!(i16),
            DataType::Uint32 => numbers!(u32),
            DataType::Int32 => numbers!(i32),
            DataType::Int64 => self.as_slice::<i64>()?.into_owned(),
            DataType::Uint64 => {
                self.as_slice::<u64>()?.iter().map(|&x| i64::try_from(x).ok()).collect::<Option<Vec<_>>>()?
            }
            DataType::Uint4 | DataType::Int4 | DataType::Uint2 | DataType::Int2 => {
                self.unpack()?.iter().map(|&x| i64::from(x)).collect()
            }
            _ => return None,
        })
    }

    /// The one number of a tensor of one element, as f64.
    pub fn to_scalar_f64(&self) -> Option<f64> {
        (self.len() == 1).then(|| self.to_f64_vec()?.first().copied()).flatten()
    }

    /// The elements of a 4-bit or 2-bit integer tensor, one a number.
    pub fn unpack(&self) -> Option<Vec<i16>> {
        let (bits, signed) = match self.dtype {
            DataType::Uint4 => (4, false),
            DataType::Int4 => (4, true),
            DataType::Uint2 => (2, false),
            DataType::Int2 => (2, true),
            _ => return None,
        };
        let (per_byte, mask) = (8 / bits, (1i16 << bits) - 1);
        let bytes = self.bytes()?;
        let number = |index: usize| {
            let field = (i16::from(bytes[index / per_byte]) >> (bits * (index % per_byte))) & mask;
            if signed && field > mask / 2 { field - mask - 1 } else { field }
        };
        Some((0..self.len()).map(number).collect())
    }

    /// The same bytes under other dimensions with as many elements; `None` when the counts differ.
    pub fn reshaped(&self, dims: &[usize]) -> Option<Tensor> {
        (element_count(dims)? == self.len()).then(|| Tensor { dims: dims.to_vec(), ..self.clone() })
    }
}
