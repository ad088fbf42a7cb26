//! Stores the weights of Conv, Gemm and MatMul in 4 bits, in blocks of one scale, and tables in 8.
//!
//! ```onnx before
//! # x: float[1,64]; w: float[64,48]
//! y = MatMul (x, w)
//! ```
//! ```onnx after
//! d = DequantizeLinear <axis = 0, block_size = 32> (w_q, w_scale)
//! y = MatMul (x, d)
//! ```
//! That form is for layers that compute one row: ONNX Runtime makes one MatMulNBits of the two, 0.6 to 0.7 of float's time (which
//! rounds its input to 8 bits, an error of 0.5 %). For more rows that is slower than float (1.9 times for 16), and where it is not
//! done, as in front of Gemm → Relu, a DequantizeLinear runs at every inference, 11 times float's time. So all other layers get
//! Cast → Mul → Reshape, which engines fold when they load the file: float's time. (Measured with ONNX Runtime 1.32.)
//!
//! Inputs that no block divides have a shorter last block: zeros fill it, and a Slice cuts them off. Tables that a Gather reads
//! are stored in 8 bits as `store-int8` does: in 4 their error, which goes into everything behind them, is as large as that of
//! all layers together, for 6 % of the bytes (stories260k).
//!
//! **Class:** approximate. **Legal when** one op alone reads the weight, and the opset is 21.
//! **Does not** touch grouped convolutions, layers of fewer than [`LEAST_INPUTS`] inputs, or bodies.

use std::collections::BTreeMap;

use ndarray::{Array2, s};
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, TensorType, Use, ValueRef, attributes};

use crate::{
    Class, Context, Miss, Pass, Result,
    prune::layer::Layer,
    quantize::{StoreInt8, gptq::Blocks},
    solver::Gram,
};

/// The first opset with 4-bit integers and blocks.
pub const LEAST_OPSET: i64 = 21;

/// The block that kernels like best.
const BLOCK: usize = 32;

/// Layers with fewer inputs are left: a scale for so few numbers takes what the bits save.
const LEAST_INPUTS: usize = 16;

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
    /// Relative squared error of the weights
    weight_error: f64,
}

/// See the [module](self).
pub struct StoreInt4<'a> {
    /// The layers, by op; `None`: all, rounded to nearest
    pub layers: Option<&'a BTreeMap<OpId, &'a Int4>>,
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
        store_tables(graph, cx)
    }
}

/// Stores what a Gather looks up in 8 bits.
fn store_tables(graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
    let storage = StoreInt8 { calibration: None };
    for value in graph.values() {
        let looks_up = |place: &Use| matches!(place, Use::Input(op, 0) if graph.op(*op).is("Gather"));
        if graph.constant(value).is_none() || !graph.uses(value).iter().any(looks_up) {
            continue;
        }
        match storage.store(graph, cx, value, false) {
            Ok(patch) => {
                cx.apply(graph, patch)?;
            }
            Err(Some((op, miss))) => cx.missed(graph, op, &miss),
            Err(None) => {}
        }
    }
    Ok(())
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
    if layer.inputs < LEAST_INPUTS {
        return Err(Miss::Form("too few inputs for a block"));
    }
    let numbers = layer.inputs * layer.outputs;
    let blocks = layer.inputs.div_ceil(block_size(layer.inputs));
    let added = numbers.div_ceil(2) + 4 * blocks * layer.outputs + OVERHEAD;
    // 16-bit floats are what it would be otherwise.
    if added >= 2 * numbers {
        return Err(Miss::Grows { added, removed: 2 * numbers });
    }
    Ok(layer)
}

