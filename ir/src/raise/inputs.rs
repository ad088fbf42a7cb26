//! Attributes that became inputs: Clip, Slice, TopK, Pad, Dropout, Squeeze, Unsqueeze, the reductions, Split, DFT.
use ndarray::{ArrayD, IxDyn};

use super::edit::Edit;
use crate::{attributes, tensor::Tensor, types::DataType};

/// A rank-0 tensor of `dtype`.
fn scalar(dtype: DataType, number: f32) -> Result<Tensor, String> {
    let array = ArrayD::from_elem(IxDyn(&[]), f64::from(number));
    Tensor::from_f64(dtype, &array).ok_or_else(|| format!("no constant of type {dtype} can be made"))
}

/// 6 → 11: `min` and `max` are inputs, of the input's type. Their defaults, the ends of f32's range, are what a missing input means.
pub(super) fn clip_11(edit: &mut Edit<'_>) -> Result<(), String> {
    for (name, index, default) in [("min", 1, f32::MIN), ("max", 2, f32::MAX)] {
        let bound = edit.op().float(name).filter(|bound| *bound != default);
        if let Some(bound) = bound {
            let dtype = edit.dtype(edit.required(0)?)?;
            let value = edit.constant(name, scalar(dtype, bound)?);
            edit.set_input(index, Some(value));
        }
        edit.take(name);
    }
    Ok(())
}

/// 1 → 10: `starts`, `ends` and `axes` are inputs; without `axes` they mean the first ones in both forms.
pub(super) fn slice_10(edit: &mut Edit<'_>) -> Result<(), String> {
    for (name, index) in [("starts", 1), ("ends", 2), ("axes", 3)] {
        match edit.take(name) {
            Some(attribute) => {
                let value = edit.int64s(name, &attribute.ints);
                edit.set_input(index, Some(value));
            }
            None if name == "axes" => {}
            None => return Err(format!("its attribute `{name}` is missing")),
        }
    }
    Ok(())
}

/// 1 → 10: `k` is an input. (11 adds `largest` and `sorted`, both 1 by default, which is what 10 does.)
pub(super) fn top_k_10(edit: &mut Edit<'_>) -> Result<(), String> {
    let k = edit.take("k").and_then(|attribute| attribute.i).ok_or("its attribute `k` is missing")?;
    let value = edit.int64s("k", &[k]);
    edit.set_input(1, Some(value));
    Ok(())
}

/// 2 → 11: `pads` and `value` are inputs; a missing value is 0 in both forms.
pub(super) fn pad_11(edit: &mut Edit<'_>) -> Result<(), String> {
    let pads = edit.take("pads").ok_or("its attribute `pads` is missing")?;
    let pads = edit.int64s("pads", &pads.ints);
    edit.set_input(1, Some(pads));
    let value = edit.take("value").and_then(|attribute| attribute.f).unwrap_or(0.0);
    if value != 0.0 && edit.string_or("mode", "constant") == "constant" {
        let dtype = edit.dtype(edit.required(0)?)?;
        let value = edit.constant("value", scalar(dtype, value)?);
        edit.set_input(2, Some(value));
    }
    Ok(())
}

/// 6 → 7: `is_test` is gone, an inference graph is always a test.
pub(super) fn dropout_7(edit: &mut Edit<'_>) -> Result<(), String> {
    if edit.int_or("is_test", 0) == 0 {
        return Err("attribute `is_test` is 0, so it drops elements at random: training has no counterpart".to_owned());
    }
    edit.take("is_test");
    Ok(())
}

/// 7 → 10: the mask is boolean. Before 12 nothing says what it holds outside of training.
pub(super) fn dropout_10(edit: &mut Edit<'_>) -> Result<(), String> {
    if edit.uses_output(1) {
        return Err("its output `mask` is used, and what it holds changed".to_owned());
    }
    edit.drop_outputs(1);
    Ok(())
}

/// 10 → 12: `ratio` is an input. Without the input `training_mode` nothing is dropped, as before.
pub(super) fn dropout_12(edit: &mut Edit<'_>) -> Result<(), String> {
    dropout_10(edit)?;
    if let Some(ratio) = edit.take("ratio").and_then(|attribute| attribute.f) {
        let value = edit.constant("ratio", Tensor::scalar(ratio));
        edit.set_input(1, Some(value));
    }
    Ok(())
}

/// `axes` is an input. No axes mean every axis in both forms (`noop_with_empty_axes` is 0 by default).
pub(super) fn axes(edit: &mut Edit<'_>) -> Result<(), String> {
    if edit.op().is("Unsqueeze") && edit.op().ints("axes").is_none() {
        return Err("its attribute `axes` is missing".to_owned());
    }
    edit.ints_to_input("axes", 1);
    Ok(())
}

/// 11 → 13: `split` is an input. Without it the parts are equal.
pub(super) fn split_13(edit: &mut Edit<'_>) -> Result<(), String> {
    edit.ints_to_input("split", 1);
    Ok(())
}

/// 13 → 18: equal parts are asked for by their number.
pub(super) fn split_18(edit: &mut Edit<'_>) -> Result<(), String> {
    if edit.op().input(1).is_none() {
        let parts = i64::try_from(edit.op().outputs().len()).map_err(|_| "too many outputs")?;
        edit.set(attributes::int("num_outputs", parts));
    }
    Ok(())
}

/// 17 → 20: `axis` is an input; a missing one meant 1 and means -2 now.
pub(super) fn dft_20(edit: &mut Edit<'_>) -> Result<(), String> {
    let axis = edit.take("axis").and_then(|attribute| attribute.i).unwrap_or(1);
    let value = edit.constant("axis", Tensor::scalar(axis));
    edit.set_input(2, Some(value));
    Ok(())
}
