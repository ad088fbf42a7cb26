//! Calibration: one streaming pass over the samples that sees every float value of the main graph.
//!
//! Counts and sums do not depend on order: the same result for any number of threads, and for any split of the samples into
//! shards that [`Calibration::merge`] puts together. Memory does not grow with the number of samples.
use std::collections::BTreeMap;

use onnx_shrink_ir::{DataType, Evaluate, Graph, Tensor, ValueId, ops::Relu};

use crate::{
    SampleError, SampleSource,
    calibration::{histogram::Histogram, largest::Largest, means::Means},
    samples::fold_in_order,
};

/// What calibration saw of one value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its dimensions in the sample where it is largest: they are the shapes that costs are computed with
    pub dims: Vec<usize>,
    /// All its numbers
    pub histogram: Histogram,
    /// Along axis 1 (rank 3 and more)
    pub channel: Means,
    /// Along the last axis, where a MatMul or Gemm reads the value
    pub last: Means,
    /// The same, magnitudes
    pub largest: Largest,
}

impl Observed {
    /// What a rule tells of a value instead of samples: its range, and its means along axis 1.
    pub fn told(dims: Vec<usize>, (low, high): (f32, f32), means: Option<Vec<f64>>) -> Observed {
        let mut observed = Observed { dims, ..Observed::default() };
        observed.histogram.add(&[low, high]);
        if let Some(means) = means {
            match observed.dims.len() {
                2 => observed.last = Means::Told(means),
                _ => observed.channel = Means::Told(means),
            }
        }
        observed
    }

    /// Mean per channel (axis 1) of a value of rank 3 or more; empty when it cannot be told.
    pub fn channel_mean(&self) -> Vec<f64> {
        self.channel.means()
    }

    /// Mean per position of the last axis; empty when it cannot be told, or no MatMul or Gemm of the graph that was run
    /// reads the value.
    pub fn last_axis_mean(&self) -> Vec<f64> {
        self.last.means()
    }

    /// Adds what `other` has seen of the same value in other samples.
    pub fn merge(&mut self, other: Observed) {
        self.see_dims(&other.dims);
        self.histogram.merge(other.histogram);
        self.channel.merge(other.channel);
        self.last.merge(other.last);
        self.largest.merge(other.largest);
    }

    /// Keeps the largest dimensions: those of the first sample would depend on the order.
    fn see_dims(&mut self, dims: &[usize]) {
        let key = |dims: &[usize]| dims.iter().fold(1usize, |all, &dim| all.saturating_mul(dim));
        if self.dims.is_empty() || (key(dims), dims) > (key(&self.dims), &self.dims) {
            self.dims = dims.to_vec();
        }
    }
}

/// What calibration saw, by value.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// By value; only float values that an op makes or the graph takes
    pub values: BTreeMap<ValueId, Observed>,
    /// Samples that were seen
    pub samples: usize,
    /// Whether ranges follow from the model instead
    pub from_model: bool,
    /// The graph's outputs for the samples that [`calibrate`] was to keep those of, by their index
    pub outputs: BTreeMap<usize, Vec<Tensor>>,
}

impl Calibration {
    /// Adds what `other` saw of the same graph in other samples. (Kept outputs stay those of `self`.)
    pub fn merge(&mut self, other: Calibration) {
        for (value, observed) in other.values {
            self.values.entry(value).or_default().merge(observed);
        }
        self.samples = self.samples.saturating_add(other.samples);
    }
}

/// What one sample shows of a value beside its distribution.
struct Shown {
    dims: Vec<usize>,
    /// Sums along axis 1 and along the last axis
    channel: Vec<f64>,
    last: Vec<f64>,
    /// Largest magnitudes along the last axis
    largest: Vec<f32>,
    /// Numbers
    count: usize,
}

/// By value, of one sample.
type Sums = BTreeMap<ValueId, Shown>;

/// What one thread saw of its share.
#[derive(Default)]
struct Part {
    /// Counts of all its samples
    histograms: BTreeMap<ValueId, Histogram>,
    /// Sums of each
    sums: Vec<Sums>,
    /// Outputs that are kept
    outputs: Vec<(usize, Vec<Tensor>)>,
}

/// Samples whose sums are held before they are added up in order.
const CHUNK: usize = 16;

