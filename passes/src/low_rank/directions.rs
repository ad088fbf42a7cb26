//! Low-rank products in place of one: which directions of a layer's outputs are kept, and what that loses.
//!
//! A layer gives y = x·W + b for rows x. With E the first `rank` eigenvectors of a matrix S of the outputs, W becomes
//! (W·E·Λ⁻ᵖ)·(Λᵖ·Eᵀ), and what the mean output loses goes into the bias exactly. *Plain*: S = Wᵀ·W, the singular value
//! decomposition. *Data-aware*: S is the covariance of the outputs over samples; the mean squared error of the layer is then
//! the sum of the eigenvalues that are left out (principal components of the responses: Zhang et al. 2015).
//! Λ are the eigenvalues; p = ¼ makes both factors quantize equally well.
//!
//! **Never** depends on threads or on the signs and order that a decomposition happens to give.
use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::{Array1, Array2, s};
use onnx_shrink_ir::{
    Evaluate, Graph, OpId, Prepared, ValueId,
    ops::{Conv, LayerKind, WeightedLayer},
};

use crate::{
    Miss, SampleError, SampleSource,
    numerics::solver::{Gram, LANES},
    prune::layer::{Layer, Positions},
    samples::fold_in_order,
};

/// Share of the measured covariance where the rows are too few to tell all directions; the rest is Wᵀ·W. Without it a
/// layer that saw 55 rows seems to have rank 54.
const MEASURED_SHARE: f64 = 0.4;

/// Rows for each output from which on the covariance stands alone.
const ENOUGH_ROWS: f64 = 4.0;

/// Share of an output's mean square below which its variance is rounding.
const SAME: f64 = 1e-12;

/// Exponent of the eigenvalues in the second factor.
const SPREAD: f64 = 0.25;

/// A layer that can be split.
#[derive(Clone, Debug)]
pub struct Splittable {
    /// The layer
    pub layer: Layer,
    /// Its weights, of shape [inputs, outputs]
    weights: Array2<f64>,
    /// Its bias; zeros where it has none
    bias: Array1<f64>,
    /// Whether a bias can be added to or changed
    shifts: bool,
}

/// The directions of a layer's outputs, the strongest first.
#[derive(Clone, Debug)]
pub struct Directions {
    /// One direction a column
    vectors: Array2<f64>,
    /// Their strengths, none negative
    strengths: Vec<f64>,
    /// The mean of the outputs without their bias, where directions are around it
    mean: Option<Array1<f64>>,
}

/// What a layer becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// Of shape [inputs, rank]
    pub first: Array2<f64>,
    /// Of shape [rank, outputs]
    pub second: Array2<f64>,
    /// The bias, one number an output; `None`: it stays as it is
    pub bias: Option<Array1<f64>>,
}

impl Splittable {
    /// The op as a layer to be split; `Err(NotThisPattern)` for what is no fully connected layer.
    pub fn of(graph: &Graph, op: OpId) -> Result<Splittable, Miss> {
        let weighted = WeightedLayer::of_floats(graph, op).filter(|layer| layer.kind != LayerKind::ConvTranspose);
        let weighted = weighted.ok_or(Miss::NotThisPattern)?;
        let dims = weighted.constant(graph).ok_or(Miss::NotThisPattern)?.dims();
        if weighted.is_conv() {
            let shape = weighted.layout.shape(dims).filter(|shape| shape.taps() == 1 && shape.groups == 1);
            shape.ok_or(Miss::NotThisPattern)?;
            if Conv::of(graph, op).is_some_and(|conv| conv.pads.iter().any(|pad| *pad != 0)) {
                return Err(Miss::Form("a 1x1 convolution with padding"));
            }
        }
        let layer = Layer::with_any_bias(graph, op)
            .ok_or(Miss::Form("its weight has other uses, or is no plain float matrix"))?;
        let rows = layer.weights(graph).ok_or(Miss::NotConstant(weighted.weight))?;
        let weights = rows.slice(s![..layer.inputs, ..]).to_owned();
        let bias = match layer.bias {
            Some(_) => rows.row(layer.inputs).to_owned(),
            None => Array1::zeros(layer.outputs),
        };
        let shifts = layer.bias.is_some() || weighted.bias_input.is_some();
        Ok(Splittable { layer, weights, bias, shifts })
    }

