//! Makes an average over the whole image a `GlobalAveragePool`: the one form of it that engines run in 8 bits, too.
//!
//! ```onnx before
//! # x: float[1,2,4,4]
//! y = AveragePool <kernel_shape = [4, 4]> (x)
//! ```
//! ```onnx after
//! y = GlobalAveragePool (x)
//! ```
//! `ReduceMean` over all spatial axes of an image with `keepdims = 1` is the same (of rank 3 it may as well be the mean of a
//! layer normalization, which engines recognize by it: that stays).
//!
//! **Class:** rounding: the same sums, maybe in another order. **Legal when** the window is as large as the image and nothing
//! is padded, so that there is one mean per channel. (ONNX Runtime 1.32 has a QLinearGlobalAveragePool, and
//! none that averages over a window.)
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, ValueId,
    ops::{AutoPad, AveragePool, Reduce},
};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When};

/// See the [module](self) for before, after and legality.
pub struct FuseGlobalAveragePool;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fuse-global-average-pool",
    class: Class::Rounding,
    about: "makes an average over the whole image a GlobalAveragePool",
    when: When::Lossless,
};

impl Rewrite for FuseGlobalAveragePool {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        fuse(graph, op)
    }
}

/// The edits that make `op` a GlobalAveragePool, or why it is none.
fn fuse(graph: &Graph, op: OpId) -> Result<Patch, Miss> {
    let (x, y) = whole_average(graph, op).or_else(|| whole_mean(graph, op)).ok_or(Miss::NotThisPattern)?;
    if graph.ty(x).is_none_or(|ty| ty.dtype != DataType::Float) {
        return Err(Miss::NotThisPattern);
    }
    let mut patch = Patch::new(op);
    let pool = NewOp::new("GlobalAveragePool").named(graph.op(op).name());
    let pool = patch.op(pool, &[Some(x.into())], graph.name_of(y), graph.ty(y).cloned());
    patch.replace(y, pool);
    Ok(patch)
}

/// Input and output of an AveragePool whose window is the image.
fn whole_average(graph: &Graph, op: OpId) -> Option<(ValueId, ValueId)> {
    let pool = AveragePool::of(graph, op)?;
    let shape = graph.ty(pool.x)?.shape.as_ref()?;
    let spatial = shape.get(2..)?;
    let whole = spatial.len() == pool.kernel_shape.len()
        && spatial
            .iter()
            .zip(&pool.kernel_shape)
            .all(|(dim, side)| dim.known().is_some_and(|dim| dim > 0 && i64::try_from(dim) == Ok(*side)));
    let plain = pool.pads.iter().all(|pad| *pad == 0)
        && pool.dilations.iter().all(|step| *step == 1)
        && !pool.ceil_mode
        && matches!(pool.auto_pad, AutoPad::NotSet | AutoPad::Valid);
    (whole && plain).then_some((pool.x, pool.y))
}

/// Input and output of a ReduceMean over all spatial axes that keeps them.
fn whole_mean(graph: &Graph, op: OpId) -> Option<(ValueId, ValueId)> {
    let Reduce { x, y, axes, .. } =
        Reduce::of(graph, op).filter(|reduce| graph.op(op).is("ReduceMean") && reduce.keeps_axes)?;
    let rank = i64::try_from(graph.ty(x)?.rank()?).ok()?;
    let mut axes = axes?;
    for axis in &mut axes {
        *axis += if *axis < 0 { rank } else { 0 };
    }
    axes.sort_unstable();
    (rank >= 4 && axes.iter().copied().eq(2..rank)).then_some((x, y))
}

#[cfg(test)]
mod tests {
    use super::FuseGlobalAveragePool;
    use crate::testing::{check, check_same};

    #[test]
    fn a_window_as_large_as_the_image_is_global() {
        check(
            &FuseGlobalAveragePool,
            "g (float[N,2,4,4] x) => (float[N,2,1,1] y) { y = AveragePool <kernel_shape = [4, 4]> (x) }",
            "g (float[N,2,4,4] x) => (float[N,2,1,1] y) { y = GlobalAveragePool (x) }",
        );
    }

    #[test]
    fn a_mean_over_the_spatial_axes_is_global() {
        check(
            &FuseGlobalAveragePool,
            "g (float[1,2,4,4] x) => (float[1,2,1,1] y) { y = ReduceMean <axes = [-1, 2]> (x) }",
            "g (float[1,2,4,4] x) => (float[1,2,1,1] y) { y = GlobalAveragePool (x) }",
        );
    }

    #[test]
    fn smaller_windows_padding_and_lost_axes_stay() {
        for op in [
            "AveragePool <kernel_shape = [2, 4]> (x)",
            "AveragePool <kernel_shape = [4, 4], pads = [1, 1, 1, 1], strides = [4, 4]> (x)",
            "ReduceMean <axes = [2, 3], keepdims = 0> (x)",
            "ReduceMean <axes = [1, 2]> (x)",
        ] {
            check_same(&FuseGlobalAveragePool, &format!("g (float[1,2,4,4] x) => (float[] y) {{ y = {op} }}"));
        }
        check_same(
            &FuseGlobalAveragePool,
            "g (float[1,8,16] x) => (float[1,8,1] y) { y = ReduceMean <axes = [2]> (x) }",
        );
    }
}
