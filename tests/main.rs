//! Whole-program tests: the built binary, as users run it.
#![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

mod calibrate;
mod command_line;
mod control;
mod culprits;
mod diff;
mod diff_page;
mod errors;
mod fall_back;
mod formats;
mod inspect;
mod int8;
mod int8_graph;
mod interrupted;
mod ledger;
mod low_rank;
mod masked;
mod mutations;
mod pipeline;
mod qdq;
mod ranges;
mod readme;
mod report;
mod samples;
mod structure;
mod support;
mod target_mutants;
mod target_row;
mod targets;
mod tract_formats;
mod validate;
mod weights;
mod writing;
