//! The main form: read a model, make it smaller, prove it right, write it.
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use onnx_shrink_driver::{
    ExitCode, Failure, Gates, Report, Request, ShrinkError,
    paths::Paths,
    report::Note,
    request::{self, Calibrate},
    samples::{self, BadSamples, Channels, Data, Layout, Resize, SampleOptions},
    shrink,
};
use onnx_shrink_ir::proto::{self, ExternalData};
use onnx_shrink_passes::{When, registry::passes};

use super::{
    Command, Session,
    arguments::{
        choice::{CALIBRATE, CHANNELS, LAYOUT, one_of},
        control::ControlArguments,
        formats::FormatArguments,
        qdq::QdqArguments,
        ranges::RangesArguments,
        structure::StructureArguments,
        target::TargetArguments,
        weights::WeightsArguments,
    },
};
use crate::{
    progress,
    text::{report as text, style::Style},
};

/// The arguments of the main form.
#[derive(Debug, Args)]
pub struct Shrink {
    /// The model to read; `-` is standard input
    #[arg(value_name = "IN")]
    pub input: Option<PathBuf>,

    /// The file to write; the same as -o
    #[arg(value_name = "OUT", conflicts_with = "output")]
    pub output_position: Option<PathBuf>,

    /// The file to write; `-` is standard output; may be the input
    #[arg(short, long, value_name = "OUT", aliases = ["output_path", "output-path"])]
    pub output: Option<PathBuf>,

    /// Quantize to 8-bit integers where the target gains from it
    #[arg(long)]
    pub int8: bool,

    /// What the model shall run on
    #[command(flatten)]
    pub target: TargetArguments,

    /// Ranges without samples
    #[command(flatten)]
    pub ranges: RangesArguments,

    /// How ranges of activations are found
    #[arg(long, value_parser = one_of(CALIBRATE), default_value = "auto", help_heading = "Quantization")]
    #[arg(aliases = ["calibration-method", "calibration_method"])]
    pub calibrate: Calibrate,

    /// Keep ops in float: by name, op type, or glob; may be repeated; `auto`: as few as the gates need (also the default)
    #[arg(long, value_name = "NAME|OP|GLOB|auto", help_heading = "Quantization")]
    #[arg(aliases = ["keep_float", "nodes-to-exclude", "nodes_to_exclude"])]
    pub keep_float: Vec<String>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub formats: FormatArguments,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub qdq: QdqArguments,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub weights: WeightsArguments,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub structure: StructureArguments,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub samples: SampleArguments,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub control: ControlArguments,

    /// Leave a pass out; may be repeated, or a list with commas
    #[arg(long, value_name = "PASS", value_delimiter = ',', help_heading = "Rewrites")]
    #[arg(aliases = ["skip-optimization", "skip_optimization", "skip-optimizations", "skip-fusion-patterns"])]
    pub skip: Vec<String>,

    /// Only rewrites whose results are equal to the bit
    #[arg(long, help_heading = "Rewrites")]
    pub exact: bool,

    /// Change a gate: lossless-rel, lossless-rel-fp16, min-sqnr, max-drop, max-bytes; may be repeated
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Validation")]
    pub gate: Vec<String>,

    /// Do not run the result against the input
    #[arg(long, help_heading = "Validation", aliases = ["no_validate", "no-check", "skip-check"])]
    pub no_validate: bool,

    /// Write what was done, and what not and why, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,

    /// Print every rewrite, and every one that was not done and why; or, with a NAME, everything about one op, tensor or pass
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", help_heading = "Output")]
    pub explain: Option<String>,

    /// Put tensors into a file of their own beside the model (default name: OUT.data)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    #[arg(help_heading = "Output", aliases = ["external_data", "save-as-external-data", "use-external-data-format"])]
    pub external_data: Option<String>,

    /// Drop fields that this version of ONNX does not know, instead of refusing the model
    #[arg(long, help_heading = "Output")]
    pub allow_unknown_fields: bool,

    /// Keep ops and attributes that ONNX's own domain does not have, instead of refusing the model
    #[arg(long, help_heading = "Output")]
    pub allow_unknown_ops: bool,

