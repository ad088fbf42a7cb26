//! Layers with weights: one view of Conv, ConvTranspose, Gemm, MatMul and their integer forms.
//!
//! Why: every pass that folds into weights, quantizes, prunes or splits them needs to know which input is the weight and how
//! its tensor is laid out. This view answers it once; [`WeightLayout`] converts a weight to a matrix with **one row per output
//! channel** and back. The view holds the facts of the op alone: whether the weight is constant and what to do with it is
//! decided by the pass. **Never** describes the window of a convolution: see [`super::Conv`] and [`super::ConvTranspose`].
use ndarray::Array2;

use super::{Binary, BinaryKind, Reader, RowOrder, WeightLayout, WeightShape};
use crate::{
    graph::{Graph, Op, OpId, ValueId},
    semantics,
    tensor::Tensor,
    types::TensorType,
};

/// The inputs of `op` that may be weights. Empty for ops that do not multiply by weights, and for ops of other domains than
/// ONNX's own.
pub fn weight_inputs(op: &Op) -> &'static [usize] {
    semantics::of(op).map_or(&[], |row| row.weights)
}

/// The inputs of `op` that may hold parameters: its weights, or the table in which a Gather looks rows up.
pub fn parameter_inputs(op: &Op) -> &'static [usize] {
    if op.is("Gather") { &[0] } else { weight_inputs(op) }
}

/// Which product a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// `Conv`, `QLinearConv`, `ConvInteger`
    Conv,
    /// `ConvTranspose`
    ConvTranspose,
    /// `Gemm`
    Gemm,
    /// `MatMul`, `QLinearMatMul`, `MatMulInteger`
    MatMul,
}

/// The element types that an op takes its operands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// Floats; a DequantizeLinear may have made them
    Float,
    /// 8-bit integers with scales and zero points; the output has 8 bits, too (`QLinearConv`, `QLinearMatMul`)
    QLinear,
    /// 8-bit integers; the output is the 32-bit sums (`ConvInteger`, `MatMulInteger`)
    Integer,
}

/// A layer with weights: `y = alpha · x ∗ W + beta · b`, with ∗ the product of its kind.
#[derive(Clone, Debug)]
pub struct WeightedLayer {
    /// The op
    pub op: OpId,
    /// Its product
    pub kind: LayerKind,
    /// Element types of its operands
    pub operands: Operands,
    /// Input
    pub x: ValueId,
    /// Weight, constant or not
    pub weight: ValueId,
    /// Index of the weight among the op's inputs
    pub weight_input: usize,
    /// Bias of the op itself; see [`WeightedLayer::added_bias`] for an Add behind it
    pub bias: Option<ValueId>,
    /// Index of the bias among the op's inputs; `None`: the op cannot have one
    pub bias_input: Option<usize>,
    /// Output, before an Add behind it
    pub y: ValueId,
    /// Layout of the weight
    pub layout: WeightLayout,
    /// Factor of the product; 1 but for a Gemm
    pub alpha: f32,
    /// Factor of the bias; 1 but for a Gemm
    pub beta: f32,
    /// Whether a Gemm transposes `x`
    pub trans_a: bool,
}

/// An Add that alone reads a layer's output: its bias, where the other operand is constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedBias {
    /// The Add
    pub add: OpId,
    /// Index of the bias among the Add's inputs
    pub input: usize,
    /// The other operand, constant or not
    pub bias: ValueId,
    /// Output of the Add
    pub sum: ValueId,
}

/// Attributes of convolutions that say nothing about weights.
const WINDOW: [&str; 5] = ["kernel_shape", "strides", "dilations", "pads", "auto_pad"];

