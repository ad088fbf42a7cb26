//! The difference as text: terse, equal changes grouped, columns aligned.
use std::fmt::Write;

use onnx_shrink_driver::{
    amounts::{bytes, count},
    diff::{Change, Detail, Diff, Facts, Kind, OpRef, WORK},
};

/// How text is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether kinds are coloured
    pub color: bool,
    /// Whether every op and every detail is named
    pub all: bool,
}

/// The word and its colour (a terminal's number) for a kind.
fn word(kind: Kind) -> (&'static str, u8) {
    match kind {
        Kind::Input => ("input", 35),
        Kind::Output => ("output", 35),
        Kind::Model => ("model", 35),
        Kind::Fused => ("fused", 36),
        Kind::Replaced => ("replaced", 36),
        Kind::Split => ("split", 36),
        Kind::Quantized => ("quantized", 34),
        Kind::Stored => ("stored", 34),
        Kind::Folded => ("folded", 36),
        Kind::Merged => ("merged", 36),
        Kind::Bypassed => ("bypassed", 36),
        Kind::Dead => ("dead", 31),
        Kind::Moved => ("moved", 33),
        Kind::Rewired => ("rewired", 33),
        Kind::Changed => ("changed", 33),
        Kind::Inserted => ("inserted", 32),
        Kind::Added => ("added", 32),
        Kind::Removed => ("removed", 31),
    }
}

/// "0.41 %", "2.3e-7"
pub fn show_error(error: f64) -> String {
    if error >= 1e-4 { format!("{:.2} %", 100.0 * error) } else { format!("{error:.1e}") }
}

/// One detail on one line.
pub fn show_detail(detail: &Detail) -> String {
    let facts = |facts: &Option<Facts>| {
        facts.as_ref().map_or_else(|| "none".to_owned(), |facts| format!("{} {}", facts.ty, bytes(facts.bytes as u64)))
    };
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    match detail {
        Detail::Attribute { name, before, after } => format!("{name}: {} → {}", value(before), value(after)),
        Detail::Constant { input, before, after, relative_error, elements } => {
            let mut text = match before == after {
                true => format!("{input}: {}", facts(before)),
                false => format!("{input}: {} → {}", facts(before), facts(after)),
            };
            match (elements, relative_error) {
                (Some(0), _) => text.push_str(", equal numbers"),
                (Some(count), Some(error)) => {
                    let _ = write!(text, ", {count} elements differ, relative error {}", show_error(*error));
                }
                (Some(count), None) => {
                    let _ = write!(text, ", {count} elements differ");
                }
                _ => {}
            }
            text
        }
        Detail::Reads { input, before, after } => format!("{input}: reads `{before}` → `{after}`"),
        Detail::Value { name, before, after } => match (name == WORK, before.parse(), after.parse()) {
            (true, Ok(one), Ok(other)) => format!("{name}: {} → {}", count(one), count(other)),
            _ => format!("{name}: {before} → {after}"),
        },
        Detail::Note { text } => text.clone(),
    }
}

