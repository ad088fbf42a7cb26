//! Means along an axis that merge: the same for any order of the samples and any split of them into shards.
//!
//! What each sample sums to is a float. It is rounded once, to a multiple of 2^-60, and these add up as integers of 128 bits:
//! exactly. **Never** depends on what was added before; **never** overflows: a sum of one sample of 2^44 or more, or one that
//! is not finite, gives the mean up, and 2^22 samples of less fit (60 + 44 + 22 < 127 bits).

/// Most samples whose sums fit.
pub const MOST_SAMPLES: u64 = 1 << 22;

/// Bits of a sum behind the point.
const FRACTION: i32 = 60;

/// The least sum of one sample that is too large.
const LIMIT: f64 = (1u64 << 44) as f64;

/// Sums per position of an axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Means {
    /// No sample was added
    #[default]
    Unseen,
    /// Sums of numbers per position, times 2^60, and of how many numbers each is the sum
    Sums(Vec<i128>, u64),
    /// They cannot be told: the axis changes its length between samples, is not looked at, or sums are too large
    Unknown,
    /// What a rule tells in place of samples
    Told(Vec<f64>),
}

impl Means {
    /// Adds one sample's `sums`, of `count` numbers each; empty: the axis was not looked at.
    pub fn add(&mut self, sums: &[f64], count: u64) {
        let fits = !sums.is_empty() && sums.iter().all(|sum| sum.abs() < LIMIT);
        // The product is exact: the factor is a power of two, and nothing is large enough to leave the floats.
        let whole = |sum: &f64| (sum * f64::from(FRACTION).exp2()).round_ties_even() as i128;
        self.merge(if fits { Means::Sums(sums.iter().map(whole).collect(), count) } else { Means::Unknown });
    }

    /// Adds what `other` has seen.
    pub fn merge(&mut self, other: Means) {
        match (&mut *self, other) {
            (_, Means::Unseen) => {}
            (mine @ Means::Unseen, other) => *mine = other,
            (Means::Sums(mine, count), Means::Sums(theirs, more)) if mine.len() == theirs.len() => {
                mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.saturating_add(theirs));
                *count = count.saturating_add(more);
            }
            (mine, _) => *mine = Means::Unknown,
        }
    }

    /// The mean per position; empty when it cannot be told.
    pub fn means(&self) -> Vec<f64> {
        match self {
            Means::Sums(sums, count) => {
                let mean = |sum: &i128| *sum as f64 * f64::from(-FRACTION).exp2() / (*count).max(1) as f64;
                sums.iter().map(mean).collect()
            }
            Means::Told(means) => means.clone(),
            Means::Unseen | Means::Unknown => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Means;

    fn of(samples: &[f64]) -> Means {
        let mut means = Means::default();
        samples.iter().for_each(|&sum| means.add(&[sum, -sum], 1));
        means
    }

    #[test]
    fn any_split_and_order_sums_to_the_same() {
        // In floats, each order of these gives another sum.
        let samples = [1e12, 0.1, -1e12, 1e-9, 0.3, 1e7, -0.7, 3.3e-13];
        let whole = of(&samples);
        let reversed: Vec<f64> = samples.iter().rev().copied().collect();
        assert_eq!(of(&reversed), whole);
        for cut in 0..samples.len() {
            let mut merged = of(&samples[cut..]);
            merged.merge(of(&samples[..cut]));
            assert_eq!(merged, whole, "{cut}");
        }
        let mean = whole.means()[0];
        assert!((mean - (1e7 - 0.3 + 1e-9) / 8.0).abs() < 1e-6, "{mean}");
    }

    #[test]
    fn what_cannot_be_told_stays_so_in_any_order() {
        for odd in [&[1.0][..], &[], &[f64::NAN, 0.0], &[1e14, 0.0]] {
            let (mut before, mut after) = (Means::default(), of(&[2.0]));
            before.add(odd, 1);
            before.merge(of(&[2.0]));
            after.add(odd, 1);
            assert_eq!((before, after), (Means::Unknown, Means::Unknown), "{odd:?}");
        }
    }
}
