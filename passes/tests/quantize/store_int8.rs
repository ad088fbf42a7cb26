//! store-int8: what it writes, what it leaves alone, and the biases that take up the mean error.
use onnx_shrink_ir::{DataType, Graph, text, verify};
use onnx_shrink_passes::{
    Context, Options, Statistics,
    calibration::collect::calibrate,
    testing::{Reference, check, check_same, parse, run},
    weight_only::StoreInt8,
};

use crate::{before, constant, declare, end, numbers, only, ops, samples_of, tensor};

const BLIND: StoreInt8<'_> = StoreInt8 { calibration: None, halves: &[], least: None, twins: &[] };

/// Whole numbers from -127 to 127, each `row` of them with both ends.
fn integers(count: usize, row: usize) -> Vec<f64> {
    (0..count).map(|i| if i % row == 0 { 127.0 } else { (i * 37 % 255) as f64 - 127.0 }).collect()
}

/// `op` reads constant `k` of `dims`, which is a multiple of 2^-7: it is stored exactly, with scales of `scale_dims`.
fn is_stored(graph: &str, dims: &[usize], scale_dims: &[usize], row: usize) {
    let count: usize = dims.iter().product();
    let numbers = integers(count, row);
    // Rows along the reduced axis need their largest number: where that axis is not the last, the whole gets one.
    let weight = declare("float", "k", dims, numbers.iter().map(|q| q / 128.0));
    let graph = parse(&graph.replace("CONSTANTS", &weight)).graph;
    let mut stored = graph.detached();
    run(&BLIND, &mut stored, Options::default());
    let (cast, product) = (only(&stored, "Cast"), only(&stored, "Mul"));
    assert_eq!(tensor(&stored, cast, 0).dtype(), DataType::Int8);
    assert_eq!(tensor(&stored, cast, 0).dims(), dims);
    assert_eq!(tensor(&stored, product, 1).dims(), scale_dims);
    assert!(before(&stored, product, 0).is("Cast"));
    let again = text::print_graph(&stored);
    run(&BLIND, &mut stored, Options::default());
    assert_eq!(text::print_graph(&stored), again, "a second run changes nothing");
    // Each number is within half a step of what it was.
    let (q, scales) =
        (tensor(&stored, only(&stored, "Cast"), 0).to_f64().unwrap(), tensor(&stored, only(&stored, "Mul"), 1));
    let scales = scales.to_f64().unwrap();
    let scales = scales.broadcast(q.raw_dim()).unwrap();
    let wanted = graph.constant(graph.find("k").unwrap()).unwrap().to_f64().unwrap();
    for ((q, scale), wanted) in q.iter().zip(scales.iter()).zip(wanted.iter()) {
        assert!((q * scale - wanted).abs() <= 0.50001 * scale);
    }
}

#[test]
fn weights_get_scales_along_their_outputs() {
    let model = |x: &str, y: &str, op: &str| format!("g (float[{x}] x) => (float[{y}] y) <CONSTANTS> {{ y = {op} }}");
    is_stored(&model("1,16,2,2", "1,8,2,2", "Conv (x, k)"), &[8, 16, 1, 1], &[8, 1, 1, 1], 16);
    is_stored(&model("1,8,2,2", "1,16,2,2", "ConvTranspose (x, k)"), &[8, 16, 1, 1], &[1, 16, 1, 1], 16);
    is_stored(&model("2,32", "2,16", "Gemm (x, k)"), &[32, 16], &[1, 16], 16);
    is_stored(&model("2,32", "2,16", "Gemm <transB = 1> (x, k)"), &[16, 32], &[16, 1], 32);
    is_stored(&model("2,32", "2,16", "MatMul (x, k)"), &[32, 16], &[1, 16], 16);
    is_stored(&model("2,2,16", "2,2,16", "MatMul (x, k)"), &[2, 16, 16], &[2, 1, 16], 16);
    is_stored(&model("1,32,4", "1,32,4", "Add (x, k)"), &[32, 4], &[], 4); // a table, exactly
}

#[test]
fn a_table_gets_a_scale_a_row() {
    let model = "g (int64[3] i) => (float[3,32] y) <CONSTANTS> { y = Gather (k, i) }";
    is_stored(model, &[16, 32], &[16, 1], 32);
}

#[test]
fn the_weights_of_a_recurrent_layer_are_stored() {
    let model = "g (float[3,1,16] x) => (float[3,1,1,4] y) <CONSTANTS, float[1,16,4] r = {R}>
        { y, h, c = LSTM <hidden_size = 4> (x, k, r) }";
    let zeros = vec!["0.5"; 64].join(", ");
    is_stored(&model.replace("{R}", &format!("{{{zeros}}}")), &[1, 16, 16], &[1, 16, 1], 16);
}

