//! How Quantize/Dequantize pairs come in, and what is mended in models that others quantized.
use clap::Args;
use onnx_shrink_driver::request::qdq::{Cancel, Place, QdqOptions};

use super::choice::{CANCEL, PLACE, one_of};

/// See the [module](self).
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Quantization")]
pub struct QdqArguments {
    /// Which layers run in 8 bits: those that a minimum cut over the target's cost table chooses, or all that have an integer
    /// form, each wrapped into pairs of its own that are cancelled where they meet
    #[arg(long, value_parser = one_of(PLACE), default_value = "cut")]
    pub place: Place,

    /// In models that others quantized: move Quantize/Dequantize pairs through ops that move, select or order numbers, until
    /// they meet and vanish
    #[arg(long, value_parser = one_of(CANCEL), value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "exact")]
    pub cancel_qdq: Option<Cancel>,

    /// In models that others quantized: give weights whose 8-bit sums can saturate on x86 processors without VNNI scales
    /// with which none can
    #[arg(long, alias = "fix_saturation")]
    pub fix_saturation: bool,
}

impl QdqArguments {
    /// What they say.
    pub fn options(&self) -> QdqOptions {
        QdqOptions { place: self.place, cancel: self.cancel_qdq, fix_saturation: self.fix_saturation }
    }
}
