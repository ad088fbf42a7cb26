//! If, Loop and Scan: their bodies run in this interpreter.
//!
//! Semantics: ONNX's operator reference of If, Loop and Scan (opset 9 and above).
//! **Never** runs longer than the iteration limit, nor collects more than the size limit.
use onnx_shrink_ir::{DataType, EvaluateError, Op, Tensor, ValueId};

use crate::{
    kernel::KernelError,
    plan::{Body, Control, HomeError, Kind, Plan, Step, named},
    slices::{stack, take},
    value::Value,
};

/// One run of an op with bodies.
struct Run<'a, 'g> {
    step: &'a Step<'g>,
    plan: &'a Plan<'g>,
    inputs: &'a [Option<&'a Value>],
    frame: &'a [Option<Value>],
}

fn failed<T>(reason: String) -> Result<T, KernelError> {
    Err(KernelError::Failed(reason))
}

fn unsupported<T>(reason: &str) -> Result<T, KernelError> {
    Err(KernelError::Unsupported(reason.to_owned()))
}

/// An error of the op itself, or of an op in its body.
enum Error {
    Own(KernelError),
    Body(EvaluateError),
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Error {
        Error::Own(error)
    }
}

fn truth(tensor: &Tensor) -> Result<bool, KernelError> {
    match tensor.to_scalar_f64() {
        Some(number) if tensor.dtype() == DataType::Bool => Ok(number != 0.0),
        _ => failed(format!("its condition is {}, no single boolean", tensor.ty())),
    }
}

impl<'g> Control<'g> {
    /// `op` with its bodies, which stand in the order of its regions; `None` when it has none of these types.
    pub(crate) fn new(op: &Op, opset: i64, bodies: Vec<Body<'g>>) -> Result<Option<Control<'g>>, HomeError> {
        let kind = match op.op_type() {
            _ if !op.domain().is_empty() => return Ok(None),
            "If" => Kind::If,
            "Loop" => Kind::Loop,
            "Scan" => Kind::Scan,
            _ => return Ok(None),
        };
        if kind == Kind::Scan && opset < 9 {
            return Err(HomeError::Op("the form of opset 8".to_owned()));
        }
        let names: &[&str] = if kind == Kind::If { &["then_branch", "else_branch"] } else { &["body"] };
        if let Some(missing) = names.iter().find(|name| op.region(name).is_none()) {
            return Err(HomeError::Op(format!("attribute `{missing}` is missing")));
        }
        let runs = bodies.iter().any(|body| body.plan.is_ok());
        match bodies.into_iter().map(|body| (body.plan.as_ref().err().cloned(), body)).collect::<Vec<_>>() {
            bodies if runs => Ok(Some(Control { kind, bodies: bodies.into_iter().map(|(_, body)| body).collect() })),
            bodies => match bodies.into_iter().find_map(|(error, _)| error) {
                Some(error) => Err(HomeError::Body(error)),
                None => Err(HomeError::Op("it has no body".to_owned())),
            },
        }
    }

    /// Runs the op of `step`.
    pub(crate) fn run(
        &self,
        step: &Step<'_>,
        plan: &Plan<'_>,
        inputs: &[Option<&Value>],
        frame: &[Option<Value>],
    ) -> Result<Vec<Option<Value>>, EvaluateError> {
        let run = Run { step, plan, inputs, frame };
        let outputs = match self.kind {
            Kind::If => run.branch(&self.bodies),
            Kind::Loop => run.repeat(&self.bodies[0]),
            Kind::Scan => run.scan(&self.bodies[0]),
        };
        match outputs {
            Ok(outputs) => Ok(outputs.into_iter().map(Some).collect()),
            Err(Error::Own(error)) => Err(named(plan.graph, step.id, error)),
            Err(Error::Body(error)) => Err(error),
        }
    }
}

impl Run<'_, '_> {
    fn input(&self, index: usize) -> Result<&Value, KernelError> {
        match self.inputs.get(index).copied().flatten() {
            Some(value) => Ok(value),
            None => failed(format!("input {index} is missing")),
        }
    }

