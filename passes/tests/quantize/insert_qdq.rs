//! insert-qdq: what it writes, and the traps of engines that it stays out of.
use onnx_shrink_ir::{DataType, Tensor, Use, text};

use crate::{
    Samples, after, all_integer, before, constant, declare, end, numbers, only, ops, parameters, quantize, samples_of,
    sqnr, tensor,
};

#[test]
fn a_convolution_with_its_relu_becomes_one_kernel() {
    // The input spans [-1, 127/128], the output [0, 255/128]: all scales are powers of two, and no weight is rounded.
    let model = "g (float[1,1,1,2] x) => (float[1,2,1,2] y)
        <float[2,1,1,1] weight = {1.984375, -0.9921875}, float[2] bias = {0.0233154296875, 0}> {
        c = Conv (x, weight, bias)  y = Relu (c) }";
    let sample = Tensor::from_vec(&[1, 1, 1, 2], vec![-1f32, 0.9921875]);
    let made = quantize(model, &[], Some(Samples(vec![vec![Some(sample)]])));
    let expected = "g (float[1,1,1,2] x) => (float[1,2,1,2] y)
        <float s = {0.0078125}, uint8 z = {128}, uint8 z_1 = {0}, int8[2,1,1,1] w = {127, -127},
        float[2] s_1 = {0.015625, 0.0078125}, int32[2] b = {191, 0}, float[2] s_2 = {0.0001220703125, 6.103515625e-05}> {
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
        d_2 = DequantizeLinear <axis = 0> (w, s_1)  d_3 = DequantizeLinear <axis = 0> (b, s_2)
        c = Conv (d, d_2, d_3)  replaced = Relu (c)
        q_1 = QuantizeLinear (replaced, s, z_1)  y = DequantizeLinear (q_1, s, z_1) }";
    assert_eq!(text::print_graph(&made.after), text::print_graph(&crate::parse(expected).graph));
    assert!(sqnr(&made.before, &made.after, &samples_of(&made.before, 1)) > 15.0);
}

#[test]
fn a_chain_of_convolutions_is_near_the_float_one() {
    let model = format!(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] y) <{}, {}, {}> {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu (a)  y = Conv <pads = [1, 1, 1, 1]> (r, v, b) }}",
        constant("w", &[4, 4, 3, 3], 1.0),
        constant("v", &[4, 4, 3, 3], 1.0),
        constant("b", &[4], 1.0)
    );
    let made = all_integer(&model);
    assert_eq!(ops(&made.after, "QuantizeLinear").len(), 3, "of x, behind the Relu, and of y");
    assert!(sqnr(&made.before, &made.after, &samples_of(&made.before, 4)) > 25.0);
    for conv in ops(&made.after, "Conv") {
        let bias = before(&made.after, conv, 2);
        assert_eq!(numbers(&made.after, bias, 1), scales_of_bias(&made.after, conv));
        assert_eq!(tensor(&made.after, bias, 0).dtype(), DataType::Int32);
    }
}

// --- §0.3: a convolution's output goes to exactly one Quantize ---

#[test]
fn everybody_reads_the_dequantize_behind_a_convolution() {
    let model = format!(
        "g (float[1,3,6,6] x) => (float[1,4,4,4] c, float[1,4,4,4] n, float[1,2,4,4] y) <{}, {}> {{
        c = Conv (x, w)  n = Neg (c)  y = Conv (c, v) }}",
        constant("w", &[4, 3, 3, 3], 0.2),
        constant("v", &[2, 4, 1, 1], 0.3)
    );
    let made = all_integer(&model);
    let first = ops(&made.after, "Conv")[0];
    let readers = after(&made.after, first);
    assert_eq!(readers.len(), 1);
    assert!(readers[0].is("QuantizeLinear"));
    let dequantize = end(&made.after, 0);
    assert!(dequantize.is("DequantizeLinear"));
    assert_eq!(dequantize.input(0), readers[0].output(0));
    assert_eq!(made.after.name_of(dequantize.output(0).unwrap()), "c", "outputs keep their names");
    assert_eq!(only(&made.after, "Neg").input(0), dequantize.output(0));
    assert_eq!(ops(&made.after, "Conv")[1].input(0), dequantize.output(0));
}

