//! The int8 part of the main job: calibrate, place, choose the ranges by measurement, fall back where the gate fails.
//!
//! The rewrites are in the passes; here is only what decides between them by running the model.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{DataType, Evaluate, EvaluateError, Graph, Model, OpId};
use onnx_shrink_passes::target::{Places, Target};
use onnx_shrink_passes::{
    Context, Miss, Named, Options, SampleError, Statistics,
    analysis::{
        place::Costs,
        units::{Units, find_units},
    },
    calibration::{
        calibrators::Calibrator,
        collect::{Calibration, calibrate},
        model_ranges::{ModelRangesError, model_ranges},
    },
    quantize::{
        DynamicInt8,
        dynamic_int8::{self, has_attention, pays},
    },
    weight_only::{StoreInt8, fold_weights::Restore, least_bits::LeastBits, store_int8},
};

use self::choose::choosing;
pub use self::folded::Folded;
pub(crate) use self::noise::squares;
use crate::{
    Failure, Progress, Samples,
    keep_float::Patterns,
    layers::layers,
    nothing_stored::{Cause, NothingStored, WithSamples},
    plan::{Decision, Layer, Plan, Reason},
    report::Note,
    request::{
        Calibrate,
        formats::{Dynamic, FormatOptions},
        qdq::Place,
    },
    simplified,
};

mod build;
mod choose;
mod folded;
mod noise;

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
    pub notes: Vec<Note>,
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

/// A graph with what its samples showed: where quantization begins, again for each try.
pub struct Calibrated<'a> {
    int8: &'a Int8<'a>,
    folded: Folded<'a>,
    calibration: Calibration,
    units: Units,
    costs: Costs,
    user_kept: BTreeSet<usize>,
    notes: Vec<Note>,
    /// Why nothing at all has calibrated ranges
    storage_only: Option<Reason>,
    /// Units that find their ranges in each run
    dynamic: BTreeSet<usize>,
    /// Whether outliers of what these read go into their weights
    smooths: bool,
    /// Whether the weights of what went back to float for a gate are stored in 8 bits
    stores_returned: bool,
    /// What single constants must have at least
    least: LeastBits,
    /// The model before its opset was raised, where it was
    unraised: Option<Folded<'a>>,
    /// Units that 8 bits ruin, with the SQNR of what they make of the float model's values, in dB
    ruined: BTreeMap<usize, f64>,
}

