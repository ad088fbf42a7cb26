//! A histogram that merges: the same counts for any order of values and any split of the samples.
//!
//! Bins are 2^k wide and begin at multiples of their width, so a coarser histogram is the finer one with neighbours added
//! up: the result depends on the values alone. Source: `k` is the least for which every value falls into [`BINS`].

/// Bins of a full histogram, half of them for negative values.
pub const BINS: usize = 8192;
const HALF: i64 = BINS as i64 / 2;

/// Counts of finite values by magnitude, with exact extremes.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Width of a bin is 2^exponent
    exponent: i32,
    /// Count of values in [(i - HALF)·width, (i + 1 - HALF)·width)
    counts: Vec<u64>,
    /// Least value; +infinity when there is none
    pub min: f32,
    /// Largest value; -infinity when there is none
    pub max: f32,
    /// Values in all
    pub count: u64,
    /// Values that are exactly zero
    pub zeros: u64,
    /// Values that are NaN or infinite; they are in no bin
    pub non_finite: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            exponent: LEAST_EXPONENT,
            counts: Vec::new(),
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            count: 0,
            zeros: 0,
            non_finite: 0,
        }
    }
}

/// Below this width every float is a multiple of the width or a denormal: nothing is gained by finer bins.
const LEAST_EXPONENT: i32 = -126;

impl Histogram {
    /// Width of a bin.
    pub fn width(&self) -> f64 {
        f64::from(self.exponent).exp2()
    }

    /// (lower edge, count) of the bins that are not empty, in rising order.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let width = self.width();
        let edge = move |index: usize| (index as i64 - HALF) as f64 * width;
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(move |(index, count)| (edge(index), *count))
    }

    /// Adds `values`.
    pub fn add(&mut self, values: &[f32]) {
        let (mut min, mut max, mut largest) = (self.min, self.max, 0f32);
        let (mut zeros, mut non_finite) = (0u64, 0u64);
        for &value in values {
            if !value.is_finite() {
                non_finite += 1;
                continue;
            }
            min = min.min(value);
            max = max.max(value);
            largest = largest.max(value.abs());
            zeros += u64::from(value == 0.0);
        }
        (self.min, self.max) = (min, max);
        self.zeros += zeros;
        self.non_finite += non_finite;
        self.count += values.len() as u64 - non_finite;
        if self.counts.is_empty() {
            self.counts = vec![0; BINS];
        }
        self.widen(exponent_for(largest));
        let inverse = f64::from(-self.exponent).exp2();
        for &value in values {
            if value.is_finite() {
                let index = (f64::from(value) * inverse).floor() as i64 + HALF;
                self.counts[index.clamp(0, BINS as i64 - 1) as usize] += 1;
            }
        }
    }

    /// Makes bins at least 2^exponent wide.
    fn widen(&mut self, exponent: i32) {
        if exponent <= self.exponent || self.counts.is_empty() {
            self.exponent = self.exponent.max(exponent);
            return;
        }
        let shift = (exponent - self.exponent).min(62);
        let mut wider = vec![0; BINS];
        for (index, &count) in self.counts.iter().enumerate() {
            if count > 0 {
                // floor(x / 2^(k + shift)) of the bin's index counted from zero
                wider[(((index as i64 - HALF) >> shift) + HALF) as usize] += count;
            }
        }
        self.counts = wider;
        self.exponent = exponent;
    }

    /// Adds the values of `other`.
    pub fn merge(&mut self, mut other: Histogram) {
        if other.counts.is_empty() {
            self.non_finite += other.non_finite;
            return;
        }
        if self.counts.is_empty() {
            other.non_finite += self.non_finite;
            *self = other;
            return;
        }
        self.widen(other.exponent);
        other.widen(self.exponent);
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.zeros += other.zeros;
        self.non_finite += other.non_finite;
    }
}

/// The least exponent with |value| < HALF·2^exponent (a negative value of exactly that size still falls into bin 0).
fn exponent_for(value: f32) -> i32 {
    if value == 0.0 {
        return LEAST_EXPONENT;
    }
    let exponent = f64::from(value).log2().floor() as i32 + 1 - HALF.ilog2() as i32;
    exponent.max(LEAST_EXPONENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64, count: usize, spread: f32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * spread
        };
        (0..count).map(|_| next() * next()).collect()
    }

    #[test]
    fn counts_do_not_depend_on_order_or_split() {
        let parts = [numbers(1, 1000, 1.0), numbers(2, 10, 1e6), numbers(3, 500, 1e-3), vec![0.0, -7.5]];
        let mut whole = Histogram::default();
        for part in &parts {
            whole.add(part);
        }
        let mut merged = Histogram::default();
        for part in parts.iter().rev() {
            let mut one = Histogram::default();
            one.add(part);
            merged.merge(one);
        }
        assert_eq!(whole, merged);
        assert_eq!(whole.count, 1512);
        assert_eq!(whole.bins().map(|(_, count)| count).sum::<u64>(), 1512);
    }

    #[test]
    fn every_value_lies_in_its_bin() {
        let mut histogram = Histogram::default();
        histogram.add(&[-4.0, 4.0, 3.999, -0.001]);
        let width = histogram.width();
        for value in [-4.0, 4.0, 3.999, -0.001f64] {
            let found = histogram.bins().any(|(edge, _)| edge <= f64::from(value as f32) && value < edge + width);
            assert!(found, "{value}");
        }
    }

    #[test]
    fn non_finite_values_are_counted_and_not_binned() {
        let mut histogram = Histogram::default();
        histogram.add(&[1.0, f32::NAN, f32::INFINITY]);
        assert_eq!((histogram.non_finite, histogram.count, histogram.max), (2, 1, 1.0));
    }
}
