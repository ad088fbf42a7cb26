//! The graph: op nodes and value nodes, alternating, in one `petgraph` graph.
//!
//! Three rules hold at every moment, by construction: a graph output is a use; a capture by a body is a use; a constant
//! has no producer. The graph outside knows ops and values by [`OpId`] and [`ValueId`]: **no** petgraph index leaves this
//! module, and **nothing** here recurses over the graph (bodies nest at most as deep as protobuf messages may).
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use onnx_shrink_proto::schema::{GraphProto, SparseTensorProto, StringStringEntryProto, ValueInfoProto};
use petgraph::{
    Directed, Direction,
    stable_graph::{NodeIndex, StableGraph},
    visit::{EdgeRef, IntoEdgeReferences, NodeIndexable},
};

use crate::{tensor::Tensor, types::TensorType};

mod edit;
mod names;
mod node;

pub use self::node::{NewOp, Op, OpId, Region, Use, Value, ValueId};
pub(crate) use self::{names::Names, node::ValueOrigin};

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

    /// Number of ops by [full type](Op::full_type), those of bodies included.
    pub fn count_by_type(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let mut graphs = vec![self];
        while let Some(graph) = graphs.pop() {
            for op in graph.ops_in_id_order() {
                *counts.entry(graph.op(op).full_type()).or_insert(0) += 1;
                graphs.extend(graph.op(op).regions().iter().map(|region| &region.graph));
            }
        }
        counts
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
}
