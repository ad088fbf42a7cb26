//! Static int8 without samples: `--ranges model`, `--input-range`, `--synthetic`.
use std::fs;

use onnx_shrink_ir::{
    import,
    proto::{Limits, load},
};

use crate::{
    int8_graph::quantized_with,
    support::{calib, folder_of, run},
};

#[test]
fn ranges_follow_from_batch_norms() {
    let without = quantized_with("digits_cnn", &["--ranges", "model", "--target", "generic"]);
    let with =
        quantized_with("digits_cnn", &["--ranges", "model", "--target", "generic", "--input-range", "input=0,1"]);
    let count = |model: &onnx_shrink_ir::Model| model.graph.ops_of("QuantizeLinear").len();
    assert!(count(&without) >= 5, "{}", count(&without));
    assert!(count(&with) > count(&without), "the first layer needs its input's range");
}

#[test]
fn without_batch_norm_it_is_refused_with_the_reason() {
    let folder = folder_of("digits_mlp");
    let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--ranges", "model"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let error = run.error();
    assert!(["--ranges model", "no batch norm", "--data"].iter().all(|part| error.contains(part)), "{error}");
    assert!(!folder.path().join("out.onnx").exists());
}

#[test]
fn samples_that_judge_hold_the_gates() {
    let data = calib("digits_cnn");
    let folder = folder_of("digits_cnn");
    let judged = |gate: &str| {
        let arguments = ["in.onnx", "-o", "out.onnx", "--int8", "--ranges", "model", "--target", "generic"];
        run(folder.path(), &[&arguments[..], &["--validation-data", &data, "--gate", gate]].concat())
    };
    let good = judged("sqnr=15");
    assert_eq!(good.code, 0, "{}", good.stderr);
    assert!(good.text().contains("follow from the model"), "{}", good.text());
    // Nothing but float holds this, and float with 8-bit storage does not either.
    assert_eq!(judged("sqnr=90").code, 4);
}

#[test]
fn synthetic_samples_are_stamped_into_the_file() {
    let folder = folder_of("digits_cnn");
    let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--synthetic", "4", "--target", "generic"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.text().contains("synthetic"), "{}", run.text());
    let model = import(load(&folder.path().join("out.onnx"), &Limits::default()).unwrap().model).unwrap();
    let entry = model.proto().metadata_props.iter().find(|entry| entry.key() == "onnx-shrink.calibration");
    assert_eq!(entry.map(|entry| entry.value()), Some("4 synthetic samples"));
    assert!(!model.graph.ops_of("QuantizeLinear").is_empty());
}

#[test]
fn what_contradicts_ends_the_run() {
    let folder = folder_of("digits_cnn");
    let data = calib("digits_cnn");
    for (arguments, part) in [
        (&["--ranges", "model", "--data", &data][..], "--data"),
        (&["--synthetic", "4", "--data", &data], "--data"),
        (&["--synthetic", "0"], "0"),
        (&["--input-range", "input=0,1"], "--ranges model"),
        (&["--ranges", "model", "--input-range", "input=1,0"], "LO < HI"),
        (&["--ranges", "model", "--input-range", "nothing=0,1"], "no float input `nothing`"),
        (&["--ranges", "model", "--input-range", "input=0,1", "--input-range", "input=0,2"], "has a range already"),
        (&["--dynamic", "--place", "wrap", "--data", &data], "--place wrap"),
        (&["--dynamic", "--target", "tensorrt"], "the target tensorrt has no kernels"),
    ] {
        let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx", "--int8"], arguments].concat());
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_the_user_could_state_is_named() {
    let folder = folder_of("digits_cnn");
    let said = |more: &[&str]| {
        let arguments = ["in.onnx", "-o", "out.onnx", "--int8", "--ranges", "model", "--target", "generic"];
        let run = run(folder.path(), &[&arguments[..], more].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.text().contains("--input-range input=LO,HI")
    };
    assert!(said(&[]));
    assert!(!said(&["--input-range", "input=0,1"]));
}

#[test]
fn what_samples_would_bring_depends_on_the_target() {
    for (target, part) in [
        ("ort-cpu", "layers would run in 8 bits, too, where the target gains from it"),
        ("openvino", "all layers that the target openvino runs in 8 bits would"),
        ("tract", "the target tract runs no layer in 8 bits"),
        ("tensorrt", "wants float weights; with --data DIR"),
        ("qnn", "the target qnn wants every tensor in 8 bits, and 5 of 5 layers compute in float"),
    ] {
        let folder = folder_of("digits_cnn");
        let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--target", target]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.text().contains(part), "{target}: {}", run.text());
    }
}
