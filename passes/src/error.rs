//! How a pass fails.
use onnx_shrink_ir::{EvaluateError, PatchError};

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
