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
use onnx_shrink_ir::{Graph, Patch, ValueId};

use crate::{Class, Context, Description, Pass, Result, When};

/// See the [module](self) for before, after and legality.
pub struct EliminateDead;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "eliminate-dead",
    class: Class::Exact,
    about: "removes ops whose results nobody uses, and constants that nobody reads",
    when: When::Lossless,
};

impl Pass for EliminateDead {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        graph.drop_unread_captures();
        for op in graph.ops_in_id_order() {
            let is_unused = |output: &ValueId| graph.is_unused(*output);
            if graph.has_op(op) && graph.op(op).outputs().iter().flatten().all(is_unused) {
                cx.apply(graph, Patch::new(op))?; // with what only it used
            }
        }
        for value in graph.unread_constants() {
            cx.remove_unread(graph, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::EliminateDead;
    use crate::{
        Context, Entry, Options, RewriteId,
        testing::{Reference, check, check_same, parse},
    };

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

    #[test]
    fn writes_down_each_chain_and_each_constant_that_it_removes_and_keeps_what_is_denied() {
        let model = "g (float[2] x) => (float[2] y) <float[2] c = {1, 2}> { t = Neg (x)  u = Neg (t)  y = Relu (x) }";
        let journal = |options: Options| {
            let mut graph = parse(model).graph;
            let mut cx = Context::new(options, &Reference);
            cx.run(&EliminateDead, &mut graph).unwrap();
            let line = |entry: Entry| (entry.op, entry.op_type);
            cx.journal.entries.into_iter().map(line).collect::<Vec<_>>()
        };
        let line = |op: &str, op_type: &str| (op.to_owned(), op_type.to_owned());
        assert_eq!(journal(Options::default()), [line("u", "Neg"), line("c", "initializer")]);
        let deny = [RewriteId { pass: super::PASS.name, op: "u".to_owned() }].into();
        assert_eq!(journal(Options { deny, ..Options::default() }), [line("c", "initializer")]);
        assert_eq!(journal(Options { limit: Some(1), ..Options::default() }), [line("u", "Neg")]);
    }
}
