//! `onnx-shrink diff`: one planted change is found, and nothing else; other names and another order are no change.
use std::{collections::HashMap, fs, path::Path};

use onnx_shrink_ir::{
    attributes,
    proto::schema::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto,
        tensor_shape_proto::dimension, type_proto,
    },
};
use prost::Message;
use serde_json::Value;

use crate::support::{FIXTURES, folder, model, run};

fn fixture(name: &str) -> ModelProto {
    ModelProto::decode(model(name).as_slice()).unwrap()
}

fn write(folder: &Path, name: &str, model: &ModelProto) {
    fs::write(folder.join(name), model.encode_to_vec()).unwrap();
}

/// Exit code and JSON of the difference of two models.
fn diff(a: &ModelProto, b: &ModelProto, more: &[&str]) -> (i32, Value) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.onnx", a);
    write(folder.path(), "b.onnx", b);
    let arguments = [&["diff", "a.onnx", "b.onnx", "--json"], more].concat();
    let run = run(folder.path(), &arguments);
    assert!(!run.stderr.contains("error"), "{}", run.stderr);
    let json: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(json["equal"], run.code == 0, "{}", run.text());
    (run.code, json)
}

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn node<'m>(model: &'m mut ModelProto, name: &str) -> &'m mut NodeProto {
    graph(model).node.iter_mut().find(|node| node.name() == name).unwrap()
}

fn new_node(op_type: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        name: Some(name.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        ..NodeProto::default()
    }
}

/// All inner names changed, with `interface` those of inputs and outputs, too; nodes and initializers in another order.
fn scramble(model: &mut ModelProto, interface: bool) {
    fn names(graph: &GraphProto, kept: &[String], map: &mut HashMap<String, String>) {
        let mut add = |name: &str| {
            if !name.is_empty() && !kept.iter().any(|kept| kept == name) {
                let number = map.len();
                map.entry(name.to_owned()).or_insert_with(|| format!("n{}", 7919 * number % 10007));
            }
        };
        graph.input.iter().chain(&graph.output).for_each(|info| add(info.name()));
        graph.initializer.iter().for_each(|tensor| add(tensor.name()));
        graph.node.iter().flat_map(|node| &node.output).for_each(|name| add(name));
        for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
            if let Some(body) = &attribute.g {
                names(body, kept, map);
            }
        }
    }
    fn rename(graph: &mut GraphProto, map: &HashMap<String, String>) {
        let new = |name: &str| map.get(name).cloned().unwrap_or_else(|| name.to_owned());
        for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            info.name = Some(new(info.name()));
        }
        for tensor in &mut graph.initializer {
            tensor.name = Some(new(tensor.name()));
        }
        for (number, node) in graph.node.iter_mut().enumerate() {
            node.name = Some(format!("node{}", 31 * number % 101));
            node.input.iter_mut().chain(&mut node.output).for_each(|name| *name = new(name));
            for attribute in &mut node.attribute {
                if let Some(body) = &mut attribute.g {
                    rename(body, map);
                }
            }
        }
        graph.initializer.reverse();
        graph.node = reordered(std::mem::take(&mut graph.node));
    }
    /// Of the nodes that can come next, always the last.
    fn reordered(nodes: Vec<NodeProto>) -> Vec<NodeProto> {
        fn reads(graph: &GraphProto, names: &mut Vec<String>) {
            for node in &graph.node {
                names.extend(node.input.iter().cloned());
                node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()).for_each(|body| reads(body, names));
            }
        }
        let outputs = nodes.iter().flat_map(|node| node.output.clone());
        let made: Vec<String> = outputs.filter(|name| !name.is_empty()).collect();
        let mut waiting: Vec<NodeProto> = nodes;
        let (mut done, mut order) = (Vec::new(), Vec::new());
        while !waiting.is_empty() {
            let ready = waiting.iter().rposition(|node| {
                let mut names = node.input.clone();
                node.attribute
                    .iter()
                    .filter_map(|attribute| attribute.g.as_ref())
                    .for_each(|body| reads(body, &mut names));
                names.iter().all(|name| !made.contains(name) || done.contains(name))
            });
            let node = waiting.remove(ready.unwrap());
            done.extend(node.output.iter().cloned());
            order.push(node);
        }
        order
    }
    let whole = graph(model);
    let ports = whole.input.iter().chain(&whole.output).map(|info| info.name().to_owned());
    let kept: Vec<String> = if interface { Vec::new() } else { ports.collect() };
    let mut map = HashMap::new();
    names(graph(model), &kept, &mut map);
    rename(graph(model), &map);
}

