//! Stores the weights of Conv, Gemm and MatMul in 4 bits, in blocks of one scale, and tables in 8.
//!
//! ```onnx before
//! # x: float[1,64]; w: float[64,48]
//! y = MatMul (x, w)
//! ```
//! ```onnx after
//! c = Cast <to = 1> (w_scale)
//! d = DequantizeLinear <axis = 0, block_size = 32> (w_q, c)
//! y = MatMul (x, d)
//! ```
//! That form is for layers that compute one row: ONNX Runtime makes one MatMulNBits of the two, 0.6 to 0.7 of float's time (which
//! rounds its input to 8 bits, an error of 0.5 %). For more rows that is slower than float (1.9 times for 16), and where it is not
//! done, as in front of Gemm → Relu, a DequantizeLinear runs at every inference, 11 times float's time. So all other layers get
//! ops that engines fold when they load the file: float's time. (Measured with ONNX Runtime 1.32.) At opsets before 21, which have
//! no 4-bit integers, all layers do: see `int4_forms`.
//!
//! Inputs that no block divides have a shorter last block: zeros fill it, and a Slice cuts them off. Tables that a Gather reads
//! are stored in 8 bits as `store-int8` does: in 4 their error, which goes into everything behind them, is as large as that of
//! all layers together, for 6 % of the bytes (stories260k). Weights that cannot have 4 bits are left to `store-int8`, too.
//!
//! **Class:** approximate. **Legal when** one op alone reads the weight.
//! **Does not** touch grouped convolutions, layers of fewer than `LEAST_INPUTS` inputs, or bodies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ndarray::{Array1, Array2, s};
use onnx_shrink_ir::{
    DataType, Graph, OpId, Patch, Tensor, Use, ValueId,
    ops::{LayerKind, WeightedLayer},
};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    numerics::{
        bits::{Choice, Form},
        gptq::{Blocks, DAMPINGS},
        solver::Gram,
    },
    prune::layer::Layer,
    target::onnx_runtime::GEMM_ACTIVATIONS,
    weight_only::{
        StoreInt8,
        int4_forms::{BlockedWeight, Fresh, LEAST_PACKED, Shared, halved},
        least_bits::LeastBits,
        store_int8,
        tables::Roles,
    },
};

pub use crate::weight_only::int4_forms::LEAST_OPSET;

/// The block that kernels like best.
const BLOCK: usize = 32;

/// Blocks that are looked at.
const SIZES: std::ops::RangeInclusive<usize> = 16..=128;

/// Layers with fewer inputs are left: a scale for so few numbers takes what the bits save.
const LEAST_INPUTS: usize = 16;

/// Bytes that the nodes and their names take.
const OVERHEAD: usize = 420;

/// How weights were rounded to 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Each to the nearest number
    Nearest,
    /// The same: there are samples, and none of them reaches the layer
    Unreached,
    /// So that the layer's outputs on the samples are near: GPTQ (Frantar et al. 2022)
    Gptq,
}

/// The form of weights in 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded {
    /// Numbers that share a scale
    pub block_size: usize,
    /// How they were rounded
    pub rounding: Rounding,
}

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.rounding {
            Rounding::Gptq => "by GPTQ",
            Rounding::Nearest => "rounded to nearest",
            Rounding::Unreached => "rounded to nearest: no sample reaches it",
        };
        write!(f, "4-bit weights in blocks of {}, {how}", self.block_size)
    }
}

/// A layer's weights in 4 bits.
#[derive(Clone, Debug)]
pub struct Int4 {
    /// The layer
    layer: Layer,
    blocks: Blocks,
    /// Biases that take up what rounding does to the mean; `None`: as they were
    biases: Option<Array1<f64>>,
    rounding: Rounding,
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
    /// What single constants must have at least
    pub least: Option<&'a LeastBits>,
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "store-int4",
    class: Class::Approximate,
    about: "stores weights in 4 bits, rounded by GPTQ where there are samples",
    when: When::Requested("--weights int4"),
};