impl Int8<'_> {
    fn context(&self) -> Context<'_> {
        let mut cx = Context::new(self.options.clone(), self.evaluator);
        cx.statistics = self.statistics.clone();
        cx
    }

    /// Without samples: ranges of each run, unless `dynamic` is [`Dynamic::None`], and storage. `Err`, with the reason, where
    /// there is nothing to do.
    pub fn without_samples(
        &self,
        lossless: &Model,
        dynamic: Dynamic,
        why: &Reason,
    ) -> Result<Result<Quantized, NothingStored>, Failure> {
        self.without_samples_at_least(lossless, dynamic, why, &LeastBits::default())
    }

    /// The same, with at least so many bits for single constants.
    pub fn without_samples_at_least(
        &self,
        lossless: &Model,
        dynamic: Dynamic,
        why: &Reason,
        least: &LeastBits,
    ) -> Result<Result<Quantized, NothingStored>, Failure> {
        let folded = Folded::of(lossless.detached(), self)?;
        let mut model = folded.model.detached();
        let mut cx = self.context();
        cx.options.deny.extend(folded.left_alone());
        let patterns = Patterns::new(self.keep_float)?;
        if dynamic != Dynamic::None {
            let kept = model.graph.ops_in_id_order().into_iter().filter(|op| patterns.matches(&model.graph, *op));
            let kept: Vec<OpId> = kept.collect();
            let pass = DynamicInt8 {
                calibration: None,
                always: dynamic == Dynamic::All,
                smooths: false,
                kept: &kept,
                target: self.target,
            };
            cx.run(&pass, &mut model.graph).map_err(Failure::bug)?;
        }
        let mut restored = folded.restore(&mut model, Restore::Tied)?;
        if self.target.stores {
            let twins = folded.twins();
            let store = StoreInt8 { least: Some(least), twins: &twins, ..StoreInt8::default() };
            cx.run(&store, &mut model.graph).map_err(Failure::bug)?;
        }
        restored.extend(folded.restore(&mut model, Restore::Larger)?);
        if cx.journal.done() == 0 {
            let cause = if !self.target.stores {
                Cause::Target(self.target.name)
            } else if self.options.skip.contains(store_int8::PASS.name) {
                Cause::Skipped
            } else if model.opset() < LEAST_STORAGE_OPSET {
                Cause::Opset { found: model.opset(), least: LEAST_STORAGE_OPSET }
            } else {
                Cause::NoMatrix
            };
            return Ok(Err(NothingStored { cause, with_samples: WithSamples(self.target) }));
        }
        let missed = cx.journal.entries.iter().filter(|entry| entry.pass == dynamic_int8::PASS.name);
        let missed: BTreeMap<&str, &Miss<Named>> =
            missed.filter_map(|entry| Some((entry.op.as_str(), entry.missed()?))).collect();
        let nor_dynamic = |op: OpId| {
            let missed = missed.get(lossless.graph.label_of(op))?;
            Some((op, Decision::Float(Reason::NorDynamic(Box::new(why.clone()), (*missed).clone()))))
        };
        let plan = Plan::float(why.clone()).with(lossless.graph.ops_in_id_order().into_iter().filter_map(nor_dynamic));
        let layers = layers(&lossless.graph, &model.graph, &plan);
        let mut notes = patterns.unused(&lossless.graph);
        let dynamic = cx.journal.done_by(dynamic_int8::PASS.name);
        notes.push(Note::StoredWithoutSamples { dynamic, with_samples: WithSamples(self.target) });
        notes.extend(open_shapes(&lossless.graph));
        let journal = folded.journal(&restored, cx.journal);
        Ok(Ok(Quantized { model, pairs: None, journal, layers, calibrator: None, samples: 0, notes }))
    }

    /// The lossless model in the opset that 8-bit layers need, with its weights computed, and why it could not be brought there, if so.
    pub fn raised(&self, lossless: &Model) -> Result<(Folded<'_>, Option<String>), Failure> {
        let mut model = lossless.detached();
        let unfit = simplified::raise(&mut model, LEAST_OPSET, &mut self.context())?.err();
        let unfit = unfit.map(|error| format!("8-bit layers need opset {LEAST_OPSET}: {error}"));
        Ok((Folded::of(model, self)?, unfit))
    }

    /// What calibration sees of `model` on `samples`; `keeps`: with the outputs that [`Calibrated::choose`] asks for. `Err` inside,
    /// when the model does not run.
    pub fn seen(
        &self,
        model: &Model,
        samples: &Samples,
        keeps: bool,
        progress: &dyn Progress,
    ) -> Result<Result<Calibration, SampleError>, Failure> {
        let stage = progress.stage("calibrating", Some(samples.len() as u64));
        let kept = if keeps { choosing(samples.len()) } else { Vec::new() };
        match calibrate(&model.graph, self.evaluator, samples, &kept, &|done| stage.advance(done as u64)) {
            Err(error @ (SampleError::Read(_) | SampleError::Run(EvaluateError::Input { .. }))) => Err(error.into()),
            seen => Ok(seen),
        }
    }

    /// Finds what could run in integers, with what [`calibrate`] saw of the model that [`Int8::raised`] gave.
    pub fn with_calibration<'a>(
        &'a self,
        model: Folded<'a>,
        calibration: Calibration,
    ) -> Result<Calibrated<'a>, Failure> {
        self.found(model, calibration, Vec::new(), None)
    }

    /// Runs the model on the samples and finds what could run in integers.
    pub fn calibrated<'a>(
        &'a self,
        lossless: &Model,
        samples: &Samples,
        progress: &dyn Progress,
    ) -> Result<Calibrated<'a>, Failure> {
        let (mut folded, unfit) = self.raised(lossless)?;
        let mut storage_only = unfit.map(Reason::Unfit);
        let calibration = match self.seen(&folded.model, samples, true, progress)? {
            Ok(calibration) => calibration,
            Err(error) => {
                storage_only = Some(Reason::NotCalibrated(error.to_string()));
                folded = Folded::of(lossless.detached(), self)?;
                Calibration::default()
            }
        };
        let was_raised = folded.model.opset() > lossless.opset();
        let mut calibrated = self.found(folded, calibration, Vec::new(), storage_only)?;
        if was_raised {
            calibrated.unraised = Some(Folded::of(lossless.detached(), self)?);
        }
        Ok(calibrated)
    }

    /// The same with ranges that follow from the model, of whose inputs `inputs` tells ranges.
    pub fn with_model_ranges<'a>(
        &'a self,
        lossless: &Model,
        inputs: &BTreeMap<String, (f64, f64)>,
    ) -> Result<Calibrated<'a>, Failure> {
        let mut model = lossless.detached();
        simplified::raise(&mut model, LEAST_OPSET, &mut self.context())?.map_err(Failure::input)?;
        let folded = Folded::of(model, self)?;
        let model = &folded.model;
        let calibration = model_ranges(&model.graph, self.statistics, inputs).map_err(|error| match error {
            ModelRangesError::NoBatchNorm => Failure::input(anyhow::anyhow!("--ranges model: {error}")),
            ModelRangesError::NoInput(..) => Failure::usage(format_args!("--input-range: {error}")),
        })?;
        let open = model.graph.inputs().iter().filter(|input| {
            let is_float = model.graph.ty(**input).is_some_and(|ty| ty.dtype == DataType::Float);
            is_float && !calibration.values.contains_key(input)
        });
        let open: Vec<String> = open.map(|input| model.graph.name_of(*input).to_owned()).collect();
        let notes = if open.is_empty() { Vec::new() } else { vec![Note::InputRangesUnknown(open)] };
        self.found(folded, calibration, notes, None)
    }

    /// What of `folded` could run in integers, by what is known of its values.
    fn found<'a>(
        &'a self,
        folded: Folded<'a>,
        calibration: Calibration,
        mut notes: Vec<Note>,
        mut storage_only: Option<Reason>,
    ) -> Result<Calibrated<'a>, Failure> {
        let model = &folded.model;
        let units = find_units(&model.graph, &calibration, self.target);
        let costs = Costs::new(&model.graph, &units, &calibration);
        if self.target.places == Places::Nothing {
            storage_only = Some(Reason::TargetRunsFloat(self.target.name));
        }
        if storage_only.is_none() && feeds_back(&model.graph) {
            storage_only = Some(Reason::FedBack);
        }
        let patterns = Patterns::new(self.keep_float)?;
        let user_kept = (0..units.units.len())
            .filter(|&unit| patterns.matches(&model.graph, units.units[unit].op))
            .collect::<BTreeSet<_>>();
        notes.extend(patterns.unused(&model.graph));
        // Attention runs faster with ranges of each run: Q/DQ break the engine's other fusions (`docs/engines.md` §0.9).
        let prefers = storage_only.is_some() || has_attention(&model.graph);
        let mut calibrated = Calibrated {
            int8: self,
            folded,
            calibration,
            units,
            costs,
            user_kept,
            notes,
            storage_only,
            dynamic: BTreeSet::new(),
            smooths: false,
            stores_returned: true,
            least: LeastBits::default(),
            unraised: None,
            ruined: BTreeMap::new(),
        };
        let integer = calibrated.placement(&BTreeSet::new()).integer;
        let Calibrated { folded: Folded { model, .. }, calibration, units, user_kept, .. } = &calibrated;
        let is_dynamic = |unit: &usize| {
            let linear = units.units[*unit].is_linear() && !user_kept.contains(unit);
            linear
                && match self.dynamic {
                    Dynamic::None => false,
                    // What calibrated ranges do not pay for may pay with those of each run: rows of one between float layers.
                    Dynamic::Paying => {
                        (prefers || !integer[*unit])
                            && pays(&model.graph, units.units[*unit].op, Some(calibration), self.target)
                    }
                    Dynamic::All => true,
                }
        };
        calibrated.dynamic = (0..units.units.len()).filter(is_dynamic).collect();
        Ok(calibrated)
    }
}

