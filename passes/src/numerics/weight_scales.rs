//! Weights in 8 bits, per output channel, so that no processor's sums overflow.
//!
//! x86 processors without VNNI add products in pairs in 16 bits: a pair of weights a, b that meets there is exact for
//! every input if and only if −128 ≤ a + b ≤ 128. The scale here is the least with which no pair can leave that:
//! `s = max(max|w|, largest |w_a + w_b| over pairs of equal sign) / 127`: with it the numbers of a pair add up to at most 127,
//! and rounding both to nearest adds at most 1; [`crate::numerics::rounding`] keeps to the bound. Which weights meet was found by probing ONNX Runtime 1.32 with weights of 127 and counting what saturates.
use ndarray::{Array1, Array2, Axis};
use onnx_shrink_ir::ops::WeightShape;

use crate::{
    numerics::rounding::{Inputs, Rounding},
    target::Pairing,
};

/// A weight matrix in 8 bits: one row per output channel, along the reduction as the kernel runs it.
#[derive(Clone, Debug)]
pub struct QuantizedRows {
    /// Integers in −127 … 127
    pub integers: Array2<i8>,
    /// One scale a row
    pub scales: Vec<f32>,
}

/// What the scales of a weight must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleRule {
    /// Which weights meet in a 16-bit sum
    pub pairing: Pairing,
    /// Whether each row has a scale of its own
    pub per_channel: bool,
    /// Whether scales are powers of two
    pub power_of_two: bool,
}

impl From<Pairing> for ScaleRule {
    /// A scale a row, any.
    fn from(pairing: Pairing) -> ScaleRule {
        ScaleRule { pairing, per_channel: true, power_of_two: false }
    }
}

/// Σ difference·mean per output: what a change of the weights of `shape` by `difference` (rows with channels fastest) adds to
/// the mean of each output. `mean` is that of the input channels of all groups; `None` when it does not fit.
pub(crate) fn output_shift(difference: &Array2<f64>, mean: &[f64], shape: &WeightShape) -> Option<Array1<f64>> {
    let channels = shape.inputs;
    if mean.len() != shape.channels() || channels == 0 {
        return None;
    }
    let per_group = (difference.nrows() / shape.groups).max(1);
    let shift = |(row, difference): (usize, ndarray::ArrayView1<'_, f64>)| -> f64 {
        let first = (row / per_group).min(shape.groups - 1) * channels;
        difference.iter().enumerate().map(|(column, w)| w * mean[first + column % channels]).sum()
    };
    Some(difference.outer_iter().enumerate().map(shift).collect())
}

/// The scale of one row.
fn row_scale(row: ndarray::ArrayView1<'_, f64>, pairing: Pairing) -> f64 {
    let largest = row.iter().fold(0f64, |largest, w| largest.max(w.abs()));
    let pairs = row.iter().zip(row.iter().skip(1)).step_by(2);
    let meeting = match pairing {
        Pairing::None => 0.0,
        Pairing::Neighbours => {
            pairs.filter(|(a, b)| **a * **b > 0.0).fold(0f64, |largest, (a, b)| largest.max((a + b).abs()))
        }
    };
    largest.max(meeting) / 127.0
}

/// Quantizes each row to its own scale, rounded as suits `inputs` ([`crate::numerics::rounding`]). A row of (nearly) nothing gets the median
/// scale: its numbers become zero and its bias lives on. Scales are at least `least`, by row, where given (so that a bias fits its 32 bits).
pub fn quantize_rows(rows: &Array2<f64>, inputs: &Inputs, rule: impl Into<ScaleRule>, least: &[f64]) -> QuantizedRows {
    let ScaleRule { pairing, per_channel, power_of_two } = rule.into();
    let mut scales: Vec<f64> = rows.axis_iter(Axis(0)).map(|row| row_scale(row, pairing)).collect();
    let mut sorted: Vec<f64> = scales.iter().copied().filter(|scale| *scale > 0.0).collect();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(1.0);
    let largest = sorted.last().copied().unwrap_or(1.0);
    for (index, scale) in scales.iter_mut().enumerate() {
        if *scale < largest * f64::from(-20).exp2() {
            *scale = median;
        }
        *scale = scale.max(least.get(index).copied().unwrap_or(0.0));
    }
    if !per_channel {
        let whole = scales.iter().copied().fold(0.0, f64::max);
        scales.fill(whole);
    }
    if power_of_two {
        scales.iter_mut().for_each(|scale| *scale = up_to_power_of_two(*scale));
    }
    // The scale is a float in the file: quantize with what the engine will read.
    let scales: Vec<f32> = scales.into_iter().map(up_to_f32).collect();
    let rounding = Rounding::new(inputs, pairing);
    let mut integers = Array2::zeros(rows.dim());
    for ((row, out), &scale) in rows.axis_iter(Axis(0)).zip(integers.axis_iter_mut(Axis(0))).zip(&scales) {
        rounding.row(row, out, f64::from(scale));
    }
    QuantizedRows { integers, scales }
}

