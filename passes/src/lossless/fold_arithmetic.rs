//! Folds Mul, Div, Add and Sub by a constant into the `Conv`, `ConvTranspose`, `Gemm` or `MatMul` before it, or into a constant there.
//!
//! ```onnx before
//! # x: float[1,2,4,4]; w: float[3,2,3,3]; k, s: float[3,1,1]
//! t = Conv (x, w)
//! u = Mul (t, k)
//! y = Add (u, s)
//! ```
//! ```onnx after
//! y = Conv (x, w_folded, s_folded)
//! ```
//! `w_folded = w · k` and `s_folded = b · k + s` per output channel, in f64, rounded once. A MatMul of matrices becomes a Gemm
//! when it gets a bias; its weights need not be constant then, only the summand.
//!
//! Between them may stand what the arithmetic commutes with: Transpose, other views, Concat of layers, Resize, averages, and sums with
//! constants, which take their part, and from opset 13 on one number goes through a product of two activations into one of them. Two products with constants become one, and so do two sums, of constants of any shape.
//!
//! **Class:** rounding. **Legal when** the constant varies along the channel axis only and does not broadcast the result to
//! a larger shape, what it is folded into is constant and nobody else's, all results are finite, and nothing grows.
//! Constants that meet are float32 or float64; no sum has a number above 2^16: `x + 2^23 - 2^23` rounds, and someone may mean that.
//! **Does not** fold `c / t`, nor a summand into a MatMul of more than two dimensions: it has no bias.
use onnx_shrink_ir::{
    Graph, OpId, Patch, ValueId,
    ops::{Binary, BinaryKind},
};

use crate::{
    Class, Context, Description, Miss, Result, Rewrite, When,
    lossless::{
        affine::Affine,
        into_producer::{float_layer, into_producer},
    },
    target::onnx_runtime::ATTENTION_NOT_RECOGNIZED,
};

/// See the [module](self) for before, after and legality.
pub struct FoldArithmetic;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fold-arithmetic",
    class: Class::Rounding,
    about: "folds Mul, Div, Add and Sub by a constant into the weights or the constant before it",
    when: When::Lossless,
};

impl Rewrite for FoldArithmetic {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, cx: &Context<'_>) -> Result<Patch, Miss> {
        fold(graph, op, cx.options.fold_growth)
    }
}

/// The edits that fold the arithmetic op `op` into the op before it, or why it stays.
fn fold(graph: &Graph, op: OpId, growth: usize) -> Result<Patch, Miss> {
    let binary = Binary::of(graph, op).ok_or(Miss::NotThisPattern)?;
    let side = binary.with_constant(graph).ok_or(Miss::NotThisPattern)?;
    let (from, constant) = (side.x, side.constant);
    let layer = graph.producer(from).and_then(|op| float_layer(graph, op));
    let tensor = graph.constant(constant).filter(|tensor| tensor.dtype().is_float()).ok_or(Miss::NotThisPattern)?;
    let numbers = tensor.to_f64().ok_or(Miss::NotThisPattern)?;
    let only_shifts = binary.kind == BinaryKind::Add || (binary.kind == BinaryKind::Sub && !side.is_left);
    let of_activations = layer.as_ref().is_some_and(|layer| graph.default_of(layer.weight).is_none());
    if of_activations && !only_shifts && (tensor.len() != 1 || graph.opset() < ATTENTION_NOT_RECOGNIZED) {
        return Err(Miss::NotThisPattern); // a product of two activations
    }
    if layer.is_none() && !keeps_shape(graph, from, numbers.shape()) {
        return Err(Miss::NotThisPattern);
    }
    let minus_one = || ndarray::arr0(-1.0).into_dyn();
    let (factor, shift) = match (binary.kind, side.is_left) {
        (BinaryKind::Mul, _) => (Some(numbers), None),
        (BinaryKind::Div, false) => (Some(numbers.mapv(f64::recip)), None),
        (BinaryKind::Add, _) => (None, Some(numbers)),
        (BinaryKind::Sub, false) => (None, Some(-numbers)),
        (BinaryKind::Sub, true) => (Some(minus_one()), Some(numbers)),
        _ => return Err(Miss::NotThisPattern),
    };
    if !factor.iter().chain(&shift).flatten().all(|number| number.is_finite()) {
        return Err(Miss::NotFinite(constant));
    }
    let channels = layer.and_then(|layer| layer.shape(graph)).map(|shape| shape.outputs);
    let is_vector = binary.kind == BinaryKind::Add && channels.is_some_and(|channels| tensor.dims() == [channels]);
    let shift_value = is_vector.then_some(constant);
    let affine = Affine { factor, shift, shift_value, shift_name: graph.name_of(constant).to_owned() };
    into_producer(graph, op, (from, binary.y), &affine, growth)
}

