//! Makes the targets of Reshape, Expand and Resize constant where they follow from the dimensions of what they shape.
//!
//! ```onnx before
//! # x: float[N,8,H,W]; i: int64[1] = {0}; j: int64[1] = {2}; k: int64[1] = {3}; c: int64[1] = {8}
//! s = Shape (x)
//! n = Gather (s, i)
//! h = Gather (s, j)
//! w = Gather (s, k)
//! area = Mul (h, w)
//! t = Concat <axis = 0> (n, c, area)
//! y = Reshape (x, t)
//! ```
//! ```onnx after
//! y = Reshape (x, target)
//! ```
//! Exporters that trace a model compute each target anew from the shape of a tensor. A 0 stands for the input's own dimension at that
//! place, a −1 for what is left; sizes of a Resize that are multiples of the input's become scales. Other integers whose values are the
//! same in every run become constants, too.
//!
//! **Class:** exact. **Legal when** every entry is a number, the input's own dimension at its place, or, for one entry at most, what
//! the others leave of the input's elements: then the same inputs are refused as before. What it is follows from symbolic
//! dimensions ([`Expressions`]).
//! **Does not** write a −1 where a dimension comes from data and may be 0, nor scales that are no whole numbers.
use onnx_shrink_ir::{
    DataType, Graph, OpId, Patch, Tensor,
    infer::expressions::{Expression, Expressions, same_product},
    ops::{Expand, Reshape, Resize},
};

use crate::{Class, Context, Description, Pass, Result, When};

/// See the [module](self) for before, after and legality.
pub struct FoldShapes;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fold-shapes",
    class: Class::Exact,
    about: "makes computed shapes constant where they follow from the input's own dimensions",
    when: When::Lossless,
};

impl Pass for FoldShapes {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let computes = |op: &OpId| {
            let node = graph.op(*op);
            let shape = node.input(if node.is("Resize") { 3 } else { 1 });
            ["Reshape", "Expand", "Resize"].iter().any(|kind| node.is(kind))
                && shape.is_some_and(|shape| graph.constant(shape).is_none())
        };
        if !graph.ops().iter().any(computes) {
            return Ok(());
        }
        let known = Expressions::of(graph);
        for op in graph.ops() {
            let patch = match graph.op(op).op_type() {
                "Reshape" => reshape(graph, op, &known),
                "Expand" => expand(graph, op, &known),
                "Resize" => resize(graph, op, &known),
                _ => number(graph, op, &known),
            };
            if let Some(patch) = patch {
                cx.apply(graph, patch)?;
            }
        }
        Ok(())
    }
}

/// The Reshape `op` with a constant target.
fn reshape(graph: &Graph, op: OpId, known: &Expressions) -> Option<Patch> {
    let reshape = Reshape::of(graph, op).filter(|reshape| graph.constant(reshape.shape).is_none())?;
    let entries = known.numbers(reshape.shape)?;
    let dims = known.dims(reshape.x)?;
    let mut target = Vec::new();
    let mut open = None;
    for (place, entry) in entries.iter().enumerate() {
        target.push(match entry.number() {
            Some(0) if reshape.allowzero => return None,
            Some(number) => number,
            None if dims.get(place) == Some(entry) => 0,
            None if open.replace(place).is_none() => -1,
            None => return None,
        });
    }
    if open.is_some() {
        let is_plain = entries.iter().all(|entry| entry.number().is_none_or(|number| number > 0));
        if !is_plain || !same_product(&dims, &entries) || !dims.iter().all(|dim| known.is_of_inputs(dim)) {
            return None;
        }
    }
    let mut patch = Patch::new(op);
    let target = patch.constant(graph.name_of(reshape.shape), Tensor::from_vec(&[target.len()], target));
    patch.set_input(op, 1, Some(target));
    if reshape.allowzero {
        patch.set_node(op, Reshape { allowzero: false, ..reshape }.to_op());
    }
    Some(patch)
}

/// The Expand `op` with a constant target.
fn expand(graph: &Graph, op: OpId, known: &Expressions) -> Option<Patch> {
    let expand = Expand::of(graph, op).filter(|expand| graph.constant(expand.shape).is_none())?;
    let entries = known.numbers(expand.shape)?;
    let dims = known.dims(expand.x)?;
    let before = entries.len().checked_sub(dims.len());
    let own = |place: usize| match before {
        Some(before) => dims.get(place.checked_sub(before)?),
        None => dims.get(place + dims.len() - entries.len()),
    };
    let entry = |(place, entry): (usize, &Expression)| match entry.number() {
        Some(number) => Some(number),
        None => (own(place) == Some(entry)).then_some(1),
    };
    let target: Vec<i64> = entries.iter().enumerate().map(entry).collect::<Option<_>>()?;
    let mut patch = Patch::new(op);
    let target = patch.constant(graph.name_of(expand.shape), Tensor::from_vec(&[target.len()], target));
    patch.set_input(op, 1, Some(target));
    Some(patch)
}

