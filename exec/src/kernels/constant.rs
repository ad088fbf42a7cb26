//! Ops that make a tensor from little: Constant, ConstantOfShape, Range, EyeLike, OneHot.
use bytes::Bytes;
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    cells::Cells,
    layout::{Outputs, axis_index, check_size, failed, integers, one, product, unsupported},
    numbers::{by_number, narrowed, slice, widened},
    reshape::stated_shape,
};
use crate::kernel::{Call, KernelError};

/// Zeros, or empty strings.
pub(super) fn zeros(dtype: DataType, dims: &[usize]) -> Result<Tensor, KernelError> {
    let count = product(dims);
    let tensor = match dtype.byte_len(count) {
        Some(length) => Tensor::new(dtype, dims, vec![0; length].into()),
        None => Tensor::strings(dims, vec![Bytes::new(); count]),
    };
    tensor.or_else(|error| failed(error.to_string()))
}

/// Constant, in all its forms but the sparse one
pub(super) fn constant(call: &Call<'_>) -> Outputs {
    let op = call.op;
    if let Some(attribute) = op.attribute("value") {
        return match (op.tensor("value"), &attribute.t) {
            (Some(tensor), _) => one(tensor),
            (None, Some(_)) => failed("its tensor is malformed"),
            (None, None) => failed("its attribute value holds no tensor"),
        };
    }
    if let Some(number) = op.float("value_float") {
        return one(Tensor::scalar(number));
    }
    if let Some(number) = op.int("value_int") {
        return one(Tensor::scalar(number));
    }
    if let Some(numbers) = op.floats("value_floats") {
        return one(Tensor::from_vec(&[numbers.len()], numbers.to_vec()));
    }
    if let Some(numbers) = op.ints("value_ints") {
        return one(Tensor::from_vec(&[numbers.len()], numbers.to_vec()));
    }
    let strings = |dims: &[usize], strings| Tensor::strings(dims, strings).or_else(|error| failed(error.to_string()));
    if let Some(attribute) = op.attribute("value_strings") {
        return one(strings(&[attribute.strings.len()], attribute.strings.clone())?);
    }
    if let Some(text) = op.attribute("value_string").and_then(|attribute| attribute.s.clone()) {
        return one(strings(&[], vec![text])?);
    }
    unsupported("a Constant without a dense value")
}

/// ConstantOfShape
pub(super) fn constant_of_shape(call: &Call<'_>) -> Outputs {
    let dims = stated_shape(call.input(0)?)?;
    let value = match call.op.attribute("value") {
        None => Tensor::from_vec(&[1], vec![0f32]),
        Some(_) => match call.op.tensor("value") {
            Some(value) if value.len() == 1 => value,
            _ => return failed("its value is not one element"),
        },
    };
    let count = check_size(call, value.dtype(), &dims)?;
    let cells = Cells::of(&[&value])?;
    one(cells.tensor(&dims, cells.first().repeat(count))?)
}

/// Range: `ceil((limit − start) / delta)` numbers `start + i·delta`; halves are computed as f32.
pub(super) fn range(call: &Call<'_>) -> Outputs {
    let [start, limit, delta] = [call.input(0)?, call.input(1)?, call.input(2)?];
    let dtype = start.dtype();
    if [limit.dtype(), delta.dtype()] != [dtype; 2] || [start.len(), limit.len(), delta.len()] != [1; 3] {
        return failed("start, limit and delta are not three scalars of one type");
    }
    let too_many = || KernelError::Failed("the range has too many elements".to_owned());
    let wide = [widened(start), widened(limit), widened(delta)];
    if dtype.is_integer() {
        let number = |tensor: &Tensor| integers(tensor, "a bound").map(|list| i128::from(list[0]));
        let (start, limit, delta) = (number(start)?, number(limit)?, number(delta)?);
        if delta == 0 {
            return failed("delta is 0");
        }
        let span = limit - start;
        let count = if span == 0 || (span > 0) != (delta > 0) { 0 } else { (span.abs() - 1) / delta.abs() + 1 };
        let count = usize::try_from(count).map_err(|_| too_many())?;
        check_size(call, dtype, &[count])?;
        return by_number!(dtype, T => {
            let numbers: Vec<T> = (0..count).map(|n| (start + n as i128 * delta) as T).collect();
            one(Tensor::from_vec(&[count], numbers))
        }, unsupported(format!("a range of {dtype}")));
    }
    let number =
        |tensor: &Tensor| tensor.to_scalar_f64().ok_or_else(|| KernelError::Unsupported(format!("a range of {dtype}")));
    let (start, limit, delta) = (number(&wide[0])?, number(&wide[1])?, number(&wide[2])?);
    let exact = ((limit - start) / delta).ceil();
    if delta == 0.0 || !exact.is_finite() {
        return failed(format!("a range from {start} to {limit} by {delta}"));
    }
    if exact > usize::MAX as f64 / 16.0 {
        return Err(too_many());
    }
    let count = exact.max(0.0) as usize;
    check_size(call, wide[0].dtype(), &[count])?;
    let result = match wide[0].dtype() {
        DataType::Double => {
            Tensor::from_vec(&[count], (0..count).map(|n| start + n as f64 * delta).collect::<Vec<_>>())
        }
        _ => {
            let (start, delta) = (start as f32, delta as f32);
            Tensor::from_vec(&[count], (0..count).map(|n| start + n as f32 * delta).collect::<Vec<_>>())
        }
    };
    one(narrowed(result, dtype))
}

