//! Ops that commute with `y · factor + shift`: what the map of their output is as a map of what they read.
use ndarray::{ArrayD, Axis, IxDyn};
use onnx_shrink_ir::{
    Graph, OpId, ValueId,
    ops::{
        AutoPad, AveragePool, Concat, Resize, ResizeCoordinates, ResizeMode, Squeeze, Transpose, Unsqueeze,
        axis_from_front,
    },
    semantics,
};

use crate::lossless::affine::Affine;

/// Inputs of an op, by place, with the map of each.
pub(crate) type Inputs = Vec<(usize, Affine)>;

/// The maps of inputs of `op` that stand for `affine` of its output; `None` where the op does not commute with it.
///
/// Data-movement ops commute with every map; averages and linear interpolation, whose weights sum to 1, with one that is the same for
/// all that meet in a number.
pub(crate) fn through(graph: &Graph, op: OpId, affine: &Affine) -> Option<Inputs> {
    let node = graph.op(op);
    if let Some(concat) = Concat::of(graph, op) {
        return parts(graph, &concat, affine);
    }
    let one = |affine: Option<Affine>| Some(vec![(0, affine?)]);
    if let Some(transpose) = Transpose::of(graph, op) {
        return one(affine.mapped(|numbers| permuted(numbers, &transpose.perm)));
    }
    let is_single = |numbers: &ArrayD<f64>| numbers.len() == 1;
    if semantics::is_reshape(node) && [&affine.factor, &affine.shift].into_iter().flatten().all(is_single) {
        let single = |numbers: &ArrayD<f64>| numbers.first().map(|&number| ndarray::arr0(number).into_dyn());
        return one(affine.mapped(single));
    }
    let rank = |value: ValueId| graph.ty(value)?.rank();
    let front = |axes: &[i64], rank: usize| -> Option<Vec<usize>> {
        let mut axes = axes.iter().map(|&axis| axis_from_front(axis, rank)).collect::<Option<Vec<_>>>()?;
        axes.sort_unstable();
        Some(axes)
    };
    if let Some(squeeze) = Squeeze::of(graph, op) {
        let axes = front(&squeeze.axes?, rank(squeeze.x)?)?;
        let before = |numbers: &ArrayD<f64>| {
            let mut numbers = padded(numbers, rank(squeeze.y)?)?;
            axes.iter().for_each(|&axis| numbers.insert_axis_inplace(Axis(axis)));
            Some(numbers)
        };
        return one(affine.mapped(before));
    }
    if let Some(unsqueeze) = Unsqueeze::of(graph, op) {
        let axes = front(&unsqueeze.axes, rank(unsqueeze.y)?)?;
        let before = |numbers: &ArrayD<f64>| {
            let mut numbers = padded(numbers, rank(unsqueeze.y)?)?;
            for &axis in axes.iter().rev() {
                (numbers.shape()[axis] == 1).then(|| numbers.index_axis_inplace(Axis(axis), 0))?;
            }
            Some(numbers)
        };
        return one(affine.mapped(before));
    }
    averages(graph, op, affine.shift.is_some()).then_some(())?;
    let along_channels = |numbers: &ArrayD<f64>| {
        let numbers = padded(numbers, rank(node.output(0)?)?)?;
        numbers.shape().iter().enumerate().all(|(axis, &dim)| dim == 1 || axis == 1).then_some(numbers)
    };
    one(affine.mapped(along_channels))
}

/// Whether every number that `op` makes is an average of numbers of one channel of its first input; with `shifts` the weights have
/// to sum to 1, without their sum may be anything.
fn averages(graph: &Graph, op: OpId, shifts: bool) -> bool {
    if graph.op(op).is("GlobalAveragePool") {
        return true;
    }
    if let Some(pool) = AveragePool::of(graph, op) {
        let is_padded =
            pool.pads.iter().any(|pad| *pad != 0) || !matches!(pool.auto_pad, AutoPad::NotSet | AutoPad::Valid);
        return !(pool.ceil_mode || shifts && is_padded && pool.count_include_pad);
    }
    let Some(resize) = Resize::of(graph, op) else { return false };
    let channels = |value: ValueId| graph.ty(value)?.shape.as_ref()?.get(1)?.known();
    resize.mode != ResizeMode::Cubic
        && resize.coordinates != ResizeCoordinates::CropAndResize
        && channels(resize.x).is_some()
        && channels(resize.x) == channels(resize.y)
}

/// The parts of `affine` for the inputs of `concat`.
fn parts(graph: &Graph, concat: &Concat, affine: &Affine) -> Option<Inputs> {
    let rank = graph.ty(concat.y)?.rank()?;
    let axis = axis_from_front(concat.axis, rank)?;
    let mut start = 0;
    let mut parts = Vec::new();
    for (place, &input) in concat.inputs.iter().enumerate() {
        let length = graph.ty(input)?.shape.as_ref()?.get(axis)?.known()?;
        let part = |numbers: &ArrayD<f64>| {
            let numbers = padded(numbers, rank)?;
            if numbers.shape()[axis] == 1 {
                return Some(numbers);
            }
            let within = start + length <= numbers.shape()[axis];
            within.then(|| numbers.slice_axis(Axis(axis), (start..start + length).into()).to_owned())
        };
        parts.push((place, affine.mapped(part)?));
        start += length;
    }
    Some(parts)
}

/// `numbers` with axes of length 1 in front, up to `rank`.
fn padded(numbers: &ArrayD<f64>, rank: usize) -> Option<ArrayD<f64>> {
    let mut dims = vec![1; rank.checked_sub(numbers.ndim())?];
    dims.extend(numbers.shape());
    numbers.to_shape(IxDyn(&dims)).ok().map(|view| view.to_owned())
}

/// What becomes `numbers` by a Transpose by `perm`.
fn permuted(numbers: &ArrayD<f64>, perm: &[usize]) -> Option<ArrayD<f64>> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    Some(padded(numbers, perm.len())?.permuted_axes(IxDyn(&inverse)).as_standard_layout().to_owned())
}
