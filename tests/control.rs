//! How the work is done: which passes, which shapes, what is shown on the way, what is written.
use std::fs;

use serde_json::Value;

use crate::support::{folder, model_of_text, names, run};

const DYNAMIC: &str = "<ir_version: 8, opset_import: [\"\" : 17]>
    g (float[N,3] x, float[N,3] z) => (float[N,3] y) { t = Identity (x)  u = Relu (t)  v = Relu (u)  y = Add (v, z) }";

fn report(folder: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("r.json")).unwrap()).unwrap()
}

fn passes_of(report: &Value) -> Vec<String> {
    let done = report["journal"].as_array().unwrap().iter().filter(|entry| entry["outcome"] == "done");
    let mut passes: Vec<String> = done.map(|entry| entry["pass"].as_str().unwrap().to_owned()).collect();
    passes.dedup();
    passes
}

#[test]
fn passes_are_listed_without_a_model() {
    let folder = folder();
    let run = run(folder.path(), &["--list-passes"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    for (pass, class) in [("fold-batch-norm", "rounding"), ("eliminate-dead", "exact"), ("store-int8", "approximate")] {
        let line = run.text().lines().find(|line| line.starts_with(pass)).unwrap();
        assert!(line.contains(class) && line.len() > pass.len() + class.len() + 20, "{line}");
    }
}

#[test]
fn passes_are_chosen_by_name() {
    let folder = folder();
    fs::write(folder.path().join("in.onnx"), model_of_text(DYNAMIC)).unwrap();
    for (arguments, passes) in [
        (&[][..], &["eliminate-identity", "simplify-islands"][..]),
        (&["--only", "eliminate-identity"], &["eliminate-identity"]),
        (&["--passes", "simplify-islands,eliminate_identity"], &["simplify-islands", "eliminate-identity"]),
        (&["--stop-after", "eliminate-identity"], &["eliminate-identity"]),
        (&["--skip", "simplify-islands", "--verify-each"], &["eliminate-identity"]),
    ] {
        let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx", "--report", "r.json"], arguments].concat());
        assert_eq!(run.code, 0, "{arguments:?}: {}", run.stderr);
        assert_eq!(passes_of(&report(folder.path())), passes, "{arguments:?}");
    }
    for (arguments, part) in [
        (&["--only", "no-such"][..], "--only no-such: there is no such pass; there are: "),
        (&["--passes", "store-int8"], "by its own flag"),
        (&["--stop-after", "x"], "--stop-after x: there is no such pass"),
    ] {
        let run = run(folder.path(), &[&["in.onnx", "-o", "o.onnx"], arguments].concat());
        assert_eq!(run.code, 2, "{arguments:?}");
        assert!(run.error().contains(part), "{}", run.error());
    }
}

#[test]
fn a_dry_run_does_all_but_write() {
    let folder = folder();
    let dry = run(folder.path(), &["in.onnx", "--dry-run", "--report", "r.json"]);
    assert_eq!(dry.code, 0, "{}", dry.stderr);
    assert!(dry.text().contains("not written: this is a dry run"), "{}", dry.text());
    assert_eq!(names(folder.path()), ["in.onnx", "r.json"]);
    let planned = report(folder.path())["output"]["bytes"].clone();
    assert_eq!(report(folder.path())["written"], false);
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    assert_eq!(planned, fs::metadata(folder.path().join("out.onnx")).unwrap().len());
}

#[test]
fn a_gate_on_bytes_ends_with_4_before_anything_is_written() {
    let folder = folder();
    let run = |gate: &str| run(folder.path(), &["in.onnx", "-o", "out.onnx", "--gate", gate]);
    let failed = run("max-bytes=10k");
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    assert!(failed.error().contains("at most 10000 are allowed"), "{}", failed.error());
    assert_eq!(names(folder.path()), ["in.onnx"]);
    assert_eq!(run("max-bytes=1MB").code, 0);
}

#[test]
fn each_pass_that_changes_something_leaves_a_text() {
    let folder = folder();
    let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--dump-dir", "dump"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(names(&folder.path().join("dump")), ["000-fold-batch-norm.onnxtxt", "001-int8.onnxtxt"]);
    let text = fs::read_to_string(folder.path().join("dump/000-fold-batch-norm.onnxtxt")).unwrap();
    assert!(text.contains(" = Conv") && !text.contains(" = BatchNormalization"));
}

#[test]
fn shapes_can_be_fixed() {
    let folder = folder();
    fs::write(folder.path().join("in.onnx"), model_of_text(DYNAMIC)).unwrap();
    let graph = |arguments: &[&str]| {
        let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx"], arguments].concat());
        assert_eq!(run.code, 0, "{arguments:?}: {}", run.stderr);
        let loaded = onnx_shrink_ir::proto::load(&folder.path().join("out.onnx"), &Default::default()).unwrap();
        onnx_shrink_ir::text::print_graph(&onnx_shrink_ir::import(loaded.model).unwrap().graph)
    };
    for arguments in [["--input-shape", "x:2x3"], ["--overwrite-input-shape", "x:2,3"], ["--free-dim", "N=2"]] {
        let text = graph(&arguments);
        assert!(text.contains("float[2,3] x, float[2,3] z") && text.contains("float[2,3] y"), "{arguments:?}: {text}");
    }
    for (arguments, part) in [
        (["--input-shape", "x:2x4"], "which cannot be [2, 4]"),
        (["--input-shape", "q:2x3"], "there is no such input; there are `x`, `z`"),
        (["--input-shape", "2x3"], "name the input"),
        (["--free-dim", "M=1"], "no dimension has this name"),
    ] {
        let run = run(folder.path(), &[&["in.onnx", "-o", "o.onnx"], &arguments[..]].concat());
        assert_eq!(run.code, 2, "{arguments:?}");
        assert!(run.error().contains(part), "{}", run.error());
    }
}

#[test]
fn initializers_that_may_be_overridden_are_frozen_on_request() {
    let folder = folder();
    let text = "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { t = Neg (w)  y = Add (x, t) }";
    fs::write(folder.path().join("in.onnx"), model_of_text(text)).unwrap();
    let kept = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--explain"]);
    assert!(kept.text().contains("--freeze-initializers makes it constant"), "{}", kept.text());
    let frozen = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--freeze-initializers"]);
    assert!(frozen.text().contains("ops: 2 → 1"), "{}", frozen.text());
}

#[test]
fn everything_about_one_name_is_told() {
    let folder = folder();
    let explain = |name: &str| {
        let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--explain", name]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.text().to_owned()
    };
    let op = explain("/conv1/Conv");
    for part in ["before: op `/conv1/Conv` (Conv) reads ", "layer `/conv1/Conv` (Conv): stored in fewer bits"] {
        assert!(op.contains(part), "{part} in {op}");
    }
    let tensor = explain("logits");
    assert!(tensor.contains("before: tensor `logits` float[") && tensor.contains("the graph output"), "{tensor}");
    let pass = explain("fold-batch-norm");
    assert!(pass.contains("pass (rounding): folds") && pass.matches("done, ").count() == 4, "{pass}");
    assert!(explain("no such").contains("--explain no such: no op, tensor or pass has this name"));
    // The model may stand behind it, too.
    let bare = run(folder.path(), &["-o", "out.onnx", "--explain", "in.onnx"]);
    assert!(bare.code == 0 && bare.text().contains("every decision"), "{}{}", bare.stderr, bare.text());
}

#[test]
fn what_cannot_be_run_as_a_whole_is_proven_region_by_region_and_the_rest_left_as_it_was() {
    let folder = folder();
    let weights = vec!["0.5"; 64 * 64].join(", ");
    let text = format!(
        "<ir_version: 8, opset_import: [\"\" : 17, \"own\" : 1]>
         g (float[2,64] x) => (float[2,64] y) <float[64,64] w = {{{weights}}}, float[64,64] v = {{{weights}}}> {{
           a = Identity (x)  b = own.Strange (a, v)  c = MatMul (b, w)  y = Relu (c) }}"
    );
    fs::write(folder.path().join("in.onnx"), model_of_text(&text)).unwrap();
    let run = |more: &[&str]| {
        let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx", "--int8", "--report", "r.json"], more].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        (run.text().to_owned(), report(folder.path()))
    };
    let (text, told) = run(&[]);
    assert_eq!(text.matches("could not be run against the input, ").count(), 1, "{text}");
    assert!(told["unproven"].as_str().unwrap().contains("own.Strange"), "{told}");
    assert_eq!(told["lossless"], Value::Null);
    assert_eq!(passes_of(&told), ["eliminate-identity", "store-int8"]);
    // The product is run; of what nobody knows, the constant alone is compared.
    let regions = &told["regions"];
    assert!(regions["proven"].as_u64() >= Some(2) && regions["constants"] == 1, "{regions}");
    assert_eq!(regions["open"], serde_json::json!([]));
    assert!(text.contains("proven by region: "), "{text}");
    let (_, told) = run(&["--no-validate"]);
    assert_eq!(passes_of(&told), ["eliminate-identity", "store-int8"]);
    assert_eq!(told["regions"], Value::Null);
}

#[test]
fn exact_rewrites_of_a_model_whose_run_costs_much_are_not_run_unless_a_gate_asks() {
    let folder = folder();
    let text = "<ir_version: 8, opset_import: [\"\" : 17]>
        g (float[4096,1024] x, float[1024,1024] w) => (float[4096,1024] y) { a = Identity (x)  y = MatMul (a, w) }";
    fs::write(folder.path().join("in.onnx"), model_of_text(text)).unwrap();
    let run = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--report", "r.json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.text().contains("was not run: all its rewrites are equal to the bit"), "{}", run.text());
    let told = report(folder.path());
    assert_eq!((&told["lossless"], passes_of(&told)), (&Value::Null, vec!["eliminate-identity".to_owned()]));
}
