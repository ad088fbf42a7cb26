//! Whose the constants are, and how many of their numbers are zero.
//!
//! A constant belongs to the first op that computes with it. Ops that only make constants of constants (Constant, the
//! DequantizeLinear of a stored weight, its Cast and Mul) hand theirs on to who reads them.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Graph, OpId, Tensor, Use, ValueId, convert::tensor_from_proto, proto::schema::AttributeProto};
use serde::Serialize;

/// Constants of one op.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Constants
    pub count: usize,
    /// Their bytes
    pub bytes: u64,
    /// Numbers in constants of two axes and more, where zeros can be told
    pub numbers: u64,
    /// Zeros among those
    pub zeros: u64,
}

impl Weights {
    fn of(tensor: &Tensor) -> Weights {
        let zeros = if tensor.dims().len() >= 2 { zeros(tensor) } else { None };
        Weights {
            count: 1,
            bytes: tensor.byte_len() as u64,
            numbers: if zeros.is_some() { tensor.len() as u64 } else { 0 },
            zeros: zeros.unwrap_or(0),
        }
    }

    /// Adds up.
    pub fn add(&mut self, other: &Weights) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.numbers += other.numbers;
        self.zeros += other.zeros;
    }

    /// Share of zeros; `None` when there are no weights.
    pub fn zero_share(&self) -> Option<f64> {
        (self.numbers > 0).then(|| self.zeros as f64 / self.numbers as f64)
    }
}

/// All constants of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Constants {
    /// How many
    pub count: usize,
    /// Their bytes
    pub bytes: u64,
    /// Numbers in weights: constants of two axes and more
    pub weights: u64,
    /// Zeros among those
    pub zeros: u64,
}

impl Constants {
    /// Adds those of one op.
    pub(super) fn add(&mut self, weights: &Weights) {
        self.count += weights.count;
        self.bytes += weights.bytes;
        self.weights += weights.numbers;
        self.zeros += weights.zeros;
    }
}

/// Elements of `tensor` that are zero, the negative one included; `None` for strings and numbers of less than a byte.
fn zeros(tensor: &Tensor) -> Option<u64> {
    let (bytes, bits) = (tensor.bytes()?, tensor.dtype().bits());
    if bits < 8 {
        return None;
    }
    let size = bits / 8;
    let (signed, sign) = (tensor.dtype().is_float(), size - 1);
    let is_zero = |number: &&[u8]| {
        let last = if signed { number[sign] & 0x7f } else { number[sign] };
        last == 0 && number[..sign].iter().all(|byte| *byte == 0)
    };
    Some(bytes.chunks_exact(size).filter(is_zero).count() as u64)
}

/// Numbers or strings from which on a list in an attribute counts as a constant: shorter ones say how an op works.
const LEAST_LIST: usize = 32;

/// The constants in an attribute: tensors, and long lists, as those of tree ensembles.
fn in_attribute(attribute: &AttributeProto) -> Vec<Weights> {
    let tensors = attribute.t.as_deref().into_iter().chain(&attribute.tensors);
    let sparse = attribute.sparse_tensor.as_deref().into_iter().chain(&attribute.sparse_tensors);
    let sparse = sparse.flat_map(|tensor| tensor.values.iter().chain(&tensor.indices));
    let tensors = tensors.chain(sparse).filter_map(|tensor| tensor_from_proto(tensor).ok());
    let list = |count: usize, bytes: usize| {
        (count >= LEAST_LIST).then_some(Weights { count: 1, bytes: bytes as u64, numbers: 0, zeros: 0 })
    };
    let lists = [
        list(attribute.floats.len(), size_of_val(attribute.floats.as_slice())),
        list(attribute.ints.len(), size_of_val(attribute.ints.as_slice())),
        list(attribute.strings.len(), attribute.strings.iter().map(|text| text.len()).sum()),
    ];
    tensors.map(|tensor| Weights::of(&tensor)).chain(lists.into_iter().flatten()).collect()
}

