//! What is known of every class of equal terms: element type, shape, constant, attribute.
//!
//! Facts only grow when classes merge. A clash means that a rule is wrong or that the file states a wrong shape: it is
//! noted in [`Facts::clash`], and the island is **never** rewritten then.
use std::{collections::BTreeMap, rc::Rc};

use egg::{Analysis, DidMerge, Id};
use onnx_shrink_ir::{DataType, Dim, Graph, Tensor, ValueId};

use super::{
    EGraph,
    language::{Attr, Kind, Node, OpKind, Span},
};

/// Elements of a constant that rules may look at.
const SMALL: usize = 4096;

/// A value leaf.
#[derive(Clone, Debug)]
pub enum Leaf {
    /// A value of the graph
    Existing(ValueId),
    /// A constant that a rule made, to be named after another leaf
    Made(Tensor, u32),
}

/// What two leaves must share to be one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LeafKey {
    Value(ValueId),
    Constant(DataType, Vec<usize>, Vec<u8>),
}

/// The leaves of one island.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    attrs: Vec<Attr>,
    attr_numbers: BTreeMap<Attr, u32>,
    leaves: Vec<(Leaf, Data)>,
    leaf_numbers: BTreeMap<LeafKey, u32>,
    /// Whether two facts about one class excluded each other
    pub clash: bool,
}

/// What is known of a class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Data {
    /// Element type
    pub dtype: Option<DataType>,
    /// Dimensions
    pub shape: Option<Rc<[Dim]>>,
    /// The constant, when it is small
    pub constant: Option<Tensor>,
    /// The attribute that an attribute leaf is
    pub attr: Option<u32>,
}

impl Data {
    /// The one number of a constant of one element.
    pub fn scalar(&self) -> Option<f64> {
        self.constant.as_ref()?.to_scalar_f64()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(|shape| shape.len())
    }

    /// Whether both shapes are known and provably equal.
    pub fn same_shape(&self, other: &Data) -> bool {
        let (Some(a), Some(b)) = (&self.shape, &other.shape) else { return false };
        a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same(b))
    }

    fn of_value(graph: &Graph, value: ValueId) -> Data {
        let ty = graph.ty(value);
        Data {
            dtype: ty.map(|ty| ty.dtype),
            shape: ty.and_then(|ty| ty.shape.as_deref()).map(Rc::from),
            constant: graph.constant(value).filter(|constant| constant.len() <= SMALL).cloned(),
            attr: None,
        }
    }
}

impl Facts {
    /// The number of `attr`.
    pub fn attr(&mut self, attr: Attr) -> u32 {
        if let Some(&number) = self.attr_numbers.get(&attr) {
            return number;
        }
        let number = count(self.attrs.len());
        self.attrs.push(attr.clone());
        self.attr_numbers.insert(attr, number);
        number
    }

    /// The attribute with this number.
    pub fn attr_of(&self, number: u32) -> &Attr {
        &self.attrs[number as usize]
    }

    /// The leaf for `value`: equal small constants are one leaf.
    pub fn value(&mut self, graph: &Graph, value: ValueId) -> u32 {
        let data = Data::of_value(graph, value);
        let key = data.constant.as_ref().and_then(constant_key).unwrap_or(LeafKey::Value(value));
        self.leaf(key, Leaf::Existing(value), data)
    }

    /// The leaf for a constant that a rule made, named after leaf `like`.
    pub fn made(&mut self, tensor: Tensor, like: u32) -> Option<u32> {
        let key = constant_key(&tensor)?;
        let shape = tensor.ty().shape.as_deref().map(Rc::from);
        let data = Data { dtype: Some(tensor.dtype()), shape, constant: Some(tensor.clone()), attr: None };
        Some(self.leaf(key, Leaf::Made(tensor, like), data))
    }

    fn leaf(&mut self, key: LeafKey, leaf: Leaf, data: Data) -> u32 {
        let next = count(self.leaves.len());
        let number = *self.leaf_numbers.entry(key).or_insert(next);
        if number == next {
            self.leaves.push((leaf, data));
        }
        number
    }