impl Pass for StoreInt4<'_> {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() || graph.opset() < LEAST_PACKED {
            return Ok(());
        }
        let mut shared = Shared::default();
        for op in graph.ops() {
            let stored = match self.layers {
                Some(layers) => match layers.get(&op) {
                    Some(layer) => layer.store(graph, op, shared),
                    None => continue,
                },
                None => {
                    candidate(graph, op).and_then(|layer| Int4::nearest(graph, &layer, None)?.store(graph, op, shared))
                }
            };
            match stored {
                Ok((patch, fresh)) => {
                    if let Some(applied) = cx.apply(graph, patch)? {
                        shared.learn(fresh, &applied.values);
                        shared = shared.still_in(graph);
                    }
                }
                Err(miss) if miss.is_worth_reporting() => cx.missed(graph, op, &miss),
                Err(_) => {}
            }
        }
        self.store_in_8_bits(graph, cx)
    }
}

impl StoreInt4<'_> {
    /// Stores what a Gather looks up, and what is wanted so, in 8 bits.
    fn store_in_8_bits(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let storage = StoreInt8 { least: self.least, ..StoreInt8::default() };
        let roles = Roles::of(graph);
        for value in graph.values() {
            let looks_up = |place: &Use| matches!(place, Use::Input(op, 0) if graph.op(*op).is("Gather"));
            let is_wanted = || self.in_8_bits.contains(&value) || graph.uses(value).iter().any(looks_up);
            if !graph.has_value(value) || graph.constant(value).is_none() || !is_wanted() {
                continue;
            }
            match storage.store(graph, cx, value, false, &roles) {
                Ok(patch) => {
                    cx.apply(graph, patch)?;
                }
                Err(Some((op, miss))) => cx.missed(graph, op, &miss),
                Err(None) => {}
            }
        }
        Ok(())
    }
}

/// The op as a layer whose weights can be stored; `Err(NotThisPattern)` for what has none.
pub fn candidate(graph: &Graph, op: OpId) -> Result<Layer, Miss> {
    let weighted = WeightedLayer::of_floats(graph, op).filter(|layer| layer.kind != LayerKind::ConvTranspose);
    let tensor = weighted.and_then(|layer| layer.constant(graph)).ok_or(Miss::NotThisPattern)?;
    if tensor.dtype() != DataType::Float {
        return Err(Miss::NotThisPattern);
    }
    let layer =
        Layer::of(graph, op).ok_or(Miss::Form("its weight has other uses, or groups, or is no plain matrix"))?;
    if layer.inputs < LEAST_INPUTS {
        return Err(Miss::Form("too few inputs for a block"));
    }
    let numbers = layer.inputs * layer.outputs;
    let blocks = layer.inputs.div_ceil(block_size(graph, &layer));
    let added = numbers.div_ceil(2) + 4 * blocks * layer.outputs + OVERHEAD;
    // 16-bit floats are what it would be otherwise.
    if added >= 2 * numbers {
        return Err(Miss::Grows { added, removed: 2 * numbers });
    }
    Ok(layer)
}

/// Sizes of blocks that divide the inputs of `layer`, or the usual one: those that kernels read where one may run.
fn block_sizes(graph: &Graph, layer: &Layer) -> Vec<usize> {
    let by_columns = layer.output_axis() == 1;
    let packs = |size: &usize| {
        let blocks = layer.inputs / size;
        let shape = if by_columns { [blocks, *size, layer.outputs] } else { [layer.outputs, blocks, *size] };
        halved(&shape, by_columns).is_some()
    };
    let mut sizes: Vec<usize> = SIZES.filter(|size| layer.inputs.is_multiple_of(*size)).filter(packs).collect();
    if suits_a_kernel(graph, layer) && sizes.iter().any(|size| size.is_power_of_two()) {
        sizes.retain(|size| size.is_power_of_two());
    }
    if sizes.is_empty() { vec![BLOCK] } else { sizes }
}

/// Of those sizes the nearest to [`BLOCK`].
fn block_size(graph: &Graph, layer: &Layer) -> usize {
    let sizes = block_sizes(graph, layer).into_iter();
    sizes.min_by_key(|size| (size.abs_diff(BLOCK), *size)).unwrap_or(BLOCK)
}

