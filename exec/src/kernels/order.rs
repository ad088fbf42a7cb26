//! ArgMax, ArgMin, TopK, CumSum and CumProd: ops along one axis whose result depends on the order of its elements.
use std::cmp::Ordering;

use onnx_shrink_ir::{DataType, Tensor};

use super::{
    binary::Arithmetic,
    layout::{Outputs, axis_attribute, axis_index, check_size, failed, integer, one, product, unsupported},
    numbers::{by_number, narrowed, slice, widened},
    reduce::kept_dims,
};
use crate::kernel::Call;

/// `outer`, length and `inner` around an axis.
fn around(dims: &[usize], axis: usize) -> (usize, usize, usize) {
    (product(&dims[..axis]), dims[axis], product(&dims[axis + 1..]))
}

fn arg(call: &Call<'_>, better: Ordering) -> Outputs {
    let x = call.input(0)?;
    let axis = axis_attribute(call, 0, x.dims().len())?;
    let last = call.op.int("select_last_index").unwrap_or(0) != 0;
    let dims = kept_dims(x.dims(), &[axis], call.op.int("keepdims").unwrap_or(1) != 0);
    let count = check_size(call, DataType::Int64, &dims)?;
    let (outer, length, inner) = around(x.dims(), axis);
    if length == 0 && count > 0 {
        return failed("the extreme of nothing");
    }
    let wide = widened(x);
    let mut out = Vec::with_capacity(count);
    by_number!(wide.dtype(), T => {
        let numbers = slice::<T>(&wide)?;
        for n in 0..outer * inner {
            let first = n / inner * length * inner + n % inner;
            let mut best = 0;
            for index in 1..length {
                let (x, y) = (numbers[first + index * inner], numbers[first + best * inner]);
                // The first NaN wins, as in numpy.
                let wins = match x.partial_cmp(&y) {
                    Some(Ordering::Equal) => last,
                    Some(order) => order == better,
                    None => y.partial_cmp(&y).is_some(),
                };
                if wins {
                    best = index;
                }
            }
            out.push(best as i64);
        }
    }, return unsupported(format!("the extreme of {}", x.dtype())));
    one(Tensor::from_vec(&dims, out))
}

/// ArgMax
pub(super) fn arg_max(call: &Call<'_>) -> Outputs {
    arg(call, Ordering::Greater)
}

/// ArgMin
pub(super) fn arg_min(call: &Call<'_>) -> Outputs {
    arg(call, Ordering::Less)
}

/// TopK. Equal elements come in the order of their indices; NaN counts as larger than any number.
pub(super) fn top_k(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let axis = axis_attribute(call, -1, x.dims().len())?;
    let count = if call.opset < 10 { call.op.int("k").unwrap_or(-1) } else { integer(call.input(1)?, "k")? };
    let largest = call.op.int("largest").unwrap_or(1) != 0;
    let (outer, length, inner) = around(x.dims(), axis);
    let Some(count) = usize::try_from(count).ok().filter(|&count| count <= length) else {
        return failed(format!("k = {count} of {length} elements"));
    };
    let mut dims = x.dims().to_vec();
    dims[axis] = count;
    let total = check_size(call, DataType::Int64, &dims)?;
    let wide = widened(x);
    let mut indices = vec![0i64; total];
    let values = by_number!(wide.dtype(), T => {
        let numbers = slice::<T>(&wide)?;
        let mut values: Vec<T> = vec![T::default(); total];
        let order = |x: &T, y: &T| {
            let order = x.partial_cmp(y).unwrap_or_else(|| {
                // True where NaN: numbers come first.
                x.partial_cmp(x).is_none().cmp(&y.partial_cmp(y).is_none())
            });
            if largest { order.reverse() } else { order }
        };
        for n in 0..outer * inner {
            let (outer, inner_at) = (n / inner, n % inner);
            let at = |index: usize| numbers[(outer * length + index) * inner + inner_at];
            let mut sorted: Vec<usize> = (0..length).collect();
            let by = |a: &usize, b: &usize| order(&at(*a), &at(*b)).then(a.cmp(b));
            if count > 0 && count < length {
                sorted.select_nth_unstable_by(count - 1, by);
                sorted.truncate(count);
            }
            sorted.sort_unstable_by(by);
            for (place, &index) in sorted.iter().take(count).enumerate() {
                let target = (outer * count + place) * inner + inner_at;
                values[target] = at(index);
                indices[target] = index as i64;
            }
        }
        Tensor::from_vec(&dims, values)
    }, return unsupported(format!("sorting {}", x.dtype())));
    Ok(vec![Some(narrowed(values, x.dtype())), Some(Tensor::from_vec(&dims, indices))])
}

