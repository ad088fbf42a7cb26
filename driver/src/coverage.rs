//! Which constants of a model had an influence on its outputs, on samples that both models are compared on.
//!
//! A comparison says nothing of a weight that no output depends on: of a softmax over one element, of a branch that was not taken, of
//! what is multiplied by zero. The graph is walked from its outputs to its inputs, over the values of a run. What an op makes of an input
//! is told by its kind where that is enough (a product depends on what meets a number that is not 0), and else by running that one op
//! again with the input changed.
//!
//! **Never** costs more than a bounded number of operations: what was not examined then is said, and counts as reached.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{
    Evaluate, Graph, Op, OpId, Prepared, Tensor, Use, ValueId, element_count, multiply_adds, ops::Relu,
};

use crate::{
    Samples,
    samples::{FittedSample, Fitting, NoSamples},
};

/// Multiply-adds and elements that ops may take which run again.
const MOST_WORK: u64 = 20_000_000;

/// Bytes of values that are held.
const MOST_HELD: usize = 1 << 30;

/// Samples that are looked at for what they reach, at most.
pub const COVERED_SAMPLES: usize = 12;

/// Names that a sentence holds, at most.
pub const MOST_NAMED: usize = 8;

/// A change that is smaller, as a share of what an op makes, is rounding.
const ROUNDING: f64 = 1e-6;

/// Ops that make something else of each other input.
const HAND_ON: [&str; 36] = [
    "Add",
    "AveragePool",
    "Cast",
    "Concat",
    "DepthToSpace",
    "DequantizeLinear",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "MaxPool",
    "Neg",
    "Pad",
    "Reciprocal",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
];

/// What of a model samples reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Constants with weights that no output depended on, in the order of their ops; those of bodies that never ran, too
    pub unreached: Vec<String>,
    /// Whether the bound of the work was met: constants may be unreached that are not named
    pub is_partial: bool,
    /// Multiply-adds and elements of the smallest run
    work: u64,
}

/// Factors by which floats are larger in samples that may reach what others do not: a model may take its numbers as bytes, or as
/// shares of 255 and less.
const FACTORS: [f64; 2] = [1.0 / 64.0, 32.0];

/// Multiply-adds and elements up to which made-up samples are more than the least.
const MORE_WORK: u64 = 30_000_000;

/// Made-up samples that reach as much of `graph` as can be had, and what they reach: at least `counts.0` of them, and up to `counts.1`
/// where they cost little. `original` and `watched` both run `graph`; only the latter has to show its values.
pub fn reaching(
    evaluator: &dyn Evaluate,
    graph: &Graph,
    original: &dyn Prepared,
    watched: &dyn Prepared,
    counts: (usize, usize),
) -> Result<(Samples, Coverage), NoSamples> {
    let mut made = Fitting::find(graph, original, counts.0)?;
    let mut found = coverage(evaluator, graph, watched, &made.samples());
    let cheap = MORE_WORK / found.work.max(1);
    let count = counts.1.min(usize::try_from(cheap).unwrap_or(usize::MAX));
    if count > counts.0 {
        let first = made.samples().len();
        made.extend(original, count);
        found.add(evaluator, graph, watched, &made.samples(), first);
    }
    for factor in FACTORS {
        if found.unreached.is_empty() {
            break;
        }
        let Some(more) = made.with_scaled(original, factor) else { continue };
        let before = found.unreached.len();
        found.add(evaluator, graph, watched, &more.samples(), made.samples().len());
        if found.unreached.len() < before {
            made = more;
        }
    }
    Ok((made.samples(), found))
}

impl Coverage {
    /// With what `samples` from `first` on reach.
    fn add(
        &mut self,
        evaluator: &dyn Evaluate,
        graph: &Graph,
        original: &dyn Prepared,
        samples: &Samples,
        first: usize,
    ) {
        if self.unreached.is_empty() || first >= samples.len() {
            return;
        }
        let more = coverage(evaluator, graph, original, &samples.subset(&(first..samples.len()).collect::<Vec<_>>()));
        self.unreached.retain(|name| more.unreached.contains(name));
        self.is_partial |= more.is_partial;
    }
}

