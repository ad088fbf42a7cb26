//! Attributes: making them, and reading them with their defaults.
use onnx_shrink_proto::schema::{AttributeProto, attribute_proto::AttributeType};

use crate::{convert, graph::Op, tensor::Tensor};

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

/// An integer attribute.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

/// A list of integers.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

/// A float attribute.
pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// A list of floats.
pub fn floats(name: &str, values: &[f32]) -> AttributeProto {
    AttributeProto { floats: values.to_vec(), ..attribute(name, AttributeType::Floats) }
}

/// A string attribute.
pub fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec().into()), ..attribute(name, AttributeType::String) }
}

/// A tensor attribute.
pub fn tensor(name: &str, value: &Tensor) -> AttributeProto {
    AttributeProto { t: Some(Box::new(convert::tensor_to_proto(value, ""))), ..attribute(name, AttributeType::Tensor) }
}

impl Op {
    /// The integer attribute `name`.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name)?.i
    }

    /// The list of integers `name`; `None` when the attribute is not there.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    /// The float attribute `name`.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name)?.f
    }

    /// The list of floats `name`; `None` when the attribute is not there.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attribute(name).map(|attribute| attribute.floats.as_slice())
    }

    /// The string attribute `name`; `None` also when it is not UTF-8.
    pub fn string(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.attribute(name)?.s.as_deref()?).ok()
    }

    /// The tensor attribute `name`; `None` also when it is malformed.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        convert::tensor_from_proto(self.attribute(name)?.t.as_deref()?).ok()
    }
}
