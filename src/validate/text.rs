//! A [`Verdict`] as text: first what holds and what not, then outputs and values, the worst first.
use super::{Standard, Verdict};
use crate::{
    columns::{Align, Text, bytes},
    metrics::OutputMetrics,
    report::table::Style,
};

/// Rows of values, without `--all`.
const ROWS: usize = 20;

/// The text; with `all`, every value.
pub fn render(verdict: &Verdict, all: bool, style: &Style) -> String {
    let mut text = Text::new(*style);
    let (before, after) = (&verdict.before, &verdict.after);
    text.heading(&format!(
        "{} ({}) against {} ({}): {}",
        after.path,
        bytes(after.bytes),
        before.path,
        bytes(before.bytes),
        if verdict.passed { "passed" } else { "different" }
    ));
    for problem in verdict.interface.iter().chain(&verdict.not_run) {
        text.line(&format!("  {problem}"));
    }
    for gate in verdict.gates.iter().filter(|gate| !gate.passed) {
        text.line(&format!("  gate {} failed: {}", gate.gate, gate.reason));
    }
    for name in &verdict.unjudged {
        text.line(&format!(
            "  `{name}` has other numbers, and no output depended on it on these samples: nothing shows what it does"
        ));
    }
    if let Some(comparison) = &verdict.comparison {
        let standard = match verdict.standard {
            Standard::Int8 => "as a quantized model",
            _ => "as the same function",
        };
        let kind = if verdict.made_up { "made-up samples" } else { "samples" };
        text.line(&format!("judged {standard} on {} {kind}: {}", comparison.samples, gates(verdict)));
        if let Some(accuracy) = &comparison.accuracy {
            text.line(&format!(
                "accuracy: {:.2} % → {:.2} % on {} labels (drop {:.2} ± {:.2} points)",
                100.0 * accuracy.before,
                100.0 * accuracy.after,
                accuracy.samples,
                100.0 * accuracy.drop,
                200.0 * accuracy.standard_error
            ));
        }
        table("output", &comparison.outputs, comparison.outputs.len(), &mut text);
    }
    if let Some(values) = &verdict.values {
        let differ = values.iter().filter(|value| value.unequal > 0.0).count();
        text.heading(&format!("{} values have one name and type in both models; {differ} differ", values.len()));
        let shown = if all { values.len() } else { differ.min(ROWS) };
        table("value", values, shown, &mut text);
        if !all && differ > shown {
            text.line(&format!("  … and {} more that differ (--all)", differ - shown));
        }
    }
    for note in &verdict.notes {
        text.line(&format!("note: {note}"));
    }
    text.finish()
}

/// The gates that judged, with their limits.
fn gates(verdict: &Verdict) -> String {
    let mut gates: Vec<String> = Vec::new();
    for gate in &verdict.gates {
        let limit = match gate.gate {
            "sqnr" => format!("sqnr at least {} dB", gate.limit),
            "drop" => format!("drop at most {}", gate.limit),
            other => format!("{other} at most {:.0e}", gate.limit),
        };
        if !gates.contains(&limit) {
            gates.push(limit);
        }
    }
    gates.join(", ")
}

fn table(what: &str, metrics: &[OutputMetrics], shown: usize, text: &mut Text) {
    let row = |metrics: &OutputMetrics| {
        let sqnr = match metrics.sqnr_db {
            Some(sqnr) => format!("{sqnr:.1} dB"),
            None if metrics.unequal == 0.0 => "equal".to_owned(),
            None => String::new(),
        };
        let form = match (metrics.misshapen, metrics.not_finite) {
            (0, 0) => String::new(),
            (0, count) => format!("{count} finite in one only"),
            (samples, _) => format!("another shape on {samples} samples"),
        };
        vec![
            metrics.name.clone(),
            sqnr,
            format!("{:.2e}", metrics.rel_l2),
            format!("{:.2e}", metrics.max_abs),
            metrics.top1_agreement.map_or_else(String::new, |share| format!("{:.1} %", 100.0 * share)),
            form,
        ]
    };
    let (left, right) = (Align::Left, Align::Right);
    let heads = [
        (what, left),
        ("SQNR", right),
        ("relative L2", right),
        ("largest error", right),
        ("top-1 agrees", right),
        ("", left),
    ];
    text.table(&heads, &metrics[..shown].iter().map(row).collect::<Vec<_>>());
}
