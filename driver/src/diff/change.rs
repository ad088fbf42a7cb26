//! Changes, and a difference made of them.
use std::collections::BTreeMap;

use serde::Serialize;

/// How to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Look at no name, not even at those of the graph's inputs and outputs: these correspond by their order then
    pub ignore_names: bool,
}

/// One of the two models.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Side {
    /// The file
    pub path: String,
    /// Bytes of the model, its external data included
    pub bytes: u64,
    /// Version of ONNX's own ops
    pub opset: i64,
    /// Number of ops, those in bodies included
    pub ops: usize,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An input of the graph: name, type, order, or that it is there
    Input,
    /// An output of the graph
    Output,
    /// The model around the graph: versions, metadata, functions
    Model,
    /// Several ops became one of them
    Fused,
    /// Ops became other ops
    Replaced,
    /// One op became several of its kind
    Split,
    /// The op computes in integers now
    Quantized,
    /// The op computes in float with constants that are stored in another type
    Stored,
    /// Computed before, a constant now
    Folded,
    /// An equal op does its work
    Merged,
    /// It is gone, and its readers read what it read
    Bypassed,
    /// It led to no output, and is gone
    Dead,
    /// It stands at another place
    Moved,
    /// It reads other values
    Rewired,
    /// Attributes or constants differ
    Changed,
    /// It stands between ops that were neighbours
    Inserted,
    /// It is new
    Added,
    /// It is gone
    Removed,
}

/// An op of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpRef {
    /// Place in the graph's order, `Constant` ops not counted
    pub index: usize,
    /// Its name, or that of its first output
    pub name: String,
    /// Its type, with the domain when it is not ONNX's own
    #[serde(rename = "type")]
    pub op_type: String,
}

/// Type and size of a constant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Element type and dimensions, as in `float[16,3,3,3]`
    #[serde(rename = "type")]
    pub ty: String,
    /// Bytes
    pub bytes: usize,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Detail {
    /// An attribute; `null` where it is not there
    Attribute {
        /// Its name
        name: String,
        /// In A
        before: Option<String>,
        /// In B
        after: Option<String>,
    },
    /// A constant that an op reads
    Constant {
        /// The input, by the name that the op's definition gives it, or its number
        input: String,
        /// In A, as it is stored; `null` when there was none
        before: Option<Facts>,
        /// In B, as it is stored; `null` when there is none
        after: Option<Facts>,
        /// ‖B − A‖ as a share of the larger of ‖A‖ and ‖B‖, of the numbers that are meant (integers by their scales); `null`
        /// where they cannot be compared
        relative_error: Option<f64>,
        /// Elements that differ; `null` where they cannot be compared
        elements: Option<usize>,
    },
    /// An input of an op that reads another value
    Reads {
        /// The input, as in `constant`
        input: String,
        /// The value in A
        before: String,
        /// The value in B
        after: String,
    },
    /// Anything else that has a before and an after
    Value {
        /// What it is
        name: String,
        /// In A
        before: String,
        /// In B
        after: String,
    },
    /// A sentence
    Note {
        /// The sentence
        text: String,
    },
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What it is
    pub kind: Kind,
    /// Where: "" is the main graph, else the body or function, as in `if_1.then_branch`
    pub scope: String,
    /// What happened, without the names of the ops
    pub title: String,
    /// The ops in A that it is about
    pub a: Vec<OpRef>,
    /// The ops in B
    pub b: Vec<OpRef>,
    /// What differs in particular
    pub details: Vec<Detail>,
    /// For changes in bodies, the op of the main graph around them, in A and B
    #[serde(skip)]
    pub around: Option<(usize, usize)>,
}

/// The difference of two models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// [`SCHEMA`](super::SCHEMA)
    pub schema: u32,
    /// Version of the program
    pub version: &'static str,
    /// Whether there are no changes
    pub equal: bool,
    /// The one model
    pub a: Side,
    /// The other
    pub b: Side,
    /// Ops by type in A and B, those in bodies included
    pub op_types: BTreeMap<String, (usize, usize)>,
    /// All changes: the interface, the model, then ops in the order of A
    pub changes: Vec<Change>,
    /// What makes no difference but may be good to know
    pub notes: Vec<String>,
    /// Pairs of ops of the main graph, by place
    #[serde(skip)]
    pub pairs: Vec<(usize, usize)>,
}

/// What comparing two graphs gives.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) changes: Vec<Change>,
    pub(super) notes: Vec<String>,
    pub(super) pairs: Vec<(usize, usize)>,
    /// Pairs with different names
    pub(super) renamed: usize,
}
