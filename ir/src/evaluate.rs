//! The interface to an engine: passes ask it, and never know which one answers.
use crate::{
    graph::{Graph, OpId, ValueId},
    tensor::Tensor,
};

/// Why something was not computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// The engine has no kernel for the op, or not for these types or attributes
    #[error("op `{op}` ({op_type}): {reason}")]
    Unsupported {
        /// The op's label
        op: String,
        /// Its type, with the domain when it is not ONNX's own
        op_type: String,
        /// What exactly is not supported
        reason: String,
    },
    /// The op cannot be computed on these inputs
    #[error("op `{op}` ({op_type}) failed: {reason}")]
    Failed {
        /// The op's label
        op: String,
        /// Its type
        op_type: String,
        /// What went wrong
        reason: String,
    },
    /// The inputs do not fit the graph
    #[error("graph input `{input}`: {reason}")]
    Input {
        /// The input's name
        input: String,
        /// What does not fit
        reason: String,
    },
}

/// What is called with every value of a run, constants aside.
pub type Observe<'a> = &'a mut dyn FnMut(ValueId, &Tensor);

/// An engine.
pub trait Evaluate: Sync {
    /// The outputs of one op for constant inputs, by position; `None` where the op leaves one out. Never runs random ops,
    /// and refuses results above a size limit before computing them.
    fn op(&self, graph: &Graph, op: OpId, inputs: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, EvaluateError>;

    /// Prepares `graph` for runs: constants are computed once, kernels are chosen.
    /// Fails at the first op that cannot run, before any sample is read.
    fn prepare<'g>(&'g self, graph: &'g Graph) -> Result<Box<dyn Prepared + 'g>, EvaluateError>;
}

/// A graph that is ready to run, from several threads at once.
pub trait Prepared: Sync {
    /// Runs on `inputs`, which stand in the order of [`Graph::inputs`]; `None` takes an input's default. Every value that
    /// an op of the main graph makes, and every graph input, is shown to `observe` once, in the order of the ops.
    /// Returns the graph's outputs, the same bits on every call.
    fn run(&self, inputs: &[Option<Tensor>], observe: Observe<'_>) -> Result<Vec<Tensor>, EvaluateError>;

    /// Computes `wanted` from the values `given`, by the ops between them alone: what many tries of a small change share is
    /// computed once. The bits are those of [`Prepared::run`] when the values given are.
    /// An engine that cannot is [`EvaluateError::Unsupported`].
    fn run_part(&self, given: &[(ValueId, Tensor)], wanted: &[ValueId]) -> Result<Vec<Tensor>, EvaluateError> {
        let reason = format!("this engine does not compute {} values from {} others", wanted.len(), given.len());
        Err(EvaluateError::Unsupported { op: String::new(), op_type: "part of a graph".to_owned(), reason })
    }
}

/// The ops that make `wanted` from `given` and constants, in the order of the graph: what [`Prepared::run_part`] runs.
pub fn ops_between(graph: &Graph, given: &[ValueId], wanted: &[ValueId]) -> Vec<OpId> {
    let mut known = vec![false; graph.bound()];
    given.iter().for_each(|value| known[value.index()] = true);
    let mut needed = vec![false; graph.bound()];
    let mut open: Vec<ValueId> = wanted.to_vec();
    while let Some(value) = open.pop() {
        if std::mem::replace(&mut known[value.index()], true) {
            continue;
        }
        let Some(op) = graph.producer(value) else { continue };
        needed[op.index()] = true;
        open.extend(graph.op(op).inputs().iter().flatten());
        open.extend(graph.captures(op).into_iter().map(|(_, outer, _)| outer));
    }
    graph.ops().into_iter().filter(|op| needed[op.index()]).collect()
}
