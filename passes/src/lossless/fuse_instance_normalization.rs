//! Makes a decomposed instance normalization one `InstanceNormalization`, with the scale and the bias behind it.
//!
//! ```onnx before
//! # x, q: float[1,2,4,4]; e: float = {0.00001}; k, s: float[2,1,1]
//! m = ReduceMean <axes = [2, 3]> (x)
//! d = Sub (x, m)
//! q = Mul (d, d)
//! v = ReduceMean <axes = [2, 3]> (q)
//! a = Add (v, e)
//! r = Sqrt (a)
//! n = Div (d, r)
//! t = Mul (n, k)
//! y = Add (t, s)
//! ```
//! ```onnx after
//! y = InstanceNormalization <epsilon = 0.00001> (x, scale, bias)
//! ```
//! Means are ReduceMean or GlobalAveragePool; an image may be laid out as one row before it. Arithmetic with constants behind an
//! InstanceNormalization goes into its scale and its bias, in f64, rounded once.
//!
//! **Class:** rounding. **Legal when** all is float32, the axes are all from 2 on, the number of channels is known, constants vary
//! along the channels only, and nobody else reads the values between.
//! **Does not** fuse what a scale per feature follows where it is a LayerNormalization: of the last of three axes, or from opset 17 on.
use onnx_shrink_ir::{
    DataType, Graph, OpId, Patch, Tensor, ValueId, ValueRef,
    ops::{Binary, InstanceNormalization, LAYER_NORMALIZATION},
};

use crate::{
    Class, Context, Description, Miss, Result, Rewrite, When,
    lossless::normalized::{Normalized, Scaled, absorb},
    net_bytes,
};

/// See the [module](self) for before, after and legality.
pub struct FuseInstanceNormalization;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fuse-instance-normalization",
    class: Class::Rounding,
    about: "makes a decomposed instance normalization one op, with scale and bias behind it",
    when: When::Lossless,
};

impl Rewrite for FuseInstanceNormalization {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, cx: &Context<'_>) -> Result<Patch, Miss> {
        match Normalized::ending(graph, op) {
            Some(found) => fuse(graph, &found, cx.options.fold_growth),
            None => {
                let fit = |norm: &Scaled, tensor: &Tensor, scale: &[usize]| {
                    per_channel(tensor, scale.iter().product(), graph.ty(norm.x)?.rank()?)
                };
                absorb(graph, op, cx.options.fold_growth, |op| scaled(graph, op), fit)
            }
        }
    }
}

/// The InstanceNormalization `op` of float32.
fn scaled(graph: &Graph, op: OpId) -> Option<Scaled> {
    let InstanceNormalization { x, scale, bias, y, node, .. } = InstanceNormalization::of(graph, op)?;
    (graph.ty(x)?.dtype == DataType::Float).then_some(Scaled { x, scale, bias: Some(bias), y, node })
}

/// The edits that make `found` an InstanceNormalization with scale 1 and bias 0.
fn fuse(graph: &Graph, found: &Normalized, growth: usize) -> Result<Patch, Miss> {
    let ty = graph.ty(found.x).ok_or(Miss::UnknownType(found.x))?;
    let dims = ty.shape.as_ref().ok_or(Miss::UnknownType(found.x))?;
    let may_be_layer = dims.len() == 3 || graph.opset() >= LAYER_NORMALIZATION;
    let is_image = dims.len() >= 3 && !(may_be_layer && has_other_scale(graph, found.y, dims[1].known(), dims.len()));
    if graph.opset() < 6 || ty.dtype != DataType::Float || !is_image || !found.axes.iter().copied().eq(2..dims.len()) {
        return Err(Miss::NotThisPattern);
    }
    let channels = dims[1].known().ok_or(Miss::UnknownType(found.x))?;
    let mut patch = Patch::new(found.end);
    let node = InstanceNormalization::plain(graph.op(found.end).name(), found.epsilon as f32);
    let scale = patch.constant("scale", Tensor::from_vec(&[channels], vec![1f32; channels]));
    let bias = patch.constant("bias", Tensor::from_vec(&[channels], vec![0f32; channels]));
    let inputs = [Some(ValueRef::from(found.x)), Some(scale), Some(bias)];
    let y = patch.op(node, &inputs, graph.name_of(found.y), graph.ty(found.y).cloned());
    patch.replace(found.y, y);
    net_bytes::check(graph, &patch, &found.ops, 1, growth)?;
    Ok(patch)
}

/// Whether a product with a constant that is not one number per channel reads `value`.
fn has_other_scale(graph: &Graph, value: ValueId, channels: Option<usize>, rank: usize) -> bool {
    let side = |op| Binary::of(graph, op).and_then(|binary| binary.with_constant(graph));
    let dims = graph.only_use(value).and_then(|(op, _)| side(op)).and_then(|side| graph.constant(side.constant));
    dims.is_some_and(|tensor| channels.is_none_or(|channels| per_channel(tensor, channels, rank).is_none()))
}

