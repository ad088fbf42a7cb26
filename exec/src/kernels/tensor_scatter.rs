//! TensorScatter: an update written into a cache at a place of each batch, along one axis.

use super::{
    cells::Cells,
    layout::{Outputs, axis_attribute, check_size, failed, integers, one, product},
};
use crate::kernel::Call;

/// TensorScatter
pub(super) fn tensor_scatter(call: &Call<'_>) -> Outputs {
    let (cache, update) = (call.input(0)?, call.input(1)?);
    let dims = cache.dims();
    let axis = axis_attribute(call, -2, dims.len())?;
    let fits = dims.len() == update.dims().len()
        && dims.iter().zip(update.dims()).enumerate().all(|(at, (a, b))| at == axis && b <= a || a == b);
    if !fits || axis == 0 || cache.dtype() != update.dtype() {
        return failed(format!("an update {} for a cache {} along axis {axis}", update.ty(), cache.ty()));
    }
    let circular = match call.string("mode", "linear") {
        "linear" => false,
        "circular" => true,
        other => return failed(format!("the mode `{other}`")),
    };
    let starts = match call.optional(2) {
        Some(starts) => integers(starts, "write_indices")?,
        None => vec![0; dims[0]],
    };
    if starts.len() != dims[0] {
        return failed(format!("{} write_indices for a batch of {}", starts.len(), dims[0]));
    }
    check_size(call, cache.dtype(), dims)?;
    let cells = Cells::of(&[cache, update])?;
    let (length, count) = (dims[axis], update.dims()[axis]);
    let block = product(&dims[axis + 1..]) * cells.size;
    let outer = product(&dims[1..axis]);
    let mut out = cells.first().to_vec();
    let source = cells.data[1].to_vec();
    for (batch, &start) in starts.iter().enumerate() {
        for row in batch * outer..(batch + 1) * outer {
            for step in 0..count {
                let at = usize::try_from(start).ok().and_then(|start| start.checked_add(step));
                let at = match at {
                    Some(at) if circular && length > 0 => at % length,
                    Some(at) if at < length => at,
                    _ => return failed(format!("place {start} + {step} of a cache of length {length}")),
                };
                let (to, from) = ((row * length + at) * block, (row * count + step) * block);
                out[to..to + block].copy_from_slice(&source[from..from + block]);
            }
        }
    }
    one(cells.tensor(dims, out)?)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{Tensor, attributes};

    use crate::kernels::tests::run_with;

    #[test]
    fn an_update_goes_where_its_batch_says() {
        let cache = Tensor::from_vec(&[2, 3, 1], vec![0i32; 6]);
        let update = Tensor::from_vec(&[2, 2, 1], vec![1i32, 2, 3, 4]);
        let run = |starts: Vec<i64>, mode| {
            let inputs = [cache.clone(), update.clone(), Tensor::from_vec(&[2], starts)].map(Some);
            let attributes = vec![attributes::string("mode", mode)];
            run_with("TensorScatter", 24, attributes, &inputs).map(|outputs| outputs[0].as_ref()?.to_i64_vec())
        };
        assert_eq!(run(vec![0, 1], "linear"), Ok(Some(vec![1, 2, 0, 0, 3, 4])));
        assert_eq!(run(vec![2, 5], "circular"), Ok(Some(vec![2, 0, 1, 4, 0, 3])));
        assert!(run(vec![0, 2], "linear").is_err() && run(vec![-1, 0], "circular").is_err());
    }
}
