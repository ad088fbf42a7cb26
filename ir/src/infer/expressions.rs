//! What inference knows beyond types: dimensions, and the numbers of small integer tensors, as expressions of open dimensions.
//!
//! A target that is computed from the shape of another tensor can be compared with the dimensions of what it reshapes: equal expressions
//! are equal in every run. **Never** equal by chance: a dimension of which nothing is known is a symbol of its own.
use rten_shape_inference::{SymExpr, SymTensor};

use super::{Facts, infer_graph, symbols};
use crate::graph::{Graph, ValueId};

/// The expressions of one graph.
pub struct Expressions {
    facts: Facts,
    /// Values that there were when they were found
    bound: usize,
    /// Open dimensions of the graph's inputs
    of_inputs: Vec<SymExpr>,
}

/// A whole number: known, or an expression of open dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression(SymExpr);

impl Expressions {
    /// Those of `graph`, whose types are inferred on the way; those of bodies are theirs.
    pub fn of(graph: &mut Graph) -> Expressions {
        let bound = graph.bound();
        let facts = infer_graph(graph, Vec::new(), &mut symbols::generator());
        let dims = graph.inputs().iter().filter_map(|input| facts.of(*input).shape());
        let of_inputs = dims.flatten().filter(|dim| matches!(dim, SymExpr::Var(_))).collect();
        Expressions { facts, bound, of_inputs }
    }

    /// Whether `expression` is made of dimensions of the graph's inputs alone: none of those that follow from what numbers are.
    pub fn is_of_inputs(&self, expression: &Expression) -> bool {
        let is_known = |part: &SymExpr| !matches!(part, SymExpr::Var(_)) || self.of_inputs.contains(part);
        expression.0.iter().all(is_known)
    }

    fn tensor(&self, value: ValueId) -> Option<&SymTensor> {
        (value.index() < self.bound).then(|| self.facts.of(value))
    }

    /// The dimensions of `value`; `None` where its rank is not known, or it came later.
    pub fn dims(&self, value: ValueId) -> Option<Vec<Expression>> {
        Some(self.tensor(value)?.shape()?.map(Expression).collect())
    }

    /// The numbers of `value`, an integer scalar or vector; `None` where they are not followed.
    pub fn numbers(&self, value: ValueId) -> Option<Vec<Expression>> {
        Some(self.tensor(value)?.values()?.iter().cloned().map(Expression).collect())
    }
}

impl Expression {
    /// The number, where it is the same in every run.
    pub fn number(&self) -> Option<i64> {
        match self.0 {
            SymExpr::Value(number) => Some(number.into()),
            _ => None,
        }
    }

    /// The whole number by which `other` is multiplied to give this; `None` where there is none, or nobody can tell.
    pub fn factor_over(&self, other: &Expression) -> Option<i64> {
        if self == other {
            return Some(1);
        }
        match (&self.0, &other.0) {
            (SymExpr::Value(all), SymExpr::Value(one)) => (*one > 0 && all % one == 0).then(|| (all / one).into()),
            (SymExpr::Mul(a, b), one) => match (&**a, &**b) {
                (SymExpr::Value(factor), rest) | (rest, SymExpr::Value(factor)) if rest == one => {
                    Some((*factor).into())
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// Whether the product of `a` is that of `b` in every run: the same factors, in whatever order.
pub fn same_product(a: &[Expression], b: &[Expression]) -> bool {
    let (Some((number, mut left)), Some((other, right))) = (factors(a), factors(b)) else { return false };
    let mut takes = |factor: &SymExpr| {
        let place = left.iter().position(|one| one == factor);
        place.map(|place| left.swap_remove(place)).is_some()
    };
    number == other && right.iter().all(&mut takes) && left.is_empty()
}

/// The product of `expressions` as a number and what is multiplied with it; `None` beyond the range of numbers.
fn factors(expressions: &[Expression]) -> Option<(i64, Vec<SymExpr>)> {
    let (mut number, mut others) = (1i64, Vec::new());
    let mut work: Vec<&SymExpr> = expressions.iter().map(|expression| &expression.0).collect();
    while let Some(expression) = work.pop() {
        match expression {
            SymExpr::Value(value) => number = number.checked_mul((*value).into())?,
            SymExpr::Mul(a, b) => work.extend([&**a, &**b]),
            other => others.push(other.clone()),
        }
    }
    Some((number, others))
}

#[cfg(test)]
mod tests {
    use super::{Expressions, same_product};
    use crate::text::parse_graph;

    #[test]
    fn what_is_computed_from_a_shape_is_compared_with_dimensions() {
        let text = "g (float[N,3,H,W] x) => (int64[2] t) <int64[1] i = {2}, int64[1] j = {3}, int64[1] two = {2}> {
            s = Shape (x)  h = Gather (s, i)  w = Gather (s, j)  area = Mul (h, w)  wide = Mul (w, two)  t = Concat <axis = 0> (area, wide) }";
        let mut graph = parse_graph(text, 17).unwrap().graph;
        let known = Expressions::of(&mut graph);
        let dims = known.dims(graph.find("x").unwrap()).unwrap();
        let numbers = known.numbers(graph.find("t").unwrap()).unwrap();
        assert!(same_product(&numbers[..1], &dims[2..]) && !same_product(&numbers[..1], &dims[1..]));
        assert_eq!((numbers[1].factor_over(&dims[3]), numbers[1].factor_over(&dims[2])), (Some(2), None));
        assert_eq!((dims[1].number(), dims[0].number()), (Some(3), None));
    }

    #[test]
    fn dimensions_of_which_nothing_is_known_differ() {
        let mut graph = parse_graph("g (float x, float z) => (float y) { y = Add (x, z) }", 17).unwrap().graph;
        for name in ["x", "z"] {
            let value = graph.find(name).unwrap();
            graph.value_mut(value).ty.as_mut().unwrap().shape = Some(vec![crate::types::Dim::Unknown]);
        }
        let known = Expressions::of(&mut graph);
        let dims = |name: &str| known.dims(graph.find(name).unwrap()).unwrap();
        assert_ne!(dims("x"), dims("z"));
    }
}
