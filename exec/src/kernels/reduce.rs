//! The Reduce ops over any axes: the kept axes go to the front, and every row of the rest becomes one number.
//!
//! Floats are summed in f64 and rounded once. Integers wrap. An empty set gives the neutral element.
use onnx_shrink_ir::{DataType, Element, Tensor};

use super::{
    binary::Arithmetic,
    layout::{Outputs, check_size, distinct_axes, failed, integers, one, product, strided, strides_of, unsupported},
    numbers::{by_number, narrowed, slice, widened},
};
use crate::kernel::{Call, KernelError};

/// What a row becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// The axes that are reduced: attribute or input `index`, all when there are none.
fn reduced_axes(call: &Call<'_>, rank: usize) -> Result<Option<Vec<usize>>, KernelError> {
    let axes: Vec<i64> = match call.optional(1) {
        Some(axes) => integers(axes, "axes")?,
        None => call.op.ints("axes").unwrap_or(&[]).to_vec(),
    };
    if axes.is_empty() {
        let noop = call.op.int("noop_with_empty_axes").unwrap_or(0) != 0;
        return Ok((!noop).then(|| (0..rank).collect()));
    }
    distinct_axes(&axes, rank).map(Some)
}

fn sum_f64<T: Arithmetic>(row: &[T], f: impl Fn(f64) -> f64) -> f64 {
    // Eight sums side by side, added up in a fixed order: the same bits every time, and no chain of additions.
    let mut lanes = [0f64; 8];
    let mut chunks = row.chunks_exact(8);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x.to_f64());
        }
    }
    lanes.iter().sum::<f64>() + chunks.remainder().iter().map(|&x| f(x.to_f64())).sum::<f64>()
}

/// `better` of all, 16 side by side (the order does not matter to the result).
fn best_of<T: Arithmetic>(row: &[T], start: T, better: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; 16];
    let mut chunks = row.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = better(*lane, x);
        }
    }
    lanes.iter().chain(chunks.remainder()).fold(start, |best, &x| better(best, x))
}

fn reduced_row<T: Arithmetic>(row: &[T], how: Reduction, lowest: T, highest: T) -> T {
    let one = T::from_f64(1.0);
    match how {
        Reduction::Sum if T::INTEGER => row.iter().fold(T::default(), |sum, &x| sum.add(x)),
        Reduction::SumSquare if T::INTEGER => row.iter().fold(T::default(), |sum, &x| sum.add(x.mul(x))),
        Reduction::Sum => T::from_f64(sum_f64(row, |x| x)),
        Reduction::Mean => T::from_f64(sum_f64(row, |x| x) / row.len() as f64),
        Reduction::Max => best_of(row, lowest, T::larger),
        Reduction::Min => best_of(row, highest, T::smaller),
        Reduction::Prod if T::INTEGER => row.iter().fold(one, |product, &x| product.mul(x)),
        Reduction::Prod => T::from_f64(row.iter().fold(1.0, |product, &x| product * x.to_f64())),
        Reduction::L1 if T::INTEGER => {
            row.iter().fold(T::default(), |sum, &x| sum.add(if x < T::default() { T::default().sub(x) } else { x }))
        }
        Reduction::L1 => T::from_f64(sum_f64(row, f64::abs)),
        Reduction::L2 => T::from_f64(sum_f64(row, |x| x * x).sqrt()),
        Reduction::SumSquare => T::from_f64(sum_f64(row, |x| x * x)),
        Reduction::LogSum => T::from_f64(sum_f64(row, |x| x).ln()),
        Reduction::LogSumExp => {
            let peak = row.iter().fold(f64::NEG_INFINITY, |best, &x| best.larger(x.to_f64()));
            // With an infinite or NaN peak the difference below would be NaN by accident.
            if !peak.is_finite() {
                return T::from_f64(peak);
            }
            T::from_f64(peak + sum_f64(row, |x| (x - peak).exp()).ln())
        }
    }
}

