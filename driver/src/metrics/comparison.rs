//! How far a model is from the original, and why that could not be told.
use std::fmt;

use onnx_shrink_ir::EvaluateError;
use serde::Serialize;

use super::{accuracy::Accuracy, sums::OutputMetrics};
use crate::samples::SampleError;

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
