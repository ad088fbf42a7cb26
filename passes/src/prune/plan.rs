//! Decides which channels go: orders, sensitivities, counts, and exchanges between groups.
//!
//! **Never** changes a graph; **never** looks at the samples that judge the result in the end.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Evaluate, Graph};

use super::{
    branch::{Branch, Removal},
    budget::{Budget, Choice},
    groups::Groups,
    layer::Layer,
    orders::{Criterion, Inverses, Moments, order},
    search::Search,
    trial::{Judge, Known, PruneError, ROUGH, cut_before, moments, pruned},
};
use crate::{SampleSource, Statistics};

/// What is asked for, and with what it is decided.
pub struct Request<'a> {
    /// Share of multiply-adds to remove, between 0 and 1
    pub ratio: f64,
    /// How channels are ranked
    pub criterion: Criterion,
    /// Samples, where there are some
    pub samples: Option<&'a dyn SampleSource>,
    /// Whether layers are solved for again
    pub repair: bool,
    /// What batch norms told of values
    pub statistics: &'a BTreeMap<String, Statistics>,
}

/// What goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Channels and branches
    pub removal: Removal,
    /// Share of multiply-adds that goes with them
    pub removed: f64,
    /// Relative squared error of the logits that was measured before the whole reconstruction; `None` without samples
    pub expected: Option<f64>,
}

/// Samples that measure what a removal does, at most.
const CHOOSING_SAMPLES: usize = 64;

/// Of `count` samples, those that are fitted and those that choose: every fourth.
pub fn split(count: usize) -> (Vec<usize>, Vec<usize>) {
    let (choosing, fitting): (Vec<usize>, Vec<usize>) = (0..count).partition(|index| index % 4 == 1);
    let choosing = if choosing.is_empty() { fitting.clone() } else { choosing };
    (fitting, choosing.into_iter().take(CHOOSING_SAMPLES).collect())
}

/// Decides; `progress` is told the number of steps that are done and that there are.
pub fn plan(
    graph: &Graph,
    groups: &Groups,
    evaluator: &dyn Evaluate,
    request: &Request<'_>,
    progress: &dyn Fn(usize, usize),
) -> Result<Plan, PruneError> {
    let open: Vec<usize> = (0..groups.groups.len()).filter(|&k| !groups.free(&groups.groups[k]).is_empty()).collect();
    if open.is_empty() {
        let reasons: BTreeSet<&str> =
            groups.groups.iter().filter_map(|group| group.frozen.as_deref()).take(3).collect();
        let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
        let why = if reasons.is_empty() { "it has no layers with channels".to_owned() } else { reasons };
        return Err(PruneError::NotPossible(format!("no channel of this model can be removed: {why}")));
    }
    let samples = request.samples.filter(|samples| !samples.is_empty());
    let (fitting, choosing) = split(samples.map_or(0, SampleSource::len));
    // One convolution for a branch is solved for: without samples, or where only ranks are wanted, there is none.
    let by_samples = request.repair && samples.is_some() && request.criterion == Criterion::Reconstruction;
    let branch = |&index: &usize| by_samples.then(|| Branch::of(graph, groups, index)).flatten();
    let mut branches: Vec<Option<Branch>> = open.iter().map(branch).collect();
    let known = match samples {
        Some(samples) => Some(learn(graph, groups, evaluator, &mut branches, (samples, &fitting))?),
        None => None,
    };
    let none = Moments::new();
    let moments = known.as_ref().map_or(&none, |known| &known.moments);
    let mut inverses = Inverses::new(moments);
    let choice = |(&index, branch): (&usize, Option<Branch>)| {
        let group = &groups.groups[index];
        let order = order(graph, groups, group, request.criterion, &mut inverses, request.statistics);
        Choice::new(index, group.units.len(), order, branch, groups.block)
    };
    let mut budget = Budget::new(graph, groups, open.iter().zip(branches).map(choice).collect());
    let most = budget.most();
    if most < request.ratio {
        return Err(PruneError::NotPossible(format!(
            "at most {:.1} % of the multiply-adds can be removed, with {} groups of channels at their least; {:.1} % are asked for",
            100.0 * most,
            budget.choices.len(),
            100.0 * request.ratio
        )));
    }
    let repair = known.as_ref().filter(|_| request.repair);
    let judge = samples.map(|samples| Judge::new(graph, evaluator, samples, &choosing)).transpose()?;
    match &judge {
        Some(judge) => measure(graph, groups, evaluator, judge, repair, &mut budget, progress)?,
        None => assume(&mut budget),
    }
    budget.settle();
    budget.choose(request.ratio, 1.0);
    let mut expected = None;
    if let Some(judge) = &judge {
        let samples = samples.filter(|_| repair.is_some());
        let search = Search { graph, groups, evaluator, judge, known: repair, samples, fitting: &fitting };
        expected = Some(search.run(&mut budget, request.ratio)?);
    }
    Ok(Plan { removal: budget.removal(), removed: budget.removed(), expected })
}

