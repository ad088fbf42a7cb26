//! An [`Inspection`] as text: the largest first, and not more than fits a screen unless all is asked for.
use std::collections::BTreeMap;

use onnx_shrink_driver::{
    amounts::{bytes, count, share},
    inspect::{ChannelGroup, Inspection, Kind, OpLine, Outcome, Plan, Port, Type},
    report::Fate,
};
use onnx_shrink_passes::analysis::saturation;

use super::{
    columns::{Align, Text},
    style::Style,
};

/// Rows of a table, without `--all`.
const ROWS: usize = 6;
/// Longest name in a table, without `--all`.
const NAME: usize = 44;

/// The text; with `all`, every row of every table.
pub fn render(found: &Inspection, all: bool, style: &Style) -> String {
    let mut text = Text::new(*style);
    head(found, &mut text);
    ports("inputs", &found.inputs, all, &mut text);
    ports("outputs", &found.outputs, all, &mut text);
    if !found.free_dims.is_empty() {
        text.line(&format!("free dimensions: {}", found.free_dims.join(", ")));
    }
    kinds(found, all, &mut text);
    ops(found, all, &mut text);
    types(found, &mut text);
    if let Some(list) = &found.groups {
        groups(list, all, &mut text);
    }
    if let Some(plan) = &found.int8 {
        int8(plan, found.bytes, all, &mut text);
    }
    if let Some(warning) = saturation::warning(&found.saturating) {
        text.line(&format!("warning: {warning}"));
    }
    for note in &found.notes {
        text.line(&format!("note: {note}"));
    }
    text.finish()
}

/// The first rows, and how many more there are.
fn first<T>(rows: &[T], all: bool) -> (&[T], usize) {
    let shown = if all || rows.len() <= ROWS + 1 { rows.len() } else { ROWS };
    (&rows[..shown], rows.len() - shown)
}

fn more(hidden: usize, what: &str, text: &mut Text) {
    if hidden > 0 {
        text.line(&format!("  … and {hidden} more {what} (--all)"));
    }
}

/// A long name without its middle.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        return name.to_owned();
    }
    let (head, tail) = (NAME / 3, NAME - NAME / 3 - 1);
    name.chars().take(head).chain(['…']).chain(name.chars().skip(length - tail)).collect()
}

fn head(found: &Inspection, text: &mut Text) {
    text.heading(&format!("{}: {}", found.path, bytes(found.bytes)));
    let opsets: Vec<String> = found.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
    let producer = if found.producer.is_empty() { String::new() } else { format!(", made by {}", found.producer) };
    text.line(&format!("IR version {}, opset {}{producer}", found.ir_version, opsets.join(", ")));
    let zeros = match found.constants.weights {
        0 => String::new(),
        weights => format!(", {} zeros", share(found.constants.zeros, weights)),
    };
    text.line(&format!(
        "{} constants: {}; weights: {} numbers{zeros}",
        found.constants.count,
        bytes(found.constants.bytes),
        count(found.constants.weights),
    ));
}

fn ports(what: &str, ports: &[Port], all: bool, text: &mut Text) {
    text.heading(what);
    let (shown, hidden) = first(ports, all);
    let row = |port: &Port| {
        let default = if port.has_default { "has a default" } else { "" };
        vec![port.name.clone(), port.ty.clone(), default.to_owned()]
    };
    let heads = [("", Align::Left), ("", Align::Left), ("", Align::Left)];
    text.table(&heads, &shown.iter().map(row).collect::<Vec<_>>());
    more(hidden, what, text);
}

