//! Lets Quantize/Dequantize pairs meet and vanish: through ops that move, select or order numbers, which then run on the
//! integers themselves.
//!
//! ```onnx before
//! # x: uint8[1,2,4,4]; s: float = {0.5}; z: uint8 = {3}; r: int64[2] = {1, 8}
//! d = DequantizeLinear (x, s, z)
//! m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
//! f = Reshape (m, r)
//! q = QuantizeLinear (f, s, z)
//! y = DequantizeLinear (q, s, z)
//! ```
//! ```onnx after
//! q_1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
//! q = Reshape (q_1, r)
//! y = DequantizeLinear (q, s, z)
//! ```
//! After TVM's FakeQuantizationToInteger and TensorFlow's cancelled pairs: values know the scale and zero point that their
//! Dequantize states; what moves, selects or orders numbers passes them on; where they meet a Quantize with the same ones,
//! the ops between become integer ops, all of a connected region at once or none. Before that the local identities of
//! [`crate::egg::qdq`] run: a Quantize right behind its Dequantize, a Relu or Clip that the range implies, the same pair twice.
//!
//! Steps by what they lose ([`Exactness`]): moves lose nothing; MaxPool is monotone, and so is Dequantize; with
//! [`CancelQdq::approximate`] a Quantize of a Dequantize of a Quantize becomes the last one alone, which skips a rounding.
//!
//! **Class:** exact, or approximate for that. **Legal when** scale and zero point are constant, one for the whole tensor,
//! and every input of an op has the same ones. **Does not pay**, and is left, where more Dequantizes would come than
//! conversions go; for signed integers, which ONNX Runtime turns into fast unsigned ones between the ops of a pair alone; and
//! for a MaxPool or Resize that float ops read, too: alone they run slower in integers. **Source:** `docs/methods.md` §3,
//! pair rules 1, 2, 4 to 9; `docs/engines.md` §0.7, §1, §2.1. **Does not** touch bodies' captures, nor per-channel pairs.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, TensorType, Use, ValueId, ValueRef};

use crate::{
    Class, Context, Description, Exactness, Miss, Pass, Result, SimplifyIslands, When,
    egg::{Rule, qdq},
    quantize::integer_moves::{Move, movable},
    target::{ORT_CPU, Target},
};

static LOCAL: LazyLock<Vec<Rule>> = LazyLock::new(qdq::exact);
static MEETING: LazyLock<Vec<Rule>> = LazyLock::new(qdq::meeting);

/// See the [module](self).
pub struct CancelQdq {
    moves: bool,
    merges: bool,
    rules: &'static [Rule],
    target: &'static Target,
}

impl CancelQdq {
    /// Only pairs that meet already, or stand on the same value: every float value keeps one pair of its own, which some
    /// engines want.
    pub fn local() -> CancelQdq {
        CancelQdq { moves: false, merges: false, rules: &LOCAL, target: &ORT_CPU }
    }

    /// The same, for pairs whose ranges will not be kept: activations that they imply stay.
    pub fn beside_activations() -> CancelQdq {
        CancelQdq { moves: false, merges: false, rules: &MEETING, target: &ORT_CPU }
    }

    /// All steps after which every number is the same.
    pub fn exact() -> CancelQdq {
        CancelQdq { moves: true, merges: false, rules: &LOCAL, target: &ORT_CPU }
    }

    /// Also the merging of two Quantizes.
    pub fn approximate() -> CancelQdq {
        CancelQdq { moves: true, merges: true, rules: &LOCAL, target: &ORT_CPU }
    }

    /// The same steps for another engine than ONNX Runtime's CPU provider.
    #[must_use]
    pub fn on(self, target: &'static Target) -> CancelQdq {
        CancelQdq { target, ..self }
    }
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "cancel-qdq",
    class: Class::Approximate,
    about: "moves Q/DQ pairs through data-movement ops and cancels the redundant ones",
    when: When::Requested("input that is quantized already"),
};

