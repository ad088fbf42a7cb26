//! Samples that cannot be used: exit code 3, and a sentence.
use std::fs;

use crate::support::{fixture, folder, names, run};

#[test]
fn samples_that_do_not_fit_end_with_3() {
    let folder = folder();
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::create_dir(folder.path().join("other")).unwrap();
    fs::copy(fixture("digits_mlp").join("calib.npz"), folder.path().join("flat.npz")).unwrap();
    fs::write(folder.path().join("other/a.npz"), "no archive").unwrap();
    for (data, part) in [
        ("none", "none: no such file or folder"),
        ("empty", "empty: no files are in it; wanted are .npz files"),
        ("in.onnx", "in.onnx: this is no form of samples that is known"),
        ("other", "this is no .npz archive"),
        ("flat.npz", "array `input` is float[64], the model's input is float["),
    ] {
        let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--data", data]);
        assert_eq!(run.code, 3, "{data}: {}", run.stderr);
        assert!(run.error().contains(part), "{data}: {}", run.error());
        assert!(!names(folder.path()).contains(&"out.onnx".to_owned()));
    }
}

#[test]
fn samples_that_fit_are_taken() {
    let folder = folder();
    for data in ["calib", "calib.npz"] {
        let data = fixture("digits_cnn").join(data);
        let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--data", data.to_str().unwrap()]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
}
