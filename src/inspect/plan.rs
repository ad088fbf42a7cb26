//! What `--int8` would do to a model, and why not more: the passes themselves, run on a copy that is thrown away.
//!
//! With samples, layers are placed as in a real run, but with ranges from a few of them; without, the placement is that of
//! made-up samples, since costs depend on shapes and not on numbers. **No** gate is judged: a run may put more in float.
use onnx_shrink_ir::{Evaluate, Model, export};
use onnx_shrink_passes::{
    Context, Options, Outcome, pipeline, quantize::calibrators::Calibrator, quantize::is_quantized,
};
use serde::Serialize;

use crate::{
    Calibrate, Failure, Progress, Samples, files,
    int8::Int8,
    report::{Fate, Layer},
};

/// Samples that a plan is made with, at most: shapes do not change, and ranges do not matter to it.
const SAMPLES: usize = 4;

/// How the reason of a layer begins when the model does not run on the samples.
const NOT_CALIBRATED: &str = "the model cannot be calibrated";

/// What `--int8` would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Why nothing would be done at all
    pub nothing: Option<String>,
    /// Whether the layers are those of made-up samples
    pub made_up: bool,
    /// Layers with weights, in the order of the graph, and what would become of each with `--data`; empty when that cannot
    /// be told
    pub layers: Vec<Layer>,
    /// Bytes of the model then; `None` when that cannot be told
    pub bytes_with_data: Option<u64>,
    /// Why the layers cannot be told
    pub unknown: Option<String>,
    /// Constants that would be stored in 8 or 16 bits without `--data`
    pub stored: usize,
    /// Constants that would not, and why
    pub not_stored: Vec<Unstored>,
    /// Bytes of the model then
    pub bytes_without_data: Option<u64>,
}

/// A constant that stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unstored {
    /// The op that reads it
    pub op: String,
    /// Why
    pub reason: String,
}

impl Plan {
    /// Number of layers with this fate.
    pub fn count(&self, which: fn(&Fate) -> bool) -> usize {
        self.layers.iter().filter(|layer| which(&layer.fate)).count()
    }
}

/// Makes the plan for `model`.
pub(super) fn plan(
    model: &Model,
    evaluator: &dyn Evaluate,
    samples: Option<&Samples>,
    progress: &dyn Progress,
) -> Result<Plan, Failure> {
    let mut plan = Plan { made_up: samples.is_none(), ..Plan::default() };
    if is_quantized(&model.graph) {
        plan.nothing = Some("the model is quantized already".to_owned());
        return Ok(plan);
    }
    let mut model = model.detached();
    model.graph.freeze_defaults();
    let options = Options::default();
    let mut cx = Context::new(options.clone(), evaluator);
    pipeline::run_lossless(&mut model.graph, &mut cx).map_err(Failure::bug)?;
    let statistics = std::mem::take(&mut cx.statistics);
    let int8 =
        Int8 { evaluator, calibrate: Calibrate::MinMax, keep_float: &[], options: &options, statistics: &statistics };
    let stored = int8.without_samples(&model)?;
    for entry in &stored.journal.entries {
        match &entry.outcome {
            Outcome::Done { .. } => plan.stored += 1,
            Outcome::Missed { reason } => {
                plan.not_stored.push(Unstored { op: entry.op.clone(), reason: reason.clone() });
            }
        }
    }
    plan.bytes_without_data = Some(files::size_of(&export(&stored.model)));
    let samples = match samples {
        Some(samples) => samples.subset(&(0..samples.len().min(SAMPLES)).collect::<Vec<_>>()),
        None => match Samples::generated(&model.graph, 1) {
            Ok(samples) => samples,
            Err(error) => {
                plan.unknown = Some(format!("{error:#}"));
                return Ok(plan);
            }
        },
    };
    match int8.calibrated(&model, &samples, progress) {
        Ok(calibrated) => {
            let placement = calibrated.placement(&Default::default());
            let quantized = calibrated.build(&placement, Calibrator::MinMax)?;
            let failed = quantized.layers.iter().find_map(|layer| match &layer.fate {
                Fate::Storage { reason } | Fate::Float { reason } if reason.starts_with(NOT_CALIBRATED) => Some(reason),
                _ => None,
            });
            if let Some(reason) = failed.filter(|_| plan.made_up) {
                plan.unknown = Some(format!("{reason}, on a made-up sample; give real ones with --data"));
                return Ok(plan);
            }
            plan.bytes_with_data = Some(files::size_of(&export(&quantized.model)));
            plan.layers = quantized.layers;
        }
        Err(failure) if plan.made_up => plan.unknown = Some(failure.to_string()),
        Err(failure) => return Err(failure),
    }
    Ok(plan)
}
