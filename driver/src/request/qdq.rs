//! What the user asks of Quantize/Dequantize pairs, beyond the ranges.

/// Which layers get pairs, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Where the target gains from it: a minimum cut over its cost table
    #[default]
    Cut,
    /// Every layer that has an integer form, each in pairs of its own that are cancelled where they meet
    Wrap,
}

/// Which pairs of others are cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Those without which every number is the same
    Exact,
    /// Also two Quantizes in a row, of which the last one stays
    Approximate,
}

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QdqOptions {
    /// How layers are chosen and wrapped
    pub place: Place,
    /// Whether pairs move through ops until they meet and vanish; `None`: only where they meet already
    pub cancel: Option<Cancel>,
    /// Whether weights that others quantized, and that can saturate on processors without VNNI, get other scales
    pub fix_saturation: bool,
}
