//! Samples that are made up: for comparing two models when there are no real ones.
use ndarray::{ArrayD, IxDyn};
use onnx_shrink_ir::{DataType, Dim, Tensor, element_count};

use super::{Raw, SampleProblem, Source, fit::Inputs};

/// Most elements of an input that is made up.
const MAX_ELEMENTS: usize = 1 << 28;

/// What made-up samples are like where a model leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MakeUp {
    length: usize,
    first_only: bool,
    integers: u8,
}

/// Lengths of dimensions that a model leaves open.
const OPEN_LENGTHS: [usize; 5] = [1, 16, 64, 256, 512];

impl MakeUp {
    /// Every kind there is, in the order in which a model is tried with them.
    pub(super) fn kinds() -> impl Iterator<Item = MakeUp> {
        let open = OPEN_LENGTHS.into_iter().flat_map(|length| [MakeUp::all(length), MakeUp::first(length)]);
        open.flat_map(|like| [like, like.with_bits()])
    }

    /// `length` for all but the first axis of an input, which is 1 (it is mostly the batch). What is called as a first axis
    /// is 1, too.
    pub fn all(length: usize) -> MakeUp {
        MakeUp { length, first_only: false, integers: 3 }
    }

    /// The same for the first input, and wherever one of its dimensions is named again; all else that the others leave open is 1.
    pub fn first(length: usize) -> MakeUp {
        MakeUp { length, first_only: true, integers: 3 }
    }

    /// With integers that are 0 or 1 instead of 0, 1 or 2: all that a mask, or an index into a table of two rows (the token
    /// types of BERT), may be. The wider ones prove more.
    pub fn with_bits(self) -> MakeUp {
        MakeUp { integers: 2, ..self }
    }
}

/// Made-up samples, the same on every call.
pub(super) struct Generated {
    inputs: Vec<(String, DataType, Vec<usize>)>,
    count: usize,
    integers: u8,
}

impl Generated {
    /// An error when the type or rank of an input is not known.
    pub(super) fn new(inputs: &Inputs, count: usize, open: MakeUp) -> Result<Generated, SampleProblem> {
        let first_axes = inputs.required().filter_map(|input| input.ty.as_ref()?.shape.as_ref()?.first());
        let batches: Vec<&Dim> = first_axes.filter(|dim| matches!(dim, Dim::Symbol(_))).collect();
        let first = inputs.required().next().and_then(|input| input.ty.as_ref()?.shape.as_ref());
        let of_first = |dim: &Dim| matches!(dim, Dim::Symbol(_)) && first.is_some_and(|shape| shape.contains(dim));
        let made = |(place, input): (usize, &super::fit::Input)| {
            let unknown =
                || SampleProblem::Format(format!("the shape of the input `{}` is not known; give --data", input.name));
            let ty = input.ty.as_ref().ok_or_else(unknown)?;
            let shape = ty.shape.as_ref().ok_or_else(unknown)?;
            let length = |(axis, dim): (usize, &Dim)| match dim.known() {
                Some(known) => known,
                None if axis == 0 && shape.len() > 1 || batches.contains(&dim) && shape.len() > 1 => 1,
                None if open.first_only && place > 0 && !of_first(dim) => 1,
                None => open.length,
            };
            let dims: Vec<usize> = shape.iter().enumerate().map(length).collect();
            if element_count(&dims).is_none_or(|elements| elements > MAX_ELEMENTS) {
                return Err(SampleProblem::Format(format!("the input `{}` is too large to make up", input.name)));
            }
            if Tensor::from_f64(ty.dtype, &ArrayD::zeros(IxDyn(&[0]))).is_none() {
                return Err(SampleProblem::Format(format!("inputs of {} are not made up; give --data", ty.dtype)));
            }
            Ok((input.name.clone(), ty.dtype, dims))
        };
        Ok(Generated {
            inputs: inputs.required().enumerate().map(made).collect::<Result<_, _>>()?,
            count,
            integers: open.integers,
        })
    }

