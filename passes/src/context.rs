//! What passes share: options, the engine, facts, the journal, and the one door to the graph.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{
    Applied, Evaluate, Graph, OpId, Patch, Tensor, ValueId,
    verify::{Problem, Violation, verify_graph},
};

use crate::{Class, Entry, Exactness, INITIALIZER, Journal, Miss, Outcome, PassError, Result, RewriteId};

/// What the user asked for, as far as passes need to know.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Passes to leave out, by name
    pub skip: BTreeSet<String>,
    /// The only passes that may run, by name; `None`: all
    pub only: Option<BTreeSet<String>>,
    /// Rewrites to leave out
    pub deny: BTreeSet<RewriteId>,
    /// Rewrites after which none is done any more: how the culprit search replays the beginning of a run
    pub limit: Option<usize>,
    /// Bytes by which one folding may make the file larger
    pub fold_growth: usize,
    /// Only rewrites whose results are bit-equal
    pub exact: bool,
    /// Verify the graph after every rewrite
    pub verify_each: bool,
}

impl Options {
    /// Whether the pass `name` may run in its form of `class`.
    pub fn allows(&self, name: &str, class: Class) -> bool {
        let is_wanted = !self.skip.contains(name) && self.only.as_ref().is_none_or(|only| only.contains(name));
        is_wanted && (class == Class::Exact || !self.exact)
    }
}

/// What batch norm tells of a value: it is near a normal distribution per channel (axis 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Mean per channel
    pub mean: Vec<f64>,
    /// Standard deviation per channel
    pub deviation: Vec<f64>,
}

/// What is called with the name of each pass that changed something, and the main graph after it.
pub type Watch<'a> = Box<dyn FnMut(&'static str, &Graph) + 'a>;

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
    /// Who looks at the graph after each pass
    pub watch: Option<Watch<'a>>,
    pub(crate) pass: (&'static str, Class),
    pub(crate) in_body: bool,
    /// What was wrong with the graph before the pass began, for `verify_each`
    pub(crate) known: Vec<Violation>,
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
            watch: None,
            pass: ("", Class::Exact),
            in_body: false,
            known: Vec::new(),
        }
    }

    /// The pass that runs, or ran last; "" before the first.
    pub fn pass(&self) -> &'static str {
        self.pass.0
    }

    /// Whether the graph that is being rewritten is a body: it numbers its ops and values itself, so that nothing that is
    /// known by [`OpId`] or `ValueId` of the main graph holds in it.
    pub fn is_in_body(&self) -> bool {
        self.in_body
    }

    /// Applies `patch`, unless its rewrite is denied, and writes it down. `None` when it was denied.
    pub fn apply(&mut self, graph: &mut Graph, patch: Patch) -> Result<Option<Applied>> {
        let pass = self.pass.0;
        let anchor = patch.anchor();
        let (label, op_type) = if graph.has_op(anchor) {
            (graph.label_of(anchor).to_owned(), graph.op(anchor).op_type().to_owned())
        } else {
            (String::new(), String::new())
        };
        if self.is_denied(&label) {
            return Ok(None);
        }
        let applied = match patch.apply(graph) {
            Ok(applied) => applied,
            Err(source) => return Err(PassError::Patch { pass, anchor: label, source }),
        };
        self.verify(graph, &label)?;
        self.write(label, op_type, Outcome::Done { removed: applied.removed, added: applied.added });
        Ok(Some(applied))
    }

    /// Removes `value`, a constant that nothing reads, unless that is denied, and writes it down. Returns whether it went.
    pub fn remove_unread(&mut self, graph: &mut Graph, value: ValueId) -> Result<bool> {
        let name = graph.name_of(value).to_owned();
        if self.is_denied(&name) || !graph.remove_unread(value) {
            return Ok(false);
        }
        self.verify(graph, &name)?;
        self.write(name, INITIALIZER.to_owned(), Outcome::Done { removed: 0, added: 0 });
        Ok(true)
    }

    /// Whether the rewrite of the running pass at `label` is to be left out.
    fn is_denied(&self, label: &str) -> bool {
        let (pass, deny) = (self.pass.0, &self.options.deny);
        let id = || RewriteId { pass, op: label.to_owned() };
        self.options.limit.is_some_and(|limit| self.journal.done() >= limit)
            || (!deny.is_empty() && deny.contains(&id()))
    }

    fn verify(&self, graph: &Graph, label: &str) -> Result<()> {
        if !self.options.verify_each {
            return Ok(());
        }
        // A body is looked at without the graph around it.
        let is_real = |violation: &&Violation| {
            !matches!(violation.problem, Problem::CaptureWithoutOutside(_)) && !self.known.contains(violation)
        };
        match verify_graph(graph).iter().find(is_real) {
            Some(violation) => {
                let (anchor, violation) = (label.to_owned(), violation.to_string());
                Err(PassError::Broken { pass: self.pass.0, anchor, violation })
            }
            None => Ok(()),
        }
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
            let reason = miss.named(graph);
            self.write(graph.label_of(op).to_owned(), graph.op(op).op_type().to_owned(), Outcome::Missed { reason });
        }
    }

    /// Writes down that the work stopped at a limit while rewrites were still done, where the last one was.
    pub(crate) fn stopped(&mut self, limit: String) {
        let Some(last) = self.journal.last_done().cloned() else { return };
        let outcome = Outcome::Missed { reason: Miss::Limit(limit) };
        self.journal.write(Entry { outcome, ..last });
    }

    fn write(&mut self, op: String, op_type: String, outcome: Outcome) {
        let (pass, class) = self.pass;
        self.journal.write(Entry { pass, class, op, op_type, outcome });
    }

    /// The outputs of `op` for constant inputs.
    pub fn evaluate(&self, graph: &Graph, op: OpId, inputs: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, Miss> {
        self.evaluator.op(graph, op, inputs).map_err(|error| Miss::NotComputed(error.to_string()))
    }
}
