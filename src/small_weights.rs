//! `--weights`: weights in 4 or 16 bits, where layers compute in float.
//!
//! 4 bits are an average: [`MEAN_BITS`] a number with the scales are what all layers get together, and blocks of 16 to 128 or 8 bits
//! are chosen layer by layer, so that those bits do most for the outputs: with samples after what rounding each layer alone does to
//! them, else as if all did as much. The opset is raised for 4-bit types only where a kernel reads them faster than floats.
//! **Never** quantizes what layers read or give: the file is smaller, and what computes is as before, or a kernel that unpacks.
mod share;

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array2;
use onnx_shrink_ir::{Evaluate, Model, OpId, Tensor, ValueId, infer, raise};
use onnx_shrink_passes::{
    Context, Options, pipeline,
    prune::{layer::Layer, reconstruct::one_after_the_other, trial::PruneError},
    quantize::{
        StoreFp16, StoreInt4, StoreInt8,
        bits::{Choice, Form, allot},
        calibration::SampleSource,
        dynamic_int8::has_attention,
        store_int4::{Int4, LEAST_OPSET, candidate, choices},
    },
    solver::Gram,
};
use serde::Serialize;

use crate::{
    Failure, Progress, Samples, columns::bytes, int8::Quantized, keep_float::Patterns, layers::layers, request::Request,
};

/// Bits a number that layers get together, scales included: those of 4 bits in blocks of 32 with float scales.
const MEAN_BITS: f64 = 5.0;

/// The opset that files of a lower one get: Mul broadcasts, and scales of 16 bits are cast.
const PLAIN_OPSET: i64 = 13;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Weights {
    /// 16-bit floats
    Fp16,
    /// 4-bit integers in blocks, by GPTQ with samples
    Int4,
}

impl Weights {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Weights::Fp16 => "fp16",
            Weights::Int4 => "int4",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsOptions {
    /// How weights are stored; `None`: as they are
    pub weights: Option<Weights>,
}

impl WeightsOptions {
    /// Whether the rest of `request` goes with it.
    pub fn check(&self, request: &Request) -> Result<(), Failure> {
        let Some(name) = self.weights.map(Weights::name) else { return Ok(()) };
        if request.exact || request.int8 {
            let other = if request.exact { "--exact" } else { "--int8" };
            return Err(Failure::usage(format_args!(
                "--weights {name} does not go with {other}: leave out one of them"
            )));
        }
        let (target, small) = (request.target.name, request.target.small);
        if !small.contains(&name) {
            let reads = if small.is_empty() { "none".to_owned() } else { small.join(", ") };
            return Err(Failure::usage(format_args!(
                "--weights {name}: of these types the target {target} reads: {reads}"
            )));
        }
        Ok(())
    }
}

/// What weights in fewer bits take and cost, beside 8 bits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// fp16 or int4
    #[serde(rename = "type")]
    pub name: &'static str,
    /// Layers in 4 bits
    pub in_4_bits: usize,
    /// Of these, those that samples told how to round
    pub by_gptq: usize,
    /// Layers in 8 bits
    pub in_8_bits: usize,
    /// Layers whose kernel unpacks 4 bits in each run
    pub by_kernel: usize,
    /// Versions of ONNX's ops before and after
    pub opset: [i64; 2],
    /// Bytes of the layers, scales and biases included
    pub layers: Stored,
    /// The same with all of them stored in 8 bits, as `--int8` does where layers stay float; `None`: nothing would be
    pub stored_in_8_bits: Option<Stored>,
}

/// Layers as they are stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stored {
    /// Bytes of their constants
    pub bytes: u64,
    /// The largest relative L2 error of a float output, on samples that were not fitted; `None` without samples
    pub rel_l2: Option<f64>,
    /// Expected time of a run as a share of the float model's, by multiply-adds: 1 where engines unpack when they load the file
    pub expected_time: f64,
}

/// Time of a layer of one row whose kernel unpacks 4 bits, as a share of its float time (measured with ONNX Runtime 1.32).
const KERNEL_TIME: f64 = 0.65;

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

/// The layers whose weights are rounded, before they are stored.
pub struct Planned<'a> {
    stage: &'a SmallWeights<'a>,
    /// In the opset that the types need
    model: Model,
    layers: Vec<(OpId, Int4)>,
    /// Weights of layers that get 8 bits
    in_8_bits: BTreeMap<OpId, ValueId>,
    /// Why others are not in 4 bits
    refused: BTreeMap<OpId, String>,
    notes: Vec<String>,
    samples: usize,
    /// Before it was raised
    opset: i64,
}