    /// Threads, at most one for each processor; 0 is one for each
    #[arg(long, value_name = "N", default_value_t = 0, global = true, help_heading = "Output")]
    pub threads: usize,

    /// Print nothing but errors
    #[arg(short, long, global = true, help_heading = "Output")]
    pub quiet: bool,
}

/// The arguments that say what samples are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Samples")]
pub struct SampleArguments {
    /// Samples: a folder of .npz, .npy, images or test_data_set_*, or one .npz or .npy with a leading sample axis
    #[arg(long, value_name = "PATH", aliases = ["calibration-data-path", "calibration_data_path"])]
    pub data: Option<PathBuf>,

    /// Samples that judge the result (default: every fourth of --data)
    #[arg(long, value_name = "PATH", alias = "validation_data")]
    pub validation_data: Option<PathBuf>,

    /// Leave out samples that cannot be read or that the model does not run on, instead of ending with exit code 3
    #[arg(long, alias = "skip_bad_samples")]
    pub skip_bad_samples: bool,

    /// Images: subtract from each channel, after --scale: one number, or one a channel
    #[arg(long, value_name = "M,M,M", value_delimiter = ',', allow_negative_numbers = true)]
    pub mean: Vec<f32>,

    /// Images: divide each channel by this, after --mean
    #[arg(long, value_name = "S,S,S", value_delimiter = ',')]
    pub std: Vec<f32>,

    /// Images: multiply pixels of 0 to 255 by this (default: 1/255 for float inputs, 1 for integer ones)
    #[arg(long, value_name = "FACTOR")]
    pub scale: Option<f32>,

    /// Images: order of the model's axes (default: from its input's shape)
    #[arg(long, value_parser = one_of(LAYOUT), default_value = "auto")]
    pub layout: Layout,

    /// Images: order of the channels
    #[arg(long, value_parser = one_of(CHANNELS), default_value = "rgb")]
    pub channels: Channels,

    /// Images: bring to this size, or the shorter side to N
    #[arg(long, value_name = "WxH|N")]
    pub resize: Option<Resize>,

    /// Images: take the middle of this size, after --resize
    #[arg(long, value_name = "WxH", value_parser = samples::parse_size)]
    pub crop: Option<(u32, u32)>,
}

impl SampleArguments {
    /// What becomes of samples that cannot be used.
    pub fn bad_samples(&self) -> BadSamples {
        if self.skip_bad_samples { BadSamples::Skip } else { BadSamples::Refuse }
    }

    /// The same without the paths.
    pub fn options(&self) -> SampleOptions {
        SampleOptions {
            mean: self.mean.clone(),
            std: self.std.clone(),
            scale: self.scale,
            layout: self.layout,
            channels: self.channels,
            resize: self.resize,
            crop: self.crop,
        }
    }
}

impl Shrink {
    /// What `--explain` took that is no name but the model: `--explain in.onnx -o out.onnx` has both meanings.
    fn settle(&mut self) {
        let Some(word) = self.explain.clone().filter(|word| !word.is_empty()) else { return };
        let has_output = self.output.is_some() || self.output_position.is_some() || self.control.dry_run;
        if self.input.is_none() {
            self.input = Some(PathBuf::from(&word));
        } else if !has_output && Path::new(&word).is_file() {
            self.output_position = self.input.replace(PathBuf::from(&word));
        } else {
            return;
        }
        self.explain = Some(String::new());
    }

