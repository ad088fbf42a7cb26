//! Branches that one convolution can stand for: `Conv → … → Conv`, where nobody else reads what lies between.
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

/// What the one convolution sums over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// The window of one of the branch's two convolutions
    Window,
    /// A single position
    Point,
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
    /// What it gives
    pub y: ValueId,
    /// What can stand for it: `last` with another window
    forms: Vec<(Kernel, Conv)>,
}

/// What goes: channels, and inner channels of branches with all that lies between.
#[derive(Clone, Debug, Default)]
pub struct Removal {
    /// Channels that are taken out
    pub gone: BTreeSet<Unit>,
    /// Branches that become one convolution
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
        let like = |conv: &Conv, kernel: Vec<i64>| Conv {
            kernel_shape: Some(kernel),
            strides: conv.strides.clone(),
            pads: conv.pads.clone(),
            dilations: conv.dilations.clone(),
            auto_pad: conv.auto_pad,
            ..two.clone()
        };
        let kernel_of = |conv: &Conv| graph.constant(conv.w).map(|w| w.dims()[2..].iter().map(|&k| k as i64).collect());
        let mut forms = Vec::new();
        if middle == output {
            forms.push((Kernel::Window, like(&one, kernel_of(&one)?)));
        } else if input == inner {
            forms.push((Kernel::Window, like(&two, kernel_of(&two)?)));
        }
        forms.retain(|(_, conv)| conv.kernel_shape.iter().flatten().any(|&side| side > 1));
        let strides: Vec<usize> = input.iter().zip(&output).map(|(i, o)| i.div_ceil((*o).max(1)).max(1)).collect();
        let fits = |((&input, &output), &stride): ((&usize, &usize), &usize)| input > 0 && (input - 1) / stride + 1 == output;
        if input.iter().zip(&output).zip(&strides).all(fits) {
            let rank = strides.len();
            let conv = Conv {
                kernel_shape: Some(vec![1; rank]),
                strides: strides.iter().map(|&stride| stride as i64).collect(),
                pads: vec![0; 2 * rank],
                dilations: vec![1; rank],
                auto_pad: AutoPad::NotSet,
                ..two.clone()
            };
            forms.push((Kernel::Point, conv));
        }
        (!forms.is_empty()).then_some(Branch { group: index, first, last, x: before.x, y: after.y, forms })
    }

    /// Kernels that it can have.
    pub fn kernels(&self) -> impl Iterator<Item = Kernel> + '_ {
        self.forms.iter().map(|(kernel, _)| *kernel)
    }

    /// Leaves out the kernels whose layer does not hold.
    pub(super) fn retain(&mut self, holds: impl Fn(&Layer) -> bool, graph: &Graph) {
        let kernels: Vec<Kernel> = self.kernels().collect();
        let bad = kernels.into_iter().filter(|kernel| !self.layer(graph, *kernel).is_some_and(|layer| holds(&layer)));
        let bad: Vec<Kernel> = bad.collect();
        self.forms.retain(|(kernel, _)| !bad.contains(kernel));
    }

    fn form(&self, kernel: Kernel) -> Option<&Conv> {
        self.forms.iter().find(|(own, _)| *own == kernel).map(|(_, conv)| conv)
    }

    /// The one convolution as a layer of the original `graph`, with a bias in any case.
    pub fn layer(&self, graph: &Graph, kernel: Kernel) -> Option<Layer> {
        let outputs = *graph.constant(self.form(kernel)?.w)?.dims().first()?;
        Some(Layer::conv(self.form(kernel)?, (self.last, self.x, self.y), channels(graph, self.x)?, outputs))
    }

    /// Multiply-adds of the one convolution when the units `gone` are.
    pub fn macs(&self, graph: &Graph, groups: &Groups, kernel: Kernel, gone: &BTreeSet<Unit>) -> f64 {
        let Some(layer) = self.layer(graph, kernel) else { return 0.0 };
        let kept = |value: ValueId, all: usize| {
            groups.units_of(value, 1).map_or(all, |units| units.iter().filter(|unit| !gone.contains(unit)).count())
        };
        let taps = self.form(kernel).and_then(|conv| conv.kernel_shape.as_ref()).map_or(1, |k| k.iter().product::<i64>());
        let channels = layer.inputs / (taps.max(1) as usize);
        let positions = groups.weighted.iter().find(|weighted| weighted.op == self.last).map_or(1.0, |w| w.positions);
        let outputs = Groups::computed(layer.outputs, kept(self.y, layer.outputs));
        let inputs = Groups::summed(channels, kept(self.x, channels));
        positions * outputs as f64 * inputs as f64 * taps as f64
    }

    /// The edits that put the one convolution, with weights of 0, in the place of the branch in `graph`, the original or
    /// a copy of it without channels. The result is that of all inner channels at 0. `None`: it is not there any more.
    pub fn patch(&self, graph: &Graph, kernel: Kernel) -> Option<Patch> {
        if !graph.has_op(self.first) || !graph.has_op(self.last) {
            return None;
        }
        let last = Conv::of(graph, self.last)?;
        let old = graph.constant(last.w)?;
        let inputs = channels(graph, self.x)?;
        let kernel = self.form(kernel)?;
        let mut dims = vec![*old.dims().first()?, inputs];
        dims.extend(kernel.kernel_shape.as_ref()?.iter().map(|&side| side as usize));
        let zeros = |dims: &[usize]| Tensor::from_f64(old.dtype(), &ArrayD::zeros(IxDyn(dims)));
        let mut patch = Patch::new(self.first);
        patch.set_constant(last.w, zeros(&dims)?);
        patch.set_node(self.last, kernel.to_op());
        patch.set_input(self.last, 0, Some(self.x.into()));
        if last.b.is_none() {
            let bias = patch.constant(&format!("{}_bias", graph.name_of(last.w)), zeros(&dims[..1])?);
            patch.set_input(self.last, 2, Some(bias));
        }
        Some(patch)
    }
}
