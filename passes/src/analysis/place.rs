//! Placing is choosing: which units run in integers, by a minimum cut over what each choice costs.
//!
//! A unit costs its integer or its float time; a value that crosses from one side to the other costs its conversion, once
//! per direction however many readers it has. Both are submodular, so the least total is a minimum cut (the "project
//! selection" construction). Traps of the engine are infinite edges. Costs: [`crate::target`].
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Graph, ValueId};

use crate::{
    analysis::units::{Units, readers},
    calibration::collect::Calibration,
    numerics::min_cut::{INFINITE, Network},
    target::{Kind, Margins, Places, dequantize_time, quantize_time},
};

/// Which units run in integers, and what the cost tables say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// By unit
    pub integer: Vec<bool>,
    /// Time over float time on each of the target's processors, of the ops that the tables know
    pub ratios: Vec<f64>,
}

/// What a value would cost to convert, and who stands at its ends.
struct Crossing {
    producer: Option<usize>,
    units: BTreeSet<usize>,
    others: bool,
    quantize: f64,
    dequantize: f64,
}

/// The costs of one graph, ready for any choice.
pub struct Costs {
    float: Vec<f64>,
    /// By processor of the target
    integer: Vec<Vec<f64>>,
    crossings: Vec<Crossing>,
    tied: Vec<(usize, Option<usize>)>,
    /// Units that would make the engine run a float op behind an integer one in integers, where it is many times slower
    barred: BTreeSet<usize>,
    /// Microseconds of float ops that are in no unit
    rest: f64,
    places: Places,
    margins: Margins,
    weighted: Vec<bool>,
}

impl Costs {
    /// Costs of `units` in `graph`.
    pub fn new(graph: &Graph, units: &Units, calibration: &Calibration) -> Costs {
        let float = units.units.iter().map(|unit| unit.work.float_time()).collect();
        let target = units.target;
        let times = |processor: &_| units.units.iter().map(|unit| unit.work.integer_time(*processor)).collect();
        let made: BTreeMap<ValueId, usize> = units
            .units
            .iter()
            .enumerate()
            .flat_map(|(index, unit)| unit.outputs.iter().map(move |output| (*output, index)))
            .collect();
        let mut values: BTreeSet<ValueId> = made.keys().copied().collect();
        values.extend(units.units.iter().flat_map(|unit| unit.inputs.iter().map(|(_, value)| *value)));
        let mut crossings = Vec::new();
        let mut tied = Vec::new();
        for value in values {
            let numbers = calibration.values.get(&value).map_or(0.0, |seen| seen.dims.iter().product::<usize>() as f64);
            let producer = made.get(&value).copied();
            let (by, others) = readers(graph, units, value);
            let ends_float = producer.is_some_and(|unit| units.units[unit].ends_float);
            let dequantize = if ends_float { 0.0 } else { dequantize_time(numbers) };
            // A MaxPool and its neighbours stay on one side: the engine moves a Quantize behind a float pool above it
            // and then runs the pool in a slow layout.
            let pool = |unit: &usize| units.units[*unit].work.kind == Kind::MaxPool;
            if let Some(producer) = producer
                && pool(&producer)
            {
                tied.extend(by.iter().map(|reader| (producer, Some(*reader))));
            }
            for reader in by.iter().filter(|reader| pool(reader)) {
                tied.push((*reader, producer));
            }
            crossings.push(Crossing { producer, units: by, others, quantize: quantize_time(numbers), dequantize });
        }
        let mut barred = BTreeSet::new();
        for op in graph.ops().into_iter().filter(|op| target.slow_in_integers.iter().any(|name| graph.op(*op).is(name)))
        {
            // The engine takes a Pad before it into the op, and a Dequantize before that then stands before the op.
            let padded = |x: ValueId| graph.producer(x).filter(|pad| graph.op(*pad).is("Pad"));
            let x = graph.op(op).input(0);
            let behind = x.and_then(padded).and_then(|pad| graph.op(pad).input(0));
            let from_unit = [x, behind].into_iter().flatten().any(|x| made.contains_key(&x));
            if let Some(y) = graph.op(op).output(0).filter(|_| from_unit) {
                barred.extend(readers(graph, units, y).0);
            }
        }
        let rest = graph
            .ops()
            .into_iter()
            .filter(|op| !units.of_op.contains_key(op))
            .flat_map(|op| graph.op(op).outputs().iter().flatten().copied().collect::<Vec<_>>())
            .filter_map(|value| calibration.values.get(&value))
            .map(|seen| 1.0 + 0.25e-3 * seen.dims.iter().product::<usize>() as f64)
            .sum();
        let integer = target.processors().iter().map(times).collect();
        let weighted = units.units.iter().map(|unit| unit.is_weighted()).collect();
        Costs {
            float,
            integer,
            crossings,
            tied,
            barred,
            rest,
            places: target.places,
            margins: target.margins,
            weighted,
        }
    }

