//! The report: what went in, what came out, what was done and what not, and how well the result holds.
//!
//! `--report` writes it as JSON of a stated [`SCHEMA`]; the command line shows it as text. **Nothing** in it depends on the
//! clock or on the number of threads, but for [`Timing`].
use std::collections::BTreeMap;

use onnx_shrink_ir::Model;
use onnx_shrink_passes::{Class, Entry, Exactness, Miss, Outcome};
use serde::Serialize;

use crate::{
    metrics::{Comparison, GateResult},
    samples::BadSample,
};

mod note;
mod structure;
mod weights;

pub use crate::plan::{Fate, Form, Layer, MoreBits, Reason};
pub use crate::regions::{Open, Regions};
pub use note::Note;
pub use structure::{PrunedLayer, SplitLayer, Structure, Unsplit};
pub use weights::{Figures, Stored};

/// Version of the JSON. It rises when a field changes its meaning or goes; new fields do not count.
pub const SCHEMA: u32 = 1;

/// One side of the run: the model before or after.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Side {
    /// The file
    pub path: String,
    /// Bytes of the model, its external data included
    pub bytes: u64,
    /// Version of ONNX's own ops
    pub opset: i64,
    /// Ops by type, those in bodies included; other domains than ONNX's own as `domain.type`
    pub ops: BTreeMap<String, usize>,
}

impl Side {
    /// What `model` is; `bytes` of it are in `path`.
    pub fn of(path: &str, bytes: u64, model: &Model) -> Side {
        let ops = model.graph.count_by_type();
        Side { path: path.to_owned(), bytes, opset: model.opset(), ops }
    }

    /// Number of ops.
    pub fn op_count(&self) -> usize {
        self.ops.values().sum()
    }
}

/// How activations were calibrated.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Calibration {
    /// Samples that calibrated
    pub samples: usize,
    /// The method
    pub method: String,
}

/// A rewrite that was left out because the result was wrong with it, or because its pass gave up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Culprit {
    /// The pass
    pub pass: &'static str,
    /// What the pass may do to values
    pub class: Class,
    /// The op that the rewrite stands for, "" when the pass was left out as a whole
    pub op: String,
    /// Its type
    pub op_type: String,
    /// What was wrong with it
    pub reason: String,
    /// What reproduces it, without the ending: `.before.onnx`, `.before.onnxtxt`, `.after.onnxtxt`; only with `--dump-dir`
    pub dump: Option<String>,
}

impl Culprit {
    /// The rewrite that `guilty` names, or its whole pass.
    pub fn new(guilty: &Entry, whole_pass: bool, reason: String, dump: Option<String>) -> Culprit {
        let op = if whole_pass { String::new() } else { guilty.op.clone() };
        let op_type = if whole_pass { String::new() } else { guilty.op_type.clone() };
        Culprit { pass: guilty.pass, class: guilty.class, op, op_type, reason, dump }
    }

    /// It as a line of the journal: a rewrite that was not done.
    pub fn as_entry(&self) -> Entry {
        let outcome = Outcome::Missed { reason: Miss::LeftOut(self.reason.clone()) };
        Entry { pass: self.pass, class: self.class, op: self.op.clone(), op_type: self.op_type.clone(), outcome }
    }

    /// The sentence for people.
    pub fn sentence(&self) -> String {
        let what = match self.op.as_str() {
            "" => format!("the pass {}", self.pass),
            op => format!("{} at `{op}` ({})", self.pass, self.op_type),
        };
        let with = match &self.dump {
            Some(dump) => format!(" with {dump}.*"),
            None => ", with a --dump-dir".to_owned(),
        };
        format!("{what} was left out: with it {}; this is a bug, please report it{with}", self.reason)
    }
}

/// What depends on the clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Timing {
    /// The whole run
    pub seconds: f64,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the model, its external data included
    pub bytes: u64,
    /// Whether the input's own model was written, because the result was equal or larger
    pub input_kept: bool,
    /// Whether the result would have been larger
    pub larger: bool,
}

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The name that was asked for
    pub name: String,
    /// One line each
    pub lines: Vec<String>,
}

