//! The job of onnx-shrink as a library: from a [`Request`] to a smaller model and a [`Report`] of what was done to it.
//!
//! ```
//! use onnx_shrink_driver::{Sample, Output, Request, Silent, Tensor, shrink};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/digits_cnn/model.onnx"))?;
//! // 100 samples with one array each, for the model's input `input`: float[batch,1,8,8].
//! # let image = |sample: usize| (0..64).map(|pixel| ((sample * 7 + pixel * (sample % 5 + 1)) % 17) as f32).collect::<Vec<f32>>();
//! let sample = |k: usize| Sample::new().with("input", Tensor::from_vec(&[1, 1, 8, 8], image(k)));
//! let request = Request {
//!     int8: true,
//!     data: Some((0..100).map(sample).collect()),
//!     output: Some(Output::Memory),
//!     ..Request::new(model)
//! };
//! let shrunk = shrink(&request, &Silent)?;
//! let quantized: Vec<u8> = shrunk.model.expect("the output is memory");
//! assert!((quantized.len() as u64) < shrunk.report.input.bytes / 2);
//! assert!(shrunk.report.gates.iter().all(|gate| gate.passed));
//! # Ok(())
//! # }
//! ```
//!
//! A [`Request`] is data: what to read and write, what to do, and on what target the model will run. [`shrink()`] does it. The other
//! functions are [`inspect()`] (what a model is), [`diff_files`] (what changed between two), [`validate()`] (whether one does what
//! another does) and [`calibrate`] (calibration statistics of one shard of the samples). Each fails with a [`Failure`]: a sentence and
//! the [`ExitCode`] of the command line that it stands for.
//!
//! **No** rewrite lives here (they are in `onnx_shrink_passes`), **no** command line, **no** text tables; **nothing** is printed, but that
//! [`Output::Stdout`] writes the model itself there. Long work reports its [`Progress`]. A pass or kernel that panics is caught and left out; a
//! program that does not want Rust's own message of it on stderr calls [`panics::keep_quiet`] once.
mod about;
pub mod amounts;
mod coverage;
pub mod diff;
mod dump;
mod failure;
mod files;
mod formats;
mod gates;
pub mod inspect;
mod int8;
mod keep_float;
mod layers;
mod lossless;
mod low_rank;
pub mod metrics;
mod nothing_stored;
mod open;
pub mod panics;
pub mod paths;
mod plan;
mod progress;
mod proof;
mod random;
mod ranges_file;
mod regions;
pub mod report;
pub mod request;
pub mod samples;
mod sensitivity;
mod shrink;
mod simplified;
mod small_weights;
mod stored_form;
mod structure;
pub mod validate;

pub use onnx_shrink_ir::Tensor;

pub use diff::diff_files;
pub use failure::{ExitCode, Failure};
pub use gates::{Gate, Gates};
pub use inspect::inspect;
pub use progress::{Progress, Silent, Stage};
pub use report::Report;
pub use request::{
    Request,
    control::Control,
    io::{Input, Output},
};
pub use samples::{Data, Sample, SampleOptions, Samples};
#[doc(hidden)]
pub use shrink::shrink_with;
pub use shrink::{Shard, ShrinkError, Shrunk, calibrate, shrink};
pub use validate::validate;