fn cumulative(call: &Call<'_>, product_instead: bool) -> Outputs {
    let x = call.input(0)?;
    let axis = axis_index(integer(call.input(1)?, "axis")?, x.dims().len())?;
    check_size(call, x.dtype(), x.dims())?;
    let exclusive = call.op.int("exclusive").unwrap_or(0) != 0;
    let reverse = call.op.int("reverse").unwrap_or(0) != 0;
    let (outer, length, inner) = around(x.dims(), axis);
    let wide = widened(x);
    let out = by_number!(wide.dtype(), T => {
        let numbers = slice::<T>(&wide)?;
        let mut out: Vec<T> = vec![T::default(); numbers.len()];
        for n in 0..outer * inner {
            let first = n / inner * length * inner + n % inner;
            let mut total = if product_instead { T::from_f64(1.0) } else { T::default() };
            for step in 0..length {
                let at = first + inner * if reverse { length - 1 - step } else { step };
                let next = if product_instead { total.mul(numbers[at]) } else { total.add(numbers[at]) };
                out[at] = if exclusive { total } else { next };
                total = next;
            }
        }
        Tensor::from_vec(x.dims(), out)
    }, return unsupported(format!("cumulation of {}", x.dtype())));
    one(narrowed(out, x.dtype()))
}

/// CumSum
pub(super) fn cum_sum(call: &Call<'_>) -> Outputs {
    cumulative(call, false)
}

/// CumProd
pub(super) fn cum_prod(call: &Call<'_>) -> Outputs {
    cumulative(call, true)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn ties_take_the_lower_index() {
        let x = Tensor::from_vec(&[2, 3], vec![1f32, 3., 3., 2., 2., 1.]);
        let out = run_with("TopK", 11, vec![], &[Some(x.clone()), Some(Tensor::from_vec(&[1], vec![2i64]))]);
        let out = out.expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_f64_vec), Some(vec![3., 3., 2., 2.]));
        assert_eq!(out[1].as_ref().and_then(Tensor::to_i64_vec), Some(vec![1, 2, 0, 1]));
        let axis = attributes::int("axis", 1);
        let out = run_with("ArgMax", 13, vec![axis.clone()], &[Some(x.clone())]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![1, 0]));
        let attributes = vec![axis, attributes::int("select_last_index", 1)];
        let out = run_with("ArgMax", 13, attributes, &[Some(x.clone())]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![2, 1]));
        assert!(run_with("TopK", 11, vec![], &[Some(x), Some(Tensor::scalar(4i64))]).is_err());
    }

    #[test]
    fn running_sums() {
        let x = Tensor::from_vec(&[3], vec![1i32, 2, 3]);
        assert_eq!(run("CumSum", 14, &[x.clone(), Tensor::scalar(0i64)]).to_i64_vec(), Some(vec![1, 3, 6]));
        let attributes = vec![attributes::int("exclusive", 1), attributes::int("reverse", 1)];
        let out = run_with("CumSum", 14, attributes, &[Some(x), Some(Tensor::scalar(-1i64))]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![5, 3, 0]));
    }
}
