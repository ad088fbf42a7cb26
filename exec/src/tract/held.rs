//! tract's form of a tensor, which a value keeps once an op needed it.
use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use onnx_shrink_ir::{DataType, Tensor};
use tract_onnx::prelude::{self as tract, DatumType};

use crate::kernel::KernelError;

/// tract's form of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Held(Arc<tract::Tensor>);

/// Owner of a tract tensor whose bytes one of ours shares.
struct Owner(Arc<tract::Tensor>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Whether tract has the type.
pub(super) fn has_type(dtype: DataType) -> bool {
    datum_type(dtype).is_some()
}

fn datum_type(dtype: DataType) -> Option<DatumType> {
    Some(match dtype {
        DataType::Bool => DatumType::Bool,
        DataType::Uint8 => DatumType::U8,
        DataType::Uint16 => DatumType::U16,
        DataType::Uint32 => DatumType::U32,
        DataType::Uint64 => DatumType::U64,
        DataType::Int8 => DatumType::I8,
        DataType::Int16 => DatumType::I16,
        DataType::Int32 => DatumType::I32,
        DataType::Int64 => DatumType::I64,
        DataType::Float16 => DatumType::F16,
        DataType::Float => DatumType::F32,
        DataType::Double => DatumType::F64,
        _ => return None,
    })
}

impl Held {
    /// A copy of `tensor`.
    pub(super) fn of(tensor: &Tensor) -> Result<Held, KernelError> {
        let (Some(datum_type), Some(bytes)) = (datum_type(tensor.dtype()), tensor.bytes()) else {
            return Err(KernelError::Unsupported(format!("inputs of {}", tensor.dtype())));
        };
        if tensor.dtype() == DataType::Bool && bytes.iter().any(|&byte| byte > 1) {
            return Err(KernelError::Failed("a boolean that is neither 0 nor 1".to_owned()));
        }
        #[expect(unsafe_code, reason = "tract has no safe way to make a tensor of a type that is known at run time")]
        // SAFETY: `datum_type` is one of plain numbers, for which every pattern of bits is a value, or Bool, checked above;
        // the function itself checks that the bytes are as many as the shape takes.
        let copy = unsafe { tract::Tensor::from_raw_dt(datum_type, tensor.dims(), bytes) };
        copy.map(|copy| Held(Arc::new(copy))).map_err(|error| KernelError::Failed(format!("{error:#}")))
    }

    /// max(x, 0), NaN kept, and whether that was done: only where nothing else holds these floats.
    pub(crate) fn rectified(self) -> (Held, bool) {
        let mut tensor = self.0;
        let view = Arc::get_mut(&mut tensor).and_then(|tensor| tensor.try_as_plain_ram_mut().ok());
        let done = view.is_some_and(|mut view| {
            let numbers = view.as_slice_mut::<f32>();
            numbers.map(|numbers| numbers.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x })).is_ok()
        });
        (Held(tensor), done)
    }

    pub(super) fn into_inner(self) -> Arc<tract::Tensor> {
        self.0
    }

    /// An output of the engine. Symbolic numbers become int64.
    pub(super) fn from_engine(tensor: Arc<tract::Tensor>) -> Result<Held, KernelError> {
        let tensor = match tensor.datum_type() {
            DatumType::TDim => match tensor.cast_to::<i64>() {
                Ok(Cow::Owned(cast)) => Arc::new(cast),
                Ok(Cow::Borrowed(_)) => tensor,
                Err(error) => return Err(KernelError::Failed(format!("{error:#}"))),
            },
            _ => tensor,
        };
        Ok(Held(tensor))
    }

    /// Whether its numbers are what they look like: no scale and zero point belong to them.
    pub(super) fn is_plain(&self) -> bool {
        !self.0.datum_type().is_quantized()
    }

    /// The same numbers as a tensor of ours, which shares the bytes.
    pub(crate) fn tensor(&self) -> Result<Tensor, KernelError> {
        let tensor = &self.0;
        let dtype = match tensor.datum_type().unquantized() {
            DatumType::Bool => DataType::Bool,
            DatumType::U8 => DataType::Uint8,
            DatumType::U16 => DataType::Uint16,
            DatumType::U32 => DataType::Uint32,
            DatumType::U64 => DataType::Uint64,
            DatumType::I8 => DataType::Int8,
            DatumType::I16 => DataType::Int16,
            DatumType::I32 => DataType::Int32,
            DatumType::I64 => DataType::Int64,
            DatumType::F16 => DataType::Float16,
            DatumType::F32 => DataType::Float,
            DatumType::F64 => DataType::Double,
            other => return Err(KernelError::Unsupported(format!("an output of the engine's type {other:?}"))),
        };
        if !tensor.is_plain_ram() {
            return Err(KernelError::Unsupported("an output in a packed form".to_owned()));
        }
        let dims = tensor.shape().to_vec();
        Tensor::new(dtype, &dims, Bytes::from_owner(Owner(tensor.clone())))
            .map_err(|error| KernelError::Failed(error.to_string()))
    }
}
