//! Quantization as it is written into graphs: small models in ONNX text, calibrated on seeded samples with the reference
//! evaluator, quantized, and looked at. Each form that an engine runs slower or worse than one would think, and that a
//! placer can fall into, is a test here, by name.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "a test looks at attributes as they are written")]
mod cancel;
mod insert_qdq;
mod openvino;
mod pairs;
mod placement;
mod small_weights;
mod store_int8;

use std::collections::BTreeSet;

use onnx_shrink_ir::{DataType, Evaluate, Graph, Op, OpId, Tensor, Use, ValueId, element_count};
use onnx_shrink_passes::{
    Options,
    analysis::{
        quantized::is_quantized,
        units::{Units, find_units},
    },
    calibration::{
        calibrators::Calibrator,
        collect::{Calibration, calibrate},
    },
    quantize::InsertQdq,
    target::{ORT_CPU, Target},
    testing::{Reference, Samples, parse, run, seeded},
};

/// `count` seeded samples for the inputs of `graph`, all of known dimensions.
fn samples_of(graph: &Graph, count: u64) -> Samples {
    let one = |seed: u64| {
        let tensor = |&input: &ValueId| {
            let ty = graph.ty(input).expect("a tensor type");
            seeded(ty.dtype, &ty.dims().expect("known dimensions"), graph.name_of(input), seed)
        };
        graph.inputs().iter().map(tensor).collect()
    };
    Samples((0..count).map(one).collect())
}

/// A model before and after insert-qdq.
struct Quantized {
    before: Graph,
    after: Graph,
    units: Units,
    calibration: Calibration,
}

/// `model` with every unit in integers but those of the ops that make the values `float`, calibrated on `samples`
/// (without any: four seeded ones), with ranges by minimum and maximum.
fn quantize(model: &str, float: &[&str], samples: Option<Samples>) -> Quantized {
    quantize_for(&ORT_CPU, model, float, samples)
}

/// The same for another engine.
fn quantize_for(target: &'static Target, model: &str, float: &[&str], samples: Option<Samples>) -> Quantized {
    let before = parse(model).graph;
    let samples = samples.unwrap_or_else(|| samples_of(&before, 4));
    let calibration = calibrate(&before, &Reference, &samples, &[], &|_| {}).expect("the model runs");
    let units = find_units(&before, &calibration, target);
    let kept: BTreeSet<OpId> = float
        .iter()
        .map(|name| before.find(name).and_then(|value| before.producer(value)).expect("an op makes the value"))
        .collect();
    let integer: Vec<bool> = units.units.iter().map(|unit| !kept.contains(&unit.op)).collect();
    let mut after = before.detached();
    let pass =
        InsertQdq { calibration: &calibration, calibrator: Calibrator::MinMax, units: &units, integer: &integer };
    run(&pass, &mut after, Options::default());
    assert!(!is_quantized(&before));
    assert_eq!(is_quantized(&after), integer.contains(&true));
    every_scale_is_written_once(&after);
    pairs::no_pair_saturates(&after);
    Quantized { before, after, units, calibration }
}

/// [`quantize`] with all units in integers.
fn all_integer(model: &str) -> Quantized {
    quantize(model, &[], None)
}

/// Constants that scale or shift are in the file once, however many ops read them.
fn every_scale_is_written_once(graph: &Graph) {
    let parameters: BTreeSet<ValueId> = graph
        .ops()
        .into_iter()
        .filter(|op| graph.op(*op).op_type().ends_with("uantizeLinear"))
        .flat_map(|op| [graph.op(op).input(1), graph.op(op).input(2)])
        .flatten()
        .collect();
    let mut seen = BTreeSet::new();
    for value in parameters {
        let tensor = graph.constant(value).expect("scales and zero points are constant");
        let key = (tensor.dtype(), tensor.dims().to_vec(), tensor.bytes().expect("numbers").to_vec());
        assert!(seen.insert(key), "`{}` is there twice", graph.name_of(value));
    }
}

