//! Removes ops that do nothing: their output is their input, bit for bit.
//!
//! ```onnx before
//! # x: float[2,3]; shape: int64[2] = {2, 3}
//! a = Identity (x)
//! b = Reshape (a, shape)
//! c = Transpose <perm = [0, 1]> (b)
//! y = Relu (c)
//! ```
//! ```onnx after
//! y = Relu (x)
//! ```
//! Identity; Dropout in inference; Cast and CastLike to the type that is there; Reshape, Flatten, Squeeze, Unsqueeze and
//! Expand to the shape that is there; Transpose that moves no axis longer than 1 past another; Slice of everything; Pad and
//! Tile by nothing; Concat, Sum, Max, Min and Mean of one; `x · 1`, `x / 1`, `x ^ 1`, `x - 0`, `x + -0`.
//!
//! **Class:** exact. **Legal when** the output's element type and every dimension are provably those of the input, and the
//! op's other outputs have no use.
//! **Does not** touch `x + 0` on floats (it makes 0 of -0), nor an op between a graph input or constant and a graph
//! output: both names must stay, so one op must.
use onnx_shrink_ir::{
    Dim, Graph, OpId, Patch, Tensor, TensorType, ValueId,
    ops::{
        Binary, BinaryKind, Cast, Concat, Dropout, Expand, Flatten, Pad, Reshape, Slice, Squeeze, Tile, Transpose,
        Unsqueeze, axis_from_front,
    },
};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When};

/// See the [module](self) for before, after and legality.
pub struct EliminateIdentity;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "eliminate-identity",
    class: Class::Exact,
    about: "removes ops whose output is equal to their input",
    when: When::Lossless,
};

impl Rewrite for EliminateIdentity {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        eliminate(graph, op)
    }
}

/// The edits that put the op's input in the place of its output, or why it stays.
fn eliminate(graph: &Graph, op: OpId) -> Result<Patch, Miss> {
    let node = graph.op(op);
    let x = unchanged_input(graph, op)?;
    let y = node.output(0).ok_or(Miss::NotThisPattern)?;
    if let Some(other) = node.outputs().iter().skip(1).flatten().find(|&&output| !graph.is_unused(output)) {
        return Err(Miss::OtherUses(*other));
    }
    let keeps_its_name = graph.producer(x).is_none() || graph.is_output(x);
    if graph.is_output(y) && keeps_its_name {
        return Err(Miss::NotThisPattern); // an Identity would have to stand here
    }
    let mut patch = Patch::new(op);
    patch.replace(y, x);
    Ok(patch)
}

/// The input that output 0 of `op` is equal to.
fn unchanged_input(graph: &Graph, op: OpId) -> Result<ValueId, Miss> {
    let node = graph.op(op);
    if !node.domain().is_empty() || !node.regions().is_empty() {
        return Err(Miss::NotThisPattern);
    }
    let first = node.input(0).ok_or(Miss::NotThisPattern)?;
    let same = |x: ValueId, y: ValueId| same_type(graph.ty(x), graph.ty(y)).then_some(x);
    let found = match node.op_type() {
        "Identity" => Some(first),
        "Dropout" => Dropout::of(graph, op).map(|dropout| dropout.x),
        "Cast" => {
            Cast::of(graph, op).filter(|cast| graph.ty(cast.x).is_some_and(|ty| ty.dtype == cast.to)).map(|cast| cast.x)
        }
        "CastLike" => cast_like(graph, op),
        "Reshape" => {
            Reshape::of(graph, op).and_then(|reshape| same(reshape.x, reshape.y).or_else(|| restated(graph, &reshape)))
        }
        "Flatten" => Flatten::of(graph, op).and_then(|flatten| {
            let rank = graph.ty(flatten.x).and_then(TensorType::rank);
            let splits_matrix = rank == Some(2) && matches!(flatten.axis, 1 | -1);
            if splits_matrix { Some(flatten.x) } else { same(flatten.x, flatten.y) }
        }),
        "Squeeze" => Squeeze::of(graph, op).and_then(|squeeze| same(squeeze.x, squeeze.y)),
        "Unsqueeze" => {
            Unsqueeze::of(graph, op).filter(|unsqueeze| unsqueeze.axes.is_empty()).map(|unsqueeze| unsqueeze.x)
        }
        "Expand" => Expand::of(graph, op).and_then(|expand| {
            let shape = graph.constant(expand.shape).and_then(Tensor::to_i64_vec);
            let rank = graph.ty(expand.x).and_then(TensorType::rank);
            let ones = shape.is_some_and(|shape| shape.iter().all(|&dim| dim == 1) && rank >= Some(shape.len()));
            if ones { Some(expand.x) } else { same(expand.x, expand.y) }
        }),
        "Transpose" => {
            Transpose::of(graph, op).filter(|transpose| keeps_order(graph, transpose)).map(|transpose| transpose.x)
        }
        "Slice" => Slice::of(graph, op).filter(|slice| takes_all(graph, slice)).map(|slice| slice.x),
        "Pad" => Pad::of(graph, op).filter(|pad| pad.pads.iter().all(|&amount| amount == 0)).map(|pad| pad.x),
        "Tile" => Tile::of(graph, op).filter(|tile| tile.repeats.iter().all(|&repeat| repeat == 1)).map(|tile| tile.x),
        "Concat" => Concat::of(graph, op).filter(|concat| concat.inputs.len() == 1).map(|concat| concat.inputs[0]),
        "Sum" | "Max" | "Min" | "Mean" if graph.opset() >= 6 && node.attributes().is_empty() => {
            (node.inputs().len() == 1).then_some(first)
        }
        "Add" | "Sub" | "Mul" | "Div" | "Pow" => {
            return Binary::of(graph, op).ok_or(Miss::NotThisPattern).and_then(|binary| neutral(graph, &binary));
        }
        _ => None,
    };
    found.ok_or(Miss::NotThisPattern)
}

