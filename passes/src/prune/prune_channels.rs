//! Removes channels that were chosen, and gives the layers behind them weights that make up for it.
//!
//! ```text
//! h = Conv (x, w1, b1)        # 16 channels          h = Conv (x, w1, b1)        # 8 channels
//! y = Conv (h, w2, b2)                         →     y = Conv (h, w2, b2)        # w2 and b2 solved for
//! ```
//! Which channels go is decided by [`plan`](crate::prune::plan), new weights by
//! [`reconstruct`](crate::prune::reconstruct); here they are applied, through the one door.
//!
//! **Class:** approximate. **Legal when** no op needs all channels of a group (`prune::groups`).
//! **Does not** decide anything, or touch bodies.
//! **Source:** `docs/methods.md` §5, §9.
use std::collections::BTreeSet;

use onnx_shrink_ir::{Graph, Patch};

use crate::{
    Class, Context, Description, Pass, Result, When,
    prune::{Groups, Unit, layer::Layer, reconstruct::Solved},
};

/// See the [module](self).
pub struct PruneChannels<'a> {
    /// The groups of the graph that the pass runs on
    pub groups: &'a Groups,
    /// The units that go
    pub gone: &'a BTreeSet<Unit>,
    /// New weights of the layers behind them
    pub solved: &'a [Solved],
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "prune-channels",
    class: Class::Approximate,
    about: "removes channels and refits the layers that read them",
    when: When::Requested("--prune"),
};

impl Pass for PruneChannels<'_> {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() {
            return Ok(());
        }
        match self.groups.remove(graph, self.gone) {
            Ok(Some(patch)) => {
                if cx.apply(graph, patch)?.is_none() {
                    return Ok(());
                }
            }
            Ok(None) => {}
            Err(miss) => {
                if let Some(&op) = self.groups.groups.first().and_then(|group| group.producers.first()) {
                    cx.missed(graph, op, &miss);
                }
                return Ok(());
            }
        }
        for solved in self.solved {
            let Some(weights) = solved.weights.as_ref().filter(|_| graph.has_op(solved.op)) else { continue };
            let Some(layer) = Layer::of(graph, solved.op) else { continue };
            let mut patch = Patch::new(solved.op);
            if layer.set_weights(graph, weights, &mut patch).is_some() {
                cx.apply(graph, patch)?;
            }
        }
        Ok(())
    }
}
