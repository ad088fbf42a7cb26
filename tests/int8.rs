//! `--int8`: what is written, what is said, and what leaves a model as it is.
use std::{fs, path::Path};

use onnx_shrink_ir::{
    DataType, Graph, ValueId, import,
    proto::{Limits, load},
};
use serde_json::Value;

use crate::support::{FIXTURES, calib, fixture, folder_of, model, model_of_text, names, run};

/// Runs `--int8` with a report and `more` on the fixture `name`; gives the written bytes and the report.
fn quantize(name: &str, more: &[&str]) -> (Vec<u8>, Value) {
    let folder = folder_of(name);
    let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx", "--int8", "--report", "r.json"], more].concat());
    assert_eq!(run.code, 0, "{name} {more:?}: {}", run.stderr);
    (fs::read(folder.path().join("out.onnx")).unwrap(), report(folder.path()))
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("r.json")).unwrap()).unwrap()
}

/// Name, fate and reason of each layer of a report.
fn fates(report: &Value) -> Vec<(&str, &str, &str)> {
    let layers = report["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| {
            (layer["name"].as_str().unwrap(), layer["fate"].as_str().unwrap(), layer["reason"].as_str().unwrap_or(""))
        })
        .collect()
}

/// Names of the layers that compute in integers.
fn integer_layers(report: &Value) -> Vec<String> {
    let layers = fates(report).into_iter();
    layers.filter(|(_, fate, _)| *fate == "integer").map(|(name, ..)| name.to_owned()).collect()
}

#[test]
fn with_samples_every_fixture_shrinks_and_every_layer_has_its_fate() {
    for name in FIXTURES {
        let (bytes, report) = quantize(name, &["--data", &calib(name)]);
        assert!(bytes.len() * 2 < model(name).len(), "{name}: {} bytes", bytes.len());
        assert_eq!(report["output"]["bytes"], bytes.len(), "{name}");
        assert_eq!((&report["schema"], &report["input_kept"]), (&Value::from(1), &Value::from(false)), "{name}");
        assert!(report["gates"].as_array().unwrap().iter().all(|gate| gate["passed"] == true), "{name}");
        assert_eq!(report["calibration"]["samples"], 75, "{name}: every fourth sample judges");
        assert_eq!(report["quantized"]["samples"], 25, "{name}");
        assert!(report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap() > 30.0, "{name}");
        for (layer, fate, reason) in fates(&report) {
            match fate {
                "integer" => assert_eq!(reason, "", "{name}: {layer}"),
                "storage" | "float" => assert!(reason.len() > 10, "{name}: {layer}: {reason:?}"),
                other => panic!("{name}: {layer}: {other}"),
            }
        }
        // The layers are those that the lossless part leaves, each once.
        let folder = folder_of(name);
        assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
        let lossless = import(load(&folder.path().join("out.onnx"), &Limits::default()).unwrap().model).unwrap().graph;
        let mut wanted = Vec::new();
        multiply_by_weights(&lossless, &mut wanted);
        let fates = fates(&report);
        let layers = fates.iter().filter(|(.., reason)| !reason.starts_with("a constant that no layer multiplies by"));
        assert_eq!(layers.map(|(layer, ..)| *layer).collect::<Vec<_>>(), wanted, "{name}");
    }
}

/// Labels of the ops that multiply by a constant matrix, bodies included.
fn multiply_by_weights(graph: &Graph, labels: &mut Vec<String>) {
    let kinds = ["Conv", "Gemm", "MatMul", "ConvTranspose", "GRU", "LSTM", "RNN"];
    for id in graph.ops() {
        let op = graph.op(id);
        let is_matrix = |value: &ValueId| graph.constant(*value).is_some_and(|tensor| tensor.dims().len() >= 2);
        if kinds.contains(&op.op_type()) && op.inputs().iter().flatten().any(is_matrix) {
            labels.push(graph.label_of(id).to_owned());
        }
        for region in op.regions() {
            multiply_by_weights(&region.graph, labels);
        }
    }
}

#[test]
fn layers_in_bodies_have_a_fate_and_products_without_weights_are_no_layers() {
    let (_, report) = quantize("digits_if", &["--data", &calib("digits_if")]);
    let in_bodies = fates(&report).into_iter().filter(|(.., reason)| reason.contains("in a body of If")).count();
    assert!(in_bodies >= 2, "{:?}", fates(&report));
    let (_, report) = quantize("digits_attention", &["--data", &calib("digits_attention")]);
    assert!(fates(&report).iter().all(|(.., reason)| !reason.contains("is not constant")), "{:?}", fates(&report));
    for layer in report["layers"].as_array().unwrap() {
        assert!(layer["bytes_before"].as_u64().unwrap() > 0, "{layer}");
    }
}

