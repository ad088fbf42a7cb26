//! Computes weights that follow from constants, where in fewer bits they take less than what they are computed from.
//!
//! ```onnx before
//! # x: float[1,8,32]; v: float[8,8,5]; g: float[8,1,1]
//! w = Mul (v, g)
//! y = Conv (x, w)
//! ```
//! ```onnx after
//! y = Conv (x, w_1)
//! ```
//! So weight norm, weights in 16 bits behind a Cast, and what stands behind Transpose, Reshape or arithmetic can be quantized. A bias goes
//! with its weight. A table that others read, too, and a MatMul behind a Transpose, is computed only where 8 bits suit both: its integers
//! are then stored once ([`crate::weight_only::store_int8`]). A weight [1, K, N] of a MatMul becomes [K, N] where the result has the same axes.
//!
//! What ended in no fewer bits is put back by [`RestoreWeights`]: the file never grows.
//!
//! **Class:** rounding. **Legal when** all that the weight is computed from is constant and nothing of it is quantized already. **Does not** touch
//! bodies, nor 16-bit weights beside 8-bit ones: someone chose those.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{
    DataType, Graph, OpId, Patch, Tensor, TensorType, Use, ValueId, ValueRef,
    ops::{Transpose, WeightedLayer, parameter_inputs},
};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    analysis::{
        computed::{Behind, Computed, holds_few_bits},
        constant_region::{Region, put},
    },
    net_bytes,
    numerics::{rounding::Inputs, weight_scales::quantize_rows},
    target::Pairing,
    weight_only::stored::keeps_enough,
};

/// See the [module](self).
pub struct FoldWeights {
    /// Bits that a number of a weight will take
    pub bits: usize,
    /// Whether a table that others read, too, can be stored once for all
    pub tied: bool,
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fold-weights",
    class: Class::Rounding,
    about: "computes weights that follow from constants, where that pays",
    when: When::Requested("--int8, --weights"),
};

impl Pass for FoldWeights {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() {
            return Ok(());
        }
        let few_bits = holds_few_bits(graph);
        // Tables first: a layer behind a Transpose of one then finds a constant.
        let (tables, layers): (Vec<OpId>, Vec<OpId>) =
            graph.ops().into_iter().partition(|op| graph.op(*op).is("Gather"));
        let mut computed = Computed::of(graph);
        for op in tables.into_iter().chain(layers) {
            if !graph.has_op(op) {
                continue; // it went with a table before
            }
            match self.fold(graph, cx, op, &computed, few_bits) {
                Ok(patch) => {
                    if cx.apply(graph, patch)?.is_some() {
                        computed = Computed::of(graph); // ids of what went may be taken again
                    }
                }
                Err(miss) => cx.missed(graph, op, &miss),
            }
            if let Some(patch) = as_matrix(graph, op) {
                cx.apply(graph, patch)?;
            }
        }
        Ok(())
    }
}

/// Inputs that belong to one layer: what it multiplies by or looks up, then its bias.
struct Layer {
    weights: Vec<ValueId>,
    bias: Option<ValueId>,
}

impl Layer {
    fn of(graph: &Graph, computed: &Computed, id: OpId) -> Option<Layer> {
        let op = graph.op(id);
        let places = parameter_inputs(op);
        if !op.domain().is_empty() || op.output(0).is_none_or(|y| computed.has(y)) {
            return None;
        }
        let known = |value: &ValueId| computed.has(*value);
        let weights: Vec<ValueId> = places.iter().filter_map(|index| op.input(*index)).filter(known).collect();
        let layer = WeightedLayer::of(graph, id);
        let bias = layer.and_then(|layer| match layer.bias_input {
            Some(_) => layer.bias,
            None => layer.added_bias(graph).map(|added| added.bias),
        });
        (!weights.is_empty()).then(|| Layer { weights, bias: bias.filter(known) })
    }

    /// Those of them that are computed from constants.
    fn made(&self, graph: &Graph, computed: &Computed) -> Vec<ValueId> {
        let all = self.weights.iter().chain(&self.bias).copied();
        all.filter(|value| computed.is_made(graph, *value)).collect()
    }
}

/// The table behind the weight `value` of the MatMul `op`, if a Transpose alone stands between and others read it, too.
fn tied_table(graph: &Graph, op: OpId, value: ValueId) -> Option<ValueId> {
    let transpose = graph.producer(value)?;
    let Transpose { x: table, perm, .. } = Transpose::of(graph, transpose)?;
    let others = graph.uses(table).into_iter().any(|place| place.op() != Some(transpose));
    let is_matrix =
        |tensor: &Tensor| tensor.dtype() == DataType::Float && tensor.dims().len() == 2 && !tensor.is_empty();
    let fits = graph.op(op).is("MatMul") && graph.op(op).input(1) == Some(value) && perm == [1, 0] && others;
    (fits && graph.constant(table).is_some_and(is_matrix)).then_some(table)
}

