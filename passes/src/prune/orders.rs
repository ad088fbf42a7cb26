//! In which order the channels of a group go: the least missed first.
//!
//! The default removes one channel after the other, each time the one whose loss is least when all that is left is solved
//! for again (block optimal brain surgeon): with the inverse moments of the readers' inputs, no solution is computed. The
//! others look at weights or activations alone. **Never** looks at what the model makes of it: that is the sensitivity's.
//! **Source:** `docs/methods.md` §5, §9; Hassibi and Stork 1993.
use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array2, Axis, linalg::general_mat_mul};
use onnx_shrink_ir::{Graph, ValueId};

use super::{
    groups::{Group, Groups, Unit},
    layer::Layer,
};
use crate::{
    Statistics,
    numerics::solver::{Cholesky, DAMPING, Gram, matrix},
};

/// How channels are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Criterion {
    /// By the least-squares loss of what reads them
    #[default]
    Reconstruction,
    /// By the sum of magnitudes of the weights that make them
    L1,
    /// By the sum of squares of the weights that make them
    L2,
    /// By the factor of the batch norm after them, where there was one; else as `L2`
    BnGamma,
    /// By how much they vary and how much their readers make of it
    Activation,
    /// By a fixed shuffle
    Random,
}

/// What is known of the data: second moments of the inputs of the layers that read channels, by their weights.
pub type Moments = BTreeMap<ValueId, Gram>;

/// The units of `group` that may go, the least missed first.
pub fn order(
    graph: &Graph,
    groups: &Groups,
    group: &Group,
    criterion: Criterion,
    inverses: &mut Inverses<'_>,
    statistics: &BTreeMap<String, Statistics>,
) -> Vec<Unit> {
    let moments = inverses.moments;
    let free = groups.free(group);
    let scores = match criterion {
        Criterion::Reconstruction => {
            if let Some(order) = block_obs(graph, groups, group, inverses) {
                return order;
            }
            fluctuation(graph, groups, group, moments)
        }
        Criterion::Activation => fluctuation(graph, groups, group, moments),
        Criterion::L1 => norms(graph, groups, group, f64::abs),
        Criterion::L2 => norms(graph, groups, group, |w| w * w),
        Criterion::BnGamma => {
            gammas(graph, groups, group, statistics).unwrap_or_else(|| norms(graph, groups, group, |w| w * w))
        }
        Criterion::Random => free.iter().map(|&unit| (unit, shuffled(unit))).collect(),
    };
    let mut order = free;
    let score = |unit: &Unit| scores.get(unit).copied().unwrap_or(0.0);
    order.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.cmp(b)));
    order
}

type Scores = BTreeMap<Unit, f64>;

/// Steele, Lea, Flood 2014: SplitMix64.
fn shuffled(unit: Unit) -> f64 {
    let mut bits = (u64::from(unit) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64
}

/// Sum over the rows of weights that make each unit. Rows of different ops are made comparable by their mean.
fn norms(graph: &Graph, groups: &Groups, group: &Group, of: impl Fn(f64) -> f64) -> Scores {
    let mut scores = Scores::new();
    for &producer in &group.producers {
        let Some(weighted) = groups.weighted.iter().find(|weighted| weighted.op == producer) else { continue };
        let Some(axes) = groups.axes.get(&weighted.weight) else { continue };
        // The axis that the op makes: not the one that it sums over.
        let summed = groups.consumers.iter().find(|consumer| consumer.op == producer).map(|c| c.weight_axis);
        let made = axes.iter().enumerate().find(|(axis, units)| units.is_some() && Some(*axis) != summed);
        let Some((axis, Some(units))) = made else { continue };
        let Some(weights) = graph.constant_f64(weighted.weight) else { continue };
        let rows: Vec<f64> = weights.axis_iter(Axis(axis)).map(|row| row.iter().map(|&w| of(w)).sum()).collect();
        let mean = (rows.iter().sum::<f64>() / rows.len().max(1) as f64).max(f64::MIN_POSITIVE);
        for (&unit, row) in units.iter().zip(&rows) {
            *scores.entry(unit).or_default() += row / mean;
        }
    }
    scores
}

/// |γ| of the batch norms that were folded into the producers, by the name of their output.
fn gammas(graph: &Graph, groups: &Groups, group: &Group, statistics: &BTreeMap<String, Statistics>) -> Option<Scores> {
    let mut scores = Scores::new();
    for &producer in &group.producers {
        let y = graph.op(producer).output(0)?;
        let Some(known) = statistics.get(graph.name_of(y)) else { continue };
        let units = groups.units_of(y, 1).filter(|units| units.len() == known.deviation.len())?;
        for (&unit, gamma) in units.iter().zip(&known.deviation) {
            *scores.entry(unit).or_default() += gamma;
        }
    }
    (!scores.is_empty()).then_some(scores)
}

/// A layer with its moments and the columns of each unit.
type Reader<'m> = (Layer, &'m Gram, BTreeMap<Unit, Vec<usize>>);

