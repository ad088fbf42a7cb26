//! Writes layers that Quantize/Dequantize pairs state as integer products with sums in int32, requantized down by plain ops.
//!
//! ```onnx before
//! # x: uint8[1,2,4,4]; s: float = {0.5}; z: uint8 = {3}; w: int8[3,2,3,3]; w_s: float[3] = {1, 0.5, 2}; b: int32[3]
//! # b_s: float[3] = {0.5, 0.25, 1}; t: float = {8}; v: uint8 = {128}
//! d = DequantizeLinear (x, s, z)
//! w_d = DequantizeLinear <axis = 0> (w, w_s)
//! b_d = DequantizeLinear <axis = 0> (b, b_s)
//! c = Conv (d, w_d, b_d)
//! q = QuantizeLinear (c, t, v)
//! y = DequantizeLinear (q, t, v)
//! ```
//! ```onnx after
//! a = ConvInteger (x, w_u, z, w_z)
//! a_1 = Add (a, b_c)
//! f = Cast <to = 1> (a_1)
//! m_1 = Mul (f, m)
//! r = Round (m_1)
//! t_1 = Add (r, k)
//! t_2 = Clip (t_1, k_1, k_2)
//! q = Cast <to = 2> (t_2)
//! y = DequantizeLinear (q, t, v)
//! ```
//! Between two layers stands u8 alone. How the range comes about: [`super::requantize`]. A layer that ends in float is Cast and
//! Mul by s_x·s_w. Weights of ConvInteger are u8 with zero point 128: ONNX Runtime runs that 2 to 6 times faster than int8, and
//! u8·u8 sums saturate nowhere. Weights of MatMulInteger stay int8.
//!
//! The sums are proven to fit their bits ([`crate::numerics::accumulator`]); a layer that could overflow is split over its input channels and
//! the parts are added in float.
//!
//! **Class:** rounding with frozen ranges (within 1 of Quantize/Dequantize, at ties), else approximate. **Legal when** the layer is one of
//! [`crate::analysis::integer_layers`], and a grouped convolution cannot overflow. **Source:** `docs/methods.md` §3.
//! **Does not** touch ops without weights: their pairs stay.
use std::ops::Range;

use ndarray::{Array2, ArrayD, Axis, Slice};
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Tensor, TensorType, ValueId, ValueRef, ops::WeightLayout};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    analysis::integer_layers::{End, Layer, layer_of, op_readers},
    numerics::accumulator::Bound,
    quantize::{
        draft::{Constants, Draft},
        layout_in_u8::moved_inputs,
        requantize::{Requantize, cast, frozen, shrunk, with_dtype},
    },
};

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct ToInteger {
    /// Where ranges come from
    pub requantize: Requantize,
    /// Bits of an accumulator: 32 in ONNX; fewer for engines that say so
    pub bits: u32,
}

impl Default for ToInteger {
    fn default() -> ToInteger {
        ToInteger { requantize: Requantize::Frozen, bits: 32 }
    }
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "to-integer",
    class: Class::Approximate,
    about: "writes integer layers as integer products, requantized by plain ops",
    when: When::Requested("--format integer"),
};

impl Pass for ToInteger {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let mut constants = Constants::of(graph);
        for op in graph.ops() {
            if !graph.has_op(op) {
                continue;
            }
            match self.rewrite(graph, op, &mut constants) {
                Ok(draft) => {
                    draft.apply(graph, cx)?;
                }
                Err(miss) => cx.missed(graph, op, &miss),
            }
        }
        Ok(())
    }
}

/// The Dequantizes that read `value`, also behind ops that only move it; `None` when something else needs its scale as it is.
fn dequantizes(graph: &Graph, value: ValueId) -> Option<Vec<OpId>> {
    let mut found = Vec::new();
    let mut work = vec![value];
    while let Some(value) = work.pop() {
        for (op, index) in op_readers(graph, value)? {
            if graph.op(op).is("DequantizeLinear") && index == 0 {
                found.push(op);
            } else if index == 0 && moved_inputs(graph, op)? == [0] {
                work.extend(graph.op(op).outputs().iter().flatten());
            } else {
                return None;
            }
        }
    }
    Some(found)
}

