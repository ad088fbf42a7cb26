//! Limits: a walk over the wire format before anything is decoded.
//!
//! Why: an empty message takes two bytes in a file and some hundred in memory (20 MB of empty nodes decode to 2.3 GB), and
//! prost drops fields that it does not know without a word. The walk counts the first and finds the second.
//!
//! **Never** allocates more than its stack of open messages, **never** recurses, **never** touches a tensor's payload.
use std::{fmt, ops::Range};

use crate::{
    error::Problem,
    fields::FIELDS,
    schema::*,
    wire::{Broken, Wire, record},
};

/// prost's own limit of messages within messages: 33 subgraphs, at three messages each, and the model's graph.
const MAX_DEPTH: usize = 100;
/// A string, number list or payload from this size on is no structure: it does not raise the budget.
const PAYLOAD: usize = 4096;
/// At most so many kinds of unknown fields are listed.
const MAX_UNKNOWN: usize = 64;

/// How much memory a model's structure (all but large payloads, which stay where they lie) may take.
///
/// The least real node (`c = Add(a, b)`, 16 bytes in the file) counts as 23 times its size, and every model of the bench
/// passes at 40; a file of empty messages takes more than 100 times.
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
            Err(error) => return Err(broken(&error, bytes, &stack, unknown.is_empty())),
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

