//! MatMulInteger, QLinearMatMul, and the MatMuls that have no float engine: integers, and vector times vector.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    integer_conv::{dot, eight_bits, requantized},
    layout::{
        Outputs, broadcast_dims, broadcast_strides, check_size, failed, integers, one, product, rows, strided,
        unsupported,
    },
    numbers::{by_type, is_half, narrowed, slice, widened},
};
use crate::kernel::{Call, KernelError};

/// The shapes of a product as numpy.matmul has them.
struct Shapes {
    rows: usize,
    inner: usize,
    columns: usize,
    /// Dimensions of the result
    dims: Vec<usize>,
    /// For every pair of matrices in the broadcast batch: which of `a`, which of `b`
    pairs: Vec<(usize, usize)>,
}

impl Shapes {
    fn of(a: &[usize], b: &[usize]) -> Result<Shapes, KernelError> {
        let (Some(&inner), Some(_)) = (a.last(), b.last()) else {
            return failed("a matrix product takes no scalars");
        };
        let rows_count = if a.len() > 1 { a[a.len() - 2] } else { 1 };
        let (found, columns) = if b.len() > 1 { (b[b.len() - 2], b[b.len() - 1]) } else { (b[0], 1) };
        if found != inner {
            return failed(format!("shapes {a:?} and {b:?} do not fit a matrix product"));
        }
        let (batch_a, batch_b) = (&a[..a.len().saturating_sub(2)], &b[..b.len().saturating_sub(2)]);
        let batch = broadcast_dims(batch_a, batch_b)?;
        let (sa, sb) = (broadcast_strides(batch_a, &batch)?, broadcast_strides(batch_b, &batch)?);
        let mut pairs = Vec::new();
        let mut all = batch.clone();
        all.push(1);
        let (mut sa1, mut sb1) = (sa, sb);
        sa1.push(0);
        sb1.push(0);
        rows(&all, [&sa1, &sb1], |[a, b]| pairs.push((a as usize, b as usize)));
        let mut dims = batch;
        if a.len() > 1 {
            dims.push(rows_count);
        }
        if b.len() > 1 {
            dims.push(columns);
        }
        Ok(Shapes { rows: rows_count, inner, columns, dims, pairs })
    }
}

/// The dimensions of a scale or zero point as they broadcast over the tensor it belongs to; one number a row stands in a
/// column.
fn row_dims(dims: &[usize], by_row: bool) -> Vec<usize> {
    match dims {
        [count] if by_row && *count != 1 => vec![*count, 1],
        _ => dims.to_vec(),
    }
}

/// `tensor` less its zero point.
fn centred(tensor: &Tensor, zero: Option<&Tensor>, by_row: bool) -> Result<Vec<i16>, KernelError> {
    let mut numbers = eight_bits(tensor)?;
    let Some(zero) = zero else { return Ok(numbers) };
    if zero.dtype() != tensor.dtype() {
        return failed(format!("a zero point is {}, its tensor {}", zero.dtype(), tensor.dtype()));
    }
    let zeros: Vec<i16> = integers(zero, "a zero point")?.into_iter().map(|zero| zero as i16).collect();
    if let [zero] = zeros[..] {
        numbers.iter_mut().for_each(|number| *number -= zero);
        return Ok(numbers);
    }
    let strides = broadcast_strides(&row_dims(zero.dims(), by_row && tensor.dims().len() > 1), tensor.dims())?;
    let zeros = strided(&zeros, 0, tensor.dims(), &strides);
    numbers.iter_mut().zip(zeros).for_each(|(number, zero)| *number -= zero);
    Ok(numbers)
}

/// `matrix` [inner, columns] with its columns side by side.
fn transposed<T: Copy>(matrix: &[T], inner: usize, columns: usize) -> Vec<T> {
    strided(matrix, 0, &[columns, inner], &[1, columns as isize])
}

fn sums(call: &Call<'_>, shapes: &Shapes, a: &[i16], b: &[i16]) -> Result<Vec<i32>, KernelError> {
    let mut out = vec![0i32; check_size(call, DataType::Int32, &shapes.dims)?];
    let (area, length) = (shapes.rows * shapes.columns, shapes.inner);
    if area == 0 || length == 0 {
        return Ok(out);
    }
    let mut last = None;
    let mut columns = Vec::new();
    for (out, &(at, bt)) in out.chunks_mut(area).zip(&shapes.pairs) {
        if last != Some(bt) {
            columns = transposed(&b[bt * length * shapes.columns..][..length * shapes.columns], length, shapes.columns);
            last = Some(bt);
        }
        let matrix = &a[at * shapes.rows * length..][..shapes.rows * length];
        for (out, row) in out.chunks_mut(shapes.columns).zip(matrix.chunks(length)) {
            for (out, column) in out.iter_mut().zip(columns.chunks(length)) {
                *out = dot(row, column);
            }
        }
    }
    Ok(out)
}

/// MatMulInteger.
pub(super) fn matmul_integer(call: &Call<'_>) -> Outputs {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let shapes = Shapes::of(a.dims(), b.dims())?;
    let out = sums(call, &shapes, &centred(a, call.optional(2), true)?, &centred(b, call.optional(3), false)?)?;
    one(Tensor::from_vec(&shapes.dims, out))
}