#[test]
fn other_names_and_another_order_are_equal() {
    for name in FIXTURES {
        let before = fixture(name);
        assert_eq!(diff(&before, &before, &[]).0, 0, "{name}");
        let mut after = before.clone();
        scramble(&mut after, false);
        assert_ne!(before.graph.as_ref().unwrap().node, after.graph.as_ref().unwrap().node);
        let (code, json) = diff(&before, &after, &[]);
        assert_eq!(code, 0, "{name}: {json:#}");
        let mut after = before.clone();
        scramble(&mut after, true);
        let (code, json) = diff(&before, &after, &["--ignore-names"]);
        assert_eq!(code, 0, "{name}: {json:#}");
        // What callers see has other names: that alone is told.
        let (code, json) = diff(&before, &after, &[]);
        assert_eq!(code, 5);
        for change in json["changes"].as_array().unwrap() {
            assert!(change["title"].as_str().unwrap().contains("is named"), "{name}: {json:#}");
        }
    }
}

/// A fixture, a change, and what must be said of it: the kind, the name of an op or part of the title, part of a detail.
type Planted = (&'static str, fn(&mut ModelProto), &'static str, &'static str, &'static str);

fn tweak(model: &mut ModelProto, tensor: &str) {
    let tensor = graph(model).initializer.iter_mut().find(|one| one.name() == tensor).unwrap();
    let mut bytes = tensor.raw_data.take().unwrap().to_vec();
    bytes[2] ^= 0x40;
    tensor.raw_data = Some(bytes.into());
}

fn shape_of(info: &mut ValueInfoProto) -> &mut type_proto::Tensor {
    match info.r#type.as_mut().unwrap().value.as_mut().unwrap() {
        type_proto::Value::TensorType(tensor) => tensor,
        _ => panic!("a tensor"),
    }
}

