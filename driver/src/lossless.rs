//! The lossless part: rewriting, proof, and the search for the rewrites that are guilty where the proof fails.
//!
//! A rewrite is named by its pass and the label of the op that it stands for. The journal of a run that failed is bisected:
//! its first k rewrites are replayed and proven (the same prefix gives the same graph), until the first one with which the
//! result is wrong is found. That one is denied, the run is repeated with all others, and so on. A pass that panics or gives
//! up without naming an op is left out as a whole.
//!
//! Where the original does not run, its [regions] are run alone; rewrites that are not proven so are left out, unless they are
//! exact by their conditions.
//!
//! **Never** keeps a result that is not proven where it can be; **never** lets the fault of one rewrite cost the others.
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use onnx_shrink_ir::{Evaluate, Model, verify};
use onnx_shrink_passes::{
    Class, Context, Entry, Exactness, Journal, Options, Outcome, PassError, Statistics, pipeline::Pipeline,
};

use crate::{
    Failure, Gates,
    dump::Dump,
    metrics::{Comparison, GateResult},
    panics,
    proof::{Compared, Proof},
    regions::{self, Regions},
    report::Culprit,
};

/// Guilty rewrites after which the search gives up: the original is written then.
const MAX_CULPRITS: usize = 16;

/// What the lossless part needs.
pub struct Lossless<'a, 'p> {
    /// The model as it was read
    pub original: &'a Model,
    /// The passes
    pub pipeline: &'a Pipeline,
    /// Their options
    pub options: &'a Options,
    /// The engine
    pub evaluator: &'a dyn Evaluate,
    /// How results are proven; `None`: the user does not want that
    pub proof: Option<&'a Proof<'p>>,
    /// What a result must hold
    pub gates: &'a Gates,
    /// Whether the model computes in 16-bit floats
    pub is_half: bool,
    /// Where texts go that show what was done
    pub dump: Option<&'a Dump>,
}

/// What came of it.
pub struct Proven {
    /// The model
    pub model: Model,
    /// Rewrites and misses; those that were found guilty are among the misses
    pub journal: Journal,
    /// What batch norms told of values
    pub statistics: BTreeMap<String, Statistics>,
    /// Steps by which Quantize/Dequantize pairs were cancelled, by what they lose
    pub cancelled: BTreeMap<Exactness, usize>,
    /// The options with which it came about: what they deny is guilty
    pub options: Options,
    /// The model against the original; `None` when nothing was rewritten or it could not be run
    pub comparison: Option<Comparison>,
    /// The gates that were judged
    pub gates: Vec<GateResult>,
    /// Rewrites that were left out because the result was wrong with them
    pub culprits: Vec<Culprit>,
    /// How it was proven where the original does not run as a whole; `None` where it does, or all rewrites are exact
    pub regions: Option<Regions>,
    /// Multiply-adds of a run, where that was too much to check rewrites that are all exact
    pub not_run: Option<u64>,
}

/// One run of the passes.
struct Attempt {
    model: Model,
    journal: Journal,
    statistics: BTreeMap<String, Statistics>,
    cancelled: BTreeMap<Exactness, usize>,
    verdict: Verdict,
}

