//! The int8 part of the main job: calibrate, place, choose the ranges by measurement, fall back where the gate fails.
//!
//! The rewrites are in the passes; here is only what decides between them by running the model.
use std::collections::{BTreeMap, BTreeSet};

use globset::{Glob, GlobSet, GlobSetBuilder};
use onnx_shrink_ir::{DataType, Evaluate, Graph, Model, OpId, Prepared, Tensor, infer, raise};
use onnx_shrink_passes::target::{Places, Target};
use onnx_shrink_passes::{
    Context, Miss, Options, Outcome, Statistics, pipeline,
    quantize::{
        CancelQdq, DynamicInt8, InsertQdq, StoreInt8, WrapQdq,
        calibration::{Calibration, CalibrationError, SampleSource, calibrate},
        calibrators::Calibrator,
        dynamic_int8::{has_attention, pays},
        model_ranges::{ModelRangesError, model_ranges},
        place::{Costs, Placement, place, place_all},
        units::{Form, Unit, Units, find_units},
    },
};
use rayon::prelude::*;

use crate::{
    Calibrate, Failure, Progress, Samples,
    formats::{Dynamic, FormatOptions, written_bytes},
    layers::layers,
    qdq::Place,
    report::Layer,
};

/// A quantized model and how it came about.
pub struct Quantized {
    /// The model
    pub model: Model,
    /// The same as Quantize/Dequantize pairs, where it is not written so
    pub pairs: Option<Model>,
    /// Every rewrite and miss on the way
    pub journal: onnx_shrink_passes::Journal,
    /// Layers that multiply by weights, in the order of the graph
    pub layers: Vec<Layer>,
    /// The range estimator that was taken; `None` when nothing runs in integers
    pub calibrator: Option<Calibrator>,
    /// Samples that calibrated
    pub samples: usize,
    /// What the user should know
    pub notes: Vec<String>,
}

/// What the int8 part needs to know.
pub struct Int8<'a> {
    /// The engine
    pub evaluator: &'a dyn Evaluate,
    /// What the model shall run on
    pub target: &'static Target,
    /// How ranges are found
    pub calibrate: Calibrate,
    /// Ops that the user wants in float: name, type or glob
    pub keep_float: &'a [String],
    /// Which layers, and how they are wrapped
    pub place: Place,
    /// How integer layers are written
    pub formats: FormatOptions,
    /// Which layers with a weight matrix find their ranges in each run
    pub dynamic: Dynamic,
    /// Options of the passes
    pub options: &'a Options,
    /// What batch norms told of values
    pub statistics: &'a BTreeMap<String, Statistics>,
}

/// Samples as the calibration pass reads them.
pub struct Source<'a> {
    /// The samples
    pub samples: &'a Samples,
    /// Whether outputs are of use that [`Calibrated::choose`] asks for
    pub keeps: bool,
}

impl SampleSource for Source<'_> {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn inputs(&self, index: usize) -> Result<Vec<Option<Tensor>>, String> {
        self.samples.get(index).map(|sample| sample.inputs).map_err(|error| format!("{error:#}"))
    }

    fn keeps_outputs(&self, index: usize) -> bool {
        self.keeps && choosing(self.samples.len()).contains(&index)
    }
}

/// A graph with what its samples showed: where quantization begins, again for each try.
pub struct Calibrated<'a> {
    int8: &'a Int8<'a>,
    model: Model,
    calibration: Calibration,
    units: Units,
    costs: Costs,
    user_kept: BTreeSet<usize>,
    notes: Vec<String>,
    /// Why nothing at all has calibrated ranges
    storage_only: Option<String>,
    /// Units that find their ranges in each run
    dynamic: BTreeSet<usize>,
    /// The model before its opset was raised, where it was
    unraised: Option<Model>,
}

/// Samples that choose among range estimators, at most.
const CHOOSING_SAMPLES: usize = 12;

/// Those of `count` calibrating samples that choose.
fn choosing(count: usize) -> Vec<usize> {
    let step = (count / count.div_ceil(4).clamp(1, CHOOSING_SAMPLES)).max(1);
    (0..count).step_by(step).take(CHOOSING_SAMPLES).collect()
}

/// Numbers of the outputs that are enough to choose by, and samples that are the least in any case.
const CHOOSING_NUMBERS: usize = 4096;
const CHOOSING_LEAST: usize = 6;

/// Bytes of constants of a model up to which all candidates are built at once.
const BUILT_TOGETHER: usize = 64 << 20;

/// Of these, how many run before a range estimator may be given up.
const CHOOSING_CHUNK: usize = 2;

