//! What became of each layer with weights: of the main graph and of the bodies in it.
//!
//! **Never** decides anything: a layer's place in integers comes from who placed it, the rest from the bytes that it reads.
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use onnx_shrink_ir::{Graph, OpId, TensorType, ValueId, ops::weight_inputs};
use onnx_shrink_passes::analysis::{computed::Computed, quantized::is_between_pairs};

use crate::{
    formats::accumulator_bits,
    plan::{Fate, Layer, Plan, Reason},
    stored_form::{constants_beside, multiplies},
};

/// Numbers from which on a constant that rows are looked up in is listed even where it stays as it was.
const LEAST_LOOKUP: usize = 4096;

/// The layers of `before`, in its order, each followed by those of its bodies. `after` is the graph after all rewrites,
/// whose op ids are the same; `plan` is that of the main graph.
pub fn layers(before: &Graph, after: &Graph, plan: &Plan) -> Vec<Layer> {
    let mut layers = Vec::new();
    gather(&Pair::new(before, after, BTreeMap::new()), plan, &mut layers);
    let constants = constants_beside(&layers, before, after);
    layers.extend(constants);
    layers
}

/// A graph before and after, with what its captured values hold in either.
struct Pair<'a> {
    before: &'a Graph,
    after: &'a Graph,
    captured: BTreeMap<ValueId, [Constants; 2]>,
    computed: [Computed; 2],
    /// Constants of either that a layer has counted: what many read is in the file once
    counted: [RefCell<BTreeSet<ValueId>>; 2],
}

/// The constants behind an input.
#[derive(Clone, Copy, Default)]
struct Constants {
    bytes: u64,
    /// Those of the bytes that no layer before has counted
    own: u64,
    /// Whether one of them is a matrix, or more than that
    is_weight: bool,
}

impl Constants {
    fn plus(self, other: Constants) -> Constants {
        let is_weight = self.is_weight || other.is_weight;
        Constants { bytes: self.bytes + other.bytes, own: self.own + other.own, is_weight }
    }
}

impl<'a> Pair<'a> {
    fn new(before: &'a Graph, after: &'a Graph, captured: BTreeMap<ValueId, [Constants; 2]>) -> Pair<'a> {
        let side = |side: usize, graph| {
            Computed::with(graph, |value| captured.get(&value).is_some_and(|sides| sides[side].bytes > 0))
        };
        let computed = [side(0, before), side(1, after)];
        Pair { before, after, captured, computed, counted: Default::default() }
    }

    /// The constants behind `value` of side 0 or 1; with `counts` a layer reads them.
    fn constants(&self, side: usize, value: ValueId, counts: bool) -> Constants {
        let (graph, computed) = self.side(side);
        if !computed.has(value) {
            return Constants::default();
        }
        let is_matrix = |ty: &TensorType| {
            ty.rank().is_some_and(|rank| rank >= 2) && ty.dims().is_none_or(|dims| dims.iter().product::<usize>() > 1)
        };
        let made = graph.producer(value).and_then(|_| graph.ty(value)).is_some_and(is_matrix);
        let sources = computed.behind(graph, value).sources;
        let source = |source: &ValueId| match graph.constant(*source) {
            Some(constant) => {
                let bytes = constant.byte_len() as u64;
                let is_weight = constant.dims().len() >= 2 && constant.len() > 1;
                Constants { bytes, own: self.own(side, *source, bytes, counts), is_weight }
            }
            None => match self.captured.get(source) {
                Some(outside) => Constants { own: self.own(side, *source, outside[side].own, counts), ..outside[side] },
                None => Constants::default(),
            },
        };
        sources.iter().map(source).fold(Constants { bytes: 0, own: 0, is_weight: made }, Constants::plus)
    }

    /// `bytes`, unless a layer has counted those of `value`; with `counts` this one does.
    fn own(&self, side: usize, value: ValueId, bytes: u64, counts: bool) -> u64 {
        let mut counted = self.counted[side].borrow_mut();
        let is_new = if counts { counted.insert(value) } else { !counted.contains(&value) };
        if is_new { bytes } else { 0 }
    }

    fn side(&self, side: usize) -> (&Graph, &Computed) {
        ([self.before, self.after][side], &self.computed[side])
    }

    /// Whether `op` follows from constants alone.
    fn is_computed(&self, op: OpId) -> bool {
        let (graph, computed) = self.side(0);
        graph.op(op).outputs().iter().flatten().all(|output| computed.has(*output))
    }

    /// Whether a weight of `op` was quantized before.
    fn is_quantized(&self, op: OpId) -> bool {
        let (graph, computed) = self.side(0);
        let places = weight_inputs(graph.op(op));
        let mut weights =
            places.iter().filter_map(|index| graph.op(op).input(*index)).filter(|value| computed.has(*value));
        weights.any(|value| computed.behind(graph, value).is_quantized(graph))
    }

    /// The same for all inputs of `op`.
    fn read_by(&self, side: usize, op: OpId, counts: bool) -> Constants {
        let (graph, _) = self.side(side);
        if !graph.has_op(op) {
            return Constants::default();
        }
        let inputs = graph.op(op).inputs().iter().flatten();
        inputs.fold(Constants::default(), |sum, value| sum.plus(self.constants(side, *value, counts)))
    }

    /// Whether `op` looks rows up in a table of floats that is large, or was made smaller.
    fn is_lookup(&self, op: OpId) -> bool {
        let node = self.before.op(op);
        let Some(table) = node.input(0).filter(|_| node.is("Gather")) else { return false };
        if !self.constants(0, table, false).is_weight {
            return false;
        }
        let is_large = self
            .before
            .constant(table)
            .is_some_and(|table| table.dtype().is_float() && table.dims().len() >= 2 && table.len() >= LEAST_LOOKUP);
        is_large || self.read_by(1, op, false).bytes < self.read_by(0, op, false).bytes
    }
}

