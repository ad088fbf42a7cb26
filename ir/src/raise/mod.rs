//! Raising a model to a newer opset: one rule per op and version in which the op's form or meaning changed.
//!
//! Why: passes know one form of each op, that of opset 13 and later; older files are brought there first. Most versions of most ops
//! only widen the types that they take: those have no rule, and the op stays as it is. A rule leaves the meaning exactly as it was, or
//! refuses with a reason.
//!
//! **Never** changes a model in part (an error leaves it untouched), **never** touches ops of other domains (their bodies are
//! raised: a model has one opset), **never** lowers anything. An op that ONNX's own domain does not know is left alone.
//!
//! Two changes of the text have no rule, because they are about inputs that the older text forbids or contradicts itself on: OneHot 9
//! says that indices are not negative (11 counts those from the end), and ConvTranspose 1 says both of an odd padding's extra element.
//!
//! Source of the rules: the schemas of every version in the Python package `onnx` 1.23, compared pairwise.
mod broadcast;
mod edit;
mod inputs;
mod known;
mod modes;
mod normalization;
mod refused;
mod resize;
mod softmax;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;

use std::collections::{BTreeMap, HashMap};

use crate::{
    graph::{Graph, OpId, ValueId},
    model::Model,
};
use edit::{Constants, Edit};
use known::{Fact, Known};

/// The least opset that can be raised.
pub const OLDEST: i64 = 6;
/// The least opset that can be raised to.
pub const LOWEST_TARGET: i64 = 13;
/// The greatest opset that can be raised to.
pub const HIGHEST_TARGET: i64 = 21;

/// What raising did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// The opset before
    pub from: i64,
    /// The opset now; it is `from` when that was high enough
    pub to: i64,
    /// How many ops of each type (as it was before) were rewritten, bodies included
    pub rewritten: BTreeMap<String, usize>,
    /// Graph inputs that became constants: files of IR version 3 and below list every initializer as an input
    pub frozen: usize,
}

/// Why a model stays at its opset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RaiseError {
    /// A target that there are no rules for
    #[error("opset {0} cannot be raised to: {LOWEST_TARGET} to {HIGHEST_TARGET} can")]
    Target(i64),
    /// A model that is too old
    #[error(
        "the model is of opset {0}, and the oldest that can be raised is {OLDEST}: export it again with a newer opset"
    )]
    TooOld(i64),
    /// ONNX's own ops in a model that imports no opset for them
    #[error("op `{0}` is of ONNX's own domain, but the model imports no opset for it")]
    NoOpset(String),
    /// A function of the model with ops of an older opset
    #[error(
        "function `{name}` of the model is written in opset {opset}: functions cannot be raised, inline them first"
    )]
    Function {
        /// The function's name
        name: String,
        /// The opset that it imports
        opset: i64,
    },
    /// Graphs for training
    #[error("the model has training_info, whose graphs cannot be raised")]
    TrainingInfo,
    /// An op without a counterpart
    #[error("op `{op}` ({op_type}) cannot go from opset {from} to {to}: {reason}")]
    Op {
        /// The op's label
        op: String,
        /// Its type
        op_type: String,
        /// The opset before the step that fails
        from: i64,
        /// The opset after it
        to: i64,
        /// What has no counterpart
        reason: String,
    },
}

