//! Branches `Conv → … → Conv`, where nobody else reads what lies between: one convolution can stand for all of it, or the
//! second one can do with a row, a column or a point of its kernel.
//!
//! Engines compute outputs in whole blocks, so that a branch of 16 channels that keeps 4 still costs five eighths; one
//! convolution from the branch's input to its output costs half, or a tap's share. Its weights follow by least squares,
//! as those of every layer do: what the branch's nonlinearity made is lost but for what is linear in it.
//!
//! **Never** stands for a branch whose size of output it cannot make, or whose inner channels are not all free to go.
use std::collections::BTreeSet;

use ndarray::{ArrayD, IxDyn};
use onnx_shrink_ir::{
    Graph, OpId, Patch, Tensor, ValueId,
    ops::{AutoPad, Conv},
};

use super::{
    groups::{Groups, Unit},
    layer::Layer,
};

/// What is left of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Window {
    /// All
    Whole,
    /// A row
    Row,
    /// A column
    Column,
    /// A single position
    Point,
}

/// What stands for a branch, or for its second convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// It reads what the branch reads, and all that lies between goes; otherwise the first convolution stays
    pub over_all: bool,
    /// What it sums over, of the kernel of one of the two or of the second
    pub window: Window,
}

/// A kernel as a convolution.
#[derive(Clone, Debug)]
struct Form {
    kernel: Kernel,
    /// The second convolution with this window; pads are explicit
    conv: Conv,
    /// Places of what is left in the whole kernel, ascending
    taps: Vec<usize>,
}

/// A branch of two convolutions and ops between them.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Index into [`Groups::groups`]: the channels between the two
    pub group: usize,
    /// The convolution that makes them
    pub first: OpId,
    /// The one that reads them; it becomes the one that stands for both
    pub last: OpId,
    /// What the branch reads
    pub x: ValueId,
    /// What its second convolution reads
    pub inner: ValueId,
    /// What it gives
    pub y: ValueId,
    forms: Vec<Form>,
}

/// What goes: channels, and inner channels of branches with all that lies between.
#[derive(Clone, Debug, Default)]
pub struct Removal {
    /// Channels that are taken out
    pub gone: BTreeSet<Unit>,
    /// Branches that become one convolution, or whose second one gets a smaller kernel
    pub branches: Vec<(Branch, Kernel)>,
}

/// The spatial dimensions of `value`; `None` when one is not known.
fn area(graph: &Graph, value: ValueId) -> Option<Vec<usize>> {
    graph.ty(value)?.shape.as_ref()?.get(2..)?.iter().map(|dim| dim.known()).collect()
}

/// The channels of `value`.
fn channels(graph: &Graph, value: ValueId) -> Option<usize> {
    graph.ty(value)?.shape.as_ref()?.get(1)?.known()
}

impl Branch {
    /// The branch whose inner channels are group `index`; `None` when they are of no such branch.
    pub fn of(graph: &Graph, groups: &Groups, index: usize) -> Option<Branch> {
        let group = groups.groups.get(index)?;
        let (&[first], &[consumer]) = (&group.producers[..], &group.consumers[..]) else { return None };
        let last = groups.consumers[consumer].op;
        if group.frozen.is_some() || groups.free(group).len() != group.units.len() {
            return None;
        }
        let (before, after) = (Layer::of(graph, first)?, Layer::of(graph, last)?);
        let (one, two) = (Conv::of(graph, first)?, Conv::of(graph, last)?);
        // From the second back to the first, one op after the other.
        let mut value = after.x;
        while value != before.y {
            graph.only_use(value)?;
            let op = graph.producer(value)?;
            let node = graph.op(op);
            let mut read = node.inputs().iter().flatten().filter(|input| graph.constant(**input).is_none());
            let (Some(&input), None) = (read.next(), read.next()) else { return None };
            if node.outputs().len() != 1 || !node.regions().is_empty() {
                return None;
            }
            value = input;
        }
        graph.only_use(value)?;
        let (input, middle, inner, output) =
            (area(graph, before.x)?, area(graph, before.y)?, area(graph, after.x)?, area(graph, after.y)?);
        let mut forms = Vec::new();
        if middle == output {
            forms.extend(windows(graph, &one, &two, true, (&input, &output)));
        } else if input == inner {
            forms.extend(windows(graph, &two, &two, true, (&input, &output)));
        }
        let narrow = windows(graph, &two, &two, false, (&inner, &output));
        forms.extend(narrow.into_iter().filter(|form| form.kernel.window != Window::Whole));
        (!forms.is_empty()).then_some(Branch {
            group: index,
            first,
            last,
            x: before.x,
            inner: after.x,
            y: after.y,
            forms,
        })
    }

