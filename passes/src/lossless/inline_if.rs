//! Puts the branch that a constant condition chooses in the place of its `If`.
//!
//! ```onnx before
//! # x: float[2]; c: bool = {1}
//! y = If (c) <then_branch = a () => (float[2] t) { t = Neg (x) }, else_branch = b () => (float[2] e) { e = Abs (x) }>
//! ```
//! ```onnx after
//! y = Neg (x)
//! ```
//! Exporters write such an If for every squeeze of an axis of unknown length; once shapes are known, the condition is, too.
//!
//! Engines do the same when they load a model, and not all well: ONNX Runtime 1.23 to 1.26 cannot load one in which the branch
//! holds a constant of more than 127 bytes (its issue 29071).
//!
//! **Class:** exact. **Legal when** the condition is constant. **Does not** inline a branch with sparse constants.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Graph, OpId, Patch, Tensor, TensorType, ValueId, ValueRef};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When};

/// See the [module](self) for before, after and legality.
pub struct InlineIf;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "inline-if",
    class: Class::Exact,
    about: "puts a branch in the place of an If whose condition is constant",
    when: When::Lossless,
};

impl Rewrite for InlineIf {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn anchors(&self, graph: &Graph) -> Vec<OpId> {
        graph.ops_of("If")
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        inline(graph, op)
    }
}

/// The edits that put a branch in the place of the If `op`, or why it stays.
fn inline(graph: &Graph, op: OpId) -> Result<Patch, Miss> {
    let node = graph.op(op);
    let condition = node.input(0).filter(|&value| graph.default_of(value).is_some()).ok_or(Miss::NotThisPattern)?;
    let holds = graph.constant(condition).and_then(Tensor::to_scalar_f64).ok_or(Miss::NotConstant(condition))? != 0.0;
    let wanted = if holds { "then_branch" } else { "else_branch" };
    let place =
        node.regions().iter().position(|region| node.region_name(region) == wanted).ok_or(Miss::NotThisPattern)?;
    let body = &node.regions()[place].graph;

    let mut patch = Patch::new(op);
    let captures = graph.captures(op).into_iter().filter(|(region, ..)| *region == place);
    let mut outside: BTreeMap<ValueId, ValueRef> =
        captures.map(|(_, outer, inner)| (inner, ValueRef::from(outer))).collect();
    for value in body.values() {
        if body.is_sparse(value) {
            return Err(Miss::Form("a branch with sparse constants"));
        }
        if let Some(tensor) = body.constant(value).filter(|_| !body.is_unused(value)) {
            outside.insert(value, patch.constant(body.name_of(value), tensor.clone()));
        }
    }
    for id in body.ops() {
        let inner = body.op(id);
        let resolve = |value: &Option<ValueId>| match value {
            None => Ok(None),
            Some(value) => outside.get(value).copied().map(Some).ok_or(Miss::NotThisPattern),
        };
        let inputs = inner.inputs().iter().map(resolve).collect::<Result<Vec<_>, Miss>>()?;
        let typed = |value: ValueId| (body.name_of(value), body.ty(value).cloned());
        let outputs: Vec<Option<(&str, Option<TensorType>)>> =
            inner.outputs().iter().map(|value| value.map(typed)).collect();
        let captures = body.captures(id).into_iter().map(|(region, outer, inner)| {
            let outer = outside.get(&outer).copied().ok_or(Miss::NotThisPattern)?;
            Ok((region, outer, inner))
        });
        let captures = captures.collect::<Result<Vec<_>, Miss>>()?;
        let made = patch.copy_of(inner, &inputs, captures, &outputs);
        outside.extend(inner.outputs().iter().zip(made).filter_map(|(value, made)| Some(((*value)?, made))));
    }
    for (index, y) in node.outputs().iter().enumerate() {
        let Some(y) = y.filter(|&y| !graph.is_unused(y)) else { continue };
        let result = body.outputs().get(index).and_then(|output| outside.get(output)).ok_or(Miss::NotThisPattern)?;
        patch.replace(y, *result);
    }
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::InlineIf;
    use crate::testing::{check, check_missed, check_same};

    const BRANCHES: &str = "then_branch = a () => (float[2] t) <float[2] k = {1, 2}> { u = Add (x, k)  t = Neg (u) },
            else_branch = b () => (float[2] e) { e = Identity (x) }";

    #[test]
    fn puts_the_chosen_branch_in_place() {
        let before =
            format!("g (float[2] x) => (float[2] y) <bool c = {{1}}> {{ v = If (c) <{BRANCHES}>  y = Relu (v) }}");
        let after = "g (float[2] x) => (float[2] y) <float[2] k_1 = {1, 2}> { u_1 = Add (x, k_1)  v = Neg (u_1)  y = Relu (v) }";
        check(&InlineIf, &before, after);
        let before = format!("g (float[2] x) => (float[2] y) <bool c = {{0}}> {{ y = If (c) <{BRANCHES}> }}");
        check(&InlineIf, &before, "g (float[2] x) => (float[2] y) { y = Identity (x) }");
    }

    #[test]
    fn a_branch_brings_its_bodies_along() {
        let inner =
            "then_branch = p () => (float[2] r) { r = Add (u, k) }, else_branch = q () => (float[2] s) { s = Abs (x) }";
        let before = format!(
            "g (float[2] x, bool d) => (float[2] y) <bool c = {{1}}> {{ y = If (c) <
                then_branch = a () => (float[2] t) <float[2] k = {{1, 2}}> {{ u = Neg (x)  t = If (d) <{inner}> }},
                else_branch = b () => (float[2] e) {{ e = Identity (x) }}> }}"
        );
        let after = "g (float[2] x, bool d) => (float[2] y) <float[2] k_1 = {1, 2}> { u_1 = Neg (x)  y = If (d) <
                then_branch = p () => (float[2] r) { r = Add (u_1, k_1) }, else_branch = q () => (float[2] s) { s = Abs (x) }> }";
        check(&InlineIf, &before, after);
    }

    #[test]
    fn keeps_an_if_whose_condition_is_open() {
        check_same(&InlineIf, &format!("g (float[2] x, bool c) => (float[2] y) {{ y = If (c) <{BRANCHES}> }}"));
        check_missed(
            &InlineIf,
            &format!("g (float[2] x, bool c) => (float[2] y) <bool c = {{1}}> {{ y = If (c) <{BRANCHES}> }}"),
            "`c` is a graph input with a default, so it may change; --freeze-initializers makes it constant",
        );
    }
}
