//! The one least-squares solver: what weights reproduce given targets best on given inputs.
//!
//! A layer is `t ≈ Wᵀ·x` for rows `x` (im2col of its input, with a 1 at the end where it has a bias) and `t` (what it ought
//! to give). All that is kept of the data is their second moments, a [`Gram`], in f64: its size depends on the layer alone,
//! so samples stream. From it follow the solution with damping, the error of any weights without looking at the data again
//! (so that data that were not fitted can judge), and the inverse that orders channels or rounds weights one by one.
//!
//! **Never** depends on threads: samples go to a fixed number of [`LANES`], each in order, which are added in order.
//! **Source:** `docs/methods.md` §5, §9; damping: Hoerl and Kennard 1970.
mod dense;

pub use dense::{Cholesky, matrix};

use ndarray::{Array1, Array2, ArrayView2, Axis, linalg::general_mat_mul, s};

/// Sums that run beside each other, whatever the number of threads.
pub const LANES: usize = 4;

/// Damping to begin with, in shares of the mean diagonal: 1e-5 to 0.1 are equal (`docs/methods.md` §9, recipe 8).
pub const DAMPING: f64 = 0.01;

/// Columns of the moments that are summed at once.
const PANEL: usize = 96;

/// Second moments of the inputs and targets of a layer.
#[derive(Clone, Debug)]
pub struct Gram {
    /// Rows that were added
    pub rows: f64,
    /// Whether the last input is the constant 1, whose weight is the bias and is not damped
    pub biased: bool,
    /// Σ x·xᵀ
    xx: Array2<f64>,
    /// Σ x·tᵀ
    xt: Array2<f64>,
    /// Σ t², by target
    tt: Array1<f64>,
}

impl Gram {
    /// No rows yet, of `inputs` numbers (the constant included) and `targets` numbers.
    pub fn new(inputs: usize, targets: usize, biased: bool) -> Gram {
        Gram {
            rows: 0.0,
            biased,
            xx: Array2::zeros((inputs, inputs)),
            xt: Array2::zeros((inputs, targets)),
            tt: Array1::zeros(targets),
        }
    }

    /// Numbers in a row of inputs.
    pub fn inputs(&self) -> usize {
        self.xx.nrows()
    }

    /// Numbers in a row of targets.
    pub fn targets(&self) -> usize {
        self.xt.ncols()
    }

    /// More rows: `x` of shape [rows, inputs] and `t` of shape [rows, targets], row-major.
    ///
    /// # Panics
    /// When the lengths do not fit: a mistake of the caller.
    pub fn add(&mut self, x: &[f64], t: &[f64]) {
        self.sum(x, t, true);
    }

    /// Adds targets `t` of rows `x` whose inputs are in it by now.
    ///
    /// # Panics
    /// As [`Gram::add`].
    pub fn add_targets(&mut self, x: &[f64], t: &[f64]) {
        self.sum(x, t, false);
    }

    fn sum(&mut self, x: &[f64], t: &[f64], with_inputs: bool) {
        let rows = x.len() / self.inputs().max(1);
        let (Ok(x), Ok(t)) =
            (ArrayView2::from_shape((rows, self.inputs()), x), ArrayView2::from_shape((rows, self.targets()), t))
        else {
            unreachable!("rows of inputs and targets are equally many and whole")
        };
        if with_inputs {
            self.rows += rows as f64;
            self.sum_inputs(x);
        }
        if self.targets() > 0 {
            general_mat_mul(1.0, &x.t(), &t, 1.0, &mut self.xt);
            self.tt += &t.mapv(|t| t * t).sum_axis(Axis(0));
        }
    }

    /// Adds x·xᵀ: what is right of the diagonal, panel by panel, and then the same below it.
    fn sum_inputs(&mut self, x: ArrayView2<'_, f64>) {
        let count = self.inputs();
        for start in (0..count).step_by(PANEL) {
            let end = (start + PANEL).min(count);
            let (left, right) = (x.slice(s![.., ..end]), x.slice(s![.., start..end]));
            general_mat_mul(1.0, &left.t(), &right, 1.0, &mut self.xx.slice_mut(s![..end, start..end]));
        }
        for start in (0..count).step_by(PANEL) {
            let end = (start + PANEL).min(count);
            let (above, mut below) = self.xx.multi_slice_mut((s![..start, start..end], s![start..end, ..start]));
            below.assign(&above.t());
        }
    }

