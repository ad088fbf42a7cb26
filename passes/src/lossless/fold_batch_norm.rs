//! Folds a `BatchNormalization` into the op that feeds it: `Conv`, `ConvTranspose`, `Gemm` or `MatMul`.
//!
//! ```onnx before
//! # x: float[1,2,4,4]; w: float[3,2,3,3]; scale, bias, mean, var: float[3]
//! t = Conv (x, w)
//! y = BatchNormalization (t, scale, bias, mean, var)
//! ```
//! ```onnx after
//! y = Conv (x, w_folded, bias_folded)
//! ```
//! With `k = scale / sqrt(var + epsilon)`, one per output channel, `w_folded = w · k` and
//! `bias_folded = (b - mean) · k + bias`, in f64, rounded once to the element type of `w`. A normalization of a matrix that
//! no such op makes becomes `x · k + (bias - mean · k)`: two vectors instead of four. That of an image stays: engines run it
//! as one op, and Mul and Add as two.
//!
//! Between them may stand a Concat whose parts all come from such ops, a Transpose, a Resize or an average.
//!
//! Behind a quantized Conv (its weight and what it reads come from DequantizeLinear) `k` goes into the weight's scales, and the rest into
//! the bias: integers stay integers.
//!
//! Every batch norm, folded or not, tells of its output that each channel has about the mean `bias` and the deviation
//! `|scale|`; that is kept under the output's name for quantization without samples.
//!
//! **Class:** rounding. **Legal when** the norm is in inference and all its parameters and the weights are constant, `k` and
//! the results are finite, and `t` has no other use (a graph output is one). **Does not** fold where the weights are shared
//! with another op, unless the copy is smaller than what goes.
//! **Source:** Jacob et al. 2018, arXiv 1712.05877, §3.2.
use onnx_shrink_ir::{Graph, NewOp, OpId, Patch, Tensor, TensorType, ValueId, ops::BatchNormalization};

use crate::{
    Class, Context, Description, Miss, Pass, Result, Statistics, When,
    lossless::{
        affine::Affine,
        fold_norm_into_scales::into_scales,
        into_producer::{float_layer, into_producer},
    },
};

/// See the [module](self) for before, after and legality.
pub struct FoldBatchNorm;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fold-batch-norm",
    class: Class::Rounding,
    about: "folds BatchNormalization into the weights before it, or into a Mul and an Add",
    when: When::Lossless,
};

impl Pass for FoldBatchNorm {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        for op in graph.ops_of("BatchNormalization") {
            if let Some((name, statistics)) = statistics(graph, op) {
                cx.statistics.insert(name, statistics);
            }
            match fold(graph, op, cx.options.fold_growth) {
                Ok(patch) => {
                    cx.apply(graph, patch)?;
                }
                Err(miss) => cx.missed(graph, op, &miss),
            }
        }
        Ok(())
    }
}

/// What the normalization `op` tells of its output, with the output's name.
fn statistics(graph: &Graph, op: OpId) -> Option<(String, Statistics)> {
    let norm = BatchNormalization::of(graph, op)?;
    let mean = graph.constant(norm.bias)?.to_f64_vec()?;
    let deviation = graph.constant(norm.scale)?.to_f64_vec()?.into_iter().map(f64::abs).collect();
    Some((graph.name_of(norm.y).to_owned(), Statistics { mean, deviation }))
}

