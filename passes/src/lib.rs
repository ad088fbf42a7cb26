//! Rewrite passes: graph to graph. **No** files, terminals or engines here: values are computed through
//! [`onnx_shrink_ir::Evaluate`].
//!
//! A pass is one file, named for what it does; its place in [`pipeline`] is its place in the order. A rewrite looks at the
//! graph and returns a [`Patch`](onnx_shrink_ir::Patch) or a [`Miss`]; [`Context::apply`] and [`Context::missed`] are the
//! only doors.
pub mod analysis;
pub mod calibration;
mod class;
mod context;
pub mod egg;
mod error;
mod journal;
pub mod lossless;
pub mod low_rank;
mod miss;
mod net_bytes;
pub mod numerics;
mod pass;
pub mod pipeline;
pub mod prune;
pub mod quantize;
pub mod registry;
pub mod samples;
pub mod target;
pub mod testing;
pub mod weight_only;

pub use class::{Class, Exactness};
pub use context::{Context, Options, Statistics, Watch};
pub use error::{PassError, Result};
pub use journal::{Entry, INITIALIZER, Journal, Outcome};
pub use lossless::{
    DropConstantChannels, EliminateDead, EliminateIdentity, FoldArithmetic, FoldBatchNorm, FoldConstants, FoldPad,
    FuseGlobalAveragePool, InlineIf, MergeEqualOps, SimplifyIslands,
};
pub use low_rank::SplitLowRank;
pub use miss::Miss;
pub use pass::{Description, Pass, Rewrite, When};
pub use prune::{LinearizeBranches, PruneChannels};
pub use samples::{SampleError, SampleSource};
