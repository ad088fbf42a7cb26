//! Range estimators: which part of a value's distribution 8 bits should cover.
//!
//! Each is a function of a [`Histogram`] alone. What is outside of the range saturates, as ONNX's QuantizeLinear
//! has it. Entropy is the least Kullback-Leibler divergence of the clipped histogram from the whole one (Migacz 2017).
use crate::calibration::histogram::Histogram;

/// A range estimator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Calibrator {
    /// Everything that was seen
    MinMax,
    /// All but 0.001 % of the mass
    Percentile,
    /// The range with the least squared error
    Mse,
    /// The range with the least information loss (KL divergence)
    Entropy,
}

impl Calibrator {
    /// Those among which `auto` chooses, the first wins ties.
    pub const AUTO: [Calibrator; 3] = [Calibrator::MinMax, Calibrator::Percentile, Calibrator::Mse];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Calibrator::MinMax => "minmax",
            Calibrator::Percentile => "percentile",
            Calibrator::Mse => "mse",
            Calibrator::Entropy => "entropy",
        }
    }

    /// (low, high) of the range to cover; both 0 when nothing was seen.
    pub fn range(self, histogram: &Histogram) -> (f64, f64) {
        if histogram.count == 0 {
            return (0.0, 0.0);
        }
        let full = (f64::from(histogram.min), f64::from(histogram.max));
        match self {
            Calibrator::MinMax => full,
            Calibrator::Percentile => percentile(histogram, full),
            Calibrator::Mse => mse(histogram, full),
            Calibrator::Entropy => entropy(histogram, full),
        }
    }
}

/// Cuts 0.001 % of the mass, above only when no value is negative, else half at each end.
fn percentile(histogram: &Histogram, (min, max): (f64, f64)) -> (f64, f64) {
    let cut = 1e-5 * histogram.count as f64;
    let (below, above) = if min >= 0.0 { (0.0, cut) } else { (cut / 2.0, cut / 2.0) };
    let width = histogram.width();
    let bins: Vec<(f64, u64)> = histogram.bins().collect();
    let mut low = min;
    let mut seen = 0.0;
    for &(edge, count) in &bins {
        if seen + count as f64 > below {
            low = edge + width * (below - seen) / count as f64;
            break;
        }
        seen += count as f64;
    }
    let mut high = max;
    seen = 0.0;
    for &(edge, count) in bins.iter().rev() {
        if seen + count as f64 > above {
            high = edge + width * (1.0 - (above - seen) / count as f64);
            break;
        }
        seen += count as f64;
    }
    (low.clamp(min, max), high.clamp(min, max))
}

/// Levels of 8 bits.
const LEVELS: f64 = 255.0;

/// `x` rounded half to even, for |x| < 2^51 (beyond, it stays near `x`): the sum has no bits left for a fraction.
fn rounded(x: f64) -> f64 {
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5·2^52
    (x + ROUNDER) - ROUNDER
}

/// Shrinks the high end, then the low end, twice, each over α ∈ {1, 0.98 … 0.3}, by the squared error of
/// quantizing each bin's centre.
fn mse(histogram: &Histogram, (min, max): (f64, f64)) -> (f64, f64) {
    let half = histogram.width() / 2.0;
    let mut bins: Vec<(f64, f64)> = histogram
        .bins()
        .map(|(edge, count)| ((edge + half).clamp(min, max), count as f64))
        .filter(|(centre, _)| *centre != 0.0)
        .collect();
    // The outer ones first: they tell soonest that a range is too narrow.
    bins.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()).then(a.0.total_cmp(&b.0)));
    // The error of a range; any larger number once it passes `least`.
    let error = |low: f64, high: f64, least: f64| -> f64 {
        let scale = (high - low) / LEVELS;
        if scale <= 0.0 {
            return f64::INFINITY;
        }
        let zero = rounded(-low / scale);
        let square = |&(centre, count): &(f64, f64)| {
            let step = (rounded(centre / scale) + zero).clamp(0.0, LEVELS) - zero;
            let error = centre - step * scale;
            count * error * error
        };
        let mut sum = 0.0;
        for bins in bins.chunks(64) {
            sum += bins.iter().map(square).sum::<f64>();
            if sum > least {
                break;
            }
        }
        sum
    };
    let (full_low, full_high) = (min.min(0.0), max.max(0.0));
    let (mut low, mut high) = (full_low, full_high);
    let alphas = || (0..=35).map(|step| 1.0 - 0.02 * f64::from(step));
    let best = |candidates: &mut dyn Iterator<Item = f64>, of: &dyn Fn(f64, f64) -> f64| {
        let mut best = (f64::INFINITY, 0.0);
        for candidate in candidates {
            let error = of(candidate, best.0);
            if error < best.0 {
                best = (error, candidate);
            }
        }
        best.1
    };
    for _ in 0..2 {
        if full_high > 0.0 {
            high = best(&mut alphas().map(|alpha| alpha * full_high), &|high, least| error(low, high, least));
        }
        if full_low < 0.0 {
            low = best(&mut alphas().map(|alpha| alpha * full_low), &|low, least| error(low, high, least));
        }
    }
    (low, high)
}

