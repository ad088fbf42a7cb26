//! Limits: a walk over the wire format before anything is decoded.
//!
//! Why: an empty message takes two bytes in a file and some hundred in memory (20 MB of empty nodes decode to 2.3 GB), and
//! prost drops fields that it does not know without a word. The walk counts the first and finds the second.
//!
//! **Never** allocates more than its stack of open messages, **never** recurses, **never** touches a tensor's payload.
use std::{fmt, ops::Range};

use crate::{error::Problem, fields::FIELDS, schema::*};

/// prost's own limit of messages within messages: 33 subgraphs, at three messages each, and the model's graph.
const MAX_DEPTH: usize = 100;
/// A string, number list or payload from this size on is no structure: it does not raise the budget.
const PAYLOAD: usize = 4096;
/// At most so many kinds of unknown fields are listed.
const MAX_UNKNOWN: usize = 64;

/// How much memory a model's structure (all but large payloads, which stay where they lie) may take.
///
/// The least real node (`c = Add(a, b)`, 16 bytes in the file) takes 27 times its size, whole real models 5 to 20 times;
/// a file of empty messages more than 100 times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory for each byte of structure in the file.
    pub max_amplification: u64,
    /// What any model may take, in bytes.
    pub memory_floor: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_amplification: 64, memory_floor: 64 << 20 }
    }
}

/// Fields of one number in one kind of message that this version of ONNX does not know: decoding drops them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The first message that has one: `ModelProto.graph.node[3].attribute[0]`.
    pub path: String,
    /// The kind of that message: `AttributeProto`.
    pub message: &'static str,
    /// The field's number.
    pub tag: u32,
    /// How many there are in messages of this kind.
    pub count: usize,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {} in {}", self.tag, self.path)?;
        match self.count {
            ..=1 => Ok(()),
            count => write!(f, " (and {} more in other places)", count - 1),
        }
    }
}

/// Walks over `bytes`, a message of type `root` ("ModelProto"): its unknown fields, one entry for each kind of message and
/// number (at most 64), or what forbids to decode it.
pub(crate) fn scan(bytes: &[u8], root: &'static str, limits: &Limits) -> Result<Vec<UnknownField>, Problem> {
    let mut unknown: Vec<UnknownField> = Vec::new();
    let mut needed = 0u64;
    let mut structure = bytes.len() as u64;
    let kind = FIELDS.iter().position(|(name, _)| *name == root).expect("root is a message of the schema");
    let mut stack = vec![Open { kind, start: 0, at: 0, end: bytes.len(), record: 0, tag: 0 }];
    while let Some(open) = stack.last_mut() {
        if open.at == open.end {
            stack.pop();
            continue;
        }
        let start = open.at;
        let record = match record(bytes, open.at, open.end) {
            Ok(record) => record,
            Err(broken) => return Err(broken.problem(bytes, &stack, unknown.is_empty())),
        };
        open.at = record.payload.end;
        let (message, fields) = FIELDS[open.kind];
        let length = record.payload.len();
        match fields.iter().find(|(tag, ..)| *tag == record.tag) {
            Some(&(tag, _, Some(kind))) if record.wire == Wire::Bytes => {
                needed += SIZES[kind].1 as u64;
                let Range { start: at, end } = record.payload;
                stack.push(Open { kind, start: at, at, end, record: start, tag });
                if stack.len() > MAX_DEPTH + 1 {
                    stack.truncate(10); // enough to find it
                    return Err(Problem::TooDeep { path: path(bytes, &stack) });
                }
            }
            Some(_) if record.wire == Wire::Bytes => {
                needed += size_of::<bytes::Bytes>() as u64;
                if length >= PAYLOAD {
                    structure -= length as u64;
                }
            }
            Some(_) => needed += size_of::<u64>() as u64,
            None => {
                let known = unknown.iter().position(|field| field.message == message && field.tag == record.tag);
                if let Some(index) = known {
                    unknown[index].count += 1;
                } else if unknown.len() < MAX_UNKNOWN {
                    unknown.push(UnknownField { path: path(bytes, &stack), message, tag: record.tag, count: 1 });
                }
            }
        }
    }
    let allowed = limits.memory_floor.max(structure.saturating_mul(limits.max_amplification));
    if needed > allowed {
        return Err(Problem::TooMuchMemory { needed, allowed });
    }
    Ok(unknown)
}

/// A message that the walk is in.
struct Open {
    /// Which message: an index of [`FIELDS`].
    kind: usize,
    start: usize,
    at: usize,
    end: usize,
    /// Where its record starts, in the message around it, and with which number.
    record: usize,
    tag: u32,
}

/// The way to the innermost message of `stack`.
fn path(bytes: &[u8], stack: &[Open]) -> String {
    let mut path = FIELDS[stack[0].kind].0.to_owned();
    for pair in stack.windows(2) {
        let [outer, inner] = pair else { continue };
        let name = FIELDS[outer.kind].1.iter().find(|(tag, ..)| *tag == inner.tag).map_or("?", |(_, name, _)| name);
        path += ".";
        path += name;
        if !SINGULAR.contains(&name) {
            let (mut at, mut index) = (outer.start, 0);
            while at < inner.record
                && let Ok(record) = record(bytes, at, outer.end)
            {
                index += usize::from(record.tag == inner.tag);
                at = record.payload.end;
            }
            path += &format!("[{index}]");
        }
    }
    path
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Number,
    Bytes,
    Group,
}

/// One field as it stands in the file.
struct Record {
    tag: u32,
    wire: Wire,
    payload: Range<usize>,
}

/// Where the wire format breaks, and, if only bytes are missing, up to where they would reach.
struct Broken {
    offset: usize,
    needed: Option<u64>,
}

