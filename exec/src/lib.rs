//! Runs graphs op by op, in graph order.
//!
//! Each op has one of three homes, looked up by domain, type, opset, element types and attributes: a kernel of ours
//! ([`kernels`]), tract as a one-node model, or none: it is refused by name. If, Loop and Scan run in the interpreter.
//! **Never** guesses: what is not known to be right is [`EvaluateError::Unsupported`]. Random ops run with made-up numbers where
//! [`Options::random`] says so, and **never** become constants of a model: [`Evaluate::op`] refuses them.
//! The same inputs give the same bits on every call and from every thread.
//!
//! ```
//! use onnx_shrink_exec::Interpreter;
//! use onnx_shrink_ir::{Evaluate, Tensor, text::parse_model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"<ir_version: 8, opset_import: ["" : 17]>
//!     g (float[N,2] x) => (float[N,2] y) { a = Relu (x)  y = Add (a, a) }"#;
//! let model = parse_model(text).expect("this is ONNX's own syntax");
//! let engine = Interpreter::default();
//! let prepared = engine.prepare(&model.graph)?; // runs many samples, from many threads
//! let x = Tensor::from_vec(&[2, 2], vec![1f32, -2.0, 3.0, -4.0]);
//! let outputs = prepared.run(&[Some(x)], &mut |_value, _tensor| {})?;
//! assert_eq!(outputs[0].as_slice::<f32>().as_deref(), Some(&[2.0, 0.0, 6.0, 0.0][..]));
//! # Ok(())
//! # }
//! ```
mod control;
pub mod kernel;
pub mod kernels;
mod panics;
mod plan;
mod run;
mod slices;
mod tract;
mod value;

use std::{collections::BTreeMap, sync::Arc};

use onnx_shrink_ir::{Dim, Evaluate, EvaluateError, Graph, Observe, OpId, Prepared, Tensor, TensorType, ValueId};

use crate::{plan::Plan, tract::Kept, value::Value};

/// What becomes of ops that draw random numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Random {
    /// They are refused
    #[default]
    Refused,
    /// They draw numbers that are made up: the same for the same name of a value, on every call and in every graph
    MadeUp,
}

/// Limits of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes that one result may take at most
    pub max_result_bytes: usize,
    /// How often the body of one Loop or Scan may run
    pub max_iterations: u64,
    /// Whether random ops run
    pub random: Random,
}

impl Default for Options {
    /// 1 GiB, a million iterations, no random ops.
    fn default() -> Options {
        Options { max_result_bytes: 1 << 30, max_iterations: 1 << 20, random: Random::Refused }
    }
}

impl Options {
    /// The same, with random ops on made-up numbers: for runs whose results are compared with each other, or observed.
    pub fn with_random(self) -> Options {
        Options { random: Random::MadeUp, ..self }
    }
}

/// The engine. Clones share what was prepared.
#[derive(Clone, Debug, Default)]
pub struct Interpreter {
    options: Options,
    kept: Arc<Kept>,
}

impl Interpreter {
    /// An engine with these limits.
    pub fn new(options: Options) -> Interpreter {
        Interpreter { options, kept: Arc::default() }
    }

    /// The ops of `graph` that do not run, in its order, and why: what [`Evaluate::prepare`] fails at, and all others.
    pub fn refused(&self, graph: &Graph) -> Vec<(OpId, EvaluateError)> {
        Plan::refused(graph, self.options, &self.kept)
    }
}

impl Evaluate for Interpreter {
    fn op(&self, graph: &Graph, op: OpId, inputs: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, EvaluateError> {
        let options = Options { random: Random::Refused, ..self.options };
        plan::run_one(graph, options, op, inputs)
    }

    fn prepare<'g>(&'g self, graph: &'g Graph) -> Result<Box<dyn Prepared + 'g>, EvaluateError> {
        Ok(Box::new(Ready { plan: Plan::new(graph, self.options, &self.kept, &BTreeMap::new())? }))
    }
}

/// A graph that is ready to run.
#[derive(Debug)]
struct Ready<'g> {
    plan: Plan<'g>,
}

impl Prepared for Ready<'_> {
    fn run(&self, inputs: &[Option<Tensor>], observe: Observe<'_>) -> Result<Vec<Tensor>, EvaluateError> {
        let graph = self.plan.graph;
        if inputs.len() > graph.inputs().len() {
            let reason = format!("{} inputs are given, the graph takes {}", inputs.len(), graph.inputs().len());
            return Err(EvaluateError::Input { input: String::new(), reason });
        }
        let mut given = Vec::with_capacity(graph.inputs().len());
        for (index, &id) in graph.inputs().iter().enumerate() {
            let input = || graph.name_of(id).to_owned();
            let tensor = match inputs.get(index).and_then(Option::as_ref).or_else(|| graph.default_of(id)) {
                Some(tensor) => tensor.clone(),
                None => return Err(EvaluateError::Input { input: input(), reason: "it is not given".to_owned() }),
            };
            if let Some(reason) = graph.ty(id).and_then(|ty| mismatch(ty, &tensor)) {
                return Err(EvaluateError::Input { input: input(), reason });
            }
            observe(id, &tensor);
            given.push((id, Value::from(tensor)));
        }
        let outputs = self.plan.run(given, observe)?;
        Ok(outputs.into_iter().map(|value| value.tensor).collect())
    }

    fn run_part(&self, given: &[(ValueId, Tensor)], wanted: &[ValueId]) -> Result<Vec<Tensor>, EvaluateError> {
        let values = self.plan.run_part(given, wanted)?;
        Ok(values.into_iter().map(|value| value.tensor).collect())
    }
}

/// How `tensor` contradicts `ty`; `None` when it fits.
pub(crate) fn mismatch(ty: &TensorType, tensor: &Tensor) -> Option<String> {
    let fits = ty.dtype == tensor.dtype()
        && ty.shape.as_ref().is_none_or(|dims| {
            dims.len() == tensor.dims().len()
                && dims.iter().zip(tensor.dims()).all(|(dim, &size)| match dim {
                    Dim::Known(known) => *known == size,
                    Dim::Symbol(_) | Dim::Unknown => true,
                })
        });
    (!fits).then(|| format!("{ty} is expected, {} is given", tensor.ty()))
}
