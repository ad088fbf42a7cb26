//! Wraps every op that shall run in integers into Quantize/Dequantize pairs of its own, after TensorFlow and TVM: nobody
//! looks at neighbours. [`super::CancelQdq`] lets the pairs between two such ops meet and vanish.
//!
//! ```onnx before
//! # x: float[1,4]; w: float[4,4]; v: float[4,4]
//! m = MatMul (x, w)
//! y = MatMul (m, v)
//! ```
//! ```onnx after
//! q = QuantizeLinear (x, s, z)
//! d = DequantizeLinear (q, s, z)
//! w_d = DequantizeLinear (w_q, w_scale, w_zero_point)
//! a = MatMul (d, w_d)
//! p = QuantizeLinear (a, t, u)
//! m = DequantizeLinear (p, t, u)
//! r = QuantizeLinear (m, t, u)
//! e = DequantizeLinear (r, t, u)
//! v_d = DequantizeLinear (v_q, v_scale, v_zero_point)
//! y = MatMul (e, v_d)
//! ```
//! Ranges, weights and biases are those of [`super::InsertQdq`], so that wrapping and cancelling ends where placing all
//! begins: the tests hold the two against each other.
//!
//! **Class:** approximate. **Legal when** the unit's form is one of [`crate::analysis::units`]. **Does not** ask whether it pays.
use onnx_shrink_ir::{Graph, NewOp, OpId, Patch, ValueRef};

use crate::{Class, Context, Description, Pass, Result, When, quantize::InsertQdq};

/// See the [module](self). What it holds says which units, and with which ranges.
pub struct WrapQdq<'a>(pub InsertQdq<'a>);

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "wrap-qdq",
    class: Class::Approximate,
    about: "gives each op a Q/DQ pair of its own, for cancel-qdq to cancel",
    when: When::Requested("--place wrap"),
};

impl Pass for WrapQdq<'_> {
    fn description(&self) -> &'static Description {
        &PASS
    }

    /// Works on the graph that the units were found in; a body has none of them.
    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() {
            return Ok(());
        }
        self.0.run(graph, cx)?;
        let units = &self.0.units;
        for (unit, _) in units.units.iter().zip(self.0.integer).filter(|(_, on)| **on) {
            for &(input, _) in &unit.inputs {
                if let Some(patch) = self.own_pair(graph, unit.op, input) {
                    cx.apply(graph, patch)?;
                }
            }
        }
        Ok(())
    }
}

impl WrapQdq<'_> {
    /// A pair for input `input` of `op` alone: behind the pair of the op that made it, or on the float value itself.
    fn own_pair(&self, graph: &Graph, op: OpId, input: usize) -> Option<Patch> {
        let read = graph.op(op).input(input)?;
        let dequantize = graph.producer(read).filter(|op| graph.op(*op).is("DequantizeLinear"))?;
        let integers = graph.op(dequantize).input(0)?;
        let quantize = graph.producer(integers)?; // (A constant is in integers already.)
        let float = graph.op(quantize).input(0)?;
        let made_integer =
            graph.producer(float).and_then(|op| self.0.units.of_op.get(&op)).is_some_and(|unit| self.0.integer[*unit]);
        let from = if made_integer { read } else { float };
        let again = |op: OpId| NewOp { node: graph.op(op).proto().clone() }.named("");
        let mut patch = Patch::new(op);
        let with = |x: ValueRef, of: OpId| -> Vec<Option<ValueRef>> {
            let parameters = graph.op(of).inputs().iter().skip(1).map(|value| value.map(ValueRef::from));
            std::iter::once(Some(x)).chain(parameters).collect()
        };
        let q = patch.op(again(quantize), &with(from.into(), quantize), "q", graph.ty(integers).cloned());
        let d = patch.op(again(dequantize), &with(q, dequantize), "d", graph.ty(read).cloned());
        patch.set_input(op, input, Some(d));
        Some(patch)
    }
}
