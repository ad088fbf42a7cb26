//! What became of the model's structure: channels that were pruned, layers that were split.
use serde::Serialize;

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
    pub reason: Option<String>,
}
