//! Gather, GatherElements, GatherND, ScatterElements (Scatter) and ScatterND. An index counts from the back when it is
//! negative; one outside of its axis fails.
use onnx_shrink_ir::Tensor;

use super::{
    binary::Arithmetic,
    cells::{Cells, picked},
    layout::{Outputs, axis_attribute, check_size, failed, integers, one, product, strides_of, unsupported},
    numbers::{by_number, narrowed, slice, widened},
};
use crate::kernel::{Call, KernelError};

fn place(index: i64, length: usize) -> Result<usize, KernelError> {
    let resolved = if index < 0 { index.saturating_add(length as i64) } else { index };
    match usize::try_from(resolved) {
        Ok(place) if place < length => Ok(place),
        _ => failed(format!("index {index} lies outside of an axis of {length}")),
    }
}

fn index_numbers(tensor: &Tensor) -> Result<Vec<i64>, KernelError> {
    integers(tensor, "the tensor of indices")
}

/// Gather
pub(super) fn gather(call: &Call<'_>) -> Outputs {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let axis = axis_attribute(call, 0, x.dims().len())?;
    let mut dims = x.dims()[..axis].to_vec();
    dims.extend(indices.dims());
    dims.extend(&x.dims()[axis + 1..]);
    check_size(call, x.dtype(), &dims)?;
    let length = x.dims()[axis];
    let places = index_numbers(indices)?.into_iter().map(|index| place(index, length));
    let places: Vec<usize> = places.collect::<Result<_, _>>()?;
    let cells = Cells::of(&[x])?;
    let block = product(&x.dims()[axis + 1..]) * cells.size;
    let mut out = Vec::with_capacity(product(&dims) * cells.size);
    for outer in cells.first().chunks((length * block).max(1)).take(product(&x.dims()[..axis])) {
        for place in &places {
            out.extend_from_slice(&outer[place * block..(place + 1) * block]);
        }
    }
    one(cells.tensor(&dims, out)?)
}

/// Where each element of `indices` points into `dims` when it replaces the coordinate along `axis`.
fn element_places(dims: &[usize], indices: &Tensor, axis: usize) -> Result<Vec<usize>, KernelError> {
    let fits = indices.dims().len() == dims.len() && (0..dims.len()).all(|n| n == axis || indices.dims()[n] <= dims[n]);
    if !fits {
        return failed(format!("indices of shape {:?} do not fit {dims:?} along axis {axis}", indices.dims()));
    }
    let (strides, own) = (strides_of(dims), strides_of(indices.dims()));
    let numbers = index_numbers(indices)?;
    let mut places = Vec::with_capacity(numbers.len());
    for (at, index) in numbers.into_iter().enumerate() {
        let mut target = place(index, dims[axis])? * strides[axis] as usize;
        for n in (0..dims.len()).filter(|&n| n != axis) {
            target += at / own[n] as usize % indices.dims()[n] * strides[n] as usize;
        }
        places.push(target);
    }
    Ok(places)
}

/// GatherElements
pub(super) fn gather_elements(call: &Call<'_>) -> Outputs {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let axis = axis_attribute(call, 0, x.dims().len())?;
    check_size(call, x.dtype(), indices.dims())?;
    let places = element_places(x.dims(), indices, axis)?;
    let cells = Cells::of(&[x])?;
    one(cells.tensor(indices.dims(), picked(cells.first(), cells.size, &places))?)
}

/// The first element of each slice that a row of `indices` (its last axis) points to, and the length of a slice.
fn slice_places(dims: &[usize], indices: &Tensor, batch: usize) -> Result<(Vec<usize>, usize), KernelError> {
    let Some(&depth) = indices.dims().last() else { return failed("indices of rank 0") };
    if batch + depth > dims.len() || batch >= indices.dims().len() || indices.dims()[..batch] != dims[..batch] {
        return failed(format!("indices of shape {:?} do not fit {dims:?} with {batch} batch axes", indices.dims()));
    }
    let strides = strides_of(dims);
    let numbers = index_numbers(indices)?;
    let block = product(&dims[batch + depth..]);
    let count = product(&indices.dims()[..indices.dims().len() - 1]);
    let a_batch = product(&dims[batch..]);
    let per_batch = product(&indices.dims()[batch..indices.dims().len() - 1]).max(1);
    let mut places = Vec::with_capacity(count);
    for row in 0..count {
        let mut at = row / per_batch * a_batch;
        for n in 0..depth {
            at += place(numbers[row * depth + n], dims[batch + n])? * strides[batch + n] as usize;
        }
        places.push(at);
    }
    Ok((places, block))
}

/// GatherND
pub(super) fn gather_nd(call: &Call<'_>) -> Outputs {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let batch = call.op.int("batch_dims").unwrap_or(0);
    let Ok(batch) = usize::try_from(batch) else { return failed(format!("batch_dims {batch}")) };
    let Some(&depth) = indices.dims().last() else { return failed("indices of rank 0") };
    let (places, block) = slice_places(x.dims(), indices, batch)?;
    let mut dims = indices.dims()[..indices.dims().len() - 1].to_vec();
    dims.extend(&x.dims()[batch + depth..]);
    check_size(call, x.dtype(), &dims)?;
    let cells = Cells::of(&[x])?;
    let mut out = Vec::with_capacity(product(&dims) * cells.size);
    for at in places.into_iter().filter(|_| block > 0) {
        out.extend_from_slice(&cells.first()[at * cells.size..(at + block) * cells.size]);
    }
    one(cells.tensor(&dims, out)?)
}

