//! Element types, symbolic dimensions, tensor types.
//!
//! Why: a pass must be able to say "float of shape [N, 3, 8, 8]" and to compare such facts exactly. A dimension is a
//! number, a name that means the same number everywhere in the graph, or unknown; two unknowns are never equal.
use std::fmt;

use onnx_shrink_proto::schema::{self, TypeProto, tensor_shape_proto::dimension, type_proto};

macro_rules! data_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $bits:literal;)*) => {
        /// Element type of a tensor, numbered as in ONNX's `TensorProto.DataType`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i32)]
        pub enum DataType { $($(#[$doc])* $name = $number,)* }

        impl DataType {
            /// All element types, in ONNX's order.
            pub const ALL: &[DataType] = &[$(DataType::$name,)*];

            /// The type with ONNX's number `number`; `None` for UNDEFINED and numbers that this version does not know.
            pub fn from_number(number: i32) -> Option<DataType> {
                match number { $($number => Some(DataType::$name),)* _ => None }
            }

            /// ONNX's name of the type in its text syntax and type constraints ("float", "int8", "bfloat16").
            pub fn name(self) -> &'static str {
                match self { $(DataType::$name => $text,)* }
            }

            /// Bits that one element takes in `raw_data`; 0 for strings.
            pub fn bits(self) -> usize {
                match self { $(DataType::$name => $bits,)* }
            }
        }
    };
}

data_types! {
    /// 32-bit float
    Float = 1, "float", 32;
    /// unsigned 8-bit
    Uint8 = 2, "uint8", 8;
    /// signed 8-bit
    Int8 = 3, "int8", 8;
    /// unsigned 16-bit
    Uint16 = 4, "uint16", 16;
    /// signed 16-bit
    Int16 = 5, "int16", 16;
    /// signed 32-bit
    Int32 = 6, "int32", 32;
    /// signed 64-bit
    Int64 = 7, "int64", 64;
    /// strings (no fixed size)
    String = 8, "string", 0;
    /// one byte, 0 or 1
    Bool = 9, "bool", 8;
    /// IEEE half
    Float16 = 10, "float16", 16;
    /// 64-bit float
    Double = 11, "double", 64;
    /// unsigned 32-bit
    Uint32 = 12, "uint32", 32;
    /// unsigned 64-bit
    Uint64 = 13, "uint64", 64;
    /// two floats
    Complex64 = 14, "complex64", 64;
    /// two doubles
    Complex128 = 15, "complex128", 128;
    /// upper half of a float
    Bfloat16 = 16, "bfloat16", 16;
    /// 8-bit float, 4 exponent bits, no infinity
    Float8e4m3fn = 17, "float8e4m3fn", 8;
    /// the same with one NaN and no negative zero
    Float8e4m3fnuz = 18, "float8e4m3fnuz", 8;
    /// 8-bit float, 5 exponent bits
    Float8e5m2 = 19, "float8e5m2", 8;
    /// the same with one NaN and no negative zero
    Float8e5m2fnuz = 20, "float8e5m2fnuz", 8;
    /// unsigned 4-bit, two a byte, the first in the low bits
    Uint4 = 21, "uint4", 4;
    /// signed 4-bit, two a byte
    Int4 = 22, "int4", 4;
    /// 4-bit float, two a byte
    Float4e2m1 = 23, "float4e2m1", 4;
    /// 8-bit power of two
    Float8e8m0 = 24, "float8e8m0", 8;
    /// unsigned 2-bit, four a byte
    Uint2 = 25, "uint2", 2;
    /// signed 2-bit, four a byte
    Int2 = 26, "int2", 2;
    /// 6-bit float, 2 exponent bits
    Float6e2m3 = 27, "float6e2m3", 6;
    /// 6-bit float, 3 exponent bits
    Float6e3m2 = 28, "float6e3m2", 6;
}

impl DataType {
    /// Whether it is one of the floating-point types that arithmetic ops take (not the 8-bit and 4-bit storage ones).
    pub fn is_float(self) -> bool {
        matches!(self, DataType::Float | DataType::Float16 | DataType::Double | DataType::Bfloat16)
    }

    /// Whether it is a signed or unsigned integer of any width.
    pub fn is_integer(self) -> bool {
        use DataType::*;
        matches!(self, Uint8 | Int8 | Uint16 | Int16 | Int32 | Int64 | Uint32 | Uint64 | Uint4 | Int4 | Uint2 | Int2)
    }

    /// Bytes that `count` elements take in `raw_data`, a last incomplete byte filled up; `None` when that overflows or
    /// for strings.
    pub fn byte_len(self, count: usize) -> Option<usize> {
        match self {
            DataType::String => None,
            _ => count.checked_mul(self.bits()).map(|bits| bits.div_ceil(8)),
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One dimension of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// A known number, 0 included
    Known(usize),
    /// A named number: equal names mean equal numbers within a graph
    Symbol(String),
    /// Nothing is known
    Unknown,
}

impl Dim {
    /// The number, if known.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(number) => Some(*number),
            _ => None,
        }
    }

    /// Whether both are provably the same number.
    pub fn same(&self, other: &Dim) -> bool {
        !matches!(self, Dim::Unknown) && self == other
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(number) => write!(f, "{number}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// Element type and, when the rank is known, the dimensions of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Element type
    pub dtype: DataType,
    /// Dimensions; `None` when not even the rank is known
    pub shape: Option<Vec<Dim>>,
}

impl TensorType {
    /// A type whose dimensions are all known.
    pub fn fixed(dtype: DataType, dims: &[usize]) -> TensorType {
        TensorType { dtype, shape: Some(dims.iter().map(|&dim| Dim::Known(dim)).collect()) }
    }

    /// The tensor type that `proto` states; `None` for sequences, maps, optionals, sparse tensors and unknown types.
    pub fn from_proto(proto: &TypeProto) -> Option<TensorType> {
        let Some(type_proto::Value::TensorType(tensor)) = &proto.value else { return None };
        let dtype = DataType::from_number(tensor.elem_type?)?;
        let shape = tensor.shape.as_ref().map(|shape| {
            let dims = shape.dim.iter().map(|dim| match &dim.value {
                Some(dimension::Value::DimValue(number)) => usize::try_from(*number).map_or(Dim::Unknown, Dim::Known),
                Some(dimension::Value::DimParam(name)) if is_name(name) => Dim::Symbol(name.clone()),
                _ => Dim::Unknown,
            });
            dims.collect()
        });
        Some(TensorType { dtype, shape })
    }

    /// The same as a `TypeProto`.
    pub fn to_proto(&self) -> TypeProto {
        let dim = |dim: &Dim| schema::tensor_shape_proto::Dimension {
            denotation: None,
            value: match dim {
                Dim::Known(number) => i64::try_from(*number).ok().map(dimension::Value::DimValue),
                Dim::Symbol(name) => Some(dimension::Value::DimParam(name.clone())),
                Dim::Unknown => None,
            },
        };
        let shape = self.shape.as_ref().map(|dims| schema::TensorShapeProto { dim: dims.iter().map(dim).collect() });
        let tensor = type_proto::Tensor { elem_type: Some(self.dtype as i32), shape };
        TypeProto { denotation: None, value: Some(type_proto::Value::TensorType(tensor)) }
    }

    /// Number of dimensions, if known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The dimensions as numbers; `None` unless every one is known.
    pub fn dims(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(Dim::known).collect()
    }
}

/// Whether a dimension's name means anything: some exporters write one and the same word for every unknown dimension.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "?" | "-1" | "None" | "unk" | "unknown" | "Unknown")
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dtype)?;
        if let Some(shape) = &self.shape {
            let dims: Vec<_> = shape.iter().map(Dim::to_string).collect();
            if !dims.is_empty() {
                write!(f, "[{}]", dims.join(","))?;
            }
        } else {
            f.write_str("[]")?;
        }
        Ok(())
    }
}
