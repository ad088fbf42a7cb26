//! A graph, prepared: constants computed, a home chosen for every op, the last use of every value known.
//!
//! **Never** reads a sample: what can never run is found here. **No** recursion over the graph; bodies recurse, and nest
//! at most as deep as the file format allows.
use std::{collections::BTreeMap, sync::Arc};

use onnx_shrink_ir::{DataType, EvaluateError, Graph, Op, OpId, Tensor, ValueId, op_schema, ops::Relu};

use crate::{
    Options, Random,
    kernel::{Call, Kernel, KernelError},
    kernels,
    panics::contained,
    tract::{Kept, OneOp},
    value::Value,
};

/// A body, prepared.
#[derive(Debug)]
pub(crate) struct Body<'g> {
    /// The body; an error when it can never run, which matters only once it shall
    pub(crate) plan: Result<Plan<'g>, EvaluateError>,
    /// What it captures, constants aside: (outer, inner)
    pub(crate) captures: Vec<(ValueId, ValueId)>,
}

/// An op type with bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    If,
    Loop,
    Scan,
}

/// An op with bodies.
#[derive(Debug)]
pub(crate) struct Control<'g> {
    pub(crate) kind: Kind,
    pub(crate) bodies: Vec<Body<'g>>,
}

/// Who runs an op.
#[derive(Debug)]
pub(crate) enum Home<'g> {
    /// A kernel of ours, and where it does not do the form at hand, or there is none, tract
    Op(Option<Kernel>, Option<OneOp>),
    /// The interpreter: an op with bodies
    Control(Control<'g>),
}

/// An op that a run computes.
#[derive(Debug)]
pub(crate) struct Step<'g> {
    pub(crate) id: OpId,
    pub(crate) op: &'g Op,
    pub(crate) home: Home<'g>,
    /// Values that nothing uses after this op
    pub(crate) dies: Vec<ValueId>,
    /// The input that the op may change into its output, as nothing else uses it
    pub(crate) overwrites: Option<ValueId>,
}

/// A graph, ready to run.
#[derive(Debug)]
pub(crate) struct Plan<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) options: Options,
    /// What tract has built for other graphs
    kept: Arc<Kept>,
    pub(crate) steps: Vec<Step<'g>>,
    /// Constants of the graph and what follows from them, by [`ValueId::index`]
    pub(crate) constants: Vec<Option<Value>>,
}

/// The error that `error` is when `op` of `graph` met it.
pub(crate) fn named(graph: &Graph, id: OpId, error: KernelError) -> EvaluateError {
    let op = graph.op(id);
    let op_type = op.full_type();
    let op = graph.label_of(id).to_owned();
    match error {
        KernelError::Unsupported(reason) => EvaluateError::Unsupported { op, op_type, reason },
        KernelError::Failed(reason) => EvaluateError::Failed { op, op_type, reason },
    }
}

