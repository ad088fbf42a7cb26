//! BatchNormalization and GroupNormalization.
use super::edit::Edit;
use crate::{attributes, tensor::Tensor, types::DataType};

/// 6 → 7: whether it trains is said by the number of outputs, not by `is_test`.
pub(super) fn batch_7(edit: &mut Edit<'_>) -> Result<(), String> {
    if edit.int_or("is_test", 0) == 0 {
        return Err("attribute `is_test` is 0: training has no counterpart".to_owned());
    }
    edit.take("is_test");
    inference_only(edit)
}

/// 7 → 9: one mean for each element (`spatial` = 0) is gone.
pub(super) fn batch_9(edit: &mut Edit<'_>) -> Result<(), String> {
    if edit.int_or("spatial", 1) == 0 {
        return Err("attribute `spatial` = 0 has no counterpart".to_owned());
    }
    edit.take("spatial");
    Ok(())
}

/// 9 → 14: training is asked for by `training_mode`, and gives two more outputs instead of four.
pub(super) fn batch_14(edit: &mut Edit<'_>) -> Result<(), String> {
    inference_only(edit)
}

fn inference_only(edit: &mut Edit<'_>) -> Result<(), String> {
    if edit.op().outputs().iter().skip(1).any(Option::is_some) {
        return Err("it has more outputs than one, so it trains: that has no counterpart".to_owned());
    }
    edit.drop_outputs(1);
    Ok(())
}

/// 18 → 21: scale and bias are given for each channel, not for each group, and it calculates in f32 unless told otherwise:
/// f64 would lose by that and is told. Narrower floats are not: ONNX Runtime calculated f16 in f32 before, too (bit-equal on its CPU; bf16
/// was not measured).
pub(super) fn group_21(edit: &mut Edit<'_>) -> Result<(), String> {
    let groups =
        edit.op().int("num_groups").and_then(|groups| usize::try_from(groups).ok()).filter(|&groups| groups > 0);
    let groups = groups.ok_or("its attribute `num_groups` is missing or not positive")?;
    let x = edit.required(0)?;
    let channels = edit.shape(x).and_then(|shape| shape.get(1)?.known());
    let channels =
        channels.ok_or_else(|| format!("the number of channels of `{}` is not known", edit.graph.name_of(x)))?;
    if channels % groups != 0 {
        return Err(format!("{channels} channels are no {groups} equal groups"));
    }
    for (index, base) in [(1, "scale"), (2, "bias")] {
        let value = edit.required(index)?;
        let name = edit.graph.name_of(value).to_owned();
        let tensor =
            edit.constant_of(value).ok_or_else(|| format!("`{name}` is not constant: it would have to be repeated"))?;
        let repeated = repeat(&tensor, channels / groups).filter(|_| tensor.dims() == [groups]);
        let repeated = repeated.ok_or_else(|| format!("`{name}` does not hold one number for each group"))?;
        let value = edit.constant(base, repeated);
        edit.set_input(index, Some(value));
    }
    if edit.dtype(x)? == DataType::Double {
        edit.set(attributes::int("stash_type", i64::from(DataType::Double as i32)));
    }
    Ok(())
}

/// Each element of a rank-1 tensor `times` times.
fn repeat(tensor: &Tensor, times: usize) -> Option<Tensor> {
    let [length] = tensor.dims() else { return None };
    let bytes = tensor.bytes()?;
    let size = tensor.dtype().bits() / 8;
    if size == 0 {
        return None;
    }
    let data: Vec<u8> = bytes.chunks_exact(size).flat_map(|element| element.repeat(times)).collect();
    Tensor::new(tensor.dtype(), &[length.checked_mul(times)?], data.into()).ok()
}
