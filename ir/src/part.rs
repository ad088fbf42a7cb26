//! A part of a graph as a graph of its own: to look at, and to reproduce what happens there.
use std::collections::BTreeSet;

use onnx_shrink_proto::schema::ValueInfoProto;

use crate::{
    evaluate::ops_between,
    graph::{Graph, NewOp, OpId, ValueId},
    tensor::Tensor,
    types::TensorType,
};

/// What is known of an input of an op that stands in no graph yet.
#[derive(Clone, Debug)]
pub enum Given {
    /// A value, of this type if it is known
    Value(Option<TensorType>),
    /// A constant
    Constant(Tensor),
}

/// The graph of `opset` that has `op` alone, with one output: how an op reads before it is added to a graph. Each input is a
/// value of its own.
pub fn alone(opset: i64, op: NewOp, inputs: Vec<Option<Given>>) -> (Graph, OpId) {
    let mut graph = Graph::new(opset);
    let mut values = Vec::with_capacity(inputs.len());
    for (index, given) in inputs.into_iter().enumerate() {
        let name = format!("x{index}");
        values.push(match given {
            None => None,
            Some(Given::Constant(tensor)) => Some(graph.insert_constant(&name, tensor)),
            Some(Given::Value(ty)) => {
                let value = graph.insert_value(&name, ty);
                let info = declaration(&graph, value);
                graph.push_input(value, info);
                Some(value)
            }
        });
    }
    let y = graph.insert_value("y", None);
    let seq = graph.next_seq();
    let id = graph.insert_op(seq, op.node, values, vec![Some(y)], Vec::new());
    let info = declaration(&graph, y);
    graph.push_output(y, info);
    (graph, id)
}

/// The ops `kept` of `graph`, a graph of its own: values that others make become inputs, values that others (or the outputs
/// of `graph`) read become outputs. Inputs that nothing reads are dropped.
pub fn neighbourhood(graph: &Graph, kept: &BTreeSet<OpId>) -> Graph {
    kept_part(graph, kept, false)
}

/// The same, with all inputs of `graph` where `all_inputs` says so.
pub(crate) fn kept_part(graph: &Graph, kept: &BTreeSet<OpId>, all_inputs: bool) -> Graph {
    let mut part = graph.detached();
    let others: Vec<OpId> = graph.ops_in_id_order().into_iter().filter(|op| !kept.contains(op)).collect();
    let made_here = |part: &Graph, value: ValueId| part.producer(value).is_some_and(|op| kept.contains(&op));
    let mut wanted: Vec<ValueId> = part.outputs().iter().copied().filter(|value| made_here(&part, *value)).collect();
    for &op in &others {
        let captured = part.captures(op).into_iter().map(|(_, outer, _)| outer);
        let read = part.op(op).inputs().iter().flatten().copied().chain(captured);
        wanted.extend(read.filter(|value| made_here(&part, *value)));
    }
    let mut seen = BTreeSet::new();
    wanted.retain(|value| seen.insert(*value));
    part.clear_outputs();
    for &op in &others {
        for index in 0..part.op(op).outputs().len() {
            let Some(value) = part.op(op).output(index) else { continue };
            part.detach_output(op, index);
            if part.uses(value).iter().any(|place| place.op().is_some_and(|user| kept.contains(&user))) {
                let info = declaration(&part, value);
                part.push_input(value, info);
            }
        }
    }
    let loose: Vec<ValueId> = others.iter().flat_map(|op| graph.op(*op).outputs().iter().flatten().copied()).collect();
    for &op in &others {
        part.remove_op(op);
    }
    for value in loose {
        if part.has_value(value) && part.is_unused(value) {
            part.remove_value(value);
        }
    }
    for value in wanted {
        let info = declaration(&part, value);
        part.push_output(value, info);
    }
    for input in part.inputs().to_vec() {
        if part.is_unused(input) && !(all_inputs && graph.is_input(input)) {
            part.remove_value(input);
        }
    }
    for value in part.unread_constants() {
        part.remove_value(value);
    }
    part
}

