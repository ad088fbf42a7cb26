//! `--weights` as users run it: on the fixture with layers that are large enough.
use std::fs;

use crate::support::{calib, folder, folder_of, model_of_text, run};

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

/// Numbers as a constant's text, of which no 16 bits hold all.
fn numbers(count: usize) -> String {
    let list: Vec<String> = (0..count).map(|i| format!("{:.6}", (i as f64 * 1.7).sin() * 0.3)).collect();
    list.join(",")
}

/// Bytes of the file, and the report, of a model in text in this mode.
fn of_text(graph: &str, mode: &[&str]) -> (u64, serde_json::Value) {
    let folder = folder();
    let text = format!("<ir_version: 8, opset_import: [\"\" : 17]> {graph}");
    fs::write(folder.path().join("in.onnx"), model_of_text(&text)).unwrap();
    let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx", "--report", "r.json"], mode].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    (fs::metadata(folder.path().join("out.onnx")).unwrap().len(), report)
}

/// Name and reason of each row of the layers.
fn rows(report: &serde_json::Value) -> Vec<(String, String)> {
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    report["layers"].as_array().unwrap().iter().map(|row| (text(row, "name"), text(row, "reason"))).collect()
}

#[test]
fn what_cannot_have_4_bits_gets_8_so_that_no_mode_is_larger_than_one_of_more_bits() {
    let upsampling = format!(
        "g (float[1,16,5] x) => (float[1,24,12] y) <float[16,24,4] w = {{{}}}> {{
         y = ConvTranspose <strides = [2]> (x, w) }}",
        numbers(16 * 24 * 4)
    );
    let stacked = format!(
        "g (float[1,5,32] x) => (float[1,5,40] y) <float[1,32,64] v = {{{}}}, float[64,40] w = {{{}}}> {{
         t = MatMul (x, v)  y = MatMul (t, w) }}",
        numbers(32 * 64),
        numbers(64 * 40)
    );
    let tiny = format!(
        "g (float[2,16] x) => (float[2,36] y) <float[16,36] w = {{{}}}> {{ y = MatMul (x, w) }}",
        numbers(16 * 36)
    );
    for graph in [upsampling, stacked, tiny] {
        let bytes = |mode: &[&str]| of_text(&graph, mode).0;
        let [four, eight, sixteen] = [&["--weights", "int4"][..], &["--int8"], &["--weights", "fp16"]].map(bytes);
        assert!(four <= eight && eight <= sixteen, "{four} {eight} {sixteen}");
    }
}

#[test]
fn layers_that_share_a_bias_get_4_bits_and_the_bias_stays_shared() {
    let graph = format!(
        "g (float[2,48] x) => (float[2,48] y) <float[48,48] v = {{{0}}}, float[48,48] w = {{{0}}}, float[48] b = {{{1}}}> {{
         t = Gemm (x, v, b)  r = Relu (t)  y = Gemm (r, w, b) }}",
        numbers(48 * 48),
        numbers(48)
    );
    let (bytes, report) = of_text(&graph, &["--weights", "int4"]);
    let in_4_bits = report["weights"]["in_4_bits"].as_u64();
    assert!(in_4_bits == Some(2) || rows(&report).iter().all(|(_, why)| why.contains("8-bit")), "{report}");
    assert!(bytes < 2 * 48 * 48 + 1500, "{bytes}");
}

#[test]
fn a_table_of_coordinates_stays_exact_and_is_named() {
    let grid: Vec<String> = (0..400).map(|k| format!("{}.5", k % 20)).collect();
    let shares: Vec<String> = (0..400).map(|k| format!("{:.7}", (f64::from(k) * 0.37).sin() * 640.0)).collect();
    let graph = format!(
        "g (float[1,32] x) => (float[2,200] y) <float[32,200] w = {{{}}}, float[2,200] grid = {{{}}},
         float[2,200] shares = {{{}}}> {{ t = MatMul (x, w)  u = Add (t, grid)  y = Mul (u, shares) }}",
        numbers(32 * 200),
        grid.join(","),
        shares.join(",")
    );
    for mode in [&["--int8"][..], &["--weights", "int4"], &["--weights", "fp16"]] {
        let (_, report) = of_text(&graph, mode);
        let rows = rows(&report);
        let of = |name: &str| rows.iter().find(|(row, _)| row == name).map(|(_, reason)| reason.clone());
        assert!(of("grid").is_some_and(|reason| reason.contains("8-bit integers, exact")), "{mode:?} {rows:?}");
        assert_eq!(of("shares"), None, "it is as it was");
        assert!(report["journal"].to_string().contains("by arithmetic alone"), "{mode:?}");
    }
}
