//! The step to 8 bits where the model cannot be run as a whole: what is proven region by region.
//!
//! **Never** keeps a rewrite in a region that is not proven; **never** places layers in calibrated integers: nothing tells their ranges.
use std::collections::BTreeMap;

use onnx_shrink_ir::Model;
use onnx_shrink_passes::Statistics;

use super::{Job, quantize::MOST_MADE_UP_ERROR};
use crate::{
    Failure,
    layers::Reason,
    metrics::{Comparison, OutputMetrics},
    regions,
};

/// Why a region in 8 bits is too far from the original, by the bound that holds for made-up inputs of whole models.
fn too_far(comparison: &Comparison) -> Option<String> {
    let is_far = |output: &&OutputMetrics| {
        let most = if output.float { MOST_MADE_UP_ERROR } else { 0.0 };
        output.misshapen > 0 || output.not_finite > 0 || output.rel_l2.is_nan() || output.rel_l2 > most
    };
    let far = comparison.outputs.iter().find(is_far)?;
    Some(format!("in 8 bits it differs by {:.2e} (relative L2) on made-up inputs", far.rel_l2))
}

impl Job<'_> {
    /// The model as without samples, with what is proven; `None` when nothing was gained.
    pub(super) fn int8_by_region(
        &mut self,
        lossless: &Model,
        statistics: &BTreeMap<String, Statistics>,
    ) -> Result<Option<Model>, Failure> {
        let (evaluator, mut options) = (self.evaluator.clone(), self.options.clone());
        let mut taken_back = Vec::new();
        let why = if self.samples.is_some() { Reason::NotRun } else { Reason::NoSamples };
        let (mut quantized, mut found) = loop {
            let int8 = self.quantizer(evaluator.as_ref(), &options, statistics);
            let quantized = match int8.without_samples(lossless, int8.dynamic, &why)? {
                Ok(quantized) => quantized,
                Err(nothing) => {
                    self.report.notes.push(nothing);
                    return Ok(None);
                }
            };
            let (before, after) = (&lossless.graph, &quantized.model.graph);
            let mut found = regions::prove(evaluator.as_ref(), before, after, &too_far)?;
            let denied = regions::denied(&found, &quantized.journal);
            match denied {
                _ if found.open.is_empty() => break (quantized, found),
                Some(denied) if denied.iter().any(|rewrite| !options.deny.contains(rewrite)) => {
                    options.deny.extend(denied);
                    taken_back.append(&mut found.open);
                }
                _ => return Ok(self.leave_float()),
            }
        };
        found.open = taken_back;
        let mut all = self.report.regions.take().unwrap_or_default();
        all.add(found);
        self.report.regions = Some(all);
        if self.samples.is_some() {
            let note = "the model cannot be run on the samples: it was made smaller as without any";
            quantized.notes = vec![note.to_owned()];
        }
        self.report.layers = quantized.layers;
        self.report.journal.extend(quantized.journal.entries);
        self.report.notes.extend(quantized.notes);
        Ok(Some(quantized.model))
    }
}
