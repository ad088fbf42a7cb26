//! The rules of engines that a quantized file must keep, checked on the file alone: another implementation than the one
//! that made it.
use std::fs;

use ndarray::ArrayD;
use onnx_shrink_ir::{
    DataType, Graph, Model, Op, OpId, Use, ValueId, import,
    proto::{Limits, load},
    verify::{new_violations, same_interface, verify},
};

use crate::support::{FIXTURES, calib, fixture, folder_of, run};

/// The model that `--int8` writes for the fixture `name`.
fn quantized(name: &str, with_data: bool) -> Model {
    let data = calib(name);
    let with = ["--data", data.as_str()];
    quantized_with(name, if with_data { &with[..] } else { &[] })
}

/// The model that `--int8` writes for the fixture `name` with more arguments.
pub fn quantized_with(name: &str, more: &[&str]) -> Model {
    let folder = folder_of(name);
    let arguments = [&["in.onnx", "-o", "out.onnx", "--int8", "--quiet"], more].concat();
    let run = run(folder.path(), &arguments);
    assert_eq!(run.code, 0, "{name}: {}", run.stderr);
    // Read whole: the folder goes.
    let bytes = fs::read(folder.path().join("out.onnx")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    import(load(file.path(), &Limits::default()).unwrap().model).unwrap()
}

/// The op behind input `index` of `op`, if it is a DequantizeLinear.
pub fn dequantize(graph: &Graph, op: &Op, index: usize) -> Option<OpId> {
    let from = graph.producer(op.input(index)?)?;
    graph.op(from).is("DequantizeLinear").then_some(from)
}

/// Conv, Gemm and MatMul whose two operands are dequantized: what engines run in integers, with the weight's integers and
/// scales.
pub fn integer_ops(graph: &Graph) -> Vec<(OpId, OpId, OpId)> {
    let is_linear = |op: &OpId| ["Conv", "Gemm", "MatMul"].contains(&graph.op(*op).op_type());
    let ends = |op: OpId| Some((op, dequantize(graph, graph.op(op), 0)?, dequantize(graph, graph.op(op), 1)?));
    graph.ops().into_iter().filter(is_linear).filter_map(ends).collect()
}

pub fn numbers(graph: &Graph, value: Option<ValueId>) -> ArrayD<f64> {
    graph.constant(value.unwrap()).unwrap().to_f64().unwrap()
}

/// The weight's integers, a row per output channel, in the order in which kernels add products: over kernel positions,
/// channels fastest. `None` for depthwise filters with one filter a channel, whose products meet nowhere.
pub fn reduction_rows(op: &Op, weight: &ArrayD<f64>) -> Option<Vec<Vec<i64>>> {
    let dims = weight.shape();
    let at = |index: &[usize]| weight[index] as i64;
    if op.op_type().contains("Conv") {
        let (filters, channels, taps) = (dims[0], dims[1], dims[2..].iter().product::<usize>());
        if channels == 1 && op.int("group").unwrap_or(1) as usize == filters {
            return None;
        }
        let flat: Vec<i64> = weight.iter().map(|w| *w as i64).collect();
        let row = |filter: usize| {
            let position = move |tap: usize| move |channel: usize| (filter * channels + channel) * taps + tap;
            (0..taps).flat_map(|tap| (0..channels).map(position(tap))).map(|place| flat[place]).collect()
        };
        return Some((0..filters).map(row).collect());
    }
    let by_column = op.op_type().contains("MatMul") || op.int("transB").unwrap_or(0) == 0;
    let (rows, columns) = if by_column { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
    let place = |row: usize, column: usize| if by_column { at(&[column, row]) } else { at(&[row, column]) };
    Some((0..rows).map(|row| (0..columns).map(|column| place(row, column)).collect()).collect())
}

pub fn graphs_with_bodies(graph: &Graph) -> Vec<&Graph> {
    let mut all = vec![graph];
    let mut next = 0;
    while next < all.len() {
        let graph = all[next];
        all.extend(graph.ops().into_iter().flat_map(|op| graph.op(op).regions()).map(|region| &region.graph));
        next += 1;
    }
    all
}

#[test]
fn what_is_written_can_be_read_and_keeps_the_invariants_and_the_interface() {
    for name in FIXTURES {
        let before = import(load(&fixture(name).join("model.onnx"), &Limits::default()).unwrap().model).unwrap();
        for with_data in [true, false] {
            let after = quantized(name, with_data);
            let violations =
                [verify(&after), new_violations(&before, &after), same_interface(&before, &after)].concat();
            let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
            assert_eq!(violations, [""; 0], "{name}");
        }
    }
}

/// Pairs of neighbouring weights that meet in 16 bits, and those of them that can leave these.
pub fn saturating_pairs(graph: &Graph) -> (usize, usize) {
    let (mut all, mut bad) = (0, 0);
    for (op, _, weight) in integer_ops(graph) {
        let weight = graph.constant(graph.op(weight).input(0).unwrap()).unwrap();
        assert_eq!(weight.dtype(), DataType::Int8, "{}", graph.label_of(op));
        for row in reduction_rows(graph.op(op), &weight.to_f64().unwrap()).unwrap_or_default() {
            all += row.chunks_exact(2).count();
            bad += row.chunks_exact(2).filter(|pair| !(-128..=128).contains(&(pair[0] + pair[1]))).count();
        }
    }
    (all, bad)
}

#[test]
fn no_pair_of_weights_can_saturate() {
    let mut checked = 0;
    for name in FIXTURES {
        let model = quantized(name, true);
        for graph in graphs_with_bodies(&model.graph) {
            let (all, bad) = saturating_pairs(graph);
            assert_eq!(bad, 0, "{name}");
            checked += all;
        }
    }
    assert!(checked > 1000, "{checked} pairs: nothing was checked");
}

#[test]
fn pairs_that_saturate_are_seen() {
    // Over kernel positions, channels fastest: 100 and 90 meet, 1 and 2 do. Along the columns of a matrix 70 and 70 do.
    let source = r#"
g (uint8[1,2,1,2] x, uint8[1,2] a) => (float[1,1,1,1] y, float[1,2] b)
<float s = {1}, uint8 z = {0}, int8[1,2,1,2] w = {100, 1, 90, 2}, int8[2,2] m = {70, 1, 70, 1}, int8 zero = {0}> {
  xd = DequantizeLinear (x, s, z)
  wd = DequantizeLinear (w, s, zero)
  y = Conv (xd, wd)
  ad = DequantizeLinear (a, s, z)
  md = DequantizeLinear (m, s, zero)
  b = MatMul (ad, md)
}"#;
    assert_eq!(saturating_pairs(&onnx_shrink_ir::testing::parse_graph(source)), (4, 2));
    let depthwise = r#"
g (uint8[1,2,1,2] x) => (float[1,2,1,1] y) <float s = {1}, uint8 z = {0}, int8[2,1,1,2] w = {100, 100, 90, 90}> {
  xd = DequantizeLinear (x, s, z)
  wd = DequantizeLinear (w, s)
  y = Conv <group = 2> (xd, wd)
}"#;
    assert_eq!(saturating_pairs(&onnx_shrink_ir::testing::parse_graph(depthwise)), (0, 0));
}

#[test]
fn a_bias_has_the_scale_of_the_accumulator() {
    let mut checked = 0;
    for name in FIXTURES {
        let model = quantized(name, true);
        let graph = &model.graph;
        for (op, x, w) in integer_ops(graph) {
            let Some(bias) = dequantize(graph, graph.op(op), 2) else {
                assert!(graph.op(op).input(2).is_none(), "{name}: {} has a float bias", graph.label_of(op));
                continue;
            };
            let integers = graph.constant(graph.op(bias).input(0).unwrap()).unwrap();
            assert_eq!(integers.dtype(), DataType::Int32, "{name}");
            let scale =
                |op: OpId| numbers(graph, graph.op(op).input(1)).into_iter().map(|s| s as f32).collect::<Vec<f32>>();
            let (x, w, bias) = (scale(x), scale(w), scale(bias));
            assert_eq!(x.len(), 1, "{name}: activations are quantized per tensor");
            let wanted: Vec<f32> = w.iter().map(|w| x[0] * w).collect();
            assert_eq!(bias, wanted, "{name}: {}", graph.label_of(op));
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked} biases");
}

#[test]
fn the_output_of_an_integer_convolution_goes_to_one_quantize_and_nowhere_else() {
    let mut checked = 0;
    for name in FIXTURES {
        let model = quantized(name, true);
        let graph = &model.graph;
        for (op, ..) in integer_ops(graph).into_iter().filter(|(op, ..)| graph.op(*op).is("Conv")) {
            let mut end = graph.op(op).output(0).unwrap();
            if let Some((next, 0)) = graph.only_use(end)
                && (graph.op(next).is("Relu") || graph.op(next).is("Clip"))
            {
                end = graph.op(next).output(0).unwrap();
            }
            let uses = graph.uses(end);
            let [Use::Input(reader, 0)] = uses[..] else { panic!("{name}: {}: {uses:?}", graph.label_of(op)) };
            assert!(graph.op(reader).is("QuantizeLinear"), "{name}: {}", graph.label_of(op));
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked} convolutions");
}

#[test]
fn quantize_and_dequantize_come_in_pairs_with_equal_parameters() {
    for name in FIXTURES {
        let model = quantized(name, true);
        let graph = &model.graph;
        for op in graph.ops_of("QuantizeLinear") {
            let quantize = graph.op(op);
            assert_eq!(graph.constant(quantize.input(2).unwrap()).unwrap().dtype(), DataType::Uint8, "{name}");
            let scale = graph.constant(quantize.input(1).unwrap()).unwrap().to_scalar_f64().unwrap();
            assert!(scale.is_normal() && scale > 0.0, "{name}: {scale}");
            let readers = graph.uses(quantize.output(0).unwrap());
            assert!(!readers.is_empty(), "{name}: {} is read by nobody", graph.label_of(op));
            for reader in readers {
                let Use::Input(reader, 0) = reader else { panic!("{name}: {reader:?}") };
                let reader = graph.op(reader);
                assert!(reader.is("DequantizeLinear"), "{name}: {}", reader.op_type());
                for parameter in [1, 2] {
                    let (ours, theirs) =
                        (numbers(graph, quantize.input(parameter)), numbers(graph, reader.input(parameter)));
                    let ours = ours.first().copied().unwrap();
                    assert!(theirs.iter().all(|theirs| *theirs == ours), "{name}: {}", graph.label_of(op));
                }
            }
        }
    }
}
