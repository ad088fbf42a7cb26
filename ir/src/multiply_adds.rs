//! Multiply-adds of ops: products that are summed up, the usual measure of a network's work.
//!
//! The one place that counts them; the caller says which shapes hold (inferred, or seen in a run). **Never** guesses: an op
//! whose sums this does not know, or whose shapes are not known, gives `None`, which is not 0.
use crate::{
    graph::{Graph, OpId, ValueId},
    tensor::element_count,
};

/// Dimensions of a value, where they are known.
pub type Dims<'a> = &'a dyn Fn(ValueId) -> Option<Vec<usize>>;

/// Ops of ONNX itself that sum up products in a way that is not counted here, or run bodies.
const NOT_COUNTED: [&str; 12] = [
    "Attention",
    "DeformConv",
    "DFT",
    "Einsum",
    "If",
    "LinearAttention",
    "Loop",
    "MelWeightMatrix",
    "RotaryEmbedding",
    "Scan",
    "SequenceMap",
    "STFT",
];

/// Multiply-adds of one run of `op`, additions of a bias aside; 0 for ops that sum up no products; `None` when they are not
/// known. `dims` is asked for inputs, constants included, and outputs. Of other domains, `com.microsoft.FusedConv`,
/// `FusedGemm`, `FusedMatMul` and `MatMulIntegerToFloat` are counted, and Quantize and Dequantize have none.
pub fn multiply_adds(graph: &Graph, op: OpId, dims: Dims<'_>) -> Option<u64> {
    let node = graph.op(op);
    let input = |index: usize| dims(node.input(index)?);
    let output = || element_count(&dims(node.output(0)?)?);
    let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
    let product = |factors: &[usize]| element_count(factors).map(|count| count as u64);
    match (node.domain(), node.op_type()) {
        // One output number sums over the channels of its group and the kernel's positions: w is [M, C/group, k…].
        ("", "Conv" | "ConvInteger") | ("com.microsoft", "FusedConv") => {
            product(&[output()?, element_count(input(1)?.get(1..)?)?])
        }
        ("", "QLinearConv") => product(&[output()?, element_count(input(3)?.get(1..)?)?]),
        // One input number goes to the filters of its group: w is [C, M/group, k…].
        ("", "ConvTranspose") => product(&[element_count(&input(0)?)?, element_count(input(1)?.get(1..)?)?]),
        ("", "MatMul" | "MatMulInteger" | "QLinearMatMul") | ("com.microsoft", "MatMulIntegerToFloat") => {
            product(&[output()?, *input(0)?.last()?])
        }
        ("com.microsoft", "FusedMatMul") => {
            let a = input(0)?;
            let k = if flag("transA") { a.get(a.len().checked_sub(2)?)? } else { a.last()? };
            product(&[output()?, *k])
        }
        ("", "Gemm") | ("com.microsoft", "FusedGemm") => {
            product(&[output()?, *input(0)?.get(usize::from(!flag("transA")))?])
        }
        // Each step of each sequence meets both matrices once: X is [steps, batch, …] or, with layout 1, [batch, steps, …].
        ("", "LSTM" | "GRU" | "RNN") => {
            let (x, weights) = (input(0)?, element_count(&input(1)?)?.checked_add(element_count(&input(2)?)?)?);
            product(&[element_count(x.get(..2)?)?, weights])
        }
        ("", op_type) => (!NOT_COUNTED.contains(&op_type)).then_some(0),
        ("com.microsoft", "QuantizeLinear" | "DequantizeLinear") => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::multiply_adds;
    use crate::{infer::infer, text::parse_graph};

    /// Multiply-adds of the only op of a graph, by inferred shapes.
    fn count(text: &str) -> Option<u64> {
        let mut graph = parse_graph(text, 17).unwrap().graph;
        infer(&mut graph);
        let op = graph.ops()[0];
        multiply_adds(&graph, op, &|value| graph.ty(value)?.dims())
    }

    #[test]
    fn products_that_are_summed_are_counted() {
        // 8 filters of 4 channels and 3×3 positions at 6×6 places
        let conv = "(float[1,4,8,8] x, float[8,4,3,3] w) => (float[1,8,6,6] y) { y = Conv (x, w) }";
        assert_eq!(count(&format!("g {conv}")), Some(8 * 36 * 4 * 9));
        // depthwise: one channel each
        let conv = "(float[1,4,8,8] x, float[4,1,3,3] w) => (float[1,4,6,6] y) { y = Conv <group = 4> (x, w) }";
        assert_eq!(count(&format!("g {conv}")), Some(4 * 36 * 9));
        let transposed = "(float[1,4,8,8] x, float[4,3,2,2] w) => (float[1,3,9,9] y) { y = ConvTranspose (x, w) }";
        assert_eq!(count(&format!("g {transposed}")), Some(4 * 64 * 3 * 4));
        let gemm = "(float[7,5] a, float[7,3] b) => (float[5,3] y) { y = Gemm <transA = 1> (a, b) }";
        assert_eq!(count(&format!("g {gemm}")), Some(5 * 3 * 7));
        let matmul = "(float[2,5,7] a, float[7,3] b) => (float[2,5,3] y) { y = MatMul (a, b) }";
        assert_eq!(count(&format!("g {matmul}")), Some(2 * 5 * 3 * 7));
        let gru = "(float[9,2,5] x, float[1,12,5] w, float[1,12,4] r) => (float[9,1,2,4] y)";
        assert_eq!(count(&format!("g {gru} {{ y = GRU <hidden_size = 4> (x, w, r) }}")), Some(18 * (60 + 48)));
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        assert_eq!(count("g (float[4] x) => (float[4] y) { y = Relu (x) }"), Some(0));
        assert_eq!(count("g (float[N,5] a, float[5,3] b) => (float[N,3] y) { y = MatMul (a, b) }"), None);
        assert_eq!(count("g (float[4,4] a) => (float[4,4] y) { y = Einsum <equation = \"ij->ji\"> (a) }"), None);
        assert_eq!(count("g (float[4] a) => (float[4] y) { y = other.domain.Relu (a) }"), None);
    }
}
