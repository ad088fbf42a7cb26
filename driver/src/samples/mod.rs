//! Samples: inputs of a model in files, read one at a time.
//!
//! Why not all at once: calibration sets are larger than memory. A [`Samples`] holds paths and open files; [`Samples::get`]
//! reads one sample, checks it against the model's inputs and converts it. Any number of threads may do that.
//!
//! **Never** guesses: an array that does not fit is an error that names sample, array, what was expected and what is there.
//! **Never** keeps a sample, **never** trusts a header's word on how much memory to take.
mod assignments;
mod convert;
mod error;
mod examine;
mod fit;
mod folder;
mod generated;
mod hints;
mod images;
mod memory;
mod npy;
mod npz;
mod onnx_test_data;

use std::{str::FromStr, sync::Arc};

use onnx_shrink_ir::{Evaluate, Graph, Tensor};
use onnx_shrink_passes::SampleSource;

pub use assignments::MakeUp;
pub use error::{BadSample, SampleError, SampleProblem};
pub use examine::{BadSamples, Examined, Examiner, Extent, Usable};
use fit::Inputs;
pub use folder::files_of;
pub use generated::{Fitting, NoSamples};
pub use memory::{Data, Feed};

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// In the order of the graph's inputs; `None`: the input has a default, and the sample does not give it
    pub inputs: Vec<Option<Tensor>>,
    /// The array `y`, `label` or `labels`
    pub label: Option<Tensor>,
    /// Where it comes from, for messages: a file name, or a place in a file
    pub name: String,
}

/// Order of the axes of an image input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// From the input's shape: the axis that is 1 or 3
    #[default]
    Auto,
    /// Batch, channels, height, width
    Nchw,
    /// Batch, height, width, channels
    Nhwc,
}

/// Order of the channels of an image input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue
    #[default]
    Rgb,
    /// Blue, green, red
    Bgr,
}

/// How an image is brought to size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// To this width and height
    Exact(u32, u32),
    /// The shorter side to this, the other in proportion (rounded down)
    Shorter(u32),
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Resize, String> {
        match text.parse::<u32>() {
            Ok(0) => Err("0 pixels are none".to_owned()),
            Ok(side) => Ok(Resize::Shorter(side)),
            Err(_) => parse_size(text).map(|(width, height)| Resize::Exact(width, height)),
        }
    }
}

/// A size as `224x224`: width and height.
pub fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(['x', 'X']).and_then(|(width, height)| width.parse().ok().zip(height.parse().ok()));
    match parts {
        Some((width, height)) if width > 0 && height > 0 => Ok((width, height)),
        _ => Err(format!("`{text}` is no size; write width and height as 224x224")),
    }
}

/// How files become samples. All of it is about images: arrays are taken as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleOptions {
    /// Subtracted from each channel, after `scale`; empty: 0
    pub mean: Vec<f32>,
    /// Each channel is divided by it, after `mean`; empty: 1
    pub std: Vec<f32>,
    /// Pixels of 0 to 255 are multiplied by it; `None`: 1/255 for float inputs, 1 for integer ones
    pub scale: Option<f32>,
    /// Order of the axes
    pub layout: Layout,
    /// Order of the channels
    pub channels: Channels,
    /// Size to bring the image to
    pub resize: Option<Resize>,
    /// Size of the middle part to take, after `resize`
    pub crop: Option<(u32, u32)>,
}

impl SampleOptions {
    /// The first flag of these that was given.
    pub fn given(&self) -> Option<&'static str> {
        let flags = [
            (!self.mean.is_empty(), "--mean"),
            (!self.std.is_empty(), "--std"),
            (self.scale.is_some(), "--scale"),
            (self.layout != Layout::Auto, "--layout"),
            (self.channels != Channels::Rgb, "--channels"),
            (self.resize.is_some(), "--resize"),
            (self.crop.is_some(), "--crop"),
        ];
        flags.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
    }
}

/// What a file gives for one sample, before it is held against the model.
struct Raw {
    /// Arrays with their names; see [`UNNAMED`]
    arrays: Vec<(String, Tensor)>,
    /// Arrays that nothing wants, described for messages
    others: Vec<String>,
    /// A label that does not stand among the arrays
    label: Option<Tensor>,
}

