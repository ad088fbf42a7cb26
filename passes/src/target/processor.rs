//! Kinds of processor, as far as 8-bit sums are concerned.

/// A kind of x86 processor, as far as 8-bit sums are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// With the dot-product instructions (AVX512-VNNI, AVX-VNNI)
    Vnni,
    /// Without them
    Avx2,
}

impl std::fmt::Display for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Processor::Vnni => "with VNNI",
            Processor::Avx2 => "without VNNI",
        })
    }
}
