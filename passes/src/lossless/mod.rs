//! The lossless passes, one a file: exact rewrites, and those that only change the order of float operations.
mod affine;
pub mod drop_constant_channels;
pub mod drop_zero_states;
pub mod eliminate_dead;
pub mod eliminate_identity;
pub mod fold_arithmetic;
pub mod fold_batch_norm;
pub mod fold_constant_regions;
pub mod fold_constants;
pub mod fold_neg;
mod fold_norm_into_scales;
pub mod fold_pad;
pub mod fold_shapes;
pub mod fuse_gelu;
pub mod fuse_global_average_pool;
pub mod fuse_hard_sigmoid;
pub mod fuse_instance_normalization;
pub mod fuse_layer_normalization;
pub mod fuse_rms_normalization;
pub mod fuse_softmax;
pub mod inline_if;
mod into_producer;
mod line;
pub mod merge_equal_ops;
pub mod merge_views;
mod normalized;
pub mod simplify_islands;

pub use drop_constant_channels::DropConstantChannels;
pub use drop_zero_states::DropZeroStates;
pub use eliminate_dead::EliminateDead;
pub use eliminate_identity::EliminateIdentity;
pub use fold_arithmetic::FoldArithmetic;
pub use fold_batch_norm::FoldBatchNorm;
pub use fold_constant_regions::FoldConstantRegions;
pub use fold_constants::FoldConstants;
pub use fold_neg::FoldNeg;
pub use fold_pad::FoldPad;
pub use fold_shapes::FoldShapes;
pub use fuse_gelu::FuseGelu;
pub use fuse_global_average_pool::FuseGlobalAveragePool;
pub use fuse_hard_sigmoid::FuseHardSigmoid;
pub use fuse_instance_normalization::FuseInstanceNormalization;
pub use fuse_layer_normalization::FuseLayerNormalization;
pub use fuse_rms_normalization::FuseRmsNormalization;
pub use fuse_softmax::FuseSoftmax;
pub use inline_if::InlineIf;
pub use merge_equal_ops::MergeEqualOps;
pub use merge_views::MergeViews;
pub use simplify_islands::SimplifyIslands;

use crate::Pass;

/// All of them. They run in this order, again and again until nothing changes: a new pass is a file here, and a line in this list.
pub fn in_order() -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(FoldConstants::exact()),
        Box::new(FoldConstants::rounding()), // before all that wants constant weights
        Box::new(FoldConstantRegions::exact()), // what grows op by op may shrink as a whole
        Box::new(FoldConstantRegions::rounding()),
        Box::new(DropZeroStates),
        Box::new(FoldShapes), // behind it: the types are as good as they get
        Box::new(InlineIf),
        Box::new(EliminateIdentity), // before all that looks at producers
        Box::new(MergeEqualOps),     // behind it: ops that read the same value have the same inputs now
        Box::new(FuseInstanceNormalization),
        Box::new(FuseLayerNormalization),
        Box::new(FuseRmsNormalization),
        Box::new(FuseSoftmax),
        Box::new(FuseGelu),
        Box::new(FuseHardSigmoid), // before folding into layers: its summand is worth more here
        Box::new(FoldBatchNorm),
        Box::new(FoldArithmetic),
        Box::new(FoldNeg),
        Box::new(FoldPad),
        Box::new(FuseGlobalAveragePool),
        Box::new(DropConstantChannels), // after folding: a channel is its weights and bias then
        Box::new(SimplifyIslands::exact()), // after folding: its rules look at constants
        Box::new(SimplifyIslands::rounding()), // what is left when rounding may differ
        Box::new(MergeViews),           // after the islands: their rules know more of views
        Box::new(EliminateDead),        // last: it clears what the others left
    ]
}