/// Whether 8 bits with one scale a row, of which no pair saturates, keep enough of the matrix `table` for those that look rows up.
fn suits_both(table: &Tensor) -> bool {
    let Some(rows) = table.to_f64().and_then(|array| array.into_dimensionality().ok()) else { return false };
    let quantized = quantize_rows(&rows, &Inputs::centred(&[]), Pairing::Neighbours, &[]);
    keeps_enough(rows.iter().copied(), quantized.dequantized().iter().copied())
}

/// A result may have so many times the bytes of what it is computed from: more is no weight.
const MOST_GROWTH: usize = 8;

/// Bytes that may be computed however few they come from.
const SMALL: usize = 1 << 16;

impl FoldWeights {
    fn fold(
        &self,
        graph: &Graph,
        cx: &Context<'_>,
        op: OpId,
        computed: &Computed,
        few_bits: bool,
    ) -> Result<Patch, Miss> {
        let layer = Layer::of(graph, computed, op).ok_or(Miss::NotThisPattern)?;
        let mut made = layer.made(graph, computed);
        let tied = layer.weights.iter().copied().find_map(|weight| Some((weight, tied_table(graph, op, weight)?)));
        if let Some((weight, table)) = tied {
            let suits = || graph.constant(table).is_some_and(suits_both);
            if !self.tied || !suits() {
                return Err(Miss::NotThisPattern);
            }
            made = vec![weight];
        }
        if made.is_empty() || made.iter().any(|value| graph.is_output(*value)) {
            return Err(Miss::NotThisPattern);
        }
        let gone = Region::of(graph, computed, &made);
        let sources = || gone.behind.sources.iter().filter_map(|source| graph.constant(*source));
        let halves = |tensor: &Tensor| matches!(tensor.dtype(), DataType::Float16 | DataType::Bfloat16);
        if gone.behind.is_quantized(graph) || (few_bits && sources().any(|tensor| halves(tensor) && tensor.len() > 1)) {
            return Err(Miss::NotThisPattern);
        }
        let most = SMALL + MOST_GROWTH * sources().map(Tensor::byte_len).sum::<usize>();
        let tensors = gone.values(graph, cx, &made, most)?;
        let mut added = 0;
        for weight in &layer.weights {
            let Some(tensor) = tensors.get(weight).or(graph.constant(*weight)) else { continue };
            if tensor.dtype() != DataType::Float || tensor.dims().len() < 2 {
                return Err(Miss::NotThisPattern);
            }
            let scales = 4 * tensor.dims().iter().copied().max().unwrap_or(1);
            added += (tensor.len() * self.bits).div_ceil(8) + scales + 2 * net_bytes::OP;
        }
        added += layer.bias.and_then(|bias| tensors.get(&bias)).map_or(0, Tensor::byte_len);
        let constants = layer.weights.iter().filter(|weight| !made.contains(weight));
        let removed =
            gone.bytes + constants.filter_map(|weight| graph.constant(*weight)).map(Tensor::byte_len).sum::<usize>();
        if tied.is_none() && added >= removed {
            return Err(Miss::Grows { added, removed });
        }
        let mut patch = Patch::new(op);
        put(graph, &mut patch, tensors)?;
        Ok(patch)
    }
}

/// The constant [1, …, K, N] that the MatMul `op` multiplies by, as [K, N], where the result has the axes of the other operand.
fn as_matrix(graph: &Graph, op: OpId) -> Option<Patch> {
    let weight = graph.op(op).input(1).filter(|_| graph.op(op).is("MatMul") && graph.op(op).domain().is_empty())?;
    let tensor = graph.constant(weight).filter(|tensor| tensor.dtype() == DataType::Float)?;
    let (ones, matrix) = tensor.dims().split_at(tensor.dims().len().checked_sub(2)?);
    if ones.is_empty() || ones.iter().any(|dim| *dim != 1) {
        return None;
    }
    let reads_same = |place: &Use| {
        let Use::Input(op, 1) = place else { return false };
        let x = graph.op(*op).input(0).and_then(|x| graph.ty(x)).and_then(TensorType::rank);
        graph.op(*op).is("MatMul") && x.is_some_and(|rank| rank >= tensor.dims().len())
    };
    if graph.is_input(weight) || !graph.uses(weight).iter().all(reads_same) {
        return None;
    }
    let mut patch = Patch::new(op);
    patch.set_constant(weight, tensor.reshaped(matrix)?);
    Some(patch)
}

