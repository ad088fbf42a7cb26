//! The step to fewer bits where the model cannot be run as a whole: what is proven region by region.
//!
//! **Never** keeps a rewrite in a region that is not proven; **never** places layers in calibrated integers: nothing tells their ranges.
use std::collections::BTreeMap;

use onnx_shrink_ir::Model;
use onnx_shrink_passes::{Options, Statistics};

use super::{Job, quantize::MOST_MADE_UP_ERROR, weights::smallest};
use crate::{
    Failure,
    int8::Quantized,
    metrics::{Comparison, OutputMetrics},
    plan::Reason,
    regions,
    report::Note,
    request::weights::Weights,
    small_weights::SmallWeights,
};

/// Largest relative error of a region with weights in 4 bits: the SQNR of 14 dB that is asked for on samples.
const MOST_ERROR_OF_4_BITS: f64 = 0.2;

/// Why a region is too far from the original, if it is by more than `most`.
fn too_far(comparison: &Comparison, most: f64) -> Option<String> {
    let is_far = |output: &&OutputMetrics| {
        let most = if output.float { most } else { 0.0 };
        output.misshapen > 0 || output.not_finite > 0 || output.rel_l2.is_nan() || output.rel_l2 > most
    };
    let far = comparison.outputs.iter().find(is_far)?;
    Some(format!("in fewer bits it differs by {:.2e} (relative L2) on made-up inputs", far.rel_l2))
}

/// A model with its weights in fewer bits, by what may be done; `Err`, with the reason, where there is nothing to do.
type Build<'a> = &'a dyn Fn(&Job<'_>, &Options) -> Result<Result<Quantized, Note>, Failure>;

impl Job<'_> {
    /// The model as without samples, with what is proven; `None` when nothing was gained.
    pub(super) fn int8_by_region(
        &mut self,
        lossless: &Model,
        statistics: &BTreeMap<String, Statistics>,
    ) -> Result<Option<Model>, Failure> {
        let evaluator = self.evaluator.clone();
        let why = if self.samples.is_some() { Reason::NotRun } else { Reason::NoSamples };
        let build = |job: &Job<'_>, options: &Options| {
            let int8 = job.quantizer(evaluator.as_ref(), options, statistics);
            Ok(int8.without_samples(lossless, int8.dynamic, &why)?.map_err(Note::NothingStored))
        };
        self.by_region(lossless, &build, MOST_MADE_UP_ERROR)
    }

    /// The same for `--weights`.
    pub(super) fn small_weights_by_region(
        &mut self,
        lossless: &Model,
        weights: Weights,
    ) -> Result<Option<Model>, Failure> {
        let (evaluator, progress) = (self.evaluator.clone(), self.progress);
        let keep_float = &self.request.keep_float;
        let build = |_: &Job<'_>, options: &Options| {
            let stage = SmallWeights { evaluator: evaluator.as_ref(), options, weights, keep_float };
            let planned = stage.plan(lossless, None, progress)?;
            let stored =
                planned.build(&planned.none_returned(smallest(&planned, &|returns| planned.build(returns))?))?;
            Ok(stored.ok_or(Note::NothingSmaller))
        };
        let most = if weights == Weights::Int4 { MOST_ERROR_OF_4_BITS } else { MOST_MADE_UP_ERROR };
        self.by_region(lossless, &build, most)
    }

    /// What `build` gives, without what is not proven to be within `most` of the original.
    fn by_region(&mut self, lossless: &Model, build: Build<'_>, most: f64) -> Result<Option<Model>, Failure> {
        let (evaluator, mut options) = (self.evaluator.clone(), self.options.clone());
        let mut taken_back = Vec::new();
        let (mut quantized, mut found) = loop {
            let quantized = match build(self, &options)? {
                Ok(quantized) => quantized,
                Err(nothing) => {
                    self.report.notes.push(nothing);
                    return Ok(None);
                }
            };
            let (before, after) = (&lossless.graph, &quantized.model.graph);
            let mut found = regions::prove(evaluator.as_ref(), before, after, &|found| too_far(found, most))?;
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
        self.report.regions.get_or_insert_default().add(found);
        if self.samples.is_some() {
            quantized.notes = vec![Note::AsWithoutSamples];
        }
        self.report.layers = quantized.layers;
        self.report.journal.extend(quantized.journal.entries);
        self.report.notes.extend(quantized.notes);
        Ok(Some(quantized.model))
    }
}
