//! New ops before they are in the patch: each reads back as the term that it stands for, or it is not made.
//!
//! An op of the file with the same type and attributes is copied where that is right in the new place: the same attributes
//! may mean another thing there (an axis from the back, a bound from the end, a shape whose 0 is kept). Else the op is
//! written from the term. Either is read again as [`form`] reads the file: type, attributes, number of inputs, and the type
//! of what it makes.
use onnx_shrink_ir::{
    Dim, Given, Graph, NewOp, OpId, Tensor, TensorType, ValueRef, alone, attributes, infer::infer_op,
    ops::axis_from_front,
};

use super::{
    analysis::{Data, attr},
    island::{Child, Island, form},
    language::{Attr, Node, OpKind, Span},
};

/// An input of a draft.
#[derive(Clone, Debug)]
pub enum Input {
    /// What stands for a child of the term
    Child {
        /// Its place among the children
        child: usize,
        /// What stands for it
        value: ValueRef,
    },
    /// A constant of the op that is copied
    Parameter(ValueRef, Tensor),
    /// A constant that has to be made
    Constant(&'static str, Tensor),
}

/// An op that is not yet in the patch.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Type and attributes
    pub op: NewOp,
    /// What it reads
    pub inputs: Vec<Option<Input>>,
}

/// What a draft is to be.
pub struct Term<'a> {
    /// Where ops are copied from
    pub graph: &'a Graph,
    /// Where the term is of
    pub island: &'a Island,
    /// The term
    pub node: &'a Node,
    /// Its type
    pub kind: OpKind,
    /// What is known of its class
    pub data: &'a Data,
}

impl Term<'_> {
    /// The op of this term that reads `inputs`, its children that are no attributes.
    pub fn draft(&self, inputs: &[Option<Input>]) -> Option<Draft> {
        let attrs = self.island.attrs(self.node);
        let origins = self.island.origins.get(&(self.kind, attrs)).into_iter().flatten();
        let copies = origins.filter_map(|origin| self.copied(*origin, inputs));
        copies.chain(self.written(inputs)).find(|draft| self.reads_back(draft))
    }

    /// A copy of `origin`, with its constants where they are attributes of the term.
    fn copied(&self, origin: OpId, inputs: &[Option<Input>]) -> Option<Draft> {
        let origin = self.graph.op(origin);
        let mut inputs = inputs.to_vec();
        if self.kind.has_parameters() {
            let parameter = |value: &Option<_>| match *value {
                Some(value) => {
                    Some(Some(Input::Parameter(ValueRef::Existing(value), self.graph.constant(value)?.clone())))
                }
                None => Some(None),
            };
            inputs.extend(origin.inputs().iter().skip(1).map(parameter).collect::<Option<Vec<_>>>()?);
        }
        Some(Draft { op: NewOp { node: origin.proto().clone() }, inputs })
    }

    /// The op as the term says it.
    fn written(&self, inputs: &[Option<Input>]) -> Option<Draft> {
        let facts = &self.island.egraph.analysis;
        let attrs = self.island.attrs(self.node);
        let attrs: Vec<&Attr> = attrs.iter().map(|&number| facts.attr_of(number)).collect();
        let (op, opset) = (NewOp::new(self.kind.name()), self.graph.opset());
        let mut inputs = inputs.to_vec();
        let constant = |name, list: Vec<i64>| Some(Input::Constant(name, Tensor::from_vec(&[list.len()], list)));
        let op = match (self.kind, attrs.as_slice()) {
            (_, []) => op,
            (OpKind::Transpose, [Attr::Perm(perm)]) => op.with(attributes::ints("perm", &to_i64(perm)?)),
            (OpKind::Concat | OpKind::Flatten, [Attr::Axis(axis)]) => op.with(attributes::int("axis", *axis)),
            (OpKind::Cast, [Attr::To(to)]) => op.with(attributes::int("to", *to as i64)),
            (OpKind::Squeeze | OpKind::Unsqueeze, [Attr::Axes(axes)]) if opset < 13 => {
                op.with(attributes::ints("axes", &to_i64(axes)?))
            }
            (OpKind::Squeeze | OpKind::Unsqueeze, [Attr::Axes(axes)]) => {
                inputs.push(constant("axes", to_i64(axes)?));
                op
            }
            (OpKind::Slice, [Attr::Spans(spans)]) => {
                let lists = bounds(spans)?;
                let has_steps = spans.iter().any(|span| span.step != 1);
                let wanted = |name: &str| name != "steps" || has_steps;
                let lists = lists.into_iter().filter(|(name, _)| wanted(name));
                if opset < 10 {
                    lists.fold(op, |op, (name, list)| op.with(attributes::ints(name, &list)))
                } else {
                    inputs.extend(lists.map(|(name, list)| constant(name, list)));
                    op
                }
            }
            (OpKind::Clip, bounds) if opset < 11 => {
                inputs.truncate(1);
                let bound = |(name, bound): (&str, &&Attr)| match bound {
                    Attr::Bound(bits) => Some(attributes::float(name, f32::from_bits(*bits))),
                    _ => None,
                };
                ["min", "max"].into_iter().zip(bounds).filter_map(bound).fold(op, NewOp::with)
            }
            (_, attrs) if attrs.iter().all(|attr| **attr == Attr::Absent) => op,
            _ => return None,
        };
        Some(Draft { op, inputs })
    }

    /// Whether `draft`, read as an op of the file, is the term, and makes what is known of its class.
    fn reads_back(&self, draft: &Draft) -> bool {
        let class = |child: usize| &self.island.egraph[self.node.children[child]].data;
        let given = |input: &Input| match input {
            Input::Child { child, .. } => match &class(*child).constant {
                Some(constant) => Given::Constant(constant.clone()),
                None => Given::Value(type_of(class(*child))),
            },
            Input::Parameter(_, tensor) | Input::Constant(_, tensor) => Given::Constant(tensor.clone()),
        };
        let inputs: Vec<Option<Given>> = draft.inputs.iter().map(|input| input.as_ref().map(given)).collect();
        let (graph, op) = alone(self.graph.opset(), draft.op.clone(), inputs);
        let Some((kind, children)) = form(&graph, op) else { return false };
        let place_of = |child: usize| {
            let is_it = |input: &Option<Input>| matches!(input, Some(Input::Child { child: of, .. }) if *of == child);
            draft.inputs.iter().position(is_it)
        };
        let x = (0..self.node.children.len()).find(|child| class(*child).attr.is_none());
        let same = |(index, child): (usize, &Child)| match child {
            Child::Attr(found) => attr(&self.island.egraph, self.node.children[index])
                .is_some_and(|wanted| is_same(found, wanted, x.and_then(|x| class(x).shape.as_deref()))),
            Child::Value(value) => place_of(index).and_then(|place| graph.op(op).input(place)) == Some(*value),
        };
        let makes = infer_op(&graph, op).into_iter().next().flatten();
        kind == self.kind
            && children.len() == self.node.children.len()
            && children.iter().enumerate().all(same)
            && makes.is_none_or(|ty| agrees(&ty, self.data))
    }
}

