//! The command line of onnx-shrink: arguments to a request, reports to text, failures to exit codes.
//!
//! **No** decision about a model is made here: `onnx_shrink_driver` does the job. **Nothing** but this crate writes text to
//! stdout or stderr.
mod cli;
mod commands;
mod page;
mod progress;
mod text;

use std::process::ExitCode;

// Decoding a model makes many small messages: 2.7 times faster than with the system's allocator (measured).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
