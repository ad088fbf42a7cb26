//! `inspect`: what it says of a model, in text and as JSON; `completions` and `man`.
use std::fs;

use serde_json::Value;

use crate::support::{bench_models, fixture, folder, folder_of, model_of_text, run};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_text_says_what_the_model_is_and_what_int8_would_do() {
    let folder = folder();
    let told = run(folder.path(), &["inspect", "in.onnx"]);
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    for part in [
        "in.onnx: 61.3 kB\nIR version 8, opset ai.onnx 13",
        "\n  input  float[batch,1,8,8]\n",
        "\nfree dimensions: batch\n16 ops, 230.6 k multiply-adds with each free dimension as 1\n",
        "  Conv                  4        230.4 k  99.9 %  55.9 kB  95.9 %\n",
        "of 5 layers with weights: 3 compute in integers, 2 have their weights stored in fewer bits",
        "more ops (--all)",
    ] {
        assert!(told.text().contains(part), "{part} in {}", told.text());
    }
    let all = run(folder.path(), &["inspect", "in.onnx", "--all"]);
    assert!(
        all.text().lines().count() > told.text().lines().count() && !all.text().contains("--all"),
        "{}",
        all.text()
    );
}

#[test]
fn the_json_adds_up() {
    let folder = folder();
    let found = json(run(folder.path(), &["inspect", "in.onnx", "--json"]).text());
    assert_eq!((&found["schema"], &found["op_count"], &found["ir_version"]), (&1.into(), &16.into(), &8.into()));
    assert_eq!(found["inputs"][0]["dims"], json("[\"batch\", 1, 8, 8]"));
    let sum = |list: &Value, field: &str| {
        list.as_array().unwrap().iter().filter_map(|line| line[field].as_u64()).sum::<u64>()
    };
    // 16 filters of 9 at 64 places; 24 of 16·9, 24·9 and 24·9 at 16; 24·10
    let work = 16 * 9 * 64 + 24 * 16 * 9 * 16 + 2 * (24 * 24 * 9 * 16) + 240;
    assert_eq!(found["work"]["multiply_adds"], work);
    assert_eq!((sum(&found["ops"], "multiply_adds"), sum(&found["kinds"], "multiply_adds")), (work, work));
    let bytes = found["constants"]["bytes"].as_u64().unwrap();
    assert_eq!(
        (sum(&found["ops"], "bytes"), sum(&found["kinds"], "bytes"), sum(&found["types"], "bytes")),
        (bytes, bytes, bytes)
    );
    assert_eq!(found["int8"]["made_up"], true);
    assert_eq!(found["int8"]["with_data"]["layers"].as_array().unwrap().len(), 5);
}

#[test]
fn the_plan_is_what_a_run_does() {
    let folder = folder();
    let data = fixture("digits_cnn").join("calib");
    let data = data.to_str().unwrap();
    let found = json(run(folder.path(), &["inspect", "in.onnx", "--json", "--data", data]).text());
    let made = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--data", data, "--report", "r.json"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let report = json(&fs::read_to_string(folder.path().join("r.json")).unwrap());
    let fates = |layers: &Value| -> Vec<(Value, Value, Value)> {
        let layers = layers.as_array().unwrap().iter();
        layers.map(|layer| (layer["name"].clone(), layer["fate"].clone(), layer["bytes_after"].clone())).collect()
    };
    assert_eq!(fates(&found["int8"]["with_data"]["layers"]), fates(&report["layers"]));
    assert_eq!((&found["int8"]["made_up"], &found["work"]["shapes"]), (&false.into(), &"sample".into()));
    let quantized = json(run(folder.path(), &["inspect", "out.onnx", "--json"]).text());
    assert_eq!(quantized["int8"]["nothing"], "the model is quantized already");
    // A stored weight belongs to the layer that computes with it.
    assert!(quantized["ops"][0]["op"] == "Conv", "{}", quantized["ops"][0]);
}