    /// One run of a body, its inputs being `given`.
    fn body(&self, body: &Body<'_>, given: Vec<Value>) -> Result<Vec<Value>, Error> {
        let plan = body.plan.as_ref().map_err(|error| Error::Body(error.clone()))?;
        let mut values: Vec<(ValueId, Value)> = plan.graph.inputs().iter().copied().zip(given).collect();
        for &(outer, inner) in &body.captures {
            let Some(value) = self.plan.value(self.frame, outer) else {
                return Err(Error::Own(KernelError::Failed(format!(
                    "`{}` has no value",
                    self.plan.graph.name_of(outer)
                ))));
            };
            values.push((inner, value.clone()));
        }
        plan.run(values, &mut |_, _| {}).map_err(Error::Body)
    }

    fn branch(&self, bodies: &[Body<'_>]) -> Result<Vec<Value>, Error> {
        let name = if truth(&self.input(0)?.tensor)? { "then_branch" } else { "else_branch" };
        let regions = self.step.op.regions();
        let place = regions.iter().position(|region| self.step.op.region_name(region) == name);
        match place.and_then(|place| bodies.get(place)) {
            Some(body) => self.body(body, Vec::new()),
            None => Ok(failed(format!("attribute `{name}` is missing"))?),
        }
    }

    fn plan_of<'a, 'g>(body: &'a Body<'g>) -> Result<&'a Plan<'g>, Error> {
        body.plan.as_ref().map_err(|error| Error::Body(error.clone()))
    }

    /// A number or condition in the rank that the body declares for its input `index`.
    fn in_rank(plan: &Plan<'_>, index: usize, tensor: Tensor) -> Tensor {
        let rank = plan.graph.inputs().get(index).and_then(|&input| plan.graph.ty(input)).and_then(|ty| ty.rank());
        match rank {
            Some(1) => tensor.reshaped(&[1]).unwrap_or(tensor),
            _ => tensor.reshaped(&[]).unwrap_or(tensor),
        }
    }

    fn repeat(&self, body: &Body<'_>) -> Result<Vec<Value>, Error> {
        let plan = Self::plan_of(body)?;
        let limit = self.plan.options.max_iterations;
        let trips = match self.inputs.first().copied().flatten() {
            Some(trips) => match trips.tensor.to_i64_vec().as_deref() {
                Some(&[trips]) => Some(u64::try_from(trips).unwrap_or(0)),
                _ => return Ok(failed(format!("its trip count is {}", trips.tensor.ty()))?),
            },
            None => None,
        };
        let mut condition = match self.inputs.get(1).copied().flatten() {
            Some(condition) => truth(&condition.tensor)?,
            None => true,
        };
        let carried = self.inputs.len().saturating_sub(2);
        let made = plan.graph.outputs().len();
        if plan.graph.inputs().len() != carried + 2 || made < carried + 1 {
            return Ok(failed("its body takes or makes another number of values".to_owned())?);
        }
        let mut state =
            (2..self.inputs.len()).map(|index| self.input(index).cloned()).collect::<Result<Vec<_>, _>>()?;
        let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); made - carried - 1];
        let mut bytes = 0usize;
        let mut trip = 0u64;
        while condition && trips.is_none_or(|trips| trip < trips) {
            if trip >= limit {
                return Ok(failed(format!("it runs more than {limit} times"))?);
            }
            let number = Tensor::scalar(i64::try_from(trip).unwrap_or(i64::MAX));
            let mut given = vec![Self::in_rank(plan, 0, number).into()];
            given.push(Self::in_rank(plan, 1, Tensor::from_bools(&[], &[condition])).into());
            given.append(&mut state);
            let mut outputs = self.body(body, given)?.into_iter();
            condition = match outputs.next() {
                Some(condition) => truth(&condition.tensor)?,
                None => false,
            };
            state = outputs.by_ref().take(carried).collect();
            for (parts, part) in collected.iter_mut().zip(outputs) {
                bytes = bytes.saturating_add(part.tensor.byte_len());
                parts.push(part.tensor);
            }
            if bytes > self.plan.options.max_result_bytes {
                return Ok(failed(format!(
                    "its results pass the limit of {} bytes",
                    self.plan.options.max_result_bytes
                ))?);
            }
            trip += 1;
        }
        for (place, parts) in collected.iter().enumerate() {
            state.push(self.stacked(plan, carried + 1 + place, parts, 0)?.into());
        }
        Ok(state)
    }

