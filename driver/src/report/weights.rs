//! What weights in fewer bits take and cost.
use std::fmt;

use serde::Serialize;

use crate::{amounts::bytes, request::weights::Weights};

/// What weights in fewer bits take and cost, beside 8 bits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// fp16 or int4
    #[serde(rename = "type")]
    pub name: &'static str,
    /// Layers in 4 bits
    pub in_4_bits: usize,
    /// Of these, those that samples told how to round
    pub by_gptq: usize,
    /// Layers in 8 bits
    pub in_8_bits: usize,
    /// Layers whose kernel unpacks 4 bits in each run
    pub by_kernel: usize,
    /// Versions of ONNX's ops before and after
    pub opset: [i64; 2],
    /// Bytes of the layers, scales and biases included
    pub layers: Stored,
    /// The same with all of them stored in 8 bits, as `--int8` does where layers stay float; `None`: nothing would be
    pub stored_in_8_bits: Option<Stored>,
}

/// Layers as they are stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stored {
    /// Bytes of their constants
    pub bytes: u64,
    /// The largest relative L2 error of a float output, on samples that were not fitted; `None` without samples
    pub rel_l2: Option<f64>,
    /// Expected time of a run as a share of the float model's, by multiply-adds: 1 where engines unpack when they load the file
    pub expected_time: f64,
}

impl Figures {
    /// What they are, in a line; `samples` told the error.
    pub(super) fn write_stored(&self, f: &mut fmt::Formatter<'_>, samples: usize) -> fmt::Result {
        write!(f, "--weights {}: layers take {}", self.name, self.layers)?;
        if self.name != Weights::Int4.name() {
            return Ok(());
        }
        let nearest = self.in_4_bits - self.by_gptq;
        write!(
            f,
            "; {} in 4 bits ({} by GPTQ, {nearest} rounded to nearest), {} in 8",
            self.in_4_bits, self.by_gptq, self.in_8_bits
        )?;
        if samples == 0 {
            f.write_str("; with --data DIR (100 to 300 samples) the error would be about half")?;
        }
        Ok(())
    }

    /// What 8 bits would be, in a line; nothing where that was not tried.
    pub(super) fn write_in_8_bits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stored_in_8_bits {
            Some(eight) => write!(
                f,
                "in 8 bits layers would take {eight}; with --int8 and --data they compute in integers where that is faster"
            ),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bytes(self.bytes))?;
        if let Some(rel) = self.rel_l2 {
            write!(f, ", relative L2 {rel:.2e}")?;
        }
        match self.expected_time {
            time if time < 0.995 => write!(f, ", expected time {time:.2} of float's"),
            _ => f.write_str(", expected time that of float"),
        }
    }
}