    /// The leaf with this number.
    pub fn leaf_of(&self, number: u32) -> &Leaf {
        &self.leaves[number as usize].0
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn constant_key(tensor: &Tensor) -> Option<LeafKey> {
    Some(LeafKey::Constant(tensor.dtype(), tensor.dims().to_vec(), tensor.bytes()?.to_vec()))
}

/// The attribute that class `id` is.
pub fn attr(egraph: &EGraph, id: Id) -> Option<&Attr> {
    egraph[id].data.attr.map(|number| egraph.analysis.attr_of(number))
}

impl Analysis<Node> for Facts {
    type Data = Data;

    fn make(egraph: &mut EGraph, node: &Node, _: Id) -> Data {
        match node.kind {
            Kind::Attr(number) => Data { attr: Some(number), ..Data::default() },
            Kind::Value(number) => egraph.analysis.leaves[number as usize].1.clone(),
            Kind::Op(op) => infer(egraph, op, &node.children),
        }
    }

    fn merge(&mut self, a: &mut Data, b: Data) -> DidMerge {
        let joined = Data {
            dtype: join(a.dtype, b.dtype, &mut self.clash),
            shape: match (&a.shape, &b.shape) {
                (Some(one), Some(other)) => Some(self.join_shapes(one, other)),
                (one, other) => one.clone().or_else(|| other.clone()),
            },
            constant: join(a.constant.clone(), b.constant.clone(), &mut self.clash),
            attr: join(a.attr, b.attr, &mut self.clash),
        };
        let did = DidMerge(joined != *a, joined != b);
        *a = joined;
        did
    }
}

/// The fact that one of two has; the first, and a note, when they exclude each other.
fn join<T: PartialEq>(a: Option<T>, b: Option<T>, clash: &mut bool) -> Option<T> {
    if let (Some(a), Some(b)) = (&a, &b) {
        *clash |= a != b;
    }
    a.or(b)
}

impl Facts {
    fn join_shapes(&mut self, a: &Rc<[Dim]>, b: &Rc<[Dim]>) -> Rc<[Dim]> {
        if a.len() != b.len() {
            self.clash = true;
            return a.clone();
        }
        let dims = a.iter().zip(b.iter()).map(|(a, b)| {
            self.clash |= matches!((a, b), (Dim::Known(a), Dim::Known(b)) if a != b);
            a.min(b).clone() // numbers before names before nothing
        });
        dims.collect()
    }
}

/// What follows for the output of `op`.
fn infer(egraph: &EGraph, op: OpKind, children: &[Id]) -> Data {
    let data = |index: usize| children.get(index).map(|&id| &egraph[id].data);
    let attr = |index: usize| children.get(index).and_then(|&id| attr(egraph, id));
    let typed = |index: usize, shape: Option<Rc<[Dim]>>| Data {
        dtype: data(index).and_then(|data| data.dtype),
        shape,
        ..Data::default()
    };
    let same = |index: usize| typed(index, data(index).and_then(|data| data.shape.clone()));
    let dims = |index: usize| data(index).and_then(|data| data.shape.as_deref());
    match op {
        OpKind::Abs
        | OpKind::Erf
        | OpKind::Exp
        | OpKind::Neg
        | OpKind::Not
        | OpKind::Relu
        | OpKind::Sigmoid
        | OpKind::Sqrt
        | OpKind::Tanh
        | OpKind::Clip => same(0),
        OpKind::HardSigmoid | OpKind::LeakyRelu | OpKind::Softmax => same(1),
        OpKind::Add | OpKind::Sub | OpKind::Mul | OpKind::Div => {
            typed(0, dims(0).zip(dims(1)).and_then(|(a, b)| broadcast(a, b)))
        }
        OpKind::Cast => {
            let to = if let Some(Attr::To(to)) = attr(0) { Some(*to) } else { None };
            Data { dtype: to, ..same(1) }
        }
        OpKind::QuantizeLinear => {
            let dtype =
                if attr(3) == Some(&Attr::Absent) { Some(DataType::Uint8) } else { data(3).and_then(|z| z.dtype) };
            Data { dtype, ..same(1) }
        }
        OpKind::DequantizeLinear => Data { dtype: data(2).and_then(|scale| scale.dtype), ..same(1) },
        OpKind::Transpose => {
            let Some(Attr::Perm(perm)) = attr(0) else { return typed(1, None) };
            let permuted = |dims: &[Dim]| perm.iter().map(|&axis| dims.get(axis).cloned()).collect();
            typed(1, dims(1).and_then(permuted))
        }
        OpKind::Reshape => {
            let target = data(1).and_then(|data| data.constant.as_ref()).and_then(Tensor::to_i64_vec);
            typed(0, target.map(|target| reshaped(dims(0), &target)))
        }
        OpKind::Squeeze => {
            let Some(Attr::Axes(axes)) = attr(0) else { return typed(1, None) };
            let kept = |dims: &[Dim]| {
                dims.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, dim)| dim.clone()).collect()
            };
            typed(1, dims(1).map(kept))
        }
        OpKind::Unsqueeze => {
            let Some(Attr::Axes(axes)) = attr(0) else { return typed(1, None) };
            let widened = |dims: &[Dim]| {
                let mut rest = dims.iter();
                let dim = |axis: usize| if axes.contains(&axis) { Some(Dim::Known(1)) } else { rest.next().cloned() };
                (0..dims.len() + axes.len()).map(dim).collect()
            };
            typed(1, dims(1).and_then(widened))
        }
        OpKind::Flatten => typed(1, Some(Rc::from([Dim::Unknown, Dim::Unknown]))),
        OpKind::Concat => {
            let Some(&Attr::Axis(axis)) = attr(0) else { return typed(1, None) };
            let joined = |first: &[Dim]| {
                let mut dims = first.to_vec();
                *dims.get_mut(usize::try_from(axis).ok()?)? = Dim::Unknown;
                Some(Rc::from(dims))
            };
            typed(1, dims(1).and_then(joined))
        }
        OpKind::Slice => {
            let Some(Attr::Spans(spans)) = attr(0) else { return typed(1, None) };
            typed(1, dims(1).and_then(|dims| sliced(dims, spans)))
        }
    }
}