    /// Microseconds of a choice on `processor` (an index into the target's).
    fn time(&self, integer: &[bool], processor: usize) -> f64 {
        let units: f64 = integer
            .iter()
            .enumerate()
            .map(|(k, &on)| if on { self.integer[processor][k] } else { self.float[k] })
            .sum();
        let crossing = |crossing: &Crossing| {
            let made_integer = crossing.producer.is_some_and(|unit| integer[unit]);
            let any_integer = crossing.units.iter().any(|unit| integer[*unit]);
            let any_float = crossing.others || crossing.units.iter().any(|unit| !integer[*unit]);
            match (made_integer, any_integer, any_float) {
                (true, _, true) => crossing.dequantize,
                (false, true, _) => crossing.quantize,
                _ => 0.0,
            }
        };
        self.rest + units + self.crossings.iter().map(crossing).sum::<f64>()
    }

    fn placement(&self, integer: Vec<bool>) -> Placement {
        let none = vec![false; integer.len()];
        let ratio = |processor| self.time(&integer, processor) / self.time(&none, processor).max(1e-9);
        let ratios = (0..self.integer.len()).map(ratio).collect();
        Placement { integer, ratios }
    }

    /// `integer` without the units that are tied to one that stays float.
    fn with_ties(&self, mut integer: Vec<bool>) -> Vec<bool> {
        loop {
            let mut changed = false;
            for &(pool, other) in &self.tied {
                if integer[pool] && other.is_none_or(|other| !integer[other]) {
                    integer[pool] = false;
                    changed = true;
                }
                if let Some(other) = other.filter(|other| integer[*other] && !integer[pool]) {
                    integer[other] = false;
                    changed = true;
                }
            }
            if !changed {
                return integer;
            }
        }
    }

    /// All units but those of `kept`, without the ones that only convert: at an end of integers, or among themselves, a
    /// unit without weights gains nothing.
    fn all_but(&self, kept: &BTreeSet<usize>) -> Vec<bool> {
        let mut integer: Vec<bool> = (0..self.float.len()).map(|unit| !kept.contains(&unit)).collect();
        if self.places == Places::EveryTensor {
            return integer;
        }
        loop {
            let (mut feeds, mut is_fed) = (self.weighted.clone(), self.weighted.clone());
            for crossing in &self.crossings {
                let Some(producer) = crossing.producer.filter(|producer| integer[*producer]) else { continue };
                for &reader in crossing.units.iter().filter(|reader| integer[**reader]) {
                    feeds[producer] = true;
                    is_fed[reader] = true;
                }
            }
            let stays = |unit: usize| feeds[unit] && is_fed[unit];
            let next: Vec<bool> = (0..integer.len()).map(|unit| integer[unit] && stays(unit)).collect();
            if next == integer {
                return integer;
            }
            integer = next;
        }
    }

    /// The cheapest choice by weights of the processors, with `kept` units float.
    fn cut(&self, weights: &[f64], kept: &BTreeSet<usize>) -> Vec<bool> {
        let count = self.float.len();
        let (source, sink) = (count, count + 1);
        let mut network = Network::new(count + 2 + self.crossings.len() * 2);
        let mut next = count + 2;
        for unit in 0..count {
            let integer: f64 = weights.iter().zip(&self.integer).map(|(weight, times)| weight * times[unit]).sum();
            let forbidden = kept.contains(&unit) || self.barred.contains(&unit) || !integer.is_finite();
            network.edge(unit, sink, if forbidden { INFINITE } else { nanoseconds(integer) });
            network.edge(source, unit, nanoseconds(self.float[unit]));
        }
        for crossing in &self.crossings {
            let (dequantize, quantize) = (next, next + 1);
            next += 2;
            if let Some(producer) = crossing.producer {
                network.edge(producer, dequantize, nanoseconds(crossing.dequantize));
                for &reader in &crossing.units {
                    network.edge(dequantize, reader, INFINITE);
                }
                if crossing.others {
                    network.edge(dequantize, sink, INFINITE);
                }
            }
            network.edge(quantize, crossing.producer.unwrap_or(sink), nanoseconds(crossing.quantize));
            for &reader in &crossing.units {
                network.edge(reader, quantize, INFINITE);
            }
        }
        for &(pool, other) in &self.tied {
            let other = other.unwrap_or(sink);
            network.edge(pool, other, INFINITE);
            network.edge(other, pool, INFINITE);
        }
        let side = network.source_side(source, sink);
        (0..count).map(|unit| side[unit]).collect()
    }
}

/// Every unit that has an integer form in integers, whether that pays or not; `kept` units stay float.
pub fn place_all(costs: &Costs, kept: &BTreeSet<usize>) -> Placement {
    costs.placement(costs.all_but(kept))
}

