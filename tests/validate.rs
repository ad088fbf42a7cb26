//! `validate`: two models on samples, judged by the gates.
use std::fs;

use serde_json::Value;

use crate::support::{calib, fixture, folder, model, model_of_text, run};

fn eval(name: &str) -> String {
    fixture(name).join("eval.npz").to_str().unwrap().to_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_quantized_model_is_judged_as_one_and_a_stricter_gate_fails() {
    let folder = folder();
    let made = run(folder.path(), &["in.onnx", "-o", "q.onnx", "--int8", "--data", &calib("digits_cnn"), "-q"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let eval = eval("digits_cnn");
    let arguments = ["validate", "in.onnx", "q.onnx", "--data", &eval];
    let good = run(folder.path(), &arguments);
    assert_eq!(good.code, 0, "{}{}", good.text(), good.stderr);
    assert!(good.text().contains(": passed\njudged as a quantized model on 200 samples"), "{}", good.text());
    assert!(good.text().contains("\naccuracy: 98"), "{}", good.text());
    let strict = run(folder.path(), &[&arguments[..], &["--gate", "sqnr=100"]].concat());
    assert_eq!(strict.code, 5, "{}", strict.text());
    assert!(strict.text().contains("gate sqnr failed: output `logits` has an SQNR of 3"), "{}", strict.text());
    // As the same function it is not near enough.
    assert_eq!(run(folder.path(), &[&arguments[..], &["--as", "lossless"]].concat()).code, 5);
}

#[test]
fn values_of_one_name_are_compared_the_worst_first() {
    let folder = folder();
    run(folder.path(), &["in.onnx", "-o", "q.onnx", "--int8", "--data", &calib("digits_cnn"), "-q"]);
    let told =
        run(folder.path(), &["validate", "in.onnx", "q.onnx", "--data", &eval("digits_cnn"), "--all-values", "--json"]);
    let verdict = json(told.text());
    let values = verdict["values"].as_array().unwrap();
    let errors: Vec<f64> = values.iter().map(|value| value["rel_l2"].as_f64().unwrap()).collect();
    assert!(values.len() > 5 && errors.is_sorted_by(|a, b| a >= b), "{errors:?}");
    let logits = values.iter().find(|value| value["name"] == "logits").unwrap();
    assert_eq!(logits["sqnr_db"], verdict["comparison"]["outputs"][0]["sqnr_db"]);
    assert_eq!((&verdict["passed"], &verdict["standard"]), (&true.into(), &"int8".into()));
}

#[test]
fn without_samples_they_are_made_up_and_it_says_so() {
    let folder = folder();
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "small.onnx", "-q"]).code, 0);
    let told = run(folder.path(), &["validate", "in.onnx", "small.onnx"]);
    assert_eq!(told.code, 0, "{}", told.text());
    assert!(told.text().contains("on 4 made-up samples: lossless-rel at most 1e-4"), "{}", told.text());
    assert!(told.text().contains("note: the samples are made up"), "{}", told.text());
    let quiet = run(folder.path(), &["validate", "in.onnx", "small.onnx", "--quiet"]);
    assert_eq!((quiet.code, quiet.text()), (0, ""));
}

#[test]
fn another_interface_is_a_difference_with_a_sentence() {
    let folder = folder();
    fs::write(folder.path().join("other.onnx"), model("digits_mlp")).unwrap();
    let told = run(folder.path(), &["validate", "in.onnx", "other.onnx"]);
    assert_eq!(told.code, 5);
    let sentence = "  the input `input` is float[batch,1,8,8] in the first model, float[batch,64] in the second\n";
    assert!(told.text().contains(sentence), "{}", told.text());
}

#[test]
fn what_cannot_be_compared_ends_with_its_code() {
    let folder = folder();
    fs::write(folder.path().join("text.onnx"), "text").unwrap();
    for (arguments, code) in [
        (&["validate", "in.onnx", "none.onnx"][..], 1),
        (&["validate", "text.onnx", "in.onnx"], 1),
        (&["validate", "in.onnx"], 2),
        (&["validate", "in.onnx", "in.onnx", "--gate", "snr=1"], 2),
        (&["validate", "in.onnx", "in.onnx", "--all"], 2),
        (&["validate", "in.onnx", "in.onnx", "--data", "text.onnx"], 3),
    ] {
        let run = run(folder.path(), arguments);
        assert_eq!((run.code, run.text()), (code, ""), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn each_model_of_the_bench_is_as_itself() {
    // (Those that take seconds are left to people.)
    let small = |model: &std::path::PathBuf| fs::metadata(model).unwrap().len() < 200_000;
    for model in crate::support::bench_models().into_iter().filter(small) {
        let folder = tempfile::tempdir().unwrap();
        let path = model.to_str().unwrap();
        let told = run(folder.path(), &["validate", path, path]);
        // 3: some inputs cannot be made up
        assert!(matches!(told.code, 0 | 3), "{path}: {}{}", told.text(), told.stderr);
    }
}

#[test]
fn scores_that_are_gone_behind_boxes_are_found() {
    // Boxes of about 100000, and scores of 0.5 in one output with them: 1e-5 of it.
    let folder = folder();
    let weights = |count: usize| {
        let numbers = (0..count).map(|index| format!("{:.4}", (index as f64 * 2.399).sin() * 0.5));
        numbers.collect::<Vec<_>>().join(",")
    };
    let detector = |gain: &str| {
        let (w, v) = (weights(16), weights(24));
        model_of_text(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1,8] x) => (float[1,5] y)
             <float[8,2] w = {{{w}}}, float[8,3] v = {{{v}}}, float size = {{100000.0}}, float[3] gain = {{{gain}}}>
             {{ b = MatMul (x, w) p = Mul (b, size) l = MatMul (x, v) s = Sigmoid (l) z = Mul (s, gain)
                y = Concat <axis = 1> (p, z) }}"
        ))
    };
    fs::write(folder.path().join("good.onnx"), detector("1.0, 1.0, 1.0")).unwrap();
    fs::write(folder.path().join("dead.onnx"), detector("0.0, 0.0, 0.0")).unwrap();
    fs::write(folder.path().join("column.onnx"), detector("1.0, 0.0, 1.0")).unwrap();
    assert_eq!(run(folder.path(), &["validate", "good.onnx", "good.onnx"]).code, 0);
    for (file, standard, part) in
        [("dead", "lossless", "of axis 1"), ("column", "lossless", "3 of axis 1"), ("dead", "int8", "2..5 of axis 1")]
    {
        let file = format!("{file}.onnx");
        let told = run(folder.path(), &["validate", "good.onnx", &file, "--as", standard]);
        assert_eq!(told.code, 5, "{file} {standard}: {}", told.text());
        assert!(told.text().contains(part), "{}", told.text());
    }
}
