//! Which range estimator is the best one, by running the models that each gives.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Prepared, Tensor};
use onnx_shrink_passes::{SampleSource, calibration::calibrators::Calibrator, samples::fold_in_order};
use rayon::prelude::*;

use super::{Calibrated, Quantized, noise::squares};
use crate::{Failure, Progress, Samples, plan::Plan, request::Calibrate};

/// Samples that choose among range estimators, at most.
const CHOOSING_SAMPLES: usize = 12;

/// Those of `count` calibrating samples that choose.
pub(super) fn choosing(count: usize) -> Vec<usize> {
    let step = (count / count.div_ceil(4).clamp(1, CHOOSING_SAMPLES)).max(1);
    (0..count).step_by(step).take(CHOOSING_SAMPLES).collect()
}

/// Numbers of the outputs that are enough to choose by, and samples that are the least in any case.
const CHOOSING_NUMBERS: usize = 4096;
const CHOOSING_LEAST: usize = 6;

/// Bytes of constants of a model up to which all candidates are built at once.
const BUILT_TOGETHER: usize = 64 << 20;

/// Of these, how many run before a range estimator may be given up.
const CHOOSING_CHUNK: usize = 2;

/// Share of the error that may be left for [`Calibrated::smooth`] to be worth its products.
const MOST_OF_PLAIN: f64 = 0.8;

impl Calibrated<'_> {
    /// The estimator where nothing measures which is best: the user's, or the one that does not widen with every outlier of
    /// ever more samples.
    pub fn unmeasured(&self) -> Calibrator {
        match self.int8.calibrate {
            Calibrate::MinMax => Calibrator::MinMax,
            Calibrate::Auto | Calibrate::Percentile => Calibrator::Percentile,
            Calibrate::Entropy => Calibrator::Entropy,
            Calibrate::Mse => Calibrator::Mse,
        }
    }

    /// Runs the float model on those of `samples` that [`Calibrated::choose`] asks for, where calibration ran on others.
    pub fn see_outputs(&mut self, samples: &Samples) -> Result<(), Failure> {
        let prepared = self.int8.evaluator.prepare(&self.folded.model.graph).map_err(Failure::bug)?;
        for index in choosing(samples.len()) {
            let outputs = prepared.run(&samples.inputs(index)?, &mut |_, _| {}).map_err(Failure::samples)?;
            self.calibration.outputs.insert(index, outputs);
        }
        Ok(())
    }

    /// The range estimator: the user's, or the one whose outputs are nearest to the float model's on some of the samples
    /// that calibrated; and the model that was built with it, where one was.
    pub fn choose(
        &self,
        plan: &Plan,
        samples: &Samples,
        progress: &dyn Progress,
    ) -> Result<(Calibrator, Option<Quantized>), Failure> {
        let candidates = match self.int8.calibrate {
            Calibrate::MinMax => return Ok((Calibrator::MinMax, None)),
            Calibrate::Percentile => return Ok((Calibrator::Percentile, None)),
            Calibrate::Entropy => return Ok((Calibrator::Entropy, None)),
            Calibrate::Mse => return Ok((Calibrator::Mse, None)),
            Calibrate::Auto => Calibrator::AUTO,
        };
        if !plan.has_integers() {
            return Ok((candidates[0], None));
        }
        let (samples, expected) = self.judges(samples);
        let stage = progress.stage("choosing ranges", Some(candidates.len() as u64));
        // All at once while they are small; else one by one, for memory.
        let graph = &self.folded.model.graph;
        let bytes = graph.values().into_iter().filter_map(|value| graph.constant(value)).map(Tensor::byte_len);
        let mut built: Vec<Result<Quantized, Failure>> = Vec::new();
        if bytes.sum::<usize>() <= BUILT_TOGETHER {
            candidates.par_iter().map(|&calibrator| self.build(plan, calibrator)).collect_into_vec(&mut built);
        }
        let mut built = built.into_iter();
        let mut best: Option<(f64, Calibrator, Quantized)> = None;
        for calibrator in candidates {
            let candidate = built.next().unwrap_or_else(|| self.build(plan, calibrator))?;
            let least = best.as_ref().map_or(f64::INFINITY, |(least, ..)| *least);
            let error = self.error_of(&candidate, &expected, &samples, least)?;
            match error {
                Some(error) => log::info!("ranges by {}: relative error {error:.5}", calibrator.name()),
                None => log::info!("ranges by {}: relative error above {least:.5}", calibrator.name()),
            }
            if let Some(error) = error.filter(|error| *error < least) {
                best = Some((error, calibrator, candidate));
            }
            stage.advance(1);
        }
        Ok(best.map_or((candidates[0], None), |(_, calibrator, model)| (calibrator, Some(model))))
    }

    /// Has layers with ranges of each run read values whose outliers went into their weights, where `samples` show that it
    /// helps; the model that was built on the way with `calibrator`, or `chosen`, if none was.
    pub fn smooth(
        &mut self,
        (calibrator, chosen): (Calibrator, Option<Quantized>),
        samples: &Samples,
    ) -> Result<(Calibrator, Option<Quantized>), Failure> {
        let (samples, expected) = self.judges(samples);
        if self.dynamic.is_empty() || expected.is_empty() {
            return Ok((calibrator, chosen));
        }
        let plan = self.plan(&BTreeSet::new());
        let plain = match chosen {
            Some(chosen) => chosen,
            None => self.build(&plan, calibrator)?,
        };
        self.smooths = true;
        let smooth = self.build(&plan, calibrator)?;
        if smooth.model.graph.op_count() > plain.model.graph.op_count()
            && let Some(error) = self.error_of(&plain, &expected, &samples, f64::INFINITY)?
            && self.error_of(&smooth, &expected, &samples, error * MOST_OF_PLAIN)?.is_some()
        {
            return Ok((calibrator, Some(smooth)));
        }
        self.smooths = false;
        Ok((calibrator, Some(plain)))
    }

    /// Those of the calibrating `samples` that choose, with the float model's outputs on them.
    fn judges(&self, samples: &Samples) -> (Samples, Vec<Vec<Tensor>>) {
        let chosen = choosing(samples.len());
        // Large outputs tell as much on fewer samples.
        let numbers = chosen.first().and_then(|index| self.calibration.outputs.get(index));
        let numbers = numbers.map_or(0, |outputs| outputs.iter().map(Tensor::len).sum()).max(1);
        let enough = CHOOSING_NUMBERS.div_ceil(numbers).clamp(CHOOSING_LEAST, CHOOSING_SAMPLES);
        let step = (chosen.len() / enough).max(1);
        let chosen: Vec<usize> = chosen.into_iter().step_by(step).take(enough).collect();
        let expected = chosen.iter().filter_map(|index| self.calibration.outputs.get(index).cloned()).collect();
        (samples.subset(&chosen), expected)
    }

    /// The error of a candidate; `None` where it is certain to be `least` or more.
    fn error_of(
        &self,
        candidate: &Quantized,
        expected: &[Vec<Tensor>],
        samples: &Samples,
        least: f64,
    ) -> Result<Option<f64>, Failure> {
        let after = self.int8.evaluator.prepare(&candidate.model.graph).map_err(Failure::bug)?;
        relative_error(after.as_ref(), expected, samples, least)
    }
}

