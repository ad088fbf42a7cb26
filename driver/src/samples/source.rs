//! What samples are read from.
use super::{error::SampleProblem, fit::Inputs, raw::Raw};

/// Something that samples can be read from.
pub(super) trait Source: Send + Sync {
    fn len(&self) -> usize;
    fn name(&self, index: usize) -> String;
    fn read(&self, index: usize, inputs: &Inputs) -> Result<Raw, SampleProblem>;

    /// Whether nobody gave them.
    fn is_made_up(&self) -> bool {
        false
    }
}