/// The edits that fold the BatchNormalization `op` into its producer, or why it stays.
fn fold(graph: &Graph, op: OpId, growth: usize) -> Result<Patch, Miss> {
    let norm = BatchNormalization::of(graph, op)
        .ok_or(Miss::Form("a batch normalization that trains, or normalizes per cell"))?;
    let vector = |value: ValueId| graph.constant(value).and_then(Tensor::to_f64_vec).ok_or(Miss::NotConstant(value));
    let (scale, bias, mean, var) = (vector(norm.scale)?, vector(norm.bias)?, vector(norm.mean)?, vector(norm.var)?);
    let channels = scale.len();
    if [&bias, &mean, &var].iter().any(|numbers| numbers.len() != channels) {
        return Err(Miss::Form("parameters of different lengths"));
    }
    let factor: Vec<f64> = (0..channels).map(|c| scale[c] / (var[c] + f64::from(norm.epsilon)).sqrt()).collect();
    if !factor.iter().all(|factor| factor.is_finite()) {
        return Err(Miss::NotFinite(norm.var));
    }
    let shift: Vec<f64> = (0..channels).map(|c| bias[c] - mean[c] * factor[c]).collect();
    let scaled = into_scales(graph, op, (norm.x, norm.y), (&factor, &shift));
    match scaled {
        Err(Miss::NotThisPattern) => {}
        scaled => return scaled,
    }
    let of_layer =
        || graph.producer(norm.x).and_then(|op| float_layer(graph, op)?.output_axis(graph)).map(|axis| axis.0);
    let rank = graph.ty(norm.x).and_then(|ty| ty.rank()).or_else(of_layer).ok_or(Miss::UnknownType(norm.x))?;
    let along_channels = |numbers: &[f64]| {
        let mut dims = vec![1; rank.saturating_sub(1)];
        dims.first_mut().map(|dim| *dim = channels)?;
        ndarray::ArrayD::from_shape_vec(dims, numbers.to_vec()).ok()
    };
    let affine = Affine {
        factor: along_channels(&factor),
        shift: along_channels(&shift),
        shift_value: None,
        shift_name: graph.name_of(norm.bias).to_owned(),
    };
    if affine.factor.is_none() {
        return Err(Miss::Form("a batch normalization of a vector"));
    }
    match into_producer(graph, op, (norm.x, norm.y), &affine, growth) {
        Err(miss) => alone(graph, op, &norm, (&factor, &shift)).ok_or(match miss {
            Miss::NotThisPattern => {
                Miss::Form("its input is not made by a Conv, ConvTranspose, Gemm or MatMul of matrices")
            }
            miss => miss,
        }),
        folded => folded,
    }
}