const PLANTED: &[Planted] = &[
    (
        "digits_cnn",
        |m| node(m, "/conv2/Conv").attribute[4].ints[0] = 3,
        "changed",
        "/conv2/Conv",
        "strides: [2, 2] → [3, 2]",
    ),
    (
        "digits_cnn",
        |m| node(m, "/bn1/BatchNormalization").attribute[0].f = Some(0.5),
        "changed",
        "/bn1/BatchNormalization",
        "epsilon",
    ),
    (
        "digits_cnn",
        |m| node(m, "/flatten/Flatten").attribute[0].i = Some(2),
        "changed",
        "/flatten/Flatten",
        "axis: 1 → 2",
    ),
    ("digits_cnn", |m| tweak(m, "block.conv1.weight"), "changed", "/block/conv1/Conv", "1 elements differ"),
    ("digits_cnn", |m| tweak(m, "fc.bias"), "changed", "/fc/Gemm", "1 elements differ"),
    (
        "digits_cnn",
        |m| node(m, "/block/Add").input[1] = "/relu1/Relu_output_0".to_owned(),
        "rewired",
        "/block/Add",
        "reads `/relu2/Relu_output_0` → `/relu1/Relu_output_0`",
    ),
    (
        "digits_attention",
        |m| node(m, "/attn/Div").op_type = Some("Mul".to_owned()),
        "replaced",
        "/attn/Div",
        "Div became Mul",
    ),
    ("digits_attention", |m| node(m, "/attn/Div").input.swap(0, 1), "rewired", "/attn/Div", "inputs swapped"),
    ("digits_attention", |m| node(m, "/attn/MatMul").input.swap(0, 1), "rewired", "/attn/MatMul", "inputs swapped"),
    (
        "digits_mlp",
        |m| {
            graph(m).node.retain(|node| node.name() != "/relu1/Relu");
            node(m, "/fc2/MatMul").input[0] = "/fc1/Gemm_output_0".to_owned();
        },
        "bypassed",
        "/relu1/Relu",
        "readers read what it read",
    ),
    (
        "digits_mlp",
        |m| {
            node(m, "/fc2/MatMul").input[0] = "tanh".to_owned();
            graph(m).node.insert(2, new_node("Tanh", "tanh", &["/relu1/Relu_output_0"], &["tanh"]));
        },
        "inserted",
        "tanh",
        "between `/relu1/Relu_output_0` and MatMul `/fc2/MatMul`",
    ),
    (
        "digits_mlp",
        |m| graph(m).node.push(new_node("Neg", "loose", &["logits"], &["loose"])),
        "added",
        "loose",
        "nothing reads it",
    ),
    (
        "digits_mlp",
        |m| {
            // Relu before Add instead of behind it.
            node(m, "/relu2/Relu").input[0] = "/fc2/MatMul_output_0".to_owned();
            node(m, "/fc2/Add").input[0] = "/relu2/Relu_output_0".to_owned();
            node(m, "/fc3/Gemm").input[0] = "/fc2/Add_output_0".to_owned();
            graph(m).node.swap(3, 4);
        },
        "moved",
        "moved",
        "behind",
    ),
    ("digits_mlp", |m| m.opset_import[0].version = Some(18), "model", "opset", "17 → 18"),
    ("digits_mlp", |m| m.ir_version = Some(9), "model", "IR version", "8 → 9"),
    (
        "digits_mlp",
        |m| {
            let entry = |text: &str| Some(text.to_owned());
            m.metadata_props.push(StringStringEntryProto { key: entry("author"), value: entry("nobody") });
        },
        "model",
        "metadata `author`",
        "nobody",
    ),
    (
        "digits_mlp",
        |m| m.opset_import.push(OperatorSetIdProto { domain: Some("ours".to_owned()), version: Some(3) }),
        "model",
        "opset of ours",
        "– → 3",
    ),
    (
        "digits_mlp",
        |m| {
            graph(m).input[0].name = Some("pixels".to_owned());
            node(m, "/fc1/Gemm").input[0] = "pixels".to_owned();
        },
        "input",
        "input `input` is named `pixels`",
        "",
    ),
    (
        "digits_mlp",
        |m| {
            let shape = shape_of(&mut graph(m).input[0]).shape.as_mut().unwrap();
            shape.dim[0].value = Some(dimension::Value::DimValue(3));
        },
        "input",
        "input `input`: type",
        "→ float[3,64]",
    ),
    (
        "digits_mlp",
        |m| shape_of(&mut graph(m).output[0]).elem_type = Some(11),
        "output",
        "output `logits`: type",
        "→ double",
    ),
    (
        "digits_if",
        |m| {
            let bodies = &mut node(m, "/head/If").attribute;
            let body = bodies.iter_mut().find(|body| body.name() == "then_branch").unwrap().g.as_mut().unwrap();
            body.node[1].op_type = Some("Tanh".to_owned());
        },
        "replaced",
        "/heavy/relu/Relu",
        "Relu became Tanh",
    ),
    (
        "digits_if",
        |m| {
            let bodies = &mut node(m, "/head/If").attribute;
            let body = bodies.iter_mut().find(|body| body.name() == "else_branch").unwrap().g.as_mut().unwrap();
            let attribute = body.node[0].attribute.iter_mut().find(|one| one.name() == "alpha").unwrap();
            attribute.f = Some(2.0);
        },
        "changed",
        "/light/fc/Gemm",
        "alpha: 1 → 2",
    ),
    (
        "digits_gru",
        |m| node(m, "/gru/Gather").input[1] = "/gru/Constant_1_output_0".to_owned(),
        "changed",
        "/gru/Gather",
        "indices",
    ),
    ("digits_gru", |m| node(m, "/Transpose").attribute[0].ints = vec![1, 2, 0], "changed", "/Transpose", "perm"),
];