/// Whether both attributes say the same of an input of these dimensions: one of them may have been read when less was known
/// of them, and still count from the back.
fn is_same(a: &Attr, b: &Attr, dims: Option<&[Dim]>) -> bool {
    let Some(dims) = dims else { return a == b };
    let axis = |axis: i64| axis_from_front(axis, dims.len()).and_then(|axis| i64::try_from(axis).ok()).unwrap_or(axis);
    match (a, b) {
        (Attr::Axis(a), Attr::Axis(b)) => axis(*a) == axis(*b),
        (Attr::Spans(a), Attr::Spans(b)) => {
            let span = |span: &Span| span.within(dims.get(span.axis).and_then(Dim::known));
            a.iter().map(span).eq(b.iter().map(span))
        }
        (a, b) => a == b,
    }
}

/// The type that is known of a class.
pub fn type_of(data: &Data) -> Option<TensorType> {
    data.dtype.map(|dtype| TensorType { dtype, shape: data.shape.as_deref().map(<[_]>::to_vec) })
}

/// Whether `ty` and `data` may be of one value.
fn agrees(ty: &TensorType, data: &Data) -> bool {
    let same_length = |(a, b): (&Dim, &Dim)| !matches!((a, b), (Dim::Known(a), Dim::Known(b)) if a != b);
    let same_shape = match (&ty.shape, &data.shape) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(same_length),
        _ => true,
    };
    data.dtype.is_none_or(|dtype| dtype == ty.dtype) && same_shape
}

/// The lists of a Slice.
fn bounds(spans: &[Span]) -> Option<[(&'static str, Vec<i64>); 4]> {
    let numbers = |number: fn(&Span) -> i64| spans.iter().map(number).collect::<Vec<i64>>();
    let axes = to_i64(&spans.iter().map(|span| span.axis).collect::<Vec<_>>())?;
    let (starts, ends, steps) = (numbers(|span| span.start), numbers(|span| span.end), numbers(|span| span.step));
    Some([("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps)])
}

fn to_i64(axes: &[usize]) -> Option<Vec<i64>> {
    axes.iter().map(|&axis| i64::try_from(axis).ok()).collect()
}
