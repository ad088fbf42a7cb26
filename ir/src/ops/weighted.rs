//! Layers with weights: the one view of Conv, ConvTranspose, Gemm, MatMul and of what ONNX has of them in integers.
//!
//! Why: which input is the weight, how its tensor is laid out, and what a row of it is, is asked by every pass that folds
//! into weights, quantizes them, prunes or splits them. Here it is answered once. A matrix of the view has **one row for
//! each output channel**, however the tensor lies; [`WeightLayout`] makes rows of a tensor and a tensor of rows.
//! **Never** says whether a layer is worth anything, nor whether its weight is constant: that is for who asks. How a
//! convolution moves its window is left to [`super::Conv`] and [`super::ConvTranspose`].
use ndarray::{ArrayD, Axis, Ix2, IxDyn};

use super::{Binary, BinaryKind, Reader};
use crate::{
    graph::{Graph, Op, OpId, ValueId},
    tensor::Tensor,
};

/// The inputs of `op` that may be weights: those that it multiplies by. Empty for ops that do not multiply by weights, ops
/// of other domains included.
pub fn weight_inputs(op: &Op) -> &'static [usize] {
    if !op.domain().is_empty() {
        return &[];
    }
    match op.op_type() {
        "Conv" | "ConvTranspose" => &[1],
        "Gemm" | "MatMul" => &[0, 1],
        "LSTM" | "GRU" | "RNN" => &[1, 2],
        _ => &[],
    }
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

/// In which numbers the op itself takes its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// As they are: floats, or what a DequantizeLinear gives
    Float,
    /// 8-bit integers, scales and zero points beside them; 8-bit integers come out (`QLinearConv`, `QLinearMatMul`)
    QLinear,
    /// 8-bit integers; their sums come out as they are, in 32 bits (`ConvInteger`, `MatMulInteger`)
    Integer,
}

/// How the tensor of a weight is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[M, C/groups, k…]`: outputs first
    Conv {
        /// Groups of channels, at least 1
        groups: usize,
    },
    /// `[C, M/groups, k…]`: output channel `g·M/groups + j` is made by rows of group `g`, column `j`
    ConvTranspose {
        /// Groups of channels, at least 1
        groups: usize,
    },
    /// `[…, K, N]`; a stack of matrices where there are more than two axes
    Matrix {
        /// `[…, N, K]` instead
        transposed: bool,
    },
}

/// The sizes of a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Output channels
    pub outputs: usize,
    /// Input channels that one output is a sum over: those of its group
    pub inputs: usize,
    /// Groups of channels; 1 for a matrix
    pub groups: usize,
    /// Spatial shape of the kernel; empty for a matrix
    pub kernel: Vec<usize>,
}

/// In which order a row of a weight runs over input channels and the kernel's positions. Rows of a matrix have but one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Channels slowest, `(c, k…)`: as the tensor of a Conv lies
    ChannelsFirst,
    /// Channels fastest, `(k…, c)`: in the order in which integer kernels add
    ChannelsLast,
}

impl WeightShape {
    /// Positions of the kernel; 1 for a matrix.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Numbers in a row: products that one output is a sum of.
    pub fn row(&self) -> usize {
        self.inputs * self.taps()
    }

    /// Input channels of all groups.
    pub fn channels(&self) -> usize {
        self.inputs * self.groups
    }

    /// Whether each output sums over one input channel of its own: a convolution with as many groups as outputs.
    pub fn is_depthwise(&self) -> bool {
        !self.kernel.is_empty() && self.inputs == 1 && self.outputs == self.groups
    }
}

impl WeightLayout {
    /// The axis of a tensor of `rank` axes that runs over the outputs (of one group, for a ConvTranspose).
    pub fn output_axis(self, rank: usize) -> Option<usize> {
        match self {
            WeightLayout::Conv { .. } => (rank >= 3).then_some(0),
            WeightLayout::ConvTranspose { .. } => (rank >= 3).then_some(1),
            WeightLayout::Matrix { transposed: true } => rank.checked_sub(2),
            WeightLayout::Matrix { transposed: false } => rank.checked_sub(2).map(|axis| axis + 1),
        }
    }

    /// The axis of a tensor of `rank` axes that runs over the input channels (of one group, for a Conv).
    pub fn input_axis(self, rank: usize) -> Option<usize> {
        match self {
            WeightLayout::Conv { .. } => (rank >= 3).then_some(1),
            WeightLayout::ConvTranspose { .. } => (rank >= 3).then_some(0),
            WeightLayout::Matrix { transposed } => WeightLayout::Matrix { transposed: !transposed }.output_axis(rank),
        }
    }