impl Int8<'_> {
    fn context(&self) -> Context<'_> {
        let mut cx = Context::new(self.options.clone(), self.evaluator);
        cx.statistics = self.statistics.clone();
        cx
    }

    /// Without samples: ranges of each run, unless `dynamic` is [`Dynamic::None`], and storage. `Err`, with the reason, where
    /// there is nothing to do.
    pub fn without_samples(&self, lossless: &Model, dynamic: Dynamic) -> Result<Result<Quantized, String>, Failure> {
        let mut model = lossless.detached();
        let mut cx = self.context();
        if dynamic != Dynamic::None {
            let patterns = Patterns::new(self.keep_float)?;
            let kept = model.graph.ops_in_id_order().into_iter().filter(|op| patterns.matches(&model.graph, *op));
            let kept: Vec<OpId> = kept.collect();
            let pass = DynamicInt8 { calibration: None, always: dynamic == Dynamic::All, kept: &kept };
            cx.run(&pass, &mut model.graph).map_err(Failure::bug)?;
        }
        if self.target.stores {
            cx.run(&StoreInt8 { calibration: None }, &mut model.graph).map_err(Failure::bug)?;
        }
        if cx.journal.done() == 0 {
            let why = if !self.target.stores {
                format!("the target {} wants float weights", self.target.name)
            } else if self.options.skip.contains("store-int8") {
                "--skip store-int8 says so".to_owned()
            } else if model.opset() < LEAST_STORAGE_OPSET {
                format!("that needs opset {LEAST_STORAGE_OPSET}, the model has {}", model.opset())
            } else {
                "no constant is a large enough matrix of 32-bit floats in the main graph or its bodies".to_owned()
            };
            return Ok(Err(format!("nothing was stored in 8 bits: {why}")));
        }
        let missed = |entry: &onnx_shrink_passes::Entry| match &entry.outcome {
            Outcome::Missed { reason } if entry.pass == "dynamic-int8" => Some((entry.op.clone(), reason.clone())),
            _ => None,
        };
        let missed: BTreeMap<String, String> = cx.journal.entries.iter().filter_map(missed).collect();
        let reason = |op: OpId| {
            let reason = "no samples were given";
            let missed = missed.get(lossless.graph.label_of(op));
            Some(missed.map_or(reason.to_owned(), |missed| format!("{reason}, and ranges of each run: {missed}")))
        };
        let layers = layers(&lossless.graph, &model.graph, &reason);
        let run = match cx.journal.done_by("dynamic-int8") {
            0 => "layers run in float".to_owned(),
            1 => "one layer runs in 8 bits with ranges of each run, the others in float".to_owned(),
            count => format!("{count} layers run in 8 bits with ranges of each run, the others in float"),
        };
        let note = format!(
            "no samples were given: weights are stored in 8 bits, {run}; \
             with --data DIR (100 to 300 samples) layers would run in 8 bits, too, where the target gains from it"
        );
        Ok(Ok(Quantized {
            model,
            pairs: None,
            journal: cx.journal,
            layers,
            calibrator: None,
            samples: 0,
            notes: vec![note],
        }))
    }

    /// The lossless model in the opset that 8-bit layers need, and why it could not be brought there, if so.
    pub fn raised(&self, lossless: &Model) -> Result<(Model, Option<String>), Failure> {
        let mut model = lossless.detached();
        if model.opset() >= LEAST_OPSET {
            return Ok((model, None));
        }
        if let Err(error) = raise::raise(&mut model, LEAST_OPSET) {
            return Ok((lossless.detached(), Some(format!("8-bit layers need opset {LEAST_OPSET}: {error}"))));
        }
        let mut cx = self.context();
        infer::infer(&mut model.graph);
        pipeline::run_lossless(&mut model.graph, &mut cx).map_err(Failure::bug)?;
        Ok((model, None))
    }

    /// What calibration sees of `model` on `samples`; `keeps`: with the outputs that [`Calibrated::choose`] asks for. `Err` inside,
    /// when the model does not run.
    pub fn seen(
        &self,
        model: &Model,
        samples: &Samples,
        keeps: bool,
        progress: &dyn Progress,
    ) -> Result<Result<Calibration, CalibrationError>, Failure> {
        let stage = progress.stage("calibrating", Some(samples.len() as u64));
        let source = Source { samples, keeps };
        match calibrate(&model.graph, self.evaluator, &source, &|done| stage.advance(done as u64)) {
            Err(CalibrationError::Sample(error)) => Err(Failure::samples(anyhow::anyhow!(error))),
            Err(CalibrationError::Evaluate(error @ onnx_shrink_ir::EvaluateError::Input { .. })) => {
                Err(Failure::samples(error))
            }
            seen => Ok(seen),
        }
    }

    /// Finds what could run in integers, with what [`calibrate`] saw of the model that [`Int8::raised`] gave.
    pub fn from_calibration<'a>(&'a self, model: Model, calibration: Calibration) -> Result<Calibrated<'a>, Failure> {
        self.found(model, calibration, Vec::new(), None)
    }

    /// Runs the model on the samples and finds what could run in integers.
    pub fn calibrated<'a>(
        &'a self,
        lossless: &Model,
        samples: &Samples,
        progress: &dyn Progress,
    ) -> Result<Calibrated<'a>, Failure> {
        let (mut model, mut storage_only) = self.raised(lossless)?;
        let calibration = match self.seen(&model, samples, true, progress)? {
            Ok(calibration) => calibration,
            Err(error) => {
                storage_only = Some(format!("the model cannot be calibrated: {error}"));
                model = lossless.detached();
                Calibration::default()
            }
        };
        let was_raised = model.opset() > lossless.opset();
        let mut calibrated = self.found(model, calibration, Vec::new(), storage_only)?;
        calibrated.unraised = was_raised.then(|| lossless.detached());
        Ok(calibrated)
    }

    /// The same with ranges that follow from the model, of whose inputs `inputs` tells ranges.
    pub fn from_model<'a>(
        &'a self,
        lossless: &Model,
        inputs: &BTreeMap<String, (f64, f64)>,
    ) -> Result<Calibrated<'a>, Failure> {
        let mut model = lossless.detached();
        if model.opset() < LEAST_OPSET {
            raise::raise(&mut model, LEAST_OPSET).map_err(Failure::input)?;
            let mut cx = self.context();
            infer::infer(&mut model.graph);
            pipeline::run_lossless(&mut model.graph, &mut cx).map_err(Failure::bug)?;
        }
        let calibration = model_ranges(&model.graph, self.statistics, inputs).map_err(|error| match error {
            ModelRangesError::NoBatchNorm => Failure::input(error),
            ModelRangesError::NoInput(..) => Failure::usage(format_args!("--input-range: {error}")),
        })?;
        self.found(model, calibration, Vec::new(), None)
    }

    /// What of `model` could run in integers, by what is known of its values.
    fn found<'a>(
        &'a self,
        model: Model,
        calibration: Calibration,
        mut notes: Vec<String>,
        mut storage_only: Option<String>,
    ) -> Result<Calibrated<'a>, Failure> {
        let units = find_units(&model.graph, &calibration, self.target);
        let costs = Costs::new(&model.graph, &units, &calibration);
        if self.target.places == Places::Nothing {
            storage_only = Some(format!("the target {} runs 8-bit layers in float, slower", self.target.name));
        }
        if storage_only.is_none() && feeds_back(&model.graph) {
            let reason =
                "the model's outputs are fed back as inputs: errors of 8-bit layers would add up over the steps";
            storage_only = Some(reason.to_owned());
        }
        // `auto` says what is done anyway: where a gate fails, as few layers as possible stay float.
        let named: Vec<String> = self.keep_float.iter().filter(|word| *word != "auto").cloned().collect();
        let patterns = Patterns::new(&named)?;
        let user_kept = (0..units.units.len())
            .filter(|&unit| patterns.matches(&model.graph, units.units[unit].op))
            .collect::<BTreeSet<_>>();
        notes.extend(patterns.unused(&model.graph));
        // Attention runs faster with ranges of each run: Q/DQ break the engine's other fusions (`docs/engines.md` §0.9).
        let prefers = storage_only.is_some() || has_attention(&model.graph);
        let is_dynamic = |unit: &usize| {
            let linear = matches!(units.units[*unit].form, Form::Gemm | Form::MatMul) && !user_kept.contains(unit);
            linear
                && match self.dynamic {
                    Dynamic::None => false,
                    Dynamic::Paying => prefers && pays(&model.graph, units.units[*unit].op, Some(&calibration)),
                    Dynamic::All => true,
                }
        };
        let dynamic = (0..units.units.len()).filter(is_dynamic).collect();
        Ok(Calibrated {
            int8: self,
            model,
            calibration,
            units,
            costs,
            user_kept,
            notes,
            storage_only,
            dynamic,
            unraised: None,
        })
    }
}

