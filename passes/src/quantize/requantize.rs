//! Requantizing down: from sums in int32 to 8 bits, in ONNX's plain ops.
//!
//! After TensorFlow's `QuantizeDownAndShrinkRange` (`docs/methods.md` §3), in both of its forms. *Frozen*: the range is the
//! calibrated one, q = clip(rne(sum·s_x·s_w/s_y) + z, low, high); a Relu or Clip is in the bounds. *Shrunk*: the range is that of the
//! actual sums. Channels have scales of their own, so their sums compare only once they are multiplied by them; what then
//! finds the range and quantizes is DynamicQuantizeLinear: m = min(0, min y), M = max(0, max y), s = (M − m)/255, z = rne(−m/s).
//! **Never** uses an op outside of ONNX's own domain.
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Tensor, TensorType, ValueRef, attributes};

use crate::quantize::draft::Draft;

/// Where the range of a requantized value comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requantize {
    /// From calibration
    #[default]
    Frozen,
    /// From the sums of each run
    Shrink,
}

/// `ty` with another element type.
pub(super) fn with_dtype(ty: Option<&TensorType>, dtype: DataType) -> Option<TensorType> {
    ty.map(|ty| TensorType { dtype, ..ty.clone() })
}

/// A Cast to `to`.
pub(super) fn cast(to: DataType) -> NewOp {
    NewOp::new("Cast").with(attributes::int("to", to as i64))
}

/// `steps` (float, in steps of the output) rounded to even, moved by `zero`, kept in low … high, as u8 of the shape of `ty`.
pub(super) fn frozen(
    graph: &Graph,
    draft: &mut Draft<'_>,
    steps: ValueRef,
    (zero, low, high): (u8, u8, u8),
    ty: Option<&TensorType>,
) -> ValueRef {
    let float = with_dtype(ty, DataType::Float);
    let mut y = draft.op(NewOp::new("Round"), &[steps], "r", float.clone());
    let constant = |draft: &mut Draft<'_>, number: u8| draft.constant(graph, "k", Tensor::scalar(f32::from(number)));
    if zero != 0 {
        let zero = constant(draft, zero);
        y = draft.op(NewOp::new("Add"), &[y, zero], "t", float.clone());
    }
    let (low, high) = (constant(draft, low), constant(draft, high));
    let y = draft.op(NewOp::new("Clip"), &[y, low, high], "t", float);
    draft.op(cast(DataType::Uint8), &[y], "q", with_dtype(ty, DataType::Uint8))
}

/// `y` (float), behind `activation` if there is one, in the range that it has: u8, scale, zero point.
pub(super) fn shrunk(
    graph: &Graph,
    draft: &mut Draft<'_>,
    y: ValueRef,
    activation: Option<OpId>,
    ty: Option<&TensorType>,
) -> [ValueRef; 3] {
    let mut y = y;
    if let Some(activation) = activation {
        let node = graph.op(activation);
        let mut inputs: Vec<Option<ValueRef>> = node.inputs().iter().map(|input| input.map(ValueRef::from)).collect();
        if let Some(first) = inputs.first_mut() {
            *first = Some(y);
        }
        y = draft.patch.op(NewOp { node: node.proto().clone() }, &inputs, "t", with_dtype(ty, DataType::Float));
    }
    let outputs = [
        Some(("q", with_dtype(ty, DataType::Uint8))),
        Some(("s", Some(TensorType::fixed(DataType::Float, &[])))),
        Some(("z", Some(TensorType::fixed(DataType::Uint8, &[])))),
    ];
    let made = draft.patch.op_with_outputs(NewOp::new("DynamicQuantizeLinear"), &[Some(y)], &outputs);
    [made[0], made[1], made[2]]
}