/// Runs `graph` on all of `samples` and keeps what it saw, with the outputs for those that `keeps` names; `done` is called after each
/// few samples with their number.
pub fn calibrate(
    graph: &Graph,
    evaluator: &dyn Evaluate,
    samples: &dyn SampleSource,
    keeps: &[usize],
    done: &dyn Fn(usize),
) -> Result<Calibration, SampleError> {
    if samples.is_empty() {
        return Err(SampleError::None);
    }
    let prepared = evaluator.prepare(graph)?;
    let sights = sights(graph);
    let mut calibration = Calibration { samples: samples.len(), ..Calibration::default() };
    let threads = rayon::current_num_threads().max(1);
    let indices: Vec<usize> = (0..samples.len()).collect();
    // Each thread keeps one set of histograms for its share of a chunk: their counts merge in any order.
    let shares: Vec<&[usize]> = indices.chunks(CHUNK.min(samples.len()).div_ceil(threads)).collect();
    let one = |share: &&[usize]| -> Result<Part, SampleError> {
        let mut part = Part::default();
        for &index in *share {
            let mut sums = Sums::new();
            let outputs = prepared.run(&samples.inputs(index)?, &mut |value, tensor| {
                observe(value, tensor, sights[value.index()], &mut part.histograms, &mut sums);
            })?;
            part.sums.push(sums);
            if keeps.contains(&index) {
                part.outputs.push((index, outputs));
            }
        }
        Ok(part)
    };
    fold_in_order(&shares, threads, one, |share, part| {
        for (value, histogram) in part.histograms {
            calibration.values.entry(value).or_default().histogram.merge(histogram);
        }
        for sums in part.sums {
            add_sums(&mut calibration, sums);
        }
        calibration.outputs.extend(part.outputs);
        done(share.len());
    })?;
    Ok(calibration)
}

/// How closely a value is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// Its extremes: a Relu alone reads it, which an engine makes one with the op before it
    Extremes,
    /// Its distribution, and means by channel
    Channels,
    /// These, and means by the last axis: a MatMul or Gemm reads it
    Rows,
}

/// How closely each value of `graph` is looked at, by [`ValueId::index`].
fn sights(graph: &Graph) -> Vec<Sight> {
    let mut sights = vec![Sight::Channels; graph.bound()];
    for id in graph.ops() {
        let op = graph.op(id);
        if op.is("MatMul") || op.is("Gemm") {
            op.inputs().iter().flatten().for_each(|input| sights[input.index()] = Sight::Rows);
        }
        if let [Some(output)] = op.outputs()
            && (op.is("Conv") || op.is("Gemm") || op.is("BatchNormalization"))
            && graph.only_use(*output).is_some_and(|(reader, _)| Relu::of(graph, reader).is_some())
        {
            sights[output.index()] = Sight::Extremes;
        }
    }
    sights
}

fn observe(
    value: ValueId,
    tensor: &Tensor,
    sight: Sight,
    histograms: &mut BTreeMap<ValueId, Histogram>,
    sums: &mut Sums,
) {
    if tensor.dtype() != DataType::Float || tensor.is_empty() {
        return;
    }
    let Some(numbers) = tensor.as_slice::<f32>() else { return };
    let histogram = histograms.entry(value).or_default();
    if sight == Sight::Extremes {
        histogram.add_extremes(&numbers);
        let dims = tensor.dims().to_vec();
        let (channel, last, largest) = (Vec::new(), Vec::new(), Vec::new());
        sums.insert(value, Shown { dims, channel, last, largest, count: numbers.len() });
        return;
    }
    histogram.add(&numbers);
    let dims = tensor.dims();
    let channels = if dims.len() >= 3 { dims[1] } else { 0 };
    let mut channel_sum = vec![0.0; channels];
    if channels > 0 {
        let inner: usize = dims[2..].iter().product();
        for block in numbers.chunks(inner * channels) {
            for (total, channel) in channel_sum.iter_mut().zip(block.chunks(inner)) {
                *total += sum(channel);
            }
        }
    }
    let last = dims.last().copied().unwrap_or(0);
    let (mut last_sum, mut largest) = (Vec::new(), Vec::new());
    if sight == Sight::Rows && (1..=8192).contains(&last) && (dims.len() <= 3 || last >= 16) {
        last_sum = vec![0.0; last];
        largest = vec![0.0; last];
        for row in numbers.chunks(last) {
            for ((sum, largest), &x) in last_sum.iter_mut().zip(&mut largest).zip(row) {
                *sum += f64::from(x);
                // (Not `max`, which drops NaN.)
                *largest = if x.abs() <= *largest { *largest } else { x.abs() };
            }
        }
    }
    let (dims, count) = (dims.to_vec(), numbers.len());
    sums.insert(value, Shown { dims, channel: channel_sum, last: last_sum, largest, count });
}

/// Σ x, in an order that does not depend on the processor.
fn sum(numbers: &[f32]) -> f64 {
    let (lanes, rest) = numbers.as_chunks::<8>();
    let mut sums = [0f64; 8];
    for lane in lanes {
        for (sum, &x) in sums.iter_mut().zip(lane) {
            *sum += f64::from(x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x)).sum::<f64>()
}

fn add_sums(calibration: &mut Calibration, sums: Sums) {
    for (value, shown) in sums {
        let observed = calibration.values.entry(value).or_default();
        observed.see_dims(&shown.dims);
        let each = |sums: &[f64]| (shown.count / sums.len().max(1)) as u64;
        observed.channel.add(&shown.channel, each(&shown.channel));
        observed.last.add(&shown.last, each(&shown.last));
        observed.largest.add(shown.largest);
    }
}
