//! The job of onnx-shrink as a library: from a [`Request`] to a model and its [`Report`].
//!
//! A [`Request`] says what is wanted; [`shrink::shrink`] does it and gives a [`Report`], or a [`Failure`] that knows its
//! [`ExitCode`]. **No** rewrite lives here, **no** command line, **no** text tables, and **nothing** writes to stdout or stderr;
//! [`files::Plan::write`] puts the model itself on stdout when it is asked to.
pub mod about;
pub mod amounts;
pub mod coverage;
pub mod diff;
pub mod dump;
pub mod failure;
pub mod files;
pub mod formats;
pub mod gates;
pub mod inspect;
pub mod int8;
mod keep_float;
pub mod layers;
pub mod lossless;
pub mod low_rank;
pub mod metrics;
mod open;
pub mod panics;
pub mod paths;
pub mod progress;
pub mod proof;
pub mod random;
pub mod ranges_file;
pub mod regions;
pub mod report;
pub mod request;
pub mod samples;
pub mod sensitivity;
pub mod shrink;
mod simplified;
pub mod small_weights;
mod stored_form;
pub mod structure;
pub mod validate;

pub use failure::{ExitCode, Failure};
pub use gates::Gates;
pub use progress::{Progress, Silent, Stage};
pub use report::Report;
pub use request::{
    Request,
    control::Control,
    io::{Input, Output},
};
pub use samples::{Data, Feed, Sample, SampleError, SampleOptions, Samples};
pub use shrink::{ShrinkError, Shrunk, shrink};
