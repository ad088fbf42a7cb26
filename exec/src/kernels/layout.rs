//! Where elements lie: axes, strides, broadcasting, and the copy that follows them.
//!
//! Everything here is about places, **never** about numbers. Every size is checked before memory is taken.
use std::borrow::Cow;

use bytemuck::Pod;
use onnx_shrink_ir::{DataType, Tensor, element_count};

use crate::kernel::{Call, KernelError};

/// What every kernel returns.
pub(super) type Outputs = Result<Vec<Option<Tensor>>, KernelError>;

/// The inputs do not fit the op.
pub(super) fn failed<T>(why: impl Into<String>) -> Result<T, KernelError> {
    Err(KernelError::Failed(why.into()))
}

/// The kernel does not do this.
pub(super) fn unsupported<T>(what: impl Into<String>) -> Result<T, KernelError> {
    Err(KernelError::Unsupported(what.into()))
}

/// A kernel's result that is one tensor.
pub(super) fn one(tensor: Tensor) -> Outputs {
    Ok(vec![Some(tensor)])
}

/// `axis`, counted from the back when negative, as an index below `rank`.
pub(super) fn axis_index(axis: i64, rank: usize) -> Result<usize, KernelError> {
    let resolved = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match resolved {
        Some(resolved) if (0..rank as i64).contains(&resolved) => Ok(resolved as usize),
        _ => failed(format!("axis {axis} does not exist in a tensor of rank {rank}")),
    }
}

/// The attribute `axis`, or `default`, as an index below `rank`.
pub(super) fn axis_attribute(call: &Call<'_>, default: i64, rank: usize) -> Result<usize, KernelError> {
    axis_index(call.op.int("axis").unwrap_or(default), rank)
}

/// Integers of an input that states a shape, axes or the like.
pub(super) fn integers(tensor: &Tensor, what: &str) -> Result<Vec<i64>, KernelError> {
    match tensor.to_i64_vec() {
        Some(numbers) => Ok(numbers),
        None => failed(format!("{what} is {}, which is not an integer type", tensor.dtype())),
    }
}

/// The one integer of an input.
pub(super) fn integer(tensor: &Tensor, what: &str) -> Result<i64, KernelError> {
    match integers(tensor, what)?.as_slice() {
        [number] => Ok(*number),
        numbers => failed(format!("{what} has {} elements instead of one", numbers.len())),
    }
}

/// Axes that must differ, in the order given.
pub(super) fn distinct_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, KernelError> {
    let mut seen = vec![false; rank];
    let mut found = Vec::with_capacity(axes.len());
    for &axis in axes {
        let index = axis_index(axis, rank)?;
        if std::mem::replace(&mut seen[index], true) {
            return failed(format!("axis {index} is named twice"));
        }
        found.push(index);
    }
    Ok(found)
}

/// The number of elements of `dims`, when a tensor of them stays within the call's limit.
pub(super) fn check_size(call: &Call<'_>, dtype: DataType, dims: &[usize]) -> Result<usize, KernelError> {
    let count = element_count(dims);
    // Strings move as indices of four bytes.
    let bytes = count.and_then(|count| match dtype {
        DataType::String => count.checked_mul(4),
        dtype => dtype.byte_len(count),
    });
    match (count, bytes) {
        (Some(count), Some(bytes)) if bytes <= call.max_bytes => Ok(count),
        _ => failed(format!("the result {dtype}{dims:?} is larger than the limit of {} bytes", call.max_bytes)),
    }
}

/// Dimensions given as integers.
pub(super) fn dims_of(numbers: &[i64], what: &str) -> Result<Vec<usize>, KernelError> {
    numbers
        .iter()
        .map(|&number| {
            usize::try_from(number).or_else(|_| failed(format!("{what} has the negative dimension {number}")))
        })
        .collect()
}

/// Row-major strides in elements.
pub(super) fn strides_of(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![0; dims.len()];
    let mut step = 1usize;
    for (stride, &dim) in strides.iter_mut().zip(dims).rev() {
        *stride = step as isize;
        step = step.saturating_mul(dim.max(1));
    }
    strides
}