/// The first opset whose Mul broadcasts: what is stored in 8 bits needs that.
const LEAST_STORAGE_OPSET: i64 = 7;

/// The first opset with DynamicQuantizeLinear.
const LEAST_DYNAMIC_OPSET: i64 = 11;

/// The opset with per-channel Quantize and Dequantize.
const LEAST_OPSET: i64 = 13;

/// Whether a later input has the type of a later output: state that is carried from step to step.
fn feeds_back(graph: &Graph) -> bool {
    let inputs: Vec<_> = graph.inputs().iter().skip(1).filter_map(|input| graph.ty(*input)).collect();
    let outputs: Vec<_> = graph.outputs().iter().skip(1).filter_map(|output| graph.ty(*output)).collect();
    let is_state =
        |ty: &onnx_shrink_ir::TensorType| ty.dtype == DataType::Float && ty.rank().is_some_and(|rank| rank >= 2);
    inputs.iter().any(|input| {
        is_state(input) && outputs.iter().any(|output| input.dtype == output.dtype && input.rank() == output.rank())
    })
}

/// What `--keep-float` names.
pub(crate) struct Patterns {
    globs: GlobSet,
    words: Vec<String>,
}

impl Patterns {
    pub(crate) fn new(words: &[String]) -> Result<Patterns, Failure> {
        let mut globs = GlobSetBuilder::new();
        for word in words {
            let glob = Glob::new(word).map_err(|error| Failure::usage(format_args!("--keep-float {word}: {error}")))?;
            globs.add(glob);
        }
        Ok(Patterns { globs: globs.build().map_err(Failure::bug)?, words: words.to_vec() })
    }

