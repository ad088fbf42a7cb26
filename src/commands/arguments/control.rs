//! Arguments that say how the work is done: which passes, which shapes, what is shown on the way.
use std::path::PathBuf;

use clap::Args;
use onnx_shrink_driver::{
    Failure,
    request::control::{Control, parse_dims, parse_shapes},
};

/// The arguments of [`Control`], `--explain` aside.
#[derive(Debug, Args)]
pub struct ControlArguments {
    /// Run just these lossless passes, in this order, once
    #[arg(long, value_name = "PASS,…", value_delimiter = ',', help_heading = "Rewrites", conflicts_with = "only")]
    #[arg(alias = "optimization-passes")]
    pub passes: Vec<String>,

    /// Run no pass but these, in their usual order, until nothing changes
    #[arg(long, value_name = "PASS,…", value_delimiter = ',', help_heading = "Rewrites")]
    pub only: Vec<String>,

    /// End the rewriting when this pass has run
    #[arg(long, value_name = "PASS", help_heading = "Rewrites", alias = "stop_after")]
    pub stop_after: Option<String>,

    /// Print the passes in their order, each with its class and what it does
    #[arg(long, help_heading = "Rewrites", aliases = ["list_passes", "print-all-names", "list-rewrites"])]
    pub list_passes: bool,

    /// Fix the shape of an input, as NAME:1x3x224x224; may be repeated
    #[arg(long, value_name = "NAME:SHAPE", help_heading = "Rewrites")]
    #[arg(aliases = ["input_shape", "input-shapes", "overwrite-input-shape", "overwrite_input_shape", "calibration-shapes", "calibration_shapes"])]
    pub input_shape: Vec<String>,

    /// Fix a named dimension, as NAME=8; may be repeated
    #[arg(long, value_name = "NAME=N", help_heading = "Rewrites", aliases = ["dim-param", "dim_param"])]
    pub free_dim: Vec<String>,

    /// Make initializers constant that are inputs, too, and could be overridden
    #[arg(long, help_heading = "Rewrites", aliases = ["freeze_initializers", "remove-initializer-from-input"])]
    pub freeze_initializers: bool,

    /// Verify the graph after every rewrite
    #[arg(long, help_heading = "Validation", alias = "verify_each")]
    pub verify_each: bool,

    /// Do everything but write the model
    #[arg(long, help_heading = "Output", aliases = ["dry_run", "check-optim"])]
    pub dry_run: bool,

    /// Write the graph as text into this folder after each pass that changed it, and what is around guilty rewrites
    #[arg(long, value_name = "DIR", help_heading = "Output", alias = "dump_dir")]
    pub dump_dir: Option<PathBuf>,
}

impl ControlArguments {
    /// What is asked for.
    pub fn control(&self, explain: Option<String>) -> Result<Control, Failure> {
        let mut control = Control {
            passes: self.passes.clone(),
            only: self.only.clone(),
            stop_after: self.stop_after.clone(),
            verify_each: self.verify_each,
            dump_dir: self.dump_dir.clone(),
            dry_run: self.dry_run,
            input_shapes: Vec::new(),
            dims: Vec::new(),
            freeze_initializers: self.freeze_initializers,
            explain,
        };
        for text in &self.input_shape {
            let shapes =
                parse_shapes(text).map_err(|problem| Failure::usage(format_args!("--input-shape: {problem}")))?;
            control.input_shapes.extend(shapes);
        }
        for text in &self.free_dim {
            let dims = parse_dims(text).map_err(|problem| Failure::usage(format_args!("--free-dim: {problem}")))?;
            control.dims.extend(dims);
        }
        Ok(control)
    }
}