#[test]
fn a_planted_change_is_found_and_nothing_else() {
    for (fixture_name, change, kind, title, detail) in PLANTED {
        let before = fixture(fixture_name);
        let mut after = before.clone();
        change(&mut after);
        let (code, json) = diff(&before, &after, &[]);
        let changes = json["changes"].as_array().unwrap();
        assert!(code == 5 && changes.len() == 1, "{fixture_name}, {title}: {json:#}");
        let text = changes[0].to_string();
        assert_eq!(changes[0]["kind"], *kind, "{json:#}");
        assert!(text.contains(title), "{title}: {json:#}");
        // The sentence that people read says what it is.
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.onnx", &before);
        write(folder.path(), "b.onnx", &after);
        let run = run(folder.path(), &["diff", "a.onnx", "b.onnx"]);
        assert!(run.text().contains(detail) && run.text().contains(title), "{detail}: {}", run.text());
        // Names do not help the search: the same is found without them.
        let (code, json) = diff(&before, &after, &["--ignore-names"]);
        if *kind == "input" && title.contains("is named") {
            assert_eq!(code, 0);
        } else {
            assert_eq!((code, json["changes"].as_array().unwrap().len()), (5, 1), "{title}: {json:#}");
        }
    }
}

#[test]
fn a_cast_and_the_order_of_outputs() {
    let mut before = fixture("digits_mlp");
    let mut cast = new_node("Cast", "cast", &["logits"], &["half"]);
    cast.attribute.push(attributes::int("to", 10));
    let mut half = graph(&mut before).output[0].clone();
    half.name = Some("half".to_owned());
    shape_of(&mut half).elem_type = Some(10);
    graph(&mut before).node.push(cast);
    graph(&mut before).output.push(half);
    let mut after = before.clone();
    graph(&mut after).output.swap(0, 1);
    let (_, json) = diff(&before, &after, &[]);
    assert_eq!(json["changes"].as_array().unwrap().len(), 1, "{json:#}");
    assert_eq!(json["changes"][0]["title"], "outputs stand in another order");
    let mut after = before.clone();
    node(&mut after, "cast").attribute[0].i = Some(11);
    let (_, json) = diff(&before, &after, &[]);
    assert_eq!(json["changes"].as_array().unwrap().len(), 1, "{json:#}");
    assert_eq!(json["changes"][0]["details"][0]["after"], "double");
}

#[test]
fn rewrites_are_told_as_what_they_are() {
    let folder = folder();
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    let lossless = run(folder.path(), &["diff", "in.onnx", "out.onnx"]);
    assert_eq!(lossless.code, 5);
    assert!(lossless.text().contains("4 × Conv + BatchNormalization became Conv"), "{}", lossless.text());
    assert!(!lossless.text().contains("removed") && !lossless.text().contains("added"), "{}", lossless.text());
    let data = crate::support::calib("digits_cnn");
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "int8.onnx", "--int8", "--data", &data]).code, 0);
    let int8 = run(folder.path(), &["diff", "in.onnx", "int8.onnx"]);
    assert!(int8.text().contains("quantized (uint8 × int8)"), "{}", int8.text());
    assert!(!int8.text().contains("removed") && !int8.text().contains("added"), "{}", int8.text());
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "stored.onnx", "--int8"]).code, 0);
    let stored = run(folder.path(), &["diff", "in.onnx", "stored.onnx"]);
    assert!(stored.text().contains("constants stored as int8"), "{}", stored.text());
}

#[test]
fn what_cannot_be_read_ends_with_1() {
    let folder = folder();
    fs::write(folder.path().join("text.onnx"), "hello").unwrap();
    for arguments in [["diff", "in.onnx", "none.onnx"], ["diff", "text.onnx", "in.onnx"]] {
        let run = run(folder.path(), &arguments);
        assert_eq!(run.code, 1);
        assert!(run.error().contains(".onnx: "), "{}", run.error());
    }
    assert_eq!(run(folder.path(), &["diff", "-", "-"]).code, 2);
}
