//! Patches: a rewrite collects its edits, and they are applied at once or not at all.
//!
//! A pass looks at the graph, builds a [`Patch`] and hands it over; it never edits the graph itself. Applying removes
//! what the edits left without use, and only that.
use crate::{
    graph::{Graph, NewOp, Op, OpId, Region, Use, ValueId},
    tensor::Tensor,
    types::TensorType,
};

/// A value that a patch reads: one of the graph, or one that the patch makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueRef {
    /// A value of the graph
    Existing(ValueId),
    /// The patch's own value of this number
    New(usize),
}

impl From<ValueId> for ValueRef {
    fn from(value: ValueId) -> ValueRef {
        ValueRef::Existing(value)
    }
}

#[derive(Clone, Debug)]
enum NewValue {
    Constant { base: String, tensor: Tensor },
    Made { base: String, ty: Option<TensorType> },
}

#[derive(Clone, Debug)]
struct AddedOp {
    op: NewOp,
    inputs: Vec<Option<ValueRef>>,
    outputs: Vec<Option<usize>>,
    regions: Vec<Region>,
    /// (region, outer, inner)
    captures: Vec<(usize, ValueRef, ValueId)>,
}

#[derive(Clone, Debug)]
enum Edit {
    Replace { old: ValueId, new: ValueRef },
    SetInput { op: OpId, index: usize, value: Option<ValueRef> },
    SetAttributes { op: OpId, node: Box<NewOp> },
    SetType { value: ValueId, ty: TensorType },
    SetConstant { value: ValueId, tensor: Tensor },
}

/// Edits of one graph that belong together.
#[derive(Clone, Debug)]
pub struct Patch {
    anchor: OpId,
    values: Vec<NewValue>,
    ops: Vec<AddedOp>,
    edits: Vec<Edit>,
}

/// What applying a patch did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The values that the patch made, by their number in [`ValueRef::New`]
    pub values: Vec<ValueId>,
    /// The ops that it added, in the order of the patch
    pub ops: Vec<OpId>,
    /// How many ops came: those of the patch, and the Identities that keep the names of graph outputs
    pub added: usize,
    /// How many ops went
    pub removed: usize,
}

/// Why a patch does not fit its graph any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It reads or edits what is not there
    #[error("the patch names an op or a value that the graph does not have any more")]
    Stale,
}

impl Patch {
    /// An empty patch that stands for `anchor`: new ops take its place in the order.
    pub fn new(anchor: OpId) -> Patch {
        Patch { anchor, values: Vec::new(), ops: Vec::new(), edits: Vec::new() }
    }

    /// The op that the patch stands for.
    pub fn anchor(&self) -> OpId {
        self.anchor
    }

    /// Whether it has no edit: all that it would do is to remove its anchor, if nothing uses that.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// A new constant, named `base` or a name derived from it.
    pub fn constant(&mut self, base: &str, tensor: Tensor) -> ValueRef {
        self.values.push(NewValue::Constant { base: base.to_owned(), tensor });
        ValueRef::New(self.values.len() - 1)
    }

    /// A new op with one output of type `ty`, named `base` or a name derived from it.
    pub fn op(&mut self, op: NewOp, inputs: &[Option<ValueRef>], base: &str, ty: Option<TensorType>) -> ValueRef {
        self.op_with_outputs(op, inputs, &[Some((base, ty))])[0]
    }

    /// A new op with several outputs; `None` leaves one out (its place in the result is then meaningless).
    pub fn op_with_outputs(
        &mut self,
        op: NewOp,
        inputs: &[Option<ValueRef>],
        outputs: &[Option<(&str, Option<TensorType>)>],
    ) -> Vec<ValueRef> {
        let mut made = Vec::with_capacity(outputs.len());
        let mut refs = Vec::with_capacity(outputs.len());
        for output in outputs {
            match output {
                Some((base, ty)) => {
                    self.values.push(NewValue::Made { base: (*base).to_owned(), ty: ty.clone() });
                    made.push(Some(self.values.len() - 1));
                    refs.push(ValueRef::New(self.values.len() - 1));
                }
                None => {
                    made.push(None);
                    refs.push(ValueRef::New(usize::MAX));
                }
            }
        }
        let (inputs, regions, captures) = (inputs.to_vec(), Vec::new(), Vec::new());
        self.ops.push(AddedOp { op, inputs, outputs: made, regions, captures });
        refs
    }

