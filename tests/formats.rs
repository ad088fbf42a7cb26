//! `--format` and `--requantize`: every form of an integer layer against its Quantize/Dequantize pairs, on every fixture with
//! all layers in integers, and the binary on top.
use std::{collections::BTreeMap, fs};

use onnx_shrink_driver::{SampleOptions, Samples};
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{
    DataType, Evaluate, Graph, Model, OpId, Tensor, import, infer,
    ops::{RowOrder, WeightLayout},
    proto::{Limits, load},
    raise, verify,
};
use onnx_shrink_passes::{
    Context, Options, Pass,
    analysis::{integer_layers::layer_of, units::find_units},
    calibration::{calibrators::Calibrator, collect::calibrate},
    numerics::weight_scales::QuantizedRows,
    pipeline,
    quantize::{InsertQdq, LayoutInU8, Requantize, ToInteger, ToQoperator},
    target::ORT_CPU,
};
use serde_json::Value;

use crate::support::{FIXTURES, calib, fixture, folder_of, run};

/// A fixture with all of its layers as Quantize/Dequantize pairs, and its samples.
struct Pairs {
    model: Model,
    samples: Samples,
    evaluator: Interpreter,
}

fn pairs(name: &str) -> Pairs {
    pairs_of(name, 16)
}

/// The same, from the first `count` samples.
fn pairs_of(name: &str, count: usize) -> Pairs {
    let file = load(&fixture(name).join("model.onnx"), &Limits::default()).unwrap();
    let mut model = import(file.model).unwrap();
    model.graph.freeze_defaults();
    if model.opset() < 13 {
        raise::raise(&mut model, 13).unwrap();
    }
    infer::infer(&mut model.graph);
    let evaluator = Interpreter::new(onnx_shrink_exec::Options::default());
    let mut cx = Context::new(Options { verify_each: true, ..Options::default() }, &evaluator);
    pipeline::run_lossless(&mut model.graph, &mut cx).unwrap();
    let samples = Samples::open(calib(name).as_str(), &model.graph, &SampleOptions::default()).unwrap();
    let samples = samples.subset(&(0..count).collect::<Vec<_>>());
    let calibration = calibrate(&model.graph, &evaluator, &samples, &[], &|_| {}).unwrap();
    let units = find_units(&model.graph, &calibration, &ORT_CPU);
    let integer = vec![true; units.units.len()];
    let pass =
        InsertQdq { calibration: &calibration, calibrator: Calibrator::MinMax, units: &units, integer: &integer };
    cx.run(&pass, &mut model.graph).unwrap();
    drop(cx);
    Pairs { model, samples, evaluator }
}

impl Pairs {
    /// The model after `pass`.
    fn written(&self, pass: &dyn Pass) -> Model {
        let mut model = self.model.detached();
        let mut cx = Context::new(Options { verify_each: true, ..Options::default() }, &self.evaluator);
        cx.run(&LayoutInU8, &mut model.graph).unwrap();
        cx.run(pass, &mut model.graph).unwrap();
        model.graph.sweep();
        infer::infer(&mut model.graph);
        let broken: Vec<String> = verify::verify(&model).iter().map(ToString::to_string).collect();
        assert_eq!(broken, [""; 0]);
        model
    }

    /// Every value that `graph` has on sample `index`, by name.
    fn values(&self, graph: &Graph, index: usize) -> BTreeMap<String, Tensor> {
        let mut values = BTreeMap::new();
        let inputs = self.samples.get(index).unwrap().inputs;
        let ready = self.evaluator.prepare(graph).unwrap();
        let mut keep = |value, tensor: &Tensor| {
            values.insert(graph.name_of(value).to_owned(), tensor.clone());
        };
        ready.run(&inputs, &mut keep).unwrap();
        values
    }
}

const FROZEN: ToInteger = ToInteger { requantize: Requantize::Frozen, bits: 32 };
const SHRINK: ToInteger = ToInteger { requantize: Requantize::Shrink, bits: 32 };

fn integers(tensor: &Tensor) -> Vec<i64> {
    tensor.to_i64_vec().unwrap()
}

