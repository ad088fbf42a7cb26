//! What became of each layer with weights: of the main graph and of the bodies in it.
//!
//! **Never** decides anything: a layer's place in integers comes from who placed it, the rest from the bytes that it reads.
use std::{collections::BTreeMap, fmt};

use onnx_shrink_ir::{Graph, OpId, TensorType, ValueId};
use onnx_shrink_passes::quantize::{
    computed::{Computed, weight_inputs},
    is_between_pairs,
};

use crate::{
    formats::accumulator_bits,
    report::{Fate, Layer},
};

/// Why a layer does not compute in integers, where no pass says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing tells the ranges of what it reads
    NoSamples,
    /// Samples were given, and the model does not run on them
    NotRun,
    /// The same, and why each run does not find them
    NorDynamic(Box<Reason>, String),
    /// It is in a body
    InBody,
    /// It only looks rows up
    Lookup,
    /// The file has it so
    Quantized,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoSamples => f.write_str("no samples were given"),
            Reason::NotRun => f.write_str("the model does not run on the samples, so that its ranges are not known"),
            Reason::NorDynamic(reason, missed) => write!(f, "{reason}, and ranges of each run: {missed}"),
            Reason::InBody => {
                f.write_str("it is in a body of If, Loop or Scan: those are stored, not computed, in 8 bits")
            }
            Reason::Lookup => f.write_str("it looks rows up: there is nothing to compute"),
            Reason::Quantized => f.write_str("it is quantized already"),
        }
    }
}

/// Why a layer does not compute in integers; `None`: it does.
pub type Verdict<'a> = &'a dyn Fn(OpId) -> Option<String>;

/// The layers of `before`, in its order, each followed by those of its bodies. `after` is the graph after all rewrites,
/// whose op ids are the same; `verdict` speaks of ops of the main graph.
pub fn layers(before: &Graph, after: &Graph, verdict: Verdict<'_>) -> Vec<Layer> {
    let mut layers = Vec::new();
    gather(&Pair::new(before, after, BTreeMap::new()), verdict, &mut layers);
    layers
}

/// A graph before and after, with what its captured values hold in either.
struct Pair<'a> {
    before: &'a Graph,
    after: &'a Graph,
    captured: BTreeMap<ValueId, [Constants; 2]>,
    computed: [Computed; 2],
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

impl<'a> Pair<'a> {
    fn new(before: &'a Graph, after: &'a Graph, captured: BTreeMap<ValueId, [Constants; 2]>) -> Pair<'a> {
        let computed = [before, after].map(|graph| Computed::with(graph, |value| captured.contains_key(&value)));
        Pair { before, after, captured, computed }
    }

    /// The constants behind `value` of side 0 or 1.
    fn constants(&self, side: usize, value: ValueId) -> Constants {
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
            Some(constant) => Constants {
                bytes: constant.byte_len() as u64,
                is_weight: constant.dims().len() >= 2 && constant.len() > 1,
            },
            None => self.captured.get(source).map(|outside| outside[side]).unwrap_or_default(),
        };
        sources.iter().map(source).fold(Constants { bytes: 0, is_weight: made }, Constants::plus)
    }

    fn side(&self, side: usize) -> (&Graph, &Computed) {
        ([self.before, self.after][side], &self.computed[side])
    }

    /// Whether a weight of `op` was quantized before.
    fn is_quantized(&self, op: OpId) -> bool {
        let (graph, computed) = self.side(0);
        let places = weight_inputs(graph.op(op).op_type());
        let mut weights =
            places.iter().filter_map(|index| graph.op(op).input(*index)).filter(|value| computed.has(*value));
        weights.any(|value| computed.behind(graph, value).is_quantized(graph))
    }

    /// The same for all inputs of `op`.
    fn read_by(&self, side: usize, op: OpId) -> Constants {
        let (graph, _) = self.side(side);
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
        let multiplies = !weight_inputs(op.op_type()).is_empty() && op.domain().is_empty();
        let looks_up = op.is("Gather") && op.input(0).is_some_and(|table| pair.constants(0, table).is_weight);
        if before.is_weight && (multiplies || (looks_up && after.bytes < before.bytes)) {
            let fate = match verdict(id) {
                _ if is_dynamic => Fate::Dynamic,
                _ if looks_up => Fate::Storage { reason: Reason::Lookup.to_string() },
                _ if pair.is_quantized(id) => match is_between_pairs(graph, id) {
                    true => Fate::Integer,
                    false => Fate::Storage { reason: Reason::Quantized.to_string() },
                },
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
        for (index, (region, after)) in op.regions().iter().zip(pair.after.op(id).regions()).enumerate() {
            let mut captured = BTreeMap::new();
            for (side, graph) in [pair.before, pair.after].into_iter().enumerate() {
                for (_, outer, inner) in graph.captures(id).into_iter().filter(|capture| capture.0 == index) {
                    let sides: &mut [Constants; 2] = captured.entry(inner).or_default();
                    sides[side] = pair.constants(side, outer);
                }
            }
            let body = Pair::new(&region.graph, &after.graph, captured);
            gather(&body, &|_| Some(Reason::InBody.to_string()), layers);
        }
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::text::parse_graph;

    use super::layers;

    #[test]
    fn weights_that_follow_from_constants_are_weights() {
        let model = "g (float[2,2] x, int64[1] i) => (float[2,2] y, float[1,2] e) <float16[2,2] w = {1, 2, 3, 4}, float[4] f = {1, 2, 3, 4},
            int64[2] s = {2, 2}> { c = Cast <to = 1> (w)  t = Transpose (c)  m = MatMul (x, t)  r = Reshape (f, s)  g = Add (m, x)
            y = MatMul (r, g)  e = Gather (c, i) }";
        let mut graph = parse_graph(model, 17).unwrap().graph;
        onnx_shrink_ir::infer::infer(&mut graph);
        let found = layers(&graph, &graph, &|_| Some("a reason".to_owned()));
        let names: Vec<(&str, u64)> = found.iter().map(|layer| (layer.name.as_str(), layer.bytes_before)).collect();
        // The table is stored as it was: it is no layer.
        assert_eq!(names, [("m", 8), ("y", 32)]);
    }
}
