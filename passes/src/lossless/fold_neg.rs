//! Folds a `Neg` into the weights and the bias of the layer before it; layers that share weights are folded together.
//!
//! ```onnx before
//! # x, x2: float[1,2,4,4]; w: float[3,2,3,3]; b: float[3]
//! t = Conv (x, w, b)
//! y = Neg (t)
//! u = Conv (x2, w, b)
//! y2 = Neg (u)
//! ```
//! ```onnx after
//! y = Conv (x, w_negated, b_negated)
//! y2 = Conv (x2, w_negated, b_negated)
//! ```
//! **Class:** rounding: a sum of negated products is the negated sum, but for the sign of zero. **Legal when** weights and bias are
//! constant, and each layer that reads them is read by a Neg alone.
use onnx_shrink_ir::{Graph, OpId, Patch, Tensor, Use, ValueId, ValueRef, ops::WeightedLayer};

use crate::{
    Class, Context, Description, Miss, Result, Rewrite, When,
    lossless::into_producer::{float_layer, negated},
    net_bytes,
};

/// See the [module](self) for before, after and legality.
pub struct FoldNeg;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fold-neg",
    class: Class::Rounding,
    about: "folds Neg into the weights before it",
    when: When::Lossless,
};

impl Rewrite for FoldNeg {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, cx: &Context<'_>) -> Result<Patch, Miss> {
        let neg = Some(graph.op(op)).filter(|node| node.is("Neg")).ok_or(Miss::NotThisPattern)?;
        let x = neg.input(0).ok_or(Miss::NotThisPattern)?;
        let layer = graph.producer(x).and_then(|op| float_layer(graph, op)).ok_or(Miss::NotThisPattern)?;
        fold(graph, op, &layer, cx.options.fold_growth)
    }
}

/// A layer and the Neg that alone reads it.
fn with_neg(graph: &Graph, op: OpId) -> Option<(WeightedLayer, OpId)> {
    let layer = float_layer(graph, op)?;
    let (neg, _) = graph.only_use(layer.y)?;
    graph.op(neg).is("Neg").then_some((layer, neg))
}

/// The edits that fold the Neg `anchor` behind `layer`, and those behind all layers with its weights.
fn fold(graph: &Graph, anchor: OpId, layer: &WeightedLayer, growth: usize) -> Result<Patch, Miss> {
    let weight = graph.constant(layer.weight).ok_or(Miss::NotThisPattern)?;
    let bias = layer.bias.map(|bias| graph.constant(bias).ok_or(Miss::NotThisPattern)).transpose()?;
    let readers = |value: ValueId| -> Option<Vec<OpId>> {
        let reader = |place: Use| if let Use::Input(op, _) = place { Some(op) } else { None };
        graph.uses(value).into_iter().map(reader).collect()
    };
    let mut ops = readers(layer.weight).ok_or(Miss::OtherUses(layer.weight))?;
    ops.sort();
    ops.dedup();
    let all: Option<Vec<(WeightedLayer, OpId)>> = ops.iter().map(|&op| with_neg(graph, op)).collect();
    let is_alike = |other: &WeightedLayer| (other.weight, other.bias) == (layer.weight, layer.bias);
    let all = all.filter(|all| all.iter().all(|(other, _)| is_alike(other))).ok_or(Miss::OtherUses(layer.weight))?;
    let negated = |value: ValueId, tensor: &Tensor| negated(tensor).ok_or(Miss::NotFinite(value));
    let mut patch = Patch::new(anchor);
    let name = |value: ValueId| format!("{}_negated", graph.name_of(value));
    let new_weight = patch.constant(&name(layer.weight), negated(layer.weight, weight)?);
    let new_bias = match layer.bias.zip(bias) {
        Some((value, tensor)) => Some(patch.constant(&name(value), negated(value, tensor)?)),
        None => None,
    };
    let mut removed = Vec::new();
    for (other, neg) in &all {
        let node = graph.op(other.op);
        let mut inputs: Vec<Option<ValueRef>> = node.inputs().iter().map(|input| input.map(ValueRef::from)).collect();
        inputs[other.weight_input] = Some(new_weight);
        if let Some(place) = other.bias_input {
            inputs[place] = new_bias;
        }
        let y = graph.op(*neg).output(0).ok_or(Miss::NotThisPattern)?;
        let new = patch.copy_of(node, &inputs, Vec::new(), &[Some((graph.name_of(y), graph.ty(y).cloned()))])[0];
        patch.replace(y, new);
        removed.extend([other.op, *neg]);
    }
    net_bytes::check(graph, &patch, &removed, all.len(), growth)?;
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::FoldNeg;
    use crate::testing::{check, check_same};

    #[test]
    fn layers_that_share_weights_are_folded_together() {
        let signature = "g (float[1,1,2] x, float[1,1,2] z) => (float[1,1,2] y, float[1,1,2] u)";
        check(
            &FoldNeg,
            &format!(
                "{signature} <float[1,1,1] w = {{2}}, float[1] b = {{3}}> {{ c = Conv (x, w, b)  y = Neg (c)  d = Conv (z, w, b)  u = Neg (d) }}"
            ),
            &format!(
                "{signature} <float[1,1,1] w_negated = {{-2}}, float[1] b_negated = {{-3}}> {{ y = Conv (x, w_negated, b_negated)  u = Conv (z, w_negated, b_negated) }}"
            ),
        );
    }

    #[test]
    fn weights_that_others_read_and_products_of_activations_stay() {
        for body in [
            "c = Conv (x, w)  y = Neg (c)  u = Conv (x, w)",
            "c = Conv (x, w)  y = Neg (c)  u = Relu (c)",
            "c = MatMul (x, x)  y = Neg (c)  u = Neg (w)",
        ] {
            check_same(
                &FoldNeg,
                &format!(
                    "g (float[1,1,1] x) => (float[1,1,1] y, float[1,1,1] u) <float[1,1,1] w = {{2}}> {{ {body} }}"
                ),
            );
        }
    }
}
