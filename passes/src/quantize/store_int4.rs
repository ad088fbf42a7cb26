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
//! all layers together, for 6 % of the bytes (stories260k). So are the smallest layers.
//!
//! **Class:** approximate. **Legal when** one op alone reads the weight, and the opset is 21.
//! **Does not** touch grouped convolutions, layers of fewer than [`LEAST_INPUTS`] inputs, or bodies.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, Array2, s};
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, TensorType, Use, ValueId, ValueRef, attributes};

use crate::{
    Class, Context, Miss, Pass, Result,
    prune::layer::Layer,
    quantize::{
        StoreInt8,
        gptq::{Blocks, DAMPINGS},
    },
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
    /// Biases that take up what rounding does to the mean; `None`: as they were
    biases: Option<Array1<f64>>,
    /// Whether samples told how to round; `false`: to nearest
    pub by_samples: bool,
    /// Signal to noise of the layer's output on samples that were not fitted, in dB, what it takes up of other layers' errors
    /// counted as noise; `None` without them
    pub sqnr_db: Option<f64>,
    /// Relative squared error of the weights
    weight_error: f64,
}

/// See the [module](self).
#[derive(Default)]
pub struct StoreInt4<'a> {
    /// The layers, by op; `None`: all, rounded to nearest
    pub layers: Option<&'a BTreeMap<OpId, &'a Int4>>,
    /// Weights that get 8 bits, as tables do
    pub in_8_bits: BTreeSet<ValueId>,
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
                None => candidate(graph, op).and_then(|layer| Int4::nearest(graph, &layer)?.store(graph, op)),
            };
            match stored {
                Ok(patch) => {
                    cx.apply(graph, patch)?;
                }
                Err(miss) if miss.is_worth_reporting() => cx.missed(graph, op, &miss),
                Err(_) => {}
            }
        }
        store_in_8_bits(graph, cx, &self.in_8_bits)
    }
}

/// Stores what a Gather looks up, and `others`, in 8 bits.
fn store_in_8_bits(graph: &mut Graph, cx: &mut Context<'_>, others: &BTreeSet<ValueId>) -> Result<()> {
    let storage = StoreInt8::default();
    for value in graph.values() {
        let looks_up = |place: &Use| matches!(place, Use::Input(op, 0) if graph.op(*op).is("Gather"));
        let is_wanted = || others.contains(&value) || graph.uses(value).iter().any(looks_up);
        if !graph.has_value(value) || graph.constant(value).is_none() || !is_wanted() {
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

/// Share of the numbers of all layers that the smallest ones may have together, to get 8 bits.
const SMALL_SHARE: f64 = 0.05;

/// The smallest of `layers`, as many as have [`SMALL_SHARE`] of the numbers: first layers, whose error goes into everything, and
/// others whose bits cost little.
pub fn smallest(layers: &[(OpId, Layer)]) -> BTreeSet<OpId> {
    let numbers = |layer: &Layer| (layer.inputs * layer.outputs) as f64;
    let mut left = SMALL_SHARE * layers.iter().map(|(_, layer)| numbers(layer)).sum::<f64>();
    let mut by_size: Vec<&(OpId, Layer)> = layers.iter().collect();
    by_size.sort_by(|a, b| numbers(&a.1).total_cmp(&numbers(&b.1)).then(a.0.cmp(&b.0)));
    let fits = |(_, layer): &&&(OpId, Layer)| {
        left -= numbers(layer);
        left >= 0.0
    };
    by_size.iter().take_while(fits).map(|(op, _)| *op).collect()
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
    /// The weights of `layer`, rounded to nearest.
    pub fn nearest(graph: &Graph, layer: &Layer) -> Result<Int4, Miss> {
        let whole = layer.weights(graph).ok_or(Miss::NotConstant(layer.weight))?;
        let weights = whole.slice(s![..layer.inputs, ..]).to_owned();
        if weights.iter().any(|w| !w.is_finite()) {
            return Err(Miss::NotFinite(layer.weight));
        }
        let blocks = Blocks::nearest(&weights, block_size(layer.inputs));
        let off = blocks.weights() - &weights;
        let squared = |numbers: &Array2<f64>| numbers.iter().map(|x| x * x).sum::<f64>();
        let weight_error = squared(&off) / squared(&weights).max(f64::MIN_POSITIVE);
        Ok(Int4 { layer: layer.clone(), blocks, biases: None, by_samples: false, sqnr_db: None, weight_error })
    }

    /// Rounds again with moments of what the layer reads and is to give, where that is better on those that judge. `prior`: the
    /// weights as they were, of the shape that [`Layer::weights`] gives; the result, too: what is stored now.
    pub fn refine(&mut self, fit: &Gram, judge: &Gram, prior: &Array2<f64>) -> Array2<f64> {
        let (inputs, size) = (self.layer.inputs, self.blocks.size);
        let whole = |blocks: &Blocks, biases: Option<&Array1<f64>>| {
            let mut whole = prior.clone();
            whole.slice_mut(s![..inputs, ..]).assign(&blocks.weights());
            if let Some(biases) = biases {
                whole.row_mut(inputs).assign(biases);
            }
            whole
        };
        let mut found = whole(&self.blocks, None);
        let mut error = judge.error(found.view());
        let centred = fit.centred();
        for damping in DAMPINGS {
            let Some(wanted) = fit.solve(damping, prior.view()) else { continue };
            let wanted = wanted.slice(s![..inputs, ..]).to_owned();
            let Some(blocks) = Blocks::gptq(&wanted, size, &centred, damping) else { continue };
            let biases = fit.biases(blocks.weights().view());
            let tried = whole(&blocks, biases.as_ref());
            let after = judge.error(tried.view());
            if after < error {
                (self.blocks, self.biases, self.by_samples) = (blocks, biases, true);
                (found, error) = (tried, after);
            } else if self.by_samples {
                break; // more of it only leads back to nearest
            }
        }
        let own = judge.with_targets_of(prior.view());
        let noise = own.error(found.view());
        self.sqnr_db = (noise > 0.0 && own.signal() > 0.0).then(|| 10.0 * (own.signal() / noise).log10());
        found
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
        if let (Some(biases), Some(bias)) = (&self.biases, layer.bias) {
            let dims = graph.constant(bias).ok_or(Miss::NotConstant(bias))?.dims();
            let biases: Vec<f32> = biases.iter().map(|bias| *bias as f32).collect();
            patch.set_constant(bias, Tensor::from_vec(dims, biases));
        }
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
