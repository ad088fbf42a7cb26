//! Stores float constants as 16-bit floats.
//!
//! ```onnx before
//! # x: float[2,64]; w: float[64,32]
//! y = MatMul (x, w)
//! ```
//! ```onnx after
//! c = Cast <to = 1> (w_h)
//! y = MatMul (x, c)
//! ```
//! Engines fold the Cast when they load the file: it is half the size and runs as before. A constant of the two values 0 and c, or
//! 0 and −∞, is stored exactly, in 8 bits; so is a table that 8 or 16 bits hold ([`crate::weight_only::tables`]).
//!
//! **Class:** approximate: 11 bits stay. **Legal when** the constant is float, and no number overflows 16 bits or is mostly lost.
//! **Does not** touch constants of less than [`LEAST_BYTES`], tables that are coordinates and not exact in 16 bits, graph outputs, or scales of what is stored in integers.

use ndarray::ArrayD;
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, Use, ValueId, attributes};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    weight_only::{
        least_bits::{LEAST_BYTES, LeastBits},
        stored::scales_stored_weights,
        tables::{Roles, store_before_rounding},
    },
};

/// See the [module](self).
#[derive(Default)]
pub struct StoreFp16<'a> {
    /// What single constants must have at least
    pub least: Option<&'a LeastBits>,
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "store-fp16",
    class: Class::Approximate,
    about: "stores float constants in 16-bit floats",
    when: When::Requested("--weights fp16, int4"),
};

impl Pass for StoreFp16<'_> {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let roles = Roles::of(graph);
        for value in graph.values() {
            match self.store(graph, value, &roles) {
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

impl StoreFp16<'_> {
    /// The patch that stores `value`, or why not (`None`: nobody would expect it).
    fn store(&self, graph: &Graph, value: ValueId, roles: &Roles) -> Result<Patch, Option<(OpId, Miss)>> {
        let tensor = graph.constant(value).ok_or(None)?;
        if tensor.dtype() != DataType::Float
            || tensor.byte_len() < LEAST_BYTES
            || graph.is_input(value)
            || scales_stored_weights(graph, value)
        {
            return Err(None);
        }
        let mut reader = None;
        for place in graph.uses(value) {
            let (Use::Input(op, _) | Use::Capture(op, ..)) = place else { return Err(None) };
            if graph.op(op).op_type().ends_with("uantizeLinear") {
                return Err(None);
            }
            reader = reader.or(Some(op));
        }
        let op = reader.ok_or(None)?;
        let least = self.least.and_then(|least| least.of(graph.name_of(value)));
        match store_before_rounding(graph, (value, tensor), op, roles.role(value), least) {
            Ok(Some(patch)) => return Ok(patch),
            Ok(None) => {}
            Err(miss) => return Err(Some((op, miss))),
        }
        let array = tensor.to_f64().ok_or(None)?;
        if array.iter().any(|x| !x.is_finite()) {
            return Err(Some((op, Miss::NotFinite(value))));
        }
        store_half(graph, value, &array, op)
            .ok_or(Some((op, Miss::Form("its numbers do not fit the range of 16-bit floats"))))
    }
}

/// The constant in 16-bit floats behind a Cast; `None` when its range is too wide for them.
pub(super) fn store_half(graph: &Graph, value: ValueId, array: &ArrayD<f64>, op: OpId) -> Option<Patch> {
    let half = Tensor::from_f64(DataType::Float16, array)?;
    let error = &half.to_f64()? - array;
    let (noise, signal) = (error.iter().map(|x| x * x).sum::<f64>(), array.iter().map(|x| x * x).sum::<f64>());
    if noise.is_nan() || noise > signal * 1e-5 {
        return None; // overflow, or mostly denormal
    }
    let mut patch = Patch::new(op);
    let half = patch.constant("w", half);
    let cast = NewOp::new("Cast").with(attributes::int("to", DataType::Float as i64));
    let cast = patch.op(cast, &[Some(half)], "c", graph.ty(value).cloned());
    patch.replace(value, cast);
    Some(patch)
}
