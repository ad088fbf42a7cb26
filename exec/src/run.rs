//! Running a prepared graph: ops in order, values dropped at their last use.
use onnx_shrink_ir::{EvaluateError, Tensor, ValueId, ops_between};

use crate::{
    plan::{Plan, named},
    value::Value,
};

impl Plan<'_> {
    /// The value of `id`: what the run made, or a constant.
    pub(crate) fn value<'a>(&'a self, frame: &'a [Option<Value>], id: ValueId) -> Option<&'a Value> {
        frame.get(id.index()).and_then(Option::as_ref).or(self.constants[id.index()].as_ref())
    }

    /// Runs with `given` for inputs and captured values; every value that an op makes is shown to `observe`.
    /// Returns the outputs of the graph.
    pub(crate) fn run(
        &self,
        given: impl IntoIterator<Item = (ValueId, Value)>,
        observe: &mut dyn FnMut(ValueId, &Tensor),
    ) -> Result<Vec<Value>, EvaluateError> {
        let mut frame: Vec<Option<Value>> = vec![None; self.constants.len()];
        for (id, value) in given {
            frame[id.index()] = Some(value);
        }
        for step in &self.steps {
            if let Some(input) = step.overwrites
                && let Some(value) = frame[input.index()].take()
            {
                let (value, done) = value.rectified().map_err(|error| named(self.graph, step.id, error))?;
                if let (true, Some(output)) = (done, step.op.output(0)) {
                    observe(output, &value.tensor);
                    frame[output.index()] = Some(value).filter(|_| !step.dies.contains(&output));
                    continue;
                }
                frame[input.index()] = Some(value);
            }
            let outputs = step.run(self, &frame)?;
            for (&id, value) in step.op.outputs().iter().zip(outputs) {
                if let (Some(id), Some(value)) = (id, value) {
                    observe(id, &value.tensor);
                    frame[id.index()] = Some(value);
                }
            }
            for id in &step.dies {
                frame[id.index()] = None;
            }
        }
        self.collect(&frame, self.graph.outputs(), "graph output")
    }

    /// The values `wanted` of `frame`.
    fn collect(
        &self,
        frame: &[Option<Value>],
        wanted: &[ValueId],
        what: &'static str,
    ) -> Result<Vec<Value>, EvaluateError> {
        let values = wanted.iter().map(|&value| {
            self.value(frame, value).cloned().ok_or_else(|| EvaluateError::Failed {
                op: self.graph.name_of(value).to_owned(),
                op_type: what.to_owned(),
                reason: "nothing makes it".to_owned(),
            })
        });
        values.collect()
    }

    /// Runs only what makes `wanted` from `given`.
    pub(crate) fn run_part(
        &self,
        given: &[(ValueId, Tensor)],
        wanted: &[ValueId],
    ) -> Result<Vec<Value>, EvaluateError> {
        let known: Vec<ValueId> = given.iter().map(|(id, _)| *id).collect();
        let needed = ops_between(self.graph, &known, wanted);
        let mut is_needed = vec![false; self.constants.len()];
        needed.iter().for_each(|op| is_needed[op.index()] = true);
        let mut frame: Vec<Option<Value>> = vec![None; self.constants.len()];
        for (id, tensor) in given {
            frame[id.index()] = Some(tensor.clone().into());
        }
        let mut keep = vec![false; self.constants.len()];
        wanted.iter().for_each(|value| keep[value.index()] = true);
        for step in self.steps.iter().filter(|step| is_needed[step.id.index()]) {
            let outputs = step.run(self, &frame)?;
            for (&id, value) in step.op.outputs().iter().zip(outputs) {
                if let (Some(id), Some(value)) = (id, value) {
                    frame[id.index()] = Some(value);
                }
            }
            for id in step.dies.iter().filter(|id| !keep[id.index()]) {
                frame[id.index()] = None;
            }
        }
        self.collect(&frame, wanted, "wanted value")
    }
}
