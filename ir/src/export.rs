//! [`Model`] → `ModelProto`: what no pass touched comes out as it went in, in the same order.
use std::collections::{HashMap, HashSet};

use onnx_shrink_proto::schema::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

use crate::{
    convert::tensor_to_proto,
    graph::{Graph, Op, ValueId},
    model::Model,
};

/// The message for `model`. Tensors are shared, not copied.
pub fn export(model: &Model) -> ModelProto {
    ModelProto { graph: Some(export_graph(&model.graph, &HashMap::new())), ..model.proto.clone() }
}

/// Names of a graph's values; those that it captures are called what they are called outside.
struct Naming<'a> {
    graph: &'a Graph,
    captured: &'a HashMap<ValueId, String>,
}

impl Naming<'_> {
    fn of(&self, value: ValueId) -> String {
        self.captured.get(&value).cloned().unwrap_or_else(|| self.graph.name_of(value).to_owned())
    }

    fn of_all(&self, values: &[Option<ValueId>]) -> Vec<String> {
        values.iter().map(|value| value.map_or_else(String::new, |value| self.of(value))).collect()
    }
}

pub(crate) fn export_graph(graph: &Graph, captured: &HashMap<ValueId, String>) -> GraphProto {
    let naming = Naming { graph, captured };
    let mut proto = graph.rest.clone();
    for (info, value) in proto.output.iter_mut().zip(graph.outputs()) {
        info.name = Some(naming.of(*value));
    }
    proto.node = graph.ops().into_iter().map(|op| export_node(graph, op, &naming)).collect();
    name_new_nodes(graph, &mut proto.node);
    let mut initializers: Vec<(u32, TensorProto)> = Vec::new();
    let mut infos: Vec<(u32, ValueInfoProto)> = graph.stray_info.clone();
    for id in graph.values() {
        let value = graph.value(id);
        if let Some(tensor) = &value.constant {
            let place = value.origin.initializer_place.unwrap_or(u32::MAX);
            let proto = match &value.origin.initializer {
                Some(origin) => TensorProto { name: Some(value.name().to_owned()), ..(**origin).clone() },
                None => tensor_to_proto(tensor, value.name()),
            };
            initializers.push((place, proto));
        }
        if let Some((place, info)) = &value.origin.info {
            infos.push((*place, ValueInfoProto { name: Some(naming.of(id)), ..(**info).clone() }));
        }
    }
    // Behind those of the file come the new ones, by id: mostly, but not always, the order in which they were made (the id
    // of a value that went is given again).
    initializers.sort_by_key(|(place, _)| *place);
    infos.sort_by_key(|(place, _)| *place);
    proto.initializer = initializers.into_iter().map(|(_, proto)| proto).collect();
    proto.value_info = infos.into_iter().map(|(_, proto)| proto).collect();
    proto.sparse_initializer = graph.sparse.iter().map(|(_, sparse)| sparse.clone()).collect();
    proto
}

/// Names the new nodes in `nodes`, the ops of `graph` in order, that engines could not tell from another node: some (tract) call
/// a node without a name after what it makes, and a new node may make what one that stays was called after.
fn name_new_nodes(graph: &Graph, nodes: &mut [NodeProto]) {
    let mut names: HashSet<String> = nodes.iter().map(|node| node.name().to_owned()).collect();
    let mut numbers = 1u64..;
    for (id, node) in graph.ops().into_iter().zip(nodes) {
        let Some(made) = node.output.first().filter(|made| names.contains(*made)) else { continue };
        if made.is_empty() || !node.name().is_empty() || !graph.op(id).is_new {
            continue;
        }
        let is_free = |name: &String| !names.contains(name) && graph.find(name).is_none();
        let name = numbers.by_ref().map(|number| format!("n{number}")).find(is_free); // short: it is paid for
        names.extend(name.clone());
        node.name = name;
    }
}

fn export_node(graph: &Graph, id: crate::graph::OpId, naming: &Naming<'_>) -> NodeProto {
    let op: &Op = graph.op(id);
    let mut node = op.node.clone();
    node.input = naming.of_all(&op.inputs);
    node.output = naming.of_all(&op.outputs);
    let mut captured: Vec<HashMap<ValueId, String>> = vec![HashMap::new(); op.regions.len()];
    for (region, outer, inner) in graph.captures(id) {
        captured[region].insert(inner, naming.of(outer));
    }
    for (region, captured) in op.regions.iter().zip(&captured) {
        let body = export_graph(&region.graph, captured);
        let attribute = &mut node.attribute[region.attribute];
        match region.place {
            Some(_) => attribute.graphs.push(body),
            None => attribute.g = Some(Box::new(body)),
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use crate::{NewOp, Patch, ValueRef, export, testing::parse};

    #[test]
    fn a_new_node_has_a_name_where_it_could_be_taken_for_another() {
        let mut model = parse("g (float[2] x) => (float[2] y) { [t] s = Neg (x)  t = Abs (s)  y = Relu (t) }");
        let names = |model: &crate::Model| {
            let nodes = export(model).graph.map(|graph| graph.node).unwrap_or_default();
            nodes.iter().map(|node| (node.op_type().to_owned(), node.name().to_owned())).collect::<Vec<_>>()
        };
        let pair = |op: &str, name: &str| (op.to_owned(), name.to_owned());
        // What the file has stays as it is.
        assert_eq!(names(&model), [pair("Neg", "t"), pair("Abs", ""), pair("Relu", "")]);
        for (op, read, made) in [("Exp", "s", "t"), ("Sqrt", "t", "y")] {
            let graph = &mut model.graph;
            let [read, made] = [read, made].map(|name| graph.find(name).unwrap());
            let mut patch = Patch::new(graph.producer(made).unwrap());
            let new = patch.op(NewOp::new(op), &[Some(ValueRef::Existing(read))], "n", None);
            patch.replace(made, new);
            patch.apply(graph).unwrap();
        }
        assert_eq!(names(&model), [pair("Neg", "t"), pair("Exp", "n1"), pair("Sqrt", "")]);
        assert_eq!(names(&model), names(&model));
    }
}
