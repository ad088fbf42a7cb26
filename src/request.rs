//! What a run is asked for, and how it can fail.
//!
//! **Never** reads the command line: [`cli`](crate::cli) fills a [`Request`] from it, and a test or a library user may, too.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use onnx_shrink_ir::{conform::nearest, proto::ExternalData};
use onnx_shrink_passes::{
    Options,
    target::{ORT_CPU, Target},
};

use crate::{
    Control, Report,
    formats::{Dynamic, FormatOptions},
    gates::Gate,
    qdq::{Place, QdqOptions},
    samples::{BadSamples, SampleOptions},
    small_weights::WeightsOptions,
    structure::StructureOptions,
};

/// How a run of the program ends. Documented in `--help`; numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The file was written, or the models are equal
    Done = 0,
    /// The input model cannot be used
    Input = 1,
    /// The command line is wrong, or names an output that cannot be written
    Usage = 2,
    /// The samples cannot be used
    Samples = 3,
    /// A gate failed; nothing was written
    Gate = 4,
    /// `diff` or `validate` found a difference
    Different = 5,
    /// A bug of this program
    Bug = 70,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(code as u8)
    }
}

/// Why a run ended without a result: the sentence, its causes, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends
    pub code: ExitCode,
    /// What went wrong; `{:#}` prints the chain on one line
    pub error: anyhow::Error,
    /// What was found out before, for `--report`: set when a gate failed
    pub report: Option<Box<Report>>,
}

impl Failure {
    /// A failure that ends with `code`.
    pub fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Failure {
        Failure { code, error: error.into(), report: None }
    }

    /// The input model cannot be used.
    pub fn input(error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(ExitCode::Input, error)
    }

    /// The command line is wrong.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(ExitCode::Usage, anyhow::anyhow!("{message}"))
    }

    /// The samples cannot be used.
    pub fn samples(error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(ExitCode::Samples, error)
    }

    /// A gate failed, after `report` was gathered.
    pub fn gate(message: impl fmt::Display, report: Report) -> Failure {
        let error = anyhow::anyhow!("{message}");
        Failure { code: ExitCode::Gate, error, report: Some(Box::new(report)) }
    }

    /// Something that cannot happen, happened.
    pub fn bug(error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(ExitCode::Bug, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// How ranges of activations are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
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

/// What a result must hold to be written.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Gates {
    /// Largest relative L2 error of an output after lossless rewrites
    pub lossless_rel: f64,
    /// The same for models with 16-bit floats
    pub lossless_rel_fp16: f64,
    /// Least SQNR of a float output after quantization, in dB: at 13 a detector lost 2.7 % of its F1, at 14 half of that, at no loss of speed
    pub sqnr: f64,
    /// Largest loss of accuracy, as a share, beyond two standard errors of the paired difference
    pub drop: f64,
    /// Most bytes of the written model, its external data included; `None`: as many as the input
    pub max_bytes: Option<u64>,
    /// Least SQNR of a float output after pruning, in dB: less is another model
    pub prune_sqnr: f64,
    /// As `drop`, after pruning alone: who asks for less of a model expects some of it
    pub prune_drop: f64,
    /// Those that the user gave: each is judged, or the run ends and says why it cannot be
    pub given: BTreeSet<Gate>,
}

/// " (did you mean `x`?)", where one of `known` is near to `word`.
pub fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

impl Default for Gates {
    fn default() -> Gates {
        Gates {
            lossless_rel: 1e-4,
            lossless_rel_fp16: 1e-2,
            sqnr: 14.0,
            drop: 0.01,
            max_bytes: None,
            prune_sqnr: 3.0,
            prune_drop: 0.1,
            given: BTreeSet::new(),
        }
    }
}

impl Gates {
    /// Changes the gate that `text` names: `KEY=VALUE`. Of two values for one key both have to hold: the stricter one counts.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        const KEYS: &str = "lossless-rel, lossless-rel-fp16, sqnr or min-sqnr (dB), drop or max-drop (a share: 0.01 is one \
                            point), max-bytes (a number, or one with k, M or G), prune-sqnr (dB), prune-drop (a share)";
        let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE; keys: {KEYS}"))?;
        let key = key.trim().replace('_', "-");
        let gate = match key.as_str() {
            "lossless-rel" => Gate::LosslessRel,
            "lossless-rel-fp16" => Gate::LosslessRelFp16,
            "sqnr" | "min-sqnr" => Gate::Sqnr,
            "drop" | "max-drop" => Gate::Drop,
            "prune-sqnr" => Gate::PruneSqnr,
            "prune-drop" => Gate::PruneDrop,
            "max-bytes" => Gate::MaxBytes,
            _ => {
                let keys = KEYS.split([',', ' ']).filter(|word| word.contains('-') || matches!(*word, "sqnr" | "drop"));
                return Err(format!("there is no gate `{key}`{}; keys: {KEYS}", did_you_mean(&key, keys)));
            }
        };
        let is_first = self.given.insert(gate);
        if gate == Gate::MaxBytes {
            let bytes = parse_bytes(value).ok_or_else(|| format!("the gate `{key}` wants bytes, not `{value}`"))?;
            self.max_bytes = Some(self.max_bytes.map_or(bytes, |least| least.min(bytes)));
            return Ok(());
        }
        let number = match value.trim().parse::<f64>() {
            Ok(number) if !number.is_nan() => number,
            _ => return Err(format!("the gate `{key}` wants a number, not `{value}`")),
        };
        let is_share = matches!(gate, Gate::Drop | Gate::PruneDrop);
        if is_share && number > 1.0 {
            let points = number / 100.0;
            return Err(format!("the gate `{key}` wants a share, not `{value}`: {number} points are {key}={points}"));
        }
        if matches!(gate, Gate::LosslessRel | Gate::LosslessRelFp16) && number < 0.0 {
            return Err(format!("the gate `{key}` wants an error of 0 or more, not `{value}`"));
        }
        let limit = match gate {
            Gate::LosslessRel => &mut self.lossless_rel,
            Gate::LosslessRelFp16 => &mut self.lossless_rel_fp16,
            Gate::Drop => &mut self.drop,
            Gate::PruneSqnr => &mut self.prune_sqnr,
            Gate::PruneDrop => &mut self.prune_drop,
            Gate::Sqnr | Gate::MaxBytes => &mut self.sqnr, // (bytes are set above)
        };
        *limit = match gate {
            _ if is_first => number,
            Gate::Sqnr | Gate::PruneSqnr => limit.max(number),
            _ => limit.min(number),
        };
        if gate == Gate::Drop && !self.given.contains(&Gate::PruneDrop) {
            self.prune_drop = self.drop;
        }
        Ok(())
    }
}