/// The extremes of a type: what Min and Max of nothing give.
trait Extremes {
    const LOWEST: Self;
    const HIGHEST: Self;
}
macro_rules! extremes { ($($type:ty: $low:expr, $high:expr;)*) => { $(impl Extremes for $type { const LOWEST: Self = $low; const HIGHEST: Self = $high; })* } }
extremes! {
    f32: f32::NEG_INFINITY, f32::INFINITY; f64: f64::NEG_INFINITY, f64::INFINITY;
    u8: u8::MIN, u8::MAX; i8: i8::MIN, i8::MAX; u16: u16::MIN, u16::MAX; i16: i16::MIN, i16::MAX;
    u32: u32::MIN, u32::MAX; i32: i32::MIN, i32::MAX; u64: u64::MIN, u64::MAX; i64: i64::MIN, i64::MAX;
}

/// The elements with the kept axes first and the reduced ones last.
pub(super) fn rows_last<T: Element>(x: &Tensor, axes: &[usize]) -> Result<Vec<T>, KernelError> {
    let numbers = slice::<T>(x)?;
    let strides = strides_of(x.dims());
    let order = (0..x.dims().len()).filter(|axis| !axes.contains(axis)).chain(axes.iter().copied());
    let order: Vec<usize> = order.collect();
    let dims: Vec<usize> = order.iter().map(|&axis| x.dims()[axis]).collect();
    let steps: Vec<isize> = order.iter().map(|&axis| strides[axis]).collect();
    Ok(strided(&numbers, 0, &dims, &steps))
}

/// The dimensions after reducing `axes`.
pub(super) fn kept_dims(dims: &[usize], axes: &[usize], keep: bool) -> Vec<usize> {
    let kept = dims.iter().enumerate().filter_map(|(axis, &dim)| match axes.contains(&axis) {
        true => keep.then_some(1),
        false => Some(dim),
    });
    kept.collect()
}

fn reduce(call: &Call<'_>, how: Reduction) -> Outputs {
    let x = call.input(0)?;
    let Some(mut axes) = reduced_axes(call, x.dims().len())? else {
        // No axes: each element is a set of its own.
        return reduce_over(call, x, &[], x.dims(), how);
    };
    axes.sort_unstable();
    let keep = call.op.int("keepdims").unwrap_or(1) != 0;
    reduce_over(call, x, &axes, &kept_dims(x.dims(), &axes, keep), how)
}

fn reduce_over(call: &Call<'_>, x: &Tensor, axes: &[usize], dims: &[usize], how: Reduction) -> Outputs {
    let count = check_size(call, x.dtype(), dims)?;
    let length = product(&axes.iter().map(|&axis| x.dims()[axis]).collect::<Vec<_>>());
    let is_bool = x.dtype() == DataType::Bool;
    if is_bool && !matches!(how, Reduction::Max | Reduction::Min) {
        return failed("booleans have no sum");
    }
    let wide = if is_bool { Tensor::from_vec(x.dims(), slice::<u8>(x)?.into_owned()) } else { widened(x) };
    let out = by_number!(wide.dtype(), T => {
        if length == 0 && how == Reduction::Mean && T::INTEGER {
            return failed("the mean of no integers");
        }
        let (lowest, highest) = (T::LOWEST, if is_bool { T::from_f64(1.0) } else { T::HIGHEST });
        let leading = axes.iter().enumerate().all(|(n, &axis)| axis + axes.len() == x.dims().len() + n);
        let owned;
        let borrowed = slice::<T>(&wide)?;
        let rows: &[T] = if leading {
            &borrowed
        } else {
            owned = rows_last::<T>(&wide, axes)?;
            &owned
        };
        let mut out: Vec<T> = Vec::with_capacity(count);
        if length == 0 {
            out.resize(count, reduced_row(&[], how, lowest, highest));
        } else {
            out.extend(rows.chunks(length).map(|row| reduced_row(row, how, lowest, highest)));
        }
        Tensor::from_vec(dims, out)
    }, return unsupported(format!("reducing {}", x.dtype())));
    if is_bool {
        return one(super::numbers::bool_tensor(dims, slice::<u8>(&out)?.into_owned())?);
    }
    one(narrowed(out, x.dtype()))
}

