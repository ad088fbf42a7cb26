//! Results as text, for terminals and logs.
pub mod columns;
pub mod diff;
pub mod inspect;
pub mod report;
mod structure;
pub mod style;
pub mod validate;