    /// Numbers in the weights.
    pub fn numbers(&self) -> usize {
        self.layer.inputs * self.layer.outputs
    }

    /// The largest rank that there is: of full information.
    pub fn full_rank(&self) -> usize {
        self.layer.inputs.min(self.layer.outputs)
    }

    /// Numbers in both factors of rank `rank`.
    pub fn numbers_at(&self, rank: usize) -> usize {
        rank * (self.layer.inputs + self.layer.outputs)
    }

    /// The rank at which both factors have as many numbers as the weights: u·v/(u+v).
    pub fn break_even(&self) -> f64 {
        self.numbers() as f64 / (self.layer.inputs + self.layer.outputs) as f64
    }

    /// A place for the moments of its outputs.
    pub fn moments(&self) -> Gram {
        Gram::new(self.layer.outputs + 1, 0, true)
    }

    /// Whether `moments` tell which of its outputs occur: there are rows, and they are not all one.
    pub fn is_seen(&self, moments: &Gram) -> bool {
        let (outputs, rows) = (self.layer.outputs, moments.rows);
        let sums = moments.moments();
        let varies = |k: usize| {
            let (square, mean) = (sums[(k, k)] / rows, sums[(k, outputs)] / rows);
            square - mean * mean > SAME * square
        };
        rows > 0.0 && (0..outputs).any(varies)
    }

    /// The directions of its outputs: by `moments` of them (each row ending in 1) where there are some, else by the weights
    /// alone. `None` when numbers are not finite.
    pub fn directions(&self, moments: Option<&Gram>) -> Option<Directions> {
        let plain = self.weights.t().dot(&self.weights);
        let Some(moments) = moments.filter(|moments| moments.rows > 0.0) else {
            return Directions::of(&plain, None);
        };
        let (outputs, rows) = (self.layer.outputs, moments.rows);
        let sums = moments.moments();
        let mean = Array1::from_shape_fn(outputs, |k| sums[(k, outputs)] / rows);
        let free = &mean - &self.bias;
        // Around the mean where the bias can take it over; else the second moment of the outputs without their bias.
        let covariance = Array2::from_shape_fn((outputs, outputs), |(i, j)| {
            let around = sums[(i, j)] / rows - mean[i] * mean[j];
            if self.shifts { around } else { around + free[i] * free[j] }
        });
        let (measured, stated) = (trace(&covariance), trace(&plain));
        let few = rows < ENOUGH_ROWS * outputs as f64 && measured > 0.0 && stated > 0.0;
        let spread = if few {
            covariance * (MEASURED_SHARE / measured) + plain * ((1.0 - MEASURED_SHARE) / stated)
        } else {
            covariance
        };
        Directions::of(&spread, self.shifts.then_some(free))
    }

    /// The factors of rank `rank`.
    pub fn factors(&self, directions: &Directions, rank: usize) -> Factors {
        let kept = directions.vectors.slice(s![.., ..rank]);
        // Directions without strength keep a finite factor.
        let floor = directions.strengths.first().copied().unwrap_or(0.0) * 1e-12;
        let scale = |k: usize| directions.strengths[k].max(floor).max(f64::MIN_POSITIVE).powf(SPREAD);
        let mut first = self.weights.dot(&kept);
        let mut second = kept.t().to_owned();
        for k in 0..rank {
            first.column_mut(k).mapv_inplace(|w| w / scale(k));
            second.row_mut(k).mapv_inplace(|w| w * scale(k));
        }
        let bias = directions.mean.as_ref().map(|mean| &self.bias + mean - kept.dot(&kept.t().dot(mean)));
        Factors { first, second, bias }
    }
}