/// What computes `output` of `graph` from the values called `inputs` and constants, as a graph with these inputs in this order
/// and this one output. An input that `graph` does not have, or that `output` does not depend on, is one that nothing reads.
/// A type that is given for an input holds; one that is not is the graph's own.
pub fn between(graph: &Graph, inputs: &[(String, Option<TensorType>)], output: ValueId) -> Graph {
    let given: Vec<ValueId> = inputs.iter().filter_map(|(name, _)| graph.find(name)).collect();
    let kept: BTreeSet<OpId> = ops_between(graph, &given, &[output]).into_iter().collect();
    let mut part = graph.detached();
    part.clear_outputs();
    while !part.inputs().is_empty() {
        part.drop_input(0);
    }
    for &value in &given {
        if let Some((op, index)) = part.producer_port(value) {
            part.detach_output(op, index);
        }
    }
    let others: Vec<OpId> = graph.ops_in_id_order().into_iter().filter(|op| !kept.contains(op)).collect();
    for &op in &others {
        for index in 0..part.op(op).outputs().len() {
            part.detach_output(op, index);
        }
    }
    for &op in &others {
        part.remove_op(op);
    }
    let info = declaration(&part, output);
    part.push_output(output, info);
    for (name, ty) in inputs {
        let value = part.find(name).unwrap_or_else(|| part.insert_value(name, ty.clone()));
        let inner = part.value_mut(value);
        inner.captured = false;
        inner.constant = None;
        if ty.is_some() {
            inner.ty.clone_from(ty);
        }
        let name = Some(name.clone());
        let r#type = part.ty(value).map(TensorType::to_proto);
        part.push_input(value, ValueInfoProto { name, r#type, ..ValueInfoProto::default() });
    }
    let loose: Vec<ValueId> =
        part.values().into_iter().filter(|value| part.producer(*value).is_none() && !part.is_input(*value)).collect();
    for value in loose.into_iter().filter(|value| *value != output) {
        if part.is_unused(value) {
            part.remove_value(value);
        }
    }
    part
}

fn declaration(graph: &Graph, value: ValueId) -> ValueInfoProto {
    if let Some(info) = graph.value(value).declared() {
        return info.clone();
    }
    ValueInfoProto {
        name: Some(graph.name_of(value).to_owned()),
        r#type: graph.ty(value).map(|ty| ty.to_proto()),
        ..ValueInfoProto::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::{between, neighbourhood};
    use crate::{testing::parse_graph, text::print_graph, verify::verify_graph};

    #[test]
    fn a_part_has_what_it_reads_as_inputs_and_what_is_read_of_it_as_outputs() {
        let graph = parse_graph(
            "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
               a = Neg (x)  b = Add (a, w)  c = Mul (b, v)  d = Relu (c)  y = Add (d, a) }",
        );
        let kept = ["b", "c"].map(|name| graph.producer(graph.find(name).unwrap()).unwrap());
        let part = neighbourhood(&graph, &kept.into());
        assert!(verify_graph(&part).is_empty(), "{:?}", verify_graph(&part));
        let names = |values: &[crate::ValueId]| values.iter().map(|value| part.name_of(*value)).collect::<Vec<_>>();
        assert_eq!((names(part.inputs()), names(part.outputs())), (vec!["a"], vec!["c"]), "{}", print_graph(&part));
        assert_eq!(part.op_count(), 2);
        assert!(part.find("w").is_some() && part.find("x").is_none());
    }

    #[test]
    fn what_is_between_values_takes_them_in_the_order_that_is_asked_for() {
        let graph = parse_graph(
            "g (float[2] x, float[2] z) => (float[2] y) <float[2] w = {1, 2}> {
               a = Neg (x)  b = Add (a, w)  c = Mul (b, z)  y = Relu (c) }",
        );
        let inputs = ["z", "b", "gone"].map(|name| (name.to_owned(), None));
        let part = between(&graph, &inputs, graph.find("c").unwrap());
        assert!(verify_graph(&part).is_empty(), "{:?}", verify_graph(&part));
        let names = |values: &[crate::ValueId]| values.iter().map(|value| part.name_of(*value)).collect::<Vec<_>>();
        assert_eq!((names(part.inputs()), names(part.outputs())), (vec!["z", "b", "gone"], vec!["c"]));
        assert_eq!(part.op_count(), 1);
        assert!(part.find("w").is_none() && part.find("x").is_none(), "{}", print_graph(&part));
        // A constant is a part, too.
        let constant = between(&graph, &[], graph.find("w").unwrap());
        assert_eq!((constant.op_count(), constant.outputs().len()), (0, 1));
    }
}
