//! Max, Min, Sum and Mean of any number of inputs, and Clip.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    binary::{Arithmetic, Combine, combined},
    layout::{Outputs, broadcast_dims, failed, one, unsupported},
    numbers::{by_number, narrowed, slice, widened},
};
use crate::kernel::{Call, KernelError};

fn folded(call: &Call<'_>, how: Combine) -> Result<Tensor, KernelError> {
    let mut result = widened(call.input(0)?);
    let dtype = call.input(0)?.dtype();
    for index in 1..call.inputs.len() {
        let next = call.input(index)?;
        if next.dtype() != dtype {
            return failed(format!("its inputs are {dtype} and {}", next.dtype()));
        }
        let next = widened(next);
        let dims = broadcast_dims(result.dims(), next.dims())?;
        result = combined(call, &result, &next, &dims, &how)?;
    }
    Ok(result)
}

fn finished(call: &Call<'_>, result: Tensor) -> Outputs {
    if !(result.dtype().is_float() || result.dtype().is_integer()) {
        return unsupported(format!("arithmetic on {}", result.dtype()));
    }
    one(narrowed(result, call.input(0)?.dtype()))
}

/// Max
pub(super) fn max(call: &Call<'_>) -> Outputs {
    finished(call, folded(call, Combine::Max)?)
}

/// Min
pub(super) fn min(call: &Call<'_>) -> Outputs {
    finished(call, folded(call, Combine::Min)?)
}

/// Sum
pub(super) fn sum(call: &Call<'_>) -> Outputs {
    finished(call, folded(call, Combine::Add)?)
}

/// Mean
pub(super) fn mean(call: &Call<'_>) -> Outputs {
    let sum = folded(call, Combine::Add)?;
    let count = match sum.dtype() {
        DataType::Float => Tensor::scalar(call.inputs.len() as f32),
        DataType::Double => Tensor::scalar(call.inputs.len() as f64),
        other => return unsupported(format!("the mean of {other}")),
    };
    let dims = sum.dims().to_vec();
    finished(call, combined(call, &sum, &count, &dims, &Combine::Div)?)
}

/// Clip, with the bounds as inputs or, before opset 11, as attributes. A lower bound above the upper one gives the upper.
pub(super) fn clip(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let wide = widened(x);
    let bound = |index: usize, name: &str| -> Result<Option<Tensor>, KernelError> {
        if call.opset < 11 {
            return Ok(call.op.float(name).map(|bound| match wide.dtype() {
                DataType::Double => Tensor::scalar(f64::from(bound)),
                _ => Tensor::scalar(bound),
            }));
        }
        match call.optional(index) {
            Some(bound) if bound.len() != 1 => failed(format!("{name} has {} elements instead of one", bound.len())),
            Some(bound) if bound.dtype() != x.dtype() => {
                failed(format!("{name} is {}, the input {}", bound.dtype(), x.dtype()))
            }
            bound => Ok(bound.map(widened)),
        }
    };
    let (low, high) = (bound(1, "min")?, bound(2, "max")?);
    let clipped = by_number!(wide.dtype(), T => {
        let one_of = |bound: &Option<Tensor>| -> Result<Option<T>, KernelError> {
            bound.as_ref().map(|bound| Ok(slice::<T>(bound)?[0])).transpose()
        };
        let numbers = slice::<T>(&wide)?;
        let out: Vec<T> = match (one_of(&low)?, one_of(&high)?) {
            (Some(low), Some(high)) => numbers.iter().map(|&x| x.larger(low).smaller(high)).collect(),
            (Some(low), None) => numbers.iter().map(|&x| x.larger(low)).collect(),
            (None, Some(high)) => numbers.iter().map(|&x| x.smaller(high)).collect(),
            (None, None) => return one(x.clone()),
        };
        Tensor::from_vec(x.dims(), out)
    }, return unsupported(format!("clipping {}", x.dtype())));
    one(narrowed(clipped, x.dtype()))
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn both_forms_of_clip() {
        let x = Tensor::from_vec(&[3], vec![-2f32, 0.5, 9.0]);
        let attributes = vec![attributes::float("min", -1.0), attributes::float("max", 6.0)];
        let out = run_with("Clip", 6, attributes, &[Some(x.clone())]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_f64_vec), Some(vec![-1.0, 0.5, 6.0]));
        let out = run_with("Clip", 13, vec![], &[Some(x), None, Some(Tensor::scalar(0f32))]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_f64_vec), Some(vec![-2.0, 0.0, 0.0]));
        let out = run("Clip", 12, &[Tensor::from_vec(&[2], vec![-7i8, 7]), Tensor::scalar(5i8), Tensor::scalar(3i8)]);
        assert_eq!(out.to_i64_vec(), Some(vec![3, 3]));
    }

    #[test]
    fn several_inputs_broadcast_and_nan_stays() {
        let inputs = [Tensor::from_vec(&[2, 1], vec![1f32, f32::NAN]), Tensor::from_vec(&[2], vec![0f32, 5.0])];
        let out = run("Max", 13, &inputs).to_f64_vec().expect("floats");
        assert_eq!(out[..2], [1.0, 5.0]);
        assert!(out[2].is_nan() && out[3].is_nan());
        assert_eq!(run("Mean", 13, &[Tensor::scalar(1f32), Tensor::scalar(2f32)]).to_f64_vec(), Some(vec![1.5]));
    }
}