/// Whether numbers of these dimensions do not broadcast `value`.
fn keeps_shape(graph: &Graph, value: ValueId, dims: &[usize]) -> bool {
    if dims.is_empty() {
        return true;
    }
    let shape = graph.ty(value).and_then(|ty| ty.shape.as_ref());
    shape.is_some_and(|shape| {
        shape.len() >= dims.len()
            && shape.iter().rev().zip(dims.iter().rev()).all(|(own, &dim)| dim == 1 || own.known() == Some(dim))
    })
}

#[cfg(test)]
mod tests {
    use super::FoldArithmetic;
    use crate::{
        Class, Options,
        testing::{assert_same_values, check, check_missed, check_same, parse, run},
    };

    /// Folds everything into one op that computes the same.
    fn folds_to_one(model: &str, op_type: &str) {
        let original = parse(model).graph;
        let mut graph = original.detached();
        let misses = run(&FoldArithmetic, &mut graph, Options::default());
        let types: Vec<_> = graph.ops().into_iter().map(|op| graph.op(op).op_type().to_owned()).collect();
        assert_eq!(types, [op_type], "{misses:?}");
        assert_same_values(&original, &graph, Class::Rounding);
    }

    const CONV: &str = "float[4,1,1,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4,1,1] c = {1, -2, 0.5, 3}, float k = {2}";

