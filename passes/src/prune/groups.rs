//! Dependency groups: which channels of a graph must go together, which may go at all, and what goes with each.
//!
//! Every channel that a Conv, ConvTranspose, Gemm or MatMul makes gets a label. Labels travel through the ops that keep
//! channels apart; where two meet (the sum of a residual branch, the two sides of a depthwise convolution) they become one
//! *unit*. A unit names rows and columns of constants that go with it. What needs all channels (a softmax over them, a graph
//! output, an op without a rule) *freezes* the units that reach it, and says why. A *group* is what one op makes, joined
//! with all groups that it shares a unit with.
//!
//! **Never** guesses: an op without a rule freezes; a constant is cut only where all that read it agree on the cut.
//! **Source:** Fang et al. 2023 (DepGraph), arXiv 2301.12900, as propagation of labels.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Graph, OpId, ValueId};

/// Channels that go together or not at all; a number of the [`Groups`] that it is of.
pub type Unit = u32;

/// A weighted op that sums over channels, where a channel that is gone leaves a gap to repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Conv, ConvTranspose, Gemm or MatMul; no depthwise convolution
    pub op: OpId,
    /// The value with the channels
    pub x: ValueId,
    /// The axis of `x` that the op sums over
    pub axis: usize,
    /// The constant weights
    pub weight: ValueId,
    /// The axis of the weights that the channels lie along; of grouped convolutions, the places in one group
    pub weight_axis: usize,
}

/// An op with weights: what multiply-adds are counted of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighted {
    /// The op
    pub op: OpId,
    /// Its constant weights
    pub weight: ValueId,
    /// Multiply-adds for each number of the weights, for a batch of one; dimensions that are neither known nor seen count as 1
    pub positions: f64,
}

/// Lengths of axes as a run shows them: what multiply-adds are counted at where the model leaves them open.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Dimensions by value
    pub dims: BTreeMap<ValueId, Vec<usize>>,
    /// Samples that ran at once: an open first axis is that many times as long as for one
    pub batch: usize,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { dims: BTreeMap::new(), batch: 1 }
    }
}

impl Sizes {
    /// The length of `axis` of `value` for a batch of one.
    pub(super) fn of(&self, value: ValueId, axis: usize) -> Option<usize> {
        let length = *self.dims.get(&value)?.get(axis)?;
        let is_batch = axis == 0 && self.batch > 1 && length.is_multiple_of(self.batch);
        Some(if is_batch { length / self.batch } else { length })
    }
}

/// What has to be said otherwise when channels are gone.
#[derive(Clone, Debug)]
pub(super) enum Adjust {
    /// The groups of a depthwise convolution are its channels
    Groups { op: OpId, labels: Vec<u32> },
    /// Entries of a constant shape, input `input` of the op, that name lengths of axes
    Shape { op: OpId, input: usize, entries: Vec<(usize, Vec<u32>)> },
    /// The lengths of the parts of a Split
    Split { op: OpId, parts: Vec<Vec<u32>> },
    /// Start and end of a Slice with step 1: entry `place` of its lists, `from..to` of these labels
    Slice { op: OpId, place: usize, labels: Vec<u32>, from: usize, to: usize },
    /// The constant indices of a Gather into these labels
    Gather { op: OpId, labels: Vec<u32>, indices: Vec<usize> },
}

/// What hangs together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its units, ascending
    pub units: Vec<Unit>,
    /// The ops that make its channels, in the order of the graph
    pub producers: Vec<OpId>,
    /// Indices into [`Groups::consumers`] of those that read its channels
    pub consumers: Vec<usize>,
    /// Why none of its units may go; `None` when some may
    pub frozen: Option<String>,
}

/// The groups of one graph. Valid until the graph changes.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// By value, activations and constants: the units along each axis; `None` for axes without channels
    pub(super) axes: BTreeMap<ValueId, Vec<Option<Vec<Unit>>>>,
    pub(super) adjust: Vec<Adjust>,
    /// Why a unit may not go
    pub(super) frozen: BTreeMap<Unit, String>,
    /// In the order of the graph
    pub groups: Vec<Group>,
    /// In the order of the graph
    pub consumers: Vec<Consumer>,
    /// In the order of the graph
    pub weighted: Vec<Weighted>,
    /// Channels that convolutions of the target compute at once
    pub block: usize,
}

impl Groups {
    /// Freezes the groups whose channels are made, or read, by the weights `unreached`: no output depends on those on any sample, so
    /// that samples say nothing of what their channels are worth.
    pub fn freeze_unreached(&mut self, graph: &Graph, unreached: &BTreeSet<ValueId>) {
        let weight_of = |op: &OpId| self.weighted.iter().find(|weighted| weighted.op == *op).map(|it| it.weight);
        for group in &mut self.groups {
            let made = group.producers.iter().filter_map(weight_of);
            let read = group.consumers.iter().filter_map(|index| self.consumers.get(*index)).map(|it| it.weight);
            let Some(weight) = made.chain(read).find(|weight| unreached.contains(weight)) else { continue };
            let reason = format!("no sample reaches `{}`", graph.name_of(weight));
            self.frozen.extend(group.units.iter().map(|unit| (*unit, reason.clone())));
            group.frozen.get_or_insert(reason);
        }
    }