#[test]
fn a_model_of_which_nothing_can_be_stored_says_why_and_stays() {
    let folder = folder_of("digits_cnn");
    let half = "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2] x) => (float[2] y) { y = Sin (x) }";
    let old = "<ir_version: 3, opset_import: [\"\" : 6]> g (float[2] x) => (float[2] y) { y = Relu (x) }";
    for (text, why) in [(half, "32-bit floats"), (old, "opset 7")] {
        fs::write(folder.path().join("in.onnx"), model_of_text(text)).unwrap();
        let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--report", "r.json"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let notes = report(folder.path())["notes"].to_string();
        assert!(notes.contains("nothing was stored in 8 bits: ") && notes.contains(why), "{notes}");
        assert!(!notes.contains("weights are stored in 8 bits"), "{notes}");
        assert_eq!(fs::read(folder.path().join("out.onnx")).unwrap(), model_of_text(text));
    }
}

#[test]
fn a_convolutional_net_runs_in_integers() {
    let (_, report) = quantize("digits_cnn", &["--data", &calib("digits_cnn")]);
    let integer = integer_layers(&report);
    assert!(integer.len() >= 3 && integer.iter().all(|layer| layer.contains("onv")), "{integer:?}");
}

#[test]
fn without_samples_every_fixture_shrinks_and_one_line_tells_what_samples_would_bring() {
    for name in FIXTURES {
        let folder = folder_of(name);
        let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8"]);
        assert_eq!(run.code, 0, "{name}: {}", run.stderr);
        let bytes = fs::metadata(folder.path().join("out.onnx")).unwrap().len() as usize;
        assert!(bytes * 2 < model(name).len(), "{name}: {bytes}");
        let hints: Vec<&str> = run.text().lines().filter(|line| line.contains("--data")).collect();
        assert!(matches!(hints[..], [hint] if hint.contains("no samples were given")), "{name}: {hints:?}");
        assert_eq!(run.stderr, "", "{name}");
    }
}

#[test]
fn the_same_bytes_for_any_number_of_threads_and_on_every_run() {
    for name in FIXTURES {
        let calib = calib(name);
        for data in [&["--data", &calib][..], &[]] {
            let written = ["1", "2", "1", "3"].map(|threads| {
                let (bytes, mut report) = quantize(name, &[data, &["--threads", threads]].concat());
                report["timing"].take();
                (bytes, report)
            });
            assert!(written.iter().all(|one| one.0 == written[0].0), "{name} {data:?}: other bytes");
            assert!(written.iter().all(|one| one.1 == written[0].1), "{name} {data:?}: another report");
        }
    }
}

#[test]
fn each_named_layer_stays_float_alone() {
    let data = calib("digits_cnn");
    let (_, all) = quantize("digits_cnn", &["--data", &data]);
    for layer in integer_layers(&all) {
        let (bytes, report) = quantize("digits_cnn", &["--data", &data, "--keep-float", &layer]);
        let kept = fates(&report).into_iter().find(|(name, ..)| *name == layer).unwrap();
        assert_eq!((kept.1, kept.2), ("storage", "kept: --keep-float names it"), "{layer}");
        let named = fates(&report).iter().filter(|(.., reason)| reason.contains("--keep-float")).count();
        assert_eq!(named, 1, "{layer}");
        assert_eq!(integer_layers(&report).len() + 1, integer_layers(&all).len(), "{layer}: others stay as they were");
        // In the file, too: its weight does not come from a DequantizeLinear.
        let graph = import_bytes(&bytes);
        let op = graph.ops().into_iter().find(|op| graph.label_of(*op) == layer).unwrap();
        let weight = graph.producer(graph.op(op).input(1).unwrap()).map(|from| graph.op(from).op_type());
        assert_ne!(weight, Some("DequantizeLinear"), "{layer}");
        assert_eq!(report["notes"], Value::Array(vec![]), "{layer}");
    }
}

#[test]
fn an_op_type_or_a_glob_names_layers_and_what_names_nothing_is_noted() {
    let data = calib("digits_cnn");
    let (_, report) = quantize("digits_cnn", &["--data", &data, "--keep-float", "Conv"]);
    assert_eq!(integer_layers(&report), [""; 0]);
    let (_, report) = quantize("digits_cnn", &["--data", &data, "--keep-float", "/block/*"]);
    let integer = integer_layers(&report);
    assert!(!integer.is_empty() && integer.iter().all(|layer| !layer.starts_with("/block/")), "{integer:?}");
    let (bytes, report) = quantize("digits_cnn", &["--data", &data, "--keep-float", "nothing*"]);
    assert_eq!(report["notes"][0], "--keep-float nothing* names no op");
    assert_eq!(bytes, quantize("digits_cnn", &["--data", &data]).0);
    let (_, report) = quantize("digits_cnn", &["--keep-float", "nothing*"]);
    assert_eq!(report["notes"][0], "--keep-float nothing* names no op");
}

