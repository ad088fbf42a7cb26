//! One graph as the comparison sees it: ops in order with where their inputs come from, and hashes of their structure.
//!
//! `Constant` ops are constants here, as initializers are. Hashes find candidates; **no** hash decides that two things are
//! equal. **No** name enters a hash.
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;
use onnx_shrink_ir::{
    Graph, Op, OpId, Tensor, ValueId,
    convert::tensor_from_proto,
    proto::schema::{AttributeProto, attribute_proto::AttributeType},
};
use prost::Message;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The input is left out
    Nothing,
    /// Input of the graph, by place
    Input(usize),
    /// Constant, by place in [`Index::constants`]
    Constant(usize),
    /// Output of an op: its place in [`Index::ops`], and the output's
    Made(usize, usize),
    /// Taken from the graph around a body, or sparse: place in [`Index::outer`]
    Outer(usize),
}

/// A constant with a hash of its content.
pub struct Constant {
    /// Its name
    pub name: String,
    /// Its numbers
    pub tensor: Tensor,
    /// Of type and numbers
    pub hash: u64,
}

/// A graph, indexed.
pub struct Index<'a> {
    /// The graph
    pub graph: &'a Graph,
    /// Ops but for `Constant`, each after what it uses, else in the order of the file
    pub ops: Vec<OpId>,
    /// Sources of inputs, then of captures
    pub inputs: Vec<Vec<Source>>,
    /// Readers of every output: (op, place among its inputs)
    pub readers: Vec<Vec<Vec<(usize, usize)>>>,
    /// Outputs of the graph that are output k of an op: (op's output, graph's output)
    pub exits: Vec<Vec<(usize, usize)>>,
    /// Readers of graph inputs
    pub input_readers: Vec<Vec<(usize, usize)>>,
    /// Sources of the graph's outputs
    pub outputs: Vec<Source>,
    /// All constants that ops read
    pub constants: Vec<Constant>,
    /// Values that a body takes from the graph around it
    pub outer: Vec<ValueId>,
    /// Number of `Constant` ops
    pub constant_ops: usize,
    /// Op type, attributes and bodies
    pub local: Vec<u64>,
}

impl<'a> Index<'a> {
    /// Inputs with a default for which `frozen` holds are constants.
    pub fn new(graph: &'a Graph, frozen: &dyn Fn(usize) -> bool) -> Index<'a> {
        let mut index = Index {
            graph,
            ops: Vec::new(),
            inputs: Vec::new(),
            readers: Vec::new(),
            exits: Vec::new(),
            input_readers: vec![Vec::new(); graph.inputs().len()],
            outputs: Vec::new(),
            constants: Vec::new(),
            outer: Vec::new(),
            constant_ops: 0,
            local: Vec::new(),
        };
        let mut sources: HashMap<ValueId, Source> = HashMap::new();
        for (place, &value) in graph.inputs().iter().enumerate() {
            if graph.default_of(value).is_none() || !frozen(place) {
                sources.insert(value, Source::Input(place));
            }
        }
        for id in graph.ops() {
            let op = graph.op(id);
            if let (true, Some(value), Some(tensor)) = (op.is("Constant"), op.output(0), constant_of(op)) {
                index.constant_ops += 1;
                let source = index.constant(graph.name_of(value), tensor);
                sources.insert(value, source);
                continue;
            }
            let place = index.ops.len();
            for (port, value) in op.outputs().iter().enumerate() {
                if let Some(value) = value {
                    sources.insert(*value, Source::Made(place, port));
                }
            }
            index.ops.push(id);
            index.readers.push(vec![Vec::new(); op.outputs().len()]);
            index.exits.push(Vec::new());
        }
        for place in 0..index.ops.len() {
            let op = graph.op(index.ops[place]);
            let mut inputs: Vec<Source> = op.inputs().iter().map(|value| index.source(*value, &mut sources)).collect();
            for (_, outer, _) in graph.captures(index.ops[place]) {
                inputs.push(index.source(Some(outer), &mut sources));
            }
            for (port, source) in inputs.iter().enumerate() {
                match *source {
                    Source::Made(maker, output) => index.readers[maker][output].push((place, port)),
                    Source::Input(input) => index.input_readers[input].push((place, port)),
                    _ => {}
                }
            }
            index.inputs.push(inputs);
            index.local.push(local_hash(op));
        }
        for (place, &value) in graph.outputs().iter().enumerate() {
            let source = index.source(Some(value), &mut sources);
            if let Source::Made(op, output) = source {
                index.exits[op].push((output, place));
            }
            index.outputs.push(source);
        }
        index
    }

    fn constant(&mut self, name: &str, tensor: Tensor) -> Source {
        self.constants.push(Constant { name: name.to_owned(), hash: hash_of_tensor(&tensor), tensor });
        Source::Constant(self.constants.len() - 1)
    }

    fn source(&mut self, value: Option<ValueId>, sources: &mut HashMap<ValueId, Source>) -> Source {
        let Some(value) = value else { return Source::Nothing };
        if let Some(&source) = sources.get(&value) {
            return source;
        }
        let source = match self.graph.default_of(value) {
            Some(tensor) => self.constant(self.graph.name_of(value), tensor.clone()),
            None => {
                self.outer.push(value);
                Source::Outer(self.outer.len() - 1)
            }
        };
        sources.insert(value, source);
        source
    }

    /// Op number `place`.
    pub fn op(&self, place: usize) -> &'a Op {
        self.graph.op(self.ops[place])
    }

