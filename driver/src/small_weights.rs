//! `--weights`: weights in 4 or 16 bits, where layers compute in float.
//!
//! 4 bits are an average: [`MEAN_BITS`] a number with the scales are what all layers get together, and blocks of 16 to 128 or 8 bits
//! are chosen layer by layer, so that those bits do most for the outputs: with samples after what rounding each layer alone does to
//! them, else as if all did as much. The opset is raised for 4-bit types only where a kernel reads them faster than floats.
//! What no layer multiplies by in 4 bits gets 8, the smallest of it 16, unless a gate fails ([`returns`]) or 8 bits for all would be
//! smaller ([`Size`]).
//! **Never** quantizes what layers read or give: the file is smaller, and what computes is as before, or a kernel that unpacks.
mod returns;
mod share;

pub(crate) use returns::MOST_STEPS;
pub use returns::Returns;

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array2;
use onnx_shrink_ir::{Evaluate, Graph, Model, OpId, Tensor, ValueId, infer, raise};
use onnx_shrink_passes::{
    Context, Options, SampleError, SampleSource,
    numerics::{
        bits::{Choice, Form, allot},
        solver::Gram,
    },
    prune::{
        layer::Layer,
        private_vectors::{Copied, copy_shared_vectors, share_again},
        reconstruct::one_after_the_other,
        trial::PruneError,
    },
    quantize::dynamic_int8::has_attention,
    weight_only::{
        StoreFp16, StoreInt4, StoreInt8,
        least_bits::{SMALL_SHARE, Storable, storable},
        store_int4::{Int4, LEAST_OPSET, Rounding, candidate, choices},
    },
};

use crate::{
    Failure, Progress, Samples,
    int8::Quantized,
    keep_float::Patterns,
    layers::layers,
    plan::{self, Decision, MoreBits, Plan, Reason},
    report::{Figures, Note, Stored},
    request::weights::Weights,
    simplified,
    stored_form::{bytes_of_layers, form_read_by, multiplies},
};

/// Time of a layer of one row whose kernel unpacks 4 bits, as a share of its float time (measured with ONNX Runtime 1.32).
const KERNEL_TIME: f64 = 0.65;

/// Bits a number that layers get together, scales included: those of 4 bits in blocks of 32 with float scales.
const MEAN_BITS: f64 = 5.0;

/// The opset that files of a lower one get: Mul broadcasts, and scales of 16 bits are cast.
const PLAIN_OPSET: i64 = 13;

/// What the stage needs to know.
pub struct SmallWeights<'a> {
    /// The engine
    pub evaluator: &'a dyn Evaluate,
    /// Options of the passes
    pub options: &'a Options,
    /// How weights are stored
    pub weights: Weights,
    /// Ops whose weights stay out of 4 bits: names, op types or globs
    pub keep_float: &'a [String],
}

/// How far the size of the file goes before the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The smallest constants in 16 bits
    Spared,
    /// No constant in more than 8 bits
    Dense,
    /// The same, and none in 4 bits: where the ops that unpack 4 bits take more than these save
    Plain,
}

/// The layers whose weights are rounded, before they are stored.
pub struct Planned<'a> {
    stage: &'a SmallWeights<'a>,
    /// In the opset that the types need
    model: Model,
    layers: Vec<(OpId, Int4)>,
    /// Weights of layers that get 8 bits
    in_8_bits: BTreeMap<OpId, ValueId>,
    /// Why others are not in 4 bits
    refused: BTreeMap<OpId, MoreBits>,
    /// Constants that `--keep-float` keeps out of 8 bits, too
    kept: BTreeSet<String>,
    /// Vectors that several layers read, copied for each
    copies: Vec<Copied>,
    /// Constants that are not in 4 bits
    constants: Vec<Storable>,
    /// The smallest of them
    spared: BTreeSet<String>,
    notes: Vec<Note>,
    samples: usize,
    /// Before it was raised
    opset: i64,
}

