//! The form of a pass.
use onnx_shrink_ir::{EvaluateError, Graph, OpId, Patch, PatchError};

use crate::{Class, Context, Miss};

/// Why a pass gave up: always a bug or an engine's failure, never a rewrite that does not fit (that is a [`Miss`](crate::Miss)).
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A patch that did not fit
    #[error("{pass} at `{anchor}`: {source}")]
    Patch {
        /// The pass
        pass: &'static str,
        /// The op that it would have rewritten, "" when that was gone
        anchor: String,
        /// What did not fit
        source: PatchError,
    },
    /// A rewrite that left a broken graph
    #[error("{pass} at `{anchor}` broke the graph: {violation}")]
    Broken {
        /// The pass
        pass: &'static str,
        /// The op that it rewrote
        anchor: String,
        /// The first violated invariant
        violation: String,
    },
    /// The engine cannot run the model
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// The result of a pass.
pub type Result<T, E = PassError> = std::result::Result<T, E>;

/// When a pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In every run, to a fixpoint
    Lossless,
    /// Behind the lossless part, on this request
    Requested(&'static str),
}

/// What a user may know of a pass. It stands beside the pass, and in [`registry`](crate::registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The file's name with dashes, and the command line's: "fold-batch-norm"
    pub name: &'static str,
    /// What it may do to values; the least exact class of a pass that runs in several
    pub class: Class,
    /// What it does, in one line without a full stop
    pub about: &'static str,
    /// When it runs
    pub when: When,
}

/// A rewrite of a whole graph.
pub trait Pass: Sync {
    /// What a user may know of it.
    fn description(&self) -> &'static Description;

    /// Its name.
    fn name(&self) -> &'static str {
        self.description().name
    }

    /// What it may do to values in this form.
    fn class(&self) -> Class {
        self.description().class
    }

    /// Rewrites `graph`, not its bodies: the pipeline calls it for each of those.
    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()>;
}

/// A pass that looks at ops one after the other: each is the anchor of a patch, or of a miss.
pub trait Rewrite: Sync {
    /// What a user may know of it.
    fn description(&self) -> &'static Description;

    /// What it may do to values in this form.
    fn class(&self) -> Class {
        self.description().class
    }

    /// The ops to look at, in this order; those that an earlier patch removed are passed over.
    fn anchors(&self, graph: &Graph) -> Vec<OpId> {
        graph.ops()
    }

    /// The edits that stand for `op`, or why there are none.
    fn rewrite(&self, graph: &Graph, op: OpId, cx: &Context<'_>) -> Result<Patch, Miss>;
}

impl<R: Rewrite> Pass for R {
    fn description(&self) -> &'static Description {
        Rewrite::description(self)
    }

    fn class(&self) -> Class {
        Rewrite::class(self)
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        for op in self.anchors(graph) {
            if !graph.has_op(op) {
                continue;
            }
            match self.rewrite(graph, op, cx) {
                Ok(patch) => {
                    cx.apply(graph, patch)?;
                }
                Err(miss) => cx.missed(graph, op, &miss),
            }
        }
        Ok(())
    }
}
