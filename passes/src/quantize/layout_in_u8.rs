//! Runs ops that move or select numbers on the 8-bit numbers themselves, where their Quantize/Dequantize pairs state one scale.
//!
//! ```onnx before
//! # x: uint8[1,2,4,4]; s: float = {0.5}; z: uint8 = {3}
//! d = DequantizeLinear (x, s, z)
//! p = Transpose <perm = [0, 2, 3, 1]> (d)
//! q = QuantizeLinear (p, s, z)
//! y = DequantizeLinear (q, s, z)
//! ```
//! ```onnx after
//! q = Transpose <perm = [0, 2, 3, 1]> (x)
//! y = DequantizeLinear (q, s, z)
//! ```
//! Dequantize is monotone and Quantize undoes it on every number that it makes.
//!
//! **Class:** exact. **Legal when** all inputs are Dequantizes of u8 and all outputs go to one Quantize each, all with one
//! scale and zero point; ONNX's op takes u8. **Source:** `docs/methods.md` §3, pair rules 1 and 5 to 9.
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, TensorType, ValueId, ops::Resize};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    analysis::integer_layers::{Quantized, dequantized, quantized},
    quantize::draft::{Constants, Draft},
};

/// See the [module](self).
pub struct LayoutInU8;

/// Ops that take u8 in every opset in which Quantize and Dequantize are per axis, and move or select numbers. Without Slice, which
/// OpenCV 4.12 computes wrong on 8-bit numbers, without a word (all others of these right).
const OPS: [&str; 9] =
    ["Concat", "DepthToSpace", "Flatten", "MaxPool", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"];

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "layout-in-u8",
    class: Class::Exact,
    about: "runs data-movement ops on the 8-bit numbers themselves",
    when: When::Requested("--format qoperator, integer"),
};

impl Pass for LayoutInU8 {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if graph.opset() < 13 {
            return Ok(());
        }
        let mut constants = Constants::default();
        for op in graph.ops() {
            // The moves before an op may have gone with it.
            if graph.has_op(op)
                && let Ok(draft) = rewrite(graph, op, &mut constants)
            {
                draft.apply(graph, cx)?;
            }
        }
        Ok(())
    }
}

/// The inputs of `op` that it moves numbers of.
pub(super) fn moved_inputs(graph: &Graph, op: OpId) -> Option<Vec<usize>> {
    let node = graph.op(op);
    let selects = || node.is("Resize") && Resize::of(graph, op).is_some_and(|resize| resize.only_selects());
    if !OPS.iter().any(|name| node.is(name)) && !selects() {
        return None;
    }
    Some(if node.is("Concat") { (0..node.inputs().len()).collect() } else { vec![0] })
}

fn rewrite<'c>(graph: &Graph, op: OpId, constants: &'c mut Constants) -> Result<Draft<'c>, Miss> {
    let moved = moved_inputs(graph, op).ok_or(Miss::NotThisPattern)?;
    let node = graph.op(op);
    let mut common: Option<(f32, u8)> = None;
    let mut one_scale =
        |quantized: &Quantized| quantized.constants(graph).is_some_and(|found| *common.get_or_insert(found) == found);
    let mut inputs: Vec<Option<onnx_shrink_ir::ValueRef>> =
        node.inputs().iter().map(|input| input.map(Into::into)).collect();
    for &index in &moved {
        let from = node.input(index).and_then(|x| dequantized(graph, x)).ok_or(Miss::NotThisPattern)?;
        if !one_scale(&from) {
            return Err(Miss::NotThisPattern);
        }
        inputs[index] = Some(from.value.into());
    }
    let mut ends: Vec<(ValueId, Option<TensorType>)> = Vec::new();
    for output in node.outputs() {
        let output = output.ok_or(Miss::NotThisPattern)?;
        let (_, made) = quantized(graph, output).ok_or(Miss::NotThisPattern)?;
        if !one_scale(&made) {
            return Err(Miss::NotThisPattern);
        }
        ends.push((made.value, graph.ty(output).map(|ty| TensorType { dtype: DataType::Uint8, ..ty.clone() })));
    }
    let mut draft = Draft::new(op, constants);
    let outputs: Vec<Option<(&str, Option<TensorType>)>> = ends.iter().map(|(_, ty)| Some(("q", ty.clone()))).collect();
    let made = draft.patch.op_with_outputs(NewOp { node: node.proto().clone() }, &inputs, &outputs);
    for ((end, _), new) in ends.iter().zip(made) {
        draft.patch.replace(*end, new);
    }
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, check_same};

    use super::LayoutInU8;

    #[test]
    fn a_chain_of_moves_loses_its_pairs() {
        let before =
            "g (uint8[1,2,4,4] x) => (float[1,8] y) <float s = {0.5}, uint8 z = {0}, int64[2] shape = {1, 8}> {
            a = DequantizeLinear (x, s, z)  m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            b = QuantizeLinear (m, s, z)  c = DequantizeLinear (b, s, z)  r = Reshape (c, shape)
            e = QuantizeLinear (r, s, z)  y = DequantizeLinear (e, s, z) }";
        let after = "g (uint8[1,2,4,4] x) => (float[1,8] y) <float s = {0.5}, uint8 z = {0}, int64[2] shape = {1, 8}> {
            b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)  e = Reshape (b, shape)
            y = DequantizeLinear (e, s, z) }";
        check(&LayoutInU8, before, after);
    }

    #[test]
    fn all_inputs_and_outputs_have_one_scale_or_nothing_happens() {
        let concat = |t: &str| {
            format!(
                "g (uint8[1,2] x, uint8[1,2] v) => (float[1,4] y) <float s = {{0.5}}, uint8 z = {{0}}, float t = {{{t}}}> {{
                a = DequantizeLinear (x, s, z)  b = DequantizeLinear (v, t, z)  c = Concat <axis = 1> (a, b)
                q = QuantizeLinear (c, s, z)  y = DequantizeLinear (q, s, z) }}"
            )
        };
        check_same(&LayoutInU8, &concat("0.25"));
        let after = "g (uint8[1,2] x, uint8[1,2] v) => (float[1,4] y) <float s = {0.5}, uint8 z = {0}> {
            q = Concat <axis = 1> (x, v)  y = DequantizeLinear (q, s, z) }";
        check(&LayoutInU8, &concat("0.5"), after);
        let seen = "g (uint8[1,2] x) => (float[2,1] t, float[2,1] y) <float s = {0.5}, uint8 z = {0}> {
            a = DequantizeLinear (x, s, z)  t = Transpose (a)  q = QuantizeLinear (t, s, z)  y = DequantizeLinear (q, s, z) }";
        check_same(&LayoutInU8, seen);
    }
}