/// The text of `diff`.
pub fn render(diff: &Diff, style: Style) -> String {
    let mut out = String::new();
    let paint = |text: &str, color: u8| match style.color {
        true => format!("\x1b[{color}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let verdict = if diff.equal { "equal" } else { "different" };
    let _ = writeln!(out, "{} → {}: {}", diff.a.path, diff.b.path, paint(verdict, 1));
    let (a, b) = (&diff.a, &diff.b);
    let mut sizes = format!("{} → {}", bytes(a.bytes), bytes(b.bytes));
    if a.bytes > 0 && a.bytes != b.bytes {
        let _ = write!(sizes, " ({:+.1} %)", 100.0 * (b.bytes as f64 - a.bytes as f64) / a.bytes as f64);
    }
    let _ = writeln!(out, "{sizes}, {} → {} ops, opset {} → {}", a.ops, b.ops, a.opset, b.opset);
    let mut scope = "";
    for group in grouped(&diff.changes) {
        if group[0].scope != scope {
            scope = &group[0].scope;
            let _ = writeln!(out, "in `{scope}`");
        }
        let (kind, color) = word(group[0].kind);
        let times = if group.len() > 1 { format!("{} × ", group.len()) } else { String::new() };
        let mut line = format!("{}{times}{}", paint(&format!("{kind:<10}"), color), group[0].title);
        let names = names(&group, style.all);
        if !names.is_empty() {
            let _ = write!(line, ": {names}");
        }
        let _ = writeln!(out, "{line}");
        details(&group, style.all, &mut out);
    }
    if !diff.equal {
        types(diff, &mut out);
    }
    for note in &diff.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// Changes of the same kind, title and scope, in the order of the first of each; the interface first.
fn grouped(changes: &[Change]) -> Vec<Vec<&Change>> {
    let mut groups: Vec<Vec<&Change>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for change in changes {
        let key = (change.kind, change.title.as_str(), change.scope.as_str());
        let place = *places.entry(key).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(change);
    }
    groups.sort_by(|one, other| (&one[0].scope, one[0].kind).cmp(&(&other[0].scope, other[0].kind)));
    groups
}

fn names(group: &[&Change], all: bool) -> String {
    const SHOWN: usize = 3;
    let name = |change: &&Change| {
        let ops = if change.a.is_empty() { &change.b } else { &change.a };
        let shown = if all { usize::MAX } else { SHOWN };
        // Conversions that served an op go without saying.
        let converts = |op: &&OpRef| matches!(op.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear");
        let mut ops: Vec<&OpRef> = ops.iter().collect();
        if !all && !ops.iter().all(converts) {
            ops.retain(|op| !converts(op));
        }
        let mut names: Vec<String> = ops.iter().take(shown).map(|op| format!("`{}`", op.name)).collect();
        if ops.len() > shown {
            names.push(format!("{} more", ops.len() - shown));
        }
        names.join(" + ")
    };
    // One more takes no more room than to say so.
    let shown = if all || group.len() == SHOWN + 1 { group.len() } else { SHOWN };
    let mut names: Vec<String> = group.iter().take(shown).map(name).filter(|name| !name.is_empty()).collect();
    if group.len() > shown {
        names.push(format!("and {} more", group.len() - shown));
    }
    names.join(", ")
}

/// Details of a change that stands alone; of many, what their constants took and the largest error.
fn details(group: &[&Change], all: bool, out: &mut String) {
    const SHOWN: usize = 6;
    if group.len() > 1 && !all {
        let (mut before, mut after, mut number) = (0, 0, 0);
        let mut work: Option<(u64, u64)> = None;
        let mut worst: Option<(f64, &str)> = None;
        for change in group {
            for detail in &change.details {
                if let Detail::Constant { before: one, after: other, relative_error, .. } = detail {
                    number += 1;
                    before += one.as_ref().map_or(0, |facts| facts.bytes as u64);
                    after += other.as_ref().map_or(0, |facts| facts.bytes as u64);
                    if let Some(error) = *relative_error
                        && worst.is_none_or(|(worst, _)| error > worst)
                    {
                        worst = Some((error, change.a.first().map_or("", |op| op.name.as_str())));
                    }
                }
                if let Detail::Value { name, before, after } = detail
                    && let (true, Ok(one), Ok(other)) = (name == WORK, before.parse::<u64>(), after.parse::<u64>())
                {
                    let (before, after) = work.unwrap_or((0, 0));
                    work = Some((before + one, after + other));
                }
            }
        }
        if number > 0 {
            let plural = if number == 1 { "constant" } else { "constants" };
            let size = match before == after {
                true => bytes(before),
                false => format!("{} → {}", bytes(before), bytes(after)),
            };
            let _ = write!(out, "          {number} {plural}: {size}");
            if let Some((error, name)) = worst {
                let _ = write!(out, ", largest relative error {} at `{name}`", show_error(error));
            }
            out.push('\n');
        }
        if let Some((before, after)) = work {
            let _ = writeln!(out, "          {WORK}: {} → {}", count(before), count(after));
        }
        return;
    }
    for change in group {
        let shown = if all { usize::MAX } else { SHOWN };
        for detail in change.details.iter().take(shown) {
            let _ = writeln!(out, "          {}", show_detail(detail));
        }
        if change.details.len() > shown {
            let _ = writeln!(out, "          … and {} more (--all)", change.details.len() - shown);
        }
    }
}

fn types(diff: &Diff, out: &mut String) {
    let changed: Vec<_> = diff.op_types.iter().filter(|(_, (a, b))| a != b).collect();
    if changed.is_empty() {
        return;
    }
    let width = changed.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(4);
    let _ = writeln!(out, "\n{:<width$}  {:>6}  {:>6}", "ops", "A", "B");
    for (name, (a, b)) in changed {
        let _ = writeln!(out, "{name:<width$}  {a:>6}  {b:>6}  {:+}", *b as i64 - *a as i64);
    }
}
