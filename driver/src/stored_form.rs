//! How constants are stored: what stands behind the value that an op reads, and the constants that no layer's row tells of.
//!
//! **Never** trusts a pass: forms, bytes and whether numbers are the same are read from the graph that is written.
use std::collections::BTreeSet;

use onnx_shrink_ir::{DataType, Graph, Op, OpId, Tensor, Use, ValueId, ops::weight_inputs};

use crate::plan::{Fate, Form, Layer, Reason};

/// Ops between a constant as it is stored and the layer that reads it.
const DECODE: [&str; 10] =
    ["DequantizeLinear", "Mul", "Cast", "Log", "Reshape", "Slice", "Sub", "Concat", "Floor", "Div"];

/// The longest way from a constant to what reads it: two integers to a byte.
const DEEPEST: usize = 10;

/// Whether `op` multiplies by weights, where its weight is constant.
pub(crate) fn multiplies(op: &Op) -> bool {
    !weight_inputs(op).is_empty()
}

/// The constants behind `value`, through ops that decode them, in the order of their ids; and whether bytes are taken apart.
fn behind(graph: &Graph, value: ValueId) -> (BTreeSet<ValueId>, bool) {
    let (mut found, mut seen, mut packed) = (BTreeSet::new(), BTreeSet::new(), false);
    let mut work = vec![(value, 0)];
    while let Some((value, depth)) = work.pop() {
        if !seen.insert(value) {
            continue;
        }
        if graph.constant(value).is_some() {
            found.insert(value);
        } else if let Some(producer) = graph.producer(value)
            && depth < DEEPEST
            && DECODE.iter().any(|name| graph.op(producer).is(name))
        {
            packed |= graph.op(producer).is("Floor");
            work.extend(graph.op(producer).inputs().iter().flatten().map(|value| (*value, depth + 1)));
        }
    }
    (found, packed)
}

/// The form of the largest constant behind `value`; `None` where there is none.
pub(crate) fn form_of(graph: &Graph, value: ValueId) -> Option<Form> {
    let (constants, packed) = behind(graph, value);
    let constants = constants.into_iter().filter_map(|value| graph.constant(value));
    let largest = constants.max_by_key(|tensor| tensor.len())?;
    Some(match largest.dtype() {
        DataType::Int4 | DataType::Uint4 => Form::Int4,
        DataType::Int8 | DataType::Uint8 if packed => Form::Int4,
        DataType::Int8 | DataType::Uint8 => Form::Int8,
        DataType::Int16 | DataType::Uint16 => Form::Int16,
        DataType::Float16 | DataType::Bfloat16 => Form::Half,
        _ => Form::Float,
    })
}

/// The form of the largest weight that `op` reads.
pub(crate) fn form_read_by(graph: &Graph, op: OpId) -> Form {
    if !graph.has_op(op) {
        return Form::Float;
    }
    let constants = |value: &ValueId| {
        behind(graph, *value).0.into_iter().filter_map(|c| graph.constant(c)).map(Tensor::len).sum::<usize>()
    };
    let largest = graph.op(op).inputs().iter().flatten().copied().max_by_key(constants);
    largest.and_then(|value| form_of(graph, value)).unwrap_or(Form::Float)
}

/// Bytes of all constants that layers with weights read, those of bodies among them, each once.
pub(crate) fn bytes_of_layers(graph: &Graph) -> u64 {
    let mut counted = BTreeSet::new();
    let mut inside = 0;
    for op in graph.ops() {
        let node = graph.op(op);
        let mut read: BTreeSet<ValueId> = BTreeSet::new();
        if multiplies(node) {
            read.extend(node.inputs().iter().flatten().flat_map(|value| behind(graph, *value).0));
            let is_weight =
                |value: &ValueId| graph.constant(*value).is_some_and(|c| c.dims().len() >= 2 && c.len() > 1);
            if !read.iter().any(is_weight) {
                continue;
            }
        }
        for region in node.regions() {
            inside += bytes_of_layers(&region.graph);
        }
        read.extend(graph.captures(op).into_iter().flat_map(|(_, outer, _)| behind(graph, outer).0));
        counted.extend(read);
    }
    let own = counted.into_iter().filter_map(|value| graph.constant(value));
    own.map(|tensor| tensor.byte_len() as u64).sum::<u64>() + inside
}

/// A row for each constant of `before` that `after` stores in another form, and that none of `layers` reads: embeddings,
/// positions and other tables, those of bodies behind their op's.
pub(crate) fn constants_beside(layers: &[Layer], before: &Graph, after: &Graph) -> Vec<Layer> {
    let listed: BTreeSet<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
    let mut rows = Vec::new();
    gather(&listed, before, after, &mut rows);
    rows
}