macro_rules! reductions { ($($(#[$doc:meta])* $name:ident = $how:ident;)*) => { $(
    $(#[$doc])*
    pub(super) fn $name(call: &Call<'_>) -> Outputs { reduce(call, Reduction::$how) }
)* } }
reductions! {
    /// ReduceSum
    sum = Sum;
    /// ReduceMean
    mean = Mean;
    /// ReduceMax
    max = Max;
    /// ReduceMin
    min = Min;
    /// ReduceProd
    prod = Prod;
    /// ReduceL1
    l1 = L1;
    /// ReduceL2
    l2 = L2;
    /// ReduceSumSquare
    sum_square = SumSquare;
    /// ReduceLogSum
    log_sum = LogSum;
    /// ReduceLogSumExp
    log_sum_exp = LogSumExp;
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    fn x() -> Tensor {
        Tensor::from_vec(&[2, 3, 2], (0..12).map(|n| n as f32).collect())
    }

    #[test]
    fn axes_as_attribute_and_as_input() {
        let attributes = vec![attributes::ints("axes", &[0, -1]), attributes::int("keepdims", 0)];
        let out = run_with("ReduceSum", 11, attributes, &[Some(x())]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_f64_vec), Some(vec![14., 22., 30.]));
        let out = run("ReduceMax", 18, &[x(), Tensor::from_vec(&[1], vec![1i64])]);
        assert_eq!((out.dims(), out.to_f64_vec()), (&[2, 1, 2][..], Some(vec![4., 5., 10., 11.])));
        assert_eq!(run("ReduceMean", 18, &[x()]).to_f64_vec(), Some(vec![5.5]));
        let out = run_with("ReduceSum", 13, vec![attributes::int("noop_with_empty_axes", 1)], &[Some(x())]);
        assert_eq!(out.expect("runs")[0], Some(x()));
        let twice = vec![attributes::ints("axes", &[1, -2])];
        assert!(run_with("ReduceSum", 11, twice, &[Some(x())]).is_err());
    }

    #[test]
    fn nothing_gives_the_neutral_element() {
        let empty = Tensor::from_vec(&[2, 0], Vec::<f32>::new());
        let axes = Tensor::from_vec(&[1], vec![1i64]);
        let all = |op: &str| run(op, 18, &[empty.clone(), axes.clone()]).to_f64_vec().expect("floats")[0];
        assert_eq!((all("ReduceSum"), all("ReduceProd"), all("ReduceMax")), (0.0, 1.0, f64::NEG_INFINITY));
        assert!(all("ReduceMean").is_nan());
        assert_eq!(all("ReduceLogSumExp"), f64::NEG_INFINITY);
    }

    #[test]
    fn a_nan_is_the_extreme_wherever_it_stands() {
        for place in [0, 15, 31, 39] {
            let mut x: Vec<f32> = (0..40).map(|n| n as f32).collect();
            x[place] = f32::NAN;
            for op in ["ReduceMax", "ReduceMin"] {
                let out = run(op, 18, &[Tensor::from_vec(&[40], x.clone())]).to_f64_vec().expect("floats");
                assert!(out[0].is_nan(), "{op} {place}");
            }
        }
        let x = Tensor::from_vec(&[40], (0..40).map(|n| (n * 7 % 40) as f32).collect());
        assert_eq!(run("ReduceMax", 18, &[x]).to_f64_vec(), Some(vec![39.0]));
    }

    #[test]
    fn integers_wrap_and_booleans_have_extremes() {
        let out = run("ReduceSum", 13, &[Tensor::from_vec(&[2], vec![i32::MAX, 1])]);
        assert_eq!(out.to_i64_vec(), Some(vec![i64::from(i32::MIN)]));
        let out = run("ReduceMin", 20, &[Tensor::from_bools(&[2], &[true, false])]);
        assert_eq!((out.dtype(), out.to_i64_vec()), (DataType::Bool, Some(vec![0])));
    }
}
