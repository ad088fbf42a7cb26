//! Solves every layer behind a removal again, in the order of the graph: each sees what the layers before it make by now
//! and is to give what the original gave.
//!
//! A layer whose output is added to a branch is to give the original's *sum* minus what that branch is by now, so that each
//! block takes up what the ones before it lost. Part of the samples is not fitted and judges: what does not help there is
//! not taken. **Never** changes a graph that it is given; memory for values that are kept between layers has a limit.
//! **Source:** `docs/methods.md` §9, recipe 7 to 9; He et al. 2017, arXiv 1707.06168.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use ndarray::{Array2, ArrayView2};
use onnx_shrink_ir::{
    Evaluate, Graph, OpId, Patch, Prepared, Tensor, Use, ValueId,
    ops::{Binary, BinaryKind, Relu},
};

use super::{
    branch::Removal,
    groups::Groups,
    layer::Layer,
    trial::{FINE, PruneError, kept_outputs, not_fitting, positions, pruned},
};
use crate::{
    SampleError, SampleSource,
    numerics::solver::{DAMPING, Gram, LANES, Repair, repair},
    samples::fold_in_order,
};

/// New weights of one layer.
#[derive(Clone, Debug)]
pub struct Solved {
    /// The op, of the pruned graph and of the original
    pub op: OpId,
    /// Its weights, as [`Layer::weights`] gives them; `None`: they stay
    pub weights: Option<Array2<f64>>,
    /// Relative squared error of what it is to give, on samples that were not fitted, with the old weights
    pub before: f64,
    /// And with the new ones
    pub after: f64,
}

/// Layers with more inputs than this are not solved for: the moments would take over a GiB.
const MOST_INPUTS: usize = 5000;

/// Bytes for values that are kept between layers.
const CACHE_BYTES: usize = 1 << 30;

/// Values of a sample that are kept for each of the two graphs.
const CACHED: usize = 6;

/// Every `JUDGES`th sample is not fitted.
const JUDGES: usize = 8;

/// Rounds in front of a Relu: more change nothing that samples would show.
const RELU_ROUNDS: usize = 2;

/// Values of one sample that are known, the oldest first.
type Cache = Mutex<Vec<(ValueId, Tensor)>>;

/// One layer with what it is to give.
struct Target {
    before: Layer,
    after: Layer,
    /// The value of the original that is to be met
    wanted: ValueId,
    /// The branch that is added to the layer's output
    branch: Option<ValueId>,
    /// Outputs of the original's layer that are left
    kept: Vec<usize>,
    /// Whether what is met goes through a Relu alone: below 0, anything below 0 will do
    clipped: bool,
}

/// How much is looked at.
pub(super) struct Effort<'a> {
    /// Indices of samples
    pub samples: &'a [usize],
    /// Rows for each column
    pub rows: usize,
    /// Whether the sample at this place of them is not fitted, but judges
    pub judges: &'a (dyn Fn(usize) -> bool + Sync),
}

/// Whether the sample at `place` of `count` is not fitted.
fn is_judge(place: usize, count: usize) -> bool {
    count >= 2 * JUDGES && (place / LANES) % JUDGES == JUDGES - 1
}

/// New weights for all layers behind `removal` from `graph`; `progress` is told the layers done and in all.
pub fn reconstruct(
    graph: &Graph,
    groups: &Groups,
    removal: &Removal,
    evaluator: &dyn Evaluate,
    samples: &dyn SampleSource,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Solved>, PruneError> {
    let all: Vec<usize> = (0..samples.len()).collect();
    Ok(rebuild(graph, groups, removal, evaluator, (samples, &all, FINE), progress)?.1)
}

/// The same on some of the samples, with so many rows for each column, and the graph that has them.
pub(super) fn rebuild(
    graph: &Graph,
    groups: &Groups,
    removal: &Removal,
    evaluator: &dyn Evaluate,
    (samples, indices, rows): (&dyn SampleSource, &[usize], usize),
    progress: &dyn Fn(usize, usize),
) -> Result<(Graph, Vec<Solved>), PruneError> {
    let mut copy = pruned(graph, groups, removal, None)?;
    let targets = targets(graph, &copy, groups, removal);
    let mut solved = Vec::new();
    let effort = Effort { samples: indices, rows, judges: &|place| is_judge(place, indices.len()) };
    let mut solve = |fitting: &Fitting<'_>, prior: &Array2<f64>| {
        let repaired = fitting.solve(prior)?;
        let op = fitting.target.after.op;
        log::debug!(
            "`{}`: error {:.5} → {:.5}, damping {:?}",
            graph.label_of(op),
            repaired.before,
            repaired.after,
            repaired.damping
        );
        let weights = repaired.damping.map(|_| repaired.weights);
        solved.push(Solved { op, weights: weights.clone(), before: repaired.before, after: repaired.after });
        Ok(weights)
    };
    in_order(graph, &mut copy, &targets, evaluator, (samples, &effort), &mut solve, progress)?;
    Ok((copy, solved))
}

