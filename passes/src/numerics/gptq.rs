//! Weights in 4 bits: blocks of one scale along the inputs, rounded to nearest or by what the rounding does to the outputs.
//!
//! A block's scale has the sign with which its largest number may become −8, where that is nearer: all 16 integers are of use.
//! With H = Σ x·xᵀ over the rows that a layer sums, δ ↦ δᵀ·H·δ is the squared error of an output whose weights are off by δ. *Nearest*:
//! for each block the scale of least Σ(w − s·q)². *GPTQ* (Frantar 2022): scales of least Σ H_ii·(w − s·q)², then one weight after the
//! other, the largest H_ii first, what each loses being given to those that are still open (H⁻¹ = UᵀU: w_i −= e·U_ji/U_jj).
//! *Polish*: each integer again where the error falls, and each scale to its least-squares value. Scales are 16-bit floats where these
//! hold them all: half the bytes for an error of 0.03 % in them.
//!
//! **Never** depends on threads: every output is rounded by itself. **Never** worse than to nearest on the rows that were fitted.
//! **Source:** Frantar, Ashkboos, Hoefler and Alistarh 2022 (arXiv 2210.17323).
use std::ops::Range;

use half::f16;
use ndarray::{Array1, Array2, ArrayView1, s};
use rayon::prelude::*;

use crate::numerics::solver::{Cholesky, DAMPING, Gram, matrix};

/// The integers of 4 bits.
const LOW: f64 = -8.0;
const HIGH: f64 = 7.0;

/// Scales that are tried for a block, in shares of the one that holds its largest number.
const TRIED: usize = 24;
const SHARES: (f64, f64) = (0.55, 1.0);

/// Dampings that are tried, in shares of the mean diagonal: few rows want much.
pub const DAMPINGS: [f64; 4] = [DAMPING, 0.1, 1.0, 10.0];

/// Rounds of the polish.
const SWEEPS: usize = 4;

/// A matrix of weights, of shape [inputs, outputs], in blocks along the inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// Inputs in a block; the last one may have fewer
    pub size: usize,
    /// Numbers in −8 … 7, of shape [inputs, outputs]
    pub integers: Array2<i8>,
    /// Of shape [inputs / size rounded up, outputs], none 0, some negative
    pub scales: Array2<f32>,
    /// Whether all of them are 16-bit floats
    pub half: bool,
}

/// One output: its integers, and a scale for each block.
struct Column {
    q: Vec<f64>,
    scales: Vec<f64>,
}

impl Column {
    /// What is added to the weights `w`.
    fn off(&self, w: ArrayView1<'_, f64>, size: usize) -> Array1<f64> {
        w.iter().enumerate().map(|(i, w)| self.scales[i / size] * self.q[i] - w).collect()
    }
}

impl Blocks {
    /// The weights that they stand for.
    pub fn weights(&self) -> Array2<f64> {
        let of = |(i, j): (usize, usize)| f64::from(self.integers[(i, j)]) * f64::from(self.scales[(i / self.size, j)]);
        Array2::from_shape_fn(self.integers.dim(), of)
    }

    /// `w`, of shape [inputs, outputs], rounded to nearest.
    pub fn nearest(w: &Array2<f64>, size: usize) -> Blocks {
        let half = fit_16_bits(w, size);
        let columns: Vec<Column> = (0..w.ncols()).into_par_iter().map(|j| nearest(w.column(j), size, half)).collect();
        Blocks::of(columns, w.dim(), size, half)
    }

    /// `w` rounded with the moments of what the layer reads (its inputs alone, no constant), of which `damping` shares of the mean
    /// diagonal are added; `None` where they have no inverse.
    pub fn gptq(w: &Array2<f64>, size: usize, gram: &Gram, damping: f64) -> Option<Blocks> {
        let (moments, _) = gram.damped(damping);
        let diagonal: Vec<f64> = moments.diag().to_vec();
        let mut order: Vec<usize> = (0..w.nrows()).collect();
        order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
        let permuted = matrix(order.len(), order.len(), |i, j| moments[(order[i], order[j])]);
        let inverse = Cholesky::of(permuted)?.solve(Array2::eye(order.len()));
        if inverse.iter().any(|number| !number.is_finite()) {
            return None;
        }
        let upper = Cholesky::of(inverse)?.upper();
        let half = fit_16_bits(w, size);
        let columns: Vec<Column> = (0..w.ncols())
            .into_par_iter()
            .map(|j| {
                let w = w.column(j);
                let scales = scales_of(w, size, &diagonal, half);
                let mut column = Column { q: with_feedback(w, &scales, size, &order, &upper), scales };
                polish(&mut column, w, (size, half), &moments);
                let plain = nearest(w, size, half);
                let error = |column: &Column| {
                    let off = column.off(w, size);
                    off.dot(&gram.moments().dot(&off))
                };
                if error(&column) <= error(&plain) { column } else { plain }
            })
            .collect();
        Some(Blocks::of(columns, w.dim(), size, half))
    }

