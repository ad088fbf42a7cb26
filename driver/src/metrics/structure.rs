//! The parts that an output is made of: what its last Concat joins.
//!
//! The output is followed back through ops that move numbers or treat each alone, to the Concat (and the Concats behind it)
//! whose operands are the parts: ranges along one axis of the output. Operands that the same ops make are of one kind (a
//! detector's levels, say) and together one part: an error means the same in each of them.
//! **Never** looks at numbers: scale is for [`slices`](super::slices).
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use onnx_shrink_ir::{
    Dim, Graph, Op, OpId, ValueId,
    ops::{Concat, Transpose, axis_from_front},
    semantics::{self, Effect, is_reshape},
};

/// Operands, of Concats of Concats, after which no more is looked for.
const MOST_OPERANDS: usize = 256;

/// Ops that an output is followed back through, at most.
const MOST_OPS: usize = 64;

/// Ops that tell what kind of number an operand holds, at most.
const KIND_OPS: usize = 8;

/// The parts of an output along one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Structure {
    /// The axis of the output
    pub axis: usize,
    /// The ranges of each part along it; every place is in one
    pub parts: Vec<Vec<Range<usize>>>,
}

impl Structure {
    /// The parts of `output`; `None` where it has one alone, or nothing tells where they begin.
    pub(super) fn of(graph: &Graph, output: ValueId) -> Option<Structure> {
        let rank = graph.ty(output)?.rank()?;
        let mut walk = Walk { graph, operands: Vec::new() };
        walk.follow(output, Place { axes: (0..rank).map(Some).collect(), ranges: BTreeMap::new(), kind: Vec::new() });
        let operands = walk.operands;
        if operands.len() >= MOST_OPERANDS {
            return None;
        }
        let structures = (0..rank).filter_map(|axis| along(axis, &operands));
        // Of equals the last axis: it is the one that holds what belongs to one place.
        structures.max_by_key(|structure| structure.parts.len())
    }
}

/// What one of the Concats joins.
struct Operand {
    /// Where it lies in the output, by axis; axes that it fills, or of which that is not known, are not in it
    ranges: BTreeMap<usize, Range<usize>>,
    /// What makes it
    kind: Vec<String>,
}

/// The parts along `axis`: between the places where an operand begins or ends, together where the kinds are the same.
fn along(axis: usize, operands: &[Operand]) -> Option<Structure> {
    let ranges = operands.iter().filter_map(|operand| operand.ranges.get(&axis));
    let cuts: BTreeSet<usize> = ranges.flat_map(|range| [range.start, range.end]).collect();
    let cuts: Vec<usize> = cuts.into_iter().collect();
    type Kinds<'k> = BTreeSet<&'k [String]>;
    let mut parts: Vec<(Kinds<'_>, Vec<Range<usize>>)> = Vec::new();
    for range in cuts.windows(2).map(|ends| ends[0]..ends[1]) {
        let holds = |operand: &&Operand| {
            operand.ranges.get(&axis).is_none_or(|whole| whole.start <= range.start && range.end <= whole.end)
        };
        let kinds: Kinds<'_> = operands.iter().filter(holds).map(|operand| &operand.kind[..]).collect();
        match parts.iter_mut().find(|(known, _)| *known == kinds) {
            Some((_, ranges)) => match ranges.last_mut().filter(|last| last.end == range.start) {
                Some(last) => last.end = range.end,
                None => ranges.push(range),
            },
            None => parts.push((kinds, vec![range])),
        }
    }
    (parts.len() > 1).then(|| Structure { axis, parts: parts.into_iter().map(|(_, ranges)| ranges).collect() })
}

/// Where in the output a value is that it is followed back to.
#[derive(Clone)]
struct Place {
    /// The output's axis that each axis of the value is
    axes: Vec<Option<usize>>,
    /// Where the value lies along axes of the output
    ranges: BTreeMap<usize, Range<usize>>,
    /// The ops between that make other numbers of it, the last one first
    kind: Vec<String>,
}

struct Walk<'g> {
    graph: &'g Graph,
    operands: Vec<Operand>,
}

