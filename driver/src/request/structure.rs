//! What is removed of the model's structure, and how it is chosen.
use std::str::FromStr;

use onnx_shrink_passes::prune::orders::Criterion;

/// What is removed, and how it is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StructureOptions {
    /// Share of the multiply-adds to remove
    pub prune: Option<f64>,
    /// How channels are ranked; `None`: as the samples allow
    pub criterion: Option<Criterion>,
    /// How ranks of fully connected layers are chosen
    pub svd: Option<Svd>,
}

/// How ranks are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Svd {
    /// Measured on samples; without them the least rank that keeps 99 % of the energy
    Auto,
    /// The least rank that keeps this share of the energy
    Energy(f64),
    /// This share of the full rank
    Rank(f64),
}

impl FromStr for Svd {
    type Err = String;

    fn from_str(text: &str) -> Result<Svd, String> {
        let share = |text: &str| text.trim().parse::<f64>().ok().filter(|share| *share > 0.0 && share.is_finite());
        let wrong = || format!("`{text}` is none of: auto, a share of energy as 0.95, a share of the rank as 25%");
        if text == "auto" {
            return Ok(Svd::Auto);
        }
        match text.strip_suffix('%') {
            Some(percent) => share(percent).filter(|percent| *percent <= 100.0).map(|p| Svd::Rank(p / 100.0)),
            None => share(text).filter(|energy| *energy <= 1.0).map(Svd::Energy),
        }
        .ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::Svd;

    #[test]
    fn the_flag_reads_what_it_says() {
        assert_eq!("auto".parse(), Ok(Svd::Auto));
        assert_eq!("0.95".parse(), Ok(Svd::Energy(0.95)));
        assert_eq!("25%".parse(), Ok(Svd::Rank(0.25)));
        for wrong in ["", "0", "1.5", "-1", "120%", "x", "nan"] {
            let error = wrong.parse::<Svd>().unwrap_err();
            assert!(error.contains("auto"), "{error}");
        }
    }
}