impl ToInteger {
    fn rewrite<'c>(&self, graph: &Graph, op: OpId, constants: &'c mut Constants) -> Result<Draft<'c>, Miss> {
        let layer = layer_of(graph, op)?;
        let (rows, dims) = layer.rows(graph).ok_or(Miss::NotConstant(layer.weight))?;
        let outputs = rows.nrows();
        let known = layer.x.constants(graph);
        let misfit = Miss::Form("a bias whose scale is not that of the sums");
        if known.is_some_and(|(x_scale, _)| !layer.bias_fits(graph, x_scale, outputs)) {
            return Err(misfit);
        }
        let biases = layer.biases(graph, outputs).ok_or(misfit)?;
        let parts = self.parts(&layer, (&rows, &dims), &biases, known.map(|(_, zero)| zero))?;
        let dequantizes = match layer.end {
            End::Quantized { made, .. } if self.requantize == Requantize::Shrink => dequantizes(graph, made.value),
            _ => None,
        };
        // Numbers behind the factor are in steps of the frozen output, or themselves.
        let unit = match layer.end {
            End::Quantized { made, .. } if dequantizes.is_none() => {
                made.constants(graph).map(|(scale, _)| scale).ok_or(Miss::NotConstant(made.scale))?
            }
            _ => 1.0,
        };
        let end = match layer.end {
            End::Quantized { made, .. } => made.value,
            End::Float(value) => value,
        };
        let ty = graph.ty(end).cloned();
        let mut writer = Writer { graph, layer: &layer, ty, rows, dims, draft: Draft::new(op, constants) };
        let integer_bias = layer.bias.is_some() && known.is_some() && parts.len() == 1;
        let sums = writer.sums(&parts, integer_bias.then_some(&biases))?;
        let scaled = writer.scaled(sums, known.map(|(scale, _)| scale), unit)?;
        let scaled = if layer.bias.is_some() && !integer_bias { writer.biased(scaled, &biases, unit)? } else { scaled };
        let (ty, mut draft) = (writer.ty, writer.draft);
        match (layer.end, dequantizes) {
            (End::Quantized { made, activation, .. }, Some(dequantizes)) => {
                let [q, scale, zero] = shrunk(graph, &mut draft, scaled, activation, ty.as_ref());
                draft.patch.replace(made.value, q);
                for op in dequantizes {
                    draft.patch.set_input(op, 1, Some(scale));
                    draft.patch.set_input(op, 2, Some(zero));
                }
            }
            (End::Quantized { made, low, high, .. }, None) => {
                let zero = made.constants(graph).map_or(0, |(_, zero)| zero);
                let q = frozen(graph, &mut draft, scaled, (zero, low, high), ty.as_ref());
                draft.patch.replace(made.value, q);
            }
            (End::Float(value), _) => draft.patch.replace(value, scaled),
        }
        Ok(draft)
    }

    /// Ranges of input channels whose sums fit the accumulator: one, or as few as a halving finds.
    fn parts(
        &self,
        layer: &Layer,
        (rows, dims): (&Array2<i8>, &[usize]),
        biases: &[i32],
        zero: Option<u8>,
    ) -> Result<Vec<Range<usize>>, Miss> {
        let whole = rows.outer_iter().zip(biases);
        let whole = whole.map(|(row, bias)| Bound::of(row.iter().copied(), zero).with_bias(i64::from(*bias)));
        if whole.reduce(Bound::or).is_none_or(|bound| bound.bits() <= self.bits) {
            return Ok(std::iter::once(0..rows.ncols()).collect());
        }
        let channels = match layer.float.layout {
            WeightLayout::Conv { groups: 1 } => dims[1],
            WeightLayout::Conv { .. } | WeightLayout::ConvTranspose { .. } => {
                return Err(Miss::Form("its sums can overflow, and a grouped convolution is not split"));
            }
            WeightLayout::Matrix { .. } => rows.ncols(),
        };
        let fits = |part: &Range<usize>| {
            let of = |row: ndarray::ArrayView1<'_, i8>| {
                let inside = row.iter().enumerate().filter(|(column, _)| part.contains(&(column % channels)));
                Bound::of(inside.map(|(_, w)| *w).collect::<Vec<i8>>(), zero)
            };
            rows.outer_iter().map(of).reduce(Bound::or).is_none_or(|bound| bound.bits() <= self.bits)
        };
        let mut count = 2;
        while count < 2 * channels {
            let length = channels.div_ceil(count.min(channels));
            let parts: Vec<Range<usize>> =
                (0..channels).step_by(length).map(|first| first..(first + length).min(channels)).collect();
            if parts.iter().all(fits) {
                return Ok(parts);
            }
            count *= 2;
        }
        Err(Miss::Form("its sums can overflow, even those of one input channel"))
    }
}

