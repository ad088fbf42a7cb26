//! Passes that compute layers in 8 bits: Q/DQ pairs, dynamic quantization, operator forms, and repairs of pairs that other tools wrote.
//!
//! One pass a file. What they look at first is in [`crate::analysis`], scales and rounding are in [`crate::numerics`].
pub mod cancel_qdq;
mod draft;
pub mod dynamic_int8;
pub mod fix_saturation;
pub mod insert_qdq;
mod integer_moves;
pub mod layout_in_u8;
pub mod requantize;
pub mod to_integer;
pub mod to_qoperator;
pub mod wrap_qdq;

pub use cancel_qdq::CancelQdq;
pub use dynamic_int8::DynamicInt8;
pub use fix_saturation::FixSaturation;
pub use insert_qdq::InsertQdq;
pub use layout_in_u8::LayoutInU8;
pub use requantize::Requantize;
pub use to_integer::ToInteger;
pub use to_qoperator::ToQoperator;
pub use wrap_qdq::WrapQdq;