#[test]
fn the_text_of_a_stored_weight() {
    let q = integers(128, 16);
    let model = |constants: String, ops: &str| {
        format!("g (float[1,16,2,2] x) => (float[1,8,2,2] y) <{constants}> {{ {ops}  y = Conv (x, K) }}")
    };
    let weight = declare("float", "k", &[8, 16, 1, 1], q.iter().map(|q| q / 128.0));
    let stored = declare("int8", "w", &[8, 16, 1, 1], q.iter().copied());
    let scales = declare("float", "s", &[8, 1, 1, 1], [1.0 / 128.0; 8]);
    check(
        &BLIND,
        &model(weight, "").replace('K', "k"),
        &model(format!("{stored}, {scales}"), "c = Cast <to = 1> (w)  m = Mul (c, s)").replace('K', "m"),
    );
}

#[test]
fn two_valued_constants_are_stored_exactly() {
    let bits: Vec<f64> = (0..144).map(|i| f64::from(i % 12 > i / 12)).collect();
    let model = |constants: String, ops: &str| {
        format!("g (float[12,12] x) => (float[12,12] y) <{constants}> {{ {ops}  y = Add (x, m) }}")
    };
    let before =
        model(declare("float", "m", &[12, 12], bits.iter().map(|bit| if *bit == 0.0 { 0.0 } else { -0.37 })), "");
    let stored = declare("uint8", "w", &[12, 12], bits.iter().copied());
    let after = model(format!("{stored}, float s = {{-0.37}}"), "c = Cast <to = 1> (w)  mm = Mul (c, s)");
    check(&BLIND, &before.replace("x, m", "x, k").replace("] m =", "] k ="), &after.replace("mm", "m"));
}

#[test]
fn a_mask_of_minus_infinity_is_stored_exactly() {
    let declare_mask = |name: &str, ty: &str, masked: &str, open: &str| {
        let bits: Vec<&str> = (0..256).map(|k| if k % 3 == 0 { masked } else { open }).collect();
        format!("{ty}[16,16] {name} = {{{}}}", bits.join(", "))
    };
    let model =
        |constants: String, ops: &str| format!("g (float[16,16] x) => (float[16,16] y) <{constants}> {{ {ops} }}");
    check(
        &BLIND,
        &model(declare_mask("k", "float", "-inf", "0"), "y = Add (x, k)"),
        &model(declare_mask("w", "uint8", "0", "1"), "c = Cast <to = 1> (w)  m = Log (c)  y = Add (x, m)"),
    );
}

fn before_of<'g>(graph: &'g Graph, op: &onnx_shrink_ir::Op) -> &'g onnx_shrink_ir::Op {
    crate::before(graph, op, 0)
}

#[test]
fn the_smallest_constants_are_halves() {
    let model = format!(
        "g (float[2,128] x) => (float[2,8] y) <{}, {}> {{ h = MatMul (x, large)  y = MatMul (h, little) }}",
        constant("large", &[128, 64], 1.0),
        constant("little", &[64, 8], 1.0)
    );
    let mut graph = parse(&model).graph;
    run(&BLIND, &mut graph, Options::default());
    let [first, last] = ops(&graph, "MatMul")[..] else { panic!("two products") };
    assert!(before(&graph, first, 1).is("Mul"));
    let cast = before(&graph, last, 1);
    assert!(cast.is("Cast"));
    assert_eq!(tensor(&graph, cast, 0).dtype(), DataType::Float16);
}

#[test]
fn constants_of_bodies_are_stored_there() {
    let model = format!(
        "g (float[2,32] x, bool b) => (float[2,32] y) <{}> {{ h = MatMul (x, k)
        y = If (b) <then_branch = t () => (float[2,32] u) <{}> {{ u = MatMul (h, v) }},
                    else_branch = e () => (float[2,32] n) {{ n = MatMul (h, k) }}> }}",
        constant("k", &[32, 32], 1.0),
        constant("v", &[32, 32], 1.0)
    );
    let original = parse(&model);
    let mut stored = original.detached();
    run(&BLIND, &mut stored.graph, Options::default());
    let violations = verify::new_violations(&original, &stored);
    assert!(violations.is_empty(), "{violations:?}");
    let chosen = stored.graph.op(stored.graph.ops_of("If")[0]);
    let body = &chosen.region("then_branch").unwrap().graph;
    assert!(before(body, only(body, "MatMul"), 1).is("Mul"));
    assert!(before(&stored.graph, only(&stored.graph, "MatMul"), 1).is("Mul"));
    let body = &chosen.region("else_branch").unwrap().graph;
    assert!(only(body, "MatMul").input(1).is_some_and(|k| body.value(k).is_captured()), "one copy, outside");
}

