//! Weight-only quantization: passes that store weights in fewer bits and leave the arithmetic in float.
//!
//! One pass a file; beside them what they share: the forms of 4-bit weights, which constants are tables, the fewest bits of each.
pub mod fold_weights;
mod int4_forms;
pub mod least_bits;
pub mod store_fp16;
pub mod store_int4;
pub mod store_int8;
mod stored;
pub mod tables;
pub mod twins;

pub use fold_weights::{FoldWeights, RestoreWeights};
pub use store_fp16::StoreFp16;
pub use store_int4::StoreInt4;
pub use store_int8::StoreInt8;
