//! Takes channels out of a graph: rows and columns of constants, and every place that states how many there are.
//!
//! What is left computes what the original computes when the channels that went are zero wherever a weighted op sums over
//! them. **Never** removes a frozen unit, all channels of a value, or anything of a constant beyond the channels.
use std::collections::BTreeSet;

use ndarray::Axis;
use onnx_shrink_ir::{
    DataType, Dim, Graph, NewOp, OpId, Patch, Tensor, TensorType, ValueId, attributes,
    ops::{Conv, ConvTranspose},
};

use super::groups::{Adjust, Groups, Unit};
use crate::Miss;

impl Groups {
    /// The edits that take the units `gone` out of `graph`; `None` when none of them is in it.
    ///
    /// # Errors
    /// When a unit is frozen, a value would be left without channels, or a constant cannot be cut.
    pub fn remove(&self, graph: &Graph, gone: &BTreeSet<Unit>) -> Result<Option<Patch>, Miss> {
        if let Some(reason) = gone.iter().find_map(|unit| self.reason(*unit)) {
            return Err(Miss::Kept(reason.to_owned()));
        }
        let is_gone = |unit: &Unit| gone.contains(unit);
        let Some(anchor) = self.anchor(graph, gone) else { return Ok(None) };
        let mut patch = Patch::new(anchor);
        for (&value, axes) in &self.axes {
            if !axes.iter().flatten().flatten().any(is_gone) {
                continue;
            }
            let kept = |units: &Option<Vec<Unit>>| {
                units.as_ref().map(|units| (0..units.len()).filter(|&k| !gone.contains(&units[k])).collect::<Vec<_>>())
            };
            let kept: Vec<Option<Vec<usize>>> = axes.iter().map(kept).collect();
            if kept.iter().flatten().any(Vec::is_empty) {
                return Err(Miss::Form("a value would be left without channels"));
            }
            if graph.constant(value).is_some() {
                patch.set_constant(value, cut(graph, value, &kept)?);
            } else if let Some(ty) = graph.ty(value) {
                patch.set_type(value, narrowed(ty, &kept));
            }
        }
        for adjust in &self.adjust {
            self.adjust(graph, adjust, gone, &mut patch)?;
        }
        Ok(Some(patch))
    }

    /// The edits after which weighted ops see zeros in place of the channels `gone`: what [`Groups::remove`] must equal.
    ///
    /// # Errors
    /// When weights are no numbers.
    pub fn mask(&self, graph: &Graph, gone: &BTreeSet<Unit>) -> Result<Option<Patch>, Miss> {
        let Some(anchor) = self.anchor(graph, gone) else { return Ok(None) };
        let mut patch = Patch::new(anchor);
        let weights: BTreeSet<(ValueId, usize)> =
            self.consumers.iter().map(|consumer| (consumer.weight, consumer.weight_axis)).collect();
        for (weight, axis) in weights {
            let units = self.units_along(weight, axis);
            let tensor = graph.constant(weight).ok_or(Miss::NotConstant(weight))?;
            let mut numbers = tensor.to_f64().ok_or(Miss::UnknownType(weight))?;
            for (place, _) in units.iter().enumerate().filter(|(_, unit)| gone.contains(unit)) {
                numbers.index_axis_mut(Axis(axis), place).fill(0.0);
            }
            let zeroed = Tensor::from_f64(tensor.dtype(), &numbers).ok_or(Miss::UnknownType(weight))?;
            patch.set_constant(weight, zeroed);
        }
        Ok(Some(patch))
    }

    /// The first op that makes one of the units.
    fn anchor(&self, graph: &Graph, gone: &BTreeSet<Unit>) -> Option<OpId> {
        let group = self.groups.iter().find(|group| group.units.iter().any(|unit| gone.contains(unit)))?;
        let makes = |op: &&OpId| {
            let outputs = graph.op(**op).outputs().iter().flatten();
            outputs.filter_map(|output| self.axes.get(output)).flatten().flatten().flatten().any(|u| gone.contains(u))
        };
        group.producers.iter().find(makes).copied()
    }

