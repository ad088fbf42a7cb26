//! Rounds a row of weights so that the error of its sums is small, without samples.
//!
//! Rounding each weight to nearest makes the error of the weights least, not that of the sums: inputs are not independent.
//! Neighbouring positions of a kernel see nearly the same numbers, and behind a Relu all numbers have a mean. Two rules:
//!
//! *Where the bias takes up the mean* ([`Inputs::centred`]), and for long kernels of one axis, which filter a signal: what one position rounds
//! away, the next of the same channel takes up, so that each channel's sum over the kernel is kept to half a step (error diffusion,
//! as in Floyd and Steinberg 1976; with one position it is rounding to nearest).
//!
//! *Where it does not*: errors e cost eᵀHe with H = E\[xxᵀ\], in units of the inputs' variance: ρ^d for two positions of one channel
//! that are d steps apart, μ² for all pairs besides. From rounding to nearest on, single weights move up or down while that falls,
//! those next to a middle first; four passes over the row, so that the time is linear.
//!
//! **Never** lets a pair that meets leave its bound; the second rule moves no number by more than a step from its weight, and no
//! weight of 0 at all.
//!
//! **Source:** Nagel et al. 2020, up or down? (arXiv 2004.10568: the cost, and that nearest is not best); Guo et al. 2022, SQuant
//! (arXiv 2202.07471: data-free, sums of errors by kernel and by row); ρ and μ² were measured, `docs/methods.md` §2.
use ndarray::{ArrayView1, ArrayViewMut1};

use crate::target::Pairing;

/// Correlation of the numbers at two neighbouring positions.
const CORRELATION: f64 = 0.6;

/// Positions further apart do not count (0.6⁷ < 0.03). Kernels of one axis that are longer filter a signal, whose neighbours are nearly equal:
/// there the first rule is better (on silero_vad, which has one: 0.0047 against 0.0089).
const REACH: usize = 6;

/// How far from its weight a number may go, in steps, by pass.
const LIMITS: [f64; 4] = [0.6, 0.8, 1.0, 1.0];

/// What is assumed of the numbers that a row meets.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// Positions of the kernel by axis; none for matrices. Channels run fastest along a row.
    pub taps: Vec<usize>,
    /// Square of their common mean, in variances: the weight of the sum of a row's errors
    pub mean_squared: f64,
}

impl Inputs {
    /// Without a mean, or with one that the bias takes up.
    pub fn centred(taps: &[usize]) -> Inputs {
        Inputs { taps: taps.to_vec(), mean_squared: 0.0 }
    }

    /// In 8 bits with this zero point, 0 … 255, if it is known: near an end of the range they are of one sign, behind a Relu
    /// as a rule, and have a mean.
    pub fn quantized(taps: &[usize], zero_point: Option<f64>) -> Inputs {
        let one_sign = zero_point.is_some_and(|zero_point| !(16.0..=239.0).contains(&zero_point));
        Inputs { taps: taps.to_vec(), mean_squared: if one_sign { 0.2 } else { 0.03 } }
    }
}

/// Rounds rows for the same inputs.
pub(super) struct Rounding {
    /// By position: others within reach and their correlation, itself with 1 among them
    near: Vec<Vec<(usize, f64)>>,
    mean_squared: f64,
    /// The first rule
    diffuse: bool,
    pairing: Pairing,
}

impl Rounding {
    pub fn new(inputs: &Inputs, pairing: Pairing) -> Rounding {
        let count = inputs.taps.iter().product::<usize>().max(1);
        let near = (0..count).map(|tap| neighbours(&inputs.taps, tap)).collect();
        let diffuse = inputs.mean_squared == 0.0 || matches!(inputs.taps[..], [length] if length > REACH + 1);
        Rounding { near, mean_squared: inputs.mean_squared, diffuse, pairing }
    }

