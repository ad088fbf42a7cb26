//! What is said of models that draw random numbers.
use onnx_shrink_ir::{Graph, ops};

use crate::report::Note;

/// The ops of `graph` that draw random numbers, those of bodies included, by what they make.
fn drawing(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for id in graph.ops() {
        let op = graph.op(id);
        if ops::is_random(graph, id) {
            let made = op.outputs().iter().flatten().next().map_or("", |&value| graph.name_of(value));
            found.push(format!("`{made}` ({})", op.op_type()));
        }
        found.extend(op.regions().iter().flat_map(|region| drawing(&region.graph)));
    }
    found
}

/// How a model that draws random numbers was run; `None` for others.
pub fn note(graph: &Graph) -> Option<Note> {
    let mut drawing = drawing(graph).into_iter();
    let first = drawing.next()?;
    Some(Note::RandomNumbers { first, more: drawing.count() })
}