/// What `samples` reach of `graph`, which `prepared` runs.
pub fn coverage(evaluator: &dyn Evaluate, graph: &Graph, prepared: &dyn Prepared, samples: &Samples) -> Coverage {
    let mut found = Coverage::default();
    let mut unreached: Option<Vec<String>> = None;
    let mut work = MOST_WORK;
    let mut ready: Vec<FittedSample> = (0..samples.len()).filter_map(|index| samples.get(index).ok()).collect();
    // The smallest costs least, and is mostly enough.
    ready.sort_by_key(|sample| sample.inputs.iter().flatten().map(Tensor::len).sum::<usize>());
    for sample in ready {
        if unreached.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
        let (mut values, mut held) = (BTreeMap::new(), 0);
        let ran = prepared.run(&sample.inputs, &mut |value, tensor: &Tensor| {
            held += tensor.byte_len();
            if held <= MOST_HELD {
                values.insert(value, tensor.clone());
            }
        });
        if ran.is_err() {
            continue;
        }
        found.is_partial |= held > MOST_HELD;
        if unreached.is_none() {
            found.work = work_of(graph, &values);
        }
        let mut walk = Walk { evaluator, graph, values, work: &mut work, is_partial: false };
        let here = walk.unreached();
        found.is_partial |= walk.is_partial;
        unreached = Some(match unreached {
            None => here,
            Some(before) => before.into_iter().filter(|name| here.contains(name)).collect(),
        });
    }
    if let Some(unreached) = unreached {
        found.unreached = unreached;
    }
    found
}

/// Those of the constants `names` of `before` that `after` does not have as they were.
pub fn differing(names: &[String], before: &Graph, after: &Graph) -> Vec<String> {
    let differs = |name: &&String| match (constant_named(before, name), constant_named(after, name)) {
        (Some(one), Some(other)) => one != other,
        _ => true,
    };
    names.iter().filter(differs).cloned().collect()
}

/// The constant of this name in `graph` or in a body.
pub fn constant_named<'g>(graph: &'g Graph, name: &str) -> Option<&'g Tensor> {
    let here = graph.find(name).and_then(|value| graph.constant(value));
    let bodies = || graph.ops_in_id_order().into_iter().flat_map(|op| graph.op(op).regions());
    here.or_else(|| bodies().find_map(|region| constant_named(&region.graph, name)))
}

/// A warning that names constants which were rewritten and not reached; `None` when there are none.
pub fn warning(unreached: &[String]) -> Option<String> {
    let shown: Vec<String> = unreached.iter().take(MOST_NAMED).map(|name| format!("`{name}`")).collect();
    let more = match unreached.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    (!unreached.is_empty()).then(|| {
        format!(
            "the check did not reach {}{more}: no output depended on them on its samples, so that nothing shows that what was \
             rewritten there is right; judge it on samples that reach them (--validation-data DIR)",
            shown.join(", ")
        )
    })
}

/// Multiply-adds and elements of a run with these values.
fn work_of(graph: &Graph, values: &BTreeMap<ValueId, Tensor>) -> u64 {
    let dims = |value| graph.constant(value).or_else(|| values.get(&value)).map(|tensor| tensor.dims().to_vec());
    let products = graph.ops_in_id_order().into_iter().filter_map(|op| multiply_adds(graph, op, &dims));
    let elements = values.values().map(|tensor| tensor.len() as u64);
    products.chain(elements).fold(0, u64::saturating_add)
}

/// The values of one run, and what remains of the work.
struct Walk<'a> {
    evaluator: &'a dyn Evaluate,
    graph: &'a Graph,
    values: BTreeMap<ValueId, Tensor>,
    work: &'a mut u64,
    is_partial: bool,
}

