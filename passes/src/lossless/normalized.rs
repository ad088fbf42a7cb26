//! Decomposed normalizations: `(x − mean) / sqrt (mean of squares + epsilon)`, as exporters write them.
//!
//! [`absorb`] puts arithmetic with constants that follows into the scale and the bias of the one op that such a pattern becomes.
use std::collections::BTreeSet;

use onnx_shrink_ir::{
    Graph, NewOp, OpId, Patch, Tensor, Use, ValueId, ValueRef,
    ops::{Binary, BinaryKind, Reduce, Reshape, axis_from_front},
};

use crate::{Miss, net_bytes};

/// A normalization with a scale and maybe a bias.
pub(crate) struct Scaled {
    /// Input
    pub x: ValueId,
    /// One factor for each of its numbers
    pub scale: ValueId,
    /// One summand for each; `None`: 0
    pub bias: Option<ValueId>,
    /// Output
    pub y: ValueId,
    /// The node, which keeps its attributes
    pub node: NewOp,
}

/// The edits that put the arithmetic `op` into scale and bias of the normalization before it, which `find` reads. `fit` gives the
/// numbers of a constant in the order of a scale of these dimensions, where they vary as it does.
pub(crate) fn absorb(
    graph: &Graph,
    op: OpId,
    growth: usize,
    find: impl Fn(OpId) -> Option<Scaled>,
    fit: impl Fn(&Scaled, &Tensor, &[usize]) -> Option<Vec<f64>>,
) -> Result<Patch, Miss> {
    let binary = Binary::of(graph, op).ok_or(Miss::NotThisPattern)?;
    let side = binary.with_constant(graph).ok_or(Miss::NotThisPattern)?;
    let producer = graph.producer(side.x).ok_or(Miss::NotThisPattern)?;
    let norm = find(producer).ok_or(Miss::NotThisPattern)?;
    if graph.only_use(norm.y).is_none() {
        return Err(Miss::OtherUses(norm.y));
    }
    let tensor = graph.constant(norm.scale).ok_or(Miss::NotConstant(norm.scale))?;
    let scale = tensor.to_f64_vec().ok_or(Miss::NotThisPattern)?;
    let bias = match norm.bias {
        Some(bias) => graph.constant(bias).and_then(Tensor::to_f64_vec).ok_or(Miss::NotConstant(bias))?,
        None => vec![0.0; scale.len()],
    };
    let numbers = graph.constant(side.constant).and_then(|constant| fit(&norm, constant, tensor.dims()));
    let numbers = numbers.filter(|numbers| numbers.len() == scale.len() && bias.len() == scale.len());
    let numbers = numbers.ok_or(Miss::Form("a constant that varies along other axes than the scale"))?;
    let map = |factor: &dyn Fn(usize) -> f64, shift: &dyn Fn(usize) -> f64| -> (Vec<f64>, Vec<f64>) {
        (0..scale.len()).map(|c| (scale[c] * factor(c), bias[c] * factor(c) + shift(c))).unzip()
    };
    let (new_scale, new_bias) = match (binary.kind, side.is_left) {
        (BinaryKind::Mul, _) => map(&|c| numbers[c], &|_| 0.0),
        (BinaryKind::Div, false) => map(&|c| 1.0 / numbers[c], &|_| 0.0),
        (BinaryKind::Add, _) => map(&|_| 1.0, &|c| numbers[c]),
        (BinaryKind::Sub, false) => map(&|_| 1.0, &|c| -numbers[c]),
        (BinaryKind::Sub, true) => map(&|_| -1.0, &|c| numbers[c]),
        _ => return Err(Miss::NotThisPattern),
    };
    let rounded = |numbers: Vec<f64>| {
        let numbers: Vec<f32> = numbers.into_iter().map(|number| number as f32).collect();
        let finite = numbers.iter().all(|number| number.is_finite());
        finite.then(|| Tensor::from_vec(tensor.dims(), numbers)).ok_or(Miss::NotFinite(side.constant))
    };
    let mut patch = Patch::new(op);
    let has_bias = norm.bias.is_some() || new_bias.iter().any(|number| *number != 0.0);
    let mut inputs = vec![Some(ValueRef::from(norm.x)), Some(patch.constant("scale", rounded(new_scale)?))];
    if has_bias {
        inputs.push(Some(patch.constant("bias", rounded(new_bias)?)));
    }
    let y = patch.op(norm.node, &inputs, graph.name_of(binary.y), graph.ty(binary.y).cloned());
    patch.replace(binary.y, y);
    net_bytes::check(graph, &patch, &[producer, op], 1, growth)?;
    Ok(patch)
}

/// A value that is normalized along some axes.
#[derive(Clone, Debug)]
pub(crate) struct Normalized {
    /// What is normalized
    pub x: ValueId,
    /// Along which axes: from the front, ascending
    pub axes: Vec<usize>,
    /// Added to the variance
    pub epsilon: f64,
    /// The op at the end
    pub end: OpId,
    /// What it makes, of the shape of `x`
    pub y: ValueId,
    /// All ops of the pattern
    pub ops: Vec<OpId>,
}

/// A mean that keeps its axes.
struct Mean {
    x: ValueId,
    axes: Vec<usize>,
    ops: Vec<OpId>,
}

