//! How weights are stored in layers that compute in float.

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// 16-bit floats
    Fp16,
    /// 4-bit integers in blocks, by GPTQ with samples
    Int4,
}

impl Weights {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Weights::Fp16 => "fp16",
            Weights::Int4 => "int4",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsOptions {
    /// How weights are stored; `None`: as they are
    pub weights: Option<Weights>,
}