    /// Rounds `row` to multiples of `scale`.
    pub fn row(&self, row: ArrayView1<'_, f64>, mut out: ArrayViewMut1<'_, i8>, scale: f64) {
        let wanted: Vec<f64> = row.iter().map(|w| w / scale).collect();
        let channels = (wanted.len() / self.near.len()).max(1);
        let mut integers: Vec<i16> = Vec::with_capacity(wanted.len());
        let mut carry = vec![0.0; channels];
        for (column, wanted) in wanted.iter().enumerate() {
            let carried = &mut carry[column % channels];
            let value = if self.diffuse { wanted + *carried } else { *wanted };
            let mut number = value.round_ties_even().clamp(-127.0, 127.0) as i16;
            if self.pairing == Pairing::Neighbours && column % 2 == 1 {
                // The second of a pair gives way.
                let sum = integers[column - 1] + number;
                number -= (sum.abs() - 128).max(0) * sum.signum();
            }
            *carried = value - f64::from(number);
            integers.push(number);
        }
        if !self.diffuse {
            self.improve(&wanted, &mut integers, channels);
        }
        for (out, number) in out.iter_mut().zip(integers) {
            *out = number as i8;
        }
    }

    fn improve(&self, wanted: &[f64], integers: &mut [i16], channels: usize) {
        let error = |integers: &[i16], column: usize| f64::from(integers[column]) - wanted[column];
        let mut sum: f64 = (0..wanted.len()).map(|column| error(integers, column)).sum();
        // By column: what H within the channel makes of the errors.
        let mut pull = vec![0.0; wanted.len()];
        for (tap, near) in self.near.iter().enumerate() {
            for channel in 0..channels {
                let at = |tap: usize| tap * channels + channel;
                pull[at(tap)] = near.iter().map(|(other, weight)| weight * error(integers, at(*other))).sum();
            }
        }
        let curvature = 1.0 + self.mean_squared;
        for limit in LIMITS {
            for column in 0..wanted.len() {
                let slope = pull[column] + self.mean_squared * sum;
                // A step of ∓1 changes the cost by ∓2·slope + curvature.
                if 2.0 * slope.abs() <= curvature * (1.0 + 1e-9) || wanted[column] == 0.0 {
                    continue;
                }
                let step = if slope > 0.0 { -1 } else { 1 };
                let next = integers[column] + step;
                let far = (f64::from(next) - wanted[column]).abs();
                if far > limit.max(error(integers, column).abs())
                    || next.abs() > 127
                    || self.breaks(integers, column, next)
                {
                    continue;
                }
                integers[column] = next;
                sum += f64::from(step);
                let (tap, channel) = (column / channels, column % channels);
                for (other, weight) in &self.near[tap] {
                    pull[other * channels + channel] += weight * f64::from(step);
                }
            }
        }
    }

    /// Whether `next` in place of the number at `column` lets its pair leave the bound.
    fn breaks(&self, integers: &[i16], column: usize, next: i16) -> bool {
        self.pairing == Pairing::Neighbours && integers.get(column ^ 1).is_some_and(|other| (other + next).abs() > 128)
    }
}

