//! What kind of numbers an output holds: which parts it has, and whether they are scores of classes.
use onnx_shrink_ir::{Graph, ValueId, semantics::is_reshape};

use super::structure::{Structure, only_data};

/// Ops that an output is followed back through, at most.
const MOST_OPS: usize = 16;

/// The kind of an output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kind {
    /// Its parts, where its ops tell them
    pub structure: Option<Structure>,
    /// Whether the largest number of each row of the last axis is the class that the model tells
    pub is_classes: bool,
}

impl Kind {
    /// Of the graph output `output`.
    pub(super) fn of(graph: &Graph, output: ValueId) -> Kind {
        let structure = Structure::of(graph, output);
        let is_classes = structure.is_none() && is_classes(graph, output).unwrap_or(false);
        Kind { structure, is_classes }
    }
}

/// Whether `output` holds scores of classes: [batch, classes], or [batch, sequence, classes] of a sequence. A detector's anchors
/// are no sequence, and an output of the shape of an input (what an autoencoder gives) holds none.
fn is_classes(graph: &Graph, output: ValueId) -> Option<bool> {
    let ty = graph.ty(output)?;
    let shape = ty.shape.as_ref()?;
    if !ty.dtype.is_float() || !matches!(shape.len(), 2 | 3) || shape.last()?.known() == Some(1) {
        return Some(false);
    }
    let (mut value, mut softmax, mut last) = (output, false, None);
    for _ in 0..MOST_OPS {
        let Some(op) = graph.producer(value) else { break };
        let node = graph.op(op);
        let is_softmax = node.is("Softmax") || node.is("LogSoftmax");
        softmax |= is_softmax;
        let passes = is_softmax
            || is_reshape(node)
            || ["Identity", "Cast", "Add", "Mul", "Div", "QuantizeLinear", "DequantizeLinear"]
                .iter()
                .any(|kind| node.is(kind));
        match only_data(graph, node).filter(|_| passes) {
            Some(from) => value = from,
            None => {
                last = Some(node);
                break;
            }
        }
    }
    let is_last = |kinds: &[&str]| last.is_some_and(|node| kinds.iter().any(|kind| node.is(kind)));
    if shape.len() == 2 {
        let like_input = graph
            .inputs()
            .iter()
            .any(|input| graph.ty(*input).is_some_and(|ty| ty.dtype.is_float() && ty.shape.as_ref() == Some(shape)));
        let layers = ["Gemm", "MatMul", "Conv", "GlobalAveragePool", "AveragePool", "ReduceMean"];
        return Some(softmax || !like_input && is_last(&layers));
    }
    let shares_places = graph.outputs().iter().any(|other| {
        let places = |value: ValueId| graph.ty(value)?.shape.as_ref().filter(|dims| dims.len() == 3)?[1].known();
        *other != output && shape[1].known().is_some() && places(*other) == shape[1].known()
    });
    Some(!shares_places && (is_last(&["Gemm", "MatMul"]) || softmax && !is_last(&["Concat", "Conv", "Transpose"])))
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{infer, text::parse_graph};

    use super::Kind;

    fn is_classes(text: &str) -> bool {
        let mut graph = parse_graph(text, 17).unwrap().graph;
        infer::infer(&mut graph);
        Kind::of(&graph, graph.outputs()[0]).is_classes
    }

    #[test]
    fn scores_of_classes_are_told_from_other_rows() {
        let w = "<float[4,3] w = {1,1,1,1,1,1,1,1,1,1,1,1}>";
        assert!(is_classes(&format!("g (float[1,4] x) => (float[1,3] y) {w} {{ y = MatMul (x, w) }}")));
        let sequence = "g (float[1,7,4] x) => (float[1,7,3] y)";
        assert!(is_classes(&format!("{sequence} {w} {{ m = MatMul (x, w) y = Softmax (m) }}")));
        let square = "<float[3,3] w = {1,1,1,1,1,1,1,1,1}>";
        let as_input = format!("g (float[1,3] x) => (float[1,3] y) {square} {{ y = MatMul (x, w) }}");
        assert!(!is_classes(&as_input));
        let anchors = "m = Concat <axis = 1> (x, z)  y = Softmax (m)";
        let anchors = format!("g (float[1,7,2] x, float[1,9,2] z) => (float[1,16,2] y) {{ {anchors} }}");
        assert!(!is_classes(&anchors));
        assert!(!is_classes("g (float[1,8,8] x) => (float[1,8,8] y) { y = Sigmoid (x) }"));
    }
}
