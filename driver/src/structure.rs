//! The part of the main job that removes structure: channels, by `--prune`.
//!
//! What goes and which weights make up for it is decided in `onnx_shrink_passes::prune`, on the samples that calibrate; the
//! gates judge the result on others. **No** rewrite here.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Evaluate, Graph, Model, OpId, Tensor, ValueId};
use onnx_shrink_passes::{
    Context, Entry, LinearizeBranches, Options, Pass, PruneChannels, SampleError, SampleSource, Statistics,
    prune::{
        Groups, Removal, Sizes,
        orders::Criterion,
        plan::{self, Plan, plan},
        reconstruct::{Solved, reconstruct},
        trial::PruneError,
    },
    target::Target,
};

use crate::{
    ExitCode, Failure, Progress, Samples,
    coverage::{COVERED_SAMPLES, coverage},
    report::Note,
    report::{PrunedLayer, Structure},
    request::structure::StructureOptions,
};

/// A pruned model and how it came about.
pub struct Pruned {
    /// The model
    pub model: Model,
    /// Every rewrite and miss
    pub journal: Vec<Entry>,
    /// For the report
    pub structure: Structure,
    /// What the user should know
    pub notes: Vec<Note>,
}

/// Below so many samples pruning loses accuracy for want of them (`docs/methods.md` §9: 100 lose a point at half of the
/// multiply-adds, 32 lose six).
const FEW_SAMPLES: usize = 100;

/// What pruning needs to know.
pub struct Pruner<'a> {
    /// The engine
    pub evaluator: &'a dyn Evaluate,
    /// Options of the passes
    pub options: &'a Options,
    /// What is asked for
    pub structure: StructureOptions,
    /// What the model shall run on
    pub target: &'static Target,
    /// What batch norms told of values
    pub statistics: &'a BTreeMap<String, Statistics>,
}

impl Pruner<'_> {
    /// `lossless` with channels removed; a sentence when it has none that could go.
    pub fn prune(
        &self,
        lossless: &Model,
        samples: Option<&Samples>,
        progress: &dyn Progress,
    ) -> Result<Result<Pruned, String>, Failure> {
        let ratio = self.structure.prune.unwrap_or(0.0);
        let graph = &lossless.graph;
        let mut groups = Groups::on(self.target, graph, &self.sizes(graph, samples)?);
        if let Some(samples) = samples {
            groups.freeze_unreached(graph, &self.unreached(graph, samples));
        }
        let source = samples.map(|samples| samples as &dyn SampleSource);
        let by_default = if source.is_some() { Criterion::Reconstruction } else { Criterion::L2 };
        let criterion = self.structure.criterion.unwrap_or(by_default);
        if source.is_none() && matches!(criterion, Criterion::Reconstruction | Criterion::Activation) {
            return Err(Failure::usage("--prune-criterion: this one looks at activations, so it wants --data"));
        }
        let has_free = groups.groups.iter().any(|group| !groups.free(group).is_empty());
        let request = plan::Request { ratio, criterion, samples: source, repair: true, statistics: self.statistics };
        let stage = progress.stage("choosing channels", None);
        let planned = plan(graph, &groups, self.evaluator, &request, &|done, all| log::info!("group {done} of {all}"));
        let chosen = match planned {
            Err(PruneError::NotPossible(why)) if !has_free => return Ok(Err(why)),
            planned => planned.map_err(failure)?,
        };
        drop(stage);
        let mut solved = Vec::new();
        if let Some(source) = source {
            let _stage = progress.stage("solving for weights", None);
            let report = |done, all| log::info!("layer {done} of {all}");
            solved = reconstruct(graph, &groups, &chosen.removal, self.evaluator, source, &report).map_err(failure)?;
        }
        self.apply(lossless, &groups, &chosen, &solved, samples.map_or(0, Samples::len)).map(Ok)
    }

    /// Weights on which no output depends on any of the first `samples`.
    fn unreached(&self, graph: &Graph, samples: &Samples) -> BTreeSet<ValueId> {
        let first = samples.subset(&(0..samples.len().min(COVERED_SAMPLES)).collect::<Vec<_>>());
        // (What cannot be run is told of by what has to run it.)
        let Ok(ready) = self.evaluator.prepare(graph) else { return BTreeSet::new() };
        let names = coverage(self.evaluator, graph, ready.as_ref(), &first).unreached;
        names.iter().filter_map(|name| graph.find(name)).collect()
    }

    /// Lengths of axes on the first sample, or on a made-up one, where the model leaves some open.
    fn sizes(&self, graph: &Graph, samples: Option<&Samples>) -> Result<Sizes, Failure> {
        let is_open = |value: &ValueId| graph.ty(*value).is_none_or(|ty| ty.dims().is_none());
        if !graph.inputs().iter().any(is_open) {
            return Ok(Sizes::default());
        }
        let made_up;
        let samples = match samples {
            Some(samples) => samples,
            None => match Samples::made_up(graph, self.evaluator, 1) {
                Ok(samples) => {
                    made_up = samples;
                    &made_up
                }
                Err(_) => return Ok(Sizes::default()),
            },
        };
        let sample = samples.get(0).map_err(Failure::samples)?;
        let mut sizes = Sizes::default();
        let run = self.evaluator.prepare(graph).and_then(|prepared| {
            prepared.run(&sample.inputs, &mut |value, tensor| {
                sizes.dims.insert(value, tensor.dims().to_vec());
            })
        });
        if run.is_err() {
            return Ok(Sizes::default()); // what has to run it says why it cannot
        }
        let first = graph.inputs().iter().find(|input| graph.default_of(**input).is_none());
        let batch = first.filter(|input| {
            let shape = graph.ty(**input).and_then(|ty| ty.shape.as_ref());
            shape.and_then(|shape| shape.first()).is_some_and(|dim| dim.known().is_none())
        });
        sizes.batch = batch.and_then(|input| sizes.dims.get(input)?.first()).map_or(1, |batch| (*batch).max(1));
        Ok(sizes)
    }

    fn apply(
        &self,
        lossless: &Model,
        groups: &Groups,
        chosen: &Plan,
        solved: &[Solved],
        samples: usize,
    ) -> Result<Pruned, Failure> {
        let mut model = lossless.detached();
        let mut cx = Context::new(self.options.clone(), self.evaluator);
        let Removal { gone, branches } = &chosen.removal;
        let none = BTreeSet::new();
        let passes: [&dyn Pass; 3] = [
            &PruneChannels { groups, gone, solved: &[] },
            &LinearizeBranches { branches },
            &PruneChannels { groups, gone: &none, solved },
        ];
        for pass in passes {
            cx.run(pass, &mut model.graph).map_err(Failure::bug)?;
        }
        let layers = layers(&lossless.graph, &model.graph, groups, solved);
        let macs = |of: fn(&PrunedLayer) -> f64| layers.iter().map(of).sum::<f64>();
        let (before, after) = (macs(|layer| layer.macs_before), macs(|layer| layer.macs_after));
        let is_touched = |group: &&onnx_shrink_passes::prune::Group| group.units.iter().any(|unit| gone.contains(unit));
        let structure = Structure {
            asked: self.structure.prune.unwrap_or(0.0),
            removed: if before > 0.0 { 1.0 - after / before } else { 0.0 },
            groups: groups.groups.iter().filter(is_touched).count(),
            branches: branches.iter().filter(|(_, kernel)| kernel.over_all).count(),
            kernels: branches.iter().filter(|(_, kernel)| !kernel.over_all).count(),
            samples,
            layers,
            comparison: None,
        };
        let mut notes = Vec::new();
        if samples == 0 {
            notes.push(Note::PrunedWithoutSamples);
        } else if samples < FEW_SAMPLES {
            notes.push(Note::PrunedWithFewSamples(samples));
        }
        Ok(Pruned { model, journal: std::mem::take(&mut cx.journal).entries, structure, notes })
    }
}