    /// The sizes of a weight of dimensions `dims`; `None` for a rank that it cannot have (stacks of matrices included) and
    /// for channels that groups do not divide.
    pub fn shape(self, dims: &[usize]) -> Option<WeightShape> {
        let (outputs, inputs, groups, kernel) = match (self, dims) {
            (WeightLayout::Conv { groups }, &[outputs, inputs, ref kernel @ ..]) if !kernel.is_empty() => {
                (Some(outputs).filter(|outputs| outputs.is_multiple_of(groups)), inputs, groups, kernel)
            }
            (WeightLayout::ConvTranspose { groups }, &[channels, columns, ref kernel @ ..]) if !kernel.is_empty() => {
                let outputs = columns.checked_mul(groups).filter(|_| channels.is_multiple_of(groups));
                (outputs, channels / groups, groups, kernel)
            }
            (WeightLayout::Matrix { transposed: false }, &[inputs, outputs]) => (Some(outputs), inputs, 1, &[][..]),
            (WeightLayout::Matrix { transposed: true }, &[outputs, inputs]) => (Some(outputs), inputs, 1, &[][..]),
            _ => return None,
        };
        Some(WeightShape { outputs: outputs?, inputs, groups, kernel: kernel.to_vec() })
    }

    /// The dimensions of a tensor of dimensions `dims` once the axes of its channels are apart, and the order of these axes
    /// that puts outputs first; how many of them are axes of outputs.
    fn rows_of(self, dims: &[usize], order: RowOrder) -> Option<(Vec<usize>, Vec<usize>, usize)> {
        let rank = dims.len();
        self.output_axis(rank)?;
        let by = |outputs: &[usize], channels: usize, kernel: std::ops::Range<usize>| -> Vec<usize> {
            match order {
                RowOrder::ChannelsFirst => outputs.iter().copied().chain([channels]).chain(kernel).collect(),
                RowOrder::ChannelsLast => outputs.iter().copied().chain(kernel).chain([channels]).collect(),
            }
        };
        Some(match self {
            WeightLayout::Conv { .. } => (dims.to_vec(), by(&[0], 1, 2..rank), 1),
            WeightLayout::ConvTranspose { groups } => {
                let inputs = dims[0].checked_div(groups).filter(|inputs| inputs * groups == dims[0])?;
                let apart = [&[groups, inputs], &dims[1..]].concat();
                (apart, by(&[0, 2], 1, 3..rank + 1), 2)
            }
            WeightLayout::Matrix { transposed } => {
                let mut axes: Vec<usize> = (0..rank).collect();
                if !transposed {
                    axes.swap(rank - 2, rank - 1);
                }
                (dims.to_vec(), axes, rank - 1)
            }
        })
    }

    /// The weight as a matrix of one row an output channel (of each matrix in turn, for a stack), in standard layout. `None` for
    /// a rank that the weight cannot have, and for channels that groups do not divide.
    pub fn rows<T: Clone>(self, weight: ArrayD<T>, order: RowOrder) -> Option<ndarray::Array2<T>> {
        let (apart, axes, outer) = self.rows_of(weight.shape(), order)?;
        let count: usize = axes[..outer].iter().map(|&axis| apart[axis]).product();
        let width: usize = axes[outer..].iter().map(|&axis| apart[axis]).product();
        let weight = into_shape(weight, &apart)?;
        into_shape(weight.permuted_axes(axes), &[count, width])?.into_dimensionality::<Ix2>().ok()
    }

    /// A weight of dimensions `dims` in standard layout, of the rows that [`WeightLayout::rows`] gives; `None` where they do
    /// not fit.
    pub fn from_rows<T: Clone>(self, rows: ndarray::Array2<T>, dims: &[usize], order: RowOrder) -> Option<ArrayD<T>> {
        let (apart, axes, outer) = self.rows_of(dims, order)?;
        let count: usize = axes[..outer].iter().map(|&axis| apart[axis]).product();
        let permuted: Vec<usize> = axes.iter().map(|&axis| apart[axis]).collect();
        let mut back = vec![0; axes.len()];
        for (place, &axis) in axes.iter().enumerate() {
            back[axis] = place;
        }
        if rows.nrows() != count {
            return None;
        }
        into_shape(into_shape(rows.into_dyn(), &permuted)?.permuted_axes(back), dims)
    }

    /// Multiplies what makes each output channel by its factor, in place; `None`, and nothing changed, where the weight is not
    /// of this layout or there is not one factor a channel.
    pub fn scale_outputs(self, weight: &mut ArrayD<f64>, factors: &[f64]) -> Option<()> {
        let shape = self.shape(weight.shape())?;
        let axis = self.output_axis(weight.ndim())?;
        if factors.len() != shape.outputs {
            return None;
        }
        let scale = |mut part: ndarray::ArrayViewMutD<'_, f64>, factors: &[f64]| {
            for (mut slice, factor) in part.axis_iter_mut(Axis(axis)).zip(factors) {
                slice *= *factor;
            }
        };
        match self {
            WeightLayout::ConvTranspose { .. } => {
                let rows = weight.axis_chunks_iter_mut(Axis(0), shape.inputs.max(1));
                rows.zip(factors.chunks((shape.outputs / shape.groups).max(1)))
                    .for_each(|(rows, own)| scale(rows, own));
            }
            WeightLayout::Conv { .. } | WeightLayout::Matrix { .. } => scale(weight.view_mut(), factors),
        }
        Some(())
    }
}

