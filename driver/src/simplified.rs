//! A model after the lossless passes: what the steps that lose something begin with.
use std::collections::BTreeMap;

use onnx_shrink_ir::{
    Evaluate, Model, infer,
    raise::{self, RaiseError},
};
use onnx_shrink_passes::{Context, Options, Statistics, pipeline};

use crate::Failure;

/// See the [module](self).
pub(crate) struct Simplified {
    /// The model
    pub model: Model,
    /// What its batch norms, which are gone, told of values
    pub statistics: BTreeMap<String, Statistics>,
}

impl Simplified {
    /// A copy of `model` that all lossless passes have run on; nothing has been checked by running it.
    pub fn of(model: &Model, evaluator: &dyn Evaluate) -> Result<Simplified, Failure> {
        let mut model = model.detached();
        model.graph.freeze_defaults();
        let mut cx = Context::new(Options::default(), evaluator);
        pipeline::run_lossless(&mut model.graph, &mut cx).map_err(Failure::bug)?;
        Ok(Simplified { model, statistics: std::mem::take(&mut cx.statistics) })
    }
}

/// Brings `model` to at least `opset`, and runs the lossless passes on what that changed. `Err` inside, with `model` as it was, where
/// an op has no newer form.
pub(crate) fn raise(model: &mut Model, opset: i64, cx: &mut Context<'_>) -> Result<Result<(), RaiseError>, Failure> {
    if model.opset() >= opset {
        return Ok(Ok(()));
    }
    if let Err(error) = raise::raise(model, opset) {
        return Ok(Err(error));
    }
    infer::infer(&mut model.graph);
    pipeline::run_lossless(&mut model.graph, cx).map_err(Failure::bug)?;
    Ok(Ok(()))
}
