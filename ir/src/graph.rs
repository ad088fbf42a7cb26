//! The graph: op nodes and value nodes, alternating, in one `petgraph` graph.
//!
//! Three rules hold at every moment, by construction: a graph output is a use; a capture by a body is a use; a constant
//! has no producer. The graph outside knows ops and values by [`OpId`] and [`ValueId`]: **no** petgraph index leaves this
//! file, and **nothing** here recurses over the graph (bodies nest at most as deep as protobuf messages may).
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use onnx_shrink_proto::schema::{
    AttributeProto, GraphProto, NodeProto, SparseTensorProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};
use petgraph::{
    Directed, Direction,
    stable_graph::{NodeIndex, StableGraph},
    visit::{EdgeRef, IntoEdgeReferences, NodeIndexable},
};

use crate::{tensor::Tensor, types::TensorType};

/// An op of one graph. Valid until that op is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(NodeIndex<u32>);

/// A value of one graph. Valid until that value is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(NodeIndex<u32>);

impl OpId {
    /// A number for side tables: below [`Graph::bound`], not shared with any other live op or value.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

impl ValueId {
    /// A number for side tables: below [`Graph::bound`], not shared with any other live op or value.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// A body of If, Loop or Scan: the graph that an attribute holds.
#[derive(Clone, Debug)]
pub struct Region {
    /// Index of the attribute among those of the op
    pub(crate) attribute: usize,
    /// Place in the attribute's list, for attributes that hold several graphs
    pub(crate) place: Option<usize>,
    /// The body
    pub graph: Graph,
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Op {
    /// Place in the order of the file; a new op has that of the op it stands for
    pub(crate) seq: u64,
    /// The node as in the file; inputs, outputs and body graphs are empty (they are edges and regions)
    pub(crate) node: NodeProto,
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) outputs: Vec<Option<ValueId>>,
    /// Bodies, in the order of their attributes
    pub(crate) regions: Vec<Region>,
}

impl Op {
    /// The op's type, as ONNX names it.
    pub fn op_type(&self) -> &str {
        self.node.op_type()
    }

    /// The domain, "" for ONNX's own (whether written "" or "ai.onnx").
    pub fn domain(&self) -> &str {
        match self.node.domain() {
            "ai.onnx" => "",
            domain => domain,
        }
    }

    /// Whether it is ONNX's own op of this type.
    pub fn is(&self, op_type: &str) -> bool {
        self.domain().is_empty() && self.op_type() == op_type
    }

    /// The node's name, "" when it has none.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Input values by position; `None` where an optional input is left out.
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// Output values by position; `None` where an optional output is left out.
    pub fn outputs(&self) -> &[Option<ValueId>] {
        &self.outputs
    }

    /// Input `index`, unless left out.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Output `index`, unless left out.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }

    /// All attributes; those that hold graphs are empty here (see [`Op::regions`]).
    pub fn attributes(&self) -> &[AttributeProto] {
        &self.node.attribute
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.node.attribute.iter().find(|attribute| attribute.name() == name)
    }

    /// The bodies of a control-flow op.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The body that attribute `name` holds.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| self.node.attribute[region.attribute].name() == name)
    }

    /// The name of the attribute that holds `region`.
    pub fn region_name(&self, region: &Region) -> &str {
        self.node.attribute[region.attribute].name()
    }

    /// The node as a message without inputs, outputs and bodies.
    pub fn proto(&self) -> &NodeProto {
        &self.node
    }
}

/// What a value was in the file, for writing it back as it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueOrigin {
    /// Its entry in value_info, with its place there
    pub(crate) info: Option<(u32, Box<ValueInfoProto>)>,
    /// Its initializer
    pub(crate) initializer: Option<Arc<TensorProto>>,
    /// Its place among the initializers
    pub(crate) initializer_place: Option<u32>,
}

/// A value: what an op makes, a graph takes, or a constant holds.
#[derive(Clone, Debug)]
pub struct Value {
    pub(crate) name: Box<str>,
    pub(crate) ty: Option<TensorType>,
    pub(crate) constant: Option<Tensor>,
    pub(crate) captured: bool,
    pub(crate) origin: ValueOrigin,
}

