//! `--svd`: which fully connected layers are split into two, at which rank, and what that costs.
//!
//! A rank is a share of the full one, or what keeps a share of the energy, or measured: with samples, `auto` finds the least
//! bytes at which the outputs stay near enough ([`AUTO_SQNR`], [`AUTO_SQNR_ALONE`]) on samples that were not fitted.
//! **Never** splits where bytes or multiply-adds do not fall.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Evaluate, Graph, Model, OpId, infer};
use onnx_shrink_passes::{
    Context, Entry, Options, SplitLowRank,
    low_rank::{
        directions::{Directions, Splittable, output_moments},
        split_low_rank::Split,
    },
};
use rayon::prelude::*;

use crate::{
    Failure, Progress, Samples, Silent,
    metrics::compare_graphs,
    report::{SplitLayer, Unsplit},
    request::structure::Svd,
};

/// Least SQNR of the outputs that `auto` goes down to, in dB, where labels tell what matters.
pub const AUTO_SQNR: f64 = 15.0;

/// The same where nothing else judges: an autoencoder's own error grows by 3 % at about 23 dB.
pub const AUTO_SQNR_ALONE: f64 = 22.5;

/// Largest loss of accuracy, beyond two standard errors, on labelled held-out samples that `auto` takes.
const AUTO_DROP: f64 = 0.005;

/// Energy that `auto` keeps where there are no samples to measure on.
pub const AUTO_ENERGY: f64 = 0.99;

/// Share of the break-even rank that `auto` stays below: two products have two launches.
const MARGIN: f64 = 0.7;

/// Weights with fewer numbers are not split: what is saved is less than what a second op costs.
const LEAST_NUMBERS: usize = 4096;

/// Held-out samples that measure one trial, and one layer alone.
const TRIAL_SAMPLES: usize = 128;
const PROBE_SAMPLES: usize = 16;

/// Below this share of what a layer loses in the outputs' error, nobody sees what it gives: what no sample reaches would be
/// cut down to nothing at no cost.
const LEAST_GAIN: f64 = 1e-6;

/// Share of a layer's energy that is no loss: the rounding of its numbers.
const NO_LOSS: f64 = 1e-9;

/// Halvings of the price of a number.
const TRIALS: usize = 10;

/// What the split needs to know.
pub struct LowRank<'a> {
    /// The engine
    pub evaluator: &'a dyn Evaluate,
    /// Options of the passes
    pub options: &'a Options,
    /// How ranks are chosen
    pub svd: Svd,
}

/// The model after the split.
pub struct SplitModel {
    /// The model; `None` when no layer was split
    pub model: Option<Model>,
    /// What the pass did
    pub journal: Vec<Entry>,
    /// Every fully connected layer
    pub layers: Vec<SplitLayer>,
}

/// A layer with what is known of it.
struct Candidate {
    op: OpId,
    layer: Splittable,
    directions: Directions,
    /// Whether samples tell what it gives; so they do where there are none
    is_seen: bool,
}

/// A layer that was split, as it stands in the new model.
struct Written {
    rank: usize,
    numbers: usize,
    bytes: usize,
}

/// One place to stop at: the rank and the error that it is thought to add to the outputs.
#[derive(Clone, Copy)]
struct Step {
    rank: usize,
    numbers: usize,
    error: f64,
}