    /// The units along `axis` of `value`, an activation or a constant; `None` when it has no channels there.
    pub fn units_of(&self, value: ValueId, axis: usize) -> Option<&[Unit]> {
        self.axes.get(&value)?.get(axis)?.as_deref()
    }

    /// The same, without units where it has no channels.
    pub fn units_along(&self, value: ValueId, axis: usize) -> &[Unit] {
        self.units_of(value, axis).unwrap_or(&[])
    }

    /// Why `unit` may not go.
    pub fn reason(&self, unit: Unit) -> Option<&str> {
        self.frozen.get(&unit).map(String::as_str)
    }

    /// The units of `group` that may go, ascending.
    pub fn free(&self, group: &Group) -> Vec<Unit> {
        group.units.iter().copied().filter(|unit| !self.frozen.contains_key(unit)).collect()
    }

    /// Numbers in `weight` when the units `gone` are; `None` when it is no constant.
    pub fn kept_volume(&self, graph: &Graph, weight: ValueId, gone: &BTreeSet<Unit>) -> Option<usize> {
        let dims = graph.constant(weight)?.dims();
        let axes = self.axes.get(&weight);
        let kept = dims.iter().enumerate().map(|(axis, &dim)| {
            let units = axes.and_then(|axes| axes.get(axis)).and_then(Option::as_ref);
            units.map_or(dim, |units| units.iter().filter(|unit| !gone.contains(unit)).count())
        });
        Some(kept.product())
    }

    /// Multiply-adds that the graph's weighted ops take when the units `gone` are: convolutions compute whole blocks of
    /// outputs, so that what is kept of a block costs as much as all of it.
    pub fn macs(&self, graph: &Graph, gone: &BTreeSet<Unit>) -> f64 {
        self.weighted.iter().map(|weighted| self.macs_of(graph, weighted, gone)).sum()
    }

    /// The same of one op.
    pub fn macs_of(&self, graph: &Graph, weighted: &Weighted, gone: &BTreeSet<Unit>) -> f64 {
        let kept = self.kept_volume(graph, weighted.weight, gone).unwrap_or(0) as f64 * weighted.positions;
        if !graph.op(weighted.op).is("Conv") {
            return kept;
        }
        let Some(dims) = graph.constant(weighted.weight).map(|tensor| tensor.dims()) else { return kept };
        let axes = self.axes.get(&weighted.weight);
        let share = |axis: usize| {
            let all = dims.get(axis).copied().unwrap_or(1);
            let units = axes.and_then(|axes| axes.get(axis)).and_then(Option::as_ref);
            let kept = units.map_or(all, |units| units.iter().filter(|unit| !gone.contains(unit)).count());
            let computed = if axis == 0 { self.computed(all, kept) } else { self.summed(all, kept) };
            computed as f64 / kept.max(1) as f64
        };
        kept * share(0) * share(1)
    }

    /// Outputs that a convolution computes that had `outputs` and keeps `kept`: whole blocks.
    pub(super) fn computed(&self, outputs: usize, kept: usize) -> usize {
        if outputs < self.block { kept } else { kept.next_multiple_of(self.block).min(outputs) }
    }

    /// Inputs that a convolution sums over that had `inputs` and keeps `kept`: whole blocks, too, but fewer than a block are
    /// read as they are (ONNX Runtime, `nchwc_transformer.cc`).
    pub(super) fn summed(&self, inputs: usize, kept: usize) -> usize {
        if kept < self.block { kept } else { self.computed(inputs, kept) }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::{Groups, Sizes};
    use crate::testing::parse;
    use onnx_shrink_ir::{Graph, OpId, infer};

    fn describe(model: &str) -> String {
        let mut graph = parse(model).graph;
        infer::infer(&mut graph);
        text(&Groups::of(&graph), &graph)
    }

    /// The groups as text, one line for each, and why units are frozen.
    fn text(groups: &Groups, graph: &Graph) -> String {
        let mut text = String::new();
        if groups.groups.is_empty() {
            text.push_str("no channels: no Conv, ConvTranspose, Gemm or MatMul with constant weights\n");
        }
        for (index, group) in groups.groups.iter().enumerate() {
            let labels = |ops: &mut dyn Iterator<Item = OpId>| {
                let names: Vec<String> = ops.map(|op| format!("`{}`", graph.label_of(op))).collect();
                match names.len() {
                    0 => "nothing".to_owned(),
                    1..=3 => names.join(", "),
                    count => format!("{}, {} … ({count})", names[0], names[1]),
                }
            };
            let made = labels(&mut group.producers.iter().copied());
            let read = labels(&mut group.consumers.iter().map(|&consumer| groups.consumers[consumer].op));
            let free = groups.free(group).len();
            let _ = write!(text, "group {index}: {} channels of {made}, read by {read}: ", group.units.len());
            let _ = match &group.frozen {
                Some(reason) => writeln!(text, "frozen: {reason}"),
                None if free == group.units.len() => writeln!(text, "free"),
                None => {
                    let reason = group.units.iter().find_map(|unit| groups.reason(*unit)).unwrap_or("");
                    writeln!(text, "{free} free; others frozen: {reason}")
                }
            };
        }
        text
    }

    /// Open sizes count as a sample shows them, and a batch of several as one.
    #[test]
    fn open_sizes_are_those_of_a_sample() {
        let graph = parse(
            "g (float[N,1,H,W] x, float[N,T,2] z) => (float[N,1,H,W] y, float[N,T,1] u) <float[1,1,1,1] w = {1}, float[2,1] v = {1, 2}> {
            y = Conv (x, w)  u = MatMul (z, v) }",
        )
        .graph;
        let positions = |sizes: &Sizes| {
            Groups::on(&crate::target::ORT_CPU, &graph, sizes).weighted.iter().map(|w| w.positions).collect::<Vec<_>>()
        };
        assert_eq!(positions(&Sizes::default()), [1.0, 1.0]);
        let [y, z] = ["y", "z"].map(|name| graph.find(name).unwrap());
        let dims = [(y, vec![4, 1, 3, 5]), (z, vec![4, 7, 2])].into();
        assert_eq!(positions(&Sizes { dims, batch: 4 }), [15.0, 7.0]);
    }

