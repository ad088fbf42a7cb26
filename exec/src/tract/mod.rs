//! Ops as one-node tract models, built once per op, input types and parameter values.
//!
//! Why one node: every value is at hand by its name, a failing op costs only itself, and tract's rewrites across nodes,
//! some of which are wrong (Softmax between DequantizeLinear and QuantizeLinear), cannot happen.
//! **No** type of tract leaves this folder. **Never** gives tract an op that [`rules`] does not name.
mod build;
mod checks;
mod convert;
pub(crate) mod held;
mod kept;
mod rules;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use onnx_shrink_ir::{DataType, Op, Tensor};
use tract_onnx::prelude::*;

pub(crate) use self::kept::Kept;
use self::{
    build::{Built, Input},
    convert::{from_tract, narrowed, widened},
    held::{Held, has_type},
    kept::Mark,
    rules::{Rule, Types},
};
use crate::{
    kernel::{Call, KernelError},
    panics::contained,
    value::Value,
};

/// Built models that one op has; a graph whose shapes change all the time must not fill the memory.
const FORMS: usize = 64;

/// The same where each has more than [`LARGE`] bytes of constants.
const LARGE_FORMS: usize = 4;
const LARGE: usize = 1 << 16;

/// An op that tract runs.
#[derive(Debug)]
pub(crate) struct OneOp {
    rule: Rule,
    /// Inputs that are the same on every call
    constant: Vec<bool>,
    /// Whether the first input may have any number of rows: it is built once for all of them
    any_rows: bool,
    built: RwLock<Vec<Arc<Built>>>,
    /// Held while a model is built, so that threads do not build the same one
    building: Mutex<()>,
    /// What the engine has built for other ops
    kept: Arc<Kept>,
}

impl OneOp {
    /// `op` as tract runs it, or why it does not. Inputs marked in `constant` have the same value on every call.
    /// `varies`: the model leaves open which dimensions the first input has.
    pub(crate) fn new(op: &Op, constant: Vec<bool>, varies: bool, kept: &Arc<Kept>) -> Result<OneOp, String> {
        let rule = rules::rule(op)?;
        // (Decided by what the model says and not by what was seen: a result must not depend on the order of samples.)
        let any_rows = varies && op.is("MatMul") && constant == [false, true];
        let (built, building) = (RwLock::default(), Mutex::default());
        Ok(OneOp { rule, constant, any_rows, built, building, kept: kept.clone() })
    }

    /// Whether tract can take inputs of `dtype`.
    pub(crate) fn takes(&self, dtype: DataType) -> bool {
        let half = matches!(dtype, DataType::Float16 | DataType::Bfloat16);
        match self.rule.types {
            Types::Computes { .. } => half || has_type(dtype),
            Types::AsIs => has_type(dtype),
        }
    }

    /// Runs the op. `values` are the inputs of `call`.
    pub(crate) fn run(&self, call: &Call<'_>, values: &[Option<&Value>]) -> Result<Vec<Option<Value>>, KernelError> {
        if let Some(tensor) = call.inputs.iter().flatten().find(|tensor| !self.takes(tensor.dtype())) {
            return Err(KernelError::Unsupported(format!("inputs of {}", tensor.dtype())));
        }
        (self.rule.check)(call)?;
        let built = self.built_for(call)?;
        let mut inputs = tvec!();
        for &index in built.sources() {
            let Some(value) = values.get(index).copied().flatten() else { continue };
            inputs.push(self.given(value)?.into_tvalue());
        }
        let outputs = contained(|| built.run(inputs))
            .map_err(|panic| KernelError::Failed(format!("the engine panicked: {panic}")))?
            .map_err(|error| KernelError::Failed(format!("{error:#}")))?;
        let mut outputs = outputs.into_iter();
        let mut results = Vec::with_capacity(call.op.outputs().len());
        for (index, wanted) in call.op.outputs().iter().enumerate() {
            results.push(match wanted {
                Some(_) => {
                    let output = outputs.next().ok_or_else(|| KernelError::Failed(format!("no output {index}")))?;
                    Some(self.taken(call, index, output.into_arc_tensor())?)
                }
                None => None,
            });
        }
        Ok(results)
    }

    /// The input as tract gets it.
    fn given(&self, value: &Value) -> Result<Arc<tract_onnx::prelude::Tensor>, KernelError> {
        if matches!(self.rule.types, Types::Computes { .. })
            && let Some(wide) = widened(&value.tensor)
        {
            return Held::of(&wide).map(Held::into_inner);
        }
        if let Some(held) = value.held.get() {
            return Ok(held.clone().into_inner());
        }
        let held = Held::of(&value.tensor)?;
        Ok(value.held.get_or_init(|| held).clone().into_inner())
    }

    /// An output as ours.
    fn taken(
        &self,
        call: &Call<'_>,
        index: usize,
        output: Arc<tract_onnx::prelude::Tensor>,
    ) -> Result<Value, KernelError> {
        let value = from_tract(output)?;
        let first = call.inputs.iter().flatten().next().map(Tensor::dtype);
        match self.rule.types {
            Types::Computes { float } if value.tensor.dtype() == DataType::Float && float >> index.min(31) & 1 == 1 => {
                match first {
                    Some(half @ (DataType::Float16 | DataType::Bfloat16)) => Ok(narrowed(&value.tensor, half)?.into()),
                    _ => Ok(value),
                }
            }
            _ => Ok(value),
        }
    }

    /// The model for these input types and parameters.
    fn built_for(&self, call: &Call<'_>) -> Result<Arc<Built>, KernelError> {
        let own = || {
            let forms = self.built.read().unwrap_or_else(PoisonError::into_inner);
            forms.iter().find(|built| built.fits(call.inputs)).cloned()
        };
        if let Some(built) = own() {
            return Ok(built);
        }
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(built) = own() {
            return Ok(built);
        }
        let kinds = call.inputs.iter().enumerate().map(|(index, tensor)| match tensor {
            None => Input::Absent,
            Some(tensor) if self.constant.get(index) == Some(&true) => Input::Constant(tensor.clone()),
            Some(tensor) if self.rule.parameters.contains(&index) => Input::Parameter(tensor.clone()),
            Some(tensor) => Input::Source(tensor.dtype(), tensor.dims().to_vec()),
        });
        let mut kinds: Vec<Input> = kinds.collect();
        if let [Input::Source(dtype, dims), Input::Constant(weight)] = kinds.as_slice()
            && let [.., _, length] = dims.as_slice()
            && self.any_rows
            && weight.dims().len() == 2
        {
            kinds[0] = Input::Rows(*dtype, dims.len(), *length);
        }
        let (wide, plain) = (matches!(self.rule.types, Types::Computes { .. }), self.rule.plain);
        let mark = Mark::of(call.op.op_type(), kinds.iter().map(Input::seen));
        let built = match self.kept.find(mark, |built| built.is(call, &kinds, wide, plain)) {
            Some(built) => built,
            None => {
                let built = Arc::new(Built::new(call, kinds, wide, plain)?);
                self.kept.put(mark, &built);
                built
            }
        };
        let mut forms = self.built.write().unwrap_or_else(PoisonError::into_inner);
        if forms.len() >= if built.bytes() > LARGE { LARGE_FORMS } else { FORMS } {
            forms.remove(0);
        }
        forms.push(built.clone());
        Ok(built)
    }
}