/// Bins of one side that KL works on, and levels that it quantizes them to.
const KL_BINS: usize = 2048;

/// KL divergence (TensorRT's calibration in its correct form), for each side of zero by itself; 256 levels on a one-sided
/// range, 128 a side otherwise.
fn entropy(histogram: &Histogram, (min, max): (f64, f64)) -> (f64, f64) {
    let levels = if min < 0.0 && max > 0.0 { 128 } else { 256 };
    let side = |sign: f64, end: f64| -> f64 {
        if end <= 0.0 {
            return 0.0;
        }
        let width = end / KL_BINS as f64;
        let mut counts = vec![0.0; KL_BINS];
        for (edge, count) in histogram.bins() {
            let centre = sign * (edge + histogram.width() / 2.0);
            if centre > 0.0 {
                counts[((centre / width) as usize).min(KL_BINS - 1)] += count as f64;
            }
        }
        // The zeros of a Relu would decide everything: they count as much as their neighbour.
        counts[0] = counts[1];
        kl_threshold(&counts, levels) * width
    };
    (-side(-1.0, -min), side(1.0, max))
}

/// The number of bins to keep so that quantizing them to `levels` loses least.
fn kl_threshold(counts: &[f64], levels: usize) -> f64 {
    let total: f64 = counts.iter().sum();
    let mut best = (f64::INFINITY, counts.len() as f64);
    let mut kept: f64 = counts[..levels].iter().sum();
    for end in levels..=counts.len() {
        let outside = total - kept;
        let mut p = counts[..end].to_vec();
        p[end - 1] += outside;
        let mut q = vec![0.0; end];
        for level in 0..levels {
            let (from, to) = (level * end / levels, ((level + 1) * end / levels).max(level * end / levels + 1));
            let to = to.min(end);
            let sum: f64 = counts[from..to].iter().sum();
            let used = p[from..to].iter().filter(|mass| **mass > 0.0).count();
            for index in from..to {
                if p[index] > 0.0 && used > 0 {
                    q[index] = sum / used as f64;
                }
            }
        }
        let (p_sum, q_sum): (f64, f64) = (p.iter().sum(), q.iter().sum());
        if p_sum > 0.0 && q_sum > 0.0 {
            let divergence: f64 = p
                .iter()
                .zip(&q)
                .filter(|(p, _)| **p > 0.0)
                .map(|(p, q)| p / p_sum * ((p / p_sum) / (q / q_sum).max(1e-4 / end as f64)).ln())
                .sum();
            if divergence < best.0 {
                best = (divergence, end as f64);
            }
        }
        if end < counts.len() {
            kept += counts[end];
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a normal distribution by its quantiles, and five outliers.
    fn normal_with_outliers() -> Histogram {
        let mut values = Vec::new();
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for _ in 0..200_000 {
            let sum: f64 = (0..12).map(|_| uniform()).sum();
            values.push((sum - 6.0) as f32);
        }
        values.extend([30.0; 5]);
        let mut histogram = Histogram::default();
        histogram.add(&values);
        histogram
    }

    #[test]
    fn min_max_keeps_everything() {
        assert_eq!(Calibrator::MinMax.range(&normal_with_outliers()).1, 30.0);
    }

    #[test]
    fn percentile_and_entropy_drop_rare_outliers() {
        let histogram = normal_with_outliers();
        for calibrator in [Calibrator::Percentile, Calibrator::Entropy] {
            let (low, high) = calibrator.range(&histogram);
            if calibrator == Calibrator::Entropy {
                assert!((3.0..8.0).contains(&high), "{calibrator:?} {low} {high}");
            }
            assert!(low < -3.0 && low > -7.0, "{calibrator:?} {low}");
        }
    }

    #[test]
    fn mse_clips_a_normal_distribution_near_four_deviations() {
        let mut histogram = Histogram::default();
        let mut state = 7u64;
        let values: Vec<f32> = (0..100_000)
            .map(|_| {
                let mut uniform = || {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 11) as f64 / (1u64 << 53) as f64
                };
                ((-2.0 * uniform().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32
            })
            .collect();
        histogram.add(&values);
        let (low, high) = Calibrator::Mse.range(&histogram);
        assert!((3.3..4.6).contains(&high) && (3.3..4.6).contains(&-low), "{low} {high}");
    }

    #[test]
    fn a_constant_keeps_its_value() {
        let mut histogram = Histogram::default();
        histogram.add(&[2.0; 100]);
        for calibrator in [Calibrator::MinMax, Calibrator::Percentile, Calibrator::Mse] {
            let (_, high) = calibrator.range(&histogram);
            assert!((1.9..=2.0).contains(&high), "{calibrator:?} {high}");
        }
    }
}