#[test]
fn a_body_reads_the_dequantize_behind_a_convolution() {
    let model = format!(
        "g (float[1,2,2,2] x, bool b) => (float[1,2,2,2] y) <{}> {{ c = Conv (x, w)
        y = If (b) <then_branch = a () => (float[1,2,2,2] t) {{ t = Neg (c) }},
                    else_branch = e () => (float[1,2,2,2] u) {{ u = Abs (c) }}> }}",
        constant("w", &[2, 2, 1, 1], 1.0)
    );
    let made = all_integer(&model);
    let conv = only(&made.after, "Conv");
    assert!(matches!(made.after.uses(conv.output(0).unwrap())[..], [Use::Input(..)]));
    assert!(after(&made.after, conv)[0].is("QuantizeLinear"));
    let chosen = made.after.ops_of("If")[0];
    for (_, outer, _) in made.after.captures(chosen) {
        assert!(made.after.op(made.after.producer(outer).unwrap()).is("DequantizeLinear"));
    }
    assert_eq!(made.after.captures(chosen).len(), 2);
}

/// A body numbers its values itself: what is known of the main graph's says nothing of them.
#[test]
fn a_body_keeps_its_own_convolution() {
    let model = format!(
        "g (float[1,2,2,2] x, bool b) => (float[1,2,2,2] y) <{w}> {{ c = Conv (x, w)  r = Relu (c)  d = Conv (r, w)
        y = If (b) <then_branch = a () => (float[1,2,2,2] t) <{v}> {{ m = Conv (d, v)  t = Relu (m) }},
                    else_branch = e () => (float[1,2,2,2] u) {{ u = Abs (d) }}> }}",
        w = constant("w", &[2, 2, 1, 1], 1.0),
        v = constant("v", &[2, 2, 1, 1], 1.0)
    );
    let made = all_integer(&model);
    let chosen = made.after.op(made.after.ops_of("If")[0]);
    for region in chosen.regions() {
        let body = &region.graph;
        assert!(body.ops().into_iter().all(|op| !body.op(op).op_type().contains("uantize")));
    }
    assert_eq!(ops(&made.after, "QuantizeLinear").len(), 3);
}

// --- §0.4, §1.1: a Relu or Clip is inside when the zero point makes it redundant ---

#[test]
fn relu_and_clip_are_inside_and_made_redundant_by_the_zero_point() {
    for (activation, upper) in
        [("Relu (c)", f64::INFINITY), ("Clip (c, zero, six)", 6.0), ("Clip (c, zero)", f64::INFINITY)]
    {
        let model = format!(
            "g (float[1,3,6,6] x) => (float[1,4,4,4] y) <{}, float zero = {{0}}, float six = {{6}}> {{
            c = Conv (x, w)  y = {activation} }}",
            constant("w", &[4, 3, 3, 3], 2.0)
        );
        let made = all_integer(&model);
        let conv = only(&made.after, "Conv");
        let inside = after(&made.after, conv);
        assert_eq!(inside.len(), 1);
        assert!(inside[0].is("Relu") || inside[0].is("Clip"), "{activation}");
        let quantize = after(&made.after, inside[0]);
        assert_eq!(quantize.len(), 1);
        assert_eq!(numbers(&made.after, quantize[0], 2), [0.0]);
        let scale = numbers(&made.after, quantize[0], 1)[0];
        if upper.is_finite() {
            // The engine drops the Clip when no step lies above its bound: s ≤ 6/254.5.
            assert!((6.0 / 255.5..=6.0 / 254.5).contains(&scale), "{scale}");
        } else {
            assert!(scale > 6.0 / 254.5, "the data go beyond 6");
        }
    }
}

#[test]
fn an_activation_that_no_zero_point_replaces_reads_a_dequantize() {
    for activation in ["Sigmoid (c)", "LeakyRelu (c)", "HardSwish (c)", "Clip (c, low, high)"] {
        let model = format!(
            "g (float[1,3,3,3] x) => (float[1,4,1,1] y) <{}, float low = {{-1}}, float high = {{6}}> {{
            c = Conv (x, w)  y = {activation} }}",
            constant("w", &[4, 3, 3, 3], 0.1)
        );
        let made = all_integer(&model);
        let readers = after(&made.after, only(&made.after, "Conv"));
        assert_eq!(readers.len(), 1);
        assert!(readers[0].is("QuantizeLinear"), "{activation}: {}", readers[0].op_type());
    }
}