/// Whether both types are known and provably equal in element type and every dimension.
fn same_type(a: Option<&TensorType>, b: Option<&TensorType>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    let (Some(from), Some(to)) = (&a.shape, &b.shape) else { return false };
    a.dtype == b.dtype && from.len() == to.len() && from.iter().zip(to).all(|(from, to)| from.same(to))
}

fn cast_like(graph: &Graph, op: OpId) -> Option<ValueId> {
    let (x, like) = (graph.op(op).input(0)?, graph.op(op).input(1)?);
    (graph.ty(x)?.dtype == graph.ty(like)?.dtype).then_some(x)
}

/// The input of a Reshape whose constant shape only restates the input's: the same numbers, 0 for "as it was" at any
/// place, and at most one -1, which is then what is left.
fn restated(graph: &Graph, reshape: &Reshape) -> Option<ValueId> {
    let shape = graph.constant(reshape.shape)?.to_i64_vec()?;
    let dims = graph.ty(reshape.x)?.shape.as_ref()?;
    let kept = |(dim, &wanted): (&Dim, &i64)| match wanted {
        0 => !reshape.allowzero,
        wanted => usize::try_from(wanted).ok().is_some_and(|wanted| *dim == Dim::Known(wanted)),
    };
    let restates = shape.len() == dims.len() && {
        let inferred = shape.iter().filter(|&&wanted| wanted == -1).count();
        inferred <= 1 && dims.iter().zip(&shape).all(|pair| *pair.1 == -1 || kept(pair))
    };
    restates.then_some(reshape.x)
}

/// Whether the axes longer than 1 keep their order and the shape stays.
fn keeps_order(graph: &Graph, transpose: &Transpose) -> bool {
    if transpose.perm.iter().copied().eq(0..transpose.perm.len()) {
        return true;
    }
    let Some(dims) = graph.ty(transpose.x).and_then(TensorType::dims) else { return false };
    let long: Vec<usize> = transpose.perm.iter().copied().filter(|&axis| dims.get(axis) != Some(&1)).collect();
    let shape_stays = transpose.perm.iter().zip(&dims).all(|(&axis, dim)| dims.get(axis) == Some(dim));
    shape_stays && long.is_sorted()
}

/// Whether every axis is taken from 0 to its end in steps of 1.
fn takes_all(graph: &Graph, slice: &Slice) -> bool {
    let dims = graph.ty(slice.x).and_then(|ty| ty.shape.as_ref());
    let length = |axis: i64| dims.and_then(|dims| dims[axis_from_front(axis, dims.len())?].known());
    (0..slice.axes.len()).all(|k| {
        let to_the_end = slice.ends[k] >= i64::from(i32::MAX)
            || length(slice.axes[k]).is_some_and(|length| slice.ends[k] >= i64::try_from(length).unwrap_or(i64::MAX));
        slice.starts[k] == 0 && slice.steps[k] == 1 && to_the_end
    })
}

