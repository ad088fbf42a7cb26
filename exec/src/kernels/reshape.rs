//! Ops that change dimensions and no element: Identity, Reshape, Flatten, Squeeze, Unsqueeze; and Shape and Size.
use onnx_shrink_ir::Tensor;

use super::layout::{Outputs, axis_index, dims_of, distinct_axes, failed, integers, one, product};
use crate::kernel::{Call, KernelError};

fn reshaped(x: &Tensor, dims: &[usize]) -> Outputs {
    match x.reshaped(dims) {
        Some(tensor) => one(tensor),
        None => failed(format!("{:?} cannot be reshaped to {dims:?}: the counts of elements differ", x.dims())),
    }
}

/// Identity
pub(super) fn identity(call: &Call<'_>) -> Outputs {
    one(call.input(0)?.clone())
}

/// Reshape: 0 keeps a dimension (unless `allowzero`), one −1 takes what is left.
pub(super) fn reshape(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let shape = match call.opset {
        ..5 => call.op.ints("shape").unwrap_or(&[]).to_vec(),
        _ => integers(call.input(1)?, "the shape")?,
    };
    let allow_zero = call.op.int("allowzero").unwrap_or(0) != 0;
    let mut dims = Vec::with_capacity(shape.len());
    let mut open = None;
    for (index, &dim) in shape.iter().enumerate() {
        dims.push(match dim {
            -1 if open.is_some() => return failed(format!("the shape {shape:?} has -1 twice")),
            -1 => {
                open = Some(index);
                1
            }
            0 if !allow_zero => match x.dims().get(index) {
                Some(&dim) => dim,
                None => return failed(format!("the shape {shape:?} copies dimension {index} of {:?}", x.dims())),
            },
            dim => match usize::try_from(dim) {
                Ok(dim) => dim,
                Err(_) => return failed(format!("the shape {shape:?} has the negative dimension {dim}")),
            },
        });
    }
    if let Some(open) = open {
        let others = onnx_shrink_ir::element_count(&dims).unwrap_or(0);
        if others == 0 || !x.len().is_multiple_of(others) {
            return failed(format!("the shape {shape:?} leaves no whole dimension of {:?}", x.dims()));
        }
        dims[open] = x.len() / others;
    }
    reshaped(x, &dims)
}

/// Flatten
pub(super) fn flatten(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let axis = match call.op.int("axis").unwrap_or(1) {
        axis if axis == rank as i64 => rank,
        axis => axis_index(axis, rank)?,
    };
    reshaped(x, &[product(&x.dims()[..axis]), product(&x.dims()[axis..])])
}

/// Axes as input 1 or, before opset 13, as attribute.
fn axes(call: &Call<'_>) -> Result<Option<Vec<i64>>, KernelError> {
    match call.opset {
        ..13 => Ok(call.op.ints("axes").map(<[i64]>::to_vec)),
        _ => call.optional(1).map(|axes| integers(axes, "axes")).transpose(),
    }
}

/// Squeeze
pub(super) fn squeeze(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let gone = match axes(call)? {
        Some(axes) => distinct_axes(&axes, x.dims().len())?,
        None => (0..x.dims().len()).filter(|&axis| x.dims()[axis] == 1).collect(),
    };
    if let Some(&axis) = gone.iter().find(|&&axis| x.dims()[axis] != 1) {
        return failed(format!("axis {axis} of {:?} is not 1", x.dims()));
    }
    let dims = x.dims().iter().enumerate().filter(|(axis, _)| !gone.contains(axis)).map(|(_, &dim)| dim);
    reshaped(x, &dims.collect::<Vec<_>>())
}

/// Unsqueeze
pub(super) fn unsqueeze(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let Some(axes) = axes(call)? else { return failed("axes are missing") };
    let new = distinct_axes(&axes, x.dims().len() + axes.len())?;
    let mut old = x.dims().iter();
    let rank = x.dims().len() + new.len();
    let dims: Vec<usize> =
        (0..rank).map(|axis| if new.contains(&axis) { 1 } else { old.next().copied().unwrap_or(1) }).collect();
    reshaped(x, &dims)
}

/// Shape, from `start` to `end`
pub(super) fn shape(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len() as i64;
    let place = |name: &str, default: i64| {
        let at = call.op.int(name).unwrap_or(default);
        (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize
    };
    let (start, end) = (place("start", 0), place("end", rank));
    let dims: Vec<i64> = x.dims()[start..end.max(start)].iter().map(|&dim| dim as i64).collect();
    one(Tensor::from_vec(&[dims.len()], dims))
}

/// Size
pub(super) fn size(call: &Call<'_>) -> Outputs {
    one(Tensor::scalar(call.input(0)?.len() as i64))
}

/// The shape that an input states.
pub(super) fn stated_shape(tensor: &Tensor) -> Result<Vec<usize>, KernelError> {
    if tensor.dims().len() > 1 {
        return failed(format!("a shape of rank {}", tensor.dims().len()));
    }
    dims_of(&integers(tensor, "the shape")?, "the shape")
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    fn shape_of(numbers: &[i64]) -> Tensor {
        Tensor::from_vec(&[numbers.len()], numbers.to_vec())
    }

    #[test]
    fn zeros_and_minus_one() {
        let x = Tensor::from_vec(&[2, 3, 4], vec![0u8; 24]);
        assert_eq!(run("Reshape", 13, &[x.clone(), shape_of(&[0, -1])]).dims(), [2, 12]);
        for bad in [&[-1, -1][..], &[5, -1], &[2, 2], &[0, 0, 0, 0], &[-2, 12]] {
            assert!(run_with("Reshape", 13, vec![], &[Some(x.clone()), Some(shape_of(bad))]).is_err(), "{bad:?}");
        }
        let empty = Tensor::from_vec(&[0, 3], Vec::<f32>::new());
        let inputs = [Some(empty), Some(shape_of(&[3, 0]))];
        let out = run_with("Reshape", 14, vec![attributes::int("allowzero", 1)], &inputs).expect("runs");
        assert_eq!(out[0].as_ref().map(Tensor::dims), Some(&[3, 0][..]));
    }

    #[test]
    fn squeeze_takes_only_ones() {
        let x = Tensor::from_vec(&[1, 3, 1], vec![0f32; 3]);
        assert_eq!(run("Squeeze", 13, std::slice::from_ref(&x)).dims(), [3]);
        assert_eq!(run("Squeeze", 13, &[x.clone(), shape_of(&[-1])]).dims(), [1, 3]);
        assert!(run_with("Squeeze", 13, vec![], &[Some(x.clone()), Some(shape_of(&[1]))]).is_err());
        assert_eq!(run("Unsqueeze", 13, &[x, shape_of(&[-1, 0])]).dims(), [1, 1, 3, 1, 1]);
    }

    #[test]
    fn a_part_of_a_shape() {
        let x = Tensor::from_vec(&[2, 3, 4], vec![0u8; 24]);
        let attributes = vec![attributes::int("start", -2), attributes::int("end", 99)];
        let out = run_with("Shape", 15, attributes, &[Some(x)]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![3, 4]));
    }
}
