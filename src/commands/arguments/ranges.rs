//! `--ranges model`, `--input-range`, `--synthetic`, `--ranges-in`: static int8 without samples that calibrate.
use clap::{Args, ValueEnum};
use onnx_shrink_driver::{Failure, request::Ranges};

/// Where ranges of activations come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// From the samples of --data
    #[default]
    Samples,
    /// From the model: batch norms, bounded activations, intervals; about twice the error
    Model,
}

/// The arguments that say where ranges come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Quantization")]
pub struct RangesArguments {
    /// Where ranges of activations come from
    #[arg(long, value_enum, default_value = "samples", conflicts_with_all = ["data", "calibrate"])]
    pub ranges: Source,

    /// With --ranges model: numbers that an input can have; may be repeated
    #[arg(long, value_name = "NAME=LO,HI", allow_hyphen_values = true)]
    pub input_range: Vec<String>,

    /// Calibrate with N made-up samples; the file's metadata says so. Real ones are far better
    #[arg(long, value_name = "N", conflicts_with_all = ["data", "ranges"])]
    pub synthetic: Option<std::num::NonZeroUsize>,

    /// Ranges that `calibrate --ranges-out` saw, in place of --data; once for each shard. The order makes no difference
    #[arg(long, value_name = "FILE", requires = "int8", conflicts_with_all = ["ranges", "synthetic", "prune", "svd"])]
    pub ranges_in: Vec<std::path::PathBuf>,
}

impl RangesArguments {
    /// What they ask for.
    pub fn options(&self) -> Result<Ranges, Failure> {
        let mut ranges = Ranges {
            from_model: self.ranges == Source::Model,
            synthetic: self.synthetic.map(std::num::NonZeroUsize::get),
            files: self.ranges_in.clone(),
            ..Ranges::default()
        };
        if !self.input_range.is_empty() && !ranges.from_model {
            return Err(Failure::usage("--input-range is for --ranges model: samples show ranges themselves"));
        }
        for text in &self.input_range {
            let wrong = || Failure::usage(format_args!("--input-range {text}: want NAME=LO,HI with numbers LO < HI"));
            let (name, range) = text.rsplit_once('=').ok_or_else(wrong)?;
            let (low, high) = range.split_once(',').ok_or_else(wrong)?;
            let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            let (low, high) = number(low).zip(number(high)).filter(|(low, high)| low < high).ok_or_else(wrong)?;
            if ranges.inputs.insert(name.to_owned(), (low, high)).is_some() {
                return Err(Failure::usage(format_args!("--input-range {text}: `{name}` has a range already")));
            }
        }
        Ok(ranges)
    }
}