/// What is to be said of a model all of whose layers have shapes that inputs leave open: made-up samples are of some length,
/// real ones of another.
fn open_shapes(graph: &Graph) -> Option<Note> {
    let shape = |value| graph.ty(value).and_then(|ty| ty.shape.as_ref());
    let is_layer = |op: &&OpId| {
        let op = graph.op(**op);
        let has_weight = op.input(1).is_some_and(|weight| graph.constant(weight).is_some());
        has_weight && ["Conv", "ConvTranspose", "Gemm", "MatMul"].iter().any(|kind| op.is(kind))
    };
    let is_open = |op: &OpId| {
        let input = graph.op(*op).input(0).and_then(shape);
        input.is_none_or(|dims| dims.iter().any(|dim| dim.known().is_none()))
    };
    let ops = graph.ops_in_id_order();
    let layers: Vec<&OpId> = ops.iter().filter(is_layer).collect();
    // (The first axis is the batch, mostly: one is as good as many.)
    let open = |input: &onnx_shrink_ir::ValueId| {
        let dims = shape(*input).into_iter().flatten().skip(1);
        dims.filter(|dim| dim.known().is_none()).map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut names: Vec<String> = graph.inputs().iter().flat_map(open).collect();
    names.sort();
    names.dedup();
    let all_open = !layers.is_empty() && layers.iter().all(|op| is_open(op));
    (all_open && !names.is_empty()).then_some(Note::OpenShapes { layers: layers.len(), dims: names })
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
