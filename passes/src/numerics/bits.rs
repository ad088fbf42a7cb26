//! How many bits each layer's weights get, for the least error that a number of bytes allows.
//!
//! What one layer's rounding adds to the error of the outputs falls with its bytes, and errors of layers add up about. So each layer
//! begins with its smallest form, and the step of most error a byte comes next, as long as bytes are left: the best there is but
//! for the last step (the lower convex hulls: Everett 1963). **Never** takes a form that another of no more bytes is better than.
use std::cmp::Ordering;

/// How the weights of a layer may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 4 bits, in blocks of so many inputs
    Four(usize),
    /// 8 bits, with a scale for each output
    Eight,
}

/// A form with what it takes and does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// How
    pub form: Form,
    /// Bytes that it takes
    pub bytes: f64,
    /// What its rounding does, in any unit that is the same for all layers
    pub noise: f64,
}

/// The form of each layer, for `choices` of each layer (one at least) that take no more than `bytes` together, or as little as
/// they can.
pub fn allot(choices: &[Vec<Choice>], bytes: f64) -> Vec<Form> {
    let hulls: Vec<Vec<Choice>> = choices.iter().map(|choices| hull(choices)).collect();
    let mut left = bytes - hulls.iter().map(|hull| hull[0].bytes).sum::<f64>();
    let slope = |from: &Choice, to: &Choice| (from.noise - to.noise) / (to.bytes - from.bytes);
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (layer, hull) in hulls.iter().enumerate() {
        steps.extend(hull.windows(2).enumerate().map(|(step, pair)| (slope(&pair[0], &pair[1]), layer, step)));
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut at = vec![0; hulls.len()];
    for (_, layer, step) in steps {
        let more = hulls[layer][step + 1].bytes - hulls[layer][at[layer]].bytes;
        // A step that is too large may be left out and a later one of the same layer, too.
        if more <= left {
            at[layer] = step + 1;
            left -= more;
        }
    }
    hulls.iter().zip(at).map(|(hull, at)| hull[at].form).collect()
}

/// The choices on the lower convex hull, by bytes.
fn hull(choices: &[Choice]) -> Vec<Choice> {
    let mut by_bytes = choices.to_vec();
    by_bytes.sort_by(|a, b| match a.bytes.total_cmp(&b.bytes) {
        Ordering::Equal => a.noise.total_cmp(&b.noise),
        other => other,
    });
    let mut hull: Vec<Choice> = Vec::new();
    for choice in by_bytes {
        if hull.last().is_some_and(|last| choice.noise >= last.noise || choice.bytes <= last.bytes) {
            continue;
        }
        let is_above = |a: &Choice, b: &Choice| {
            (b.noise - a.noise) * (choice.bytes - a.bytes) >= (choice.noise - a.noise) * (b.bytes - a.bytes)
        };
        while hull.len() > 1 && is_above(&hull[hull.len() - 2], &hull[hull.len() - 1]) {
            hull.pop();
        }
        hull.push(choice);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::{Choice, Form, allot};

    fn layer(numbers: f64, noise: f64) -> Vec<Choice> {
        let four = |size: usize| Choice {
            form: Form::Four(size),
            bytes: numbers * (0.5 + 2.0 / size as f64),
            noise: noise * (size as f64).ln(),
        };
        let eight = Choice { form: Form::Eight, bytes: numbers, noise: noise / 100.0 };
        vec![eight, four(32), four(16), four(64)]
    }

    #[test]
    fn bytes_go_where_they_bring_most() {
        let forms = |bytes: f64, noises: [f64; 2]| allot(&[layer(1000.0, noises[0]), layer(100.0, noises[1])], bytes);
        assert_eq!(forms(700.0, [1.0, 1.0])[1], Form::Eight, "a tenth of the bytes for as much of the error");
        assert_eq!(forms(680.0, [1.0, 1e-4]), [Form::Four(16), Form::Four(64)]);
        assert_eq!(forms(1200.0, [1.0, 1e-4]), [Form::Eight, Form::Eight]);
        assert_eq!(forms(0.0, [1.0, 1.0]), [Form::Four(64), Form::Four(64)], "there is nothing smaller");
    }

    #[test]
    fn no_more_bytes_are_taken_than_there_are_and_more_bytes_mean_no_more_error() {
        let layers: Vec<Vec<Choice>> =
            (1..12).map(|k| layer(f64::from(k * 97 % 13 + 1) * 50.0, f64::from(k * 31 % 7 + 1))).collect();
        let of = |forms: &[Form], number: &dyn Fn(&Choice) -> f64| -> f64 {
            let one =
                |(choices, form): (&Vec<Choice>, &Form)| choices.iter().find(|c| c.form == *form).map_or(0.0, number);
            layers.iter().zip(forms).map(one).sum()
        };
        let mut before = f64::INFINITY;
        for bytes in (25..60).map(|k| 100.0 * f64::from(k)) {
            let forms = allot(&layers, bytes);
            assert!(of(&forms, &|c| c.bytes) <= bytes.max(of(&allot(&layers, 0.0), &|c| c.bytes)));
            let noise = of(&forms, &|c| c.noise);
            assert!(noise <= before * 1.1, "{noise} {before} {bytes}");
            before = noise;
        }
    }
}