impl Figures {
    /// They as notes for people.
    pub fn notes(&self, samples: usize) -> Vec<String> {
        let time = |stored: &Stored| match stored.expected_time {
            time if time < 0.995 => format!("expected time {time:.2} of float's"),
            _ => "expected time that of float".to_owned(),
        };
        let error = |stored: &Stored| stored.rel_l2.map_or(String::new(), |rel| format!(", relative L2 {rel:.2e}"));
        let mut note = format!(
            "--weights {}: layers take {}{}, {}",
            self.name,
            bytes(self.layers.bytes),
            error(&self.layers),
            time(&self.layers)
        );
        if self.name == Weights::Int4.name() {
            note += &format!(
                "; {} in 4 bits ({} by GPTQ, {} rounded to nearest), {} in 8",
                self.in_4_bits,
                self.by_gptq,
                self.in_4_bits - self.by_gptq,
                self.in_8_bits
            );
            if samples == 0 {
                note += "; with --data DIR (100 to 300 samples) the error would be about half";
            }
        }
        let beside = self.stored_in_8_bits.as_ref().map(|eight| {
            format!(
                "in 8 bits layers would take {}{}, {}; with --int8 and --data they compute in integers where that is faster",
                bytes(eight.bytes),
                error(eight),
                time(eight)
            )
        });
        [Some(note), beside].into_iter().flatten().collect()
    }
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
        planned.survey(&model, calibrating, progress)?;
        let gains = |layer: &&(OpId, Int4)| layer.1.is_fused(&model.graph);
        let gaining = planned.layers.iter().filter(gains).count();
        if gaining > 0 && model.opset() < LEAST_OPSET {
            let from = model.opset();
            // x_bert_toy runs 1.24 times as long without.
            if has_attention(&model.graph) {
                planned.notes.push(format!(
                    "opset {from} stays: from {LEAST_OPSET} on a kernel for 4 bits is faster for {gaining} of the layers, \
                     but ONNX Runtime does not fuse attention there"
                ));
            } else {
                self.raise(&mut model, LEAST_OPSET)?;
                model.set_ir_version(model.ir_version().max(LEAST_IR_VERSION));
                planned.survey(&model, calibrating, progress)?;
                planned.notes.push(format!(
                    "opset {from} → {LEAST_OPSET}: a kernel for 4 bits, which is faster, runs {gaining} of the layers there"
                ));
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
                    PruneError::Sample(error) => Failure::samples(anyhow::anyhow!(error)),
                    PruneError::Evaluate(error) => Failure::input(error),
                    error => Failure::bug(error),
                }
            })?;
        }
        Ok(planned)
    }

    /// Raises the opset, and rewrites again what that lets.
    fn raise(&self, model: &mut Model, opset: i64) -> Result<(), Failure> {
        raise::raise(model, opset)
            .map_err(|error| Failure::input(anyhow::anyhow!("--weights int4 needs opset {opset}: {error}")))?;
        infer::infer(&mut model.graph);
        let mut cx = Context::new(self.options.clone(), self.evaluator);
        pipeline::run_lossless(&mut model.graph, &mut cx).map_err(Failure::bug)
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

    fn inputs(&self, index: usize) -> Result<Vec<Option<Tensor>>, String> {
        let (samples, index) = match index.checked_sub(self.calibrating.len()) {
            Some(index) => (self.held_out, index),
            None => (self.calibrating, index),
        };
        samples.get(index).map(|sample| sample.inputs).map_err(|error| format!("{error:#}"))
    }
}

/// The first version of ONNX's files with 4-bit integers.
const LEAST_IR_VERSION: i64 = 10;

