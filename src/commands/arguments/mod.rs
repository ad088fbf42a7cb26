//! Arguments of the main form that belong together, a file each.
pub mod qdq;
