//! Why nothing was stored in 8 bits, and what samples would bring.
use std::fmt;

use onnx_shrink_passes::target::{Places, Target};

/// Without samples nothing was stored in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct NothingStored {
    pub(crate) cause: Cause,
    pub(crate) with_samples: WithSamples,
}

/// Why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cause {
    /// This target wants float weights
    Target(&'static str),
    /// `--skip store-int8`
    Skipped,
    /// The opset of the model is too old
    Opset {
        /// The opset that the model has
        found: i64,
        /// The one that it must have
        least: i64,
    },
    /// No constant is large enough
    NoMatrix,
}

/// What `--data` would bring on a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WithSamples(pub(crate) &'static Target);

impl fmt::Display for NothingStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing was stored in 8 bits: ")?;
        match &self.cause {
            Cause::Target(name) => write!(f, "the target {name} wants float weights")?,
            Cause::Skipped => f.write_str("--skip store-int8 says so")?,
            Cause::Opset { found, least } => write!(f, "that needs opset {least}, the model has {found}")?,
            Cause::NoMatrix => {
                f.write_str("no constant is a large enough matrix of 32-bit floats in the main graph or its bodies")?
            }
        }
        write!(f, "; {}", self.with_samples)
    }
}

impl fmt::Display for WithSamples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.name;
        match self.0.places {
            Places::Cheapest(_) => f.write_str(
                "with --data DIR (100 to 300 samples) layers would run in 8 bits, too, where the target gains from it",
            ),
            Places::All | Places::EveryTensor => {
                write!(f, "with --data DIR (100 to 300 samples) all layers that the target {name} runs in 8 bits would")
            }
            Places::Nothing => {
                write!(f, "the target {name} runs no layer in 8 bits: --data DIR would judge, and no more")
            }
        }
    }
}