/// Second moments of the outputs of `layers` over `samples`, one for each.
pub fn output_moments(
    graph: &Graph,
    evaluator: &dyn Evaluate,
    layers: &[Splittable],
    samples: &dyn SampleSource,
) -> Result<Vec<Gram>, SampleError> {
    let prepared = evaluator.prepare(graph)?;
    let mut sums: Vec<Gram> = layers.iter().map(Splittable::moments).collect();
    let lanes: Vec<usize> = (0..LANES).collect();
    let one = |lane: &usize| lane_moments(layers, prepared.as_ref(), samples, *lane);
    fold_in_order(&lanes, LANES, one, |_, moments| {
        sums.iter_mut().zip(moments).for_each(|(sum, more)| sum.merge(&more));
    })?;
    Ok(sums)
}

fn lane_moments(
    layers: &[Splittable],
    prepared: &dyn Prepared,
    samples: &dyn SampleSource,
    lane: usize,
) -> Result<Vec<Gram>, SampleError> {
    let mut sums: Vec<Gram> = layers.iter().map(Splittable::moments).collect();
    for index in (lane..samples.len()).step_by(LANES) {
        let inputs = samples.inputs(index)?;
        let mut observe = |value: ValueId, tensor: &onnx_shrink_ir::Tensor| {
            for (layer, sum) in layers.iter().zip(&mut sums).filter(|(layer, _)| layer.layer.y == value) {
                let Some(numbers) = tensor.as_slice::<f32>() else { continue };
                let outputs = layer.layer.outputs;
                // Some hundred rows for each direction tell it; more cost time alone.
                let most = (128 * outputs / samples.len()).clamp(16, 4096);
                let rows = layer.layer.target_rows(&numbers, tensor.dims(), Positions { most, offset: index });
                let with_one = rows.chunks_exact(outputs).flat_map(|row| row.iter().copied().chain([1.0]));
                sum.add(&with_one.collect::<Vec<f64>>(), &[]);
            }
        };
        prepared.run(&inputs, &mut observe)?;
    }
    Ok(sums)
}

fn trace(matrix: &Array2<f64>) -> f64 {
    matrix.diag().sum()
}

impl Directions {
    /// The eigenvectors of a symmetric matrix; `None` when it is not finite.
    fn of(matrix: &Array2<f64>, mean: Option<Array1<f64>>) -> Option<Directions> {
        if matrix.iter().any(|number| !number.is_finite()) {
            return None;
        }
        let count = matrix.nrows();
        let symmetric = DMatrix::from_fn(count, count, |i, j| (matrix[(i, j)] + matrix[(j, i)]) / 2.0);
        let eigen = SymmetricEigen::new(symmetric);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        // The largest number of each direction is positive.
        let sign = |column: usize| {
            let vector = eigen.eigenvectors.column(column);
            let largest = vector.iter().fold(0.0f64, |most, x| if x.abs() > most.abs() { *x } else { most });
            if largest < 0.0 { -1.0 } else { 1.0 }
        };
        let signs: Vec<f64> = order.iter().map(|column| sign(*column)).collect();
        let vectors = Array2::from_shape_fn((count, count), |(i, k)| signs[k] * eigen.eigenvectors[(i, order[k])]);
        let strengths = order.iter().map(|column| eigen.eigenvalues[*column].max(0.0)).collect();
        Some(Directions { vectors, strengths, mean })
    }

    /// The share of the outputs' energy that is lost at rank `rank`.
    pub fn lost(&self, rank: usize) -> f64 {
        let all: f64 = self.strengths.iter().sum();
        if all > 0.0 { self.strengths.iter().skip(rank).sum::<f64>() / all } else { 0.0 }
    }

    /// The least rank that keeps the share `energy` of the outputs' energy.
    pub fn rank_for(&self, energy: f64) -> usize {
        (1..self.strengths.len()).find(|&rank| self.lost(rank) <= 1.0 - energy).unwrap_or(self.strengths.len())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::testing::parse;

    const LAYER: &str = "g (float[4,6] x) => (float[4,3] y) <float[6,3] w = {1,2,3,4,5,6,7,8,9,9,8,7,6,5,4,3,2,1}, float[3] b = {1,2,3}> {
        y = Gemm (x, w, b) }";

