//! What a result must hold, judged by what was measured.
use std::collections::BTreeSet;

use serde::Serialize;

use super::{comparison::Comparison, parts::Part, sums::OutputMetrics};
use crate::gates::{Gate, Gates};

/// Whether a gate holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateResult {
    /// "lossless-rel", "sqnr", "drop": the key of `--gate`
    pub gate: &'static str,
    /// The output that was judged, where it is about one
    pub output: Option<String>,
    /// The part of it that was judged, or "around its mean"; `None`: the whole as it is
    pub part: Option<String>,
    /// What was measured; `None` when it is without bound or makes no number
    pub measured: Option<f64>,
    /// The limit
    pub limit: f64,
    /// Whether it holds
    pub passed: bool,
    /// Why not, in a sentence; empty when it holds
    pub reason: String,
}

impl GateResult {
    fn new(
        gate: &'static str,
        output: Option<&str>,
        measured: Option<f64>,
        limit: f64,
        problem: Option<String>,
    ) -> Self {
        let output = output.map(str::to_owned);
        let (passed, reason) = match problem {
            None => (true, String::new()),
            Some(problem) => (false, problem),
        };
        GateResult { gate, output, part: None, measured, limit, passed, reason }
    }

    /// What `gate` says of a model to which nothing was done that it judges.
    pub fn without_change(gate: Gate, limit: f64) -> GateResult {
        GateResult::new(gate.key(), None, None, limit, None)
    }

    /// The same of a part of the output.
    fn of(mut self, part: String) -> Self {
        self.part = Some(part);
        self
    }
}

/// What no rewrite may change: shapes, types, and where numbers are finite.
fn form_problem(metrics: &OutputMetrics) -> Option<String> {
    let name = &metrics.name;
    if metrics.misshapen > 0 {
        return Some(format!("output `{name}` has another shape or type on {} samples", metrics.misshapen));
    }
    (metrics.not_finite > 0)
        .then(|| format!("{} elements of output `{name}` are finite in one model only", metrics.not_finite))
}

/// An error that is below the resolution of f32 for numbers around 1 is none, however small the output is.
const NO_ERROR: f64 = 1e-7;

/// What a part may be below its output's gate, in dB. A fine detector (yolox_nano, F1 as the float model's) has its scores at 7
/// behind a whole at 14.
const PART_BELOW: f64 = 8.0;

/// Least of a part where its output's gate is not lower still: half of its signal is left.
const LEAST_PART: f64 = 3.0;

/// Least of a part on made-up samples: at 0 dB its error is as large as its signal.
const LEAST_MADE_UP: f64 = 1.0;

/// An error below this share of the output is the rounding of 16-bit floats.
const HALF_ERROR: f64 = 1e-3;

/// What a part must hold where its output must hold `gate`, in dB.
fn part_gate(gate: f64) -> f64 {
    (gate - PART_BELOW).max(gate.min(LEAST_PART))
}

impl Gates {
    /// Those that were given and are not among `judged`.
    pub fn not_among(&self, judged: &[GateResult]) -> BTreeSet<Gate> {
        let is_judged = |gate: &Gate| {
            let by = |key: &str| judged.iter().any(|result| result.gate == key && result.limit == self.limit(*gate));
            // (A drop that is given holds for pruning, too.)
            by(gate.key()) || *gate == Gate::Drop && by(Gate::PruneDrop.key())
        };
        self.given.iter().filter(|gate| !is_judged(gate)).copied().collect()
    }