#[test]
fn a_quantized_model_is_not_quantized_twice() {
    for name in FIXTURES {
        let calib = calib(name);
        for data in [&["--data", &calib][..], &[]] {
            let folder = folder_of(name);
            let (once, _) = quantize(name, data);
            fs::write(folder.path().join("in.onnx"), &once).unwrap();
            let again =
                run(folder.path(), &[&["in.onnx", "-o", "out.onnx", "--int8", "--report", "r.json"], data].concat());
            assert_eq!(again.code, 0, "{name}: {}", again.stderr);
            // What is exact may still be done to it: a Relu that the zero point implies goes.
            let twice = fs::read(folder.path().join("out.onnx")).unwrap();
            for op in ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"] {
                let counts = [&once, &twice].map(|bytes| count_ops(&import_bytes(bytes), op));
                assert_eq!(counts[0], counts[1], "{name} {data:?}: {op}");
            }
            assert!(twice.len() <= once.len(), "{name} {data:?}");
            if count_ops(&import_bytes(&once), "QuantizeLinear") > 0 {
                let notes = report(folder.path())["notes"].to_string();
                assert!(notes.contains("the model is quantized already"), "{name}: {notes}");
            }
        }
    }
}

#[test]
fn a_gate_that_8_bits_cannot_hold_sends_layers_back_to_float() {
    let data = calib("digits_cnn");
    let (_, report) = quantize("digits_cnn", &["--data", &data, "--skip", "store-int8", "--gate", "sqnr=60"]);
    assert!(fates(&report).iter().all(|(_, fate, _)| *fate == "float"), "{:?}", fates(&report));
    assert!(report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap() > 60.0);
    let spoke = fates(&report).iter().any(|(.., reason)| *reason == "it went back to float so that the gate holds");
    assert!(spoke, "{:?}", fates(&report));
    // Between the two there is something: some layers, not all.
    let (_, free) = quantize("digits_cnn", &["--data", &data]);
    let measured = free["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap();
    let gate = format!("sqnr={}", measured + 0.3);
    let (_, report) = quantize("digits_cnn", &["--data", &data, "--gate", &gate]);
    assert!(integer_layers(&report).len() < integer_layers(&free).len());
    assert!(report["quantized"]["outputs"][0]["sqnr_db"].as_f64().unwrap() >= measured + 0.3);
    let returned = fates(&report).into_iter().filter(|(.., reason)| reason.contains("so that the gate holds")).count();
    assert!(returned > 0, "{:?}", fates(&report));
}

#[test]
fn a_gate_that_nothing_holds_ends_with_4_and_a_report_but_no_file() {
    let folder = folder_of("digits_cnn");
    let data = calib("digits_cnn");
    fs::write(folder.path().join("old.onnx"), "precious").unwrap();
    let arguments =
        ["in.onnx", "-o", "old.onnx", "--int8", "--data", &data, "--gate", "sqnr=200", "--report", "r.json"];
    let run = run(folder.path(), &arguments);
    assert_eq!((run.code, run.text()), (4, ""), "{}", run.stderr);
    assert!(run.error().contains("SQNR") && run.error().ends_with("at least 200 are wanted"), "{}", run.error());
    assert_eq!(fs::read(folder.path().join("old.onnx")).unwrap(), b"precious");
    assert_eq!(names(folder.path()), ["in.onnx", "old.onnx", "r.json"]);
    let gates = report(folder.path())["gates"].clone();
    assert!(gates.as_array().unwrap().iter().any(|gate| gate["passed"] == false), "{gates}");
    assert!(report(folder.path())["timing"]["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn samples_that_only_judge_judge_what_is_stored() {
    let judges = calib("digits_cnn");
    let (_, report) = quantize("digits_cnn", &["--validation-data", &judges]);
    assert_eq!(report["quantized"]["samples"], 100, "all of them judge");
    let gates = report["gates"].as_array().unwrap();
    assert!(gates.iter().any(|gate| gate["gate"] == "sqnr" && gate["passed"] == true), "{gates:?}");
    let folder = folder_of("digits_cnn");
    let arguments = ["in.onnx", "-o", "out.onnx", "--int8", "--validation-data", &judges, "--gate", "sqnr=200"];
    let run = run(folder.path(), &arguments);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert_eq!(names(folder.path()), ["in.onnx"]);
}

#[test]
fn a_report_that_cannot_be_written_is_found_before_the_model_is() {
    let folder = folder_of("digits_cnn");
    for report in ["none/r.json", "."] {
        let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--report", report]);
        assert_eq!(run.code, 2, "{report}: {}", run.stderr);
        assert!(run.error().contains("cannot be written"), "{report}: {}", run.error());
        assert_eq!(names(folder.path()), ["in.onnx"], "{report}");
    }
}

#[test]
fn storage_can_be_left_out() {
    let data = calib("digits_cnn");
    let (bytes, report) = quantize("digits_cnn", &["--data", &data, "--skip", "store-int8"]);
    let fates = fates(&report);
    assert!(fates.iter().all(|(_, fate, _)| ["integer", "float"].contains(fate)), "{fates:?}");
    assert!(fates.iter().any(|(_, fate, _)| *fate == "integer"), "{fates:?}");
    assert_eq!(count_ops(&import_bytes(&bytes), "Cast"), 0);
    // Nothing is left to do in this one: the lossless result.
    let (bytes, _) = quantize("digits_mlp", &["--skip", "store-int8"]);
    let folder = folder_of("digits_mlp");
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    assert!(fs::read(folder.path().join("out.onnx")).unwrap() == bytes);
}

#[test]
fn weights_in_both_branches_of_an_if_are_stored_in_8_bits() {
    let calib = calib("digits_if");
    for data in [&["--data", &calib][..], &[]] {
        let (bytes, _) = quantize("digits_if", data);
        let graph = import_bytes(&bytes);
        let op = graph.ops_of("If")[0];
        for region in graph.op(op).regions() {
            let body = &region.graph;
            let large = |dtype: DataType| {
                let constants = body.values().into_iter().filter_map(|value| body.constant(value));
                constants.filter(|tensor| tensor.dtype() == dtype && tensor.len() >= 256).count()
            };
            assert!(large(DataType::Int8) > 0, "{data:?}: {}", graph.op(op).region_name(region));
            assert_eq!(large(DataType::Float), 0, "{data:?}: {}", graph.op(op).region_name(region));
        }
    }
}

#[test]
fn samples_of_their_own_judge() {
    let judges = fixture("digits_cnn").join("eval.npz");
    let data = calib("digits_cnn");
    let (_, report) = quantize("digits_cnn", &["--data", &data, "--validation-data", judges.to_str().unwrap()]);
    assert_eq!((&report["calibration"]["samples"], &report["quantized"]["samples"]), (&100.into(), &200.into()));
    let accuracy = &report["quantized"]["accuracy"];
    assert_eq!(accuracy["samples"], 200);
    assert!((accuracy["before"].as_f64().unwrap() - 0.985).abs() < 1e-9, "as fixtures/README.md states: {accuracy}");
    assert!(accuracy["after"].as_f64().unwrap() >= 0.98, "{accuracy}");
}

#[test]
fn what_contradicts_int8_or_its_samples_ends_the_run() {
    let folder = folder_of("digits_cnn");
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::write(folder.path().join("bad.npz"), "no archive").unwrap();
    let data = calib("digits_cnn");
    for (arguments, code, part) in [
        (&["--data", "empty"][..], 3, "no files are in it"),
        (&["--data", "none"], 3, "no such file or folder"),
        (&["--data", "bad.npz"], 3, "bad.npz"),
        (&["--data", &data, "--validation-data", "empty"], 3, "no files are in it"),
        (&["--exact"], 2, "--exact forbids"),
        (&["--data", &data, "--keep-float", "a[b"], 2, "--keep-float a[b"),
        (&["--target", "toaster"], 2, "there is no target `toaster`"),
    ] {
        let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx", "--int8"], arguments].concat());
        assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
        assert!(run.error().contains(part), "{arguments:?}: {}", run.error());
        assert_eq!(names(folder.path()), ["bad.npz", "empty", "in.onnx"], "{arguments:?}");
    }
}

/// ONNX Runtime recognizes the attention of older exporters below opset 13 alone: storage does not need 13.
#[test]
fn the_opset_stays_where_nothing_runs_in_integers() {
    let folder = tempfile::tempdir().unwrap();
    let weight: Vec<String> = (0..64 * 16).map(|i| format!("{}", (i * 37 % 101) as f32 / 64.0 - 0.7)).collect();
    let text = format!(
        "<ir_version: 7, opset_import: [\"\" : 12]> g (float[1,64] x) => (float[1,1,16] y) <float[64,16] w = {{{}}}> {{
         t = MatMul (x, w)  y = Unsqueeze <axes = [1]> (t) }}",
        weight.join(", ")
    );
    fs::write(folder.path().join("in.onnx"), model_of_text(&text)).unwrap();
    let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--synthetic", "4"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let graph = import_bytes(&fs::read(folder.path().join("out.onnx")).unwrap());
    assert_eq!((graph.opset(), count_ops(&graph, "Mul"), count_ops(&graph, "QuantizeLinear")), (12, 1, 0));
}

fn import_bytes(bytes: &[u8]) -> Graph {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, bytes).unwrap();
    import(load(&path, &Limits::default()).unwrap().model).unwrap().graph
}

fn count_ops(graph: &Graph, op_type: &str) -> usize {
    graph.ops_of(op_type).len()
}