    /// What the body's output `index` was at each step, along `axis`.
    fn stacked(&self, plan: &Plan<'_>, index: usize, parts: &[Tensor], axis: usize) -> Result<Tensor, KernelError> {
        if !parts.is_empty() {
            return stack(parts, axis, self.plan.options.max_result_bytes);
        }
        let ty = plan.graph.outputs().get(index).and_then(|&output| plan.graph.ty(output));
        let Some((ty, mut dims)) = ty.and_then(|ty| Some((ty, ty.dims()?))) else {
            return unsupported("no iteration, and an output of unknown shape");
        };
        dims.insert(axis.min(dims.len()), 0);
        Tensor::new(ty.dtype, &dims, bytes::Bytes::new()).map_err(|error| KernelError::Failed(error.to_string()))
    }

    fn scan(&self, body: &Body<'_>) -> Result<Vec<Value>, Error> {
        let plan = Self::plan_of(body)?;
        let op = self.step.op;
        let count = usize::try_from(op.int("num_scan_inputs").unwrap_or(0)).unwrap_or(0);
        let (inputs, made) = (self.inputs.len(), plan.graph.outputs().len());
        if count == 0 || count > inputs || plan.graph.inputs().len() != inputs || made < inputs - count {
            return Ok(failed("its body takes or makes another number of values".to_owned())?);
        }
        let states = inputs - count;
        let list = |name: &str, length: usize| -> Result<Vec<i64>, KernelError> {
            match op.ints(name) {
                None => Ok(vec![0; length]),
                Some(list) if list.len() == length => Ok(list.to_vec()),
                Some(list) => failed(format!("{name} has {} entries, {length} are needed", list.len())),
            }
        };
        let on_axis = |axis: i64, rank: usize| {
            let signed = i64::try_from(rank).unwrap_or(i64::MAX);
            let axis = usize::try_from(if axis < 0 { axis.saturating_add(signed) } else { axis });
            axis.ok().filter(|&axis| axis < rank).map_or_else(|| failed(format!("axis of a tensor of rank {rank}")), Ok)
        };
        let backwards = list("scan_input_directions", count)?;
        let axes = list("scan_input_axes", count)?;
        let mut sequences = Vec::with_capacity(count);
        let mut length = None;
        for (place, &axis) in axes.iter().enumerate() {
            let sequence = &self.input(states + place)?.tensor;
            let axis = on_axis(axis, sequence.dims().len())?;
            if *length.get_or_insert(sequence.dims()[axis]) != sequence.dims()[axis] {
                return Ok(failed("its sequences are of different lengths".to_owned())?);
            }
            sequences.push((sequence, axis));
        }
        let length = length.unwrap_or(0);
        if length as u64 > self.plan.options.max_iterations {
            return Ok(failed(format!("it runs more than {} times", self.plan.options.max_iterations))?);
        }
        let mut state = (0..states).map(|index| self.input(index).cloned()).collect::<Result<Vec<_>, _>>()?;
        let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); made - states];
        for position in 0..length {
            let mut given = std::mem::take(&mut state);
            for ((sequence, axis), &backwards) in sequences.iter().zip(&backwards) {
                let index = if backwards == 1 { length - 1 - position } else { position };
                given.push(take(sequence, *axis, index)?.into());
            }
            let mut outputs = self.body(body, given)?.into_iter();
            state = outputs.by_ref().take(states).collect();
            for (parts, part) in collected.iter_mut().zip(outputs) {
                parts.push(part.tensor);
            }
        }
        let backwards = list("scan_output_directions", made - states)?;
        let axes = list("scan_output_axes", made - states)?;
        for (place, mut parts) in collected.into_iter().enumerate() {
            if backwards[place] == 1 {
                parts.reverse();
            }
            let known = plan.graph.outputs().get(states + place).and_then(|&id| plan.graph.ty(id)?.rank());
            let rank = parts.first().map(|part| part.dims().len()).or(known).unwrap_or(0) + 1;
            let axis = on_axis(axes[place], rank)?;
            state.push(self.stacked(plan, states + place, &parts, axis)?.into());
        }
        Ok(state)
    }
}
