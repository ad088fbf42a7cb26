//! Quantization: ranges from samples, a placement that pays, Quantize/Dequantize pairs that engines fuse.
pub mod calibration;
pub mod calibrators;
pub mod histogram;
pub mod weights;