/// QLinearMatMul: the sums times `a_scale·b_scale/y_scale`, quantized.
pub(super) fn qlinear_matmul(call: &Call<'_>) -> Outputs {
    let (a, b) = (call.input(0)?, call.input(3)?);
    let shapes = Shapes::of(a.dims(), b.dims())?;
    let sums =
        sums(call, &shapes, &centred(a, Some(call.input(2)?), true)?, &centred(b, Some(call.input(5)?), false)?)?;
    let scales = [widened(call.input(1)?), widened(call.input(4)?), widened(call.input(6)?)];
    let [sa, sb, sy] = [slice::<f32>(&scales[0])?, slice::<f32>(&scales[1])?, slice::<f32>(&scales[2])?];
    let [sy] = sy[..] else { return unsupported("an output scale for each row") };
    let steps: Vec<f32> = if let ([sa], [sb]) = (&sa[..], &sb[..]) {
        let factor = sa * sb / sy;
        sums.iter().map(|&sum| sum as f32 * factor).collect()
    } else {
        let spread = |scale: &[f32], dims: &[usize], by_row| -> Result<Vec<f32>, KernelError> {
            let strides = broadcast_strides(&row_dims(dims, by_row), &shapes.dims)?;
            Ok(strided(scale, 0, &shapes.dims, &strides))
        };
        let sa = spread(&sa, scales[0].dims(), a.dims().len() > 1)?;
        let sb = spread(&sb, scales[1].dims(), false)?;
        sums.iter().zip(sa.iter().zip(&sb)).map(|(&sum, (sa, sb))| sum as f32 * (sa * sb / sy)).collect()
    };
    requantized(&steps, &shapes.dims, call.input(7)?)
}

/// MatMul of integers (wrapping), and of two vectors.
pub(super) fn matmul(call: &Call<'_>) -> Outputs {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let dtype = a.dtype();
    if dtype != b.dtype() {
        return failed(format!("a product of {dtype} and {}", b.dtype()));
    }
    let vectors = a.dims().len() == 1 && b.dims().len() == 1;
    if !(dtype.is_integer() || (vectors && dtype.is_float())) {
        return unsupported(format!("matrix products of {dtype}"));
    }
    let shapes = Shapes::of(a.dims(), b.dims())?;
    if vectors && dtype.is_float() {
        let (wa, wb) = (widened(a), widened(b));
        if wa.len() != wb.len() {
            return failed("vectors of different lengths");
        }
        if dtype == DataType::Double {
            let (a, b) = (slice::<f64>(&wa)?, slice::<f64>(&wb)?);
            return one(Tensor::scalar(a.iter().zip(b.iter()).map(|(a, b)| a * b).sum::<f64>()));
        }
        let (a, b) = (slice::<f32>(&wa)?, slice::<f32>(&wb)?);
        let sum = a.iter().zip(b.iter()).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32;
        let result = Tensor::scalar(sum);
        return one(if is_half(dtype) { narrowed(result, dtype) } else { result });
    }
    check_size(call, dtype, &shapes.dims)?;
    by_type!(dtype, [Uint32 = u32, Int32 = i32, Uint64 = u64, Int64 = i64], T => {
        let (a, b) = (slice::<T>(a)?, slice::<T>(b)?);
        let mut out: Vec<T> = vec![0; product(&shapes.dims)];
        let area = shapes.rows * shapes.columns;
        if area > 0 && shapes.inner > 0 {
            for (out, &(at, bt)) in out.chunks_mut(area).zip(&shapes.pairs) {
                let a = &a[at * shapes.rows * shapes.inner..][..shapes.rows * shapes.inner];
                let b = &b[bt * shapes.inner * shapes.columns..][..shapes.inner * shapes.columns];
                for (out, row) in out.chunks_mut(shapes.columns).zip(a.chunks(shapes.inner)) {
                    for (&x, line) in row.iter().zip(b.chunks(shapes.columns)) {
                        for (out, &y) in out.iter_mut().zip(line) {
                            *out = out.wrapping_add(x.wrapping_mul(y));
                        }
                    }
                }
            }
        }
        one(Tensor::from_vec(&shapes.dims, out))
    }, unsupported(format!("matrix products of {dtype}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::run;

    #[test]
    fn zero_points_by_row_and_by_column() {
        let a = Tensor::from_vec(&[2, 2], vec![1u8, 2, 3, 4]);
        let b = Tensor::from_vec(&[2, 2], vec![1i8, 2, 3, 4]);
        let zeros = (Tensor::from_vec(&[2], vec![1u8, 3]), Tensor::from_vec(&[2], vec![1i8, 2]));
        let out = run("MatMulInteger", 10, &[a, b, zeros.0, zeros.1]);
        assert_eq!(out.to_i64_vec(), Some(vec![2, 2, 2, 2]));
    }

    #[test]
    fn vectors_and_broadcast_batches() {
        let out = run("MatMul", 13, &[Tensor::from_vec(&[2], vec![1f32, 2.]), Tensor::from_vec(&[2], vec![3f32, 4.])]);
        assert_eq!((out.dims(), out.to_f64_vec()), (&[][..], Some(vec![11.0])));
        let a = Tensor::from_vec(&[2, 1, 1, 2], vec![1i64, 2, 3, 4]);
        let out = run("MatMul", 13, &[a, Tensor::from_vec(&[2, 1], vec![1i64, 10])]);
        assert_eq!((out.dims(), out.to_i64_vec()), (&[2, 1, 1, 1][..], Some(vec![21, 43])));
    }
}