    /// The same inputs with no targets yet: [`Gram::add_targets`] of the same rows gives others.
    #[must_use]
    pub fn without_targets(&self) -> Gram {
        Gram { xt: Array2::zeros(self.xt.dim()), tt: Array1::zeros(self.tt.len()), ..self.clone() }
    }

    /// Adds what another one saw.
    ///
    /// # Panics
    /// When it is of another size: a mistake of the caller.
    pub fn merge(&mut self, other: &Gram) {
        self.rows += other.rows;
        self.xx += &other.xx;
        self.xt += &other.xt;
        self.tt += &other.tt;
    }

    /// The same with targets `wᵀ·x`: what a layer of weights `w` gives on its own inputs.
    #[must_use]
    pub fn with_targets_of(&self, w: ArrayView2<'_, f64>) -> Gram {
        let xt = self.xx.dot(&w);
        let tt = (&xt * &w).sum_axis(Axis(0));
        Gram { rows: self.rows, biased: self.biased, xx: self.xx.clone(), xt, tt }
    }

    /// The same with these inputs alone, ascending (the constant among them where there is one).
    #[must_use]
    pub fn select(&self, inputs: &[usize]) -> Gram {
        let xx = matrix(inputs.len(), inputs.len(), |i, j| self.xx[(inputs[i], inputs[j])]);
        let xt = self.xt.select(Axis(0), inputs);
        Gram { rows: self.rows, biased: self.biased, xx, xt, tt: self.tt.clone() }
    }

    /// The same about the means, without the constant: what is left when the bias is the best one. As it is where there is none.
    #[must_use]
    pub fn centred(&self) -> Gram {
        if !self.biased {
            return self.clone();
        }
        let count = self.inputs() - 1;
        if self.rows == 0.0 {
            return Gram::new(count, self.targets(), false); // there is no mean, and nothing about it
        }
        let (x, t) = (self.xx.row(count), self.xt.row(count));
        let xx = matrix(count, count, |i, j| self.xx[(i, j)] - x[i] * x[j] / self.rows);
        let xt = matrix(count, self.targets(), |i, j| self.xt[(i, j)] - x[i] * t[j] / self.rows);
        let tt = &self.tt - &t.mapv(|t| t * t / self.rows);
        Gram { rows: self.rows, biased: false, xx, xt, tt }
    }

    /// The biases of least error for weights of shape [inputs without the constant, targets]; `None` where there is no bias.
    pub fn biases(&self, w: ArrayView2<'_, f64>) -> Option<Array1<f64>> {
        let count = self.inputs().checked_sub(1).filter(|_| self.biased && self.rows > 0.0)?;
        let means = self.xx.slice(s![count, ..count]).dot(&w);
        Some((&self.xt.row(count) - &means) / self.rows)
    }