impl<'g> Plan<'g> {
    /// Prepares `graph`, in which the captured values `known` are constants.
    pub(crate) fn new(
        graph: &'g Graph,
        options: Options,
        kept: &Arc<Kept>,
        known: &BTreeMap<ValueId, Value>,
    ) -> Result<Plan<'g>, EvaluateError> {
        let mut plan = Plan::empty(graph, options, kept, known);
        for id in graph.ops() {
            plan.add(id)?;
        }
        plan.find_last_uses();
        Ok(plan)
    }

    fn empty(graph: &'g Graph, options: Options, kept: &Arc<Kept>, known: &BTreeMap<ValueId, Value>) -> Plan<'g> {
        let mut constants = vec![None; graph.bound()];
        for value in graph.values() {
            constants[value.index()] = graph.constant(value).cloned().map(Value::from);
        }
        for (value, constant) in known {
            constants[value.index()] = Some(constant.clone());
        }
        Plan { graph, options, kept: kept.clone(), steps: Vec::new(), constants }
    }

    /// The ops of `graph` that cannot be prepared, in its order, and why.
    pub(crate) fn refused(graph: &'g Graph, options: Options, kept: &Arc<Kept>) -> Vec<(OpId, EvaluateError)> {
        let mut plan = Plan::empty(graph, options, kept, &BTreeMap::new());
        graph.ops().into_iter().filter_map(|id| Some((id, plan.add(id).err()?))).collect()
    }

    /// The op becomes a step, or, when everything that it uses is constant, its outputs become constants.
    fn add(&mut self, id: OpId) -> Result<(), EvaluateError> {
        let op = self.graph.op(id);
        let constant = |value: ValueId| self.constants[value.index()].is_some();
        let inputs: Vec<bool> = op.inputs().iter().map(|input| input.is_none_or(constant)).collect();
        let captures = self.graph.captures(id);
        let fold = inputs.iter().all(|&constant| constant) && captures.iter().all(|&(_, outer, _)| constant(outer));
        let constant = if fold { vec![false; inputs.len()] } else { inputs };
        let home = self.home(id, constant).map_err(|error| self.unwrapped(id, error))?;
        let step = Step { id, op, home, dies: Vec::new(), overwrites: None };
        if !fold {
            self.steps.push(step);
            return Ok(());
        }
        let outputs = step.run(self, &[])?;
        for (&output, value) in op.outputs().iter().zip(outputs) {
            if let (Some(output), Some(value)) = (output, value) {
                self.constants[output.index()] = Some(value.tensor.into()); // without tract's copy
            }
        }
        Ok(())
    }

    fn unwrapped(&self, id: OpId, error: HomeError) -> EvaluateError {
        match error {
            HomeError::Op(reason) => named(self.graph, id, KernelError::Unsupported(reason)),
            HomeError::Body(error) => error,
        }
    }

    /// Who runs the op, whose inputs marked in `constant` are the same on every call.
    fn home(&self, id: OpId, constant: Vec<bool>) -> Result<Home<'g>, HomeError> {
        let op = self.graph.op(id);
        for input in op.inputs().iter().flatten() {
            if self.graph.is_sparse(*input) {
                return Err(HomeError::Op(format!(
                    "its input `{}` is a sparse initializer",
                    self.graph.name_of(*input)
                )));
            }
        }
        if let Some(control) = self.control(id)? {
            return Ok(Home::Control(control));
        }
        if let Some(reason) = beyond_schema(op, self.graph.opset()) {
            return Err(HomeError::Op(reason));
        }
        if self.options.random == Random::Refused && kernels::random::find(op).is_some() {
            return Err(HomeError::Op("it is random".to_owned()));
        }
        let kernel = kernels::find(op, self.graph.opset());
        let first = op.input(0).and_then(|input| self.graph.ty(input));
        let varies = first.is_none_or(|ty| ty.dims().is_none());
        match OneOp::new(op, constant, varies, &self.kept) {
            Ok(one) => {
                let known = op.inputs().iter().flatten().filter_map(|input| self.graph.ty(*input));
                match known.map(|ty| ty.dtype).find(|&dtype| !one.takes(dtype)) {
                    Some(dtype) if kernel.is_none() => Err(HomeError::Op(format!("inputs of {dtype}"))),
                    _ => Ok(Home::Op(kernel, Some(one))),
                }
            }
            Err(reason) if kernel.is_none() => Err(HomeError::Op(reason)),
            Err(_) => Ok(Home::Op(kernel, None)),
        }
    }

    /// The bodies of the op, prepared; `None` when it is no control-flow op.
    fn control(&self, id: OpId) -> Result<Option<Control<'g>>, HomeError> {
        let op = self.graph.op(id);
        let captures = self.graph.captures(id);
        let bodies = op.regions().iter().enumerate().map(|(region, body)| {
            let mut known = BTreeMap::new();
            let mut taken = Vec::new();
            for &(_, outer, inner) in captures.iter().filter(|capture| capture.0 == region) {
                match &self.constants[outer.index()] {
                    Some(constant) => {
                        known.insert(inner, constant.clone());
                    }
                    None => taken.push((outer, inner)),
                }
            }
            Body { plan: Plan::new(&body.graph, self.options, &self.kept, &known), captures: taken }
        });
        Control::new(op, self.graph.opset(), bodies.collect())
    }

    fn find_last_uses(&mut self) {
        let mut seen = vec![false; self.graph.bound()];
        for output in self.graph.outputs() {
            seen[output.index()] = true;
        }
        for index in (0..self.steps.len()).rev() {
            let step = &self.steps[index];
            let captures = self.graph.captures(step.id).into_iter().map(|(_, outer, _)| outer);
            let touched = step.op.inputs().iter().chain(step.op.outputs()).flatten().copied().chain(captures);
            let mut dies = Vec::new();
            for value in touched {
                if self.constants[value.index()].is_none() && !std::mem::replace(&mut seen[value.index()], true) {
                    dies.push(value);
                }
            }
            let step = &mut self.steps[index];
            let plain = matches!(step.home, Home::Op(Some(_), _)) && Relu::of(self.graph, step.id).is_some();
            step.overwrites = step.op.input(0).filter(|input| plain && dies.contains(input));
            step.dies = dies;
        }
    }
}