/// By op of `graph`, the constants that are its own; and those that no op reads.
pub(super) fn owners(graph: &Graph) -> (BTreeMap<OpId, Weights>, Weights) {
    let ops = graph.ops();
    let mut fixed: BTreeSet<ValueId> = BTreeSet::new(); // made of constants alone
    let mut makers: BTreeSet<OpId> = BTreeSet::new();
    for &op in &ops {
        let node = graph.op(op);
        let from_constants =
            node.inputs().iter().flatten().all(|value| graph.constant(*value).is_some() || fixed.contains(value));
        let some = node.is("Constant") || node.inputs().iter().flatten().next().is_some();
        if from_constants && some && node.regions().is_empty() && graph.captures(op).is_empty() {
            makers.insert(op);
            fixed.extend(node.outputs().iter().flatten());
        }
    }
    // From the end: who reads what a maker makes is known before the maker is reached.
    let place: BTreeMap<OpId, usize> = ops.iter().enumerate().map(|(place, op)| (*op, place)).collect();
    let first_reader = |value: ValueId| {
        let readers = graph.uses(value).into_iter().filter_map(|place| match place {
            Use::Input(op, _) | Use::Capture(op, ..) => Some(op),
            Use::Output(_) => None,
        });
        readers.min_by_key(|op| place.get(op).copied())
    };
    let mut owner: BTreeMap<OpId, OpId> = BTreeMap::new();
    for &op in ops.iter().rev() {
        let reader = graph.op(op).outputs().iter().flatten().filter_map(|value| first_reader(*value)).next();
        let to = if makers.contains(&op) { reader.and_then(|reader| owner.get(&reader)).copied() } else { None };
        owner.insert(op, to.unwrap_or(op));
    }
    let mut owned: BTreeMap<OpId, Weights> = BTreeMap::new();
    let mut spare = Weights::default();
    for value in graph.values() {
        let Some(constant) = graph.constant(value) else { continue };
        let weights = Weights::of(constant);
        match first_reader(value).and_then(|reader| owner.get(&reader)) {
            Some(op) => owned.entry(*op).or_default().add(&weights),
            None => spare.add(&weights),
        }
    }
    for &op in &ops {
        for attribute in graph.op(op).attributes() {
            for weights in in_attribute(attribute) {
                owned.entry(owner.get(&op).copied().unwrap_or(op)).or_default().add(&weights);
            }
        }
    }
    (owned, spare)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Tensor, text::parse_graph};

    use super::{owners, zeros};

    #[test]
    fn zeros_are_counted_with_their_signs() {
        assert_eq!(zeros(&Tensor::from_vec(&[5], vec![0.0f32, -0.0, 1.0, f32::MIN_POSITIVE, -1.0])), Some(2));
        assert_eq!(zeros(&Tensor::from_vec(&[4], vec![0i8, -128, 1, 0])), Some(2));
        assert_eq!(zeros(&Tensor::from_vec(&[2], vec![256i64, 0])), Some(1));
    }

    #[test]
    fn constants_in_attributes_count() {
        let list = vec!["1.5"; 40].join(", ");
        let text = format!(
            "g (float[1,2] x) => (float[1,2] y, float[1,1] z) {{
            c = Constant <value = float[1,2] {{1, 2}}> ()  y = Add (x, c)
            z = ai.onnx.ml.LinearRegressor <coefficients = [{list}]> (x) }}"
        );
        let graph = parse_graph(&text, 17).unwrap().graph;
        let (owned, _) = owners(&graph);
        let bytes = |op: &str| owned[&graph.ops().into_iter().find(|id| graph.op(*id).op_type() == op).unwrap()].bytes;
        assert_eq!((bytes("Add"), bytes("LinearRegressor")), (8, 160));
    }

    #[test]
    fn stored_weights_belong_to_who_computes_with_them() {
        let text = "g (float[1,2] x) => (float[1,2] y)
            <int8[2,2] q = {1, 0, 0, 2}, float[2] s = {1, 1}, float[3] unused = {1, 2, 3}>
            { w = Cast <to = 1> (q)  m = Mul (w, s)  z = MatMul (x, m)  y = Relu (z) }";
        let graph = parse_graph(text, 17).unwrap().graph;
        let (owned, spare) = owners(&graph);
        let product = graph.ops_of("MatMul")[0];
        assert_eq!(owned.keys().copied().collect::<Vec<_>>(), [product]);
        let weights = &owned[&product];
        assert_eq!((weights.count, weights.bytes, weights.numbers, weights.zeros), (2, 12, 4, 2));
        assert_eq!(spare.bytes, 12);
    }
}
