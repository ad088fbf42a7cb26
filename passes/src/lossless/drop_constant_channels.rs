//! Removes channels that are the same number for every input: with all that makes them and all that reads them.
//!
//! ```onnx before
//! # x: float[1,1,4,4]; w1: float[2,1,1,1] = {0, 1}; b1: float[2] = {-1, 0}; w2: float[1,2,3,3]
//! t = Conv (x, w1, b1)
//! r = Relu (t)
//! y = Conv (r, w2)
//! ```
//! ```onnx after
//! # w1: float[1,1,1,1] = {1}; b1: float[1] = {0}; w2: float[1,1,3,3]
//! t = Conv (x, w1, b1)
//! r = Relu (t)
//! y = Conv (r, w2)
//! ```
//! A channel is constant where its weights are zero (γ = 0 in training; 1e-15 in sum counts as that), or where intervals of its inputs and weights show
//! that a Relu never lets it through. A constant `a` that is not 0 goes into the bias of what reads it: `b + a · Σ w`.
//! A channel that all readers multiply by zeros goes, too. A multiple of four channels stays, as engines' kernels want.
//!
//! **Class:** rounding. **Legal when** no op needs all channels of the group (`prune::groups`), every weighted reader sees a
//! constant there, and where that is not 0 the reader pads with no zeros and nobody else reads its weights or bias.
//! **Does not** remove all channels of a value, or channels that only samples have never shown to be active.
//! **Source:** `docs/methods.md` §5, exact removal.
use std::collections::{BTreeMap, BTreeSet};

use ndarray::Axis;
use onnx_shrink_ir::{
    Graph, OpId, Patch, Tensor, ValueId,
    ops::{Conv, LayerKind, WeightLayout, WeightedLayer},
};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    prune::{
        Consumer, Groups, Unit,
        ranges::{NOTHING, Ranges, is_padded},
    },
    target::{CHANNEL_ALIGNMENT, channel_step},
};

/// See the [module](self) for before, after and legality.
pub struct DropConstantChannels;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "drop-constant-channels",
    class: Class::Rounding,
    about: "removes channels that are the same number for every input",
    when: When::Lossless,
};

