//! Stores the weights of Conv, Gemm and MatMul in 4 bits, in blocks of one scale.
//!
//! ```onnx before
//! # x: float[2,64]; w: float[64,48]
//! y = MatMul (x, w)
//! ```
//! ```onnx after
//! d = DequantizeLinear <axis = 0, block_size = 32> (w_q, w_scale)
//! y = MatMul (x, d)
//! ```
//! ONNX Runtime makes one MatMulNBits of the two: 0.6 of float's time for one row, 0.9 for 128 (it rounds its input to 8 bits, an
//! error of 0.5 %). Where it would not, a DequantizeLinear runs at every inference (11 times float's time in front of Gemm → Relu), so
//! convolutions, transposed weights and what an activation follows get Cast → Mul → Reshape, which engines fold when they load the
//! file: float's time. (Measured with ONNX Runtime 1.32.)
//!
//! **Class:** approximate. **Legal when** one op alone reads the weight, the opset is 21, and a block size of 16 to 64 divides its inputs.
//! **Does not** touch tables (Gather), whose error would go into everything, nor grouped convolutions, nor bodies.

use std::collections::BTreeMap;

use ndarray::{Array2, s};
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, Use, attributes};

use crate::{Class, Context, Miss, Pass, Result, prune::layer::Layer, quantize::gptq::Blocks, solver::Gram};

/// The first opset with 4-bit integers and blocks.
pub const LEAST_OPSET: i64 = 21;

/// The block that kernels like best.
const BLOCK: usize = 32;

/// Bytes that the nodes and their names take.
const OVERHEAD: usize = 260;

/// Ops that ONNX Runtime draws into a Gemm before it looks at its weight.
const DRAWN_IN: [&str; 9] =
    ["Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Tanh", "ThresholdedRelu"];

/// A layer's weights in 4 bits.
#[derive(Clone, Debug)]
pub struct Int4 {
    /// The layer
    layer: Layer,
    blocks: Blocks,
    /// Whether samples told how to round; `false`: to nearest
    pub by_samples: bool,
    /// Signal to noise of the layer's output on samples that were not fitted, in dB; `None` without them
    pub sqnr_db: Option<f64>,
}

/// See the [module](self).
pub struct StoreInt4<'a> {
    /// The layers, by op; `None`: all, rounded to nearest
    pub layers: Option<&'a BTreeMap<OpId, Int4>>,
}

