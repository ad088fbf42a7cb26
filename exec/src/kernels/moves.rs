//! Ops that put elements elsewhere by strides: Transpose, Expand, Tile, Slice, Split, Concat, DepthToSpace,
//! SpaceToDepth, ReverseSequence.
use onnx_shrink_ir::Tensor;

use super::{
    cells::{Cells, restrided},
    layout::{
        Outputs, axis_attribute, broadcast_dims, broadcast_strides, check_size, distinct_axes, failed, integers, one,
        product, strides_of, unsupported,
    },
    reshape::stated_shape,
};
use crate::kernel::Call;

/// Transpose
pub(super) fn transpose(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let order: Vec<usize> = match call.op.ints("perm") {
        Some(perm) => distinct_axes(perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    if order.len() != rank {
        return failed(format!("perm {order:?} does not order {rank} axes"));
    }
    let strides = strides_of(x.dims());
    let dims: Vec<usize> = order.iter().map(|&axis| x.dims()[axis]).collect();
    let steps: Vec<isize> = order.iter().map(|&axis| strides[axis]).collect();
    one(restrided(x, &dims, 0, &dims, &steps)?)
}

/// Expand: broadcasting in both directions
pub(super) fn expand(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let dims = broadcast_dims(x.dims(), &stated_shape(call.input(1)?)?)?;
    check_size(call, x.dtype(), &dims)?;
    one(restrided(x, &dims, 0, &dims, &broadcast_strides(x.dims(), &dims)?)?)
}

/// Tile
pub(super) fn tile(call: &Call<'_>) -> Outputs {
    if call.opset < 6 {
        return unsupported("Tile as before opset 6");
    }
    let x = call.input(0)?;
    let repeats = stated_shape(call.input(1)?)?;
    if repeats.len() != x.dims().len() {
        return failed(format!("{} repeats for rank {}", repeats.len(), x.dims().len()));
    }
    let mut out = Vec::with_capacity(repeats.len());
    let (mut dims, mut strides) = (Vec::new(), Vec::new());
    for ((&dim, &repeat), &stride) in x.dims().iter().zip(&repeats).zip(&strides_of(x.dims())) {
        match dim.checked_mul(repeat) {
            Some(product) => out.push(product),
            None => return failed("a dimension of the result overflows"),
        }
        dims.extend([repeat, dim]);
        strides.extend([0, stride]);
    }
    check_size(call, x.dtype(), &out)?;
    one(restrided(x, &out, 0, &dims, &strides)?)
}

/// Slice: starts, ends, axes and steps as inputs or, before opset 10, as attributes
pub(super) fn slice(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let list = |index: usize, name: &str| match call.opset {
        ..10 => Ok(call.op.ints(name).map(<[i64]>::to_vec)),
        _ => call.optional(index).map(|tensor| integers(tensor, name)).transpose(),
    };
    let (Some(starts), Some(ends)) = (list(1, "starts")?, list(2, "ends")?) else {
        return failed("starts or ends are missing");
    };
    let axes = list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = if call.opset < 10 { None } else { list(4, "steps")? }.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return failed("starts, ends, axes and steps have different lengths");
    }
    let axes = distinct_axes(&axes, rank)?;
    let mut dims = x.dims().to_vec();
    let mut strides = strides_of(x.dims());
    let mut offset = 0isize;
    for (n, &axis) in axes.iter().enumerate() {
        let length = x.dims()[axis] as i64;
        let step = steps[n];
        if step == 0 {
            return failed("a step is 0");
        }
        if length == 0 {
            continue;
        }
        let from_back = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
        // Going down, the start is at most the last element, and the end may lie before the first.
        let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let start = from_back(starts[n]).clamp(0, highest);
        let end = from_back(ends[n]).clamp(lowest, highest);
        let span = if step > 0 { end - start } else { start - end };
        let count = if span <= 0 { 0 } else { (span - 1) / step.saturating_abs() + 1 };
        dims[axis] = count as usize;
        if count > 0 {
            offset += start as isize * strides[axis];
            // A step beyond the axis is never taken.
            strides[axis] *= step.clamp(-length, length) as isize;
        }
    }
    if dims.contains(&0) {
        offset = 0;
    }
    one(restrided(x, &dims, offset, &dims, &strides)?)
}

/// Split
pub(super) fn split(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let axis = axis_attribute(call, 0, x.dims().len())?;
    let length = x.dims()[axis];
    let parts = call.op.outputs().len().max(1);
    let stated = match call.opset {
        ..13 => call.op.ints("split").map(<[i64]>::to_vec),
        _ => call.optional(1).map(|split| integers(split, "split")).transpose()?,
    };
    let sizes: Vec<usize> = match stated {
        Some(stated) => super::layout::dims_of(&stated, "split")?,
        None => {
            let parts = match call.op.int("num_outputs") {
                Some(count) if usize::try_from(count) != Ok(parts) => {
                    return failed(format!("num_outputs is {count}, the op has {parts} outputs"));
                }
                _ => parts,
            };
            if call.opset < 18 && !length.is_multiple_of(parts) {
                return failed(format!("axis {axis} of {:?} has no {parts} equal parts", x.dims()));
            }
            // From opset 18 on the last part may be smaller.
            let size = length.div_ceil(parts);
            (0..parts).map(|part| length.saturating_sub(part * size).min(size)).collect()
        }
    };
    if sizes.len() != parts
        || onnx_shrink_ir::element_count(&[sizes.len()]).is_none()
        || checked_sum(&sizes) != Some(length)
    {
        return failed(format!("parts {sizes:?} do not make axis {axis} of {:?} in {parts} outputs", x.dims()));
    }
    let strides = strides_of(x.dims());
    let mut offset = 0;
    let mut outputs = Vec::with_capacity(parts);
    for size in sizes {
        let mut dims = x.dims().to_vec();
        dims[axis] = size;
        let start = if dims.contains(&0) { 0 } else { offset };
        outputs.push(Some(restrided(x, &dims, start, &dims, &strides)?));
        offset += size as isize * strides[axis];
    }
    Ok(outputs)
}

fn checked_sum(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size))
}

