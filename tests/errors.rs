//! Inputs that cannot be used: one line, exit code 1, and no file.
use std::fs;

use crate::support::{folder, model, names, run, run_with_input};

#[test]
fn what_is_no_model_ends_with_1_and_a_sentence() {
    let folder = folder();
    let cut = &model("digits_cnn")[..1000];
    fs::create_dir(folder.path().join("dir.onnx")).unwrap();
    for (name, content, part) in [
        ("none.onnx", None, "none.onnx: no such file"),
        ("dir.onnx", None, "this is a folder, not a file"),
        ("text.onnx", Some(&b"hello, world\n"[..]), "text.onnx: this is not an ONNX model but text"),
        ("empty.onnx", Some(b""), "the file is empty"),
        ("cut.onnx", Some(cut), "the file ends after 1000 bytes"),
        ("net.onnx", Some(b"PK\x03\x04 and so on"), "a ZIP archive"),
    ] {
        if let Some(content) = content {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let run = run(folder.path(), &[name, "-o", "out.onnx"]);
        assert_eq!(run.code, 1, "{name}: {}", run.stderr);
        assert!(run.error().contains(part), "{}", run.error());
        assert!(!names(folder.path()).contains(&"out.onnx".to_owned()));
    }
}

#[test]
fn an_existing_output_survives_a_failure() {
    let folder = folder();
    fs::write(folder.path().join("out.onnx"), "precious").unwrap();
    fs::write(folder.path().join("text.onnx"), "text").unwrap();
    assert_eq!(run(folder.path(), &["text.onnx", "-o", "out.onnx"]).code, 1);
    assert_eq!(fs::read(folder.path().join("out.onnx")).unwrap(), b"precious");
}

#[test]
fn unknown_fields_are_refused_by_name_unless_dropping_them_is_allowed() {
    let folder = folder();
    let mut bytes = model("digits_cnn");
    bytes.extend([0xa0, 0x06, 0x01]); // field 100, the number 1
    fs::write(folder.path().join("new.onnx"), &bytes).unwrap();
    let refused = run(folder.path(), &["new.onnx", "-o", "out.onnx"]);
    assert_eq!(refused.code, 1);
    assert!(refused.error().contains("new.onnx: field 100 in ModelProto"), "{}", refused.error());
    assert!(refused.error().ends_with("say --allow-unknown-fields"), "{}", refused.error());
    let allowed = run(folder.path(), &["new.onnx", "-o", "out.onnx", "--allow-unknown-fields"]);
    assert_eq!(allowed.code, 0, "{}", allowed.stderr);
    assert!(allowed.stderr.contains("field 100 in ModelProto is unknown"), "{}", allowed.stderr);
    assert!(fs::read(folder.path().join("out.onnx")).unwrap().len() < bytes.len());
}

#[test]
fn standard_input_is_named_in_errors() {
    let folder = folder();
    let run = run_with_input(folder.path(), &["-", "-o", "out.onnx"], b"text");
    assert_eq!(run.code, 1);
    assert!(run.error().starts_with("standard input: this is not an ONNX model but text"), "{}", run.error());
}