enum Verdict {
    /// All is well, as far as it can be told
    Good(Option<Comparison>, Vec<GateResult>),
    /// All rewrites are equal to the bit by their conditions, and a run would take so many multiply-adds
    ByConditions(u64),
    /// The result is wrong
    Wrong(String),
    /// A pass gave up, at this op if it is known
    Broke { pass: &'static str, op: Option<String>, reason: String },
    /// The original does not run: what its regions told
    ByRegion(Regions),
}

impl Lossless<'_, '_> {
    /// Rewrites the model and proves it.
    pub fn run(&self) -> Result<Proven, Failure> {
        let mut options = self.options.clone();
        let mut culprits: Vec<Culprit> = Vec::new();
        let mut taken_back: Vec<regions::Open> = Vec::new();
        loop {
            if let Some(dump) = self.dump {
                dump.restart();
            }
            let Attempt { model, mut journal, statistics, cancelled, verdict } = self.attempt(&options, true)?;
            let mut not_run = None;
            let (comparison, gates, regions) = match verdict {
                Verdict::Good(comparison, gates) => (comparison, gates, None),
                Verdict::ByConditions(work) => {
                    not_run = Some(work);
                    (None, Vec::new(), None)
                }
                Verdict::ByRegion(mut found) => match regions::denied(&found, &journal) {
                    Some(denied) if denied.is_empty() => {
                        found.open = std::mem::take(&mut taken_back);
                        (None, Vec::new(), Some(found))
                    }
                    Some(denied) if denied.iter().any(|rewrite| !options.deny.contains(rewrite)) => {
                        options.deny.extend(denied);
                        taken_back.append(&mut found.open);
                        continue;
                    }
                    _ => {
                        options.exact = true;
                        continue;
                    }
                },
                Verdict::Broke { pass, op, reason } => {
                    let guilty = (self.named(&journal, pass, op), None);
                    match self.leave_out(guilty, reason, &mut options, &mut culprits)? {
                        Some(reason) => return self.give_up(culprits, &reason),
                        None => continue,
                    }
                }
                Verdict::Wrong(reason) => {
                    let (place, entry) = self.bisect(&options, &journal)?;
                    match self.leave_out((entry, Some(place)), reason, &mut options, &mut culprits)? {
                        Some(reason) => return self.give_up(culprits, &reason),
                        None => continue,
                    }
                }
            };
            culprits.iter().for_each(|culprit| journal.write(culprit.as_entry()));
            return Ok(Proven {
                model,
                journal,
                statistics,
                cancelled,
                options,
                comparison,
                gates,
                culprits,
                regions,
                not_run,
            });
        }
    }

    /// Leaves the guilty rewrite (and its place in the journal, where that is known) out of later attempts, or its whole pass;
    /// `reason` again when that is of no use any more.
    fn leave_out(
        &self,
        (guilty, at): (Entry, Option<usize>),
        reason: String,
        options: &mut Options,
        culprits: &mut Vec<Culprit>,
    ) -> Result<Option<String>, Failure> {
        if culprits.len() == MAX_CULPRITS {
            return Ok(Some(reason));
        }
        let dumped = match (self.dump, at) {
            (Some(dump), Some(place)) => self.dump_culprit(dump, options, place, &guilty, culprits.len() + 1)?,
            _ => None,
        };
        // The same name again: several ops are called alike, or it names none. Then the pass goes as a whole.
        let is_new = !guilty.op.is_empty() && options.deny.insert(guilty.id());
        if !is_new && !options.skip.insert(guilty.pass.to_owned()) {
            return Ok(Some(reason));
        }
        let culprit = Culprit::new(&guilty, !is_new, reason, dumped);
        log::info!("{}", culprit.sentence()); // the report warns
        culprits.push(culprit);
        Ok(None)
    }

    /// The rewrite of `pass` at `op`, or of all that it does, as a line of the journal.
    fn named(&self, journal: &Journal, pass: &'static str, op: Option<String>) -> Entry {
        let class = self.pipeline.class_of(pass);
        let outcome = Outcome::Done { removed: 0, added: 0 };
        let Some(op) = op else {
            return Entry { pass, class, op: String::new(), op_type: String::new(), outcome };
        };
        let known = journal.entries.iter().find(|entry| entry.op == op).map(|entry| entry.op_type.clone());
        // (The op may be one that the pass made.)
        let op_type = known.or_else(|| op_type_of(self.original, &op)).unwrap_or_else(|| "?".to_owned());
        Entry { pass, class, op, op_type, outcome }
    }

    /// The original, when too much is wrong.
    fn give_up(&self, culprits: Vec<Culprit>, reason: &str) -> Result<Proven, Failure> {
        log::warn!("all lossless rewrites are left out: {} were guilty, and still {reason}", culprits.len());
        let mut journal = Journal::default();
        culprits.iter().for_each(|culprit| journal.write(culprit.as_entry()));
        Ok(Proven {
            model: self.original.detached(),
            journal,
            statistics: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            options: self.options.clone(),
            comparison: None,
            gates: Vec::new(),
            culprits,
            regions: None,
            not_run: None,
        })
    }

