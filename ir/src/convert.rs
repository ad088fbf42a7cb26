//! `TensorProto` to [`Tensor`] and back: every one of ONNX's storage forms (typed fields, raw, packed) becomes raw bytes.
use bytes::Bytes;
use onnx_shrink_proto::schema::TensorProto;

use crate::{
    tensor::{Tensor, TensorError, element_count},
    types::DataType,
};

/// Why a `TensorProto` is not a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// An element type that this version does not know
    #[error("element type {0} is unknown: the file is newer than this tool, or damaged")]
    Type(i32),
    /// A dimension below zero
    #[error("dimension {0} is negative")]
    Dimension(i64),
    /// Data and dimensions that disagree
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Several storage fields at once, or none that fits the type
    #[error("its data lies in a field that {0} tensors do not use")]
    Field(DataType),
    /// A part of a tensor that is split over several messages
    #[error("it is a segment of a larger tensor; no writer of models makes these: export the model again")]
    Segment,
}

/// The tensor that `proto` states, its bytes shared with it where they are raw.
pub fn tensor_from_proto(proto: &TensorProto) -> Result<Tensor, ConvertError> {
    let number = proto.data_type.unwrap_or(0);
    let dtype = DataType::from_number(number).ok_or(ConvertError::Type(number))?;
    if proto.segment.is_some() {
        return Err(ConvertError::Segment);
    }
    let dims = proto
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).map_err(|_| ConvertError::Dimension(dim)))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(raw) = &proto.raw_data {
        if dtype == DataType::String {
            return Err(ConvertError::Field(dtype));
        }
        return Ok(Tensor::new(dtype, &dims, raw.clone())?);
    }
    use DataType::*;
    let bytes: Vec<u8> = match dtype {
        String => return Ok(Tensor::strings(&dims, proto.string_data.clone())?),
        Float | Complex64 => proto.float_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Double | Complex128 => proto.double_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Int64 => proto.int64_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Uint64 => proto.uint64_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Uint32 => proto.uint64_data.iter().flat_map(|&x| (x as u32).to_le_bytes()).collect(),
        Int32 => proto.int32_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Uint16 | Int16 | Float16 | Bfloat16 => {
            proto.int32_data.iter().flat_map(|&x| (x as u16).to_le_bytes()).collect()
        }
        // One byte an element; narrower types hold two or four elements a number, packed as in raw_data.
        _ => {
            let mut bytes: Vec<u8> = proto.int32_data.iter().map(|&x| x as u8).collect();
            if dtype.bits() < 8 {
                let needed = element_count(&dims).and_then(|count| dtype.byte_len(count));
                if needed == Some(bytes.len().saturating_sub(1)) && !bytes.is_empty() {
                    bytes.pop();
                }
            }
            bytes
        }
    };
    Ok(Tensor::new(dtype, &dims, Bytes::from(bytes))?)
}

/// A `TensorProto` named `name` that holds `tensor` as raw data.
pub fn tensor_to_proto(tensor: &Tensor, name: &str) -> TensorProto {
    let mut proto = TensorProto {
        dims: tensor.dims().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
        data_type: Some(tensor.dtype() as i32),
        name: (!name.is_empty()).then(|| name.to_owned()),
        ..TensorProto::default()
    };
    match tensor.as_strings() {
        Some(strings) => proto.string_data = strings.to_vec(),
        None => proto.raw_data = tensor.bytes().cloned(),
    }
    proto
}
