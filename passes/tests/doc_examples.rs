//! Runs the `onnx before` and `onnx after` examples in the headers of all passes.
//!
//! The line `# x: float[1,2]; w, b: int64[2] = {1, 2}` above an example declares its values: names that begin with `x` are
//! graph inputs, `opset: 20` the opset (17 else), the others constants with seeded numbers (positive: a variance must be) or the numbers that stand there.
//! Values that an example makes and does not use are its outputs. After the pass, the ops and the edges between them must
//! be those of `after`, constants by any name and values, and both graphs must compute the same.
use std::{collections::BTreeMap, path::Path};

use onnx_shrink_ir::{Graph, ValueId};
use onnx_shrink_passes::{
    Options, Pass, SimplifyIslands, pipeline,
    quantize::{CancelQdq, DynamicInt8, FixSaturation, LayoutInU8, ToInteger, ToQoperator},
    testing::{assert_same_values, parse, run, seeded},
    weight_only::{FoldWeights, StoreFp16, StoreInt4},
};

/// The part of a module header that is fenced as `onnx before` or `onnx after`.
fn example(header: &str, which: &str) -> Option<String> {
    let start = header.find(&format!("```onnx {which}\n"))?;
    let body = &header[start..];
    let body = &body[body.find('\n')? + 1..];
    Some(body[..body.find("```")?].to_owned())
}

/// The declarations `name → (type, numbers)` of the comment line.
fn declarations(comment: &str) -> Vec<(String, String, Option<String>)> {
    let mut all = Vec::new();
    for group in comment.trim_start_matches('#').split(';') {
        let (names, ty) = group.split_once(':').expect("names: type");
        let (ty, numbers) = match ty.split_once('=') {
            Some((ty, numbers)) => (ty.trim(), Some(numbers.trim().to_owned())),
            None => (ty.trim(), None),
        };
        all.extend(names.split(',').map(|name| (name.trim().to_owned(), ty.to_owned(), numbers.clone())));
    }
    all
}

/// All declarations of an example.
fn declared(before: &str) -> Vec<(String, String, Option<String>)> {
    let declared: Vec<_> = before.lines().filter(|line| line.starts_with('#')).flat_map(declarations).collect();
    assert!(!declared.is_empty(), "no line that declares the values");
    declared
}

/// Every word of `text` that may be a name, in order.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect()
}

/// Names that the example's ops make.
fn made(lines: &[&str]) -> Vec<String> {
    let left = lines.iter().filter_map(|line| line.split_once('=')).filter(|(left, _)| !left.contains('<'));
    left.flat_map(|(left, _)| left.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>()).collect()
}

/// The text of a constant of type `ty` ("float[2,3]") with positive seeded numbers.
fn numbers(name: &str, ty: &str) -> String {
    let model = parse(&format!("g ({ty} {name}) => ({ty} y) {{ y = Identity ({name}) }}"));
    let ty = model.graph.ty(model.graph.inputs()[0]).expect("a tensor type").clone();
    let dims = ty.dims().expect("known dimensions");
    let numbers = seeded(ty.dtype, &dims, name, 0).and_then(|tensor| tensor.to_f64_vec()).expect("numbers");
    let texts: Vec<String> = numbers.iter().map(|number| format!("{}", number.abs() + 0.25)).collect();
    let texts = if ty.dtype.is_float() { texts } else { numbers.iter().map(|number| format!("{number}")).collect() };
    format!("{{{}}}", texts.join(", "))
}

/// The example as a graph; what it reads and nobody declares is a constant of no importance.
fn graph_of(example: &str, declared: &[(String, String, Option<String>)], before: bool) -> Graph {
    let lines: Vec<&str> = example.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let made = made(&lines);
    let read: Vec<&str> =
        lines.iter().filter_map(|line| line.split_once('=')).flat_map(|(_, right)| words(right)).collect();
    let outputs: Vec<String> = made
        .iter()
        .filter(|name| !read.contains(&name.as_str()))
        .filter(|name| name.starts_with('y') || name.starts_with('z'))
        .cloned()
        .collect();
    let mut inputs = Vec::new();
    let mut constants = Vec::new();
    let opset = declared.iter().find(|(name, ..)| name == "opset").map_or("17", |(_, number, _)| number);
    for (name, ty, values) in declared.iter().filter(|(name, ..)| name != "opset") {
        if name.starts_with('x') {
            inputs.push(format!("{ty} {name}"));
        } else if !made.contains(name) {
            let values = values.clone().unwrap_or_else(|| numbers(name, ty));
            constants.push(format!("{ty} {name} = {values}"));
        } else {
            constants.push(format!("{ty} {name}"));
        }
    }
    if !before {
        let known: Vec<&String> = declared.iter().map(|(name, ..)| name).chain(&made).collect();
        let mut missing: Vec<&str> =
            lines.iter().filter_map(|line| line.rsplit_once('(')).flat_map(|(_, right)| words(right)).collect();
        missing.sort_unstable();
        missing.dedup();
        constants.extend(
            missing
                .into_iter()
                .filter(|name| !known.iter().any(|known| known == name))
                .map(|name| format!("float {name} = {{1}}")),
        );
    }
    let outputs: Vec<String> = outputs.iter().map(|name| format!("float[] {name}")).collect();
    let text = format!(
        "<ir_version: 10, opset_import: [\"\" : {opset}]> g ({}) => ({}) <{}> {{\n{}\n}}",
        inputs.join(", "),
        outputs.join(", "),
        constants.join(", "),
        lines.join("\n")
    );
    parse(&text.replace("<> {", "{")).graph
}

