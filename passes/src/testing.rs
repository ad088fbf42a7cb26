//! For tests: a pass is checked by two texts, before and after, and by what both compute.
//!
//! `check` compares text exactly, value names included, so it shows what a user sees in a diff. It also runs the pass a
//! second time, which must change nothing, and computes both graphs with [`Reference`] on seeded inputs.
//! **Never** used by the program.
mod reference;

pub use reference::Reference;

use onnx_shrink_ir::{Evaluate, Graph, Model, Tensor, ValueId, text, verify};

use crate::{Class, Context, Options, Pass, SampleError, SampleSource};

/// ONNX's opset of texts that do not say another.
pub const OPSET: i64 = 17;

/// The model that `source` states: a whole model when it begins with `<`, else a graph of [`OPSET`].
///
/// # Panics
/// When it states none.
pub fn parse(source: &str) -> Model {
    let model =
        if source.trim_start().starts_with('<') { text::parse_model(source) } else { text::parse_graph(source, OPSET) };
    match model {
        Ok(model) => model,
        Err(error) => panic!("{}\nin\n{source}", error.render()),
    }
}

/// The text of a graph with those of `constants` (name, and declaration without it: `float[2]`, `{1, 2}`) that `body` names.
pub fn graph_of(signature: &str, constants: &[(&str, &str, &str)], body: &str) -> String {
    let words: Vec<&str> = body.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    let used = constants.iter().filter(|(name, ..)| words.contains(name));
    let stated: Vec<String> = used.map(|(name, ty, numbers)| format!("{ty} {name} = {numbers}")).collect();
    let stated = if stated.is_empty() { String::new() } else { format!("<{}>", stated.join(", ")) };
    format!("g {signature} {stated} {{ {body} }}")
}

/// Samples that stand in memory: the inputs of each.
pub struct Samples(pub Vec<Vec<Option<Tensor>>>);

impl SampleSource for Samples {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn inputs(&self, index: usize) -> Result<Vec<Option<Tensor>>, SampleError> {
        Ok(self.0[index].clone())
    }
}

/// Runs `pass` on `graph` and returns the sentences of its misses.
///
/// # Panics
/// When the pass fails or leaves a broken graph.
pub fn run(pass: &dyn Pass, graph: &mut Graph, options: Options) -> Vec<String> {
    let mut cx = Context::new(Options { verify_each: true, ..options }, &Reference);
    if let Err(error) = cx.run(pass, graph) {
        panic!("{error}\n{}", text::print_graph(graph));
    }
    let violations: Vec<String> = verify::verify_graph(graph).iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{violations:?}\n{}", text::print_graph(graph));
    cx.journal.entries.iter().filter_map(|entry| entry.missed().map(ToString::to_string)).collect()
}

/// `pass` makes `after` of `before`, nothing more on a second run, and both compute the same, as far as its class says.
///
/// # Panics
/// When that is not so.
pub fn check(pass: &dyn Pass, before: &str, after: &str) {
    check_with(pass, before, after, Options::default());
}

/// [`check`] of a pass that looks at the types of values between, which are inferred first.
///
/// # Panics
/// When the check fails.
pub fn check_inferred(pass: &dyn Pass, before: &str, after: &str) {
    let mut original = parse(before).graph;
    onnx_shrink_ir::infer::infer(&mut original);
    let mut graph = original.detached();
    run(pass, &mut graph, Options::default());
    let (found, wanted) = (text::print_graph(&graph), text::print_graph(&parse(after).graph));
    assert!(found == wanted, "{} made\n{found}\nand not\n{wanted}", pass.name());
    onnx_shrink_ir::infer::infer(&mut graph);
    run(pass, &mut graph, Options::default());
    assert_eq!(text::print_graph(&graph), wanted, "{} changed its own result", pass.name());
    assert_same_values(&original, &graph, pass.class());
}

/// [`check`] under `options`.
///
/// # Panics
/// When the check fails.
pub fn check_with(pass: &dyn Pass, before: &str, after: &str, options: Options) {
    let original = parse(before).graph;
    let mut graph = original.detached();
    run(pass, &mut graph, options.clone());
    let (found, wanted) = (text::print_graph(&graph), text::print_graph(&parse(after).graph));
    assert!(found == wanted, "{} made\n{found}\nand not\n{wanted}", pass.name());
    run(pass, &mut graph, options);
    assert_eq!(text::print_graph(&graph), wanted, "{} changed its own result", pass.name());
    assert_same_values(&original, &graph, pass.class());
}

/// `pass` leaves `model` as it is, and one of its misses is `sentence`.
///
/// # Panics
/// When that is not so.
pub fn check_missed(pass: &dyn Pass, model: &str, sentence: &str) {
    let misses = check_untouched(pass, model);
    assert!(misses.iter().any(|miss| miss == sentence), "no such miss, but {misses:#?}");
}

