//! Finds the groups of a graph: the rules of the ops, applied to a fixpoint.
use onnx_shrink_ir::Graph;

use crate::{
    prune::{
        groups::{Groups, Sizes},
        rules::Analysis,
    },
    target::{ORT_CPU, Target},
};

impl Groups {
    /// The groups of `graph`, bodies aside: what they capture is frozen. Multiply-adds are counted for the default target.
    pub fn of(graph: &Graph) -> Groups {
        Groups::on(&ORT_CPU, graph, &Sizes::default())
    }

    /// The same, with multiply-adds as `target` computes them, at `sizes` where the model leaves them open.
    pub fn on(target: &Target, graph: &Graph, sizes: &Sizes) -> Groups {
        Groups { block: target.channel_block, ..Analysis::run(graph, sizes) }
    }
}