    /// A copy of `op`, which may be another graph's of the same model, with its bodies. `captures` says what these take
    /// now: (region, outer, inner), one for each of the bodies' captures.
    pub fn copy_of(
        &mut self,
        op: &Op,
        inputs: &[Option<ValueRef>],
        captures: Vec<(usize, ValueRef, ValueId)>,
        outputs: &[Option<(&str, Option<TensorType>)>],
    ) -> Vec<ValueRef> {
        let refs = self.op_with_outputs(NewOp { node: op.proto().clone() }, inputs, outputs);
        if let Some(added) = self.ops.last_mut() {
            added.regions = op.regions().to_vec();
            added.captures = captures;
        }
        refs
    }

    /// Every use of `old` becomes one of `new`. A name that someone may know stays: that of a graph output, and, when
    /// `new` is the patch's own, that of a value which an op made.
    pub fn replace(&mut self, old: ValueId, new: impl Into<ValueRef>) {
        self.edits.push(Edit::Replace { old, new: new.into() });
    }

    /// Input `index` of `op` becomes `value`.
    pub fn set_input(&mut self, op: OpId, index: usize, value: Option<ValueRef>) {
        self.edits.push(Edit::SetInput { op, index, value });
    }

    /// `op` gets the type, name and attributes of `node`; its inputs, outputs and bodies stay.
    pub fn set_node(&mut self, op: OpId, node: NewOp) {
        self.edits.push(Edit::SetAttributes { op, node: Box::new(node) });
    }

    /// `value`, which an op makes, has the type `ty` from now on; what the file declared of it goes.
    pub fn set_type(&mut self, value: ValueId, ty: TensorType) {
        self.edits.push(Edit::SetType { value, ty });
    }

    /// The constant `value` is `tensor` from now on, for all that read it, under its old name.
    pub fn set_constant(&mut self, value: ValueId, tensor: Tensor) {
        self.edits.push(Edit::SetConstant { value, tensor });
    }

    /// Bytes of the constants that the patch would add.
    pub fn constant_bytes(&self) -> usize {
        let bytes = |value: &NewValue| match value {
            NewValue::Constant { tensor, .. } => tensor.byte_len(),
            NewValue::Made { .. } => 0,
        };
        self.values.iter().map(bytes).sum()
    }

    /// Whether an edit or a new op of the patch reads `value`.
    pub fn reads(&self, value: ValueId) -> bool {
        let value = ValueRef::Existing(value);
        let edits = self.edits.iter().any(|edit| match edit {
            Edit::Replace { new, .. } => *new == value,
            Edit::SetInput { value: new, .. } => *new == Some(value),
            Edit::SetAttributes { .. } | Edit::SetType { .. } | Edit::SetConstant { .. } => false,
        });
        let captured = |op: &AddedOp| op.captures.iter().any(|(_, outer, _)| *outer == value);
        edits || self.ops.iter().any(|op| op.inputs.contains(&Some(value)) || captured(op))
    }

    fn fits(&self, graph: &Graph) -> bool {
        let value = |value: &ValueRef| match value {
            ValueRef::Existing(value) => graph.has_value(*value),
            ValueRef::New(index) => *index < self.values.len(),
        };
        graph.has_op(self.anchor)
            && self.ops.iter().flat_map(|op| op.inputs.iter().flatten()).all(value)
            && self.ops.iter().flat_map(|op| &op.captures).all(|(_, outer, _)| value(outer))
            && self.edits.iter().all(|edit| match edit {
                Edit::Replace { old, new } => graph.has_value(*old) && value(new),
                Edit::SetInput { op, value: new, .. } => graph.has_op(*op) && new.as_ref().is_none_or(value),
                Edit::SetAttributes { op, .. } => graph.has_op(*op),
                Edit::SetType { value, .. } => graph.has_value(*value),
                Edit::SetConstant { value, .. } => graph.has_value(*value) && graph.constant(*value).is_some(),
            })
    }