/// Chooses for the mean of the target's processors; slower than float on none. `kept` units stay float.
pub fn place(costs: &Costs, kept: &BTreeSet<usize>) -> Placement {
    let count = costs.float.len();
    let none = costs.placement(vec![false; count]);
    match costs.places {
        Places::Nothing => return none,
        Places::All | Places::EveryTensor => return costs.placement(costs.all_but(kept)),
        Places::Cheapest(_) => {}
    }
    let kinds = costs.integer.len();
    let mean = |placement: &Placement| placement.ratios.iter().sum::<f64>() / kinds as f64;
    let alone = |kind: usize| (0..kinds).map(move |other| f64::from(other == kind)).collect();
    let weights: Vec<Vec<f64>> =
        std::iter::once(vec![1.0 / kinds as f64; kinds]).chain((0..kinds).map(alone)).collect();
    let cheapest = weights
        .iter()
        .map(|weights| costs.placement(costs.cut(weights, kept)))
        .filter(|placement| placement.ratios.iter().all(|ratio| *ratio <= 1.0))
        .min_by(|a, b| mean(a).total_cmp(&mean(b)));
    let Some(cheapest) = cheapest else { return none };
    let all = (0..count).map(|unit| {
        let possible = costs.integer.iter().all(|times| times[unit].is_finite());
        possible && !kept.contains(&unit) && !costs.barred.contains(&unit)
    });
    let all = costs.placement(costs.with_ties(all.collect()));
    log::debug!("placement: cheapest {:?}, all {:?}", cheapest.ratios, all.ratios);
    let chosen = if mean(&all) <= mean(&cheapest) * costs.margins.all && all.ratios.iter().all(|ratio| *ratio <= 1.0) {
        all
    } else {
        cheapest
    };
    if mean(&chosen) > costs.margins.least_gain { none } else { chosen }
}

/// Costs as integers, so that the cut is the same everywhere.
fn nanoseconds(microseconds: f64) -> i64 {
    if microseconds.is_finite() { (microseconds * 1000.0).round() as i64 } else { INFINITE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ORT_CPU;

    /// Units in a chain: (float, integer) times; conversions between neighbours cost `convert`.
    fn chain(times: &[(f64, f64)], convert: f64) -> Costs {
        let mut crossings = Vec::new();
        for unit in 0..=times.len() {
            crossings.push(Crossing {
                producer: unit.checked_sub(1),
                units: (unit < times.len()).then_some(unit).into_iter().collect(),
                others: unit == times.len(),
                quantize: convert,
                dequantize: convert,
            });
        }
        let integer: Vec<f64> = times.iter().map(|(_, integer)| *integer).collect();
        Costs {
            float: times.iter().map(|(float, _)| *float).collect(),
            integer: vec![integer.clone(), integer],
            crossings,
            tied: Vec::new(),
            barred: BTreeSet::new(),
            rest: 0.0,
            margins: ORT_CPU.margins,
            places: ORT_CPU.places,
            weighted: vec![true; times.len()],
        }
    }

    /// The least time over all choices, by trying each.
    fn exhaustive(costs: &Costs) -> f64 {
        let count = costs.float.len();
        (0..1u32 << count)
            .map(|bits| costs.time(&(0..count).map(|k| bits >> k & 1 == 1).collect::<Vec<_>>(), 0))
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_cut_is_the_cheapest_choice() {
        let mut state = 9u64;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f64 / f64::from(1u32 << 31) * 100.0
        };
        for _ in 0..100 {
            let times: Vec<(f64, f64)> = (0..8).map(|_| (uniform(), uniform())).collect();
            let costs = chain(&times, uniform() / 2.0);
            let cut = costs.cut(&[0.5, 0.5], &BTreeSet::new());
            let (found, least) = (costs.time(&cut, 0), exhaustive(&costs));
            assert!((found - least).abs() < 0.1, "{found} {least}");
        }
    }

    #[test]
    fn an_island_too_small_to_pay_stays_float() {
        let costs = chain(&[(10.0, 12.0), (10.0, 8.0), (10.0, 12.0)], 5.0);
        assert_eq!(place(&costs, &BTreeSet::new()).integer, [false; 3]);
    }

    #[test]
    fn a_front_that_loses_is_trimmed() {
        let costs = chain(&[(18.0, 62.0), (11.0, 45.0), (100.0, 30.0), (100.0, 30.0)], 3.0);
        assert_eq!(place(&costs, &BTreeSet::new()).integer, [false, false, true, true]);
    }

    #[test]
    fn what_the_user_keeps_stays_float() {
        let costs = chain(&[(100.0, 30.0), (100.0, 30.0)], 3.0);
        assert_eq!(place(&costs, &BTreeSet::from([0])).integer, [false, true]);
    }
}
