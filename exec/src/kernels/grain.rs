//! The granularity of scales and zero points: per tensor, per axis, per block.
use onnx_shrink_ir::Tensor;

use super::layout::{axis_attribute, failed, product};
use crate::kernel::{Call, KernelError};

/// Which scale belongs to which element: the tensor is `outer × axis × inner`, and along the axis `block` elements
/// share a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Grain {
    outer: usize,
    axis: usize,
    inner: usize,
    block: usize,
    /// Whether the scales repeat over `outer` and `inner` (per axis), or have their own place there (blocked)
    shared: bool,
}

impl Grain {
    /// The granularity that `scale`'s shape states for `x`.
    pub(super) fn of(call: &Call<'_>, x: &Tensor, scale: &Tensor, zero: Option<&Tensor>) -> Result<Grain, KernelError> {
        let (dims, scale_dims) = (x.dims(), scale.dims());
        if let Some(zero) = zero
            && zero.dims() != scale_dims
            && !(zero.len() == 1 && scale.len() == 1)
        {
            return failed(format!("the zero point has shape {:?}, the scale {scale_dims:?}", zero.dims()));
        }
        let whole = Grain { outer: 1, axis: 1, inner: x.len(), block: 1, shared: true };
        let block = call.op.int("block_size").unwrap_or(0);
        if block < 0 {
            return failed(format!("block_size {block} is negative"));
        }
        if block == 0 && scale.len() == 1 && scale_dims.len() <= 1 {
            return Ok(whole);
        }
        let axis = axis_attribute(call, 1, dims.len())?;
        let grain = Grain {
            outer: product(&dims[..axis]),
            axis: dims[axis],
            inner: product(&dims[axis + 1..]),
            block: 1,
            shared: true,
        };
        if block == 0 {
            if scale_dims != [dims[axis]] {
                return failed(format!("a scale of shape {scale_dims:?} does not fit axis {axis} of shape {dims:?}"));
            }
            return Ok(grain);
        }
        let block = block as usize;
        let fits = scale_dims.len() == dims.len()
            && (0..dims.len()).all(|n| scale_dims[n] == if n == axis { dims[n].div_ceil(block) } else { dims[n] });
        if !fits {
            return failed(format!(
                "a scale of shape {scale_dims:?} does not fit blocks of {block} along axis {axis} of shape {dims:?}"
            ));
        }
        Ok(Grain { block, shared: false, ..grain })
    }

    /// Calls `run(first element, count, scale)` for runs of elements with one scale, in the order of the elements.
    pub(super) fn runs(self, mut run: impl FnMut(usize, usize, usize)) {
        if self.outer * self.axis * self.inner == 0 {
            return;
        }
        let blocks = self.axis.div_ceil(self.block);
        for outer in 0..self.outer {
            if !self.shared && self.inner == 1 {
                for block in 0..blocks {
                    let first = block * self.block;
                    let count = self.block.min(self.axis - first);
                    run(outer * self.axis + first, count, outer * blocks + block);
                }
                continue;
            }
            for place in 0..self.axis {
                let first = (outer * self.axis + place) * self.inner;
                if self.shared {
                    run(first, self.inner, place);
                } else {
                    let scale = (outer * blocks + place / self.block) * self.inner;
                    (0..self.inner).for_each(|inner| run(first + inner, 1, scale + inner));
                }
            }
        }
    }
}
