//! The report as text: at most 25 lines, unless every decision is asked for.
use std::{collections::BTreeMap, fmt::Write};

use onnx_shrink_driver::{
    Report,
    amounts::bytes,
    metrics::{Comparison, Part},
    report::{Fate, Layer, Side},
};
use onnx_shrink_passes::{Exactness, Outcome};

use super::{columns::Text, structure::structure_lines, style::Style};

/// Longest text, in lines, without `--explain`.
pub const MAX_LINES: usize = 25;
/// An SQNR around the mean is shown where it is so much lower, in dB.
const MEAN_TELLS: f64 = 3.0;
/// Regions without a proof that are named.
const MOST_OPEN: usize = 3;

/// The text of `report`; with `explain`, every line of the journal follows.
pub fn render(report: &Report, explain: bool, style: &Style) -> String {
    let mut lines = Text::new(*style);
    size(report, &mut lines);
    ops(report, &mut lines);
    rewrites(report, &mut lines);
    cancelled(report, &mut lines);
    for line in structure_lines(report, explain) {
        lines.line(&line);
    }
    layers(report, &mut lines);
    quality(report, &mut lines);
    for warning in &report.warnings {
        lines.line(&format!("warning: {warning}"));
    }
    for note in &report.notes {
        lines.line(&format!("note: {note}"));
    }
    if let Some(about) = &report.about {
        lines.unlimit(); // who asks gets it whole
        lines.heading(&format!("about `{}`", about.name));
        about.lines.iter().for_each(|line| lines.line(&format!("  {line}")));
        return lines.finish();
    }
    if !explain && lines.count() > MAX_LINES {
        let more = lines.count() - (MAX_LINES - 1);
        lines.truncate(MAX_LINES - 1);
        lines.line(&format!("… and {more} more lines (--explain)"));
    }
    if explain {
        journal(report, &mut lines);
    }
    lines.finish()
}

/// By what the steps lose that cancelled Quantize/Dequantize pairs.
fn cancelled(report: &Report, lines: &mut Text) {
    let of = |exactness: &Exactness| match exactness {
        Exactness::Lossless => "lose nothing",
        Exactness::Monotone => "keep an order (and lose nothing)",
        Exactness::Approximate => "leave out a rounding (approximate)",
    };
    let steps: Vec<String> =
        report.cancelled.iter().map(|(exactness, count)| format!("{count} {}", of(exactness))).collect();
    if !steps.is_empty() {
        lines.line(&format!("Quantize/Dequantize pairs cancelled, by step: {}", steps.join(", ")));
    }
}

fn change(before: f64, after: f64) -> String {
    if before == 0.0 || before == after {
        "the same".to_owned()
    } else {
        format!("{:+.1} %", 100.0 * (after - before) / before)
    }
}

fn size(report: &Report, lines: &mut Text) {
    let (before, after) = (report.input.bytes, report.output.bytes);
    lines.heading(&format!(
        "{} → {}: {} → {} ({})",
        report.input.path,
        if report.output.path.is_empty() { "nowhere" } else { &report.output.path },
        bytes(before),
        bytes(after),
        change(before as f64, after as f64)
    ));
    if !report.written {
        lines.line("not written: this is a dry run");
    }
}

fn ops(report: &Report, lines: &mut Text) {
    let (before, after) = (&report.input, &report.output);
    let mut line = format!("ops: {} → {}", before.op_count(), after.op_count());
    if before.opset != after.opset {
        let _ = write!(line, ", opset {} → {}", before.opset, after.opset);
    }
    let mut changes = Vec::new();
    let kinds: BTreeMap<&String, ()> = before.ops.keys().chain(after.ops.keys()).map(|kind| (kind, ())).collect();
    for kind in kinds.into_keys() {
        let count = |side: &Side| side.ops.get(kind).copied().unwrap_or(0);
        let (was, is) = (count(before), count(after));
        if was != is {
            changes.push((was.abs_diff(is), format!("{kind} {was} → {is}")));
        }
    }
    changes.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    let more = changes.len().saturating_sub(6);
    if !changes.is_empty() {
        let shown: Vec<String> = changes.into_iter().take(6).map(|(_, text)| text).collect();
        let _ = write!(
            line,
            " ({}{})",
            shown.join(", "),
            if more > 0 { format!(", {more} more kinds") } else { String::new() }
        );
    }
    lines.line(&line);
}