    pub(crate) fn matches(&self, graph: &Graph, op: OpId) -> bool {
        let (label, op_type) = (graph.label_of(op), graph.op(op).op_type());
        self.globs.is_match(label) || self.words.iter().any(|word| word == op_type || word == label)
    }

    /// A note for each word that names nothing.
    pub(crate) fn unused(&self, graph: &Graph) -> Vec<String> {
        let names: BTreeSet<&str> =
            graph.ops().into_iter().flat_map(|op| [graph.label_of(op), graph.op(op).op_type()]).collect();
        let is_used = |word: &String| {
            let glob = Glob::new(word).map(|glob| glob.compile_matcher());
            names.iter().any(|name| *name == word || glob.as_ref().is_ok_and(|glob| glob.is_match(name)))
        };
        self.words.iter().filter(|word| !is_used(word)).map(|word| format!("--keep-float {word} names no op")).collect()
    }
}

impl Calibrated<'_> {
    /// What the target gains most from, with `extra` units float besides those that the user named.
    pub fn placement(&self, extra: &BTreeSet<usize>) -> Placement {
        let kept: BTreeSet<usize> = if self.storage_only.is_some() {
            (0..self.units.units.len()).collect()
        } else {
            let float: BTreeSet<usize> = self.user_kept.union(extra).copied().collect();
            float.union(&self.dynamic).copied().collect()
        };
        match self.int8.place {
            Place::Cut => place(&self.costs, &kept),
            Place::Wrap => place_all(&self.costs, &kept),
        }
    }

    /// Whether layers find their ranges in each run.
    pub fn is_dynamic(&self) -> bool {
        !self.dynamic.is_empty()
    }

    /// From now on none does.
    pub fn leave_out_dynamic(&mut self) {
        self.dynamic.clear();
        let note = "no layer finds its ranges in each run: with that a gate failed";
        self.notes.push(note.to_owned());
    }

    /// The estimator where nothing measures which is best: the user's, or the one that does not widen with every outlier of
    /// ever more samples.
    pub fn unmeasured(&self) -> Calibrator {
        match self.int8.calibrate {
            Calibrate::MinMax => Calibrator::MinMax,
            Calibrate::Auto | Calibrate::Percentile => Calibrator::Percentile,
            Calibrate::Entropy => Calibrator::Entropy,
            Calibrate::Mse => Calibrator::Mse,
        }
    }

    /// Runs the float model on those of `samples` that [`Calibrated::choose`] asks for, where calibration ran on others.
    pub fn see_outputs(&mut self, samples: &Samples) -> Result<(), Failure> {
        let prepared = self.int8.evaluator.prepare(&self.model.graph).map_err(Failure::bug)?;
        for index in choosing(samples.len()) {
            let inputs = samples.get(index).map_err(Failure::samples)?.inputs;
            let outputs = prepared.run(&inputs, &mut |_, _| {}).map_err(Failure::samples)?;
            self.calibration.outputs.insert(index, outputs);
        }
        Ok(())
    }

    /// The range estimator: the user's, or the one whose outputs are nearest to the float model's on some of the samples
    /// that calibrated; and the model that was built with it, where one was.
    pub fn choose(
        &self,
        placement: &Placement,
        samples: &Samples,
        progress: &dyn Progress,
    ) -> Result<(Calibrator, Option<Quantized>), Failure> {
        let candidates = match self.int8.calibrate {
            Calibrate::MinMax => return Ok((Calibrator::MinMax, None)),
            Calibrate::Percentile => return Ok((Calibrator::Percentile, None)),
            Calibrate::Entropy => return Ok((Calibrator::Entropy, None)),
            Calibrate::Mse => return Ok((Calibrator::Mse, None)),
            Calibrate::Auto => Calibrator::AUTO,
        };
        if !placement.integer.contains(&true) {
            return Ok((candidates[0], None));
        }
        let chosen = choosing(samples.len());
        // Large outputs tell as much on fewer samples.
        let numbers = chosen.first().and_then(|index| self.calibration.outputs.get(index));
        let numbers = numbers.map_or(0, |outputs| outputs.iter().map(Tensor::len).sum()).max(1);
        let enough = CHOOSING_NUMBERS.div_ceil(numbers).clamp(CHOOSING_LEAST, CHOOSING_SAMPLES);
        let step = (chosen.len() / enough).max(1);
        let chosen: Vec<usize> = chosen.into_iter().step_by(step).take(enough).collect();
        let samples = samples.subset(&chosen);
        let stage = progress.stage("choosing ranges", Some(candidates.len() as u64));
        let expected: Vec<&Vec<Tensor>> =
            chosen.iter().filter_map(|index| self.calibration.outputs.get(index)).collect();
        // All at once while they are small; else one by one, for memory.
        let graph = &self.model.graph;
        let bytes = graph.values().into_iter().filter_map(|value| graph.constant(value)).map(Tensor::byte_len);
        let mut built: Vec<Result<Quantized, Failure>> = Vec::new();
        if bytes.sum::<usize>() <= BUILT_TOGETHER {
            candidates
                .par_iter()
                .map(|&calibrator| self.build(placement, calibrator, &BTreeSet::new()))
                .collect_into_vec(&mut built);
        }
        let mut built = built.into_iter();
        let mut best: Option<(f64, Calibrator, Quantized)> = None;
        for calibrator in candidates {
            let candidate = built.next().unwrap_or_else(|| self.build(placement, calibrator, &BTreeSet::new()))?;
            let after = self.int8.evaluator.prepare(&candidate.model.graph).map_err(Failure::bug)?;
            let least = best.as_ref().map_or(f64::INFINITY, |(least, ..)| *least);
            let error = relative_error(after.as_ref(), &expected, &samples, least)?;
            match error {
                Some(error) => log::info!("ranges by {}: relative error {error:.5}", calibrator.name()),
                None => log::info!("ranges by {}: relative error above {least:.5}", calibrator.name()),
            }
            drop(after);
            if let Some(error) = error.filter(|error| *error < least) {
                best = Some((error, calibrator, candidate));
            }
            stage.advance(1);
        }
        Ok(best.map_or((candidates[0], None), |(_, calibrator, model)| (calibrator, Some(model))))
    }

    /// The model with this placement and these ranges; constants that stay float are stored in 8 bits. `returned` are the
    /// units that went back to float for a gate.
    pub fn build(
        &self,
        placement: &Placement,
        calibrator: Calibrator,
        returned: &BTreeSet<usize>,
    ) -> Result<Quantized, Failure> {
        self.build_without(placement, calibrator, returned, &BTreeSet::new())
    }

    /// The same, with the units `overflowing` float.
    fn build_without(
        &self,
        placement: &Placement,
        calibrator: Calibrator,
        returned: &BTreeSet<usize>,
        overflowing: &BTreeSet<usize>,
    ) -> Result<Quantized, Failure> {
        let any = placement.integer.contains(&true);
        let least = if self.dynamic.is_empty() { LEAST_STORAGE_OPSET } else { LEAST_DYNAMIC_OPSET };
        if !any && let Some(model) = self.unraised.as_ref().filter(|model| model.opset() >= least) {
            return self.build_unraised(model, &self.reasons(placement, returned, overflowing));
        }
        let formats = self.int8.formats;
        let mut model = self.model.detached();
        let mut cx = self.int8.context();
        if any {
            let insert = InsertQdq {
                calibration: &self.calibration,
                calibrator,
                units: &self.units,
                integer: &placement.integer,
            };
            match self.int8.place {
                Place::Cut => cx.run(&insert, &mut model.graph),
                Place::Wrap => cx.run(&WrapQdq(insert), &mut model.graph),
            }
            .map_err(Failure::bug)?;
        }
        if !self.dynamic.is_empty() {
            let ops: BTreeSet<OpId> = self.dynamic.iter().map(|unit| self.units.units[*unit].op).collect();
            let kept = model.graph.ops_in_id_order().into_iter().filter(|op| !ops.contains(op));
            let kept: Vec<OpId> = kept.collect();
            let pass = DynamicInt8 { calibration: Some(&self.calibration), always: true, kept: &kept };
            cx.run(&pass, &mut model.graph).map_err(Failure::bug)?;
        }
        if self.int8.target.stores {
            cx.run(&StoreInt8 { calibration: Some(&self.calibration) }, &mut model.graph).map_err(Failure::bug)?;
        }
        model.graph.sweep();
        let overflows =
            |unit: &usize| placement.integer[*unit] && formats.overflows(&model.graph, self.units.units[*unit].op);
        let found: BTreeSet<usize> = (0..placement.integer.len()).filter(overflows).collect();
        if !found.is_empty() {
            let mut rest = placement.clone();
            found.iter().for_each(|unit| rest.integer[*unit] = false);
            let overflowing = found.union(overflowing).copied().collect();
            return self.build_without(&rest, calibrator, returned, &overflowing);
        }
        let reasons = self.reasons(placement, returned, overflowing);
        let is_integer: BTreeSet<OpId> =
            self.units.units.iter().zip(&placement.integer).filter(|(_, is)| **is).map(|(unit, _)| unit.op).collect();
        let verdict = |op: OpId| match reasons.get(&op) {
            _ if is_integer.contains(&op) => None,
            Some(reason) => Some(reason.clone()),
            None => Some(Miss::Form("its inputs or outputs were not calibrated").sentence(&self.model.graph)),
        };
        let mut layers = layers(&self.model.graph, &model.graph, &verdict);
        if any && self.int8.place == Place::Wrap {
            // Behind everything that knows ops by their ids: these change now.
            let cancel = if formats.keeps_ranges() { CancelQdq::local() } else { CancelQdq::beside_activations() };
            cx.run(&cancel, &mut model.graph).map_err(Failure::bug)?;
        }
        let (model, pairs) = match if any { formats.write(&model, &mut cx)? } else { None } {
            Some(written) => (written, Some(model)),
            None => (model, None),
        };
        for layer in layers.iter_mut().filter(|_| pairs.is_some()) {
            layer.bytes_after = written_bytes(&model.graph, &layer.name).unwrap_or(layer.bytes_after);
        }
        Ok(Quantized {
            model,
            pairs,
            journal: cx.journal,
            layers,
            calibrator: any.then_some(calibrator),
            samples: self.calibration.samples,
            notes: self.notes.clone(),
        })
    }

    /// Without pairs, in the opset that the model had: ONNX Runtime 1.32 recognizes the attention of older exporters below opset 13
    /// alone, where Unsqueeze has its axes as an attribute (0.83 of the time: x_bert_toy). `reasons` are by ops of the raised model.
    fn build_unraised(&self, before: &Model, reasons: &BTreeMap<OpId, String>) -> Result<Quantized, Failure> {
        let raised = &self.model.graph;
        let mut model = before.detached();
        // Ids differ, names do not.
        let twin = |op: OpId| before.graph.producer(before.graph.find(raised.name_of(raised.op(op).output(0)?))?);
        let values =
            self.calibration.values.iter().filter_map(|(value, seen)| {
                before.graph.find(raised.name_of(*value)).map(|value| (value, seen.clone()))
            });
        let calibration = Calibration { values: values.collect(), outputs: BTreeMap::new(), ..self.calibration };
        let mut cx = self.int8.context();
        if !self.dynamic.is_empty() {
            let ops: BTreeSet<OpId> = self.dynamic.iter().filter_map(|unit| twin(self.units.units[*unit].op)).collect();
            let kept = model.graph.ops_in_id_order().into_iter().filter(|op| !ops.contains(op));
            let kept: Vec<OpId> = kept.collect();
            let pass = DynamicInt8 { calibration: Some(&calibration), always: true, kept: &kept };
            cx.run(&pass, &mut model.graph).map_err(Failure::bug)?;
        }
        if self.int8.target.stores {
            cx.run(&StoreInt8 { calibration: Some(&calibration) }, &mut model.graph).map_err(Failure::bug)?;
        }
        model.graph.sweep();
        let reasons: BTreeMap<OpId, &String> =
            reasons.iter().filter_map(|(op, reason)| twin(*op).map(|op| (op, reason))).collect();
        let verdict = |op: OpId| match reasons.get(&op) {
            Some(reason) => Some((*reason).clone()),
            None => Some(Miss::Form("its inputs or outputs were not calibrated").sentence(&before.graph)),
        };
        let layers = layers(&before.graph, &model.graph, &verdict);
        Ok(Quantized {
            model,
            pairs: None,
            journal: cx.journal,
            layers,
            calibrator: None,
            samples: self.calibration.samples,
            notes: self.notes.clone(),
        })
    }

    /// Why each op does not compute in integers, by op; integer units are not in it. `returned` went back to float for
    /// the gate, `overflowing` because of their sums.
    fn reasons(
        &self,
        placement: &Placement,
        returned: &BTreeSet<usize>,
        overflowing: &BTreeSet<usize>,
    ) -> BTreeMap<OpId, String> {
        let graph = &self.model.graph;
        // Units that paid as long as no gate spoke.
        let paid =
            if returned.is_empty() { placement.integer.clone() } else { self.placement(&BTreeSet::new()).integer };
        let reason = |unit: usize| {
            if let Some(reason) = &self.storage_only {
                reason.clone()
            } else if self.user_kept.contains(&unit) {
                Miss::Kept("--keep-float names it".to_owned()).sentence(graph)
            } else if overflowing.contains(&unit) {
                "its sums could leave 32 bits".to_owned()
            } else if returned.contains(&unit) && paid[unit] {
                "it went back to float so that the gate holds".to_owned()
            } else if paid[unit] {
                "layers around it went back to float so that the gate holds, and without them it does not pay"
                    .to_owned()
            } else if paid.contains(&true) {
                "with its conversions the target would run it slower in 8 bits, by its cost table".to_owned()
            } else {
                "8 bits would not make the model faster on the target, by its cost table".to_owned()
            }
        };
        let units = self.units.units.iter().enumerate().filter(|(index, _)| !placement.integer[*index]);
        let mut reasons: BTreeMap<OpId, String> = units.map(|(index, unit)| (unit.op, reason(index))).collect();
        for (op, miss) in &self.units.misses {
            let reason = self.storage_only.clone().unwrap_or_else(|| miss.sentence(graph));
            reasons.insert(*op, reason);
        }
        reasons
    }

    /// Integer units by the error that each adds to the values, the worst first.
    pub fn worst(
        &self,
        quantized: &Quantized,
        placement: &Placement,
        samples: &Samples,
    ) -> Result<Vec<usize>, Failure> {
        let on = self.units.units.iter().enumerate().filter(|(index, _)| placement.integer[*index]);
        let edges = edges_of(on.clone().map(|(_, unit)| unit));
        let noise = self.noise(quantized.pairs.as_ref().unwrap_or(&quantized.model), samples, &edges)?;
        let mut added: Vec<(f64, usize)> = on.map(|(index, unit)| (self.added(&noise, unit), index)).collect();
        added.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(added.into_iter().map(|(_, unit)| unit).collect())
    }

    /// Fills in how far the output of each layer is from the float model's, where both have it under one name.
    pub fn measure_layers(&self, quantized: &mut Quantized, samples: &Samples) -> Result<(), Failure> {
        let edges = edges_of(self.units.units.iter().filter(|unit| unit.is_weighted()));
        let noise = self.noise(quantized.pairs.as_ref().unwrap_or(&quantized.model), samples, &edges)?;
        let graph = &self.model.graph;
        let mut of_layer: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for unit in self.units.units.iter().filter(|unit| unit.is_weighted()) {
            let error = unit.outputs.iter().find_map(|output| noise.get(graph.name_of(*output)));
            if let Some(error) = error.filter(|error| **error > 0.0) {
                of_layer.insert(graph.label_of(unit.op), (*error, self.added(&noise, unit).max(0.0)));
            }
        }
        let whole: f64 = of_layer.values().map(|(_, added)| added).sum();
        for layer in &mut quantized.layers {
            let found = of_layer.get(layer.name.as_str());
            layer.sqnr_db = found.map(|(error, _)| -10.0 * error.log10());
            layer.error_share = found.map(|(_, added)| if whole > 0.0 { added / whole } else { 0.0 });
        }
        Ok(())
    }

    /// Relative squared error of the outputs of `unit` beyond that of its inputs.
    fn added(&self, noise: &BTreeMap<String, f64>, unit: &Unit) -> f64 {
        let of = |value: onnx_shrink_ir::ValueId| noise.get(self.model.graph.name_of(value)).copied().unwrap_or(0.0);
        let before = unit.inputs.iter().map(|(_, value)| of(*value)).fold(0.0, f64::max);
        let after = unit.outputs.iter().map(|value| of(*value)).fold(0.0, f64::max);
        after - before
    }

    /// Relative squared error of those of `values` that both models have under one name. (They are held in memory, for one
    /// sample a thread.)
    fn noise(
        &self,
        quantized: &Model,
        samples: &Samples,
        values: &BTreeSet<onnx_shrink_ir::ValueId>,
    ) -> Result<BTreeMap<String, f64>, Failure> {
        let graph = &self.model.graph;
        let before = self.int8.evaluator.prepare(graph).map_err(Failure::bug)?;
        let after = self.int8.evaluator.prepare(&quantized.graph).map_err(Failure::bug)?;
        let one = |index: usize| -> Result<BTreeMap<String, (f64, f64)>, Failure> {
            let inputs = samples.get(index).map_err(Failure::samples)?.inputs;
            let mut reference: BTreeMap<&str, Tensor> = BTreeMap::new();
            let mut keep = |value: onnx_shrink_ir::ValueId, tensor: &Tensor| {
                let name = graph.name_of(value);
                if tensor.dtype() == DataType::Float && values.contains(&value) && quantized.graph.find(name).is_some()
                {
                    reference.insert(name, tensor.clone());
                }
            };
            before.run(&inputs, &mut keep).map_err(Failure::bug)?;
            let mut sums = BTreeMap::new();
            let mut compare = |value: onnx_shrink_ir::ValueId, tensor: &Tensor| {
                let name = quantized.graph.name_of(value);
                let Some(expected) = reference.remove(name).filter(|expected| expected.dims() == tensor.dims()) else {
                    return;
                };
                if let (Some(a), Some(b)) = (expected.as_slice::<f32>(), tensor.as_slice::<f32>()) {
                    sums.insert(name.to_owned(), squares(&a, &b));
                }
            };
            after.run(&inputs, &mut compare).map_err(Failure::bug)?;
            Ok(sums)
        };
        let dims = values.iter().filter_map(|value| self.calibration.values.get(value)).map(|seen| &seen.dims);
        let numbers = dims.map(|dims| dims.iter().product::<usize>()).sum::<usize>().max(1);
        let enough = NOISE_NUMBERS.div_ceil(numbers).clamp(NOISE_LEAST, NOISE_SAMPLES);
        let indices: Vec<usize> = (0..samples.len().min(enough)).collect();
        let ones: Vec<Result<_, Failure>> = indices.par_iter().map(|&index| one(index)).collect();
        let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for one in ones {
            for (name, (error, signal)) in one? {
                let sum = sums.entry(name).or_default();
                *sum = (sum.0 + error, sum.1 + signal);
            }
        }
        Ok(sums.into_iter().map(|(name, (error, signal))| (name, error / signal.max(f64::MIN_POSITIVE))).collect())
    }
}

