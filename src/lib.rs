//! onnx-shrink, a compiler from ONNX to ONNX: the command line, samples, validation and the report.
//!
//! A [`Request`] says what is wanted; [`shrink::shrink`] does it and gives a [`Report`], or a [`Failure`] that knows its
//! [`ExitCode`]. **No** rewrite lives here, and **nothing** but [`commands`], [`cli`] and [`progress`]
//! writes to stdout or stderr; [`files::write`] puts the model itself on stdout when it is asked to.
pub mod about;
pub mod cli;
pub mod columns;
pub mod commands;
pub mod control;
pub mod coverage;
pub mod diff;
pub mod dump;
pub mod files;
pub mod formats;
pub mod functions;
pub mod gates;
pub mod inspect;
pub mod int8;
mod keep_float;
pub mod layers;
pub mod lossless;
pub mod low_rank;
pub mod metrics;
pub mod panics;
pub mod paths;
pub mod progress;
pub mod proof;
pub mod qdq;
pub mod random;
pub mod ranges_file;
pub mod regions;
pub mod report;
pub mod request;
pub mod samples;
pub mod sensitivity;
pub mod shrink;
pub mod small_weights;
mod stored_form;
pub mod structure;
pub mod validate;

pub use control::Control;
pub use progress::{Progress, Silent, Stage};
pub use report::Report;
pub use request::{Calibrate, ExitCode, Failure, Gates, Request};
pub use samples::{Sample, SampleError, SampleOptions, Samples};
