//! Whole-program tests: the built binary, as users run it.
mod command_line;
mod errors;
mod int8;
mod int8_graph;
mod ledger;
mod samples;
mod support;
mod writing;
