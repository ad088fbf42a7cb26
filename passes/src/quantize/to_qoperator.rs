//! Writes layers that Quantize/Dequantize pairs state as the QLinear ops of ONNX: one op a layer.
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
//! q = QLinearConv (x, s, z, w, w_s, w_z, t, v, b)
//! y = DequantizeLinear (q, t, v)
//! ```
//! A Gemm or MatMul without bias becomes QLinearMatMul. That op has no bias; with one the layer is a convolution of width 1
//! (Reshape, QLinearConv, Reshape), which adds it in int32 as the Gemm does. A Relu or Clip that the 8 bits cut off anyhow goes.
//!
//! **Class:** rounding. **Legal when** the layer is one of [`crate::analysis::integer_layers`], ends in 8 bits, and its activation is
//! implied by them. **Source:** `docs/methods.md` §3, pair rules 4 and 10. **Does not** touch ops that have no QLinear
//! form in ONNX itself (Add, pools, Sigmoid): their pairs stay.
use onnx_shrink_ir::{DataType, Dim, Graph, NewOp, OpId, Tensor, TensorType, ValueId, ValueRef, ops::WeightLayout};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    analysis::integer_layers::{End, Layer, Quantized, layer_of},
    quantize::draft::{Constants, Draft},
};

/// See the [module](self).
pub struct ToQoperator;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "to-qoperator",
    class: Class::Rounding,
    about: "writes integer layers as the QLinear ops of ONNX",
    when: When::Requested("--format qoperator"),
};

impl Pass for ToQoperator {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let mut constants = Constants::of(graph);
        for op in graph.ops() {
            if !graph.has_op(op) {
                continue;
            }
            match rewrite(graph, op, &mut constants) {
                Ok(draft) => {
                    draft.apply(graph, cx)?;
                }
                Err(miss) => cx.missed(graph, op, &miss),
            }
        }
        Ok(())
    }
}

fn rewrite<'c>(graph: &Graph, op: OpId, constants: &'c mut Constants) -> Result<Draft<'c>, Miss> {
    let layer = layer_of(graph, op)?;
    let End::Quantized { made, low, high, .. } = layer.end else {
        return Err(Miss::Form("its result is float, and QLinear ops write 8 bits"));
    };
    if (low, high) != (0, 255) {
        return Err(Miss::Form("an activation that its 8 bits do not imply"));
    }
    let (x_scale, _) = layer.x.constants(graph).ok_or(Miss::NotConstant(layer.x.scale))?;
    let (rows, dims) = layer.rows(graph).ok_or(Miss::NotConstant(layer.weight))?;
    let outputs = rows.nrows();
    if !layer.bias_fits(graph, x_scale, outputs) {
        return Err(Miss::Form("a bias whose scale is not that of the sums"));
    }
    let mut writer = Writer { graph, layer: &layer, made, draft: Draft::new(op, constants) };
    let ty = graph.ty(made.value).cloned();
    let end = match layer.float.layout {
        WeightLayout::Conv { .. } => {
            let x = layer.x.value.into();
            let attributes = graph.op(op).attributes().to_vec();
            writer.conv(x, layer.weight.into(), attributes, ty)
        }
        _ if layer.bias.is_none() => {
            let weight = writer.matrix(&dims)?;
            let scales = layer.weight_scales(graph, outputs).ok_or(Miss::NotConstant(layer.weight_scale))?;
            let scales = Tensor::from_vec(&[outputs], scales);
            let scales = writer.draft.constant(graph, "s", scales);
            let zeros = writer.draft.constant(graph, "z", Tensor::from_vec(&[outputs], vec![0i8; outputs]));
            let (x, y) = (writer.read(layer.x), writer.read(made));
            let inputs = [x[0], x[1], x[2], weight, scales, zeros, y[1], y[2]];
            writer.draft.op(NewOp::new("QLinearMatMul").named(graph.op(op).name()), &inputs, "q", ty)
        }
        _ => writer.linear(rows, ty)?,
    };
    writer.draft.patch.replace(made.value, end);
    Ok(writer.draft)
}