fn gather(listed: &BTreeSet<&str>, before: &Graph, after: &Graph, rows: &mut Vec<Layer>) {
    for value in before.values() {
        let Some(tensor) = before.constant(value).filter(|tensor| tensor.dtype() == DataType::Float) else { continue };
        let places = before.uses(value);
        if places.iter().any(|place| feeds_a_layer(listed, before, *place, 0)) {
            continue;
        }
        let reads = |place: &Use| match place {
            Use::Input(op, index) if after.has_op(*op) => Some((*op, after.op(*op).input(*index)?)),
            Use::Capture(op, region, inner) if after.has_op(*op) => {
                let captures = after.captures(*op).into_iter();
                captures.filter(|found| (found.0, found.2) == (*region, *inner)).map(|found| (*op, found.1)).next()
            }
            _ => None,
        };
        let Some((op, stored)) = places.iter().find_map(reads) else { continue };
        let Some(form) = form_of(after, stored).filter(|form| *form != Form::Float) else { continue };
        let reader = before.op(op);
        let bytes_after =
            behind(after, stored).0.into_iter().filter_map(|c| after.constant(c)).map(Tensor::byte_len).sum::<usize>();
        rows.push(Layer {
            name: before.name_of(value).to_owned(),
            op: reader.op_type().to_owned(),
            fate: Fate::Storage { reason: Reason::Beside { form, is_exact: is_same(tensor, after, stored) } },
            bytes_before: tensor.byte_len() as u64,
            bytes_after: bytes_after as u64,
            accumulator_bits: None,
            sqnr_db: None,
            error_share: None,
        });
    }
    for op in before.ops() {
        if !after.has_op(op) {
            continue;
        }
        for (before, after) in before.op(op).regions().iter().zip(after.op(op).regions()) {
            gather(listed, &before.graph, &after.graph, rows);
        }
    }
}

/// Whether a layer or lookup of `listed` reads what is at `place`, as it is or computed from constants, in `graph` or in a body.
fn feeds_a_layer(listed: &BTreeSet<&str>, graph: &Graph, place: Use, depth: usize) -> bool {
    let (Use::Input(op, _) | Use::Capture(op, ..)) = place else { return false };
    let node = graph.op(op);
    if let Use::Capture(_, region, inner) = place {
        let Some(region) = node.regions().get(region) else { return false };
        return region
            .graph
            .uses(inner)
            .into_iter()
            .any(|place| feeds_a_layer(listed, &region.graph, place, depth + 1));
    }
    let is_listed = listed.contains(graph.label_of(op));
    if multiplies(node) || is_listed && node.is("Gather") {
        return is_listed;
    }
    depth < DEEPEST
        && node.regions().is_empty()
        && node.inputs().iter().flatten().all(|value| is_fixed(graph, *value, 0))
        && node
            .outputs()
            .iter()
            .flatten()
            .any(|value| graph.uses(*value).into_iter().any(|place| feeds_a_layer(listed, graph, place, depth + 1)))
}

/// Whether `value` is made of constants alone.
fn is_fixed(graph: &Graph, value: ValueId, depth: usize) -> bool {
    graph.constant(value).is_some()
        || graph.producer(value).is_some_and(|producer| {
            let node = graph.op(producer);
            let mut inputs = node.inputs().iter().flatten().peekable();
            depth < DEEPEST
                && node.regions().is_empty()
                && inputs.peek().is_some()
                && inputs.all(|value| is_fixed(graph, *value, depth + 1))
        })
}

/// Whether what `value` decodes to in `graph` is `tensor` to the bit, as far as one Cast and one Mul tell.
fn is_same(tensor: &Tensor, graph: &Graph, value: ValueId) -> bool {
    let decoded = || -> Option<Vec<f32>> {
        let last = graph.op(graph.producer(value)?);
        let floats =
            |tensor: &Tensor| tensor.to_f64_vec().map(|list| list.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
        let cast = if last.is("Mul") { graph.op(graph.producer(last.input(0)?)?) } else { last };
        let numbers = floats(graph.constant(cast.input(0)?)?)?;
        let scale = if last.is("Mul") { graph.constant(last.input(1)?)?.to_scalar_f64()? as f32 } else { 1.0 };
        (cast.is("Cast")).then(|| numbers.into_iter().map(|x| if last.is("Mul") { x * scale } else { x }).collect())
    };
    let Some(numbers) = tensor.as_slice::<f32>() else { return false };
    decoded().is_some_and(|found| found.iter().map(|x| x.to_bits()).eq(numbers.iter().map(|x| x.to_bits())))
}
