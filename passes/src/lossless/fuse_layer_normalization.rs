//! Makes a decomposed layer normalization one `LayerNormalization`, with the scale and the bias behind it.
//!
//! ```onnx before
//! # x, q: float[2,3,4]; e: float = {0.00001}; k, s: float[4]
//! m = ReduceMean <axes = [-1]> (x)
//! d = Sub (x, m)
//! q = Mul (d, d)
//! v = ReduceMean <axes = [-1]> (q)
//! a = Add (v, e)
//! r = Sqrt (a)
//! n = Div (d, r)
//! t = Mul (n, k)
//! y = Add (t, s)
//! ```
//! ```onnx after
//! y = LayerNormalization <axis = -1, epsilon = 0.00001> (x, scale, bias)
//! ```
//! ONNX Runtime makes the same op of the same pattern when it loads the model: the file is smaller, the time is the same.
//!
//! **Class:** rounding. **Legal when** the model's opset is 17 or later, all is float32, the axes are the last ones and of known
//! length, the constants are of their shape, and nobody else reads the values between.
use onnx_shrink_ir::{
    DataType, Graph, OpId, Patch, Tensor, ValueRef,
    ops::{LAYER_NORMALIZATION, LayerNormalization},
};

use crate::{
    Class, Context, Description, Miss, Result, Rewrite, When,
    lossless::normalized::{Normalized, Scaled, absorb},
    net_bytes,
};

/// See the [module](self) for before, after and legality.
pub struct FuseLayerNormalization;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fuse-layer-normalization",
    class: Class::Rounding,
    about: "makes a decomposed layer normalization one op, with scale and bias behind it",
    when: When::Lossless,
};

impl Rewrite for FuseLayerNormalization {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, cx: &Context<'_>) -> Result<Patch, Miss> {
        if graph.opset() < LAYER_NORMALIZATION {
            return Err(Miss::NotThisPattern);
        }
        match Normalized::ending(graph, op) {
            Some(found) => fuse(graph, &found, cx.options.fold_growth),
            None => {
                let fit = |norm: &Scaled, tensor: &Tensor, scale: &[usize]| {
                    per_number(tensor, scale, graph.ty(norm.x)?.rank()?)
                };
                absorb(graph, op, cx.options.fold_growth, |op| scaled(graph, op), fit)
            }
        }
    }
}

/// The LayerNormalization `op` of float32 that gives its result alone.
fn scaled(graph: &Graph, op: OpId) -> Option<Scaled> {
    let alone = graph.op(op).outputs().iter().skip(1).all(Option::is_none);
    let LayerNormalization { x, scale, bias, y, node, .. } = LayerNormalization::of(graph, op).filter(|_| alone)?;
    (graph.ty(x)?.dtype == DataType::Float).then_some(Scaled { x, scale, bias, y, node })
}

/// The numbers of `tensor` for a scale of these dimensions: one for all, or as many along the same last of `rank` axes.
fn per_number(tensor: &Tensor, scale: &[usize], rank: usize) -> Option<Vec<f64>> {
    let numbers = tensor.to_f64_vec().filter(|_| tensor.dims().len() <= rank)?;
    let without_ones = |dims: &[usize]| dims.iter().copied().skip_while(|dim| *dim == 1).collect::<Vec<_>>();
    match numbers[..] {
        [number] => Some(vec![number; scale.iter().product()]),
        _ => (without_ones(tensor.dims()) == without_ones(scale)).then_some(numbers),
    }
}

/// The edits that make `found` a LayerNormalization with scale 1.
fn fuse(graph: &Graph, found: &Normalized, growth: usize) -> Result<Patch, Miss> {
    let ty = graph.ty(found.x).ok_or(Miss::UnknownType(found.x))?;
    let dims = ty.shape.as_ref().ok_or(Miss::UnknownType(found.x))?;
    let first = *found.axes.first().ok_or(Miss::NotThisPattern)?;
    if ty.dtype != DataType::Float || !found.axes.iter().copied().eq(first..dims.len()) {
        return Err(Miss::NotThisPattern);
    }
    let scale: Option<Vec<usize>> = dims[first..].iter().map(|dim| dim.known()).collect();
    let scale = scale.ok_or(Miss::UnknownType(found.x))?;
    let mut patch = Patch::new(found.end);
    let axis = i64::try_from(found.axes.len()).map_err(|_| Miss::NotThisPattern)?;
    let node = LayerNormalization::plain(graph.op(found.end).name(), -axis, found.epsilon as f32);
    let ones = patch.constant("scale", Tensor::from_vec(&scale, vec![1f32; scale.iter().product()]));
    let inputs = [Some(ValueRef::from(found.x)), Some(ones)];
    let y = patch.op(node, &inputs, graph.name_of(found.y), graph.ty(found.y).cloned());
    patch.replace(found.y, y);
    // The scale that may follow takes its place.
    net_bytes::check(graph, &patch, &found.ops, 1, growth.max(patch.constant_bytes()))?;
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::FuseLayerNormalization;
    use crate::testing::{check_inferred as check, check_same_inferred as check_same};

    const CORE: &str = "m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  q = Mul (d, d)
        v = ReduceMean <axes = [2]> (q)  a = Add (v, e)  r = Sqrt (a)  n = Div (d, r)";

    fn graph(constants: &str, body: &str) -> String {
        format!("g (float[N,3,4] x) => (float[N,3,4] y) <float e = {{0.00001}}{constants}> {{ {CORE} {body} }}")
    }

    #[test]
    fn the_scale_and_the_bias_behind_it_belong_to_it() {
        check(
            &FuseLayerNormalization,
            &graph(", float[4] k = {1, 2, 3, 4}, float[1,4] s = {5, 6, 7, 8}", "t = Mul (k, n)  y = Add (t, s)"),
            "g (float[N,3,4] x) => (float[N,3,4] y) <float[4] scale_2 = {1, 2, 3, 4}, float[4] bias = {5, 6, 7, 8}> {
                y = LayerNormalization <axis = -1, epsilon = 0.00001> (x, scale_2, bias) }",
        );
    }

    #[test]
    fn older_opsets_and_other_constants_stay() {
        let older = graph("", "y = Neg (n)");
        check_same(&FuseLayerNormalization, &format!("<ir_version: 8, opset_import: [\"\" : 16]> {older}"));
        let rows = "g (float[N,3,4] x) => (float[N,3,4] y) <float[4] scale = {1, 1, 1, 1}, float[3,1] k = {1, 2, 3}> {
            n = LayerNormalization <axis = -1, epsilon = 0.00001> (x, scale)  y = Mul (n, k) }";
        check_same(&FuseLayerNormalization, rows);
        check_same(
            &FuseLayerNormalization,
            &rows.replace("[N,3,4]", "[N,4,4]").replace("[3,1] k = {", "[4,1] k = {0, "),
        );
    }
}