/// What the weights of `layer` may become, noise as a share of that of [`Int4::nearest`] in its usual blocks; `Err` where they are
/// not constant and finite.
pub fn choices(graph: &Graph, layer: &Layer) -> Result<Vec<Choice>, Miss> {
    let weights = finite_weights(graph, layer)?;
    let (inputs, outputs) = weights.dim();
    let usual = block_size(graph, layer);
    let squared = |off: Array2<f64>| off.iter().map(|x| x * x).sum::<f64>();
    let mut reference = 0.0;
    let mut choices = Vec::new();
    for size in block_sizes(graph, layer) {
        let blocks = Blocks::nearest(&weights, size);
        let noise = squared(blocks.weights() - &weights);
        if size == usual {
            reference = noise;
        }
        let scales = blocks.scales.len() * if blocks.half { 2 } else { 4 };
        let bytes = (inputs.next_multiple_of(size) * outputs).div_ceil(2) + scales;
        choices.push(Choice { form: Form::Four(size), bytes: bytes as f64, noise });
    }
    let mut rounded = weights.clone();
    for mut column in rounded.columns_mut() {
        let largest = column.iter().fold(f64::MIN_POSITIVE, |most, w| most.max(w.abs()));
        column.mapv_inplace(|w| (w / largest * 127.0).round_ties_even() * largest / 127.0);
    }
    let noise = squared(rounded - &weights);
    if noise <= LEAST_RATIO * squared(weights) {
        let bytes = (inputs * outputs + 4 * outputs) as f64;
        let saved = (OVERHEAD - store_int8::OVERHEAD) as f64;
        // What the ops that unpack 4 bits take is no saving.
        choices.retain(|choice| choice.bytes + saved < bytes);
        choices.push(Choice { form: Form::Eight, bytes, noise });
    }
    let reference = reference.max(f64::MIN_POSITIVE);
    choices.iter_mut().for_each(|choice| choice.noise /= reference);
    Ok(choices)
}

/// Noise to signal above which 8 bits are not worth their bytes: `store-int8` refuses at 28 dB.
const LEAST_RATIO: f64 = 1.5e-3;

/// The weights of `layer`, of shape [inputs, outputs].
fn finite_weights(graph: &Graph, layer: &Layer) -> Result<Array2<f64>, Miss> {
    let whole = layer.weights(graph).ok_or(Miss::NotConstant(layer.weight))?;
    let weights = whole.slice(s![..layer.inputs, ..]).to_owned();
    if weights.iter().any(|w| !w.is_finite()) {
        return Err(Miss::NotFinite(layer.weight));
    }
    Ok(weights)
}

impl Int4 {
    /// The weights of `layer`, rounded to nearest, in blocks of `size`; `None`: the usual ones.
    pub fn nearest(graph: &Graph, layer: &Layer, size: Option<usize>) -> Result<Int4, Miss> {
        let weights = finite_weights(graph, layer)?;
        let blocks = Blocks::nearest(&weights, size.unwrap_or_else(|| block_size(graph, layer)));
        let off = blocks.weights() - &weights;
        let squared = |numbers: &Array2<f64>| numbers.iter().map(|x| x * x).sum::<f64>();
        let weight_error = squared(&off) / squared(&weights).max(f64::MIN_POSITIVE);
        let layer = layer.clone();
        Ok(Int4 { layer, blocks, biases: None, rounding: Rounding::Nearest, sqnr_db: None, weight_error })
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
        // No sample reaches the layer, or only zeros do: every rounding is as good as any other to what was seen.
        if !fit.tells() {
            self.rounding = Rounding::Unreached;
            return found;
        }
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
                (self.blocks, self.biases, self.rounding) = (blocks, biases, Rounding::Gptq);
                (found, error) = (tried, after);
            } else if self.rounding == Rounding::Gptq {
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

    /// How its weights are rounded.
    pub fn rounded(&self) -> Rounded {
        Rounded { block_size: self.blocks.size, rounding: self.rounding }
    }

    /// The weights as they are stored, of the shape that [`Layer::weights`] gives.
    pub fn weights(&self, prior: &Array2<f64>) -> Array2<f64> {
        let mut whole = prior.clone();
        whole.slice_mut(s![..self.layer.inputs, ..]).assign(&self.blocks.weights());
        whole
    }

    /// The layer.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    fn store(&self, graph: &Graph, op: OpId, shared: Shared) -> Result<(Patch, Fresh), Miss> {
        let layer = &self.layer;
        let weight = graph.constant(layer.weight).ok_or(Miss::NotConstant(layer.weight))?;
        let ty = graph.ty(layer.weight).cloned();
        let mut patch = Patch::new(op);
        let form =
            BlockedWeight { blocks: &self.blocks, dims: weight.dims(), by_columns: layer.output_axis() == 1, ty };
        let is_typed = graph.opset() >= LEAST_OPSET;
        let (result, fresh) = if is_typed && self.is_fused(graph) {
            (form.fused(&mut patch)?, Fresh::default())
        } else {
            form.folded(&mut patch, is_typed, shared)?
        };
        patch.replace(layer.weight, result);
        if let (Some(biases), Some(bias)) = (&self.biases, layer.bias) {
            let dims = graph.constant(bias).ok_or(Miss::NotConstant(bias))?.dims();
            let biases: Vec<f32> = biases.iter().map(|bias| *bias as f32).collect();
            patch.set_constant(bias, Tensor::from_vec(dims, biases));
        }
        Ok((patch, fresh))
    }