    /// The gates for rewrites that keep the function; `half` says that the model computes in 16-bit floats. `lossless-rel` that
    /// was given holds for these, too.
    pub fn lossless(&self, comparison: &Comparison, half: bool) -> Vec<GateResult> {
        let mut gates = vec![if half { Gate::LosslessRelFp16 } else { Gate::LosslessRel }];
        if half && self.given.contains(&Gate::LosslessRel) {
            gates.push(Gate::LosslessRel);
        }
        let judge = |gate: Gate, metrics: &OutputMetrics| {
            let limit = self.limit(gate);
            let holds = metrics.rel_l2 <= limit || metrics.rms <= NO_ERROR;
            let far = || {
                let (name, rel) = (&metrics.name, metrics.rel_l2);
                format!("output `{name}` differs by {rel:.2e} (relative L2), at most {limit:.0e} is allowed")
            };
            let problem = form_problem(metrics).or_else(|| (!holds).then(far));
            GateResult::new(gate.key(), Some(&metrics.name), Some(metrics.rel_l2), limit, problem)
        };
        let judge_slice = |gate: Gate, metrics: &OutputMetrics| {
            let slice = metrics.worst_slice.filter(|_| metrics.float)?;
            // What is wrong in one place shows there, and may not in the whole; rounding does not reach half of the digits.
            let limit = self.limit(gate).sqrt();
            let size = metrics.rms / metrics.rel_l2;
            let noise = if half { HALF_ERROR * size } else { 0.0 };
            let holds = slice.rel <= limit || slice.error_rms <= NO_ERROR.max(noise);
            let (name, rel) = (&metrics.name, slice.rel);
            let place = format!("{} of axis {}", slice.index, slice.axis);
            let far = format!(
                "output `{name}` differs by {rel:.2e} (relative L2) at {place}, at most {limit:.0e} is allowed in one place"
            );
            Some(GateResult::new(gate.key(), Some(name), Some(rel), limit, (!holds).then_some(far)).of(place))
        };
        let of_gate = |gate: &Gate| {
            let whole = comparison.outputs.iter().map(|metrics| judge(*gate, metrics));
            let slices = comparison.outputs.iter().filter_map(|metrics| judge_slice(*gate, metrics));
            whole.chain(slices).collect::<Vec<_>>()
        };
        gates.iter().flat_map(of_gate).collect()
    }

    /// The gate for the bytes of the written model, where there is one.
    pub fn size(&self, bytes: u64) -> Option<GateResult> {
        let limit = self.max_bytes?;
        let problem = (bytes > limit).then(|| format!("the result has {bytes} bytes, at most {limit} are allowed"));
        Some(GateResult::new("max-bytes", None, Some(bytes as f64), limit as f64, problem))
    }

    /// The gates for quantization.
    pub fn int8(&self, comparison: &Comparison) -> Vec<GateResult> {
        self.approximate(comparison, ("sqnr", self.sqnr), ("drop", self.drop))
    }

    /// The gates for pruning: its error is larger than quantization's, so that accuracy counts where it can be told.
    pub fn structure(&self, comparison: &Comparison) -> Vec<GateResult> {
        self.approximate(comparison, ("prune-sqnr", self.prune_sqnr), ("prune-drop", self.prune_drop))
    }

