//! Which passes run, in which order, and why in that order.
use onnx_shrink_ir::Graph;

use crate::{
    Class, Context, DropConstantChannels, EliminateDead, EliminateIdentity, FoldArithmetic, FoldBatchNorm,
    FoldConstants, FoldNeg, FoldPad, FuseGelu, FuseGlobalAveragePool, FuseHardSigmoid, FuseInstanceNormalization,
    FuseLayerNormalization, FuseRmsNormalization, FuseSoftmax, InlineIf, MergeEqualOps, Pass, Result, SimplifyIslands,
};

/// The passes of the lossless part. They run in this order, again and again until nothing changes.
pub fn lossless() -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(FoldConstants::exact()),
        Box::new(FoldConstants::rounding()), // before all that wants constant weights
        Box::new(InlineIf),
        Box::new(EliminateIdentity), // before all that looks at producers
        Box::new(MergeEqualOps),     // behind it: ops that read the same value have the same inputs now
        Box::new(FuseInstanceNormalization),
        Box::new(FuseLayerNormalization),
        Box::new(FuseRmsNormalization),
        Box::new(FuseSoftmax),
        Box::new(FuseGelu),
        Box::new(FuseHardSigmoid), // before folding into layers: its summand is worth more here
        Box::new(FoldBatchNorm),
        Box::new(FoldArithmetic),
        Box::new(FoldNeg),
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

/// The passes of the lossless part of one run.
pub struct Pipeline {
    passes: Vec<Box<dyn Pass>>,
    /// Whether the passes run until nothing changes, or once
    to_fixpoint: bool,
    stop_after: Option<String>,
}

impl Default for Pipeline {
    /// [`lossless`], to a fixpoint.
    fn default() -> Pipeline {
        Pipeline::of(lossless())
    }
}

impl Pipeline {
    /// `passes` in this order, to a fixpoint.
    pub fn of(passes: Vec<Box<dyn Pass>>) -> Pipeline {
        Pipeline { passes, to_fixpoint: true, stop_after: None }
    }

    /// The passes with these names, in this order, once. A pass that comes once per class runs in all of its classes.
    /// The error is a name that no lossless pass has.
    pub fn named(names: &[String]) -> Result<Pipeline, String> {
        let mut passes: Vec<Box<dyn Pass>> = Vec::new();
        for name in names {
            let before = passes.len();
            passes.extend(lossless().into_iter().filter(|pass| pass.name() == name));
            if passes.len() == before {
                return Err(name.clone());
            }
        }
        Ok(Pipeline { passes, to_fixpoint: false, stop_after: None })
    }

    /// With `pass` behind the others.
    #[must_use]
    pub fn and(mut self, pass: Box<dyn Pass>) -> Pipeline {
        self.passes.push(pass);
        self
    }

    /// Ends when the pass `name` has run for the first time.
    #[must_use]
    pub fn stop_after(mut self, name: &str) -> Pipeline {
        self.stop_after = Some(name.to_owned());
        self
    }

    /// The class of the pass `name`; the least exact one where it comes once per class.
    pub fn class_of(&self, name: &str) -> Class {
        let named = self.passes.iter().filter(|pass| pass.name() == name).map(|pass| pass.class());
        named.max().unwrap_or(Class::Exact)
    }

    /// Runs the passes on `graph`.
    pub fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let rounds = if self.to_fixpoint { ROUNDS } else { 1 };
        let last = self.stop_after.as_ref().and_then(|name| self.passes.iter().rposition(|pass| pass.name() == name));
        for _ in 0..rounds {
            // What the last round folded may tell shapes that were not known before.
            onnx_shrink_ir::infer::infer(graph);
            let before = cx.journal.done();
            for (place, pass) in self.passes.iter().enumerate() {
                cx.run(pass.as_ref(), graph)?;
                if last == Some(place) {
                    return Ok(());
                }
            }
            if cx.journal.done() == before {
                return Ok(());
            }
        }
        if self.to_fixpoint {
            cx.stopped(graph, format!("after {ROUNDS} rounds of all passes there was still something to do"));
        }
        Ok(())
    }
}

/// Runs the lossless passes on `graph` to a fixpoint.
pub fn run_lossless(graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
    Pipeline::default().run(graph, cx)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Graph, NewOp, Patch};

    use super::Pipeline;
    use crate::{
        Class, Context, Description, Options, Pass, Result, When,
        testing::{Reference, parse},
    };

    const MODEL: &str = "g (float[2] x) => (float[2] y) { t = Identity (x)  u = Relu (t)  y = Relu (u) }";

    fn run(pipeline: &Pipeline, model: &str) -> Vec<(&'static str, String)> {
        let mut graph = parse(model).graph;
        let mut cx = Context::new(Options::default(), &Reference);
        pipeline.run(&mut graph, &mut cx).unwrap();
        cx.journal.entries.into_iter().map(|entry| (entry.pass, format!("{:?}", entry.outcome))).collect()
    }

    #[test]
    fn named_passes_run_alone_and_a_run_can_end_early() {
        let passes = |pipeline: &Pipeline| run(pipeline, MODEL).into_iter().map(|line| line.0).collect::<Vec<_>>();
        assert_eq!(passes(&Pipeline::default()), ["eliminate-identity", "simplify-islands"]);
        assert_eq!(passes(&Pipeline::named(&["simplify-islands".to_owned()]).unwrap()), ["simplify-islands"]);
        assert_eq!(passes(&Pipeline::default().stop_after("eliminate-identity")), ["eliminate-identity"]);
        assert_eq!(Pipeline::named(&["no-such".to_owned()]).err().as_deref(), Some("no-such"));
    }

    /// Puts another Neg behind the first op, each time.
    struct Restless;

    impl Pass for Restless {
        fn description(&self) -> &'static Description {
            const { &Description { name: "restless", class: Class::Exact, about: "", when: When::Lossless } }
        }

        fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
            let op = graph.ops()[0];
            let value = graph.op(op).output(0).unwrap();
            let mut patch = Patch::new(op);
            let new = patch.op(NewOp::new("Neg"), &[Some(value.into())], "n", graph.ty(value).cloned());
            patch.replace(value, new);
            cx.apply(graph, patch).map(|_| ())
        }
    }

    #[test]
    fn a_run_that_does_not_come_to_an_end_is_a_miss() {
        let lines = run(&Pipeline::of(vec![Box::new(Restless)]), MODEL);
        assert_eq!(lines.len(), 9);
        assert!(lines[8].1.contains("a limit was met: after 8 rounds"), "{lines:?}");
    }
}
