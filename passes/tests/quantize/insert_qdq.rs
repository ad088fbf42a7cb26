//! The forms that engines fuse, and the traps that keep them from it (`reference/engines.md` §0–2, §8.3, §11).
use onnx_shrink_ir::Graph;

use crate::{
    after, all_integer, before, constant, end, numbers, only, ops, parameters, quantize, samples_of, sqnr, tensor,
};

/// x → Conv with bias → Relu → Conv, both 4 channels.
fn two_convs() -> String {
    format!(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] y) <{}, {}, {}> {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            r = Relu (a)
            y = Conv <pads = [1, 1, 1, 1]> (r, v, b)
        }}",
        constant("w", &[4, 4, 3, 3], 1.0),
        constant("v", &[4, 4, 3, 3], 1.0),
        constant("b", &[4], 1.0)
    )
}

fn every_conv_ends_in_one_quantize(graph: &Graph) {
    for conv in ops(graph, "Conv") {
        let mut readers = after(graph, conv);
        if readers[0].is("Relu") || readers[0].is("Clip") {
            assert_eq!(readers.len(), 1);
            readers = after(graph, readers[0]);
        }
        assert!(readers.len() == 1 && readers[0].is("QuantizeLinear"));
    }
}

#[test]
fn a_chain_of_convs_is_all_integer_and_near_the_float_one() {
    let made = all_integer(&two_convs());
    every_conv_ends_in_one_quantize(&made.after);
    assert_eq!(ops(&made.after, "QuantizeLinear").len(), 3, "of x, behind the Relu, and of y");
    assert!(end(&made.after, 0).is("DequantizeLinear"));
    assert!(sqnr(&made.before, &made.after, &samples_of(&made.before, 4)) > 25.0);
}

#[test]
fn a_relu_stays_between_its_conv_and_the_quantize_with_zero_point_zero() {
    let made = all_integer(&two_convs());
    let relu = only(&made.after, "Relu");
    assert!(before(&made.after, relu, 0).is("Conv"));
    assert_eq!(numbers(&made.after, after(&made.after, relu)[0], 2), [0.0]);
}

#[test]
fn a_clip_bounds_the_range_of_its_quantize() {
    let model = format!(
        "g (float[1,4,5,5] x) => (float[1,4,3,3] y) <{}, float lo = {{0}}, float hi = {{0.5}}> {{
            a = Conv (x, w)  c = Clip (a, lo, hi)  y = Conv (c, v)
        }}",
        [constant("w", &[4, 4, 3, 3], 1.0), constant("v", &[4, 4, 1, 1], 1.0)].join(", ")
    );
    let made = all_integer(&model);
    let quantize = after(&made.after, only(&made.after, "Clip"))[0];
    assert!(numbers(&made.after, quantize, 1)[0] <= 0.5 / 254.5);
    assert_eq!(numbers(&made.after, quantize, 2), [0.0]);
}

#[test]
fn other_readers_of_a_conv_read_the_dequantized_value() {
    let model = format!(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] a, float[1,4,5,5] y) <{}> {{ a = Conv (x, w)  y = Neg (a) }}",
        constant("w", &[4, 4, 1, 1], 1.0)
    );
    let made = all_integer(&model);
    every_conv_ends_in_one_quantize(&made.after);
    assert!(end(&made.after, 0).is("DequantizeLinear"));
    assert!(before(&made.after, only(&made.after, "Neg"), 0).is("DequantizeLinear"));
    assert_eq!(made.after.name_of(made.after.outputs()[0]), "a");
}

#[test]
fn weights_have_their_axis_and_biases_the_product_of_the_scales() {
    let made = all_integer(&two_convs());
    for conv in ops(&made.after, "Conv") {
        let (x, w, b) = (before(&made.after, conv, 0), before(&made.after, conv, 1), before(&made.after, conv, 2));
        assert_eq!((w.int("axis"), w.input(2)), (Some(0), None));
        let x_scale = numbers(&made.after, x, 1)[0] as f32;
        let products = numbers(&made.after, w, 1).into_iter().map(|scale| f64::from(x_scale * scale as f32));
        assert_eq!(numbers(&made.after, b, 1), products.collect::<Vec<_>>());
        assert_eq!(tensor(&made.after, b, 0).dtype(), onnx_shrink_ir::DataType::Int32);
    }
}