/// `pass` leaves `model` as it is.
///
/// # Panics
/// When that is not so.
pub fn check_same(pass: &dyn Pass, model: &str) {
    check_untouched(pass, model);
}

fn check_untouched(pass: &dyn Pass, model: &str) -> Vec<String> {
    check_untouched_graph(pass, parse(model).graph)
}

/// `pass` leaves `model` as it is, also where the types of values between are known.
///
/// # Panics
/// When that is not so.
pub fn check_same_inferred(pass: &dyn Pass, model: &str) {
    let mut graph = parse(model).graph;
    onnx_shrink_ir::infer::infer(&mut graph);
    check_untouched_graph(pass, graph);
}

fn check_untouched_graph(pass: &dyn Pass, mut graph: Graph) -> Vec<String> {
    let before = text::print_graph(&graph);
    let misses = run(pass, &mut graph, Options::default());
    assert_eq!(text::print_graph(&graph), before, "{} changed a graph that it must leave", pass.name());
    misses
}

/// Both graphs compute the same on seeded inputs: bit-equal, or within 1e-5 of the largest number where `class` allows it.
///
/// # Panics
/// When they do not, or cannot be computed.
pub fn assert_same_values(before: &Graph, after: &Graph, class: Class) {
    for seed in 0..2 {
        let inputs: Vec<Option<Tensor>> = before.inputs().iter().map(|&input| input_for(before, input, seed)).collect();
        let (expected, found) = (evaluate(before, &inputs), evaluate(after, &inputs));
        assert_eq!(expected.len(), found.len());
        for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let name = before.name_of(before.outputs()[index]);
            assert_same_tensor(name, expected, found, class);
        }
    }
}

fn assert_same_tensor(name: &str, expected: &Tensor, found: &Tensor, class: Class) {
    assert_eq!(expected.ty(), found.ty(), "type of `{name}`");
    if class == Class::Exact || !expected.dtype().is_float() {
        assert!(expected == found, "`{name}`:\n{:?}\nis not\n{:?}", found.to_f64(), expected.to_f64());
        return;
    }
    let (Some(a), Some(b)) = (expected.to_f64_vec(), found.to_f64_vec()) else { return };
    let largest = a.iter().copied().filter(|x| x.is_finite()).fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let step = if expected.dtype().bits() == 16 { 4e-3 } else { 1e-5 };
    for (a, b) in a.iter().zip(&b) {
        let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= step * largest;
        assert!(same, "`{name}`: {b} is not {a}");
    }
}

fn evaluate(graph: &Graph, inputs: &[Option<Tensor>]) -> Vec<Tensor> {
    let outputs = Reference.prepare(graph).and_then(|prepared| prepared.run(inputs, &mut |_, _| {}));
    match outputs {
        Ok(outputs) => outputs,
        Err(error) => panic!("{error}\n{}", text::print_graph(graph)),
    }
}

/// A tensor for a graph input: symbols are 2, unknown dimensions 3; numbers between -2 and 2, integers between 0 and 3.
fn input_for(graph: &Graph, input: ValueId, seed: u64) -> Option<Tensor> {
    let Some(ty) = graph.ty(input) else { panic!("input `{}` has no tensor type", graph.name_of(input)) };
    let dim = |dim: &onnx_shrink_ir::Dim| match dim {
        onnx_shrink_ir::Dim::Known(number) => *number,
        onnx_shrink_ir::Dim::Symbol(_) => 2,
        onnx_shrink_ir::Dim::Unknown => 3,
    };
    let dims: Vec<usize> = ty.shape.iter().flatten().map(dim).collect();
    seeded(ty.dtype, &dims, graph.name_of(input), seed)
}

/// Numbers that depend on `name` and `seed` alone: in steps of 2^-10 between -2 and 2, or integers from 0 to 3.
pub fn seeded(dtype: onnx_shrink_ir::DataType, dims: &[usize], name: &str, seed: u64) -> Option<Tensor> {
    let mut state = name.bytes().fold(seed + 1, |state, byte| state.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut number = || {
        // Steele, Lea, Flood 2014: SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    let count = onnx_shrink_ir::element_count(dims)?;
    let numbers = (0..count).map(|_| {
        let bits = number() >> 52;
        if dtype.is_float() { bits as f64 / 1024.0 - 2.0 } else { (bits & 3) as f64 }
    });
    let array = ndarray::ArrayD::from_shape_vec(ndarray::IxDyn(dims), numbers.collect()).ok()?;
    let array = if dtype == onnx_shrink_ir::DataType::Bool { array.mapv(|x| f64::from(x >= 2.0)) } else { array };
    Tensor::from_f64(dtype, &array)
}
