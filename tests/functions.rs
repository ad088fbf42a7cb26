//! Models with functions of their own, with ops that draw random numbers, and with ops that do not run here.
use std::{fs, path::Path};

use onnx_shrink_ir::{
    export,
    proto::{
        Limits, encode, load,
        schema::{FunctionProto, ModelProto, OperatorSetIdProto},
    },
    text::parse_model,
};
use tempfile::TempDir;

use crate::support::{model_of_text, run};

const HEADER: &str = "<ir_version: 8, opset_import: [\"\" : 17, \"own\" : 1]>";

/// A matrix of 64 × 64 numbers between −0.2 and 0.2, as text.
fn matrix(name: &str, seed: u64) -> String {
    let number = |n: u64| ((n * 7919 + seed * 104_729) % 401) as f64 / 1000.0 - 0.2;
    let numbers: Vec<String> = (0..64 * 64).map(|n| number(n).to_string()).collect();
    format!("float[64,64] {name} = {{{}}}", numbers.join(", "))
}

/// A function whose body is this graph.
fn function(name: &str, body: &str) -> FunctionProto {
    let graph = export(&parse_model(&format!("{HEADER} {body}")).unwrap()).graph.unwrap();
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("own".to_owned()),
        input: graph.input.into_iter().map(|info| info.name.unwrap()).collect(),
        output: graph.output.into_iter().map(|info| info.name.unwrap()).collect(),
        node: graph.node,
        opset_import: vec![import("", 17), import("own", 1)],
        ..FunctionProto::default()
    }
}

/// A folder with this model as `in.onnx`.
fn folder(graph: &str, functions: Vec<FunctionProto>) -> TempDir {
    let model = export(&parse_model(&format!("{HEADER} {graph}")).unwrap());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.onnx"), encode(&ModelProto { functions, ..model }).concat()).unwrap();
    folder
}

fn written(folder: &Path) -> ModelProto {
    load(&folder.join("out.onnx"), &Limits::default()).unwrap().model
}

fn op_types(model: &ModelProto) -> Vec<&str> {
    model.graph.as_ref().unwrap().node.iter().map(|node| node.op_type()).collect()
}

#[test]
fn weights_that_functions_read_become_smaller_with_the_calls_inlined() {
    let linear =
        function("Linear", "f (float[1,64] x, float[64,64] w) => (float[1,64] y) { t = MatMul (x, w)  y = Relu (t) }");
    let graph = format!(
        "g (float[1,64] x) => (float[1,64] y) <{}, {}> {{ a = own.Linear (x, w)  y = own.Linear (a, v) }}",
        matrix("w", 1),
        matrix("v", 2)
    );
    let folder = folder(&graph, vec![linear]);
    for flags in [&["--int8"][..], &["--weights", "fp16"]] {
        let shrunk = run(folder.path(), &[&["in.onnx", "-o", "out.onnx"], flags].concat());
        assert_eq!(shrunk.code, 0, "{}", shrunk.stderr);
        assert!(shrunk.text().contains("2 calls of the model's own functions were inlined"), "{}", shrunk.text());
        assert!(written(folder.path()).functions.is_empty());
        let bytes = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(bytes("out.onnx") * 10 < bytes("in.onnx") * 6, "{} of {}", bytes("out.onnx"), bytes("in.onnx"));
        let judged = run(folder.path(), &["validate", "in.onnx", "out.onnx", "--as", "int8"]);
        assert_eq!(judged.code, 0, "{}{}", judged.text(), judged.stderr);
    }
}

#[test]
fn functions_stay_where_nothing_changes_or_the_model_would_be_larger() {
    let relu = function("Positive", "f (float[2] x) => (float[2] y) { y = Relu (x) }");
    let same = folder("g (float[2] x) => (float[2] y) { y = own.Positive (x) }", vec![relu]);
    assert_eq!(run(same.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    let read = |name: &str| fs::read(same.path().join(name)).unwrap();
    assert_eq!(read("in.onnx"), read("out.onnx"));

    let long: String = (0..20).map(|n| format!("t{} = Sin (t{n}) ", n + 1)).collect();
    let long = function("Long", &format!("f (float[2] x) => (float[2] y) {{ t0 = Cos (x) {long} y = Cos (t20) }}"));
    let calls: String = (0..5).map(|n| format!("a{} = own.Long (a{n}) ", n + 1)).collect();
    let graph = format!("g (float[2] x) => (float[2] y) {{ i = Identity (x)  a0 = Neg (i) {calls} y = Neg (a5) }}");
    let larger = folder(&graph, vec![long]);
    assert_eq!(run(larger.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    let model = written(larger.path());
    assert_eq!(model.functions.len(), 1);
    assert_eq!(op_types(&model), ["Neg", "Long", "Long", "Long", "Long", "Long", "Neg"]);
}

#[test]
fn models_that_draw_random_numbers_are_run_with_made_up_ones() {
    let graph = format!(
        "g (float[1,64] x, float scale) => (float[1,64] y) <{}> {{
           n = RandomNormalLike (x)  m = Mul (n, scale)  i = Identity (m)  a = Add (x, i)  y = MatMul (a, w) }}",
        matrix("w", 1)
    );
    let folder = folder(&graph, Vec::new());
    let shrunk = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--weights", "fp16", "--report", "r.json"]);
    assert_eq!(shrunk.code, 0, "{}", shrunk.stderr);
    assert!(shrunk.text().contains("draws random numbers, `n` (RandomNormalLike)"), "{}", shrunk.text());
    let model = written(folder.path());
    let types = op_types(&model);
    assert!(
        types.contains(&"RandomNormalLike") && types.contains(&"Cast") && !types.contains(&"Identity"),
        "{types:?}"
    );
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    assert!(report["unproven"].is_null() && !report["lossless"].is_null(), "{report}");
    let judged = run(folder.path(), &["validate", "in.onnx", "out.onnx", "--as", "int8"]);
    assert_eq!(judged.code, 0, "{}{}", judged.text(), judged.stderr);
    assert!(judged.text().contains("draws random numbers"), "{}", judged.text());
}

#[test]
fn random_numbers_never_become_constants() {
    let text = format!(
        "{HEADER} g (float[4] x) => (float[4] y) {{ n = RandomUniform <shape = [4]> ()  m = Neg (n)  y = Add (x, m) }}"
    );
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.onnx"), model_of_text(&text)).unwrap();
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    assert!(op_types(&written(folder.path())).contains(&"RandomUniform"));
}

#[test]
fn the_half_before_an_op_that_does_not_run_is_made_smaller_and_judged() {
    let graph = format!(
        "g (float[1,64] x) => (float[1,64] y) <{}, {}> {{
           a = MatMul (x, w)  b = Relu (a)  c = own.Strange (b)  d = MatMul (c, v)  y = Add (d, x) }}",
        matrix("w", 1),
        matrix("v", 2)
    );
    let folder = folder(&graph, Vec::new());
    let shrunk = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--weights", "fp16"]);
    assert_eq!(shrunk.code, 0, "{}", shrunk.stderr);
    let told = "what does not depend on that was made smaller and judged at `b`, the rest has weights in fewer bits";
    assert!(shrunk.text().contains(told), "{}", shrunk.text());
    let model = written(folder.path());
    assert_eq!(op_types(&model), ["Cast", "MatMul", "Relu", "Strange", "Cast", "MatMul", "Add"]);
    let kinds: Vec<i32> = model.graph.unwrap().initializer.iter().map(|tensor| tensor.data_type()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == 10).count(), 2, "{kinds:?}");
}
