//! How far one model's outputs are from another's, over samples.
//!
//! Sums are f64, taken per sample and merged in the order of the samples: **never** in the order in which threads finish, so
//! a report is the same for any number of threads. **Never** holds more outputs than threads.
use std::fmt;

use onnx_shrink_ir::{Evaluate, EvaluateError, Graph, Prepared};
use onnx_shrink_passes::samples::fold_in_order;
use serde::Serialize;

use self::{
    accuracy::{class_of, is_right},
    kind::Kind,
    sums::Measured,
};
use crate::{
    progress::Stage,
    samples::{Sample, SampleError, Samples},
};

mod accuracy;
mod gates;
mod kind;
mod parts;
mod slices;
mod structure;
mod sums;
#[cfg(test)]
mod tests;
mod values;

pub use accuracy::Accuracy;
pub use gates::GateResult;
pub use parts::{Part, Slice};
pub use sums::OutputMetrics;
pub use values::compare_values;

/// Which of two models that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that is right
    Original,
    /// The one that is judged
    New,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Which::Original => "original",
            Which::New => "new",
        })
    }
}

/// Why two models could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A sample cannot be read
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A model does not run on a sample
    #[error("sample `{sample}`: the {model} model")]
    Run {
        /// The sample
        sample: String,
        /// Which of the two
        model: Which,
        /// Why not
        #[source]
        source: EvaluateError,
    },
}

/// How far a model is from the original.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Samples that both ran on
    pub samples: usize,
    /// Whether they are made up: then what outputs vary by tells nothing
    pub made_up: bool,
    /// By output, in the graph's order
    pub outputs: Vec<OutputMetrics>,
    /// When samples have labels that are classes
    pub accuracy: Option<Accuracy>,
}

/// With fewer samples than these, a single number's variation is not told.
const FEW_SAMPLES: usize = 4;

impl Comparison {
    /// Says so where too few samples judged to tell what varies between them: an error as large as that passes.
    pub fn warning(&self) -> Option<String> {
        let untold = |output: &&OutputMetrics| output.float && output.row && output.sqnr_around_mean_db.is_none();
        let output = self.outputs.iter().filter(|output| output.unequal > 0.0).find(untold)?;
        (self.samples < FEW_SAMPLES && !self.made_up).then(|| {
            let (name, samples) = (&output.name, if self.samples == 1 { "one sample" } else { "few samples" });
            format!("{samples} judged, which does not tell how `{name}` varies: an error as large as that passes; judge on more")
        })
    }
}

/// What one sample contributes.
struct One {
    outputs: Vec<Measured>,
    right: Option<(bool, bool)>,
}

fn run_one(before: &dyn Prepared, after: &dyn Prepared, sample: &Sample) -> Result<One, CompareError> {
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