impl Walk<'_> {
    /// Follows `value` back, which stands at `place`.
    fn follow(&mut self, mut value: ValueId, mut place: Place) {
        for _ in 0..MOST_OPS {
            let Some(op) = self.graph.producer(value) else { break };
            if let Some(concat) = Concat::of(self.graph, op) {
                if let Some(axis) = axis_from_front(concat.axis, place.axes.len()) {
                    self.concat(&concat, axis, &place);
                    return;
                }
                break;
            }
            let Some((from, axes)) = self.through(op, &place.axes) else { break };
            place.kind.extend(changes(self.graph.op(op)));
            (value, place.axes) = (from, axes);
        }
        place.kind.extend(kind_of(self.graph, value));
        place.kind.truncate(KIND_OPS);
        self.operands.push(Operand { ranges: place.ranges, kind: place.kind });
    }

    fn concat(&mut self, concat: &Concat, axis: usize, place: &Place) {
        let length = |value: &ValueId| self.graph.ty(*value)?.shape.as_ref()?.get(axis)?.known();
        let lengths: Option<Vec<usize>> = concat.inputs.iter().map(length).collect();
        let along = place.axes[axis].zip(lengths);
        let mut start = along.as_ref().and_then(|(axis, _)| place.ranges.get(axis)).map_or(0, |range| range.start);
        for (index, &value) in concat.inputs.iter().enumerate() {
            if self.operands.len() >= MOST_OPERANDS {
                return;
            }
            let mut place = place.clone();
            match &along {
                Some((axis, lengths)) => {
                    place.ranges.insert(*axis, start..start + lengths[index]);
                    start += lengths[index];
                }
                None => place.axes[axis] = None,
            }
            self.follow(value, place);
        }
    }

    /// What `op` moves, or treats number by number, and where its axes stand in the output; `None` where it does more.
    fn through(&self, op: OpId, axes: &[Option<usize>]) -> Option<(ValueId, Vec<Option<usize>>)> {
        let graph = self.graph;
        if let Some(transpose) = Transpose::of(graph, op) {
            let mut moved = vec![None; transpose.perm.len()];
            transpose.perm.iter().zip(axes).for_each(|(&from, &axis)| moved[from] = axis);
            return Some((transpose.x, moved));
        }
        let node = graph.op(op);
        let x = only_data(graph, node)?;
        let dims = |value| graph.ty(value)?.shape.as_deref();
        let (before, after) = (dims(x)?, dims(node.output(0)?)?);
        if is_reshape(node) {
            return Some((x, kept_axes(before, after, axes)));
        }
        // What keeps the shape and treats each number alone.
        let same = before.len() == after.len() && before.iter().zip(after).all(|(a, b)| a.same(b));
        (is_elementwise(node) && same).then(|| (x, axes.to_vec()))
    }
}

/// The one input of `node` that is no constant and no place or size.
pub(super) fn only_data(graph: &Graph, node: &Op) -> Option<ValueId> {
    if is_reshape(node) {
        return node.input(0);
    }
    let mut data = node.inputs().iter().flatten().filter(|input| graph.constant(**input).is_none());
    let first = *data.next()?;
    data.next().is_none().then_some(first)
}

/// Whether `node` makes each number from the one at its place.
fn is_elementwise(node: &Op) -> bool {
    semantics::of(node).is_some_and(|row| {
        matches!(row.effect, Effect::Elementwise | Effect::Quantization) || row.op_type == "Identity"
    })
}

/// Axes of `before` that a reshape to `after` keeps, from the front and from the back, as `axes` of the output.
fn kept_axes(before: &[Dim], after: &[Dim], axes: &[Option<usize>]) -> Vec<Option<usize>> {
    let mut kept = vec![None; before.len()];
    let front = before.iter().zip(after).take_while(|(a, b)| a.same(b)).count();
    kept[..front].copy_from_slice(&axes[..front]);
    let rest = before[front..].iter().rev().zip(after[front..].iter().rev());
    for back in 1..=rest.take_while(|(a, b)| a.same(b)).count() {
        kept[before.len() - back] = axes[axes.len() - back];
    }
    kept
}