    fn of(columns: Vec<Column>, (inputs, outputs): (usize, usize), size: usize, half: bool) -> Blocks {
        Blocks {
            size,
            integers: Array2::from_shape_fn((inputs, outputs), |(i, j)| columns[j].q[i] as i8),
            scales: Array2::from_shape_fn((inputs.div_ceil(size), outputs), |(b, j)| columns[j].scales[b] as f32),
            half,
        }
    }
}

fn rounded(x: f64) -> f64 {
    x.round_ties_even().clamp(LOW, HIGH)
}

/// As it is stored.
fn stored(scale: f64, half: bool) -> f64 {
    if half { f16::from_f64(scale).to_f64() } else { f64::from(scale as f32) }
}

/// Whether scales for `w` and what rounding makes of them have all their bits in 16.
fn fit_16_bits(w: &Array2<f64>, size: usize) -> bool {
    let fits = |scale: f64| (f16::MIN_POSITIVE.to_f64()..f16::MAX.to_f64()).contains(&scale);
    w.columns().into_iter().all(|column| {
        parts(w.nrows(), size).all(|part| {
            let largest = column.slice(s![part]).iter().fold(0.0f64, |most, w| most.max(w.abs()));
            is_nothing(largest) || (fits(0.25 * SHARES.0 * largest / -LOW) && fits(4.0 * largest / HIGH))
        })
    })
}

/// Whether a block of no larger number is zeros.
fn is_nothing(largest: f64) -> bool {
    largest < f64::from(f32::MIN_POSITIVE) * 16.0
}

/// One output, each number by itself.
fn nearest(w: ArrayView1<'_, f64>, size: usize, half: bool) -> Column {
    let scales = scales_of(w, size, &vec![1.0; w.len()], half);
    Column { q: w.iter().enumerate().map(|(i, w)| rounded(w / scales[i / size])).collect(), scales }
}

/// The inputs of each block, of `count` together.
fn parts(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(size).map(move |start| start..(start + size).min(count))
}

/// The scale of each block with the least Σ importance·(w − s·q)².
fn scales_of(w: ArrayView1<'_, f64>, size: usize, importance: &[f64], half: bool) -> Vec<f64> {
    let best = |part: Range<usize>| {
        let of_part = w.slice(s![part.clone()]);
        let largest = of_part.iter().fold(0.0f64, |most, w| if w.abs() > most.abs() { *w } else { most });
        if is_nothing(largest.abs()) {
            return 1.0;
        }
        let error = |scale: f64| {
            let one = |i: usize| (w[i] - scale * rounded(w[i] / scale)).powi(2) * importance[i];
            part.clone().map(one).sum::<f64>()
        };
        let candidates = (0..TRIED).flat_map(|k| {
            let share = SHARES.1 - (SHARES.1 - SHARES.0) * k as f64 / (TRIED - 1) as f64;
            [HIGH, LOW].map(|end| stored(largest / end * share, half))
        });
        let errors = candidates.map(|scale| (error(scale), scale));
        errors.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, scale)| scale)
    };
    parts(w.len(), size).map(best).collect()
}

/// The integers of one output, in `order`, each error given to what comes after.
fn with_feedback(
    w: ArrayView1<'_, f64>,
    scales: &[f64],
    size: usize,
    order: &[usize],
    upper: &Array2<f64>,
) -> Vec<f64> {
    let mut open: Array1<f64> = order.iter().map(|&i| w[i]).collect();
    let mut q = vec![0.0; w.len()];
    for (place, &i) in order.iter().enumerate() {
        let scale = scales[i / size];
        q[i] = rounded(open[place] / scale);
        let error = (open[place] - scale * q[i]) / upper[(place, place)];
        open.slice_mut(s![place + 1..]).scaled_add(-error, &upper.slice(s![place, place + 1..]));
    }
    q
}