fn gather(pair: &Pair<'_>, plan: &Plan, layers: &mut Vec<Layer>) {
    let graph = pair.before;
    // A layer with ranges of each run is another op by now, under the same name.
    let products = pair.after.ops_of("MatMulInteger");
    let dynamic: BTreeMap<&str, OpId> = products.into_iter().map(|op| (pair.after.label_of(op), op)).collect();
    for id in graph.ops() {
        let op = graph.op(id);
        let is_lookup = pair.is_lookup(id);
        // (What multiplies constants alone makes a weight, and is no layer.)
        let is_layer = is_lookup || multiplies(op) && !pair.is_computed(id) && pair.read_by(0, id, false).is_weight;
        let [before, mut after] = [pair.read_by(0, id, is_layer), pair.read_by(1, id, is_layer)];
        let dynamic = dynamic.get(graph.label_of(id)).filter(|_| op.is("Gemm") || op.is("MatMul"));
        let is_dynamic = dynamic.is_some();
        if let Some(weight) = dynamic.and_then(|op| pair.after.op(*op).input(1)).and_then(|w| pair.after.constant(w)) {
            // A scale for each column; a Gemm's bias is an Add behind it.
            let bias = op.input(2).map_or(0, |bias| pair.constants(0, bias, false).bytes);
            let scales = weight.dims().last().map_or(0, |columns| 4 * columns);
            after.bytes = (weight.byte_len() + scales) as u64 + bias;
            after.own = if before.own > 0 { after.bytes } else { 0 };
        }
        if is_layer {
            let reason = if is_lookup { Some(Reason::Lookup) } else { plan.of(id).reason().cloned() };
            let fate = match reason {
                _ if is_dynamic => Fate::Dynamic,
                _ if !is_lookup && pair.is_quantized(id) => match is_between_pairs(graph, id) {
                    true => Fate::Integer,
                    false => Fate::Storage { reason: Reason::Quantized },
                },
                None => Fate::Integer,
                Some(reason) if after.bytes < before.bytes => Fate::Storage { reason },
                Some(reason) => Fate::Float { reason },
            };
            layers.push(Layer {
                name: graph.label_of(id).to_owned(),
                op: op.op_type().to_owned(),
                fate,
                bytes_before: before.own,
                bytes_after: after.own,
                accumulator_bits: if is_dynamic || !pair.after.has_op(id) {
                    None
                } else {
                    accumulator_bits(pair.after, id)
                },
                sqnr_db: None,
                error_share: None,
            });
        }
        if op.regions().is_empty() || !pair.after.has_op(id) {
            continue;
        }
        for (index, (region, after)) in op.regions().iter().zip(pair.after.op(id).regions()).enumerate() {
            let mut captured = BTreeMap::new();
            for (side, graph) in [pair.before, pair.after].into_iter().enumerate() {
                for (_, outer, inner) in graph.captures(id).into_iter().filter(|capture| capture.0 == index) {
                    let sides: &mut [Constants; 2] = captured.entry(inner).or_default();
                    sides[side] = pair.constants(side, outer, true);
                }
            }
            let body = Pair::new(&region.graph, &after.graph, captured);
            gather(&body, &Plan::float(Reason::InBody), layers);
        }
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Graph, text::parse_graph};

    use super::layers;
    use crate::plan::{Plan, Reason};

    fn graph(text: &str) -> Graph {
        parse_graph(text, 17).unwrap().graph
    }

    #[test]
    fn a_weight_that_layers_share_counts_once() {
        let graph = graph(
            "g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1, 2, 3, 4}> { a = MatMul (x, w)  b = MatMul (a, w)  y = MatMul (b, w) }",
        );
        let found = layers(&graph, &graph, &Plan::float(Reason::NoSamples));
        let bytes: Vec<(u64, u64)> = found.iter().map(|layer| (layer.bytes_before, layer.bytes_after)).collect();
        assert_eq!(bytes, [(16, 16), (0, 0), (0, 0)]);
    }

    #[test]
    fn a_table_of_rows_is_a_layer() {
        let numbers = vec!["1"; 4096].join(",");
        let graph = graph(&format!(
            "g (int64[3] x) => (float[3,64] y) <float[64,64] w = {{{numbers}}}> {{ y = Gather (w, x) }}"
        ));
        let found = layers(&graph, &graph, &Plan::float(Reason::NoSamples));
        assert_eq!(found.iter().map(|layer| layer.bytes_before).collect::<Vec<_>>(), [4 * 4096]);
        assert!(matches!(found[0].fate, crate::report::Fate::Float { .. }));
    }

    #[test]
    fn what_multiplies_constants_alone_is_no_layer() {
        let model = "g (float[2,2] x) => (float[2,2] y) <float[2,2] a = {1, 2, 3, 4}, float[2,2] b = {1, 2, 3, 4}> {
            w = MatMul (a, b)  y = MatMul (x, w) }";
        let mut graph = parse_graph(model, 17).unwrap().graph;
        onnx_shrink_ir::infer::infer(&mut graph);
        let after = parse_graph("g (float[2,2] x) => (float[2,2] y) { y = Relu (x) }", 17).unwrap().graph;
        for after in [&graph, &after] {
            let found = layers(&graph, after, &Plan::float(Reason::NoSamples));
            assert_eq!(found.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(), ["y"]);
        }
    }

    #[test]
    fn weights_that_follow_from_constants_are_weights() {
        let model = "g (float[2,2] x, int64[1] i) => (float[2,2] y, float[1,2] e) <float16[2,2] w = {1, 2, 3, 4}, float[4] f = {1, 2, 3, 4},
            int64[2] s = {2, 2}> { c = Cast <to = 1> (w)  t = Transpose (c)  m = MatMul (x, t)  r = Reshape (f, s)  g = Add (m, x)
            y = MatMul (r, g)  e = Gather (c, i) }";
        let mut graph = parse_graph(model, 17).unwrap().graph;
        onnx_shrink_ir::infer::infer(&mut graph);
        let found = layers(&graph, &graph, &Plan::float(Reason::NoSamples));
        let names: Vec<(&str, u64)> = found.iter().map(|layer| (layer.name.as_str(), layer.bytes_before)).collect();
        // The table is stored as it was: it is no layer.
        assert_eq!(names, [("m", 8), ("y", 32)]);
    }
}
