//! Upsample and Resize: `y[i] = x[i / scale]` in every version, spelled out from Resize 11 on.
use ndarray::ArrayD;

use super::edit::Edit;
use crate::tensor::Tensor;

/// 7 → 9: `scales` is an input.
pub(super) fn upsample_9(edit: &mut Edit<'_>) -> Result<(), String> {
    let scales = edit.take("scales").ok_or("its attribute `scales` is missing")?.floats;
    let value = edit.constant("scales", Tensor::from_vec(&[scales.len()], scales));
    edit.set_input(1, Some(value));
    Ok(())
}

/// 9 → 10: Upsample is Resize, whose version 10 has the same inputs and attributes.
pub(super) fn upsample_10(edit: &mut Edit<'_>) -> Result<(), String> {
    edit.set_type("Resize");
    Ok(())
}

/// 10 → 11: the input `roi` comes in between, and what Resize 10 does is said in attributes: positions are divided by the scale
/// (`asymmetric`), and the nearest element is the one at or below. Version 10 does not say how it rounds when it shrinks, and engines round
/// up then (ONNX Runtime: `ResizeNearestMode::SIMPLE`): that is kept, so the scales must be known.
pub(super) fn resize_11(edit: &mut Edit<'_>) -> Result<(), String> {
    let scales = edit.required(1)?;
    let mode = edit.string_or("mode", "nearest").to_owned();
    if !matches!(mode.as_str(), "nearest" | "linear") {
        return Err(format!("attribute `mode` = `{mode}` is not one of opset 10"));
    }
    edit.set_string("coordinate_transformation_mode", "asymmetric");
    if mode == "nearest" {
        let rounding = match edit.constant_of(scales).and_then(|scales| scales.to_f64()).as_ref().map(direction) {
            Some(Direction::Grows) => "floor",
            Some(Direction::Shrinks) => "ceil",
            Some(Direction::Both) => {
                return Err("it grows one axis and shrinks another, which round differently".to_owned());
            }
            None => {
                let name = edit.graph.name_of(scales);
                return Err(format!("`{name}` is not constant, and how the op rounds depends on it"));
            }
        };
        edit.set_string("nearest_mode", rounding);
    }
    let roi = edit.constant("roi", Tensor::from_vec(&[0], Vec::<f32>::new()));
    edit.set_input(1, Some(roi));
    edit.set_input(2, Some(scales));
    Ok(())
}

enum Direction {
    Grows,
    Shrinks,
    Both,
}

fn direction(scales: &ArrayD<f64>) -> Direction {
    match (scales.iter().any(|&scale| scale > 1.0), scales.iter().any(|&scale| scale < 1.0)) {
        (true, true) => Direction::Both,
        (false, true) => Direction::Shrinks,
        (_, false) => Direction::Grows,
    }
}

/// 11 → 13: `roi` and `scales` may be left out, which an empty tensor stood for, and `scales` must be when `sizes` is there.
pub(super) fn resize_13(edit: &mut Edit<'_>) -> Result<(), String> {
    for index in [1, 2] {
        let value = edit.op().input(index).and_then(|value| edit.constant_of(value));
        if value.is_some_and(|tensor| tensor.is_empty()) {
            edit.set_input(index, None);
        }
    }
    Ok(())
}