/// EyeLike
pub(super) fn eye_like(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let [rows, columns] = *x.dims() else { return failed(format!("an input of rank {}", x.dims().len())) };
    let dtype = match call.op.int("dtype") {
        None => x.dtype(),
        Some(number) => match i32::try_from(number).ok().and_then(DataType::from_number) {
            Some(dtype) => dtype,
            None => return failed(format!("dtype {number} is no element type")),
        },
    };
    check_size(call, DataType::Double, x.dims())?;
    let offset = call.op.int("k").unwrap_or(0);
    let ones = ndarray::Array2::from_shape_fn((rows, columns), |(row, column)| {
        f64::from(u8::from((row as i64).checked_add(offset) == Some(column as i64)))
    });
    match Tensor::from_f64(dtype, &ones.into_dyn()) {
        Some(tensor) => one(tensor),
        None => unsupported(format!("an identity matrix of {dtype}")),
    }
}

/// OneHot: an index outside of [−depth, depth) gives a row of off-values.
pub(super) fn one_hot(call: &Call<'_>) -> Outputs {
    let (indices, depth, values) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let whole = |tensor: &Tensor| -> Result<Vec<i64>, KernelError> {
        match (tensor.to_i64_vec(), tensor.to_f64_vec()) {
            (Some(numbers), _) => Ok(numbers),
            (None, Some(numbers)) => Ok(numbers.into_iter().map(|x| x as i64).collect()),
            _ => unsupported(format!("indices of type {}", tensor.dtype())),
        }
    };
    let Some(depth) = whole(depth)?.first().copied().and_then(|depth| usize::try_from(depth).ok()) else {
        return failed("the depth is negative or missing");
    };
    if values.len() != 2 {
        return failed(format!("{} values instead of two", values.len()));
    }
    let rank = indices.dims().len();
    let axis = axis_index(call.op.int("axis").unwrap_or(-1), rank + 1)?;
    let mut dims = indices.dims().to_vec();
    dims.insert(axis, depth);
    let count = check_size(call, values.dtype(), &dims)?;
    let cells = Cells::of(&[values])?;
    let (off, on) = cells.first().split_at(cells.size);
    let mut out = off.repeat(count);
    let inner = product(&dims[axis + 1..]);
    for (at, index) in whole(indices)?.into_iter().enumerate() {
        let index = if index < 0 { index.saturating_add(depth as i64) } else { index };
        if (0..depth as i64).contains(&index) {
            let target = (at / inner * depth + index as usize) * inner + at % inner;
            out[target * cells.size..(target + 1) * cells.size].copy_from_slice(on);
        }
    }
    one(cells.tensor(&dims, out)?)
}

/// The elements of a tensor of any number type that are not zero.
pub(super) fn truths(tensor: &Tensor) -> Result<Vec<bool>, KernelError> {
    let wide = widened(tensor);
    let plain = if wide.dtype() == DataType::Bool { DataType::Uint8 } else { wide.dtype() };
    by_number!(plain, T => {
        Ok(slice::<T>(&wide)?.iter().map(|&x| x != T::default()).collect())
    }, unsupported(format!("zeros of {}", tensor.dtype())))
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn sizes_are_checked_before_memory_is_taken() {
        let shape = Tensor::from_vec(&[2], vec![1i64 << 20, 1 << 20]);
        assert!(run_with("ConstantOfShape", 9, vec![], &[Some(shape)]).is_err());
        let bounds = [Tensor::scalar(0i64), Tensor::scalar(i64::MAX), Tensor::scalar(1i64)];
        assert!(run_with("Range", 11, vec![], &bounds.map(Some)).is_err());
        let shape = Tensor::from_vec(&[1], vec![-1i64]);
        assert!(run_with("ConstantOfShape", 9, vec![], &[Some(shape)]).is_err());
    }

    #[test]
    fn ranges_up_and_down() {
        let out = run("Range", 11, &[Tensor::scalar(10i32), Tensor::scalar(4i32), Tensor::scalar(-4i32)]);
        assert_eq!(out.to_i64_vec(), Some(vec![10, 6]));
        let out = run("Range", 11, &[Tensor::scalar(0f32), Tensor::scalar(1f32), Tensor::scalar(0.4f32)]);
        assert_eq!(out.len(), 3);
        let zero = [Tensor::scalar(0i32), Tensor::scalar(4i32), Tensor::scalar(0i32)];
        assert!(run_with("Range", 11, vec![], &zero.map(Some)).is_err());
    }

    #[test]
    fn one_hot_ignores_what_is_outside() {
        let inputs =
            [Tensor::from_vec(&[3], vec![1i64, -1, 5]), Tensor::scalar(2i64), Tensor::from_vec(&[2], vec![0u8, 7])];
        assert_eq!(run("OneHot", 11, &inputs).to_i64_vec(), Some(vec![0, 7, 0, 7, 0, 0]));
        let out = run_with("OneHot", 11, vec![attributes::int("axis", 0)], &inputs.map(Some)).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![0, 0, 0, 7, 7, 0]));
    }
}
