//! Factors that take outliers out of what a linear layer reads, and put them into its weights: x·W = (x / s)·(s·W).
//!
//! A value has one scale in 8 bits, and where a few positions of its last axis are much larger than the others (the residual
//! stream of a transformer), these are left a few steps. Its weights have a scale per column, and room.
//! s_j = max|x_j|^α / max|W_j|^(1−α) (SmoothQuant: Xiao et al. 2023), with the α whose noise is least: of rounding x,
//! (2·max_j|x_j|/s_j / 255)²/12 · Σ_j s_j²·‖W_j‖², and of rounding the weights, Σ_o (max_j s_j·|W_jo| / 127)²/12 · Σ_j E\[x_j²\]/s_j².
use ndarray::{Array2, Axis};

/// Exponents that are tried.
const ALPHAS: [f64; 6] = [0.5, 0.6, 0.7, 0.75, 0.8, 0.9];

/// Noise that must go for the product to be worth its time: 3 dB.
const LEAST_GAIN: f64 = 2.0;

/// Columns below which the product would take a share of the time that is felt.
const LEAST_COLUMNS: usize = 256;

/// Standard deviations that the largest of a value is taken for.
const PEAK: f64 = 3.0;

/// The factors s for a value whose `largest` magnitudes are by position of its last axis, and that layers with `weights` (one row an
/// output) read; `None` where they do not pay, or the weights have other lengths.
pub fn factors(largest: &[f32], weights: &[Array2<f64>]) -> Option<Vec<f64>> {
    let k = largest.len();
    if k == 0
        || weights.iter().any(|rows| rows.ncols() != k)
        || weights.iter().map(|rows| rows.nrows()).sum::<usize>() < LEAST_COLUMNS
    {
        return None;
    }
    // (What is zero, or nearly, is given no factor that could overflow.)
    let floored = |numbers: Vec<f64>| -> Option<Vec<f64>> {
        let top = numbers.iter().copied().fold(0.0, f64::max);
        (top > 0.0 && top.is_finite()).then(|| numbers.into_iter().map(|number| number.max(top * 1e-5)).collect())
    };
    let x = floored(largest.iter().map(|&x| f64::from(x)).collect())?;
    let column = |j: usize| weights.iter().flat_map(move |rows| rows.column(j).into_iter().copied());
    let w = floored((0..k).map(|j| column(j).fold(0.0, |top: f64, w| top.max(w.abs()))).collect())?;
    let energy: Vec<f64> = (0..k).map(|j| column(j).map(|w| w * w).sum()).collect();
    let noise = |s: &[f64]| {
        let top = x.iter().zip(s).fold(0.0, |top: f64, (x, s)| top.max(x / s));
        let of_x = (2.0 * top / 255.0).powi(2) * s.iter().zip(&energy).map(|(s, energy)| s * s * energy).sum::<f64>();
        let signal: f64 = x.iter().zip(s).map(|(x, s)| (x / PEAK / s).powi(2)).sum();
        let rows = weights.iter().flat_map(|rows| rows.axis_iter(Axis(0)));
        let steps = rows.map(|row| row.iter().zip(s).fold(0.0, |top: f64, (w, s)| top.max((w * s).abs())) / 127.0);
        of_x + signal * steps.map(|step| step * step).sum::<f64>()
    };
    let plain = noise(&vec![1.0; k]);
    let candidates =
        ALPHAS.map(|alpha| x.iter().zip(&w).map(|(x, w)| x.powf(alpha) / w.powf(1.0 - alpha)).collect::<Vec<f64>>());
    let best = candidates.into_iter().map(|s| (noise(&s), s)).min_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 * LEAST_GAIN <= plain).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::factors;

    fn weights(n: usize, k: usize) -> Array2<f64> {
        Array2::from_shape_fn((n, k), |(i, j)| ((i * 31 + j * 17) as f64 * 0.7).sin())
    }

    #[test]
    fn an_outlier_gives_way() {
        let mut largest = vec![1.0; 64];
        largest[5] = 40.0;
        let s = factors(&largest, &[weights(300, 64)]).unwrap();
        assert!(s[5] / s[6] > 5.0, "{} {}", s[5], s[6]);
    }

    #[test]
    fn an_even_value_is_left_alone_and_so_is_a_small_layer() {
        let mut largest = vec![1.0; 64];
        assert_eq!(factors(&largest, &[weights(300, 64)]), None);
        largest[5] = 40.0;
        assert_eq!(factors(&largest, &[weights(30, 64)]), None);
        assert_eq!(factors(&largest, &[weights(300, 60)]), None);
        assert_eq!(factors(&[0.0; 64], &[weights(300, 64)]), None);
    }
}
