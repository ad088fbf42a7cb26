//! The pair rule of x86 processors without VNNI on written graphs, counted without the quantizer's own code: two weights
//! that meet in 16 bits add up to at most 128, in each direction.
use onnx_shrink_ir::{Graph, Op, Tensor};

use crate::{all_integer, before, constant, declare, only, ops};

/// Pairs that can saturate: neighbours along each of `rows`.
fn saturating(rows: impl IntoIterator<Item = Vec<i64>>) -> usize {
    let bad = |pair: &[i64]| pair.len() == 2 && (pair[0] + pair[1]).abs() > 128;
    rows.into_iter().map(|row| row.chunks(2).filter(|pair| bad(pair)).count()).sum()
}

/// The reductions of a weight [M, C/g, k…], one per filter: channels run fastest.
fn conv_reductions(weight: &Tensor) -> Vec<Vec<i64>> {
    let dims = weight.dims();
    let (channels, taps) = (dims[1], dims[2..].iter().product::<usize>());
    let numbers = weight.to_i64_vec().expect("integers");
    let filter = |numbers: &[i64]| {
        (0..taps * channels).map(|i| numbers[i % channels * taps + i / channels]).collect::<Vec<i64>>()
    };
    numbers.chunks(channels * taps).map(filter).collect()
}

/// The reductions of a matrix: its columns, or its rows when it is transposed.
fn linear_reductions(weight: &Tensor, transposed: bool) -> Vec<Vec<i64>> {
    let (rows, columns) = (weight.dims()[0], weight.dims()[1]);
    let numbers = weight.to_i64_vec().expect("integers");
    if transposed {
        return numbers.chunks(columns).map(<[i64]>::to_vec).collect();
    }
    (0..columns).map(|column| (0..rows).map(|row| numbers[row * columns + column]).collect()).collect()
}

/// The 8-bit weight that `op` multiplies by; `None` when it is float.
fn weight<'g>(graph: &'g Graph, op: &Op) -> Option<&'g Tensor> {
    let dequantize = graph.op(graph.producer(op.input(1)?)?);
    graph.constant(dequantize.input(0)?)
}

pub fn no_pair_saturates(graph: &Graph) {
    for conv in ops(graph, "Conv") {
        let Some(weight) = weight(graph, conv) else { continue };
        let is_depthwise = weight.dims()[1] == 1 && conv.int("group").unwrap_or(1) == weight.dims()[0] as i64;
        assert!(is_depthwise || saturating(conv_reductions(weight)) == 0);
    }
    for op in ops(graph, "Gemm").into_iter().chain(ops(graph, "MatMul")) {
        let Some(weight) = weight(graph, op) else { continue };
        assert_eq!(saturating(linear_reductions(weight, op.int("transB").unwrap_or(0) != 0)), 0);
    }
}

#[test]
fn the_count_finds_a_pair_that_saturates() {
    assert_eq!(saturating([vec![64, 65, 1], vec![64, 64, 127], vec![-127, 127]]), 1);
    let weight = Tensor::from_vec(&[1, 2, 1, 2], vec![100i8, 0, 28, 127]); // channels meet: 100 + 28, 0 + 127
    assert_eq!(saturating(conv_reductions(&weight)), 0);
    let matrix = Tensor::from_vec(&[2, 2], vec![100i8, 100, 0, 0]);
    assert_eq!((saturating(linear_reductions(&matrix, false)), saturating(linear_reductions(&matrix, true))), (0, 1));
}

/// [`all_integer`] checks the rule; here it is given weights of every form and seed.
#[test]
fn no_pair_of_weights_saturates_in_any_form() {
    for seed in 0..12 {
        let w = |dims: &[usize]| constant(&format!("w{seed}"), dims, 1.0);
        let conv = |dims: &[usize], attributes: &str| {
            let model = format!(
                "g (float[1,4,5,5] x) => (float[1,{},N,M] y) <{}> {{ y = Conv {attributes} (x, w{seed}) }}",
                dims[0],
                w(dims)
            );
            all_integer(&model);
        };
        conv(&[3, 4, 1, 1], "");
        conv(&[3, 4, 3, 3], "");
        conv(&[6, 2, 3, 3], "<group = 2>");
        conv(&[8, 1, 3, 3], "<group = 4>"); // a multiplier of two: no depthwise kernel
        let linear = |dims: &[usize], op: &str| {
            all_integer(&format!("g (float[2,7] x) => (float[2,5] y) <{}> {{ y = {op} (x, w{seed}) }}", w(dims)));
        };
        linear(&[7, 5], "MatMul");
        linear(&[7, 5], "Gemm");
        linear(&[5, 7], "Gemm <transB = 1>");
    }
}

#[test]
fn only_depthwise_weights_have_the_full_range() {
    let model = |channels: usize, group: usize| {
        let weight = declare("float", "w", &[4, channels, 3, 3], vec![1.0; 36 * channels]);
        format!("g (float[1,4,5,5] x) => (float[1,4,3,3] y) <{weight}> {{ y = Conv <group = {group}> (x, w) }}")
    };
    let largest = |made: &crate::Quantized| {
        let conv = only(&made.after, "Conv");
        assert!(before(&made.after, conv, 1).is("DequantizeLinear"));
        weight(&made.after, conv).and_then(Tensor::to_i64_vec)?.into_iter().max()
    };
    assert_eq!(largest(&all_integer(&model(1, 4))), Some(127));
    assert_eq!(largest(&all_integer(&model(4, 1))), Some(64));
}
