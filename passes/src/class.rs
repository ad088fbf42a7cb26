//! What passes may do to the values that a model computes.

/// What a rewrite may do to the values that a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Bit-equal results
    Exact,
    /// The same real function; the order of float operations differs
    Rounding,
    /// Another function, near enough by measurement: quantization, low rank, pruning
    Approximate,
}

/// What a step of cancelling does to the values of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Exactness {
    /// Bit-equal, because numbers are only moved, or stay
    Lossless,
    /// Bit-equal, because Dequantize keeps their order
    Monotone,
    /// A rounding less
    Approximate,
}