/// The least f32 that is not below `x`: a rounded-down scale could let a pair leave its bound.
fn up_to_f32(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) < x { near.next_up() } else { near }
}

/// The least power of two that is not below `x`; `x` itself where it is none of a positive number.
pub fn up_to_power_of_two(x: f64) -> f64 {
    if x > 0.0 && x.is_finite() { x.log2().ceil().exp2() } else { x }
}

impl QuantizedRows {
    /// What the integers stand for.
    pub fn dequantized(&self) -> Array2<f64> {
        let mut rows = self.integers.mapv(f64::from);
        for (mut row, &scale) in rows.axis_iter_mut(Axis(0)).zip(&self.scales) {
            row *= f64::from(scale);
        }
        rows
    }

    /// Pairs that can saturate: 0 by construction; the quantizer's verifier rule counts them.
    pub fn saturating_pairs(&self) -> usize {
        let rows = self.integers.axis_iter(Axis(0));
        rows.map(|row| {
            let pairs = row.iter().zip(row.iter().skip(1)).step_by(2);
            pairs.filter(|(a, b)| (i16::from(**a) + i16::from(**b)).abs() > 128).count()
        })
        .sum()
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use onnx_shrink_ir::ops::WeightLayout;

    use super::*;

    fn random_rows(seed: u64, rows: usize, columns: usize) -> Array2<f64> {
        let mut state = seed;
        Array2::from_shape_fn((rows, columns), |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5;
            x * x * x
        })
    }

    #[test]
    fn no_pair_can_saturate() {
        for seed in 0..200 {
            let rows = random_rows(seed, 3, 7 * (1 + seed as usize % 5));
            let quantized =
                quantize_rows(&rows, &Inputs::quantized(&[1 + seed as usize % 5], Some(0.0)), Pairing::Neighbours, &[]);
            assert_eq!(quantized.saturating_pairs(), 0, "seed {seed}");
        }
    }

    #[test]
    fn equal_neighbours_share_the_range() {
        let quantized = quantize_rows(&ndarray::array![[1.0, 1.0]], &Inputs::centred(&[]), Pairing::Neighbours, &[]);
        assert!(quantized.integers.iter().all(|&q| q == 64 || q == 63), "{:?}", quantized.integers);
        let free = quantize_rows(&ndarray::array![[1.0, 1.0]], &Inputs::centred(&[]), Pairing::None, &[]);
        assert_eq!(free.integers, ndarray::array![[127i8, 127]]);
    }

    #[test]
    fn a_dead_row_stays_zero() {
        let quantized =
            quantize_rows(&ndarray::array![[1.0, -0.5], [0.0, 1e-12]], &Inputs::centred(&[]), Pairing::Neighbours, &[]);
        assert_eq!(quantized.integers.row(1).to_vec(), [0, 0]);
        assert!(quantized.scales[1] > 0.0);
    }

    #[test]
    fn a_shift_is_summed_over_the_group_of_its_row() {
        let difference = ndarray::array![[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]];
        // Two groups of two channels, two taps, channels fastest.
        let shape = WeightLayout::Conv { groups: 2 }.shape(&[2, 2, 2]).unwrap();
        let shift = output_shift(&difference, &[1.0, 2.0, 10.0, 20.0], &shape).unwrap();
        assert_eq!(shift.to_vec(), [2.0, 40.0]);
    }
}