    /// Whether ONNX Runtime makes one op of a DequantizeLinear and the layer, that is faster than the layer: at opset 21.
    pub fn is_fused(&self, graph: &Graph) -> bool {
        let size = self.blocks.size;
        size.is_power_of_two() && self.layer.inputs.is_multiple_of(size) && suits_a_kernel(graph, &self.layer)
    }
}

/// Whether a kernel for weights in 4 bits may be faster for the layer than its own.
fn suits_a_kernel(graph: &Graph, layer: &Layer) -> bool {
    let rows = graph.ty(layer.x).and_then(|ty| ty.dims()).map(|dims| dims.iter().product::<usize>());
    layer.output_axis() == 1 && rows == Some(layer.inputs) && !is_drawn_in(graph, layer)
}

/// Whether the layer becomes a Gemm with an activation in it, or with a bias that is computed: no kernel unpacks the weights of those.
fn is_drawn_in(graph: &Graph, layer: &Layer) -> bool {
    let becomes_gemm = graph.op(layer.op).is("Gemm") || layer.bias.is_some();
    let follows = |place: &Use| match place {
        Use::Input(op, _) if becomes_gemm => GEMM_ACTIVATIONS.contains(&graph.op(*op).op_type()),
        // A sum of a product and something computed is a Gemm with that as its bias.
        Use::Input(op, _) => graph.op(*op).is("Add"),
        _ => false,
    };
    graph.uses(layer.y).iter().any(follows)
}

#[cfg(test)]
mod tests {
    use super::{Int4, Rounding, candidate};
    use crate::{
        numerics::solver::{Gram, matrix},
        testing::parse,
    };

    #[test]
    fn a_layer_that_no_row_or_only_zeros_reach_is_rounded_to_nearest_and_says_so() {
        let numbers = |count: usize| {
            (0..count).map(|i| format!("{}", (i * 37 % 101) as f64 - 50.0)).collect::<Vec<_>>().join(",")
        };
        let source = format!(
            "g (float[N,64] x) => (float[N,40] y) <float[64,40] w = {{{}}}, float[40] b = {{{}}}> {{ y = Gemm (x, w, b) }}",
            numbers(64 * 40),
            numbers(40)
        );
        let graph = parse(&source).graph;
        let layer = candidate(&graph, graph.ops_of("Gemm")[0]).expect("a layer");
        let prior = layer.weights(&graph).expect("constant weights");
        let mut zeros = Gram::new(65, 40, true);
        let row: Vec<f64> = (0..65).map(|i| f64::from(i == 64)).collect();
        zeros.add(&row, &vec![1.0; 40]);
        let none = Gram::new(65, 40, true);
        for (fit, judge) in [(&none, &none), (&zeros, &zeros), (&none, &zeros)] {
            let mut stored = Int4::nearest(&graph, &layer, None).expect("finite");
            let nearest = stored.weights(&prior);
            assert_eq!(stored.refine(fit, judge, &prior), nearest);
            assert_eq!(stored.rounded().rounding, Rounding::Unreached);
        }
        let mut all = Gram::new(65, 40, true);
        let rows = matrix(80, 65, |i, j| if j == 64 { 1.0 } else { ((i * 13 + j * 7) % 23) as f64 - 11.0 });
        let targets = rows.dot(&prior);
        all.add(
            rows.as_standard_layout().as_slice().expect("rows"),
            targets.as_standard_layout().as_slice().expect("rows"),
        );
        let mut stored = Int4::nearest(&graph, &layer, None).expect("finite");
        stored.refine(&all, &all, &prior);
        assert_eq!(stored.rounded().rounding, Rounding::Gptq);
    }
}
