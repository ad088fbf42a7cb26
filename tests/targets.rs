//! Each target's files hold its row: read from the written file, by other code than wrote it.
use onnx_shrink_ir::{DataType, Graph, Op, OpId, Use, ValueId};
use onnx_shrink_passes::{
    quantize::weights::Pairing,
    target::{Bias, Ends, Places, TARGETS, Target},
};

use crate::{
    int8_graph::{dequantize, integer_ops, numbers, quantized_with, saturating_pairs},
    support::{calib, folder, run},
};

/// Fixtures with a convolution and a residual Add, a depthwise one, products of activations, and layers that no target
/// runs in integers.
const CHECKED: [&str; 4] = ["digits_cnn", "digits_mobile", "digits_attention", "digits_gru"];

fn constant(graph: &Graph, value: Option<ValueId>) -> &onnx_shrink_ir::Tensor {
    graph.constant(value.expect("an input")).expect("a constant")
}

fn is_power_of_two(x: f64) -> bool {
    x > 0.0 && x.log2().fract() == 0.0
}

/// Every Quantize and Dequantize: types, zero points, scales.
fn pairs_hold(target: &Target, graph: &Graph) {
    for op in graph.ops() {
        let node = graph.op(op);
        if !node.op_type().ends_with("uantizeLinear") {
            continue;
        }
        let at = format!("{}: {}", target.name, graph.label_of(op));
        let scales = numbers(graph, node.input(1));
        assert!(scales.iter().all(|scale| scale.is_finite() && *scale > 0.0), "{at}");
        assert!(!target.power_of_two || scales.iter().all(|scale| is_power_of_two(*scale)), "{at}: {scales:?}");
        if !node.is("QuantizeLinear") {
            continue;
        }
        let zero = constant(graph, node.input(2));
        assert_eq!(zero.dtype(), target.activations, "{at}");
        let middle = if target.activations == DataType::Int8 { 0.0 } else { 128.0 };
        assert!(!target.symmetric || zero.to_scalar_f64() == Some(middle), "{at}: {zero:?}");
        assert_eq!(scales.ndim(), 0, "{at}: activations have one scale");
        let from = node.input(0).and_then(|value| graph.producer(value)).map(|op| graph.op(op));
        if let Some((_, scale, zero_point)) = target.fixed.iter().find(|(name, ..)| from.is_some_and(|op| op.is(name)))
        {
            assert_eq!(
                (scales.first().copied(), zero.to_scalar_f64()),
                (Some(f64::from(*scale)), Some(f64::from(*zero_point))),
                "{at}"
            );
        }
    }
}

/// Weights and biases of the integer layers; how many there are.
fn layers_hold(target: &Target, graph: &Graph) -> usize {
    let layers: Vec<(OpId, OpId, OpId)> = integer_ops(graph)
        .into_iter()
        .filter(|(.., w)| graph.op(*w).input(0).is_some_and(|integers| graph.constant(integers).is_some()))
        .collect();
    for &(op, x, w) in &layers {
        let at = format!("{}: {}", target.name, graph.label_of(op));
        let (layer, weight) = (graph.op(op), graph.op(w));
        assert!(target.has(layer.op_type()), "{at}");
        assert_eq!(constant(graph, weight.input(0)).dtype(), target.weights, "{at}");
        let zero = if target.weights == DataType::Uint8 { 128.0 } else { 0.0 };
        match weight.input(2) {
            Some(_) => assert!(numbers(graph, weight.input(2)).iter().all(|z| *z == zero), "{at}"),
            None => assert_eq!(zero, 0.0, "{at}"),
        }
        let scales = numbers(graph, weight.input(1));
        assert_eq!(scales.ndim(), usize::from(target.per_channel), "{at}: {scales:?}");
        let bias = layer.input(2);
        match target.bias {
            Bias::Float => assert!(bias.is_none_or(|bias| graph.constant(bias).is_some()), "{at}: a bias in integers"),
            Bias::Int32 if bias.is_some() => {
                let bias = graph.op(dequantize(graph, layer, 2).unwrap_or_else(|| panic!("{at}: a float bias")));
                assert_eq!(constant(graph, bias.input(0)).dtype(), DataType::Int32, "{at}");
                let x = numbers(graph, graph.op(x).input(1)).first().copied().unwrap() as f32;
                let wanted: Vec<f32> = scales.iter().map(|w| x * *w as f32).collect();
                let found: Vec<f32> = numbers(graph, bias.input(1)).iter().map(|s| *s as f32).collect();
                assert_eq!(found, wanted, "{at}");
            }
            Bias::Int32 => {}
        }
        ends_hold(target, graph, layer, &at);
    }
    layers.len()
}

