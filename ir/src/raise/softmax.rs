//! Softmax, LogSoftmax and Hardmax 11 → 13: from "all axes from `axis` on, taken together" to one axis.
//!
//! ```text
//! y = Softmax <axis = 1> (x)        # opset 11, x of rank 4
//! flat = Flatten <axis = 1> (x)     # opset 13
//! soft = Softmax <axis = -1> (flat)
//! y = Reshape (soft, shape of x)
//! ```
//! One op is enough where the axes after `axis` are known to be 1, or not there.
use super::edit::Edit;
use crate::{
    attributes,
    graph::{NewOp, ValueId},
    types::{DataType, Dim, TensorType},
};

pub(super) fn softmax_13(edit: &mut Edit<'_>) -> Result<(), String> {
    let x = edit.required(0)?;
    let axis = edit.int_or("axis", 1);
    let from_end = match (axis, edit.rank(x)) {
        (..0, _) => Some(axis),
        (_, Some(rank)) => {
            let rank = i64::try_from(rank).map_err(|_| "too many dimensions")?;
            if axis >= rank {
                return Err(format!("attribute `axis` = {axis} is out of range for rank {rank}"));
            }
            Some(axis - rank)
        }
        (_, None) => None,
    };
    if from_end == Some(-1) {
        if edit.op().int("axis") != Some(-1) {
            edit.set(attributes::int("axis", -1));
        }
        return Ok(());
    }
    let after = from_end.and_then(|axis| usize::try_from(-axis - 1).ok());
    if let (Some(after), Some(shape)) = (after, edit.shape(x))
        && shape.iter().rev().take(after).all(|dim| *dim == Dim::Known(1))
    {
        edit.set(attributes::int("axis", axis)); // 1 was the default
        return Ok(());
    }

    let two = edit.dtype(x).ok().map(|dtype| TensorType { dtype, shape: Some(vec![Dim::Unknown, Dim::Unknown]) });
    let name = edit.graph.name_of(x).to_owned();
    let shape = shape_of(edit, x, &name);
    let flatten = NewOp::new("Flatten").with(attributes::int("axis", axis));
    let flat = edit.before(flatten, &[x], &format!("{name}_flat"), two.clone());
    edit.set_input(0, Some(flat));
    edit.set(attributes::int("axis", -1));
    edit.after(NewOp::new("Reshape"), &[shape], &format!("{name}_soft"), two)
}

/// The shape of `x`, as Reshape takes it: a constant where at most one dimension is unknown, otherwise measured at run time.
fn shape_of(edit: &mut Edit<'_>, x: ValueId, name: &str) -> ValueId {
    if let Some(shape) = edit.shape(x)
        && shape.iter().filter(|dim| dim.known().is_none()).count() <= 1
        && !shape.contains(&Dim::Known(0))
    {
        let number = |dim: &Dim| dim.known().map_or(Some(-1), |dim| i64::try_from(dim).ok());
        if let Some(numbers) = shape.iter().map(number).collect::<Option<Vec<i64>>>() {
            return edit.int64s("shape", &numbers);
        }
    }
    let dims = edit.rank(x).map_or(Dim::Unknown, Dim::Known);
    let ty = TensorType { dtype: DataType::Int64, shape: Some(vec![dims]) };
    edit.before(NewOp::new("Shape"), &[x], &format!("{name}_shape"), Some(ty))
}
