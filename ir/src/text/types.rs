//! Types, and tensors with their values, as the parser reads them.
use bytes::Bytes;
use onnx_shrink_proto::schema::{
    TensorProto, TensorShapeProto, TypeProto,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

use super::{
    ParseError, TYPE_WORDS,
    lexer::Token,
    parse::{Parser, Result},
    values::{Packer, literal_bits, literal_count, literal_kind},
};
use crate::{tensor::element_count, types::DataType};

impl Parser<'_> {
    pub(super) fn at_type(&self) -> bool {
        matches!(self.token, Token::Word(word) if dtype_named(word).is_some() || TYPE_WORDS.contains(&word))
    }

    pub(super) fn ty(&mut self) -> Result<TypeProto> {
        self.deeper(|parser| {
            let Token::Word(word) = parser.token else { return parser.expected("a type") };
            let value = if let Some(dtype) = dtype_named(word) {
                parser.take()?;
                let shape = parser.shape()?;
                type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(dtype as i32), shape })
            } else if TYPE_WORDS.contains(&word) {
                parser.take()?;
                parser.expect('(')?;
                let value = parser.compound_type(word)?;
                parser.expect(')')?;
                value
            } else {
                return parser.expected("a type, as `float[1,3]`");
            };
            Ok(TypeProto { denotation: None, value: Some(value) })
        })
    }

    /// What stands in the parentheses after `word`.
    pub(super) fn compound_type(&mut self, word: &str) -> Result<type_proto::Value> {
        Ok(match word {
            "seq" => {
                let elem_type = Some(Box::new(self.ty()?));
                type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type }))
            }
            "optional" => {
                let elem_type = Some(Box::new(self.ty()?));
                type_proto::Value::OptionalType(Box::new(type_proto::Optional { elem_type }))
            }
            "map" => {
                let key_type = Some(self.dtype()? as i32);
                self.expect(',')?;
                let value_type = Some(Box::new(self.ty()?));
                type_proto::Value::MapType(Box::new(type_proto::Map { key_type, value_type }))
            }
            "sparse_tensor" => {
                let elem_type = Some(self.dtype()? as i32);
                let shape = self.shape()?;
                type_proto::Value::SparseTensorType(type_proto::SparseTensor { elem_type, shape })
            }
            _ => {
                let mut opaque = type_proto::Opaque::default();
                if !self.peeks(')') {
                    opaque.name = Some(self.qualified()?);
                    if self.matches(',')? {
                        opaque.domain = opaque.name.take();
                        opaque.name = Some(self.name("the name of an opaque type")?);
                    }
                }
                type_proto::Value::OpaqueType(opaque)
            }
        })
    }

    pub(super) fn dtype(&mut self) -> Result<DataType> {
        let dtype = match self.token {
            Token::Word(word) => dtype_named(word),
            _ => None,
        };
        match dtype {
            Some(dtype) => {
                self.take()?;
                Ok(dtype)
            }
            None => self.expected("an element type, as `float`"),
        }
    }

    /// Nothing (rank 0), `[]` (rank unknown) or `[dimension, …]`.
    pub(super) fn shape(&mut self) -> Result<Option<TensorShapeProto>> {
        let mut shape = TensorShapeProto::default();
        if !self.matches('[')? {
            return Ok(Some(shape));
        }
        if self.matches(']')? {
            return Ok(None);
        }
        loop {
            let value = if self.matches('?')? {
                None
            } else if let Some(name) = self.optional_name()? {
                Some(dimension::Value::DimParam(name))
            } else if matches!(self.token, Token::Integer(_)) {
                Some(dimension::Value::DimValue(self.integer()?))
            } else {
                return self.expected("a dimension: a number, a name or `?`");
            };
            shape.dim.push(Dimension { denotation: None, value });
            if !self.another(']')? {
                return Ok(Some(shape));
            }
        }
    }

    /// `{value, …}` for a tensor of type `ty`, which stands at byte `at`.
    pub(super) fn tensor(&mut self, ty: Option<&TypeProto>, at: usize) -> Result<TensorProto> {
        let needs = |found: &str| {
            Err(ParseError::at(
                self.text,
                at,
                "a tensor type whose dimensions are numbers, for a value with data",
                found,
            ))
        };
        let Some(TypeProto { value: Some(type_proto::Value::TensorType(ty)), .. }) = ty else {
            return needs("no tensor type");
        };
        let Some(dtype) = ty.elem_type.and_then(DataType::from_number) else { return needs("no element type") };
        let Some(shape) = &ty.shape else { return needs("an unknown rank") };
        let mut dims = Vec::with_capacity(shape.dim.len());
        for dim in &shape.dim {
            match &dim.value {
                Some(dimension::Value::DimValue(number)) if *number >= 0 => dims.push(*number),
                Some(dimension::Value::DimValue(number)) => return needs(&format!("dimension {number}")),
                Some(dimension::Value::DimParam(name)) => return needs(&format!("dimension `{name}`")),
                None => return needs("dimension `?`"),
            }
        }
        let sizes: Vec<usize> = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
        let Some(count) = element_count(&sizes).and_then(|count| literal_count(dtype, count)) else {
            return needs("more elements than memory has");
        };
        let mut tensor = TensorProto { dims, data_type: Some(dtype as i32), ..TensorProto::default() };
        if self.peeks('[') {
            return self.expected("values in braces (external data is not read from text)");
        }
        self.expect('{')?;
        let mut packer = Packer::new(dtype);
        let mut found = 0;
        while !self.peeks('}') {
            if found > 0 {
                self.expect(',')?;
            }
            if found == count {
                return self.expected(&format!("`}}`: {dtype}{sizes:?} has {count} values"));
            }
            if dtype == DataType::String && matches!(self.token, Token::Text(_)) {
                tensor.string_data.push(Bytes::from(self.string()?));
            } else if let Some(bits) = literal_bits(dtype, &self.token) {
                packer.push(bits);
                self.take()?;
            } else {
                return self.expected(&literal_kind(dtype));
            }
            found += 1;
        }
        if found < count {
            return self.expected(&format!("{count} values for {dtype}{sizes:?}, of which {found} are there"));
        }
        self.expect('}')?;
        tensor.raw_data = (dtype != DataType::String).then(|| packer.into_bytes().into());
        Ok(tensor)
    }
}

fn dtype_named(word: &str) -> Option<DataType> {
    DataType::ALL.iter().copied().find(|dtype| dtype.name() == word)
}