impl LowRank<'_> {
    /// Splits the layers of `model`; `samples` are those that calibrate and those that judge.
    pub fn split(
        &self,
        model: &Model,
        samples: Option<&(Samples, Samples)>,
        progress: &dyn Progress,
    ) -> Result<SplitModel, Failure> {
        let graph = &model.graph;
        let mut found = Vec::new();
        let mut refused: BTreeMap<OpId, Unsplit> = BTreeMap::new();
        for op in graph.ops() {
            match Splittable::of(graph, op) {
                Ok(layer) => found.push((op, layer)),
                Err(miss) if miss.is_worth_reporting() => {
                    refused.insert(op, Unsplit::Missed(miss.named(graph)));
                }
                Err(_) => {}
            }
        }
        let samples = samples.filter(|(calibrating, _)| !calibrating.is_empty());
        let layers: Vec<Splittable> = found.iter().map(|(_, layer)| layer.clone()).collect();
        let moments = match samples {
            Some((calibrating, _)) if !layers.is_empty() => {
                let _stage = progress.stage("looking at layers", Some(calibrating.len() as u64));
                output_moments(graph, self.evaluator, &layers, calibrating)?
            }
            _ => Vec::new(),
        };
        let directions: Vec<Option<Directions>> =
            (0..found.len()).into_par_iter().map(|index| found[index].1.directions(moments.get(index))).collect();
        let mut candidates = Vec::new();
        for (index, ((op, layer), directions)) in found.into_iter().zip(directions).enumerate() {
            let is_seen = moments.get(index).is_none_or(|moments| layer.is_seen(moments));
            match directions {
                Some(directions) => candidates.push(Candidate { op, layer, directions, is_seen }),
                None => {
                    refused.insert(op, Unsplit::NotFinite);
                }
            }
        }
        let judges = samples.map(|(_, held_out)| held_out).filter(|held_out| !held_out.is_empty());
        let ranks = match (self.svd, judges) {
            (Svd::Auto, Some(held_out)) => self.measured(model, &mut candidates, held_out, progress)?,
            (Svd::Auto, None) => {
                let rank = |candidate: &Candidate| {
                    let rank = candidate.directions.rank_for(AUTO_ENERGY);
                    (rank as f64 <= MARGIN * candidate.layer.break_even()).then_some(rank)
                };
                candidates.iter().map(rank).collect()
            }
            (Svd::Energy(energy), _) => {
                candidates.iter().map(|candidate| Some(candidate.directions.rank_for(energy))).collect()
            }
            (Svd::Rank(share), _) => {
                let rank =
                    |candidate: &Candidate| (share * candidate.layer.full_rank() as f64).round().max(1.0) as usize;
                candidates.iter().map(|candidate| Some(rank(candidate))).collect()
            }
        };
        let pays = |candidate: &Candidate, rank: usize| {
            candidate.is_seen && is_large(candidate) && (rank as f64) < candidate.layer.break_even()
        };
        let ranks: Vec<Option<usize>> =
            ranks.into_iter().zip(&candidates).map(|(rank, c)| rank.filter(|&rank| pays(c, rank))).collect();
        let built = match ranks.iter().all(Option::is_none) {
            true => None,
            false => Some(self.build(model, &candidates, &ranks)?),
        };
        let missed = |op: OpId| {
            let entries = built.iter().flat_map(|(_, journal)| journal);
            entries.filter(|entry| entry.op == graph.label_of(op)).find_map(|entry| entry.missed().cloned())
        };
        let mut layers: BTreeMap<OpId, SplitLayer> = BTreeMap::new();
        for (candidate, rank) in candidates.iter().zip(&ranks) {
            let op = candidate.op;
            let written = built.as_ref().and_then(|(model, _)| written(graph, &model.graph, op));
            let reason = match (&written, rank) {
                (Some(_), _) => None,
                (None, Some(_)) => Some(missed(op).map_or(Unsplit::LeftOut, Unsplit::Missed)),
                (None, None) => Some(self.reason(candidate)),
            };
            let (numbers, bytes) = (candidate.layer.numbers(), bytes_of(graph, op));
            layers.insert(
                op,
                SplitLayer {
                    full_rank: candidate.layer.full_rank(),
                    rank: written.as_ref().map(|written| written.rank),
                    weights_before: numbers,
                    weights_after: written.as_ref().map_or(numbers, |written| written.numbers),
                    bytes_before: bytes,
                    bytes_after: written.as_ref().map_or(bytes, |written| written.bytes),
                    lost: written.as_ref().map(|written| candidate.directions.lost(written.rank)),
                    ..SplitLayer::whole(graph, op, reason)
                },
            );
        }
        for (op, reason) in refused {
            layers.insert(op, SplitLayer::whole(graph, op, Some(reason)));
        }
        let layers: Vec<SplitLayer> = graph.ops().into_iter().filter_map(|op| layers.remove(&op)).collect();
        let is_split = layers.iter().any(|layer| layer.rank.is_some());
        let (model, journal) = match built {
            Some((model, journal)) => (Some(model).filter(|_| is_split), journal),
            None => (None, Vec::new()),
        };
        Ok(SplitModel { model, journal, layers })
    }

    fn reason(&self, candidate: &Candidate) -> Unsplit {
        let break_even = candidate.layer.break_even();
        match self.svd {
            _ if !is_large(candidate) => Unsplit::Small { least: LEAST_NUMBERS },
            _ if !candidate.is_seen => Unsplit::Unseen,
            Svd::Auto => Unsplit::NoRank { below: (MARGIN * break_even).floor(), share: MARGIN },
            _ => Unsplit::RankTooHigh { break_even },
        }
    }

    /// The model with the candidates split at `ranks`.
    fn build(
        &self,
        model: &Model,
        candidates: &[Candidate],
        ranks: &[Option<usize>],
    ) -> Result<(Model, Vec<Entry>), Failure> {
        let mut model = model.detached();
        let split = |(candidate, rank): (&Candidate, &Option<usize>)| {
            Some((candidate.op, Split { directions: candidate.directions.clone(), rank: (*rank)? }))
        };
        let splits: BTreeMap<OpId, Split> = candidates.iter().zip(ranks).filter_map(split).collect();
        let mut cx = Context::new(self.options.clone(), self.evaluator);
        cx.run(&SplitLowRank { splits: &splits }, &mut model.graph).map_err(Failure::bug)?;
        model.graph.sweep();
        infer::infer(&mut model.graph);
        Ok((model, cx.journal.entries))
    }

    /// The ranks with the fewest numbers at which the outputs on `held_out` stay near enough: each layer's error is
    /// thought to grow with what it loses, by a factor that is measured for it alone; a price for each number then gives
    /// the ranks, and the whole is measured for a few prices.
    fn measured(
        &self,
        model: &Model,
        candidates: &mut [Candidate],
        held_out: &Samples,
        progress: &dyn Progress,
    ) -> Result<Vec<Option<usize>>, Failure> {
        let some = |count: usize| held_out.subset(&(0..held_out.len().min(count)).collect::<Vec<_>>());
        let (probes, judges) = (some(PROBE_SAMPLES), some(TRIAL_SAMPLES));
        let stage = progress.stage("choosing ranks", Some((candidates.len() + TRIALS) as u64));
        let mut steps: Vec<Vec<Step>> = Vec::new();
        for index in 0..candidates.len() {
            let candidate = &candidates[index];
            let ranks = if candidate.is_seen { steps_of(candidate) } else { Vec::new() };
            let Some(&probe) =
                ranks.iter().rev().find(|&&rank| 4 * rank <= candidate.layer.full_rank()).or(ranks.first())
            else {
                steps.push(Vec::new());
                stage.advance(1);
                continue;
            };
            let mut alone = vec![None; candidates.len()];
            alone[index] = Some(probe);
            let (error, _) = self.error(model, candidates, &alone, &probes)?;
            let lost = candidate.directions.lost(probe);
            if lost > NO_LOSS && error < LEAST_GAIN * lost {
                candidates[index].is_seen = false;
                steps.push(Vec::new());
                stage.advance(1);
                continue;
            }
            let gain = error / lost.max(1e-12);
            let step = |rank: usize| Step {
                rank,
                numbers: candidate.layer.numbers_at(rank),
                error: gain * candidate.directions.lost(rank),
            };
            steps.push(ranks.into_iter().map(step).collect());
            stage.advance(1);
        }
        let candidates = &*candidates;
        let all: f64 = candidates.iter().map(|candidate| candidate.layer.numbers() as f64).sum();
        // The price of all numbers together, in error: from far too low to far too high.
        let (mut low, mut high) = (1e-6f64, 1e3f64);
        let mut best: Vec<Option<usize>> = vec![None; candidates.len()];
        for _ in 0..TRIALS {
            let price = (low * high).sqrt();
            let ranks = priced(candidates, &steps, price / all);
            let holds = ranks.iter().all(Option::is_none) || {
                let (error, drop) = self.error(model, candidates, &ranks, &judges)?;
                let least = if drop.is_some() { AUTO_SQNR } else { AUTO_SQNR_ALONE };
                error <= 10f64.powf(-least / 10.0) && drop.is_none_or(|drop| drop <= AUTO_DROP)
            };
            if holds {
                best = ranks;
                low = price;
            } else {
                high = price;
            }
            stage.advance(1);
        }
        Ok(best)
    }

    /// Σ error² / Σ signal² of the worst float output on `samples`, and the loss of accuracy where there are labels.
    fn error(
        &self,
        model: &Model,
        candidates: &[Candidate],
        ranks: &[Option<usize>],
        samples: &Samples,
    ) -> Result<(f64, Option<f64>), Failure> {
        let (split, _) = self.build(model, candidates, ranks)?;
        let stage = Silent.stage("", None);
        let comparison = compare_graphs(self.evaluator, &model.graph, &split.graph, samples, 0, stage.as_ref());
        let comparison = comparison.map_err(Failure::bug)?;
        let errors = comparison.outputs.iter().filter(|output| output.float).map(|output| output.rel_l2.powi(2));
        Ok((errors.fold(0.0, f64::max), comparison.accuracy.map(|accuracy| accuracy.certain_drop())))
    }
}

