//! Dense matrices: the factor of a positive matrix, block by block, with the products of `ndarray`.
//!
//! **Never** pivots or repairs: a matrix that is not positive has no factor. The sums are in a fixed order.
use ndarray::{Array2, Axis, linalg::general_mat_mul, s};

/// Columns that are factored at once.
const BLOCK: usize = 48;

/// The matrix of `rows` × `columns` whose entries `entry` gives.
pub fn matrix(rows: usize, columns: usize, entry: impl Fn(usize, usize) -> f64) -> Array2<f64> {
    Array2::from_shape_fn((rows, columns), |(i, j)| entry(i, j))
}

/// The lower triangular L with L·Lᵀ = A.
#[derive(Clone, Debug)]
pub struct Cholesky(Array2<f64>);

impl Cholesky {
    /// The factor of a symmetric matrix, of which the lower triangle is read; `None` when a pivot is not positive.
    pub fn of(mut a: Array2<f64>) -> Option<Cholesky> {
        let count = a.nrows();
        for start in (0..count).step_by(BLOCK) {
            let end = (start + BLOCK).min(count);
            // The block on the diagonal and the rows below it, one column after the other.
            for k in start..end {
                let pivot = a[(k, k)];
                if !(pivot > 0.0 && pivot.is_finite()) {
                    return None;
                }
                let pivot = pivot.sqrt();
                a[(k, k)] = pivot;
                for i in k + 1..count {
                    a[(i, k)] /= pivot;
                }
                for i in k + 1..count {
                    let factor = a[(i, k)];
                    for j in k + 1..end.min(i + 1) {
                        a[(i, j)] -= factor * a[(j, k)];
                    }
                }
            }
            // What is right of the block, as one product.
            if end < count {
                let (_, rest) = a.view_mut().split_at(Axis(0), end);
                let (left, mut right) = rest.split_at(Axis(1), end);
                let panel = left.slice(s![.., start..end]).to_owned();
                general_mat_mul(-1.0, &panel, &panel.t(), 1.0, &mut right);
            }
        }
        Some(Cholesky(a))
    }

    /// Lᵀ, with zeros below its diagonal.
    pub fn upper(&self) -> Array2<f64> {
        let l = &self.0;
        matrix(l.nrows(), l.nrows(), |i, j| if j >= i { l[(j, i)] } else { 0.0 })
    }

    /// A⁻¹·B.
    pub fn solve(&self, mut b: Array2<f64>) -> Array2<f64> {
        let l = &self.0;
        let count = l.nrows();
        let blocks: Vec<(usize, usize)> =
            (0..count).step_by(BLOCK).map(|start| (start, (start + BLOCK).min(count))).collect();
        for &(start, end) in &blocks {
            for i in start..end {
                for k in start..i {
                    subtract(&mut b, i, k, l[(i, k)]);
                }
                let pivot = l[(i, i)];
                b.row_mut(i).mapv_inplace(|x| x / pivot);
            }
            let (known, mut rest) = b.view_mut().split_at(Axis(0), end);
            if end < count {
                general_mat_mul(-1.0, &l.slice(s![end.., start..end]), &known.slice(s![start.., ..]), 1.0, &mut rest);
            }
        }
        for &(start, end) in blocks.iter().rev() {
            for i in (start..end).rev() {
                for k in i + 1..end {
                    subtract(&mut b, i, k, l[(k, i)]);
                }
                let pivot = l[(i, i)];
                b.row_mut(i).mapv_inplace(|x| x / pivot);
            }
            let (mut rest, known) = b.view_mut().split_at(Axis(0), start);
            if start > 0 {
                let left = l.slice(s![start..end, ..start]);
                general_mat_mul(-1.0, &left.t(), &known.slice(s![..end - start, ..]), 1.0, &mut rest);
            }
        }
        b
    }
}

/// Row `i` of `b` less `factor` times row `k`.
fn subtract(b: &mut Array2<f64>, i: usize, k: usize, factor: f64) {
    let (mut row, other) = b.multi_slice_mut((s![i, ..], s![k, ..]));
    row.scaled_add(-factor, &other);
}

#[cfg(test)]
mod tests {
    use super::{Cholesky, matrix};
    use ndarray::Array2;

    #[test]
    fn a_solution_solves_for_every_size_around_the_block() {
        for count in [1, 5, 47, 48, 49, 100, 150] {
            let root = matrix(count, count, |i, j| ((i * 7 + j * 13) % 11) as f64 / 11.0 - 0.4);
            let a = root.dot(&root.t()) + Array2::<f64>::eye(count);
            let x = matrix(count, 3, |i, j| (i + j) as f64 % 5.0 - 2.0);
            let found = Cholesky::of(a.clone()).expect("positive").solve(a.dot(&x));
            assert!((&found - &x).iter().all(|error| error.abs() < 1e-8), "{count}");
            let upper = Cholesky::of(a.clone()).expect("positive").upper();
            assert!((&upper.t().dot(&upper) - &a).iter().all(|error| error.abs() < 1e-8), "{count}");
        }
    }

    #[test]
    fn what_is_not_positive_has_no_factor() {
        assert!(Cholesky::of(matrix(2, 2, |i, j| if i == j { 1.0 } else { 2.0 })).is_none());
        assert!(Cholesky::of(matrix(1, 1, |_, _| f64::NAN)).is_none());
        assert!(Cholesky::of(matrix(0, 0, |_, _| 0.0)).is_some());
    }
}
