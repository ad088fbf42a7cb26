//! What a rule may do to its op, and the constants that rules make.
//!
//! Equal constants are shared: a model with a hundred Unsqueeze ops gets a handful of new initializers.
use std::collections::HashMap;

use onnx_shrink_proto::schema::{AttributeProto, NodeProto};

use super::known::Known;
use crate::{
    attributes,
    graph::{Graph, NewOp, Op, OpId, ValueId},
    tensor::Tensor,
    types::{DataType, Dim, TensorType},
};

/// Bytes of the largest constant that is looked for among those that the model has already.
const SHARED_BYTES: usize = 64;

type Key = (DataType, Vec<usize>, Vec<u8>);

/// Small constants of a graph by content, and values that rules left behind.
pub(super) struct Constants {
    by_content: HashMap<Key, ValueId>,
    /// Values that may be without use now
    loose: Vec<ValueId>,
}

impl Constants {
    pub(super) fn of(graph: &Graph) -> Constants {
        let mut constants = Constants { by_content: HashMap::new(), loose: Vec::new() };
        for value in graph.values() {
            let small = graph.value(value).constant.as_ref().is_some_and(|tensor| tensor.byte_len() <= SHARED_BYTES);
            if small && let Some(key) = graph.constant(value).and_then(key) {
                constants.by_content.entry(key).or_insert(value);
            }
        }
        constants
    }

    fn insert(&mut self, graph: &mut Graph, base: &str, tensor: Tensor) -> ValueId {
        let key = key(&tensor);
        if let Some(&value) = key.as_ref().and_then(|key| self.by_content.get(key)) {
            return value;
        }
        let name = graph.fresh_name(base);
        let value = graph.insert_constant(&name, tensor);
        if let Some(key) = key {
            self.by_content.insert(key, value);
        }
        value
    }

    /// Removes what rules disconnected and nothing uses any more.
    pub(super) fn remove_unused(self, graph: &mut Graph) {
        for value in self.loose {
            if !graph.has_value(value) || !graph.is_unused(value) {
                continue;
            }
            match graph.producer(value) {
                Some(op) => _ = graph.remove_dead(vec![op]),
                None if graph.is_input(value) || graph.value(value).captured => {}
                None => graph.remove_value(value),
            }
        }
    }
}

fn key(tensor: &Tensor) -> Option<Key> {
    let bytes = tensor.bytes().filter(|bytes| bytes.len() <= SHARED_BYTES)?;
    Some((tensor.dtype(), tensor.dims().to_vec(), bytes.to_vec()))
}

/// One op that a rule rewrites.
pub(super) struct Edit<'a> {
    pub(super) graph: &'a mut Graph,
    id: OpId,
    known: &'a Known,
    constants: &'a mut Constants,
    added: Vec<OpId>,
    changed: bool,
}