impl Pass for CancelQdq {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn class(&self) -> Class {
        if self.merges { Class::Approximate } else { Class::Exact }
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if graph.ops_of("DequantizeLinear").is_empty() {
            return Ok(());
        }
        if !self.moves {
            join(graph, cx)?;
        }
        self.meet(graph, cx)?;
        let regions = if self.moves { Regions::of(graph, self.target, cx).found } else { Vec::new() };
        for region in &regions {
            let (patch, exactness) = rewrite(graph, region);
            if cx.apply(graph, patch)?.is_some() {
                cx.count_step(exactness, 1);
            }
        }
        if !regions.is_empty() {
            self.meet(graph, cx)?; // A new Dequantize may stand where there is one.
        }
        if self.merges {
            merge(graph, cx)?;
        }
        Ok(())
    }
}

/// Runs of the rules, at most: each meets the pairs that the cuts between islands hid from the one before.
const ROUNDS: usize = 4;

impl CancelQdq {
    /// Lets pairs that meet vanish.
    fn meet(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        for _ in 0..ROUNDS {
            let before = cx.journal.done();
            SimplifyIslands::of(self.rules).run(graph, cx)?;
            let done = cx.journal.done() - before;
            if done == 0 {
                break;
            }
            cx.count_step(Exactness::Lossless, done);
        }
        Ok(())
    }
}

/// Scale and zero point of a whole tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parameters {
    /// Bits of the scale
    scale: u32,
    zero_point: i64,
    dtype: DataType,
}

/// The parameters of the Quantize or Dequantize `op`; `None` when it is none, or they are not constant, float32 and one.
fn parameters(graph: &Graph, op: OpId) -> Option<Parameters> {
    let node = graph.op(op);
    let quantizes = node.is("QuantizeLinear");
    if !quantizes && !node.is("DequantizeLinear") {
        return None;
    }
    if node.attributes().iter().any(|attribute| !matches!(attribute.name(), "axis" | "saturate")) {
        return None;
    }
    let scale = graph.constant(node.input(1)?).filter(|scale| scale.dtype() == DataType::Float)?;
    let scale = scale.to_scalar_f64()? as f32;
    // Both roundings together must bring an integer back: neither the scale nor a product with it may leave the normal numbers.
    if scale < f32::MIN_POSITIVE || !(scale * 65536.0).is_finite() {
        return None;
    }
    let (zero_point, stated) = match node.input(2) {
        Some(value) => {
            let tensor = graph.constant(value)?;
            (tensor.to_scalar_f64()? as i64, Some(tensor.dtype()))
        }
        None => (0, None),
    };
    let dtype = match stated {
        Some(dtype) => dtype,
        None if quantizes => DataType::Uint8,
        None => graph.ty(node.input(0)?)?.dtype,
    };
    Some(Parameters { scale: scale.to_bits(), zero_point, dtype })
}

/// An op that a region runs on integers.
#[derive(Clone, Debug)]
struct Step {
    op: OpId,
    how: Move,
}

/// Connected ops that move, select or order numbers between Dequantizes and Quantizes of one scale and zero point.
struct Region {
    /// In the order of the graph
    steps: Vec<Step>,
    /// Quantizes that go, by the value that they read
    meets: BTreeMap<ValueId, Vec<OpId>>,
    /// Values that float ops read, too
    read: BTreeSet<ValueId>,
}

/// All regions of a graph that pay.
struct Regions {
    found: Vec<Region>,
}

/// What the regions are found in.
struct Search<'g> {
    graph: &'g Graph,
    target: &'g Target,
    /// Ops that could run on integers, in the order of the graph
    steps: Vec<Step>,
    /// Parameters of values that a Dequantize or such an op makes
    affine: BTreeMap<ValueId, Parameters>,
    /// Ops that shall not
    banned: BTreeSet<OpId>,
}

impl Regions {
    fn of(graph: &Graph, target: &Target, cx: &mut Context<'_>) -> Regions {
        let order = graph.ops();
        let mut search = Search { graph, target, steps: Vec::new(), affine: BTreeMap::new(), banned: BTreeSet::new() };
        loop {
            search.forward(&order);
            search.drop_what_meets_nothing();
            if !search.ban(cx) {
                break;
            }
        }
        Regions { found: search.regions(cx) }
    }
}