impl WeightedLayer {
    /// The op as a layer with weights, constant or not; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<WeightedLayer> {
        use LayerKind::{Conv, ConvTranspose, Gemm, MatMul};
        use Operands::{Float, Integer, QLinear};
        // kind, operands, place of the weight and of the bias, and the number of inputs
        let (kind, operands, weight_input, bias_input, most) = match graph.op(op).op_type() {
            "Conv" => (Conv, Float, 1, Some(2), 3),
            "ConvTranspose" => (ConvTranspose, Float, 1, Some(2), 3),
            "Gemm" => (Gemm, Float, 1, Some(2), 3),
            "MatMul" => (MatMul, Float, 1, None, 2),
            "QLinearConv" => (Conv, QLinear, 3, Some(8), 9),
            "QLinearMatMul" => (MatMul, QLinear, 3, None, 8),
            "ConvInteger" => (Conv, Integer, 1, None, 4),
            "MatMulInteger" => (MatMul, Integer, 1, None, 4),
            _ => return None,
        };
        let mut reader = Reader::of(graph, op, graph.op(op).op_type())?;
        let (mut alpha, mut beta, mut trans_a) = (1.0, 1.0, false);
        let layout = match kind {
            Conv | ConvTranspose => {
                WINDOW.into_iter().for_each(|name| reader.ignore(name));
                let groups = usize::try_from(reader.int_or("group", 1)?).ok().filter(|groups| *groups > 0)?;
                if kind == ConvTranspose {
                    reader.ignore("output_padding");
                    reader.ignore("output_shape");
                    WeightLayout::ConvTranspose { groups }
                } else {
                    WeightLayout::Conv { groups }
                }
            }
            Gemm => {
                alpha = reader.float("alpha")?.unwrap_or(1.0);
                beta = reader.float("beta")?.unwrap_or(1.0);
                trans_a = reader.flag("transA")?;
                if graph.opset() < 7 {
                    reader.ignore("broadcast"); // C is broadcast to the right in every version
                }
                WeightLayout::Matrix { transposed: reader.flag("transB")? }
            }
            MatMul => WeightLayout::Matrix { transposed: false },
        };
        let (x, weight, y) = (reader.op.input(0)?, reader.op.input(weight_input)?, reader.op.output(0)?);
        let bias = bias_input.and_then(|index| reader.op.input(index));
        reader.finish(most, 1)?;
        let layer = WeightedLayer {
            op,
            kind,
            operands,
            x,
            weight,
            weight_input,
            bias,
            bias_input,
            y,
            layout,
            alpha,
            beta,
            trans_a,
        };
        Some(layer)
    }

    /// The same for ops on floats: `None` for `QLinearConv`, `ConvInteger` and the like.
    pub fn of_floats(graph: &Graph, op: OpId) -> Option<WeightedLayer> {
        WeightedLayer::of(graph, op).filter(|layer| layer.operands == Operands::Float)
    }

    /// Whether it is `y = x ∗ W + b`: no factors, and `x` as it is.
    pub fn is_plain(&self) -> bool {
        self.alpha == 1.0 && self.beta == 1.0 && !self.trans_a
    }

    /// Whether it is a convolution, transposed or not.
    pub fn is_conv(&self) -> bool {
        matches!(self.kind, LayerKind::Conv | LayerKind::ConvTranspose)
    }

    /// The constant weight; `None` when it is not constant.
    pub fn constant<'g>(&self, graph: &'g Graph) -> Option<&'g Tensor> {
        graph.constant(self.weight)
    }

    /// The constant weight as a matrix of one row an output channel ([`WeightLayout::rows`]); `None` when it is not constant, holds
    /// no numbers, or has an impossible rank.
    pub fn rows(&self, graph: &Graph, order: RowOrder) -> Option<Array2<f64>> {
        self.layout.rows(self.constant(graph)?.to_f64()?, order)
    }

    /// Sizes of the weight, by its type; `None` when they are not known or impossible.
    pub fn shape(&self, graph: &Graph) -> Option<WeightShape> {
        self.layout.shape(&graph.ty(self.weight)?.dims()?)
    }

    /// Rank of its output, and the axis of it that runs over the output channels; `None` when types do not tell them.
    pub fn output_axis(&self, graph: &Graph) -> Option<(usize, usize)> {
        let rank = |value| graph.ty(value).and_then(TensorType::rank);
        match self.kind {
            LayerKind::Conv | LayerKind::ConvTranspose => {
                rank(self.weight).filter(|rank| *rank >= 3).map(|rank| (rank, 1))
            }
            LayerKind::Gemm => Some((2, 1)),
            LayerKind::MatMul => {
                let rank = rank(self.x).filter(|left| *left >= 2 && rank(self.weight) == Some(2))?;
                Some((rank, rank - 1))
            }
        }
    }

    /// The Add that alone reads the output; `None` when something else reads it, too.
    pub fn added_bias(&self, graph: &Graph) -> Option<AddedBias> {
        let (add, index) = graph.only_use(self.y)?;
        let sum = Binary::of(graph, add).filter(|binary| binary.kind == BinaryKind::Add)?;
        let (input, bias) = if index == 0 { (1, sum.b) } else { (0, sum.a) };
        Some(AddedBias { add, input, bias, sum: sum.y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse_graph;

    fn layer(text: &str) -> Option<WeightedLayer> {
        let graph = parse_graph(text, 17).expect("a graph").graph;
        WeightedLayer::of(&graph, graph.ops()[0])
    }

    #[test]
    fn each_op_has_its_weight_and_its_bias() {
        let conv = "g (float[1,4,5,5] x, float[6,2,3,3] w, float[6] b) => (float y) { y = Conv <group = 2> (x, w, b) }";
        let conv = layer(conv).expect("a layer");
        assert_eq!(
            (conv.kind, conv.layout, conv.is_plain()),
            (LayerKind::Conv, WeightLayout::Conv { groups: 2 }, true)
        );
        assert!(conv.bias.is_some() && conv.weight_input == 1);
        let gemm = "g (float[1,4] x, float[6,4] w) => (float y) { y = Gemm <transB = 1, alpha = 2.0> (x, w) }";
        let gemm = layer(gemm).expect("a layer");
        assert_eq!((gemm.layout, gemm.alpha, gemm.is_plain()), (WeightLayout::Matrix { transposed: true }, 2.0, false));
        let qlinear = "g (uint8[1,4] x, float s, uint8 z, int8[4,2] w, int8 v) => (uint8 y) { y = QLinearMatMul (x, s, z, w, s, v, s, z) }";
        let qlinear = layer(qlinear).expect("a layer");
        assert_eq!((qlinear.operands, qlinear.weight_input), (Operands::QLinear, 3));
    }

    #[test]
    fn what_is_not_understood_is_no_layer() {
        for op in [
            "Conv <group = 0> (x, w)",
            "Conv <fused = 1> (x, w)",
            "Gemm <transB = 2> (x, w)",
            "Relu (x)",
            "other.Conv (x, w)",
        ] {
            assert!(
                layer(&format!("g (float[1,4,5] x, float[6,4,3] w) => (float y) {{ y = {op} }}")).is_none(),
                "{op}"
            );
        }
    }

    #[test]
    fn the_add_behind_a_product_is_its_bias() {
        let text = |add: &str| {
            format!(
                "g (float[1,4] x, float[4,2] w, float[2] b) => (float y, float z) {{ m = MatMul (x, w)  y = {add}  z = Relu (b) }}"
            )
        };
        let added = |add: &str| {
            let graph = parse_graph(&text(add), 17).expect("a graph").graph;
            let product = WeightedLayer::of(&graph, graph.ops_of("MatMul")[0]).expect("a layer");
            product.added_bias(&graph).map(|added| (added.input, graph.name_of(added.bias).to_owned()))
        };
        assert_eq!(added("Add (m, b)"), Some((1, "b".to_owned())));
        assert_eq!(added("Add (b, m)"), Some((0, "b".to_owned())));
        assert_eq!(added("Add (m, m)"), None);
        assert_eq!(added("Sub (m, b)"), None);
    }
}