impl Planned<'_> {
    /// Finds the layers of `model`, and how many bits each gets.
    fn survey(&mut self, model: &Model, samples: Option<&Samples>, progress: &dyn Progress) -> Result<(), Failure> {
        let graph = &model.graph;
        self.layers.clear();
        self.in_8_bits.clear();
        self.refused.clear();
        let patterns = Patterns::new(self.stage.keep_float)?;
        self.notes = patterns.unused(graph);
        let mut found: Vec<(OpId, Layer, Vec<Choice>)> = Vec::new();
        let mut nearest: Vec<Int4> = Vec::new();
        for op in graph.ops() {
            let layer = match candidate(graph, op) {
                Ok(_) if patterns.matches(graph, op) => {
                    self.refused.insert(op, "--keep-float says so".to_owned());
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
                    self.refused.insert(op, miss.sentence(graph));
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
                        self.refused.insert(op, miss.sentence(graph));
                    }
                },
            }
        }
        Ok(())
    }

    /// The layers in 4 bits, the one of most noise first, as [`Planned::build`] numbers them.
    pub fn worst(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.layers.len()).collect();
        order.sort_by(|&a, &b| self.layers[a].1.noise().total_cmp(&self.layers[b].1.noise()).reverse().then(a.cmp(&b)));
        order
    }

    /// What a model from [`Planned::build`] with `kept` takes and costs; its error is for samples to tell.
    pub fn figures(&self, stored: &Quantized, kept: &BTreeSet<usize>) -> Figures {
        let graph = &self.model.graph;
        let taken = self.layers.iter().enumerate().filter(|(index, _)| !kept.contains(index));
        let taken: Vec<&Int4> = taken.map(|(_, (_, stored))| stored).collect();
        let by_kernel: Vec<&&Int4> =
            taken.iter().filter(|stored| graph.opset() >= LEAST_OPSET && stored.is_fused(graph)).collect();
        let multiply = |layer: &Layer| {
            let given = graph.ty(layer.y).and_then(|ty| ty.dims()).map_or(1, |dims| dims.iter().product());
            (layer.inputs * given.max(layer.outputs)) as f64
        };
        let all: f64 =
            graph.ops().into_iter().filter_map(|op| Layer::of(graph, op)).map(|layer| multiply(&layer)).sum();
        let fast: f64 = by_kernel.iter().map(|stored| multiply(stored.layer())).sum();
        Figures {
            name: self.stage.weights.name(),
            in_4_bits: taken.len(),
            by_gptq: taken.iter().filter(|stored| stored.by_samples).count(),
            in_8_bits: self.in_8_bits.len(),
            by_kernel: by_kernel.len(),
            opset: [self.opset, graph.opset()],
            layers: Stored {
                bytes: stored.layers.iter().map(|layer| layer.bytes_after).sum(),
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
        let layers = layers(&lossless.graph, &model.graph, &|_| Some(String::new()));
        Ok(Some((model, layers.iter().map(|layer| layer.bytes_after).sum())))
    }

    /// The model with its weights stored, `kept` of the layers not in 4 bits; `None` when nothing got smaller.
    pub fn build(&self, kept: &BTreeSet<usize>) -> Result<Option<Quantized>, Failure> {
        let stage = self.stage;
        let mut cx = Context::new(stage.options.clone(), stage.evaluator);
        let mut model = self.model.detached();
        let taken = self.layers.iter().enumerate().filter(|(index, _)| !kept.contains(index));
        let taken: BTreeMap<OpId, &Int4> = taken.map(|(_, (op, stored))| (*op, stored)).collect();
        if stage.weights == Weights::Int4 {
            let in_8_bits = self.in_8_bits.values().copied().collect();
            cx.run(&StoreInt4 { layers: Some(&taken), in_8_bits }, &mut model.graph).map_err(Failure::bug)?;
        }
        cx.run(&StoreFp16, &mut model.graph).map_err(Failure::bug)?;
        if cx.journal.done() == 0 {
            return Ok(None);
        }
        model.graph.sweep();
        infer::infer(&mut model.graph);
        let verdict = |op: OpId| {
            let sentence = match (taken.get(&op), self.refused.get(&op)) {
                (Some(stored), _) => stored.sentence(),
                (None, Some(why)) => format!("16-bit floats: {why}"),
                (None, None) if self.in_8_bits.contains_key(&op) => "8-bit weights: they do most there".to_owned(),
                (None, None) if self.layers.iter().any(|(layer, _)| *layer == op) => {
                    "16-bit floats: with 4 bits a gate failed".to_owned()
                }
                (None, None) => "16-bit floats".to_owned(),
            };
            Some(sentence)
        };
        let mut layers = layers(&self.model.graph, &model.graph, &verdict);
        let noise: BTreeMap<&str, Option<f64>> =
            taken.iter().map(|(op, stored)| (self.model.graph.label_of(*op), stored.sqnr_db)).collect();
        for layer in &mut layers {
            layer.sqnr_db = noise.get(layer.name.as_str()).copied().flatten();
        }
        Ok(Some(Quantized {
            model,
            pairs: None,
            layers,
            journal: cx.journal,
            notes: self.notes.clone(),
            samples: self.samples,
            calibrator: None,
        }))
    }
}