    /// Applies all edits, then removes what they left without use.
    pub fn apply(self, graph: &mut Graph) -> Result<Applied, PatchError> {
        if !self.fits(graph) {
            return Err(PatchError::Stale);
        }
        let seq = graph.op(self.anchor).seq;
        let mut applied = Applied::default();
        for value in self.values {
            applied.values.push(match value {
                NewValue::Constant { base, tensor } => {
                    let name = graph.fresh_name(&base);
                    graph.insert_constant(&name, tensor)
                }
                NewValue::Made { base, ty } => {
                    let name = graph.fresh_name(&base);
                    graph.insert_value(&name, ty)
                }
            });
        }
        let made = applied.values.clone();
        let resolve = |value: ValueRef| match value {
            ValueRef::Existing(value) => value,
            ValueRef::New(index) => made[index],
        };
        // Before the new ops are there: what they read is what the patch says, also when it replaces that for all others.
        for edit in &self.edits {
            if let Edit::Replace { old, new } = edit {
                graph.redirect(*old, resolve(*new));
            }
        }
        for AddedOp { op, inputs, outputs, regions, captures } in self.ops {
            let inputs = inputs.into_iter().map(|value| value.map(resolve)).collect();
            let outputs = outputs.into_iter().map(|index| index.map(|index| made[index])).collect();
            let added = graph.insert_op(seq, op.node, inputs, outputs, regions);
            for (region, outer, inner) in captures {
                graph.insert_capture(added, region, resolve(outer), inner);
            }
            applied.ops.push(added);
        }
        applied.added = applied.ops.len();
        let mut loose: Vec<ValueId> = Vec::new();
        let mut start = vec![self.anchor];
        for edit in self.edits {
            match edit {
                Edit::Replace { old, new } => {
                    let is_new = matches!(new, ValueRef::New(_));
                    applied.added += take_place(graph, old, resolve(new), is_new, seq);
                    loose.push(old);
                }
                Edit::SetInput { op, index, value } => {
                    loose.extend(graph.op(op).input(index));
                    graph.set_input(op, index, value.map(resolve));
                }
                Edit::SetAttributes { op, node } => graph.op_mut(op).node = node.node,
                Edit::SetType { value, ty } => {
                    let value = graph.value_mut(value);
                    value.ty = Some(ty);
                    value.origin.info = None;
                }
                Edit::SetConstant { value, tensor } => {
                    let value = graph.value_mut(value);
                    if value.ty.as_ref() != Some(&tensor.ty()) {
                        value.origin.info = None;
                    }
                    value.ty = Some(tensor.ty());
                    value.constant = Some(tensor);
                    value.origin.initializer = None;
                }
            }
        }
        loose.extend(applied.values.iter().copied());
        for &value in &loose {
            start.extend(graph.has_value(value).then(|| graph.producer(value)).flatten());
        }
        applied.removed = graph.remove_dead(start);
        for value in loose {
            let unused = graph.has_value(value) && graph.is_unused(value) && graph.producer(value).is_none();
            if unused && !graph.is_input(value) && !graph.value(value).captured {
                graph.remove_value(value);
            }
        }
        Ok(applied)
    }
}

