//! For tests of passes: graphs from text, and comparing graphs as text.
//!
//! Everything here panics with what a reader of a failed test needs: that is its job.
use std::fmt::Write;

use onnx_shrink_proto::schema::{GraphProto, ModelProto};

use crate::{export, graph::Graph, model::Model, text};

/// ONNX's opset in tests that do not say which.
pub const OPSET: i64 = 17;

/// The model that `source` states: with a header `<ir_version: …>`, or a bare graph of opset 17.
///
/// # Panics
/// When `source` is no model: with the line, and what was expected there.
#[track_caller]
pub fn parse(source: &str) -> Model {
    let bare = !source.trim_start().starts_with('<');
    let parsed = if bare { text::parse_graph(source, OPSET) } else { text::parse_model(source) };
    match parsed {
        Ok(model) => model,
        Err(error) => panic!("{}\nin this text:\n{}", error.render(), source.trim_matches('\n')),
    }
}

/// The graph of [`parse`].
///
/// # Panics
/// As [`parse`].
#[track_caller]
pub fn parse_graph(source: &str) -> Graph {
    parse(source).graph
}

/// The text that [`assert_same_graph`] compares: initializers and value infos, whose order means nothing, by name.
pub fn comparable(model: &Model) -> String {
    let mut proto = export(model);
    if let Some(graph) = &mut proto.graph {
        sort(graph);
    }
    text::Print::default().graph_proto(&proto.graph.unwrap_or_default())
}

fn sort(graph: &mut GraphProto) {
    graph.initializer.sort_by(|a, b| a.name().cmp(b.name()));
    graph.value_info.sort_by(|a, b| a.name().cmp(b.name()));
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().for_each(|body| sort(body));
        attribute.graphs.iter_mut().for_each(sort);
    }
}

/// Both graphs are the same: names, order of nodes, attributes, types and every number.
///
/// # Panics
/// When they differ: with both texts and the first line that differs.
#[track_caller]
pub fn assert_same_graph(actual: &Model, expected: &Model) {
    let (actual, expected) = (comparable(actual), comparable(expected));
    if actual == expected {
        return;
    }
    let mut message = String::from("the graphs differ\n");
    let mut lines = (actual.lines(), expected.lines());
    for number in 1.. {
        let (ours, theirs) = (lines.0.next(), lines.1.next());
        if ours != theirs {
            let show = |line: Option<&str>| line.map_or("(nothing)", str::trim).to_owned();
            let _ =
                writeln!(message, "first at line {number}:\n  actual:   {}\n  expected: {}", show(ours), show(theirs));
            break;
        }
    }
    panic!("{message}---- actual\n{actual}---- expected\n{expected}");
}

/// `proto` with the tensors in raw form and without what text cannot say: what remains after printing and parsing.
pub fn textual(mut proto: ModelProto) -> ModelProto {
    if let Some(graph) = &mut proto.graph {
        textual::graph(graph);
    }
    proto.training_info.clear();
    for import in &mut proto.opset_import {
        import.domain = Some(import.domain().to_owned());
    }
    proto
}

mod textual {
    use onnx_shrink_proto::schema::{
        AttributeProto, GraphProto, TensorProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType, type_proto,
    };

    use crate::convert::{tensor_from_proto, tensor_to_proto};

    pub(super) fn graph(graph: &mut GraphProto) {
        graph.name = Some(graph.name().to_owned());
        graph.doc_string = None;
        graph.metadata_props.clear();
        graph.quantization_annotation.clear();
        graph.initializer.iter_mut().for_each(tensor);
        for infos in [&mut graph.input, &mut graph.output, &mut graph.value_info] {
            infos.iter_mut().for_each(value_info);
        }
        for node in &mut graph.node {
            node.doc_string = None;
            node.metadata_props.clear();
            node.device_configurations.clear();
            for text in [&mut node.name, &mut node.domain, &mut node.overload] {
                text.take_if(|text| text.is_empty());
            }
            node.attribute.iter_mut().for_each(attribute);
        }
    }

    fn tensor(proto: &mut TensorProto) {
        if let Ok(tensor) = tensor_from_proto(proto) {
            *proto = tensor_to_proto(&tensor, proto.name());
        }
    }

    fn value_info(info: &mut ValueInfoProto) {
        info.doc_string = None;
        info.metadata_props.clear();
        info.r#type.take_if(|ty| ty.value.is_none());
        if let Some(proto) = &mut info.r#type {
            ty(proto);
        }
    }

    fn ty(proto: &mut TypeProto) {
        proto.denotation = None;
        match &mut proto.value {
            Some(type_proto::Value::TensorType(tensor)) => {
                tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim).for_each(|dim| dim.denotation = None);
            }
            Some(type_proto::Value::SequenceType(sequence)) => {
                sequence.elem_type.iter_mut().for_each(|inner| ty(inner))
            }
            Some(type_proto::Value::OptionalType(optional)) => {
                optional.elem_type.iter_mut().for_each(|inner| ty(inner))
            }
            Some(type_proto::Value::MapType(map)) => map.value_type.iter_mut().for_each(|inner| ty(inner)),
            _ => {}
        }
    }

    fn attribute(attribute: &mut AttributeProto) {
        attribute.doc_string = None;
        match attribute.r#type() {
            AttributeType::Float => attribute.f = Some(attribute.f()),
            AttributeType::Int => attribute.i = Some(attribute.i()),
            AttributeType::String => attribute.s = Some(attribute.s.clone().unwrap_or_default()),
            _ => {}
        }
        attribute.t.iter_mut().for_each(|inner| tensor(inner));
        attribute.tensors.iter_mut().for_each(tensor);
        attribute.g.iter_mut().for_each(|inner| graph(inner));
        attribute.graphs.iter_mut().for_each(graph);
        attribute.tp.iter_mut().for_each(|inner| ty(inner));
        attribute.type_protos.iter_mut().for_each(ty);
    }
}