impl Broken {
    fn problem(&self, bytes: &[u8], stack: &[Open], known: bool) -> Problem {
        match (stack.len(), self.needed) {
            (1, Some(needed)) if known => Problem::Truncated { found: bytes.len(), needed },
            (1, _) => Problem::NotOnnx { offset: self.offset },
            _ => Problem::Damaged { path: path(bytes, stack), offset: self.offset },
        }
    }
}

/// The record at `at`; groups (which ONNX has never had) are read to their end.
fn record(bytes: &[u8], at: usize, end: usize) -> Result<Record, Broken> {
    let mut record = plain_record(bytes, at, end)?.0;
    let mut open = Vec::new();
    if record.wire == Wire::Group {
        open.push(record.tag);
    }
    while let Some(&group) = open.last() {
        let offset = record.payload.end;
        let (inner, closes) = plain_record(bytes, offset, end)?;
        record.payload.end = inner.payload.end;
        match inner.wire {
            Wire::Group if closes && inner.tag == group => drop(open.pop()),
            Wire::Group if closes || open.len() == MAX_DEPTH => return Err(Broken { offset, needed: None }),
            Wire::Group => open.push(inner.tag),
            _ => {}
        }
    }
    Ok(record)
}

/// The record at `at`, or the start or end (`true`) of a group.
fn plain_record(bytes: &[u8], at: usize, end: usize) -> Result<(Record, bool), Broken> {
    let (key, start) = varint(bytes, at, end)?;
    let (tag, kind) = (key >> 3, key & 7);
    let damaged = Broken { offset: at, needed: None };
    let Ok(tag @ 1..) = u32::try_from(tag) else { return Err(damaged) };
    let (wire, payload) = match kind {
        0 => (Wire::Number, start..varint(bytes, start, end)?.1),
        1 => (Wire::Number, span(start, 8, end)?),
        2 => {
            let (length, start) = varint(bytes, start, end)?;
            (Wire::Bytes, span(start, length, end)?)
        }
        3 | 4 => (Wire::Group, start..start),
        5 => (Wire::Number, span(start, 4, end)?),
        _ => return Err(damaged),
    };
    Ok((Record { tag, wire, payload }, kind == 4))
}

fn span(start: usize, length: u64, end: usize) -> Result<Range<usize>, Broken> {
    let needed = (start as u64).saturating_add(length);
    match usize::try_from(needed) {
        Ok(stop) if stop <= end => Ok(start..stop),
        _ => Err(Broken { offset: start, needed: Some(needed) }),
    }
}

/// The number at `at`, and where it ends.
fn varint(bytes: &[u8], at: usize, end: usize) -> Result<(u64, usize), Broken> {
    let mut value = 0u64;
    for (index, byte) in bytes[at..end].iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            return Ok((value, at + index + 1));
        }
    }
    let needed = (end - at < 10).then_some(end as u64 + 1);
    Err(Broken { offset: at, needed })
}

/// The fields that hold one message, not a list.
const SINGULAR: [&str; 20] = [
    "graph",
    "t",
    "g",
    "sparse_tensor",
    "tp",
    "type",
    "segment",
    "values",
    "indices",
    "shape",
    "elem_type",
    "value_type",
    "tensor_type",
    "sequence_type",
    "map_type",
    "optional_type",
    "sparse_tensor_type",
    "opaque_type",
    "initialization",
    "algorithm",
];

/// What each message takes in memory, in the order of [`FIELDS`].
#[rustfmt::skip]
static SIZES: [(&str, usize); 28] = [
    ("AttributeProto", size_of::<AttributeProto>()),
    ("ValueInfoProto", size_of::<ValueInfoProto>()),
    ("NodeProto", size_of::<NodeProto>()),
    ("IntIntListEntryProto", size_of::<IntIntListEntryProto>()),
    ("NodeDeviceConfigurationProto", size_of::<NodeDeviceConfigurationProto>()),
    ("ShardingSpecProto", size_of::<ShardingSpecProto>()),
    ("ShardedDimProto", size_of::<ShardedDimProto>()),
    ("SimpleShardedDimProto", size_of::<SimpleShardedDimProto>()),
    ("TrainingInfoProto", size_of::<TrainingInfoProto>()),
    ("ModelProto", size_of::<ModelProto>()),
    ("DeviceConfigurationProto", size_of::<DeviceConfigurationProto>()),
    ("StringStringEntryProto", size_of::<StringStringEntryProto>()),
    ("TensorAnnotation", size_of::<TensorAnnotation>()),
    ("GraphProto", size_of::<GraphProto>()),
    ("TensorProto", size_of::<TensorProto>()),
    ("TensorProto.Segment", size_of::<tensor_proto::Segment>()),
    ("SparseTensorProto", size_of::<SparseTensorProto>()),
    ("TensorShapeProto", size_of::<TensorShapeProto>()),
    ("TensorShapeProto.Dimension", size_of::<tensor_shape_proto::Dimension>()),
    ("TypeProto", size_of::<TypeProto>()),
    ("TypeProto.Tensor", size_of::<type_proto::Tensor>()),
    ("TypeProto.Sequence", size_of::<type_proto::Sequence>()),
    ("TypeProto.Map", size_of::<type_proto::Map>()),
    ("TypeProto.Optional", size_of::<type_proto::Optional>()),
    ("TypeProto.SparseTensor", size_of::<type_proto::SparseTensor>()),
    ("TypeProto.Opaque", size_of::<type_proto::Opaque>()),
    ("OperatorSetIdProto", size_of::<OperatorSetIdProto>()),
    ("FunctionProto", size_of::<FunctionProto>()),
];