    fn layer() -> Splittable {
        let graph = parse(LAYER).graph;
        Splittable::of(&graph, graph.ops()[0]).expect("a layer")
    }

    fn near(a: &Array2<f64>, b: &Array2<f64>) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9)
    }

    /// The weights have rank 2: two directions are all of them.
    #[test]
    fn factors_of_full_rank_give_the_weights_again() {
        let layer = layer();
        let directions = layer.directions(None).expect("finite");
        assert!(directions.lost(2) < 1e-12 && directions.lost(1) > 1e-3);
        assert_eq!(directions.rank_for(0.999_999), 2);
        let factors = layer.factors(&directions, 2);
        assert!(near(&factors.first.dot(&factors.second), &layer.weights));
        assert_eq!(factors.bias, None);
    }

    /// Samples along one direction: rank 1 is exact on them, and off them the mean is kept.
    #[test]
    fn with_samples_the_outputs_that_occur_are_kept_and_so_is_their_mean() {
        let layer = layer();
        let mut moments = layer.moments();
        let row = |t: f64| Array1::from_vec(vec![1.0, 2.0, 0.0, 0.0, 1.0, 0.0]) * t + 0.5;
        let mut outputs = Vec::new();
        for k in 0..40 {
            let y = row(f64::from(k) / 10.0).dot(&layer.weights) + &layer.bias;
            moments.add(&[y[0], y[1], y[2], 1.0], &[]);
            outputs.push(y);
        }
        let directions = layer.directions(Some(&moments)).expect("finite");
        let factors = layer.factors(&directions, 1);
        let bias = factors.bias.clone().expect("a bias");
        for (k, y) in outputs.iter().enumerate() {
            let split = row(k as f64 / 10.0).dot(&factors.first).dot(&factors.second) + &bias;
            assert!((&split - y).iter().all(|error| error.abs() < 1e-9), "{split} {y}");
        }
        let error = directions.lost(1);
        assert!(error < 1e-12, "{error}");
    }

    #[test]
    fn rows_that_are_all_one_tell_nothing() {
        let layer = layer();
        let mut moments = layer.moments();
        assert!(!layer.is_seen(&moments));
        moments.add(&[0.1, 0.2, 0.3, 1.0, 0.1, 0.2, 0.3, 1.0, 0.1, 0.2, 0.3, 1.0], &[]);
        assert!(!layer.is_seen(&moments));
        moments.add(&[0.1, 0.2, 0.4, 1.0], &[]);
        assert!(layer.is_seen(&moments));
    }

    #[test]
    fn few_rows_do_not_hide_directions() {
        let layer = layer();
        let mut moments = layer.moments();
        moments.add(&[1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 1.0], &[]);
        let directions = layer.directions(Some(&moments)).expect("finite");
        assert!(directions.lost(1) > 1e-3, "two rows tell one direction alone");
    }

    #[test]
    fn what_is_no_plain_layer_is_none() {
        let text = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4}> { y = Conv <pads = [0,0,0,0]> (x, w) }";
        let graph = parse(text).graph;
        assert!(Splittable::of(&graph, graph.ops()[0]).is_ok());
        for text in [
            "g (float[1,2,4,4] x) => (float[1,2,6,6] y) <float[2,2,1,1] w = {1,2,3,4}> { y = Conv <pads = [1,1,1,1]> (x, w) }",
            "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,1,1,1] w = {1,2}> { y = Conv <group = 2> (x, w) }",
            "g (float[2,2] x, float[2,2] w) => (float[2,2] y) { y = MatMul (x, w) }",
        ] {
            let graph = parse(text).graph;
            assert!(Splittable::of(&graph, graph.ops()[0]).is_err(), "{text}");
        }
    }
}
