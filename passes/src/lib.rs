//! Rewrite passes: graph to graph. **No** files, terminals or engines here: values are computed through
//! [`onnx_shrink_ir::Evaluate`].
//!
//! A pass is one file, named for what it does; its place in [`pipeline`] is its place in the order. A rewrite looks at the
//! graph and returns a [`Patch`](onnx_shrink_ir::Patch) or a [`Miss`]; [`Context::apply`] and [`Context::missed`] are the
//! only doors.
mod affine;
mod context;
pub mod egg;
mod journal;
pub mod low_rank;
mod miss;
mod net_bytes;
pub mod pipeline;
pub mod prune;
pub mod quantize;
pub mod solver;
pub mod target;
pub mod testing;

mod drop_constant_channels;
mod eliminate_dead;
mod eliminate_identity;
mod fold_arithmetic;
mod fold_batch_norm;
mod fold_constants;
mod fold_norm_into_scales;
mod fold_pad;
mod fuse_global_average_pool;
mod inline_if;
mod linearize_branches;
mod prune_channels;
mod simplify_islands;
pub mod split_low_rank;

pub use context::{Context, Options, Statistics, Watch};
pub use drop_constant_channels::DropConstantChannels;
pub use eliminate_dead::EliminateDead;
pub use eliminate_identity::EliminateIdentity;
pub use fold_arithmetic::FoldArithmetic;
pub use fold_batch_norm::FoldBatchNorm;
pub use fold_constants::FoldConstants;
pub use fold_pad::FoldPad;
pub use fuse_global_average_pool::FuseGlobalAveragePool;
pub use inline_if::InlineIf;
pub use journal::{Entry, INITIALIZER, Journal, Outcome};
pub use linearize_branches::LinearizeBranches;
pub use miss::Miss;
pub use prune_channels::PruneChannels;
pub use simplify_islands::SimplifyIslands;
pub use split_low_rank::SplitLowRank;

use onnx_shrink_ir::{EvaluateError, Graph, PatchError};

/// What a rewrite may do to the values that a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Bit-equal results
    Exact,
    /// The same real function; the order of float operations differs
    Rounding,
    /// Another function, near enough by measurement: quantization, low rank, pruning
    Approximate,
}

/// Why a pass gave up: always a bug or an engine's failure, never a rewrite that does not fit (that is a [`Miss`]).
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

/// A rewrite of a whole graph.
pub trait Pass: Sync {
    /// The file's name with dashes, and the command line's: "fold-batch-norm".
    fn name(&self) -> &'static str;

    /// What it may do to values.
    fn class(&self) -> Class;

    /// What it does, in one line without a full stop, for `--list-passes`. (A test wants one of every listed pass.)
    fn about(&self) -> &'static str {
        ""
    }

    /// Rewrites `graph`, not its bodies: the pipeline calls it for each of those.
    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()>;
}