fn rewrites(report: &Report, lines: &mut Text) {
    let done = report.done_by_pass();
    if !done.is_empty() {
        let passes: Vec<String> = done.iter().map(|(pass, count)| format!("{pass} {count}")).collect();
        lines.line(&format!("rewrites: {}", passes.join(", ")));
    }
    let mut missed: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for entry in &report.journal {
        if let Some(reason) = entry.missed() {
            *missed.entry((entry.pass, reason.to_string())).or_insert(0) += 1;
        }
    }
    let mut missed: Vec<_> = missed.into_iter().collect();
    missed.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let (total, kinds): (usize, usize) = (missed.iter().map(|(_, count)| count).sum(), missed.len());
    if total > 0 {
        lines.heading(&format!("not rewritten: {total} (all of them: --explain)"));
    }
    for ((pass, reason), count) in missed.into_iter().take(4) {
        lines.line(&format!("  {count} × {pass}: {reason}"));
    }
    if kinds > 4 {
        lines.line(&format!("  … and {} more reasons", kinds - 4));
    }
}

/// Picks layers by what became of them.
type Which = fn(&Fate) -> bool;

fn layers(report: &Report, lines: &mut Text) {
    if report.layers.is_empty() {
        return;
    }
    let share = |which: Which| {
        let layers = report.layers.iter().filter(|layer| which(&layer.fate));
        layers.fold((0, 0, 0), |(count, before, after), layer| {
            (count + 1, before + layer.bytes_before, after + layer.bytes_after)
        })
    };
    lines.heading("layers with weights");
    let kinds: [(&str, Which); 4] = [
        ("integer", |fate| matches!(fate, Fate::Integer)),
        ("integer with ranges of each run", |fate| matches!(fate, Fate::Dynamic)),
        ("stored in fewer bits", |fate| matches!(fate, Fate::Storage { .. })),
        ("float", |fate| matches!(fate, Fate::Float { .. })),
    ];
    for (name, which) in kinds {
        let (count, before, after) = share(which);
        if count > 0 {
            lines.line(&format!("  {count} {name}: {} → {}", bytes(before), bytes(after)));
        }
    }
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for layer in &report.layers {
        if let Some(reason) = layer.fate.reason() {
            reasons.entry(reason.to_string()).or_default().push(&layer.name);
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by(|one, other| other.1.len().cmp(&one.1.len()).then_with(|| one.0.cmp(&other.0)));
    for (reason, names) in reasons.iter().take(5) {
        let more = if names.len() > 2 { format!(" and {} more", names.len() - 2) } else { String::new() };
        lines.line(&format!("  not integer: {reason}: {}{more}", names[..names.len().min(2)].join(", ")));
    }
    // Those that add most to the error first; a layer behind others has their error, too.
    let share = |layer: &Layer| layer.error_share.unwrap_or(0.0);
    let mut worst: Vec<(f64, &Layer)> =
        report.layers.iter().filter_map(|layer| Some((layer.sqnr_db?, layer))).collect();
    worst.sort_by(|one, other| {
        share(other.1).total_cmp(&share(one.1)).then(one.0.total_cmp(&other.0)).then(one.1.name.cmp(&other.1.name))
    });
    if !worst.is_empty() {
        let text = |(sqnr, layer): &(f64, &Layer)| match (share(layer) * 100.0).round() {
            0.0 => format!("{} {sqnr:.1} dB", layer.name),
            percent => format!("{} {sqnr:.1} dB ({percent:.0} % of the error)", layer.name),
        };
        let worst: Vec<String> = worst.iter().take(3).map(text).collect();
        lines.line(&format!("  worst layers: {}", worst.join(", ")));
    }
}

fn quality(report: &Report, lines: &mut Text) {
    if let Some(calibration) = &report.calibration {
        lines.line(&format!("calibration: {} on {} samples", calibration.method, calibration.samples));
    }
    const ORIGINAL: &str = "against the original";
    // A step that was the only one made the result.
    let step = |what| if report.total.is_some() { (what, "against the model before") } else { ("result", ORIGINAL) };
    let compared = [
        (("lossless part", ORIGINAL), &report.lossless),
        (step("pruned"), report.structure.as_ref().map_or(&None, |structure| &structure.comparison)),
        (step("low rank"), &report.split),
        (step("8 bits"), &report.quantized),
        (("result", ORIGINAL), &report.total),
    ];
    for ((what, against), comparison) in compared {
        if let Some(comparison) = comparison {
            outputs(what, against, comparison, lines);
        }
    }
    if let Some(reason) = &report.unproven {
        let rest = match &report.regions {
            Some(regions) if regions.proven > 0 => {
                "so nothing was done but what is equal to the bit by its conditions, or proven by region"
            }
            _ => "so nothing was done but what is equal to the bit by its conditions",
        };
        lines.heading(&format!("not proven: the result could not be run against the input, {rest}: {reason}"));
    }
    if let Some(regions) = report.regions.as_ref().filter(|regions| regions.count() > 0) {
        let alone = match regions.constants {
            0 => String::new(),
            count => format!(", {count} of them by their constants alone"),
        };
        lines.line(&format!("proven by region: {} of {}{alone}", regions.proven, regions.count()));
        for open in regions.open.iter().take(MOST_OPEN) {
            lines.line(&format!("  left as it was: `{}`: {}", open.value, open.reason));
        }
    }
    for gate in report.gates.iter().filter(|gate| !gate.passed) {
        lines.heading(&format!("gate {} failed: {}", gate.gate, gate.reason));
    }
}

/// The worst output, and the accuracy.
fn outputs(what: &str, against: &str, comparison: &Comparison, lines: &mut Text) {
    let mut line = format!("{what}, {against} on {} samples: ", comparison.samples);
    let worst = comparison.outputs.iter().max_by(|one, other| one.rel_l2.total_cmp(&other.rel_l2));
    match worst {
        None => line.push_str("no outputs"),
        Some(worst) if worst.unequal == 0.0 => line.push_str("equal to the bit"),
        Some(worst) => {
            let sqnr = worst.sqnr_db.map_or_else(|| "no SQNR".to_owned(), |sqnr| format!("SQNR {sqnr:.1} dB"));
            let _ = write!(
                line,
                "`{}` {sqnr}, relative L2 {:.2e}, largest error {:.2e}",
                worst.name, worst.rel_l2, worst.max_abs
            );
            // Said where the mean makes a difference.
            let is_lower = |sqnr: &f64| worst.sqnr_db.is_some_and(|whole| whole - sqnr >= MEAN_TELLS);
            if let Some(sqnr) = worst.sqnr_around_mean_db.filter(is_lower).filter(|_| worst.row && !comparison.made_up)
            {
                let _ = write!(line, ", around its mean {sqnr:.1} dB");
            }
            if let Some(agreement) = worst.top1_agreement {
                let _ = write!(line, ", top-1 agrees {:.1} %", 100.0 * agreement);
            }
        }
    }
    lines.line(&line);
    for output in comparison.outputs.iter().filter(|output| output.unequal > 0.0 && output.parts.len() > 1) {
        let text = |part: &Part| {
            let sqnr = part.judged_db().map_or_else(|| "equal".to_owned(), |sqnr| format!("{sqnr:.1} dB"));
            format!("{part} {sqnr} (size {:.2e})", part.rms)
        };
        let parts: Vec<String> = output.parts.iter().take(3).map(text).collect();
        lines.line(&format!("  parts of `{}` around their means: {}", output.name, parts.join(", ")));
    }
    if let Some(accuracy) = &comparison.accuracy {
        lines.line(&format!(
            "  accuracy: {:.2} % → {:.2} % on {} labels (drop {:.2} ± {:.2} points)",
            100.0 * accuracy.before,
            100.0 * accuracy.after,
            accuracy.samples,
            100.0 * accuracy.drop,
            200.0 * accuracy.standard_error
        ));
    }
}

fn journal(report: &Report, lines: &mut Text) {
    lines.unlimit(); // who asks for everything gets it
    lines.heading("every decision");
    for entry in &report.journal {
        let text = match &entry.outcome {
            Outcome::Done { removed, added } => format!("done, {removed} ops out, {added} in"),
            Outcome::Missed { reason } => format!("not done: {reason}"),
        };
        lines.line(&format!("  {} at `{}` ({}): {text}", entry.pass, entry.op, entry.op_type));
    }
    for layer in &report.layers {
        let text = match &layer.fate {
            Fate::Integer => "integer".to_owned(),
            Fate::Dynamic => "integer with ranges of each run".to_owned(),
            Fate::Storage { reason } => format!("stored in fewer bits: {reason}"),
            Fate::Float { reason } => format!("float: {reason}"),
        };
        let sqnr = layer.sqnr_db.map_or_else(String::new, |sqnr| format!(", {sqnr:.1} dB"));
        let share =
            layer.error_share.map_or_else(String::new, |share| format!(", {:.1} % of the error", share * 100.0));
        lines.line(&format!("  layer `{}` ({}): {text}{sqnr}{share}", layer.name, layer.op));
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_passes::{Class, Entry, Miss, Named, Origin, Outcome};

    use super::{MAX_LINES, Style, render};
    use onnx_shrink_driver::report::{Fate, Layer, Note, Reason, Report, Side};

    const PLAIN: Style = Style { bold: false, width: Some(100) };

    fn report() -> Report {
        let side = |bytes, ops: &[(&str, usize)]| Side {
            path: "m.onnx".to_owned(),
            bytes,
            opset: 13,
            ops: ops.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        };
        let mut report = Report::new(side(1_000_000, &[("Conv", 2), ("Identity", 3)]));
        report.output = side(250_000, &[("Conv", 2)]);
        report.written = true;
        let entry = |op: &str, outcome| Entry {
            pass: "eliminate-identity",
            class: Class::Exact,
            op: op.to_owned(),
            op_type: "Identity".to_owned(),
            outcome,
        };
        report.journal.push(entry("a", Outcome::Done { removed: 1, added: 0 }));
        report.journal.push(entry(
            "b",
            Outcome::Missed { reason: Miss::OtherUses(Named { name: Some("y".to_owned()), origin: Origin::Graph }) },
        ));
        report
    }

    #[test]
    fn the_text_says_what_shrank_and_what_stayed() {
        let text = render(&report(), false, &PLAIN);
        assert_eq!(
            text,
            "m.onnx → m.onnx: 1.00 MB → 250.0 kB (-75.0 %)\n\
             ops: 5 → 2 (Identity 3 → 0)\n\
             rewrites: eliminate-identity 1\n\
             not rewritten: 1 (all of them: --explain)\n  1 × eliminate-identity: `y` has other uses\n"
        );
        let text = render(&report(), true, &PLAIN);
        assert!(text.contains("eliminate-identity at `b` (Identity): not done: `y` has other uses"), "{text}");
    }

    #[test]
    fn it_stays_short_and_narrow() {
        let mut report = report();
        for index in 0..40 {
            report.layers.push(Layer {
                name: format!("layer{index}"),
                op: "Conv".to_owned(),
                fate: Fate::Float { reason: Reason::NotCalibrated(format!("reason {index} {}", "x".repeat(200))) },
                bytes_before: 10,
                bytes_after: 10,
                accumulator_bits: None,
                sqnr_db: Some(f64::from(index)),
                error_share: Some(if index == 0 { 0.5 } else { 0.0 }),
            });
            report.notes.push(Note::NothingToExplain(format!("note {index}")));
        }
        let text = render(&report, false, &PLAIN);
        assert_eq!(text.lines().count(), MAX_LINES);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.contains("worst layers: layer0 0.0 dB (50 % of the error), layer1 1.0 dB"), "{text}");
    }

    #[test]
    fn the_json_has_a_version_and_flat_entries() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["journal"][0]["outcome"], "done");
        assert_eq!(json["journal"][1]["reason"], "`y` has other uses");
    }
}
