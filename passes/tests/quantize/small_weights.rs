//! store-int4 and store-fp16: the form that each layer gets, and what stands in it.
use onnx_shrink_ir::{DataType, Graph, Tensor, text};
use onnx_shrink_passes::{
    Options,
    testing::{parse, run},
    weight_only::{StoreFp16, StoreInt4},
};

use crate::{before, declare, evaluate, only, tensor};

/// The graph with its weights in 4 bits; `k` has the numbers (i·37 mod 101 − 50) / 64.
fn stored(graph: &str, dims: &[usize]) -> Graph {
    stored_at(21, graph, dims)
}

fn stored_at(opset: i64, graph: &str, dims: &[usize]) -> Graph {
    let count: usize = dims.iter().product();
    let weight = declare("float", "k", dims, (0..count).map(number));
    let mut graph = parse(&graph.replace("CONSTANTS", &weight)).graph;
    graph.set_opset(opset);
    run(&StoreInt4::default(), &mut graph, Options::default());
    let again = text::print_graph(&graph);
    run(&StoreInt4::default(), &mut graph, Options::default());
    run(&StoreFp16::default(), &mut graph, Options::default());
    assert_eq!(text::print_graph(&graph), again, "a second run changes nothing");
    graph
}

fn number(i: usize) -> f64 {
    (i * 37 % 101) as f64 / 64.0 - 50.0 / 64.0
}

/// Each number of the weight is within half a step of what it was: `at` gives its place in integers and in scales.
fn holds(graph: &Graph, op: &str, count: usize, at: impl Fn(usize) -> (usize, usize)) {
    let integers = if op == "DequantizeLinear" {
        tensor(graph, only(graph, op), 0)
    } else {
        tensor(graph, before(graph, only(graph, op), 0), 0)
    };
    let scales = tensor(graph, before(graph, only(graph, op), 1), 0);
    assert_eq!((integers.dtype(), scales.dtype()), (DataType::Int4, DataType::Float16));
    let bytes = integers.bytes().unwrap();
    let fields: Vec<i8> = bytes.iter().flat_map(|byte| [(byte << 4) as i8 >> 4, *byte as i8 >> 4]).collect();
    assert_eq!(fields.len(), integers.len().next_multiple_of(2), "two to a byte");
    let scales = scales.to_f64_vec().unwrap();
    for i in 0..count {
        let (q, s) = at(i);
        let off = f64::from(fields[q]) * scales[s] - number(i);
        // Where the scale is less than what holds the largest number, that one is cut.
        let is_cut = [-8, 7].contains(&fields[q]);
        assert!(off.abs() <= scales[s].abs() * 0.5 + 1e-6 || is_cut, "number {i} is off by {off}");
    }
    assert!(scales.iter().all(|scale| *scale != 0.0));
}

#[test]
fn one_row_gets_blocks_that_a_kernel_unpacks_and_more_rows_what_engines_fold() {
    let product =
        |rows: &str| format!("g (float[{rows},64] x) => (float[{rows},48] y) <CONSTANTS> {{ y = MatMul (x, k) }}");
    let one = stored(&product("1"), &[64, 48]);
    let node = only(&one, "DequantizeLinear");
    assert_eq!((node.int("axis"), node.int("block_size")), (Some(0), Some(32)));
    holds(&one, "DequantizeLinear", 64 * 48, |i| (i, i / 48 / 32 * 48 + i % 48));
    for rows in ["16", "N"] {
        let more = stored(&product(rows), &[64, 48]);
        assert!(before(&more, only(&more, "MatMul"), 1).is("Reshape"));
        holds(&more, "Mul", 64 * 48, |i| (i, i / 48 / 32 * 48 + i % 48));
    }
}

#[test]
fn what_an_activation_follows_and_transposed_weights_are_folded() {
    let gemm = |options: &str, end: &str| {
        format!("g (float[1,64] x) => (float[1,48] y) <CONSTANTS> {{ t = Gemm {options} (x, k)  y = {end} (t) }}")
    };
    let drawn = stored(&gemm("", "Relu"), &[64, 48]);
    assert!(before(&drawn, only(&drawn, "Gemm"), 1).is("Reshape"));
    let plain = stored(&gemm("", "Softmax"), &[64, 48]);
    assert!(before(&plain, only(&plain, "Gemm"), 1).is("DequantizeLinear"));
    let sum = "g (float[1,64] x, float[1,48] h, float[48,48] r) => (float[1,48] y) <CONSTANTS> {
        t = MatMul (x, k)  u = MatMul (h, r)  y = Add (t, u) }";
    assert!(stored(sum, &[64, 48]).ops_of("DequantizeLinear").is_empty(), "the Add makes a Gemm of it");
    let transposed = stored(&gemm("<transB = 1>", "Softmax"), &[48, 64]);
    assert!(before(&transposed, only(&transposed, "Gemm"), 1).is("Reshape"));
    holds(&transposed, "Mul", 64 * 48, |i| (i, i / 32));
}

