//! The step to weights in fewer bits: who judges it, and what happens when a gate fails.
use std::collections::BTreeSet;

use onnx_shrink_ir::{Evaluate, Model, export};
use onnx_shrink_passes::{analysis::quantized::is_wholly_quantized, weight_only::fold_weights::Restore};

use super::{Job, quantize::FALL_BACK_RUNS};
use crate::{
    Failure, files,
    int8::{Folded, Quantized},
    metrics::Comparison,
    report::Note,
    report::Stored,
    request::weights::Weights,
    sensitivity,
    small_weights::{MOST_STEPS, Planned, Returns, Size, SmallWeights},
};

/// What makes the model with `Returns`; `None` when nothing got smaller.
type Build<'a> = &'a dyn Fn(&Returns) -> Result<Option<Quantized>, Failure>;

/// How far size goes before the error: as little as keeps the file no larger than one with everything in 8 bits.
pub(super) fn smallest(planned: &Planned<'_>, build: Build<'_>) -> Result<Size, Failure> {
    let bytes = |size: Size| -> Result<Option<u64>, Failure> {
        let stored = build(&planned.none_returned(size))?;
        Ok(stored.map(|stored| files::size_of(&export(&stored.model))))
    };
    if !planned.may_take_more_than_8_bits() {
        return Ok(Size::Spared);
    }
    let Some(plain) = bytes(Size::Plain)? else { return Ok(Size::Spared) };
    for size in [Size::Spared, Size::Dense] {
        if bytes(size)?.is_some_and(|bytes| bytes <= plain) {
            return Ok(size);
        }
    }
    Ok(Size::Plain)
}

/// The fewest of `suspects` a step further back. Where all of them are too few, all go back, the fewest of them another step, and
/// what the first step was not needed for comes forth again. Where nothing helps, the last step at which something is left in fewer
/// bits.
fn fewest_returned(
    build: Build<'_>,
    first: &Returns,
    suspects: &[usize],
    holds: &mut dyn FnMut(&Returns) -> Result<bool, Failure>,
) -> Result<Returns, Failure> {
    let all: BTreeSet<usize> = suspects.iter().copied().collect();
    let mut base = first.clone();
    for step in 0..MOST_STEPS {
        let mut with = |set: &BTreeSet<usize>| holds(&base.with(set));
        let Some(found) = sensitivity::fewest(suspects, FALL_BACK_RUNS, &mut with)? else {
            let next = base.with(&all);
            if build(&next)?.is_none() {
                return Ok(base);
            }
            base = next;
            continue;
        };
        let found_returns = base.with(&found);
        let others: Vec<usize> = suspects.iter().copied().filter(|suspect| !found.contains(suspect)).collect();
        if step == 0 || others.is_empty() {
            return Ok(found_returns);
        }
        let less = found_returns.without(&others);
        if holds(&less)? {
            return Ok(less);
        }
        let mut with = |set: &BTreeSet<usize>| holds(&less.with(set));
        let needed = sensitivity::fewest(&others, FALL_BACK_RUNS, &mut with)?;
        return Ok(needed.map_or(found_returns, |needed| less.with(&needed)));
    }
    Ok(base)
}

impl Job<'_> {
    /// The model with weights in fewer bits, as many as the gates hold for, or what is proven by region; `None` when none got smaller.
    pub(super) fn small_weights(&mut self, model: &Model, weights: Weights) -> Result<Option<Model>, Failure> {
        if let Some(why) = SmallWeights::unfit(weights, model) {
            self.report.notes.push(Note::WeightsUnfit(why));
            return Ok(None);
        }
        if self.report.unproven.is_none() && self.evaluator.prepare(&model.graph).is_ok() {
            let small = self.small_weights_as_a_whole(model, weights)?;
            if small.is_some() || self.report.unproven.is_none() {
                return Ok(small);
            }
            // Only now it was run, and could not be.
            self.report.notes.retain(|note| *note != Note::LeftFloat);
        }
        if is_wholly_quantized(&self.original.graph) {
            return Ok(None);
        }
        self.small_weights_by_region(model, weights)
    }

    /// The same for a model that can be run.
    fn small_weights_as_a_whole(&mut self, model: &Model, weights: Weights) -> Result<Option<Model>, Failure> {
        if is_wholly_quantized(&self.original.graph) {
            self.report.notes.push(Note::WeightsQuantizedAlready);
            return Ok(None);
        }
        let (evaluator, mut options) = (self.evaluator.clone(), self.options.clone());
        let request = self.request;
        let keep_float = &request.keep_float;
        let bits = if weights == Weights::Fp16 { 16 } else { 8 };
        let folded = Folded::new(model.detached(), (evaluator.as_ref(), &options), bits, false)?;
        options.deny.extend(folded.left_alone());
        let model = &folded.model;
        let stage = SmallWeights { evaluator: evaluator.as_ref(), options: &options, weights, keep_float };
        let planned = stage.plan(model, self.samples.as_ref(), self.progress)?;
        let build = |returns: &Returns| -> Result<Option<Quantized>, Failure> {
            let Some(mut stored) = planned.build(returns)? else { return Ok(None) };
            let restored = folded.restore(&mut stored.model, Restore::Larger)?;
            stored.journal = folded.journal(&restored, stored.journal);
            Ok(Some(stored))
        };
        let mut returns = planned.none_returned(smallest(&planned, &build)?);
        let suspects = planned.suspects();
        if let Some(held_out) = self.held_out().filter(|_| request.validate && !suspects.is_empty()) {
            let mut holds = |returns: &Returns| -> Result<bool, Failure> {
                let Some(stored) = build(returns)? else { return Ok(true) };
                let comparison = self.compare(&stored.model, &held_out)?;
                Ok(comparison.is_none_or(|found| request.gates.int8(&found).iter().all(|gate| gate.passed)))
            };
            if !holds(&returns)? {
                returns = fewest_returned(&build, &returns, &suspects, &mut holds)?;
            }
        }
        let stored = build(&returns)?;
        match stored {
            Some(stored) => {
                let samples = stored.samples;
                let mut figures = planned.figures(&stored, &returns);
                let accepted = self.accept_storage(stored)?;
                if accepted.is_some() {
                    let has_samples = self.held_out().is_some();
                    let error = |comparison: &Comparison| {
                        let floats =
                            comparison.outputs.iter().filter(|output| output.float).map(|output| output.rel_l2);
                        floats.filter(|_| has_samples).reduce(f64::max)
                    };
                    figures.layers.rel_l2 = self.report.quantized.as_ref().and_then(error);
                    if let Some((eight, bytes)) = planned.in_8_bits(model)? {
                        let held_out = self.held_out().filter(|_| request.validate);
                        let compared = match held_out {
                            Some(held_out) => self.compare(&eight, &held_out)?,
                            None => None,
                        };
                        let rel_l2 = compared.as_ref().and_then(error);
                        figures.stored_in_8_bits = Some(Stored { bytes, rel_l2, expected_time: 1.0 });
                    }
                    self.report.notes.push(Note::Weights(Box::new(figures.clone()), samples));
                    if figures.stored_in_8_bits.is_some() {
                        self.report.notes.push(Note::WeightsIn8Bits(Box::new(figures.clone())));
                    }
                    self.report.weights = Some(figures);
                }
                Ok(accepted)
            }
            None => {
                self.report.notes.push(Note::NothingSmaller);
                Ok(None)
            }
        }
    }
}
