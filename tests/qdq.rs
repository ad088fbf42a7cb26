//! Pairs of others: what is warned of, mended and cancelled in files that were quantized before.
use std::{fs, path::Path};

use onnx_shrink_ir::{
    Model, export, import,
    proto::{Limits, encode, load},
    text,
};
use onnx_shrink_passes::quantize::saturation::saturating_layers;

use crate::support::run;

/// A folder with `in.onnx` of this text.
fn folder_of_text(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = text::parse_model(text).unwrap_or_else(|error| panic!("{}", error.render()));
    let bytes: Vec<u8> = encode(&export(&model)).iter().flat_map(|part| part.to_vec()).collect();
    fs::write(folder.path().join("in.onnx"), bytes).unwrap();
    folder
}

fn read(folder: &Path, name: &str) -> Model {
    import(load(&folder.join(name), &Limits::default()).unwrap().model).unwrap()
}

const SATURATES: &str = r#"<ir_version: 8, opset_import: ["" : 13]>
g (float[1,2] x) => (float[1,2] y) <float s = {0.5}, uint8 z = {128}, int8[2,2] w = {100, 100, 100, -100}, float[2] t = {0.5, 0.25}> {
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)
    v = DequantizeLinear <axis = 0> (w, t)
    y = Gemm <transB = 1> (d, v)
}"#;

#[test]
fn weights_that_can_saturate_are_named_with_the_flag_that_mends_them() {
    let folder = folder_of_text(SATURATES);
    let warned = run(folder.path(), &["in.onnx", "-o", "out.onnx"]);
    assert_eq!(warned.code, 0, "{}", warned.stderr);
    assert!(warned.text().contains("warning: 8-bit sums of 1 layer"), "{}", warned.text());
    assert!(warned.text().contains("`y` (1 of 2 pairs of weights)"), "{}", warned.text());
    assert!(warned.text().contains("--fix-saturation"), "{}", warned.text());

    let mended = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--fix-saturation"]);
    assert_eq!(mended.code, 0, "{}", mended.stderr);
    assert!(!mended.text().contains("warning"), "{}", mended.text());
    assert_eq!(saturating_layers(&read(folder.path(), "in.onnx").graph).len(), 1);
    assert_eq!(saturating_layers(&read(folder.path(), "out.onnx").graph), []);

    let sound = run(folder.path(), &["out.onnx", "-o", "again.onnx", "--fix-saturation"]);
    assert!(sound.text().contains("no sums of 8-bit weights can saturate"), "{}", sound.text());
    let refused = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--fix-saturation", "--exact"]);
    assert_eq!(refused.code, 2);
    assert!(refused.error().contains("--exact forbids"), "{}", refused.stderr);
}