    /// Σ x·xᵀ.
    pub fn moments(&self) -> ArrayView2<'_, f64> {
        self.xx.view()
    }

    /// Whether rows tell anything of the weights: some input, the constant aside, is not always 0.
    pub fn tells(&self) -> bool {
        let count = self.inputs() - usize::from(self.biased && self.inputs() > 0);
        (0..count).any(|k| self.xx[(k, k)] > 0.0)
    }

    /// Σ t² over all targets.
    pub fn signal(&self) -> f64 {
        self.tt.sum()
    }

    /// Σ (t − wᵀ·x)² over all rows and targets, for weights of shape [inputs, targets].
    pub fn error(&self, w: ArrayView2<'_, f64>) -> f64 {
        let fitted = (&self.xx.dot(&w) - &(&self.xt * 2.0)) * w;
        (self.signal() + fitted.sum()).max(0.0)
    }

    /// Σ x·xᵀ with `damping` shares of the mean diagonal added to it; the constant's place is left almost alone.
    pub fn damped(&self, damping: f64) -> (Array2<f64>, Vec<f64>) {
        let count = self.inputs();
        let free = count - usize::from(self.biased && count > 0);
        let mean = (0..free).map(|k| self.xx[(k, k)]).sum::<f64>() / free.max(1) as f64;
        let ridge = |k: usize| {
            let share = if k < free { damping * mean } else { 1e-9 * self.rows };
            share.max(f64::MIN_POSITIVE)
        };
        let ridges: Vec<f64> = (0..count).map(ridge).collect();
        let mut moments = self.xx.clone();
        for (k, ridge) in ridges.iter().enumerate() {
            moments[(k, k)] += ridge;
        }
        (moments, ridges)
    }

    /// The weights of least error, drawn towards `prior` by `damping`; both of shape [inputs, targets]. `None` where the
    /// moments are not finite or not positive in spite of the damping.
    pub fn solve(&self, damping: f64, prior: ArrayView2<'_, f64>) -> Option<Array2<f64>> {
        let (moments, ridges) = self.damped(damping);
        let right = matrix(self.inputs(), self.targets(), |i, j| self.xt[(i, j)] + ridges[i] * prior[(i, j)]);
        let solution = Cholesky::of(moments)?.solve(right);
        solution.iter().all(|number| number.is_finite()).then_some(solution)
    }

    /// The inverse of the damped moments; `None` as for [`Gram::solve`].
    pub fn inverse(&self, damping: f64) -> Option<Array2<f64>> {
        let (moments, _) = self.damped(damping);
        let inverse = Cholesky::of(moments)?.solve(Array2::eye(self.inputs()));
        inverse.iter().all(|number| number.is_finite()).then_some(inverse)
    }
}

/// What became of the weights of one layer.
#[derive(Clone, Debug)]
pub struct Repair {
    /// The weights, of shape [inputs, targets]
    pub weights: Array2<f64>,
    /// Relative squared error on the data that judge, with the weights as they were
    pub before: f64,
    /// And with these
    pub after: f64,
    /// The damping that was taken; `None`: no solution was better, the weights are as they were
    pub damping: Option<f64>,
}

/// Solves for weights on `fit` and keeps them only if they are better than `prior` on `judge`, which was not fitted; else
/// with ten times the damping, four times.
pub fn repair(fit: &Gram, judge: &Gram, prior: ArrayView2<'_, f64>) -> Repair {
    let signal = judge.signal().max(f64::MIN_POSITIVE);
    let before = judge.error(prior) / signal;
    let mut damping = DAMPING;
    for _ in 0..4 {
        if let Some(weights) = fit.solve(damping, prior) {
            let after = judge.error(weights.view()) / signal;
            if after < before {
                return Repair { weights, before, after, damping: Some(damping) };
            }
        }
        damping *= 10.0;
    }
    Repair { weights: prior.to_owned(), before, after: before, damping: None }
}

#[cfg(test)]
mod tests {
    use super::{Gram, matrix, repair};
    use ndarray::{Array2, s};

