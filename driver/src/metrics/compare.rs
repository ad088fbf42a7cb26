//! Two models on the same samples.
use onnx_shrink_ir::{Evaluate, Graph, Prepared};
use onnx_shrink_passes::samples::fold_in_order;

use super::{
    accuracy::{Accuracy, class_of, is_right},
    comparison::{CompareError, Comparison, Which},
    kind::Kind,
    sums::{Measured, OutputMetrics},
};
use crate::{
    progress::Stage,
    samples::{FittedSample, Samples},
};

/// What one sample contributes.
struct One {
    outputs: Vec<Measured>,
    right: Option<(bool, bool)>,
}

fn run_one(before: &dyn Prepared, after: &dyn Prepared, sample: &FittedSample) -> Result<One, CompareError> {
    let run = |model: &dyn Prepared, which| {
        let failed = |source| CompareError::Run { sample: sample.name.clone(), model: which, source };
        model.run(&sample.inputs, &mut |_, _| {}).map_err(failed)
    };
    let (a, b) = (run(before, Which::Original)?, run(after, Which::New)?);
    let outputs = a.iter().zip(&b).map(|(a, b)| Measured::of(a, b, true)).collect();
    let right = class_of(sample)
        .zip(a.first().zip(b.first()))
        .and_then(|(label, (a, b))| Some((is_right(a, label)?, is_right(b, label)?)));
    Ok(One { outputs, right })
}

/// Runs both models on every sample and compares their outputs. `graph` is the original, whose output names stand in the
/// result; `threads` 0 means rayon's own pool.
pub fn compare(
    graph: &Graph,
    before: &dyn Prepared,
    after: &dyn Prepared,
    samples: &Samples,
    threads: usize,
    stage: &dyn Stage,
) -> Result<Comparison, CompareError> {
    let work = || {
        let mut sums: Vec<Measured> = vec![Measured::default(); graph.outputs().len()];
        let mut right = Vec::new();
        let indices: Vec<usize> = (0..samples.len()).collect();
        let one = |index: &usize| -> Result<One, CompareError> {
            let one = run_one(before, after, &samples.get(*index)?)?;
            stage.advance(1);
            Ok(one)
        };
        fold_in_order(&indices, 4 * rayon::current_num_threads(), one, |_, one| {
            right.extend(one.right);
            sums.iter_mut().zip(&one.outputs).for_each(|(sums, one)| sums.add(one));
        })?;
        let outputs = graph.outputs().iter().zip(&sums);
        let outputs =
            outputs.map(|(&value, sums)| OutputMetrics::new(graph.name_of(value), &Kind::of(graph, value), sums));
        let (made_up, outputs) = (samples.are_made_up(), outputs.collect());
        Ok(Comparison { samples: samples.len(), made_up, outputs, accuracy: Accuracy::of(&right) })
    };
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) if threads > 0 => pool.install(work),
        _ => work(),
    }
}

/// Prepares both graphs with `evaluator` and compares them; see [`compare`].
pub fn compare_graphs(
    evaluator: &dyn Evaluate,
    before: &Graph,
    after: &Graph,
    samples: &Samples,
    threads: usize,
    stage: &dyn Stage,
) -> Result<Comparison, CompareError> {
    let prepare = |graph, model| {
        let failed = |source| CompareError::Run { sample: "none yet".to_owned(), model, source };
        evaluator.prepare(graph).map_err(failed)
    };
    let (prepared, other) = (prepare(before, Which::Original)?, prepare(after, Which::New)?);
    compare(before, prepared.as_ref(), other.as_ref(), samples, threads, stage)
}