/// Computes `written` op by op, each from the values that the pairs have; values of one name are compared: 8 bits within one
/// step, floats to 1e-4 of the largest. Gives the numbers of 8-bit values compared, and of those that differ.
fn op_by_op(pairs: &Pairs, written: &Graph, index: usize) -> (usize, usize) {
    let reference = pairs.values(&pairs.model.graph, index);
    let mut values: BTreeMap<String, Tensor> = reference.clone();
    let (mut compared, mut different) = (0, 0);
    for op in written.ops() {
        let node = written.op(op);
        if !node.regions().is_empty() {
            continue; // its values are those of the pairs
        }
        let tensor = |input: &Option<_>| {
            input.map(|input| match written.constant(input) {
                Some(tensor) => tensor.clone(),
                None => values[written.name_of(input)].clone(),
            })
        };
        let inputs: Vec<Option<Tensor>> = node.inputs().iter().map(tensor).collect();
        let outputs = pairs.evaluator.op(written, op, &inputs).unwrap();
        for (output, found) in node.outputs().iter().zip(outputs) {
            let (Some(output), Some(found)) = (output, found) else { continue };
            let name = written.name_of(*output);
            let Some(expected) = reference.get(name).filter(|expected| expected.dtype() == found.dtype()) else {
                values.insert(name.to_owned(), found);
                continue;
            };
            assert_eq!(expected.dims(), found.dims(), "{name}");
            if found.dtype() == DataType::Uint8 {
                for (a, b) in integers(expected).into_iter().zip(integers(&found)) {
                    assert!((a - b).abs() <= 1, "{name}: {b}, not {a}");
                    compared += 1;
                    different += usize::from(a != b);
                }
            } else if found.dtype() == DataType::Float {
                let (a, b) = (expected.to_f64_vec().unwrap(), found.to_f64_vec().unwrap());
                let largest = a.iter().fold(0f64, |largest, x| largest.max(x.abs()));
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-4 * largest), "{name}");
            }
        }
    }
    (compared, different)
}

#[test]
fn qoperator_and_frozen_integers_are_within_one_step_of_the_pairs_op_by_op() {
    let mut compared_in_all = 0;
    for name in FIXTURES {
        let pairs = pairs(name);
        for pass in [&ToQoperator as &dyn Pass, &FROZEN] {
            let written = pairs.written(pass);
            for index in 0..3 {
                let (compared, different) = op_by_op(&pairs, &written.graph, index);
                assert!(different * 1000 <= compared, "{name}: {}: {different} of {compared}", pass.name());
                compared_in_all += compared;
            }
        }
    }
    assert!(compared_in_all > 10_000, "{compared_in_all}");
}

/// Layers of `graph` by their ops in `graph`, as the pairs state them.
fn layers(graph: &Graph) -> Vec<OpId> {
    graph.ops().into_iter().filter(|op| layer_of(graph, *op).is_ok()).collect()
}

fn count(graph: &Graph, op_type: &str) -> usize {
    graph.ops_of(op_type).len()
}

#[test]
fn no_float_stands_between_two_integer_layers() {
    for name in ["digits_cnn", "digits_mobile", "digits_mlp"] {
        let pairs = pairs(name);
        let layers = layers(&pairs.model.graph).len();
        let written = pairs.written(&FROZEN).graph;
        assert_eq!(count(&written, "ConvInteger") + count(&written, "MatMulInteger"), layers, "{name}");
        assert_eq!(count(&written, "Conv") + count(&written, "Gemm") + count(&written, "MatMul"), 0, "{name}");
        let in_8_bits = ["QuantizeLinear", "Cast", "MaxPool", "Reshape", "Flatten"];
        for op in written.ops_of("ConvInteger").into_iter().chain(written.ops_of("MatMulInteger")) {
            let from = written.op(op).input(0).and_then(|x| written.producer(x)).unwrap();
            assert!(in_8_bits.contains(&written.op(from).op_type()), "{name}: {}", written.op(from).op_type());
        }
        for op in written.ops_of("Relu").into_iter().chain(written.ops_of("Clip")) {
            let from = written.op(op).input(0).and_then(|x| written.producer(x)).unwrap();
            let own = matches!(written.op(from).op_type(), "Add" | "Round");
            assert!(own, "{name}: the activation of a layer is in its clamp");
        }
        for op in written.ops_of("MaxPool").into_iter().chain(written.ops_of("Reshape")) {
            let y = written.op(op).output(0).and_then(|y| written.ty(y)).unwrap();
            assert_eq!(y.dtype, DataType::Uint8, "{name}: layout ops run on 8 bits");
        }
    }
}

