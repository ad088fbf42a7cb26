//! What became of each layer that lost channels or rank, as lines of text.
use onnx_shrink_driver::{
    Report,
    amounts::{bytes, count},
    report::{PrunedLayer, SplitLayer, Structure},
};

/// Layers that are shown when not all are asked for: those that lost most.
const SHOWN: usize = 5;

/// The lines of `report`; with `explain` every layer, in the order of the graph.
pub(super) fn structure_lines(report: &Report, explain: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(structure) = &report.structure {
        pruned(structure, explain, &mut lines);
    }
    if report.low_rank.iter().any(|layer| layer.rank.is_some()) {
        split(&report.low_rank, explain, &mut lines);
    }
    lines
}

fn pruned(structure: &Structure, explain: bool, lines: &mut Vec<String>) {
    let macs = |of: fn(&PrunedLayer) -> f64| structure.layers.iter().map(of).sum::<f64>();
    lines.push(format!(
        "pruned: {} → {} multiply-adds ({:.1} % fewer)",
        count(macs(|layer| layer.macs_before) as u64),
        count(macs(|layer| layer.macs_after) as u64),
        100.0 * structure.removed
    ));
    if structure.branches + structure.kernels > 0 {
        let (branches, kernels) = (structure.branches, structure.kernels);
        lines.push(format!("  {branches} branches became one convolution each, {kernels} kernels got smaller"));
    }
    let touched = structure.layers.iter().filter(|layer| layer.weights_before != layer.weights_after);
    let line = |layer: &PrunedLayer| {
        let error = layer.error.map_or_else(String::new, |error| format!(", error {:.2} %", 100.0 * error));
        format!(
            "  {} ({}): weights {} → {}, {} → {} multiply-adds, {} → {}{error}",
            layer.name,
            layer.op,
            dims(&layer.weights_before),
            dims(&layer.weights_after),
            count(layer.macs_before as u64),
            count(layer.macs_after as u64),
            bytes(layer.bytes_before as u64),
            bytes(layer.bytes_after as u64),
        )
    };
    list(touched.map(|layer| (layer.macs_before - layer.macs_after, line(layer))).collect(), explain, lines);
}

fn split(layers: &[SplitLayer], explain: bool, lines: &mut Vec<String>) {
    let count_of = layers.iter().filter(|layer| layer.rank.is_some()).count();
    lines.push(format!("low rank: {count_of} of {} fully connected layers in two", layers.len()));
    let line = |layer: &SplitLayer| {
        let rank = layer.rank?;
        let lost = layer.lost.map_or_else(String::new, |lost| format!(", loses {:.2} % of its energy", 100.0 * lost));
        let (before, after) = (layer.weights_before, layer.weights_after);
        let text = format!(
            "  {} ({}): rank {rank} of {}, {} → {} multiply-adds a row, {} → {}{lost}",
            layer.name,
            layer.op,
            layer.full_rank,
            count(before as u64),
            count(after as u64),
            bytes(layer.bytes_before as u64),
            bytes(layer.bytes_after as u64),
        );
        Some((before as f64 - after as f64, text))
    };
    list(layers.iter().filter_map(line).collect(), explain, lines);
}

/// The lines of `found`, (what was saved, line): all of them, or those that saved most.
fn list(mut found: Vec<(f64, String)>, explain: bool, lines: &mut Vec<String>) {
    let all = found.len();
    if !explain {
        found.sort_by(|one, other| other.0.total_cmp(&one.0));
        found.truncate(SHOWN);
    }
    let more = all - found.len();
    lines.extend(found.into_iter().map(|(_, line)| line));
    if more > 0 {
        lines.push(format!("  … and {more} more (all of them: --explain)"));
    }
}

fn dims(dims: &[usize]) -> String {
    if dims.is_empty() {
        return "none".to_owned(); // the layer is gone
    }
    dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
}