/// The kind of op that `node` is, unless it only moves numbers.
fn changes(node: &Op) -> Option<String> {
    const MOVES: [&str; 7] = ["Transpose", "Identity", "Cast", "Split", "Slice", "DequantizeLinear", "QuantizeLinear"];
    const LAYERS: [&str; 3] = ["Conv", "Gemm", "MatMul"];
    if is_reshape(node) || MOVES.iter().any(|kind| node.is(kind)) {
        return None;
    }
    let layer = LAYERS.iter().any(|kind| node.is(kind));
    Some(if layer { "layer" } else { node.op_type() }.to_owned())
}

/// The ops that make the numbers of `value`, the last one first, back to one that mixes them. What only moves is left out.
fn kind_of(graph: &Graph, mut value: ValueId) -> Vec<String> {
    let mut kind = Vec::new();
    for _ in 0..MOST_OPS {
        let Some(op) = graph.producer(value) else {
            let given = if graph.constant(value).is_some() { "constant" } else { graph.name_of(value) };
            kind.push(given.to_owned());
            break;
        };
        let node = graph.op(op);
        let changed = changes(node);
        let from = match &changed {
            None => node.input(0),
            Some(_) => only_data(graph, node).filter(|_| is_elementwise(node)),
        };
        kind.extend(changed);
        match from {
            Some(from) => value = from,
            None => break,
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use onnx_shrink_ir::{infer, text::parse_graph};

    use super::Structure;

    fn parts(text: &str) -> Option<Structure> {
        let mut graph = parse_graph(text, 17).unwrap().graph;
        infer::infer(&mut graph);
        Structure::of(&graph, graph.outputs()[0])
    }

    fn two(axis: usize, parts: [Range<usize>; 2]) -> Option<Structure> {
        Some(Structure { axis, parts: parts.map(|range| vec![range]).to_vec() })
    }

    #[test]
    fn the_last_concat_tells_the_parts() {
        let head = "g (float[1,4,100] box, float[1,20,100] cls) => (float[1,24,100] y)";
        let joined = "s = Sigmoid (cls)  b = Relu (box)  y = Concat <axis = 1> (b, s)";
        assert_eq!(parts(&format!("{head} {{ {joined} }}")), two(1, [0..4, 4..24]));
        // Through what moves numbers, or scales them.
        let head = "g (float[1,4,10,10] box, float[1,20,10,10] cls) => (float[1,100,24] y) <int64[3] to = {1, 24, -1}, float k = {2.0}>";
        let moved = "s = Sigmoid (cls)  j = Concat <axis = 1> (box, s)  r = Reshape (j, to)  t = Transpose <perm = [0, 2, 1]> (r)  y = Mul (t, k)";
        assert_eq!(parts(&format!("{head} {{ {moved} }}")), two(2, [0..4, 4..24]));
    }

    #[test]
    fn levels_of_one_kind_are_one_part() {
        let head = "g (float[1,9,2] b, float[1,9,3] s, float[1,4,2] bb, float[1,4,3] ss) => (float[1,13,5] y)";
        let body = "c = Sigmoid (s)  cc = Sigmoid (ss)  l = Relu (b)  ll = Relu (bb)  one = Concat <axis = 2> (l, c)  two = Concat <axis = -1> (ll, cc)  y = Concat <axis = 1> (one, two)";
        // Inputs of other names are other kinds, so a layer stands before each.
        let layers = "g (float[1,9,8] x, float[1,4,8] z) => (float[1,13,5] y) <float[8,2] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, float[8,3] v = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}>";
        let before = "b = MatMul (x, w)  s = MatMul (x, v)  bb = MatMul (z, w)  ss = MatMul (z, v)";
        assert_eq!(parts(&format!("{layers} {{ {before} {body} }}")), two(2, [0..2, 2..5]));
        assert!(parts(&format!("{head} {{ {body} }}")).is_some());
        assert_eq!(parts(&format!("{layers} {{ {before} y = Concat <axis = 2> (b, s) }}")), None, "one kind");
    }

    #[test]
    fn what_is_computed_from_all_of_it_has_no_parts() {
        let text = "g (float[1,4] a, float[1,2] b) => (float[1,6] y) { c = Concat <axis = 1> (a, b)  y = Softmax (c) }";
        assert_eq!(parts(text), None);
    }
}
