//! Attributes, as the parser reads them.
use bytes::Bytes;
use onnx_shrink_proto::schema::{AttributeProto, TensorProto, attribute_proto::AttributeType};

use super::{
    ATTRIBUTE_TYPES, ParseError,
    lexer::{Token, is_special_real},
    parse::{Parser, Result},
};

impl Parser<'_> {
    pub(super) fn attributes(&mut self) -> Result<Vec<AttributeProto>> {
        let mut attributes = Vec::new();
        if !self.matches('<')? {
            return Ok(attributes);
        }
        loop {
            attributes.push(self.attribute()?);
            if !self.another('>')? {
                return Ok(attributes);
            }
        }
    }

    fn attribute(&mut self) -> Result<AttributeProto> {
        let name = self.name("the name of an attribute")?;
        let mut declared = AttributeType::Undefined;
        if self.matches(':')? {
            let kind = ATTRIBUTE_TYPES.iter().find(|(name, _)| self.token == Token::Word(name));
            let Some((_, kind)) = kind else { return self.expected("an attribute type, as `int` or `floats`") };
            declared = *kind;
            self.take()?;
        }
        self.expect('=')?;
        let at = self.at;
        let attribute = if self.matches('[')? { self.list(declared)? } else { self.single(declared)? };
        if declared != AttributeType::Undefined && attribute.r#type() != declared {
            let found = attribute.r#type().as_str_name();
            return Err(ParseError::at(self.text, at, &format!("a value of type {}", declared.as_str_name()), found));
        }
        Ok(AttributeProto { name: Some(name), ..attribute })
    }

    fn list(&mut self, declared: AttributeType) -> Result<AttributeProto> {
        use AttributeType::*;
        let mut list = AttributeProto { r#type: Some(declared as i32), ..AttributeProto::default() };
        if self.peeks(']') {
            if !matches!(declared, Floats | Ints | Strings | Tensors | Graphs | TypeProtos) {
                return self.expected("a value (an empty list needs its type: `name: ints = []`)");
            }
            self.take()?;
            return Ok(list);
        }
        let mut of = match declared {
            Floats => Float,
            Ints => Int,
            Strings => String,
            Tensors => Tensor,
            Graphs => Graph,
            TypeProtos => TypeProto,
            _ => Undefined,
        };
        loop {
            let at = self.at;
            let element = self.single(of)?;
            let kind = element.r#type();
            if of != Undefined && kind != of {
                let what = format!("another value of type {}", of.as_str_name());
                return Err(ParseError::at(self.text, at, &what, kind.as_str_name()));
            }
            of = kind;
            list.floats.extend(element.f);
            list.ints.extend(element.i);
            list.strings.extend(element.s);
            list.tensors.extend(element.t.map(|tensor| *tensor));
            list.graphs.extend(element.g.map(|graph| *graph));
            list.type_protos.extend(element.tp.map(|ty| *ty));
            if !self.another(']')? {
                break;
            }
        }
        let kind = match of {
            Float => Floats,
            Int => Ints,
            String => Strings,
            Tensor => Tensors,
            Graph => Graphs,
            _ => TypeProtos,
        };
        Ok(AttributeProto { r#type: Some(kind as i32), ..list })
    }

    /// One value. An integer is a float where one is declared.
    fn single(&mut self, declared: AttributeType) -> Result<AttributeProto> {
        let of = |kind: AttributeType| AttributeProto { r#type: Some(kind as i32), ..AttributeProto::default() };
        let at = self.at;
        match self.token {
            Token::Integer(text) if declared == AttributeType::Float => self.float(text),
            Token::Real(text) => self.float(text),
            Token::Word(word) if is_special_real(word) => self.float(word),
            Token::Integer(_) => Ok(AttributeProto { i: Some(self.integer()?), ..of(AttributeType::Int) }),
            Token::Mark('@') => {
                self.take()?;
                let name = self.name("the name of an attribute of the function")?;
                Ok(AttributeProto { ref_attr_name: Some(name), ..of(declared) })
            }
            Token::Text(_) => {
                let text = self.string()?;
                if self.peeks('(') {
                    let graph = self.graph_named(text)?;
                    return Ok(AttributeProto { g: Some(Box::new(graph)), ..of(AttributeType::Graph) });
                }
                Ok(AttributeProto { s: Some(Bytes::from(text)), ..of(AttributeType::String) })
            }
            Token::Word(_) if self.at_type() => {
                let ty = self.ty()?;
                let name = self.optional_name()?;
                let equals = self.matches('=')?;
                if name.is_none() && !equals && !self.peeks('{') {
                    return Ok(AttributeProto { tp: Some(Box::new(ty)), ..of(AttributeType::TypeProto) });
                }
                let tensor = TensorProto { name, ..self.tensor(Some(&ty), at)? };
                Ok(AttributeProto { t: Some(Box::new(tensor)), ..of(AttributeType::Tensor) })
            }
            Token::Word(_) => {
                let graph = self.graph()?;
                Ok(AttributeProto { g: Some(Box::new(graph)), ..of(AttributeType::Graph) })
            }
            _ => self.expected("a value: a number, a string, a tensor, a type or a graph"),
        }
    }

    fn float(&mut self, text: &str) -> Result<AttributeProto> {
        let Ok(number) = text.parse::<f32>() else { return self.expected("a number") };
        self.take()?;
        let kind = Some(AttributeType::Float as i32);
        Ok(AttributeProto { f: Some(number), r#type: kind, ..AttributeProto::default() })
    }
}
