//! What rounding each layer alone does to the outputs.
//!
//! **Never** looks at samples that judge. Sums run in the order of layers and samples, whatever the number of threads.
use onnx_shrink_ir::{Evaluate, Graph, Patch, Prepared, Tensor};
use onnx_shrink_passes::{SampleSource, samples::map_in_order, weight_only::store_int4::Int4};

use crate::{Failure, Progress, Samples, int8::squares};

/// Runs of the model that are spent.
const RUNS: usize = 768;

/// Samples of them for each layer, at least and at most.
const SAMPLES: (usize, usize) = (4, 24);

/// Relative squared error of the outputs with each of `layers` alone rounded to nearest, the mean over the float outputs; `None`
/// where there are too many layers, or too little tells of them.
pub(super) fn of(
    evaluator: &dyn Evaluate,
    graph: &Graph,
    layers: &[Int4],
    samples: &Samples,
    progress: &dyn Progress,
) -> Result<Option<Vec<f64>>, Failure> {
    let count = (RUNS / layers.len().max(1)).min(SAMPLES.1).min(samples.len());
    if count < SAMPLES.0 || layers.len() < 2 {
        return Ok(None);
    }
    let stage = progress.stage("measuring layers", Some(layers.len() as u64));
    // Spread over all of them, in case they are sorted.
    let taken: Vec<usize> = (0..count).map(|k| k * samples.len() / count).collect();
    let run = |prepared: &dyn Prepared| -> Result<Vec<Vec<Tensor>>, Failure> {
        let one = |index: &usize| prepared.run(&samples.inputs(*index)?, &mut |_, _| {}).map_err(Failure::input);
        map_in_order(&taken, one)
    };
    let reference = run(evaluator.prepare(graph).map_err(Failure::input)?.as_ref())?;
    let mut errors = Vec::with_capacity(layers.len());
    for stored in layers {
        let mut copy = graph.detached();
        let layer = stored.layer();
        let mut patch = Patch::new(layer.op);
        let Some(prior) = layer.weights(graph) else { return Ok(None) };
        if layer.set_weights(&copy, &stored.weights(&prior), &mut patch).is_none() {
            return Ok(None);
        }
        patch.apply(&mut copy).map_err(Failure::bug)?;
        let found = run(evaluator.prepare(&copy).map_err(Failure::input)?.as_ref())?;
        errors.push(relative(&reference, &found));
        stage.advance(1);
    }
    let tells = errors.iter().all(|error| error.is_finite()) && errors.iter().any(|error| *error > 0.0);
    // A layer that no sample reaches adds nothing to what was seen, and may add as much as any other to what was not.
    let reached = errors.iter().filter(|error| **error > 0.0);
    let mean = reached.clone().sum::<f64>() / reached.count().max(1) as f64;
    errors.iter_mut().filter(|error| **error == 0.0).for_each(|error| *error = mean);
    Ok(tells.then_some(errors))
}

/// The mean over float outputs of Σ(a − b)² / Σa², over all samples.
fn relative(reference: &[Vec<Tensor>], found: &[Vec<Tensor>]) -> f64 {
    let outputs = reference.first().map_or(0, Vec::len);
    let mut of_outputs = Vec::new();
    for output in 0..outputs {
        let (mut error, mut signal) = (0.0, 0.0);
        for (expected, found) in reference.iter().zip(found) {
            let (Some(expected), Some(found)) = (expected[output].as_slice::<f32>(), found[output].as_slice::<f32>())
            else {
                continue;
            };
            let (off, all) = squares(&expected, &found);
            error += off;
            signal += all;
        }
        if signal > 0.0 {
            of_outputs.push(error / signal);
        }
    }
    of_outputs.iter().sum::<f64>() / of_outputs.len().max(1) as f64
}
