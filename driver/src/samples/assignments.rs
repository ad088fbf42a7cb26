//! Lengths for the dimensions that a model leaves open, and which of them a model is tried with.
//!
//! One assignment proves little: of one element a softmax is 1 whatever it is of, on one pixel a kernel has one tap, and axes of one
//! length can be swapped. So a model runs on a small one with two in the batch and, where it can, lengths that all differ, and on a
//! larger one. **Never** tries more than a bounded number.
use std::collections::BTreeSet;

use onnx_shrink_ir::{Dim, Graph, TensorType, element_count, infer, multiply_adds};

use super::{
    error::SampleProblem,
    fit::{Input, Inputs},
    hints,
};

/// Most elements of an input that is made up.
const MAX_ELEMENTS: usize = 1 << 28;

/// What made-up samples are like where a model leaves it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeUp {
    pub(super) batch: usize,
    /// By the order of the open dimensions; the last for all that follow
    lengths: Vec<usize>,
    first_only: bool,
    pub(super) integers: Integers,
}

/// What whole numbers are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integers {
    /// As what reads them tells
    Told,
    /// 0, 1 or 2
    UpToTwo,
    /// 0 or 1: all that a mask, or an index into a table of two rows (the token types of BERT), may be
    Bits,
}

impl Integers {
    /// The most telling first.
    pub(super) const ALL: [Integers; 3] = [Integers::Told, Integers::UpToTwo, Integers::Bits];
}

impl MakeUp {
    /// `length` for all but the first axis of an input, which is 1 (it is mostly the batch). What is called as a first axis
    /// is 1, too.
    pub fn all(length: usize) -> MakeUp {
        MakeUp { batch: 1, lengths: vec![length], first_only: false, integers: Integers::Told }
    }

    /// The same for the first input, and wherever one of its dimensions is named again; all else that the others leave open is as
    /// long as the batch.
    fn first(length: usize) -> MakeUp {
        MakeUp { first_only: true, ..MakeUp::all(length) }
    }

    /// Another length for each open dimension. (The third is the sum of the first two: steps that are there already, new ones, and
    /// the mask over both.)
    fn distinct(lengths: [usize; 3]) -> MakeUp {
        let more =
            (1..=4).map(|number| lengths[2] + number * (lengths[0].max(lengths[1]) - lengths[0].min(lengths[1])));
        MakeUp { lengths: lengths.into_iter().chain(more).collect(), ..MakeUp::all(1) }
    }

    fn batch(self, batch: usize) -> MakeUp {
        MakeUp { batch, ..self }
    }

    pub(super) fn with(&self, integers: Integers) -> MakeUp {
        MakeUp { integers, ..self.clone() }
    }
}

/// Assignments that stand for each other: the first with which the model runs is taken.
pub(super) type Ladder = Vec<MakeUp>;

/// The ladders for `graph`: small lengths with two in the batch, and larger ones. The last is for where no other has one.
pub(super) fn ladders(graph: &Graph) -> [Ladder; 3] {
    let small = [MakeUp::distinct([7, 5, 12]), MakeUp::distinct([16, 24, 40]), MakeUp::all(16), MakeUp::first(16)];
    let small = small.iter().map(|like| like.clone().batch(2)).chain(small.iter().cloned()).collect();
    let mut large = vec![MakeUp::distinct([64, 96, 160]), MakeUp::all(64), MakeUp::first(64)];
    large.extend(hints::image_sides(graph).into_iter().map(MakeUp::all));
    for length in [256, 512, 224, 320, 640, 4096, 16384] {
        large.extend([MakeUp::all(length), MakeUp::first(length)]);
    }
    [small, large, vec![MakeUp::all(1), MakeUp::first(1)]]
}

/// From short to long, for who wants to know how a model works and not whether it does.
pub(super) fn shortest() -> Vec<MakeUp> {
    let lengths = [1, 16, 64, 256, 512].into_iter().flat_map(|length| [MakeUp::all(length), MakeUp::first(length)]);
    lengths.flat_map(|like| Integers::ALL.map(|integers| like.with(integers))).collect()
}

/// The dimensions of the inputs that a sample must give, with the lengths of an assignment.
pub(super) struct Dimensions {
    /// By input
    pub(super) inputs: Vec<Vec<usize>>,
    /// Whether the model leaves any open
    pub(super) is_open: bool,
    /// The shortest of the open ones, batches aside
    pub(super) shortest: Option<usize>,
    symbols: Vec<(String, usize)>,
}

