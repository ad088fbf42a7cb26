//! How a graph changes. Passes go through [`Patch`](crate::Patch).
use std::collections::HashSet;

use onnx_shrink_proto::schema::{NodeProto, ValueInfoProto};
use petgraph::{Direction, visit::EdgeRef};

use super::{Graph, Node, Op, OpId, Port, Region, Value, ValueId, ValueOrigin};
use crate::{tensor::Tensor, types::TensorType};

impl Graph {
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
        let op = Op { seq, node, is_new: true, inputs: inputs.clone(), outputs: outputs.clone(), regions };
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