/// Concat
pub(super) fn concat(call: &Call<'_>) -> Outputs {
    let tensors: Vec<&Tensor> = (0..call.inputs.len()).map(|index| call.input(index)).collect::<Result<_, _>>()?;
    let Some(first) = tensors.first() else { return failed("nothing to concatenate") };
    let rank = first.dims().len();
    let axis = axis_attribute(call, if call.opset < 4 { 1 } else { 0 }, rank)?;
    let mut dims = first.dims().to_vec();
    dims[axis] = 0;
    for tensor in &tensors {
        let fits = tensor.dims().len() == rank && (0..rank).all(|n| n == axis || tensor.dims()[n] == dims[n]);
        match dims[axis].checked_add(tensor.dims().get(axis).copied().unwrap_or(0)) {
            Some(sum) if fits => dims[axis] = sum,
            _ => return failed(format!("{:?} does not fit {:?} along axis {axis}", tensor.dims(), first.dims())),
        }
    }
    check_size(call, first.dtype(), &dims)?;
    let cells = Cells::of(&tensors)?;
    let inner = product(&dims[axis + 1..]) * cells.size;
    let mut out = Vec::with_capacity(product(&dims) * cells.size);
    for outer in 0..product(&dims[..axis]) {
        for (tensor, data) in tensors.iter().zip(&cells.data) {
            let length = tensor.dims()[axis] * inner;
            out.extend_from_slice(&data[outer * length..(outer + 1) * length]);
        }
    }
    one(cells.tensor(&dims, out)?)
}

/// The batch, depth, height, width and block of an op between depth and space.
fn blocks(call: &Call<'_>, x: &Tensor) -> Result<([usize; 4], usize, bool), crate::kernel::KernelError> {
    let [n, c, h, w] = *x.dims() else {
        return failed(format!("an input of rank {} instead of 4", x.dims().len()));
    };
    let block = call.op.int("blocksize").unwrap_or(0);
    let Some(block) = usize::try_from(block).ok().filter(|&block| block > 0 && block < 1 << 16) else {
        return failed(format!("blocksize {block}"));
    };
    match call.op.string("mode").unwrap_or("DCR") {
        "DCR" => Ok(([n, c, h, w], block, false)),
        "CRD" => Ok(([n, c, h, w], block, true)),
        mode => failed(format!("mode {mode} is neither DCR nor CRD")),
    }
}

/// DepthToSpace
pub(super) fn depth_to_space(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let ([n, c, h, w], b, columns_first) = blocks(call, x)?;
    if !c.is_multiple_of(b * b) {
        return failed(format!("{c} channels in blocks of {b}x{b}"));
    }
    let depth = c / (b * b);
    let (dims, order) = match columns_first {
        false => ([n, b, b, depth, h, w], [0, 3, 4, 1, 5, 2]),
        true => ([n, depth, b, b, h, w], [0, 1, 4, 2, 5, 3]),
    };
    reordered(x, &dims, order, &[n, depth, h * b, w * b])
}