impl SmallWeights<'_> {
    /// Rounds the weights of `lossless`; `samples` are those that calibrate and those that judge.
    pub fn plan(
        &self,
        lossless: &Model,
        samples: Option<&(Samples, Samples)>,
        progress: &dyn Progress,
    ) -> Result<Planned<'_>, Failure> {
        let mut model = lossless.detached();
        let mut planned = Planned {
            stage: self,
            model: model.detached(),
            layers: Vec::new(),
            in_8_bits: BTreeMap::new(),
            refused: BTreeMap::new(),
            kept: BTreeSet::new(),
            copies: Vec::new(),
            constants: storable(&lossless.graph),
            spared: BTreeSet::new(),
            notes: Vec::new(),
            samples: 0,
            opset: lossless.opset(),
        };
        if self.weights == Weights::Fp16 {
            return Ok(planned);
        }
        let calibrating = samples.map(|(calibrating, _)| calibrating).filter(|samples| !samples.is_empty());
        if model.opset() < 7 {
            self.raise(&mut model, PLAIN_OPSET)?;
        }
        planned.survey(&mut model, calibrating, progress)?;
        let gains = |layer: &&(OpId, Int4)| layer.1.is_fused(&model.graph);
        let gaining = planned.layers.iter().filter(gains).count();
        if gaining > 0 && model.opset() < LEAST_OPSET {
            let from = model.opset();
            // x_bert_toy runs 1.24 times as long without.
            if has_attention(&model.graph) {
                planned.notes.push(Note::OpsetOf4Bits { from, to: LEAST_OPSET, layers: gaining, is_raised: false });
            } else {
                self.raise(&mut model, LEAST_OPSET)?;
                model.set_ir_version(model.ir_version().max(LEAST_IR_VERSION));
                planned.survey(&mut model, calibrating, progress)?;
                planned.notes.push(Note::OpsetOf4Bits { from, to: LEAST_OPSET, layers: gaining, is_raised: true });
            }
        }
        planned.model = model.detached();
        let graph = &model.graph;
        let layers: Vec<Layer> = planned.layers.iter().map(|(_, stored)| stored.layer().clone()).collect();
        if let Some((calibrating, held_out)) = samples.filter(|(calibrating, _)| !calibrating.is_empty()) {
            planned.samples = calibrating.len();
            let stage = progress.stage("rounding weights", Some(layers.len() as u64));
            let both = Both { calibrating, held_out };
            let judges = |index: usize| index >= calibrating.len();
            let stored: &mut Vec<(OpId, Int4)> = &mut planned.layers;
            let mut solve = |layer: &Layer, fit: &Gram, judge: &Gram, prior: &Array2<f64>| {
                let (_, stored) = stored.iter_mut().find(|(op, _)| *op == layer.op)?;
                Some(stored.refine(fit, judge, prior))
            };
            let report = |_, _| stage.advance(1);
            let source: (&dyn SampleSource, &(dyn Fn(usize) -> bool + Sync)) = (&both, &judges);
            one_after_the_other(graph, &layers, self.evaluator, source, &mut solve, &report).map_err(|error| {
                match error {
                    PruneError::Samples(error) => error.into(),
                    error => Failure::bug(error),
                }
            })?;
        }
        Ok(planned)
    }

    /// Why `model` cannot have weights in 4 bits: it is of an opset without what they are unpacked by, and cannot be raised.
    pub fn unfit(weights: Weights, model: &Model) -> Option<String> {
        if weights == Weights::Fp16 || model.opset() >= 7 {
            return None;
        }
        let error = raise::raise(&mut model.detached(), PLAIN_OPSET).err()?;
        Some(format!("--weights int4 needs opset {PLAIN_OPSET}: {error}"))
    }

    /// Raises the opset, and rewrites again what that lets.
    fn raise(&self, model: &mut Model, opset: i64) -> Result<(), Failure> {
        let mut cx = Context::new(self.options.clone(), self.evaluator);
        let raised = simplified::raise(model, opset, &mut cx)?;
        raised.map_err(|error| Failure::input(anyhow::anyhow!("--weights int4 needs opset {opset}: {error}")))
    }
}

/// Samples that are fitted, and behind them those that judge.
struct Both<'a> {
    calibrating: &'a Samples,
    held_out: &'a Samples,
}

impl SampleSource for Both<'_> {
    fn len(&self) -> usize {
        self.calibrating.len() + self.held_out.len()
    }

    fn inputs(&self, index: usize) -> Result<Vec<Option<Tensor>>, SampleError> {
        let (samples, index) = match index.checked_sub(self.calibrating.len()) {
            Some(index) => (self.held_out, index),
            None => (self.calibrating, index),
        };
        samples.inputs(index)
    }
}

/// The first version of ONNX's files with 4-bit integers.
const LEAST_IR_VERSION: i64 = 10;

