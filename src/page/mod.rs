//! The difference as a page: both graphs side by side, changes marked, nothing loaded from anywhere.
//!
//! The page is `page.html` with `page.css`, `page.js` and the data put in. **No** name of a model reaches it as markup: the data
//! is JSON without `<`, `>` and `&`, and the script writes text, never HTML.
use std::collections::HashMap;

use onnx_shrink_driver::{
    amounts::bytes,
    diff::{Diff, Index, Kind, Source, input_name, show_attribute},
};
use onnx_shrink_ir::{Model, op_schema};
use serde::Serialize;

use crate::text::diff::show_detail;
use layout::Boxes;

mod layout;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Distance of layers, in pixels.
const ROW: f64 = 58.0;

#[derive(Serialize)]
struct Page<'d> {
    diff: &'d Diff,
    a: GraphData,
    b: GraphData,
    pairs: &'d [(usize, usize)],
    /// For each change its details as sentences, and the ops of the main graph around it when it is in a body
    sentences: Vec<Vec<String>>,
    around: Vec<Option<(usize, usize)>>,
    sizes: [String; 2],
}

/// One graph: ops first, by place, then inputs, then outputs.
#[derive(Default, Serialize)]
struct GraphData {
    ops: usize,
    nodes: Vec<NodeData>,
    /// From, to, label, bends
    edges: Vec<(usize, usize, String, Vec<i32>)>,
}

#[derive(Serialize)]
struct NodeData {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    x: i32,
    y: i32,
    w: i32,
    /// Lines of (what, value) for the details
    facts: Vec<(String, String)>,
}

/// The whole page.
pub fn render(diff: &Diff, a: &Model, b: &Model) -> Result<String, serde_json::Error> {
    let (index_a, index_b) = (Index::new(&a.graph, &|_| false), Index::new(&b.graph, &|_| false));
    let (mut data_a, boxes_a) = collect(&index_a);
    let (mut data_b, boxes_b) = collect(&index_b);
    // Inputs and outputs stand beside each other, too.
    let mut pairs = diff.pairs.clone();
    let ports =
        [(index_a.graph.inputs().len(), index_b.graph.inputs().len()), (index_a.outputs.len(), index_b.outputs.len())];
    let mut base = (data_a.ops, data_b.ops);
    for (one, other) in ports {
        pairs.extend((0..one.min(other)).map(|place| (base.0 + place, base.1 + place)));
        base = (base.0 + one, base.1 + other);
    }
    let moved: Vec<usize> = diff
        .changes
        .iter()
        .filter(|change| change.kind == Kind::Moved)
        .flat_map(|change| change.a.iter().map(|op| op.index))
        .collect();
    pairs.retain(|(one, _)| !moved.contains(one));
    let (place_a, mut place_b) = layout::place(&boxes_a, &boxes_b, &pairs);
    // Beside each other from side to side, too, as far as a shift does it.
    if !pairs.is_empty() {
        let apart = pairs.iter().map(|&(one, other)| place_a.x[one] - place_b.x[other]);
        let shift = apart.sum::<f64>() / pairs.len() as f64;
        place_b.x.iter_mut().chain(place_b.bends.iter_mut().flatten()).for_each(|x| *x += shift);
    }
    for (data, placed) in [(&mut data_a, place_a), (&mut data_b, place_b)] {
        for (node, (x, layer)) in data.nodes.iter_mut().zip(placed.x.iter().zip(&placed.layers)) {
            (node.x, node.y) = (x.round() as i32, (*layer as f64 * ROW) as i32);
        }
        for (edge, bends) in data.edges.iter_mut().zip(placed.bends) {
            edge.3 = bends.into_iter().map(|x| x.round() as i32).collect();
        }
    }
    let page = Page {
        diff,
        a: data_a,
        b: data_b,
        pairs: &diff.pairs,
        sentences: diff.changes.iter().map(|change| change.details.iter().map(show_detail).collect()).collect(),
        around: diff.changes.iter().map(|change| change.around).collect(),
        sizes: [bytes(diff.a.bytes), bytes(diff.b.bytes)],
    };
    let json = escape(&serde_json::to_string(&page)?);
    // The data last: what it holds is not looked at for places to fill.
    let (head, tail) = PAGE.split_once("{{data}}").unwrap_or((PAGE, ""));
    Ok([&head.replace("{{style}}", STYLE), json.as_str(), &tail.replace("{{script}}", SCRIPT)].concat())
}

/// JSON that is safe inside of a script element: what could end it, or a line of script, is escaped.
fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => out.push(other),
        }
    }
    out
}