/// The side of an arithmetic op that passes through unchanged.
fn neutral(graph: &Graph, op: &Binary) -> Result<ValueId, Miss> {
    let is_neutral = |value: ValueId| {
        let Some(constant) = graph.constant(value) else { return false };
        let is_float = constant.dtype().is_float();
        let Some(numbers) = constant.to_f64_vec() else { return false };
        numbers.iter().all(|&number| match op.kind {
            BinaryKind::Mul | BinaryKind::Div | BinaryKind::Pow => number == 1.0,
            BinaryKind::Sub => number == 0.0 && number.is_sign_positive(),
            BinaryKind::Add => number == 0.0 && (number.is_sign_negative() || !is_float),
        })
    };
    let commutes = matches!(op.kind, BinaryKind::Add | BinaryKind::Mul);
    let (x, constant) = match (is_neutral(op.b), commutes && is_neutral(op.a)) {
        (true, _) => (op.a, op.b),
        (_, true) => (op.b, op.a),
        _ => return Err(Miss::NotThisPattern),
    };
    if op.kind == BinaryKind::Mul && graph.constant(constant).is_some_and(|ones| ones.len() > 1) {
        return Err(Miss::DoesNotPay(
            "engines recognize a normalization by its scale, also where that is all ones".to_owned(),
        ));
    }
    if graph.constant(constant).is_some_and(|constant| widens(constant, graph.ty(x)))
        && !same_type(graph.ty(x), graph.ty(op.y))
    {
        return Err(Miss::UnknownType(x));
    }
    Ok(x)
}

/// Whether broadcasting a tensor of type `ty` with `constant` may give another shape.
fn widens(constant: &Tensor, ty: Option<&TensorType>) -> bool {
    let dims = constant.dims();
    if dims.is_empty() {
        return false;
    }
    let Some(shape) = ty.and_then(|ty| ty.shape.as_ref()) else { return true };
    let Some(outer) = shape.len().checked_sub(dims.len()) else { return true };
    !dims.iter().zip(&shape[outer..]).all(|(&dim, of_x)| dim == 1 || *of_x == Dim::Known(dim))
}

#[cfg(test)]
mod tests {
    use super::EliminateIdentity;
    use crate::testing::{check, check_missed, check_same};

    fn removes(op: &str, constants: &str) {
        let before = format!("g (float[2,3] x) => (float[2,3] y) <{constants}> {{ t = {op}  y = Relu (t) }}");
        check(&EliminateIdentity, &before, "g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }");
    }

    fn keeps(op: &str, constants: &str) {
        let model = format!("g (float[2,3] x) => (float y) <{constants}> {{ t = {op}  y = Relu (t) }}");
        check_same(&EliminateIdentity, &model.replace("(float y)", "(float[] y)"));
    }

    #[test]
    fn removes_what_does_nothing() {
        removes("Identity (x)", "float[2,3] t");
        removes("Dropout (x)", "float[2,3] t");
        removes("Cast <to = 1> (x)", "float[2,3] t");
        removes("Reshape (x, s)", "int64[2] s = {0, -1}");
        removes("Reshape (x, s)", "int64[2] s = {2, 3}, float[2,3] t");
        removes("Flatten (x)", "float[2,3] t");
        removes("Expand (x, s)", "int64[2] s = {1, 1}");
        removes("Expand (x, s)", "int64[2] s = {2, 1}, float[2,3] t");
        removes("Transpose <perm = [0, 1]> (x)", "float[2,3] t");
        removes("Slice (x, s, e)", "int64[2] s = {0, 0}, int64[2] e = {2, 9223372036854775807}");
        removes("Pad (x, p)", "int64[4] p = {0, 0, 0, 0}");
        removes("Tile (x, r)", "int64[2] r = {1, 1}");
        removes("Concat <axis = 0> (x)", "float[2,3] t");
        removes("Max (x)", "float[2,3] t");
        removes("Mul (x, c)", "float c = {1}");
        removes("Mul (c, x)", "float[1,1] c = {1}");
        removes("Div (x, c)", "float[1,3] c = {1, 1, 1}");
        removes("Div (x, c)", "float[1] c = {1}");
        removes("Sub (x, c)", "float c = {0}");
        removes("Add (x, c)", "float c = {-0.0}");
        removes("Pow (x, c)", "float c = {1}");
    }

