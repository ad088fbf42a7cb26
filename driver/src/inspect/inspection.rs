//! What is told of a model: data alone.
use std::collections::BTreeMap;

use onnx_shrink_ir::{
    Dim, Graph, TensorType, ValueId,
    proto::schema::{ValueInfoProto, type_proto},
};
use onnx_shrink_passes::analysis::saturation::Saturating;
use serde::Serialize;

use super::{constants::Constants, groups::ChannelGroup, plan::Plan};

/// A graph input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its name
    pub name: String,
    /// Its type as in ONNX's own syntax: `float[N,3,224,224]`; `sequence`, `optional`, `map` for what is no tensor
    #[serde(rename = "type")]
    pub ty: String,
    /// Element type; `None` for what is no tensor
    pub dtype: Option<String>,
    /// Dimensions: a number, a name, or null; `None` when not even the rank is known
    pub dims: Option<Vec<Size>>,
    /// Whether it is an input with a default
    pub has_default: bool,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Size {
    /// A known number
    Known(usize),
    /// A named number
    Named(String),
    /// Unknown
    Free(()),
}

/// All ops of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// The type; `domain.type` for other domains than ONNX's own
    pub op: String,
    /// How many, those in bodies included
    pub count: usize,
    /// Of those whose multiply-adds are known, in the main graph
    pub multiply_adds: u64,
    /// Bytes of the constants that they read first
    pub bytes: u64,
}

/// One op that has constants or multiplies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpLine {
    /// Its name, or that of its output
    pub name: String,
    /// Its type
    pub op: String,
    /// Type of its first output
    pub output: Option<String>,
    /// Multiply-adds of one run; `None` when they are not known
    pub multiply_adds: Option<u64>,
    /// Bytes of the constants that it reads first, those in its bodies included
    pub bytes: u64,
    /// Share of zeros in its weights; `None` without weights
    pub zeros: Option<f64>,
}

/// Where values of one element type stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Type {
    /// Element type
    pub dtype: String,
    /// Values that ops make or the graph takes
    pub values: usize,
    /// Constants
    pub constants: usize,
    /// Bytes of those
    pub bytes: u64,
}

/// Work of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Multiply-adds of the ops that are counted
    pub multiply_adds: u64,
    /// Where the shapes come from: `model`, `made-up sample` (free dimensions are 1), `longer made-up
    /// sample` (the model does not run with 1) or `sample`
    pub shapes: &'static str,
    /// Ops that are not counted, by type: their sums or shapes are not known, or they stand in bodies
    pub not_counted: BTreeMap<String, usize>,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// [`SCHEMA`](super::SCHEMA)
    pub schema: u32,
    /// Version of the program
    pub version: &'static str,
    /// The file
    pub path: String,
    /// Bytes of the model, its external data included
    pub bytes: u64,
    /// Version of the file format
    pub ir_version: i64,
    /// Versions of ops by domain; ONNX's own is `ai.onnx`
    pub opsets: BTreeMap<String, i64>,
    /// Who made the file, as it says
    pub producer: String,
    /// Inputs in order
    pub inputs: Vec<Port>,
    /// Outputs in order
    pub outputs: Vec<Port>,
    /// Names of free dimensions of the inputs; `input[axis]` for those without a name
    pub free_dims: Vec<String>,
    /// Ops, those in bodies included
    pub op_count: usize,
    /// Local functions
    pub functions: usize,
    /// Ops by type, the most first
    pub kinds: Vec<Kind>,
    /// Work of one run
    pub work: Work,
    /// Ops with constants or multiply-adds, the most bytes first
    pub ops: Vec<OpLine>,
    /// Values by element type, the most bytes first
    pub types: Vec<Type>,
    /// All constants
    pub constants: Constants,
    /// Layers whose 8-bit sums can saturate on x86 processors without VNNI
    pub saturating: Vec<Saturating>,
    /// Channels that `--prune` would keep or remove together; `None` when that was not asked
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<ChannelGroup>>,
    /// What `--int8` would do; `None` when that was not asked
    pub int8: Option<Plan>,
    /// What a user may want to know
    pub notes: Vec<String>,
}

impl Port {
    pub(super) fn of(graph: &Graph, value: ValueId, declared: Option<&ValueInfoProto>) -> Port {
        let ty = graph.ty(value);
        let other = || match declared.and_then(|info| info.r#type.as_ref()?.value.as_ref()) {
            Some(type_proto::Value::SequenceType(_)) => "sequence",
            Some(type_proto::Value::MapType(_)) => "map",
            Some(type_proto::Value::OptionalType(_)) => "optional",
            Some(type_proto::Value::SparseTensorType(_)) => "sparse tensor",
            _ => "unknown",
        };
        let size = |dim: &Dim| match dim {
            Dim::Known(number) => Size::Known(*number),
            Dim::Symbol(name) => Size::Named(name.clone()),
            Dim::Unknown => Size::Free(()),
        };
        Port {
            name: graph.name_of(value).to_owned(),
            ty: ty.map_or_else(|| other().to_owned(), TensorType::to_string),
            dtype: ty.map(|ty| ty.dtype.to_string()),
            dims: ty.and_then(|ty| ty.shape.as_ref()).map(|shape| shape.iter().map(size).collect()),
            has_default: graph.default_of(value).is_some(),
        }
    }
}
