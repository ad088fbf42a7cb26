//! The terms of an island: ops that the rules know, over leaves.
//!
//! A node is an op with its children: attributes first, then inputs. What an op leaves out is [`Attr::Absent`]. Attributes
//! and values are leaves, numbered within one island by [`Facts`](super::analysis::Facts): **never** an `egg::Symbol`, whose
//! order is that of arrival. **Never** print a whole term: egg's printer recurses.
use std::{fmt, str::FromStr};

use egg::{FromOp, FromOpError, Id, Language};
use onnx_shrink_ir::DataType;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A value from outside of the island, or a constant that a rule made
    Value(u32),
    /// An attribute
    Attr(u32),
    /// An op of ONNX
    Op(OpKind),
}

macro_rules! op_kinds {
    ($($name:ident),* $(,)?) => {
        /// The ops that rules know.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the names are ONNX's")]
        pub enum OpKind { $($name,)* }

        impl OpKind {
            /// All of them.
            #[cfg(test)]
            pub const ALL: &[OpKind] = &[$(OpKind::$name,)*];

            /// ONNX's name.
            pub fn name(self) -> &'static str {
                match self { $(OpKind::$name => stringify!($name),)* }
            }

            /// The op with ONNX's name `name`.
            pub fn of(name: &str) -> Option<OpKind> {
                match name { $(stringify!($name) => Some(OpKind::$name),)* _ => None }
            }
        }
    };
}

op_kinds!(
    Abs,
    Add,
    Cast,
    Clip,
    Concat,
    DequantizeLinear,
    Div,
    Erf,
    Exp,
    Flatten,
    HardSigmoid,
    LeakyRelu,
    Mul,
    Neg,
    Not,
    QuantizeLinear,
    Relu,
    Reshape,
    Sigmoid,
    Slice,
    Softmax,
    Sqrt,
    Squeeze,
    Sub,
    Tanh,
    Transpose,
    Unsqueeze,
);

impl OpKind {
    /// Whether the output is the input under another shape: no element moves.
    pub fn is_view(self) -> bool {
        matches!(self, OpKind::Reshape | OpKind::Flatten | OpKind::Squeeze | OpKind::Unsqueeze)
    }

    /// Whether its inputs behind the first are an attribute here: constants that say how and not what.
    pub fn has_parameters(self) -> bool {
        matches!(self, OpKind::Slice | OpKind::Squeeze | OpKind::Unsqueeze)
    }
}

/// A node of the e-graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// What it is
    pub kind: Kind,
    /// Attributes, then inputs
    pub children: Box<[Id]>,
}

impl Node {
    /// A leaf.
    pub fn leaf(kind: Kind) -> Node {
        Node { kind, children: Box::default() }
    }

    /// An op.
    pub fn op(op: OpKind, children: impl Into<Box<[Id]>>) -> Node {
        Node { kind: Kind::Op(op), children: children.into() }
    }
}

impl Language for Node {
    type Discriminant = Kind;

    fn discriminant(&self) -> Kind {
        self.kind
    }

    fn matches(&self, other: &Node) -> bool {
        self.kind == other.kind && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Value(number) => write!(f, "%{number}"),
            Kind::Attr(number) => write!(f, "@{number}"),
            Kind::Op(op) => f.write_str(op.name()),
        }
    }
}

impl FromStr for OpKind {
    type Err = String;

    fn from_str(name: &str) -> Result<OpKind, String> {
        OpKind::of(name).ok_or_else(|| format!("no rule knows `{name}`"))
    }
}

impl FromOp for Node {
    type Error = FromOpError;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Node, FromOpError> {
        match OpKind::of(op) {
            Some(kind) if !children.is_empty() => Ok(Node::op(kind, children)),
            _ => Err(FromOpError::new(op, children)),
        }
    }
}

/// What a Slice takes along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// From the front
    pub axis: usize,
    /// First index; negative: from the back, when the length is not known
    pub start: i64,
    /// One past the last index, as `start`
    pub end: i64,
    /// At least 1
    pub step: i64,
}

impl Span {
    /// The same, counted from the front where the length of the axis is known.
    #[must_use]
    pub fn within(self, length: Option<usize>) -> Span {
        let length = length.and_then(|length| i64::try_from(length).ok());
        let place = |index: i64| match length {
            Some(length) if index < 0 => index.saturating_add(length).max(0),
            _ => index,
        };
        Span { start: place(self.start), end: place(self.end), ..self }
    }
}

/// An attribute, or constant inputs that say how and not what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attr {
    /// An input or attribute that is left out
    Absent,
    /// Of a Transpose
    Perm(Vec<usize>),
    /// Of a Cast
    To(DataType),
    /// Bits of a bound of a Clip before opset 11
    Bound(u32),
    /// Of Concat and Flatten
    Axis(i64),
    /// Of Squeeze and Unsqueeze: from the front, ascending
    Axes(Vec<usize>),
    /// Of a Slice: ascending axes
    Spans(Vec<Span>),
    /// All attributes of an op whose attributes no rule reads, as text to compare
    Other(String),
}
