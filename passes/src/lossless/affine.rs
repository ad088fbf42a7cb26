//! Maps `y · factor + shift` of values, and ops that commute with them: what the map of an output is as a map of the inputs.
use ndarray::{ArrayD, Axis, IxDyn};
use onnx_shrink_ir::{
    Graph, OpId, ValueId,
    ops::{
        AutoPad, AveragePool, Concat, Resize, ResizeCoordinates, ResizeMode, Squeeze, Transpose, Unsqueeze,
        axis_from_front,
    },
    semantics,
};

/// A map of a value; its numbers broadcast against it, and never broadcast it.
#[derive(Clone)]
pub(crate) struct Affine {
    /// `None`: 1
    pub factor: Option<ArrayD<f64>>,
    /// `None`: 0
    pub shift: Option<ArrayD<f64>>,
    /// A constant of shape `[channels]` that is `shift`, if there is one
    pub shift_value: Option<ValueId>,
    /// What a new bias is named for
    pub shift_name: String,
}

impl Affine {
    /// Both lists of numbers, changed by `change`.
    pub(crate) fn mapped(&self, change: impl Fn(&ArrayD<f64>) -> Option<ArrayD<f64>>) -> Option<Affine> {
        let changed = |numbers: &Option<ArrayD<f64>>| match numbers {
            Some(numbers) => change(numbers).map(Some),
            None => Some(None),
        };
        let (factor, shift) = (changed(&self.factor)?, changed(&self.shift)?);
        Some(Affine { factor, shift, shift_value: None, shift_name: self.shift_name.clone() })
    }

    /// The maps of inputs of `op` that stand for this one of its output; `None` where the op does not commute with it.
    ///
    /// Data-movement ops commute with every map; averages and linear interpolation, whose weights sum to 1, with one that is the same for
    /// all that meet in a number.
    pub(crate) fn through(&self, graph: &Graph, op: OpId) -> Option<Inputs> {
        let node = graph.op(op);
        if let Some(concat) = Concat::of(graph, op) {
            return parts(graph, &concat, self);
        }
        let one = |affine: Option<Affine>| Some(vec![(0, affine?)]);
        if let Some(transpose) = Transpose::of(graph, op) {
            return one(self.mapped(|numbers| permuted(numbers, &transpose.perm)));
        }
        let lists = || [&self.factor, &self.shift].into_iter().flatten();
        let moves = semantics::is_reshape(node) || (semantics::of(node).is_some() && MOVES.contains(&node.op_type()));
        if moves && lists().all(|numbers| numbers.len() == 1) {
            return one(self.mapped(single));
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
            return one(self.mapped(before));
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
            return one(self.mapped(before));
        }
        if semantics::is_reshape(node) {
            return one(self.mapped(|numbers| reshaped(graph, (node.input(0)?, node.output(0)?), numbers)));
        }
        averages(graph, op, self.shift.is_some()).then_some(())?;
        let along_channels = |numbers: &ArrayD<f64>| {
            let numbers = padded(numbers, rank(node.output(0)?)?)?;
            numbers.shape().iter().enumerate().all(|(axis, &dim)| dim == 1 || axis == 1).then_some(numbers)
        };
        one(self.mapped(along_channels))
    }
}

/// Inputs of an op, by place, with the map of each.
pub(crate) type Inputs = Vec<(usize, Affine)>;

/// Ops that move numbers of their first input alone.
const MOVES: [&str; 5] = ["DepthToSpace", "Expand", "Slice", "SpaceToDepth", "Tile"];

/// The one number of `numbers`.
pub(crate) fn single(numbers: &ArrayD<f64>) -> Option<ArrayD<f64>> {
    numbers.first().filter(|_| numbers.len() == 1).map(|&number| ndarray::arr0(number).into_dyn())
}

/// What varies along one axis of `y`, along that axis of `x`, of which `y` is a view: both have its length, and as many numbers behind it.
fn reshaped(graph: &Graph, (x, y): (ValueId, ValueId), numbers: &ArrayD<f64>) -> Option<ArrayD<f64>> {
    let dims = |value: ValueId| -> Option<Vec<Option<usize>>> {
        Some(graph.ty(value)?.shape.as_ref()?.iter().map(|dim| dim.known()).collect())
    };
    let (from, to) = (dims(x)?, dims(y)?);
    let behind = |dims: &[Option<usize>], axis: usize| dims[axis + 1..].iter().copied().product::<Option<usize>>();
    let padded = padded(numbers, to.len())?;
    let mut varies = (0..to.len()).filter(|&axis| padded.shape()[axis] != 1);
    let (Some(axis), None) = (varies.next(), varies.next()) else { return single(numbers) };
    let fits = |&place: &usize| from[place] == to[axis] && behind(&from, place) == behind(&to, axis);
    behind(&to, axis).filter(|_| to[axis] == Some(padded.len()))?;
    let place = (0..from.len()).find(fits)?;
    let mut dims = vec![1; from.len()];
    dims[place] = padded.len();
    padded.to_shape(IxDyn(&dims)).ok().map(|view| view.to_owned())
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