/// New weights for a layer, from moments to fit, moments that judge, and the weights as they are; `None`: they stay.
pub type Solve<'a> = &'a mut dyn FnMut(&Layer, &Gram, &Gram, &Array2<f64>) -> Option<Array2<f64>>;

/// Asks `solve` for the weights of each of `layers` of `graph`, which are in its order, on what the layer reads once those before
/// it have theirs. `judges` tells which samples are not fitted.
pub fn one_after_the_other(
    graph: &Graph,
    layers: &[Layer],
    evaluator: &dyn Evaluate,
    (samples, judges): (&dyn SampleSource, &(dyn Fn(usize) -> bool + Sync)),
    solve: Solve<'_>,
    progress: &dyn Fn(usize, usize),
) -> Result<(), PruneError> {
    let place = places(graph);
    let target = |layer: &Layer| {
        let (branch, wanted) = goal(graph, layer, &place);
        let kept = (0..layer.outputs).collect();
        Target { before: layer.clone(), after: layer.clone(), wanted, branch, kept, clipped: false }
    };
    let targets: Vec<Target> = layers.iter().filter(|layer| layer.row() <= MOST_INPUTS).map(target).collect();
    let all: Vec<usize> = (0..samples.len()).collect();
    let effort = Effort { samples: &all, rows: FINE, judges };
    let mut ask = |fitting: &Fitting<'_>, prior: &Array2<f64>| {
        let (fit, judge) = fitting.grams(None)?;
        let judge = if judge.tells() { &judge } else { &fit };
        Ok(solve(&fitting.target.after, &fit, judge, prior))
    };
    in_order(graph, &mut graph.detached(), &targets, evaluator, (samples, &effort), &mut ask, progress)
}

/// What gives a layer new weights in place of those it has.
type Ask<'a> = &'a mut dyn FnMut(&Fitting<'_>, &Array2<f64>) -> Result<Option<Array2<f64>>, PruneError>;

/// Asks `solve` for each target's weights in `copy`, and sets them there.
fn in_order(
    graph: &Graph,
    copy: &mut Graph,
    targets: &[Target],
    evaluator: &dyn Evaluate,
    (samples, effort): (&dyn SampleSource, &Effort<'_>),
    solve: Ask<'_>,
    progress: &dyn Fn(usize, usize),
) -> Result<(), PruneError> {
    let original = evaluator.prepare(graph)?;
    let caches = || effort.samples.iter().map(|_| Cache::default()).collect::<Vec<_>>();
    let (before, after) = (caches(), caches());
    for (number, target) in targets.iter().enumerate() {
        let Some(prior) = target.after.weights(copy) else { continue };
        let prepared = evaluator.prepare(copy)?;
        let fitting = Fitting {
            target,
            original: (original.as_ref(), graph, &before),
            pruned: (prepared.as_ref(), copy, &after),
            samples,
            effort,
        };
        let weights = solve(&fitting, &prior)?;
        drop(prepared);
        if let Some(weights) = weights {
            let mut patch = Patch::new(target.after.op);
            if target.after.set_weights(copy, &weights, &mut patch).is_some() {
                patch.apply(copy).map_err(not_fitting)?;
            }
        }
        progress(number + 1, targets.len());
    }
    Ok(())
}

/// The layers behind the removal, in the order of the graph.
fn targets(graph: &Graph, copy: &Graph, groups: &Groups, removal: &Removal) -> Vec<Target> {
    let gone = &removal.gone;
    let place = places(graph);
    let reads_gone = |consumer: &&super::Consumer| {
        groups.units_along(consumer.x, consumer.axis).iter().any(|unit| gone.contains(unit))
    };
    let mut first: BTreeSet<OpId> = groups.consumers.iter().filter(reads_gone).map(|consumer| consumer.op).collect();
    first.extend(removal.branches.iter().map(|(branch, _)| branch.last));
    let mut changed = vec![false; graph.bound()];
    let mut targets = Vec::new();
    for op in graph.ops() {
        let reads_changed = graph.op(op).inputs().iter().flatten().any(|input| changed[input.index()]);
        if !copy.has_op(op) || (!first.contains(&op) && !reads_changed) {
            continue;
        }
        graph.op(op).outputs().iter().flatten().for_each(|output| changed[output.index()] = true);
        let (Some(before), Some(after)) = (Layer::of(graph, op), Layer::of(copy, op)) else { continue };
        if after.row() > MOST_INPUTS {
            continue;
        }
        let (branch, wanted) = goal(graph, &before, &place);
        let kept = kept_outputs(groups, &before, gone);
        let is_relu = |place: &Use| matches!(place, Use::Input(op, _) if Relu::of(graph, *op).is_some());
        let clipped = graph.uses(wanted).iter().all(is_relu);
        targets.push(Target { before, after, wanted, branch, kept, clipped });
    }
    targets
}

/// Each op's place in the order of the graph.
fn places(graph: &Graph) -> BTreeMap<OpId, usize> {
    graph.ops().into_iter().enumerate().map(|(place, op)| (op, place)).collect()
}

/// The branch that is added to what the layer gives, and the value that both are to give.
fn goal(graph: &Graph, layer: &Layer, place: &BTreeMap<OpId, usize>) -> (Option<ValueId>, ValueId) {
    let sum = residual(graph, layer).filter(|(branch, _)| {
        // The branch is what it will be: all that makes it comes before this layer.
        graph.producer(*branch).is_none_or(|maker| place[&maker] < place[&layer.op])
    });
    sum.map_or((None, layer.y), |(branch, sum)| (Some(branch), sum))
}

/// The other side of an Add that alone reads the layer's output, and the sum; of the same shape.
fn residual(graph: &Graph, layer: &Layer) -> Option<(ValueId, ValueId)> {
    let uses = graph.uses(layer.y);
    let [Use::Input(add, _)] = uses[..] else { return None };
    let binary = Binary::of(graph, add).filter(|binary| binary.kind == BinaryKind::Add)?;
    let branch = if binary.a == layer.y { binary.b } else { binary.a };
    let same = graph.ty(branch)?.shape.is_some() && graph.ty(branch) == graph.ty(layer.y);
    (same && branch != layer.y && graph.constant(branch).is_none()).then_some((branch, binary.y))
}

/// A graph that runs, and what is known of each sample in it.
type Side<'a> = (&'a dyn Prepared, &'a Graph, &'a [Cache]);

/// The moments of one layer over all samples.
struct Fitting<'a> {
    target: &'a Target,
    original: Side<'a>,
    pruned: Side<'a>,
    samples: &'a dyn SampleSource,
    effort: &'a Effort<'a>,
}