/// `data` with the elements `updates` put at `places`, in order.
fn scattered(call: &Call<'_>, data: &Tensor, updates: &Tensor, places: &[usize]) -> Outputs {
    if data.dtype() != updates.dtype() {
        return failed(format!("data is {}, updates are {}", data.dtype(), updates.dtype()));
    }
    let how = call.op.string("reduction").unwrap_or("none");
    if how == "none" {
        let cells = Cells::of(&[data, updates])?;
        let mut out = cells.first().to_vec();
        for (&at, new) in places.iter().zip(cells.data[1].chunks(cells.size)) {
            out[at * cells.size..(at + 1) * cells.size].copy_from_slice(new);
        }
        return one(cells.tensor(data.dims(), out)?);
    }
    let (wide, news) = (widened(data), widened(updates));
    let out = by_number!(wide.dtype(), T => {
        let combine: fn(T, T) -> T = match how {
            "add" => <T as Arithmetic>::add,
            "mul" => <T as Arithmetic>::mul,
            "max" => <T as Arithmetic>::larger,
            "min" => <T as Arithmetic>::smaller,
            other => return failed(format!("reduction {other} is none of ONNX's")),
        };
        let mut out = slice::<T>(&wide)?.into_owned();
        let news = slice::<T>(&news)?;
        for (&at, &new) in places.iter().zip(news.iter()) {
            out[at] = combine(out[at], new);
        }
        Tensor::from_vec(data.dims(), out)
    }, return unsupported(format!("reductions of {}", data.dtype())));
    one(narrowed(out, data.dtype()))
}

/// ScatterElements, and Scatter, its old name
pub(super) fn scatter_elements(call: &Call<'_>) -> Outputs {
    let (data, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let axis = axis_attribute(call, 0, data.dims().len())?;
    if indices.dims() != updates.dims() {
        return failed(format!("indices of shape {:?}, updates of {:?}", indices.dims(), updates.dims()));
    }
    scattered(call, data, updates, &element_places(data.dims(), indices, axis)?)
}

/// ScatterND
pub(super) fn scatter_nd(call: &Call<'_>) -> Outputs {
    let (data, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let (places, block) = slice_places(data.dims(), indices, 0)?;
    let depth = indices.dims().last().copied().unwrap_or(0);
    let mut dims = indices.dims()[..indices.dims().len() - 1].to_vec();
    dims.extend(&data.dims()[depth..]);
    if updates.dims() != dims {
        return failed(format!("updates of shape {:?} instead of {dims:?}", updates.dims()));
    }
    let places: Vec<usize> = places.into_iter().flat_map(|at| at..at + block).collect();
    scattered(call, data, updates, &places)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn indices_from_the_back_and_outside() {
        let x = Tensor::from_vec(&[3, 2], vec![0i64, 1, 2, 3, 4, 5]);
        let out = run("Gather", 13, &[x.clone(), Tensor::scalar(-1i64)]);
        assert_eq!((out.dims(), out.to_i64_vec()), (&[2][..], Some(vec![4, 5])));
        for bad in [3i64, -4, i64::MIN] {
            assert!(run_with("Gather", 13, vec![], &[Some(x.clone()), Some(Tensor::scalar(bad))]).is_err());
        }
        let empty = Tensor::from_vec(&[0, 2], Vec::<f32>::new());
        assert!(run_with("Gather", 13, vec![], &[Some(empty), Some(Tensor::scalar(0i64))]).is_err());
        let out = run_with(
            "Gather",
            13,
            vec![attributes::int("axis", 1)],
            &[Some(x), Some(Tensor::from_vec(&[2], vec![1i32, 0]))],
        );
        assert_eq!(out.expect("runs")[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![1, 0, 3, 2, 5, 4]));
    }

    #[test]
    fn slices_of_nothing() {
        let x = Tensor::from_vec(&[2, 0], Vec::<f32>::new());
        assert_eq!(run("GatherND", 13, &[x, Tensor::from_vec(&[2, 1], vec![1i64, 0])]).dims(), [2, 0]);
    }

    #[test]
    fn scattering_adds_and_replaces() {
        let data = Tensor::from_vec(&[4], vec![0f32, 1., 2., 3.]);
        let indices = Tensor::from_vec(&[2, 1], vec![1i64, 1]);
        let updates = Tensor::from_vec(&[2], vec![10f32, 20.]);
        let inputs = [data, indices, updates];
        assert_eq!(run("ScatterND", 16, &inputs).to_f64_vec(), Some(vec![0., 20., 2., 3.]));
        let out = run_with("ScatterND", 16, vec![attributes::string("reduction", "add")], &inputs.map(Some));
        assert_eq!(out.expect("runs")[0].as_ref().and_then(Tensor::to_f64_vec), Some(vec![0., 31., 2., 3.]));
    }
}
