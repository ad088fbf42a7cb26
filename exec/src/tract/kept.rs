//! Built ops that several graphs share: an original and what was made of it have most of their ops in common.
//!
//! **Never** changes a result: an op is taken again only for the same type, attributes, input types and constant values;
//! its [mark](Mark) only says where to look. **Never** holds more than [`LIMIT`] bytes of constants beyond those of the graphs
//! that are alive.
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use onnx_shrink_ir::Tensor;

use super::build::Built;

/// Bytes of constants that are kept for graphs to come.
const LIMIT: usize = 12 << 20;

/// Ops that are kept, at most.
const MOST: usize = 1 << 14;

/// Bytes at either end of a tensor that its mark is made of.
const ENDS: usize = 256;

/// A hash of what an op is. Equal ops have equal ones; others seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mark(u64);

impl Mark {
    /// The mark of an op of this type with these inputs.
    pub(super) fn of<'a>(op_type: &str, tensors: impl Iterator<Item = (&'a [usize], Option<&'a Tensor>)>) -> Mark {
        let mut hasher = DefaultHasher::new();
        op_type.hash(&mut hasher);
        for (dims, constant) in tensors {
            dims.hash(&mut hasher);
            let bytes = constant.and_then(Tensor::bytes).map_or(&[][..], |bytes| bytes.as_ref());
            bytes[..bytes.len().min(ENDS)].hash(&mut hasher);
            bytes[bytes.len().saturating_sub(ENDS)..].hash(&mut hasher);
        }
        Mark(hasher.finish())
    }
}

/// What an engine keeps of the ops that it built.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Ops>);

#[derive(Debug, Default)]
struct Ops {
    /// By when they were last used
    ops: BTreeMap<u64, (Mark, Arc<Built>)>,
    /// When those of one mark were last used
    times: HashMap<Mark, Vec<u64>>,
    /// Uses until now
    now: u64,
    /// Bytes of their constants
    bytes: usize,
}

impl Ops {
    fn insert(&mut self, mark: Mark, built: Arc<Built>) {
        self.now += 1;
        self.bytes += built.bytes();
        self.times.entry(mark).or_default().push(self.now);
        self.ops.insert(self.now, (mark, built));
    }

    fn remove(&mut self, time: u64) -> Option<(Mark, Arc<Built>)> {
        let (mark, built) = self.ops.remove(&time)?;
        self.bytes -= built.bytes();
        if let Some(times) = self.times.get_mut(&mark) {
            times.retain(|&other| other != time);
            if times.is_empty() {
                self.times.remove(&mark);
            }
        }
        Some((mark, built))
    }
}

impl Kept {
    /// An op of this mark that `is` what is wanted.
    pub(super) fn find(&self, mark: Mark, is: impl Fn(&Built) -> bool) -> Option<Arc<Built>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time =
            kept.times.get(&mark)?.iter().copied().find(|time| kept.ops.get(time).is_some_and(|(_, op)| is(op)))?;
        let (mark, built) = kept.remove(time)?;
        kept.insert(mark, built.clone());
        Some(built)
    }

    /// Keeps `built`; what was not used for longest goes.
    pub(super) fn put(&self, mark: Mark, built: &Arc<Built>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(mark, built.clone());
        while kept.ops.len() > MOST || kept.bytes > LIMIT {
            let Some((&oldest, _)) = kept.ops.first_key_value() else { break };
            kept.remove(oldest);
        }
    }
}
