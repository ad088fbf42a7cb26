//! A part of a graph as a graph of its own: to look at, and to reproduce what happens there.
use std::collections::BTreeSet;

use onnx_shrink_proto::schema::ValueInfoProto;

use crate::graph::{Graph, OpId, ValueId};

/// The ops `kept` of `graph`, a graph of its own: values that others make become inputs, values that others (or the outputs
/// of `graph`) read become outputs. Inputs that nothing reads are dropped.
pub fn neighbourhood(graph: &Graph, kept: &BTreeSet<OpId>) -> Graph {
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
        if part.is_unused(input) {
            part.remove_value(input);
        }
    }
    for value in part.unread_constants() {
        part.remove_value(value);
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
    use super::neighbourhood;
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
}