#[test]
fn a_sum_with_its_relu_reads_dequantizes_alone() {
    let model = format!(
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <{}, {}> {{
        c = Conv (x, w)  r = Relu (c)  d = Conv (r, v)  a = Add (d, x)  y = Relu (a) }}",
        constant("w", &[2, 2, 1, 1], 0.7),
        constant("v", &[2, 2, 1, 1], 0.7)
    );
    let made = all_integer(&model);
    let add = only(&made.after, "Add");
    assert!(before(&made.after, add, 0).is("DequantizeLinear"));
    assert!(before(&made.after, add, 1).is("DequantizeLinear"));
    let relu = after(&made.after, add);
    assert!(relu.len() == 1 && relu[0].is("Relu"));
    assert_eq!(numbers(&made.after, after(&made.after, relu[0])[0], 2), [0.0]);
}

// --- §1.6, §8.3, §11: the ends of Gemm and MatMul ---

/// f32(s_x · s_w) for each channel of `op`, whose input 0 comes from a Dequantize.
fn scales_of_bias(graph: &onnx_shrink_ir::Graph, op: &onnx_shrink_ir::Op) -> Vec<f64> {
    let x = numbers(graph, before(graph, op, 0), 1)[0] as f32;
    numbers(graph, before(graph, op, 1), 1).into_iter().map(|w| f64::from(x * w as f32)).collect()
}

#[test]
fn a_gemm_at_the_end_writes_floats_and_has_a_bias_in_integers() {
    for transposed in [0, 1] {
        let dims: [usize; 2] = if transposed == 1 { [5, 7] } else { [7, 5] };
        let model = format!(
            "g (float[2,7] x) => (float[2,5] y) <{}, {}> {{ y = Gemm <transB = {transposed}> (x, w, c) }}",
            constant("w", &dims, 0.5),
            constant("c", &[5], 1.0)
        );
        let made = all_integer(&model);
        let gemm = only(&made.after, "Gemm");
        assert_eq!(end(&made.after, 0).op_type(), "Gemm", "no Quantize at the end");
        let (weight, bias) = (before(&made.after, gemm, 1), before(&made.after, gemm, 2));
        assert_eq!(weight.int("axis").unwrap_or(1), if transposed == 1 { 0 } else { 1 });
        assert_eq!(tensor(&made.after, weight, 0).dtype(), DataType::Int8);
        assert_eq!(tensor(&made.after, weight, 1).dims(), [5]);
        assert_eq!(tensor(&made.after, weight, 2), &Tensor::from_vec(&[5], vec![0i8; 5]), "versions to 1.24 want it");
        assert_eq!(tensor(&made.after, bias, 0).dtype(), DataType::Int32);
        assert_eq!(bias.int("axis"), Some(0));
        assert_eq!(numbers(&made.after, bias, 1), scales_of_bias(&made.after, gemm));
        assert!(sqnr(&made.before, &made.after, &samples_of(&made.before, 4)) > 30.0);
    }
}

#[test]
fn a_gemm_that_integers_read_has_its_quantize() {
    let model = format!(
        "g (float[2,6] x) => (float[2,4] y) <{}, {}, {}> {{ h = Gemm (x, w, c)  r = Relu (h)  y = Gemm (r, v) }}",
        constant("w", &[6, 8], 0.5),
        constant("c", &[8], 1.0),
        constant("v", &[8, 4], 0.5)
    );
    let made = all_integer(&model);
    let [first, last] = ops(&made.after, "Gemm")[..] else { panic!("two Gemms") };
    assert!(after(&made.after, after(&made.after, first)[0])[0].is("QuantizeLinear"));
    assert!(before(&made.after, last, 0).is("DequantizeLinear"));
    assert_eq!(end(&made.after, 0).op_type(), "Gemm");
}

#[test]
fn zeros_of_two_weights_of_one_length_are_shared() {
    let model = format!(
        "g (float[2,4] x) => (float[2,4] y) <{}, {}> {{ h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }}",
        constant("w", &[4, 4], 0.5),
        constant("v", &[4, 4], 0.7)
    );
    let made = all_integer(&model);
    let zeros: Vec<_> = ops(&made.after, "MatMul").iter().map(|op| before(&made.after, op, 1).input(2)).collect();
    assert!(zeros[0].is_some() && zeros[0] == zeros[1]);
}

