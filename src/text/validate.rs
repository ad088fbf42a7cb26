//! A [`Verdict`] as text: first what holds and what not, then outputs and values, the worst first.
use onnx_shrink_driver::{
    amounts::bytes,
    metrics::{OutputMetrics, Part},
    validate::{Standard, Verdict},
};

use super::{
    columns::{Align, Text},
    style::Style,
};

/// Parts of an output that are shown, the worst first.
const PARTS: usize = 4;

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
            // Said once where the whole and what varies hold the same.
            "sqnr" if gate.part.is_some() && !gates.contains(&format!("sqnr at least {} dB", gate.limit)) => {
                format!("{} dB in parts and around means", gate.limit)
            }
            "sqnr" => format!("sqnr at least {} dB", gate.limit),
            "drop" => format!("drop at most {}", gate.limit),
            other if gate.part.is_some() => format!("{other} at most {:.0e} in one place", gate.limit),
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
        let around_mean = metrics.sqnr_around_mean_db.map_or_else(String::new, |sqnr| format!("{sqnr:.1} dB"));
        vec![
            metrics.name.clone(),
            sqnr,
            around_mean,
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
        ("around its mean", right),
        ("relative L2", right),
        ("largest error", right),
        ("top-1 agrees", right),
        ("", left),
    ];
    let part_row = |part: &Part| {
        let decibels = |sqnr: Option<f64>| sqnr.map_or_else(String::new, |sqnr| format!("{sqnr:.1} dB"));
        let (sqnr, around_mean) = (decibels(part.sqnr_db), decibels(part.sqnr_around_mean_db));
        let (name, rel) = (format!("  {part}"), format!("{:.2e}", part.rel_l2));
        vec![name, sqnr, around_mean, rel, String::new(), String::new(), format!("size {:.2e}", part.rms)]
    };
    let rows = metrics[..shown].iter().flat_map(|metrics| {
        let parts = metrics.parts.iter().take(PARTS).map(part_row);
        std::iter::once(row(metrics)).chain(parts).collect::<Vec<_>>()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    // What nothing has to say in is left out.
    let shown: Vec<bool> = (0..heads.len()).map(|column| rows.iter().any(|row| !row[column].is_empty())).collect();
    let kept = |column: &usize| *column == 0 || shown[*column];
    let columns: Vec<usize> = (0..heads.len()).filter(kept).collect();
    let heads: Vec<_> = columns.iter().map(|&column| heads[column]).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|&column| row[column].clone()).collect()).collect();
    text.table(&heads, &rows);
}