impl Planned<'_> {
    /// Finds the layers of `model`, and how many bits each gets.
    fn survey(&mut self, model: &mut Model, samples: Option<&Samples>, progress: &dyn Progress) -> Result<(), Failure> {
        self.copies.extend(copy_shared_vectors(&mut model.graph).map_err(Failure::bug)?);
        let graph = &model.graph;
        self.layers.clear();
        self.in_8_bits.clear();
        self.refused.clear();
        let patterns = Patterns::new(self.stage.keep_float)?;
        self.notes = patterns.unused(graph);
        self.kept = patterns.constants(graph);
        let mut found: Vec<(OpId, Layer, Vec<Choice>)> = Vec::new();
        let mut nearest: Vec<Int4> = Vec::new();
        for op in graph.ops() {
            let layer = match candidate(graph, op) {
                Ok(_) if patterns.matches(graph, op) => {
                    self.refused.insert(op, MoreBits::KeptFloat);
                    continue;
                }
                found => found,
            };
            let all = layer.and_then(|layer| Ok((choices(graph, &layer)?, Int4::nearest(graph, &layer, None)?, layer)));
            match all {
                Ok((choices, stored, layer)) => {
                    found.push((op, layer, choices));
                    nearest.push(stored);
                }
                Err(miss) if miss.is_worth_reporting() => {
                    self.refused.insert(op, MoreBits::Missed(miss.named(graph)));
                }
                Err(_) => {}
            }
        }
        let shares = match samples {
            Some(samples) => share::of(self.stage.evaluator, graph, &nearest, samples, progress)?,
            None => None,
        };
        let noises = shares.unwrap_or_else(|| nearest.iter().map(Int4::noise).collect());
        let mut bits = 0.0;
        for ((_, layer, choices), noise) in found.iter_mut().zip(&noises) {
            bits += MEAN_BITS * (layer.inputs * layer.outputs) as f64;
            choices.iter_mut().for_each(|choice| choice.noise *= noise);
        }
        let all: Vec<Vec<Choice>> = found.iter().map(|(_, _, choices)| choices.clone()).collect();
        for ((op, layer, _), form) in found.into_iter().zip(allot(&all, bits / 8.0)) {
            match form {
                Form::Eight => {
                    self.in_8_bits.insert(op, layer.weight);
                }
                Form::Four(size) => match Int4::nearest(graph, &layer, Some(size)) {
                    Ok(stored) => self.layers.push((op, stored)),
                    Err(miss) => {
                        self.refused.insert(op, MoreBits::Missed(miss.named(graph)));
                    }
                },
            }
        }
        self.find_constants(&model.graph);
        Ok(())
    }

    /// Finds the constants that do not get 4 bits, and the smallest of them.
    fn find_constants(&mut self, graph: &Graph) {
        let names = |values: &mut dyn Iterator<Item = ValueId>| -> BTreeSet<String> {
            values.map(|value| graph.name_of(value).to_owned()).collect()
        };
        let in_4_bits = names(&mut self.layers.iter().map(|(_, stored)| stored.layer().weight));
        let in_8_bits = names(&mut self.in_8_bits.values().copied());
        let all = storable(graph);
        let total: usize = all.iter().map(|constant| constant.bytes).sum();
        self.constants = all.into_iter().filter(|constant| !in_4_bits.contains(&constant.name)).collect();
        let open =
            |constant: &&Storable| constant.rank >= 2 && !constant.is_table && !in_8_bits.contains(&constant.name);
        let mut smallest: Vec<(usize, &str)> =
            self.constants.iter().filter(open).map(|constant| (constant.bytes, constant.name.as_str())).collect();
        smallest.sort();
        let mut left = (SMALL_SHARE * total as f64) as usize;
        let fits = |(bytes, _): &(usize, &str)| {
            let next = left.checked_sub(*bytes);
            left = next.unwrap_or(left);
            next.is_some()
        };
        self.spared = smallest.into_iter().filter(fits).map(|(_, name)| name.to_owned()).collect();
    }

    /// What a model from [`Planned::build`] with `returns` takes and costs; its error is for samples to tell.
    pub fn figures(&self, stored: &Quantized, returns: &Returns) -> Figures {
        let graph = &self.model.graph;
        let taken: Vec<&Int4> = self.in_4_bits(returns).map(|(_, stored)| stored).collect();
        let by_kernel: Vec<&&Int4> =
            taken.iter().filter(|stored| graph.opset() >= LEAST_OPSET && stored.is_fused(graph)).collect();
        let multiply = |layer: &Layer| {
            let given = graph.ty(layer.y).and_then(|ty| ty.dims()).map_or(1, |dims| dims.iter().product());
            (layer.inputs * given.max(layer.outputs)) as f64
        };
        let all: f64 =
            graph.ops().into_iter().filter_map(|op| Layer::of(graph, op)).map(|layer| multiply(&layer)).sum();
        let fast: f64 = by_kernel.iter().map(|stored| multiply(stored.layer())).sum();
        let is_layer = |op: &OpId| multiplies(graph.op(*op));
        let forms = graph.ops().into_iter().filter(is_layer).map(|op| form_read_by(&stored.model.graph, op));
        Figures {
            name: self.stage.weights.name(),
            in_4_bits: taken.len(),
            by_gptq: taken.iter().filter(|stored| stored.rounded().rounding == Rounding::Gptq).count(),
            in_8_bits: forms.filter(|form| *form == plan::Form::Int8).count(),
            by_kernel: by_kernel.len(),
            opset: [self.opset, stored.model.opset()],
            layers: Stored {
                bytes: bytes_of_layers(&stored.model.graph),
                rel_l2: None,
                expected_time: 1.0 - (1.0 - KERNEL_TIME) * fast / all.max(1.0),
            },
            stored_in_8_bits: None,
        }
    }

    /// `lossless` with all its weights in 8 bits, and the bytes of its layers then; `None` when none would be.
    pub fn in_8_bits(&self, lossless: &Model) -> Result<Option<(Model, u64)>, Failure> {
        let mut cx = Context::new(self.stage.options.clone(), self.stage.evaluator);
        let mut model = lossless.detached();
        cx.run(&StoreInt8::default(), &mut model.graph).map_err(Failure::bug)?;
        if cx.journal.done() == 0 {
            return Ok(None);
        }
        model.graph.sweep();
        infer::infer(&mut model.graph);
        let bytes = bytes_of_layers(&model.graph);
        Ok(Some((model, bytes)))
    }

    /// The layers that get 4 bits all the same.
    fn in_4_bits(&self, returns: &Returns) -> impl Iterator<Item = (OpId, &Int4)> {
        let steps = returns.steps.clone();
        let stays = move |(index, _): &(usize, &(OpId, Int4))| steps[*index] == 0;
        self.layers.iter().enumerate().filter(stays).map(|(_, (op, stored))| (*op, stored))
    }

    /// The model with its weights stored, what `returns` says in more bits; `None` when nothing got smaller.
    pub fn build(&self, returns: &Returns) -> Result<Option<Quantized>, Failure> {
        let stage = self.stage;
        let mut cx = Context::new(stage.options.clone(), stage.evaluator);
        let mut model = self.model.detached();
        let taken: BTreeMap<OpId, &Int4> = self.in_4_bits(returns).collect();
        let least = self.least_bits(returns);
        if stage.weights == Weights::Int4 {
            let returned = self.layers.iter().filter(|(op, _)| !taken.contains_key(op));
            let in_8_bits: BTreeSet<ValueId> =
                self.in_8_bits.values().copied().chain(returned.map(|(_, stored)| stored.layer().weight)).collect();
            let least = Some(&least);
            cx.run(&StoreInt4 { layers: Some(&taken), in_8_bits, least }, &mut model.graph).map_err(Failure::bug)?;
            share_again(&mut model.graph, &self.copies).map_err(Failure::bug)?;
            cx.run(&StoreInt8 { least, ..StoreInt8::default() }, &mut model.graph).map_err(Failure::bug)?;
        }
        cx.run(&StoreFp16 { least: Some(&least) }, &mut model.graph).map_err(Failure::bug)?;
        if cx.journal.done() == 0 {
            return Ok(None);
        }
        model.graph.sweep();
        infer::infer(&mut model.graph);
        let step = |op: OpId| self.layers.iter().position(|(layer, _)| *layer == op).map(|index| returns.steps[index]);
        let reason = |op: OpId| {
            if let Some(stored) = taken.get(&op) {
                return Reason::FourBits(stored.rounded());
            }
            let form = form_read_by(&model.graph, op);
            let why = match (self.refused.get(&op), step(op)) {
                (Some(why), _) => Some(why.clone()),
                (None, Some(_)) if returns.size == Size::Plain => Some(MoreBits::UnpackingTakesMore),
                (None, Some(1)) => Some(MoreBits::GateAt4),
                (None, Some(2)) => Some(MoreBits::GateAt4And8),
                (None, Some(_)) => Some(MoreBits::Gate),
                (None, None) if self.in_8_bits.contains_key(&op) && form == plan::Form::Int8 => {
                    Some(MoreBits::DoMostHere)
                }
                (None, None) => None,
            };
            Reason::StoredAs(form, why)
        };
        let ops = self.model.graph.ops_in_id_order().into_iter();
        let plan = Plan::float(Reason::NoSamples).with(ops.map(|op| (op, Decision::Float(reason(op)))));
        let mut layers = layers(&self.model.graph, &model.graph, &plan);
        let noise: BTreeMap<&str, Option<f64>> =
            taken.iter().map(|(op, stored)| (self.model.graph.label_of(*op), stored.sqnr_db)).collect();
        for layer in &mut layers {
            layer.sqnr_db = noise.get(layer.name.as_str()).copied().flatten();
        }
        let mut notes = self.notes.clone();
        notes.extend(self.note_of_returns(returns));
        Ok(Some(Quantized {
            model,
            pairs: None,
            layers,
            journal: cx.journal,
            notes,
            samples: self.samples,
            calibrator: None,
        }))
    }
}
