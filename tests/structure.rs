//! `--prune`: what is removed, what is possible, and what a gate stops.
use std::fs;

use crate::support::{calib, fixture, folder, model_of_text, run};

fn digits() -> String {
    fixture("digits_cnn").join("model.onnx").display().to_string()
}

#[test]
fn a_share_of_the_multiply_adds_goes_and_the_bytes_do_not_depend_on_threads() {
    let folder = folder();
    let mut files = Vec::new();
    for threads in ["1", "2"] {
        let output = format!("out{threads}.onnx");
        let data = calib("digits_cnn");
        let model = digits();
        let arguments = [
            model.as_str(),
            "-o",
            &output,
            "--prune",
            "0.3",
            "--data",
            &data,
            "--threads",
            threads,
            "--report",
            "r.json",
        ];
        let found = run(folder.path(), &arguments);
        assert_eq!(found.code, 0, "{}", found.stderr);
        assert!(found.text().contains("weights 24×24×3×3 → "), "{}", found.text());
        files.push(fs::read(folder.path().join(output)).unwrap());
    }
    assert!(files[0] == files[1], "threads change the file");
    let before = fs::metadata(digits()).unwrap().len();
    assert!((files[0].len() as u64) < before);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    let structure = &report["structure"];
    assert!(structure["removed"].as_f64().unwrap() >= 0.3, "{structure}");
    let layers = structure["layers"].as_array().unwrap();
    let sum = |name: &str| layers.iter().map(|layer| layer[name].as_f64().unwrap()).sum::<f64>();
    assert!((1.0 - sum("macs_after") / sum("macs_before") - structure["removed"].as_f64().unwrap()).abs() < 1e-9);
    let solved = layers.iter().filter(|layer| !layer["error"].is_null());
    assert!(solved.clone().count() > 0);
    assert!(solved.into_iter().all(|layer| layer["error"].as_f64() <= layer["error_before"].as_f64()));
}

#[test]
fn a_share_that_is_none_or_cannot_be_reached_says_what_can_be() {
    let folder = folder();
    let (model, data) = (digits(), calib("digits_cnn"));
    for (ratio, part) in [("1.5", "a share of the multiply-adds is wanted"), ("0.999", "at most")] {
        let found = run(folder.path(), &[&model, "-o", "out.onnx", "--prune", ratio, "--data", &data]);
        assert_eq!(found.code, 2, "{}", found.stderr);
        assert!(found.stderr.contains(part), "{}", found.stderr);
        assert!(!folder.path().join("out.onnx").exists());
    }
}

#[test]
fn a_model_without_channels_comes_back_with_the_reason() {
    let folder = folder();
    let text = "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[1,4] x) => (float[1,4] y) { y = Softmax (x) }";
    fs::write(folder.path().join("in.onnx"), model_of_text(text)).unwrap();
    let found = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--prune", "0.5"]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    assert!(found.text().contains("no channel of this model can be removed"), "{}", found.text());
    assert_eq!(fs::read(folder.path().join("in.onnx")).unwrap(), fs::read(folder.path().join("out.onnx")).unwrap());
}

#[test]
fn weights_that_are_inputs_too_are_pruned() {
    let folder = folder();
    let numbers = |count: usize| (0..count).map(|k| format!("{}", k % 7)).collect::<Vec<_>>().join(", ");
    let text = format!(
        "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[1,8] x, float[32,8] a, float[4,32] b) => (float[1,4] y)
        <float[32,8] a = {{{}}}, float[4,32] b = {{{}}}> {{
            h = Gemm <transB = 1> (x, a)
            r = Relu (h)
            y = Gemm <transB = 1> (r, b)
        }}",
        numbers(256),
        numbers(128)
    );
    fs::write(folder.path().join("in.onnx"), model_of_text(&text)).unwrap();
    let found = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--prune", "0.5"]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    assert!(found.text().contains("(50.0 % fewer)"), "{}", found.text());
    assert!(found.text().contains("are constants now: what rewrites weights needs that"), "{}", found.text());
}

#[test]
fn nothing_is_written_when_a_gate_fails() {
    let folder = folder();
    let (model, data) = (digits(), calib("digits_cnn"));
    let arguments = [&model, "-o", "out.onnx", "--prune", "0.3", "--data", &data, "--gate", "prune-sqnr=200"];
    let found = run(folder.path(), &arguments);
    assert_eq!(found.code, 4, "{}", found.stderr);
    assert!(found.error().contains("at least 200 are wanted"), "{}", found.stderr);
    assert!(!folder.path().join("out.onnx").exists());
}

#[test]
fn pruning_and_int8_compose() {
    let folder = folder();
    let (model, data) = (digits(), calib("digits_cnn"));
    let size = |name: &str, flags: &[&str]| {
        let arguments: Vec<&str> =
            [model.as_str(), "-o", name, "--data", &data].into_iter().chain(flags.iter().copied()).collect();
        let found = run(folder.path(), &arguments);
        assert_eq!(found.code, 0, "{}", found.stderr);
        fs::metadata(folder.path().join(name)).unwrap().len()
    };
    let both = size("both.onnx", &["--prune", "0.3", "--int8"]);
    assert!(both < size("int8.onnx", &["--int8"]));
    assert!(both < size("pruned.onnx", &["--prune", "0.3"]));
    size("both.onnx", &["--prune", "0.3", "--int8", "--report", "r.json"]);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    let sqnr = |step: &serde_json::Value| step["outputs"][0]["sqnr_db"].as_f64().unwrap();
    assert!(sqnr(&report["total"]) < sqnr(&report["quantized"]), "the total is against the original: {report}");
}