impl Value {
    /// Its name, unique among the values that a graph can see.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of its type: declared in the file or inferred. `None` when nothing is, or it is not a tensor.
    pub fn ty(&self) -> Option<&TensorType> {
        self.ty.as_ref()
    }

    /// The value's entry in value_info, which also tells sequence, map and optional types.
    pub fn declared(&self) -> Option<&ValueInfoProto> {
        self.origin.info.as_ref().map(|(_, info)| &**info)
    }

    /// Whether a body takes it from the graph around it.
    pub fn is_captured(&self) -> bool {
        self.captured
    }
}

/// Where a value is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Input `index` of an op
    Input(OpId, usize),
    /// Region `region` of an op captures it, as value `inner` of the body
    Capture(OpId, usize, ValueId),
    /// Output `index` of the graph
    Output(usize),
}

impl Use {
    /// The op that uses the value; `None` for the graph itself.
    pub fn op(self) -> Option<OpId> {
        match self {
            Use::Input(op, _) | Use::Capture(op, ..) => Some(op),
            Use::Output(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    In(u32),
    Out(u32),
    Capture(u32, NodeIndex<u32>),
}

/// An edge, as the verifier sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Edge {
    /// The op reads the value as this input
    In(ValueId, OpId, usize),
    /// The op makes the value as this output
    Out(OpId, ValueId, usize),
    /// This region of the op captures the outer value as the inner one
    Capture(ValueId, OpId, usize, ValueId),
    /// Between two ops, between two values, or the wrong way round
    Senseless,
}

#[derive(Clone, Debug)]
enum Node {
    Op(Box<Op>),
    Value(Box<Value>),
}

/// Names that a model uses, shared by a graph and its bodies: a new name is new everywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<NamePool>>);

#[derive(Clone, Debug, Default)]
struct NamePool {
    used: HashMap<Box<str>, u32>,
}

impl Names {
    pub(crate) fn reserve(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).used.entry(name.into()).or_insert(0);
    }

    /// `base`, or `base_1`, `base_2` …: the first that nobody uses; it is used from now on.
    fn fresh(&self, base: &str) -> String {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&last) = pool.used.get(base) else {
            pool.used.insert(base.into(), 0);
            return base.to_owned();
        };
        let mut number = last;
        let name = loop {
            number += 1;
            let name = format!("{base}_{number}");
            if !pool.used.contains_key(name.as_str()) {
                break name;
            }
        };
        pool.used.insert(base.into(), number);
        pool.used.insert(name.as_str().into(), 0);
        name
    }

    fn copy(&self) -> Names {
        Names(Arc::new(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())))
    }
}

/// A graph, or the body of a control-flow op.
#[derive(Clone, Debug)]
pub struct Graph {
    graph: StableGraph<Node, Port, Directed, u32>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    by_name: HashMap<Box<str>, ValueId>,
    pub(crate) names: Names,
    next_seq: u64,
    opset: i64,
    /// The message without nodes, initializers and value_info; its inputs and outputs are those of the graph, in order
    pub(crate) rest: GraphProto,
    pub(crate) sparse: Vec<(ValueId, SparseTensorProto)>,
    /// value_info entries of values that are nowhere in the graph or declared twice, with their place
    pub(crate) stray_info: Vec<(u32, ValueInfoProto)>,
}

/// An op to be added: its type, inputs and attributes.
#[derive(Clone, Debug, Default)]
pub struct NewOp {
    /// The node; its inputs and outputs are ignored
    pub node: NodeProto,
}

impl NewOp {
    /// ONNX's own op `op_type` without attributes.
    pub fn new(op_type: &str) -> NewOp {
        NewOp { node: NodeProto { op_type: Some(op_type.to_owned()), ..NodeProto::default() } }
    }

    /// With the node name `name`.
    #[must_use]
    pub fn named(mut self, name: &str) -> NewOp {
        self.node.name = (!name.is_empty()).then(|| name.to_owned());
        self
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, attribute: AttributeProto) -> NewOp {
        self.node.attribute.push(attribute);
        self
    }
}

impl Graph {
    /// An empty graph for ONNX's opset `opset`.
    pub fn new(opset: i64) -> Graph {
        Graph {
            graph: StableGraph::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            by_name: HashMap::new(),
            names: Names::default(),
            next_seq: 0,
            opset,
            rest: GraphProto::default(),
            sparse: Vec::new(),
            stray_info: Vec::new(),
        }
    }