/// A body numbers its values itself: the means of the main graph's are not theirs.
#[test]
fn a_body_takes_no_mean_from_the_main_graph() {
    let model = format!(
        "g (float[1,16,2,2] x, bool b) => (float[1,8,2,2] y) {{ h = Add (x, x)  i = Add (h, h)
        y = If (b) <then_branch = t () => (float[1,8,2,2] u) <{}> {{ n = Abs (i)  u = Conv (n, v) }},
                    else_branch = e () => (float[1,8,2,2] n) <{}> {{ m = Neg (i)  n = Conv (m, w) }}> }}",
        constant("v", &[8, 16, 1, 1], 1.0),
        constant("w", &[8, 16, 1, 1], 1.0)
    );
    let mut graph = parse(&model).graph;
    let calibration = calibrate(&graph, &Reference, &samples_of(&graph, 3), &[], &|_| {}).unwrap();
    run(
        &StoreInt8 { calibration: Some(&calibration), halves: &[], ..StoreInt8::default() },
        &mut graph,
        Options::default(),
    );
    for region in graph.op(graph.ops_of("If")[0]).regions() {
        let conv = only(&region.graph, "Conv");
        assert!(before(&region.graph, conv, 1).is("Mul"), "it is stored");
        assert_eq!(conv.inputs().len(), 2, "without a bias: nothing is known of its mean");
    }
}

#[test]
fn what_may_be_overridden_is_left() {
    check_same(
        &BLIND,
        &format!(
            "g (float[2,32] x, float[32,16] k) => (float[2,16] y) <{}> {{ y = MatMul (x, k) }}",
            constant("k", &[32, 16], 1.0)
        ),
    );
}

#[test]
fn a_constant_that_is_an_output_is_left() {
    check_same(
        &BLIND,
        &format!(
            "g (float[2,32] x) => (float[2,16] y, float[32,16] k) <{}> {{ y = MatMul (x, k) }}",
            constant("k", &[32, 16], 1.0)
        ),
    );
}

#[test]
fn what_quantize_and_dequantize_read_is_left() {
    for op in ["QuantizeLinear (k, s, z)", "DequantizeLinear (q, k, zz)"] {
        check_same(
            &BLIND,
            &format!(
                "g (uint8[32,16] q) => (float[32,16] y) <{}, float s = {{0.5}}, uint8 z = {{0}}, {}> {{ y = {op} }}",
                constant("k", &[32, 16], 1.0),
                declare("uint8", "zz", &[32, 16], vec![0.0; 512])
            ),
        );
    }
}

#[test]
fn before_opset_7_nothing_is_stored() {
    let graph =
        format!("g (float[2,32] x) => (float[2,16] y) <{}> {{ y = MatMul (x, k) }}", constant("k", &[32, 16], 1.0));
    check_same(&BLIND, &format!("<ir_version: 3, opset_import: [\"\" : 6]> {graph}"));
    let mut seven = parse(&format!("<ir_version: 3, opset_import: [\"\" : 7]> {graph}")).graph;
    run(&BLIND, &mut seven, Options::default());
    assert_eq!(seven.op_count(), 3);
}

#[test]
fn vectors_and_small_constants_are_left() {
    check_same(
        &BLIND,
        &format!(
            "g (float[2,256] x, float[2,8] z) => (float[2,256] y, float[2,8] t) <{}, {}> {{
            y = Add (x, v)  t = MatMul (z, k) }}",
            constant("v", &[256], 1.0),
            constant("k", &[8, 8], 1.0)
        ),
    );
}

/// The bias that `op` has, less the one it had, is what rounding takes from the mean.
fn takes_up(stored: &Graph, weight: &[f64], mean: f64, channels: usize, factor: f64) {
    let conv = end(stored, 0);
    let product = before(stored, conv, 1);
    let scales = numbers(stored, product, 1);
    let q = numbers(stored, before_of(stored, product), 0);
    let bias = numbers(stored, conv, 2);
    for m in 0..bias.len() {
        let shift: f64 = (0..channels).map(|c| weight[m * channels + c] - q[m * channels + c] * scales[m]).sum();
        assert!((bias[m] - factor * mean * shift).abs() < 1e-6, "{} {}", bias[m], mean * shift);
    }
    assert!(bias.iter().any(|b| b.abs() > 1e-4), "{bias:?}");
}