/// Text of a constant declaration with seeded numbers between -2 and 2, times `factor`.
fn constant(name: &str, dims: &[usize], factor: f64) -> String {
    let numbers = seeded(DataType::Float, dims, name, 7).and_then(|tensor| tensor.to_f64_vec()).expect("numbers");
    declare("float", name, dims, numbers.into_iter().map(|x| x * factor))
}

/// Text of a constant declaration with these numbers.
fn declare(ty: &str, name: &str, dims: &[usize], numbers: impl IntoIterator<Item = f64>) -> String {
    let numbers: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
    assert_eq!(element_count(dims), Some(numbers.len()));
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    format!("{ty}[{}] {name} = {{{}}}", dims.join(","), numbers.join(", "))
}

/// The ops of type `op_type`, in order.
fn ops<'g>(graph: &'g Graph, op_type: &str) -> Vec<&'g Op> {
    graph.ops_of(op_type).into_iter().map(|op| graph.op(op)).collect()
}

/// The one op of type `op_type`.
fn only<'g>(graph: &'g Graph, op_type: &str) -> &'g Op {
    let all = ops(graph, op_type);
    assert_eq!(all.len(), 1, "{op_type} in\n{}", onnx_shrink_ir::text::print_graph(graph));
    all[0]
}

/// The op that makes input `index` of `op`.
fn before<'g>(graph: &'g Graph, op: &Op, index: usize) -> &'g Op {
    let producer = op.input(index).and_then(|value| graph.producer(value));
    graph.op(producer.unwrap_or_else(|| panic!("nothing makes input {index} of {}", op.op_type())))
}

/// The op that makes graph output `index`.
fn end(graph: &Graph, index: usize) -> &Op {
    graph.op(graph.producer(graph.outputs()[index]).expect("an op"))
}

/// The ops that read output 0 of `op`; panics when it is a graph output or captured.
fn after<'g>(graph: &'g Graph, op: &Op) -> Vec<&'g Op> {
    let reader = |place| match place {
        Use::Input(op, _) => graph.op(op),
        other => panic!("a use that is no op's input: {other:?}"),
    };
    graph.uses(op.output(0).expect("an output")).into_iter().map(reader).collect()
}

/// The numbers of the constant that is input `index` of `op`.
fn numbers(graph: &Graph, op: &Op, index: usize) -> Vec<f64> {
    tensor(graph, op, index).to_f64_vec().expect("numbers")
}

/// The constant that is input `index` of `op`.
fn tensor<'g>(graph: &'g Graph, op: &Op, index: usize) -> &'g Tensor {
    op.input(index).and_then(|value| graph.constant(value)).expect("a constant")
}

/// Scale and zero point (the constants themselves) of the Quantize or Dequantize `op`.
fn parameters(op: &Op) -> (ValueId, ValueId) {
    assert!(op.op_type().ends_with("uantizeLinear"), "{}", op.op_type());
    (op.input(1).expect("a scale"), op.input(2).expect("a zero point"))
}

fn evaluate(graph: &Graph, inputs: &[Option<Tensor>]) -> Vec<Tensor> {
    Reference.prepare(graph).and_then(|ready| ready.run(inputs, &mut |_, _| {})).expect("the graph runs")
}

/// 10·log10 of signal to noise of the first output, over `samples`.
fn sqnr(before: &Graph, after: &Graph, samples: &Samples) -> f64 {
    let (mut signal, mut noise) = (0.0, 0.0);
    for inputs in &samples.0 {
        let numbers = |graph| evaluate(graph, inputs)[0].to_f64_vec().expect("numbers");
        for (a, b) in numbers(before).into_iter().zip(numbers(after)) {
            signal += a * a;
            noise += (a - b) * (a - b);
        }
    }
    10.0 * (signal / noise).log10()
}
