//! What passes share: options, the engine, facts, the journal, and the one door to the graph.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{
    Applied, Evaluate, Graph, OpId, Patch, Tensor,
    verify::{Problem, Violation, verify_graph},
};

use crate::{Class, Entry, Journal, Miss, Outcome, Pass, PassError, Result, quantize::Exactness};

/// What the user asked for, as far as passes need to know.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Passes to leave out, by name
    pub skip: BTreeSet<String>,
    /// Rewrites to leave out: (pass, label of the anchor op)
    pub deny: BTreeSet<(String, String)>,
    /// Bytes by which one folding may make the file larger
    pub fold_growth: usize,
    /// Only rewrites whose results are bit-equal
    pub exact: bool,
    /// Verify the graph after every rewrite
    pub verify_each: bool,
}

/// What batch norm tells of a value: it is near a normal distribution per channel (axis 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Mean per channel
    pub mean: Vec<f64>,
    /// Standard deviation per channel
    pub deviation: Vec<f64>,
}

/// What passes share.
pub struct Context<'a> {
    /// What the user asked for
    pub options: Options,
    /// The engine
    pub evaluator: &'a dyn Evaluate,
    /// What batch norms told of values, by the value's name
    pub statistics: BTreeMap<String, Statistics>,
    /// Steps of cancelled Quantize/Dequantize pairs, by what they lose
    pub cancelled: BTreeMap<Exactness, usize>,
    /// Every rewrite and every miss
    pub journal: Journal,
    pass: (&'static str, Class),
    in_body: bool,
}

impl<'a> Context<'a> {
    /// A context that asks `evaluator`.
    pub fn new(options: Options, evaluator: &'a dyn Evaluate) -> Context<'a> {
        Context {
            options,
            evaluator,
            statistics: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            journal: Journal::default(),
            pass: ("", Class::Exact),
            in_body: false,
        }
    }

    /// Runs `pass` on `graph` and all bodies in it, unless the user left it out.
    pub fn run(&mut self, pass: &dyn Pass, graph: &mut Graph) -> Result<()> {
        let unwanted = self.options.exact && pass.class() != Class::Exact;
        if unwanted || self.options.skip.contains(pass.name()) {
            return Ok(());
        }
        self.pass = (pass.name(), pass.class());
        self.run_everywhere(pass, graph)
    }

    /// Whether the graph that is being rewritten is a body: it numbers its ops and values itself, so that nothing that is
    /// known by [`OpId`] or `ValueId` of the main graph holds in it.
    pub fn is_in_body(&self) -> bool {
        self.in_body
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
        pass.run(graph, self)
    }

    /// Applies `patch`, unless its rewrite is denied, and writes it down. `None` when it was denied.
    pub fn apply(&mut self, graph: &mut Graph, patch: Patch) -> Result<Option<Applied>> {
        let (pass, _) = self.pass;
        let anchor = patch.anchor();
        let (label, op_type) = if graph.has_op(anchor) {
            (graph.label_of(anchor).to_owned(), graph.op(anchor).op_type().to_owned())
        } else {
            (String::new(), String::new())
        };
        if self.options.deny.contains(&(pass.to_owned(), label.clone())) {
            return Ok(None);
        }
        let before = graph.op_count();
        let applied = patch.apply(graph).map_err(|source| PassError::Patch { pass, source })?;
        if self.options.verify_each {
            // A body is looked at without the graph around it.
            let is_real = |violation: &&Violation| !matches!(violation.problem, Problem::CaptureWithoutOutside(_));
            if let Some(violation) = verify_graph(graph).iter().find(is_real) {
                return Err(PassError::Broken { pass, anchor: label, violation: violation.to_string() });
            }
        }
        let added = (graph.op_count() + applied.removed).saturating_sub(before);
        self.write(label, op_type, Outcome::Done { removed: applied.removed, added });
        Ok(Some(applied))
    }

    /// Counts `steps` by which pairs were cancelled.
    pub(crate) fn count_step(&mut self, exactness: Exactness, steps: usize) {
        if steps > 0 {
            *self.cancelled.entry(exactness).or_default() += steps;
        }
    }

    /// Writes down that the rewrite of `op` was not done.
    pub fn missed(&mut self, graph: &Graph, op: OpId, miss: &Miss) {
        if miss.is_worth_reporting() {
            let reason = miss.sentence(graph);
            self.write(graph.label_of(op).to_owned(), graph.op(op).op_type().to_owned(), Outcome::Missed { reason });
        }
    }

    fn write(&mut self, op: String, op_type: String, outcome: Outcome) {
        let (pass, class) = self.pass;
        let entry = Entry { pass, class, op, op_type, outcome };
        // A pass that runs to a fixpoint meets the same miss again.
        let known = matches!(entry.outcome, Outcome::Missed { .. }) && self.journal.entries.contains(&entry);
        if !known {
            log::debug!("{entry:?}");
            self.journal.entries.push(entry);
        }
    }

    /// The outputs of `op` for constant inputs.
    pub fn evaluate(&self, graph: &Graph, op: OpId, inputs: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, Miss> {
        self.evaluator.op(graph, op, inputs).map_err(|error| Miss::NotComputed(error.to_string()))
    }
}
