//! Pairs of others: what is warned of, mended and cancelled in files that were quantized before.
use std::{fs, path::Path};

use onnx_shrink_ir::{
    Model, export, import,
    proto::{Limits, encode, load},
    text,
};
use onnx_shrink_passes::analysis::saturation::saturating_layers;

use crate::support::{calib, folder_of, run};

/// A folder with `in.onnx` of this text.
fn folder_of_text(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = text::parse_model(text).unwrap_or_else(|error| panic!("{}", error.render()));
    let bytes: Vec<u8> = encode(&export(&model)).iter().flat_map(|part| part.to_vec()).collect();
    fs::write(folder.path().join("in.onnx"), bytes).unwrap();
    folder
}

fn read(folder: &Path, name: &str) -> Model {
    import(load(&folder.join(name), &Limits::default()).unwrap().model).unwrap()
}

const SATURATES: &str = r#"<ir_version: 8, opset_import: ["" : 13]>
g (float[1,2] x) => (float[1,2] y) <float s = {0.5}, uint8 z = {128}, int8[2,2] w = {100, 100, 100, -100}, float[2] t = {0.5, 0.25}> {
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)
    v = DequantizeLinear <axis = 0> (w, t)
    y = Gemm <transB = 1> (d, v)
}"#;

#[test]
fn weights_that_can_saturate_are_named_with_the_flag_that_mends_them() {
    let folder = folder_of_text(SATURATES);
    let warned = run(folder.path(), &["in.onnx", "-o", "out.onnx"]);
    assert_eq!(warned.code, 0, "{}", warned.stderr);
    assert!(warned.text().contains("warning: 8-bit sums of 1 layer"), "{}", warned.text());
    assert!(warned.text().contains("`y` (1 of 2 pairs of weights)"), "{}", warned.text());
    assert!(warned.text().contains("--fix-saturation"), "{}", warned.text());

    let mended = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--fix-saturation"]);
    assert_eq!(mended.code, 0, "{}", mended.stderr);
    assert!(!mended.text().contains("warning"), "{}", mended.text());
    assert_eq!(saturating_layers(&read(folder.path(), "in.onnx").graph).len(), 1);
    assert_eq!(saturating_layers(&read(folder.path(), "out.onnx").graph), []);

    let sound = run(folder.path(), &["out.onnx", "-o", "again.onnx", "--fix-saturation"]);
    assert!(sound.text().contains("no sums of 8-bit weights can saturate"), "{}", sound.text());
    let refused = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--fix-saturation", "--exact"]);
    assert_eq!(refused.code, 2);
    assert!(refused.error().contains("--exact forbids"), "{}", refused.stderr);
}

/// A pool and a Reshape between pairs of one scale, and a Relu that the range implies.
const MOVES: &str = r#"<ir_version: 8, opset_import: ["" : 13]>
g (float[1,2,4,4] x) => (float[1,8] y) <float s = {0.5}, uint8 z = {0}, int64[2] r = {1, 8}> {
    a = Relu (x)
    q = QuantizeLinear (a, s, z)
    d = DequantizeLinear (q, s, z)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
    p = QuantizeLinear (m, s, z)
    e = DequantizeLinear (p, s, z)
    f = Reshape (e, r)
    o = QuantizeLinear (f, s, z)
    y = DequantizeLinear (o, s, z)
}"#;

fn count(model: &Model, op_type: &str) -> usize {
    model.graph.ops_of(op_type).len()
}

#[test]
fn pairs_of_others_vanish_and_the_report_says_what_each_step_loses() {
    let folder = folder_of_text(MOVES);
    let plain = run(folder.path(), &["in.onnx", "-o", "plain.onnx"]);
    assert_eq!(plain.code, 0, "{}", plain.stderr);
    let plain = read(folder.path(), "plain.onnx");
    assert_eq!((count(&plain, "Relu"), count(&plain, "QuantizeLinear")), (0, 3), "a pair around each value stays");

    let moved = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--cancel-qdq", "--exact", "--report", "r.json"]);
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert!(moved.text().contains("pairs cancelled, by step: "), "{}", moved.text());
    assert!(moved.text().contains("1 keep an order"), "{}", moved.text());
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    assert_eq!(report["cancelled"]["monotone"], 1, "{report}");
    let out = read(folder.path(), "out.onnx");
    assert_eq!((count(&out, "QuantizeLinear"), count(&out, "DequantizeLinear")), (1, 1));
    assert_eq!((count(&out, "MaxPool"), count(&out, "Reshape")), (1, 1));

    let refused = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--cancel-qdq=approximate", "--exact"]);
    assert_eq!(refused.code, 2);
}

/// Where everything pays, a minimum cut and wrapping all come to the same pairs.
#[test]
fn wrapping_is_cancelled_to_one_pair_a_value() {
    for name in ["digits_cnn", "digits_mlp", "digits_attention"] {
        let folder = folder_of(name);
        let data = calib(name);
        let wrap = ["in.onnx", "-o", "wrap.onnx", "--int8", "--data", &data, "--place", "wrap", "--quiet"];
        let done = run(folder.path(), &wrap);
        assert_eq!(done.code, 0, "{name}: {}", done.stderr);
        let wrapped = read(folder.path(), "wrap.onnx");
        let graph = &wrapped.graph;
        assert!(count(&wrapped, "QuantizeLinear") > 0, "{name}: nothing was wrapped");
        for op in graph.ops_of("QuantizeLinear") {
            let x = graph.op(op).input(0).unwrap();
            let from_pair = graph.producer(x).is_some_and(|op| graph.op(op).is("DequantizeLinear"));
            assert!(!from_pair, "{name}: a Dequantize meets a Quantize at `{}`", graph.label_of(op));
            let twice = graph.ops_of("QuantizeLinear").into_iter().filter(|other| graph.op(*other).input(0) == Some(x));
            assert_eq!(twice.count(), 1, "{name}: `{}` is quantized twice", graph.name_of(x));
        }
    }
}
