//! Pad: constant, reflect, edge and wrap, with negative pads that crop, for every element type.
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    cells::Cells,
    layout::{Outputs, check_size, distinct_axes, failed, integers, one, rows, strides_of},
};
use crate::kernel::{Call, KernelError};

/// Pads in front and behind, for every axis.
fn pads(call: &Call<'_>, rank: usize) -> Result<Vec<(i64, i64)>, KernelError> {
    let (numbers, axes) = if call.opset < 11 {
        let name = if call.opset < 2 { "paddings" } else { "pads" };
        (call.op.ints(name).unwrap_or(&[]).to_vec(), None)
    } else {
        let axes = call.optional(3).map(|axes| integers(axes, "axes")).transpose()?;
        (integers(call.input(1)?, "pads")?, axes)
    };
    let axes = match axes {
        Some(axes) => distinct_axes(&axes, rank)?,
        None => (0..rank).collect(),
    };
    if numbers.len() != 2 * axes.len() {
        return failed(format!("{} pads for {} axes", numbers.len(), axes.len()));
    }
    let mut pads = vec![(0, 0); rank];
    for (n, &axis) in axes.iter().enumerate() {
        pads[axis] = (numbers[n], numbers[n + axes.len()]);
    }
    Ok(pads)
}

/// For every place along the padded axis: where its element comes from; `None` for the constant.
fn sources(mode: &str, length: usize, before: i64, padded: usize) -> Result<Vec<Option<usize>>, KernelError> {
    let size = length as i64;
    let source = |place: i64| -> Option<i64> {
        if (0..size).contains(&place) {
            return Some(place);
        }
        match mode {
            "edge" => Some(place.clamp(0, size - 1)),
            "wrap" => Some(place.rem_euclid(size)),
            "reflect" if size == 1 => Some(0),
            "reflect" => {
                let place = place.rem_euclid(2 * (size - 1));
                Some(place.min(2 * (size - 1) - place))
            }
            _ => None,
        }
    };
    let outside = before > 0 || padded as i64 - before > size;
    if length == 0 && outside && mode != "constant" {
        return failed(format!("mode {mode} has nothing to repeat along an empty axis"));
    }
    Ok((0..padded as i64).map(|place| source(place - before).map(|source| source as usize)).collect())
}

/// The cell that fills a constant padding.
fn filler(call: &Call<'_>, x: &Tensor) -> Result<Tensor, KernelError> {
    if call.opset >= 11 {
        return match call.optional(2) {
            Some(value) if value.dtype() == x.dtype() && value.len() == 1 => Ok(value.clone()),
            Some(value) => failed(format!("constant_value is {}{:?}", value.dtype(), value.dims())),
            None => super::constant::zeros(x.dtype(), &[1]),
        };
    }
    let value = f64::from(call.op.float("value").unwrap_or(0.0));
    let array = onnx_array(value);
    match Tensor::from_f64(x.dtype(), &array) {
        Some(value) => Ok(value),
        None => super::constant::zeros(x.dtype(), &[1]),
    }
}

fn onnx_array(value: f64) -> ndarray::ArrayD<f64> {
    ndarray::ArrayD::from_elem(vec![1], value)
}

/// Pad
pub(super) fn pad(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let pads = pads(call, x.dims().len())?;
    let mode = call.op.string("mode").unwrap_or("constant");
    if !["constant", "reflect", "edge", "wrap"].contains(&mode) {
        return failed(format!("mode {mode} is none of ONNX's"));
    }
    let mut dims = Vec::with_capacity(pads.len());
    for (&dim, &(before, after)) in x.dims().iter().zip(&pads) {
        match (dim as i64).checked_add(before).and_then(|dim| dim.checked_add(after)) {
            Some(padded) if padded >= 0 => dims.push(padded as usize),
            _ => return failed(format!("pads {before} and {after} of a dimension of {dim}")),
        }
    }
    let count = check_size(call, x.dtype(), &dims)?;
    let value = filler(call, x)?;
    let cells = Cells::of(&[x, &value])?;
    if count == 0 {
        return one(cells.tensor(&dims, Vec::new())?);
    }
    let mut out = vec![0u8; count * cells.size];
    let fill = &cells.data[1][..cells.size];
    if mode == "constant" && fill.iter().any(|&byte| byte != 0) {
        out.chunks_mut(cells.size).for_each(|cell| cell.copy_from_slice(fill));
    } else if x.dtype() == DataType::String {
        out.chunks_mut(cells.size).for_each(|cell| cell.copy_from_slice(fill));
    }
    let maps: Vec<Vec<Option<usize>>> = (0..dims.len())
        .map(|axis| sources(mode, x.dims()[axis], pads[axis].0, dims[axis]))
        .collect::<Result<_, _>>()?;
    let strides = strides_of(x.dims());
    let Some(last) = dims.len().checked_sub(1) else { return one(x.clone()) };
    // Row by row: the outer axes tell which row of the input it is, if any.
    let out_strides = strides_of(&dims);
    let size = cells.size;
    let source = cells.first();
    rows(&dims, [&out_strides], |[at]| {
        let at = at as usize;
        let mut from = 0usize;
        for axis in 0..last {
            match maps[axis][at / out_strides[axis] as usize % dims[axis]] {
                Some(place) => from += place * strides[axis] as usize,
                None => return,
            }
        }
        let row = &mut out[at * size..(at + dims[last]) * size];
        for (cell, place) in row.chunks_mut(size).zip(&maps[last]) {
            if let Some(place) = place {
                cell.copy_from_slice(&source[(from + place) * size..(from + place + 1) * size]);
            }
        }
    });
    one(cells.tensor(&dims, out)?)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::attributes;

    use super::*;
    use crate::kernels::tests::{run, run_with};

    #[test]
    fn all_modes_along_one_axis() {
        let x = Tensor::from_vec(&[3], vec![1i32, 2, 3]);
        for (mode, expected) in [
            ("constant", vec![0, 0, 1, 2, 3, 0, 0, 0]),
            ("edge", vec![1, 1, 1, 2, 3, 3, 3, 3]),
            ("reflect", vec![3, 2, 1, 2, 3, 2, 1, 2]),
            ("wrap", vec![2, 3, 1, 2, 3, 1, 2, 3]),
        ] {
            let inputs = [Some(x.clone()), Some(Tensor::from_vec(&[2], vec![2i64, 3]))];
            let out = run_with("Pad", 19, vec![attributes::string("mode", mode)], &inputs).expect("runs");
            assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(expected), "{mode}");
        }
    }

    #[test]
    fn cropping_and_old_attributes() {
        let x = Tensor::from_vec(&[2, 2], vec![1f32, 2., 3., 4.]);
        let pads = Tensor::from_vec(&[4], vec![-1i64, 1, 0, 0]);
        let out = run("Pad", 13, &[x.clone(), pads, Tensor::scalar(9f32)]);
        assert_eq!((out.dims(), out.to_f64_vec()), (&[1, 3][..], Some(vec![9., 3., 4.])));
        let attributes = vec![attributes::ints("pads", &[0, 0, 0, 1]), attributes::float("value", 7.0)];
        let out = run_with("Pad", 2, attributes, &[Some(x.clone())]).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_f64_vec), Some(vec![1., 2., 7., 3., 4., 7.]));
        let pads = Tensor::from_vec(&[4], vec![-3i64, 0, 0, 0]);
        assert!(run_with("Pad", 13, vec![], &[Some(x), Some(pads)]).is_err());
    }
}