    #[test]
    fn folds_each_operation_on_either_side() {
        for arithmetic in [
            "Mul (t, c)",
            "Mul (c, t)",
            "Div (t, c)",
            "Add (c, t)",
            "Sub (t, c)",
            "Sub (c, t)",
            "Mul (t, k)",
            "Sub (k, t)",
        ] {
            folds_to_one(
                &format!(
                    "g (float[1,2,3,3] x) => (float[1,4,3,2] y) <{CONV}> {{
                    t = Conv <group = 2> (x, w)  y = {arithmetic} }}"
                ),
                "Conv",
            );
        }
    }

    #[test]
    fn folds_chains_into_transposed_convs_gemms_and_matmuls() {
        folds_to_one(
            "g (float[1,4,3,3] x) => (float[1,4,3,3] y) <float[4,2,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8},
            float[1,4,1,1] c = {1, -2, 0.5, 3}> { t = ConvTranspose <group = 2> (x, w)  u = Mul (t, c)  y = Add (u, c) }",
            "ConvTranspose",
        );
        let matrix =
            "float[2,4] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4] b = {1, 2, 3, 4}, float[1,4] c = {1, -2, 0.5, 3}";
        folds_to_one(
            &format!(
                "g (float[N,2] x) => (float[N,4] y) <{matrix}> {{
                t = Gemm <beta = 2.0> (x, w, b)  u = Div (t, c)  y = Sub (c, u) }}"
            ),
            "Gemm",
        );
        folds_to_one(
            &format!(
                "g (float[N,2] x) => (float[N,4] y) <{matrix}> {{ t = MatMul (x, w)  u = Mul (t, c)  y = Add (u, b) }}"
            ),
            "Gemm",
        );
        folds_to_one(
            &format!("g (float[N,3,2] x) => (float[N,3,4] y) <{matrix}> {{ t = MatMul (x, w)  y = Mul (t, b) }}"),
            "MatMul",
        );
    }

    #[test]
    fn a_vector_becomes_the_bias_as_it_is() {
        let before = "g (float[N,2] x, float[2,2] w) => (float[N,2] y) <float[2] b = {1, 2}> {
            [fc] t = MatMul (x, w)  y = Add (t, b) }";
        let after =
            "g (float[N,2] x, float[2,2] w) => (float[N,2] y) <float[2] b = {1, 2}> { [fc] y = Gemm (x, w, b) }";
        check(&FoldArithmetic, before, after);
    }

    #[test]
    fn keeps_a_constant_that_is_not_per_channel() {
        let spatial = "g (float[1,1,3,3] x) => (float[1,4,3,2] y) <float[4,1,1,2] w = {1, 2, 3, 4, 5, 6, 7, 8},
            float[1,1,1,2] c = {1, 2}> { t = Conv (x, w)  y = Mul (t, c) }";
        check_missed(
            &FoldArithmetic,
            spatial,
            "no rule for this form: a constant that varies along more than the channels",
        );
        let batch = "g (float[1,1,3,3] x) => (float[2,4,3,2] y) <float[4,1,1,2] w = {1, 2, 3, 4, 5, 6, 7, 8},
            float[2,1,1,1] c = {1, 2}> { t = Conv (x, w)  y = Add (t, c) }";
        check_missed(
            &FoldArithmetic,
            batch,
            "no rule for this form: a constant that varies along more than the channels",
        );
        let wide = "g (float[2,2] x) => (float[2,2,2] y) <float[2,2] w = {1, 2, 3, 4}, float[2,1,2] c = {1, 2, 3, 4}> {
            t = MatMul (x, w)  y = Add (t, c) }";
        check_missed(&FoldArithmetic, wide, "no rule for this form: a constant of more dimensions than the result");
    }

    #[test]
    fn keeps_a_single_channel_that_would_broadcast() {
        let model = "g (float[1,1,2,2] x) => (float[1,3,2,2] y) <float[1,1,1,1] w = {2}, float[3,1,1] c = {1, 2, 3}> {
            t = Conv (x, w)  y = Add (t, c) }";
        check_missed(
            &FoldArithmetic,
            model,
            "no rule for this form: a constant that varies along more than the channels",
        );
    }

    #[test]
    fn keeps_integers_three_dimensions_and_what_others_see() {
        check_same(
            &FoldArithmetic,
            "g (int32[2,2] x) => (int32[2,2] y) <int32[2,2] w = {1, 2, 3, 4}, int32[2] b = {1, 2}> {
            t = MatMul (x, w)  y = Add (t, b) }",
        );
        check_same(
            &FoldArithmetic,
            "g (float[2,2,2] x) => (float[2,2,2] y) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 2}> {
            t = MatMul (x, w)  y = Add (t, b) }",
        );
        let seen =
            "g (float[2,2] x) => (float[2,2] y, float[2,2] t) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 2}> {
            t = MatMul (x, w)  y = Add (t, b) }";
        check_missed(&FoldArithmetic, seen, "`t` has other uses");
        let zero = "g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 0}> {
            t = MatMul (x, w)  y = Div (t, b) }";
        check_missed(&FoldArithmetic, zero, "`b` has values that are not finite");
    }

    /// Folds until `count` ops are left, which compute the same.
    fn folds_to(text: &str, count: usize) {
        let mut original = parse(text).graph;
        onnx_shrink_ir::infer::infer(&mut original);
        let mut graph = original.detached();
        let misses = run(&FoldArithmetic, &mut graph, Options::default());
        assert_eq!(graph.op_count(), count, "{misses:?} in\n{}", onnx_shrink_ir::text::print_graph(&graph));
        assert_same_values(&original, &graph, Class::Rounding);
    }

    #[test]
    fn folds_through_views_and_transposes() {
        for (body, count) in [
            ("a = MatMul (x, w)  b = Reshape (a, s)  c = Transpose <perm = [0, 2, 1, 3]> (b)  y = Mul (c, k)", 3),
            ("a = MatMul (x, w)  p = Add (a, v)  b = Reshape (p, s)  y = Div (b, k)", 3),
            ("a = MatMul (x, w)  p = Add (v, a)  c = Transpose <perm = [0, 2, 1]> (p)  y = Mul (c, t)", 3),
            ("a = MatMul (x, w)  b = Reshape (a, rows)  y = Mul (b, v)", 2),
            ("a = MatMul (x, w)  b = Reshape (a, s)  y = Mul (b, pair)", 3),
            ("a = MatMul (x, w)  p = Unsqueeze (a, one)  c = Squeeze (p, one)  y = Mul (c, v)", 3),
        ] {
            folds_to(
                &format!(
                    "g (float[2,3,2] x) => (float[] y) <float[2,4] w = {{1, 2, 3, 4, 5, 6, 7, 8}}, float[4] v = {{1, -2, 3, 5}},
                    float[4,1] t = {{2, 3, 4, 5}}, float k = {{3}}, int64[4] s = {{2, 3, 2, 2}}, int64[1] one = {{1}}, int64[2] rows = {{6, 4}},
                    float[2] pair = {{2, 3}}> {{ {body} }}"
                ),
                count,
            );
        }
    }

    #[test]
    fn the_scale_of_attention_goes_into_a_weight() {
        let body = "q = MatMul (x, w)  s = Reshape (q, r)  t = Transpose <perm = [0, 2, 1, 3]> (s)  k = Transpose <perm = [0, 2, 3, 1]> (z)
            m = MatMul (t, k)  y = Mul (m, c)";
        let text = |opset: i64| {
            format!(
                "<ir_version: 8, opset_import: [\"\" : {opset}]> g (float[2,3,2] x, float[2,3,2,2] z) => (float[2,2,3,3] y) <float[2,4] w = {{1, 2, 3, 4, 5, 6, 7, 8}},
                int64[4] r = {{2, 3, 2, 2}}, float c = {{0.5}}> {{ {body} }}"
            )
        };
        folds_to(&text(13), 5);
        folds_to(&text(12), 6);
    }

    #[test]
    fn constants_of_any_shape_meet() {
        for (body, count) in [
            ("a = Mul (x, v)  y = Mul (a, k)", 1),
            ("a = Mul (x, v)  y = Div (a, v)", 1),
            ("a = Add (x, v)  y = Sub (a, k)", 1),
            ("a = Sub (v, x)  y = Add (a, k)", 1),
            ("a = Div (k, x)  y = Mul (v, a)", 1),
            ("a = Mul (x, v)  b = Add (a, k)  y = Mul (b, v)", 2),
            ("a = Div (x, v)  b = Sub (k, a)  y = Sub (v, b)", 2),
            // not: a matrix of two vectors, sums of what rounds on purpose, what others read, what would broadcast x
            ("a = Mul (x, v)  y = Mul (a, c)", 2),
            ("a = Add (x, large)  y = Sub (a, large)", 2),
            ("a = Mul (x, v)  b = Mul (a, k)  y = Add (a, b)", 3),
            ("a = Mul (x, v)  y = Add (a, k)", 2),
            ("a = Mul (x, v)  y = Mul (a, deep)", 2),
        ] {
            folds_to(
                &format!(
                    "g (float[2,4] x) => (float[] y) <float[4] v = {{1, -2, 3, 5}}, float[2,1] c = {{2, 3}}, float k = {{3}},
                    float large = {{8388608}}, float[1,1,1] deep = {{2}}> {{ {body} }}"
                ),
                count,
            );
        }
    }
}
