//! Splits fully connected layers into two with few numbers between them.
//!
//! ```onnx before
//! # x: float[5,8]; w: float[8,6]; b: float[6]
//! y = Gemm (x, w, b)
//! ```
//! ```onnx after
//! m = Gemm (x, w_1)
//! y = Gemm (m, w_2, b_1)
//! ```
//! Gemm, MatMul and convolutions of kernel 1 (strides go to the first of the two). The factors: [`crate::low_rank`].
//!
//! **Class:** approximate. **Legal when** the weight is a constant that nobody else reads. **Fires** where the caller gives a rank
//! and both bytes and multiply-adds fall: rank < u·v/(u+v). **Does not** split grouped, larger or padded convolutions.
use std::collections::BTreeMap;

use ndarray::{Array1, Array2};
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, ValueRef, attributes, ops::Gemm};

use crate::{
    Class, Context, Miss, Pass, Result,
    low_rank::{Directions, Splittable},
};

/// How one layer is split.
#[derive(Clone, Debug)]
pub struct Split {
    /// The directions of its outputs
    pub directions: Directions,
    /// How many of them are kept
    pub rank: usize,
}

/// See the [module](self) for before, after and legality.
pub struct SplitLowRank<'a> {
    /// The layers to split, by op
    pub splits: &'a BTreeMap<OpId, Split>,
}

impl Pass for SplitLowRank<'_> {
    fn name(&self) -> &'static str {
        "split-low-rank"
    }

    fn class(&self) -> Class {
        Class::Approximate
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if cx.is_in_body() {
            return Ok(());
        }
        for (&op, split) in self.splits {
            match rewrite(graph, op, split) {
                Ok(patch) => {
                    cx.apply(graph, patch)?;
                }
                Err(miss) => cx.missed(graph, op, &miss),
            }
        }
        Ok(())
    }
}

/// A constant of the type of the layer's weight.
fn tensor(dtype: DataType, dims: &[usize], numbers: &Array2<f64>) -> Result<Tensor, Miss> {
    let array =
        numbers.clone().into_dyn().into_shape_with_order(dims).map_err(|_| Miss::Form("a shape of the weight"))?;
    Tensor::from_f64(dtype, &array).ok_or(Miss::Form("a type of the weight"))
}

fn rewrite(graph: &Graph, op: OpId, split: &Split) -> Result<Patch, Miss> {
    let layer = Splittable::of(graph, op)?;
    if layer.numbers_at(split.rank) >= layer.numbers() {
        return Err(Miss::DoesNotPay(format!(
            "rank {} has as many numbers as the {} x {} weight, or more",
            split.rank, layer.layer.inputs, layer.layer.outputs
        )));
    }
    let factors = layer.factors(&split.directions, split.rank);
    let node = graph.op(op);
    let weight = graph.constant(layer.layer.weight).ok_or(Miss::NotConstant(layer.layer.weight))?;
    let (dtype, base) = (weight.dtype(), graph.name_of(layer.layer.weight));
    let product = node.output(0).ok_or(Miss::NotThisPattern)?;
    let first_name = if node.name().is_empty() { String::new() } else { format!("{}_low_rank", node.name()) };
    let mut patch = Patch::new(op);
    let (inputs, outputs, rank) = (layer.layer.inputs, layer.layer.outputs, split.rank);
    let x = Some(ValueRef::from(layer.layer.x));
    let bias = |patch: &mut Patch| -> Result<Option<ValueRef>, Miss> {
        let Some(numbers) = &factors.bias else { return Ok(layer.layer.bias.map(ValueRef::from)) };
        let base = layer.layer.bias.map_or("b", |bias| graph.name_of(bias));
        Ok(Some(patch.constant(base, vector(dtype, &[outputs], numbers)?)))
    };
    let (first, second, last) = if node.is("Conv") {
        let ones = vec![1usize; weight.dims().len() - 2];
        let dims = |a: usize, b: usize| [&[a, b], ones.as_slice()].concat();
        let mut first = NewOp { node: node.proto().clone() }.named(&first_name);
        first.node.attribute.retain(|attribute| attribute.name() != "kernel_shape");
        let kernel: Vec<i64> = ones.iter().map(|_| 1).collect();
        let first = first.with(attributes::ints("kernel_shape", &kernel));
        let second = NewOp::new("Conv").named(node.name()).with(attributes::ints("kernel_shape", &kernel));
        let w = patch.constant(base, tensor(dtype, &dims(rank, inputs), &factors.first.t().to_owned())?);
        let v = patch.constant(base, tensor(dtype, &dims(outputs, rank), &factors.second.t().to_owned())?);
        (patch.op(first, &[x, Some(w)], "m", None), second, (v, bias(&mut patch)?))
    } else {
        let w = patch.constant(base, tensor(dtype, &[inputs, rank], &factors.first)?);
        let v = patch.constant(base, tensor(dtype, &[rank, outputs], &factors.second)?);
        if node.is("Gemm") {
            let (first, second) = (Gemm::plain(&first_name, false), Gemm::plain(node.name(), false));
            (patch.op(first, &[x, Some(w)], "m", None), second, (v, bias(&mut patch)?))
        } else {
            if let (Some(numbers), Some(bias)) = (&factors.bias, layer.layer.bias) {
                let dims = graph.constant(bias).ok_or(Miss::NotConstant(bias))?.dims();
                patch.set_constant(bias, vector(dtype, dims, numbers)?);
            }
            let (first, second) = (NewOp::new("MatMul").named(&first_name), NewOp::new("MatMul").named(node.name()));
            (patch.op(first, &[x, Some(w)], "m", None), second, (v, None))
        }
    };
    let mut inputs = vec![Some(first), Some(last.0)];
    inputs.extend(last.1.map(Some));
    let y = patch.op(second, &inputs, graph.name_of(product), graph.ty(product).cloned());
    patch.replace(product, y);
    Ok(patch)
}

