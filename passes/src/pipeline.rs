//! Which passes run, in which order, and why in that order.
use std::collections::BTreeSet;

use onnx_shrink_ir::Graph;

use crate::{
    Context, DropConstantChannels, EliminateDead, EliminateIdentity, FoldArithmetic, FoldBatchNorm, FoldConstants,
    FoldPad, FuseGlobalAveragePool, InlineIf, Pass, Result, SimplifyIslands,
};

/// The passes of the lossless part. They run in this order, again and again until nothing changes.
pub fn lossless() -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(FoldConstants::exact()),
        Box::new(FoldConstants::rounding()), // before all that wants constant weights
        Box::new(InlineIf),
        Box::new(EliminateIdentity), // before all that looks at producers
        Box::new(FoldBatchNorm),
        Box::new(FoldArithmetic),
        Box::new(FoldPad),
        Box::new(FuseGlobalAveragePool),
        Box::new(DropConstantChannels), // after folding: a channel is its weights and bias then
        Box::new(SimplifyIslands::exact()), // after folding: its rules look at constants
        Box::new(SimplifyIslands::rounding()), // what is left when rounding may differ
        Box::new(EliminateDead),        // last: it clears what the others left
    ]
}

/// Rounds after which the lossless part ends even if something still changes.
const ROUNDS: usize = 8;

/// Runs the lossless passes on `graph` to a fixpoint.
pub fn run_lossless(graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
    let passes = lossless();
    for _ in 0..ROUNDS {
        // What the last round folded may tell shapes that were not known before.
        onnx_shrink_ir::infer::infer(graph);
        let before = cx.journal.done();
        for pass in &passes {
            cx.run(pass.as_ref(), graph)?;
        }
        if cx.journal.done() == before {
            break;
        }
    }
    Ok(())
}

/// Names of all passes that a user can leave out.
pub fn names() -> BTreeSet<&'static str> {
    let mut names: BTreeSet<&'static str> = lossless().iter().map(|pass| pass.name()).collect();
    names.extend(["insert-qdq", "store-int8"]);
    names
}
