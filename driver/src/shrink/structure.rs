//! The steps that remove structure: `--prune` and `--svd`, each judged before the next begins.
use std::collections::BTreeMap;

use onnx_shrink_ir::Model;
use onnx_shrink_passes::{
    Statistics,
    prune::private_vectors::{copy_shared_vectors, share_again},
};

use super::Job;
use crate::{Failure, Gates, low_rank::LowRank, report::Note, request::structure::Svd, structure::Pruner};

impl Job<'_> {
    /// The model without a share of its channels, when the gates hold for it; `None` when none can go.
    pub(super) fn prune(
        &mut self,
        lossless: &Model,
        statistics: &BTreeMap<String, Statistics>,
    ) -> Result<Option<Model>, Failure> {
        if self.request.exact {
            return Err(Failure::usage("--exact forbids what --prune stands for: leave out one of them"));
        }
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let pruner = Pruner {
            evaluator: evaluator.as_ref(),
            options: &options,
            structure: self.request.structure,
            target: self.request.target,
            statistics,
        };
        let samples = self.samples.clone().filter(|(calibrating, _)| !calibrating.is_empty());
        let calibrating = samples.as_ref().map(|(calibrating, _)| calibrating);
        // A bias that several layers share would tie their channels.
        let mut own = lossless.detached();
        let copies = copy_shared_vectors(&mut own.graph).map_err(Failure::bug)?;
        let mut pruned = match pruner.prune(&own, calibrating, self.progress)? {
            Ok(pruned) => pruned,
            Err(why) => {
                self.report.warnings.push(format!("--prune: {why}"));
                return Ok(None);
            }
        };
        share_again(&mut pruned.model.graph, &copies).map_err(Failure::bug)?;
        let verdict = self.judge(&pruned.model, Gates::structure)?;
        if verdict.comparison.is_none() && self.request.validate {
            return Ok(self.leave_float());
        }
        pruned.structure.comparison = verdict.comparison;
        self.report.structure = Some(pruned.structure);
        self.report.notes.extend(pruned.notes);
        self.report.journal.extend(pruned.journal);
        match verdict.failed {
            Some(reason) => Err(self.gate_failed(&format!("after --prune: {reason}"))),
            None => Ok(Some(pruned.model)),
        }
    }

    /// The model with fully connected layers in two, when the gates hold for it; `None` when none is.
    pub(super) fn split_low_rank(&mut self, model: &Model, svd: Svd) -> Result<Option<Model>, Failure> {
        if self.request.exact {
            return Err(Failure::usage("--exact forbids what --svd stands for: leave out one of them"));
        }
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let low_rank = LowRank { evaluator: evaluator.as_ref(), options: &options, svd };
        let split = low_rank.split(model, self.samples.as_ref(), self.progress)?;
        self.report.low_rank = split.layers;
        self.report.journal.extend(split.journal);
        let Some(model) = split.model else {
            let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
            for reason in self.report.low_rank.iter().filter_map(|layer| layer.reason.as_ref()) {
                *reasons.entry(reason.to_string()).or_default() += 1;
            }
            let most = reasons.iter().max_by_key(|(reason, count)| (**count, std::cmp::Reverse(*reason)));
            let most = most.map(|(reason, count)| (reason.clone(), *count));
            self.report.notes.push(Note::NothingSplit { most, layers: self.report.low_rank.len() });
            return Ok(None);
        };
        let verdict = self.judge(&model, Gates::int8)?;
        if verdict.comparison.is_none() && self.request.validate {
            return Ok(self.leave_float());
        }
        self.report.split = verdict.comparison;
        match verdict.failed {
            Some(reason) => Err(self.gate_failed(&format!("after --svd: {reason}"))),
            None => Ok(Some(model)),
        }
    }
}