impl SplitLayer {
    /// The layer `op`, which was not split for this reason.
    fn whole(graph: &Graph, op: OpId, reason: Option<Unsplit>) -> SplitLayer {
        SplitLayer {
            name: graph.label_of(op).to_owned(),
            op: graph.op(op).op_type().to_owned(),
            full_rank: 0,
            rank: None,
            weights_before: 0,
            weights_after: 0,
            bytes_before: 0,
            bytes_after: 0,
            lost: None,
            reason,
        }
    }
}

/// What stands in `after` for the layer `op` of `before`; `None` where it was not split.
fn written(before: &Graph, after: &Graph, op: OpId) -> Option<Written> {
    let y = after.find(before.name_of(before.op(op).output(0)?))?;
    let second = after.op(after.producer(y)?);
    let between = second.input(0)?;
    if before.find(after.name_of(between)).is_some() {
        return None;
    }
    let first = after.op(after.producer(between)?);
    let factors = [after.constant(first.input(1)?)?, after.constant(second.input(1)?)?];
    let rank = factors[0].dims().get(usize::from(!first.is("Conv")))?;
    Some(Written {
        rank: *rank,
        numbers: factors.iter().map(|factor| factor.len()).sum(),
        bytes: factors.iter().map(|factor| factor.byte_len()).sum(),
    })
}