/// Which weights are put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    /// Those of tied tables that still are float: to be run before constants are stored in 8 bits
    Tied,
    /// Those that take no fewer bytes than what they were computed from: to be run behind all that stores
    Larger,
}

/// Computes weights in the graph again that [`FoldWeights`] made constants, where nothing was gained.
pub struct RestoreWeights<'a> {
    /// The graph before that
    pub before: &'a Graph,
    /// Which of them
    pub which: Restore,
}

/// What the command line and docs/PASSES.md say of it.
pub const RESTORE: Description = Description {
    name: "restore-weights",
    class: Class::Rounding,
    about: "undoes fold-weights where the weight ended in no fewer bits",
    when: When::Requested("--int8, --weights"),
};

impl Pass for RestoreWeights<'_> {
    fn description(&self) -> &'static Description {
        &RESTORE
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() {
            return Ok(());
        }
        let before = self.before;
        let computed = Computed::of(before);
        let mut restored: BTreeSet<ValueId> = BTreeSet::new();
        for op in before.ops() {
            let Some(layer) = Layer::of(before, &computed, op) else { continue };
            let mut made = layer.made(before, &computed);
            made.retain(|value| !restored.contains(value));
            if let Some(patch) = self.restore(graph, &computed, op, &layer, &made)
                && cx.apply(graph, patch)?.is_some()
            {
                restored.extend(made);
            }
        }
        Ok(())
    }
}

impl RestoreWeights<'_> {
    fn restore(&self, graph: &Graph, computed: &Computed, op: OpId, layer: &Layer, made: &[ValueId]) -> Option<Patch> {
        let before = self.before;
        // Ids are taken again in a graph that was rewritten, and another opset's differ: names stay.
        let twin = |op: OpId| {
            let twin = graph.producer(graph.find(before.name_of(before.op(op).output(0)?))?)?;
            (graph.op(twin).op_type() == before.op(op).op_type()).then_some(twin)
        };
        let anchor = twin(op)?;
        // What is read now at the place of a value: in the layer, or in the Add of a MatMul's bias.
        let now = |value: ValueId| -> Option<ValueId> {
            let is_place = |reader: OpId| reader == op || (Some(value) == layer.bias && before.op(reader).is("Add"));
            let mut places = before.uses(value).into_iter().filter(|place| place.op().is_some_and(is_place));
            let Use::Input(reader, index) = places.next()? else { return None };
            graph.op(twin(reader)?).input(index)
        };
        let is_folded =
            |value: ValueId, now: ValueId| graph.producer(now).is_none() || graph.name_of(now) != before.name_of(value);
        let folded = made.iter().filter_map(|value| Some((*value, now(*value)?)));
        let folded: Vec<(ValueId, ValueId)> = folded.filter(|(value, now)| is_folded(*value, *now)).collect();
        if folded.is_empty() {
            return None;
        }
        let is_float = |value: ValueId| graph.constant(value).is_some_and(|tensor| tensor.dtype() == DataType::Float);
        let tied = folded.iter().any(|(value, _)| tied_source(before, *value));
        let put_back = match self.which {
            Restore::Tied => tied && folded.iter().any(|(_, now)| is_float(*now)),
            Restore::Larger if tied => false,
            Restore::Larger => {
                let bias = layer.bias.filter(|bias| made.contains(bias)).and_then(now);
                let taken = taken_by(graph, layer.weights.iter().filter_map(|weight| now(*weight)).chain(bias));
                let constants = layer.weights.iter().filter(|weight| before.constant(**weight).is_some());
                let constants = constants.filter_map(|weight| before.constant(*weight)).map(Tensor::byte_len);
                taken >= Region::of(before, computed, made).bytes + constants.sum::<usize>()
            }
        };
        if !put_back {
            return None;
        }
        let mut patch = Patch::new(anchor);
        let mut copies: BTreeMap<ValueId, ValueRef> = BTreeMap::new();
        for (value, now) in folded {
            let copy = self.copy(graph, computed, value, &mut patch, &mut copies)?;
            patch.replace(now, copy);
        }
        Some(patch)
    }

    /// `value` of the graph before, in the graph of `patch`.
    fn copy(
        &self,
        graph: &Graph,
        computed: &Computed,
        value: ValueId,
        patch: &mut Patch,
        copies: &mut BTreeMap<ValueId, ValueRef>,
    ) -> Option<ValueRef> {
        let before = self.before;
        let behind = computed.behind(before, value);
        for source in &behind.sources {
            if copies.contains_key(source) {
                continue;
            }
            let tensor = before.constant(*source)?;
            let there = graph.find(before.name_of(*source));
            let there = there.filter(|there| graph.constant(*there).is_some_and(|now| now.ty() == tensor.ty()));
            let copy = match there {
                Some(there) => there.into(),
                None => patch.constant(before.name_of(*source), tensor.clone()),
            };
            copies.insert(*source, copy);
        }
        for op in before.ops().into_iter().filter(|op| behind.ops.contains(op)) {
            let node = before.op(op);
            let outputs: Vec<ValueId> = node.outputs().iter().flatten().copied().collect();
            if outputs.iter().all(|y| copies.contains_key(y)) {
                continue;
            }
            // A table that became a constant on its own way stands there under its name.
            if let [y] = outputs.as_slice()
                && *y != value
                && let Some(there) = graph.find(before.name_of(*y))
                && graph.constant(there).is_some()
            {
                copies.insert(*y, there.into());
                continue;
            }
            let inputs: Vec<Option<ValueRef>> =
                node.inputs().iter().map(|input| input.and_then(|input| copies.get(&input).copied())).collect();
            let wanted = node.outputs().iter().map(|y| y.map(|y| (before.name_of(y), before.ty(y).cloned())));
            let wanted: Vec<Option<(&str, Option<TensorType>)>> = wanted.collect();
            let made = patch.copy_of(node, &inputs, Vec::new(), &wanted);
            copies.extend(node.outputs().iter().zip(made).filter_map(|(y, made)| Some(((*y)?, made))));
        }
        copies.get(&value).copied()
    }
}

