//! Samples that are made up: for comparing two models when there are no real ones.
use ndarray::{ArrayD, IxDyn};
use onnx_shrink_ir::{DataType, Dim, Tensor, element_count};

use super::{Raw, SampleProblem, Source, fit::Inputs};

/// Most elements of an input that is made up.
const MAX_ELEMENTS: usize = 1 << 28;

/// Lengths of the dimensions that a model leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenDims {
    length: usize,
    first_only: bool,
}

impl OpenDims {
    /// `length` for all but the first axis of an input, which is 1 (it is mostly the batch). What is called as a first axis
    /// is 1, too.
    pub fn all(length: usize) -> OpenDims {
        OpenDims { length, first_only: false }
    }

    /// The same for the first input; all that the others leave open is 1.
    pub fn first(length: usize) -> OpenDims {
        OpenDims { length, first_only: true }
    }
}

/// Made-up samples, the same on every call.
pub(super) struct Generated {
    inputs: Vec<(String, DataType, Vec<usize>)>,
    count: usize,
}

impl Generated {
    /// An error when the type or rank of an input is not known.
    pub(super) fn new(inputs: &Inputs, count: usize, open: OpenDims) -> Result<Generated, SampleProblem> {
        let first_axes = inputs.required().filter_map(|input| input.ty.as_ref()?.shape.as_ref()?.first());
        let batches: Vec<&Dim> = first_axes.filter(|dim| matches!(dim, Dim::Symbol(_))).collect();
        let made = |(place, input): (usize, &super::fit::Input)| {
            let unknown =
                || SampleProblem::Format(format!("the shape of the input `{}` is not known; give --data", input.name));
            let ty = input.ty.as_ref().ok_or_else(unknown)?;
            let shape = ty.shape.as_ref().ok_or_else(unknown)?;
            let length = |(axis, dim): (usize, &Dim)| match dim.known() {
                Some(known) => known,
                None if axis == 0 && shape.len() > 1 || batches.contains(&dim) && shape.len() > 1 => 1,
                None if open.first_only && place > 0 => 1,
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
        Ok(Generated { inputs: inputs.required().enumerate().map(made).collect::<Result<_, _>>()?, count })
    }

    /// The dimensions of every input.
    pub(super) fn shapes(&self) -> impl Iterator<Item = &[usize]> {
        self.inputs.iter().map(|(.., dims)| dims.as_slice())
    }
}

impl Source for Generated {
    fn len(&self) -> usize {
        self.count
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
                _ => (uniform() * 3.0).floor(),
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
    use onnx_shrink_ir::DataType;

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
}