impl Walk<'_> {
    /// Names of the constants that no output depends on.
    fn unreached(&mut self) -> Vec<String> {
        let graph = self.graph;
        let ops = graph.ops();
        let weights = |graph: &Graph| -> Vec<ValueId> {
            let mut seen = BTreeSet::new();
            let inputs = graph.ops().into_iter().flat_map(|op| graph.op(op).inputs().to_vec()).flatten();
            inputs.filter(|value| is_weight(graph, *value) && seen.insert(*value)).collect()
        };
        // What leads to a constant with weights: of the rest nothing needs to be known.
        let mut leads: BTreeSet<ValueId> = weights(graph).into_iter().collect();
        for op in &ops {
            let node = graph.op(*op);
            let captured = graph.captures(*op);
            let reads = node.inputs().iter().flatten().chain(captured.iter().map(|(_, outer, _)| outer));
            if !node.regions().is_empty() || reads.into_iter().any(|value| leads.contains(value)) {
                leads.extend(node.outputs().iter().flatten());
            }
        }
        let mut reached: BTreeSet<ValueId> = graph.outputs().iter().copied().collect();
        let mut bodies: BTreeSet<(OpId, usize)> = BTreeSet::new();
        for op in ops.iter().rev() {
            let node = graph.op(*op);
            if !node.outputs().iter().flatten().any(|output| reached.contains(output)) {
                continue;
            }
            let ran = self.regions_that_ran(node);
            for (region, outer, _) in graph.captures(*op) {
                if ran.contains(&region) {
                    reached.insert(outer);
                }
            }
            bodies.extend(ran.into_iter().map(|region| (*op, region)));
            for (port, input) in node.inputs().iter().enumerate() {
                let Some(input) = input.filter(|input| leads.contains(input) && !reached.contains(input)) else {
                    continue;
                };
                if self.depends(*op, port) {
                    reached.insert(input);
                }
            }
        }
        let mut names: Vec<String> = Vec::new();
        let missing = weights(graph).into_iter().filter(|value| !reached.contains(value));
        names.extend(missing.map(|value| graph.name_of(value).to_owned()));
        for op in ops {
            for (place, region) in graph.op(op).regions().iter().enumerate() {
                if !bodies.contains(&(op, place)) {
                    let inner = weights(&region.graph).into_iter();
                    names.extend(inner.map(|value| region.graph.name_of(value).to_owned()));
                }
            }
        }
        names
    }

    fn value(&self, value: ValueId) -> Option<&Tensor> {
        self.graph.constant(value).or_else(|| self.values.get(&value))
    }

    /// Bodies of `node` that ran.
    fn regions_that_ran(&self, node: &Op) -> Vec<usize> {
        let number = |port: usize| self.value(node.input(port)?)?.to_scalar_f64();
        let all = || (0..node.regions().len()).collect();
        match node.op_type() {
            "If" => match number(0) {
                Some(condition) => {
                    let taken = if condition != 0.0 { "then_branch" } else { "else_branch" };
                    let is_taken = |region: &usize| node.region_name(&node.regions()[*region]) == taken;
                    (0..node.regions().len()).filter(is_taken).collect()
                }
                None => all(),
            },
            "Loop" if number(0) == Some(0.0) || number(1) == Some(0.0) => Vec::new(),
            _ => all(),
        }
    }

    /// Whether what `op` makes depends on its input `port`.
    fn depends(&mut self, op: OpId, port: usize) -> bool {
        let graph = self.graph;
        let node = graph.op(op);
        let input = |port: usize| node.input(port).and_then(|value| self.value(value));
        let is_nonzero = |port: usize| input(port).is_none_or(|tensor| any(tensor, |number| number != 0.0));
        if !node.regions().is_empty() {
            return true;
        }
        let Some(made) = node.output(0).and_then(|value| self.value(value)) else { return true };
        match (node.domain(), node.op_type(), port) {
            ("", op_type, _) if HAND_ON.contains(&op_type) => !made.is_empty(),
            ("", "Gather", 0) => !made.is_empty(),
            ("", "Div", 0) => true,
            ("", "Div", _) => is_nonzero(0),
            ("", "Mul", _) => is_nonzero(1 - port.min(1)),
            ("", "MatMul" | "Gemm" | "Conv" | "ConvTranspose", 0 | 1) => is_nonzero(1 - port),
            ("", "Gemm" | "Conv" | "ConvTranspose", _) => true,
            ("", "BatchNormalization", 0) => is_nonzero(1),
            ("", "BatchNormalization", _) => true,
            ("", "PRelu", 1) => input(0).is_none_or(|tensor| any(tensor, |number| number < 0.0)),
            ("", "InstanceNormalization", 1 | 2) => true,
            _ if Relu::of(graph, op).is_some() => any(made, |number| number > 0.0),
            ("", "Clip" | "LeakyRelu" | "PRelu" | "HardSigmoid" | "HardSwish" | "InstanceNormalization", 0)
                if varies(made) =>
            {
                true
            }
            // (Where all is 0 or 1, it is the larger input alone that tells.)
            ("", "Softmax", _) => any(made, |number| number > ROUNDING && number < 1.0 - ROUNDING),
            _ => self.changes(op, port),
        }
    }

    /// Whether `op` makes something else when its input `port` is changed.
    fn changes(&mut self, op: OpId, port: usize) -> bool {
        let node = self.graph.op(op);
        let mut inputs: Vec<Option<Tensor>> = Vec::with_capacity(node.inputs().len());
        for input in node.inputs() {
            match input.map(|value| self.value(value)) {
                Some(None) => return true, // not held
                found => inputs.push(found.flatten().cloned()),
            }
        }
        let before: Vec<Option<&Tensor>> =
            node.outputs().iter().map(|value| value.and_then(|value| self.value(value))).collect();
        let dims = |value| self.value(value).map(|tensor| tensor.dims().to_vec());
        let elements = before
            .iter()
            .flatten()
            .chain(&inputs.iter().flatten().collect::<Vec<_>>())
            .map(|tensor| tensor.len() as u64)
            .sum::<u64>();
        let cost = multiply_adds(self.graph, op, &dims).unwrap_or(elements).saturating_add(elements);
        let Some(rest) = self.work.checked_sub(cost) else {
            self.is_partial = true;
            return true;
        };
        let Some(changed) = inputs[port].as_ref().and_then(changed) else { return true };
        inputs[port] = Some(changed);
        let after = self.evaluator.op(self.graph, op, &inputs);
        let differs = match &after {
            Ok(after) => before.iter().zip(after).any(|(before, after)| match (before, after) {
                (Some(before), Some(after)) => differs(before, after),
                _ => false,
            }),
            Err(_) => true,
        };
        *self.work = rest;
        differs
    }
}

