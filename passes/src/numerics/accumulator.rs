//! How large the sums of a layer can get, proven from its weights.
//!
//! With u8 inputs x, zero point z and weights w, Σ (x − z)·w lies between −zΣw⁺ − (255 − z)Σ|w⁻| and (255 − z)Σw⁺ + zΣ|w⁻|; both are
//! attained. Source: `docs/methods.md` §3. A sum beyond 32 bits wraps around silently in every engine.

/// What the sums of one row of weights can reach, the bias aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The least sum
    pub low: i64,
    /// The largest
    pub high: i64,
}

impl Bound {
    /// Of `row`, for the zero point `zero`; for `None` the zero point is known at run time only.
    pub fn of(row: impl IntoIterator<Item = i8>, zero: Option<u8>) -> Bound {
        let (mut positive, mut negative) = (0i64, 0i64);
        for w in row {
            let w = i64::from(w);
            positive += w.max(0);
            negative += (-w).max(0);
        }
        let with = |zero: i64| Bound {
            low: -zero * positive - (255 - zero) * negative,
            high: (255 - zero) * positive + zero * negative,
        };
        match zero {
            Some(zero) => with(i64::from(zero)),
            None => with(0).or(with(255)),
        }
    }

    /// What holds both.
    #[must_use]
    pub fn or(self, other: Bound) -> Bound {
        Bound { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// With `bias` added: the sums before and after, as an engine may add it at either end.
    #[must_use]
    pub fn with_bias(self, bias: i64) -> Bound {
        let after = Bound { low: self.low.saturating_add(bias), high: self.high.saturating_add(bias) };
        self.or(after)
    }

    /// Bits of a two's complement integer that holds every sum.
    pub fn bits(self) -> u32 {
        // The largest negative number has one more than the largest positive one.
        let magnitude = self.high.max(self.low.checked_neg().map_or(i64::MAX, |low| low - 1)).max(0);
        i64::BITS - magnitude.leading_zeros() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::Bound;

    #[test]
    fn the_bound_is_attained_and_not_passed() {
        let row = [127i8, -3, 0, 64, -100];
        for zero in [0u8, 1, 77, 128, 255] {
            let bound = Bound::of(row, Some(zero));
            let sum = |pick: fn(i8) -> u8| -> i64 {
                row.iter().map(|&w| (i64::from(pick(w)) - i64::from(zero)) * i64::from(w)).sum()
            };
            assert_eq!(bound.high, sum(|w| if w > 0 { 255 } else { 0 }), "{zero}");
            assert_eq!(bound.low, sum(|w| if w > 0 { 0 } else { 255 }), "{zero}");
            assert_eq!(Bound::of(row, None).or(bound), Bound::of(row, None), "{zero}");
        }
    }

    #[test]
    fn bits_are_those_of_twos_complement() {
        let bits = |low, high| Bound { low, high }.bits();
        assert_eq!(
            [bits(0, 0), bits(-1, 0), bits(0, 1), bits(-2, 1), bits(-128, 127), bits(0, 128)],
            [1, 1, 2, 2, 8, 9]
        );
        assert_eq!([bits(-(1 << 31), (1 << 31) - 1), bits(0, 1 << 31)], [32, 33]);
        // The bias alone may leave what the sums alone do not.
        assert_eq!(Bound { low: -10, high: 10 }.with_bias(120).bits(), 9);
        assert_eq!(Bound { low: -300, high: 10 }.with_bias(250).bits(), 10);
    }
}
