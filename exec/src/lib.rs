//! exec
pub mod kernel;
pub mod kernels;
