//! Whether a processor adds products in pairs in 16 bits, which bounds the weights that meet there.

/// Whether neighbours along the reduction are added in 16 bits somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// They are: the pair rule holds
    Neighbours,
    /// They are not (depthwise convolutions with one filter a channel; storage)
    None,
}