/// The shape of a broadcast; `None` when the two do not fit.
fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Rc<[Dim]>> {
    let rank = a.len().max(b.len());
    let dim = |dims: &[Dim], axis: usize| {
        (axis + dims.len()).checked_sub(rank).map_or(Dim::Known(1), |axis| dims[axis].clone())
    };
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (Dim::Known(1), other) | (other, Dim::Known(1)) => Some(other),
            (Dim::Known(a), Dim::Known(b)) => (a == b).then_some(Dim::Known(a)),
            (Dim::Known(number), _) | (_, Dim::Known(number)) => Some(Dim::Known(number)),
            (a, b) => Some(if a.same(&b) { a } else { Dim::Unknown }),
        })
        .collect()
}

fn reshaped(from: Option<&[Dim]>, target: &[i64]) -> Rc<[Dim]> {
    let mut to: Vec<Dim> = (0..target.len())
        .map(|axis| match target[axis] {
            0 => from.and_then(|dims| dims.get(axis)).cloned().unwrap_or(Dim::Unknown),
            number => usize::try_from(number).map_or(Dim::Unknown, Dim::Known),
        })
        .collect();
    let known = |dims: &[Dim]| dims.iter().try_fold(1usize, |product, dim| product.checked_mul(dim.known()?));
    if let Some(open) = target.iter().position(|&number| number == -1) {
        to[open] = Dim::Known(1);
        let total = from.and_then(known);
        let length = total.zip(known(&to)).and_then(|(total, rest)| total.checked_div(rest));
        to[open] = length.map_or(Dim::Unknown, Dim::Known);
    }
    to.into()
}

fn sliced(dims: &[Dim], spans: &[Span]) -> Option<Rc<[Dim]>> {
    let mut dims = dims.to_vec();
    for span in spans {
        let dim = dims.get_mut(span.axis)?;
        let length = dim.known().and_then(|length| i64::try_from(length).ok());
        let taken = length.filter(|_| span.start >= 0 && span.end >= 0).map(|length| {
            let taken = span.end.min(length).saturating_sub(span.start.min(length)).max(0);
            usize::try_from(taken / span.step + i64::from(taken % span.step != 0)).unwrap_or(0)
        });
        *dim = taken.map_or(Dim::Unknown, Dim::Known);
    }
    Some(dims.into())
}