    /// The passes under `options` once, and what is to be said of the result. Only a `whole` run is watched.
    fn attempt(&self, options: &Options, whole: bool) -> Result<Attempt, Failure> {
        let mut model = self.original.detached();
        let mut cx = Context::new(options.clone(), self.evaluator);
        if let (Some(dump), true) = (self.dump, whole) {
            cx.watch = Some(Box::new(move |pass, graph| dump.after_pass(pass, graph)));
        }
        let ran = catch_unwind(AssertUnwindSafe(|| self.pipeline.run(&mut model.graph, &mut cx)));
        let broke = match ran {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((error_place(&error), error.to_string())),
            Err(payload) => Some((None, panics::text_of(payload.as_ref()))),
        };
        let pass = cx.pass();
        let (journal, statistics) = (std::mem::take(&mut cx.journal), std::mem::take(&mut cx.statistics));
        let cancelled = std::mem::take(&mut cx.cancelled);
        drop(cx);
        let verdict = match broke {
            Some((op, reason)) => Verdict::Broke { pass, op, reason },
            None if journal.done() == 0 => Verdict::Good(None, Vec::new()),
            None => self.judge(&model, options, &journal)?,
        };
        Ok(Attempt { model, journal, statistics, cancelled, verdict })
    }

    fn judge(&self, model: &Model, options: &Options, journal: &Journal) -> Result<Verdict, Failure> {
        if let Some(violation) = verify::new_violations(self.original, model).first() {
            return Ok(Verdict::Wrong(format!("the graph is broken: {violation}")));
        }
        let Some(proof) = self.proof else { return Ok(Verdict::Good(None, Vec::new())) };
        let is_exact = journal.entries.iter().filter(|entry| entry.is_done()).all(|entry| entry.class == Class::Exact);
        if is_exact
            && self.gates.not_among(&[]).is_empty()
            && let Some(work) = proof.too_much_for_exact()
        {
            return Ok(Verdict::ByConditions(work));
        }
        Ok(match proof.compare(&model.graph)? {
            Compared::Done(comparison) => {
                let gates = self.gates.lossless(&comparison, self.is_half);
                match gates.iter().find(|gate| !gate.passed) {
                    Some(failed) => Verdict::Wrong(failed.reason.clone()),
                    None => Verdict::Good(Some(comparison), gates),
                }
            }
            Compared::Fails(reason) => Verdict::Wrong(reason),
            Compared::Unproven if options.exact => Verdict::Good(None, Vec::new()),
            Compared::Unproven => {
                let judge = |comparison: &Comparison| {
                    let gates = self.gates.lossless(comparison, self.is_half);
                    gates.into_iter().find(|gate| !gate.passed).map(|gate| gate.reason)
                };
                let (before, after) = (&self.original.graph, &model.graph);
                Verdict::ByRegion(regions::prove(self.evaluator, before, after, &judge)?)
            }
        })
    }

    /// The first rewrite of the failed run `journal` with which the result is wrong: its place from 1, and its line.
    fn bisect(&self, options: &Options, journal: &Journal) -> Result<(usize, Entry), Failure> {
        let (mut good, mut wrong) = (0, journal.done());
        while wrong - good > 1 {
            let middle = good + (wrong - good) / 2;
            let attempt = self.attempt(&Options { limit: Some(middle), ..options.clone() }, false)?;
            match attempt.verdict {
                Verdict::Good(..) | Verdict::ByConditions(_) | Verdict::ByRegion(..) => good = middle,
                _ => wrong = middle,
            }
        }
        let done = journal.entries.iter().filter(|entry| entry.is_done()).nth(wrong - 1);
        match done {
            Some(entry) => Ok((wrong, entry.clone())),
            None => Err(Failure::bug(anyhow::anyhow!("a result without rewrites is wrong"))),
        }
    }

    /// Writes the graph around the guilty rewrite as it was before it and after.
    fn dump_culprit(
        &self,
        dump: &Dump,
        options: &Options,
        place: usize,
        guilty: &Entry,
        number: usize,
    ) -> Result<Option<String>, Failure> {
        let replay = |limit| self.attempt(&Options { limit: Some(limit), ..options.clone() }, false);
        let (before, after) = (replay(place - 1)?.model, replay(place)?.model);
        Ok(dump.culprit(number, guilty, &before, &after))
    }
}

/// The op that a pass was at when it gave up.
fn error_place(error: &PassError) -> Option<String> {
    match error {
        PassError::Patch { anchor, .. } | PassError::Broken { anchor, .. } if !anchor.is_empty() => {
            Some(anchor.clone())
        }
        _ => None,
    }
}

/// The type of the op of the main graph that is called `label`.
fn op_type_of(model: &Model, label: &str) -> Option<String> {
    let graph = &model.graph;
    let op = graph.ops_in_id_order().into_iter().find(|op| graph.label_of(*op) == label)?;
    Some(graph.op(op).op_type().to_owned())
}
