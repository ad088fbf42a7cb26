//! Whole-program tests: the built binary, as users run it.
#![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

mod command_line;
mod diff;
mod diff_page;
mod errors;
mod fall_back;
mod formats;
mod int8;
mod int8_graph;
mod ledger;
mod qdq;
mod ranges;
mod samples;
mod support;
mod targets;
mod writing;