    /// Kernels that it can have.
    pub fn kernels(&self) -> impl Iterator<Item = Kernel> + '_ {
        self.forms.iter().map(|form| form.kernel)
    }

    /// Leaves out the kernels over all.
    pub(super) fn narrow_alone(&mut self) {
        self.forms.retain(|form| !form.kernel.over_all);
    }

    fn form(&self, kernel: Kernel) -> Option<&Form> {
        self.forms.iter().find(|form| form.kernel == kernel)
    }

    /// The value that the convolution of `kernel` reads.
    pub fn read(&self, kernel: Kernel) -> ValueId {
        if kernel.over_all { self.x } else { self.inner }
    }

    /// The one convolution with its whole kernel, as a layer of the original `graph` with a bias in any case; `None` where
    /// there is none over all.
    pub fn layer(&self, graph: &Graph) -> Option<Layer> {
        let form = self.form(Kernel { over_all: true, window: Window::Whole })?;
        let outputs = *graph.constant(form.conv.w)?.dims().first()?;
        Some(Layer::conv(&form.conv, (self.last, self.x, self.y), channels(graph, self.x)?, outputs))
    }

    /// The columns that `kernel` leaves of `layer`, which has the whole one, where `kept` says which channels stay; with
    /// the bias's.
    pub fn columns(
        &self,
        (graph, groups): (&Graph, &Groups),
        layer: &Layer,
        kernel: Kernel,
        kept: impl Fn(Unit) -> bool,
    ) -> Vec<usize> {
        let Some(form) = self.form(kernel) else { return Vec::new() };
        let whole = layer.columns(0).len().max(1);
        let columns = layer.kept_columns(graph, groups, kept);
        columns.into_iter().filter(|&k| k == layer.inputs || form.taps.contains(&(k % whole))).collect()
    }

    /// Multiply-adds of the convolution of `kernel` when the units `gone` are.
    pub fn macs(&self, graph: &Graph, groups: &Groups, kernel: Kernel, gone: &BTreeSet<Unit>) -> f64 {
        let Some(form) = self.form(kernel) else { return 0.0 };
        let all = |value: ValueId| channels(graph, value).unwrap_or(0);
        let kept = |value: ValueId| {
            groups.units_of(value, 1).map_or(all(value), |units| units.iter().filter(|u| !gone.contains(u)).count())
        };
        let positions = groups.weighted.iter().find(|weighted| weighted.op == self.last).map_or(1.0, |w| w.positions);
        let x = self.read(kernel);
        let outputs = groups.computed(all(self.y), kept(self.y));
        let inputs = groups.summed(all(x), kept(x));
        positions * outputs as f64 * inputs as f64 * form.taps.len() as f64
    }

    /// The edits that put the convolution of `kernel` in its place in `graph`, the original or a copy of it without channels.
    /// One over all has weights of 0: the result is that of all inner channels at 0. Any other keeps the weights of the
    /// taps that are left. `None`: it is not there any more.
    pub fn patch(&self, graph: &Graph, kernel: Kernel) -> Option<Patch> {
        if !graph.has_op(self.first) || !graph.has_op(self.last) {
            return None;
        }
        let last = Conv::of(graph, self.last)?;
        let old = graph.constant(last.w)?;
        let form = self.form(kernel)?;
        let (&[outputs, inputs, ..], from) = (old.dims(), channels(graph, self.x)?) else { return None };
        let mut patch = Patch::new(if kernel.over_all { self.first } else { self.last });
        let mut dims = vec![outputs, if kernel.over_all { from } else { inputs }];
        dims.extend(form.conv.kernel_shape.iter().flatten().map(|&side| side as usize));
        let mut numbers = ArrayD::zeros(IxDyn(&dims));
        if !kernel.over_all {
            let whole = old.dims()[2..].iter().product::<usize>().max(1);
            let all = old.to_f64_vec()?;
            let left = (0..outputs * inputs).flat_map(|k| form.taps.iter().map(move |tap| k * whole + tap));
            numbers.iter_mut().zip(left).for_each(|(number, place)| *number = all[place]);
        }
        patch.set_constant(last.w, Tensor::from_f64(old.dtype(), &numbers)?);
        patch.set_node(self.last, form.conv.to_op());
        if kernel.over_all {
            patch.set_input(self.last, 0, Some(self.x.into()));
            if last.b.is_none() {
                let zeros = Tensor::from_f64(old.dtype(), &ArrayD::zeros(IxDyn(&dims[..1])))?;
                let bias = patch.constant(&format!("{}_bias", graph.name_of(last.w)), zeros);
                patch.set_input(self.last, 2, Some(bias));
            }
        }
        Some(patch)
    }
}