/// The name of an array that has none, as numpy gives it.
const UNNAMED: &str = "arr_0";

/// Something that samples can be read from.
trait Source: Send + Sync {
    fn len(&self) -> usize;
    fn name(&self, index: usize) -> String;
    fn read(&self, index: usize, inputs: &Inputs) -> Result<Raw, SampleProblem>;

    /// Whether nobody gave them.
    fn is_made_up(&self) -> bool {
        false
    }
}

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
    /// The samples in `data` for the model `graph`; the first one is read to find out whether they fit.
    pub fn open(data: impl Into<Data>, graph: &Graph, options: &SampleOptions) -> Result<Samples, SampleError> {
        let data = data.into();
        let samples = Samples::list(&data, graph, options)?;
        let first = samples.read(0, true).map_err(|problem| SampleError::at(&data, problem))?;
        log::info!("{} samples in {data}; the first is {}", samples.len(), first.name);
        Ok(samples)
    }

    /// The same without a look at any: [`Samples::examine`] tells which can be used.
    pub fn list(data: &Data, graph: &Graph, options: &SampleOptions) -> Result<Samples, SampleError> {
        let at = |problem| SampleError::at(data, problem);
        let inputs = Inputs::of(graph).map_err(at)?;
        let source = match data {
            Data::Path(path) => folder::open(path, &inputs, options).map_err(at)?,
            Data::Memory(feeds) => Arc::new(memory::Feeds(feeds.clone())),
        };
        let samples = Samples { indices: (0..source.len()).collect(), source, inputs: Arc::new(inputs) };
        if samples.is_empty() {
            return Err(at(SampleProblem::Empty { found: "no samples".to_owned() }));
        }
        Ok(samples)
    }

    /// `count` made-up samples for `graph`, the same on every call: what `graph` leaves open is as `like` has it. They show whether
    /// two models compute the same, and nothing about accuracy. An error when an input cannot be made up (no shape, or not a tensor
    /// of numbers).
    pub fn generated_as(graph: &Graph, count: usize, like: &MakeUp) -> Result<Samples, SampleError> {
        let at = |problem| SampleError::at("generated samples", problem);
        let inputs = Inputs::of(graph).map_err(at)?;
        let source = generated::Generated::new(graph, &inputs, count, like).map_err(at)?;
        Ok(Samples { indices: (0..count).collect(), source: Arc::new(source), inputs: Arc::new(inputs) })
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

    /// One made-up sample with the least lengths with which `graph` runs, each 1 where it can be; with 1 where it runs with none.
    pub fn shortest_made_up(graph: &Graph, evaluator: &dyn Evaluate) -> Result<Samples, SampleError> {
        let plain = Samples::generated(graph, 1)?;
        let Ok(prepared) = evaluator.prepare(graph) else { return Ok(plain) };
        let runs =
            |samples: &Samples| samples.get(0).is_ok_and(|sample| prepared.run(&sample.inputs, &mut |_, _| ()).is_ok());
        let made = assignments::shortest().into_iter().filter_map(|like| Samples::generated_as(graph, 1, &like).ok());
        Ok(made.into_iter().find(runs).unwrap_or(plain))
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
    pub fn get(&self, index: usize) -> Result<Sample, SampleError> {
        self.read(index, false).map_err(|problem| SampleError::at(self.name(index), problem))
    }

    fn read(&self, index: usize, first: bool) -> Result<Sample, SampleProblem> {
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

#[cfg(test)]
pub(crate) mod testing {
    //! Sample files for the tests of other modules.
    use std::path::Path;

    use super::{npy::tests::npy, npz::tests};

    /// An .npz of the input `x` with `dims`, and of labels.
    pub(crate) fn npz_file(path: &Path, dims: &[usize], numbers: &[f32], labels: &[u8]) {
        let labels = npy("|u1", false, &format!("({},)", labels.len()), labels);
        let arrays = [("x", tests::floats(dims, numbers)), ("y", labels)];
        tests::npz(path, zip::CompressionMethod::Deflated, &arrays);
    }
}