impl Dimensions {
    /// An error when the rank of an input is not known, or it is too large.
    pub(super) fn of(graph: &Graph, inputs: &Inputs, like: &MakeUp) -> Result<Dimensions, SampleProblem> {
        let shapes: Vec<&Vec<Dim>> = inputs.required().map(shape_of).collect::<Result<_, _>>()?;
        let steps_first = |place: usize| {
            let name = inputs.required().nth(place).map(|input| input.name.as_str());
            name.and_then(|name| graph.find(name)).is_some_and(|input| hints::has_steps_first(graph, input))
        };
        let first: Vec<bool> =
            shapes.iter().enumerate().map(|(place, it)| it.len() > 1 && !steps_first(place)).collect();
        let batches: Vec<&Dim> = shapes
            .iter()
            .zip(&first)
            .filter_map(|(shape, is_batch)| shape.first().filter(|dim| *is_batch && matches!(dim, Dim::Symbol(_))))
            .collect();
        let of_first = |dim: &Dim| matches!(dim, Dim::Symbol(_)) && shapes.first().is_some_and(|it| it.contains(dim));
        let mut found = Dimensions { inputs: Vec::new(), is_open: false, shortest: None, symbols: Vec::new() };
        let mut open = 0;
        for (place, shape) in shapes.iter().enumerate() {
            let mut dims = Vec::with_capacity(shape.len());
            for (axis, dim) in shape.iter().enumerate() {
                let known = match dim {
                    Dim::Known(known) => Some(*known),
                    Dim::Symbol(name) => found.length_of(name),
                    Dim::Unknown => None,
                };
                let length = match known {
                    Some(known) => known,
                    None if axis == 0 && first[place] || batches.contains(&dim) => like.batch,
                    None if like.first_only && place > 0 && !of_first(dim) => like.batch,
                    None => {
                        let length = like.lengths.get(open).or(like.lengths.last()).copied().unwrap_or(1);
                        open += 1;
                        found.shortest = Some(found.shortest.map_or(length, |shortest| shortest.min(length)));
                        length
                    }
                };
                found.is_open |= dim.known().is_none();
                if let Dim::Symbol(name) = dim {
                    found.symbols.push((name.clone(), length));
                }
                dims.push(length);
            }
            if element_count(&dims).is_none_or(|elements| elements > MAX_ELEMENTS) {
                let name = inputs.required().nth(place).map_or("", |input| input.name.as_str());
                return Err(SampleProblem::Format(format!("the input `{name}` is too large to make up")));
            }
            found.inputs.push(dims);
        }
        Ok(found)
    }

    /// The length that a dimension of this name has.
    pub(super) fn length_of(&self, symbol: &str) -> Option<usize> {
        self.symbols.iter().find(|(name, _)| name == symbol).map(|(_, length)| *length)
    }

    /// Multiply-adds and elements of a run, as far as shapes follow from these; bodies are not counted.
    pub(super) fn work(&self, graph: &Graph, inputs: &Inputs) -> u64 {
        let mut fixed = graph.detached();
        for (input, dims) in inputs.required().zip(&self.inputs) {
            if let Some(value) = fixed.find(&input.name) {
                let _ = fixed.fix_input_shape(value, dims); // what does not fit is open, and counts nothing
            }
        }
        infer::infer(&mut fixed);
        let dims = |value| match fixed.constant(value) {
            Some(constant) => Some(constant.dims().to_vec()),
            None => fixed.ty(value).and_then(TensorType::dims),
        };
        let elements = |op: &onnx_shrink_ir::OpId| -> u64 {
            let outputs = fixed.op(*op).outputs().iter().flatten();
            outputs
                .filter_map(|value| element_count(&dims(*value)?))
                .fold(0, |sum, count| sum.saturating_add(count as u64))
        };
        let ops = fixed.ops_in_id_order();
        let work =
            |op: &onnx_shrink_ir::OpId| multiply_adds(&fixed, *op, &dims).unwrap_or(0).saturating_add(elements(op));
        ops.iter().map(work).fold(0, u64::saturating_add)
    }
}

fn shape_of(input: &Input) -> Result<&Vec<Dim>, SampleProblem> {
    let unknown =
        || SampleProblem::Format(format!("the shape of the input `{}` is not known; give --data", input.name));
    input.ty.as_ref().and_then(|ty| ty.shape.as_ref()).ok_or_else(unknown)
}

/// Assignments that give the inputs lengths that they had before are tried once.
#[derive(Default)]
pub(super) struct Tried(BTreeSet<Vec<Vec<usize>>>);

impl Tried {
    pub(super) fn is_new(&mut self, dimensions: &Dimensions) -> bool {
        self.0.insert(dimensions.inputs.clone())
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::text::parse_graph;

    use super::{Dimensions, Inputs, MakeUp};

    fn dims(text: &str, like: &MakeUp) -> Vec<Vec<usize>> {
        let mut graph = parse_graph(text, 17).unwrap().graph;
        onnx_shrink_ir::infer::infer(&mut graph);
        Dimensions::of(&graph, &Inputs::of(&graph).unwrap(), like).unwrap().inputs
    }

    #[test]
    fn a_dimension_that_two_inputs_name_has_one_length() {
        let text =
            "m (int64[batch, time] ids, int64[batch, time] mask) => (int64[batch, time] y) { y = Mul(ids, mask) }";
        for like in [MakeUp::all(16), MakeUp::first(16)] {
            assert_eq!(dims(text, &like), [[1, 16], [1, 16]]);
            assert_eq!(dims(text, &like.batch(2)), [[2, 16], [2, 16]]);
        }
    }

    #[test]
    fn dimensions_of_other_names_have_other_lengths() {
        let text = "m (float[batch, 3, h, w] x, float[batch, past] p, float[batch, h] z) => (float[batch, 3, h, w] y) { y = Relu (x) }";
        let like = MakeUp::distinct([7, 5, 12]).batch(2);
        assert_eq!(dims(text, &like), [vec![2, 3, 7, 5], vec![2, 12], vec![2, 7]]);
        assert_eq!(dims(text, &MakeUp::first(16).batch(2)), [vec![2, 3, 16, 16], vec![2, 2], vec![2, 16]]);
    }

    #[test]
    fn steps_are_no_batch() {
        let text = "m (float[time, 2, 2] x, float[batch, 2] z) => (float y) <float[1, 1, 2] w = {1, 2}, float[1, 1, 1] r = {1}>
                    { h = RNN <hidden_size = 1> (x, w, r) s = ReduceSum (h) t = ReduceSum (z) y = Add (s, t) }";
        assert_eq!(dims(text, &MakeUp::all(16).batch(2)), [vec![16, 2, 2], vec![2, 2]]);
    }
}
