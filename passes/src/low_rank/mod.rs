//! Fully connected layers in two of a lower rank: which directions of the outputs to keep, and the pass that splits a layer.
pub mod directions;
pub mod split_low_rank;

pub use split_low_rank::SplitLowRank;
