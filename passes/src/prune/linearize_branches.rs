//! Puts one convolution in the place of a branch of two that was chosen.
//!
//! ```text
//! h = Conv (x, w1, b1)        # 3×3, 16 → 16
//! r = Relu (h)                                       y = Conv (x, w, b)        # 3×3, 16 → 16: w and b solved for
//! y = Conv (r, w2, b2)        # 3×3, 16 → 16  →
//! ```
//! Which branches go is decided by [`plan`](crate::prune::plan). The convolution has weights of 0 here and the bias of the
//! second, which is the branch with all of its inner channels at 0; [`reconstruct`](crate::prune::reconstruct) gives it
//! weights, which `prune-channels` applies.
//!
//! **Class:** approximate. **Legal when** the inner channels are free (`prune::groups`), nobody else reads what lies between,
//! and a window of one of the two, or a single position, gives an output of the same size.
//! **Does not** decide anything, or touch bodies.
use onnx_shrink_ir::Graph;

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    prune::{Branch, Kernel},
};

/// See the [module](self).
pub struct LinearizeBranches<'a> {
    /// The branches, of the graph that the pass runs on or of one from which channels were taken since
    pub branches: &'a [(Branch, Kernel)],
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "linearize-branches",
    class: Class::Approximate,
    about: "replaces a branch of two convolutions by one",
    when: When::Requested("--prune"),
};

impl Pass for LinearizeBranches<'_> {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() {
            return Ok(());
        }
        for (branch, kernel) in self.branches {
            match branch.patch(graph, *kernel) {
                Some(patch) => {
                    cx.apply(graph, patch)?;
                }
                None if graph.has_op(branch.last) => {
                    cx.missed(graph, branch.last, &Miss::Form("a branch that is not there any more"));
                }
                None => {}
            }
        }
        Ok(())
    }
}