    /// What is asked for.
    pub fn request(&self) -> Result<Request, Failure> {
        let Some(input) = self.input.clone() else {
            return Err(Failure::usage("no input file: name one, as in `onnx-shrink <IN> -o <OUT>`; see --help"));
        };
        let mut gates = Gates::default();
        for gate in &self.gate {
            gates.set(gate).map_err(|problem| Failure::usage(format_args!("--gate: {problem}")))?;
        }
        let external_data = match self.external_data.as_deref() {
            None => ExternalData::Auto,
            Some("") => ExternalData::Always { file_name: None },
            Some(name) => ExternalData::Always { file_name: Some(name.to_owned()) },
        };
        let output = self.output.clone().or_else(|| self.output_position.clone());
        Ok(Request {
            input: stream(input, "/dev/stdin").into(),
            output: output.map(|output| stream(output, "/dev/stdout").into()),
            int8: self.int8,
            data: self.samples.data.as_ref().map(Data::from),
            validation_data: self.samples.validation_data.as_ref().map(Data::from),
            sample_options: self.samples.options(),
            bad_samples: self.samples.bad_samples(),
            target: self.target.target,
            ranges: self.ranges.options()?,
            calibrate: self.calibrate,
            keep_float: self.keep_float.clone(),
            formats: self.formats.options(),
            qdq: self.qdq.options(),
            structure: self.structure.options(),
            weights: self.weights.options(),
            skip: self.skip.clone(),
            gates,
            validate: !self.no_validate,
            exact: self.exact,
            threads: self.threads,
            external_data,
            allow_unknown_fields: self.allow_unknown_fields,
            allow_unknown_ops: self.allow_unknown_ops,
            control: self.control.control(self.explain.clone().filter(|name| !name.is_empty()))?,
        })
    }

    fn write_report(&self, report: &Report) -> Result<(), Failure> {
        let Some(file) = &self.report else { return Ok(()) };
        let mut json = serde_json::to_vec_pretty(report).map_err(Failure::bug)?;
        json.push(b'\n');
        proto::save_bytes(&json, file).map_err(|error| Failure::new(ExitCode::Usage, error))
    }
}

/// `-` for the standard stream that `device` is: nothing can be mapped or replaced there.
fn stream(path: PathBuf, device: &str) -> PathBuf {
    if path == Path::new(device) { PathBuf::from("-") } else { path }
}

/// A line for each pass.
fn passes_text() -> String {
    let width = passes().iter().map(|pass| pass.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for pass in passes() {
        let class = format!("{:?}", pass.class).to_lowercase();
        let request = match pass.when {
            When::Lossless => String::new(),
            When::Requested(request) => format!(" ({request})"),
        };
        let _ = writeln!(text, "{:width$}  {class:11}  {}{request}", pass.name, pass.about);
    }
    text
}

impl Command for Shrink {
    const NAME: &'static str = "onnx-shrink";
    const ABOUT: &'static str = "A compiler from ONNX to ONNX: smaller, faster, proven right";

    fn run(mut self, session: &mut Session<'_>) -> Result<ExitCode, Failure> {
        if self.control.list_passes {
            let _ = session.out.write_all(passes_text().as_bytes());
            return Ok(ExitCode::Done);
        }
        self.settle();
        let request = self.request()?;
        request.checked_output()?;
        if let Some(report) = &self.report {
            request::checked_file(report)?;
        }
        let mut paths = Paths::of(&request);
        if let Some(report) = &self.report {
            paths = paths.write("--report", report);
        }
        if !self.quiet {
            paths = paths.print();
        }
        paths.check()?;
        let start = Instant::now();
        let progress = progress::for_stderr(self.quiet);
        let mut report = match shrink(&request, progress.as_ref()) {
            Ok(shrunk) => shrunk.report,
            Err(ShrinkError { failure, report }) => {
                if let Some(mut report) = report {
                    report.timing.seconds = start.elapsed().as_secs_f64();
                    self.write_report(&report)?;
                }
                return Err(failure);
            }
        };
        report.timing.seconds = start.elapsed().as_secs_f64();
        self.write_report(&report)?;
        if !self.quiet {
            let style = Style::detect(session.terminal && !request.to_stdout());
            if let (Some(name), None) = (&request.control.explain, &report.about) {
                report.notes.push(Note::NothingToExplain(name.clone()));
            }
            let text = text::render(&report, self.explain.as_deref() == Some(""), &style);
            // The model itself is on standard output then. A reader that has gone away is no failure of ours.
            let out = if request.to_stdout() { &mut session.err } else { &mut session.out };
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
        Ok(ExitCode::Done)
    }
}
