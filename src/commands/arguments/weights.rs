//! `--weights`: weights in fewer bits, in layers that compute in float.
use clap::Args;
use onnx_shrink_driver::request::weights::{Weights, WeightsOptions};

use super::choice::{WEIGHTS, one_of};

/// See the [module](self).
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Quantization")]
pub struct WeightsArguments {
    /// Store weights in fewer bits, compute in float: fp16, or int4 (5 bits a number with the scales; where they matter most 8;
    /// tables in 8, what does not fit in fp16), rounded by GPTQ with --data, to nearest without
    #[arg(long, value_parser = one_of(WEIGHTS), value_name = "TYPE", conflicts_with = "int8")]
    pub weights: Option<Weights>,
}

impl WeightsArguments {
    /// What they say.
    pub fn options(&self) -> WeightsOptions {
        WeightsOptions { weights: self.weights }
    }
}