/// Whether `value` is the Transpose of what others read, too.
pub(super) fn tied_source(graph: &Graph, value: ValueId) -> bool {
    let Some(transpose) = graph.producer(value).filter(|op| graph.op(*op).is("Transpose")) else { return false };
    let table = graph.op(transpose).input(0);
    table.is_some_and(|table| graph.uses(table).into_iter().any(|place| place.op() != Some(transpose)))
}

/// Bytes of the constants that `values` come from, and of the ops between.
fn taken_by(graph: &Graph, values: impl Iterator<Item = ValueId>) -> usize {
    let computed = Computed::of(graph);
    let mut all = Behind::default();
    for value in values {
        let Behind { ops, sources } = computed.behind(graph, value);
        all.ops.extend(ops);
        all.sources.extend(sources);
    }
    let constants = all.sources.iter().filter_map(|source| graph.constant(*source)).map(Tensor::byte_len);
    constants.sum::<usize>() + net_bytes::OP * all.ops.len()
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::Graph;

    use super::{FoldWeights, Restore, RestoreWeights};
    use crate::weight_only::twins::twins;
    use crate::{
        Class, Options,
        testing::{assert_same_values, check_missed, check_same, parse, run},
        weight_only::StoreInt8,
    };

    const EIGHT: FoldWeights = FoldWeights { bits: 8, tied: true };

    fn numbers(count: usize) -> String {
        (0..count).map(|i| format!("{:.3}", (i as f64 * 0.7).sin() + 0.01)).collect::<Vec<_>>().join(", ")
    }

    fn ops(graph: &Graph) -> Vec<String> {
        graph.ops().into_iter().map(|op| graph.op(op).op_type().to_owned()).collect()
    }

    fn norm() -> String {
        format!(
            "g (float[1,8,16] x) => (float[1,8,12] y) <float[8,8,5] v = {{{}}}, float[8,1,1] g = {{{}}}, float[8,8,5] w> {{
            s = Mul (v, v)  m = ReduceMean <axes = [1, 2]> (s)  n = Sqrt (m)  u = Div (v, n)  w = Mul (u, g)  y = Conv (x, w) }}",
            numbers(320),
            numbers(8)
        )
    }

    #[test]
    fn a_weight_norm_becomes_a_weight() {
        let before = parse(&norm()).graph;
        let mut graph = before.detached();
        run(&EIGHT, &mut graph, Options::default());
        assert_eq!(ops(&graph), ["Conv"]);
        assert_same_values(&before, &graph, Class::Rounding);
    }

    #[test]
    fn what_ends_in_no_fewer_bits_is_computed_again() {
        let before = parse(&format!(
            "g (float[4,32] x) => (float[4,32] y) <float16[32,32] h = {{{}}}> {{ w = Cast <to = 1> (h)  y = MatMul (x, w) }}",
            numbers(1024)
        ))
        .graph;
        for stores in [true, false] {
            let mut graph = before.detached();
            run(&EIGHT, &mut graph, Options::default());
            assert_eq!(ops(&graph), ["MatMul"]);
            if stores {
                // (Nothing else is here: its weight is not the small one that gets 16 bits.)
                run(&StoreInt8::default(), &mut graph, Options::default());
            }
            let made = ops(&graph);
            run(&RestoreWeights { before: &before, which: Restore::Larger }, &mut graph, Options::default());
            match stores {
                true => assert_eq!(ops(&graph), made),
                false => assert_eq!(ops(&graph), ["Cast", "MatMul"]),
            }
            let bytes = |graph: &Graph| -> usize {
                let constants = graph.values().into_iter().filter_map(|value| graph.constant(value));
                constants.map(|tensor| tensor.byte_len()).sum()
            };
            assert!(bytes(&graph) <= bytes(&before));
        }
    }

    #[test]
    fn weights_that_come_from_less_stay_so() {
        let small = format!(
            "g (float[4,16] x) => (float[4,64] y) <float[16,1] v = {{{}}}, int64[2] s = {{16, 64}}> {{
            w = Expand (v, s)  y = MatMul (x, w) }}",
            numbers(16)
        );
        check_missed(&EIGHT, &small, "the file would grow: 1408 bytes come, 144 go");
        let quantized = "g (float[4,8] x) => (float[4,8] y) <int8[8,8] q = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8,
            1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8,
            1, 2, 3, 4, 5, 6, 7, 8}, float s = {0.5}> { w = DequantizeLinear (q, s)  t = Transpose (w)  y = MatMul (x, t) }";
        check_same(&EIGHT, quantized);
    }

    #[test]
    fn a_weight_of_one_matrix_is_a_matrix() {
        let model = |x: &str, y: &str| {
            parse(&format!("g ({x} x) => ({y} y) <float[1,8,6] w = {{{}}}> {{ y = MatMul (x, w) }}", numbers(48))).graph
        };
        let before = model("float[2,3,8]", "float[2,3,6]");
        let mut graph = before.detached();
        run(&EIGHT, &mut graph, Options::default());
        assert_eq!(graph.constant(graph.find("w").unwrap()).unwrap().dims(), [8, 6]);
        assert_same_values(&before, &graph, Class::Exact);
        // The result of two axes would have two, and not three.
        let mut graph = model("float[3,8]", "float[1,3,6]");
        run(&EIGHT, &mut graph, Options::default());
        assert_eq!(graph.constant(graph.find("w").unwrap()).unwrap().dims(), [1, 8, 6]);
    }

    #[test]
    fn a_table_in_halves_is_computed_with_all_that_reads_it() {
        let before = parse(&format!(
            "g (int64[1,3] i, float[1,3,16] x) => (float[1,3,16] e, float[1,3,40] y) <float16[40,16] h = {{{}}}> {{
            t = Cast <to = 1> (h)  e = Gather (t, i)  w = Transpose <perm = [1, 0]> (t)  y = MatMul (x, w) }}",
            numbers(640)
        ))
        .graph;
        let mut graph = before.detached();
        run(&FoldWeights { bits: 8, tied: false }, &mut graph, Options::default());
        assert_eq!(ops(&graph), ["Gather", "Transpose", "MatMul"]);
        assert_same_values(&before, &graph, Class::Rounding);
    }

    #[test]
    fn a_tied_table_is_computed_where_it_can_be_shared() {
        let model = format!(
            "g (int64[1,3] i, float[1,3,16] x) => (float[1,3,16] e, float[1,3,40] y) <float[40,16] t = {{{}}}> {{
            e = Gather (t, i)  w = Transpose <perm = [1, 0]> (t)  y = MatMul (x, w) }}",
            numbers(640)
        );
        let before = parse(&model).graph;
        let mut graph = before.detached();
        run(&EIGHT, &mut graph, Options::default());
        assert_eq!(ops(&graph), ["Gather", "MatMul"]);
        assert_eq!(twins(&before, &graph).len(), 1);
        run(&RestoreWeights { before: &before, which: Restore::Tied }, &mut graph, Options::default());
        graph.sweep();
        assert_eq!(ops(&graph), ["Gather", "Transpose", "MatMul"]);
        assert_eq!(graph.values().into_iter().filter(|value| graph.constant(*value).is_some()).count(), 1);
        check_same(&FoldWeights { bits: 8, tied: false }, &model);
    }
}