/// Root of the summed relative squared errors of the float outputs of `model` on `samples`, from what is expected there;
/// `None` as soon as it is certain to be `least` or more. What it returns does not depend on the number of threads.
fn relative_error(
    model: &dyn Prepared,
    expected: &[Vec<Tensor>],
    samples: &Samples,
    least: f64,
) -> Result<Option<f64>, Failure> {
    let mut signals: BTreeMap<usize, f64> = BTreeMap::new();
    for (index, tensor) in expected.iter().flat_map(|outputs| outputs.iter().enumerate()) {
        if let Some(numbers) = tensor.as_slice::<f32>() {
            *signals.entry(index).or_default() += numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        }
    }
    let mut errors: BTreeMap<usize, f64> = BTreeMap::new();
    let root = |errors: &BTreeMap<usize, f64>| -> f64 {
        let relative = errors.iter().filter_map(|(index, error)| {
            let signal = signals.get(index).copied().unwrap_or(0.0);
            (signal > 0.0).then(|| error / signal)
        });
        relative.sum::<f64>().sqrt()
    };
    let one = |index: &usize| -> Result<Vec<Tensor>, Failure> {
        model.run(&samples.inputs(*index)?, &mut |_, _| {}).map_err(Failure::bug)
    };
    let indices: Vec<usize> = (0..samples.len().min(expected.len())).collect();
    for chunk in indices.chunks(CHOOSING_CHUNK) {
        fold_in_order(chunk, CHOOSING_CHUNK, one, |&sample, found| {
            for (index, (a, b)) in expected[sample].iter().zip(&found).enumerate() {
                if let (Some(a), Some(b)) = (a.as_slice::<f32>(), b.as_slice::<f32>()) {
                    *errors.entry(index).or_default() += squares(&a, &b).0;
                }
            }
        })?;
        if root(&errors) >= least {
            return Ok(None); // Errors only add up.
        }
    }
    Ok(Some(root(&errors)))
}
