//! In which form integer layers are written.
use onnx_shrink_passes::target::Target;

/// How integer layers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As Quantize/Dequantize pairs, which engines fuse
    #[default]
    Qdq,
    /// As QLinearConv and QLinearMatMul
    Qoperator,
    /// As ConvInteger and MatMulInteger, whose int32 sums are requantized by plain ops
    Integer,
}

/// Where the range of a requantized value comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Requantizing {
    /// From the samples
    #[default]
    Frozen,
    /// From the sums of each run: its outputs then depend on the batch
    Shrink,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatOptions {
    /// How integer layers are written
    pub format: Format,
    /// With [`Format::Integer`]: where ranges come from
    pub requantize: Requantizing,
    /// Whether all layers with a weight matrix find their ranges in each run
    pub dynamic: bool,
}

/// Which layers with a weight matrix find their ranges in each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamic {
    /// None: the target has no such kernel, or it was asked for another form
    None,
    /// Those that gain from it
    Paying,
    /// All
    All,
}

impl Format {
    /// As the command line and targets name it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Qdq => "qdq",
            Format::Qoperator => "qoperator",
            Format::Integer => "integer",
        }
    }
}

impl FormatOptions {
    /// Which layers are dynamic on `target`.
    pub fn dynamic_on(&self, target: &Target) -> Dynamic {
        match (self.dynamic, self.format) {
            _ if !target.dynamic => Dynamic::None,
            (true, _) => Dynamic::All,
            (false, Format::Qdq) => Dynamic::Paying,
            (false, _) => Dynamic::None,
        }
    }

    /// Whether 8-bit values keep the ranges that calibration found: else nothing may count on their bounds.
    pub fn keeps_ranges(&self) -> bool {
        self.requantize == Requantizing::Frozen
    }
}