/// Positions within reach of `tap` in a kernel of this shape, with their correlation.
fn neighbours(shape: &[usize], tap: usize) -> Vec<(usize, f64)> {
    let mut found = vec![(0, 0)];
    let mut rest = shape.iter().product::<usize>();
    let mut left = tap;
    for &length in shape {
        rest = rest.checked_div(length).unwrap_or(0);
        let here = left.checked_div(rest).unwrap_or(0);
        left = left.checked_rem(rest).unwrap_or(0);
        let (first, last) = (here.saturating_sub(REACH), (here + REACH).min(length.saturating_sub(1)));
        found = found
            .iter()
            .flat_map(|&(index, apart)| (first..=last).map(move |at| (index + at * rest, apart + at.abs_diff(here))))
            .filter(|(_, apart)| *apart <= REACH)
            .collect();
    }
    found.into_iter().map(|(index, apart)| (index, CORRELATION.powi(apart as i32))).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::Array1;

    use super::*;

    fn random_row(seed: u64, columns: usize) -> Array1<f64> {
        let mut state = seed;
        Array1::from_shape_fn(columns, |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as f64 / f64::from(1u32 << 31) - 0.5) * 120.0
        })
    }

    fn rounded(row: &Array1<f64>, inputs: &Inputs, pairing: Pairing) -> Array1<i8> {
        let mut out = Array1::zeros(row.len());
        Rounding::new(inputs, pairing).row(row.view(), out.view_mut(), 1.0);
        out
    }

    fn errors(row: &Array1<f64>, out: &Array1<i8>) -> Array1<f64> {
        out.mapv(f64::from) - row
    }

    #[test]
    fn positions_within_reach_are_correlated_by_their_distance() {
        let near = neighbours(&[3, 3], 4);
        assert_eq!(near.len(), 9);
        let of = |tap: usize| near.iter().find(|(other, _)| *other == tap).map(|(_, weight)| *weight);
        assert_eq!((of(4), of(5), of(1), of(0)), (Some(1.0), Some(0.6), Some(0.6), Some(0.36)));
        assert_eq!(neighbours(&[], 0), [(0, 1.0)]);
        assert_eq!(neighbours(&[1000], 500).len(), 2 * REACH + 1);
    }

    #[test]
    fn what_the_bias_does_not_see_is_kept_to_half_a_step_by_channel() {
        for seed in 0..20 {
            let row = random_row(seed, 9 * 6);
            let errors = errors(&row, &rounded(&row, &Inputs::centred(&[3, 3]), Pairing::None));
            for channel in 0..6 {
                let sum: f64 = errors.iter().skip(channel).step_by(6).sum();
                assert!(sum.abs() <= 0.500001, "{sum}");
            }
        }
    }

    #[test]
    fn errors_of_neighbouring_positions_cancel() {
        let inputs = Inputs::quantized(&[3, 3], Some(128.0));
        let (mut smooth, mut nearest) = (0.0, 0.0);
        for seed in 0..50 {
            let row = random_row(seed, 9 * 5);
            let sums = |out: &Array1<i8>| -> f64 {
                let errors = errors(&row, out);
                (0..5).map(|channel| errors.iter().skip(channel).step_by(5).sum::<f64>().powi(2)).sum()
            };
            smooth += sums(&rounded(&row, &inputs, Pairing::None));
            nearest += sums(&row.mapv(|w| w.round_ties_even() as i8));
        }
        assert!(smooth < 0.4 * nearest, "{smooth} {nearest}");
    }

    #[test]
    fn with_a_mean_the_sum_of_a_row_is_kept_at_little_cost() {
        for seed in 0..50 {
            let row = random_row(seed, 400);
            let errors = errors(&row, &rounded(&row, &Inputs::quantized(&[], Some(0.0)), Pairing::None));
            assert!(errors.sum().abs() < 4.0, "{}", errors.sum());
            assert!(errors.iter().all(|error| error.abs() <= 1.0));
            let power = errors.mapv(|error| error * error).sum() / 400.0;
            assert!(power < 1.15 / 12.0, "{power}");
        }
        let row = random_row(7, 400);
        assert_eq!(rounded(&row, &Inputs::centred(&[]), Pairing::None), row.mapv(|w| w.round_ties_even() as i8));
    }

    #[test]
    fn zeros_stay_zeros_and_pairs_keep_their_bound() {
        for seed in 0..50 {
            let row = random_row(seed, 9 * 4).mapv(|w| if w.abs() < 20.0 { 0.0 } else { w * 1.06 });
            let out = rounded(&row, &Inputs::quantized(&[9], Some(0.0)), Pairing::Neighbours);
            for (weight, number) in row.iter().zip(&out) {
                assert!(*weight != 0.0 || *number == 0);
            }
            for pair in out.as_slice().unwrap_or_default().chunks_exact(2) {
                assert!((i16::from(pair[0]) + i16::from(pair[1])).abs() <= 128);
            }
        }
    }
}
