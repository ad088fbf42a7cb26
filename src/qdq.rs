//! What the user asks of Quantize/Dequantize pairs, beyond the ranges.

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QdqOptions {
    /// Whether weights that others quantized, and that can saturate on processors without VNNI, get other scales
    pub fix_saturation: bool,
}
