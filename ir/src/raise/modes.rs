//! Ops whose name, or the names or defaults of whose modes, changed: Scatter, RoiAlign, GridSample.
use super::edit::Edit;

/// 9 → 11: Scatter is called ScatterElements.
pub(super) fn scatter_11(edit: &mut Edit<'_>) -> Result<(), String> {
    edit.set_type("ScatterElements");
    Ok(())
}

/// 10 → 16: coordinates are moved by half a pixel unless said otherwise; before, they never were.
pub(super) fn roi_align_16(edit: &mut Edit<'_>) -> Result<(), String> {
    edit.set_string("coordinate_transformation_mode", "output_half_pixel");
    Ok(())
}

/// 16 → 20: modes lost their "bi", as they work in any number of dimensions.
pub(super) fn grid_sample_20(edit: &mut Edit<'_>) -> Result<(), String> {
    match edit.string_or("mode", "bilinear") {
        "bilinear" => edit.set_string("mode", "linear"),
        "bicubic" => edit.set_string("mode", "cubic"),
        "nearest" => {}
        mode => return Err(format!("attribute `mode` = `{mode}` is not one of opset 16")),
    }
    Ok(())
}
