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

    /// Binary logarithm of the width of a bin.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Counts of all [`BINS`] bins; empty when no value is in a bin.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// A histogram of bins 2^`exponent` wide; `None` unless `counts` are [`BINS`] or none, and the exponent is one of a float.
    /// The other fields are the caller's to fill in.
    pub fn of_counts(exponent: i32, counts: Vec<u64>) -> Option<Histogram> {
        let is_one = (LEAST_EXPONENT..=128).contains(&exponent) && (counts.is_empty() || counts.len() == BINS);
        is_one.then(|| Histogram { exponent, counts, ..Histogram::default() })
    }

    /// Adds `values`.
    pub fn add(&mut self, values: &[f32]) {
        let mut tally = (values.len() >= TALLIED).then(Tally::new);
        for block in values.chunks(BLOCK) {
            let finite = self.see(block);
            if self.counts.is_empty() {
                self.counts = vec![0; BINS]; // not before the first width is known: wider bins are other bins
            }
            self.place(finite.as_deref().unwrap_or(block), &mut tally);
        }
    }

    /// Adds `values` to the extremes and counts alone, for a value of which no more is asked: it is then in no bin.
    pub fn add_extremes(&mut self, values: &[f32]) {
        for block in values.chunks(BLOCK) {
            self.see(block);
        }
    }

    /// Counts everything about `block` but its bins, and makes room in them; what is finite of it, where that is not all.
    fn see(&mut self, block: &[f32]) -> Option<Vec<f32>> {
        let Seen { min, max, zeros, others } = Seen::of(block);
        if others > 0 {
            self.non_finite += u64::from(others);
            let finite: Vec<f32> = block.iter().copied().filter(|value| value.is_finite()).collect();
            self.see(&finite);
            return Some(finite);
        }
        self.zeros += u64::from(zeros);
        self.count += block.len() as u64;
        (self.min, self.max) = (self.min.min(min), self.max.max(max));
        self.widen(exponent_for(if block.is_empty() { 0.0 } else { max.max(-min) }));
        None
    }

    /// Adds finite values, for which there is room, to their bins.
    fn place(&mut self, block: &[f32], tally: &mut Option<Tally>) {
        // Powers of two, so that the products are exact but for some below 1, which stay on their side of zero's bin.
        let (width, inverse) = (f64::from(self.exponent).exp2() as f32, f64::from(-self.exponent).exp2() as f32);
        match tally {
            Some(tally) => {
                tally.add(block, width, inverse);
                tally.empty_into(&mut self.counts);
            }
            None => {
                for &value in block {
                    self.counts[bin_of(value, width, inverse) as usize & (BINS - 1)] += 1;
                }
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
        self.widen(other.exponent);
        other.widen(self.exponent);
        if self.counts.is_empty() {
            self.counts = other.counts;
        } else {
            for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
                *mine += theirs;
            }
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.zeros += other.zeros;
        self.non_finite += other.non_finite;
    }
}

/// The least exponent with |value| < HALF·2^exponent.
fn exponent_for(value: f32) -> i32 {
    let floor_of_log2 = (value.to_bits() << 1 >> 24) as i32 - 127; // less than LEAST_EXPONENT for zero and denormals
    (floor_of_log2 + 1 - HALF.ilog2() as i32).max(LEAST_EXPONENT)
}

/// Numbers that are looked at together.
const LANES: usize = 16;

/// Numbers that fit into the cache, and into the counts of a [`Tally`].
const BLOCK: usize = 1 << 15;

/// Fewer numbers are counted without a [`Tally`].
const TALLIED: usize = 1 << 13;

/// 1.5·2^23: a float of at most 22 bits plus this has its integer part, rounded, in its low bits.
const ROUNDER: f32 = 12_582_912.0;

/// floor(value / width) + HALF, for a power of two and |value| < HALF·width.
#[inline(always)]
fn bin_of(value: f32, width: f32, inverse: f32) -> u32 {
    let sum = value * inverse + ROUNDER;
    let rounded = (sum.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let above = (sum - ROUNDER) * width > value;
    (rounded - i32::from(above) + HALF as i32) as u32
}

/// What a block holds.
struct Seen {
    min: f32,
    max: f32,
    zeros: u32,
    /// Numbers that are not finite
    others: u32,
}

impl Seen {
    fn of(block: &[f32]) -> Seen {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "the same loop, compiled for more of the processor than every one has")]
            // SAFETY: the processor has AVX2, as was just asked.
            return unsafe { Seen::of_avx2(block) };
        }
        Seen::of_any(block)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn of_avx2(block: &[f32]) -> Seen {
        Seen::of_any(block)
    }

    #[inline(always)]
    fn of_any(block: &[f32]) -> Seen {
        // Comparisons this way round leave NaN out; each lane by itself, so that the loop has no chain of dependences.
        let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let (mut zeros, mut others) = ([0u32; LANES], [0u32; LANES]);
        let (lanes, rest) = block.as_chunks::<LANES>();
        for values in lanes {
            for lane in 0..LANES {
                let value = values[lane];
                min[lane] = if value < min[lane] { value } else { min[lane] };
                max[lane] = if value > max[lane] { value } else { max[lane] };
                zeros[lane] += u32::from(value == 0.0);
                others[lane] += u32::from(value.abs() > f32::MAX) + u32::from(value.is_nan());
            }
        }
        for &value in rest {
            min[0] = if value < min[0] { value } else { min[0] };
            max[0] = if value > max[0] { value } else { max[0] };
            zeros[0] += u32::from(value == 0.0);
            others[0] += u32::from(!value.is_finite());
        }
        Seen {
            min: min.into_iter().fold(f32::INFINITY, f32::min),
            max: max.into_iter().fold(f32::NEG_INFINITY, f32::max),
            zeros: zeros.into_iter().sum(),
            others: others.into_iter().sum(),
        }
    }
}

