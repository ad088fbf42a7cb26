//! What became of the model's structure: channels that were pruned, layers that were split.
use std::fmt;

use onnx_shrink_passes::{Miss, Named};
use serde::{Serialize, Serializer};

use crate::metrics::Comparison;

/// A layer before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrunedLayer {
    /// The op's name, or that of its output
    pub name: String,
    /// The op's type
    pub op: String,
    /// Dimensions of its weights before
    pub weights_before: Vec<usize>,
    /// And after
    pub weights_after: Vec<usize>,
    /// Multiply-adds for a batch of one, before
    pub macs_before: f64,
    /// And after
    pub macs_after: f64,
    /// Bytes of its weights before
    pub bytes_before: usize,
    /// And after
    pub bytes_after: usize,
    /// Relative squared error of what it is to give, on samples that were not fitted, with the weights that were left;
    /// `None` where it was not solved for
    pub error_before: Option<f64>,
    /// And with the new ones
    pub error: Option<f64>,
}

/// What pruning did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Structure {
    /// Share of the multiply-adds that was asked for
    pub asked: f64,
    /// Share that went, of the weights that are left
    pub removed: f64,
    /// Groups of channels that lost some
    pub groups: usize,
    /// Branches of two convolutions that became one, solved for
    pub branches: usize,
    /// Convolutions that do with a row, a column or a point of their kernels
    pub kernels: usize,
    /// Samples that were fitted
    pub samples: usize,
    /// Layers with weights, in the order of the graph
    pub layers: Vec<PrunedLayer>,
    /// The result against the original; `None` when it was not run
    pub comparison: Option<Comparison>,
}

/// What became of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitLayer {
    /// The op's name, or that of its output
    pub name: String,
    /// The op's type
    pub op: String,
    /// The largest rank that its weight can have
    pub full_rank: usize,
    /// The rank that it was split at; `None`: it was not
    pub rank: Option<usize>,
    /// Numbers in its weight before: as many multiply-adds for each row of its input
    pub weights_before: usize,
    /// And after, in both factors, as they stand in the new model
    pub weights_after: usize,
    /// Bytes of its weight before
    pub bytes_before: usize,
    /// And after, of both factors
    pub bytes_after: usize,
    /// Share of the energy of its outputs that is lost; `None` when it was not split
    pub lost: Option<f64>,
    /// Why it was not split
    pub reason: Option<Unsplit>,
}

/// Why a fully connected layer was not split.
#[derive(Clone, Debug, PartialEq)]
pub enum Unsplit {
    /// A condition of the rewrite failed
    Missed(Miss<Named>),
    /// Its weight or its outputs are not finite
    NotFinite,
    /// The rewrite was left out
    LeftOut,
    /// Its weight has fewer numbers than this
    Small {
        /// Numbers that a weight must have
        least: usize,
    },
    /// No sample shows what it does
    Unseen,
    /// No rank is near enough, or worth its error
    NoRank {
        /// Ranks below this were tried
        below: f64,
        /// That as a share of the break-even rank
        share: f64,
    },
    /// The rank asked for would not save bytes
    RankTooHigh {
        /// The rank from which on two factors take more numbers than one weight
        break_even: f64,
    },
}

impl fmt::Display for Unsplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsplit::Missed(miss) => write!(f, "{miss}"),
            Unsplit::NotFinite => f.write_str("its weight or its outputs are not finite"),
            Unsplit::LeftOut => f.write_str("the rewrite was left out"),
            Unsplit::Small { least } => write!(f, "its weight has fewer than {least} numbers"),
            Unsplit::Unseen => {
                f.write_str("no sample shows what it does: nothing tells which of its outputs matter; more samples may")
            }
            Unsplit::NoRank { below, share } => write!(
                f,
                "no rank below {below:.0} ({:.0} % of its break-even rank) is near enough, or worth its error",
                100.0 * share
            ),
            Unsplit::RankTooHigh { break_even } => {
                write!(
                    f,
                    "the rank asked for is not below its break-even rank of {break_even:.1}: bytes would not fall"
                )
            }
        }
    }
}

/// As its sentence.
impl Serialize for Unsplit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