    /// The type, with the domain when it is not ONNX's own.
    pub fn type_of(&self, place: usize) -> String {
        self.op(place).full_type()
    }

    /// The op's name, or that of its first output.
    pub fn label(&self, place: usize) -> &'a str {
        self.graph.label_of(self.ops[place])
    }

    /// The name of what `source` is.
    pub fn name_of(&self, source: Source) -> String {
        match source {
            Source::Nothing => "nothing".to_owned(),
            Source::Input(place) => self.graph.name_of(self.graph.inputs()[place]).to_owned(),
            Source::Constant(place) => self.constants[place].name.clone(),
            Source::Made(op, port) => {
                self.op(op).output(port).map_or_else(String::new, |value| self.graph.name_of(value).to_owned())
            }
            Source::Outer(place) => self.graph.name_of(self.outer[place]).to_owned(),
        }
    }

    /// Hashes of what leads to each op: its own structure and that of all that it is computed from. `inputs` gives graph
    /// inputs and outer values the numbers that both sides share.
    pub fn upward(&self, inputs: &dyn Fn(Source) -> u64) -> Vec<u64> {
        let mut hashes: Vec<u64> = Vec::with_capacity(self.ops.len());
        for place in 0..self.ops.len() {
            let mut hasher = DefaultHasher::new();
            self.local[place].hash(&mut hasher);
            let direct = self.op(place).inputs().len();
            let hash = |source: &Source| match *source {
                Source::Nothing => 1,
                Source::Constant(constant) => self.constants[constant].hash,
                Source::Made(op, port) => mix(hashes[op], port as u64),
                source => inputs(source),
            };
            self.inputs[place][..direct].iter().for_each(|source| hash(source).hash(&mut hasher));
            let mut captured: Vec<u64> = self.inputs[place][direct..].iter().map(hash).collect();
            captured.sort_unstable();
            captured.hash(&mut hasher);
            self.readers[place].len().hash(&mut hasher);
            hashes.push(hasher.finish());
        }
        hashes
    }

    /// Hashes of what each op leads to: its own structure, its constants, and that of all that reads it. `outputs` gives
    /// graph outputs the numbers that both sides share.
    pub fn downward(&self, outputs: &dyn Fn(usize) -> u64) -> Vec<u64> {
        let mut hashes: Vec<u64> = vec![0; self.ops.len()];
        for place in (0..self.ops.len()).rev() {
            let mut hasher = DefaultHasher::new();
            self.content(place).hash(&mut hasher);
            let direct =
                |op: usize, port: usize| if port < self.op(op).inputs().len() { port as u64 } else { u64::MAX };
            let mut readers: Vec<(usize, u64)> = Vec::new();
            for (output, list) in self.readers[place].iter().enumerate() {
                readers.extend(list.iter().map(|&(op, port)| (output, mix(hashes[op], direct(op, port)))));
            }
            readers.extend(self.exits[place].iter().map(|&(output, exit)| (output, outputs(exit))));
            readers.sort_unstable();
            readers.hash(&mut hasher);
            hashes[place] = hasher.finish();
        }
        hashes
    }

    /// A hash of the op alone: type, attributes, bodies and constants.
    pub fn content(&self, place: usize) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.local[place].hash(&mut hasher);
        for (port, source) in self.inputs[place].iter().enumerate() {
            if let Source::Constant(constant) = *source {
                (port, self.constants[constant].hash).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

fn mix(one: u64, other: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (one, other).hash(&mut hasher);
    hasher.finish()
}

/// A hash of element type, dimensions and content.
pub(super) fn hash_of_tensor(tensor: &Tensor) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tensor.dtype(), tensor.dims()).hash(&mut hasher);
    match (tensor.bytes(), tensor.as_strings()) {
        (Some(bytes), _) => bytes.hash(&mut hasher),
        (None, strings) => strings.hash(&mut hasher),
    }
    hasher.finish()
}

