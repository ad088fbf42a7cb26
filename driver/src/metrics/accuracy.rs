//! How many labels a model tells, and whether two models differ in that beyond chance.
use onnx_shrink_ir::Tensor;
use serde::Serialize;

use super::sums::argmax;
use crate::samples::FittedSample;

/// Share of samples whose label the first output tells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Samples with a label
    pub samples: usize,
    /// Of the original
    pub before: f64,
    /// Of the new model
    pub after: f64,
    /// before − after
    pub drop: f64,
    /// Standard error of the paired difference
    pub standard_error: f64,
}

impl Accuracy {
    pub(super) fn of(right: &[(bool, bool)]) -> Option<Accuracy> {
        if right.is_empty() {
            return None;
        }
        let count = right.len() as f64;
        let share = |which: fn(&(bool, bool)) -> bool| right.iter().filter(|pair| which(pair)).count() as f64 / count;
        let (before, after) = (share(|pair| pair.0), share(|pair| pair.1));
        let drop = before - after;
        let difference = |pair: &(bool, bool)| f64::from(u8::from(pair.0)) - f64::from(u8::from(pair.1));
        let variance = right.iter().map(|pair| (difference(pair) - drop).powi(2)).sum::<f64>() / count;
        Some(Accuracy { samples: right.len(), before, after, drop, standard_error: (variance / count).sqrt() })
    }

    /// The drop that is beyond doubt: less two standard errors.
    pub fn certain_drop(&self) -> f64 {
        self.drop - 2.0 * self.standard_error
    }
}

/// Whether the first output `output` tells the integer `label`: a single number above 0.5 stands for a positive one;
/// otherwise the largest of the last row (of all, from rank 3 on) is the class.
pub(super) fn is_right(output: &Tensor, label: i64) -> Option<bool> {
    let numbers = output.to_f64_vec()?;
    if let [number] = numbers[..] {
        return Some((number > 0.5) == (label > 0));
    }
    let row = match (output.dims().len(), output.dims().last()) {
        (..3, Some(&last)) if last > 0 => numbers.chunks_exact(last).next_back()?,
        _ => &numbers[..],
    };
    Some(i64::try_from(argmax(row)).ok()? == label)
}

/// The label as one whole number; `None` when it is something else.
pub(super) fn class_of(sample: &FittedSample) -> Option<i64> {
    match sample.label.as_ref()?.to_i64_vec()?[..] {
        [label] => Some(label),
        _ => None,
    }
}
