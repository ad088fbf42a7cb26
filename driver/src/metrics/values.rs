//! Values inside of two models, compared where both have them under one name.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Graph, Prepared, Tensor, ValueId};
use onnx_shrink_passes::samples::fold_in_order;

use super::{CompareError, OutputMetrics, Which, kind::Kind, sums::Measured};
use crate::{Samples, progress::Stage};

/// Runs two models, each with its graph, on every sample and compares the values that ops of both main graphs make under one
/// name and as one type, in the order of the first model. Values that both have, but never as one type and shape, are left
/// out. Holds the values of one sample per thread.
pub fn compare_values(
    models: [(&Graph, &dyn Prepared); 2],
    samples: &Samples,
    stage: &dyn Stage,
) -> Result<Vec<OutputMetrics>, CompareError> {
    let [(before, first), (after, second)] = models;
    let common: Vec<(ValueId, ValueId)> = before
        .ops()
        .into_iter()
        .flat_map(|op| before.op(op).outputs().iter().flatten().copied().collect::<Vec<_>>())
        .filter_map(|value| {
            let other = after.find(before.name_of(value))?;
            after.producer(other).map(|_| (value, other))
        })
        .collect();
    let place: BTreeMap<ValueId, usize> =
        common.iter().enumerate().map(|(place, (value, _))| (*value, place)).collect();
    let other_place: BTreeMap<ValueId, usize> =
        common.iter().enumerate().map(|(place, (_, value))| (*value, place)).collect();
    let one = |index: &usize| -> Result<_, CompareError> {
        let sample = samples.get(*index)?;
        let failed = |model| {
            let sample = sample.name.clone();
            move |source| CompareError::Run { sample, model, source }
        };
        let mut kept: BTreeMap<usize, Tensor> = BTreeMap::new();
        let keep = &mut |value, tensor: &Tensor| {
            if let Some(place) = place.get(&value) {
                kept.insert(*place, tensor.clone());
            }
        };
        first.run(&sample.inputs, keep).map_err(failed(Which::Original))?;
        let mut sums: BTreeMap<usize, Measured> = BTreeMap::new();
        let compare = &mut |value, tensor: &Tensor| {
            let Some(place) = other_place.get(&value) else { return };
            if let Some(expected) = kept.remove(place)
                && expected.dtype() == tensor.dtype()
            {
                sums.insert(*place, Measured::of(&expected, tensor, false));
            }
        };
        second.run(&sample.inputs, compare).map_err(failed(Which::New))?;
        stage.advance(1);
        Ok(sums)
    };
    let mut totals: BTreeMap<usize, Measured> = BTreeMap::new();
    let indices: Vec<usize> = (0..samples.len()).collect();
    fold_in_order(&indices, rayon::current_num_threads(), one, |_, sums| {
        for (place, sum) in sums {
            totals.entry(place).or_default().add(&sum);
        }
    })?;
    let (metrics, kind) = (totals.iter(), Kind::default());
    let metrics = metrics.map(|(&place, sums)| OutputMetrics::new(before.name_of(common[place].0), &kind, sums));
    Ok(metrics.collect())
}