impl Search<'_> {
    /// Follows parameters from the Dequantizes on.
    fn forward(&mut self, order: &[OpId]) {
        self.steps.clear();
        self.affine.clear();
        for &op in order {
            let node = self.graph.op(op);
            if node.is("DequantizeLinear") {
                if let (Some(parameters), Some(y)) = (parameters(self.graph, op), node.output(0)) {
                    self.affine.insert(y, parameters);
                }
                continue;
            }
            if self.banned.contains(&op) {
                continue;
            }
            let Some(how) = movable(self.graph, op) else { continue };
            let mut of_inputs =
                how.data.iter().map(|&index| node.input(index).and_then(|x| self.affine.get(&x).copied()));
            let Some(Some(first)) = of_inputs.next() else { continue };
            if !of_inputs.all(|other| other == Some(first)) {
                continue;
            }
            self.affine.extend(node.outputs().iter().flatten().map(|&y| (y, first)));
            self.steps.push(Step { op, how });
        }
    }

    /// The Quantizes of `value` with its own parameters.
    fn meets(&self, value: ValueId) -> Vec<OpId> {
        let Some(own) = self.affine.get(&value) else { return Vec::new() };
        let quantize = |place: &Use| match place {
            Use::Input(op, 0) if self.graph.op(*op).is("QuantizeLinear") => Some(*op),
            _ => None,
        };
        let mut meets: Vec<OpId> = self.graph.uses(value).iter().filter_map(quantize).collect();
        meets.retain(|op| parameters(self.graph, *op) == Some(*own));
        meets
    }

    /// Keeps the ops from which a Quantize can be reached that goes.
    fn drop_what_meets_nothing(&mut self) {
        let mut useful: BTreeSet<OpId> = BTreeSet::new();
        for step in self.steps.iter().rev() {
            let reaches = |&y: &ValueId| {
                let on = |place: &Use| matches!(place, Use::Input(op, _) if useful.contains(op));
                !self.meets(y).is_empty() || self.graph.uses(y).iter().any(on)
            };
            if self.graph.op(step.op).outputs().iter().flatten().any(reaches) {
                useful.insert(step.op);
            }
        }
        self.steps.retain(|step| useful.contains(&step.op));
    }

    /// Whether `value` is read by anything but ops of regions and the Quantizes that go.
    fn is_read(&self, value: ValueId, members: &BTreeSet<OpId>) -> bool {
        let meets = self.meets(value);
        let inside = |place: &Use| matches!(place, Use::Input(op, _) if members.contains(op) || meets.contains(op));
        !self.graph.uses(value).iter().all(inside)
    }

    /// Bans ops that would not pay; whether there were any.
    fn ban(&mut self, cx: &mut Context<'_>) -> bool {
        let members: BTreeSet<OpId> = self.steps.iter().map(|step| step.op).collect();
        let mut more = Vec::new();
        for step in &self.steps {
            let node = self.graph.op(step.op);
            let outputs = || node.outputs().iter().flatten();
            let signed = outputs().any(|y| self.affine.get(y).is_some_and(|own| own.dtype != DataType::Uint8));
            if signed && !self.target.moves_signed {
                let why = "the target runs signed integers fast between the ops of a pair alone";
                cx.missed(self.graph, step.op, &Miss::DoesNotPay(why.to_owned()));
                more.push(step.op);
            } else if step.how.is_slow_alone && outputs().any(|&y| self.is_read(y, &members)) {
                let why = "float ops read its result, too, and alone it runs slower in integers";
                cx.missed(self.graph, step.op, &Miss::DoesNotPay(why.to_owned()));
                more.push(step.op);
            }
        }
        self.banned.extend(more.iter().copied());
        !more.is_empty()
    }

    /// The connected regions of what is left, without those that would bring more conversions than go.
    fn regions(&self, cx: &mut Context<'_>) -> Vec<Region> {
        let members: BTreeMap<OpId, usize> =
            self.steps.iter().enumerate().map(|(place, step)| (step.op, place)).collect();
        let mut region_of: Vec<usize> = (0..self.steps.len()).collect();
        let root = |region_of: &[usize], mut place: usize| {
            while region_of[place] != place {
                place = region_of[place];
            }
            place
        };
        for (place, step) in self.steps.iter().enumerate() {
            let node = self.graph.op(step.op);
            let before = step.how.data.iter().filter_map(|&index| self.graph.producer(node.input(index)?));
            for producer in before.filter_map(|op| members.get(&op)) {
                let (a, b) = (root(&region_of, *producer), root(&region_of, place));
                region_of[a.max(b)] = a.min(b);
            }
        }
        let mut steps: BTreeMap<usize, Vec<Step>> = BTreeMap::new();
        for (place, step) in self.steps.iter().enumerate() {
            steps.entry(root(&region_of, place)).or_default().push(step.clone());
        }
        steps.into_values().filter_map(|steps| self.region(steps, cx)).collect()
    }

    fn region(&self, steps: Vec<Step>, cx: &mut Context<'_>) -> Option<Region> {
        let members: BTreeSet<OpId> = steps.iter().map(|step| step.op).collect();
        let outputs = || steps.iter().flat_map(|step| self.graph.op(step.op).outputs().iter().flatten().copied());
        let meets: BTreeMap<ValueId, Vec<OpId>> =
            outputs().map(|y| (y, self.meets(y))).filter(|(_, meets)| !meets.is_empty()).collect();
        let read: BTreeSet<ValueId> = outputs().filter(|&y| self.is_read(y, &members)).collect();
        let sources: BTreeSet<ValueId> = steps
            .iter()
            .flat_map(|step| step.how.data.iter().filter_map(|&index| self.graph.op(step.op).input(index)))
            .filter(|x| self.graph.producer(*x).is_some_and(|op| self.graph.op(op).is("DequantizeLinear")))
            .collect();
        let dying = sources.iter().filter(|x| !self.is_read(**x, &members)).count();
        let going = meets.values().map(Vec::len).sum::<usize>() + dying;
        if going <= read.len() {
            let why = format!("{going} conversions would go, and {} come for what float ops read", read.len());
            cx.missed(self.graph, steps[0].op, &Miss::DoesNotPay(why));
            return None;
        }
        Some(Region { steps, meets, read })
    }
}

