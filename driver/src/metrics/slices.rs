//! Sums by slices: what stands at one place of an axis, over all samples. They tell the parts of an output that one figure
//! over all of it hides, and what is signal once the mean is taken off.
use std::{ops::Range, slice::from_ref};

/// Slices of an axis that are told apart, at most.
const MOST_SLICES: usize = 1 << 16;

/// Slices are parts of different scale where this factor lies between them in every sample: squared, 20 dB.
const SCALE: f64 = 10.0 * 10.0;

/// Variation of less than this share of the magnitude is none: such values are constant but for noise.
const LEAST_VARIATION: f64 = 0.01;

/// Degrees of freedom from which on a variation is told.
const LEAST_FREEDOM: u64 = 3;

/// 10·log10(signal / error); `None` when one of them is zero.
pub(super) fn decibels(signal: f64, error: f64) -> Option<f64> {
    (error > 0.0 && signal > 0.0).then(|| 10.0 * (signal / error).log10())
}

/// Sums over one slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slice {
    pub count: u64,
    /// Σ a, Σ a², Σ (b − a)²
    pub sum: f64,
    pub before: f64,
    pub error: f64,
    /// The least and the largest mean of a² in a sample
    least: f64,
    most: f64,
}

impl Default for Slice {
    fn default() -> Slice {
        Slice { count: 0, sum: 0.0, before: 0.0, error: 0.0, least: f64::INFINITY, most: 0.0 }
    }
}

impl Slice {
    fn add(&mut self, other: &Slice) {
        self.count += other.count;
        self.sum += other.sum;
        self.before += other.before;
        self.error += other.error;
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
    }

    /// Σ a² around the mean, as so many samples estimate it.
    fn variation(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let count = self.count as f64;
        (self.before - self.sum * self.sum / count).max(0.0) * count / (count - 1.0)
    }
}

/// Of an output, the slices along each axis; `None` for axes that are too long, or not of one length in all samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Axes {
    axes: Vec<Option<Vec<Slice>>>,
    /// Whether a sample gives more than one row
    positions: bool,
    samples: usize,
}

impl Axes {
    /// The slices of one sample: `before` and `after` are what both models give, with `dims`.
    pub(super) fn of(dims: &[usize], before: &[f64], after: &[f64]) -> Axes {
        let whole = [before.len()];
        let dims = if dims.is_empty() { &whole } else { dims };
        let axes = (0..dims.len()).map(|axis| along(dims, axis, before, after));
        let long = dims[usize::from(dims.len() > 1)..].iter().filter(|dim| **dim > 1).count();
        Axes { axes: axes.collect(), positions: long > 1, samples: 1 }
    }

    pub(super) fn add(&mut self, other: &Axes) {
        if self.samples == 0 {
            *self = other.clone();
            return;
        }
        self.samples += other.samples;
        self.positions |= other.positions;
        if self.axes.len() != other.axes.len() {
            self.axes.iter_mut().for_each(|axis| *axis = None);
            return;
        }
        for (axis, other) in self.axes.iter_mut().zip(&other.axes) {
            match (axis.as_mut(), other) {
                (Some(slices), Some(others)) if slices.len() == others.len() => {
                    slices.iter_mut().zip(others).for_each(|(slice, other)| slice.add(other));
                }
                _ => *axis = None,
            }
        }
    }

    /// The slices along `axis`.
    pub(super) fn along(&self, axis: usize) -> Option<&[Slice]> {
        self.axes.get(axis)?.as_deref()
    }

    /// The axes that have slices.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &[Slice])> {
        self.axes.iter().enumerate().filter_map(|(axis, slices)| Some((axis, slices.as_deref()?)))
    }

    /// Whether a sample gives one row alone (scores, an embedding), not numbers at many positions.
    pub(super) fn is_row(&self) -> bool {
        !self.positions
    }

    /// The axis along which means are taken where nothing else tells it: that of the row, or the one along which they differ most.
    pub(super) fn mean_axis(&self) -> Option<usize> {
        if self.is_row() {
            let last = self.axes.len().checked_sub(1)?;
            let from = usize::from(last > 0);
            let long = (from..=last).find(|axis| self.along(*axis).is_some_and(|slices| slices.len() > 1));
            return Some(long.unwrap_or(last));
        }
        let explained = |slices: &[Slice]| {
            slices.iter().map(|slice| slice.sum * slice.sum / slice.count.max(1) as f64).sum::<f64>()
        };
        let axes = self.all().map(|(axis, slices)| (explained(slices), axis));
        axes.max_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1))).map(|(_, axis)| axis)
    }

    /// Groups of places of an axis whose scales are apart in every sample, and that axis; `None` where there is one group.
    pub(super) fn by_scale(&self) -> Option<(usize, Vec<Vec<Range<usize>>>)> {
        let found = self.all().filter_map(|(axis, slices)| {
            let (gap, groups) = self.groups(slices, from_ref(&(0..slices.len())))?;
            Some((gap, axis, groups))
        });
        found
            .max_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)))
            .map(|(_, axis, groups)| (axis, groups))
    }

    /// The places of `ranges` in groups of one scale, the largest scale first, and the widest gap between two of them.
    pub(super) fn groups(&self, slices: &[Slice], ranges: &[Range<usize>]) -> Option<(f64, Vec<Vec<Range<usize>>>)> {
        if self.samples < 2 {
            return None;
        }
        let mut places: Vec<usize> = ranges.iter().cloned().flatten().collect();
        places.sort_by(|one, other| slices[*other].most.total_cmp(&slices[*one].most).then(one.cmp(other)));
        // A slice that is zero everywhere has no scale: it stays with those before it.
        let mut below: Vec<f64> = vec![0.0; places.len() + 1];
        for (index, place) in places.iter().enumerate().rev() {
            below[index] = below[index + 1].max(slices[*place].most);
        }
        let (mut groups, mut widest, mut least) = (vec![Vec::new()], 0.0f64, f64::INFINITY);
        for (index, &place) in places.iter().enumerate() {
            if below[index] > 0.0 && least.is_finite() && least >= SCALE * below[index] {
                widest = widest.max(least / below[index]);
                groups.push(Vec::new());
                least = f64::INFINITY;
            }
            least = least.min(slices[place].least);
            if let Some(group) = groups.last_mut() {
                group.push(place);
            }
        }
        (groups.len() > 1).then(|| (widest, groups.into_iter().map(ranges_of).collect()))
    }
}

