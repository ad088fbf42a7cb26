//! The names that a model uses.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Names that a model uses, shared by a graph and its bodies: a new name is new everywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<NamePool>>);

#[derive(Clone, Debug, Default)]
struct NamePool {
    used: HashMap<Box<str>, u32>,
}

impl Names {
    pub(crate) fn reserve(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).used.entry(name.into()).or_insert(0);
    }

    /// `base`, or `base_1`, `base_2` …: the first that nobody uses; it is used from now on.
    pub(super) fn fresh(&self, base: &str) -> String {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&last) = pool.used.get(base) else {
            pool.used.insert(base.into(), 0);
            return base.to_owned();
        };
        let mut number = last;
        let name = loop {
            number += 1;
            let name = format!("{base}_{number}");
            if !pool.used.contains_key(name.as_str()) {
                break name;
            }
        };
        pool.used.insert(base.into(), number);
        pool.used.insert(name.as_str().into(), 0);
        name
    }

    pub(super) fn copy(&self) -> Names {
        Names(Arc::new(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())))
    }
}