    /// A copy whose new names are independent of this graph's.
    pub fn detached(&self) -> Graph {
        let mut copy = self.clone();
        let names = self.names.copy();
        copy.share_names(&names);
        copy
    }

    fn share_names(&mut self, names: &Names) {
        self.names = names.clone();
        let indices: Vec<_> = self.graph.node_indices().collect();
        for index in indices {
            if let Node::Op(op) = &mut self.graph[index] {
                for region in &mut op.regions {
                    region.graph.share_names(names);
                }
            }
        }
    }

    /// The version of ONNX's own ops.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// Changes the version, bodies included. The ops themselves are the caller's business (raise-opset).
    pub fn set_opset(&mut self, opset: i64) {
        self.opset = opset;
        for op in self.ops_in_id_order() {
            for region in 0..self.op(op).regions.len() {
                self.op_mut(op).regions[region].graph.set_opset(opset);
            }
        }
    }

    /// The graph's name.
    pub fn name(&self) -> &str {
        self.rest.name()
    }

    /// Metadata of the graph, quantization annotations and the like, as in the file.
    pub fn metadata(&self) -> &[StringStringEntryProto] {
        &self.rest.metadata_props
    }

    /// Initializers in sparse form, which are constants that nothing here reads.
    pub fn is_sparse(&self, value: ValueId) -> bool {
        self.sparse.iter().any(|(sparse, _)| *sparse == value)
    }

    // ---- looking

    /// One more than the largest index of any op or value: the length for side tables.
    pub fn bound(&self) -> usize {
        self.graph.node_bound()
    }

    /// Number of ops, without those in bodies.
    pub fn op_count(&self) -> usize {
        self.graph.node_weights().filter(|node| matches!(node, Node::Op(_))).count()
    }

    /// The declaration of input `index`, with the types that are not tensors.
    pub fn input_declaration(&self, index: usize) -> Option<&ValueInfoProto> {
        self.rest.input.get(index)
    }

    /// The declaration of output `index`.
    pub fn output_declaration(&self, index: usize) -> Option<&ValueInfoProto> {
        self.rest.output.get(index)
    }

    /// Inputs of the graph, in order; those that are constants, too, may be overridden by who runs it.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Outputs of the graph, in order; a value can be several of them.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The op `id`.
    ///
    /// # Panics
    /// When the op was removed: a mistake of the caller.
    pub fn op(&self, id: OpId) -> &Op {
        match &self.graph[id.0] {
            Node::Op(op) => op,
            Node::Value(_) => unreachable!("an OpId names an op"),
        }
    }

    pub(crate) fn op_mut(&mut self, id: OpId) -> &mut Op {
        match &mut self.graph[id.0] {
            Node::Op(op) => op,
            Node::Value(_) => unreachable!("an OpId names an op"),
        }
    }

    /// The value `id`.
    ///
    /// # Panics
    /// When the value was removed: a mistake of the caller.
    pub fn value(&self, id: ValueId) -> &Value {
        match &self.graph[id.0] {
            Node::Value(value) => value,
            Node::Op(_) => unreachable!("a ValueId names a value"),
        }
    }

    pub(crate) fn value_mut(&mut self, id: ValueId) -> &mut Value {
        match &mut self.graph[id.0] {
            Node::Value(value) => value,
            Node::Op(_) => unreachable!("a ValueId names a value"),
        }
    }

    /// Whether `id` names an op that is still there.
    pub fn has_op(&self, id: OpId) -> bool {
        matches!(self.graph.node_weight(id.0), Some(Node::Op(_)))
    }

    /// Whether `id` names a value that is still there.
    pub fn has_value(&self, id: ValueId) -> bool {
        matches!(self.graph.node_weight(id.0), Some(Node::Value(_)))
    }

    /// The value's name.
    pub fn name_of(&self, value: ValueId) -> &str {
        &self.value(value).name
    }

    /// A name for messages: the node's, or that of its first output, or its type.
    pub fn label_of(&self, op: OpId) -> &str {
        let op = self.op(op);
        if !op.name().is_empty() {
            return op.name();
        }
        op.outputs.iter().flatten().next().map_or(op.op_type(), |&value| self.name_of(value))
    }

