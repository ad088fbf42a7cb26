//! What became of each layer with weights: of the main graph and of the bodies in it.
//!
//! **Never** decides anything: a layer's place in integers comes from who placed it, the rest from the bytes that it reads.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Graph, OpId, ValueId};

use crate::{
    formats::accumulator_bits,
    report::{Fate, Layer},
    stored_form::constants_beside,
};

/// Ops that multiply by weights, where one of their inputs is constant.
pub(crate) const MULTIPLY: [&str; 7] = ["Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"];

/// Ops between a constant as it is stored and the layer that reads it.
pub(crate) const DECODE: [&str; 10] =
    ["DequantizeLinear", "Mul", "Cast", "Log", "Reshape", "Slice", "Sub", "Concat", "Floor", "Div"];

/// The longest way from a constant to what reads it: two integers to a byte.
pub(crate) const DEEPEST: usize = 10;

/// Why a layer does not compute in integers; `None`: it does.
pub type Verdict<'a> = &'a dyn Fn(OpId) -> Option<String>;

/// The layers of `before`, in its order, each followed by those of its bodies. `after` is the graph after all rewrites,
/// whose op ids are the same; `verdict` speaks of ops of the main graph.
pub fn layers(before: &Graph, after: &Graph, verdict: Verdict<'_>) -> Vec<Layer> {
    let mut layers = Vec::new();
    gather(&Pair { before, after, captured: BTreeMap::new() }, verdict, &mut layers);
    let constants = constants_beside(&layers, before, after);
    layers.extend(constants);
    layers
}

/// A graph before and after, with what its captured values hold in either.
struct Pair<'a> {
    before: &'a Graph,
    after: &'a Graph,
    captured: BTreeMap<ValueId, [Constants; 2]>,
}

/// The constants behind an input.
#[derive(Clone, Copy, Default)]
struct Constants {
    bytes: u64,
    /// Whether one of them is a matrix, or more than that
    is_weight: bool,
}

impl Constants {
    fn plus(self, other: Constants) -> Constants {
        Constants { bytes: self.bytes + other.bytes, is_weight: self.is_weight || other.is_weight }
    }
}

impl Pair<'_> {
    /// The constants behind `value` of side 0 or 1, through ops that decode them.
    fn constants(&self, side: usize, value: ValueId) -> Constants {
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
                sum = sum.plus(Constants { bytes: constant.byte_len() as u64, is_weight });
            } else if let Some(outside) = self.captured.get(&value) {
                sum = sum.plus(outside[side]);
            } else if let Some(producer) = graph.producer(value)
                && depth < DEEPEST
                && DECODE.iter().any(|name| graph.op(producer).is(name))
            {
                work.extend(graph.op(producer).inputs().iter().flatten().map(|value| (*value, depth + 1)));
            }
        }
        sum
    }

    /// The same for all inputs of `op`.
    fn read_by(&self, side: usize, op: OpId) -> Constants {
        let graph = [self.before, self.after][side];
        if !graph.has_op(op) {
            return Constants::default();
        }
        let inputs = graph.op(op).inputs().iter().flatten();
        inputs.fold(Constants::default(), |sum, value| sum.plus(self.constants(side, *value)))
    }
}

fn gather(pair: &Pair<'_>, verdict: Verdict<'_>, layers: &mut Vec<Layer>) {
    let graph = pair.before;
    // A layer with ranges of each run is another op by now, under the same name.
    let products = pair.after.ops_of("MatMulInteger");
    let dynamic: BTreeMap<&str, OpId> = products.into_iter().map(|op| (pair.after.label_of(op), op)).collect();
    for id in graph.ops() {
        let op = graph.op(id);
        let [before, mut after] = [pair.read_by(0, id), pair.read_by(1, id)];
        let dynamic = dynamic.get(graph.label_of(id)).filter(|_| op.is("Gemm") || op.is("MatMul"));
        let is_dynamic = dynamic.is_some();
        if let Some(weight) = dynamic.and_then(|op| pair.after.op(*op).input(1)).and_then(|w| pair.after.constant(w)) {
            // A scale for each column; a Gemm's bias is an Add behind it.
            let bias = op.input(2).map_or(0, |bias| pair.constants(0, bias).bytes);
            let scales = weight.dims().last().map_or(0, |columns| 4 * columns);
            after.bytes = (weight.byte_len() + scales) as u64 + bias;
        }
        if MULTIPLY.iter().any(|name| op.is(name)) && before.is_weight {
            let fate = match verdict(id) {
                _ if is_dynamic => Fate::Dynamic,
                None => Fate::Integer,
                Some(reason) if after.bytes < before.bytes => Fate::Storage { reason },
                Some(reason) => Fate::Float { reason },
            };
            layers.push(Layer {
                name: graph.label_of(id).to_owned(),
                op: op.op_type().to_owned(),
                fate,
                bytes_before: before.bytes,
                bytes_after: after.bytes,
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
                    sides[side] = pair.constants(side, outer);
                }
            }
            let body = Pair { before: &region.graph, after: &after.graph, captured };
            gather(&body, &|_| Some(reason.to_owned()), layers);
        }
    }
}