/// The array in standard layout with other dimensions, copied where its layout is another.
fn into_shape<T: Clone>(array: ArrayD<T>, dims: &[usize]) -> Option<ArrayD<T>> {
    let array = if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() };
    array.into_shape_with_order(IxDyn(dims)).ok()
}

/// A layer with weights: `y = alpha · x ∗ W + beta · b`, with ∗ the product of its kind.
#[derive(Clone, Debug)]
pub struct WeightedLayer {
    /// The op
    pub op: OpId,
    /// Its product
    pub kind: LayerKind,
    /// What numbers it takes
    pub operands: Operands,
    /// What it reads
    pub x: ValueId,
    /// Its weight
    pub weight: ValueId,
    /// Which input of the op that is
    pub weight_input: usize,
    /// The bias that it adds itself
    pub bias: Option<ValueId>,
    /// Which input of the op that is, or would be; `None`: it has none
    pub bias_input: Option<usize>,
    /// What it gives
    pub y: ValueId,
    /// How its weight is laid out
    pub layout: WeightLayout,
    /// Factor of the product; 1 but for a Gemm
    pub alpha: f32,
    /// Factor of the bias; 1 but for a Gemm
    pub beta: f32,
    /// Whether a Gemm transposes `x`
    pub trans_a: bool,
}

