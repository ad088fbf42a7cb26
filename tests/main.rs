//! Whole-program tests: the built binary, as users run it.
mod command_line;
mod errors;
mod samples;
mod support;
mod writing;