    const CONV: &str = "float[4,3,1,1] w1 = {1,2,3,4,5,6,7,8,9,10,11,12}";

    #[test]
    fn a_chain_has_a_free_group_and_the_output_is_frozen() {
        let text = describe(&format!(
            "g (float[1,3,2,2] x) => (float[1,2,2,2] y) <{CONV}, float[2,4,1,1] w2 = {{1,2,3,4,5,6,7,8}}> {{
            a = Conv (x, w1)  r = Relu (a)  y = Conv (r, w2) }}"
        ));
        assert_eq!(
            text,
            "group 0: 4 channels of `a`, read by `y`: free\n\
             group 1: 2 channels of `y`, read by nothing: frozen: `y` is a graph output\n"
        );
    }

    #[test]
    fn a_residual_sum_joins_both_branches_and_a_softmax_over_channels_freezes() {
        let text = describe(&format!(
            "g (float[1,3,2,2] x) => (float[1,4,2,2] y) <{CONV}, float[4,3,1,1] w2 = {{1,2,3,4,5,6,7,8,9,10,11,12}}> {{
            a = Conv (x, w1)  b = Conv (x, w2)  s = Add (a, b)  y = Softmax <axis = 1> (s) }}"
        ));
        assert_eq!(
            text,
            "group 0: 4 channels of `a`, `b`, read by nothing: frozen: `y` (Softmax) runs over the channels\n"
        );
    }

    #[test]
    fn an_op_without_a_rule_freezes_what_reaches_it() {
        let text = describe(&format!(
            "g (float[1,3,2,2] x) => (float[1,1,4,4] y) <{CONV}> {{
            a = Conv (x, w1)  y = DepthToSpace <blocksize = 2> (a) }}"
        ));
        assert!(text.contains("frozen: there is no rule for `y` (DepthToSpace)"), "{text}");
    }

    #[test]
    fn a_part_of_a_slice_that_is_an_output_is_frozen_alone() {
        let text = describe(&format!(
            "g (float[1,3,2,2] x) => (float[1,1,2,2] y, float[1,2,2,2] z) <{CONV}, int64[1] from = {{1}}, int64[1] to = {{4}},
            int64[1] one = {{1}}, int64[1] zero = {{0}}, float[2,3,1,1] w2 = {{1,2,3,4,5,6}}> {{
            a = Conv (x, w1)  y = Slice (a, zero, one, one)  b = Slice (a, from, to, one)  z = Conv (b, w2) }}"
        ));
        assert!(text.starts_with("group 0: 4 channels of `a`, read by `z`: 3 free; others frozen: `y` is"), "{text}");
    }

    #[test]
    fn weights_that_another_op_reads_otherwise_are_frozen() {
        let text = describe(
            "g (float[1,2,2,2] x) => (float[1,2,2,2] y) <float[2,2,1,1] w = {1,2,3,4}> { a = Conv (x, w)  y = Conv (a, w) }",
        );
        assert!(text.contains("frozen: `y` is a graph output"), "the two ends are one: {text}");
        let text = describe(
            "g (float[1,2,1,1] x) => (float[1,2,1,1] y, float[2,2,2,1] z) <float[2,2,1,1] w = {1,2,3,4},
            float[2,2,1,1] v = {1,2,3,4}> { a = Conv (x, w)  y = Conv (a, v)  z = Concat <axis = 2> (w, w) }",
        );
        assert!(!text.contains(": free"), "{text}");
    }
}