/// What a layer's output goes to: one Quantize, unless the kernel may write floats.
fn ends_hold(target: &Target, graph: &Graph, layer: &Op, at: &str) {
    let mut end = layer.output(0).unwrap();
    let mut activation = false;
    while let Some((next, _)) = graph.only_use(end)
        && (["Relu", "Clip"].iter().any(|name| graph.op(next).is(name))
            || layer.is("MatMul") && graph.op(next).is("Add"))
    {
        activation |= !graph.op(next).is("Add");
        end = graph.op(next).output(0).unwrap();
    }
    let may_be_float = match target.ends {
        Ends::Never => false,
        Ends::Linear => !layer.is("Conv") && !activation,
        Ends::Weighted => true,
    };
    let uses = graph.uses(end);
    let quantized = |place: &Use| matches!(place, Use::Input(op, 0) if graph.op(*op).is("QuantizeLinear"));
    assert!(may_be_float || uses.len() == 1 && quantized(&uses[0]), "{at}: {uses:?}");
}

/// Where nothing may run in float: no op reads or makes a float tensor that is not dequantized or quantized at once.
fn every_tensor_is_quantized(target: &Target, graph: &Graph) {
    let is_float = |value: ValueId| graph.ty(value).is_some_and(|ty| ty.dtype == DataType::Float);
    for op in graph.ops() {
        let node = graph.op(op);
        let recurrent = ["GRU", "LSTM", "RNN", "Cast", "Mul"].contains(&node.op_type());
        if node.op_type().ends_with("uantizeLinear") || recurrent {
            continue; // Recurrent layers have no integer form anywhere; Cast and Mul store their weights.
        }
        for value in
            node.inputs().iter().flatten().filter(|value| graph.constant(**value).is_none() && is_float(**value))
        {
            let from = graph.producer(*value).expect("no float input is read as it is");
            let inside = node.is("Relu") || node.is("Clip") || node.is("Add");
            let ok = graph.op(from).is("DequantizeLinear") || inside && graph.only_use(*value).is_some();
            assert!(ok, "{}: {} reads float", target.name, graph.label_of(op));
        }
    }
}

#[test]
fn each_file_holds_the_row_of_its_target() {
    for target in &TARGETS {
        let mut layers = 0;
        for name in CHECKED {
            let data = calib(name);
            let model = quantized_with(name, &["--data", &data, "--target", target.name]);
            let graph = &model.graph;
            pairs_hold(target, graph);
            layers += layers_hold(target, graph);
            if target.pairing == Pairing::Neighbours {
                assert_eq!(saturating_pairs(graph).1, 0, "{}: {name}", target.name);
            }
            if target.places == Places::EveryTensor {
                every_tensor_is_quantized(target, graph);
            }
            if target.places == Places::Nothing {
                assert!(graph.ops_of("QuantizeLinear").is_empty(), "{}: {name}", target.name);
            }
            if !target.stores {
                let stored = |op: &OpId| constant_input(graph, graph.op(*op)) && graph.op(*op).is("Cast");
                assert!(!graph.ops().iter().any(stored), "{}: {name}", target.name);
            }
        }
        let least = match target.places {
            Places::Nothing => 0,
            Places::Cheapest(_) => 3,
            Places::All | Places::EveryTensor => 20,
        };
        assert!(layers >= least, "{}: {layers} layers", target.name);
    }
}

fn constant_input(graph: &Graph, op: &Op) -> bool {
    op.input(0).is_some_and(|value| graph.constant(value).is_some())
}

#[test]
fn help_prints_every_target_and_needs_no_input() {
    let folder = folder();
    let run = run(folder.path(), &["--target", "help"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let text = run.text();
    for target in &TARGETS {
        assert_eq!(text.lines().filter(|line| line.split_whitespace().next() == Some(target.name)).count(), 2);
    }
    assert!(text.starts_with("target ") && text.contains("ncnn ") && text.contains("RKNN "), "{text}");
}

#[test]
fn a_format_that_the_target_does_not_run_is_refused() {
    let folder = folder();
    let data = calib("digits_cnn");
    let arguments =
        ["in.onnx", "-o", "out.onnx", "--int8", "--data", &data, "--target", "openvino", "--format", "integer"];
    let run = run(folder.path(), &arguments);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.error().contains("the target openvino runs other forms in integers: qdq"), "{}", run.error());
}
