//! Ops that make tensors, and ops whose result is as long as its data say.
use rten_shape_inference::{SymExpr, SymTensor, ops};

use super::{
    layout,
    node::{Node, constant_op, resolve},
    outputs::{Outputs, scalar},
    symbols::{self, MAX_RANK, MAX_VALUES},
};
use crate::types::DataType;

/// ConstantOfShape; its elements are followed when they are integers and few.
pub(super) fn constant_of_shape(node: &mut Node<'_>) -> Outputs {
    let sizes = node.input(0)?.values();
    if sizes.is_some_and(|sizes| sizes.len() > MAX_RANK) {
        return None;
    }
    let few = match sizes {
        Some([SymExpr::Value(count)]) => usize::try_from(*count).is_ok_and(|count| count <= MAX_VALUES),
        Some([]) => true,
        _ => false,
    };
    let value = node.op.tensor("value").filter(|value| matches!(value.dtype(), DataType::Int64 | DataType::Int32));
    let value = value.filter(|_| few).and_then(|value| i32::try_from(*value.to_i64_vec()?.first()?).ok());
    node.as_is(&ops::ConstantOfShape { value })
}

pub(super) fn constant(node: &mut Node<'_>) -> Outputs {
    if let Some(tensor) = constant_op(node.op) {
        return Some(vec![symbols::from_constant(&tensor, node.symbols)]);
    }
    if node.op.attribute("value_string").is_some() {
        return Some(vec![scalar()]);
    }
    if let Some(strings) = node.op.attribute("value_strings") {
        return Some(vec![SymTensor::from_shape(vec![layout::small(i64::try_from(strings.strings.len()).ok()?)?])]);
    }
    let sparse = node.op.attribute("sparse_value")?.sparse_tensor.as_ref()?;
    let dims: Option<Vec<_>> = sparse.dims.iter().map(|&size| layout::small(size)).collect();
    Some(vec![SymTensor::from_shape(dims?)])
}

/// Range; of floats only where the bounds are whole numbers, so that no rounding is involved.
pub(super) fn range(node: &mut Node<'_>) -> Outputs {
    if node.dtype(0).is_some_and(DataType::is_float) {
        let bound = |index: usize| {
            let number = node.constant(index)?.to_scalar_f64()?;
            (number.fract() == 0.0 && number.abs() < 16_777_216.0).then_some(number as i64)
        };
        let length = match (bound(0), bound(1), bound(2)) {
            (Some(start), Some(limit), Some(delta)) if delta != 0 => {
                let (span, step) = if delta > 0 { (limit - start, delta) } else { (start - limit, -delta) };
                layout::small(if span <= 0 { 0 } else { (span - 1) / step + 1 })?
            }
            _ => node.symbols.gen_positive(),
        };
        return Some(vec![SymTensor::from_shape(vec![length])]);
    }
    if (0..3).any(|index| node.input(index).and_then(SymTensor::values).is_some_and(<[SymExpr]>::is_empty)) {
        return None;
    }
    node.as_is(&ops::Range)
}

/// Compress and Unique, which keep an unknown number of slices.
pub(super) fn selected(node: &mut Node<'_>) -> Outputs {
    let count = node.symbols.gen_positive();
    let list = SymTensor::from_shape(vec![count.clone()]);
    let data = match node.op.int("axis") {
        None => list.clone(),
        Some(axis) => {
            let mut dims = node.shape(0)?;
            let axis = resolve(axis, dims.len())?;
            dims[axis] = count;
            SymTensor::from_shape(dims)
        }
    };
    let inverse = SymTensor::from_shape(vec![node.symbols.gen_positive()]);
    Some(vec![data, list.clone(), inverse, list])
}