/// The numbers of `tensor`, one a channel (axis 1 of `rank`), where it varies along no other axis.
fn per_channel(tensor: &Tensor, channels: usize, rank: usize) -> Option<Vec<f64>> {
    let numbers = tensor.to_f64_vec()?;
    let outer = rank.checked_sub(tensor.dims().len())?;
    if let [number] = numbers[..] {
        return Some(vec![number; channels]);
    }
    let fits = |(axis, &dim): (usize, &usize)| dim == 1 || (outer + axis == 1 && dim == channels);
    tensor.dims().iter().enumerate().all(fits).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::FuseInstanceNormalization;
    use crate::testing::{check_inferred as check, check_same_inferred as check_same, graph_of};

    const CONSTANTS: [(&str, &str, &str); 5] = [
        ("e", "float", "{0.00001}"),
        ("two", "float", "{2}"),
        ("k", "float[1,2,1,1]", "{2, 3}"),
        ("s", "float[2,1,1]", "{5, -7}"),
        ("row", "int64[4]", "{1, 2, 1, -1}"),
    ];

    fn graph(body: &str) -> String {
        graph_of("(float[1,2,4,4] x) => (float[1,2,4,4] y)", &CONSTANTS, body)
    }

    const CORE: &str = "m = ReduceMean <axes = [2, 3]> (x)  d = Sub (x, m)  q = Mul (d, d)
        v = ReduceMean <axes = [-1, -2]> (q)  a = Add (v, e)  r = Sqrt (a)";

    #[test]
    fn the_scale_and_the_bias_behind_it_belong_to_it() {
        let after = |scale: &str, bias: &str| {
            format!(
                "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <{scale}, {bias}> {{ y = InstanceNormalization <epsilon = 0.00001> (x, scale{}, bias{}) }}",
                if scale.contains("_2") {
                    "_2"
                } else if scale.contains("_1") {
                    "_1"
                } else {
                    ""
                },
                if bias.contains("_2") {
                    "_2"
                } else if bias.contains("_1") {
                    "_1"
                } else {
                    ""
                },
            )
        };
        check(
            &FuseInstanceNormalization,
            &graph(&format!("{CORE}  y = Div (d, r)")),
            &after("float[2] scale = {1, 1}", "float[2] bias = {0, 0}"),
        );
        check(
            &FuseInstanceNormalization,
            &graph(&format!("{CORE}  n = Div (d, r)  t = Mul (n, k)  y = Add (t, s)")),
            &after("float[2] scale_2 = {2, 3}", "float[2] bias_2 = {5, -7}"),
        );
    }

    #[test]
    fn other_forms_of_mean_square_and_difference() {
        for body in [
            "m = GlobalAveragePool (x)  d = Sub (x, m)  q = Pow (d, two)  v = GlobalAveragePool (q)  a = Add (e, v)  r = Sqrt (a)  y = Div (d, r)",
            "w = Reshape (x, row)  m = ReduceMean <axes = [3]> (w)  d = Sub (x, m)  q = Mul (d, d)  p = Reshape (q, row)
             v = ReduceMean <axes = [3]> (p)  a = Add (v, e)  r = Sqrt (a)  y = Div (d, r)",
            "m = ReduceMean <axes = [2, 3]> (x)  d = Sub (x, m)  f = Sub (x, m)  q = Mul (d, d)  v = ReduceMean <axes = [2, 3]> (q)
             a = Add (v, e)  r = Sqrt (a)  y = Div (f, r)",
        ] {
            let after = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2] scale = {1, 1}, float[2] bias = {0, 0}> {
                y = InstanceNormalization <epsilon = 0.00001> (x, scale, bias) }";
            check(&FuseInstanceNormalization, &graph(body), after);
        }
    }

    #[test]
    fn other_axes_and_values_that_others_read_stay() {
        for body in [
            "m = ReduceMean <axes = [3]> (x)  d = Sub (x, m)  q = Mul (d, d)  v = ReduceMean <axes = [3]> (q)  a = Add (v, e)  r = Sqrt (a)  y = Div (d, r)",
            "m = ReduceMean <axes = [2, 3]> (x)  d = Sub (x, m)  q = Mul (d, d)  v = ReduceMean <axes = [1, 2, 3]> (q)  a = Add (v, e)  r = Sqrt (a)  y = Div (d, r)",
            "m = ReduceMean <axes = [2, 3]> (x)  d = Sub (x, m)  q = Mul (x, d)  v = ReduceMean <axes = [2, 3]> (q)  a = Add (v, e)  r = Sqrt (a)  y = Div (d, r)",
        ] {
            check_same(&FuseInstanceNormalization, &graph(body));
        }
        check_same(&FuseInstanceNormalization, &graph(&format!("{CORE}  n = Div (d, r)  y = Add (n, d)")));
        check_same(
            &FuseInstanceNormalization,
            "g (float[1,2,4] x) => (float[1,2,4] y) <float e = {0.00001}, float[4] k = {1, 2, 3, 4}> {
                m = ReduceMean <axes = [2]> (x)  d = Sub (x, m)  q = Mul (d, d)  v = ReduceMean <axes = [2]> (q)
                a = Add (v, e)  r = Sqrt (a)  n = Div (d, r)  y = Mul (n, k) }",
        );
    }
}