/// Bytes of the weight of `op`.
fn bytes_of(graph: &Graph, op: OpId) -> usize {
    graph.op(op).input(1).and_then(|weight| graph.constant(weight)).map_or(0, onnx_shrink_ir::Tensor::byte_len)
}

fn is_large(candidate: &Candidate) -> bool {
    candidate.layer.numbers() >= LEAST_NUMBERS
}

/// Ranks that `auto` tries for a layer: what kernels like, below the break-even rank with a margin.
fn steps_of(candidate: &Candidate) -> Vec<usize> {
    let most = MARGIN * candidate.layer.break_even();
    let step = if candidate.layer.full_rank() <= 128 { 8 } else { 16 };
    let ranks = (1..).map(|k| k * step).take_while(|rank| *rank as f64 <= most);
    if is_large(candidate) { ranks.collect() } else { Vec::new() }
}

/// For each layer the rank of least error plus price of its numbers, the whole layer among them.
fn priced(candidates: &[Candidate], steps: &[Vec<Step>], price: f64) -> Vec<Option<usize>> {
    let choose = |(candidate, steps): (&Candidate, &Vec<Step>)| {
        let whole = price * candidate.layer.numbers() as f64;
        let cost = |step: &Step| step.error + price * step.numbers as f64;
        let best = steps.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
        (cost(best) < whole).then_some(best.rank)
    };
    candidates.iter().zip(steps).map(choose).collect()
}
