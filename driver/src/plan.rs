//! What is to become of each layer with weights, decided before anything is rewritten, and what became of it.
//!
//! A [`Plan`] is made from ranges, costs and the user's wishes; it is lowered by the passes that quantize, and the report, `--explain` and
//! `inspect` tell of the same value. **Never** holds a sentence: those are in `Display` alone.
use std::{collections::BTreeMap, fmt};

use onnx_shrink_ir::OpId;
use onnx_shrink_passes::{Miss, Named, weight_only::store_int4::Rounded};
use serde::{Serialize, Serializer};

/// What is decided for one layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// It computes in integers, with calibrated ranges
    Integer,
    /// It computes in integers with ranges that each run finds; why it has no calibrated ones
    Dynamic(Reason),
    /// It computes in float; its weights may be stored in fewer bits
    Float(Reason),
    /// It computes in float, and its weights stay as they are
    Untouched(Reason),
}

impl Decision {
    /// Why it does not compute in integers with calibrated ranges; `None` where it does.
    pub(crate) fn reason(&self) -> Option<&Reason> {
        match self {
            Decision::Integer => None,
            Decision::Dynamic(reason) | Decision::Float(reason) | Decision::Untouched(reason) => Some(reason),
        }
    }
}

/// One decision for each layer of a graph, by op.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    decisions: BTreeMap<OpId, Decision>,
    /// For all others
    otherwise: Decision,
}

impl Plan {
    /// All layers in float for one reason.
    pub(crate) fn float(reason: Reason) -> Plan {
        Plan { decisions: BTreeMap::new(), otherwise: Decision::Float(reason) }
    }

    /// The same, with a decision of its own for each of `decisions`.
    pub(crate) fn with(mut self, decisions: impl IntoIterator<Item = (OpId, Decision)>) -> Plan {
        self.decisions.extend(decisions);
        self
    }

    /// What is decided for `op`.
    pub(crate) fn of(&self, op: OpId) -> &Decision {
        self.decisions.get(&op).unwrap_or(&self.otherwise)
    }

    /// Whether `op` computes in integers with calibrated ranges.
    pub(crate) fn is_integer(&self, op: OpId) -> bool {
        *self.of(op) == Decision::Integer
    }

    /// Whether any layer does.
    pub(crate) fn has_integers(&self) -> bool {
        self.decisions.values().any(|decision| *decision == Decision::Integer)
    }

    /// The ops for which `which` was decided.
    pub(crate) fn ops(&self, which: impl Fn(&Decision) -> bool) -> impl Iterator<Item = OpId> {
        self.decisions.iter().filter(move |(_, decision)| which(decision)).map(|(op, _)| *op)
    }

    /// The plan of a graph that has `twin(op)` for each op of this one's; what has none there is left out.
    pub(crate) fn renumbered(&self, twin: impl Fn(OpId) -> Option<OpId>) -> Plan {
        let decisions = self.decisions.iter().filter_map(|(op, decision)| Some((twin(*op)?, decision.clone())));
        Plan { decisions: decisions.collect(), otherwise: self.otherwise.clone() }
    }
}

/// What became of a layer with weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "fate", rename_all = "lowercase")]
pub enum Fate {
    /// It computes in integers
    Integer,
    /// It computes in integers, with ranges that each run finds
    Dynamic,
    /// Its weights are stored in fewer bits (integers or 16-bit floats), it computes in float
    Storage {
        /// Why it does not compute in integers
        reason: Reason,
    },
    /// It stays float
    Float {
        /// Why
        reason: Reason,
    },
}

impl Fate {
    /// Why it does not compute in integers; `None` where it does.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Fate::Integer | Fate::Dynamic => None,
            Fate::Storage { reason } | Fate::Float { reason } => Some(reason),
        }
    }
}

/// In what numbers a constant is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// 4-bit integers, as they are or two to a byte
    Int4,
    /// 8-bit integers
    Int8,
    /// 16-bit integers
    Int16,
    /// 16-bit floats
    Half,
    /// As it was
    Float,
}

impl Form {
    /// In words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Form::Int4 => "4-bit weights",
            Form::Int8 => "8-bit weights",
            Form::Int16 => "16-bit integers",
            Form::Half => "16-bit floats",
            Form::Float => "32-bit floats",
        }
    }

    /// In words, of a constant that is no weight.
    pub(crate) fn in_numbers(self) -> &'static str {
        match self {
            Form::Int4 => "4-bit integers",
            Form::Int8 => "8-bit integers",
            other => other.name(),
        }
    }
}

/// A layer with weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// The op's name, or that of its output
    pub name: String,
    /// The op's type
    pub op: String,
    /// What became of it
    #[serde(flatten)]
    pub fate: Fate,
    /// Bytes of its constants before; what layers share counts for the first of them
    pub bytes_before: u64,
    /// And after, scales and zero points included
    pub bytes_after: u64,
    /// Bits that its integer sums need, proven from its weights; `None` when it does not compute in integers
    pub accumulator_bits: Option<u32>,
    /// Error of its output, in dB; `None` when it was not measured or nothing differs
    pub sqnr_db: Option<f64>,
    /// The part of all layers' error that it adds itself, 0 to 1; `None` where `sqnr_db` is
    pub error_share: Option<f64>,
}

