//! Broadcasting, reductions, matrix products, normalization, recurrent nets.
use rten_shape_inference::{BinaryOp, ReductionOp, SymExpr, SymTensor, ops};

use super::{
    layout,
    node::{Axes, Node, resolve},
    outputs::{Outputs, same},
    symbols,
};

pub(super) fn broadcast(node: &mut Node<'_>, inputs: std::ops::Range<usize>) -> Outputs {
    let inputs: Option<Vec<SymTensor>> = inputs.map(|index| node.input(index).cloned()).collect();
    broadcast_all(node, &inputs?)
}

/// The common shape of `inputs`, step by step, so that no expression becomes deep.
pub(super) fn broadcast_all(node: &mut Node<'_>, inputs: &[SymTensor]) -> Outputs {
    let mut result = symbols::shape_only(inputs.first()?.clone());
    for input in &inputs[1..] {
        let (a, b) = (without_bounds(&result, input), without_bounds(input, &result));
        let wide = node.by(&BinaryOp, vec![Some(a), Some(b)])?.pop()?;
        result = symbols::tame(wide, node.symbols);
    }
    Some(vec![result])
}

/// The shape of `a`, with min(x, number) replaced by x where it meets x in `b`: were the number less than x, it would have
/// to be 1, and the result would be x all the same. So a table of 512 places, cut to a length, takes that length's name.
pub(super) fn without_bounds(a: &SymTensor, b: &SymTensor) -> SymTensor {
    let (Some(dims), Some(others)) = (a.shape(), b.shape()) else { return symbols::shape_only(a.clone()) };
    let (rank, count) = (dims.len(), others.len());
    let others: Vec<SymExpr> = others.collect();
    let dims = dims.enumerate().map(|(index, size)| {
        let other = (index + count).checked_sub(rank).and_then(|place| others.get(place));
        match (&size, other) {
            (SymExpr::Min(x, y), Some(other)) => match (&**x, &**y) {
                (SymExpr::Value(bound), x) | (x, SymExpr::Value(bound)) if *bound >= 1 && x == other => x.clone(),
                _ => size,
            },
            _ => size,
        }
    });
    SymTensor::from_shape(dims.collect())
}

pub(super) fn reduced(node: &mut Node<'_>, axes: Axes) -> Outputs {
    let keep_dims = node.int_or("keepdims", 1) != 0;
    let rank = node.rank(0)?;
    let axes: Option<Vec<i32>> = match axes {
        Axes::Absent => None,
        Axes::Known(axes) if axes.is_empty() => None,
        Axes::Known(axes) => Some(axes.iter().map(|&axis| i32::try_from(axis).ok()).collect::<Option<_>>()?),
        Axes::Unknown if keep_dims => return Some(vec![SymTensor::from_shape(node.symbols.gen_shape(rank))]),
        Axes::Unknown => return None,
    };
    if axes.is_none() && node.int_or("noop_with_empty_axes", 0) != 0 {
        return Some(vec![same(node, 0)?]);
    }
    let data = vec![node.input(0).cloned()];
    node.by(&ReductionOp { axes: axes.as_deref(), keep_dims }, data)
}

pub(super) fn layer_normalization(node: &mut Node<'_>) -> Outputs {
    let Some(mut dims) = node.shape(0) else { return Some(vec![same(node, 0)?]) };
    let axis = resolve(node.int_or("axis", -1), dims.len())?;
    dims[axis..].fill(SymExpr::Value(1));
    let statistics = SymTensor::from_shape(dims);
    Some(vec![same(node, 0)?, statistics.clone(), statistics])
}

/// MatMul; a vector stands for a matrix of one row (left) or column (right), which the result does not have.
pub(super) fn matmul(node: &mut Node<'_>, a: usize, b: usize) -> Outputs {
    let (mut left, mut right) = (node.shape(a)?, node.shape(b)?);
    let (row, column) = (left.len() == 1, right.len() == 1);
    if row {
        left.insert(0, SymExpr::Value(1));
    }
    if column {
        right.push(SymExpr::Value(1));
    }
    if left.len() < 2 || right.len() < 2 {
        return None;
    }
    let inputs = vec![Some(SymTensor::from_shape(left)), Some(SymTensor::from_shape(right))];
    let mut dims: Vec<SymExpr> = node.by(&ops::MatMul, inputs)?.pop()?.shape()?.collect();
    if column {
        dims.pop()?;
    }
    if row {
        dims.remove(dims.len().checked_sub(if column { 1 } else { 2 })?);
    }
    Some(vec![SymTensor::from_shape(dims)])
}

/// RNN, GRU and LSTM: Y [length, directions, batch, hidden], Y_h and Y_c [directions, batch, hidden]; layout 1 has the
/// batch first.
pub(super) fn recurrent(node: &mut Node<'_>) -> Outputs {
    let input = node.shape(0).filter(|input| input.len() == 3)?;
    let hidden = match node.op.int("hidden_size") {
        Some(size) => layout::small(size)?,
        None => node.shape(2).filter(|weight| weight.len() == 3)?[2].clone(),
    };
    let directions = SymExpr::Value(if node.op.string("direction") == Some("bidirectional") { 2 } else { 1 });
    let batch_first = node.int_or("layout", 0) != 0;
    let (length, batch) = if batch_first { (&input[1], &input[0]) } else { (&input[0], &input[1]) };
    let (all, last) = if batch_first {
        (
            vec![batch.clone(), length.clone(), directions.clone(), hidden.clone()],
            vec![batch.clone(), directions, hidden],
        )
    } else {
        (
            vec![length.clone(), directions.clone(), batch.clone(), hidden.clone()],
            vec![directions, batch.clone(), hidden],
        )
    };
    let last = SymTensor::from_shape(last);
    Some(vec![SymTensor::from_shape(all), last.clone(), last])
}