#[test]
fn the_bias_behind_a_matmul_is_in_integers() {
    for (product, dims) in [("Add (m, b)", "2,3"), ("Add (b, m)", "1,2,3")] {
        let model = format!(
            "g (float[{dims},6] x) => (float[{dims},4] y) <{}, {}> {{ m = MatMul (x, w)  y = {product} }}",
            constant("w", &[6, 4], 0.5),
            constant("b", &[4], 1.0)
        );
        let made = all_integer(&model);
        let matmul = only(&made.after, "MatMul");
        let add = end(&made.after, 0);
        assert_eq!(add.op_type(), "Add");
        let sides = [before(&made.after, add, 0), before(&made.after, add, 1)];
        let bias = sides.into_iter().find(|op| op.is("DequantizeLinear")).expect("a bias in integers");
        assert!(sides.into_iter().any(|op| op.is("MatMul")), "nothing between MatMul and Add");
        assert_eq!(tensor(&made.after, bias, 0).dtype(), DataType::Int32);
        assert_eq!(numbers(&made.after, bias, 1), scales_of_bias(&made.after, matmul));
        assert_eq!(before(&made.after, matmul, 1).int("axis").unwrap_or(1), 1);
        assert!(sqnr(&made.before, &made.after, &samples_of(&made.before, 4)) > 30.0);
    }
}

#[test]
fn a_gemm_whose_c_has_one_number_a_row_stays_float() {
    let model = format!(
        "g (float[4,6] x) => (float[4,4] y) <{}, {}> {{ y = Gemm (x, w, c) }}",
        constant("w", &[6, 4], 0.5),
        constant("c", &[4, 1], 1.0)
    );
    assert!(all_integer(&model).units.units.is_empty());
    let row = model.replace("float[4,1] c", "float[1,4] c");
    let made = all_integer(&row);
    assert!(sqnr(&made.before, &made.after, &samples_of(&made.before, 4)) > 30.0);
}

// --- §2.5: axes ---

#[test]
fn weights_have_one_scale_per_output_along_their_own_axis() {
    for (op, dims, x, y, axis) in [
        ("Conv", vec![4, 3, 1, 1], "1,3,2,2", "1,4,2,2", 0),
        ("Gemm", vec![3, 4], "2,3", "2,4", 1),
        ("Gemm <transB = 1>", vec![4, 3], "2,3", "2,4", 0),
        ("MatMul", vec![3, 4], "2,3", "2,4", 1),
    ] {
        let model = format!("g (float[{x}] x) => (float[{y}] y) <{}> {{ y = {op} (x, w) }}", constant("w", &dims, 0.5));
        let made = all_integer(&model);
        let kernel = *ops(&made.after, op.split(' ').next().unwrap()).first().expect("the op");
        let weight = before(&made.after, kernel, 1);
        assert_eq!(weight.int("axis").unwrap_or(1), axis, "{op}");
        assert_eq!(tensor(&made.after, weight, 1).dims(), [4], "{op}");
        let w = made.before.constant(made.before.find("w").unwrap()).unwrap().to_f64().unwrap();
        let (q, scales) = (tensor(&made.after, weight, 0).to_f64().unwrap(), numbers(&made.after, weight, 1));
        for (index, integer) in q.indexed_iter() {
            let scale = scales[index[axis as usize]];
            assert!((w[index.clone()] - integer * scale).abs() <= 1.6 * scale, "{op}");
        }
    }
}

// --- §1, §7.6: what moves values keeps their parameters ---

#[test]
fn what_moves_values_keeps_scale_and_zero_point() {
    let model = format!(
        "g (float[1,2,4,4] x) => (float[1,3] y) <{}, {}, int64[2] shape = {{1, -1}}> {{
        c = Conv (x, w)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
        t = Transpose <perm = [0, 2, 3, 1]> (p)  r = Reshape (t, shape)  y = MatMul (r, v) }}",
        constant("w", &[2, 2, 1, 1], 0.7),
        constant("v", &[8, 3], 0.3)
    );
    let made = all_integer(&model);
    for name in ["MaxPool", "Transpose", "Reshape"] {
        let op = only(&made.after, name);
        let (from, to) = (before(&made.after, op, 0), after(&made.after, op)[0]);
        assert!(from.is("DequantizeLinear") && to.is("QuantizeLinear"));
        assert_eq!(parameters(from), parameters(to), "{name}");
    }
}

