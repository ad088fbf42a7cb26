//! What a result must hold, judged by what was measured.
use serde::Serialize;

use super::{Comparison, OutputMetrics};
use crate::request::Gates;

/// Whether a gate holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateResult {
    /// "lossless-rel", "sqnr", "drop": the key of `--gate`
    pub gate: &'static str,
    /// The output that was judged, where it is about one
    pub output: Option<String>,
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
        GateResult { gate, output, measured, limit, passed: problem.is_none(), reason: problem.unwrap_or_default() }
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

impl Gates {
    /// The gates for rewrites that keep the function; `half` says that the model computes in 16-bit floats.
    pub fn lossless(&self, comparison: &Comparison, half: bool) -> Vec<GateResult> {
        let (gate, limit) =
            if half { ("lossless-rel-fp16", self.lossless_rel_fp16) } else { ("lossless-rel", self.lossless_rel) };
        let judge = |metrics: &OutputMetrics| {
            let holds = metrics.rel_l2 <= limit || metrics.rms <= NO_ERROR;
            let far = || {
                let (name, rel) = (&metrics.name, metrics.rel_l2);
                format!("output `{name}` differs by {rel:.2e} (relative L2), at most {limit:.0e} is allowed")
            };
            let problem = form_problem(metrics).or_else(|| (!holds).then(far));
            GateResult::new(gate, Some(&metrics.name), Some(metrics.rel_l2), limit, problem)
        };
        comparison.outputs.iter().map(judge).collect()
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