impl Fitting<'_> {
    fn empty(&self) -> Gram {
        let layer = &self.target.after;
        Gram::new(layer.row(), layer.outputs, layer.bias.is_some())
    }

    /// New weights instead of `prior`: plain ones, then, in front of a Relu, rounds in which what the original has below 0
    /// is to be met by anything below 0. What does not help samples that were not fitted is not taken.
    fn solve(&self, prior: &Array2<f64>) -> Result<Repair, SampleError> {
        let (fit, judge) = self.grams(None)?;
        let judging = |judge: &Gram, fit: &Gram| if judge.rows > 0.0 { judge.clone() } else { fit.clone() };
        let mut best = repair(&fit, &judging(&judge, &fit), prior.view());
        if !self.target.clipped {
            return Ok(best);
        }
        let (fit, judge) = (fit.without_targets(), judge.without_targets());
        let mut weights = best.weights.clone();
        let mut least = f64::INFINITY;
        for round in 0..=RELU_ROUNDS {
            let (fit, judge) = self.grams(Some((&weights, &fit, &judge)))?;
            let judge = judging(&judge, &fit);
            let error = judge.error(weights.view());
            if error >= least {
                break;
            }
            least = error;
            best.after = error / judge.signal().max(f64::MIN_POSITIVE);
            if round > 0 {
                best.damping = best.damping.or(Some(DAMPING));
            }
            best.weights.assign(&weights);
            match fit.solve(best.damping.unwrap_or(DAMPING), weights.view()) {
                Some(next) if round < RELU_ROUNDS => weights = next,
                _ => break,
            }
        }
        Ok(best)
    }

    /// Of the samples that are fitted, and of those that judge. With weights: with the targets that a Relu leaves to them,
    /// and the inputs of the two that are given.
    fn grams(&self, relu: Option<(&Array2<f64>, &Gram, &Gram)>) -> Result<(Gram, Gram), SampleError> {
        let weights = relu.map(|(weights, ..)| weights);
        let one = |lane: &usize| -> Result<(Gram, Gram), SampleError> {
            let (mut fit, mut judge) = (self.empty(), self.empty());
            let count = self.effort.samples.len();
            for index in (*lane..count).step_by(LANES) {
                self.add(index, if (self.effort.judges)(index) { &mut judge } else { &mut fit }, weights)?;
            }
            Ok((fit, judge))
        };
        let (mut fit, mut judge) = match relu {
            Some((_, fit, judge)) => (fit.clone(), judge.clone()),
            None => (self.empty(), self.empty()),
        };
        let lanes: Vec<usize> = (0..LANES).collect();
        fold_in_order(&lanes, LANES, one, |_, (more_fit, more_judge)| {
            fit.merge(&more_fit);
            judge.merge(&more_judge);
        })?;
        Ok((fit, judge))
    }

    /// `index`: into the samples that are looked at.
    fn add(&self, index: usize, gram: &mut Gram, relu: Option<&Array2<f64>>) -> Result<(), SampleError> {
        let Target { before, after, wanted, branch, kept, .. } = self.target;
        let target = self.values(self.original, index, &[*wanted])?.remove(0);
        let mut list = vec![after.x];
        list.extend(*branch);
        let found = self.values(self.pruned, index, &list)?;
        let positions = positions(after, self.effort.rows, self.effort.samples.len(), index);
        let floats = |tensor: &Tensor| tensor.as_slice::<f32>().map(std::borrow::Cow::into_owned);
        let Some(numbers) = floats(&target) else { return Ok(()) };
        let whole = before.target_rows(&numbers, target.dims(), positions);
        let mut rows: Vec<f64> =
            whole.chunks_exact(before.outputs.max(1)).flat_map(|row| kept.iter().map(|&k| row[k])).collect();
        let mut beside = Vec::new();
        if let Some(branch) = found.get(1) {
            let Some(numbers) = floats(branch) else { return Ok(()) };
            let taken = after.target_rows(&numbers, branch.dims(), positions);
            if taken.len() != rows.len() {
                return Ok(());
            }
            rows.iter_mut().zip(&taken).for_each(|(row, taken)| *row -= taken);
            beside = taken;
        }
        let area = target.dims().get(2..).unwrap_or(&[]);
        if let Some(inputs) = after.input_rows(&found[0], area, positions)
            && inputs.len() / after.row() * after.outputs == rows.len()
        {
            match relu {
                Some(weights) => {
                    relax(&mut rows, &beside, &inputs, weights);
                    gram.add_targets(&inputs, &rows);
                }
                None => gram.add(&inputs, &rows),
            }
        }
        Ok(())
    }

    /// Values of sample `index`, computed from the newest that are known, and known from now on.
    fn values(&self, side: Side<'_>, index: usize, wanted: &[ValueId]) -> Result<Vec<Tensor>, SampleError> {
        let (prepared, graph, caches) = side;
        let mut cache = caches[index].lock().unwrap_or_else(PoisonError::into_inner);
        let inputs = self.samples.inputs(self.effort.samples[index])?;
        let mut given = cache.clone();
        for (&input, tensor) in graph.inputs().iter().zip(inputs) {
            if let Some(tensor) = tensor.or_else(|| graph.default_of(input).cloned()) {
                given.push((input, tensor));
            }
        }
        let found = prepared.run_part(&given, wanted)?;
        for (&value, tensor) in wanted.iter().zip(&found) {
            if graph.constant(value).is_none() && !cache.iter().any(|(known, _)| *known == value) {
                cache.push((value, tensor.clone()));
            }
        }
        let limit = CACHE_BYTES / (2 * caches.len().max(1));
        let mut bytes: usize = cache.iter().map(|(_, tensor)| tensor.byte_len()).sum();
        while !cache.is_empty() && (cache.len() > CACHED || bytes > limit) {
            bytes -= cache.remove(0).1.byte_len();
        }
        Ok(found)
    }
}

/// Where a sum that goes through a Relu is to be below 0, its part `rows` is to be what the layer gives, or what makes the
/// sum 0 where that is above; `beside` is the other part, empty for 0.
fn relax(rows: &mut [f64], beside: &[f64], inputs: &[f64], weights: &Array2<f64>) {
    let (row, outputs) = weights.dim();
    let Ok(inputs) = ArrayView2::from_shape((inputs.len() / row.max(1), row), inputs) else { return };
    let own = inputs.dot(weights);
    for (index, (wanted, own)) in rows.iter_mut().zip(own.iter()).enumerate() {
        let other = beside.get(index).copied().unwrap_or(0.0);
        if *wanted + other <= 0.0 {
            *wanted = (own + other).min(0.0) - other;
        }
    }
    debug_assert_eq!(own.len() % outputs.max(1), 0);
}