fn local_hash(op: &Op) -> u64 {
    let mut hasher = DefaultHasher::new();
    (op.domain(), op.op_type(), op.proto().overload()).hash(&mut hasher);
    let mut attributes: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for attribute in op.attributes() {
        attributes.insert(attribute.name(), canonical(attribute));
    }
    attributes.hash(&mut hasher);
    for region in op.regions() {
        let body = Index::new(&region.graph, &|_| false);
        let mut ops = body.upward(&|source| match source {
            Source::Input(place) => mix(2, place as u64),
            _ => 3,
        });
        ops.sort_unstable();
        ops.hash(&mut hasher);
    }
    hasher.finish()
}

/// An attribute's meaning as bytes: without doc string, tensors by content however they are stored.
pub(super) fn canonical(attribute: &AttributeProto) -> Vec<u8> {
    let mut plain = attribute.clone();
    plain.doc_string = None;
    let mut bytes = Vec::new();
    if let Some(Ok(tensor)) = plain.t.as_deref().map(tensor_from_proto) {
        plain.t = None;
        bytes.extend(format!("{}{:?}", tensor.dtype(), tensor.dims()).into_bytes());
        match tensor.bytes() {
            Some(raw) => bytes.extend_from_slice(raw),
            None => bytes.extend(format!("{:?}", tensor.as_strings()).into_bytes()),
        }
    }
    bytes.extend(plain.encode_to_vec());
    bytes
}

/// The tensor of a `Constant` op; `None` when it is sparse or malformed.
fn constant_of(op: &Op) -> Option<Tensor> {
    let [attribute] = op.attributes() else { return None };
    let texts = |texts: Vec<Bytes>, dims: &[usize]| Tensor::strings(dims, texts).ok();
    match (attribute.name(), attribute.r#type()) {
        ("value", _) => attribute.t.as_deref().and_then(|tensor| tensor_from_proto(tensor).ok()),
        ("value_int", AttributeType::Int) => Some(Tensor::scalar(attribute.i())),
        ("value_float", AttributeType::Float) => Some(Tensor::scalar(attribute.f())),
        ("value_ints", AttributeType::Ints) => Some(Tensor::from_vec(&[attribute.ints.len()], attribute.ints.clone())),
        ("value_floats", AttributeType::Floats) => {
            Some(Tensor::from_vec(&[attribute.floats.len()], attribute.floats.clone()))
        }
        ("value_string", AttributeType::String) => texts(vec![attribute.s.clone()?], &[]),
        ("value_strings", AttributeType::Strings) => texts(attribute.strings.clone(), &[attribute.strings.len()]),
        _ => None,
    }
}
