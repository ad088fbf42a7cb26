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
//! Gemm, MatMul and convolutions of kernel 1 (strides go to the first of the two). The factors: [`crate::low_rank::directions`].
//!
//! **Class:** approximate. **Legal when** the weight is a constant that nobody else reads. **Fires** where the caller gives a rank
//! and both bytes and multiply-adds fall: rank < u·v/(u+v). **Does not** split grouped, larger or padded convolutions.
use std::collections::BTreeMap;

use ndarray::{Array1, ArrayD, ArrayView2, IxDyn};
use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, ValueRef, attributes, ops::Gemm};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    low_rank::directions::{Directions, Splittable},
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

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "split-low-rank",
    class: Class::Approximate,
    about: "splits fully connected layers in two of a lower rank",
    when: When::Requested("--svd"),
};

impl Pass for SplitLowRank<'_> {
    fn description(&self) -> &'static Description {
        &PASS
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

/// A constant of the type of the layer's weight, with the numbers of `matrix` row by row, however it lies in memory.
fn tensor(dtype: DataType, dims: &[usize], matrix: ArrayView2<'_, f64>) -> Result<Tensor, Miss> {
    let array = ArrayD::from_shape_vec(IxDyn(dims), matrix.iter().copied().collect());
    let array = array.map_err(|_| Miss::Form("a shape of the weight"))?;
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
        let w = patch.constant(base, tensor(dtype, &dims(rank, inputs), factors.first.t())?);
        let v = patch.constant(base, tensor(dtype, &dims(outputs, rank), factors.second.t())?);
        (patch.op(first, &[x, Some(w)], "m", None), second, (v, bias(&mut patch)?))
    } else {
        let w = patch.constant(base, tensor(dtype, &[inputs, rank], factors.first.view())?);
        let v = patch.constant(base, tensor(dtype, &[rank, outputs], factors.second.view())?);
        if node.is("Gemm") {
            let bias = bias(&mut patch)?;
            let (first, second) =
                (product_of(graph, &first_name, false), product_of(graph, node.name(), bias.is_some()));
            (patch.op(first, &[x, Some(w)], "m", None), second, (v, bias))
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

/// A product of two matrices, with or without a bias: before opset 11 a Gemm must have one.
fn product_of(graph: &Graph, name: &str, with_bias: bool) -> NewOp {
    if with_bias || graph.opset() >= 11 { Gemm::plain(name, false) } else { NewOp::new("MatMul").named(name) }
}

fn vector(dtype: DataType, dims: &[usize], numbers: &Array1<f64>) -> Result<Tensor, Miss> {
    let array = ArrayD::from_shape_vec(IxDyn(dims), numbers.to_vec()).map_err(|_| Miss::Form("a shape of the bias"))?;
    Tensor::from_f64(dtype, &array).ok_or(Miss::Form("a type of the bias"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Split, SplitLowRank};
    use crate::{
        Class, Options,
        low_rank::directions::Splittable,
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

    /// Weights of rank 2: the factors of a convolution are transposed, and 3 by 2 is not 2 by 3.
    #[test]
    fn a_convolution_is_split_at_any_rank() {
        let numbers: Vec<String> =
            (0..48).map(|k| ((k / 8 + 1) * (k % 8 + 1) + (k / 8) * (k % 8 % 3)).to_string()).collect();
        let text = format!(
            "g (float[1,8,3,3] x) => (float[1,6,3,3] y) <float[6,8,1,1] w = {{{}}}, float[6] b = {{1,2,3,4,5,6}}> {{ y = Conv (x, w, b) }}",
            numbers.join(",")
        );
        assert_eq!(split(&text, 2, true), ["Conv", "Conv"]);
        let flat = text.replace("1,8,3,3]", "1,8,3]").replace("1,6,3,3]", "1,6,3]").replace("6,8,1,1]", "6,8,1]");
        assert_eq!(split(&flat, 2, true), ["Conv", "Conv"]);
        assert_eq!(split(&flat, 3, true), ["Conv", "Conv"]);
    }

    /// Before opset 11 every Gemm has a bias.
    #[test]
    fn a_product_without_a_bias_is_no_gemm_in_old_opsets() {
        let of = |opset: usize, bias: &str| {
            format!(
                "<ir_version: 4, opset_import: [\"\" : {opset}]> g (float[5,6] x) => (float[5,4] y) <float[6,4] w = {RANK_ONE}, float[4] b = {{1,2,3,4}}> {{ y = Gemm (x, w{bias}) }}"
            )
        };
        assert_eq!(split(&of(9, ", b"), 1, true), ["MatMul", "Gemm"]);
        assert_eq!(split(&of(7, ", b"), 1, true), ["MatMul", "Gemm"]);
        assert_eq!(split(&of(11, ", b"), 1, true), ["Gemm", "Gemm"]);
        assert_eq!(split(&of(13, ""), 1, true), ["Gemm", "Gemm"]);
    }

    /// What another op reads, too, stays for it.
    #[test]
    fn a_bias_that_layers_share_does_not_keep_one_whole() {
        let text = format!(
            "g (float[5,6] x) => (float[5,4] y, float[5,4] z) <float[6,4] w = {RANK_ONE}, float[4] b = {{1,2,3,4}}> {{ y = Gemm (x, w, b)  z = Add (y, b) }}"
        );
        assert_eq!(split(&text, 1, true), ["Gemm", "Gemm", "Add"]);
    }

    #[test]
    fn a_rank_that_saves_nothing_does_not_fire() {
        let text = format!("g (float[5,6] x) => (float[5,4] y) <float[6,4] w = {RANK_ONE}> {{ y = Gemm (x, w) }}");
        assert_eq!(split(&text, 3, true), ["Gemm"]);
    }
}