/// The normalization of a matrix as Mul and Add.
fn alone(graph: &Graph, op: OpId, norm: &BatchNormalization, (factor, shift): (&[f64], &[f64])) -> Option<Patch> {
    let ty = graph.ty(norm.x).filter(|ty| ty.rank() == Some(2) && graph.opset() >= 7)?;
    let constant = |numbers: &[f64]| {
        let tensor = Tensor::from_f64(ty.dtype, &ndarray::arr1(numbers).into_dyn())?;
        tensor.to_f64_vec()?.iter().all(|number| number.is_finite()).then_some(tensor)
    };
    let (factor, shift) = (constant(factor)?, constant(shift)?);
    let mut patch = Patch::new(op);
    let factor = patch.constant(&format!("{}_folded", graph.name_of(norm.scale)), factor);
    let shift = patch.constant(&format!("{}_folded", graph.name_of(norm.bias)), shift);
    let (name, result) = (graph.name_of(norm.y), graph.ty(norm.y).cloned());
    let scaled_name = format!("{name}_scaled");
    let scaled =
        patch.op(NewOp::new("Mul"), &[Some(norm.x.into()), Some(factor)], &scaled_name, Some(TensorType::clone(ty)));
    let y = patch.op(NewOp::new("Add").named(norm.name()), &[Some(scaled), Some(shift)], name, result);
    patch.replace(norm.y, y);
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::FoldBatchNorm;
    use crate::{
        Context, Options, Statistics,
        testing::{Reference, assert_same_values, check, check_missed, check_same, check_same_inferred, parse, run},
    };

    const NORM: &str = "float[1] scale = {3}, float[1] bias = {5}, float[1] mean = {7}, float[1] var = {4}";

    #[test]
    fn folds_the_weight_and_makes_a_bias() {
        let before = format!(
            "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w = {{2}}, {NORM}> {{
            t = Conv (x, w)  y = BatchNormalization <epsilon = 0.0> (t, scale, bias, mean, var) }}"
        );
        let after = "g (float[1,1,2,2] x) => (float[1,1,2,2] y)
            <float[1,1,1,1] w_folded = {3}, float[1] bias_folded = {-5.5}> { y = Conv (x, w_folded, bias_folded) }";
        check(&FoldBatchNorm, &before, after);
    }

    #[test]
    fn the_folded_op_has_the_conv_s_node_and_the_norm_s_value_name() {
        let before = format!(
            "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w = {{2}}, float[1] b = {{1}}, {NORM}> {{
            [conv1] t = Conv <kernel_shape = [1, 1]> (x, w, b)
            [bn1] u = BatchNormalization <epsilon = 0.0> (t, scale, bias, mean, var)  y = Relu (u) }}"
        );
        let after = "g (float[1,1,2,2] x) => (float[1,1,2,2] y)
            <float[1,1,1,1] w_folded = {3}, float[1] bias_folded = {-4}> {
            [conv1] u = Conv <kernel_shape = [1, 1]> (x, w_folded, bias_folded)  y = Relu (u) }";
        check(&FoldBatchNorm, &before, after);
    }

    /// Folds by values alone: the op count falls to `ops`, and the results stay.
    fn folds(model: &str, ops: usize) {
        let original = parse(model).graph;
        let mut graph = original.detached();
        let misses = run(&FoldBatchNorm, &mut graph, Options::default());
        assert_eq!(graph.op_count(), ops, "{misses:?}");
        assert_same_values(&original, &graph, crate::Class::Rounding);
    }

    const NORM4: &str = "float[4] s = {1, -2, 0.5, 3}, float[4] o = {0, 1, 2, -1}, float[4] m = {1, 2, 3, 4}, float[4] v = {1, 2, 0.25, 9}";

    #[test]
    fn folds_into_groups_and_transposed_convs() {
        let conv = "float[4,1,1,1] w = {1, 2, 3, 4}";
        folds(
            &format!(
                "g (float[1,2,3,3] x) => (float[1,4,3,3] y) <{conv}, {NORM4}> {{
                t = Conv <group = 2> (x, w)  y = BatchNormalization (t, s, o, m, v) }}"
            ),
            1,
        );
        let transposed = "float[4,2,1,2] w = {1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8}";
        folds(
            &format!(
                "g (float[1,4,3,3] x) => (float[1,4,3,4] y) <{transposed}, {NORM4}> {{
                t = ConvTranspose <group = 2> (x, w)  y = BatchNormalization (t, s, o, m, v) }}"
            ),
            1,
        );
    }

    #[test]
    fn folds_into_gemm_and_matmul() {
        let gemm = "float[2,4] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[1,4] c = {1, 2, 3, 4}";
        folds(
            &format!(
                "g (float[N,2] x) => (float[N,4] y) <{gemm}, {NORM4}> {{
                t = Gemm <alpha = 0.5, beta = 2.0> (x, w, c)  y = BatchNormalization (t, s, o, m, v) }}"
            ),
            1,
        );
        let transposed = "float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}";
        folds(
            &format!(
                "g (float[N,2] x) => (float[N,4] y) <{transposed}, {NORM4}> {{
                t = Gemm <transB = 1> (x, w)  y = BatchNormalization (t, s, o, m, v) }}"
            ),
            1,
        );
        let matmul = "float[2,4] w = {1, 2, 3, 4, 5, 6, 7, 8}";
        folds(
            &format!(
                "g (float[N,2] x) => (float[N,4] y) <{matmul}, {NORM4}> {{
                t = MatMul (x, w)  y = BatchNormalization (t, s, o, m, v) }}"
            ),
            1,
        );
    }

    #[test]
    fn a_norm_of_a_matrix_becomes_two_vectors() {
        folds(
            &format!(
                "g (float[N,4] x) => (float[N,4] y) <{NORM4}, float[N,4] t> {{ t = Relu (x)  y = BatchNormalization (t, s, o, m, v) }}"
            ),
            3,
        );
    }

    #[test]
    fn keeps_float16_weights_that_would_overflow() {
        let model = "g (float16[1,1,2,2] x) => (float16[1,1,2,2] y) <float16[1,1,1,1] w = {60000.0},
            float16[1] s = {3.0}, float16[1] z = {0.0}, float16[1] v = {1.0}> {
            t = Conv (x, w)  y = BatchNormalization (t, s, z, z, v) }";
        check_missed(&FoldBatchNorm, model, "`w` has values that are not finite");
    }

    #[test]
    fn keeps_a_norm_whose_input_someone_else_sees() {
        let output = "g (float[1,1,2,2] x) => (float[1,1,2,2] y, float[1,1,2,2] t)
            <float[1,1,1,1] w = {2}, float[1] one = {1}> { t = Conv (x, w)  y = BatchNormalization (t, one, one, one, one) }";
        check_missed(&FoldBatchNorm, output, "`t` has other uses");
        let other = "g (float[1,1,2,2] x) => (float[1,1,2,2] y, float[1,1,2,2] z) <float[1,1,1,1] w = {2}, float[1] one = {1}> {
            t = Conv (x, w)  y = BatchNormalization (t, one, one, one, one)  z = Relu (t) }";
        check_missed(&FoldBatchNorm, other, "`t` has other uses");
    }

    #[test]
    fn keeps_weights_that_may_be_overridden() {
        let model = "g (float[1,1,2,2] x, float[1,1,1,1] w = {2}) => (float[1,1,2,2] y) <float[1] one = {1}> {
            t = Conv (x, w)  y = BatchNormalization (t, one, one, one, one) }";
        let model = model
            .replace(", float[1,1,1,1] w = {2})", ", float[1,1,1,1] w)")
            .replace("<float[1] one", "<float[1,1,1,1] w = {2}, float[1] one");
        check_missed(
            &FoldBatchNorm,
            &model,
            "`w` is a graph input with a default, so it may change; --freeze-initializers makes it constant",
        );
    }

    #[test]
    fn keeps_a_norm_that_trains_or_divides_by_zero() {
        let model = "g (float[1,1,2,2] x) => (float[1,1,2,2] y, float[1] a, float[1] b) <float[1,1,1,1] w = {2}, float[1] one = {1}> {
            t = Conv (x, w)  y, a, b = BatchNormalization <training_mode = 1> (t, one, one, one, one) }";
        let mut graph = parse(model).graph;
        run(&FoldBatchNorm, &mut graph, Options::default());
        assert_eq!(graph.op_count(), 2);
        let zero = "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w = {2}, float[1] one = {1}, float[1] v = {-1}> {
            t = Conv (x, w)  y = BatchNormalization (t, one, one, one, v) }";
        check_missed(&FoldBatchNorm, zero, "`v` has values that are not finite");
    }

    #[test]
    fn keeps_shared_weights_when_the_copy_is_larger_than_what_goes() {
        let ones = vec!["1"; 256].join(", ");
        let model = format!(
            "g (float[1,256,2,2] x) => (float[1,1,2,2] y, float[1,1,2,2] z)
            <float[1,256,1,1] w = {{{ones}}}, float[1] one = {{1}}> {{
            t = Conv (x, w)  y = BatchNormalization (t, one, one, one, one)  z = Conv (x, w) }}"
        );
        check_same(&FoldBatchNorm, &model);
    }

    #[test]
    fn tells_quantization_about_the_output() {
        let model =
            "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w = {2}, float[1] s = {-3}, float[1] b = {5}> {
            t = Conv (x, w)  u = BatchNormalization (t, s, b, b, b)  y = Relu (u) }";
        let mut graph = parse(model).graph;
        let mut cx = Context::new(Options::default(), &Reference);
        cx.run(&FoldBatchNorm, &mut graph).unwrap();
        assert_eq!(cx.statistics["u"], Statistics { mean: vec![5.0], deviation: vec![3.0] });
        assert!(graph.op(graph.producer(graph.find("u").unwrap()).unwrap()).is("Conv"));
    }

    #[test]
    fn folds_behind_what_commutes_with_it() {
        let norm = "float[2] scale = {3, -2}, float[2] bias = {5, 1}, float[2] mean = {7, 0}, float[2] var = {4, 1}";
        let folds = |body: &str, shape: &str| {
            let text = format!(
                "g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[{shape}] y) <float[2,2,1,1] w = {{1, 2, 3, 4}}, float[1,2,1,1] v = {{5, 6}}, {norm}> {{
                {body}  y = BatchNormalization (t, scale, bias, mean, var) }}"
            );
            let mut original = parse(&text).graph;
            onnx_shrink_ir::infer::infer(&mut original);
            let mut graph = original.detached();
            let misses = run(&FoldBatchNorm, &mut graph, Options::default());
            assert_eq!(graph.op_count() + 1, original.op_count(), "{body}: {misses:?}");
            assert_same_values(&original, &graph, crate::Class::Rounding);
        };
        folds("a = Conv (x, v)  b = Conv (z, v)  t = Concat <axis = 1> (a, b)", "1,2,4,4");
        folds("a = Conv (x, w)  b = Conv (z, w)  t = Concat <axis = -1> (a, b)", "1,2,4,8");
        folds("a = Conv (x, w)  t = AveragePool <kernel_shape = [4, 4]> (a)", "1,2,1,1");
        folds("a = Conv (x, w)  b = Transpose <perm = [0, 1, 3, 2]> (a)  t = GlobalAveragePool (b)", "1,2,1,1");
    }

    #[test]
    fn stays_behind_what_does_not_commute_with_it() {
        for body in [
            "a = Conv (x, v)  t = Concat <axis = 1> (a, a)",
            "a = Conv (x, v)  b = Conv (x, v)  c = Relu (b)  t = Concat <axis = 1> (a, c)",
            "a = Conv (x, w)  t = Transpose <perm = [1, 0, 2, 3]> (a)",
            "a = Conv (x, w)  t = Relu (a)",
            "a = Conv (x, w)  t = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1> (a)",
        ] {
            let text = format!(
                "g (float[2,2,4,4] x) => (float[] y) <float[2,2,1,1] w = {{1, 2, 3, 4}}, float[1,2,1,1] v = {{5, 6}},
                float[2] scale = {{3, -2}}, float[2] bias = {{5, 1}}, float[2] mean = {{7, 0}}, float[2] var = {{4, 1}}> {{
                {body}  y = BatchNormalization (t, scale, bias, mean, var) }}"
            );
            check_same_inferred(&FoldBatchNorm, &text);
        }
    }
}
