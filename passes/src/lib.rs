//! Rewrite passes: graph to graph. **No** files, terminals or engines here: values are computed through
//! [`onnx_shrink_ir::Evaluate`].
//!
//! A pass is one file, named for what it does; its place in [`pipeline`] is its place in the order. A rewrite looks at the
//! graph and returns a [`Patch`](onnx_shrink_ir::Patch) or a [`Miss`]; [`Context::apply`] and [`Context::missed`] are the
//! only doors.
//!
//! ```
//! use onnx_shrink_ir::text::{parse_model, print_graph};
//! use onnx_shrink_passes::{Context, Options, pipeline, testing::Reference};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"<ir_version: 8, opset_import: ["" : 17]>
//!     g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = Neg (a)  c = Identity (x)  y = Add (c, b) }"#;
//! let mut model = parse_model(text).expect("this is ONNX's own syntax");
//! // Constants are computed by an engine: `onnx_shrink_exec::Interpreter`, or here the reference of the tests.
//! let mut cx = Context::new(Options::default(), &Reference);
//! pipeline::run_lossless(&mut model.graph, &mut cx)?;
//! assert_eq!(model.graph.op_count(), 1, "{}", print_graph(&model.graph));
//! for entry in cx.journal.entries {
//!     println!("{} at `{}`: {:?}", entry.pass, entry.op, entry.outcome);
//! }
//! # Ok(())
//! # }
//! ```
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
pub use journal::{Entry, INITIALIZER, Journal, Outcome, RewriteId};
pub use lossless::{
    DropConstantChannels, DropZeroStates, EliminateDead, EliminateIdentity, FoldArithmetic, FoldBatchNorm,
    FoldConstantRegions, FoldConstants, FoldNeg, FoldPad, FoldShapes, FuseGelu, FuseGlobalAveragePool, FuseHardSigmoid,
    FuseInstanceNormalization, FuseLayerNormalization, FuseRmsNormalization, FuseSoftmax, InlineIf, MergeEqualOps,
    MergeViews, SimplifyIslands,
};
pub use low_rank::SplitLowRank;
pub use miss::{Miss, Named, Origin};
pub use pass::{Description, Pass, Rewrite, When};
pub use prune::{LinearizeBranches, PruneChannels};
pub use samples::{SampleError, SampleSource};
