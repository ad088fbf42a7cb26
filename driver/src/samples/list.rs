//! A list of samples, each read on demand.
use std::sync::Arc;

use onnx_shrink_ir::{Graph, Tensor};
use onnx_shrink_passes::SampleSource;

use super::{
    error::{SampleError, SampleProblem},
    fit::Inputs,
    folder,
    memory::{Data, InMemory},
    options::SampleOptions,
    raw::FittedSample,
    source::Source,
};

/// A list of samples, each read on demand.
#[derive(Clone)]
pub struct Samples {
    source: Arc<dyn Source>,
    inputs: Arc<Inputs>,
    indices: Vec<usize>,
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Samples").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Samples {
    /// All samples of `source` for a model with these inputs.
    pub(super) fn of(source: Arc<dyn Source>, inputs: Arc<Inputs>) -> Samples {
        Samples { indices: (0..source.len()).collect(), source, inputs }
    }

    /// The samples in `data` for the model `graph`; the first one is read to find out whether they fit.
    pub fn open(data: impl Into<Data>, graph: &Graph, options: &SampleOptions) -> Result<Samples, SampleError> {
        let data = data.into();
        let samples = Samples::list(&data, graph, options)?;
        let first = samples.read(0, true).map_err(|problem| SampleError::at(&data, problem))?;
        log::info!("{} samples in {data}; the first is {}", samples.len(), first.name);
        Ok(samples)
    }

    /// The same without a look at any.
    pub fn list(data: &Data, graph: &Graph, options: &SampleOptions) -> Result<Samples, SampleError> {
        let at = |problem| SampleError::at(data, problem);
        let inputs = Inputs::of(graph).map_err(at)?;
        let source = match data {
            Data::Path(path) => folder::open(path, &inputs, options).map_err(at)?,
            Data::Memory(samples) => Arc::new(InMemory(samples.clone())),
        };
        let samples = Samples::of(source, Arc::new(inputs));
        if samples.is_empty() {
            return Err(at(SampleProblem::Empty { found: "no samples".to_owned() }));
        }
        Ok(samples)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The name of sample `index`, which must be below [`Samples::len`].
    pub fn name(&self, index: usize) -> String {
        self.source.name(self.indices[index])
    }

    /// Whether nobody gave them.
    pub fn are_made_up(&self) -> bool {
        self.source.is_made_up()
    }

    /// Sample `index`, which must be below [`Samples::len`].
    pub fn get(&self, index: usize) -> Result<FittedSample, SampleError> {
        self.read(index, false).map_err(|problem| SampleError::at(self.name(index), problem))
    }

    pub(super) fn read(&self, index: usize, first: bool) -> Result<FittedSample, SampleProblem> {
        let index = self.indices[index];
        let name = self.source.name(index);
        let within = |problem| match first {
            true => SampleProblem::InSample { sample: name.clone(), problem: Box::new(problem) },
            false => problem,
        };
        let raw = self.source.read(index, &self.inputs).map_err(within)?;
        self.inputs.fit(raw, name.clone(), first).map_err(within)
    }

    /// Those that calibrate and those that judge: every fourth is held out. With fewer than four, both are all of them.
    pub fn split(self) -> (Samples, Samples) {
        if self.len() < 4 {
            return (self.clone(), self);
        }
        let (held_out, kept): (Vec<usize>, Vec<usize>) = (0..self.len()).partition(|index| index % 4 == 3);
        (self.subset(&kept), self.subset(&held_out))
    }

    /// Those at `indices`, in that order; each must be below [`Samples::len`].
    pub fn subset(&self, indices: &[usize]) -> Samples {
        let indices = indices.iter().map(|&index| self.indices[index]).collect();
        Samples { source: self.source.clone(), inputs: self.inputs.clone(), indices }
    }
}

impl SampleSource for Samples {
    fn len(&self) -> usize {
        Samples::len(self)
    }

    fn inputs(&self, index: usize) -> Result<Vec<Option<Tensor>>, onnx_shrink_passes::SampleError> {
        let sample = self.get(index).map_err(|error| onnx_shrink_passes::SampleError::Read(Box::new(error)))?;
        Ok(sample.inputs)
    }
}