/// Rewrites the op of an [`Edit`] to the version of one step, or says why that cannot be.
type Rule = fn(&mut Edit<'_>) -> Result<(), String>;

/// The rules: op type, first opset of the new form, rule. An op can have several; they run in ascending order.
#[rustfmt::skip]
const RULES: &[(&str, i64, Rule)] = &[
    ("Add", 7, broadcast::operator), ("Sub", 7, broadcast::operator), ("Mul", 7, broadcast::operator),
    ("Div", 7, broadcast::operator), ("Pow", 7, broadcast::operator), ("And", 7, broadcast::operator),
    ("Or", 7, broadcast::operator), ("Xor", 7, broadcast::operator), ("Equal", 7, broadcast::operator),
    ("Greater", 7, broadcast::operator), ("Less", 7, broadcast::operator), ("Gemm", 7, broadcast::gemm),
    ("PRelu", 7, broadcast::prelu), ("Dropout", 7, inputs::dropout_7), ("Upsample", 7, refused::upsample_7),
    ("RNN", 7, refused::recurrent_7), ("GRU", 7, refused::recurrent_7), ("LSTM", 7, refused::recurrent_7),
    ("BatchNormalization", 7, normalization::batch_7), ("BatchNormalization", 9, normalization::batch_9),
    ("BatchNormalization", 14, normalization::batch_14), ("GroupNormalization", 21, normalization::group_21),
    ("Clip", 11, inputs::clip_11), ("Slice", 10, inputs::slice_10), ("TopK", 10, inputs::top_k_10),
    ("Pad", 11, inputs::pad_11), ("Dropout", 10, inputs::dropout_10), ("Dropout", 12, inputs::dropout_12),
    ("Squeeze", 13, inputs::axes), ("Unsqueeze", 13, inputs::axes), ("ReduceSum", 13, inputs::axes),
    ("ReduceL1", 18, inputs::axes), ("ReduceL2", 18, inputs::axes), ("ReduceLogSum", 18, inputs::axes),
    ("ReduceLogSumExp", 18, inputs::axes), ("ReduceMax", 18, inputs::axes), ("ReduceMean", 18, inputs::axes),
    ("ReduceMin", 18, inputs::axes), ("ReduceProd", 18, inputs::axes), ("ReduceSumSquare", 18, inputs::axes),
    ("Split", 13, inputs::split_13), ("Split", 18, inputs::split_18), ("DFT", 20, inputs::dft_20),
    ("Upsample", 9, resize::upsample_9), ("Upsample", 10, resize::upsample_10),
    ("Resize", 11, resize::resize_11), ("Resize", 13, resize::resize_13),
    ("Softmax", 13, softmax::softmax_13), ("LogSoftmax", 13, softmax::softmax_13), ("Hardmax", 13, softmax::softmax_13),
    ("Scatter", 11, modes::scatter_11), ("RoiAlign", 16, modes::roi_align_16), ("GridSample", 20, modes::grid_sample_20),
    ("Scan", 9, refused::scan_9), ("MeanVarianceNormalization", 9, refused::experimental),
    ("Affine", 10, refused::experimental), ("ATen", 10, refused::experimental), ("ConstantFill", 10, refused::experimental),
    ("Crop", 10, refused::experimental), ("DynamicSlice", 10, refused::experimental),
    ("GRUUnit", 10, refused::experimental), ("GivenTensorFill", 10, refused::experimental),
    ("ImageScaler", 10, refused::experimental), ("ParametricSoftplus", 10, refused::experimental),
    ("Scale", 10, refused::experimental), ("ScaledTanh", 10, refused::experimental),
];

/// The next rule for ops of `op_type` above opset `above`.
fn next_rule(op_type: &str, above: i64, target: i64) -> Option<(i64, Rule)> {
    let rules = RULES.iter().filter(|(name, at, _)| *name == op_type && above < *at && *at <= target);
    rules.min_by_key(|(_, at, _)| *at).map(|(_, at, rule)| (*at, *rule))
}

/// The least IR version in which files of `opset` may be written (onnx, docs/Versioning.md).
fn ir_version_of(opset: i64) -> i64 {
    match opset {
        ..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        _ => 10,
    }
}

fn is_own(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// Raises `model` to opset `target` (13 to 21), every body included; a model that is there already stays as it is. The IR version is
/// raised to the least that the opset needs. On an error the model is untouched.
///
/// Initializers of files of IR version 3 and below become constants that nobody can override ([`Graph::freeze_defaults`]).
pub fn raise(model: &mut Model, target: i64) -> Result<Raised, RaiseError> {
    if !(LOWEST_TARGET..=HIGHEST_TARGET).contains(&target) {
        return Err(RaiseError::Target(target));
    }
    let from = model.opset();
    if from >= target {
        return Ok(Raised { from, to: from, ..Raised::default() });
    }
    if from == 0 {
        let own = model.graph.ops().into_iter().find(|&op| model.graph.op(op).domain().is_empty());
        if let Some(op) = own {
            return Err(RaiseError::NoOpset(model.graph.label_of(op).to_owned()));
        }
    } else if from < OLDEST {
        return Err(RaiseError::TooOld(from));
    }
    if !model.proto().training_info.is_empty() {
        return Err(RaiseError::TrainingInfo);
    }
    for function in &model.proto().functions {
        let old = function.opset_import.iter().find(|import| is_own(import.domain()) && import.version() != target);
        if let Some(import) = old {
            return Err(RaiseError::Function { name: function.name().to_owned(), opset: import.version() });
        }
    }

    let mut work = model.detached();
    let mut raised = Raised { from, to: target, ..Raised::default() };
    if work.ir_version() < 4 {
        raised.frozen = work.graph.freeze_defaults();
    }
    raise_graph(&mut work.graph, from, target, &HashMap::new(), &mut raised)?;
    work.set_opset(target);
    work.set_ir_version(work.ir_version().max(ir_version_of(target)));
    *model = work;
    Ok(raised)
}

/// Raises the ops of one graph and of its bodies. `outer`: what is known of the values that it captures.
fn raise_graph(
    graph: &mut Graph,
    from: i64,
    target: i64,
    outer: &HashMap<ValueId, Fact>,
    raised: &mut Raised,
) -> Result<(), RaiseError> {
    for (_, info) in &graph.stray_info {
        graph.names.reserve(info.name()); // a new value of that name would get a type that is not its own
    }
    let known = Known::of(graph, outer);
    let mut constants = Constants::of(graph);
    let ops = graph.ops();
    let mut work: Vec<(OpId, i64)> = ops.iter().rev().map(|&op| (op, from)).collect();
    while let Some((op, mut version)) = work.pop() {
        let mut old_type = None;
        while graph.op(op).domain().is_empty() {
            let op_type = graph.op(op).op_type().to_owned();
            let Some((at, rule)) = next_rule(&op_type, version, target) else { break };
            let mut edit = Edit::new(graph, op, &known, &mut constants);
            rule(&mut edit).map_err(|reason| RaiseError::Op {
                op: edit.graph.label_of(op).to_owned(),
                op_type: op_type.clone(),
                from: at - 1,
                to: at,
                reason,
            })?;
            let (changed, added) = edit.finish();
            work.extend(added.into_iter().map(|op| (op, at)));
            if changed {
                old_type.get_or_insert(op_type);
            }
            version = at;
        }
        if let Some(op_type) = old_type {
            *raised.rewritten.entry(op_type).or_default() += 1;
        }
    }
    for op in ops {
        let mut inner: Vec<HashMap<ValueId, Fact>> = vec![HashMap::new(); graph.op(op).regions().len()];
        for (region, outer, value) in graph.captures(op) {
            inner[region].insert(value, known.fact(graph, outer));
        }
        for (region, outer) in inner.iter().enumerate() {
            if let Some(body) = graph.region_mut(op, region) {
                raise_graph(body, from, target, outer, raised)?;
            }
        }
    }
    constants.remove_unused(graph);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
