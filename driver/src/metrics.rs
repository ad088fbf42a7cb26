//! How far one model's outputs are from another's, over samples.
//!
//! Sums are f64, taken per sample and merged in the order of the samples: **never** in the order in which threads finish, so
//! a report is the same for any number of threads. **Never** holds more outputs than threads.
mod accuracy;
mod compare;
mod comparison;
mod gates;
mod kind;
mod parts;
mod slices;
mod structure;
mod sums;
#[cfg(test)]
mod tests;
mod values;

pub use accuracy::Accuracy;
pub use compare::{compare, compare_graphs};
pub use comparison::{CompareError, Comparison, Which};
pub use gates::GateResult;
pub use parts::{Part, Slice};
pub use sums::OutputMetrics;
pub use values::compare_values;