impl Pass for DropConstantChannels {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let groups = Groups::of(graph);
        let found = Found::of(graph, &groups);
        for (op, miss) in &found.misses {
            cx.missed(graph, *op, miss);
        }
        if found.gone.is_empty() {
            return Ok(());
        }
        // First the constants go into biases, and their columns become zeros; then nothing reads them.
        let folds: Vec<&Fold> = found.folds.iter().filter(|fold| found.gone.contains(&fold.unit)).collect();
        let mut consumers: Vec<usize> = folds.iter().map(|fold| fold.consumer).collect();
        consumers.dedup();
        for consumer in consumers {
            let folds: Vec<&Fold> = folds.iter().copied().filter(|fold| fold.consumer == consumer).collect();
            match fold(graph, &groups.consumers[consumer], &folds) {
                Some(patch) => {
                    // The deny-set may forbid it: then the channels stay.
                    if cx.apply(graph, patch)?.is_none() {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
        let groups = Groups::of(graph);
        match groups.remove(graph, &found.gone) {
            Ok(Some(patch)) => {
                cx.apply(graph, patch)?;
            }
            Ok(None) => {}
            Err(miss) => {
                let group = groups.groups.iter().find(|group| group.units.iter().any(|u| found.gone.contains(u)));
                if let Some(&op) = group.and_then(|group| group.producers.first()) {
                    cx.missed(graph, op, &miss);
                }
            }
        }
        Ok(())
    }
}

/// A constant that goes into a bias.
struct Fold {
    unit: Unit,
    consumer: usize,
    /// Position along the consumer's axis
    place: usize,
    number: f64,
}

/// What can go, and what stands in the way.
#[derive(Default)]
struct Found {
    gone: BTreeSet<Unit>,
    folds: Vec<Fold>,
    misses: Vec<(OpId, Miss)>,
}

impl Found {
    fn of(graph: &Graph, groups: &Groups) -> Found {
        if groups.groups.iter().all(|group| group.frozen.is_some()) {
            return Found::default();
        }
        let ranges = Ranges::of(graph, groups);
        let mut found = Found::default();
        let mut read: BTreeSet<Unit> = BTreeSet::new();
        let mut blocked: BTreeSet<Unit> = BTreeSet::new();
        // Constant, and in the way of nothing but this
        let mut reasons: BTreeMap<Unit, Miss> = BTreeMap::new();
        for (index, consumer) in groups.consumers.iter().enumerate() {
            let Some(units) = groups.units_of(consumer.x, consumer.axis) else { continue };
            let Some(weights) = graph.constant_f64(consumer.weight) else { continue };
            let axis = Axis(consumer.weight_axis);
            let columns: Vec<f64> =
                weights.axis_iter(axis).map(|column| column.iter().map(|w| w.abs()).sum()).collect();
            let foldable = bias_of(graph, consumer);
            let ranges = ranges.along(consumer.x, consumer.axis, units.len());
            for (place, &unit) in units.iter().enumerate() {
                read.insert(unit);
                if columns[place % columns.len()] <= NOTHING {
                    continue;
                }
                match (ranges[place].constant(), &foldable) {
                    (Some(0.0), _) => {}
                    (Some(number), Ok(_)) => found.folds.push(Fold { unit, consumer: index, place, number }),
                    (Some(_), Err(miss)) => {
                        reasons.entry(unit).or_insert_with(|| miss.clone());
                    }
                    (None, _) => {
                        blocked.insert(unit);
                    }
                }
            }
        }
        for group in &groups.groups {
            let constant = |unit: &Unit| read.contains(unit) && !blocked.contains(unit);
            let free = groups.free(group);
            let (kept, gone): (Vec<Unit>, Vec<Unit>) =
                free.into_iter().filter(constant).partition(|unit| reasons.contains_key(unit));
            if let (Some(miss), Some(&op)) = (kept.first().map(|unit| &reasons[unit]), group.producers.first()) {
                found.misses.push((op, miss.clone()));
            }
            let total = group.units.len();
            let step = if total < 2 * CHANNEL_ALIGNMENT {
                1
            } else {
                channel_step(total, groups.block).min(CHANNEL_ALIGNMENT)
            };
            let left = (total - gone.len()).max(1).next_multiple_of(step).min(total);
            found.gone.extend(gone.into_iter().take(total - left));
        }
        found
    }
}

/// Where a constant that the consumer reads can go.
enum Bias {
    /// A vector of its own that is there
    There(ValueId),
    /// None yet: input 2 of the op
    New,
}

/// The bias of a consumer that may take constants, and who would be in the way.
fn bias_of(graph: &Graph, consumer: &Consumer) -> Result<Bias, Miss> {
    let own = |value: ValueId, op: OpId| match graph.only_use(value) {
        Some((reader, _)) if reader == op => Ok(()),
        _ => Err(Miss::OtherUses(value)),
    };
    own(consumer.weight, consumer.op)?;
    let vector = |value: ValueId, op: OpId, length: usize| {
        own(value, op)?;
        let dims = graph.constant(value).ok_or(Miss::NotConstant(value))?.dims();
        let fits = dims.last() == Some(&length) && dims.iter().product::<usize>() == length;
        if fits { Ok(Bias::There(value)) } else { Err(Miss::Form("a bias that is no vector")) }
    };
    let form = Miss::Form("a channel that is constant but not 0, read by an op without a bias");
    let layer = WeightedLayer::of_floats(graph, consumer.op).ok_or(form.clone())?;
    let dims = layer.constant(graph).ok_or(Miss::NotConstant(consumer.weight))?.dims();
    let outputs = layer.layout.shape(dims).ok_or(form.clone())?.outputs;
    match (layer.kind, layer.layout) {
        (LayerKind::Conv, layout) => {
            if Conv::of(graph, consumer.op).is_none_or(|conv| is_padded(&conv)) {
                return Err(Miss::Form(
                    "a channel that is constant but not 0, read by a convolution that pads with zeros",
                ));
            }
            if layout != (WeightLayout::Conv { groups: 1 }) {
                return Err(Miss::Form("a channel that is constant but not 0, read by a grouped convolution"));
            }
        }
        (LayerKind::ConvTranspose, _) => return Err(form),
        (LayerKind::Gemm, _) if layer.alpha != 1.0 || layer.beta != 1.0 => {
            return Err(Miss::Form("a Gemm with factors"));
        }
        (LayerKind::Gemm, _) => {}
        (LayerKind::MatMul, _) => {
            let added = layer.added_bias(graph).ok_or(form)?;
            return vector(added.bias, added.add, outputs);
        }
    }
    layer.bias.map_or(Ok(Bias::New), |bias| vector(bias, consumer.op, outputs))
}

/// The edits that move constants into the bias of a consumer and set their columns to zero.
fn fold(graph: &Graph, consumer: &Consumer, folds: &[&Fold]) -> Option<Patch> {
    let weight = graph.constant(consumer.weight)?;
    let mut numbers = weight.to_f64()?;
    let outer = WeightedLayer::of_floats(graph, consumer.op)?.layout.output_axis(numbers.ndim())?;
    let count = numbers.shape()[outer];
    let mut added = vec![0.0; count];
    for fold in folds {
        let mut column = numbers.index_axis_mut(Axis(consumer.weight_axis), fold.place);
        // The outer axis is the first of what is left: weights have it before or are matrices.
        for (sum, row) in added.iter_mut().zip(column.axis_iter(Axis(0))) {
            *sum += fold.number * row.sum();
        }
        column.fill(0.0);
    }
    let mut patch = Patch::new(consumer.op);
    patch.set_constant(consumer.weight, Tensor::from_f64(weight.dtype(), &numbers)?);
    match bias_of(graph, consumer).ok()? {
        Bias::There(bias) => {
            let tensor = graph.constant(bias)?;
            let mut numbers = tensor.to_f64()?;
            numbers.iter_mut().zip(&added).for_each(|(bias, more)| *bias += more);
            patch.set_constant(bias, Tensor::from_f64(tensor.dtype(), &numbers)?);
        }
        Bias::New => {
            let tensor = Tensor::from_f64(weight.dtype(), &ndarray::arr1(&added).into_dyn())?;
            let base = format!("{}_bias", graph.name_of(consumer.weight));
            let bias = patch.constant(&base, tensor);
            patch.set_input(consumer.op, 2, Some(bias));
        }
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::DropConstantChannels;
    use crate::{
        Class, Options,
        testing::{assert_same_values, check, check_missed, check_same, parse, run},
    };
    use onnx_shrink_ir::infer;

    #[test]
    fn a_channel_that_a_relu_never_lets_through_goes() {
        check(
            &DropConstantChannels,
            "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[2,1,1,1] w1 = {1, 2}, float[3,2,1,1] w2 = {-1,-2,3,4,1,-1},
            float[3] b2 = {-0.5,0,0}, float[1,3,3,3] w3 = {1,1,1,1,1,1,1,1,1,2,2,2,2,2,2,2,2,2,3,3,3,3,3,3,3,3,3}> {
            a = Conv (x, w1)  r = Relu (a)  b = Conv (r, w2, b2)  s = Relu (b)  y = Conv <pads = [1,1,1,1]> (s, w3) }",
            "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[2,1,1,1] w1 = {1, 2}, float[2,2,1,1] w2 = {3,4,1,-1},
            float[2] b2 = {0,0}, float[1,2,3,3] w3 = {2,2,2,2,2,2,2,2,2,3,3,3,3,3,3,3,3,3}> {
            a = Conv (x, w1)  r = Relu (a)  b = Conv (r, w2, b2)  s = Relu (b)  y = Conv <pads = [1,1,1,1]> (s, w3) }",
        );
    }

    #[test]
    fn a_constant_goes_into_the_next_bias_or_makes_one() {
        check(
            &DropConstantChannels,
            "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[2,1,1,1] w1 = {0, 2}, float[2] b1 = {3, 1},
            float[1,2,1,1] w2 = {5, 7}> { a = Conv (x, w1, b1)  r = Relu (a)  y = Conv (r, w2) }",
            "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w1 = {2}, float[1] b1 = {1},
            float[1,1,1,1] w2 = {7}, float[1] w2_bias = {15}> {
            a = Conv (x, w1, b1)  r = Relu (a)  y = Conv (r, w2, w2_bias) }",
        );
    }

    #[test]
    fn a_product_and_its_sum_take_a_constant_through_a_pool() {
        let mut graph = parse(
            "g (float[1,1,2,2] x) => (float[1,2] y) <float[2,1,1,1] w1 = {0, 2}, float[2] b1 = {3, 1},
            float[2,2] w2 = {5, 7, 1, 2}, float[2] b2 = {1, 1}> {
            a = Conv (x, w1, b1)  p = GlobalAveragePool (a)  f = Flatten (p)  m = MatMul (f, w2)  y = Add (m, b2) }",
        )
        .graph;
        infer::infer(&mut graph);
        let before = graph.detached();
        run(&DropConstantChannels, &mut graph, Options::default());
        assert_same_values(&before, &graph, Class::Rounding);
        let numbers = |name: &str| graph.find(name).and_then(|value| graph.constant(value)?.to_f64_vec());
        assert_eq!((numbers("w2"), numbers("b2")), (Some(vec![1.0, 2.0]), Some(vec![16.0, 22.0])));
    }

    #[test]
    fn a_constant_before_zeros_of_padding_stays_and_says_so() {
        check_missed(
            &DropConstantChannels,
            "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[2,1,1,1] w1 = {0, 2}, float[2] b1 = {3, 1},
            float[1,2,3,3] w2 = {1,1,1,1,1,1,1,1,1,2,2,2,2,2,2,2,2,2}> {
            a = Conv (x, w1, b1)  r = Relu (a)  y = Conv <pads = [1,1,1,1]> (r, w2) }",
            "no rule for this form: a channel that is constant but not 0, read by a convolution that pads with zeros",
        );
    }

    #[test]
    fn a_depthwise_convolution_between_takes_part_and_its_padding_spoils_a_constant() {
        let model = |bias: i32, pads: i32| {
            format!(
                "g (float[1,1,4,4] x) => (float[1,1,H,W] y) <float[2,1,1,1] w1 = {{0, 2}}, float[2] b1 = {{{bias}, 1}},
                float[2,1,3,3] wd = {{1,1,1,1,1,1,1,1,1,2,2,2,2,2,2,2,2,2}}, float[2] bd = {{0, 1}}, float[1,2,1,1] w2 = {{5, 7}}> {{
                a = Conv (x, w1, b1)  r = Relu (a)  d = Conv <group = 2, pads = [{pads},{pads},{pads},{pads}]> (r, wd, bd)
                s = Relu (d)  y = Conv (s, w2) }}"
            )
        };
        let after = "g (float[1,1,4,4] x) => (float[1,1,H,W] y) <float[1,1,1,1] w1 = {2}, float[1] b1 = {1},
            float[1,1,3,3] wd = {2,2,2,2,2,2,2,2,2}, float[1] bd = {1}, float[1,1,1,1] w2 = {7}> {
            a = Conv (x, w1, b1)  r = Relu (a)  d = Conv <group = 1, pads = [1,1,1,1]> (r, wd, bd)
            s = Relu (d)  y = Conv (s, w2) }";
        check(&DropConstantChannels, &model(-1, 1), after);
        check_same(&DropConstantChannels, &model(3, 1));
    }

    #[test]
    fn a_softmax_over_the_channels_keeps_them() {
        check_same(
            &DropConstantChannels,
            "g (float[1,1,2,2] x) => (float[1,2,2,2] y) <float[2,1,1,1] w1 = {0, 2}, float[2] b1 = {3, 1}> {
            a = Conv (x, w1, b1)  y = Softmax <axis = 1> (a) }",
        );
    }
}