/// The layers that read `group`.
fn readers<'m>(graph: &Graph, groups: &Groups, group: &Group, moments: &'m Moments) -> Vec<Reader<'m>> {
    let mut readers = Vec::new();
    for &consumer in &group.consumers {
        let consumer = &groups.consumers[consumer];
        let Some(layer) = Layer::of(graph, consumer.op) else { continue };
        let Some(gram) = moments.get(&layer.weight) else { continue };
        let mut columns: BTreeMap<Unit, Vec<usize>> = BTreeMap::new();
        for (place, &unit) in groups.units_along(layer.x, layer.axis(graph)).iter().enumerate() {
            columns.entry(unit).or_default().extend(layer.columns(place));
        }
        columns.retain(|unit, _| group.units.binary_search(unit).is_ok());
        readers.push((layer, gram, columns));
    }
    readers
}

/// Variance of each unit's columns, weighted by what the reader makes of them, over the reader's signal.
fn fluctuation(graph: &Graph, groups: &Groups, group: &Group, moments: &Moments) -> Scores {
    let mut scores = Scores::new();
    for (layer, gram, columns) in readers(graph, groups, group, moments) {
        let Some(weights) = layer.weights(graph) else { continue };
        let full = gram.moments();
        let signal = gram.with_targets_of(weights.view()).signal().max(f64::MIN_POSITIVE);
        let last = gram.inputs() - 1;
        for (unit, columns) in columns {
            let part = |k: usize| {
                let mean = if gram.biased { full[(last, k)] } else { 0.0 };
                let variance = full[(k, k)] - mean * mean / gram.rows.max(1.0);
                variance.max(0.0) * weights.row(k).iter().map(|w| w * w).sum::<f64>()
            };
            *scores.entry(unit).or_default() += columns.into_iter().map(part).sum::<f64>() / signal;
        }
    }
    scores
}

/// What orders want of each reader, computed once for those that several groups share: behind Concats each layer reads
/// the channels of all before it.
pub struct Inverses<'m> {
    moments: &'m Moments,
    /// Readers of several groups, by their weights, once they are known
    shared: BTreeMap<ValueId, Option<Known>>,
}

/// The damped inverse of a reader's moments, and its signal.
struct Known {
    inverse: Array2<f64>,
    signal: f64,
}

impl Known {
    fn of(gram: &Gram, weights: &Array2<f64>) -> Option<Known> {
        let signal = gram.with_targets_of(weights.view()).signal().max(f64::MIN_POSITIVE);
        Some(Known { inverse: gram.inverse(DAMPING)?, signal })
    }
}

