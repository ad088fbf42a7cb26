//! Removes ops whose results nobody uses, constants that nobody reads, and captures that no body needs.
//!
//! ```onnx before
//! # x: float[2]
//! t = Neg (x)
//! y = Relu (x)
//! ```
//! ```onnx after
//! y = Relu (x)
//! ```
//! **Class:** exact. **Legal when** no output of the op has a use (a graph output and a capture are uses).
//! **Does not** remove graph inputs: they are the interface.
use onnx_shrink_ir::Graph;

use crate::{Class, Context, Pass, Result};

/// See the [module](self) for before, after and legality.
pub struct EliminateDead;

impl Pass for EliminateDead {
    fn name(&self) -> &'static str {
        "eliminate-dead"
    }

    fn class(&self) -> Class {
        Class::Exact
    }

    fn run(&self, graph: &mut Graph, _: &mut Context<'_>) -> Result<()> {
        let removed = graph.sweep();
        if removed > 0 {
            log::debug!("eliminate-dead: {removed} ops");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::EliminateDead;
    use crate::testing::{check, check_same};

    #[test]
    fn removes_chains_and_their_constants() {
        let before = "g (float[2] x) => (float[2] y) <float[2] c = {1, 2}, float[2] unread = {3, 4}> {
            t = Add (x, c)  u = Neg (t)  y = Relu (x) }";
        check(&EliminateDead, before, "g (float[2] x) => (float[2] y) { y = Relu (x) }");
    }

    #[test]
    fn keeps_what_a_body_captures_and_inputs_that_nobody_reads() {
        let model = "g (float[2] x, float[3] unread, bool c) => (float[2] y) { w = Neg (x)  y = If (c) <
            then_branch = a () => (float[2] t) { t = Neg (w) },
            else_branch = b () => (float[2] e) { e = Identity (x) }> }";
        check_same(&EliminateDead, model);
    }

    #[test]
    fn drops_captures_that_only_dead_ops_of_a_body_read() {
        let before = "g (float[2] x, bool c) => (float[2] y) { w = Neg (x)  y = If (c) <
            then_branch = a () => (float[2] t) { dead = Neg (w)  t = Neg (x) },
            else_branch = b () => (float[2] e) { e = Identity (x) }> }";
        let after = "g (float[2] x, bool c) => (float[2] y) { y = If (c) <
            then_branch = a () => (float[2] t) { t = Neg (x) },
            else_branch = b () => (float[2] e) { e = Identity (x) }> }";
        check(&EliminateDead, before, after);
    }
}