#[test]
fn a_concat_shares_near_ranges() {
    let model = |factor: f64| {
        format!(
            "g (float[1,2,4,4] x) => (float[1,4,4,4] y) <{}, {}> {{
            a = Conv (x, w)  b = Conv (x, v)  y = Concat <axis = 1> (a, b) }}",
            constant("w", &[2, 2, 1, 1], 1.0),
            constant("v", &[2, 2, 1, 1], factor)
        )
    };
    let parameters_of = |model: &str| {
        let made = all_integer(model);
        let concat = only(&made.after, "Concat");
        let inputs = [0, 1].map(|index| parameters(before(&made.after, concat, index)));
        (inputs, parameters(after(&made.after, concat)[0]))
    };
    let (near, whole) = parameters_of(&model(1.0));
    assert_eq!(near, [whole, whole]);
    let (far, whole) = parameters_of(&model(0.01));
    assert_ne!(far[0], far[1], "the narrow one would lose six bits");
    assert_ne!(far[1], whole);
}

#[test]
fn a_concat_takes_no_zero_point_from_a_relu() {
    let model = format!(
        "g (float[1,2,4,4] x) => (float[1,4,4,4] y) <{}, {}> {{
        a = Conv (x, w)  r = Relu (a)  b = Conv (x, v)  y = Concat <axis = 1> (r, b) }}",
        constant("w", &[2, 2, 1, 1], 1.0),
        constant("v", &[2, 2, 1, 1], 1.0)
    );
    let made = all_integer(&model);
    let concat = only(&made.after, "Concat");
    let [relu, other] = [0, 1].map(|index| before(&made.after, concat, index));
    assert_eq!(numbers(&made.after, relu, 2), [0.0]);
    assert_ne!(numbers(&made.after, other, 2), [0.0]);
    // Two Relus may share.
    let both = all_integer(&model.replace("b = Conv (x, v)", "d = Conv (x, v)  b = Relu (d)"));
    let concat = only(&both.after, "Concat");
    assert_eq!(parameters(before(&both.after, concat, 0)), parameters(before(&both.after, concat, 1)));
    assert_eq!(numbers(&both.after, before(&both.after, concat, 0), 2), [0.0]);
}

// --- §0.6, §1: the engine quantizes a float op between Dequantize and Quantize by itself ---

#[test]
fn a_float_convolution_between_integers_reads_a_dequantize_per_axis_of_its_own() {
    for middle in ["Conv (r, v)", "ConvTranspose (r, v)"] {
        let model = format!(
            "g (float[1,3,4,4] x) => (float[1,3,4,4] y) <{}, {}, {}> {{
            a = Conv (x, w)  r = Relu (a)  m = {middle}  s = Relu (m)  y = Conv (s, u) }}",
            constant("w", &[3, 3, 1, 1], 0.7),
            constant("v", &[3, 3, 1, 1], 0.7),
            constant("u", &[3, 3, 1, 1], 0.7)
        );
        let made = quantize(&model, &["m"], None);
        let float = made.after.op(made.after.producer(made.after.find("m").unwrap()).unwrap());
        assert!(made.after.constant(float.input(1).unwrap()).is_some(), "its weight stays float");
        let own = before(&made.after, float, 0);
        assert!(own.is("DequantizeLinear"));
        assert_eq!((own.int("axis").unwrap_or(1), tensor(&made.after, own, 1).dims()), (1, &[3usize][..]), "{middle}");
        assert_eq!(after(&made.after, own).len(), 1);
        assert_eq!(made.after.uses(own.input(0).unwrap()).len(), 1, "nobody reads the other Dequantize");
        assert!(after(&made.after, only_relu_behind(&made.after, float))[0].is("QuantizeLinear"));
        assert!(sqnr(&made.before, &made.after, &samples_of(&made.before, 4)) > 25.0);
    }
}

fn only_relu_behind<'g>(graph: &'g onnx_shrink_ir::Graph, op: &onnx_shrink_ir::Op) -> &'g onnx_shrink_ir::Op {
    let readers = after(graph, op);
    assert!(readers.len() == 1 && readers[0].is("Relu"));
    readers[0]
}

#[test]
fn a_float_convolution_at_the_end_reads_the_plain_dequantize() {
    let model = format!(
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) <{}, {}> {{ a = Conv (x, w)  r = Relu (a)  y = Conv (r, v) }}",
        constant("w", &[3, 3, 1, 1], 0.7),
        constant("v", &[3, 3, 1, 1], 0.7)
    );
    let made = quantize(&model, &["y"], None);
    let own = before(&made.after, ops(&made.after, "Conv")[1], 0);
    assert!(tensor(&made.after, own, 1).dims().is_empty());
    assert_eq!(end(&made.after, 0).op_type(), "Conv");
}

