//! What is added up over a graph and its bodies: ops, types, bytes, multiply-adds.
use std::collections::BTreeMap;

use onnx_shrink_ir::{DataType, Graph, OpId, TensorType, multiply_adds};

use super::{
    constants::{self, Constants, Weights},
    inspection::{Kind, OpLine, Type},
};

/// 0 for an op that has no multiply-adds, whatever its shapes; another number, if its shapes need only be known; or `None`.
pub(super) fn multiply_adds_if_known(graph: &Graph, op: OpId) -> Option<u64> {
    multiply_adds(graph, op, &|_| Some(vec![1; 8]))
}

/// What is added up over a graph and its bodies.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) kinds: BTreeMap<String, Kind>,
    pub(super) types: BTreeMap<&'static str, Type>,
    pub(super) not_counted: BTreeMap<String, usize>,
    /// Ops of the main graph in its order, with whether they are worth a line
    pub(super) lines: Vec<(OpLine, bool)>,
}

impl Tally {
    /// Adds up the main graph.
    pub(super) fn graph(&mut self, graph: &Graph, work: &dyn Fn(OpId) -> Option<u64>, constants: &mut Constants) {
        for (op, weights) in self.ops(graph, work, constants) {
            let output = graph.op(op).outputs().iter().flatten().next();
            let multiply_adds = work(op);
            let line = OpLine {
                name: graph.label_of(op).to_owned(),
                op: graph.op(op).full_type(),
                output: output.and_then(|value| graph.ty(*value)).map(TensorType::to_string),
                multiply_adds,
                bytes: weights.bytes,
                zeros: weights.zero_share(),
            };
            let worth = line.bytes > 0 || multiply_adds.is_some_and(|count| count > 0);
            self.lines.push((line, worth));
        }
    }

    /// Adds up `graph` and its bodies. Gives back each op of `graph` with the constants that are its own, those in its
    /// bodies included.
    fn ops(
        &mut self,
        graph: &Graph,
        work: &dyn Fn(OpId) -> Option<u64>,
        constants: &mut Constants,
    ) -> Vec<(OpId, Weights)> {
        for value in graph.values() {
            let (dtype, bytes) = match (graph.constant(value), graph.ty(value)) {
                (Some(constant), _) => (constant.dtype(), Some(constant.byte_len() as u64)),
                (None, Some(ty)) if !graph.value(value).is_captured() => (ty.dtype, None),
                _ => continue,
            };
            self.add_type(dtype, bytes);
        }
        let (owned, spare) = constants::owners(graph);
        constants.add(&spare);
        let mut result = Vec::new();
        for op in graph.ops() {
            let mut weights = owned.get(&op).map_or_else(Weights::default, Weights::clone);
            constants.add(&weights);
            let kind = graph.op(op).full_type();
            let multiply_adds = work(op);
            if multiply_adds.is_none() {
                *self.not_counted.entry(kind.clone()).or_insert(0) += 1;
            }
            let entry = self.kinds.entry(kind.clone()).or_insert_with(|| Kind { op: kind, ..Kind::default() });
            entry.count += 1;
            entry.multiply_adds += multiply_adds.unwrap_or(0);
            entry.bytes += weights.bytes;
            if graph.op(op).is("Constant")
                && let Some(tensor) = graph.op(op).tensor("value")
            {
                self.add_type(tensor.dtype(), Some(tensor.byte_len() as u64));
            }
            for region in graph.op(op).regions() {
                // How often a body runs is not known.
                let in_body = |inner: OpId| match multiply_adds_if_known(&region.graph, inner) {
                    Some(0) => Some(0),
                    _ => None,
                };
                for (_, inner) in self.ops(&region.graph, &in_body, constants) {
                    weights.add(&inner);
                }
            }
            result.push((op, weights));
        }
        result
    }

    fn add_type(&mut self, dtype: DataType, constant: Option<u64>) {
        let entry = self.types.entry(dtype.name()).or_default();
        entry.dtype = dtype.name().to_owned();
        match constant {
            Some(bytes) => {
                entry.constants += 1;
                entry.bytes += bytes;
            }
            None => entry.values += 1,
        }
    }
}
