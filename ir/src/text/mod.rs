//! ONNX's textual syntax: parser and printer.
//!
//! The grammar is ONNX's (onnx/docs/Syntax.md). Every test of a pass is two such texts. What text cannot say is lost when
//! a model is printed: doc strings, metadata of graphs, nodes and values, denotations, quantization annotations, sparse
//! tensors and training information; strings that are not UTF-8 get replacement characters.
//!
//! Wider than ONNX's own parser: float16 and bfloat16 tensors may hold numbers with a point (see `values.rs`), names of
//! attributes, ops, domains and bodies may be quoted, and lists of tensors, graphs and types are read.
//! Stricter: a tensor has exactly as many values as elements, each in the range of its type.
//! Refused by name: external data, functions, sparse tensors.
use std::fmt;

mod attributes;
mod lexer;
mod parse;
mod print;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod types;
mod values;

pub use parse::{parse_graph, parse_model};
pub use print::{Print, print_graph, print_model};

use crate::import::ImportError;

/// Why a text is not a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The text breaks the grammar, or a value does not fit its type
    Syntax {
        /// Line, from 1
        line: usize,
        /// Column in characters, from 1
        column: usize,
        /// What should stand there
        expected: String,
        /// What does
        found: String,
        /// The line itself
        source: String,
    },
    /// It reads well, but is no graph
    Import(ImportError),
}

impl ParseError {
    /// An error at byte `offset` of `text`.
    fn at(text: &str, offset: usize, expected: &str, found: &str) -> ParseError {
        let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
        ParseError::Syntax {
            line: text[..start].matches('\n').count() + 1,
            column: text[start..offset].chars().count() + 1,
            expected: expected.to_owned(),
            found: found.to_owned(),
            source: text[start..end].to_owned(),
        }
    }

    /// Line and column, from 1; `None` when the error is not about a place in the text.
    pub fn position(&self) -> Option<(usize, usize)> {
        match self {
            ParseError::Syntax { line, column, .. } => Some((*line, *column)),
            ParseError::Import(_) => None,
        }
    }

    /// The error with the line that it is about, and a mark under the place.
    pub fn render(&self) -> String {
        match self {
            ParseError::Syntax { column, source, .. } if source.chars().count() <= 200 => {
                format!("{self}\n  {source}\n  {:>column$}", "^")
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::Syntax { line, column, expected, found, .. } => {
                write!(f, "line {line}, column {column}: expected {expected}, found {found}")
            }
            ParseError::Import(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ParseError {}

impl From<ImportError> for ParseError {
    fn from(error: ImportError) -> ParseError {
        ParseError::Import(error)
    }
}

use onnx_shrink_proto::schema::attribute_proto::AttributeType;

/// Attribute types by their names in text.
const ATTRIBUTE_TYPES: &[(&str, AttributeType)] = &[
    ("float", AttributeType::Float),
    ("int", AttributeType::Int),
    ("string", AttributeType::String),
    ("tensor", AttributeType::Tensor),
    ("graph", AttributeType::Graph),
    ("sparse_tensor", AttributeType::SparseTensor),
    ("type_proto", AttributeType::TypeProto),
    ("floats", AttributeType::Floats),
    ("ints", AttributeType::Ints),
    ("strings", AttributeType::Strings),
    ("tensors", AttributeType::Tensors),
    ("graphs", AttributeType::Graphs),
    ("sparse_tensors", AttributeType::SparseTensors),
    ("type_protos", AttributeType::TypeProtos),
];

/// Words that begin a type that is not a tensor's.
const TYPE_WORDS: &[&str] = &["seq", "map", "optional", "sparse_tensor", "opaque"];
