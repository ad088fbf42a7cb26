//! Models with an op that no engine here runs: what does not depend on it is a model that runs, and is worked on as one.
//!
//! Its outputs are the values that the rest reads, and it is judged at these. The rest keeps its bits, or is stored in fewer bits where
//! [regions](crate::regions) prove that.
//! **Never** judges labels there: they are about outputs of the whole. **Never** gives up what was done as a whole without samples.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{
    Evaluate, EvaluateError, Model, OpId,
    halves::{Halves, halves, join},
    infer,
};
use onnx_shrink_passes::Statistics;

use super::Job;
use crate::Failure;
use crate::report::Note;

/// How often the half that runs is made smaller, for ops that only a sample shows not to run.
const TRIES: usize = 8;

/// What stands aside while the half of the model that runs is worked on.
pub(super) struct Rest {
    /// The model before it was cut
    pub whole: Model,
    /// The half that runs, as it was
    pub before: Model,
    /// The other half
    behind: Model,
    /// The first op that does not run, and why
    reason: String,
}

impl Job<'_> {
    /// What of `model` is worked on: the half that runs, where it does not run as a whole and what is asked for needs that.
    pub(super) fn runnable(&mut self, model: Model) -> Result<Model, Failure> {
        let request = self.request;
        let calibrates = self.samples.as_ref().is_some_and(|(calibrating, _)| !calibrating.is_empty());
        let ranges = &request.ranges;
        let other_ranges = ranges.from_model || !ranges.files.is_empty() || ranges.synthetic.is_some();
        let wanted = request.structure.prune.is_some()
            || request.structure.svd.is_some()
            || request.weights.weights.is_some()
            || request.int8 && calibrates;
        if !wanted || other_ranges {
            return Ok(model);
        }
        let refused = self.evaluator.refused(&model.graph);
        let Some(reason) = refused.first().map(|(_, error)| error.to_string()) else { return Ok(model) };
        let blocked = refused.into_iter().map(|(op, _)| op).collect();
        let Some(Halves { before, behind }) = self.that_runs(&model, blocked)? else { return Ok(model) };
        self.report.unproven = None;
        self.rest = Some(Rest { whole: model, before: before.detached(), behind, reason });
        Ok(before)
    }

    /// The halves of `model` around `blocked` and what else does not run on the first sample; `None` where there are none.
    fn that_runs(&self, model: &Model, mut blocked: BTreeSet<OpId>) -> Result<Option<Halves>, Failure> {
        let samples = self
            .samples
            .as_ref()
            .map(|(calibrating, held_out)| if calibrating.is_empty() { held_out.clone() } else { calibrating.clone() });
        for _ in 0..TRIES {
            let Some(found) = halves(model, &blocked) else { return Ok(None) };
            let Some(samples) = samples.as_ref().filter(|samples| !samples.is_empty()) else { return Ok(Some(found)) };
            let sample = samples.get(0).map_err(Failure::samples)?;
            if sample.label.is_some() {
                return Ok(None);
            }
            let ran = self.evaluator.prepare(&found.before.graph);
            let refused = match ran.and_then(|ready| ready.run(&sample.inputs, &mut |_, _| {})) {
                Ok(_) => return Ok(Some(found)),
                Err(EvaluateError::Unsupported { op, .. }) => op,
                Err(_) => return Ok(None),
            };
            let graph = &model.graph;
            let more = graph.ops().into_iter().find(|op| graph.label_of(*op) == refused && !blocked.contains(op));
            match more {
                Some(op) => blocked.insert(op),
                None => return Ok(None),
            };
        }
        Ok(None)
    }

    /// The whole model again, with what was made of its half that runs (`None`: nothing), and whether it is another one.
    pub(super) fn whole(
        &mut self,
        rest: Rest,
        half: Option<Model>,
        statistics: &BTreeMap<String, Statistics>,
    ) -> Result<(Model, bool), Failure> {
        let Rest { whole, before, behind, reason } = rest;
        let places: Vec<String> =
            before.graph.outputs().iter().map(|value| before.graph.name_of(*value).to_owned()).collect();
        self.report.unproven = Some(reason.clone());
        // As without samples: none goes through this half.
        let (samples, layers) = (self.samples.take(), std::mem::take(&mut self.report.layers));
        let notes = self.report.notes.len();
        let mut stored = None;
        if self.request.int8 {
            stored = self.int8_by_region(&behind, statistics)?;
        }
        if let Some(weights) = self.request.weights.weights {
            stored = self.small_weights_by_region(stored.as_ref().unwrap_or(&behind), weights)?.or(stored);
        }
        self.report.notes.truncate(notes);
        let rest = std::mem::replace(&mut self.report.layers, layers);
        self.report.layers.extend(rest);
        self.samples = samples;
        if half.is_none() && stored.is_none() {
            return Ok((whole, false));
        }
        let mut joined = match join(&whole, half.as_ref().unwrap_or(&before), stored.as_ref().unwrap_or(&behind)) {
            Ok(joined) => joined,
            Err(error) => {
                self.report.notes.push(Note::HalfDoesNotFit { reason, error: error.to_string() });
                return Ok((whole, false));
            }
        };
        infer::infer(&mut joined.graph);
        self.report.notes.push(Note::Half { reason, values: places, is_rest_stored: stored.is_some() });
        Ok((joined, true))
    }
}
