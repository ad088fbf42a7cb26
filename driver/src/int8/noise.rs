//! How far each layer of a quantized model is from the float model's: with all before it in integers, and alone.
//!
//! **Never** takes the error that a layer only passes on for its own: alone it reads what the float model computes.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{DataType, Graph, Model, Prepared, Tensor, ValueId};
use onnx_shrink_passes::{SampleSource, analysis::units::Unit, samples::fold_in_order};

use super::{Calibrated, Quantized};
use crate::{
    Failure, Samples,
    plan::{Fate, Plan},
};

impl Calibrated<'_> {
    /// Integer units by the error that each adds itself, the worst first.
    pub fn worst(&self, quantized: &Quantized, plan: &Plan, samples: &Samples) -> Result<Vec<usize>, Failure> {
        let on: Vec<usize> =
            (0..self.units.units.len()).filter(|unit| plan.is_integer(self.units.units[*unit].op)).collect();
        let noise = self.noise(quantized.pairs.as_ref().unwrap_or(&quantized.model), samples, &on)?;
        let mut added: Vec<(f64, usize)> = on.into_iter().map(|unit| (noise.added(self, unit), unit)).collect();
        added.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(added.into_iter().map(|(_, unit)| unit).collect())
    }

    /// Fills in how far the output of each layer is from the float model's, where both have it under one name. Units that
    /// compute in integers and make less than `floor` (an SQNR in dB) of the float model's values, with what they make.
    pub fn measure_layers(
        &self,
        quantized: &mut Quantized,
        samples: &Samples,
        floor: f64,
    ) -> Result<BTreeMap<usize, f64>, Failure> {
        let weighted: Vec<usize> =
            (0..self.units.units.len()).filter(|unit| self.units.units[*unit].is_weighted()).collect();
        let noise = self.noise(quantized.pairs.as_ref().unwrap_or(&quantized.model), samples, &weighted)?;
        let graph = &self.folded.model.graph;
        let mut of_layer: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        let mut below: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for &index in &weighted {
            let unit = &self.units.units[index];
            let error = unit.outputs.iter().find_map(|output| noise.whole.get(graph.name_of(*output)));
            if let Some(error) = error.filter(|error| **error > 0.0) {
                of_layer.insert(graph.label_of(unit.op), (*error, noise.added(self, index).max(0.0)));
            }
            // Where the float model makes zeros there is nothing to be near to.
            let sqnr = noise.alone.get(&index).map(|error| -10.0 * error.log10());
            if let Some(sqnr) = sqnr.filter(|sqnr| (-NO_SIGNAL..floor).contains(sqnr)) {
                below.insert(graph.label_of(unit.op), (index, sqnr));
            }
        }
        let whole: f64 = of_layer.values().map(|(_, added)| added).sum();
        for layer in &mut quantized.layers {
            let found = of_layer.get(layer.name.as_str());
            layer.sqnr_db = found.map(|(error, _)| -10.0 * error.log10());
            layer.error_share = found.map(|(_, added)| if whole > 0.0 { added / whole } else { 0.0 });
        }
        let integer = quantized.layers.iter().filter(|layer| matches!(layer.fate, Fate::Integer | Fate::Dynamic));
        Ok(integer.filter_map(|layer| below.get(layer.name.as_str()).copied()).collect())
    }

    /// How far the values of `units` are from the float model's, where both models have them under one name. (They are held in
    /// memory, for one sample a thread.)
    fn noise(&self, quantized: &Model, samples: &Samples, units: &[usize]) -> Result<Noise, Failure> {
        let graph = &self.folded.model.graph;
        let values = edges_of(units.iter().map(|unit| &self.units.units[*unit]));
        let before = self.int8.evaluator.prepare(graph).map_err(Failure::bug)?;
        let after = self.int8.evaluator.prepare(&quantized.graph).map_err(Failure::bug)?;
        let alone = if units.len() <= ALONE { units } else { &[] };
        let one = |index: &usize| -> Result<Sums, Failure> {
            let inputs = samples.inputs(*index)?;
            let mut reference: BTreeMap<&str, Tensor> = BTreeMap::new();
            let mut keep = |value: ValueId, tensor: &Tensor| {
                let name = graph.name_of(value);
                if tensor.dtype() == DataType::Float && values.contains(&value) && quantized.graph.find(name).is_some()
                {
                    reference.insert(name, tensor.clone());
                }
            };
            before.run(&inputs, &mut keep).map_err(Failure::bug)?;
            let mut sums = Sums::default();
            let mut compare = |value: ValueId, tensor: &Tensor| {
                let name = quantized.graph.name_of(value);
                if let Some(found) = reference.get(name).and_then(|expected| squares_of(expected, tensor)) {
                    sums.whole.insert(name.to_owned(), found);
                }
            };
            after.run(&inputs, &mut compare).map_err(Failure::bug)?;
            for &unit in alone {
                if let Some(found) = self.alone(unit, &quantized.graph, after.as_ref(), &reference) {
                    sums.alone.insert(unit, found);
                }
            }
            Ok(sums)
        };
        let dims = values.iter().filter_map(|value| self.calibration.values.get(value)).map(|seen| &seen.dims);
        let numbers = dims.map(|dims| dims.iter().product::<usize>()).sum::<usize>().max(1);
        let enough = NOISE_NUMBERS.div_ceil(numbers).clamp(NOISE_LEAST, NOISE_SAMPLES);
        let indices: Vec<usize> = (0..samples.len().min(enough)).collect();
        let mut all = Sums::default();
        fold_in_order(&indices, NOISE_SAMPLES, one, |_, one| {
            one.whole.into_iter().for_each(|(name, sum)| add(all.whole.entry(name).or_default(), sum));
            one.alone.into_iter().for_each(|(unit, sum)| add(all.alone.entry(unit).or_default(), sum));
        })?;
        let relative = |(error, signal): (f64, f64)| error / signal.max(f64::MIN_POSITIVE);
        Ok(Noise {
            whole: all.whole.into_iter().map(|(name, sum)| (name, relative(sum))).collect(),
            alone: all.alone.into_iter().map(|(unit, sum)| (unit, relative(sum))).collect(),
        })
    }

    /// Squared error and signal of the first output of `unit` in the graph `quantized` when it reads what the float model
    /// computes; `None` when what it reads or makes is not there under its name.
    fn alone(
        &self,
        unit: usize,
        quantized: &Graph,
        prepared: &dyn Prepared,
        reference: &BTreeMap<&str, Tensor>,
    ) -> Option<(f64, f64)> {
        let graph = &self.folded.model.graph;
        let unit = &self.units.units[unit];
        let inputs = unit.inputs.iter().filter(|(_, value)| graph.constant(*value).is_none());
        let given = inputs.map(|(_, value)| {
            let name = graph.name_of(*value);
            Some((quantized.find(name)?, reference.get(name)?.clone()))
        });
        let given: Vec<(ValueId, Tensor)> = given.collect::<Option<_>>()?;
        let name = graph.name_of(*unit.outputs.first()?);
        let made = prepared.run_part(&given, &[quantized.find(name)?]).ok()?;
        squares_of(reference.get(name)?, made.first()?)
    }
}