/// The region on integers.
fn rewrite(graph: &Graph, region: &Region) -> (Patch, Exactness) {
    let mut patch = Patch::new(region.steps[0].op);
    let mut integer: BTreeMap<ValueId, ValueRef> = BTreeMap::new();
    let mut source: BTreeMap<ValueId, OpId> = BTreeMap::new();
    let mut exactness = Exactness::Lossless;
    for step in &region.steps {
        let node = graph.op(step.op);
        exactness = exactness.max(step.how.exactness);
        for x in step.how.data.iter().filter_map(|&index| node.input(index)) {
            if let Some(dequantize) = graph.producer(x).filter(|op| graph.op(*op).is("DequantizeLinear")) {
                source.entry(x).or_insert(dequantize);
                integer.extend(graph.op(dequantize).input(0).map(|q| (x, q.into())));
            }
        }
        let Some(from) = step.how.data.first().and_then(|&index| source.get(&node.input(index)?).copied()) else {
            continue;
        };
        let mut inputs: Vec<Option<ValueRef>> = node.inputs().iter().map(|input| input.map(ValueRef::from)).collect();
        for &index in &step.how.data {
            inputs[index] = node.input(index).and_then(|x| integer.get(&x).copied());
        }
        if let Some(index) = step.how.pads_with {
            inputs.resize(inputs.len().max(index + 1), None);
            inputs[index] = Some(zero_point(graph, &mut patch, from));
        }
        let dtype = parameters(graph, from).map_or(DataType::Uint8, |parameters| parameters.dtype);
        let ty = |y: ValueId| graph.ty(y).map(|ty| TensorType { dtype, ..ty.clone() });
        let outputs: Vec<Option<(&str, Option<TensorType>)>> =
            node.outputs().iter().map(|y| y.map(|y| ("q", ty(y)))).collect();
        let made = patch.op_with_outputs(NewOp { node: node.proto().clone() }, &inputs, &outputs);
        for (y, made) in node.outputs().iter().zip(made) {
            let Some(y) = *y else { continue };
            integer.insert(y, made);
            source.insert(y, from);
        }
    }
    for (y, quantizes) in &region.meets {
        for output in quantizes.iter().filter_map(|op| graph.op(*op).output(0)) {
            patch.replace(output, integer[y]);
        }
    }
    for y in &region.read {
        let dequantize = graph.op(source[y]);
        let parameters = [dequantize.input(1), dequantize.input(2)].map(|value| value.map(ValueRef::from));
        let node = NewOp { node: dequantize.proto().clone() }.named("");
        let inputs: Vec<Option<ValueRef>> =
            [Some(integer[y]), parameters[0], parameters[1]].into_iter().take(dequantize.inputs().len()).collect();
        let made = patch.op(node, &inputs, "d", graph.ty(*y).cloned());
        patch.replace(*y, made);
    }
    (patch, exactness)
}