/// Bytes in "1500", "1.5k", "2 MB", "1GiB": k, M and G are powers of 1000, Ki, Mi and Gi of 1024.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
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
    /// The model to read; `-` is standard input
    pub input: PathBuf,
    /// The file to write; `-` is standard output, `None`: the user named none, an error
    pub output: Option<PathBuf>,
    /// Whether to quantize to 8 bits
    pub int8: bool,
    /// Samples that calibrate
    pub data: Option<PathBuf>,
    /// Samples that judge; `None`: every fourth of `data`
    pub validation_data: Option<PathBuf>,
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
    pub fn new(input: impl Into<PathBuf>) -> Request {
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

    /// The file of the model that is read; `None`: standard input.
    pub fn input_file(&self) -> Option<PathBuf> {
        (self.input != Path::new("-")).then(|| self.input.clone())
    }

    /// Whether the model is written to standard output.
    pub fn to_stdout(&self) -> bool {
        self.output.as_deref() == Some(Path::new("-"))
    }

    /// The output, checked as far as that goes before it is written: long work shall not end at a folder that is missing.
    pub fn checked_output(&self) -> Result<&Path, Failure> {
        if self.control.dry_run {
            return Ok(self.output.as_deref().unwrap_or(Path::new("")));
        }
        let Some(output) = self.output.as_deref() else {
            let example = self.input.with_extension("small.onnx");
            return Err(Failure::usage(format_args!(
                "no output file: name one, as in `onnx-shrink {} -o {}`; -o - writes to standard output",
                self.input.display(),
                example.display()
            )));
        };
        if self.to_stdout() {
            return Ok(output);
        }
        checked_file(output)?;
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
    use super::{ExitCode, Gate, Gates, Request};

    #[test]
    fn gates_are_set_by_key() {
        let mut gates = Gates::default();
        gates.set("sqnr=20").unwrap();
        gates.set("drop = 0.003").unwrap();
        let given = [Gate::Sqnr, Gate::Drop].into();
        assert_eq!(gates, Gates { sqnr: 20.0, drop: 0.003, prune_drop: 0.003, given, ..Gates::default() });
        for (text, part) in [("sqnr", "KEY=VALUE"), ("snr=1", "no gate `snr`"), ("drop=x", "wants a number")] {
            assert!(gates.set(text).unwrap_err().contains(part), "{text}");
        }
        assert!(gates.set("drop=NaN").is_err());
        for (text, bytes) in [("1500", 1500), ("1.5k", 1500), ("2 MB", 2_000_000), ("1GiB", 1 << 30), ("0", 0)] {
            let mut gates = Gates::default();
            gates.set(&format!("max-bytes={text}")).unwrap();
            assert_eq!(gates.max_bytes, Some(bytes), "{text}");
        }
        assert!(gates.set("max-bytes=many").is_err() && gates.set("max-bytes=-1").is_err());
        gates.set("min-sqnr=30").unwrap();
        // Of two values both have to hold.
        gates.set("sqnr=25").unwrap();
        gates.set("max_drop=0.5").unwrap();
        assert_eq!((gates.sqnr, gates.drop), (30.0, 0.003));
        for (text, part) in [("drop=5", "5 points are drop=0.05"), ("lossless-rel=-1", "0 or more")] {
            assert!(Gates::default().set(text).unwrap_err().contains(part), "{text}");
        }
        // Whichever comes first, what was said of pruning holds for pruning.
        let mut gates = Gates::default();
        gates.set("prune-drop=0.2").unwrap();
        gates.set("drop=0.01").unwrap();
        assert_eq!((gates.drop, gates.prune_drop), (0.01, 0.2));
    }

    #[test]
    fn an_output_is_checked_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let check = |output: Option<&str>| {
            let output = output.map(|name| folder.path().join(name));
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
