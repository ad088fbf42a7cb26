//! The journal: every rewrite and every miss, in order. It becomes the report, `--explain` and the deny-set.
use std::collections::HashSet;

use serde::Serialize;

use crate::{
    Class,
    miss::{Miss, Named},
};

/// What became of a possible rewrite.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// It was done
    Done {
        /// Ops that it removed
        removed: usize,
        /// Ops that it added
        added: usize,
    },
    /// It was not done, for this reason
    Missed {
        /// Why
        reason: Miss<Named>,
    },
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Entry {
    /// The pass
    pub pass: &'static str,
    /// What the pass may do to values
    pub class: Class,
    /// The op that the rewrite stands for
    pub op: String,
    /// Its type; [`INITIALIZER`] when the rewrite stands for a constant that nothing reads
    pub op_type: String,
    /// What became of it
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Names a rewrite across runs: the pass, and the label of the op that it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RewriteId {
    /// The pass
    pub pass: &'static str,
    /// The op's name, or that of its output; for a constant that nothing reads its own
    pub op: String,
}

impl Entry {
    /// The rewrite's id.
    pub fn id(&self) -> RewriteId {
        RewriteId { pass: self.pass, op: self.op.clone() }
    }

    /// Why the rewrite was not done; `None` when it was.
    pub fn missed(&self) -> Option<&Miss<Named>> {
        match &self.outcome {
            Outcome::Missed { reason } => Some(reason),
            Outcome::Done { .. } => None,
        }
    }

    /// Whether the rewrite was done.
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done { .. })
    }
}

/// What stands for the op type of a constant.
pub const INITIALIZER: &str = "initializer";

/// All lines.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// In the order in which they were written
    pub entries: Vec<Entry>,
    done: usize,
    missed: HashSet<Entry>,
}

impl Journal {
    /// One more line; a miss that is known already is left out (a pass that runs to a fixpoint meets it again).
    pub fn write(&mut self, entry: Entry) {
        match entry.outcome {
            Outcome::Done { .. } => self.done += 1,
            Outcome::Missed { .. } if !self.missed.insert(entry.clone()) => return,
            Outcome::Missed { .. } => {}
        }
        log::debug!("{entry:?}");
        self.entries.push(entry);
    }

    /// Number of rewrites done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Number of rewrites of `pass` done.
    pub fn done_by(&self, pass: &str) -> usize {
        self.entries.iter().filter(|entry| entry.pass == pass && entry.is_done()).count()
    }

    /// The last rewrite that was done.
    pub fn last_done(&self) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.is_done())
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Journal, Outcome};
    use crate::{Class, Miss};

    #[test]
    fn a_miss_is_written_once_and_a_rewrite_each_time() {
        let entry = |outcome| Entry { pass: "p", class: Class::Exact, op: "a".into(), op_type: "Neg".into(), outcome };
        let missed = || entry(Outcome::Missed { reason: Miss::Quantized });
        let done = || entry(Outcome::Done { removed: 1, added: 0 });
        let mut journal = Journal::default();
        for line in [missed(), done(), missed(), done()] {
            journal.write(line);
        }
        assert_eq!(journal.entries, [missed(), done(), done()]);
        assert_eq!((journal.done(), journal.done_by("p"), journal.done_by("q")), (2, 2, 0));
    }
}