/// `two` with what can be left of the kernel of `like`, from an input to an output of these spatial dimensions; the whole
/// of it first.
fn windows(graph: &Graph, like: &Conv, two: &Conv, over_all: bool, (input, output): (&[usize], &[usize])) -> Vec<Form> {
    let Some(kernel) = graph.constant(like.w).and_then(|w| w.dims().get(2..)) else { return Vec::new() };
    let rank = kernel.len();
    if !(1..=2).contains(&rank) || input.len() != rank || output.len() != rank {
        return Vec::new();
    }
    let at = |list: &[i64], axis: usize| usize::try_from(list[axis]).unwrap_or(1).max(1);
    let (stride, dilation) = (|axis| at(&like.strides, axis), |axis| at(&like.dilations, axis));
    // Begin and end, as they are for these dimensions.
    let pads = |axis: usize| {
        let span = (output[axis].max(1) - 1) * stride(axis) + (kernel[axis] - 1) * dilation(axis) + 1;
        let total = span.saturating_sub(input[axis]);
        match like.auto_pad {
            AutoPad::NotSet => (like.pads[axis].max(0) as usize, like.pads[axis + rank].max(0) as usize),
            AutoPad::Valid => (0, 0),
            AutoPad::SameUpper => (total / 2, total - total / 2),
            AutoPad::SameLower => (total - total / 2, total / 2),
        }
    };
    let all = [
        (Window::Whole, vec![false; rank]),
        (Window::Row, vec![true, false]),
        (Window::Column, vec![false, true]),
        (Window::Point, vec![true; rank]),
    ];
    let mut forms: Vec<Form> = Vec::new();
    for (window, narrow) in all {
        if narrow.len() != rank {
            continue;
        }
        let (mut shape, mut new_pads, mut places, mut fits) = (Vec::new(), vec![0; 2 * rank], Vec::new(), true);
        for axis in 0..rank {
            let (begin, end) = pads(axis);
            let (side, begin, end, kept) = if narrow[axis] {
                let centre = ((kernel[axis] - 1) / 2).min(begin / dilation(axis));
                let behind = (kernel[axis] - 1 - centre) * dilation(axis);
                (1, begin - centre * dilation(axis), end.saturating_sub(behind), vec![centre])
            } else {
                (kernel[axis], begin, end, (0..kernel[axis]).collect())
            };
            let room = (input[axis] + begin + end).checked_sub((side - 1) * dilation(axis) + 1);
            fits &= room.is_some_and(|room| room / stride(axis) + 1 == output[axis]);
            shape.push(side as i64);
            (new_pads[axis], new_pads[axis + rank]) = (begin as i64, end as i64);
            places.push(kept);
        }
        let taps: Vec<usize> = match &places[..] {
            [line] => line.clone(),
            [rows, columns] => {
                let width = kernel[1];
                rows.iter().flat_map(|i| columns.iter().map(move |j| i * width + j)).collect()
            }
            _ => Vec::new(),
        };
        if !fits || forms.iter().any(|form| form.taps == taps) {
            continue;
        }
        let conv = Conv {
            kernel_shape: Some(shape),
            strides: like.strides.clone(),
            pads: new_pads,
            dilations: like.dilations.clone(),
            auto_pad: AutoPad::NotSet,
            ..two.clone()
        };
        forms.push(Form { kernel: Kernel { over_all, window }, conv, taps });
    }
    forms
}
