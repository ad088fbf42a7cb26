//! The journal: every rewrite and every miss, in order. It becomes the report, `--explain` and the deny-set.
use serde::Serialize;

use crate::Class;

/// What became of a possible rewrite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
        /// One sentence
        reason: String,
    },
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The pass
    pub pass: &'static str,
    /// What the pass may do to values
    pub class: Class,
    /// The op that the rewrite stands for
    pub op: String,
    /// Its type
    pub op_type: String,
    /// What became of it
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// All lines.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// In the order in which they were written
    pub entries: Vec<Entry>,
}

impl Journal {
    /// Number of rewrites done.
    pub fn done(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.outcome, Outcome::Done { .. })).count()
    }

    /// Number of rewrites of `pass` done.
    pub fn done_by(&self, pass: &str) -> usize {
        let done = |entry: &&Entry| entry.pass == pass && matches!(entry.outcome, Outcome::Done { .. });
        self.entries.iter().filter(done).count()
    }
}