    /// The dimensions of every input.
    #[cfg(test)]
    pub(super) fn shapes(&self) -> Vec<&[usize]> {
        self.inputs.iter().map(|(.., dims)| dims.as_slice()).collect()
    }

    /// Whether the samples of `other` are the same.
    pub(super) fn is_like(&self, other: &Generated) -> bool {
        let has_integers = || self.inputs.iter().any(|(_, dtype, _)| dtype.is_integer());
        self.inputs == other.inputs && (self.integers == other.integers || !has_integers())
    }
}

impl Source for Generated {
    fn len(&self) -> usize {
        self.count
    }

    fn is_made_up(&self) -> bool {
        true
    }

    fn name(&self, index: usize) -> String {
        format!("generated sample {index}")
    }

    fn read(&self, index: usize, _: &Inputs) -> Result<Raw, SampleProblem> {
        // splitmix64 (Steele, Lea and Flood 2014): enough for inputs, and the same everywhere
        let mut state = (index as u64 + 1).wrapping_mul(0x5851_f42d_4c95_7f2d);
        let mut uniform = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut arrays = Vec::with_capacity(self.inputs.len());
        for (name, dtype, dims) in &self.inputs {
            let mut number = || match dtype {
                DataType::Bool => (uniform() * 2.0).floor(),
                dtype if dtype.is_float() => (uniform() + uniform() + uniform() - 1.5) * 1.4,
                _ => (uniform() * f64::from(self.integers)).floor(),
            };
            let array = ArrayD::from_shape_simple_fn(IxDyn(dims), &mut number);
            if let Some(tensor) = Tensor::from_f64(*dtype, &array) {
                arrays.push((name.clone(), tensor));
            }
        }
        Ok(Raw { arrays, others: Vec::new(), label: None })
    }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_exec::{Interpreter, Options};
    use onnx_shrink_ir::{DataType, Evaluate, text::parse_graph};

    use super::{Generated, Inputs, MakeUp};
    use crate::samples::{Samples, npz::tests::graph};

    #[test]
    fn made_up_samples_fit_and_repeat() {
        let graph = graph(&[("x", DataType::Float, &[2, 3]), ("n", DataType::Int64, &[1]), ("b", DataType::Bool, &[])]);
        let samples = Samples::generated(&graph, 3).unwrap();
        let (one, again) = (samples.get(1).unwrap(), samples.get(1).unwrap());
        assert_eq!(one.inputs, again.inputs);
        assert_ne!(one.inputs, samples.get(2).unwrap().inputs);
        assert_eq!(one.inputs[0].as_ref().unwrap().dims(), [2, 3]);
    }

    #[test]
    fn a_dimension_that_two_inputs_name_has_one_length() {
        let text =
            "m (int64[batch, time] ids, int64[batch, time] mask) => (int64[batch, time] y) { y = Mul(ids, mask) }";
        let graph = parse_graph(text, 17).unwrap().graph;
        for open in [MakeUp::all(16), MakeUp::first(16)] {
            let inputs = Inputs::of(&graph).unwrap();
            assert_eq!(Generated::new(&inputs, 1, open).unwrap().shapes(), [[1, 16], [1, 16]]);
            assert!(Samples::generated_as(&graph, 1, open).unwrap().get(0).is_ok());
        }
    }

    #[test]
    fn numbers_are_taken_with_which_the_model_runs() {
        let text = "m (int64[batch, time] ids) => (float[batch, time, 2] y)
                    <float[2, 2] table = {1, 2, 3, 4}> { y = Gather(table, ids) }";
        let graph = parse_graph(text, 17).unwrap().graph;
        let evaluator = Interpreter::new(Options::default());
        let run = |samples: Samples| {
            let mut samples = (0..8).map(|index| samples.get(index).unwrap().inputs);
            samples.all(|inputs| {
                evaluator.prepare(&graph).and_then(|prepared| prepared.run(&inputs, &mut |_, _| ())).is_ok()
            })
        };
        assert!(!run(Samples::generated(&graph, 8).unwrap()), "2 lies outside of the table");
        assert!(run(Samples::made_up(&graph, &evaluator, 8).unwrap()));
    }
}
