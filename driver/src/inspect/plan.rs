//! What `--int8` would do to a model, and why not more: the passes themselves, run on a copy that is thrown away.
//!
//! With samples, layers are placed as in a real run, but with ranges from a few of them; without, the placement is that of
//! made-up samples, since costs depend on shapes and not on numbers. **No** gate is judged: a run may put more in float.
use std::{collections::BTreeSet, fmt};

use onnx_shrink_ir::{Evaluate, export};
use onnx_shrink_passes::{Options, calibration::calibrators::Calibrator, target::Target};
use serde::{Serialize, Serializer};

use crate::{
    Failure, Progress, Samples, files,
    int8::Int8,
    nothing_stored::NothingStored,
    plan::{Fate, Layer, Reason},
    request::{Calibrate, formats::FormatOptions, qdq::Place},
    simplified::Simplified,
};

/// Samples that a plan is made with, at most: shapes do not change, and ranges do not matter to it.
const SAMPLES: usize = 4;

/// What a run would make of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Layers with weights, in the order of the graph, and what would become of each
    pub layers: Vec<Layer>,
    /// Bytes of the model then; `None` when that cannot be told
    pub bytes: Option<u64>,
    /// Why nothing would be done, or why it cannot be told; `None` otherwise
    pub reason: Option<Nothing>,
}

/// Why nothing would be done, or why that cannot be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Nothing {
    /// There is nothing to store
    Stored(NothingStored),
    /// No made-up samples fit the model: why
    NoMadeUpSamples(String),
    /// The model cannot be calibrated on a made-up sample
    NotCalibrated(Reason),
    /// The made-up samples led to a failure
    Failed(String),
}

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nothing::Stored(nothing) => write!(f, "{nothing}"),
            Nothing::NoMadeUpSamples(why) | Nothing::Failed(why) => f.write_str(why),
            Nothing::NotCalibrated(reason) => write!(f, "{reason}, on a made-up sample; give real ones with --data"),
        }
    }
}

/// As its sentence.
impl Serialize for Nothing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Outcome {
    fn nothing(reason: Nothing) -> Outcome {
        Outcome { reason: Some(reason), ..Outcome::default() }
    }

    /// Number of layers with this fate.
    pub fn count(&self, which: fn(&Fate) -> bool) -> usize {
        self.layers.iter().filter(|layer| which(&layer.fate)).count()
    }
}

/// What `--int8` would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The target that it is for
    pub target: &'static str,
    /// Why nothing would be done at all
    pub nothing: Option<String>,
    /// Whether `with_data` comes from made-up samples
    pub made_up: bool,
    /// With `--data`
    pub with_data: Outcome,
    /// Without
    pub without_data: Outcome,
}

impl Plan {
    fn of(target: &Target) -> Plan {
        Plan { target: target.name, ..Plan::default() }
    }

    /// The plan for a model that is quantized already.
    pub(super) fn of_quantized(target: &Target) -> Plan {
        Plan { nothing: Some("the model is quantized already".to_owned()), made_up: true, ..Plan::of(target) }
    }
}

/// Makes the plan for `simplified` on `target`.
pub(super) fn plan(
    simplified: &Simplified,
    target: &'static Target,
    evaluator: &dyn Evaluate,
    samples: Option<&Samples>,
    progress: &dyn Progress,
) -> Result<Plan, Failure> {
    let mut plan = Plan { made_up: samples.is_none(), ..Plan::of(target) };
    let options = Options::default();
    let Simplified { model, statistics } = simplified;
    let int8 = Int8 {
        evaluator,
        target,
        calibrate: Calibrate::MinMax,
        keep_float: &[],
        place: Place::Cut,
        formats: FormatOptions::default(),
        dynamic: FormatOptions::default().dynamic_on(target),
        options: &options,
        statistics,
    };
    plan.without_data = match int8.without_samples(model, int8.dynamic, &Reason::NoSamples)? {
        Ok(stored) => {
            Outcome { bytes: Some(files::size_of(&export(&stored.model))), layers: stored.layers, reason: None }
        }
        Err(nothing) => Outcome::nothing(Nothing::Stored(nothing)),
    };
    let samples = match samples {
        Some(samples) => samples.subset(&(0..samples.len().min(SAMPLES)).collect::<Vec<_>>()),
        None => match Samples::made_up(&model.graph, evaluator, 1) {
            Ok(samples) => samples,
            Err(error) => {
                plan.with_data = Outcome::nothing(Nothing::NoMadeUpSamples(format!("{error:#}")));
                return Ok(plan);
            }
        },
    };
    plan.with_data = match int8.calibrated(model, &samples, progress) {
        Ok(calibrated) => {
            let quantized = calibrated.build(&calibrated.plan(&BTreeSet::new()), Calibrator::MinMax)?;
            let mut reasons = quantized.layers.iter().filter_map(|layer| layer.fate.reason());
            let failed = reasons.find(|reason| matches!(reason, Reason::NotCalibrated(_)));
            match failed.filter(|_| plan.made_up) {
                Some(reason) => Outcome::nothing(Nothing::NotCalibrated(reason.clone())),
                None => Outcome {
                    bytes: Some(files::size_of(&export(&quantized.model))),
                    layers: quantized.layers,
                    reason: None,
                },
            }
        }
        Err(failure) if plan.made_up => Outcome::nothing(Nothing::Failed(failure.to_string())),
        Err(failure) => return Err(failure),
    };
    Ok(plan)
}