/// The Resize `op` with scales in the place of its sizes.
fn resize(graph: &Graph, op: OpId, known: &Expressions) -> Option<Patch> {
    let resize = Resize::of(graph, op)?;
    let sizes = resize.sizes.filter(|sizes| graph.constant(*sizes).is_none())?;
    if resize.axes.is_some() || resize.keeps_aspect_ratio {
        return None;
    }
    let (entries, dims) = (known.numbers(sizes)?, known.dims(resize.x)?);
    if entries.len() != dims.len() {
        return None;
    }
    let factor = |(entry, dim): (&Expression, &Expression)| entry.factor_over(dim).filter(|factor| *factor > 0);
    let factors: Vec<i64> = entries.iter().zip(&dims).map(factor).collect::<Option<_>>()?;
    let factors: Vec<f32> = factors.into_iter().map(|factor| factor as f32).collect();
    let mut patch = Patch::new(op);
    let scales = patch.constant("scales", Tensor::from_vec(&[factors.len()], factors));
    patch.set_input(op, 2, Some(scales));
    patch.set_input(op, 3, None);
    Some(patch)
}

/// A constant in the place of the integers that `op` makes, where they are the same in every run.
fn number(graph: &Graph, op: OpId, known: &Expressions) -> Option<Patch> {
    let node = graph.op(op);
    let y = node.output(0)?;
    if node.outputs().len() != 1 || graph.is_output(y) || graph.is_unused(y) || node.is("Constant") {
        return None;
    }
    let ty = graph.ty(y)?;
    let dims = ty.dims().filter(|dims| dims.len() <= 1)?;
    let numbers: Vec<i64> = known.numbers(y)?.iter().map(Expression::number).collect::<Option<_>>()?;
    let tensor = match ty.dtype {
        DataType::Int64 => Tensor::from_vec(&dims, numbers),
        DataType::Int32 => {
            Tensor::from_vec(&dims, numbers.into_iter().map(|n| i32::try_from(n).ok()).collect::<Option<_>>()?)
        }
        _ => return None,
    };
    let mut patch = Patch::new(op);
    let constant = patch.constant(graph.name_of(y), tensor);
    patch.replace(y, constant);
    Some(patch)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Graph, text};

    use super::FoldShapes;
    use crate::{
        Class, Options,
        testing::{assert_same_values, check_same, parse, run},
    };

    #[test]
    fn one_entry_at_most_is_what_is_left() {
        let model = |target: &str| {
            format!("g (float[N,M,4] x) => (float[A,B] y) <int64[1] i = {{0}}, int64[1] j = {{1}}, int64[1] four = {{4}}> {{
            s = Shape (x)  n = Gather (s, i)  m = Gather (s, j)  k = Mul (m, four)  o = Mul (n, four)  t = Concat <axis = 0> ({target})  y = Reshape (x, t) }}")
        };
        let after = "g (float[N,M,4] x) => (float[A,B] y) <int64[2] t_1 = {0, -1}> { y = Reshape (x, t_1) }";
        check_values(&model("n, k"), after);
        check_same(&FoldShapes, &model("o, m"));
    }

    #[test]
    fn sizes_that_are_multiples_of_the_inputs_become_scales() {
        let before = "g (float[1,2,H,W] x) => (float[1,2,A,B] y) <int64[1] i = {2}, int64[1] j = {3}, int64[1] two = {2},
            int64[2] nc = {1, 2}> {
            s = Shape (x)  h = Gather (s, i)  w = Gather (s, j)  hh = Mul (h, two)  ww = Mul (w, two)  t = Concat <axis = 0> (nc, hh, ww)
            y = Resize <mode = \"nearest\"> (x, , , t) }";
        let after = "g (float[1,2,H,W] x) => (float[1,2,A,B] y) <float[4] scales = {1, 1, 2, 2}> {
            y = Resize <mode = \"nearest\"> (x, , scales) }";
        check_text(before, after); // (the tests' evaluator has no Resize)
    }

    /// The pass makes `after` of `before`, which compute the same.
    fn check_values(before: &str, after: &str) {
        let graph = check_text(before, after);
        assert_same_values(&parse(before).graph, &graph, Class::Exact);
    }

    /// The pass makes `after` of `before`.
    fn check_text(before: &str, after: &str) -> Graph {
        let mut graph = parse(before).graph;
        run(&FoldShapes, &mut graph, Options::default());
        graph.sweep();
        assert_eq!(text::print_graph(&graph), text::print_graph(&parse(after).graph));
        graph
    }
}
