//! [`Model`] → `ModelProto`: what no pass touched comes out as it went in, in the same order.
use std::collections::HashMap;

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