/// Why a layer does not compute in integers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Nothing tells the ranges of what it reads
    NoSamples,
    /// Samples were given, and the model does not run on them
    NotRun,
    /// The model cannot be calibrated: what stopped it
    NotCalibrated(String),
    /// The opset that 8-bit layers need is out of reach: why
    Unfit(String),
    /// Calibration saw nothing of what it reads or makes
    NotSeen,
    /// The first, and what keeps it from finding its ranges in each run
    NorDynamic(Box<Reason>, Miss<Named>),
    /// It is in a body
    InBody,
    /// It only looks rows up
    Lookup,
    /// The file has it so
    Quantized,
    /// No pass has a rule for it, or its condition failed
    Missed(Miss<Named>),
    /// The target runs 8-bit layers in float
    TargetRunsFloat(&'static str),
    /// The outputs of the model are its inputs in the next step
    FedBack,
    /// `--keep-float` names it
    KeptFloat,
    /// In 8 bits it makes too little of the float model's values: the SQNR of what it makes, in dB
    Ruined(f64),
    /// Its sums could leave 32 bits
    SumsOverflow,
    /// It went back to float for a gate
    Returned,
    /// Others went back to float for a gate
    NotWithoutOthers,
    /// With its conversions it would be slower on the target
    Slower,
    /// No set of layers would make the model faster on the target
    NothingFaster,
    /// Its weights are stored in 4 bits, rounded so
    FourBits(Rounded),
    /// Its weights are stored in this form, and why in no fewer bits
    StoredAs(Form, Option<MoreBits>),
    /// It is a constant that no layer multiplies by, stored in this form
    Beside {
        /// The form
        form: Form,
        /// Whether its numbers are the same as before
        is_exact: bool,
    },
}

/// Why weights have more than the fewest bits.
#[derive(Clone, Debug, PartialEq)]
pub enum MoreBits {
    /// `--keep-float` names the layer
    KeptFloat,
    /// A condition of storing them in 4 bits failed
    Missed(Miss<Named>),
    /// The ops that unpack 4 bits take more than those save
    UnpackingTakesMore,
    /// With 4 bits a gate failed
    GateAt4,
    /// With 4 bits a gate failed, and with 8
    GateAt4And8,
    /// In fewer bits a gate failed
    Gate,
    /// More bits do most for the outputs here
    DoMostHere,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoSamples => f.write_str("no samples were given"),
            Reason::NotRun => f.write_str("the model does not run on the samples, so that its ranges are not known"),
            Reason::NotCalibrated(why) => write!(f, "the model cannot be calibrated: {why}"),
            Reason::Unfit(why) => f.write_str(why),
            Reason::NotSeen => f.write_str("no rule for this form: its inputs or outputs were not calibrated"),
            Reason::NorDynamic(reason, missed) => write!(f, "{reason}, and ranges of each run: {missed}"),
            Reason::InBody => f.write_str(
                "it is in a body of If, Loop or Scan: its weights are stored in fewer bits, and it computes in float",
            ),
            Reason::Lookup => f.write_str("it looks rows up: there is nothing to compute"),
            Reason::Quantized => f.write_str("it is quantized already"),
            Reason::Missed(miss) => write!(f, "{miss}"),
            Reason::TargetRunsFloat(target) => write!(f, "the target {target} runs 8-bit layers in float, slower"),
            Reason::FedBack => f.write_str(
                "the model's outputs are fed back as inputs: errors of 8-bit layers would add up over the steps",
            ),
            Reason::KeptFloat => f.write_str("kept: --keep-float names it"),
            Reason::Ruined(sqnr) => {
                write!(f, "in 8 bits what it makes of the float model's values has an SQNR of {sqnr:.1} dB: too little")
            }
            Reason::SumsOverflow => f.write_str("its sums could leave 32 bits"),
            Reason::Returned => f.write_str("it went back to float so that the gate holds"),
            Reason::NotWithoutOthers => f.write_str(
                "layers around it went back to float so that the gate holds, and without them it does not pay",
            ),
            Reason::Slower => {
                f.write_str("with its conversions the target would run it slower in 8 bits, by its cost table")
            }
            Reason::NothingFaster => {
                f.write_str("8 bits would not make the model faster on the target, by its cost table")
            }
            Reason::FourBits(rounded) => write!(f, "{rounded}"),
            Reason::StoredAs(form, None) => f.write_str(form.name()),
            Reason::StoredAs(form, Some(why)) => write!(f, "{}: {why}", form.name()),
            Reason::Beside { form, is_exact } => {
                let loss = if *is_exact { "exact" } else { "rounded" };
                write!(f, "a constant that no layer multiplies by: {}, {loss}", form.in_numbers())
            }
        }
    }
}

impl fmt::Display for MoreBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MoreBits::KeptFloat => f.write_str("--keep-float says so"),
            MoreBits::Missed(miss) => write!(f, "{miss}"),
            MoreBits::UnpackingTakesMore => f.write_str("4 bits would take more"),
            MoreBits::GateAt4 => f.write_str("with 4 bits a gate failed"),
            MoreBits::GateAt4And8 => f.write_str("with 4 bits a gate failed, and with 8"),
            MoreBits::Gate => f.write_str("in fewer bits a gate failed"),
            MoreBits::DoMostHere => f.write_str("they do most there"),
        }
    }
}

/// As its sentence.
impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