/// Nodes and edges of a graph, not placed yet.
fn collect(index: &Index<'_>) -> (GraphData, Boxes) {
    let graph = index.graph;
    let mut data = GraphData { ops: index.ops.len(), ..GraphData::default() };
    let show_type = |value: onnx_shrink_ir::ValueId| graph.ty(value).map_or_else(String::new, ToString::to_string);
    for place in 0..index.ops.len() {
        let op = index.op(place);
        let mut facts = Vec::new();
        for attribute in op.attributes().iter().filter(|attribute| attribute.g.is_none() && attribute.graphs.is_empty())
        {
            facts.push((attribute.name().to_owned(), show_attribute(attribute)));
        }
        for (port, &source) in index.inputs[place].iter().enumerate() {
            let text = match source {
                Source::Nothing => continue,
                Source::Constant(constant) => {
                    let constant = &index.constants[constant];
                    let bytes = bytes(constant.tensor.byte_len() as u64);
                    format!("{} · {} · {bytes}", constant.name, constant.tensor.ty())
                }
                source => {
                    let ty = op.input(port).map_or_else(String::new, show_type);
                    format!("{} · {ty}", index.name_of(source))
                }
            };
            let name = if port < op.inputs().len() { input_name(index, place, port) } else { "captured".to_owned() };
            facts.push((format!("→ {name}"), text));
        }
        let schema = op_schema::find(op.domain(), op.op_type(), graph.opset());
        for (port, value) in op.outputs().iter().enumerate() {
            if let Some(value) = *value {
                let formal = schema.and_then(|schema| schema.output(port)).map_or("", |formal| formal.name);
                facts.push((format!("{formal} →"), format!("{} · {}", graph.name_of(value), show_type(value))));
            }
        }
        for region in op.regions() {
            facts.push((op.region_name(region).to_owned(), format!("a body of {} ops", region.graph.op_count())));
        }
        data.nodes.push(node(index.label(place), &index.type_of(place), facts));
    }
    let inputs = data.nodes.len();
    for &value in graph.inputs() {
        let facts = vec![("type".to_owned(), show_type(value))];
        data.nodes.push(node(graph.name_of(value), "input", facts));
    }
    let outputs = data.nodes.len();
    for &value in graph.outputs() {
        let facts = vec![("type".to_owned(), show_type(value))];
        data.nodes.push(node(graph.name_of(value), "output", facts));
    }
    let mut seen: HashMap<(usize, usize), usize> = HashMap::new();
    let mut connect = |from: Source, to: usize, label: String| {
        let from = match from {
            Source::Made(op, _) => op,
            Source::Input(place) => inputs + place,
            _ => return,
        };
        // Two values between the same ops are one line with both names.
        match seen.get(&(from, to)) {
            Some(&edge) => {
                let old: &mut (usize, usize, String, Vec<i32>) = &mut data.edges[edge];
                old.2 = format!("{}, {label}", old.2);
            }
            None => {
                seen.insert((from, to), data.edges.len());
                data.edges.push((from, to, label, Vec::new()));
            }
        }
    };
    for place in 0..index.ops.len() {
        for (port, &source) in index.inputs[place].iter().enumerate() {
            let ty = index.op(place).input(port).map_or_else(String::new, show_type);
            connect(source, place, ty);
        }
    }
    for (place, &source) in index.outputs.iter().enumerate() {
        let ty = graph.outputs().get(place).map_or_else(String::new, |&value| show_type(value));
        connect(source, outputs + place, ty);
    }
    let boxes = Boxes {
        widths: data.nodes.iter().map(|node| f64::from(node.w)).collect(),
        lines: data.edges.iter().map(|edge| (edge.0, edge.1)).collect(),
    };
    (data, boxes)
}

fn node(name: &str, ty: &str, facts: Vec<(String, String)>) -> NodeData {
    let letters = ty.chars().count().clamp(5, 26) as i32;
    NodeData { name: name.to_owned(), ty: ty.to_owned(), x: 0, y: 0, w: 34 + 8 * letters, facts }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use onnx_shrink_driver::diff::{Options, diff};
    use onnx_shrink_exec::Interpreter;
    use onnx_shrink_ir::{Model, infer, text::parse_model};

    use super::render;

    fn model(text: &str) -> Model {
        let mut model = parse_model(text).unwrap();
        infer::infer(&mut model.graph);
        model
    }

    const BEFORE: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) {
      "</script><script>alert(1)</script>" = Relu(x)
      y = Neg("</script><script>alert(1)</script>")
    }"#;

    #[test]
    fn names_of_a_model_are_no_markup() {
        let (a, b) = (model(BEFORE), model(&BEFORE.replace("Relu", "Tanh")));
        let found = diff(&a, &b, &Interpreter::default(), Options::default());
        let page = render(&found, &a, &b).unwrap();
        assert!(!page.contains("<script>alert"));
        assert!(page.contains(r"\u003c/script\u003e\u003cscript\u003ealert(1)"));
        assert_eq!(page.matches("<script").count(), 2);
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing is loaded");
        assert!(!page.contains("innerHTML") && !page.contains("{{"));
    }
}