/// Values that `units` read and make.
fn edges_of<'u>(units: impl Iterator<Item = &'u Unit>) -> BTreeSet<onnx_shrink_ir::ValueId> {
    units.flat_map(|unit| unit.inputs.iter().map(|input| input.1).chain(unit.outputs.iter().copied())).collect()
}

/// Samples that tell how far each value is off, at most and at least, and numbers that are enough.
const NOISE_SAMPLES: usize = 4;
const NOISE_LEAST: usize = 2;
const NOISE_NUMBERS: usize = 1 << 20;

/// Σ(b − a)² and Σa², in an order that does not depend on the processor.
fn squares(a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut error, mut signal) = ([0f64; 4], [0f64; 4]);
    let count = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..count].as_chunks::<4>(), b[..count].as_chunks::<4>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..4 {
            let (a, b) = (f64::from(a[lane]), f64::from(b[lane]));
            error[lane] += (b - a) * (b - a);
            signal[lane] += a * a;
        }
    }
    let sum = (error.into_iter().sum::<f64>(), signal.into_iter().sum::<f64>());
    a_rest.iter().zip(b_rest).fold(sum, |(error, signal), (&a, &b)| {
        let (a, b) = (f64::from(a), f64::from(b));
        (error + (b - a) * (b - a), signal + a * a)
    })
}

