//! `--explain NAME`: everything about one op, tensor or pass.
//!
//! **Never** guesses: what neither the model nor the journal knows is `None`.
use std::collections::BTreeSet;

use onnx_shrink_ir::{Graph, OpId, Use, ValueId};
use onnx_shrink_passes::{Outcome, registry};

use crate::report::{About, Fate, Report};

impl About {
    /// Everything about `name`, with the graph before and after and the journal of `report`; `None` when it names nothing.
    pub fn of(name: &str, before: &Graph, after: &Graph, report: &Report) -> Option<About> {
        let mut about = About { name: name.to_owned(), lines: Vec::new() };
        let mut labels: BTreeSet<String> = BTreeSet::new();
        for (when, graph) in [("before", before), ("after", after)] {
            about.graph(name, when, graph, "", &mut labels);
        }
        if let Some(pass) = registry::passes().into_iter().find(|pass| pass.name == name) {
            about.lines.push(format!("pass ({:?}): {}", pass.class, pass.about).to_lowercase());
        }
        let is_about =
            |pass: &str, op: &str, op_type: &str| pass == name || op == name || op_type == name || labels.contains(op);
        for entry in report.journal.iter().filter(|entry| is_about(entry.pass, &entry.op, &entry.op_type)) {
            about.lines.push(match &entry.outcome {
                Outcome::Done { removed, added } => {
                    format!("{} at `{}` ({}): done, {removed} ops out, {added} in", entry.pass, entry.op, entry.op_type)
                }
                Outcome::Missed { reason } => {
                    format!("{} at `{}` ({}): not done: {reason}", entry.pass, entry.op, entry.op_type)
                }
            });
        }
        for layer in report.layers.iter().filter(|layer| is_about("", &layer.name, &layer.op)) {
            let fate = match &layer.fate {
                Fate::Integer => "computes in integers".to_owned(),
                Fate::Dynamic => "computes in integers, with ranges of each run".to_owned(),
                Fate::Storage { reason } => format!("stored in fewer bits: {reason}"),
                Fate::Float { reason } => format!("stays float: {reason}"),
            };
            let sqnr = layer.sqnr_db.map_or_else(String::new, |sqnr| format!(", its output has {sqnr:.1} dB"));
            let (before, after) = (layer.bytes_before, layer.bytes_after);
            about.lines.push(format!("layer `{}` ({}): {fate}; {before} B → {after} B{sqnr}", layer.name, layer.op));
        }
        (!about.lines.is_empty()).then_some(about)
    }

    /// What `graph`, and the bodies in it, know of `name`.
    fn graph(&mut self, name: &str, when: &str, graph: &Graph, place: &str, labels: &mut BTreeSet<String>) {
        for op in graph.ops() {
            if graph.label_of(op) == name {
                labels.insert(name.to_owned());
                self.lines.push(format!("{when}{place}: op {}", op_line(graph, op)));
            }
            for region in graph.op(op).regions() {
                let place = format!("{place}, in `{}` of `{}`", graph.op(op).region_name(region), graph.label_of(op));
                self.graph(name, when, &region.graph, &place, labels);
            }
        }
        let Some(value) = graph.find(name) else { return };
        self.lines.push(format!("{when}{place}: tensor {}", value_line(graph, value)));
        let users = graph.uses(value).into_iter().filter_map(|place| match place {
            Use::Input(op, _) | Use::Capture(op, ..) => Some(op),
            Use::Output(_) => None,
        });
        labels.extend(graph.producer(value).into_iter().chain(users).map(|op| graph.label_of(op).to_owned()));
    }
}

fn op_line(graph: &Graph, op: OpId) -> String {
    let node = graph.op(op);
    let list = |values: &[Option<ValueId>]| {
        let one = |value: &Option<ValueId>| match value {
            Some(value) => value_name(graph, *value),
            None => "left out".to_owned(),
        };
        values.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    format!(
        "`{}` ({}) reads {} and makes {}",
        graph.label_of(op),
        node.op_type(),
        list(node.inputs()),
        list(node.outputs())
    )
}

fn value_name(graph: &Graph, value: ValueId) -> String {
    let ty = graph.ty(value).map_or_else(|| "?".to_owned(), ToString::to_string);
    format!("`{}` {ty}", graph.name_of(value))
}

fn value_line(graph: &Graph, value: ValueId) -> String {
    let source = match (graph.producer(value), graph.default_of(value)) {
        (Some(op), _) => format!("made by `{}` ({})", graph.label_of(op), graph.op(op).op_type()),
        (None, Some(tensor)) if graph.is_input(value) => {
            format!("a graph input with a default of {} B", tensor.byte_len())
        }
        (None, Some(tensor)) => format!("an initializer of {} B", tensor.byte_len()),
        (None, None) if graph.is_input(value) => "a graph input".to_owned(),
        (None, None) => "taken from outside".to_owned(),
    };
    let one = |place: &Use| match place {
        Use::Input(op, _) => format!("`{}` ({})", graph.label_of(*op), graph.op(*op).op_type()),
        Use::Capture(op, ..) => format!("a body of `{}` ({})", graph.label_of(*op), graph.op(*op).op_type()),
        Use::Output(_) => "the graph output".to_owned(),
    };
    let uses: Vec<String> = graph.uses(value).iter().map(one).collect();
    let uses = if uses.is_empty() { "nothing".to_owned() } else { uses.join(", ") };
    format!("{}, {source}, read by {uses}", value_name(graph, value))
}
