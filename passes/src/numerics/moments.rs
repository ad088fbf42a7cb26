//! Means and standard deviations of normal values behind a Relu or Clip.
//!
//! Source: `docs/methods.md` §1 (moments of a clipped normal distribution, checked there by sampling).

/// Mean and standard deviation of min(max(x, 0), upper) for normal x: with α = −m/σ, b = (h − m)/σ,
/// E = m(Φ(b) − Φ(α)) + σ(φ(α) − φ(b)) + h(1 − Φ(b)),
/// E₂ = (m² + σ²)(Φ(b) − Φ(α)) + σ((ασ + 2m)φ(α) − (bσ + 2m)φ(b)) + h²(1 − Φ(b)).
pub(crate) fn clipped(mean: f64, deviation: f64, upper: f64) -> (f64, f64) {
    if deviation <= 0.0 {
        return (mean.clamp(0.0, upper), 0.0);
    }
    let (alpha, beta) = (-mean / deviation, (upper - mean) / deviation);
    let inside = normal(beta) - normal(alpha);
    let (low, high) = (density(alpha), density(beta));
    let above = if upper.is_finite() { upper * (1.0 - normal(beta)) } else { 0.0 };
    let first = mean * inside + deviation * (low - high) + above;
    let at_upper = if upper.is_finite() { (upper + mean) * high } else { 0.0 };
    // ασ = −m and bσ = h − m.
    let second = (mean * mean + deviation * deviation) * inside
        + deviation * (mean * low - at_upper)
        + if upper.is_finite() { upper * above } else { 0.0 };
    (first, (second - first * first).max(0.0).sqrt())
}

fn density(x: f64) -> f64 {
    if x.is_finite() { (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() } else { 0.0 }
}

/// The distribution function of the standard normal distribution, to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26).
fn normal(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let erf = if z.is_finite() { 1.0 - poly * (-z * z).exp() } else { 1.0 };
    0.5 * (1.0 + erf.copysign(x))
}

#[cfg(test)]
mod tests {
    use super::clipped;

    /// Mean and deviation by summing over a fine grid.
    fn summed(mean: f64, deviation: f64, upper: f64) -> (f64, f64) {
        let steps = 200_000;
        let (mut weight, mut first, mut second) = (0.0, 0.0, 0.0);
        for step in 0..=steps {
            let z = (f64::from(step) / f64::from(steps) - 0.5) * 20.0;
            let density = (-z * z / 2.0).exp();
            let x = (mean + deviation * z).clamp(0.0, upper);
            weight += density;
            first += density * x;
            second += density * x * x;
        }
        let first = first / weight;
        (first, (second / weight - first * first).sqrt())
    }

    #[test]
    fn the_formulas_are_the_integrals() {
        for (mean, deviation, upper) in [(0.0, 1.0, f64::INFINITY), (0.4, 2.0, 6.0), (-1.0, 0.7, 0.5), (5.5, 1.0, 6.0)]
        {
            let (found, wanted) = (clipped(mean, deviation, upper), summed(mean, deviation, upper));
            assert!((found.0 - wanted.0).abs() < 1e-4 && (found.1 - wanted.1).abs() < 1e-3, "{found:?} {wanted:?}");
        }
        assert_eq!(clipped(7.0, 0.0, 6.0), (6.0, 0.0));
    }
}
