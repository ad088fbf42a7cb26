//! Ops that choose elements: Where, Compress, NonZero, Trilu.
use onnx_shrink_ir::Tensor;

use super::{
    cells::{Cells, by_cell, into_bytes, picked},
    constant::truths,
    layout::{
        Outputs, axis_index, broadcast_dims, broadcast_strides, cast, check_size, failed, integer, one, product,
        strided, strides_of,
    },
    numbers::bools,
};
use crate::kernel::Call;

/// Where
pub(super) fn where_(call: &Call<'_>) -> Outputs {
    let (condition, x, y) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let dims = broadcast_dims(&broadcast_dims(x.dims(), y.dims())?, condition.dims())?;
    check_size(call, x.dtype(), &dims)?;
    let cells = Cells::of(&[x, y])?;
    let chosen = strided(&bools(condition)?, 0, &dims, &broadcast_strides(condition.dims(), &dims)?);
    let (sx, sy) = (broadcast_strides(x.dims(), &dims)?, broadcast_strides(y.dims(), &dims)?);
    let out = by_cell!(cells.size, T => {
        let x = strided(&cast::<T>(&cells.data[0]), 0, &dims, &sx);
        let y = strided(&cast::<T>(&cells.data[1]), 0, &dims, &sy);
        into_bytes(chosen.iter().zip(x.iter().zip(&y)).map(|(&c, (&x, &y))| if c != 0 { x } else { y }).collect::<Vec<T>>())
    });
    one(cells.tensor(&dims, out)?)
}

/// Compress
pub(super) fn compress(call: &Call<'_>) -> Outputs {
    let (x, condition) = (call.input(0)?, call.input(1)?);
    let keep = bools(condition)?;
    let (length, inner, mut dims, axis) = match call.op.int("axis") {
        None => (x.len(), 1, vec![0], 0),
        Some(axis) => {
            let axis = axis_index(axis, x.dims().len())?;
            (x.dims()[axis], product(&x.dims()[axis + 1..]), x.dims().to_vec(), axis)
        }
    };
    if condition.dims().len() != 1 || keep.len() > length {
        return failed(format!("a condition of shape {:?} for {length} elements", condition.dims()));
    }
    let kept: Vec<usize> = (0..keep.len()).filter(|&n| keep[n] != 0).collect();
    dims[axis] = kept.len();
    let outer = x.len().checked_div(length * inner).unwrap_or(0);
    let mut picks = Vec::with_capacity(product(&dims));
    for outer in 0..outer {
        for &place in &kept {
            let first = (outer * length + place) * inner;
            picks.extend(first..first + inner);
        }
    }
    let cells = Cells::of(&[x])?;
    one(cells.tensor(&dims, picked(cells.first(), cells.size, &picks))?)
}

/// NonZero: the coordinates of all elements that are not zero, one a column.
pub(super) fn non_zero(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let found: Vec<usize> = truths(x)?.into_iter().enumerate().filter(|(_, truth)| *truth).map(|(at, _)| at).collect();
    // A scalar counts as a tensor of one axis.
    let dims = if x.dims().is_empty() { &[1][..] } else { x.dims() };
    check_size(call, onnx_shrink_ir::DataType::Int64, &[dims.len(), found.len()])?;
    let strides = strides_of(dims);
    let mut out = Vec::with_capacity(dims.len() * found.len());
    for (axis, &dim) in dims.iter().enumerate() {
        out.extend(found.iter().map(|at| (at / strides[axis] as usize % dim) as i64));
    }
    one(Tensor::from_vec(&[dims.len(), found.len()], out))
}

/// Trilu
pub(super) fn trilu(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let [.., rows, columns] = *x.dims() else { return failed(format!("an input of rank {}", x.dims().len())) };
    let offset = call.optional(1).map_or(Ok(0), |k| integer(k, "k"))?;
    let upper = call.op.int("upper").unwrap_or(1) != 0;
    let mut cells = Cells::of(&[x])?;
    let zero = cells.zero();
    let mut out = cells.first().to_vec();
    for (at, cell) in out.chunks_mut(cells.size).enumerate() {
        let (row, column) = ((at / columns % rows) as i64, (at % columns) as i64);
        let diagonal = row.saturating_add(offset);
        if if upper { column < diagonal } else { column > diagonal } {
            cell.copy_from_slice(&zero);
        }
    }
    one(cells.tensor(x.dims(), out)?)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn where_broadcasts_three_ways() {
        let condition = Tensor::from_bools(&[2, 1], &[true, false]);
        let x = Tensor::from_vec(&[2], vec![1i64, 2]);
        let out = run("Where", 16, &[condition, x, Tensor::scalar(9i64)]);
        assert_eq!((out.dims(), out.to_i64_vec()), (&[2, 2][..], Some(vec![1, 2, 9, 9])));
    }

    #[test]
    fn compress_with_and_without_axis() {
        let x = Tensor::from_vec(&[2, 2], vec![1i32, 2, 3, 4]);
        let keep = Tensor::from_bools(&[2], &[false, true]);
        assert_eq!(run("Compress", 11, &[x.clone(), keep.clone()]).to_i64_vec(), Some(vec![2]));
        let out = run_with("Compress", 11, vec![attributes::int("axis", 1)], &[Some(x), Some(keep)]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![2, 4]));
    }

    #[test]
    fn coordinates() {
        let out = run("NonZero", 13, &[Tensor::from_vec(&[2, 2], vec![1f32, 0., -0., 2.])]);
        assert_eq!((out.dims(), out.to_i64_vec()), (&[2, 2][..], Some(vec![0, 1, 0, 1])));
    }
}
