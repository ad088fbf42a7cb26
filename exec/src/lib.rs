//! exec
mod kernel;
mod kernels;

pub use kernel::{Call, Kernel, KernelError};
pub use kernels::find;