/// The shape that both broadcast to, as numpy does.
pub(super) fn broadcast_dims(a: &[usize], b: &[usize]) -> Result<Vec<usize>, KernelError> {
    let rank = a.len().max(b.len());
    let dim = |dims: &[usize], index: usize| (index + dims.len()).checked_sub(rank).map_or(1, |index| dims[index]);
    (0..rank)
        .map(|index| match (dim(a, index), dim(b, index)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => failed(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// Strides by which a tensor of `dims` is read as one of `target`: 0 where it repeats.
pub(super) fn broadcast_strides(dims: &[usize], target: &[usize]) -> Result<Vec<isize>, KernelError> {
    if dims.len() > target.len() {
        return failed(format!("shape {dims:?} does not broadcast to {target:?}"));
    }
    let own = strides_of(dims);
    let shift = target.len() - dims.len();
    let mut strides = vec![0; target.len()];
    for (index, &dim) in dims.iter().enumerate() {
        if dim == target[index + shift] {
            strides[index + shift] = if dim == 1 { 0 } else { own[index] };
        } else if dim != 1 {
            return failed(format!("shape {dims:?} does not broadcast to {target:?}"));
        }
    }
    Ok(strides)
}

/// Merges neighbouring dimensions that every operand walks evenly, and drops those of length 1.
pub(super) fn coalesce<const N: usize>(dims: &[usize], strides: [&[isize]; N]) -> (Vec<usize>, [Vec<isize>; N]) {
    let mut merged: Vec<usize> = Vec::new();
    let mut out: [Vec<isize>; N] = std::array::from_fn(|_| Vec::new());
    for (index, &dim) in dims.iter().enumerate() {
        if dim == 1 {
            continue;
        }
        let joins =
            !merged.is_empty() && (0..N).all(|n| out[n].last().copied() == Some(strides[n][index] * dim as isize));
        if joins {
            if let Some(last) = merged.last_mut() {
                *last *= dim;
            }
            for n in 0..N {
                if let Some(last) = out[n].last_mut() {
                    *last = strides[n][index];
                }
            }
        } else {
            merged.push(dim);
            for n in 0..N {
                out[n].push(strides[n][index]);
            }
        }
    }
    if merged.is_empty() {
        merged.push(1);
        out.iter_mut().for_each(|strides| strides.push(0));
    }
    (merged, out)
}

/// Calls `row` with the offsets at which each row (the last dimension) starts, in row-major order. Nothing when a
/// dimension is 0.
pub(super) fn rows<const N: usize>(dims: &[usize], strides: [&[isize]; N], mut row: impl FnMut([isize; N])) {
    if dims.contains(&0) {
        return;
    }
    let outer = dims.len().saturating_sub(1);
    let mut index = vec![0usize; outer];
    let mut at = [0isize; N];
    loop {
        row(at);
        let mut axis = outer;
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            for n in 0..N {
                at[n] += strides[n][axis];
            }
            if index[axis] < dims[axis] {
                break;
            }
            for n in 0..N {
                at[n] -= strides[n][axis] * dims[axis] as isize;
            }
            index[axis] = 0;
        }
    }
}

/// `bytes` as numbers, copied only when they are not aligned.
pub(super) fn cast<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(slice) => Cow::Borrowed(slice),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    }
}

/// The elements `source[offset + Σ index·stride]` of all indices below `dims`, in row-major order. The caller has
/// checked that these lie inside `source`.
pub(super) fn strided<T: Copy>(source: &[T], offset: isize, dims: &[usize], strides: &[isize]) -> Vec<T> {
    let mut out = Vec::with_capacity(element_count(dims).unwrap_or(0));
    if dims.contains(&0) {
        return out;
    }
    let (dims, [strides]) = coalesce(dims, [strides]);
    let (length, step) = (dims[dims.len() - 1], strides[strides.len() - 1]);
    rows(&dims, [&strides], |[at]| {
        let start = (offset + at) as usize;
        match step {
            1 => out.extend_from_slice(&source[start..start + length]),
            0 => out.resize(out.len() + length, source[start]),
            _ if step > 0 => out.extend(source[start..].iter().step_by(step as usize).take(length)),
            _ => out.extend((0..length).map(|n| source[(start as isize + n as isize * step) as usize])),
        }
    });
    out
}

/// Product of dimensions that a live tensor has.
pub(super) fn product(dims: &[usize]) -> usize {
    dims.iter().product()
}