/// What a broken record in the innermost message of `stack` says about the file; `known`: all fields so far are ONNX's.
fn broken(broken: &Broken, bytes: &[u8], stack: &[Open], known: bool) -> Problem {
    match (stack.len(), broken.needed) {
        (1, Some(needed)) if known => Problem::Truncated { found: bytes.len(), needed },
        (1, _) => Problem::NotOnnx { offset: broken.offset },
        _ => Problem::Damaged { path: path(bytes, stack), offset: broken.offset },
    }
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

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{FIELDS, Limits, SINGULAR, SIZES, scan};
    use crate::{
        error::Problem,
        schema::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto},
        testing::{model, node, sentence, tensor},
    };

    /// A record of type "bytes".
    fn record(tag: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag << 3 | 2];
        prost::encoding::encode_varint(payload.len() as u64, &mut bytes);
        bytes.extend(payload);
        bytes
    }

    fn scan_model(bytes: &[u8]) -> Result<Vec<super::UnknownField>, Problem> {
        scan(bytes, "ModelProto", &Limits::default())
    }

    #[test]
    fn sizes_and_fields_name_the_same_messages() {
        let names = |(name, _): &(&str, _)| name.to_string();
        assert!(FIELDS.iter().map(|(name, _)| name.to_string()).eq(SIZES.iter().map(names)));
        let fields = || FIELDS.iter().flat_map(|(_, fields)| fields.iter());
        for name in SINGULAR {
            assert!(fields().any(|(_, field, inner)| *field == name && inner.is_some()), "{name}");
        }
    }

    #[test]
    fn unknown_fields_are_found_and_located() {
        let plain = NodeProto::default().encode_to_vec();
        let attribute =
            [AttributeProto { i: Some(1), ..Default::default() }.encode_to_vec(), record(15, b""), record(12, b"abc")];
        let nodes = [record(1, &plain), record(1, &plain), record(1, &record(5, &attribute.concat()))].concat();
        let mut bytes = record(7, &nodes);
        prost::encoding::encode_key(25, prost::encoding::WireType::LengthDelimited, &mut bytes); // a function
        bytes.extend(record(0, &record(7, &record(5, &record(12, b""))))[1..].iter());
        let unknown = scan_model(&bytes).unwrap();
        let [field] = &unknown[..] else { panic!("{unknown:?}") };
        assert_eq!((field.path.as_str(), field.tag, field.count), ("ModelProto.graph.node[2].attribute[0]", 12, 2));
        assert_eq!(field.to_string(), "field 12 in ModelProto.graph.node[2].attribute[0] (and 1 more in other places)");
        assert!(ModelProto::decode(&bytes[..]).is_ok());
    }

    #[test]
    fn groups_are_unknown_fields() {
        let group = [15 << 3 | 3, 1 << 3 | 3, 8, 1, 1 << 3 | 4, 15 << 3 | 4]; // one in another
        assert_eq!(scan_model(&group).unwrap()[0].tag, 15);
        assert!(scan_model(&group[..group.len() - 1]).is_err());
    }

    #[test]
    fn many_kinds_of_unknown_fields_are_not_all_listed() {
        let mut bytes = Vec::new();
        for tag in 100..10_000u32 {
            prost::encoding::encode_key(tag, prost::encoding::WireType::Varint, &mut bytes);
            bytes.push(1);
        }
        assert_eq!(scan_model(&bytes).unwrap().len(), 64);
    }

    #[test]
    fn files_that_exhaust_memory_are_refused() {
        for tag in [1, 5, 11] {
            // 2 bytes for each empty node, initializer, input
            let graph = record(tag, b"").repeat(1_000_000);
            let error = scan_model(&record(7, &graph)).unwrap_err();
            assert!(matches!(error, Problem::TooMuchMemory { .. }), "{error}");
            // a large payload does not raise the budget
            let padded = [graph, record(5, &record(9, &vec![0; 20_000_000]))].concat();
            assert!(matches!(scan_model(&record(7, &padded)), Err(Problem::TooMuchMemory { .. })));
        }
    }

    #[test]
    fn the_smallest_real_nodes_are_within_the_limits() {
        let add = NodeProto {
            input: vec!["a".into(), "b".into()],
            output: vec!["c".into()],
            op_type: Some("Add".into()),
            ..Default::default()
        };
        let graph = GraphProto { node: vec![add; 300_000], ..Default::default() };
        let bytes = ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
        scan_model(&bytes).unwrap();
        let none = Limits { memory_floor: 0, ..Limits::default() };
        scan(&bytes, "ModelProto", &none).unwrap();
    }

    /// `depth` bodies in one another.
    fn nested(depth: usize) -> Vec<u8> {
        let mut graph = record(2, b"g");
        for _ in 0..depth {
            graph = record(1, &record(5, &record(6, &graph)));
        }
        record(7, &graph)
    }

    #[test]
    fn depth_has_the_limit_of_the_decoder() {
        for depth in [0, 1, 32, 33] {
            assert!(ModelProto::decode(&nested(depth)[..]).is_ok());
            scan_model(&nested(depth)).unwrap();
        }
        for depth in [34, 35, 5000] {
            let error = scan_model(&nested(depth)).unwrap_err();
            assert!(sentence(&error).starts_with("subgraphs (bodies of If, Loop, Scan) are nested more than 33 deep"));
        }
    }

    #[test]
    fn every_cut_of_a_model_is_an_error_or_a_model() {
        let attribute = AttributeProto { t: Some(Box::new(tensor("c", vec![1; 9]))), ..Default::default() };
        let mut model = model(vec![tensor("w", vec![7; 300])]);
        model.graph.as_mut().unwrap().node = vec![node(attribute)];
        let bytes = model.encode_to_vec();
        let mut truncated = 0;
        for end in 0..=bytes.len() {
            let scanned = scan_model(&bytes[..end]);
            assert_eq!(scanned.is_ok(), ModelProto::decode(&bytes[..end]).is_ok(), "{end}");
            if let Err(Problem::Truncated { found, needed }) = scanned {
                assert!(found == end && needed > end as u64 && needed <= bytes.len() as u64);
                truncated += 1;
            }
        }
        assert!(truncated > 300);
    }

    #[test]
    fn lies_about_lengths_are_errors() {
        for lie in [1u64 << 20, 1 << 31, 1 << 40, (1 << 62) + 5, u64::MAX] {
            let mut tensor = vec![9 << 3 | 2];
            prost::encoding::encode_varint(lie, &mut tensor);
            tensor.extend([0; 16]);
            assert!(TensorProto::decode(&tensor[..]).is_err());
            let error = scan_model(&record(7, &record(5, &tensor))).unwrap_err();
            assert!(sentence(&error).contains("in ModelProto.graph.initializer[0]"), "{error}");
        }
    }
}