fn vector(dtype: DataType, dims: &[usize], numbers: &Array1<f64>) -> Result<Tensor, Miss> {
    let array =
        numbers.clone().into_dyn().into_shape_with_order(dims).map_err(|_| Miss::Form("a shape of the bias"))?;
    Tensor::from_f64(dtype, &array).ok_or(Miss::Form("a type of the bias"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Split, SplitLowRank};
    use crate::{
        Class, Options,
        low_rank::Splittable,
        testing::{assert_same_values, parse, run},
    };

    /// Splits the only layer of `text` at `rank`: the ops that there are then.
    fn split(text: &str, rank: usize, same: bool) -> Vec<String> {
        let original = parse(text).graph;
        let mut graph = original.detached();
        let op = graph.ops()[0];
        let layer = Splittable::of(&graph, op).expect("a layer");
        let directions = layer.directions(None).expect("finite");
        let splits = BTreeMap::from([(op, Split { directions, rank })]);
        run(&SplitLowRank { splits: &splits }, &mut graph, Options::default());
        if same {
            assert_same_values(&original, &graph, Class::Rounding);
        }
        graph.ops().into_iter().map(|op| graph.op(op).op_type().to_owned()).collect()
    }

    /// A weight of rank 1, as its factors.
    const RANK_ONE: &str = "{1,2,3,4,2,4,6,8,3,6,9,12,4,8,12,16,5,10,15,20,6,12,18,24}";

    #[test]
    fn a_weight_of_low_rank_is_split_without_loss() {
        let model = |input: &str, output: &str, dims: &str, body: &str| {
            format!(
                "g (float[{input}] x) => (float[{output}] y) <float[{dims}] w = {RANK_ONE}, float[4] b = {{1,2,3,4}}> {{ {body} }}"
            )
        };
        let text = model("5,6", "5,4", "6,4", "y = Gemm (x, w, b)");
        assert_eq!(split(&text, 1, true), ["Gemm", "Gemm"]);
        let text = model("2,5,6", "2,5,4", "6,4", "m = MatMul (x, w)  y = Add (m, b)");
        assert_eq!(split(&text, 1, true), ["MatMul", "MatMul", "Add"]);
        let text = model("1,6,5,5", "1,4,3,3", "4,6,1,1", "y = Conv <strides = [2, 2]> (x, w, b)");
        assert_eq!(split(&text, 1, false), ["Conv", "Conv"]);
        let numbers = "{1,2,3,4,5,6,2,4,6,8,10,12,3,6,9,12,15,18,4,8,12,16,20,24}";
        let text =
            model("1,6,5,5", "1,4,3,3", "4,6,1,1", "y = Conv <strides = [2, 2]> (x, w, b)").replace(RANK_ONE, numbers);
        assert_eq!(split(&text, 1, true), ["Conv", "Conv"]);
    }

    #[test]
    fn a_rank_that_saves_nothing_does_not_fire() {
        let text = format!("g (float[5,6] x) => (float[5,4] y) <float[6,4] w = {RANK_ONE}> {{ y = Gemm (x, w) }}");
        assert_eq!(split(&text, 3, true), ["Gemm"]);
    }
}
