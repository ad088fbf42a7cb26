//! `--weights`: weights in 4 or 16 bits, where layers compute in float.
//!
//! **Never** quantizes what layers read or give: the file is smaller, and what computes is as before, or a kernel that unpacks.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Evaluate, Model, OpId, infer, raise};
use onnx_shrink_passes::{
    Context, Journal, Options, pipeline,
    prune::{
        layer::Layer,
        trial::{PruneError, moments},
    },
    quantize::{
        StoreFp16, StoreInt4,
        store_int4::{Int4, LEAST_OPSET, candidate},
    },
};

use crate::{Failure, Progress, Samples, int8::Source, layers::layers, report};

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Weights {
    /// 16-bit floats
    Fp16,
    /// 4-bit integers in blocks, by GPTQ with samples
    Int4,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsOptions {
    /// How weights are stored; `None`: as they are
    pub weights: Option<Weights>,
}

/// What the stage needs to know.
pub struct SmallWeights<'a> {
    /// The engine
    pub evaluator: &'a dyn Evaluate,
    /// Options of the passes
    pub options: &'a Options,
    /// How weights are stored
    pub weights: Weights,
}

/// The model with small weights.
pub struct Stored {
    /// The model; `None`: no weight got smaller
    pub model: Option<Model>,
    /// Every layer with weights
    pub layers: Vec<report::Layer>,
    /// What the passes did
    pub journal: Journal,
}

impl SmallWeights<'_> {
    /// Stores the weights of `lossless`; `samples` are those that calibrate and those that judge.
    pub fn store(
        &self,
        lossless: &Model,
        samples: Option<&(Samples, Samples)>,
        progress: &dyn Progress,
    ) -> Result<Stored, Failure> {
        let mut model = lossless.detached();
        let mut cx = Context::new(self.options.clone(), self.evaluator);
        if self.weights == Weights::Int4 && model.opset() < LEAST_OPSET {
            raise::raise(&mut model, LEAST_OPSET).map_err(Failure::input)?;
            infer::infer(&mut model.graph);
            pipeline::run_lossless(&mut model.graph, &mut cx).map_err(Failure::bug)?;
        }
        if self.weights == Weights::Int4 {
            model.set_ir_version(model.ir_version().max(10)); // the first with 4-bit integers
        }
        let before = model.detached();
        let mut planned = BTreeMap::new();
        let mut refused: BTreeMap<OpId, String> = BTreeMap::new();
        if self.weights == Weights::Int4 {
            planned = self.plan(&model, samples, progress, &mut refused)?;
            cx.run(&StoreInt4 { layers: Some(&planned) }, &mut model.graph).map_err(Failure::bug)?;
        }
        cx.run(&StoreFp16, &mut model.graph).map_err(Failure::bug)?;
        let done = cx.journal.done_by("store-int4") + cx.journal.done_by("store-fp16");
        model.graph.sweep();
        infer::infer(&mut model.graph);
        let verdict = |op: OpId| {
            let sentence = match (planned.get(&op), refused.get(&op)) {
                (Some(stored), _) => stored.sentence(),
                (None, Some(why)) => format!("16-bit floats: {why}"),
                (None, None) => "16-bit floats".to_owned(),
            };
            Some(sentence)
        };
        let mut layers = layers(&before.graph, &model.graph, &verdict);
        for (op, stored) in &planned {
            let name = before.graph.label_of(*op);
            for layer in layers.iter_mut().filter(|layer| layer.name == name) {
                layer.sqnr_db = stored.sqnr_db;
            }
        }
        Ok(Stored { model: (done > 0).then_some(model), layers, journal: cx.journal })
    }

    /// The layers that are stored in 4 bits, and why others are not.
    fn plan(
        &self,
        model: &Model,
        samples: Option<&(Samples, Samples)>,
        progress: &dyn Progress,
        refused: &mut BTreeMap<OpId, String>,
    ) -> Result<BTreeMap<OpId, Int4>, Failure> {
        let graph = &model.graph;
        let mut found: Vec<(OpId, Layer)> = Vec::new();
        for op in graph.ops() {
            match candidate(graph, op) {
                Ok(layer) => found.push((op, layer)),
                Err(miss) if miss.is_worth_reporting() => {
                    refused.insert(op, miss.sentence(graph));
                }
                Err(_) => {}
            }
        }
        let samples = samples.filter(|(calibrating, _)| !calibrating.is_empty() && !found.is_empty());
        let seen = match samples {
            None => None,
            Some((calibrating, held_out)) => {
                let _stage = progress.stage("looking at layers", None);
                let layers: Vec<Layer> = found.iter().map(|(_, layer)| layer.clone()).collect();
                let of = |samples: &Samples| {
                    let all: Vec<usize> = (0..samples.len()).collect();
                    moments(graph, self.evaluator, &layers, &Source(samples), &all).map_err(|error| match error {
                        PruneError::Sample(error) => Failure::samples(anyhow::anyhow!(error)),
                        PruneError::Evaluate(error) => Failure::input(error),
                        error => Failure::bug(error),
                    })
                };
                let judges = if held_out.is_empty() { calibrating } else { held_out };
                Some((of(calibrating)?, of(judges)?))
            }
        };
        let stage = progress.stage("rounding weights", Some(found.len() as u64));
        let mut planned = BTreeMap::new();
        for (op, layer) in &found {
            let both =
                seen.as_ref().and_then(|(fit, judge)| Some((fit.get(&layer.weight)?, judge.get(&layer.weight)?)));
            match Int4::of(graph, layer, both) {
                Ok(stored) => {
                    planned.insert(*op, stored);
                }
                Err(miss) => {
                    refused.insert(*op, miss.sentence(graph));
                }
            }
        }
        drop(stage);
        Ok(planned)
    }
}
