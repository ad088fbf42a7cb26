//! The samples that a run is given: those that calibrate, those that judge, and what is wrong with them.
use onnx_shrink_ir::{Evaluate, Graph};
use onnx_shrink_passes::analysis::quantized::is_quantized;

use super::Job;
use crate::{
    Failure, Progress, Request, Samples,
    request::Ranges,
    samples::{BadSample, BadSamples, Data, Examiner, Extent},
};

/// What there is of samples.
#[derive(Default)]
pub(super) struct Given {
    /// Those that calibrate, and those that judge
    pub samples: Option<(Samples, Samples)>,
    /// Why the model runs on none of them, if so
    pub not_run: Option<String>,
    /// Those that were left out
    pub skipped: Vec<BadSample>,
    /// What is to be said of these
    pub warnings: Vec<String>,
}

impl Given {
    /// The samples of `request` for the model `graph`, examined.
    pub fn open(
        request: &Request,
        graph: &Graph,
        evaluator: &dyn Evaluate,
        progress: &dyn Progress,
    ) -> Result<Given, Failure> {
        let extent = if runs_on_all(request, graph) { Extent::First } else { Extent::All };
        Given::examined(request, graph, &Examiner { evaluator, progress, extent, bad: request.bad_samples })
    }

    fn examined(request: &Request, graph: &Graph, examiner: &Examiner<'_>) -> Result<Given, Failure> {
        let mut given = Given::default();
        let mut open = |data| -> Result<Samples, Failure> {
            let usable = examiner.open(data, graph, &request.sample_options).map_err(Failure::samples)?;
            given.not_run = given.not_run.take().or(usable.not_run);
            given.skipped.extend(usable.skipped);
            given.warnings.extend(usable.warning);
            Ok(usable.samples)
        };
        let data = request.data.as_ref().map(&mut open).transpose()?;
        let validation = request.validation_data.as_ref().map(&mut open).transpose()?;
        let path = |data: &Option<Data>| data.as_ref().and_then(Data::path)?.canonicalize().ok();
        if let (Some(one), Some(other)) = (path(&request.data), path(&request.validation_data))
            && one == other
        {
            let what = "--validation-data is --data: the samples that calibrate judge themselves";
            given.warnings.push(format!("{what}; give others, or --data alone, of which every fourth judges"));
        }
        given.samples = match (data, validation) {
            (Some(data), Some(validation)) => Some((data, validation)),
            (Some(data), None) => Some(data.split()),
            (None, Some(validation)) => Some((validation.subset(&[]), validation)),
            (None, None) => None,
        };
        Ok(given)
    }
}

/// Refuses what is said of samples where there are none, or where nothing looks at them.
pub(super) fn check(request: &Request) -> Result<(), Failure> {
    let has_samples = request.data.is_some() || request.validation_data.is_some();
    if !has_samples && request.bad_samples == BadSamples::Skip {
        return Err(Failure::usage("--skip-bad-samples is about samples, and there are none: give --data DIR"));
    }
    if !has_samples && let Some(flag) = request.sample_options.given() {
        return Err(Failure::usage(format_args!("{flag} says how images become samples: give them with --data DIR")));
    }
    if !request.validate && request.validation_data.is_some() {
        let why = "--no-validate judges nothing, so --validation-data is of no use: leave out one of them";
        return Err(Failure::usage(why));
    }
    Ok(())
}

/// Whether the work itself runs the model on each sample: calibration on those of `--data`, the judge on the others.
fn runs_on_all(request: &Request, graph: &Graph) -> bool {
    let steps = &request.structure;
    let is_int8_alone =
        request.int8 && request.weights.weights.is_none() && steps.prune.is_none() && steps.svd.is_none();
    let calibrates = request.data.is_some() && request.ranges == Ranges::default() && !is_quantized(graph);
    is_int8_alone && calibrates && request.validate && !request.control.stops_early()
}

impl Job<'_> {
    /// After a run on samples that failed: the failure that names each bad one, where there is one.
    pub(super) fn blame_samples(&self) -> Result<(), Failure> {
        if self.not_run.is_some() {
            return Ok(());
        }
        let (evaluator, progress) = (self.evaluator.as_ref(), self.progress);
        let examiner = Examiner { evaluator, progress, extent: Extent::All, bad: BadSamples::Refuse };
        // (Those that are to be skipped are gone already.)
        if self.request.bad_samples == BadSamples::Skip {
            return Ok(());
        }
        Given::examined(self.request, &self.original.graph, &examiner).map(drop)
    }
}