/// What ONNX's own schemas do not know of `op`: the op itself, or an attribute, which may change what it computes.
fn beyond_schema(op: &Op, opset: i64) -> Option<String> {
    if !op.domain().is_empty() {
        return None;
    }
    let Some(schema) = op_schema::find("", op.op_type(), opset) else {
        return Some(format!("opset {opset} has no such op"));
    };
    let unknown = op.attributes().iter().find(|attribute| schema.attribute(attribute.name()).is_none())?;
    Some(format!("opset {opset} has no attribute `{}` for it", unknown.name()))
}

/// Why an op has no home.
#[derive(Debug)]
pub(crate) enum HomeError {
    /// Because of the op itself
    Op(String),
    /// Because of an op in one of its bodies
    Body(EvaluateError),
}

/// One op alone, on constant inputs; what its bodies capture must be constant in `graph`.
pub(crate) fn run_one(
    graph: &Graph,
    options: Options,
    id: OpId,
    inputs: &[Option<Tensor>],
) -> Result<Vec<Option<Tensor>>, EvaluateError> {
    let op = graph.op(id);
    let kept = Arc::default(); // for itself: a folded op does not come again
    let mut plan = Plan { graph, options, kept, steps: Vec::new(), constants: vec![None; graph.bound()] };
    for (_, outer, _) in graph.captures(id) {
        let Some(constant) = graph.constant(outer) else {
            let reason = format!("its bodies use `{}`, which is not constant", graph.name_of(outer));
            return Err(named(graph, id, KernelError::Unsupported(reason)));
        };
        plan.constants[outer.index()] = Some(constant.clone().into());
    }
    let home = plan.home(id, vec![false; op.inputs().len()]).map_err(|error| plan.unwrapped(id, error))?;
    let step = Step { id, op, home, dies: Vec::new(), overwrites: None };
    let values: Vec<Option<Value>> = inputs.iter().map(|input| input.clone().map(Value::from)).collect();
    let values: Vec<Option<&Value>> = values.iter().map(Option::as_ref).collect();
    let outputs = step.run_on(&plan, &values, &[])?;
    let outputs: Vec<Option<Tensor>> = outputs.into_iter().map(|value| value.map(|value| value.tensor)).collect();
    for (output, tensor) in op.outputs().iter().zip(&outputs) {
        let (Some(output), Some(tensor)) = (output, tensor) else { continue };
        if let Some(problem) = graph.ty(*output).and_then(|ty| crate::mismatch(ty, tensor)) {
            let reason = format!("the result does not fit the type of `{}`: {problem}", graph.name_of(*output));
            return Err(named(graph, id, KernelError::Failed(reason)));
        }
    }
    Ok(outputs)
}