    #[test]
    fn keeps_what_does_something() {
        keeps("Cast <to = 10> (x)", "float16[2,3] t");
        keeps("Reshape (x, s)", "int64[2] s = {3, 2}, float[3,2] t");
        keeps("Transpose (x)", "float[3,2] t");
        keeps("Expand (x, s)", "int64[3] s = {1, 1, 1}, float[1,2,3] t");
        keeps("Slice (x, s, e)", "int64[1] s = {0}, int64[1] e = {1}");
        keeps(
            "Slice (x, s, e, a, p)",
            "int64[1] s = {-1}, int64[1] e = {-9}, int64[1] a = {0}, int64[1] p = {-1}, float[2,3] t",
        );
        keeps("Tile (x, r)", "int64[2] r = {1, 2}");
        keeps("Div (c, x)", "float c = {1}");
        keeps("Sub (x, c)", "float c = {-0.0}");
        keeps("Add (x, c)", "float c = {0}"); // -0 + 0 is 0
        keeps("Concat <axis = 0> (x, x)", "float[4,3] t");
    }

    #[test]
    fn keeps_a_factor_of_one_that_broadcasts() {
        let model = "g (float[2] x) => (float[3,2] y) <float[3,2] c = {1,1,1,1,1,1}> { t = Div (x, c)  y = Relu (t) }";
        check_missed(&EliminateIdentity, model, "the shape or type of `x` is not known");
        let symbolic =
            "g (float[N,1] x) => (float[N,5] y) <float[1,5] c = {1,1,1,1,1}> { t = Div (x, c)  y = Relu (t) }";
        check_missed(&EliminateIdentity, symbolic, "the shape or type of `x` is not known");
    }

    #[test]
    fn keeps_a_scale_of_ones_by_which_engines_recognize_a_normalization() {
        let model = "g (float[N,3] x) => (float[N,3] y) <float[3] c = {1,1,1}> { t = Mul (x, c)  y = Relu (t) }";
        let sentence = "does not pay: engines recognize a normalization by its scale, also where that is all ones";
        check_missed(&EliminateIdentity, model, sentence);
    }

    #[test]
    fn keeps_the_names_of_inputs_and_outputs() {
        check_same(&EliminateIdentity, "g (float[N] x) => (float[N] y) { y = Identity (x) }");
        check_same(&EliminateIdentity, "g (float[N] x) => (float[N] y) { y = Dropout (x) }");
        let before = "g (float[N] x) => (float[N] y, float[N] z) { a = Relu (x)  y = Identity (a)  z = Identity (a) }";
        let after = "g (float[N] x) => (float[N] y, float[N] z) { y = Relu (x)  z = Identity (y) }";
        check(&EliminateIdentity, before, after);
    }

    #[test]
    fn keeps_dropout_that_trains_or_whose_mask_is_used() {
        let model = r#"<ir_version: 8, opset_import: ["" : 13]> g (float[2] x, bool t) => (float[2] y)
            <float r = {0.5}> { a = Dropout (x, r, t)  y = Relu (a) }"#;
        let mut graph = crate::testing::parse(model).graph;
        crate::testing::run(&EliminateIdentity, &mut graph, crate::Options::default());
        assert_eq!(graph.op_count(), 2);
        let model = "g (float[2] x) => (float[2] y, bool[2] m) { a, m = Dropout (x)  y = Relu (a) }";
        let mut graph = crate::testing::parse(model).graph;
        let misses = crate::testing::run(&EliminateIdentity, &mut graph, crate::Options::default());
        assert_eq!(misses, ["`m` has other uses"]);
    }

    #[test]
    fn works_through_captures_and_in_bodies() {
        let before = "g (float[2] x, bool c) => (float[2] y) { w = Identity (x)  y = If (c) <
            then_branch = a () => (float[2] t) { u = Identity (w)  t = Neg (u) },
            else_branch = b () => (float[2] e) { e = Identity (w) }> }";
        let after = "g (float[2] x, bool c) => (float[2] y) { y = If (c) <
            then_branch = a () => (float[2] t) { t = Neg (x) },
            else_branch = b () => (float[2] e) { e = Identity (x) }> }";
        check(&EliminateIdentity, before, after);
    }
}
