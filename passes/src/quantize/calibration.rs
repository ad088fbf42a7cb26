//! Calibration: one streaming pass over the samples that sees every float value of the main graph.
//!
//! Counts do not depend on order; sums are added up in the order of the samples: the same result for any number of
//! threads. Memory does not grow with the number of samples.
use std::collections::BTreeMap;

use onnx_shrink_ir::{DataType, Evaluate, EvaluateError, Graph, Tensor, ValueId};
use rayon::prelude::*;

use crate::quantize::histogram::Histogram;

/// Where samples come from.
pub trait SampleSource: Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inputs of sample `index` in the order of the graph's inputs; `None` takes the input's default.
    fn inputs(&self, index: usize) -> Result<Vec<Option<Tensor>>, String>;
}

/// What calibration saw of one value.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Its dimensions in the first sample
    pub dims: Vec<usize>,
    /// All its numbers
    pub histogram: Histogram,
    /// Sum per position of axis 1 (rank 3 and more)
    channel_sum: Vec<f64>,
    /// Sum per position of the last axis
    last_sum: Vec<f64>,
    /// Numbers per position of axis 1, and of the last axis
    channel_count: f64,
    last_count: f64,
}

impl Observed {
    /// What a rule tells of a value instead of samples: its range, and its means along axis 1.
    pub fn told(dims: Vec<usize>, (low, high): (f32, f32), means: Option<Vec<f64>>) -> Observed {
        let mut observed = Observed { dims, ..Observed::default() };
        observed.histogram.add(&[low, high]);
        let means = means.unwrap_or_default();
        match observed.dims.len() {
            2 => (observed.last_sum, observed.last_count) = (means, 1.0),
            _ => (observed.channel_sum, observed.channel_count) = (means, 1.0),
        }
        observed
    }

    /// Mean per channel (axis 1) of a value of rank 3 or more; empty when it cannot be told.
    pub fn channel_mean(&self) -> Vec<f64> {
        self.channel_sum.iter().map(|sum| sum / self.channel_count.max(1.0)).collect()
    }

    /// Mean per position of the last axis; empty when it cannot be told.
    pub fn last_axis_mean(&self) -> Vec<f64> {
        self.last_sum.iter().map(|sum| sum / self.last_count.max(1.0)).collect()
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
}

/// Why calibration ended.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A sample that cannot be read
    #[error("{0}")]
    Sample(String),
    /// The model does not run on it
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// No sample at all
    #[error("there are no samples to calibrate with")]
    Empty,
}

/// Sums of one sample: per value, along axis 1 and along the last axis.
type Sums = BTreeMap<ValueId, (Vec<f64>, Vec<f64>, usize)>;

/// What one thread saw of its share: counts of all its samples, and the sums of each.
type Part = (BTreeMap<ValueId, Histogram>, Vec<Sums>);

/// Samples whose sums are held before they are added up in order.
const CHUNK: usize = 16;

/// Runs `graph` on all of `samples` and keeps what it saw; `done` is called after each few samples with their number.
pub fn calibrate(
    graph: &Graph,
    evaluator: &dyn Evaluate,
    samples: &dyn SampleSource,
    done: &dyn Fn(usize),
) -> Result<Calibration, CalibrationError> {
    if samples.is_empty() {
        return Err(CalibrationError::Empty);
    }
    let prepared = evaluator.prepare(graph)?;
    let mut calibration = Calibration { samples: samples.len(), ..Calibration::default() };
    let indices: Vec<usize> = (0..samples.len()).collect();
    for chunk in indices.chunks(CHUNK) {
        // Each thread keeps one set of histograms for its share of the chunk: their counts merge in any order.
        let share = chunk.len().div_ceil(rayon::current_num_threads().max(1));
        let parts: Vec<Result<Part, CalibrationError>> = chunk
            .par_chunks(share)
            .map(|indices| {
                let mut histograms: BTreeMap<ValueId, Histogram> = BTreeMap::new();
                let mut all = Vec::with_capacity(indices.len());
                for &index in indices {
                    let inputs = samples.inputs(index).map_err(CalibrationError::Sample)?;
                    let mut sums = Sums::new();
                    prepared.run(&inputs, &mut |value, tensor| observe(value, tensor, &mut histograms, &mut sums))?;
                    all.push(sums);
                }
                Ok((histograms, all))
            })
            .collect();
        for part in parts {
            let (histograms, all) = part?;
            for (value, histogram) in histograms {
                calibration.values.entry(value).or_default().histogram.merge(histogram);
            }
            for sums in all {
                add_sums(&mut calibration, sums);
            }
        }
        done(chunk.len());
    }
    // Dimensions of the first sample: they are the shapes that costs are computed with.
    let inputs = samples.inputs(0).map_err(CalibrationError::Sample)?;
    prepared.run(&inputs, &mut |value, tensor| {
        if let Some(observed) = calibration.values.get_mut(&value) {
            observed.dims = tensor.dims().to_vec();
        }
    })?;
    Ok(calibration)
}

fn observe(value: ValueId, tensor: &Tensor, histograms: &mut BTreeMap<ValueId, Histogram>, sums: &mut Sums) {
    if tensor.dtype() != DataType::Float || tensor.is_empty() {
        return;
    }
    let Some(numbers) = tensor.as_slice::<f32>() else { return };
    histograms.entry(value).or_default().add(&numbers);
    let dims = tensor.dims();
    let channels = if dims.len() >= 3 { dims[1] } else { 0 };
    let mut channel_sum = vec![0.0; channels];
    if channels > 0 {
        let inner: usize = dims[2..].iter().product();
        for (index, block) in numbers.chunks(inner).enumerate() {
            channel_sum[index % channels] += block.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
    }
    let last = dims.last().copied().unwrap_or(0);
    let mut last_sum = vec![0.0; if last <= 8192 { last } else { 0 }];
    if !last_sum.is_empty() && (dims.len() <= 3 || last >= 16) {
        for row in numbers.chunks(last) {
            for (sum, &x) in last_sum.iter_mut().zip(row) {
                *sum += f64::from(x);
            }
        }
    } else {
        last_sum.clear();
    }
    sums.insert(value, (channel_sum, last_sum, numbers.len()));
}

fn add_sums(calibration: &mut Calibration, sums: Sums) {
    for (value, (channel, last, count)) in sums {
        let observed = calibration.values.entry(value).or_default();
        // A length that changes between samples (a free axis) has no mean per position.
        add_axis(&mut observed.channel_sum, &mut observed.channel_count, &channel, count);
        add_axis(&mut observed.last_sum, &mut observed.last_count, &last, count);
    }
}

fn add_axis(total: &mut Vec<f64>, numbers: &mut f64, sums: &[f64], count: usize) {
    if *numbers == 0.0 {
        *total = vec![0.0; sums.len()];
    }
    if total.len() != sums.len() || sums.is_empty() {
        total.clear();
        *numbers = f64::MIN_POSITIVE; // seen, and given up
        return;
    }
    for (total, sum) in total.iter_mut().zip(sums) {
        *total += sum;
    }
    *numbers += (count / sums.len()) as f64;
}