impl Step<'_> {
    /// Runs the op on what `frame`, or else the plan's constants, hold.
    pub(crate) fn run(&self, plan: &Plan<'_>, frame: &[Option<Value>]) -> Result<Vec<Option<Value>>, EvaluateError> {
        let mut inputs = Vec::with_capacity(self.op.inputs().len());
        for input in self.op.inputs() {
            let value = input.map(|input| {
                let found = plan.value(frame, input);
                found.ok_or_else(|| {
                    let reason = format!("its input `{}` has no value", plan.graph.name_of(input));
                    named(plan.graph, self.id, KernelError::Failed(reason))
                })
            });
            inputs.push(value.transpose()?);
        }
        self.run_on(plan, &inputs, frame)
    }

    fn run_on(
        &self,
        plan: &Plan<'_>,
        inputs: &[Option<&Value>],
        frame: &[Option<Value>],
    ) -> Result<Vec<Option<Value>>, EvaluateError> {
        let error = |error| named(plan.graph, self.id, error);
        let outputs = match &self.home {
            Home::Control(control) => control.run(self, plan, inputs, frame)?,
            Home::Op(kernel, one) => {
                let tensors: Vec<Option<Tensor>> = inputs.iter().map(|value| value.map(|v| v.tensor.clone())).collect();
                let max_bytes = plan.options.max_result_bytes;
                let opset = plan.graph.opset();
                let name = self.op.outputs().iter().flatten().next().map_or("", |&value| plan.graph.name_of(value));
                let random = Some(name).filter(|_| plan.options.random == Random::MadeUp);
                let call = Call { op: self.op, opset, inputs: &tensors, max_bytes, random };
                call_op(*kernel, one.as_ref(), &call, inputs).map_err(error)?
            }
        };
        for (index, wanted) in self.op.outputs().iter().enumerate() {
            match (wanted, outputs.get(index).and_then(Option::as_ref)) {
                (Some(_), None) => return Err(error(KernelError::Unsupported(format!("output {index}")))),
                (Some(_), Some(value)) if value.tensor.byte_len() > plan.options.max_result_bytes => {
                    let limit = plan.options.max_result_bytes;
                    let reason = format!("output {index} has {} bytes, the limit is {limit}", value.tensor.byte_len());
                    return Err(error(KernelError::Failed(reason)));
                }
                _ => {}
            }
        }
        Ok(outputs)
    }
}

/// Runs a kernel of ours, and tract where there is none or it does not do this form.
fn call_op(
    kernel: Option<Kernel>,
    one: Option<&OneOp>,
    call: &Call<'_>,
    values: &[Option<&Value>],
) -> Result<Vec<Option<Value>>, KernelError> {
    let mut refusal = None;
    if let (Some(_), Some(one)) = (kernel, one)
        && faster_in_tract(call)
    {
        match one.run(call, values) {
            Err(KernelError::Unsupported(reason)) => log::debug!("a {} of ours runs: {reason}", call.op.op_type()),
            outcome => return outcome,
        }
    }
    if let Some(kernel) = kernel {
        let outputs =
            contained(|| kernel(call)).map_err(|panic| KernelError::Failed(format!("its kernel panicked: {panic}")))?;
        match outputs {
            Ok(outputs) => return Ok(outputs.into_iter().map(|output| output.map(Value::from)).collect()),
            Err(KernelError::Unsupported(reason)) => refusal = Some(reason),
            Err(error) => return Err(error),
        }
    }
    match (refusal, one) {
        (refusal, None) => {
            Err(KernelError::Unsupported(refusal.unwrap_or_else(|| "there is no kernel for it".to_owned())))
        }
        (None, Some(one)) => one.run(call, values),
        (Some(refusal), Some(one)) => one.run(call, values).map_err(|error| match error {
            KernelError::Unsupported(reason) => KernelError::Unsupported(format!("{refusal}; {reason}")),
            error => error,
        }),
    }
}

/// Whether tract is to run an op that has a kernel of ours, too: it has vectorized approximations of the transcendental
/// functions (measured: yolox_nano, 110 Sigmoids, 80 ms instead of 260), and whole recurrences and attentions as one op.
fn faster_in_tract(call: &Call<'_>) -> bool {
    let Some(x) = call.optional(0).filter(|x| x.dtype() == DataType::Float) else { return false };
    match call.op.op_type() {
        "Sigmoid" | "Tanh" => x.len() >= 1024,
        "LSTM" | "GRU" | "RNN" | "Attention" => true,
        _ => false,
    }
}
