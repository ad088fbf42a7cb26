//! Layers whose error matters: what goes back to float for a gate, and what the report says of it.
use onnx_shrink_ir::proto::{Limits, encode, load};
use tempfile::TempDir;

use crate::{
    int8_graph::integer_ops,
    support::{calib, fixture, folder_of, model_of_text, run},
};

/// Layers in integers, and the report, of the fixture for every target's placement, with a gate.
fn shrunk(gate: &str, more: &[&str]) -> (i32, usize, serde_json::Value) {
    shrunk_in(&folder_of("digits_cnn"), &calib("digits_cnn"), gate, more)
}

/// The same of `in.onnx` in `folder`.
fn shrunk_in(folder: &TempDir, data: &str, gate: &str, more: &[&str]) -> (i32, usize, serde_json::Value) {
    let arguments =
        ["in.onnx", "-o", "out.onnx", "--int8", "--data", data, "--target", "generic", "--report", "r.json"];
    let run = run(folder.path(), &[&arguments[..], &["--gate", gate], more].concat());
    let report = serde_json::from_slice(&std::fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    let written = folder.path().join("out.onnx");
    let integer = if written.exists() {
        let loaded = onnx_shrink_ir::proto::load(&written, &onnx_shrink_ir::proto::Limits::default()).unwrap();
        integer_ops(&onnx_shrink_ir::import(loaded.model).unwrap().graph).len()
    } else {
        0
    };
    (run.code, integer, report)
}

#[test]
fn a_stricter_gate_leaves_fewer_layers_in_integers_and_no_more_float_than_it_needs() {
    let (code, all, report) = shrunk("sqnr=20", &[]);
    assert_eq!(code, 0);
    let reached = report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap();
    let gate = format!("sqnr={}", reached + 0.5);
    let (code, some, report) = shrunk(&gate, &["--keep-float", "auto"]);
    assert_eq!(code, 0, "{report}");
    assert!(0 < some && some < all, "{some} of {all}");
    assert!(all - some <= 4, "half a dB asks for few layers: {some} of {all}");
    assert!(report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap() >= reached + 0.5);
    assert!(!report["notes"].to_string().contains("names no op"), "{}", report["notes"]);
    let back = report["layers"].as_array().unwrap().iter().filter(|layer| layer["fate"] != "integer");
    assert!(back.clone().count() > 0);
    assert!(back.into_iter().all(|layer| layer["reason"].as_str().unwrap().contains("gate")), "{}", report["layers"]);
}

#[test]
fn every_integer_layer_has_its_share_of_the_error() {
    let (_, integer, report) = shrunk("sqnr=20", &[]);
    let layers = report["layers"].as_array().unwrap();
    let shares: Vec<f64> = layers.iter().filter_map(|layer| layer["error_share"].as_f64()).collect();
    assert!(shares.len() >= integer, "{} of {integer}", shares.len());
    assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
}

/// The fixture `digits_mlp`, which computes what it did but for 1e-4, with weights in `fc2` that 8 bits do not hold: a thousand times
/// the others, for an input that is nearly nothing.
fn with_one_bad_layer() -> TempDir {
    let folder = folder_of("digits_mlp");
    let mut model = load(&fixture("digits_mlp").join("model.onnx"), &Limits::default()).unwrap().model;
    let dead = 5;
    let graph = model.graph.as_mut().unwrap();
    let mut edit = |name: &str, change: &dyn Fn(&mut [f32])| {
        let tensor = graph.initializer.iter_mut().find(|tensor| tensor.name.as_deref() == Some(name)).unwrap();
        let bytes = tensor.raw_data.as_ref().unwrap();
        let mut numbers: Vec<f32> =
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        change(&mut numbers);
        tensor.raw_data = Some(numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into());
    };
    edit("fc1.weight", &|weights| weights[dead * 64..][..64].iter_mut().for_each(|w| *w *= 1e-7));
    edit("fc1.bias", &|bias| bias[dead] = 0.0);
    edit("fc2.weight", &|weights| weights[dead * 64..][..64].fill(1000.0));
    std::fs::write(folder.path().join("in.onnx"), encode(&model).concat()).unwrap();
    folder
}

#[test]
fn one_bad_layer_alone_stays_float() {
    let folder = with_one_bad_layer();
    let data = calib("digits_mlp");
    let names = |report: &serde_json::Value, wanted: &dyn Fn(&serde_json::Value) -> bool| -> Vec<String> {
        let layers = report["layers"].as_array().unwrap().iter().filter(|layer| wanted(layer));
        layers.map(|layer| layer["name"].as_str().unwrap().to_owned()).collect()
    };
    // Without a gate it has nearly all of the error, and the report says so.
    let (code, integer, report) = shrunk_in(&folder, &data, "sqnr=-100", &["--gate", "drop=1"]);
    assert_eq!((code, integer), (0, 3), "{report}");
    let is_bad = |layer: &serde_json::Value| layer["error_share"].as_f64().is_some_and(|share| share > 0.9);
    assert_eq!(names(&report, &is_bad), ["/fc2/MatMul"], "{}", report["layers"]);
    // Its weights are not stored in 8 bits either: that is what they do not hold.
    let (code, integer, report) = shrunk_in(&folder, &data, "sqnr=20", &["--keep-float", "auto"]);
    assert_eq!((code, integer), (0, 2), "{report}");
    assert_eq!(names(&report, &|layer| layer["fate"] != "integer"), ["/fc2/MatMul"], "{}", report["layers"]);
    assert_eq!(names(&report, &|layer| layer["fate"] == "float"), ["/fc2/MatMul"], "{}", report["layers"]);
    assert!(report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap() >= 20.0);
}

/// A file of numpy's with one array of 32-bit floats.
fn npy(dims: &str, numbers: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
    while (10 + header.len() + 1) % 64 > 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
    b"\x93NUMPY\x01\x00".iter().chain(&length).chain(header.as_bytes()).copied().chain(numbers).collect()
}

#[test]
fn a_layer_that_8_bits_ruin_stays_float_though_the_gate_holds() {
    // `s` reads numbers of about 1 beside one of about 1000, which it leaves out: one range for both leaves it nothing. In the
    // sum nobody sees that.
    let wave = |index: usize| (index as f32 * 2.399).sin();
    let matrix = |is_there: fn(usize) -> bool| {
        let numbers = (0..128).map(|place| if is_there(place / 8) { wave(place + 1) } else { 0.0 });
        numbers.map(|number| format!("{number:.4}")).collect::<Vec<_>>().join(",")
    };
    let (large, small) = (matrix(|row| row == 0), matrix(|row| row > 0));
    let text = format!(
        "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1,16] x) => (float[1,8] y)
         <float[16,8] v = {{{large}}}, float[16,8] w = {{{small}}}>
         {{ l = MatMul (x, v) s = MatMul (x, w) r = Relu (s) y = Add (l, r) }}"
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.onnx"), model_of_text(&text)).unwrap();
    let data = folder.path().join("calib");
    std::fs::create_dir(&data).unwrap();
    for sample in 0..16 {
        let scale = |place: usize| if place == 0 { 1000.0 } else { 1.0 };
        let numbers: Vec<f32> = (0..16).map(|place| scale(place) * wave(16 * sample + place)).collect();
        std::fs::write(data.join(format!("{sample:02}.npy")), npy("1, 16", &numbers)).unwrap();
    }
    let reason_of = |more: &[&str]| {
        let (code, _, report) = shrunk_in(&folder, data.to_str().unwrap(), "sqnr=14", more);
        assert_eq!(code, 0, "{report}");
        let layers = report["layers"].as_array().unwrap();
        let small = layers.iter().find(|layer| layer["name"] == "s").unwrap().clone();
        small["reason"].as_str().unwrap_or_default().to_owned()
    };
    let reason = reason_of(&[]);
    assert!(reason.starts_with("in 8 bits what it makes of the float model's values has an SQNR of"), "{reason}");
    assert_eq!(reason_of(&["--place", "wrap"]), "", "who asks for all layers gets them");
}