/// Sums of squared errors and of squared numbers.
#[derive(Default)]
struct Sums {
    /// By the name of the value
    whole: BTreeMap<String, (f64, f64)>,
    /// By unit
    alone: BTreeMap<usize, (f64, f64)>,
}

/// Relative squared errors.
struct Noise {
    /// Of values, with all that is before them in integers, by name
    whole: BTreeMap<String, f64>,
    /// Of what a unit makes of the float model's values
    alone: BTreeMap<usize, f64>,
}

impl Noise {
    /// What `unit` adds itself; where it was not run alone, what the error of its output is beyond that of its inputs.
    fn added(&self, calibrated: &Calibrated<'_>, unit: usize) -> f64 {
        if let Some(alone) = self.alone.get(&unit) {
            return *alone;
        }
        let unit = &calibrated.units.units[unit];
        let of = |value: ValueId| self.whole.get(calibrated.folded.model.graph.name_of(value)).copied().unwrap_or(0.0);
        let before = unit.inputs.iter().map(|(_, value)| of(*value)).fold(0.0, f64::max);
        unit.outputs.iter().map(|value| of(*value)).fold(0.0, f64::max) - before
    }
}

fn add(sum: &mut (f64, f64), other: (f64, f64)) {
    *sum = (sum.0 + other.0, sum.1 + other.1);
}

/// Squared error and signal of two float tensors; `None` when they are something else.
fn squares_of(expected: &Tensor, found: &Tensor) -> Option<(f64, f64)> {
    let fit = expected.dims() == found.dims();
    Some(squares(&expected.as_slice::<f32>().filter(|_| fit)?, &found.as_slice::<f32>()?))
}

/// An SQNR below the negative of this, in dB, is one of nothing.
const NO_SIGNAL: f64 = 60.0;

/// Units that are run alone, at most: each looks for its ops in the whole graph.
const ALONE: usize = 512;

/// Values that `units` read and make.
fn edges_of<'u>(units: impl Iterator<Item = &'u Unit>) -> BTreeSet<ValueId> {
    units.flat_map(|unit| unit.inputs.iter().map(|input| input.1).chain(unit.outputs.iter().copied())).collect()
}

/// Samples that tell how far each value is off, at most and at least, and numbers that are enough.
const NOISE_SAMPLES: usize = 4;
const NOISE_LEAST: usize = 2;
const NOISE_NUMBERS: usize = 1 << 20;

/// Σ(b − a)² and Σa², in an order that does not depend on the processor.
pub(crate) fn squares(a: &[f32], b: &[f32]) -> (f64, f64) {
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
