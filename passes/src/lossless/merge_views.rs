//! Makes one Reshape of two ops in a row that only state another shape.
//!
//! ```onnx before
//! # x: float[2,3,1,5]; a: int64[1] = {2}; b: int64[1] = {3}
//! s = Squeeze (x, a)
//! y = Unsqueeze (s, b)
//! ```
//! ```onnx after
//! y = Reshape (x, target)
//! ```
//! Reshape, Flatten, Squeeze and Unsqueeze, in any order. A 0 in the target stands for the input's own dimension at that place, a −1 for
//! the one dimension that is not known: both have as many elements in every run.
//!
//! **Class:** exact. **Legal when** nothing else reads what is between, and at most one dimension of the result is neither a number nor
//! the input's own at its place.
//! **Does not** write a −1 where a dimension comes from data and may be 0; nor touch graphs with attention, which ONNX Runtime
//! recognizes by the exact ops of its exporters (`docs/engines.md`).
use onnx_shrink_ir::{
    Graph, NewOp, OpId, Patch, Tensor,
    infer::expressions::{Expression, Expressions},
    semantics::is_reshape,
};

use crate::{Class, Context, Description, Pass, Result, When, quantize::dynamic_int8::has_attention};

/// See the [module](self) for before, after and legality.
pub struct MergeViews;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "merge-views",
    class: Class::Exact,
    about: "makes one Reshape of two ops that only state another shape",
    when: When::Lossless,
};

/// The first opset in which the target of a Reshape is an input.
const LEAST_OPSET: i64 = 5;

impl Pass for MergeViews {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let is_pair = |op: &OpId| first_of_pair(graph, *op).is_some();
        if graph.opset() < LEAST_OPSET || !graph.ops().iter().any(is_pair) || has_attention(graph) {
            return Ok(());
        }
        let known = Expressions::of(graph);
        for op in graph.ops() {
            if graph.has_op(op)
                && let Some(patch) = merge(graph, op, &known)
            {
                cx.apply(graph, patch)?;
            }
        }
        Ok(())
    }
}

/// The view before the view `op`, where nothing else reads what it gives.
fn first_of_pair(graph: &Graph, op: OpId) -> Option<OpId> {
    let between = graph.op(op).input(0).filter(|_| is_reshape(graph.op(op)))?;
    let first = graph.producer(between).filter(|first| is_reshape(graph.op(*first)))?;
    graph.only_use(between).map(|_| first)
}

fn merge(graph: &Graph, op: OpId, known: &Expressions) -> Option<Patch> {
    let first = first_of_pair(graph, op)?;
    let (x, y) = (graph.op(first).input(0)?, graph.op(op).output(0)?);
    let (dims, wanted) = (known.dims(x)?, known.dims(y)?);
    let mut target = Vec::new();
    let mut open = false;
    for (place, entry) in wanted.iter().enumerate() {
        target.push(match entry.number() {
            Some(0) => return None,
            Some(number) => number,
            None if dims.get(place) == Some(entry) => 0,
            None if std::mem::replace(&mut open, true) => return None,
            None => -1,
        });
    }
    let may_be_empty = |dims: &[Expression]| !dims.iter().all(|dim| known.is_of_inputs(dim));
    if open && (may_be_empty(&dims) || may_be_empty(&wanted)) {
        return None;
    }
    let mut patch = Patch::new(op);
    let shape = patch.constant("shape", Tensor::from_vec(&[target.len()], target));
    let view = patch.op(NewOp::new("Reshape"), &[Some(x.into()), Some(shape)], graph.name_of(y), graph.ty(y).cloned());
    patch.replace(y, view);
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::MergeViews;
    use crate::testing::{check, check_same};

    const AXES: &str = "int64[1] a = {2}, int64[1] b = {3}";

    #[test]
    fn an_open_dimension_is_the_inputs_own_or_what_is_left() {
        let before = format!(
            "g (float[N,3,1,T] x) => (float[N,3,T,1] y) <{AXES}> {{ s = Squeeze (x, a)  y = Unsqueeze (s, b) }}"
        );
        let after =
            "g (float[N,3,1,T] x) => (float[N,3,T,1] y) <int64[4] shape = {0, 3, -1, 1}> { y = Reshape (x, shape) }";
        check(&MergeViews, &before, after);
    }

    #[test]
    fn what_others_read_between_stays() {
        check_same(
            &MergeViews,
            &format!(
                "g (float[2,3,1,5] x) => (float[2,3,5,1] y, float[2,3,5] z) <{AXES}> {{
                s = Squeeze (x, a)  y = Unsqueeze (s, b)  z = Neg (s) }}"
            ),
        );
    }
}