/// Whether `value` is a constant that holds weights: of floats, or of integers that stand for them, and no single number.
fn is_weight(graph: &Graph, value: ValueId) -> bool {
    let Some(tensor) = graph.constant(value) else { return false };
    let stands_for_floats = || {
        graph.uses(value).into_iter().filter_map(Use::op).any(|op| {
            let node = graph.op(op);
            ["DequantizeLinear", "Cast", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"]
                .iter()
                .any(|op_type| node.is(op_type))
        })
    };
    let is_number =
        tensor.dtype().is_float() || tensor.dtype().is_integer() && tensor.dtype().bits() <= 8 && stands_for_floats();
    is_number && element_count(tensor.dims()).is_some_and(|count| count > 1)
}

/// Whether `is_such` holds for a number of `tensor`, or it holds none.
fn any(tensor: &Tensor, is_such: impl Fn(f64) -> bool) -> bool {
    match tensor.as_slice::<f32>() {
        Some(numbers) => numbers.iter().any(|number| is_such(f64::from(*number))),
        None => tensor.to_f64_vec().is_none_or(|numbers| numbers.into_iter().any(is_such)),
    }
}

/// Whether numbers beside each other on the last axis differ.
fn varies(tensor: &Tensor) -> bool {
    let last = tensor.dims().last().copied().unwrap_or(1).max(1);
    let differ = |row: &[f32]| row.iter().any(|number| *number != row[0]);
    tensor.as_slice::<f32>().is_some_and(|numbers| numbers.chunks(last).any(differ))
}

/// `tensor` with each number moved by about a quarter of their size, in turn up and down; `None` where it holds no floats.
fn changed(tensor: &Tensor) -> Option<Tensor> {
    if !tensor.dtype().is_float() {
        return None;
    }
    let mut array = tensor.to_f64()?;
    let finite = || array.iter().filter(|number| number.is_finite());
    let size = (finite().map(|number| number * number).sum::<f64>() / finite().count().max(1) as f64).sqrt();
    let step = if size > 0.0 { 0.25 * size } else { 1.0 };
    let mut state = 1u32;
    for number in &mut array {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *number += step * (f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0);
    }
    Tensor::from_f64(tensor.dtype(), &array)
}

fn differs(before: &Tensor, after: &Tensor) -> bool {
    if before.dims() != after.dims() {
        return true;
    }
    let (Some(a), Some(b)) = (before.to_f64_vec(), after.to_f64_vec()) else { return before != after };
    let (mut size, mut change) = (0.0, 0.0);
    for (a, b) in a.iter().zip(&b).filter(|(a, b)| a.is_finite() && b.is_finite()) {
        size += a * a;
        change += (b - a) * (b - a);
    }
    change > ROUNDING * ROUNDING * size
}

#[cfg(test)]
mod tests {
    use onnx_shrink_exec::{Interpreter, Options};
    use onnx_shrink_ir::{Evaluate, infer::infer, text::parse_graph};

    use super::coverage;
    use crate::Samples;

    fn unreached(text: &str) -> Vec<String> {
        let mut graph = parse_graph(text, 17).unwrap().graph;
        infer(&mut graph);
        let evaluator = Interpreter::new(Options::default());
        let samples = Samples::made_up(&graph, &evaluator, 2).unwrap();
        let prepared = evaluator.prepare(&graph).unwrap();
        coverage(&evaluator, &graph, prepared.as_ref(), &samples).unreached
    }

    #[test]
    fn weights_before_a_softmax_over_one_element_are_not_reached() {
        let model = |length: usize| {
            let text = format!(
                "m (float[{length}, 2] x) => (float[{length}, 2] y) <float[2, 2] q = {{1, 2, 3, 4}}, float[2, 2] v = {{1, 2, 3, 4}}>
                 {{ k = MatMul (x, q) t = Transpose (x) s = MatMul (k, t) p = Softmax (s) o = MatMul (x, v) y = MatMul (p, o) }}"
            );
            unreached(&text)
        };
        assert_eq!(model(1), ["q"]);
        assert_eq!(model(3), [""; 0]);
    }

    #[test]
    fn what_meets_zero_a_branch_that_is_not_taken_and_a_dead_relu_are_named() {
        let zero =
            "m (float[3, 2] x) => (float[3, 2] y) <float[2] a = {1, 2}, float[2] z = {0, 0}, float[2] b = {3, 4}>
                    { p = Mul (x, a) q = Mul (p, z) r = Add (q, b) y = Add (r, x) }";
        assert_eq!(unreached(zero), ["a"]);
        let dead = "m (float[3, 2] x) => (float[3, 2] y) <float[2] a = {1, 2}, float[2] b = {-900, -900}>
                    { p = Mul (x, a) q = Add (p, b) r = Relu (q) y = Add (r, x) }";
        assert_eq!(unreached(dead), ["a", "b"]);
        let branch = "m (float[3, 2] x) => (float[3, 2] y) <bool c = {1}> { y = If (c) <
            then_branch = t () => (float[3, 2] o) <float[2] a = {1, 2}> { o = Add (x, a) },
            else_branch = e () => (float[3, 2] o) <float[2] b = {1, 2}> { o = Sub (x, b) }> }";
        assert_eq!(unreached(branch), ["b"]);
    }
}