impl<'m> Inverses<'m> {
    /// None is known yet.
    pub fn new(moments: &'m Moments) -> Inverses<'m> {
        Inverses { moments, shared: BTreeMap::new() }
    }

    /// The part of `reader` that the units of its group lie in, to be removed from; `None` when it cannot be solved for.
    fn surgeon(&mut self, graph: &Graph, groups: &Groups, reader: Reader<'_>) -> Option<Surgeon> {
        let (layer, gram, columns) = reader;
        let weights = layer.weights(graph)?;
        // What stays of other groups never enters a loss: the update of a column needs those of the group alone.
        let own: Vec<usize> = columns.values().flatten().copied().collect::<BTreeSet<usize>>().into_iter().collect();
        let part = |known: &Known| Surgeon {
            inverse: matrix(own.len(), own.len(), |i, j| known.inverse[(own[i], own[j])]),
            weights: matrix(own.len(), weights.ncols(), |i, j| weights[(own[i], j)]),
            columns: columns
                .iter()
                .map(|(unit, columns)| (*unit, columns.iter().filter_map(|c| own.binary_search(c).ok()).collect()))
                .collect(),
            signal: known.signal,
        };
        let is_shared = groups.groups.iter().filter(|group| reads(groups, group, &layer)).nth(1).is_some();
        if !is_shared {
            return Known::of(gram, &weights).as_ref().map(part);
        }
        self.shared.entry(layer.weight).or_insert_with(|| Known::of(gram, &weights)).as_ref().map(part)
    }
}

/// Whether `layer` reads channels of `group`.
fn reads(groups: &Groups, group: &Group, layer: &Layer) -> bool {
    group.consumers.iter().any(|consumer| groups.consumers[*consumer].op == layer.op)
}

/// One reader in the course of the removal: the columns of the group alone.
struct Surgeon {
    inverse: Array2<f64>,
    weights: Array2<f64>,
    columns: BTreeMap<Unit, Vec<usize>>,
    signal: f64,
}

impl Surgeon {
    /// W_B and the inverse of [C⁻¹]_BB times it.
    fn parts(&self, columns: &[usize]) -> Option<(Array2<f64>, Array2<f64>)> {
        let block = matrix(columns.len(), columns.len(), |i, j| self.inverse[(columns[i], columns[j])]);
        let own = matrix(columns.len(), self.weights.ncols(), |i, j| self.weights[(columns[i], j)]);
        let solved = Cholesky::of(block)?.solve(own.clone());
        Some((own, solved))
    }

    /// The loss when the unit goes and all others are solved for again, as a share of the signal.
    fn loss(&self, unit: Unit) -> f64 {
        let Some(columns) = self.columns.get(&unit) else { return 0.0 };
        let Some((own, solved)) = self.parts(columns) else { return f64::INFINITY };
        (&own * &solved).sum() / self.signal
    }

    fn remove(&mut self, unit: Unit) {
        let Some(columns) = self.columns.remove(&unit) else { return };
        let Some((_, solved)) = self.parts(&columns) else { return };
        let count = self.inverse.nrows();
        let strip = matrix(columns.len(), count, |i, j| self.inverse[(columns[i], j)]);
        let block = matrix(columns.len(), columns.len(), |i, j| self.inverse[(columns[i], columns[j])]);
        let Some(factor) = Cholesky::of(block) else { return };
        let scaled = factor.solve(strip.clone());
        general_mat_mul(-1.0, &strip.t(), &solved, 1.0, &mut self.weights);
        general_mat_mul(-1.0, &strip.t(), &scaled, 1.0, &mut self.inverse);
        for &column in &columns {
            for k in 0..count {
                self.inverse[(column, k)] = 0.0;
                self.inverse[(k, column)] = 0.0;
            }
            for j in 0..self.weights.ncols() {
                self.weights[(column, j)] = 0.0;
            }
        }
    }
}

/// Greedy removal with optimal repair; `None` where no reader can be solved for.
fn block_obs(graph: &Graph, groups: &Groups, group: &Group, inverses: &mut Inverses<'_>) -> Option<Vec<Unit>> {
    let mut surgeons = Vec::new();
    for reader in readers(graph, groups, group, inverses.moments) {
        surgeons.push(inverses.surgeon(graph, groups, reader)?);
    }
    if surgeons.is_empty() {
        return None;
    }
    let mut left = groups.free(group);
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let losses: Vec<f64> = left.iter().map(|&unit| surgeons.iter().map(|s| s.loss(unit)).sum()).collect();
        let mut least = 0;
        for (index, loss) in losses.iter().enumerate() {
            if *loss < losses[least] {
                least = index;
            }
        }
        let unit = left.remove(least);
        surgeons.iter_mut().for_each(|surgeon| surgeon.remove(unit));
        order.push(unit);
    }
    Some(order)
}