/// The ops by the names of what they make, each with its attributes and its inputs; constants are all alike.
fn structure(graph: &Graph) -> BTreeMap<String, String> {
    let name = |value: &Option<ValueId>| match value {
        None => String::new(),
        Some(value) if graph.constant(*value).is_some() => "constant".to_owned(),
        Some(value) => graph.name_of(*value).to_owned(),
    };
    let line = |op| {
        let node = graph.op(op);
        let outputs: Vec<String> = node.outputs().iter().map(name).collect();
        let inputs: Vec<String> = node.inputs().iter().map(name).collect();
        (outputs.join(", "), format!("{} {:?} ({})", node.op_type(), node.attributes(), inputs.join(", ")))
    };
    graph.ops().into_iter().map(line).collect()
}

fn check(pass: &dyn Pass, before: &str, after: &str) {
    let (original, graph) = check_structure(pass, before, after);
    assert_same_values(&original, &graph, pass.class());
}

/// The graph of `before`, and what the pass made of it.
fn check_structure(pass: &dyn Pass, before: &str, after: &str) -> (Graph, Graph) {
    let declared = declared(before);
    let original = graph_of(before, &declared, true);
    let mut graph = original.detached();
    // A chain of one pass: what the first round makes possible, the second does.
    for _ in 0..3 {
        run(pass, &mut graph, Options::default());
    }
    assert_eq!(structure(&graph), structure(&graph_of(after, &declared, false)), "{}", pass.name());
    (original, graph)
}

/// The text before and after that the header of a file of `src` shows.
fn examples(file: &str) -> (String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let source =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("no file `{file}` of the pass's name: {error}"));
    let header: String = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    match (example(&header, "before"), example(&header, "after")) {
        (Some(before), Some(after)) => (before, after),
        _ => panic!("the header of `{file}` has no example"),
    }
}

#[test]
fn the_examples_in_the_headers_are_true() {
    let passes = pipeline::lossless();
    let mut checked = Vec::new();
    for pass in &passes {
        let (before, after) = examples(&format!("lossless/{}.rs", pass.name().replace('-', "_")));
        // (The reference evaluator has no recurrence.)
        if pass.name() == "drop-zero-states" {
            check_structure(pass.as_ref(), &before, &after);
        } else {
            check(pass.as_ref(), &before, &after);
        }
        checked.push(pass.name());
    }
    assert!(checked.contains(&"fold-batch-norm"));
}

#[test]
fn the_examples_of_the_quantizer_that_need_no_samples_are_true() {
    let (before, after) = examples("quantize/fix_saturation.rs");
    check_structure(&FixSaturation, &before, &after);
    let (before, after) = examples("quantize/cancel_qdq.rs");
    check(&CancelQdq::exact(), &before, &after);
}

#[test]
fn the_examples_of_the_lists_of_rules_are_true() {
    for file in ["activation", "cast", "elementwise", "layout", "qdq"] {
        let (before, after) = examples(&format!("egg/{file}.rs"));
        check(&SimplifyIslands::rounding(), &before, &after);
    }
}

/// What they compute is compared elsewhere: the reference evaluator has no integer products.
#[test]
fn the_examples_of_the_forms_of_layers_and_weights_are_true() {
    let passes: [&dyn Pass; 7] = [
        &LayoutInU8,
        &ToQoperator,
        &ToInteger::default(),
        &DynamicInt8::default(),
        &StoreInt4::default(),
        &StoreFp16::default(),
        &FoldWeights { bits: 8, tied: true },
    ];
    for pass in passes {
        let file = format!("{}.rs", pass.name().replace('-', "_"));
        let rooms = ["quantize", "weight_only"].map(|room| format!("{room}/{file}"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let file = rooms.iter().find(|file| source.join(file).is_file()).expect("a file of the pass's name");
        let (before, after) = examples(file);
        let declared = declared(&before);
        let mut graph = graph_of(&before, &declared, true);
        graph.set_opset(graph.opset().max(21)); // 4-bit integers
        run(pass, &mut graph, Options::default());
        assert_eq!(structure(&graph), structure(&graph_of(&after, &declared, false)), "{}", pass.name());
    }
}