#[test]
fn inputs_that_no_block_divides_have_a_short_last_one() {
    let model = "g (float[2,67] x) => (float[2,41] y) <CONSTANTS> { y = MatMul (x, k) }";
    let odd = stored(model, &[67, 41]);
    assert!(before(&odd, only(&odd, "MatMul"), 1).is("Slice"));
    assert_eq!(tensor(&odd, before(&odd, only(&odd, "Mul"), 0), 0).dims(), [3, 32, 41]);
    holds(&odd, "Mul", 67 * 41, |i| (i, i / 41 / 32 * 41 + i % 41));
    let conv = "g (float[1,67,4,4] x) => (float[1,41,4,4] y) <CONSTANTS> { y = Conv (x, k) }";
    let conv = stored(conv, &[41, 67, 1, 1]);
    let weight = only(&conv, "Conv").input(1).unwrap();
    assert_eq!(conv.ty(weight).unwrap().dims(), Some(vec![41, 67, 1, 1]));
    holds(&conv, "Mul", 67 * 41, |i| (i / 67 * 96 + i % 67, i / 67 * 3 + i % 67 / 32));
    // 43 divides 172: no rest.
    let whole = stored("g (float[2,172] x) => (float[2,24] y) <CONSTANTS> { y = MatMul (x, k) }", &[172, 24]);
    assert_eq!(tensor(&whole, before(&whole, only(&whole, "Mul"), 0), 0).dims(), [4, 43, 24]);
}

#[test]
fn without_4_bit_types_a_byte_has_two_integers_and_the_weights_are_the_same_to_the_bit() {
    for (op, inputs, outputs) in
        [("MatMul", 64, 24), ("MatMul", 67, 41), ("MatMul", 172, 23), ("Gemm <transB = 1>", 172, 23)]
    {
        let dims = if op == "MatMul" { [inputs, outputs] } else { [outputs, inputs] };
        let model = format!(
            "g (float[{inputs},{inputs}] x) => (float[{inputs},{outputs}] y) <CONSTANTS> {{ y = {op} (x, k) }}"
        );
        let [typed, packed] = [21, 13].map(|opset| stored_at(opset, &model, &dims));
        assert_eq!(packed.opset(), 13);
        let types: Vec<DataType> = stored_types(&packed);
        let is_other = |ty: &&DataType| matches!(ty, DataType::Uint8 | DataType::Int4);
        assert!(types.contains(&DataType::Int8) && types.iter().find(is_other).is_none(), "{types:?}");
        let one: Vec<f32> = (0..inputs * inputs).map(|i| f32::from(i / inputs == i % inputs)).collect();
        let one = [Some(Tensor::from_vec(&[inputs, inputs], one))];
        let [typed, packed] = [typed, packed].map(|graph| evaluate(&graph, &one));
        assert_eq!(typed, packed);
    }
}

#[test]
fn the_numbers_that_unpack_are_there_once() {
    let weight = |name| declare("float", name, &[64, 64], (0..64 * 64).map(number));
    let text = format!(
        "g (float[2,64] x) => (float[2,64] y) <{}, {}> {{ a = MatMul (x, k)  y = MatMul (a, l) }}",
        weight("k"),
        weight("l")
    );
    let mut graph = parse(&text).graph;
    graph.set_opset(13);
    run(&StoreInt4::default(), &mut graph, Options::default());
    let scalars = graph.values().into_iter().filter(|value| {
        graph.constant(*value).is_some_and(|tensor| tensor.dtype() == DataType::Float && tensor.len() == 1)
    });
    assert_eq!((scalars.count(), graph.ops_of("Floor").len()), (2, 2));
}

#[test]
fn tables_get_8_bits_and_small_layers_stay() {
    let model = "g (int64[3] i) => (float[3,64] y) <CONSTANTS> { y = Gather (k, i) }";
    let table = stored(model, &[40, 64]);
    assert_eq!(tensor(&table, only(&table, "Cast"), 0).dtype(), DataType::Int8);
    let small = stored("g (float[2,8] x) => (float[2,8] y) <CONSTANTS> { y = MatMul (x, k) }", &[8, 8]);
    assert_eq!(small.ops().len(), 1);
    let shared =
        "g (float[2,64] x) => (float[2,64] y, float[2,64] z) <CONSTANTS> { y = MatMul (x, k)  z = MatMul (y, k) }";
    assert!(stored_types(&stored_half(shared)).contains(&DataType::Float16));
}

fn stored_half(graph: &str) -> Graph {
    let weight = declare("float", "k", &[64, 64], (0..64 * 64).map(number));
    let mut graph = parse(&graph.replace("CONSTANTS", &weight)).graph;
    graph.set_opset(21);
    run(&StoreInt4::default(), &mut graph, Options::default());
    run(&StoreFp16::default(), &mut graph, Options::default());
    graph
}

fn stored_types(graph: &Graph) -> Vec<DataType> {
    graph.values().into_iter().filter_map(|value| graph.constant(value)).map(|tensor| tensor.dtype()).collect()
}

#[test]
fn what_16_bit_floats_cannot_hold_stays() {
    let model = |numbers: &mut dyn Iterator<Item = f64>| {
        let weight = declare("float", "k", &[16, 16], numbers);
        let text = format!("g (float[2,16] x) => (float[2,16] y) <{weight}> {{ y = MatMul (x, k) }}");
        let mut graph = parse(&text).graph;
        run(&StoreFp16::default(), &mut graph, Options::default());
        stored_types(&graph)
    };
    assert_eq!(model(&mut (0..256).map(|i| number(i) + 0.01)), [DataType::Float16]);
    assert_eq!(model(&mut (0..256).map(|i| 1e6 * number(i))), [DataType::Float], "overflow");
    assert_eq!(model(&mut (0..256).map(|i| 1e-8 * number(i))), [DataType::Float], "mostly denormal");
    assert!(
        model(&mut (0..256).map(|i| f64::from(u8::from(i % 3 == 0)) * 0.3)).contains(&DataType::Uint8),
        "two values"
    );
}