struct Writer<'a, 'c> {
    graph: &'a Graph,
    layer: &'a Layer,
    /// Type of the layer's end
    ty: Option<TensorType>,
    rows: Array2<i8>,
    dims: Vec<usize>,
    draft: Draft<'c>,
}

impl Writer<'_, '_> {
    fn ty(&self, dtype: DataType) -> Option<TensorType> {
        with_dtype(self.ty.as_ref(), dtype)
    }

    /// A vector with one number an output, in the shape in which it broadcasts over the result.
    fn shape(&self) -> Vec<usize> {
        let spatial = if self.layer.float.is_conv() { self.dims.len() - 2 } else { 0 };
        let mut shape = vec![self.rows.nrows()];
        shape.extend(vec![1; spatial]);
        shape
    }

    /// The sums as floats; `bias` is added in int32.
    fn sums(&mut self, parts: &[Range<usize>], bias: Option<&Vec<i32>>) -> Result<ValueRef, Miss> {
        if parts.len() == 1 {
            let mut sums = self.product(None)?;
            if let Some(bias) = bias {
                let bias = Tensor::from_vec(&self.shape(), bias.clone());
                let bias = self.draft.constant(self.graph, "b", bias);
                let ty = self.ty(DataType::Int32);
                sums = self.draft.op(NewOp::new("Add"), &[sums, bias], "a", ty);
            }
            let ty = self.ty(DataType::Float);
            return Ok(self.draft.op(cast(DataType::Float), &[sums], "f", ty));
        }
        let ty = self.ty(DataType::Float);
        let mut total: Option<ValueRef> = None;
        for part in parts {
            let sums = self.product(Some(part))?;
            let sums = self.draft.op(cast(DataType::Float), &[sums], "f", ty.clone());
            total = Some(match total {
                Some(before) => self.draft.op(NewOp::new("Add"), &[before, sums], "f", ty.clone()),
                None => sums,
            });
        }
        total.ok_or(Miss::Form("a layer without input channels"))
    }

