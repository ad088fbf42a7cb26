//! Folds a `Pad` with zeros into the padding of the `Conv` after it.
//!
//! ```onnx before
//! # x: float[1,2,4,4]; w: float[3,2,3,3]; amounts: int64[8] = {0, 0, 1, 1, 0, 0, 1, 0}
//! t = Pad (x, amounts)
//! y = Conv (t, w)
//! ```
//! ```onnx after
//! y = Conv <pads = [1, 1, 1, 0]> (x, w)
//! ```
//! **Class:** rounding: the sums are of the same numbers, but engines take other kernels. **Legal when** the mode is
//! constant, the value 0, no amount negative, batch and channels are not padded, the amounts of the Conv are stated, and
//! nobody else reads the padded value.
//! **Does not** fold into pools: the padding of MaxPool is -infinity, and AveragePool leaves its own out of the mean.
use onnx_shrink_ir::{
    Graph, OpId, Patch, ValueRef,
    ops::{AutoPad, Conv, Pad, PadMode},
};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When};

/// See the [module](self) for before, after and legality.
pub struct FoldPad;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fold-pad",
    class: Class::Rounding,
    about: "folds a Pad with zeros into the padding of the Conv behind it",
    when: When::Lossless,
};

impl Rewrite for FoldPad {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn anchors(&self, graph: &Graph) -> Vec<OpId> {
        graph.ops_of("Conv")
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        fold(graph, op)
    }
}

/// The edits that give the Conv `op` the padding before it, or why they stay two.
fn fold(graph: &Graph, op: OpId) -> Result<Patch, Miss> {
    let conv = Conv::of(graph, op).ok_or(Miss::NotThisPattern)?;
    let producer = graph.producer(conv.x).filter(|&op| graph.op(op).is("Pad")).ok_or(Miss::NotThisPattern)?;
    let pad = Pad::of(graph, producer).ok_or(Miss::Form("a Pad whose amounts or value are not constant"))?;
    if pad.mode != PadMode::Constant(0.0) {
        return Err(Miss::Form("a Pad with other values than zeros"));
    }
    if graph.only_use(pad.y) != Some((op, 0)) {
        return Err(Miss::OtherUses(pad.y));
    }
    if !matches!(conv.auto_pad, AutoPad::NotSet | AutoPad::Valid) {
        return Err(Miss::Form("a Conv that finds its own padding"));
    }
    let spatial = conv.strides.len();
    let pads = pad.pads_of_rank(spatial + 2).ok_or(Miss::Form("a Pad of another rank"))?;
    let (begins, ends) = pads.split_at(spatial + 2);
    let outer_is_zero = [&begins[..2], &ends[..2]].concat().iter().all(|&amount| amount == 0);
    if !outer_is_zero || pads.iter().any(|&amount| amount < 0) {
        return Err(Miss::Form("a Pad of batch or channels, or with a negative amount"));
    }
    let own = if conv.auto_pad == AutoPad::Valid { vec![0; 2 * spatial] } else { conv.pads.clone() };
    let added = begins[2..].iter().chain(&ends[2..]);
    let pads = own.iter().zip(added).map(|(&own, &added)| own.checked_add(added)).collect::<Option<Vec<_>>>();
    let padded = Conv { pads: pads.ok_or(Miss::Form("a Pad beyond all sizes"))?, auto_pad: AutoPad::NotSet, ..conv };
    let mut patch = Patch::new(op);
    let inputs = [Some(ValueRef::from(pad.x)), Some(padded.w.into()), padded.b.map(ValueRef::from)];
    let y = patch.op(
        padded.to_op(),
        &inputs[..2 + usize::from(padded.b.is_some())],
        graph.name_of(padded.y),
        graph.ty(padded.y).cloned(),
    );
    patch.replace(padded.y, y);
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::FoldPad;
    use crate::testing::{check, check_missed};

    const CONV: &str = "float[1,1,1,1] w = {2}, int64[8] p = {0, 0, 1, 2, 0, 0, 0, 1}";

    #[test]
    fn adds_the_amounts_to_those_of_the_conv() {
        let before = format!(
            "g (float[1,1,2,2] x) => (float[1,1,N,M] y) <{CONV}> {{
            a = Pad (x, p)  y = Conv <pads = [1, 1, 1, 1]> (a, w) }}"
        );
        let after = "g (float[1,1,2,2] x) => (float[1,1,N,M] y) <float[1,1,1,1] w = {2}> { y = Conv <pads = [2, 3, 1, 2]> (x, w) }";
        check(&FoldPad, &before, after);
    }

    #[test]
    fn reads_the_older_form_and_the_one_with_axes() {
        let old = r#"<ir_version: 8, opset_import: ["" : 10]> g (float[1,1,2,2] x) => (float[1,1,N,M] y)
            <float[1,1,1,1] w = {2}> { a = Pad <pads = [0, 0, 1, 0, 0, 0, 0, 1]> (x)  y = Conv (a, w) }"#;
        let after = "g (float[1,1,2,2] x) => (float[1,1,N,M] y) <float[1,1,1,1] w = {2}> { y = Conv <pads = [1, 0, 0, 1]> (x, w) }";
        check(&FoldPad, old, after);
        let axes = r#"<ir_version: 8, opset_import: ["" : 18]> g (float[1,1,2,2] x) => (float[1,1,N,M] y)
            <float[1,1,1,1] w = {2}, int64[2] p = {1, 3}, int64[1] axes = {-1}> { a = Pad (x, p, , axes)  y = Conv (a, w) }"#;
        let after = "g (float[1,1,2,2] x) => (float[1,1,N,M] y) <float[1,1,1,1] w = {2}> { y = Conv <pads = [0, 1, 0, 3]> (x, w) }";
        check(&FoldPad, axes, after);
    }

    #[test]
    fn keeps_other_values_other_modes_and_convs_that_pad_themselves() {
        let value = format!(
            "g (float[1,1,2,2] x) => (float[1,1,N,M] y) <{CONV}, float v = {{1}}> {{ a = Pad (x, p, v)  y = Conv (a, w) }}"
        );
        check_missed(&FoldPad, &value, "no rule for this form: a Pad with other values than zeros");
        let mode = format!(
            "g (float[1,1,2,2] x) => (float[1,1,N,M] y) <{CONV}> {{ a = Pad <mode = \"edge\"> (x, p)  y = Conv (a, w) }}"
        );
        check_missed(&FoldPad, &mode, "no rule for this form: a Pad with other values than zeros");
        let auto = format!(
            "g (float[1,1,2,2] x) => (float[1,1,N,M] y) <{CONV}> {{
            a = Pad (x, p)  y = Conv <auto_pad = \"SAME_UPPER\", strides = [2, 2]> (a, w) }}"
        );
        check_missed(&FoldPad, &auto, "no rule for this form: a Conv that finds its own padding");
        let channels = "g (float[1,1,2,2] x) => (float[1,1,N,M] y) <float[1,2,1,1] w = {2, 3}, int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}> {
            a = Pad (x, p)  y = Conv (a, w) }";
        check_missed(
            &FoldPad,
            channels,
            "no rule for this form: a Pad of batch or channels, or with a negative amount",
        );
    }
}
