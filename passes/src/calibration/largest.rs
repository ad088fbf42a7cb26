//! The largest magnitude per position of an axis, which merges: the same for any order and split of the samples.

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Largest {
    /// No sample was added
    #[default]
    Unseen,
    /// Per position, finite
    Seen(Vec<f32>),
    /// It cannot be told: the axis changes its length between samples, is not looked at, or numbers are not finite
    Unknown,
}

impl Largest {
    /// Adds what one sample shows; empty: the axis was not looked at.
    pub fn add(&mut self, magnitudes: Vec<f32>) {
        let fits = !magnitudes.is_empty() && magnitudes.iter().all(|magnitude| magnitude.is_finite());
        self.merge(if fits { Largest::Seen(magnitudes) } else { Largest::Unknown });
    }

    /// Adds what `other` has seen.
    pub fn merge(&mut self, other: Largest) {
        match (&mut *self, other) {
            (_, Largest::Unseen) => {}
            (mine @ Largest::Unseen, other) => *mine = other,
            (Largest::Seen(mine), Largest::Seen(theirs)) if mine.len() == theirs.len() => {
                mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.max(theirs));
            }
            (mine, _) => *mine = Largest::Unknown,
        }
    }

    /// Per position; empty when it cannot be told.
    pub fn magnitudes(&self) -> &[f32] {
        match self {
            Largest::Seen(magnitudes) => magnitudes,
            Largest::Unseen | Largest::Unknown => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Largest;

    #[test]
    fn any_order_gives_the_same_and_other_lengths_give_it_up() {
        let of = |samples: &[&[f32]]| {
            let mut largest = Largest::default();
            samples.iter().for_each(|sample| largest.add(sample.to_vec()));
            largest
        };
        assert_eq!(of(&[&[1.0, 5.0], &[3.0, 2.0]]).magnitudes(), [3.0, 5.0]);
        assert_eq!(of(&[&[3.0, 2.0], &[1.0, 5.0]]).magnitudes(), [3.0, 5.0]);
        for odd in [&[1.0][..], &[], &[f32::INFINITY, 0.0]] {
            assert_eq!(of(&[&[1.0, 5.0], odd]), Largest::Unknown);
            assert_eq!(of(&[odd, &[1.0, 5.0]]), Largest::Unknown);
        }
    }
}