struct Writer<'a, 'c> {
    graph: &'a Graph,
    layer: &'a Layer,
    made: Quantized,
    draft: Draft<'c>,
}

impl Writer<'_, '_> {
    fn read(&self, quantized: Quantized) -> [ValueRef; 3] {
        [quantized.value.into(), quantized.scale.into(), quantized.zero_point.into()]
    }

    /// QLinearConv of `x` with the layer's scales and bias.
    fn conv(
        &mut self,
        x: ValueRef,
        weight: ValueRef,
        attributes: Vec<onnx_shrink_ir::proto::schema::AttributeProto>,
        ty: Option<TensorType>,
    ) -> ValueRef {
        let zero = self.draft.constant(self.graph, "z", Tensor::scalar(0i8));
        let ([_, s, z], [_, t, v]) = (self.read(self.layer.x), self.read(self.made));
        let mut inputs = vec![x, s, z, weight, self.layer.weight_scale.into(), zero, t, v];
        inputs.extend(self.layer.bias.map(ValueRef::from));
        let mut op = NewOp::new("QLinearConv").named(self.graph.op(self.layer.float.op).name());
        op.node.attribute = attributes;
        self.draft.op(op, &inputs, "q", ty)
    }

    /// The weight of a Gemm or MatMul as [K, N].
    fn matrix(&mut self, dims: &[usize]) -> Result<ValueRef, Miss> {
        if self.layer.float.layout != (WeightLayout::Matrix { transposed: true }) {
            return Ok(self.layer.weight.into());
        }
        let weight = self.layer.weight;
        let [n, k] = dims else { return Err(Miss::UnknownType(weight)) };
        let integers = self.graph.constant(weight).and_then(|w| w.as_slice::<i8>()).ok_or(Miss::NotConstant(weight))?;
        let turned: Vec<i8> = (0..k * n).map(|at| integers[(at % n) * k + at / n]).collect();
        Ok(self.draft.constant(self.graph, "w", Tensor::from_vec(&[*k, *n], turned)))
    }

    /// A Gemm or MatMul with bias as a convolution of width 1: [rows, K, 1] with [N, K, 1].
    fn linear(&mut self, rows: ndarray::Array2<i8>, ty: Option<TensorType>) -> Result<ValueRef, Miss> {
        let (n, k) = rows.dim();
        let weight = Tensor::from_vec(&[n, k, 1], rows.iter().copied().collect());
        let weight = self.draft.constant(self.graph, "w", weight);
        let back = shape_back(ty.as_ref(), self.made.value)?;
        let shape = |draft: &mut Draft<'_>, dims: Vec<i64>| {
            draft.constant(self.graph, "shape", Tensor::from_vec(&[dims.len()], dims))
        };
        let forth = shape(&mut self.draft, vec![-1, k as i64, 1]);
        let back = shape(&mut self.draft, back);
        let unknown = |tail: &[usize]| {
            let mut dims = vec![Dim::Unknown];
            dims.extend(tail.iter().map(|dim| Dim::Known(*dim)));
            Some(TensorType { dtype: DataType::Uint8, shape: Some(dims) })
        };
        let x = self.draft.op(NewOp::new("Reshape"), &[self.layer.x.value.into(), forth], "r", unknown(&[k, 1]));
        let product = self.conv(x, weight, Vec::new(), unknown(&[n, 1]));
        Ok(self.draft.op(NewOp::new("Reshape"), &[product, back], "q", ty))
    }
}

/// The shape that brings back the type `ty`: at most one dimension may be unknown.
fn shape_back(ty: Option<&TensorType>, value: ValueId) -> Result<Vec<i64>, Miss> {
    let dims = ty.and_then(|ty| ty.shape.as_ref()).ok_or(Miss::UnknownType(value))?;
    let numbers: Vec<i64> = dims.iter().map(|dim| dim.known().map_or(-1, |dim| dim as i64)).collect();
    if numbers.iter().filter(|dim| **dim == -1).count() > 1 || numbers.contains(&0) {
        return Err(Miss::Form("a bias, and more than one dimension that is not known"));
    }
    Ok(numbers)
}
