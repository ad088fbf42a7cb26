//! The form of a pass.
use onnx_shrink_ir::{Graph, OpId, Patch, verify::verify_graph};

use crate::{Class, Context, Miss, Result};

/// When a pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In every run, to a fixpoint
    Lossless,
    /// Behind the lossless part, on this request
    Requested(&'static str),
}

/// What a user may know of a pass. It stands beside the pass, and in [`registry`](crate::registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The file's name with dashes, and the command line's: "fold-batch-norm"
    pub name: &'static str,
    /// What it may do to values; the least exact class of a pass that runs in several
    pub class: Class,
    /// What it does, in one line without a full stop
    pub about: &'static str,
    /// When it runs
    pub when: When,
}

/// A rewrite of a whole graph.
pub trait Pass: Sync {
    /// What a user may know of it.
    fn description(&self) -> &'static Description;

    /// Its name.
    fn name(&self) -> &'static str {
        self.description().name
    }

    /// What it may do to values in this form.
    fn class(&self) -> Class {
        self.description().class
    }

    /// Rewrites `graph`, not its bodies: the pipeline calls it for each of those.
    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()>;
}

/// A pass that looks at ops one after the other: each is the anchor of a patch, or of a miss.
pub trait Rewrite: Sync {
    /// What a user may know of it.
    fn description(&self) -> &'static Description;

    /// What it may do to values in this form.
    fn class(&self) -> Class {
        self.description().class
    }

    /// The ops to look at, in this order; those that an earlier patch removed are passed over.
    fn anchors(&self, graph: &Graph) -> Vec<OpId> {
        graph.ops()
    }

    /// The edits that stand for `op`, or why there are none.
    fn rewrite(&self, graph: &Graph, op: OpId, cx: &Context<'_>) -> Result<Patch, Miss>;
}

impl<R: Rewrite> Pass for R {
    fn description(&self) -> &'static Description {
        Rewrite::description(self)
    }

    fn class(&self) -> Class {
        Rewrite::class(self)
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        for op in self.anchors(graph) {
            if !graph.has_op(op) {
                continue;
            }
            match self.rewrite(graph, op, cx) {
                Ok(patch) => {
                    cx.apply(graph, patch)?;
                }
                Err(miss) => cx.missed(graph, op, &miss),
            }
        }
        Ok(())
    }
}

impl Context<'_> {
    /// Runs `pass` on `graph` and all bodies in it, unless the user left it out.
    pub fn run(&mut self, pass: &dyn Pass, graph: &mut Graph) -> Result<()> {
        if !self.options.allows(pass.name(), pass.class()) {
            return Ok(());
        }
        self.pass = (pass.name(), pass.class());
        let (done, lines) = (self.journal.done(), self.journal.entries.len());
        self.run_everywhere(pass, graph)?;
        let done = self.journal.done() - done;
        let missed = self.journal.entries.len() - lines - done;
        log::info!("{}: {done} rewrites, {missed} not done", pass.name());
        if done > 0
            && let Some(watch) = &mut self.watch
        {
            watch(pass.name(), graph);
        }
        Ok(())
    }

    fn run_everywhere(&mut self, pass: &dyn Pass, graph: &mut Graph) -> Result<()> {
        let outside = self.in_body;
        self.in_body = true;
        for op in graph.ops_in_id_order() {
            for region in 0..graph.op(op).regions().len() {
                if let Some(body) = graph.region_mut(op, region) {
                    self.run_everywhere(pass, body)?;
                }
            }
        }
        self.in_body = outside;
        if self.options.verify_each {
            self.known = verify_graph(graph);
        }
        pass.run(graph, self)
    }
}