fn failure(error: PruneError) -> Failure {
    match error {
        PruneError::NotPossible(why) => Failure::usage(format_args!("--prune: {why}")),
        PruneError::Samples(error) => {
            let is_run = matches!(error, SampleError::Run(_));
            let Failure { code, error } = error.into();
            let of_model = is_run && code == ExitCode::Input;
            Failure { code, error: if of_model { error.context("--prune has to run the model") } else { error } }
        }
        PruneError::Pass(error) => Failure::bug(error),
    }
}

/// The weighted layers of `before`, and what stands for them in `after`.
fn layers(before: &Graph, after: &Graph, groups: &Groups, solved: &[Solved]) -> Vec<PrunedLayer> {
    let layer = |weighted: &onnx_shrink_passes::prune::Weighted| {
        let found = solved.iter().find(|solved| solved.op == weighted.op);
        let old = before.constant(weighted.weight);
        let new = weight_after(before, after, weighted.op);
        let numbers = |tensor: Option<&Tensor>| tensor.map_or(0, Tensor::len) as f64;
        let dims = |tensor: Option<&Tensor>| tensor.map_or_else(Vec::new, |tensor| tensor.dims().to_vec());
        PrunedLayer {
            name: before.label_of(weighted.op).to_owned(),
            op: before.op(weighted.op).op_type().to_owned(),
            weights_before: dims(old),
            weights_after: dims(new),
            macs_before: numbers(old) * weighted.positions,
            macs_after: numbers(new) * weighted.positions,
            bytes_before: old.map_or(0, Tensor::byte_len),
            bytes_after: new.map_or(0, Tensor::byte_len),
            error_before: found.map(|solved| solved.before),
            error: found.map(|solved| solved.after),
        }
    };
    groups.weighted.iter().map(layer).collect()
}

/// The weights of what makes in `after` the output of `op` of `before`; `None` when nothing does. (An id may be another op's.)
fn weight_after<'g>(before: &Graph, after: &'g Graph, op: OpId) -> Option<&'g Tensor> {
    let y = after.find(before.name_of(before.op(op).output(0)?))?;
    let now = after.op(after.producer(y)?);
    after.constant(now.input(1)?)
}