/// Counts of one block, four for each bin: numbers that follow each other often fall into one bin, and would wait for
/// one another.
struct Tally(Vec<[u16; 4]>);

impl Tally {
    fn new() -> Tally {
        Tally(vec![[0; 4]; BINS])
    }

    fn add(&mut self, block: &[f32], width: f32, inverse: f32) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "the same loop, compiled for more of the processor than every one has")]
            // SAFETY: the processor has AVX2, as was just asked.
            return unsafe { self.add_avx2(block, width, inverse) };
        }
        self.add_any(block, width, inverse);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn add_avx2(&mut self, block: &[f32], width: f32, inverse: f32) {
        self.add_any(block, width, inverse);
    }

    #[inline(always)]
    fn add_any(&mut self, block: &[f32], width: f32, inverse: f32) {
        let Some(counts) = self.0.first_chunk_mut::<BINS>() else { return };
        let (lanes, rest) = block.as_chunks::<LANES>();
        let mut bins = [0u32; LANES];
        for values in lanes {
            for (bin, &value) in bins.iter_mut().zip(values) {
                *bin = bin_of(value, width, inverse);
            }
            for (lane, &bin) in bins.iter().enumerate() {
                counts[bin as usize & (BINS - 1)][lane % 4] += 1; // (at most BLOCK / 4)
            }
        }
        for (lane, &value) in rest.iter().enumerate() {
            counts[bin_of(value, width, inverse) as usize & (BINS - 1)][lane % 4] += 1;
        }
    }

    fn empty_into(&mut self, counts: &mut [u64]) {
        for (count, mine) in counts.iter_mut().zip(&mut self.0) {
            *count += std::mem::take(mine).into_iter().map(u64::from).sum::<u64>();
        }
    }
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
    fn blocks_lanes_and_left_overs_give_the_same_counts_as_single_values() {
        let mut values = numbers(5, BLOCK + TALLIED + 5, 1e3);
        values.extend([0.0, -0.0, f32::MIN_POSITIVE, -1e-40, -1e-30, 1e30, f32::NAN, f32::NEG_INFINITY, -17.0]);
        let (mut whole, mut single) = (Histogram::default(), Histogram::default());
        whole.add(&values);
        values.iter().for_each(|&value| single.add(&[value]));
        assert_eq!(whole, single);
        assert_eq!((whole.zeros, whole.non_finite, whole.count), (2, 2, values.len() as u64 - 2));
        assert_eq!(whole.bins().map(|(_, count)| count).sum::<u64>(), whole.count);
    }

    #[test]
    fn extremes_alone_are_the_same_and_merge() {
        let values = numbers(9, 1000, 3.0);
        let (mut full, mut alone, mut merged) = (Histogram::default(), Histogram::default(), Histogram::default());
        full.add(&values);
        alone.add_extremes(&values[..300]);
        merged.add_extremes(&values[300..]);
        merged.merge(alone);
        assert_eq!((merged.min, merged.max, merged.count), (full.min, full.max, full.count));
        assert_eq!(merged.bins().count(), 0);
        let range = (f64::from(full.min), f64::from(full.max));
        for calibrator in crate::calibration::calibrators::Calibrator::AUTO {
            assert_eq!(calibrator.range(&merged), range, "{calibrator:?}: where nothing is known, all of it");
        }
    }

    #[test]
    fn exponents_are_the_least_that_fit() {
        for value in [1.0f32, 0.999_999_94, 4095.9, 4096.0, 1e-30, f32::MAX, f32::MIN_POSITIVE] {
            let exponent = exponent_for(value);
            let room = |exponent: i32| HALF as f64 * f64::from(exponent).exp2();
            assert!(f64::from(value) < room(exponent), "{value}");
            assert!(exponent == LEAST_EXPONENT || f64::from(value) >= room(exponent - 1), "{value}");
        }
        assert_eq!((exponent_for(0.0), exponent_for(-1e-42)), (LEAST_EXPONENT, LEAST_EXPONENT));
    }

    #[test]
    fn non_finite_values_are_counted_and_not_binned() {
        let mut histogram = Histogram::default();
        histogram.add(&[1.0, f32::NAN, f32::INFINITY]);
        assert_eq!((histogram.non_finite, histogram.count, histogram.max), (2, 1, 1.0));
    }
}