/// Layers that read channels that may go, once each.
fn reading_layers(graph: &Graph, groups: &Groups) -> Vec<Layer> {
    let mut seen = BTreeSet::new();
    let may_go = |consumer: &&super::Consumer| {
        let units = groups.units_along(consumer.x, consumer.axis);
        units.iter().any(|unit| groups.reason(*unit).is_none())
    };
    let layers = groups.consumers.iter().filter(may_go).filter_map(|consumer| Layer::of(graph, consumer.op));
    layers.filter(|layer| seen.insert(layer.weight)).collect()
}

/// More inputs than this, and no convolution is solved for that stands for a branch: moments would take too much memory.
const MOST_INPUTS: usize = 2400;

/// The moments that orders, trials and branches want; branches that cannot be solved for are taken away.
fn learn(
    graph: &Graph,
    groups: &Groups,
    evaluator: &dyn Evaluate,
    branches: &mut [Option<Branch>],
    (samples, fitting): (&dyn SampleSource, &[usize]),
) -> Result<Known, PruneError> {
    let mut layers: Vec<(Layer, bool)> =
        reading_layers(graph, groups).into_iter().map(|layer| (layer, false)).collect();
    let mut keys = Vec::new();
    for branch in branches.iter_mut().flatten() {
        match branch.layer(graph).filter(|layer| layer.row() <= MOST_INPUTS) {
            Some(layer) => {
                keys.push(branch.group);
                layers.push((layer, true));
            }
            None => branch.narrow_alone(),
        }
    }
    let mut sums = moments(graph, evaluator, &layers, samples, fitting, ROUGH)?;
    let of_branches = sums.split_off(layers.len() - keys.len());
    let weights = layers.iter().map(|(layer, _)| layer.weight);
    Ok(Known { moments: weights.zip(sums).collect(), branches: keys.into_iter().zip(of_branches).collect() })
}

/// The loss of each candidate: the error of the logits with that group alone pruned and its readers solved for again.
fn measure(
    graph: &Graph,
    groups: &Groups,
    evaluator: &dyn Evaluate,
    judge: &Judge,
    repair: Option<&Known>,
    budget: &mut Budget<'_>,
    progress: &dyn Fn(usize, usize),
) -> Result<(), PruneError> {
    let count = budget.choices.len();
    let saved: Vec<Vec<f64>> = (0..count)
        .map(|place| (0..budget.choices[place].candidates.len()).map(|k| budget.removed_with(place, k)).collect())
        .collect();
    for (place, choice) in budget.choices.iter_mut().enumerate() {
        let cut = cut_before(graph, &groups.groups[choice.group].producers);
        let given = judge.values(graph, evaluator, &cut)?;
        let mut least: f64 = 0.0;
        for index in 1..choice.candidates.len() {
            let candidate = &mut choice.candidates[index];
            let fewer = &saved[place][..index];
            // No less work than with more channels: no reason to look.
            if candidate.kernel.is_none() && fewer.iter().any(|fewer| *fewer >= saved[place][index] - 1e-9) {
                candidate.loss = f64::INFINITY;
                continue;
            }
            let loss = match pruned(graph, groups, &choice.removal(index), repair) {
                Ok(copy) => judge.error(&copy, evaluator, Some(&given))?,
                // Other groups' channels keep a value alive that this one would leave empty.
                Err(PruneError::NotPossible(_)) => f64::INFINITY,
                Err(error) => return Err(error),
            };
            let candidate = &mut choice.candidates[index];
            // More channels gone are never better: what says so is chance.
            least = if candidate.kernel.is_none() { least.max(loss) } else { loss };
            candidate.loss = least;
        }
        log::debug!("group {}: {:?}", choice.group, choice.candidates);
        progress(place + 1, count);
    }
    Ok(())
}

/// Without samples: the same share of every group, as nearly as steps allow.
fn assume(budget: &mut Budget<'_>) {
    for choice in &mut budget.choices {
        let total = choice.order.len().max(1) as f64;
        for candidate in &mut choice.candidates {
            let share = candidate.gone as f64 / total;
            candidate.loss = total * share * share;
        }
    }
}
