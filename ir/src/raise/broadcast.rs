//! Opset 6 → 7: broadcasting by attributes (`broadcast`, `axis`) became broadcasting by NumPy's rule.
use super::edit::Edit;
use crate::{
    attributes,
    graph::{NewOp, ValueId},
};

/// Add, Sub, Mul, Div, Pow, And, Or, Xor, Equal, Greater, Less: with `broadcast` = 1 the second input's axes are those of the first from
/// `axis` on; without `axis`, its last ones, which is NumPy's rule.
pub(super) fn operator(edit: &mut Edit<'_>) -> Result<(), String> {
    let broadcast = edit.take("broadcast").and_then(|attribute| attribute.i).unwrap_or(0);
    let axis = edit.take("axis").and_then(|attribute| attribute.i);
    if let (1.., Some(axis)) = (broadcast, axis) {
        let (a, b) = (edit.required(0)?, edit.required(1)?);
        align(edit, a, b, axis)?;
    }
    Ok(())
}

/// `C` broadcasts without being told to.
pub(super) fn gemm(edit: &mut Edit<'_>) -> Result<(), String> {
    edit.take("broadcast");
    Ok(())
}

/// The slopes are those of the channels, axis 1.
pub(super) fn prelu(edit: &mut Edit<'_>) -> Result<(), String> {
    let (x, slope) = (edit.required(0)?, edit.required(1)?);
    match edit.graph.ty(slope).and_then(|ty| ty.dims()) {
        Some(dims) if dims.iter().product::<usize>() == 1 => Ok(()),
        _ => align(edit, x, slope, 1),
    }
}

/// Input 1, `b`, gets axes of length 1 at the end, so that its first axis meets axis `axis` of `a`.
fn align(edit: &mut Edit<'_>, a: ValueId, b: ValueId, axis: i64) -> Result<(), String> {
    let rank = |value: ValueId| {
        let unknown = || {
            format!("the rank of `{}` is not known, and `axis` counts from its beginning", edit.graph.name_of(value))
        };
        edit.rank(value).and_then(|rank| i64::try_from(rank).ok()).ok_or_else(unknown)
    };
    let (rank_a, rank_b) = (rank(a)?, rank(b)?);
    let first = if axis < 0 { axis + rank_a } else { axis };
    let missing = rank_a - first - rank_b;
    if missing < 0 || first < 0 {
        return Err(format!("attribute `axis` = {axis} does not fit ranks {rank_a} and {rank_b}"));
    }
    if missing > 0 && rank_b > 0 {
        let axes: Vec<i64> = (rank_b..rank_b + missing).collect();
        let base = format!("{}_aligned", edit.graph.name_of(b));
        let aligned = edit.before(NewOp::new("Unsqueeze").with(attributes::ints("axes", &axes)), &[b], &base, None);
        edit.set_input(1, Some(aligned));
    }
    Ok(())
}