fn kinds(found: &Inspection, all: bool, text: &mut Text) {
    let functions = if found.functions > 0 { format!(", {} local functions", found.functions) } else { String::new() };
    let work = &found.work;
    let shapes = match work.shapes {
        "made-up sample" => " with each free dimension as 1",
        "longer made-up sample" => " on a made-up sample",
        "sample" => " on the first sample",
        _ => "",
    };
    let known = work.multiply_adds > 0 || work.not_counted.is_empty();
    let work = if known {
        format!("{} multiply-adds{shapes}", count(work.multiply_adds))
    } else {
        "multiply-adds not known".to_owned()
    };
    text.heading(&format!("{} ops{functions}, {work}", found.op_count));
    let (shown, hidden) = first(&found.kinds, all);
    let all_bytes = found.constants.bytes;
    let or_empty = |number: u64, text: String| if number == 0 { String::new() } else { text };
    let row = |kind: &Kind| {
        vec![
            kind.op.clone(),
            kind.count.to_string(),
            or_empty(kind.multiply_adds, count(kind.multiply_adds)),
            or_empty(kind.multiply_adds, share(kind.multiply_adds, found.work.multiply_adds)),
            or_empty(kind.bytes, bytes(kind.bytes)),
            or_empty(kind.bytes, share(kind.bytes, all_bytes)),
        ]
    };
    let right = Align::Right;
    let heads =
        [("type", Align::Left), ("ops", right), ("multiply-adds", right), ("", right), ("bytes", right), ("", right)];
    text.table(&heads, &shown.iter().map(row).collect::<Vec<_>>());
    more(hidden, "types", text);
    let open: Vec<String> = found.work.not_counted.iter().map(|(op, count)| format!("{op} {count}")).collect();
    if !open.is_empty() {
        let (shown, hidden) = first(&open, all);
        let hidden = if hidden > 0 { " … (--all)".to_owned() } else { String::new() };
        text.line(&format!("  multiply-adds not counted: {}{hidden}", shown.join(", ")));
    }
}

fn ops(found: &Inspection, all: bool, text: &mut Text) {
    if found.ops.is_empty() {
        return;
    }
    text.heading("largest ops");
    let fates: BTreeMap<&str, &Fate> = match &found.int8 {
        Some(plan) => plan.with_data.layers.iter().map(|layer| (layer.name.as_str(), &layer.fate)).collect(),
        None => BTreeMap::new(),
    };
    let (shown, hidden) = first(&found.ops, all);
    let row = |line: &OpLine| {
        vec![
            if all { line.name.clone() } else { shortened(&line.name) },
            line.op.clone(),
            line.output.as_deref().unwrap_or("").to_owned(),
            line.multiply_adds.map_or_else(|| "?".to_owned(), count),
            bytes(line.bytes),
            line.zeros.map_or_else(String::new, |zeros| format!("{:.1} %", 100.0 * zeros)),
            fates.get(line.name.as_str()).map_or("", |fate| short(fate)).to_owned(),
        ]
    };
    let (left, right) = (Align::Left, Align::Right);
    let last = if fates.is_empty() { "" } else { "with --int8" };
    let heads = [
        ("op", left),
        ("type", left),
        ("output", left),
        ("multiply-adds", right),
        ("bytes", right),
        ("zeros", right),
        (last, left),
    ];
    text.table(&heads, &shown.iter().map(row).collect::<Vec<_>>());
    more(hidden, "ops", text);
}

fn types(found: &Inspection, text: &mut Text) {
    text.heading("element types");
    let row = |ty: &Type| {
        let bytes = if ty.constants == 0 { String::new() } else { bytes(ty.bytes) };
        vec![ty.dtype.clone(), ty.values.to_string(), ty.constants.to_string(), bytes]
    };
    let right = Align::Right;
    let heads = [("type", Align::Left), ("values", right), ("constants", right), ("bytes", right)];
    text.table(&heads, &found.types.iter().map(row).collect::<Vec<_>>());
}

