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
