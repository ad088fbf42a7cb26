//! What is written: to a file, over the input, to standard output; and the report.
use std::fs;

use crate::support::{folder, model, names, run, run_with_input};

#[test]
fn both_forms_write_the_same_file_no_larger_than_the_input() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let one = run(folder.path(), &["in.onnx", "-o", "one.onnx"]);
    let two = run(folder.path(), &["in.onnx", "two.onnx", "--quiet"]);
    assert_eq!((one.code, two.code), (0, 0), "{} {}", one.stderr, two.stderr);
    let (one_bytes, two_bytes) = (fs::read(path("one.onnx")).unwrap(), fs::read(path("two.onnx")).unwrap());
    assert_eq!(one_bytes, two_bytes);
    assert!(one_bytes.len() <= model("digits_cnn").len());
    assert!(one.text().starts_with("in.onnx → one.onnx: "), "{}", one.text());
    assert!(one.text().lines().count() <= 25);
    assert_eq!((two.text(), two.stderr.as_str()), ("", ""));
    assert_eq!(names(folder.path()), ["in.onnx", "one.onnx", "two.onnx"]);
}

#[test]
fn the_input_may_be_the_output() {
    let folder = folder();
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "in.onnx"]).code, 0);
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("in.onnx"), read("out.onnx"));
    // And again: nothing is left to do, so the bytes stay.
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "in.onnx"]).code, 0);
    assert_eq!(read("in.onnx"), read("out.onnx"));
    assert_eq!(names(folder.path()), ["in.onnx", "out.onnx"]);
}

#[test]
fn standard_streams_carry_models_and_the_table_goes_to_stderr() {
    let folder = folder();
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    let piped = run_with_input(folder.path(), &["-", "-o", "-"], &model("digits_cnn"));
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    assert_eq!(piped.stdout, fs::read(folder.path().join("out.onnx")).unwrap());
    assert!(piped.stderr.starts_with("- → -: "), "{}", piped.stderr);
}

#[test]
fn the_report_is_json_with_a_version() {
    let folder = folder();
    let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--report", "r.json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["input"]["path"], "in.onnx");
    assert_eq!(report["input"]["bytes"], model("digits_cnn").len());
    assert_eq!(report["input"]["ops"]["Gemm"], 1);
    let written = fs::metadata(folder.path().join("out.onnx")).unwrap().len();
    assert_eq!(report["output"]["bytes"], written);
}

#[test]
fn reports_differ_in_their_timing_alone() {
    let folder = folder();
    let report = |threads: &str| {
        let arguments = ["in.onnx", "-o", "out.onnx", "--report", "r.json", "--threads", threads];
        assert_eq!(run(folder.path(), &arguments).code, 0);
        let json = fs::read(folder.path().join("r.json")).unwrap();
        let mut report: serde_json::Value = serde_json::from_slice(&json).unwrap();
        report["timing"].take();
        report
    };
    assert_eq!(report("1"), report("3"));
}

#[test]
fn data_that_another_model_reads_are_not_overwritten() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let read = |name: &str| fs::read(path(name)).unwrap();
    let run = |arguments: &str| {
        let run = run(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.text().to_owned()
    };
    // As exporters leave it: the model is renamed, its data keep their name.
    run("in.onnx -o model.onnx --external-data");
    fs::rename(path("model.onnx"), path("float.onnx")).unwrap();
    fs::copy(path("float.onnx"), path("other.onnx")).unwrap();
    let data = read("model.onnx.data");
    for _ in 0..2 {
        let text = run("float.onnx -o model.onnx --int8 --external-data");
        let note = "the tensors are in `model.onnx_1.data`: `model.onnx.data` is data of `float.onnx`";
        assert!(text.contains(note), "{text}");
        let expected = ["float.onnx", "in.onnx", "model.onnx", "model.onnx.data", "model.onnx_1.data", "other.onnx"];
        assert_eq!(names(folder.path()), expected);
        assert_eq!(read("model.onnx.data"), data);
    }
    // In place, beside a second model on the same data.
    run("float.onnx -o float.onnx --int8 --external-data");
    assert_eq!(read("model.onnx.data"), data);
    run("validate other.onnx in.onnx");
    run("validate float.onnx model.onnx");
    // Data that only the replaced model read are removed with it. Those that are named for another model stay: who reads them is
    // not for this run to tell.
    fs::copy(path("in.onnx"), path("model_in.onnx")).unwrap();
    run("model_in.onnx -o model.onnx");
    run("model_in.onnx -o float.onnx");
    run("model_in.onnx -o other.onnx");
    let expected = ["float.onnx", "in.onnx", "model.onnx", "model.onnx.data", "model_in.onnx", "other.onnx"];
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn external_data_is_written_on_request() {
    let folder = folder();
    let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--external-data"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(names(folder.path()), ["in.onnx", "out.onnx", "out.onnx.data"]);
    let named = crate::support::run(folder.path(), &["out.onnx", "-o", "again.onnx", "--external-data=w.bin"]);
    assert_eq!(named.code, 0, "{}", named.stderr);
    assert_eq!(names(folder.path()), ["again.onnx", "in.onnx", "out.onnx", "out.onnx.data", "w.bin"]);
}