    /// The value named `name`.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// The value's type as far as it is known.
    pub fn ty(&self, value: ValueId) -> Option<&TensorType> {
        self.value(value).ty.as_ref()
    }

    /// The constant that `value` always is. `None` for what ops make, for captured values, and for a graph input with a
    /// default (whoever runs the model may override it).
    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        let constant = self.value(value).constant.as_ref()?;
        (!self.inputs.contains(&value)).then_some(constant)
    }

    /// The default of a graph input that may be overridden.
    pub fn default_of(&self, input: ValueId) -> Option<&Tensor> {
        self.value(input).constant.as_ref()
    }

    /// The op that makes `value`; `None` for inputs, constants and captured values.
    pub fn producer(&self, value: ValueId) -> Option<OpId> {
        self.graph.neighbors_directed(value.0, Direction::Incoming).next().map(OpId)
    }

    /// The op that makes `value`, and as which of its outputs.
    pub fn producer_port(&self, value: ValueId) -> Option<(OpId, usize)> {
        let edge = self.graph.edges_directed(value.0, Direction::Incoming).next()?;
        match edge.weight() {
            Port::Out(index) => Some((OpId(edge.source()), *index as usize)),
            _ => None,
        }
    }

    /// Every use of `value`, in a stable order: op inputs, captures, then graph outputs.
    pub fn uses(&self, value: ValueId) -> Vec<Use> {
        let mut uses: Vec<Use> = self
            .graph
            .edges_directed(value.0, Direction::Outgoing)
            .filter_map(|edge| match *edge.weight() {
                Port::In(index) => Some(Use::Input(OpId(edge.target()), index as usize)),
                Port::Capture(region, inner) => {
                    Some(Use::Capture(OpId(edge.target()), region as usize, ValueId(inner)))
                }
                Port::Out(_) => None,
            })
            .collect();
        uses.sort();
        uses.extend(
            self.outputs.iter().enumerate().filter(|(_, output)| **output == value).map(|(k, _)| Use::Output(k)),
        );
        uses
    }

    /// The one op input that uses `value`, if it has exactly one use and that is an op's input.
    pub fn only_use(&self, value: ValueId) -> Option<(OpId, usize)> {
        match self.uses(value).as_slice() {
            [Use::Input(op, index)] => Some((*op, *index)),
            _ => None,
        }
    }

    /// Whether nothing uses `value`.
    pub fn is_unused(&self, value: ValueId) -> bool {
        !self.is_output(value) && self.graph.edges_directed(value.0, Direction::Outgoing).next().is_none()
    }

    /// Whether `value` is an output of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.contains(&value)
    }

    /// Whether `value` is an input of the graph.
    pub fn is_input(&self, value: ValueId) -> bool {
        self.inputs.contains(&value)
    }

    /// Outer values that the bodies of `op` capture: (region, outer, inner), in a stable order.
    pub fn captures(&self, op: OpId) -> Vec<(usize, ValueId, ValueId)> {
        let mut captures: Vec<_> = self
            .graph
            .edges_directed(op.0, Direction::Incoming)
            .filter_map(|edge| match *edge.weight() {
                Port::Capture(region, inner) => Some((region as usize, ValueId(inner), ValueId(edge.source()))),
                _ => None,
            })
            .collect();
        captures.sort();
        captures.into_iter().map(|(region, inner, outer)| (region, outer, inner)).collect()
    }

    /// All ops, without those in bodies, by id: fast, in no meaningful but a stable order.
    pub fn ops_in_id_order(&self) -> Vec<OpId> {
        self.graph.node_indices().filter(|&index| matches!(self.graph[index], Node::Op(_))).map(OpId).collect()
    }

    /// All values by id.
    pub fn values(&self) -> Vec<ValueId> {
        self.graph.node_indices().filter(|&index| matches!(self.graph[index], Node::Value(_))).map(ValueId).collect()
    }

    /// All ops so that each comes after what it uses, and in the order of the file wherever that allows it (Kahn's
    /// algorithm with a heap on the place in the file). Ops on a cycle are left out: the verifier counts them.
    pub fn ops(&self) -> Vec<OpId> {
        let mut waiting = vec![0u32; self.bound()];
        let mut ready = BinaryHeap::new();
        let mut order = Vec::new();
        for op in self.ops_in_id_order() {
            let made = self.graph.neighbors_directed(op.0, Direction::Incoming);
            let count = made.filter(|&value| self.producer(ValueId(value)).is_some()).count();
            waiting[op.index()] = u32::try_from(count).unwrap_or(u32::MAX);
            if count == 0 {
                ready.push(Reverse((self.op(op).seq, op)));
            }
        }
        while let Some(Reverse((_, op))) = ready.pop() {
            order.push(op);
            for value in self.graph.neighbors_directed(op.0, Direction::Outgoing) {
                for user in self.graph.neighbors_directed(value, Direction::Outgoing) {
                    waiting[user.index()] -= 1;
                    if waiting[user.index()] == 0 {
                        ready.push(Reverse((self.op(OpId(user)).seq, OpId(user))));
                    }
                }
            }
        }
        order
    }

    /// Every edge, in a stable order, for the verifier.
    pub(crate) fn edges(&self) -> Vec<Edge> {
        let is_op = |index: NodeIndex<u32>| matches!(self.graph[index], Node::Op(_));
        let edges = self.graph.edge_references().map(|edge| {
            let (source, target) = (edge.source(), edge.target());
            match (*edge.weight(), is_op(source), is_op(target)) {
                (Port::In(index), false, true) => Edge::In(ValueId(source), OpId(target), index as usize),
                (Port::Out(index), true, false) => Edge::Out(OpId(source), ValueId(target), index as usize),
                (Port::Capture(region, inner), false, true) => {
                    Edge::Capture(ValueId(source), OpId(target), region as usize, ValueId(inner))
                }
                _ => Edge::Senseless,
            }
        });
        edges.collect()
    }

    /// ONNX's own ops of this type, in the order of [`Graph::ops`].
    pub fn ops_of(&self, op_type: &str) -> Vec<OpId> {
        self.ops().into_iter().filter(|&op| self.op(op).is(op_type)).collect()
    }

    /// The body of a region, to be changed. Captures stay as they are.
    pub fn region_mut(&mut self, op: OpId, region: usize) -> Option<&mut Graph> {
        self.op_mut(op).regions.get_mut(region).map(|region| &mut region.graph)
    }

    // ---- changing (passes go through `Patch`)

    pub(crate) fn fresh_name(&self, base: &str) -> String {
        self.names.fresh(if base.is_empty() { "v" } else { base })
    }

    /// A new value named `name`, which must not be taken in this graph.
    pub(crate) fn insert_value(&mut self, name: &str, ty: Option<TensorType>) -> ValueId {
        self.names.reserve(name);
        let value = Value { name: name.into(), ty, constant: None, captured: false, origin: ValueOrigin::default() };
        let id = ValueId(self.graph.add_node(Node::Value(Box::new(value))));
        self.by_name.insert(name.into(), id);
        id
    }

    pub(crate) fn insert_constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let id = self.insert_value(name, Some(tensor.ty()));
        self.value_mut(id).constant = Some(tensor);
        id
    }

    pub(crate) fn next_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// A new op that reads `inputs` and makes `outputs`, none of which may have a producer.
    pub(crate) fn insert_op(
        &mut self,
        seq: u64,
        node: NodeProto,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
        regions: Vec<Region>,
    ) -> OpId {
        let op = Op { seq, node, inputs: inputs.clone(), outputs: outputs.clone(), regions };
        let id = OpId(self.graph.add_node(Node::Op(Box::new(op))));
        for (index, value) in (0u32..).zip(inputs) {
            if let Some(value) = value {
                self.graph.add_edge(value.0, id.0, Port::In(index));
            }
        }
        for (index, value) in (0u32..).zip(outputs) {
            if let Some(value) = value {
                debug_assert!(self.producer(value).is_none(), "a value has one producer");
                self.graph.add_edge(id.0, value.0, Port::Out(index));
            }
        }
        id
    }

    /// Region `region` of `op` takes `outer` as its value `inner`.
    pub(crate) fn insert_capture(&mut self, op: OpId, region: usize, outer: ValueId, inner: ValueId) {
        self.op_mut(op).regions[region].graph.value_mut(inner).captured = true;
        self.graph.add_edge(outer.0, op.0, Port::Capture(u32::try_from(region).unwrap_or(u32::MAX), inner.0));
    }

    /// One more input, declared as `info`.
    pub(crate) fn push_input(&mut self, value: ValueId, info: ValueInfoProto) {
        self.inputs.push(value);
        self.rest.input.push(info);
    }

    /// One more output, declared as `info`.
    pub(crate) fn push_output(&mut self, value: ValueId, info: ValueInfoProto) {
        self.outputs.push(value);
        self.rest.output.push(info);
    }

    /// Input `index` is an input no more; the value stays.
    pub(crate) fn drop_input(&mut self, index: usize) {
        self.inputs.remove(index);
        self.rest.input.remove(index);
    }

    /// Graph inputs that have a default become constants that nobody can override. Returns how many.
    /// That is what they mean in files of IR version 3 and below, where every initializer had to be an input.
    pub fn freeze_defaults(&mut self) -> usize {
        let frozen: Vec<usize> =
            (0..self.inputs.len()).filter(|&index| self.value(self.inputs[index]).constant.is_some()).collect();
        for &index in frozen.iter().rev() {
            let value = self.value_mut(self.inputs[index]);
            value.ty = value.constant.as_ref().map(Tensor::ty);
            self.drop_input(index);
        }
        frozen.len()
    }

    /// The graph has no outputs any more; the values stay.
    pub(crate) fn clear_outputs(&mut self) {
        self.outputs.clear();
        self.rest.output.clear();
    }

    pub(crate) fn set_output(&mut self, index: usize, value: ValueId) {
        self.outputs[index] = value;
    }

    /// Makes `value` (or nothing) input `index` of `op`; left-out inputs at the end are dropped when it is nothing.
    pub(crate) fn set_input(&mut self, op: OpId, index: usize, value: Option<ValueId>) {
        let port = Port::In(u32::try_from(index).unwrap_or(u32::MAX));
        let old = self.graph.edges_directed(op.0, Direction::Incoming).find(|edge| *edge.weight() == port);
        if let Some(edge) = old.map(|edge| edge.id()) {
            self.graph.remove_edge(edge);
        }
        if let Some(value) = value {
            self.graph.add_edge(value.0, op.0, port);
        }
        let inputs = &mut self.op_mut(op).inputs;
        if index >= inputs.len() {
            inputs.resize(index + 1, None);
        }
        inputs[index] = value;
        while value.is_none() && inputs.last() == Some(&None) {
            inputs.pop();
        }
    }

    /// Makes every op input and capture of `old` one of `new`. Graph outputs stay.
    pub(crate) fn redirect(&mut self, old: ValueId, new: ValueId) {
        if old == new {
            return;
        }
        let edges: Vec<_> = self
            .graph
            .edges_directed(old.0, Direction::Outgoing)
            .map(|edge| (edge.id(), edge.target(), *edge.weight()))
            .collect();
        for (edge, target, port) in edges {
            self.graph.remove_edge(edge);
            self.graph.add_edge(new.0, target, port);
            if let Port::In(index) = port {
                self.op_mut(OpId(target)).inputs[index as usize] = Some(new);
            }
        }
    }

    /// Gives `value` another name; the old one is free in this graph.
    pub(crate) fn rename(&mut self, value: ValueId, name: &str) {
        let old = std::mem::replace(&mut self.value_mut(value).name, name.into());
        if self.by_name.get(&old) == Some(&value) {
            self.by_name.remove(&old);
        }
        self.by_name.insert(name.into(), value);
        self.names.reserve(name);
    }

    /// Removes an op and the values that it makes; those must be unused.
    pub(crate) fn remove_op(&mut self, op: OpId) {
        for output in self.op(op).outputs.clone().into_iter().flatten() {
            self.remove_value(output);
        }
        self.graph.remove_node(op.0);
    }

    /// Removes a value that nothing uses and no op makes any more.
    pub(crate) fn remove_value(&mut self, value: ValueId) {
        let name = self.value(value).name.clone();
        if self.by_name.get(&name) == Some(&value) {
            self.by_name.remove(&name);
        }
        if let Some(index) = self.inputs.iter().position(|input| *input == value) {
            self.drop_input(index);
        }
        self.sparse.retain(|(sparse, _)| *sparse != value);
        self.graph.remove_node(value.0);
    }

    /// The op stops making its output `index`; the value stays without a producer.
    pub(crate) fn detach_output(&mut self, op: OpId, index: usize) {
        if let Some(value) = self.op(op).output(index) {
            if let Some(edge) = self.graph.find_edge(op.0, value.0) {
                self.graph.remove_edge(edge);
            }
            self.op_mut(op).outputs[index] = None;
        }
    }

    /// The op makes `value` as its output `index`.
    pub(crate) fn attach_output(&mut self, op: OpId, index: usize, value: ValueId) {
        self.graph.add_edge(op.0, value.0, Port::Out(u32::try_from(index).unwrap_or(u32::MAX)));
        let outputs = &mut self.op_mut(op).outputs;
        if index >= outputs.len() {
            outputs.resize(index + 1, None);
        }
        outputs[index] = Some(value);
    }

    /// Removes ops whose outputs nothing uses, beginning with `start`, and then what only they used, and constants that
    /// nothing uses any more. Returns how many ops went.
    pub(crate) fn remove_dead(&mut self, start: Vec<OpId>) -> usize {
        let mut work = start;
        let mut removed = 0;
        while let Some(op) = work.pop() {
            if !self.has_op(op) || self.op(op).outputs.iter().flatten().any(|&value| !self.is_unused(value)) {
                continue;
            }
            let before: Vec<ValueId> = self.graph.neighbors_directed(op.0, Direction::Incoming).map(ValueId).collect();
            self.remove_op(op);
            removed += 1;
            for value in before {
                if !self.has_value(value) || !self.is_unused(value) {
                    continue;
                }
                match self.producer(value) {
                    Some(producer) => work.push(producer),
                    None if self.value(value).captured || self.is_input(value) => {}
                    None => self.remove_value(value),
                }
            }
        }
        removed
    }

    /// Removes every op that leads to no output, every constant that nothing reads, and captures that the bodies do not
    /// read; inputs stay. Returns how many ops went.
    pub fn sweep(&mut self) -> usize {
        self.drop_unread_captures();
        let mut ops = self.ops();
        ops.extend(self.ops_in_id_order());
        let removed = self.remove_dead(ops);
        for value in self.unread_constants() {
            self.remove_value(value);
        }
        removed
    }

    /// Constants, and values that nothing makes, that nothing uses either; inputs and captured values are none.
    pub fn unread_constants(&self) -> Vec<ValueId> {
        let inputs: HashSet<ValueId> = self.inputs.iter().copied().collect();
        let outputs: HashSet<ValueId> = self.outputs.iter().copied().collect();
        let is_loose = |value: &ValueId| {
            self.graph.neighbors_undirected(value.0).next().is_none()
                && !inputs.contains(value)
                && !outputs.contains(value)
                && !self.value(*value).captured
        };
        self.values().into_iter().filter(is_loose).collect()
    }

    /// Removes `value` if it is an [unread constant](Graph::unread_constants); returns whether it was.
    pub fn remove_unread(&mut self, value: ValueId) -> bool {
        let is_loose = self.has_value(value)
            && self.graph.neighbors_undirected(value.0).next().is_none()
            && !self.is_input(value)
            && !self.is_output(value)
            && !self.value(value).captured;
        if is_loose {
            self.remove_value(value);
        }
        is_loose
    }

    /// Bodies stop capturing what they do not read. Nothing of that is in the file; it keeps outer ops alive.
    pub fn drop_unread_captures(&mut self) {
        for op in self.ops_in_id_order() {
            if self.op(op).regions.is_empty() {
                continue;
            }
            for (region, outer, inner) in self.captures(op) {
                if self.op(op).regions[region].graph.is_unused(inner) {
                    let port = Port::Capture(u32::try_from(region).unwrap_or(u32::MAX), inner.0);
                    let edges = self.graph.edges_connecting(outer.0, op.0);
                    if let Some(edge) = edges.filter(|edge| *edge.weight() == port).map(|edge| edge.id()).next() {
                        self.graph.remove_edge(edge);
                        self.op_mut(op).regions[region].graph.remove_value(inner);
                    }
                }
            }
        }
    }
}