#[test]
fn bodies_are_counted_and_their_work_is_not_guessed() {
    let folder = folder_of("digits_if");
    let found = json(run(folder.path(), &["inspect", "in.onnx", "--json", "--no-int8"]).text());
    assert_eq!(found["int8"], Value::Null);
    assert_eq!(found["work"]["not_counted"]["If"], 1);
}

#[test]
fn layers_that_can_saturate_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = "<ir_version: 8, opset_import: [\"\" : 13]>
        g (uint8[1,2] x) => (int32[1,1] y) <int8[2,1] w = {100, 29}> { y = MatMulInteger (x, w) }";
    fs::write(folder.path().join("m.onnx"), model_of_text(text)).unwrap();
    let found = json(run(folder.path(), &["inspect", "m.onnx", "--json"]).text());
    assert_eq!((&found["saturating"][0]["layer"], &found["saturating"][0]["pairs"]), (&"y".into(), &1.into()));
    let told = run(folder.path(), &["inspect", "m.onnx"]);
    assert!(told.text().contains("warning: 8-bit sums of 1 layer can saturate"), "{}", told.text());
}

#[test]
fn what_cannot_be_inspected_is_an_error_with_its_code() {
    let folder = folder();
    fs::write(folder.path().join("text.onnx"), "text").unwrap();
    for (arguments, code) in [
        (&["inspect", "none.onnx"][..], 1),
        (&["inspect", "text.onnx"], 1),
        (&["inspect"], 2),
        (&["inspect", "in.onnx", "--data", "none"], 3),
    ] {
        let run = run(folder.path(), arguments);
        assert_eq!((run.code, run.text()), (code, ""), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn every_model_of_the_bench_can_be_inspected() {
    for model in bench_models() {
        let folder = tempfile::tempdir().unwrap();
        let told = run(folder.path(), &["inspect", model.to_str().unwrap(), "--json"]);
        assert_eq!(told.code, 0, "{}: {}", model.display(), told.stderr);
        let found = json(told.text());
        assert!(found["op_count"].as_u64().unwrap() > 0, "{}", model.display());
        let plan = &found["int8"];
        assert!(
            plan["nothing"].is_string() || plan["without_data"]["bytes"] != plan["without_data"]["reason"],
            "{}",
            model.display()
        );
    }
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    let folder = folder();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(folder.path(), &["completions", shell]);
        assert_eq!(script.code, 0, "{}", script.stderr);
        assert!(script.text().contains("keep-float") && script.text().contains("inspect"), "{shell}");
    }
    let page = run(folder.path(), &["man"]);
    assert!(
        page.text().contains(".SH QUANTIZATION") && page.text().contains("onnx\\-shrink\\-inspect"),
        "{}",
        page.text()
    );
    let page = run(folder.path(), &["man", "validate"]);
    assert!(
        page.text().contains(".TH onnx-shrink-validate 1") && page.text().contains("all\\-values"),
        "{}",
        page.text()
    );
    assert_eq!(run(folder.path(), &["man", "paint"]).code, 2);
}

#[test]
fn channels_that_go_together_are_shown_with_what_keeps_the_others() {
    let folder = folder();
    let found = json(run(folder.path(), &["inspect", "in.onnx", "--groups", "--no-int8", "--json"]).text());
    let groups = found["groups"].as_array().unwrap();
    // The first convolution, the residual block with its two ends, what is between them, and the outputs.
    let counts: Vec<_> = groups.iter().map(|group| (group["channels"].clone(), group["free"].clone())).collect();
    assert_eq!(counts, [(16, 16), (24, 24), (24, 24), (10, 0)].map(|(all, free)| (all.into(), free.into())));
    let block = &groups[1];
    assert_eq!(block["producers"], json("[\"/conv2/Conv\", \"/block/conv2/Conv\"]"));
    assert_eq!(groups[3]["frozen"], "`logits` is a graph output");
    let told = run(folder.path(), &["inspect", "in.onnx", "--groups", "--no-int8"]);
    assert!(told.text().contains("4 groups of channels: 64 of 74 channels may go with --prune"), "{}", told.text());
    let without = json(run(folder.path(), &["inspect", "in.onnx", "--no-int8", "--json"]).text());
    assert!(without.get("groups").is_none());
}