/// The report of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`]
    pub schema: u32,
    /// Version of the program
    pub version: &'static str,
    /// The model that was read
    pub input: Side,
    /// The model that was written, or would have been
    pub output: Side,
    /// Whether the input's own model was written, because nothing changed or the result was larger
    pub input_kept: bool,
    /// Whether a model was written: not in a dry run, and not when a gate failed
    pub written: bool,
    /// Why the result could not be run against the input; `None` when it was, or did not have to be. Then only rewrites
    /// were done that are equal to the bit by their conditions, or proven by `regions`
    pub unproven: Option<String>,
    /// Constants that were rewritten, and on which no output depended on any sample that the result was compared on
    pub unreached: Vec<String>,
    /// What was proven part by part, where the whole could not be run; `None` where it was, or nothing had to be proven
    pub regions: Option<Regions>,
    /// Samples that were left out because they cannot be used; empty without `--skip-bad-samples`
    pub skipped_samples: Vec<BadSample>,
    /// Rewrites that were left out because the result was wrong with them
    pub culprits: Vec<Culprit>,
    /// Every rewrite and every miss, in order
    pub journal: Vec<Entry>,
    /// Steps by which Quantize/Dequantize pairs were cancelled, by what they lose
    pub cancelled: BTreeMap<Exactness, usize>,
    /// Layers with weights, in the order of the graph; empty when nothing was quantized
    pub layers: Vec<Layer>,
    /// After the lossless rewrites, against the original; `None` when that was not run
    pub lossless: Option<Comparison>,
    /// What pruning did; `None` when none was asked for or nothing could go
    pub structure: Option<Structure>,
    /// Fully connected layers, in the order of the graph; empty without `--svd`
    pub low_rank: Vec<SplitLayer>,
    /// After `--svd`, against the model before; `None` when it did nothing or was not run
    pub split: Option<Comparison>,
    /// After quantization, against the model before (the original, unless `--prune` or `--svd` made another of it); `None`
    /// when there was none or it was not run
    pub quantized: Option<Comparison>,
    /// After all of these, against the original; `None` when there was one of them alone
    pub total: Option<Comparison>,
    /// How activations were calibrated
    pub calibration: Option<Calibration>,
    /// What `--weights` brought and cost; `None` without it
    pub weights: Option<Figures>,
    /// Every gate that was judged
    pub gates: Vec<GateResult>,
    /// What a user may want to know
    pub notes: Vec<Note>,
    /// What a user should act on
    pub warnings: Vec<String>,
    /// What depends on the clock
    pub timing: Timing,
    /// What `--explain NAME` asks for
    #[serde(skip)]
    pub about: Option<About>,
}

impl Report {
    /// A report of a run that has only begun: the output is as the input.
    pub fn new(input: Side) -> Report {
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            output: input.clone(),
            input,
            input_kept: false,
            written: false,
            unproven: None,
            unreached: Vec::new(),
            regions: None,
            skipped_samples: Vec::new(),
            culprits: Vec::new(),
            journal: Vec::new(),
            cancelled: BTreeMap::new(),
            layers: Vec::new(),
            lossless: None,
            structure: None,
            low_rank: Vec::new(),
            split: None,
            quantized: None,
            total: None,
            calibration: None,
            weights: None,
            gates: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            timing: Timing::default(),
            about: None,
        }
    }

    /// Says what was written to `path`: `model`, or the input if that was kept.
    pub fn finish(&mut self, path: String, written: &Written, model: &Model) {
        self.input_kept = written.input_kept;
        self.output = match written.input_kept {
            true => Side { path, bytes: written.bytes, ..self.input.clone() },
            false => Side::of(&path, written.bytes, model),
        };
        if written.larger {
            // What is told of layers is of a file that nobody gets.
            self.layers.clear();
            self.notes.push(Note::Larger);
        }
    }

    /// The first gate that failed.
    pub fn failed_gate(&self) -> Option<&GateResult> {
        self.gates.iter().find(|gate| !gate.passed)
    }

    /// Rewrites that were done, by pass.
    pub fn done_by_pass(&self) -> BTreeMap<&'static str, usize> {
        let mut done = BTreeMap::new();
        for entry in &self.journal {
            if matches!(entry.outcome, Outcome::Done { .. }) {
                *done.entry(entry.pass).or_insert(0) += 1;
            }
        }
        done
    }
}
