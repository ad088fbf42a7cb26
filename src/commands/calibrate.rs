//! `calibrate`: what calibration sees of one shard of the samples, as a file that `--ranges-in` merges.
use std::path::{Path, PathBuf};

use clap::Args;
use onnx_shrink_driver::{ExitCode, Failure, Request, paths::Paths, request::checked_file, shrink::calibrate_shard};
use onnx_shrink_ir::proto;

use super::{Command, Session, shrink::SampleArguments};
use crate::progress;

/// The arguments of `calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateShard {
    /// The model that will be quantized; `-` is standard input
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,

    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub ranges_out: PathBuf,

    /// Leave a lossless pass out, as the run that reads the file will; may be repeated, or a list with commas
    #[arg(long, value_name = "PASS", value_delimiter = ',')]
    pub skip: Vec<String>,

    /// Drop fields that this version of ONNX does not know, instead of refusing the model
    #[arg(long)]
    pub allow_unknown_fields: bool,

    /// Keep ops and attributes that ONNX's own domain does not have, instead of refusing the model
    #[arg(long)]
    pub allow_unknown_ops: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub samples: SampleArguments,
}

impl Command for CalibrateShard {
    const NAME: &'static str = "calibrate";
    const ABOUT: &'static str = "Store what calibration sees of one shard of the samples, for --ranges-in";
    const AFTER_HELP: &'static str = "\
Examples:
  onnx-shrink calibrate model.onnx --data shards/0 --ranges-out 0.ranges     on each of many machines
  onnx-shrink model.onnx -o small.onnx --int8 --ranges-in 0.ranges --ranges-in 1.ranges

All of --data calibrates. docs/calibrate.md: recipes for GNU parallel, Slurm, Kubernetes and Ray.

Exit codes: 0 written; 1 the model cannot be used; 2 the command line is wrong, or the file cannot be written;
3 the samples cannot be used.";

    fn run(self, session: &mut Session<'_>) -> Result<ExitCode, Failure> {
        let Some(data) = &self.samples.data else {
            return Err(Failure::usage("no samples: name those of this shard with --data PATH"));
        };
        if self.samples.validation_data.is_some() {
            return Err(Failure::usage("nothing is judged here: give --validation-data to the run with --ranges-in"));
        }
        if self.ranges_out == Path::new("-") {
            return Err(Failure::usage("--ranges-out -: ranges are no text; name a file"));
        }
        checked_file(&self.ranges_out)?;
        let paths = Paths::default().model(&self.model).samples("--data", Some(data));
        paths.write("--ranges-out", &self.ranges_out).print().check()?;
        let mut request = Request::new(&self.model);
        request.output = Some(self.ranges_out.clone().into());
        request.int8 = true;
        request.validate = false;
        request.skip = self.skip;
        request.allow_unknown_fields = self.allow_unknown_fields;
        request.allow_unknown_ops = self.allow_unknown_ops;
        request.sample_options = self.samples.options();
        request.bad_samples = self.samples.bad_samples();
        let progress = progress::for_stderr(session.quiet);
        let shard = calibrate_shard(&request, &data.into(), progress.as_ref())?;
        proto::save_bytes(&shard.bytes, &self.ranges_out).map_err(|error| Failure::new(ExitCode::Usage, error))?;
        if let Some(warning) = &shard.warning {
            log::warn!("{warning}");
        }
        if !session.quiet {
            let out = self.ranges_out.display();
            session.print(&format!("{out}: {} values on {} samples\n", shard.values, shard.samples));
        }
        Ok(ExitCode::Done)
    }
}
