//! Ops that scale or crop pictures: Resize, Upsample, SpaceToDepth, CenterCropPad, Crop.
use rten_shape_inference::{SymExpr, SymTensor};

use super::{
    layout::small,
    node::{Node, resolve},
    outputs::Outputs,
};

/// Resize and Upsample, in all their versions.
pub(super) fn resize(node: &mut Node<'_>) -> Outputs {
    let data = node.shape(0)?;
    let fresh = |node: &mut Node<'_>| Some(vec![SymTensor::from_shape(node.symbols.gen_shape(data.len()))]);
    let (at_scales, at_sizes) = match (node.op.op_type(), node.op.inputs().len()) {
        ("Resize", 3..) => (2, Some(3)),
        _ => (1, None),
    };
    let axes: Vec<usize> = match node.op.ints("axes").filter(|axes| !axes.is_empty()) {
        Some(axes) => axes.iter().map(|&axis| resolve(axis, data.len())).collect::<Option<_>>()?,
        None => (0..data.len()).collect(),
    };
    let stretches = node.op.string("keep_aspect_ratio_policy").is_none_or(|policy| policy == "stretch");
    let crops = node.op.string("coordinate_transformation_mode") == Some("tf_crop_and_resize");
    let mut dims = data.clone();
    if let Some(sizes) =
        at_sizes.and_then(|index| node.input(index)).filter(|sizes| sizes.size(0) != Some(SymExpr::Value(0)))
    {
        match sizes.as_vector() {
            Some(sizes) if stretches && sizes.len() == axes.len() => {
                for (&axis, size) in axes.iter().zip(sizes) {
                    dims[axis] = size.clone();
                }
                return Some(vec![SymTensor::from_shape(dims)]);
            }
            _ => return fresh(node),
        }
    }
    let scales = match (node.op.floats("scales"), node.op.float("height_scale"), node.op.float("width_scale")) {
        (Some(scales), _, _) => Some(scales.to_vec()),
        (None, Some(height), Some(width)) => Some(vec![1.0, 1.0, height, width]),
        _ => node.constant(at_scales).and_then(|scales| scales.as_slice::<f32>().map(|scales| scales.to_vec())),
    };
    let Some(scales) = scales.filter(|scales| scales.len() == axes.len() && !crops) else { return fresh(node) };
    for (&axis, &scale) in axes.iter().zip(&scales) {
        let scaled = match &data[axis] {
            size if scale == 1.0 => Some(size.clone()),
            SymExpr::Value(size) => {
                let scaled = (*size as f32 * scale).floor();
                (0.0..1e9).contains(&scaled).then_some(SymExpr::Value(scaled as i32))
            }
            size if scale.fract() == 0.0 && (1.0..1e6).contains(&scale) => {
                Some(size.clone() * SymExpr::Value(scale as i32))
            }
            _ => None,
        };
        dims[axis] = scaled.unwrap_or_else(|| node.symbols.gen_positive());
    }
    Some(vec![SymTensor::from_shape(dims)])
}

pub(super) fn space_to_depth(node: &mut Node<'_>) -> Outputs {
    let data = node.shape(0).filter(|data| data.len() == 4)?;
    let block = node.op.int("blocksize").filter(|&block| (1..1 << 15).contains(&block))?;
    let (side, square) = (small(block)?, small(block * block)?);
    let dims = vec![data[0].clone(), data[1].clone() * square, data[2].clone() / side.clone(), data[3].clone() / side];
    Some(vec![SymTensor::from_shape(dims)])
}

/// Crop, an op of the first exporters: `border` left, top, right, bottom; or `scale` height and width from there.
pub(super) fn crop(node: &mut Node<'_>) -> Outputs {
    let data = node.shape(0).filter(|data| data.len() == 4)?;
    let [left, top, right, bottom] = *node.op.ints("border")? else { return None };
    let (height, width) = match node.op.ints("scale") {
        Some(&[height, width]) => (small(height)?, small(width)?),
        _ => {
            let by = |size: &SymExpr, begin: i64, end: i64| Some(size.clone() - small(begin.checked_add(end)?)?);
            (by(&data[2], top, bottom)?, by(&data[3], left, right)?)
        }
    };
    Some(vec![SymTensor::from_shape(vec![data[0].clone(), data[1].clone(), height, width])])
}

/// CenterCropPad: the sizes of input 1 along the axes, or along all.
pub(super) fn center_crop_pad(node: &mut Node<'_>) -> Outputs {
    let mut dims = node.shape(0)?;
    let axes: Vec<usize> = match node.op.ints("axes") {
        Some(axes) => axes.iter().map(|&axis| resolve(axis, dims.len())).collect::<Option<_>>()?,
        None => (0..dims.len()).collect(),
    };
    let sizes = match node.input(1)?.as_vector() {
        Some(sizes) => sizes.to_vec(),
        None => node.symbols.gen_shape(axes.len()),
    };
    if sizes.len() != axes.len() {
        return None;
    }
    for (axis, size) in axes.into_iter().zip(sizes) {
        dims[axis] = size;
    }
    Some(vec![SymTensor::from_shape(dims)])
}