    fn approximate(
        &self,
        comparison: &Comparison,
        (gate, least): (&'static str, f64),
        drop: (&'static str, f64),
    ) -> Vec<GateResult> {
        let judge = |metrics: &OutputMetrics| {
            let sqnr = metrics.sqnr_db;
            // No SQNR: nothing differs, or the original is zero everywhere.
            let holds = sqnr.map_or(metrics.rel_l2 == 0.0 || metrics.rms <= NO_ERROR, |sqnr| sqnr >= least);
            let far = || {
                let (name, sqnr) = (&metrics.name, sqnr.unwrap_or(f64::NEG_INFINITY));
                format!("output `{name}` has an SQNR of {sqnr:.1} dB, at least {least} are wanted")
            };
            let problem = form_problem(metrics).or_else(|| (!holds).then(far));
            GateResult::new(gate, Some(&metrics.name), sqnr, least, problem)
        };
        let mut results: Vec<GateResult> =
            comparison.outputs.iter().filter(|metrics| metrics.float).map(judge).collect();
        for metrics in comparison.outputs.iter().filter(|metrics| metrics.float && metrics.misshapen == 0) {
            results.extend(around_mean(metrics, comparison.made_up, gate, least));
            results.extend(worst_part(metrics, comparison.made_up, gate, least));
        }
        for metrics in comparison.outputs.iter().filter(|metrics| !metrics.float) {
            if let Some(problem) = form_problem(metrics) {
                results.push(GateResult::new(gate, Some(&metrics.name), None, least, Some(problem)));
            }
        }
        results.extend(accuracy_gate(comparison, drop));
        results
    }

    /// The gate for accuracy, where there are labels.
    pub fn accuracy(&self, comparison: &Comparison) -> Option<GateResult> {
        accuracy_gate(comparison, ("drop", self.drop))
    }
}

/// The gate for what of an output varies: its mean is no signal. Scores and the like hold it as they are; numbers at many positions
/// of a sample, whose gate sees what varies between those, hold what a part does. Of made-up samples nothing tells how outputs vary.
fn around_mean(metrics: &OutputMetrics, made_up: bool, gate: &'static str, least: f64) -> Option<GateResult> {
    let sqnr = metrics.sqnr_around_mean_db.filter(|_| !made_up)?;
    let least = if metrics.row && metrics.parts.is_empty() { least } else { part_gate(least) };
    let name = &metrics.name;
    let holds = sqnr >= least || metrics.rms <= NO_ERROR;
    let far = format!("output `{name}` has an SQNR of {sqnr:.1} dB around its mean, at least {least} are wanted there");
    let result = GateResult::new(gate, Some(name), Some(sqnr), least, (!holds).then_some(far));
    Some(result.of("around its mean".to_owned()))
}

/// The gate for the part that is furthest from the original's.
fn worst_part(metrics: &OutputMetrics, made_up: bool, gate: &'static str, least: f64) -> Option<GateResult> {
    // Made-up samples tell what is dead, and no more.
    let least = if made_up { part_gate(least).min(LEAST_MADE_UP) } else { part_gate(least) };
    let judged = |part: &Part| if made_up { part.sqnr_db } else { part.judged_db() };
    let differing = metrics.parts.iter().filter(|part| part.error_rms > NO_ERROR);
    let parts = differing.filter_map(|part| Some((judged(part)?, part)));
    let (sqnr, part) = parts.min_by(|one, other| one.0.total_cmp(&other.0))?;
    let name = &metrics.name;
    let kind = if !made_up && part.sqnr_around_mean_db.is_some() { " around its mean" } else { "" };
    let far = format!(
        "{part} of output `{name}` has an SQNR of {sqnr:.1} dB{kind}, at least {least} are wanted of each part"
    );
    let result = GateResult::new(gate, Some(name), Some(sqnr), least, (sqnr < least).then_some(far));
    Some(result.of(part.to_string()))
}

fn accuracy_gate(comparison: &Comparison, (gate, most): (&'static str, f64)) -> Option<GateResult> {
    let accuracy = comparison.accuracy.as_ref()?;
    let certain = accuracy.certain_drop();
    let far = || {
        let (before, after, samples) = (100.0 * accuracy.before, 100.0 * accuracy.after, accuracy.samples);
        format!(
            "accuracy falls from {before:.1} to {after:.1} % on {samples} samples: {:.1} points beyond two \
             standard errors, at most {:.1} are allowed",
            100.0 * certain,
            100.0 * most
        )
    };
    let problem = (certain > most).then(far);
    Some(GateResult::new(gate, None, Some(certain), most, problem))
}

#[cfg(test)]
mod tests {
    use super::{Gate, GateResult, Gates};

    fn given(texts: &[&str]) -> Gates {
        let mut gates = Gates::default();
        texts.iter().for_each(|text| gates.set(text).unwrap());
        gates
    }

    #[test]
    fn only_what_was_given_has_to_be_judged_and_by_its_own_limit() {
        let result = |gate, limit| GateResult {
            gate,
            output: None,
            part: None,
            measured: None,
            limit,
            passed: true,
            reason: String::new(),
        };
        assert!(Gates::default().not_among(&[]).is_empty());
        let gates = given(&["sqnr=60", "drop=0.02"]);
        assert_eq!(gates.not_among(&[]).into_iter().collect::<Vec<_>>(), [Gate::Sqnr, Gate::Drop]);
        let judged = [result("sqnr", 60.0), result("prune-drop", 0.02)];
        assert!(gates.not_among(&judged).is_empty());
    }
}
