//! What became of each layer with weights: of the main graph and of the bodies in it.
//!
//! **Never** decides anything: a layer's place in integers comes from who placed it, the rest from the bytes that it reads.
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use onnx_shrink_ir::{Graph, OpId, ValueId};

use crate::{
    formats::accumulator_bits,
    report::{Fate, Layer},
    stored_form::constants_beside,
};

/// Ops that multiply by weights, where one of their inputs is constant.
pub(crate) const MULTIPLY: [&str; 7] = ["Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"];

/// Numbers from which on a constant that rows are looked up in counts as a layer's weight.
const LEAST_LOOKUP: usize = 4096;

/// Ops between a constant as it is stored and the layer that reads it.
pub(crate) const DECODE: [&str; 10] =
    ["DequantizeLinear", "Mul", "Cast", "Log", "Reshape", "Slice", "Sub", "Concat", "Floor", "Div"];

/// Why what is looked up is not computed in integers.
const LOOKED_UP: &str = "its rows are looked up, and multiplied by nothing";

/// The longest way from a constant to what reads it: two integers to a byte.
pub(crate) const DEEPEST: usize = 10;

/// Why a layer does not compute in integers; `None`: it does.
pub type Verdict<'a> = &'a dyn Fn(OpId) -> Option<String>;

/// The layers of `before`, in its order, each followed by those of its bodies. `after` is the graph after all rewrites,
/// whose op ids are the same; `verdict` speaks of ops of the main graph.
pub fn layers(before: &Graph, after: &Graph, verdict: Verdict<'_>) -> Vec<Layer> {
    let mut layers = Vec::new();
    let counted = Default::default();
    gather(&Pair { before, after, captured: BTreeMap::new(), counted }, verdict, &mut layers);
    let constants = constants_beside(&layers, before, after);
    layers.extend(constants);
    layers
}

/// A graph before and after, with what its captured values hold in either.
struct Pair<'a> {
    before: &'a Graph,
    after: &'a Graph,
    captured: BTreeMap<ValueId, [Constants; 2]>,
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

impl Pair<'_> {
    /// The constants behind `value` of side 0 or 1, through ops that decode them; with `counts` a layer reads them.
    fn constants(&self, side: usize, value: ValueId, counts: bool) -> Constants {
        let graph = [self.before, self.after][side];
        let mut sum = Constants::default();
        let mut work = vec![(value, 0)];
        let mut seen = BTreeSet::new();
        while let Some((value, depth)) = work.pop() {
            if !seen.insert(value) {
                continue;
            }
            if let Some(constant) = graph.constant(value) {
                let is_weight = constant.dims().len() >= 2 && constant.len() > 1;
                let bytes = constant.byte_len() as u64;
                sum = sum.plus(Constants { bytes, own: self.own(side, value, bytes, counts), is_weight });
            } else if let Some(outside) = self.captured.get(&value) {
                let own = self.own(side, value, outside[side].own, counts);
                sum = sum.plus(Constants { own, ..outside[side] });
            } else if let Some(producer) = graph.producer(value)
                && depth < DEEPEST
                && DECODE.iter().any(|name| graph.op(producer).is(name))
            {
                work.extend(graph.op(producer).inputs().iter().flatten().map(|value| (*value, depth + 1)));
            }
        }
        sum
    }

    /// `bytes`, unless a layer has counted those of `value`; with `counts` this one does.
    fn own(&self, side: usize, value: ValueId, bytes: u64, counts: bool) -> u64 {
        let mut counted = self.counted[side].borrow_mut();
        let is_new = if counts { counted.insert(value) } else { !counted.contains(&value) };
        if is_new { bytes } else { 0 }
    }

    /// The same for all inputs of `op`.
    fn read_by(&self, side: usize, op: OpId, counts: bool) -> Constants {
        let graph = [self.before, self.after][side];
        if !graph.has_op(op) {
            return Constants::default();
        }
        let inputs = graph.op(op).inputs().iter().flatten();
        inputs.fold(Constants::default(), |sum, value| sum.plus(self.constants(side, *value, counts)))
    }

    /// Whether `op` looks rows up in a large constant of floats.
    fn is_lookup(&self, op: OpId) -> bool {
        let op = self.before.op(op);
        let table = op.input(0).filter(|_| op.is("Gather")).and_then(|table| self.before.constant(table));
        table.is_some_and(|table| table.dtype().is_float() && table.dims().len() >= 2 && table.len() >= LEAST_LOOKUP)
    }
}

fn gather(pair: &Pair<'_>, verdict: Verdict<'_>, layers: &mut Vec<Layer>) {
    let graph = pair.before;
    // A layer with ranges of each run is another op by now, under the same name.
    let products = pair.after.ops_of("MatMulInteger");
    let dynamic: BTreeMap<&str, OpId> = products.into_iter().map(|op| (pair.after.label_of(op), op)).collect();
    for id in graph.ops() {
        let op = graph.op(id);
        let is_lookup = pair.is_lookup(id);
        let is_layer = is_lookup || MULTIPLY.iter().any(|name| op.is(name)) && pair.read_by(0, id, false).is_weight;
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
            let verdict = if is_lookup { Some(LOOKED_UP.to_owned()) } else { verdict(id) };
            let fate = match verdict {
                _ if is_dynamic => Fate::Dynamic,
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
                accumulator_bits: if is_dynamic { None } else { accumulator_bits(pair.after, id) },
                sqnr_db: None,
                error_share: None,
            });
        }
        if op.regions().is_empty() || !pair.after.has_op(id) {
            continue;
        }
        let reason =
            "it is in a body of If, Loop or Scan: its weights are stored in fewer bits, and it computes in float";
        for (index, (region, after)) in op.regions().iter().zip(pair.after.op(id).regions()).enumerate() {
            let mut captured = BTreeMap::new();
            for (side, graph) in [pair.before, pair.after].into_iter().enumerate() {
                for (_, outer, inner) in graph.captures(id).into_iter().filter(|capture| capture.0 == index) {
                    let sides: &mut [Constants; 2] = captured.entry(inner).or_default();
                    sides[side] = pair.constants(side, outer, true);
                }
            }
            let body = Pair { before: &region.graph, after: &after.graph, captured, counted: Default::default() };
            gather(&body, &|_| Some(reason.to_owned()), layers);
        }
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Graph, text::parse_graph};

    use super::layers;

    fn graph(text: &str) -> Graph {
        parse_graph(text, 17).unwrap().graph
    }

    #[test]
    fn a_weight_that_layers_share_counts_once() {
        let graph = graph(
            "g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1, 2, 3, 4}> { a = MatMul (x, w)  b = MatMul (a, w)  y = MatMul (b, w) }",
        );
        let found = layers(&graph, &graph, &|_| Some(String::new()));
        let bytes: Vec<(u64, u64)> = found.iter().map(|layer| (layer.bytes_before, layer.bytes_after)).collect();
        assert_eq!(bytes, [(16, 16), (0, 0), (0, 0)]);
    }

    #[test]
    fn a_table_of_rows_is_a_layer() {
        let numbers = vec!["1"; 4096].join(",");
        let graph = graph(&format!(
            "g (int64[3] x) => (float[3,64] y) <float[64,64] w = {{{numbers}}}> {{ y = Gather (w, x) }}"
        ));
        let found = layers(&graph, &graph, &|_| None);
        assert_eq!(found.iter().map(|layer| layer.bytes_before).collect::<Vec<_>>(), [4 * 4096]);
        assert!(matches!(found[0].fate, crate::report::Fate::Float { .. }));
    }
}
