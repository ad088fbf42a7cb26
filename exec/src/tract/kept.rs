//! Built ops that several graphs share: an original and what was made of it have most of their ops in common.
//!
//! **Never** changes a result: an op is taken again only for the same type, attributes, input types and constant values.
//! **Never** holds more than [`LIMIT`] bytes of constants beyond those of the graphs that are alive.
use std::sync::{Arc, Mutex, PoisonError};

use super::build::Built;

/// Bytes of constants that are kept for graphs to come.
const LIMIT: usize = 12 << 20;

/// Ops that are kept, at most: they are looked through one by one.
const MOST: usize = 4096;

/// What an engine keeps of the ops that it built, the one last used at the end.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Vec<Arc<Built>>>);

impl Kept {
    /// An op that `is` what is wanted.
    pub(super) fn find(&self, is: impl Fn(&Built) -> bool) -> Option<Arc<Built>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rposition(|built| is(built))?;
        let built = kept.remove(found);
        kept.push(built.clone());
        Some(built)
    }

    /// Keeps `built`; what was not used for longest goes.
    pub(super) fn put(&self, built: &Arc<Built>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(built.clone());
        let (mut bytes, mut first) = (0usize, kept.len());
        while first > 0 && kept.len() - first < MOST && bytes + kept[first - 1].bytes() <= LIMIT {
            first -= 1;
            bytes += kept[first].bytes();
        }
        kept.drain(..first);
    }
}