#[test]
fn sums_stay_within_the_bits_that_are_proven() {
    for name in FIXTURES {
        let pairs = pairs(name);
        let graph = &pairs.model.graph;
        let bits: BTreeMap<String, u32> = layers(graph)
            .into_iter()
            .map(|op| (graph.label_of(op).to_owned(), layer_of(graph, op).unwrap().bound(graph).unwrap().bits()))
            .collect();
        let written = pairs.written(&FROZEN).graph;
        let values = pairs.values(&written, 0);
        for op in written.ops_of("ConvInteger").into_iter().chain(written.ops_of("MatMulInteger")) {
            let Some(bits) = bits.get(written.label_of(op)) else { continue };
            let sums = integers(&values[written.name_of(written.op(op).output(0).unwrap())]);
            let limit = 1i64 << (bits - 1);
            assert!(sums.iter().all(|sum| (-limit..limit).contains(sum)), "{name}: {bits} bits");
            assert!((16..=24).contains(bits), "{name}: {bits} bits");
        }
    }
}

#[test]
fn a_layer_whose_sums_could_overflow_is_split_over_its_input_channels() {
    let pairs = pairs("digits_cnn");
    let whole = pairs.written(&FROZEN).graph;
    let split = pairs.written(&ToInteger { requantize: Requantize::Frozen, bits: 18 }).graph;
    assert!(count(&split, "ConvInteger") > count(&whole, "ConvInteger"), "nothing was split");
    let (expected, found) = (pairs.values(&whole, 0), pairs.values(&split, 0));
    let mut compared = 0;
    for op in split.ops_of("ConvInteger").into_iter().chain(split.ops_of("MatMulInteger")) {
        let sums = &found[split.name_of(split.op(op).output(0).unwrap())];
        assert!(integers(sums).iter().all(|sum| (-(1 << 17)..1 << 17).contains(sum)));
    }
    for (name, a) in expected.iter().filter(|(_, tensor)| tensor.dtype() == DataType::Uint8) {
        let Some(b) = found.get(name) else { continue };
        assert_eq!(integers(a), integers(b), "{name}");
        compared += 1;
    }
    assert!(compared >= 4, "{compared}");
}