/// The Add behind a layer, which is its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedBias {
    /// The Add
    pub add: OpId,
    /// Which of its inputs the bias is
    pub input: usize,
    /// The bias
    pub bias: ValueId,
    /// What it gives
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

    /// The sizes of its weight, by its type; `None` when they are not known or impossible.
    pub fn shape(&self, graph: &Graph) -> Option<WeightShape> {
        self.layout.shape(&graph.ty(self.weight)?.dims()?)
    }

    /// The axis of its output that runs over the output channels, of `rank` axes; `None` for a rank that it cannot have.
    pub fn channel_axis(&self, rank: usize) -> Option<usize> {
        match self.kind {
            LayerKind::Conv | LayerKind::ConvTranspose => (rank >= 3).then_some(1),
            LayerKind::Gemm => (rank == 2).then_some(1),
            LayerKind::MatMul => (rank >= 2).then(|| rank - 1),
        }
    }

    /// The Add that alone reads what it gives, and what that adds.
    pub fn added_bias(&self, graph: &Graph) -> Option<AddedBias> {
        let (add, index) = graph.only_use(self.y)?;
        let sum = Binary::of(graph, add).filter(|binary| binary.kind == BinaryKind::Add)?;
        let (input, bias) = if index == 0 { (1, sum.b) } else { (0, sum.a) };
        Some(AddedBias { add, input, bias, sum: sum.y })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array;

    use super::*;
    use crate::text::parse_graph;

    fn layer(text: &str) -> Option<WeightedLayer> {
        let graph = parse_graph(text, 17).expect("a graph").graph;
        WeightedLayer::of(&graph, graph.ops()[0])
    }

    /// The numbers 0, 1, … in these dimensions.
    fn counted(dims: &[usize]) -> ArrayD<f64> {
        Array::from_iter((0..dims.iter().product::<usize>()).map(|k| k as f64))
            .into_shape_with_order(IxDyn(dims))
            .expect("as many numbers")
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
    fn sizes_follow_from_the_layout() {
        let conv = WeightLayout::Conv { groups: 2 }.shape(&[6, 2, 3, 3]).expect("sizes");
        assert_eq!((conv.outputs, conv.inputs, conv.channels(), conv.row(), conv.is_depthwise()), (6, 2, 4, 18, false));
        assert!(WeightLayout::Conv { groups: 6 }.shape(&[6, 1, 3]).is_some_and(|shape| shape.is_depthwise()));
        let transposed = WeightLayout::ConvTranspose { groups: 2 }.shape(&[4, 3, 2]).expect("sizes");
        assert_eq!((transposed.outputs, transposed.inputs, transposed.row()), (6, 2, 4));
        let matrix = WeightLayout::Matrix { transposed: true }.shape(&[5, 7]).expect("sizes");
        assert_eq!((matrix.outputs, matrix.inputs, matrix.is_depthwise()), (5, 7, false));
        let impossible: [(WeightLayout, &[usize]); 5] = [
            (WeightLayout::Conv { groups: 1 }, &[6, 2]),
            (WeightLayout::Conv { groups: 4 }, &[6, 2, 3]),
            (WeightLayout::ConvTranspose { groups: 3 }, &[4, 2, 3]),
            (WeightLayout::Matrix { transposed: false }, &[4]),
            (WeightLayout::Matrix { transposed: false }, &[2, 4, 4]),
        ];
        for (layout, dims) in impossible {
            assert_eq!(layout.shape(dims), None, "{layout:?} {dims:?}");
        }
        assert!(WeightLayout::Conv { groups: 1 }.rows(counted(&[6, 2]), RowOrder::ChannelsFirst).is_none());
        assert!(WeightLayout::Matrix { transposed: true }.rows(counted(&[6]), RowOrder::ChannelsFirst).is_none());
    }

    #[test]
    fn rows_are_output_channels_in_either_order() {
        let conv = WeightLayout::Conv { groups: 1 };
        let rows = conv.rows(counted(&[2, 3, 2]), RowOrder::ChannelsFirst).expect("rows");
        assert_eq!(rows.row(1).to_vec(), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let rows = conv.rows(counted(&[2, 3, 2]), RowOrder::ChannelsLast).expect("rows");
        assert_eq!(rows.row(1).to_vec(), [6.0, 8.0, 10.0, 7.0, 9.0, 11.0]);
        // Output 2 is column 0 of the second group, which has the input channels 2 and 3.
        let rows = WeightLayout::ConvTranspose { groups: 2 }.rows(counted(&[4, 2, 3]), RowOrder::ChannelsFirst);
        assert_eq!(rows.expect("rows").row(2).to_vec(), [12.0, 13.0, 14.0, 18.0, 19.0, 20.0]);
        let rows = WeightLayout::Matrix { transposed: false }.rows(counted(&[2, 3]), RowOrder::ChannelsLast);
        assert_eq!(rows.expect("rows"), ndarray::array![[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
        let stack = WeightLayout::Matrix { transposed: false }.rows(counted(&[2, 2, 2]), RowOrder::ChannelsFirst);
        assert_eq!(stack.expect("rows").column(1).to_vec(), [2.0, 3.0, 6.0, 7.0]);
    }

    #[test]
    fn a_tensor_comes_back_from_its_rows() {
        let layouts: [(WeightLayout, &[usize]); 6] = [
            (WeightLayout::Conv { groups: 2 }, &[4, 3, 2, 5]),
            (WeightLayout::ConvTranspose { groups: 1 }, &[4, 3, 2, 5]),
            (WeightLayout::ConvTranspose { groups: 2 }, &[4, 3, 2, 5]),
            (WeightLayout::Matrix { transposed: false }, &[4, 3]),
            (WeightLayout::Matrix { transposed: true }, &[4, 3]),
            (WeightLayout::Matrix { transposed: false }, &[2, 4, 3]),
        ];
        for (layout, dims) in layouts {
            for order in [RowOrder::ChannelsFirst, RowOrder::ChannelsLast] {
                let rows = layout.rows(counted(dims), order).expect("rows");
                assert!(rows.is_standard_layout());
                assert_eq!(layout.from_rows(rows, dims, order), Some(counted(dims)), "{layout:?} {dims:?} {order:?}");
            }
        }
        let short = ndarray::Array2::<i8>::zeros((3, 6));
        assert_eq!(WeightLayout::Conv { groups: 1 }.from_rows(short, &[4, 3, 2], RowOrder::ChannelsLast), None);
    }

    #[test]
    fn scaling_an_output_scales_its_row() {
        let layouts: [(WeightLayout, &[usize]); 5] = [
            (WeightLayout::Conv { groups: 2 }, &[4, 3, 2]),
            (WeightLayout::ConvTranspose { groups: 1 }, &[3, 4, 2]),
            (WeightLayout::ConvTranspose { groups: 2 }, &[6, 2, 2]),
            (WeightLayout::Matrix { transposed: false }, &[3, 4]),
            (WeightLayout::Matrix { transposed: true }, &[4, 3]),
        ];
        let factors = [2.0, -1.0, 0.5, 3.0];
        for (layout, dims) in layouts {
            let mut scaled = counted(dims);
            layout.scale_outputs(&mut scaled, &factors).expect("four outputs");
            let mut rows = layout.rows(counted(dims), RowOrder::ChannelsFirst).expect("rows");
            rows.outer_iter_mut().zip(factors).for_each(|(mut row, factor)| row *= factor);
            assert_eq!(layout.rows(scaled, RowOrder::ChannelsFirst), Some(rows), "{layout:?} {dims:?}");
        }
        let mut weight = counted(&[4, 3]);
        assert_eq!(WeightLayout::Matrix { transposed: false }.scale_outputs(&mut weight, &factors), None);
        assert_eq!(weight, counted(&[4, 3]));
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
