//! How much each layer adds to the error.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{DataType, Model, Tensor, ValueId};
use onnx_shrink_passes::quantize::{place::Placement, units::Unit};
use rayon::prelude::*;

use super::{Calibrated, Quantized};
use crate::{Failure, Samples};

impl Calibrated<'_> {
    /// Integer units by the error that each adds to the values, the worst first.
    pub fn worst(
        &self,
        quantized: &Quantized,
        placement: &Placement,
        samples: &Samples,
    ) -> Result<Vec<usize>, Failure> {
        let on = self.units.units.iter().enumerate().filter(|(index, _)| placement.integer[*index]);
        let edges = edges_of(on.clone().map(|(_, unit)| unit));
        let noise = self.noise(quantized.pairs.as_ref().unwrap_or(&quantized.model), samples, &edges)?;
        let mut added: Vec<(f64, usize)> = on.map(|(index, unit)| (self.added(&noise, unit), index)).collect();
        added.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(added.into_iter().map(|(_, unit)| unit).collect())
    }

    /// Fills in how far the output of each layer is from the float model's, where both have it under one name.
    pub fn measure_layers(&self, quantized: &mut Quantized, samples: &Samples) -> Result<(), Failure> {
        let edges = edges_of(self.units.units.iter().filter(|unit| unit.is_weighted()));
        let noise = self.noise(quantized.pairs.as_ref().unwrap_or(&quantized.model), samples, &edges)?;
        let graph = &self.model.graph;
        let mut of_layer: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for unit in self.units.units.iter().filter(|unit| unit.is_weighted()) {
            let error = unit.outputs.iter().find_map(|output| noise.get(graph.name_of(*output)));
            if let Some(error) = error.filter(|error| **error > 0.0) {
                of_layer.insert(graph.label_of(unit.op), (*error, self.added(&noise, unit).max(0.0)));
            }
        }
        let whole: f64 = of_layer.values().map(|(_, added)| added).sum();
        for layer in &mut quantized.layers {
            let found = of_layer.get(layer.name.as_str());
            layer.sqnr_db = found.map(|(error, _)| -10.0 * error.log10());
            layer.error_share = found.map(|(_, added)| if whole > 0.0 { added / whole } else { 0.0 });
        }
        Ok(())
    }

    /// Relative squared error of the outputs of `unit` beyond that of its inputs.
    fn added(&self, noise: &BTreeMap<String, f64>, unit: &Unit) -> f64 {
        let of = |value: ValueId| noise.get(self.model.graph.name_of(value)).copied().unwrap_or(0.0);
        let before = unit.inputs.iter().map(|(_, value)| of(*value)).fold(0.0, f64::max);
        let after = unit.outputs.iter().map(|value| of(*value)).fold(0.0, f64::max);
        after - before
    }

    /// Relative squared error of those of `values` that both models have under one name. (They are held in memory, for one
    /// sample a thread.)
    fn noise(
        &self,
        quantized: &Model,
        samples: &Samples,
        values: &BTreeSet<ValueId>,
    ) -> Result<BTreeMap<String, f64>, Failure> {
        let graph = &self.model.graph;
        let before = self.int8.evaluator.prepare(graph).map_err(Failure::bug)?;
        let after = self.int8.evaluator.prepare(&quantized.graph).map_err(Failure::bug)?;
        let one = |index: usize| -> Result<BTreeMap<String, (f64, f64)>, Failure> {
            let inputs = samples.get(index).map_err(Failure::samples)?.inputs;
            let mut reference: BTreeMap<&str, Tensor> = BTreeMap::new();
            let mut keep = |value: ValueId, tensor: &Tensor| {
                let name = graph.name_of(value);
                if tensor.dtype() == DataType::Float && values.contains(&value) && quantized.graph.find(name).is_some()
                {
                    reference.insert(name, tensor.clone());
                }
            };
            before.run(&inputs, &mut keep).map_err(Failure::bug)?;
            let mut sums = BTreeMap::new();
            let mut compare = |value: ValueId, tensor: &Tensor| {
                let name = quantized.graph.name_of(value);
                let Some(expected) = reference.remove(name).filter(|expected| expected.dims() == tensor.dims()) else {
                    return;
                };
                if let (Some(a), Some(b)) = (expected.as_slice::<f32>(), tensor.as_slice::<f32>()) {
                    sums.insert(name.to_owned(), squares(&a, &b));
                }
            };
            after.run(&inputs, &mut compare).map_err(Failure::bug)?;
            Ok(sums)
        };
        let dims = values.iter().filter_map(|value| self.calibration.values.get(value)).map(|seen| &seen.dims);
        let numbers = dims.map(|dims| dims.iter().product::<usize>()).sum::<usize>().max(1);
        let enough = NOISE_NUMBERS.div_ceil(numbers).clamp(NOISE_LEAST, NOISE_SAMPLES);
        let indices: Vec<usize> = (0..samples.len().min(enough)).collect();
        let ones: Vec<Result<_, Failure>> = indices.par_iter().map(|&index| one(index)).collect();
        let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for one in ones {
            for (name, (error, signal)) in one? {
                let sum = sums.entry(name).or_default();
                *sum = (sum.0 + error, sum.1 + signal);
            }
        }
        Ok(sums.into_iter().map(|(name, (error, signal))| (name, error / signal.max(f64::MIN_POSITIVE))).collect())
    }
}

/// Values that `units` read and make.
fn edges_of<'u>(units: impl Iterator<Item = &'u Unit>) -> BTreeSet<ValueId> {
    units.flat_map(|unit| unit.inputs.iter().map(|input| input.1).chain(unit.outputs.iter().copied())).collect()
}

/// Samples that tell how far each value is off, at most and at least, and numbers that are enough.
const NOISE_SAMPLES: usize = 4;
const NOISE_LEAST: usize = 2;
const NOISE_NUMBERS: usize = 1 << 20;

/// Σ(b − a)² and Σa², in an order that does not depend on the processor.
pub(super) fn squares(a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut error, mut signal) = ([0f64; 4], [0f64; 4]);
    let count = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..count].as_chunks::<4>(), b[..count].as_chunks::<4>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..4 {
            let (a, b) = (f64::from(a[lane]), f64::from(b[lane]));
            error[lane] += (b - a) * (b - a);
            signal[lane] += a * a;
        }
    }
    let sum = (error.into_iter().sum::<f64>(), signal.into_iter().sum::<f64>());
    a_rest.iter().zip(b_rest).fold(sum, |(error, signal), (&a, &b)| {
        let (a, b) = (f64::from(a), f64::from(b));
        (error + (b - a) * (b - a), signal + a * a)
    })
}
