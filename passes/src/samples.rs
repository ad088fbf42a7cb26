//! Samples, and the one way to run something on each of them.
//!
//! Results are folded in the order of the samples: sums of floats are the same for any number of threads.
use std::error::Error;

use onnx_shrink_ir::{EvaluateError, Tensor};
use rayon::prelude::*;

/// Where samples come from.
pub trait SampleSource: Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inputs of sample `index` in the order of the graph's inputs; `None` takes the input's default.
    fn inputs(&self, index: usize) -> Result<Vec<Option<Tensor>>, SampleError>;
}

/// Why a run over samples ended.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A sample cannot be read; says which, and why
    #[error("{0}")]
    Read(Box<dyn Error + Send + Sync>),
    /// The model does not run, or not on a sample
    #[error(transparent)]
    Run(#[from] EvaluateError),
    /// No sample at all
    #[error("there are no samples to calibrate with")]
    None,
}

/// Calls `one` for all of `items` in parallel, for `at_once` of them before the next, and `fold` with what it gave, in the order of `items`.
/// The first error in that order ends it.
///
/// Not more than `at_once` results are held at a time: choose it so that they fit into memory.
pub fn fold_in_order<I: Sync, T: Send, E: Send>(
    items: &[I],
    at_once: usize,
    one: impl Fn(&I) -> Result<T, E> + Sync,
    mut fold: impl FnMut(&I, T),
) -> Result<(), E> {
    for items in items.chunks(at_once.max(1)) {
        let found: Vec<Result<T, E>> = items.par_iter().map(&one).collect();
        for (item, found) in items.iter().zip(found) {
            fold(item, found?);
        }
    }
    Ok(())
}

/// What `one` gives for all of `items`, in their order; see [`fold_in_order`].
pub fn map_in_order<I: Sync, T: Send, E: Send>(
    items: &[I],
    one: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let mut all = Vec::with_capacity(items.len());
    fold_in_order(items, items.len(), one, |_, found| all.push(found))?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::fold_in_order;

    #[test]
    fn results_come_in_order_and_the_first_error_ends_it() {
        let items: Vec<usize> = (0..100).collect();
        let mut folded = Vec::new();
        let ran = fold_in_order(&items, 7, |item| Ok::<_, ()>(item * 2), |item, found| folded.push((*item, found)));
        assert!(ran.is_ok() && folded.iter().enumerate().all(|(k, pair)| *pair == (k, 2 * k)) && folded.len() == 100);
        let mut seen = 0;
        let one = |item: &usize| if *item % 10 == 9 { Err(*item) } else { Ok(()) };
        assert_eq!(fold_in_order(&items, 16, one, |_, ()| seen += 1), Err(9));
        assert_eq!(seen, 9);
    }
}