/// Integers and scales again, while δᵀ·H·δ falls.
fn polish(column: &mut Column, w: ArrayView1<'_, f64>, (size, half): (usize, bool), moments: &Array2<f64>) {
    let mut slope = moments.dot(&column.off(w, size)); // half the gradient of the error
    let Column { q, scales } = column;
    for _ in 0..SWEEPS {
        let mut changed = false;
        for i in 0..w.len() {
            let scale = scales[i / size];
            let next = rounded(q[i] - slope[i] / (moments[(i, i)] * scale));
            if next != q[i] {
                slope.scaled_add((next - q[i]) * scale, &moments.row(i));
                q[i] = next;
                changed = true;
            }
        }
        for (part, scale) in parts(w.len(), size).zip(scales.iter_mut()) {
            let integers = ArrayView1::from(&q[part.clone()]);
            let curvature = integers.dot(&moments.slice(s![part.clone(), part.clone()]).dot(&integers));
            let next = stored(*scale - integers.dot(&slope.slice(s![part.clone()])) / curvature, half);
            if curvature > 0.0 && (0.25..4.0).contains(&(next / *scale)) && next != *scale {
                for i in part {
                    slope.scaled_add((next - *scale) * q[i], &moments.row(i));
                }
                *scale = next;
            }
        }
        if !changed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Blocks, DAMPING, HIGH, LOW};
    use crate::numerics::solver::{Gram, matrix};

    /// Inputs that go together, and weights of some size.
    fn layer(rows: usize, seed: u64) -> Gram {
        let mut state = seed;
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
        };
        let mut gram = Gram::new(64, 0, false);
        for _ in 0..rows {
            let parts: Vec<f64> = (0..8).map(|_| number()).collect();
            let x: Vec<f64> = (0..64).map(|i| parts[i % 8] + parts[(i / 8 + 3) % 8] + 0.1 * number()).collect();
            gram.add(&x, &[]);
        }
        gram
    }

    #[test]
    fn the_error_on_rows_that_were_not_fitted_is_far_below_that_of_rounding_to_nearest() {
        let w = matrix(64, 12, |i, j| ((i * 37 + j * 11) % 29) as f64 / 29.0 - 0.5);
        let judge = layer(300, 9).with_targets_of(w.view());
        let nearest = Blocks::nearest(&w, 32);
        let better = Blocks::gptq(&w, 32, &layer(400, 4), DAMPING).expect("an inverse");
        let (a, b) = (judge.error(nearest.weights().view()), judge.error(better.weights().view()));
        assert!(b < 0.25 * a, "{b} {a}");
        for blocks in [nearest, better] {
            assert!(blocks.integers.iter().all(|q| (LOW..=HIGH).contains(&f64::from(*q))));
            assert_eq!(blocks.scales.dim(), (2, 12));
        }
    }

    #[test]
    fn no_output_is_worse_than_rounded_to_nearest_on_the_rows_that_were_fitted() {
        for (seed, size) in (1..12).zip([16, 32, 64, 24, 43, 61].into_iter().cycle()) {
            let rows = 5 + 20 * seed as usize; // fewer than there are inputs, too
            let w = matrix(64, 5, |i, j| ((i * 31 + j * 17 + seed as usize * 7) % 23) as f64 / 23.0 - 0.4);
            let gram = layer(rows, seed);
            let found = Blocks::gptq(&w, size, &gram, DAMPING).expect("an inverse");
            let errors = |blocks: &Blocks| {
                let off = blocks.weights() - &w;
                (off.clone() * gram.moments().dot(&off)).sum_axis(ndarray::Axis(0))
            };
            let (a, b) = (errors(&Blocks::nearest(&w, size)), errors(&found));
            assert!(a.iter().zip(&b).all(|(a, b)| *b <= a * (1.0 + 1e-4)), "{a} {b}"); // scales are stored in 32 bits
            assert_eq!(found.scales.nrows(), 64usize.div_ceil(size));
        }
    }

    #[test]
    fn what_4_bits_hold_stays_and_zeros_stay_zeros() {
        let w = matrix(64, 2, |i, j| if j == 0 { 0.0 } else { (i % 15) as f64 - 7.0 });
        assert_eq!(Blocks::nearest(&w, 32).weights(), w);
        let found = Blocks::gptq(&w, 32, &layer(100, 2), DAMPING).expect("an inverse").weights();
        assert!((&found - &w).iter().all(|error| error.abs() < 1e-6));
    }
}