/// The size of blocks for so many inputs: of what divides them, the nearest to [`BLOCK`]; where nothing does, [`BLOCK`] itself.
fn block_size(inputs: usize) -> usize {
    let dividing = (16..=64).filter(|size| inputs.is_multiple_of(*size));
    dividing.min_by_key(|size| (size.abs_diff(BLOCK), *size)).unwrap_or(BLOCK)
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
        let size = block_size(layer.inputs);
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
        let off = blocks.weights() - &weights;
        let squared = |numbers: &Array2<f64>| numbers.iter().map(|x| x * x).sum::<f64>();
        let weight_error = squared(&off) / squared(&weights).max(f64::MIN_POSITIVE);
        Ok(Int4 { layer: layer.clone(), blocks, by_samples, sqnr_db, weight_error })
    }

    /// Relative squared error of what the layer gives; without samples of its weights.
    pub fn noise(&self) -> f64 {
        self.sqnr_db.map_or(self.weight_error, |sqnr| 10f64.powf(-sqnr / 10.0))
    }

    /// What it is, in a few words.
    pub fn sentence(&self) -> String {
        let how = if self.by_samples { "by GPTQ" } else { "rounded to nearest" };
        format!("4-bit weights in blocks of {}, {how}", self.blocks.size)
    }

    fn store(&self, graph: &Graph, op: OpId) -> Result<Patch, Miss> {
        let layer = &self.layer;
        let weight = graph.constant(layer.weight).ok_or(Miss::NotConstant(layer.weight))?;
        let ty = graph.ty(layer.weight).cloned();
        let mut patch = Patch::new(op);
        let result = if self.is_fused(graph) {
            let integers = patch.constant("w", packed(weight.dims(), self.blocks.integers.iter().copied())?);
            let scales: Vec<f32> = self.blocks.scales.iter().copied().collect();
            let scales = patch.constant("s", Tensor::from_vec(self.blocks.scales.shape(), scales));
            let decode = NewOp::new("DequantizeLinear")
                .with(attributes::int("axis", 0))
                .with(attributes::int("block_size", self.blocks.size as i64));
            patch.op(decode, &[Some(integers), Some(scales)], "d", ty)
        } else {
            self.folded(&mut patch, weight.dims(), ty)?
        };
        patch.replace(layer.weight, result);
        Ok(patch)
    }

    /// Cast → Mul → Reshape, which give the weight of the shape `dims`.
    fn folded(&self, patch: &mut Patch, dims: &[usize], ty: Option<TensorType>) -> Result<ValueRef, Miss> {
        let (size, inputs, outputs) = (self.blocks.size, self.layer.inputs, self.layer.outputs);
        let blocks = self.blocks.scales.nrows();
        let padded = blocks * size;
        // Zeros fill the last block.
        let at = |i: usize, j: usize| if i < inputs { self.blocks.integers[(i, j)] } else { 0 };
        let by_columns = self.layer.output_axis() == 1;
        let (integers, scales, whole) = if by_columns {
            let integers = (0..padded).flat_map(|i| (0..outputs).map(move |j| at(i, j)));
            let scales: Vec<f32> = self.blocks.scales.iter().copied().collect();
            let scales = Tensor::from_vec(&[blocks, 1, outputs], scales);
            (packed(&[blocks, size, outputs], integers)?, scales, [padded, outputs])
        } else {
            let integers = (0..outputs).flat_map(|j| (0..padded).map(move |i| at(i, j)));
            let scales: Vec<f32> = self.blocks.scales.t().iter().copied().collect();
            let scales = Tensor::from_vec(&[outputs, blocks, 1], scales);
            (packed(&[outputs, blocks, size], integers)?, scales, [outputs, padded])
        };
        let list = |numbers: &[usize]| {
            Tensor::from_vec(&[numbers.len()], numbers.iter().map(|&n| n as i64).collect::<Vec<i64>>())
        };
        let integers = patch.constant("w", integers);
        let scales = patch.constant("s", scales);
        let cast = NewOp::new("Cast").with(attributes::int("to", DataType::Float as i64));
        let cast = patch.op(cast, &[Some(integers)], "c", None);
        let product = patch.op(NewOp::new("Mul"), &[Some(cast), Some(scales)], "m", None);
        let reshaped = |patch: &mut Patch, from: ValueRef, dims: &[usize], ty: Option<TensorType>| {
            let shape = patch.constant("shape", list(dims));
            patch.op(NewOp::new("Reshape"), &[Some(from), Some(shape)], "r", ty)
        };
        if padded == inputs {
            return Ok(reshaped(patch, product, dims, ty));
        }
        let long = reshaped(patch, product, &whole, None);
        let axis = usize::from(!by_columns);
        let [start, end, axis] = [0, inputs, axis].map(|number| patch.constant("cut", list(&[number])));
        let is_matrix = dims.len() == 2;
        let cut = [Some(long), Some(start), Some(end), Some(axis)];
        let cut = patch.op(NewOp::new("Slice"), &cut, "t", if is_matrix { ty.clone() } else { None });
        Ok(if is_matrix { cut } else { reshaped(patch, cut, dims, ty) })
    }

    /// Whether ONNX Runtime makes one op of a DequantizeLinear and the layer, that is faster than the layer.
    fn is_fused(&self, graph: &Graph) -> bool {
        let layer = &self.layer;
        let rows = graph.ty(layer.x).and_then(|ty| ty.dims()).map(|dims| dims.iter().product::<usize>());
        layer.output_axis() == 1
            && self.blocks.size == BLOCK
            && layer.inputs.is_multiple_of(BLOCK)
            && rows == Some(layer.inputs)
            && !is_drawn_in(graph, layer)
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
fn packed(dims: &[usize], integers: impl Iterator<Item = i8>) -> Result<Tensor, Miss> {
    let nibbles: Vec<u8> = integers.map(|q| q as u8 & 0x0F).collect();
    let bytes: Vec<u8> = nibbles.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect();
    Tensor::new(DataType::Int4, dims, bytes.into()).map_err(|_| Miss::Form("a shape of the weight"))
}
