//! The step to weights in fewer bits: who judges it, and what happens when a gate fails.
use std::collections::BTreeSet;

use onnx_shrink_ir::Model;
use onnx_shrink_passes::quantize::{fold_weights::Restore, is_wholly_quantized};

use super::{Job, quantize::FALL_BACK_RUNS};
use crate::{
    Failure,
    int8::{Folded, Quantized},
    metrics::Comparison,
    sensitivity,
    small_weights::{SmallWeights, Stored, Weights},
};

impl Job<'_> {
    /// The model with weights in fewer bits, as many as the gates hold for; `None` when none got smaller.
    pub(super) fn small_weights(&mut self, model: &Model, weights: Weights) -> Result<Option<Model>, Failure> {
        if self.report.unproven.is_some() {
            return Ok(self.leave_float());
        }
        if is_wholly_quantized(&self.original.graph) {
            self.report.notes.push("the model is quantized already: --weights leaves it as it is".to_owned());
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
        let build = |kept: &BTreeSet<usize>| -> Result<Option<Quantized>, Failure> {
            let Some(mut stored) = planned.build(kept)? else { return Ok(None) };
            let restored = folded.restore(&mut stored.model, Restore::Larger)?;
            stored.journal = folded.journal(&restored, stored.journal);
            Ok(Some(stored))
        };
        let mut stored = build(&BTreeSet::new())?;
        let mut kept = BTreeSet::new();
        let layers = planned.worst();
        if let Some(held_out) = self.held_out().filter(|_| request.validate && !layers.is_empty()) {
            let mut holds = |kept: &BTreeSet<usize>| -> Result<bool, Failure> {
                let Some(stored) = build(kept)? else { return Ok(true) };
                let comparison = self.compare(&stored.model, &held_out)?;
                Ok(comparison.is_none_or(|found| request.gates.int8(&found).iter().all(|gate| gate.passed)))
            };
            if !holds(&BTreeSet::new())?
                && let Some(found) = sensitivity::fewest(&layers, FALL_BACK_RUNS, &mut holds)?
            {
                stored = build(&found)?;
                kept = found;
            }
        }
        match stored {
            Some(stored) => {
                let samples = stored.samples;
                let mut figures = planned.figures(&stored, &kept);
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
                    self.report.notes.extend(figures.notes(samples));
                    self.report.weights = Some(figures);
                }
                Ok(accepted)
            }
            None => {
                self.report.notes.push("--weights: no weight is large enough to be stored in fewer bits".to_owned());
                Ok(None)
            }
        }
    }
}
