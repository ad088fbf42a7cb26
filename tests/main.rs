//! Whole-program tests: the built binary, as users run it.
#![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

mod command_line;
mod errors;
mod inspect;
mod int8;
mod int8_graph;
mod ledger;
mod pipeline;
mod readme;
mod samples;
mod support;
mod validate;
mod writing;