#[test]
fn a_gemm_at_the_end_writes_floats_with_an_integer_bias_and_a_zero_point_for_its_weight() {
    for (form, dims, axis) in [("Gemm", [6, 5], None), ("Gemm <transB = 1>", [5, 6], Some(0))] {
        let model = format!(
            "g (float[2,6] x) => (float[2,5] y) <{}, {}> {{ y = {form} (x, w, b) }}",
            constant("w", &dims, 1.0),
            constant("b", &[5], 1.0)
        );
        let made = all_integer(&model);
        assert!(end(&made.after, 0).is("Gemm"), "no Quantize behind it");
        let gemm = only(&made.after, "Gemm");
        let weight = before(&made.after, gemm, 1);
        assert_eq!(weight.int("axis"), axis);
        assert_eq!(numbers(&made.after, weight, 2), [0.0; 5]);
        assert!(before(&made.after, gemm, 2).is("DequantizeLinear"));
    }
}

#[test]
fn the_bias_behind_a_matmul_is_an_integer_one() {
    let model = format!(
        "g (float[1,3,6] x) => (float[1,3,5] y) <{}, {}> {{ t = MatMul (x, w)  y = Add (t, b) }}",
        constant("w", &[6, 5], 1.0),
        constant("b", &[5], 1.0)
    );
    let made = all_integer(&model);
    assert!(before(&made.after, only(&made.after, "MatMul"), 1).int("axis").is_none(), "axis 1 is the default");
    assert!(before(&made.after, only(&made.after, "Add"), 1).is("DequantizeLinear"));
    assert!(sqnr(&made.before, &made.after, &samples_of(&made.before, 4)) > 25.0);
}

#[test]
fn what_moves_values_keeps_their_parameters() {
    let model = format!(
        "g (float[1,4,6,6] x) => (float[1,36] y) <{}, {}, int64[2] s = {{1, 36}}> {{
            a = Conv (x, w)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)  r = Reshape (p, s)
            y = MatMul (r, v)
        }}",
        constant("w", &[4, 4, 1, 1], 1.0),
        constant("v", &[36, 36], 1.0)
    );
    let made = all_integer(&model);
    let graph = &made.after;
    let (pool, reshape) = (only(graph, "MaxPool"), only(graph, "Reshape"));
    let into = parameters(before(graph, pool, 0));
    assert_eq!(into, parameters(after(graph, pool)[0]));
    assert_eq!(into, parameters(after(graph, reshape)[0]));
}

#[test]
fn a_concat_shares_one_range_unless_a_relu_would_lose_its_zero_point() {
    let model = |right: &str| {
        format!(
            "g (float[1,4,5,5] x) => (float[1,8,5,5] y) <{}, {}, {}> {{
                a = Conv (x, w)  l = Relu (a)  b = Conv (x, v)  {right}
                c = Concat <axis = 1> (l, r)  y = Conv (c, u)
            }}",
            constant("w", &[4, 4, 1, 1], 1.0),
            constant("v", &[4, 4, 1, 1], 1.0),
            constant("u", &[8, 8, 1, 1], 1.0)
        )
    };
    let shared = |right: &str| {
        let made = all_integer(&model(right));
        let concat = only(&made.after, "Concat");
        let side = |index| parameters(before(&made.after, concat, index));
        (side(0) == side(1), numbers(&made.after, before(&made.after, concat, 0), 2)[0])
    };
    assert_eq!(shared("r = Relu (b)"), (true, 0.0));
    assert_eq!(shared("r = Identity (b)").1, 0.0, "the Relu keeps its zero point");
}

#[test]
fn a_float_conv_between_integer_ones_reads_a_dequantize_of_its_own() {
    let model = format!(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] y) <{}, {}, {}> {{
            a = Conv (x, w)  f = Conv (a, v)  y = Conv (f, u)
        }}",
        constant("w", &[4, 4, 1, 1], 1.0),
        constant("v", &[4, 4, 1, 1], 1.0),
        constant("u", &[4, 4, 1, 1], 1.0)
    );
    let made = quantize(&model, &["f"], None);
    let float: Vec<_> =
        ops(&made.after, "Conv").into_iter().filter(|conv| before_weight_is_float(&made.after, conv)).collect();
    assert_eq!(float.len(), 1);
    let own = before(&made.after, float[0], 0);
    assert_eq!(tensor(&made.after, own, 1).dims(), [4], "per axis: engines fuse none of these");
}

fn before_weight_is_float(graph: &Graph, conv: &onnx_shrink_ir::Op) -> bool {
    conv.input(1).is_some_and(|w| graph.constant(w).is_some())
}

#[test]
fn a_bias_too_large_for_its_scale_widens_that_of_the_weights() {
    let model = "g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {0.000001, 0.5, 0.000001, 0.5}, float[2] b = {1000000.0, 0.1}> { y = Gemm (x, w, b) }";
    let made = all_integer(model);
    let bias = before(&made.after, only(&made.after, "Gemm"), 2);
    assert!(numbers(&made.after, bias, 0).iter().all(|b| b.abs() <= f64::from(1 << 30) * 1.001));
}
