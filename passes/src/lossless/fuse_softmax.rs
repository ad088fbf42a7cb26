//! Makes a decomposed softmax of the last axis one `Softmax`.
//!
//! ```onnx before
//! # x, e: float[2,3]; axes: int64[1] = {-1}
//! m = ReduceMax <axes = [-1]> (x)
//! d = Sub (x, m)
//! e = Exp (d)
//! s = ReduceSum (e, axes)
//! y = Div (e, s)
//! ```
//! ```onnx after
//! y = Softmax <axis = -1> (x)
//! ```
//! Maximum and sum may lose the axis and get it back by a Reshape or an Unsqueeze; a maximum with -inf changes nothing.
//!
//! **Class:** rounding. **Legal when** all is float32, both are of the last axis, and nobody else reads the values between.
use onnx_shrink_ir::{
    DataType, Graph, OpId, Patch, Use, ValueId, ValueRef,
    ops::{Binary, BinaryKind, Reduce, Softmax, axis_from_front},
    semantics,
};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When};

/// See the [module](self) for before, after and legality.
pub struct FuseSoftmax;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fuse-softmax",
    class: Class::Rounding,
    about: "makes a decomposed softmax of the last axis one op",
    when: When::Lossless,
};

impl Rewrite for FuseSoftmax {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        fuse(graph, op).ok_or(Miss::NotThisPattern)
    }
}

/// The edits that make the Div `op` at the end of a softmax one op.
fn fuse(graph: &Graph, op: OpId) -> Option<Patch> {
    let div = Binary::of(graph, op).filter(|binary| binary.kind == BinaryKind::Div)?;
    let exp = graph.producer(div.a).filter(|op| graph.op(*op).is("Exp"))?;
    let sub = graph.producer(graph.op(exp).input(0)?)?;
    let centered = Binary::of(graph, sub).filter(|binary| binary.kind == BinaryKind::Sub)?;
    let x = centered.a;
    let ty = graph.ty(x).filter(|ty| ty.dtype == DataType::Float)?;
    let rank = ty.rank()?;
    let mut ops = vec![op, exp, sub];
    reduced(graph, div.b, "ReduceSum", div.a, rank, &mut ops)?;
    reduced(graph, centered.b, "ReduceMax", x, rank, &mut ops)?;
    let inside =
        |value: ValueId| graph.uses(value).iter().all(|place| matches!(place, Use::Input(by, _) if ops.contains(by)));
    let mut between = ops.iter().filter(|part| **part != op);
    between.all(|part| graph.op(*part).output(0).is_some_and(inside)).then_some(())?;
    let mut patch = Patch::new(op);
    let axis = if graph.opset() < 13 { i64::try_from(rank - 1).ok()? } else { -1 };
    let node = Softmax::plain(graph.op(op).name(), axis);
    let y = patch.op(node, &[Some(ValueRef::from(x))], graph.name_of(div.y), graph.ty(div.y).or(Some(ty)).cloned());
    patch.replace(div.y, y);
    Some(patch)
}

/// Whether `value` is the reduction `op_type` of the last of `rank` axes of `of`, which it keeps with length 1; its ops go into `ops`.
fn reduced(graph: &Graph, value: ValueId, op_type: &str, of: ValueId, rank: usize, ops: &mut Vec<OpId>) -> Option<()> {
    let mut value = value;
    let mut is_kept = false;
    loop {
        let op = graph.producer(value)?;
        let node = graph.op(op);
        ops.push(op);
        if node.is("Max") {
            let is_least = |&side: &ValueId| graph.constant_scalar(side) == Some(f64::NEG_INFINITY);
            let sides: Vec<ValueId> = node.inputs().iter().copied().flatten().collect();
            let mut others = sides.iter().filter(|side| !is_least(side));
            value = *others.next()?;
            others.next().is_none().then_some(())?;
        } else if semantics::is_reshape(node) {
            // Of the shape of the input but for the last axis: one of these may be of unknown length, it follows from the others.
            let (made, wanted) = (graph.ty(value)?.shape.as_ref()?, graph.ty(of)?.shape.as_ref()?);
            let unknown = made.iter().zip(wanted).take(rank - 1).filter(|(made, wanted)| !made.same(wanted)).count();
            let fits = is_kept || (made.len() == rank && made.last()?.known() == Some(1) && unknown <= 1);
            fits.then_some(())?;
            is_kept = true;
            value = node.input(0)?;
        } else {
            let reduce = Reduce::of(graph, op).filter(|_| node.is(op_type))?;
            let axes: Vec<Option<usize>> = reduce.axes?.iter().map(|&axis| axis_from_front(axis, rank)).collect();
            let holds = reduce.x == of && axes == [Some(rank - 1)] && (reduce.keeps_axes || is_kept);
            return holds.then_some(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FuseSoftmax;
    use crate::testing::{check_inferred as check, check_same_inferred as check_same};

    fn graph(body: &str) -> String {
        format!("<ir_version: 8, opset_import: [\"\" : 12]> g (float[2,3] x) => (float[2,3] y) {{ {body} }}")
    }

    #[test]
    fn axes_that_are_lost_may_come_back() {
        let body = "m = ReduceMax <axes = [1], keepdims = 0> (x)  n = Unsqueeze <axes = [1]> (m)  d = Sub (x, n)
            e = Exp (d)  s = ReduceSum <axes = [-1]> (e)  y = Div (e, s)";
        check(&FuseSoftmax, &graph(body), &graph("y = Softmax <axis = 1> (x)"));
    }

    #[test]
    fn other_axes_other_inputs_and_values_that_others_read_stay() {
        for body in [
            "m = ReduceMax <axes = [0]> (x)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum <axes = [1]> (e)  y = Div (e, s)",
            "m = ReduceMax <axes = [1]> (x)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum <axes = [1]> (d)  y = Div (e, s)",
            "m = ReduceMax <axes = [1]> (x)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum <axes = [1]> (e)  f = Div (e, s)  y = Add (f, d)",
        ] {
            check_same(&FuseSoftmax, &graph(body));
        }
    }
}
