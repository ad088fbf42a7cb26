//! Progress of long work, for whoever shows it.
//!
//! **Never** decides anything: a run with and without it is the same.

/// Where stages of work are shown.
pub trait Progress: Sync {
    /// Shows that the stage `name` begins; with `total`, how many steps it has. It ends when the result is dropped.
    fn stage(&self, name: &str, total: Option<u64>) -> Box<dyn Stage>;
}

/// A stage of work that is under way.
pub trait Stage: Send + Sync {
    /// So many more steps are done.
    fn advance(&self, steps: u64);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &str, _: Option<u64>) -> Box<dyn Stage> {
        Box::new(Silent)
    }
}

impl Stage for Silent {
    fn advance(&self, _: u64) {}
}
