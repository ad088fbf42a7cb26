//! Storage in 8 and 16 bits: Cast and Mul, never a Dequantize, and only where it makes the file smaller.
use onnx_shrink_ir::{DataType, Graph};
use onnx_shrink_passes::{
    Options,
    quantize::StoreInt8,
    testing::{parse, run},
};

use crate::{before, constant, only, ops, samples_of, sqnr, tensor};

fn stored(model: &str) -> (Graph, Graph) {
    let graph = parse(model).graph;
    let mut after = graph.detached();
    run(&StoreInt8 { calibration: None }, &mut after, Options::default());
    assert!(ops(&after, "DequantizeLinear").is_empty());
    (graph, after)
}

#[test]
fn a_large_weight_becomes_integers_times_scales_and_a_small_one_halves() {
    let model = format!(
        "g (float[2,16] x) => (float[2,16] y) <{}, {}> {{ t = MatMul (x, w)  r = Relu (t)  y = MatMul (r, v) }}",
        constant("w", &[16, 160], 1.0),
        constant("v", &[160, 16], 1.0)
    );
    let (graph, after) = stored(&model);
    for matmul in ops(&after, "MatMul") {
        let product = before(&after, matmul, 1);
        assert!(product.is("Mul") && before(&after, product, 0).is("Cast"));
    }
    assert!(sqnr(&graph, &after, &samples_of(&graph, 2)) > 30.0);
    let small = format!(
        "g (float[2,16] x) => (float[2,1024] y) <{}, {}> {{ t = MatMul (x, w)  y = MatMul (t, v) }}",
        constant("w", &[16, 16], 1.0),
        constant("v", &[16, 1024], 1.0)
    );
    let (_, after) = stored(&small);
    let first = ops(&after, "MatMul")[0];
    let cast = before(&after, first, 1);
    assert!(cast.is("Cast") && tensor(&after, cast, 0).dtype() == DataType::Float16);
}

#[test]
fn a_mask_of_two_values_is_stored_exactly() {
    let bits: Vec<String> = (0..256).map(|k| if k % 3 == 0 { "-inf".to_owned() } else { "0".to_owned() }).collect();
    let model = format!(
        "g (float[16,16] x) => (float[16,16] y) <float[16,16] m = {{{}}}> {{ y = Add (x, m) }}",
        bits.join(", ")
    );
    let (_, after) = stored(&model);
    let log = before(&after, only(&after, "Add"), 1);
    assert!(log.is("Log") && tensor(&after, before(&after, log, 0), 0).dtype() == DataType::Uint8);
}

#[test]
fn vectors_outputs_and_what_may_be_overridden_stay() {
    for (inputs, text) in [
        ("float[2,512] x", "<float[512] w = {WWW}> { y = Mul (x, w) }"),
        ("float[2,16] x, float[16,32] w", "<float[16,32] w = {WWW}> { y = MatMul (x, w) }"),
    ] {
        let numbers: Vec<String> = (0..512).map(|k| format!("{}", f64::from(k) * 0.37 - 90.0)).collect();
        let model = format!("g ({inputs}) => (float[] y) {}", text.replace("WWW", &numbers.join(", ")));
        let (graph, after) = stored(&model);
        assert_eq!(graph.op_count(), after.op_count(), "{inputs}");
    }
}

#[test]
fn weights_in_the_body_of_an_if_are_stored_too() {
    let model = format!(
        "g (float[2,16] x, bool c) => (float[2,160] y) {{
            y = If (c) <then_branch = a () => (float[2,160] t) <{}> {{ t = MatMul (x, w) }},
                        else_branch = b () => (float[2,160] e) <{}> {{ e = MatMul (x, v) }}>
        }}",
        constant("w", &[16, 160], 1.0),
        constant("v", &[16, 160], 1.0)
    );
    let (_, after) = stored(&model);
    for region in only(&after, "If").regions() {
        assert_eq!(ops(&region.graph, "Mul").len(), 1);
    }
}
