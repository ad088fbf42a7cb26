//! Pruning of channels: which channels hang together ([`groups`]), what goes with each of them, in which order they go
//! ([`orders`]), and how layers are solved for again ([`layer`], [`trial`]).
//!
//! Why apart from the passes: `prune-channels` and `drop-constant-channels` remove channels by other reasons through the
//! same door, [`Groups::remove`], and `inspect --groups` shows them without removing any.
pub mod branch;
pub mod budget;
mod find;
pub mod groups;
mod labels;
pub mod layer;
pub mod linearize_branches;
pub mod orders;
pub mod plan;
pub mod private_vectors;
pub mod prune_channels;
pub(crate) mod ranges;
pub mod reconstruct;
mod remove;
mod rules;
mod search;
pub mod trial;

pub use branch::{Branch, Kernel, Removal, Window};
pub use groups::{Consumer, Group, Groups, Sizes, Unit, Weighted};
pub use linearize_branches::LinearizeBranches;
pub use prune_channels::PruneChannels;