fn groups(groups: &[ChannelGroup], all: bool, text: &mut Text) {
    let may_go: usize = groups.iter().map(|group| group.free).sum();
    let channels: usize = groups.iter().map(|group| group.channels).sum();
    text.heading(&format!("{} groups of channels: {may_go} of {channels} channels may go with --prune", groups.len()));
    let (shown, hidden) = first(groups, all);
    let names = |names: &[String]| {
        let shown: Vec<String> = match all {
            true => names.to_vec(),
            false => names.iter().take(2).map(|name| shortened(name)).collect(),
        };
        let more = names.len() - shown.len();
        if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
    };
    let row = |group: &ChannelGroup| {
        vec![
            names(&group.producers),
            names(&group.consumers),
            group.channels.to_string(),
            group.free.to_string(),
            group.frozen.as_deref().unwrap_or("").to_owned(),
        ]
    };
    let (left, right) = (Align::Left, Align::Right);
    let heads =
        [("made by", left), ("read by", left), ("channels", right), ("may go", right), ("the others stay", left)];
    text.table(&heads, &shown.iter().map(row).collect::<Vec<_>>());
    more(hidden, "groups", text);
}

/// One word for what would become of a layer.
fn short(fate: &Fate) -> &'static str {
    match fate {
        Fate::Integer => "integer",
        Fate::Dynamic => "integer, ranges of each run",
        Fate::Storage { .. } => "stored",
        Fate::Float { .. } => "float",
    }
}

fn int8(plan: &Plan, before: u64, all: bool, text: &mut Text) {
    if let Some(reason) = &plan.nothing {
        text.heading(&format!("--int8 would do nothing: {reason}"));
        return;
    }
    let made_up = if plan.made_up { " (on a made-up sample)" } else { "" };
    outcome(&format!("with --int8 --data{made_up}"), &plan.with_data, before, all, text);
    outcome("with --int8 alone", &plan.without_data, before, all, text);
}

/// How many layers have which fate, and why no more are integer.
fn outcome(what: &str, outcome: &Outcome, before: u64, all: bool, text: &mut Text) {
    if let Some(reason) = &outcome.reason {
        text.heading(&format!("{what}: {reason}"));
        return;
    }
    let after = outcome.bytes.map_or_else(String::new, |after| {
        // (No run writes a larger file.)
        format!(": {} → {}", bytes(before), bytes(after.min(before)))
    });
    text.heading(&format!("{what}{after}"));
    let kinds: [(&str, Which); 4] = [
        ("compute in integers", |fate| matches!(fate, Fate::Integer)),
        ("compute in integers with ranges of each run", |fate| matches!(fate, Fate::Dynamic)),
        ("have their weights stored in fewer bits", |fate| matches!(fate, Fate::Storage { .. })),
        ("stay float", |fate| matches!(fate, Fate::Float { .. })),
    ];
    let counts = kinds.iter().map(|(what, which)| (outcome.count(*which), what)).filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    match outcome.layers.len() {
        0 => text.line("  no layers with weights"),
        layers => text.line(&format!("  of {layers} layers with weights: {}", counts.join(", "))),
    }
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for layer in &outcome.layers {
        if let Some(reason) = layer.fate.reason() {
            reasons.entry(reason.to_string()).or_default().push(&layer.name);
        }
    }
    why(reasons, all, text);
}

/// Picks layers by what would become of them.
type Which = fn(&Fate) -> bool;

fn list(names: &[&str]) -> String {
    names.iter().map(|name| shortened(name)).collect::<Vec<_>>().join(", ")
}

/// Reasons with the ops that they hold for, the most common first.
fn why(reasons: BTreeMap<String, Vec<&str>>, all: bool, text: &mut Text) {
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by(|one, other| other.1.len().cmp(&one.1.len()).then_with(|| one.0.cmp(&other.0)));
    let shown = if all { reasons.len() } else { reasons.len().min(4) };
    for (reason, names) in &reasons[..shown] {
        let some = if all { names.len() } else { names.len().min(2) };
        let more = if names.len() > some { format!(" and {} more", names.len() - some) } else { String::new() };
        text.line(&format!("  not integer: {reason}: {}{more}", list(&names[..some])));
    }
    more(reasons.len() - shown, "reasons", text);
}
