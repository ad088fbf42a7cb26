//! One op as the rules see it: what is known of its inputs.
use rten_shape_inference::{InferShapes, InferShapesContext, SymExpr, SymTensor, SymbolGen};

use crate::{
    graph::{Graph, Op, ValueId},
    tensor::Tensor,
    types::DataType,
};

/// An op and what is known of its inputs.
pub(super) struct Node<'a> {
    pub(super) graph: &'a Graph,
    pub(super) op: &'a Op,
    /// By position; `None` only where an input is left out
    pub(super) inputs: Vec<Option<SymTensor>>,
    pub(super) symbols: &'a mut SymbolGen,
}

/// Axes that an op names by attribute or, in later opsets, by input.
pub(super) enum Axes {
    /// It names none
    Absent,
    /// It names these, as written (negative ones from the end)
    Known(Vec<i64>),
    /// An input that is not constant names them
    Unknown,
}

impl Node<'_> {
    /// Element type of input `index`.
    pub(super) fn dtype(&self, index: usize) -> Option<DataType> {
        let value = self.op.input(index)?;
        self.graph.ty(value).map(|ty| ty.dtype)
    }

    /// What is known of input `index`; `None` when it is left out.
    pub(super) fn input(&self, index: usize) -> Option<&SymTensor> {
        self.inputs.get(index)?.as_ref()
    }

    /// Dimensions of input `index`; `None` when the rank is unknown.
    pub(super) fn shape(&self, index: usize) -> Option<Vec<SymExpr>> {
        Some(self.input(index)?.shape()?.collect())
    }

    /// Number of dimensions of input `index`.
    pub(super) fn rank(&self, index: usize) -> Option<usize> {
        self.input(index)?.ndim()
    }

    /// The constant that input `index` is.
    pub(super) fn constant(&self, index: usize) -> Option<Tensor> {
        constant_of(self.graph, self.op.input(index)?)
    }

    /// The integers of input `index`, when all are known.
    pub(super) fn ints(&self, index: usize) -> Option<Vec<i64>> {
        if let Some(constant) = self.input(index)?.to_constant() {
            return Some(constant.values().iter().map(|&number| i64::from(number)).collect());
        }
        self.constant(index).filter(|tensor| tensor.dtype().is_integer()).and_then(|tensor| tensor.to_i64_vec())
    }

    /// The axes that attribute `name`, or else input `index`, names.
    pub(super) fn axes(&self, name: &str, index: usize) -> Axes {
        if let Some(axes) = self.op.ints(name) {
            return Axes::Known(axes.to_vec());
        }
        match self.op.input(index) {
            None => Axes::Absent,
            Some(_) => self.ints(index).map_or(Axes::Unknown, Axes::Known),
        }
    }

    /// The integer attribute `name`, or its default.
    pub(super) fn int_or(&self, name: &str, default: i64) -> i64 {
        self.op.int(name).unwrap_or(default)
    }

    /// The outputs by a rule of `rten-shape-inference` for `inputs`.
    pub(super) fn by(&mut self, rule: &dyn InferShapes, inputs: Vec<Option<SymTensor>>) -> Option<Vec<SymTensor>> {
        rule.infer_shapes(InferShapesContext::from(inputs), self.symbols).ok()
    }

    /// The outputs by a rule of `rten-shape-inference` for the inputs as they are.
    pub(super) fn as_is(&mut self, rule: &dyn InferShapes) -> Option<Vec<SymTensor>> {
        let inputs = self.inputs.clone();
        self.by(rule, inputs)
    }
}

/// The constant that `value` always is, be it an initializer or made by a Constant op.
pub(super) fn constant_of(graph: &Graph, value: ValueId) -> Option<Tensor> {
    if let Some(constant) = graph.constant(value) {
        return Some(constant.clone());
    }
    let op = graph.op(graph.producer(value)?);
    if op.is("Constant") { constant_op(op) } else { None }
}

/// The tensor that a Constant op makes; `None` for sparse and string ones.
pub(super) fn constant_op(op: &Op) -> Option<Tensor> {
    if op.attribute("value").is_some() {
        return op.tensor("value");
    }
    if let Some(number) = op.int("value_int") {
        return Some(Tensor::scalar(number));
    }
    if let Some(number) = op.float("value_float") {
        return Some(Tensor::scalar(number));
    }
    if let Some(numbers) = op.ints("value_ints") {
        return Some(Tensor::from_vec(&[numbers.len()], numbers.to_vec()));
    }
    let numbers = op.floats("value_floats")?;
    Some(Tensor::from_vec(&[numbers.len()], numbers.to_vec()))
}

/// The place that axis `axis` of `rank` names; `None` when there is no such place.
pub(super) fn resolve(axis: i64, rank: usize) -> Option<usize> {
    let count = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis + count } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}