/// The ops that used `old` use `new` by now; so do the graph's outputs. They keep their names: `new` takes the name over
/// where it can, otherwise an Identity stands between. A value that the patch made (`is_new`) takes over the name of what an op made:
/// the tensor is called in the new file as it was in the old one. Returns how many Identities it took.
fn take_place(graph: &mut Graph, old: ValueId, new: ValueId, is_new: bool, seq: u64) -> usize {
    if old == new {
        return 0;
    }
    let places: Vec<usize> = graph
        .uses(old)
        .into_iter()
        .filter_map(|place| if let Use::Output(k) = place { Some(k) } else { None })
        .collect();
    if places.is_empty() {
        let names_differ_only = graph.producer(old).is_some() && !graph.is_output(new) && !graph.is_input(new);
        if is_new && names_differ_only {
            let name = graph.name_of(old).to_owned();
            let hidden = graph.fresh_name("replaced");
            graph.rename(old, &hidden);
            graph.rename(new, &name);
            let same_type = graph.ty(old) == graph.ty(new);
            let info = graph.value_mut(old).origin.info.take().filter(|_| same_type);
            graph.value_mut(new).origin.info = info;
        }
        return 0;
    }
    let name = graph.name_of(old).to_owned();
    let hidden = graph.fresh_name("replaced");
    graph.rename(old, &hidden);
    let renamable = graph.producer(new).is_some() && !graph.is_output(new);
    let output = if renamable {
        graph.rename(new, &name);
        graph.value_mut(new).origin.info = None;
        new
    } else {
        let ty = graph.value(new).ty.clone();
        let output = graph.insert_value(&name, ty);
        graph.insert_op(seq, NewOp::new("Identity").node, vec![Some(new)], vec![Some(output)], Vec::new());
        output
    };
    for place in places {
        graph.set_output(place, output);
    }
    usize::from(!renamable)
}

/// The declaration of an input or output.
#[cfg(test)]
pub(crate) fn declaration(name: &str, ty: &TensorType) -> onnx_shrink_proto::schema::ValueInfoProto {
    onnx_shrink_proto::schema::ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(ty.to_proto()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DataType;

    /// x → Neg → t → Relu → y, with t declared in value_info.
    fn chain() -> (Graph, OpId, ValueId) {
        let ty = TensorType::fixed(DataType::Float, &[2]);
        let mut graph = Graph::new(17);
        let [x, t, y] = ["x", "t", "y"].map(|name| graph.insert_value(name, Some(ty.clone())));
        graph.push_input(x, declaration("x", &ty));
        graph.push_output(y, declaration("y", &ty));
        graph.value_mut(t).origin.info = Some((0, Box::new(declaration("t", &ty))));
        let neg = graph.insert_op(1, NewOp::new("Neg").node, vec![Some(x)], vec![Some(t)], Vec::new());
        graph.insert_op(2, NewOp::new("Relu").node, vec![Some(t)], vec![Some(y)], Vec::new());
        (graph, neg, t)
    }

    #[test]
    fn a_new_value_takes_the_name_and_the_declaration_of_what_it_replaces() {
        let (mut graph, neg, t) = chain();
        let mut patch = Patch::new(neg);
        let x = graph.op(neg).input(0).map(ValueRef::from);
        let new = patch.op(NewOp::new("Abs"), &[x], "t", graph.ty(t).cloned());
        patch.replace(t, new);
        patch.apply(&mut graph).unwrap();
        let t = graph.find("t").expect("the name is still there");
        assert!(graph.op(graph.producer(t).unwrap()).is("Abs"));
        assert!(graph.value(t).declared().is_some());
        assert_eq!(graph.op_count(), 2);
    }

    #[test]
    fn what_comes_and_goes_is_counted() {
        let (mut graph, neg, t) = chain();
        let relu = graph.producer(graph.outputs()[0]).unwrap();
        let mut patch = Patch::new(relu);
        patch.replace(graph.outputs()[0], graph.inputs()[0]);
        let applied = patch.apply(&mut graph).unwrap();
        assert_eq!((applied.added, applied.removed), (1, 2), "an Identity keeps the output's name");
        assert!(!graph.has_op(neg) && !graph.has_value(t));
    }

    #[test]
    fn an_existing_value_keeps_its_own_name() {
        let (mut graph, neg, t) = chain();
        let mut patch = Patch::new(neg);
        patch.replace(t, graph.find("x").unwrap());
        patch.apply(&mut graph).unwrap();
        assert!(graph.find("t").is_none());
        assert_eq!(graph.inputs(), [graph.find("x").unwrap()]);
        assert_eq!(graph.op_count(), 1);
    }
}