#[test]
fn a_shrunk_range_is_that_of_the_sums_by_the_rule_of_dynamic_quantize_linear() {
    let mut checked = 0;
    for name in FIXTURES {
        let pairs = pairs(name);
        let written = pairs.written(&SHRINK).graph;
        let values = pairs.values(&written, 1);
        for op in written.ops_of("DynamicQuantizeLinear") {
            let node = written.op(op);
            let value = |value: Option<_>| &values[written.name_of(value.unwrap())];
            let x = value(node.input(0)).as_slice::<f32>().unwrap().into_owned();
            let (low, high) = x.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
            let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
            let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
            let q: Vec<u8> = x.iter().map(|x| ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8).collect();
            assert_eq!(value(node.output(0)).as_slice::<u8>().unwrap(), q, "{name}");
            assert_eq!(value(node.output(1)).as_slice::<f32>().unwrap().to_vec(), [scale], "{name}");
            assert_eq!(value(node.output(2)).as_slice::<u8>().unwrap().to_vec(), [zero as u8], "{name}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked}");
}

/// √(Σ(b − a)²/Σa²) of the last output over all samples.
fn relative_error(pairs: &Pairs, float: &Graph, graph: &Graph) -> f64 {
    let (mut noise, mut signal) = (0.0, 0.0);
    for index in 0..pairs.samples.len() {
        let inputs = pairs.samples.get(index).unwrap().inputs;
        let outputs = |graph| pairs.evaluator.prepare(graph).unwrap().run(&inputs, &mut |_, _| {}).unwrap();
        let (a, b) = (outputs(float)[0].to_f64_vec().unwrap(), outputs(graph)[0].to_f64_vec().unwrap());
        signal += a.iter().map(|a| a * a).sum::<f64>();
        noise += a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    }
    (noise / signal).sqrt()
}

#[test]
fn shrunk_ranges_are_nearly_as_near_to_the_float_model_as_calibrated_ones() {
    for name in FIXTURES {
        let pairs = pairs_of(name, 100);
        let float = import(load(&fixture(name).join("model.onnx"), &Limits::default()).unwrap().model).unwrap().graph;
        let calibrated = relative_error(&pairs, &float, &pairs.model.graph);
        let shrunk = relative_error(&pairs, &float, &pairs.written(&SHRINK).graph);
        assert!(shrunk <= 1.1 * calibrated, "{name}: {shrunk}, with calibrated ranges {calibrated}");
    }
}

#[test]
fn no_pair_of_weights_can_saturate_in_any_form() {
    let mut checked = 0;
    for name in FIXTURES {
        let pairs = pairs(name);
        for pass in [&ToQoperator as &dyn Pass, &FROZEN, &SHRINK] {
            let graph = pairs.written(pass).graph;
            for op in graph.ops() {
                let node = graph.op(op);
                let (index, is_conv) = match node.op_type() {
                    "QLinearConv" => (3, true),
                    "QLinearMatMul" => (3, false),
                    "ConvInteger" => (1, true),
                    "MatMulInteger" => (1, false),
                    _ => continue,
                };
                let weight = graph.constant(node.input(index).unwrap()).unwrap();
                let middle = if weight.dtype() == DataType::Uint8 { 128.0 } else { 0.0 };
                let numbers = weight.to_f64().unwrap() - middle;
                let depthwise =
                    is_conv && numbers.shape()[1] == 1 && node.int("group") == Some(numbers.shape()[0] as i64);
                if depthwise {
                    continue;
                }
                let rows = if is_conv {
                    WeightLayout::Conv { groups: 1 }.rows(numbers, RowOrder::ChannelsLast).unwrap()
                } else {
                    numbers.into_dimensionality::<ndarray::Ix2>().unwrap().reversed_axes()
                };
                let integers = rows.mapv(|w| w as i8);
                let scales = vec![1.0; integers.nrows()];
                assert_eq!(QuantizedRows { integers, scales }.saturating_pairs(), 0, "{name}: {}", node.op_type());
                checked += 1;
            }
        }
    }
    assert!(checked >= 30, "{checked}");
}

// ---- the binary

fn report(name: &str, more: &[&str]) -> (Vec<u8>, Value) {
    let folder = folder_of(name);
    let data = calib(name);
    let arguments = ["in.onnx", "-o", "out.onnx", "--int8", "--data", &data, "--report", "r.json"];
    let run = run(folder.path(), &[&arguments, more].concat());
    assert_eq!(run.code, 0, "{name} {more:?}: {}", run.stderr);
    let report = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    (fs::read(folder.path().join("out.onnx")).unwrap(), report)
}

#[test]
fn each_form_is_written_and_told() {
    let forms: [(&[&str], &str); 3] = [
        (&["--format", "qoperator"], "QLinearConv"),
        (&["--format", "integer"], "ConvInteger"),
        (&["--format", "integer", "--requantize", "shrink"], "DynamicQuantizeLinear"),
    ];
    let (_, as_pairs) = report("digits_cnn", &["--calibrate", "minmax"]);
    for (arguments, op) in forms {
        let arguments = [arguments, &["--calibrate", "minmax"]].concat();
        let (bytes, written) = report("digits_cnn", &arguments);
        assert!(bytes == report("digits_cnn", &[&arguments[..], &["--threads", "1"]].concat()).0, "other bytes");
        assert!(written["output"]["ops"][op].as_u64().unwrap() >= 3, "{arguments:?}: {}", written["output"]["ops"]);
        let fates = |report: &Value| {
            let layers = report["layers"].as_array().unwrap().iter();
            layers.map(|layer| (layer["name"].clone(), layer["fate"].clone())).collect::<Vec<_>>()
        };
        assert_eq!(fates(&written), fates(&as_pairs), "{arguments:?}: the form decides nothing else");
        for layer in written["layers"].as_array().unwrap() {
            let bits = layer["accumulator_bits"].as_u64();
            assert_eq!(bits.is_some(), layer["fate"] == "integer", "{layer}");
            assert!(bits.is_none_or(|bits| (16..=32).contains(&bits)), "{layer}");
        }
    }
}

#[test]
fn dynamic_layers_need_no_samples_and_are_told() {
    for name in ["digits_mlp", "digits_attention"] {
        let folder = folder_of(name);
        let small = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--report", "r.json"]);
        assert_eq!(small.code, 0, "{}", small.stderr);
        let read = || -> Value { serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap() };
        let plain = read();
        // Layers so small do not pay, and the report says so, each with its figures.
        assert_eq!(plain["output"]["ops"].get("MatMulInteger"), None, "{name}");
        let misses = plain["journal"].as_array().unwrap().iter().filter(|entry| entry["pass"] == "dynamic-int8");
        let reasons: Vec<&str> = misses.map(|entry| entry["reason"].as_str().unwrap()).collect();
        assert!(reasons.len() >= 3 && reasons.iter().all(|reason| reason.contains("does not pay")), "{reasons:?}");

        let dynamic = run(folder.path(), &["in.onnx", "-o", "out.onnx", "--int8", "--dynamic", "--report", "r.json"]);
        assert_eq!(dynamic.code, 0, "{}", dynamic.stderr);
        let all = read();
        let count = all["output"]["ops"]["MatMulInteger"].as_u64().unwrap();
        assert_eq!(count as usize, reasons.len(), "{name}");
        assert!(all["quantized"]["outputs"][0]["rel_l2"].as_f64().unwrap() < 0.05, "{name}");
        assert!(dynamic.text().contains(&format!("{count} layers run in 8 bits with ranges of each run")), "{name}");
    }
    // With samples they stand among the layers.
    let (_, told) = report("digits_attention", &["--dynamic"]);
    let layers = told["layers"].as_array().unwrap();
    let dynamic = layers.iter().filter(|layer| layer["fate"] == "dynamic");
    assert_eq!(dynamic.clone().count() as u64, told["output"]["ops"]["MatMulInteger"].as_u64().unwrap());
    assert!(dynamic.clone().count() >= 5);
    for layer in dynamic {
        let (before, after) = (layer["bytes_before"].as_u64().unwrap(), layer["bytes_after"].as_u64().unwrap());
        assert!(after * 2 < before, "{layer}");
    }
    assert!(told["gates"].as_array().unwrap().iter().all(|gate| gate["passed"] == true));
}

#[test]
fn what_the_user_keeps_in_float_is_not_dynamic() {
    let (_, all) = report("digits_mlp", &["--dynamic"]);
    let (_, kept) = report("digits_mlp", &["--dynamic", "--keep-float", "Gemm"]);
    assert!(all["output"]["ops"]["MatMulInteger"].as_u64().unwrap() >= 3);
    assert_eq!(kept["output"]["ops"].get("MatMulInteger"), None);
}

#[test]
fn a_form_without_what_it_needs_is_a_mistake_on_the_command_line() {
    let folder = folder_of("digits_cnn");
    let data = calib("digits_cnn");
    for (arguments, part) in [
        (&["--format", "integer"][..], "--int8"),
        (&["--dynamic"], "--int8"),
        (
            &["--int8", "--data", &data, "--format", "integer", "--target", "tensorrt"],
            "the target tensorrt runs other forms in integers",
        ),
        (&["--int8", "--format", "qoperator"], "--data"),
        (&["--int8", "--data", &data, "--requantize", "shrink"], "--format integer"),
    ] {
        let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx"], arguments].concat());
        assert_eq!(run.code, 2, "{arguments:?}");
        assert!(run.error().contains(part), "{}", run.error());
    }
}

/// A Relu that the calibrated range of a pair implies is gone from the pairs of `--place wrap`; where each run finds the range,
/// nothing implies it.
#[test]
fn ranges_of_each_run_do_not_lose_the_activations_that_calibrated_ones_imply() {
    let error = |report: &Value| report["quantized"]["outputs"][0]["rel_l2"].as_f64().unwrap();
    for name in ["digits_cnn", "digits_mobile", "digits_mlp"] {
        let wrap = ["--place", "wrap", "--calibrate", "minmax"];
        let (_, pairs) = report(name, &wrap);
        let (_, shrunk) = report(name, &[&wrap[..], &["--format", "integer", "--requantize", "shrink"]].concat());
        assert!(error(&shrunk) <= 1.5 * error(&pairs) + 0.005, "{name}: {} of {}", error(&shrunk), error(&pairs));
    }
}
