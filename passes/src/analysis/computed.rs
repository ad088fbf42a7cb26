//! What follows from constants alone: a weight behind Transpose, Cast, Reshape or arithmetic, and what it is made of.
//!
//! **Never** computes anything, and never looks into bodies.
use std::collections::BTreeSet;

use onnx_shrink_ir::{DataType, Graph, OpId, Tensor, ValueId};

use crate::lossless::fold_constants::is_deterministic;

/// The values of a graph that are constant, or computed from nothing but constants.
#[derive(Clone, Debug, Default)]
pub struct Computed(BTreeSet<ValueId>);

impl Computed {
    /// Finds them in `graph`.
    pub fn of(graph: &Graph) -> Computed {
        Computed::with(graph, |_| false)
    }

    /// The same, where `is_constant` knows further constants: what a body captures.
    pub fn with(graph: &Graph, is_constant: impl Fn(ValueId) -> bool) -> Computed {
        let constants =
            graph.values().into_iter().filter(|value| graph.constant(*value).is_some() || is_constant(*value));
        let mut found: BTreeSet<ValueId> = constants.collect();
        for id in graph.ops() {
            let op = graph.op(id);
            let is_source = op.is("Constant");
            let mut inputs = op.inputs().iter().flatten().peekable();
            if is_deterministic(graph, id)
                && (is_source || inputs.peek().is_some())
                && inputs.all(|value| found.contains(value))
            {
                found.extend(op.outputs().iter().flatten());
            }
        }
        Computed(found)
    }

    /// Whether `value` is constant or follows from constants.
    pub fn has(&self, value: ValueId) -> bool {
        self.0.contains(&value)
    }

    /// Whether `value` follows from constants and is none itself.
    pub fn is_made(&self, graph: &Graph, value: ValueId) -> bool {
        self.has(value) && graph.producer(value).is_some()
    }

    /// The ops that make `value`, which is one of these, and the values without a producer that they begin with.
    pub fn behind(&self, graph: &Graph, value: ValueId) -> Behind {
        let mut behind = Behind::default();
        let mut work = vec![value];
        while let Some(value) = work.pop() {
            match graph.producer(value).filter(|_| self.has(value)) {
                Some(op) if behind.ops.insert(op) => work.extend(graph.op(op).inputs().iter().flatten()),
                Some(_) => {}
                None => {
                    behind.sources.insert(value);
                }
            }
        }
        behind
    }
}

/// What a value that follows from constants is made of.
#[derive(Clone, Debug, Default)]
pub struct Behind {
    /// The ops on the way
    pub ops: BTreeSet<OpId>,
    /// What they begin with
    pub sources: BTreeSet<ValueId>,
}

/// Numbers of a constant of integers from which on it is a weight, and not an index or a zero point.
const LEAST_WEIGHT: usize = 64;

impl Behind {
    /// Whether someone quantized this before: it comes from a DequantizeLinear, or from many integers of 8 bits or fewer.
    pub fn is_quantized(&self, graph: &Graph) -> bool {
        let is_small = |tensor: &Tensor| is_of_few_bits(tensor) && tensor.len() >= LEAST_WEIGHT;
        self.ops.iter().any(|op| graph.op(*op).is("DequantizeLinear"))
            || self.sources.iter().any(|value| graph.constant(*value).is_some_and(is_small))
    }
}

/// Whether `tensor` holds numbers of 8 bits or fewer.
fn is_of_few_bits(tensor: &Tensor) -> bool {
    tensor.dtype().bits() <= 8 && !matches!(tensor.dtype(), DataType::Bool | DataType::String)
}

/// Whether `graph` holds a matrix of 8-bit numbers, or of fewer bits.
pub fn holds_few_bits(graph: &Graph) -> bool {
    let is_matrix = |tensor: &Tensor| tensor.dims().len() >= 2 && is_of_few_bits(tensor);
    graph.values().into_iter().any(|value| graph.constant(value).is_some_and(is_matrix))
}

#[cfg(test)]
mod tests {
    use super::Computed;
    use crate::testing::parse;

    #[test]
    fn what_follows_from_constants_is_known() {
        let graph = parse(
            "g (float[2,2] x) => (float[2,2] y) <float[2,2] v = {1, 2, 3, 4}, float[2,1] g = {1, 2}> {
            n = ReduceL2 <axes = [1], keepdims = 1> (v)  u = Div (v, n)  w = Mul (u, g)  r = RandomNormalLike (v)
            t = Add (x, r)  y = MatMul (t, w) }",
        )
        .graph;
        let computed = Computed::of(&graph);
        let value = |name: &str| graph.find(name).unwrap();
        assert!(computed.is_made(&graph, value("w")) && computed.has(value("v")));
        assert!(!computed.is_made(&graph, value("v")) && !computed.has(value("r")) && !computed.has(value("t")));
        let behind = computed.behind(&graph, value("w"));
        assert_eq!((behind.ops.len(), behind.sources.len()), (3, 2));
        assert!(!behind.is_quantized(&graph));
    }
}