/// The slices of one sample along `axis`.
fn along(dims: &[usize], axis: usize, before: &[f64], after: &[f64]) -> Option<Vec<Slice>> {
    let length = dims[axis];
    let inner: usize = dims[axis + 1..].iter().product();
    if length == 0 || length > MOST_SLICES || before.is_empty() {
        return None;
    }
    let mut slices = vec![Slice::default(); length];
    for (a, b) in before.chunks_exact(length * inner).zip(after.chunks_exact(length * inner)) {
        for (slice, (a, b)) in slices.iter_mut().zip(a.chunks_exact(inner).zip(b.chunks_exact(inner))) {
            let finite = a.iter().zip(b).filter(|(a, b)| a.is_finite() && b.is_finite());
            for (a, b) in finite {
                slice.count += 1;
                slice.sum += a;
                slice.before += a * a;
                slice.error += (b - a) * (b - a);
            }
        }
    }
    for slice in &mut slices {
        slice.most = slice.before / slice.count.max(1) as f64;
        slice.least = slice.most;
    }
    Some(slices)
}

/// Places as ranges.
fn ranges_of(mut places: Vec<usize>) -> Vec<Range<usize>> {
    places.sort_unstable();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for place in places {
        match ranges.last_mut().filter(|last| last.end == place) {
            Some(last) => last.end += 1,
            None => ranges.push(place..place + 1),
        }
    }
    ranges
}

/// Sums over the slices of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub count: u64,
    /// Σ a² and Σ (b − a)²
    pub before: f64,
    pub error: f64,
    /// Σ a² around the mean of each slice; `None` where too little tells it, or nothing varies
    pub variation: Option<f64>,
}

impl Totals {
    /// Over all of them.
    pub(super) fn whole(slices: &[Slice]) -> Totals {
        Totals::of(slices, from_ref(&(0..slices.len())))
    }

    pub(super) fn of(slices: &[Slice], ranges: &[Range<usize>]) -> Totals {
        let mut totals = Totals::default();
        let (mut variation, mut freedom) = (0.0, 0);
        for slice in ranges.iter().cloned().flatten().filter_map(|place| slices.get(place)) {
            totals.count += slice.count;
            totals.before += slice.before;
            totals.error += slice.error;
            variation += slice.variation();
            freedom += slice.count.saturating_sub(1);
        }
        let least = LEAST_VARIATION * LEAST_VARIATION * totals.before;
        totals.variation = Some(variation).filter(|variation| freedom >= LEAST_FREEDOM && *variation > least);
        totals
    }

    /// √(Σ a² / n)
    pub(super) fn rms(&self) -> f64 {
        (self.before / self.count.max(1) as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::{Axes, Totals};

    fn axes(dims: &[usize], samples: &[&[f64]]) -> Axes {
        let mut axes = Axes::default();
        samples.iter().for_each(|sample| axes.add(&Axes::of(dims, sample, &vec![0.0; sample.len()])));
        axes
    }

    #[test]
    fn scales_that_are_apart_in_every_sample_are_groups() {
        // Three places; the last is small in all samples, the second in one alone.
        let samples: [&[f64]; 3] = [&[100.0, 80.0, 0.5], &[90.0, 1.0, 0.3], &[100.0, 90.0, -0.2]];
        let found = axes(&[1, 3], &samples[..1]);
        assert_eq!(found.by_scale(), None, "one sample");
        let found = axes(&[1, 3], &samples[..]);
        assert_eq!(found.by_scale(), None, "the second place is as small as the last in the second sample");
        let samples: [&[f64]; 2] = [&[100.0, 80.0, 0.5], &[90.0, 70.0, 0.3]];
        assert_eq!(axes(&[1, 3], &samples).by_scale(), Some((1, [0..2, 2..3].map(|range| vec![range]).to_vec())));
        let samples: [&[f64]; 2] = [&[100.0, 0.0, 80.0], &[90.0, 0.0, 70.0]];
        assert_eq!(axes(&[1, 3], &samples).by_scale(), None, "zeros have no scale");
    }

    #[test]
    fn the_mean_is_no_signal() {
        let found = axes(&[1, 1], &[&[3.0], &[3.2], &[2.8], &[3.0], &[3.1]]);
        assert!(found.is_row() && found.mean_axis() == Some(1));
        let totals = Totals::whole(found.along(1).unwrap());
        // Variance 0.022 of 4 degrees of freedom, times 5.
        assert!((totals.variation.unwrap() - 0.11).abs() < 1e-9, "{totals:?}");
        let still = axes(&[1, 1], &[&[3.0], &[3.001], &[3.0], &[3.0], &[3.001]]);
        assert_eq!(Totals::whole(still.along(1).unwrap()).variation, None);
        let few = axes(&[1, 1], &[&[3.0], &[4.0]]);
        assert_eq!(Totals::whole(few.along(1).unwrap()).variation, None);
        assert!(!axes(&[1, 4, 2], &[&[0.0; 8]]).is_row());
    }
}