    /// ConvInteger or MatMulInteger over the input channels `part`, or all.
    fn product(&mut self, part: Option<&Range<usize>>) -> Result<ValueRef, Miss> {
        let is_conv = self.layer.float.is_conv();
        let mut x: ValueRef = self.layer.x.value.into();
        if let Some(part) = part {
            let axis = if is_conv { 1 } else { -1 };
            let [start, end, axis] = [part.start as i64, part.end as i64, axis]
                .map(|number| self.draft.constant(self.graph, "k", Tensor::from_vec(&[1], vec![number])));
            let ty = self.graph.ty(self.layer.x.value).map(|ty| TensorType { dtype: ty.dtype, shape: None });
            x = self.draft.op(NewOp::new("Slice"), &[x, start, end, axis], "x", ty);
        }
        let zero = self.layer.x.zero_point.into();
        let name = self.graph.op(self.layer.float.op).name().to_owned();
        let named = |op: NewOp| if part.is_none_or(|part| part.start == 0) { op.named(&name) } else { op };
        let ty = self.ty(DataType::Int32);
        if is_conv {
            let weight = self.conv_weight(part)?;
            let weight = self.draft.constant(self.graph, "w", weight);
            let middle = self.draft.constant(self.graph, "z", Tensor::scalar(128u8));
            let mut op = named(NewOp::new("ConvInteger"));
            op.node.attribute = self.graph.op(self.layer.float.op).attributes().to_vec();
            return Ok(self.draft.op(op, &[x, weight, zero, middle], "a", ty));
        }
        let weight = match (part, self.layer.float.layout) {
            (None, WeightLayout::Matrix { transposed: false }) => self.layer.weight.into(),
            _ => {
                let columns = part.cloned().unwrap_or(0..self.rows.ncols());
                let slice = self.rows.slice_axis(Axis(1), Slice::from(columns.clone()));
                let turned: Vec<i8> = slice.t().iter().copied().collect();
                let weight = Tensor::from_vec(&[columns.len(), self.rows.nrows()], turned);
                self.draft.constant(self.graph, "w", weight)
            }
        };
        Ok(self.draft.op(named(NewOp::new("MatMulInteger")), &[x, weight, zero], "a", ty))
    }

    /// The weight of a Conv in u8 around 128, in its own layout.
    fn conv_weight(&self, part: Option<&Range<usize>>) -> Result<Tensor, Miss> {
        let weight = self.layer.weight;
        let integers = self.graph.constant(weight).and_then(|w| w.as_slice::<i8>()).ok_or(Miss::NotConstant(weight))?;
        let moved: Vec<u8> = integers.iter().map(|w| (i16::from(*w) + 128) as u8).collect();
        let Some(part) = part else { return Ok(Tensor::from_vec(&self.dims, moved)) };
        let array = ArrayD::from_shape_vec(self.dims.clone(), moved).expect("the dims are those of the weight");
        let slice = array.slice_axis(Axis(1), Slice::from(part.clone()));
        Ok(Tensor::from_vec(slice.shape(), slice.iter().copied().collect()))
    }

    /// `sums`·s_x·s_w/unit.
    fn scaled(&mut self, sums: ValueRef, x_scale: Option<f32>, unit: f32) -> Result<ValueRef, Miss> {
        let outputs = self.rows.nrows();
        let scales = self.layer.weight_scales(self.graph, outputs).ok_or(Miss::NotConstant(self.layer.weight_scale))?;
        let factors = scales.iter().map(|w| x_scale.unwrap_or(1.0) * w / unit).collect();
        let factors = Tensor::from_vec(&self.shape(), factors);
        let mut factor = self.draft.constant(self.graph, "m", factors);
        if x_scale.is_none() {
            let ty = Some(TensorType::fixed(DataType::Float, &self.shape()));
            factor = self.draft.op(NewOp::new("Mul"), &[self.layer.x.scale.into(), factor], "m", ty);
        }
        let ty = self.ty(DataType::Float);
        Ok(self.draft.op(NewOp::new("Mul"), &[sums, factor], "m", ty))
    }

    /// `scaled` plus the bias as a float.
    fn biased(&mut self, scaled: ValueRef, biases: &[i32], unit: f32) -> Result<ValueRef, Miss> {
        let value = self.layer.bias_scale.ok_or(Miss::Form("a bias without a scale"))?;
        let scales = self.graph.constant(value).and_then(Tensor::to_f64_vec).ok_or(Miss::NotConstant(value))?;
        if scales.len() != 1 && scales.len() != biases.len() {
            return Err(Miss::Form("the scales of the bias are not one, or one for each output channel"));
        }
        let scales = scales.iter().cycle();
        let numbers = biases.iter().zip(scales).map(|(b, scale)| (f64::from(*b) * scale / f64::from(unit)) as f32);
        let bias = Tensor::from_vec(&self.shape(), numbers.collect());
        let bias = self.draft.constant(self.graph, "b", bias);
        let ty = self.ty(DataType::Float);
        Ok(self.draft.op(NewOp::new("Add"), &[scaled, bias], "t", ty))
    }
}