/// Root of the summed relative squared errors of the float outputs of `model` on `samples`, from what is expected there;
/// `None` as soon as it is certain to be `least` or more. What it returns does not depend on the number of threads.
fn relative_error(
    model: &dyn Prepared,
    expected: &[&Vec<Tensor>],
    samples: &Samples,
    least: f64,
) -> Result<Option<f64>, Failure> {
    let mut signals: BTreeMap<usize, f64> = BTreeMap::new();
    for (index, tensor) in expected.iter().flat_map(|outputs| outputs.iter().enumerate()) {
        if let Some(numbers) = tensor.as_slice::<f32>() {
            *signals.entry(index).or_default() += numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        }
    }
    let mut errors: BTreeMap<usize, f64> = BTreeMap::new();
    let root = |errors: &BTreeMap<usize, f64>| -> f64 {
        let relative = errors.iter().filter_map(|(index, error)| {
            let signal = signals.get(index).copied().unwrap_or(0.0);
            (signal > 0.0).then(|| error / signal)
        });
        relative.sum::<f64>().sqrt()
    };
    let one = |index: usize| -> Result<Vec<Tensor>, Failure> {
        let inputs = samples.get(index).map_err(Failure::samples)?.inputs;
        model.run(&inputs, &mut |_, _| {}).map_err(Failure::bug)
    };
    let indices: Vec<usize> = (0..samples.len().min(expected.len())).collect();
    for chunk in indices.chunks(CHOOSING_CHUNK) {
        let found: Vec<Result<Vec<Tensor>, Failure>> = chunk.par_iter().map(|&index| one(index)).collect();
        for (&sample, found) in chunk.iter().zip(found) {
            for (index, (a, b)) in expected[sample].iter().zip(&found?).enumerate() {
                if let (Some(a), Some(b)) = (a.as_slice::<f32>(), b.as_slice::<f32>()) {
                    *errors.entry(index).or_default() += squares(&a, &b).0;
                }
            }
        }
        if root(&errors) >= least {
            return Ok(None); // Errors only add up.
        }
    }
    Ok(Some(root(&errors)))
}