    /// Rows of `count` inputs and a constant, and targets by known weights.
    fn rows(count: usize, rows: usize, seed: u64) -> (Vec<f64>, Vec<f64>, Array2<f64>) {
        let mut state = seed;
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
        };
        let w = matrix(count + 1, 2, |i, j| (i as f64 - 2.0 * j as f64) / 3.0);
        let (mut x, mut t) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            let start = x.len();
            x.extend((0..count).map(|_| number()));
            x.push(1.0);
            for j in 0..2 {
                t.push(x[start..].iter().enumerate().map(|(i, x)| x * w[(i, j)]).sum());
            }
        }
        (x, t, w)
    }

    #[test]
    fn the_weights_that_made_the_targets_are_found_and_leave_no_error() {
        let (x, t, w) = rows(6, 100, 7);
        let mut gram = Gram::new(7, 2, true);
        gram.add(&x, &t);
        assert!(gram.error(w.view()) < 1e-9 * gram.signal());
        let zero = Array2::zeros((7, 2));
        let found = gram.solve(1e-9, zero.view()).expect("a solution");
        assert!((0..7).all(|i| (0..2).all(|j| (found[(i, j)] - w[(i, j)]).abs() < 1e-6)));
        let repaired = repair(&gram, &gram, zero.view());
        assert!(repaired.before > 0.9 && repaired.after < 0.01, "{repaired:?}");
    }

    #[test]
    fn about_the_means_the_error_is_that_with_the_best_biases() {
        let (x, t, w) = rows(6, 40, 5);
        let mut gram = Gram::new(7, 2, true);
        gram.add(&x, &t);
        let mut off = w.clone();
        off[(1, 0)] += 0.3;
        off[(4, 1)] -= 0.2;
        let inner = off.slice(s![..6, ..]);
        let biases = gram.biases(inner).expect("there is a bias");
        off.row_mut(6).assign(&biases);
        let (with, about) = (gram.error(off.view()), gram.centred().error(off.slice(s![..6, ..])));
        assert!(with > 0.0 && (with - about).abs() < 1e-9 * gram.signal(), "{with} {about}");
        off[(6, 0)] += 0.01;
        assert!(gram.error(off.view()) > with);
    }

    #[test]
    fn without_rows_there_is_nothing_about_the_means_and_nothing_is_told() {
        let mut gram = Gram::new(5, 2, true);
        assert_eq!((gram.centred().inputs(), gram.tells()), (4, false));
        gram.add(&[0.0, 0.0, 0.0, 0.0, 1.0], &[3.0, 4.0]);
        assert!(!gram.tells(), "the constant alone tells of the bias, not of the weights");
        gram.add(&[0.0, 2.0, 0.0, 0.0, 1.0], &[3.0, 4.0]);
        assert!(gram.tells());
    }

    #[test]
    fn parts_merge_to_the_whole_and_a_selection_is_the_gram_of_the_selected() {
        let (x, t, _) = rows(4, 30, 3);
        let mut whole = Gram::new(5, 2, true);
        whole.add(&x, &t);
        let mut parts = Gram::new(5, 2, true);
        parts.add(&x[..50], &t[..20]);
        let mut rest = Gram::new(5, 2, true);
        rest.add(&x[50..], &t[20..]);
        parts.merge(&rest);
        let far = |a: &Gram, b: &Gram| (&a.moments() - &b.moments()).iter().any(|x| x.abs() > 1e-12);
        assert!(!far(&parts, &whole));
        let kept: Vec<f64> = x.chunks(5).flat_map(|row| [row[1], row[3], row[4]]).collect();
        let mut direct = Gram::new(3, 2, true);
        direct.add(&kept, &t);
        assert!(!far(&direct, &whole.select(&[1, 3, 4])));
    }

    #[test]
    fn weights_that_the_judge_does_not_like_are_not_taken() {
        let (x, t, w) = rows(5, 40, 1);
        let mut judge = Gram::new(6, 2, true);
        judge.add(&x, &t);
        let (x, t, _) = rows(5, 3, 2);
        let wrong: Vec<f64> = t.iter().map(|t| -t).collect();
        let mut fit = Gram::new(6, 2, true);
        fit.add(&x, &wrong);
        let repaired = repair(&fit, &judge, w.view());
        assert_eq!(repaired.damping, None);
        assert_eq!(repaired.weights, w);
    }

    #[test]
    fn inputs_that_are_all_zero_keep_their_weights() {
        let mut gram = Gram::new(2, 1, false);
        gram.add(&[1.0, 0.0, 2.0, 0.0], &[2.0, 4.0]);
        let prior = matrix(2, 1, |i, _| i as f64 + 5.0);
        let found = gram.solve(1e-6, prior.view()).expect("a solution");
        assert!((found[(1, 0)] - 6.0).abs() < 1e-6 && (found[(0, 0)] - 2.0).abs() < 1e-4);
    }
}
