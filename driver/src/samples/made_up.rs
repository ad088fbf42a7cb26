//! Samples that nobody gave.
use std::sync::Arc;

use onnx_shrink_ir::{Evaluate, Graph};

use super::{
    assignments::{Dimensions, MakeUp, shortest},
    error::SampleError,
    fit::Inputs,
    generated::{Fitting, Generated},
    list::Samples,
};

impl Samples {
    /// `count` made-up samples for `graph`, the same on every call: what `graph` leaves open is as `like` has it. They show whether
    /// two models compute the same, and nothing about accuracy. An error when an input cannot be made up (no shape, or not a tensor
    /// of numbers).
    pub fn generated_as(graph: &Graph, count: usize, like: &MakeUp) -> Result<Samples, SampleError> {
        let at = |problem| SampleError::at("generated samples", problem);
        let inputs = Inputs::of(graph).map_err(at)?;
        let source = Generated::new(graph, &inputs, count, like).map_err(at)?;
        Ok(Samples::of(Arc::new(source), Arc::new(inputs)))
    }

    /// The same with 1 for what `graph` leaves open.
    pub fn generated(graph: &Graph, count: usize) -> Result<Samples, SampleError> {
        Samples::generated_as(graph, count, &MakeUp::all(1))
    }

    /// `count` made-up samples of several assignments (at least one of each) on which `graph` runs; those of
    /// [`Samples::generated`] where it runs on none.
    pub fn made_up(graph: &Graph, evaluator: &dyn Evaluate, count: usize) -> Result<Samples, SampleError> {
        let plain = Samples::generated(graph, count)?;
        let Ok(prepared) = evaluator.prepare(graph) else { return Ok(plain) };
        Ok(Fitting::find(graph, prepared.as_ref(), count).map_or(plain, |found| found.samples()))
    }

    /// Multiply-adds and elements of one run of `graph`, bodies aside; `None` where its inputs leave lengths open.
    pub fn work_of_a_run(graph: &Graph) -> Option<u64> {
        let inputs = Inputs::of(graph).ok()?;
        let dimensions = Dimensions::of(graph, &inputs, &MakeUp::all(1)).ok()?;
        (!dimensions.is_open).then(|| dimensions.work(graph, &inputs))
    }

    /// One made-up sample with the least lengths with which `graph` runs, each 1 where it can be; with 1 where it runs with none.
    pub fn shortest_made_up(graph: &Graph, evaluator: &dyn Evaluate) -> Result<Samples, SampleError> {
        let plain = Samples::generated(graph, 1)?;
        let Ok(prepared) = evaluator.prepare(graph) else { return Ok(plain) };
        let runs =
            |samples: &Samples| samples.get(0).is_ok_and(|sample| prepared.run(&sample.inputs, &mut |_, _| ()).is_ok());
        let made = shortest().into_iter().filter_map(|like| Samples::generated_as(graph, 1, &like).ok());
        Ok(made.into_iter().find(runs).unwrap_or(plain))
    }
}
