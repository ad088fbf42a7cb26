//! Functions of the model: each is compared as the graph that it is.
use onnx_shrink_ir::{
    Model,
    proto::schema::{FunctionProto, GraphProto, ModelProto, ValueInfoProto},
};

use super::{
    change::{Change, Detail, Kind},
    compare::Compare,
    index::canonical,
};

fn key(function: &FunctionProto) -> (String, String, String) {
    (function.domain().to_owned(), function.name().to_owned(), function.overload().to_owned())
}

fn label(function: &FunctionProto) -> String {
    match function.domain() {
        "" => function.name().to_owned(),
        domain => format!("{domain}.{}", function.name()),
    }
}

/// The function's body as a model of its own; `None` when it is malformed.
fn body(function: &FunctionProto) -> Option<Model> {
    let ports = |names: &[String]| {
        names.iter().map(|name| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() }).collect()
    };
    let graph = GraphProto {
        node: function.node.clone(),
        input: ports(&function.input),
        output: ports(&function.output),
        ..GraphProto::default()
    };
    let proto = ModelProto { opset_import: function.opset_import.clone(), graph: Some(graph), ..ModelProto::default() };
    onnx_shrink_ir::import(proto).ok()
}

/// Functions that are only in one model, and changes in those that both have.
pub(super) fn compare_functions(compare: &Compare<'_>, a: &Model, b: &Model) -> Vec<Change> {
    let change = |title: String, details| Change {
        kind: Kind::Model,
        scope: String::new(),
        title,
        a: Vec::new(),
        b: Vec::new(),
        details,
        around: None,
    };
    let mut changes = Vec::new();
    let (functions, others) = (&a.proto().functions, &b.proto().functions);
    for function in functions {
        let Some(other) = others.iter().find(|other| key(other) == key(function)) else {
            changes.push(change(format!("function `{}` is gone", label(function)), Vec::new()));
            continue;
        };
        let mut details = Vec::new();
        let mut differs = |name: &str, before: String, after: String| {
            if before != after {
                details.push(Detail::Value { name: name.to_owned(), before, after });
            }
        };
        let imports = |function: &FunctionProto| {
            let mut imports: Vec<String> =
                function.opset_import.iter().map(|set| format!("{} {}", set.domain(), set.version())).collect();
            imports.sort();
            imports.join(", ")
        };
        differs("opsets", imports(function), imports(other));
        differs("attributes", function.attribute.join(", "), other.attribute.join(", "));
        let defaults = |function: &FunctionProto| {
            let mut all: Vec<Vec<u8>> = function.attribute_proto.iter().map(canonical).collect();
            all.sort();
            all
        };
        if defaults(function) != defaults(other) {
            details.push(Detail::Note { text: "the defaults of its attributes differ".to_owned() });
        }
        if !details.is_empty() {
            changes.push(change(format!("function `{}` changed", label(function)), details));
        }
        match (body(function), body(other)) {
            (Some(one), Some(two)) => {
                let scope = format!("function {}", label(function));
                changes.extend(compare.graphs(&one.graph, &two.graph, &[], &scope, None).changes);
            }
            _ if function.node != other.node => {
                let details = vec![Detail::Note { text: "its body differs, and is no graph".to_owned() }];
                changes.push(change(format!("function `{}` changed", label(function)), details));
            }
            _ => {}
        }
    }
    for other in others {
        if !functions.iter().any(|function| key(function) == key(other)) {
            changes.push(change(format!("function `{}` is new", label(other)), Vec::new()));
        }
    }
    changes
}
