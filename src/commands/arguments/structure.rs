//! What is removed of a model's structure.
use clap::Args;
use onnx_shrink_driver::request::structure::{StructureOptions, Svd};
use onnx_shrink_passes::prune::orders::Criterion;

use super::choice::{CRITERION, one_of};

/// See the [module](self).
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Structure")]
pub struct StructureArguments {
    /// Remove channels: this share of the model's multiply-adds, between 0 and 1; wants --data, 500 samples are good
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub prune: Option<f64>,

    /// How channels are ranked (default: reconstruction with samples, l2 without)
    #[arg(long, value_parser = one_of(CRITERION), value_name = "NAME", requires = "prune", alias = "prune_criterion")]
    pub prune_criterion: Option<Criterion>,

    /// Split fully connected layers into two: where that is measured to be near enough, or at a share of the energy (0.95) or of
    /// the rank (25%)
    #[arg(long, value_name = "ENERGY|RANK%|auto", num_args = 0..=1, default_missing_value = "auto")]
    pub svd: Option<Svd>,
}

fn ratio(text: &str) -> Result<f64, String> {
    let wanted = "a share of the multiply-adds is wanted, above 0 and below 1, such as 0.3";
    match text.parse::<f64>() {
        Ok(ratio) if ratio > 0.0 && ratio < 1.0 => Ok(ratio),
        _ => Err(wanted.to_owned()),
    }
}

impl StructureArguments {
    /// What they say.
    pub fn options(&self) -> StructureOptions {
        StructureOptions { prune: self.prune, criterion: self.prune_criterion, svd: self.svd }
    }
}
