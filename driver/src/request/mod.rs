//! What a run is asked for: data, without a command line.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use onnx_shrink_ir::proto::ExternalData;
use onnx_shrink_passes::{
    Options,
    target::{ORT_CPU, Target},
};

use crate::{
    Failure, Gates,
    samples::{BadSamples, Data, SampleOptions},
};

pub mod control;
pub mod formats;
pub mod io;
pub mod qdq;
pub mod structure;
pub mod weights;

use control::Control;
use formats::{Dynamic, FormatOptions};
use io::{Input, Output};
use qdq::{Place, QdqOptions};
use structure::StructureOptions;
use weights::WeightsOptions;

/// How ranges of activations are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Calibrate {
    /// The one that measures best
    #[default]
    Auto,
    /// From the least to the largest value seen
    MinMax,
    /// Without the outermost values
    Percentile,
    /// The range with the least Kullback-Leibler divergence
    Entropy,
    /// The range with the least squared error
    Mse,
}

/// Where ranges come from when there are no samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranges {
    /// From batch norms and bounds of the model
    pub from_model: bool,
    /// Ranges of inputs, by name
    pub inputs: BTreeMap<String, (f64, f64)>,
    /// From so many made-up samples
    pub synthetic: Option<usize>,
    /// From what `calibrate` saw of shards of samples
    pub files: Vec<PathBuf>,
}

/// What a run of the main command is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model to read
    pub input: Input,
    /// Where it is written; `None`: the user named nothing, an error
    pub output: Option<Output>,
    /// Whether to quantize to 8 bits
    pub int8: bool,
    /// Samples that calibrate
    pub data: Option<Data>,
    /// Samples that judge; `None`: every fourth of `data`
    pub validation_data: Option<Data>,
    /// How files become samples
    pub sample_options: SampleOptions,
    /// What becomes of samples that cannot be used
    pub bad_samples: BadSamples,
    /// What the model shall run on
    pub target: &'static Target,
    /// How ranges are found
    pub calibrate: Calibrate,
    /// Where ranges come from when there are no samples
    pub ranges: Ranges,
    /// Ops to keep in float: names, op types or globs
    pub keep_float: Vec<String>,
    /// How integer layers are written
    pub formats: FormatOptions,
    /// How pairs come in, and what is mended in models that others quantized
    pub qdq: QdqOptions,
    /// What is removed of the model's structure
    pub structure: StructureOptions,
    /// How weights are stored where layers compute in float
    pub weights: WeightsOptions,
    /// Passes to leave out
    pub skip: Vec<String>,
    /// What the result must hold
    pub gates: Gates,
    /// Whether to run the result against the input
    pub validate: bool,
    /// Whether only bit-equal rewrites are allowed
    pub exact: bool,
    /// Threads; 0: one for each processor
    pub threads: usize,
    /// When tensors go to a file of their own
    pub external_data: ExternalData,
    /// Whether fields that this version of ONNX does not know may be dropped
    pub allow_unknown_fields: bool,
    /// Whether nodes that ONNX does not have may stay as they are
    pub allow_unknown_ops: bool,
    /// How the work is done: passes, shapes, what is shown on the way
    pub control: Control,
}

impl Request {
    /// A request with every default, for `input`.
    pub fn new(input: impl Into<Input>) -> Request {
        Request {
            input: input.into(),
            output: None,
            int8: false,
            data: None,
            validation_data: None,
            sample_options: SampleOptions::default(),
            bad_samples: BadSamples::Refuse,
            target: &ORT_CPU,
            calibrate: Calibrate::Auto,
            ranges: Ranges::default(),
            keep_float: Vec::new(),
            formats: FormatOptions::default(),
            qdq: QdqOptions::default(),
            structure: StructureOptions::default(),
            weights: WeightsOptions::default(),
            skip: Vec::new(),
            gates: Gates::default(),
            validate: true,
            exact: false,
            threads: 0,
            external_data: ExternalData::Auto,
            allow_unknown_fields: false,
            allow_unknown_ops: false,
            control: Control::default(),
        }
    }

    /// What passes need to know of it.
    pub fn options(&self) -> Result<Options, Failure> {
        self.control.options(&self.skip, self.exact)
    }

    /// Which layers find their ranges in each run: none where all are to be wrapped in pairs.
    pub fn dynamic(&self) -> Dynamic {
        match self.qdq.place {
            Place::Wrap => Dynamic::None,
            Place::Cut => self.formats.dynamic_on(self.target),
        }
    }

    /// Threads that are started: no more than there are processors, which gives the same bytes sooner. 0: one for each.
    pub fn used_threads(&self) -> usize {
        used_threads(self.threads)
    }

    /// Whether the model is written to standard output.
    pub fn to_stdout(&self) -> bool {
        self.output == Some(Output::Stdout)
    }

    /// The output, checked before the work as far as possible: a long run does not fail at the end because the folder is missing.
    /// `None`: a dry run without one.
    pub fn checked_output(&self) -> Result<Option<&Output>, Failure> {
        let output = self.output.as_ref();
        if self.control.dry_run {
            return Ok(output);
        }
        match output {
            None => {
                let example = PathBuf::from(self.input.to_string()).with_extension("small.onnx");
                return Err(Failure::usage(format_args!(
                    "no output file: name one, as in `onnx-shrink {} -o {}`; -o - writes to standard output",
                    self.input,
                    example.display()
                )));
            }
            Some(Output::File(path)) => checked_file(path)?,
            Some(Output::Stdout | Output::Memory) => {}
        }
        Ok(output)
    }
}

/// Of `asked` threads those that have a processor; 0 is one for each.
pub fn used_threads(asked: usize) -> usize {
    std::thread::available_parallelism().map_or(asked, |processors| asked.min(processors.get()))
}

/// Whether a file can be written to `path`, as far as that can be told before: its folder is there and takes a new file.
pub fn checked_file(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let refused = |why: String| Err(Failure::usage(format_args!("{shown}: cannot be written: {why}")));
    if path.as_os_str().is_empty() {
        return Err(Failure::usage("an output has an empty name"));
    }
    if path.is_dir() {
        return refused("this is a folder; name a file in it".to_owned());
    }
    if path.exists() && !path.is_file() {
        return Ok(()); // a device or a pipe
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return refused(format!("the folder `{}` does not exist; create it first", folder.display()));
    }
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => refused(format!("its folder takes no new file: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::Request;
    use crate::ExitCode;

    #[test]
    fn an_output_is_checked_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let check = |output: Option<&str>| {
            let output = output.map(|name| folder.path().join(name).into());
            let request = Request { output, ..Request::new("m.onnx") };
            request.checked_output().map(|_| ()).map_err(|failure| (failure.code, failure.to_string()))
        };
        assert!(check(Some("out.onnx")).is_ok());
        for (output, part) in
            [(None, "-o m.small.onnx"), (Some("a/out.onnx"), "does not exist"), (Some("."), "a folder")]
        {
            let (code, sentence) = check(output).unwrap_err();
            assert!(code == ExitCode::Usage && sentence.contains(part), "{sentence}");
        }
    }
}
