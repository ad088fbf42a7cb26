//! Arguments of the main form that belong together, each group in a file of its own.
pub mod choice;
pub mod control;
pub mod formats;
pub mod qdq;
pub mod ranges;
pub mod structure;
pub mod target;
pub mod weights;
