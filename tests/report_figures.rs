//! Every figure of a report is one of the file that was written.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use onnx_shrink_ir::{Graph, Model, OpId, Tensor, infer::infer, multiply_adds};
use serde_json::Value;

use crate::support::{calib, folder_of, run};

const FIXTURES: [&str; 4] = ["digits_cnn", "digits_mlp", "digits_mobile", "digits_attention"];

/// Modes, with what their reports are looked through for.
const MODES: [&[&str]; 7] = [
    &[],
    &["--svd=50%", "--data", "DATA"],
    &["--prune", "0.3", "--data", "DATA"],
    &["--int8", "--data", "DATA"],
    &["--int8"],
    &["--weights", "fp16"],
    &["--weights", "int4", "--data", "DATA"],
];

fn load(path: &Path) -> Model {
    let loaded = onnx_shrink_ir::proto::load(path, &onnx_shrink_ir::proto::Limits::default()).unwrap();
    let mut model = onnx_shrink_ir::import(loaded.model).unwrap();
    infer(&mut model.graph);
    model
}

/// The op of `graph` that is called `name`, or makes a value that is.
fn op(graph: &Graph, name: &str) -> Option<OpId> {
    let named = graph.ops().into_iter().find(|op| graph.op(*op).name() == name);
    named.or_else(|| graph.producer(graph.find(name)?))
}

fn weight(graph: &Graph, op: OpId) -> Option<&Tensor> {
    graph.constant(graph.op(op).input(1)?)
}

/// Bytes of all constants of `graph`.
fn constant_bytes(graph: &Graph) -> u64 {
    graph.values().into_iter().filter_map(|value| graph.constant(value)).map(|tensor| tensor.byte_len() as u64).sum()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}"))
}

fn side(side: &Value, path: &Path, model: &Model) {
    assert_eq!(number(side, "bytes"), fs::metadata(path).unwrap().len());
    let mut ops: BTreeMap<String, u64> = BTreeMap::new();
    for id in model.graph.ops() {
        *ops.entry(model.graph.op(id).op_type().to_owned()).or_default() += 1;
    }
    let told: BTreeMap<String, u64> = serde_json::from_value(side["ops"].clone()).unwrap();
    assert_eq!(told.values().sum::<u64>(), ops.values().sum::<u64>());
}

/// Layers of `--svd`: rank, numbers and bytes of both factors. How many were split.
fn svd(report: &Value, before: &Graph, after: &Graph) -> usize {
    let mut count = 0;
    for layer in report["low_rank"].as_array().into_iter().flatten() {
        let name = layer["name"].as_str().unwrap();
        let old = weight(before, op(before, name).unwrap());
        if let Some(old) = old.filter(|_| number(layer, "full_rank") > 0) {
            assert_eq!(
                (number(layer, "weights_before"), number(layer, "bytes_before")),
                (old.len() as u64, old.byte_len() as u64)
            );
        }
        let Some(rank) = layer["rank"].as_u64() else { continue };
        count += 1;
        let second = op(after, name).unwrap();
        let first = after.producer(after.op(second).input(0).unwrap()).unwrap();
        let factors = [weight(after, first).unwrap(), weight(after, second).unwrap()];
        let sum = |of: fn(&Tensor) -> usize| factors.iter().map(|factor| of(factor) as u64).sum::<u64>();
        assert!(factors.iter().all(|factor| factor.dims().contains(&(rank as usize))), "{layer}");
        assert_eq!(
            (number(layer, "weights_after"), number(layer, "bytes_after")),
            (sum(Tensor::len), sum(Tensor::byte_len))
        );
    }
    count
}

/// Layers of `--prune`: dimensions, bytes and multiply-adds.
fn prune(report: &Value, before: &Graph, after: &Graph) {
    let Some(layers) = report["structure"]["layers"].as_array() else { return };
    let mut sums = (0.0, 0.0);
    for layer in layers {
        let name = layer["name"].as_str().unwrap();
        for (graph, side, sum) in [(before, "before", &mut sums.0), (after, "after", &mut sums.1)] {
            let Some(op) = op(graph, name) else {
                assert_eq!(number(layer, &format!("bytes_{side}")), 0, "{layer}");
                continue;
            };
            let tensor = weight(graph, op).unwrap();
            let dims: Vec<usize> = serde_json::from_value(layer[format!("weights_{side}")].clone()).unwrap();
            assert_eq!(dims, tensor.dims(), "{layer}");
            assert_eq!(number(layer, &format!("bytes_{side}")), tensor.byte_len() as u64);
            let one = |value| match graph.constant(value) {
                Some(constant) => Some(constant.dims().to_vec()),
                None => Some(graph.ty(value)?.shape.as_ref()?.iter().map(|dim| dim.known().unwrap_or(1)).collect()),
            };
            let work = multiply_adds(graph, op, &one).unwrap() as f64;
            assert_eq!(layer[format!("macs_{side}")].as_f64(), Some(work), "{layer}");
            *sum += work;
        }
    }
    let removed = report["structure"]["removed"].as_f64().unwrap();
    assert!((removed - (1.0 - sums.1 / sums.0)).abs() < 1e-9);
}

/// Layers of `--int8` and `--weights`: together no more than there is in the file, and no less than was said to be saved.
fn layers(report: &Value, before: &Graph, after: &Graph) {
    let Some(layers) = report["layers"].as_array().filter(|layers| !layers.is_empty()) else { return };
    let sum = |name: &str| layers.iter().map(|layer| number(layer, name)).sum::<u64>();
    assert!(sum("bytes_before") <= constant_bytes(before), "{} of {}", sum("bytes_before"), constant_bytes(before));
    assert!(sum("bytes_after") <= constant_bytes(after), "{} of {}", sum("bytes_after"), constant_bytes(after));
    let names: BTreeSet<&str> = layers.iter().filter_map(|layer| layer["name"].as_str()).collect();
    assert_eq!(names.len(), layers.len(), "a layer stands twice");
}

#[test]
fn what_is_told_is_what_was_written() {
    let mut split = 0;
    for fixture in FIXTURES {
        let data = calib(fixture);
        for mode in MODES {
            let folder = folder_of(fixture);
            let mut arguments =
                vec!["in.onnx", "-o", "out.onnx", "--report", "r.json", "--gate", "sqnr=0", "--gate", "drop=1"];
            if mode.is_empty() || mode == ["--int8"] || mode[0] == "--weights" {
                arguments.truncate(5);
            }
            arguments.extend(mode.iter().map(|argument| if *argument == "DATA" { data.as_str() } else { argument }));
            let found = run(folder.path(), &arguments);
            assert_eq!(found.code, 0, "{fixture} {mode:?}: {}", found.stderr);
            let report: Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
            let [input, output] = ["in.onnx", "out.onnx"].map(|name| folder.path().join(name));
            let (before, after) = (load(&input), load(&output));
            side(&report["input"], &input, &before);
            side(&report["output"], &output, &after);
            // What the steps begin with is what the lossless part makes.
            let lean = folder.path().join("lean.onnx");
            assert_eq!(run(folder.path(), &["in.onnx", "-o", "lean.onnx"]).code, 0);
            let lean = load(&lean);
            split += svd(&report, &lean.graph, &after.graph);
            prune(&report, &lean.graph, &after.graph);
            layers(&report, &lean.graph, &after.graph);
        }
    }
    assert!(split > 0, "no layer was split");
}