/// SpaceToDepth
pub(super) fn space_to_depth(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let ([n, c, h, w], b, columns_first) = blocks(call, x)?;
    if !h.is_multiple_of(b) || !w.is_multiple_of(b) {
        return failed(format!("a plane of {h}x{w} in blocks of {b}x{b}"));
    }
    let order = if columns_first { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
    reordered(x, &[n, c, h / b, b, w / b, b], order, &[n, c * b * b, h / b, w / b])
}

fn reordered(x: &Tensor, dims: &[usize; 6], order: [usize; 6], out: &[usize]) -> Outputs {
    let strides = strides_of(dims);
    one(restrided(x, out, 0, &order.map(|axis| dims[axis]), &order.map(|axis| strides[axis]))?)
}

/// ReverseSequence
pub(super) fn reverse_sequence(call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = x.dims().len();
    let axis = |name: &str, default: i64| super::layout::axis_index(call.op.int(name).unwrap_or(default), rank);
    let (batch, time) = (axis("batch_axis", 1)?, axis("time_axis", 0)?);
    let lengths = integers(call.input(1)?, "sequence_lens")?;
    if batch == time || lengths.len() != x.dims()[batch] {
        return failed(format!("{} lengths for axis {batch} of {:?}", lengths.len(), x.dims()));
    }
    if let Some(bad) = lengths.iter().find(|&&length| length < 0 || length > x.dims()[time] as i64) {
        return failed(format!("a sequence of {bad} among {} steps", x.dims()[time]));
    }
    let strides = strides_of(x.dims());
    let (time_stride, batch_stride) = (strides[time] as usize, strides[batch] as usize);
    let picks: Vec<usize> = (0..x.len())
        .map(|at| {
            let step = at / time_stride % x.dims()[time];
            let length = lengths[at / batch_stride % x.dims()[batch]] as usize;
            if step < length { at - step * time_stride + (length - 1 - step) * time_stride } else { at }
        })
        .collect();
    let cells = Cells::of(&[x])?;
    one(cells.tensor(x.dims(), super::cells::picked(cells.first(), cells.size, &picks))?)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{DataType, attributes};

    use super::*;
    use crate::kernels::tests::{run, run_with};

    fn numbers(list: &[i64]) -> Tensor {
        Tensor::from_vec(&[list.len()], list.to_vec())
    }

    #[test]
    fn slices_in_both_directions() {
        let x = numbers(&[0, 1, 2, 3, 4]);
        for (start, end, step, expected) in [
            (1, 4, 1, vec![1, 2, 3]),
            (-1, i64::MIN, -1, vec![4, 3, 2, 1, 0]),
            (-1, -6, -2, vec![4, 2, 0]),
            (3, 1, -1, vec![3, 2]),
            (1, 1000, 3, vec![1, 4]),
            (7, 9, 1, vec![]),
            (0, -9, -1, vec![0]),
            (i64::MAX, i64::MIN, i64::MIN, vec![4]),
            (-9, 2, 1, vec![0, 1]),
            (-9, -20, -1, vec![0]),
        ] {
            let out =
                run("Slice", 13, &[x.clone(), numbers(&[start]), numbers(&[end]), numbers(&[0]), numbers(&[step])]);
            assert_eq!(out.to_i64_vec(), Some(expected), "{start}..{end} by {step}");
        }
        let empty = Tensor::from_vec(&[0], Vec::<i64>::new());
        let inputs = [empty, numbers(&[-1]), numbers(&[-9]), numbers(&[0]), numbers(&[-1])];
        assert_eq!(run("Slice", 13, &inputs).dims(), [0]);
    }

    #[test]
    fn every_type_moves() {
        let packed = Tensor::new(DataType::Uint4, &[3], vec![0x21, 0x03].into()).expect("three fields");
        let out = run("Concat", 21, &[packed.clone(), packed]);
        assert_eq!(out.to_i64_vec(), Some(vec![1, 2, 3, 1, 2, 3]));
        let strings = |list: &[&str]| {
            Tensor::strings(&[list.len()], list.iter().map(|text| text.to_string().into()).collect()).expect("strings")
        };
        assert_eq!(run("Concat", 13, &[strings(&["a"]), strings(&["b", "c"])]), strings(&["a", "b", "c"]));
        let x = Tensor::from_bools(&[2, 1], &[true, false]);
        assert_eq!(run("Expand", 13, &[x, numbers(&[1, 2])]).to_i64_vec(), Some(vec![1, 1, 0, 0]));
    }

    #[test]
    fn uneven_parts() {
        let x = numbers(&[0, 1, 2, 3, 4]);
        let attributes = vec![attributes::int("num_outputs", 2)];
        let out = crate::kernels::tests::run_outputs("Split", 18, attributes, &[Some(x)], 2).expect("runs");
        assert_eq!(out[0].as_ref().and_then(Tensor::to_i64_vec), Some(vec![0, 1, 2]));
        assert_eq!(out[1].as_ref().and_then(Tensor::to_i64_vec), Some(vec![3, 4]));
    }

    #[test]
    fn limits_and_bad_shapes() {
        let huge = numbers(&[1 << 40, 1 << 40]);
        assert!(run_with("Expand", 13, vec![], &[Some(Tensor::scalar(1f32)), Some(huge.clone())]).is_err());
        let x = Tensor::from_vec(&[1, 1], vec![1f32]);
        assert!(run_with("Tile", 13, vec![], &[Some(x.clone()), Some(huge)]).is_err());
        assert_eq!(run("Tile", 13, &[x.clone(), numbers(&[2, 3])]).dims(), [2, 3]);
        let perm = vec![attributes::ints("perm", &[0, 2])];
        assert!(run_with("Transpose", 13, perm, &[Some(x)]).is_err());
    }
}
