//! What a comparison is made with.
use onnx_shrink_ir::Evaluate;

use super::change::Options;

/// A comparison under way.
pub(super) struct Compare<'a> {
    pub(super) evaluator: &'a dyn Evaluate,
    pub(super) options: Options,
}
