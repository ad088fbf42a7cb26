//! The lossless passes, one a file: exact rewrites, and those that only change the order of float operations.
mod affine;
pub mod drop_constant_channels;
pub mod eliminate_dead;
pub mod eliminate_identity;
pub mod fold_arithmetic;
pub mod fold_batch_norm;
pub mod fold_constants;
mod fold_norm_into_scales;
pub mod fold_pad;
pub mod fold_shapes;
pub mod fuse_global_average_pool;
pub mod inline_if;
pub mod merge_equal_ops;
pub mod simplify_islands;

pub use drop_constant_channels::DropConstantChannels;
pub use eliminate_dead::EliminateDead;
pub use eliminate_identity::EliminateIdentity;
pub use fold_arithmetic::FoldArithmetic;
pub use fold_batch_norm::FoldBatchNorm;
pub use fold_constants::FoldConstants;
pub use fold_pad::FoldPad;
pub use fold_shapes::FoldShapes;
pub use fuse_global_average_pool::FuseGlobalAveragePool;
pub use inline_if::InlineIf;
pub use merge_equal_ops::MergeEqualOps;
pub use simplify_islands::SimplifyIslands;
