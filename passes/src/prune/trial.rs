//! What a model makes of channels that are gone: pruned copies, repaired layer by layer, held against the original.
//!
//! **Never** changes the graph that it looks at. Errors are added in the order of the samples: the same for any threads.
use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array2, Axis};
use onnx_shrink_ir::{Evaluate, EvaluateError, Graph, OpId, Patch, PatchError, Prepared, Tensor, Use, ValueId};

use super::{
    branch::Removal,
    groups::{Groups, Unit},
    layer::{Layer, Positions},
    orders::Moments,
};
use crate::{
    PassError, SampleError, SampleSource,
    numerics::solver::{DAMPING, Gram, LANES, matrix},
    samples::{fold_in_order, map_in_order},
};

/// Why pruning ended.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The model could not be run on the samples
    #[error(transparent)]
    Samples(#[from] SampleError),
    /// A pass failed: a bug
    #[error(transparent)]
    Pass(#[from] PassError),
    /// What was asked for is not possible; says what is
    #[error("{0}")]
    NotPossible(String),
}

impl From<EvaluateError> for PruneError {
    fn from(error: EvaluateError) -> PruneError {
        SampleError::from(error).into()
    }
}

/// A patch that does not fit the copy that it was made for: a bug.
pub(super) fn not_fitting(source: PatchError) -> PruneError {
    PassError::Patch { pass: "prune-channels", anchor: String::new(), source }.into()
}

/// Second moments of the inputs of `layers`, in their order, over some samples; with what they give as targets, too, where
/// that is asked for.
pub fn moments(
    graph: &Graph,
    evaluator: &dyn Evaluate,
    layers: &[(Layer, bool)],
    samples: &dyn SampleSource,
    indices: &[usize],
    rows: usize,
) -> Result<Vec<Gram>, SampleError> {
    let prepared = evaluator.prepare(graph)?;
    let mut sums: Vec<Gram> = layers.iter().map(empty).collect();
    // As many layers at once as fit into memory; the samples run again for the next ones.
    let lanes: Vec<usize> = (0..LANES).collect();
    let mut start = 0;
    while start < layers.len() {
        let mut end = start;
        let mut bytes = 0;
        while end < layers.len() && (end == start || bytes < MOST_BYTES) {
            bytes += LANES * 8 * layers[end].0.row() * layers[end].0.row();
            end += 1;
        }
        let part = &layers[start..end];
        let sums = &mut sums[start..end];
        let one = |lane: &usize| lane_moments(part, prepared.as_ref(), samples, (indices, rows), *lane);
        fold_in_order(&lanes, LANES, one, |_, moments| {
            sums.iter_mut().zip(moments).for_each(|(sum, more)| sum.merge(&more));
        })?;
        start = end;
    }
    Ok(sums)
}

fn empty((layer, targets): &(Layer, bool)) -> Gram {
    Gram::new(layer.row(), if *targets { layer.outputs } else { 0 }, layer.bias.is_some())
}

/// Memory for moments that are collected at once.
const MOST_BYTES: usize = 1 << 30;

fn lane_moments(
    layers: &[(Layer, bool)],
    prepared: &dyn Prepared,
    samples: &dyn SampleSource,
    (indices, rows): (&[usize], usize),
    lane: usize,
) -> Result<Vec<Gram>, SampleError> {
    let mut grams: Vec<Gram> = layers.iter().map(empty).collect();
    let mut wanted: BTreeSet<ValueId> = layers.iter().map(|(layer, _)| layer.x).collect();
    wanted.extend(layers.iter().filter(|(_, targets)| *targets).map(|(layer, _)| layer.y));
    for (number, &index) in indices.iter().enumerate().skip(lane).step_by(LANES) {
        let inputs = samples.inputs(index)?;
        let mut seen: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        let mut shapes: BTreeMap<ValueId, Vec<usize>> = layers.iter().map(|(layer, _)| (layer.y, Vec::new())).collect();
        prepared.run(&inputs, &mut |value, tensor| {
            if wanted.contains(&value) {
                seen.insert(value, tensor.clone());
            }
            if let Some(dims) = shapes.get_mut(&value) {
                *dims = tensor.dims().to_vec();
            }
        })?;
        for ((layer, targets), gram) in layers.iter().zip(&mut grams) {
            let positions = positions(layer, rows, indices.len(), number);
            let dims = &shapes[&layer.y];
            let Some(x) = seen.get(&layer.x) else { continue };
            let Some(rows) = layer.input_rows(x, dims.get(2..).unwrap_or(&[]), positions) else { continue };
            let y = seen.get(&layer.y).filter(|_| *targets).and_then(Tensor::as_slice::<f32>);
            let y = y.map_or_else(Vec::new, |y| layer.target_rows(&y, dims, positions));
            if y.len() == rows.len() / layer.row().max(1) * gram.targets() {
                gram.add(&rows, &y);
            }
        }
    }
    Ok(grams)
}

/// Rows for each column of what is solved for in earnest, and of what only chooses.
pub(super) const FINE: usize = 128;
pub(super) const ROUGH: usize = 32;

/// So many positions of each of `samples` that there are about `rows` rows for each column.
pub(super) fn positions(layer: &Layer, rows: usize, samples: usize, number: usize) -> Positions {
    Positions { most: (rows * layer.row() / samples.max(1)).clamp(16, 4096), offset: number }
}

/// The axis of the weights that runs over the outputs, and the units along it.
pub(super) fn kept_outputs(groups: &Groups, layer: &Layer, gone: &BTreeSet<Unit>) -> Vec<usize> {
    match groups.units_of(layer.weight, layer.output_axis()) {
        None => (0..layer.outputs).collect(),
        Some(units) => (0..layer.outputs).filter(|&k| !gone.contains(&units[k])).collect(),
    }
}

/// The rows `rows` and columns `columns` of `whole`.
pub(super) fn part(whole: &Array2<f64>, rows: &[usize], columns: &[usize]) -> Array2<f64> {
    matrix(rows.len(), columns.len(), |i, j| whole[(rows[i], columns[j])])
}

/// What is known of the data that the original sees.
#[derive(Default)]
pub struct Known {
    /// Of the layers that read channels
    pub moments: Moments,
    /// Of the convolutions that may stand for branches, with what the branch gives: by group
    pub branches: BTreeMap<usize, Gram>,
}

/// A copy of `graph` without what `removal` takes, in which each layer that reads it is solved for again with the moments
/// of its original inputs: near what the whole reconstruction reaches, and without running the model.
pub fn pruned(graph: &Graph, groups: &Groups, removal: &Removal, known: Option<&Known>) -> Result<Graph, PruneError> {
    let Removal { gone, branches } = removal;
    let mut copy = graph.detached();
    let patch = groups.remove(graph, gone).map_err(|miss| PruneError::NotPossible(miss.named(graph).to_string()))?;
    if let Some(patch) = patch {
        patch.apply(&mut copy).map_err(not_fitting)?;
    }
    for (branch, kernel) in branches {
        let misfit = || PruneError::NotPossible("two branches that share a convolution".to_owned());
        branch.patch(&copy, *kernel).ok_or_else(misfit)?.apply(&mut copy).map_err(not_fitting)?;
    }
    let Some(known) = known else { return Ok(copy) };
    let mut give = |op: OpId, solved: &Array2<f64>| -> Result<(), PruneError> {
        let Some(new) = copy.has_op(op).then(|| Layer::of(&copy, op)).flatten() else { return Ok(()) };
        let mut patch = Patch::new(op);
        if new.set_weights(&copy, solved, &mut patch).is_some() {
            patch.apply(&mut copy).map_err(not_fitting)?;
        }
        Ok(())
    };
    let mut seen = BTreeSet::new();
    for (branch, kernel) in branches {
        seen.insert(branch.last);
        let kept = |unit| !gone.contains(&unit);
        let (layer, gram) = if kernel.over_all {
            (branch.layer(graph), known.branches.get(&branch.group).cloned())
        } else {
            let layer = Layer::of(graph, branch.last);
            let weights = layer.as_ref().and_then(|layer| layer.weights(graph));
            let gram = layer.as_ref().and_then(|layer| known.moments.get(&layer.weight));
            let gram = gram.zip(weights).map(|(gram, weights)| gram.with_targets_of(weights.view()));
            (layer, gram)
        };
        let (Some(layer), Some(gram)) = (layer, gram) else { continue };
        let rows = branch.columns((graph, groups), &layer, *kernel, kept);
        let zeros = Array2::zeros((rows.len(), layer.outputs));
        if let Some(solved) = gram.select(&rows).solve(DAMPING, zeros.view()) {
            give(branch.last, &solved.select(Axis(1), &kept_outputs(groups, &layer, gone)))?;
        }
    }
    for consumer in &groups.consumers {
        let reads = groups.units_along(consumer.x, consumer.axis).iter().any(|u| gone.contains(u));
        if !reads || !seen.insert(consumer.op) {
            continue;
        }
        let Some(layer) = Layer::of(graph, consumer.op) else { continue };
        let (Some(gram), Some(weights)) = (known.moments.get(&layer.weight), layer.weights(graph)) else { continue };
        let rows = layer.kept_columns(graph, groups, |unit| !gone.contains(&unit));
        let columns = kept_outputs(groups, &layer, gone);
        let own = part(&weights, &(0..layer.row()).collect::<Vec<_>>(), &columns);
        let prior = part(&weights, &rows, &columns);
        if let Some(solved) = gram.with_targets_of(own.view()).select(&rows).solve(DAMPING, prior.view()) {
            give(consumer.op, &solved)?;
        }
    }
    Ok(copy)
}

/// The original's answers on a few samples, and how far another model is from them.
pub struct Judge {
    /// What is compared: float outputs, or what a last softmax reads
    wanted: Vec<ValueId>,
    /// By sample: the graph's inputs
    inputs: Vec<Vec<(ValueId, Tensor)>>,
    /// By sample and wanted value
    expected: Vec<Vec<Tensor>>,
}

impl Judge {
    /// Runs `graph` on the samples `indices`.
    pub fn new(
        graph: &Graph,
        evaluator: &dyn Evaluate,
        samples: &dyn SampleSource,
        indices: &[usize],
    ) -> Result<Judge, SampleError> {
        let logits = |&output: &ValueId| {
            let last = graph.producer(output).filter(|&op| graph.op(op).is("Softmax") || graph.op(op).is("LogSoftmax"));
            last.and_then(|op| graph.op(op).input(0)).unwrap_or(output)
        };
        let is_float = |value: &ValueId| graph.ty(*value).is_none_or(|ty| ty.dtype.is_float());
        let wanted: Vec<ValueId> = graph.outputs().iter().map(logits).filter(is_float).collect();
        let prepared = evaluator.prepare(graph)?;
        let run = |&index: &usize| -> Result<_, SampleError> {
            let given = graph.inputs().iter().zip(samples.inputs(index)?);
            let given: Vec<(ValueId, Tensor)> = given
                .filter_map(|(&input, tensor)| Some((input, tensor.or_else(|| graph.default_of(input).cloned())?)))
                .collect();
            let expected = prepared.run_part(&given, &wanted)?;
            Ok((given, expected))
        };
        let (inputs, expected) = map_in_order(indices, run)?.into_iter().unzip();
        Ok(Judge { wanted, inputs, expected })
    }

    /// Values of the original on every sample: where a change begins.
    pub fn values(
        &self,
        graph: &Graph,
        evaluator: &dyn Evaluate,
        wanted: &[ValueId],
    ) -> Result<Vec<Vec<(ValueId, Tensor)>>, SampleError> {
        let prepared = evaluator.prepare(graph)?;
        let run = |given: &Vec<(ValueId, Tensor)>| -> Result<_, SampleError> {
            let tensors = prepared.run_part(given, wanted)?;
            Ok(wanted.iter().copied().zip(tensors).chain(given.iter().cloned()).collect())
        };
        map_in_order(&self.inputs, run)
    }

    /// Σ(b − a)² / Σa² of each wanted value, on average; `given` are values that are known, by sample (`None`: the inputs).
    pub fn error(
        &self,
        graph: &Graph,
        evaluator: &dyn Evaluate,
        given: Option<&[Vec<(ValueId, Tensor)>]>,
    ) -> Result<f64, SampleError> {
        let prepared = evaluator.prepare(graph)?;
        let both: Vec<_> = given.unwrap_or(&self.inputs).iter().zip(&self.expected).collect();
        let one =
            |(given, expected): &(&Vec<(ValueId, Tensor)>, &Vec<Tensor>)| -> Result<Vec<(f64, f64)>, SampleError> {
                let found = prepared.run_part(given, &self.wanted)?;
                Ok(expected.iter().zip(&found).map(|(a, b)| squares(a, b)).collect())
            };
        let mut sums = vec![(0.0, 0.0); self.wanted.len()];
        fold_in_order(&both, both.len(), one, |_, sample| {
            for (sum, (noise, signal)) in sums.iter_mut().zip(sample) {
                *sum = (sum.0 + noise, sum.1 + signal);
            }
        })?;
        let relative = |(noise, signal): &(f64, f64)| noise / signal.max(f64::MIN_POSITIVE);
        Ok(sums.iter().map(relative).sum::<f64>() / sums.len().max(1) as f64)
    }
}

fn squares(a: &Tensor, b: &Tensor) -> (f64, f64) {
    let (Some(a), Some(b)) = (a.to_f64_vec(), b.to_f64_vec()) else { return (0.0, 0.0) };
    if a.len() != b.len() {
        return (f64::INFINITY, 1.0);
    }
    let pairs = a.iter().zip(&b).filter(|(a, _)| a.is_finite());
    pairs.fold((0.0, 0.0), |(noise, signal), (a, b)| {
        let difference = if b.is_finite() { b - a } else { f64::INFINITY };
        (noise + difference * difference, signal + a * a)
    })
}

/// Values from which everything follows that `ops` do not change: inputs of `ops` that do not depend on any of them.
pub fn cut_before(graph: &Graph, ops: &[OpId]) -> Vec<ValueId> {
    let mut after = vec![false; graph.bound()];
    let mut open: Vec<OpId> = ops.to_vec();
    while let Some(op) = open.pop() {
        for &value in graph.op(op).outputs().iter().flatten() {
            if std::mem::replace(&mut after[value.index()], true) {
                continue;
            }
            open.extend(graph.uses(value).into_iter().filter_map(|place| match place {
                Use::Input(op, _) | Use::Capture(op, ..) => Some(op),
                Use::Output(_) => None,
            }));
        }
    }
    let inputs = ops.iter().filter_map(|&op| graph.op(op).input(0));
    let free: BTreeSet<ValueId> =
        inputs.filter(|value| !after[value.index()] && graph.constant(*value).is_none()).collect();
    free.into_iter().collect()
}