impl Pass for StoreInt4<'_> {
    fn name(&self) -> &'static str {
        "store-int4"
    }

    fn class(&self) -> Class {
        Class::Approximate
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() || graph.opset() < LEAST_OPSET {
            return Ok(());
        }
        for op in graph.ops() {
            let stored = match self.layers {
                Some(layers) => match layers.get(&op) {
                    Some(layer) => layer.store(graph, op),
                    None => continue,
                },
                None => candidate(graph, op).and_then(|layer| Int4::of(graph, &layer, None)?.store(graph, op)),
            };
            match stored {
                Ok(patch) => {
                    cx.apply(graph, patch)?;
                }
                Err(miss) if miss.is_worth_reporting() => cx.missed(graph, op, &miss),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The op as a layer whose weights can be stored; `Err(NotThisPattern)` for what has none.
pub fn candidate(graph: &Graph, op: OpId) -> Result<Layer, Miss> {
    let node = graph.op(op);
    if !["Conv", "Gemm", "MatMul"].iter().any(|name| node.is(name)) {
        return Err(Miss::NotThisPattern);
    }
    let weight = node.input(1).ok_or(Miss::NotThisPattern)?;
    let tensor = graph.constant(weight).ok_or(Miss::NotThisPattern)?;
    if tensor.dtype() != DataType::Float {
        return Err(Miss::NotThisPattern);
    }
    let layer =
        Layer::of(graph, op).ok_or(Miss::Form("its weight has other uses, or groups, or is no plain matrix"))?;
    let size = block_size(layer.inputs).ok_or(Miss::Form("no block of 16 to 64 divides its inputs"))?;
    let numbers = layer.inputs * layer.outputs;
    let added = numbers / 2 + 4 * numbers / size + OVERHEAD;
    // 16-bit floats are what it would be otherwise.
    if added >= 2 * numbers {
        return Err(Miss::Grows { added, removed: 2 * numbers });
    }
    Ok(layer)
}

/// The size of blocks for so many inputs: of what divides them, the nearest to [`BLOCK`].
fn block_size(inputs: usize) -> Option<usize> {
    (16..=64).filter(|size| inputs.is_multiple_of(*size)).min_by_key(|size| (size.abs_diff(BLOCK), *size))
}

impl Int4 {
    /// The weights of `layer`, rounded with moments of what it reads: those to fit, and those that judge whether that is better
    /// than to nearest.
    pub fn of(graph: &Graph, layer: &Layer, moments: Option<(&Gram, &Gram)>) -> Result<Int4, Miss> {
        let whole = layer.weights(graph).ok_or(Miss::NotConstant(layer.weight))?;
        let weights: Array2<f64> = whole.slice(s![..layer.inputs, ..]).to_owned();
        if weights.iter().any(|w| !w.is_finite()) {
            return Err(Miss::NotFinite(layer.weight));
        }
        let size = block_size(layer.inputs).ok_or(Miss::Form("no block of 16 to 64 divides its inputs"))?;
        let mut blocks = Blocks::nearest(&weights, size);
        let (mut by_samples, mut sqnr_db) = (false, None);
        if let Some((fit, judge)) = moments.filter(|(fit, _)| fit.rows > 0.0) {
            let inputs: Vec<usize> = (0..layer.inputs).collect();
            let judge = judge.select(&inputs).with_targets_of(weights.view());
            let mut error = judge.error(blocks.weights().view());
            if let Some(better) = Blocks::gptq(&weights, size, &fit.select(&inputs)) {
                let after = judge.error(better.weights().view());
                if after < error {
                    (blocks, error, by_samples) = (better, after, true);
                }
            }
            sqnr_db = (error > 0.0 && judge.signal() > 0.0).then(|| 10.0 * (judge.signal() / error).log10());
        }
        Ok(Int4 { layer: layer.clone(), blocks, by_samples, sqnr_db })
    }

    /// What it is, in a few words.
    pub fn sentence(&self) -> String {
        let how = if self.by_samples { "GPTQ" } else { "to nearest" };
        format!("4-bit weights in blocks of {}, rounded {how}", self.blocks.size).replace("rounded GPTQ", "by GPTQ")
    }

    fn store(&self, graph: &Graph, op: OpId) -> Result<Patch, Miss> {
        let layer = &self.layer;
        let ty = graph.ty(layer.weight).cloned();
        let dims = graph.constant(layer.weight).ok_or(Miss::NotConstant(layer.weight))?.dims().to_vec();
        let by_columns = layer.output_axis() == 1;
        let (blocks, size) = (self.blocks.scales.nrows(), self.blocks.size);
        let float = DataType::Float as i64;
        let mut patch = Patch::new(op);
        let result = if by_columns && size == BLOCK && !is_drawn_in(graph, layer) {
            let integers = patch.constant("w", packed(&dims, self.blocks.integers.iter())?);
            let scales = Tensor::from_vec(&[blocks, layer.outputs], self.blocks.scales.iter().copied().collect());
            let scales = patch.constant("s", scales);
            let decode = NewOp::new("DequantizeLinear")
                .with(attributes::int("axis", 0))
                .with(attributes::int("block_size", size as i64));
            patch.op(decode, &[Some(integers), Some(scales)], "d", ty)
        } else {
            let (integers, scales, shape) = if by_columns {
                let scales = self.blocks.scales.iter().copied().collect();
                let integers = packed(&[blocks, size, layer.outputs], self.blocks.integers.iter())?;
                (integers, scales, [blocks, 1, layer.outputs])
            } else {
                let scales: Vec<f32> = self.blocks.scales.t().iter().copied().collect();
                let integers = packed(&[layer.outputs, blocks, size], self.blocks.integers.t().iter())?;
                (integers, scales, [layer.outputs, blocks, 1])
            };
            let integers = patch.constant("w", integers);
            let scales = patch.constant("s", Tensor::from_vec(&shape, scales));
            let shape =
                patch.constant("shape", Tensor::from_vec(&[dims.len()], dims.iter().map(|&d| d as i64).collect()));
            let cast = NewOp::new("Cast").with(attributes::int("to", float));
            let cast = patch.op(cast, &[Some(integers)], "c", None);
            let product = patch.op(NewOp::new("Mul"), &[Some(cast), Some(scales)], "m", None);
            patch.op(NewOp::new("Reshape"), &[Some(product), Some(shape)], "r", ty)
        };
        patch.replace(layer.weight, result);
        Ok(patch)
    }
}

/// Whether the layer becomes a Gemm with an activation in it.
fn is_drawn_in(graph: &Graph, layer: &Layer) -> bool {
    let becomes_gemm = graph.op(layer.op).is("Gemm") || layer.bias.is_some();
    let follows = |place: &Use| match place {
        Use::Input(op, _) => DRAWN_IN.contains(&graph.op(*op).op_type()),
        _ => false,
    };
    becomes_gemm && graph.uses(layer.y).iter().any(follows)
}

/// Two integers a byte, the first in the low bits.
fn packed<'a>(dims: &[usize], integers: impl Iterator<Item = &'a i8>) -> Result<Tensor, Miss> {
    let nibbles: Vec<u8> = integers.map(|&q| q as u8 & 0x0F).collect();
    let bytes: Vec<u8> = nibbles.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect();
    Tensor::new(DataType::Int4, dims, bytes.into()).map_err(|_| Miss::Form("a shape of the weight"))
}
