//! How Quantize/Dequantize pairs come in, and what is mended in models that others quantized.
use clap::Args;

use crate::qdq::QdqOptions;

/// See the [module](self).
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Quantization")]
pub struct QdqArguments {
    /// In models that others quantized: give weights whose 8-bit sums can saturate on x86 processors without VNNI scales
    /// with which none can
    #[arg(long, alias = "fix_saturation")]
    pub fix_saturation: bool,
}

impl QdqArguments {
    /// What they say.
    pub fn options(&self) -> QdqOptions {
        QdqOptions { fix_saturation: self.fix_saturation }
    }
}
