//! Samples: inputs of a model in files, read one at a time.
//!
//! Why not all at once: calibration sets are larger than memory. A [`Samples`] holds paths and open files; [`Samples::get`]
//! reads one sample, checks it against the model's inputs and converts it. Any number of threads may do that.
//!
//! **Never** guesses: an array that does not fit is an error that names sample, array, what was expected and what is there.
//! **Never** keeps a sample, **never** trusts a header's word on how much memory to take.
mod assignments;
mod convert;
mod error;
mod examine;
mod fit;
mod folder;
mod generated;
mod hints;
mod images;
mod list;
mod made_up;
mod memory;
mod npy;
mod npz;
mod onnx_test_data;
mod options;
mod raw;
mod source;

#[doc(hidden)]
pub use assignments::MakeUp;
pub use error::{BadSample, SampleError, SampleProblem};
pub use examine::BadSamples;
pub(crate) use examine::{Examiner, Extent, Usable};
pub(crate) use folder::files_of;
pub(crate) use generated::{Fitting, NoSamples};
pub use list::Samples;
pub use memory::{Data, Sample};
pub use options::{Channels, Layout, Resize, SampleOptions, parse_size};
pub use raw::FittedSample;

#[cfg(test)]
pub(crate) mod testing {
    //! Sample files for the tests of other modules.
    use std::path::Path;

    use super::{npy::tests::npy, npz::tests};

    /// An .npz of the input `x` with `dims`, and of labels.
    pub(crate) fn npz_file(path: &Path, dims: &[usize], numbers: &[f32], labels: &[u8]) {
        let labels = npy("|u1", false, &format!("({},)", labels.len()), labels);
        let arrays = [("x", tests::floats(dims, numbers)), ("y", labels)];
        tests::npz(path, zip::CompressionMethod::Deflated, &arrays);
    }
}