impl Mean {
    /// The mean that `value` is. A mean of an image may be taken over its rows laid out as one.
    fn making(graph: &Graph, value: ValueId) -> Option<Mean> {
        let op = graph.producer(value)?;
        if graph.op(op).is("GlobalAveragePool") {
            let x = graph.op(op).input(0)?;
            let axes = (2..graph.ty(x)?.rank()?).collect();
            return Some(Mean { x, axes, ops: vec![op] });
        }
        let reduce = Reduce::of(graph, op).filter(|reduce| graph.op(op).is("ReduceMean") && reduce.keeps_axes)?;
        let dims = graph.ty(reduce.x)?.shape.as_ref()?;
        let front = |&axis: &i64| axis_from_front(axis, dims.len());
        let axes: BTreeSet<usize> = reduce.axes?.iter().map(front).collect::<Option<_>>()?;
        let view = graph.producer(reduce.x).and_then(|op| Some((op, Reshape::of(graph, op)?)));
        if let Some((view, reshape)) = view
            && let Some(from) = graph.ty(reshape.x).and_then(|ty| ty.shape.as_ref())
            && dims.len() >= 3
            && from.len() == dims.len()
            && axes.iter().copied().eq([dims.len() - 1])
            && (0..2).all(|axis| from[axis].same(&dims[axis]))
            && dims[2..dims.len() - 1].iter().all(|dim| dim.known() == Some(1))
        {
            return Some(Mean { x: reshape.x, axes: (2..from.len()).collect(), ops: vec![op, view] });
        }
        Some(Mean { x: reduce.x, axes: axes.into_iter().collect(), ops: vec![op] })
    }
}

fn binary(graph: &Graph, value: ValueId, kind: BinaryKind) -> Option<(OpId, Binary)> {
    let op = graph.producer(value)?;
    Some((op, Binary::of(graph, op).filter(|binary| binary.kind == kind)?))
}

/// What `value` is the square of, with the op.
fn square(graph: &Graph, value: ValueId) -> Option<(ValueId, OpId)> {
    let op = graph.producer(value)?;
    let binary = Binary::of(graph, op)?;
    let holds = match binary.kind {
        BinaryKind::Mul => binary.a == binary.b,
        BinaryKind::Pow => graph.constant_scalar(binary.b) == Some(2.0),
        _ => false,
    };
    holds.then_some((binary.a, op))
}

/// What `value` is the square root of plus a constant: `sqrt (x + epsilon)`.
pub(crate) fn root(graph: &Graph, value: ValueId) -> Option<(ValueId, f64, [OpId; 2])> {
    let sqrt = graph.producer(value).filter(|op| graph.op(*op).is("Sqrt"))?;
    let (add, sum) = binary(graph, graph.op(sqrt).input(0)?, BinaryKind::Add)?;
    let side = sum.with_constant(graph)?;
    let epsilon = graph.constant_scalar(side.constant).filter(|epsilon| *epsilon >= 0.0 && *epsilon < 1.0)?;
    Some((side.x, epsilon, [sqrt, add]))
}

/// The value of whose squares `value` is a mean, the axes from the front, and the ops between.
pub(crate) fn mean_square(graph: &Graph, value: ValueId) -> Option<(ValueId, Vec<usize>, Vec<OpId>)> {
    let Mean { x, axes, mut ops } = Mean::making(graph, value)?;
    let (x, op) = square(graph, x)?;
    ops.push(op);
    Some((x, axes, ops))
}

impl Normalized {
    /// The Div `op` as the end of a normalization that nobody reads into; `None` when it is none.
    pub(crate) fn ending(graph: &Graph, op: OpId) -> Option<Normalized> {
        let div = Binary::of(graph, op).filter(|binary| binary.kind == BinaryKind::Div)?;
        let (variance, epsilon, root) = root(graph, div.b)?;
        let spread = Mean::making(graph, variance)?;
        let (centered, squared) = square(graph, spread.x)?;
        let (sub, difference) = binary(graph, div.a, BinaryKind::Sub)?;
        let mut ops = vec![op, squared, sub];
        if centered != div.a {
            // PyTorch subtracts the mean twice.
            let (again, same) = binary(graph, centered, BinaryKind::Sub)?;
            let mean = |value| Mean::making(graph, value);
            let (one, other) = (mean(same.b)?, mean(difference.b)?);
            let agrees = same.a == difference.a && one.x == other.x && one.axes == other.axes;
            agrees.then_some(())?;
            ops.push(again);
            ops.extend(one.ops);
        }
        let mean = Mean::making(graph, difference.b)?;
        (mean.x == difference.a && mean.axes == spread.axes).then_some(())?;
        ops.extend(root.into_iter().chain(spread.ops).chain(mean.ops));
        let inside = |value: ValueId| {
            graph.uses(value).iter().all(|place| matches!(place, Use::Input(by, _) if ops.contains(by)))
        };
        let closed = ops.iter().filter(|part| **part != op).all(|part| graph.op(*part).output(0).is_some_and(inside));
        closed.then_some(())?;
        ops.sort();
        ops.dedup();
        Some(Normalized { x: mean.x, axes: mean.axes, epsilon, end: op, y: div.y, ops })
    }
}