impl<'a> Edit<'a> {
    pub(super) fn new(graph: &'a mut Graph, id: OpId, known: &'a Known, constants: &'a mut Constants) -> Edit<'a> {
        Edit { graph, id, known, constants, added: Vec::new(), changed: false }
    }

    /// Whether the op was changed, and the ops that came with it: they are of the step's opset.
    pub(super) fn finish(self) -> (bool, Vec<OpId>) {
        (self.changed, self.added)
    }

    pub(super) fn op(&self) -> &Op {
        self.graph.op(self.id)
    }

    fn node(&mut self) -> &mut NodeProto {
        self.changed = true;
        &mut self.graph.op_mut(self.id).node
    }

    /// Input `index`, which the op cannot do without.
    pub(super) fn required(&self, index: usize) -> Result<ValueId, String> {
        self.op().input(index).ok_or_else(|| format!("its input {index} is missing"))
    }

    /// Whether something uses output `index`.
    pub(super) fn uses_output(&self, index: usize) -> bool {
        self.op().output(index).is_some_and(|value| !self.graph.is_unused(value))
    }

    /// Element type of `value`.
    pub(super) fn dtype(&self, value: ValueId) -> Result<DataType, String> {
        let missing = || format!("the element type of `{}` is not known", self.graph.name_of(value));
        self.known.fact(self.graph, value).dtype.ok_or_else(missing)
    }

    /// Number of dimensions of `value`, if known.
    pub(super) fn rank(&self, value: ValueId) -> Option<usize> {
        self.known.fact(self.graph, value).rank
    }

    /// Dimensions of `value`, if its rank is declared.
    pub(super) fn shape(&self, value: ValueId) -> Option<&[Dim]> {
        self.graph.ty(value)?.shape.as_deref()
    }

    /// What `value` always is: an initializer, or what a Constant op makes.
    pub(super) fn constant_of(&self, value: ValueId) -> Option<Tensor> {
        if let Some(tensor) = self.graph.constant(value) {
            return Some(tensor.clone());
        }
        let op = self.graph.op(self.graph.producer(value)?);
        op.is("Constant").then(|| op.tensor("value")).flatten()
    }

    /// Takes the attribute `name` off.
    pub(super) fn take(&mut self, name: &str) -> Option<AttributeProto> {
        let index = self.op().attributes().iter().position(|attribute| attribute.name() == name)?;
        Some(self.node().attribute.remove(index))
    }

    /// Sets one attribute.
    pub(super) fn set(&mut self, attribute: AttributeProto) {
        let attributes = &mut self.node().attribute;
        match attributes.iter_mut().find(|old| old.name() == attribute.name()) {
            Some(old) => *old = attribute,
            None => attributes.push(attribute),
        }
    }

    /// Makes it an op of another type.
    pub(super) fn set_type(&mut self, op_type: &str) {
        self.node().op_type = Some(op_type.to_owned());
    }

    /// A constant, named `base` or a name derived from it when it is new.
    pub(super) fn constant(&mut self, base: &str, tensor: Tensor) -> ValueId {
        self.constants.insert(self.graph, base, tensor)
    }

    /// A rank-1 constant of int64.
    pub(super) fn int64s(&mut self, base: &str, numbers: &[i64]) -> ValueId {
        self.constant(base, Tensor::from_vec(&[numbers.len()], numbers.to_vec()))
    }

    pub(super) fn set_input(&mut self, index: usize, value: Option<ValueId>) {
        self.changed = true;
        self.constants.loose.extend(self.op().input(index));
        self.graph.set_input(self.id, index, value);
    }

    /// The op stops making its outputs from `first` on, none of which is used.
    pub(super) fn drop_outputs(&mut self, first: usize) {
        self.changed |= self.op().outputs().len() > first;
        for index in first..self.op().outputs().len() {
            let output = self.op().output(index);
            self.graph.detach_output(self.id, index);
            if let Some(value) = output {
                self.graph.remove_value(value);
            }
        }
        self.graph.op_mut(self.id).outputs.truncate(first);
    }

    /// A new op of the step's opset in front of this one; its one output is called after `base`.
    pub(super) fn before(&mut self, op: NewOp, inputs: &[ValueId], base: &str, ty: Option<TensorType>) -> ValueId {
        let name = self.graph.fresh_name(base);
        let output = self.graph.insert_value(&name, ty);
        self.insert(op, inputs, output);
        output
    }

    /// A new op behind this one, which reads what this one makes (first) and `others`, and makes output 0 in its place. What this one makes
    /// is called after `base` from now on.
    pub(super) fn after(
        &mut self,
        op: NewOp,
        others: &[ValueId],
        base: &str,
        ty: Option<TensorType>,
    ) -> Result<(), String> {
        let output = self.op().output(0).ok_or("its output 0 is missing")?;
        let name = self.graph.fresh_name(base);
        let made = self.graph.insert_value(&name, ty);
        self.graph.detach_output(self.id, 0);
        self.graph.attach_output(self.id, 0, made);
        let inputs: Vec<ValueId> = std::iter::once(made).chain(others.iter().copied()).collect();
        self.insert(op, &inputs, output);
        Ok(())
    }

    fn insert(&mut self, op: NewOp, inputs: &[ValueId], output: ValueId) {
        self.changed = true;
        let seq = self.op().seq;
        let inputs = inputs.iter().copied().map(Some).collect();
        self.added.push(self.graph.insert_op(seq, op.node, inputs, vec![Some(output)], Vec::new()));
    }

    /// The list attribute `name` becomes input `index`, unless it is absent or empty.
    pub(super) fn ints_to_input(&mut self, name: &str, index: usize) {
        if let Some(attribute) = self.take(name)
            && !attribute.ints.is_empty()
        {
            let value = self.int64s(name, &attribute.ints);
            self.set_input(index, Some(value));
        }
    }

    /// The integer attribute `name`, its default when it is absent.
    pub(super) fn int_or(&self, name: &str, default: i64) -> i64 {
        self.op().int(name).unwrap_or(default)
    }

    /// The string attribute `name`, its default when it is absent.
    pub(super) fn string_or<'b>(&'b self, name: &str, default: &'b str) -> &'b str {
        self.op().string(name).unwrap_or(default)
    }

    /// Sets the string attribute `name`.
    pub(super) fn set_string(&mut self, name: &str, value: &str) {
        self.set(attributes::string(name, value));
    }
}