/// The zero point of `dequantize` as a scalar.
fn zero_point(graph: &Graph, patch: &mut Patch, dequantize: OpId) -> ValueRef {
    let stated = graph.op(dequantize).input(2);
    match stated.and_then(|value| Some((value, graph.constant(value)?))) {
        Some((value, tensor)) if tensor.dims().is_empty() => value.into(),
        Some((value, tensor)) => {
            patch.constant(graph.name_of(value), tensor.reshaped(&[]).unwrap_or_else(|| Tensor::scalar(0u8)))
        }
        None => patch.constant("z", Tensor::scalar(0u8)),
    }
}

/// Quantizes, and Dequantizes, of one value with one scale and zero point: the first for all that read them.
fn join(graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
    let mut first: BTreeMap<(String, Vec<Option<ValueId>>, String), ValueId> = BTreeMap::new();
    for op in graph.ops() {
        let node = graph.op(op);
        let Some(output) = node.output(0) else { continue };
        if !(node.is("QuantizeLinear") || node.is("DequantizeLinear")) || graph.is_output(output) {
            continue;
        }
        let key = (node.op_type().to_owned(), node.inputs().to_vec(), format!("{:?}", node.attributes()));
        let Some(&known) = first.get(&key) else {
            first.insert(key, output);
            continue;
        };
        let mut patch = Patch::new(op);
        patch.replace(output, known);
        if cx.apply(graph, patch)?.is_some() {
            cx.count_step(Exactness::Lossless, 1);
        }
    }
    Ok(())
}

/// Quantizes of Dequantizes of Quantizes: the last alone, where nobody else reads what is between.
fn merge(graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
    for last in graph.ops_of("QuantizeLinear") {
        if !graph.has_op(last) {
            continue;
        }
        let alone = |value: Option<ValueId>, op_type: &str| {
            let value = value?;
            graph.only_use(value)?;
            graph.producer(value).filter(|op| graph.op(*op).is(op_type))
        };
        let Some(dequantize) = alone(graph.op(last).input(0), "DequantizeLinear") else { continue };
        let Some(first) = alone(graph.op(dequantize).input(0), "QuantizeLinear") else { continue };
        let all = [first, dequantize, last].map(|op| parameters(graph, op));
        if all[0].is_none() || all[0] != all[1] || all[2].is_none() {
            continue;
        }
        let Some(x) = graph.op(first).input(0) else { continue };
        let mut patch = Patch::new(last);
        patch.set_input(last, 0, Some(x.into()));
        if cx.apply(graph, patch)?.is_some() {
            cx.count_step(Exactness::Approximate, 1);
        }
    }
    Ok(())
}
