//! Layers whose error matters: what goes back to float for a gate, and what the report says of it.
use crate::{
    int8_graph::integer_ops,
    support::{calib, folder_of, run},
};

/// Layers in integers, and the report, of the fixture for every target's placement, with a gate.
fn shrunk(gate: &str, more: &[&str]) -> (i32, usize, serde_json::Value) {
    let folder = folder_of("digits_cnn");
    let data = calib("digits_cnn");
    let arguments =
        ["in.onnx", "-o", "out.onnx", "--int8", "--data", &data, "--target", "generic", "--report", "r.json"];
    let run = run(folder.path(), &[&arguments[..], &["--gate", gate], more].concat());
    let report = serde_json::from_slice(&std::fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    let written = folder.path().join("out.onnx");
    let integer = if written.exists() {
        let loaded = onnx_shrink_ir::proto::load(&written, &onnx_shrink_ir::proto::Limits::default()).unwrap();
        integer_ops(&onnx_shrink_ir::import(loaded.model).unwrap().graph).len()
    } else {
        0
    };
    (run.code, integer, report)
}

#[test]
fn a_stricter_gate_leaves_fewer_layers_in_integers_and_no_more_float_than_it_needs() {
    let (code, all, report) = shrunk("sqnr=20", &[]);
    assert_eq!(code, 0);
    let reached = report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap();
    let gate = format!("sqnr={}", reached + 0.5);
    let (code, some, report) = shrunk(&gate, &["--keep-float", "auto"]);
    assert_eq!(code, 0, "{report}");
    assert!(0 < some && some < all, "{some} of {all}");
    assert!(all - some <= 4, "half a dB asks for few layers: {some} of {all}");
    assert!(report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap() >= reached + 0.5);
    assert!(!report["notes"].to_string().contains("names no op"), "{}", report["notes"]);
    let back = report["layers"].as_array().unwrap().iter().filter(|layer| layer["fate"] != "integer");
    assert!(back.clone().count() > 0);
    assert!(back.into_iter().all(|layer| layer["reason"].as_str().unwrap().contains("gate")), "{}", report["layers"]);
}

#[test]
fn every_integer_layer_has_its_share_of_the_error() {
    let (_, integer, report) = shrunk("sqnr=20", &[]);
    let layers = report["layers"].as_array().unwrap();
    let shares: Vec<f64> = layers.iter().filter_map(|layer| layer["error_share"].as_f64()).collect();
    assert!(shares.len() >= integer, "{} of {integer}", shares.len());
    assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
}