    fn adjust(&self, graph: &Graph, adjust: &Adjust, gone: &BTreeSet<Unit>, patch: &mut Patch) -> Result<(), Miss> {
        let count = |labels: &[Unit]| labels.iter().filter(|unit| !gone.contains(unit)).count();
        let changed = |labels: &[Unit]| count(labels) != labels.len();
        match adjust {
            Adjust::Groups { op, labels } if changed(labels) => {
                let group = count(labels) as i64;
                let node = match (Conv::of(graph, *op), ConvTranspose::of(graph, *op)) {
                    (Some(conv), _) => Conv { group, ..conv }.to_op(),
                    (None, Some(conv)) => ConvTranspose { group, ..conv }.to_op(),
                    (None, None) => return Err(Miss::Form("a convolution that is not understood")),
                };
                patch.set_node(*op, node);
            }
            Adjust::Shape { op, input, entries } if entries.iter().any(|(_, labels)| changed(labels)) => {
                let shape = graph.op(*op).input(*input).ok_or(Miss::Form("a shape that is left out"))?;
                let tensor = graph.constant(shape).and_then(Tensor::to_i64_vec).ok_or(Miss::NotConstant(shape))?;
                let mut dims = tensor;
                for (place, labels) in entries {
                    if let Some(dim) = dims.get_mut(*place).filter(|dim| **dim > 0) {
                        *dim = count(labels) as i64;
                    }
                }
                let new = patch.constant(graph.name_of(shape), list(&dims));
                patch.set_input(*op, *input, Some(new));
            }
            Adjust::Split { op, parts } if parts.iter().any(|part| changed(part)) => {
                let sizes: Vec<i64> = parts.iter().map(|part| count(part) as i64).collect();
                let mut node = graph.op(*op).proto().clone();
                node.attribute.retain(|attribute| !matches!(attribute.name(), "split" | "num_outputs"));
                if graph.opset() < 13 {
                    node.attribute.push(attributes::ints("split", &sizes));
                } else {
                    let base = format!("{}_split", graph.label_of(*op));
                    let new = patch.constant(&base, list(&sizes));
                    patch.set_input(*op, 1, Some(new));
                }
                patch.set_node(*op, NewOp { node });
            }
            Adjust::Slice { op, place, labels, from, to } if changed(labels) => {
                let (start, end) = (count(&labels[..*from]) as i64, count(&labels[..*to]) as i64);
                self.slice(graph, *op, *place, (start, end), patch)?;
            }
            Adjust::Gather { op, labels, indices } if changed(labels) => {
                let kept = indices.iter().filter(|&&index| !gone.contains(&labels[index]));
                let places: Vec<i64> = kept.map(|&index| count(&labels[..index]) as i64).collect();
                let old = graph.op(*op).input(1).ok_or(Miss::Form("a Gather without indices"))?;
                let narrow = graph.ty(old).is_some_and(|ty| ty.dtype == DataType::Int32);
                let tensor = if narrow {
                    Tensor::from_vec(&[places.len()], places.iter().map(|&place| place as i32).collect())
                } else {
                    list(&places)
                };
                let new = patch.constant(graph.name_of(old), tensor);
                patch.set_input(*op, 1, Some(new));
            }
            _ => {}
        }
        Ok(())
    }

    /// Entry `place` of a Slice runs from the first of `bounds` to before the second.
    fn slice(&self, graph: &Graph, op: OpId, place: usize, bounds: (i64, i64), patch: &mut Patch) -> Result<(), Miss> {
        let node = graph.op(op);
        if graph.opset() < 10 {
            let mut proto = node.proto().clone();
            for (name, bound) in [("starts", bounds.0), ("ends", bounds.1)] {
                let attribute = proto.attribute.iter_mut().find(|attribute| attribute.name() == name);
                *attribute.and_then(|a| a.ints.get_mut(place)).ok_or(Miss::Form("a Slice without bounds"))? = bound;
            }
            patch.set_node(op, NewOp { node: proto });
            return Ok(());
        }
        for (index, bound) in [(1, bounds.0), (2, bounds.1)] {
            let old = node.input(index).ok_or(Miss::Form("a Slice without bounds"))?;
            let tensor = graph.constant(old).ok_or(Miss::NotConstant(old))?;
            let mut numbers = tensor.to_f64().ok_or(Miss::NotConstant(old))?;
            *numbers.iter_mut().nth(place).ok_or(Miss::Form("a Slice without bounds"))? = bound as f64;
            let tensor = Tensor::from_f64(tensor.dtype(), &numbers).ok_or(Miss::NotConstant(old))?;
            let new = patch.constant(graph.name_of(old), tensor);
            patch.set_input(op, index, Some(new));
        }
        Ok(())
    }
}

fn list(numbers: &[i64]) -> Tensor {
    Tensor::from_vec(&[numbers.len()], numbers.to_vec())
}

/// The constant `value` with these positions along each axis.
fn cut(graph: &Graph, value: ValueId, kept: &[Option<Vec<usize>>]) -> Result<Tensor, Miss> {
    let tensor = graph.constant(value).ok_or(Miss::NotConstant(value))?;
    let mut numbers = tensor.to_f64().ok_or(Miss::UnknownType(value))?;
    for (axis, places) in kept.iter().enumerate() {
        if let Some(places) = places.as_ref().filter(|places| Some(&places.len()) != numbers.shape().get(axis)) {
            numbers = numbers.select(Axis(axis), places);
        }
    }
    Tensor::from_f64(tensor.dtype(), &numbers).ok_or(Miss::UnknownType(value))
}

fn narrowed(ty: &TensorType, kept: &[Option<Vec<usize>>]) -> TensorType {
    let mut ty = ty.clone();
    for (dim, places) in ty.shape.iter_mut().flatten().zip(kept) {
        if let Some(places) = places {
            *dim = Dim::Known(places.len());
        }
    }
    ty
}
