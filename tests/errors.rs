//! Inputs that cannot be used: one line, exit code 1, and no file.
use std::fs;

use crate::support::{bench_models, folder, model, model_of_text, names, run, run_with_input};

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

#[test]
fn nodes_that_onnx_does_not_have_are_refused_by_name_unless_keeping_them_is_allowed() {
    let folder = folder();
    for (node, part) in [
        ("Rellu (x)", "m.onnx: node `y`: ONNX has no op `Rellu`; did you mean `Relu`?"),
        (
            "Softmax <axes = 1> (x)",
            "m.onnx: node `y`: `Softmax` of opset 13 has no attribute `axes`; did you mean `axis`?",
        ),
    ] {
        let text =
            format!("<ir_version: 8, opset_import: [\"\" : 13]> g (float[1,2] x) => (float[1,2] y) {{ y = {node} }}");
        fs::write(folder.path().join("m.onnx"), model_of_text(&text)).unwrap();
        for more in [&[][..], &["--int8"]] {
            let refused = run(folder.path(), &[&["m.onnx", "-o", "out.onnx"], more].concat());
            assert_eq!((refused.code, refused.error().contains(part)), (1, true), "{}", refused.stderr);
            assert!(refused.error().ends_with("say --allow-unknown-ops"), "{}", refused.error());
        }
        assert!(!names(folder.path()).contains(&"out.onnx".to_owned()));
        let shown = run(folder.path(), &["inspect", "m.onnx"]);
        assert_eq!(shown.code, 0, "{}", shown.stderr);
        assert!(shown.text().contains("note: no engine takes this model: node `y`: "), "{}", shown.text());
        let kept = run(folder.path(), &["m.onnx", "-o", "kept.onnx", "--allow-unknown-ops"]);
        assert_eq!(kept.code, 0, "{}", kept.stderr);
        assert_eq!(fs::read(folder.path().join("kept.onnx")).unwrap(), fs::read(folder.path().join("m.onnx")).unwrap());
    }
}

#[test]
fn every_model_of_the_bench_has_nodes_of_onnx_alone() {
    for model in bench_models() {
        let loaded = onnx_shrink_ir::proto::load(&model, &onnx_shrink_ir::proto::Limits::default()).unwrap();
        let model = onnx_shrink_ir::import(loaded.model).unwrap();
        assert_eq!(onnx_shrink_ir::conform::departures(&model), []);
    }
}
