//! Makes a decomposed RMS normalization one division, and one `RMSNormalization` where the model's opset has it.
//!
//! ```onnx before
//! # x, q: float[2,3,4]; two: float = {2}; e: float = {0.00001}; k: float[4]
//! q = Pow (x, two)
//! m = ReduceMean <axes = [-1]> (q)
//! a = Add (m, e)
//! r = Sqrt (a)
//! i = Reciprocal (r)
//! n = Mul (x, i)
//! y = Mul (n, k)
//! ```
//! ```onnx after
//! q = Pow (x, two)
//! m = ReduceMean <axes = [-1]> (q)
//! a = Add (m, e)
//! r = Sqrt (a)
//! n = Div (x, r)
//! y = Mul (n, k)
//! ```
//! From opset 23 on all of it is `y = RMSNormalization <axis = -1> (x, k)`. ONNX Runtime 1.32 recognizes x / r and x · (1 / r) when it
//! loads a model, and not the product with a Reciprocal.
//!
//! **Class:** rounding. **Legal when** all is float32, the mean is one of squares of x along the last axis, and nobody else reads the values
//! between.
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, ValueId, ValueRef,
    ops::{Binary, BinaryKind, rms_normalization},
};

use crate::{
    Class, Context, Description, Miss, Result, Rewrite, When,
    lossless::normalized::{mean_square, root},
};

/// See the [module](self) for before, after and legality.
pub struct FuseRmsNormalization;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fuse-rms-normalization",
    class: Class::Rounding,
    about: "makes a decomposed RMS normalization a division, or one op",
    when: When::Lossless,
};

/// The first opset with RMSNormalization.
const RMS_NORMALIZATION: i64 = 23;

impl Rewrite for FuseRmsNormalization {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        divided(graph, op).or_else(|| fused(graph, op)).ok_or(Miss::NotThisPattern)
    }
}

/// The epsilon of the root of a mean square of `x` that `value` is, where nobody else reads into it.
fn root_mean_square(graph: &Graph, value: ValueId, x: ValueId) -> Option<f64> {
    let rank = graph.ty(x).filter(|ty| ty.dtype == DataType::Float)?.rank()?;
    let (mean, epsilon, ops) = root(graph, value)?;
    let (of, axes, more) = mean_square(graph, mean)?;
    let is_only = |op: &OpId| graph.op(*op).output(0).is_some_and(|value| graph.only_use(value).is_some());
    let holds = of == x && axes == [rank.checked_sub(1)?] && ops.iter().chain(&more).all(is_only);
    holds.then_some(epsilon)
}

/// The edits that make the Mul `op` of a value and the inverse of its root mean square a division.
fn divided(graph: &Graph, op: OpId) -> Option<Patch> {
    let mul = Binary::of(graph, op).filter(|binary| binary.kind == BinaryKind::Mul)?;
    let inverse_of = |value: ValueId| {
        let op = graph.producer(value)?;
        graph.only_use(value)?;
        if graph.op(op).is("Reciprocal") {
            return graph.op(op).input(0);
        }
        let div = Binary::of(graph, op).filter(|binary| binary.kind == BinaryKind::Div)?;
        (graph.constant(div.a)?.dims().is_empty() && graph.constant_scalar(div.a) == Some(1.0)).then_some(div.b)
    };
    let sides = [(mul.a, mul.b), (mul.b, mul.a)];
    let (x, root) = sides.into_iter().find_map(|(x, inverse)| {
        let root = inverse_of(inverse)?;
        root_mean_square(graph, root, x).map(|_| (x, root))
    })?;
    let mut patch = Patch::new(op);
    let inputs = [Some(ValueRef::from(x)), Some(root.into())];
    let node = NewOp::new("Div").named(graph.op(op).name());
    let y = patch.op(node, &inputs, graph.name_of(mul.y), graph.ty(mul.y).cloned());
    patch.replace(mul.y, y);
    Some(patch)
}

/// The edits that make the Mul `op` of a normalized value and a scale one RMSNormalization.
fn fused(graph: &Graph, op: OpId) -> Option<Patch> {
    let mul = Binary::of(graph, op).filter(|mul| mul.kind == BinaryKind::Mul && graph.opset() >= RMS_NORMALIZATION)?;
    let side = mul.with_constant(graph)?;
    let div = graph.producer(side.x).and_then(|op| Binary::of(graph, op)).filter(|div| div.kind == BinaryKind::Div)?;
    graph.only_use(div.y)?;
    let epsilon = root_mean_square(graph, div.b, div.a)?;
    let features = graph.ty(div.a)?.shape.as_ref()?.last()?.known()?;
    (graph.constant(side.constant)?.dims() == [features]).then_some(())?;
    let mut patch = Patch::new(op);
    let node = rms_normalization(graph.op(op).name(), -1, epsilon as f32);
    let inputs = [Some(ValueRef::from(div.a)), Some(side.constant.into())];
    let y = patch.op(node, &inputs, graph.name_of(mul.y), graph.ty(mul.y).cloned());
    patch.replace(mul.y, y);
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::FuseRmsNormalization;
    use crate::testing::{check_inferred, check_same_inferred, parse, run};

    fn graph(opset: i64, body: &str) -> String {
        format!(
            "<ir_version: 10, opset_import: [\"\" : {opset}]> g (float[N,3,4] x, float[N,3,4] z) => (float[N,3,4] y) <float one = {{1}}, float e = {{0.00001}}, float[4] k = {{1, 2, 3, 4}},
            int64[1] axes = {{-1}}> {{ q = Mul (x, x)  m = ReduceMean (q, axes)  a = Add (m, e)  r = Sqrt (a)  {body} }}"
        )
    }

    #[test]
    fn an_inverse_is_a_division() {
        let after = "<ir_version: 10, opset_import: [\"\" : 18]> g (float[N,3,4] x, float[N,3,4] z) => (float[N,3,4] y) <float e = {0.00001}, float[4] k = {1, 2, 3, 4},
            int64[1] axes = {-1}> { q = Mul (x, x)  m = ReduceMean (q, axes)  a = Add (m, e)  r = Sqrt (a)  n = Div (x, r)  y = Mul (n, k) }";
        let before = graph(18, "i = Div (one, r)  n = Mul (i, x)  y = Mul (n, k)");
        check_inferred(&FuseRmsNormalization, &before, after);
    }

    #[test]
    fn from_opset_23_on_it_is_one_op() {
        let mut found = parse(&graph(23, "i = Reciprocal (r)  n = Mul (x, i)  y = Mul (k, n)")).graph;
        onnx_shrink_ir::infer::infer(&mut found);
        run(&FuseRmsNormalization, &mut found, crate::Options::default());
        assert_eq!(found.count_by_type().into_keys().collect::<Vec<_>>(), ["RMSNormalization"]);
    }

    #[test]
    fn other_inverses_and_values_that_others_read_stay() {
        check_same_inferred(&FuseRmsNormalization, &graph(23, "i = Div (one, r)  n = Mul (z, i)  y = Mul (n, k)"));
        check_same_inferred(&FuseRmsNormalization, &graph(23, "i = Div (one, r)  n = Mul (x, i)  y = Add (n, r)"));
        check_same_inferred(&FuseRmsNormalization, &graph(22, "n = Div (x, r)  y = Mul (n, k)"));
    }
}