/// E[min(max(x, 0), upper)] of normal x, by adding up.
fn mean_by_sums(mean: f64, deviation: f64, upper: f64) -> f64 {
    let step = 1e-3;
    let density = |z: f64| (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    (-10_000..10_000)
        .map(|k| f64::from(k) * step)
        .map(|z| density(z) * step * (mean + deviation * z).clamp(0.0, upper))
        .sum()
}

#[test]
fn the_bias_takes_up_the_mean_that_batch_norms_tell() {
    for (activation, upper, mean, deviation) in [
        ("Identity (n)", None, 1.5, 1.0),
        ("Relu (n)", Some(f64::INFINITY), 0.0, 1.0),
        ("Relu (n)", Some(f64::INFINITY), -1.0, 2.0),
        ("Clip (n, low, high)", Some(6.0), 4.0, 3.0),
    ] {
        let model = format!(
            "g (float[1,16,2,2] x) => (float[1,8,2,2] y) <{}, float low = {{0}}, float high = {{6}}> {{
            n = Neg (x)  r = {activation}  y = Conv (r, k) }}",
            constant("k", &[8, 16, 1, 1], 1.0)
        );
        let model = if upper.is_none() { model.replace("r = Identity (n)  y = Conv (r", "y = Conv (n") } else { model };
        let mut graph = parse(&model).graph;
        let weight = graph.constant(graph.find("k").unwrap()).unwrap().to_f64_vec().unwrap();
        let mut cx = Context::new(Options::default(), &Reference);
        let statistics = Statistics { mean: vec![mean; 16], deviation: vec![deviation; 16] };
        cx.statistics.insert("n".to_owned(), statistics);
        cx.run(&BLIND, &mut graph).unwrap();
        let expected = upper.map_or(mean, |upper| mean_by_sums(mean, deviation, upper));
        takes_up(&graph, &weight, expected, 16, 1.0);
    }
}

#[test]
fn the_bias_takes_up_the_mean_that_samples_show() {
    let model = format!(
        "g (float[4,32] x) => (float[4,8] y) <{}, float[1] one = {{1}}> {{ n = Add (x, one)  y = Gemm <transB = 1> (n, k) }}",
        constant("k", &[8, 32], 1.0)
    );
    let mut graph = parse(&model).graph;
    let weight = graph.constant(graph.find("k").unwrap()).unwrap().to_f64().unwrap();
    let calibration = calibrate(&graph, &Reference, &samples_of(&graph, 3), &[], &|_| {}).unwrap();
    let mean = calibration.values[&graph.find("n").unwrap()].last_axis_mean();
    run(
        &StoreInt8 { calibration: Some(&calibration), halves: &[], ..StoreInt8::default() },
        &mut graph,
        Options::default(),
    );
    let gemm = end(&graph, 0);
    let product = before(&graph, gemm, 1);
    let (q, scales) = (tensor(&graph, before_of(&graph, product), 0).to_f64().unwrap(), numbers(&graph, product, 1));
    for (m, bias) in numbers(&graph, gemm, 2).into_iter().enumerate() {
        let shift: f64 =
            (0..32).map(|k| (weight[[m, k].as_slice()] - q[[m, k].as_slice()] * scales[m]) * mean[k]).sum();
        assert!((bias - shift).abs() < 1e-6);
    }
}

/// beta scales the bias: what the bias takes up would be scaled, too.
#[test]
fn a_gemm_with_beta_keeps_its_bias() {
    let model = format!(
        "g (float[4,32] x) => (float[4,8] y) <{}, {}, float[1] one = {{1}}> {{
        n = Add (x, one)  y = Gemm <beta = 0.5, transB = 1> (n, k, c) }}",
        constant("k", &[8, 32], 1.0),
        constant("c", &[8], 1.0)
    );
    let mut graph = parse(&model).graph;
    let old = graph.constant(graph.find("c").unwrap()).unwrap().clone();
    let calibration = calibrate(&graph, &Reference, &samples_of(&graph, 3), &[], &|_| {}).unwrap();
    run(
        &StoreInt8 { calibration: Some(&calibration), halves: &[], ..StoreInt8::default() },
        &mut graph,
        Options::default(),
    );
    let gemm = end(&graph, 0);
    assert!(before(&graph, gemm, 1).is("Mul"));
    assert_eq!(tensor(&graph, gemm, 2), &old);
}

/// OpenVINO does not load a recurrent layer with 8-bit weights beside integer layers (`docs/engines.md` §10.4).
#[test]
fn weights_that_an_engine_does_not_read_in_8_bits_are_halves() {
    let model = format!(
        "g (float[5,1,8] x) => (float[5,1,1,16] y) <{}, {}> {{ y = LSTM <hidden_size = 16> (x, w, r) }}",
        constant("w", &[1, 64, 8], 0.25),
        constant("r", &[1, 64, 16], 0.25)
    );
    let stored = |halves: &'static [&'static str]| {
        let mut graph = parse(&model).graph;
        run(&StoreInt8 { calibration: None, halves, ..StoreInt8::default() }, &mut graph, Options::default());
        let lstm = only(&graph, "LSTM");
        before(&graph, lstm, 2).op_type().to_owned()
    };
    assert_eq!(stored(&[]), "Mul", "integers and their scale");
    assert_eq!(stored(&["LSTM"]), "Cast", "of halves");
}