/// Axis 1 of a matrix product's input may have any length: the scales stand along the last, which has the weight's.
#[test]
fn a_float_matmul_between_integers_has_scales_along_its_constant_axis() {
    let model = format!(
        "g (float[1,S,4] x) => (float[1,S,4] y) <{}, {}, {}> {{
        a = MatMul (x, w)  r = Relu (a)  m = MatMul (r, v)  s = Relu (m)  y = MatMul (s, u) }}",
        constant("w", &[4, 4], 0.7),
        constant("v", &[4, 4], 0.7),
        constant("u", &[4, 4], 0.7)
    );
    let sample = |rows: usize| {
        let ty = DataType::Float;
        Samples(vec![vec![onnx_shrink_passes::testing::seeded(ty, &[1, rows, 4], "x", 1)]])
    };
    let made = quantize(&model, &["m"], Some(sample(5)));
    let float = ops(&made.after, "MatMul")[1];
    let own = before(&made.after, float, 0);
    assert_eq!((own.int("axis"), tensor(&made.after, own, 1).dims()), (Some(2), &[4usize][..]));
    assert!(sqnr(&made.before, &made.after, &sample(3)) > 20.0, "another length runs, too");
}

// --- sizes and bounds ---

#[test]
fn weights_that_two_ops_share_are_in_the_file_once() {
    let model = format!(
        "g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[1,2,4,4] y, float[1,2,4,4] t) <{}> {{
        y = Conv (x, w)  t = Conv (z, w) }}",
        constant("w", &[2, 2, 1, 1], 1.0)
    );
    let made = all_integer(&model);
    let integers: Vec<_> = ops(&made.after, "Conv").iter().map(|op| before(&made.after, op, 1).input(0)).collect();
    assert_eq!(integers[0], integers[1]);
    assert!(made.after.find("w").is_none_or(|w| made.after.constant(w).is_none_or(|w| w.dtype() == DataType::Int8)));
}

#[test]
fn a_bias_that_would_overflow_widens_the_scale() {
    let biases = [1000.0, -0.001];
    let model = format!(
        "g (float[1,1,2,2] x) => (float[1,2,2,2] y) <{}, {}> {{ y = Conv (x, w, b) }}",
        declare("float", "w", &[2, 1, 1, 1], [1e-6, 1e-6]),
        declare("float", "b", &[2], biases)
    );
    let made = all_integer(&model);
    let bias = before(&made.after, only(&made.after, "Conv"), 2);
    let (integers, scales) = (numbers(&made.after, bias, 0), numbers(&made.after, bias, 1));
    for ((integer, scale), wanted) in integers.iter().zip(&scales).zip(biases) {
        assert!(integer.abs() <= 2f64.powi(30) + 1.0, "{integer}");
        assert!((integer * scale - wanted).abs() <= 1e-5 * wanted.abs(), "{} {wanted}", integer * scale);
    }
}

#[test]
fn the_bias_takes_up_what_rounding_takes_from_the_mean() {
    // One kernel position a channel: rounding to nearest, whose error the mean of the input makes an offset.
    let model = format!(
        "g (float[1,6,4,4] x) => (float[1,4,4,4] y) <{}, {}> {{ y = Conv (x, w, b) }}",
        constant("w", &[4, 6, 1, 1], 1.0),
        constant("b", &[4], 1.0)
    );
    let made = all_integer(&model);
    let conv = only(&made.after, "Conv");
    let (weight, bias) = (before(&made.after, conv, 1), before(&made.after, conv, 2));
    let w = made.before.constant(made.before.find("w").unwrap()).unwrap().to_f64_vec().unwrap();
    let b = made.before.constant(made.before.find("b").unwrap()).unwrap().to_f64_vec().unwrap();
    let mean = made.calibration.values[&made.before.inputs()[0]].channel_mean();
    let (q, scales) = (numbers(&made.after, weight, 0), numbers(&made.after, weight, 1));
    let (integers, steps) = (numbers(&made.after, bias, 0), numbers(&made.after, bias, 1));
    for m in 0..4 {
        let shift: f64 = (0..6).map(|c| (w[m * 6 + c] - q[m * 6 + c] * scales[m]) * mean[c]).sum();
        assert!((integers[m] * steps[m] - b[m] - shift).abs() <= steps[m], "channel {m}");
    }
}
