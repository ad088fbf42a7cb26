//! What of a graph was quantized before: models of other tools, and what is between Q/DQ pairs.
use std::collections::BTreeSet;

use onnx_shrink_ir::{
    DataType, Graph, OpId, ValueId,
    ops::{is_clip, parameter_inputs},
};

use crate::{analysis::computed::Computed, weight_only::least_bits::LEAST_BYTES};

/// Whether someone quantized layers of `graph` before.
pub fn is_quantized(graph: &Graph) -> bool {
    graph.ops_in_id_order().into_iter().any(|op| {
        let op = graph.op(op);
        let own = matches!(
            op.op_type(),
            "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" | "ConvInteger" | "MatMulInteger"
        );
        own || op.op_type().starts_with("QLinear") || op.regions().iter().any(|region| is_quantized(&region.graph))
    })
}

/// Whether someone quantized `graph` before and left no layer float: there is nothing to do any more.
pub fn is_wholly_quantized(graph: &Graph) -> bool {
    is_quantized(graph) && !has_float_layers(graph, &BTreeSet::new())
}

/// Whether a layer of `graph`, or of a body, multiplies by 32-bit floats that are large enough to be stored, or looks them up. Those of
/// `captured` are such floats of the graph around.
fn has_float_layers(graph: &Graph, captured: &BTreeSet<ValueId>) -> bool {
    let computed = Computed::with(graph, |value| captured.contains(&value));
    let is_large = |value: ValueId| {
        captured.contains(&value)
            || graph.constant(value).is_some_and(|tensor| {
                tensor.dtype() == DataType::Float && tensor.dims().len() >= 2 && tensor.byte_len() >= LEAST_BYTES
            })
    };
    let is_float = |value: ValueId| {
        let behind = computed.behind(graph, value);
        computed.has(value) && !behind.is_quantized(graph) && behind.sources.iter().any(|source| is_large(*source))
    };
    graph.ops_in_id_order().into_iter().any(|id| {
        let op = graph.op(id);
        let places = parameter_inputs(op);
        let own = op.domain().is_empty() && !is_between_pairs(graph, id);
        if own && places.iter().filter_map(|index| op.input(*index)).any(is_float) {
            return true;
        }
        let captures = graph.captures(id);
        op.regions().iter().enumerate().any(|(index, region)| {
            let inside = captures.iter().filter(|(of, outer, _)| *of == index && is_float(*outer));
            has_float_layers(&region.graph, &inside.map(|(.., inner)| *inner).collect())
        })
    })
}

/// Whether `op` reads what a DequantizeLinear gives and a QuantizeLinear alone reads what it makes: engines run it in integers.
pub fn is_between_pairs(graph: &Graph, op: OpId) -> bool {
    let from_pair = |value: ValueId| graph.producer(value).is_some_and(|from| graph.op(from).is("DequantizeLinear"));
    let op = graph.op(op);
    op.input(0).is_some_and(from_pair)
        && op.output(0).and_then(|y| graph.only_use(y)).is_some_and(|(next, _)| {
            let activation = graph.op(next).output(0).filter(|_| is_clip(graph.op(next)));
            let next = activation.and_then(|y| graph.only_use(y)).map_or(next, |(next, _)| next);
            graph.op(next).is("QuantizeLinear")
        })
}

#[cfg(test)]
mod tests {
    use super::{is_quantized, is_wholly_quantized};
    use crate::testing::parse;

    #[test]
    fn quantized_is_a_property_of_a_layer() {
        let ones = vec!["1"; 144].join(", ");
        let model = |second: &str| {
            parse(&format!(
                "g (float[2,12] x) => (float[2,12] y) <int8[12,12] q = {{{ones}}}, float[12,12] w = {{{ones}}}, float s = {{0.5}}> {{
                d = DequantizeLinear (q, s)  t = MatMul (x, d)  {second} }}"
            ))
            .graph
        };
        let float = model("y = MatMul (t, w)");
        assert!(is_quantized(&float) && !is_wholly_quantized(&float));
        let none = model("y = MatMul (t, d)");
        assert!(is_wholly_quantized(&none));
        let computed = model("u = Neg (w)  y = MatMul (t, u)");
        assert!(!is_wholly_quantized(&computed), "a weight that is computed is one, too");
        let float = parse(&format!(
            "g (float[2,12] x) => (float[2,12] y) <float[12,12] w = {{{ones}}}> {{ y = MatMul (x, w) }}"
        ));
        assert!(!is_quantized(&float.graph) && !is_wholly_quantized(&float.graph));
    }
}
