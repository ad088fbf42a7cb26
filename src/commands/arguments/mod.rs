//! Arguments by what they are about: each file holds one struct that [`shrink`](super::shrink) flattens.
mod control;

pub use control::ControlArguments;
