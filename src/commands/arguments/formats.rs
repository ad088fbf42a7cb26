//! `--format`, `--requantize`, `--dynamic`: how integer layers are written.
use clap::Args;
use onnx_shrink_driver::request::formats::{Format, FormatOptions, Requantizing};

use super::choice::{FORMAT, REQUANTIZE, one_of};

/// How integer layers are written.
#[derive(Debug, Args)]
pub struct FormatArguments {
    /// How integer layers are written
    #[arg(long, value_parser = one_of(FORMAT), default_value = "qdq", help_heading = "Quantization")]
    #[arg(aliases = ["quant-format", "quant_format"])]
    pub format: Format,

    /// --format integer: where the ranges of 8-bit results come from
    #[arg(long, value_parser = one_of(REQUANTIZE), default_value = "frozen", help_heading = "Quantization")]
    pub requantize: Requantizing,

    /// All layers with a weight matrix find their ranges in each run, with or without samples
    #[arg(long, help_heading = "Quantization")]
    pub dynamic: bool,
}

impl FormatArguments {
    /// What they ask for.
    pub fn options(&self) -> FormatOptions {
        FormatOptions { format: self.format, requantize: self.requantize, dynamic: self.dynamic }
    }
}
