//! `--weights` as users run it: on the fixture with layers that are large enough.
use std::fs;

use crate::support::{calib, folder_of, run};

/// Bytes of the file, and the report, with more arguments.
fn stored(more: &[&str]) -> (u64, serde_json::Value) {
    let folder = folder_of("digits_mlp");
    let arguments =
        [&["in.onnx", "-o", "out.onnx", "--report", "r.json", "--gate", "sqnr=0", "--gate", "drop=1"], more];
    let run = run(folder.path(), &arguments.concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    (fs::metadata(folder.path().join("out.onnx")).unwrap().len(), report)
}

fn rel(report: &serde_json::Value) -> f64 {
    report["quantized"]["outputs"][0]["rel_l2"].as_f64().unwrap()
}

#[test]
fn half_floats_halve_the_file_and_4_bits_take_less_still() {
    let samples = calib("digits_mlp");
    let (plain, _) = stored(&["--data", &samples]);
    let (half, report) = stored(&["--weights", "fp16", "--data", &samples]);
    assert!(half < plain * 6 / 10 && rel(&report) < 2e-3, "{half} {plain} {}", rel(&report));
    let (four, _) = stored(&["--weights", "int4", "--data", &samples]);
    assert!(four < half * 6 / 10, "{four} {half}");
}

#[test]
fn samples_make_4_bits_nearer_than_rounding_to_nearest() {
    let samples = calib("digits_mlp");
    let (_, nearest) = stored(&["--weights", "int4", "--validation-data", &samples]);
    let (_, better) = stored(&["--weights", "int4", "--data", &samples]);
    assert!(rel(&better) < 0.9 * rel(&nearest), "{} {}", rel(&better), rel(&nearest));
    let reason = better["layers"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("4-bit weights") && reason.contains("GPTQ"), "{reason}");
}

#[test]
fn small_weights_and_8_bit_layers_exclude_each_other() {
    let folder = folder_of("digits_mlp");
    let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--weights", "int4", "--int8"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn targets_that_do_not_read_the_type_refuse_it_by_name() {
    let folder = folder_of("digits_mlp");
    for (target, weights) in [("tract", "int4"), ("tensorrt", "fp16"), ("qnn", "int4")] {
        let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--weights", weights, "--target", target]);
        assert_eq!(run.code, 2, "{}", run.stderr);
        let sentence = format!("--weights {weights}: of these types the target {target} reads: ");
        assert!(run.error().contains(&sentence), "{}", run.error());
    }
}

#[test]
fn layers_go_back_to_16_bits_until_the_gates_hold() {
    let samples = calib("digits_mlp");
    let folder = folder_of("digits_mlp");
    let arguments = ["in.onnx", "-o", "out.onnx", "--weights", "int4", "--data", &samples, "--report", "r.json"];
    let run = run(folder.path(), &[&arguments[..], &["--gate", "sqnr=40"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    assert!(report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap() >= 40.0);
    let layers = report["layers"].as_array().unwrap();
    assert!(layers.iter().any(|layer| layer["reason"].as_str().unwrap().contains("a gate failed")), "{layers:?}");
}

#[test]
fn the_report_says_what_4_bits_bring_and_cost_beside_8() {
    let samples = calib("digits_mlp");
    let (_, report) = stored(&["--weights", "int4", "--data", &samples]);
    let weights = &report["weights"];
    let [four, eight] = ["layers", "stored_in_8_bits"].map(|key| &weights[key]);
    let number = |of: &serde_json::Value, key: &str| of[key].as_f64().unwrap();
    assert!(number(four, "bytes") < 0.75 * number(eight, "bytes"), "{weights}");
    assert!(number(four, "rel_l2") > number(eight, "rel_l2"), "{weights}");
    assert_eq!((weights["type"].as_str(), number(four, "expected_time")), (Some("int4"), 1.0));
    assert_eq!(
        weights["opset"][0], weights["opset"][1],
        "nothing gains from 4-bit types: engines, fusions, opset stay"
    );
    let notes = report["notes"].to_string();
    assert!(notes.contains("--weights int4: layers take") && notes.contains("in 8 bits layers would take"), "{notes}");
    let (_, plain) = stored(&["--data", &samples]);
    assert!(plain["weights"].is_null());
}
