//! A weighted op as a least-squares problem: rows of its input, rows of its output, and weights as a matrix.
//!
//! **Never** stands for an op whose weights or bias another op reads, too, or for grouped and transposed convolutions:
//! those keep their weights.
use std::ops::Range;

use ndarray::{Array2, ArrayD, IxDyn, s};
use onnx_shrink_ir::{
    Graph, OpId, Patch, Tensor, ValueId,
    ops::{AutoPad, Conv, LayerKind, RowOrder, WeightLayout, WeightedLayer},
};

use super::groups::{Groups, Unit};
use crate::numerics::solver::matrix;

/// A layer that can be solved for.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The op with the weights
    pub op: OpId,
    /// What it reads
    pub x: ValueId,
    /// What it gives, with its bias
    pub y: ValueId,
    /// The constant weights
    pub weight: ValueId,
    /// The constant vector that is added
    pub bias: Option<ValueId>,
    /// Numbers that one output is a sum of, the bias aside
    pub inputs: usize,
    /// Outputs
    pub outputs: usize,
    layout: WeightLayout,
    /// How a convolution moves its window; `None` for a product of matrices
    conv: Option<Box<Conv>>,
}

/// Which positions of a sample become rows: all, or evenly spread ones.
#[derive(Clone, Copy, Debug)]
pub struct Positions {
    /// At most so many
    pub most: usize,
    /// Where to begin among the positions that are left out
    pub offset: usize,
}

impl Positions {
    fn of(self, total: usize) -> impl Iterator<Item = usize> {
        let step = total.div_ceil(self.most.max(1)).max(1);
        (self.offset % step..total).step_by(step)
    }
}

impl Layer {
    /// The op as a layer; `None` when it is none that can be solved for.
    pub fn of(graph: &Graph, op: OpId) -> Option<Layer> {
        Layer::read(graph, op, false)
    }

    /// The same for who makes a new bias: others may read the old one of a Gemm or a convolution.
    pub fn with_any_bias(graph: &Graph, op: OpId) -> Option<Layer> {
        Layer::read(graph, op, true)
    }

    fn read(graph: &Graph, op: OpId, shares_bias: bool) -> Option<Layer> {
        let own = |value: ValueId, op: OpId| graph.only_use(value).is_some_and(|(reader, _)| reader == op);
        let layer = WeightedLayer::of_floats(graph, op).filter(WeightedLayer::is_plain)?;
        let tensor = layer.constant(graph).filter(|tensor| tensor.dtype().is_float() && own(layer.weight, op))?;
        let shape = layer.layout.shape(tensor.dims())?;
        let vector = |value: ValueId| {
            graph.constant(value).is_some_and(|bias| {
                bias.dims().last() == Some(&shape.outputs) && bias.dims().iter().product::<usize>() == shape.outputs
            })
        };
        let conv = match layer.kind {
            LayerKind::Conv => {
                let conv = Conv::of(graph, op).filter(|_| shape.groups == 1 && shape.kernel.len() <= 2)?;
                let kernel_shape = Some(shape.kernel.iter().map(|&side| side as i64).collect());
                Some(Box::new(Conv { kernel_shape, ..conv }))
            }
            LayerKind::ConvTranspose => return None,
            LayerKind::Gemm | LayerKind::MatMul => None,
        };
        let (bias, y) = if layer.kind == LayerKind::MatMul {
            let added = layer.added_bias(graph).filter(|added| vector(added.bias) && own(added.bias, added.add));
            added.map_or((None, layer.y), |added| (Some(added.bias), added.sum))
        } else {
            if layer.bias.is_some_and(|bias| !(shares_bias || own(bias, op)) || !vector(bias)) {
                return None;
            }
            (layer.bias, layer.y)
        };
        let (inputs, outputs) = (shape.row(), shape.outputs);
        Some(Layer { op, x: layer.x, y, weight: layer.weight, bias, inputs, outputs, layout: layer.layout, conv })
    }

    /// A convolution with a bias that is not there yet, of `channels` inputs and with the window of `conv`, as the op, its
    /// input and its output `at`. It has rows; weights are those of `conv`'s op until it is.
    pub(super) fn conv(conv: &Conv, at: (OpId, ValueId, ValueId), channels: usize, outputs: usize) -> Layer {
        let taps = conv.kernel_shape.iter().flatten().map(|&side| side as usize).product::<usize>();
        let (op, x, y) = at;
        let (bias, layout) = (Some(conv.b.unwrap_or(conv.w)), WeightLayout::Conv { groups: 1 });
        Layer {
            op,
            x,
            y,
            weight: conv.w,
            bias,
            inputs: channels * taps,
            outputs,
            layout,
            conv: Some(Box::new(conv.clone())),
        }
    }

    /// Numbers in a row: the inputs, and a 1 where there is a bias.
    pub fn row(&self) -> usize {
        self.inputs + usize::from(self.bias.is_some())
    }

    /// The axis of the weights that runs over the outputs.
    pub fn output_axis(&self) -> usize {
        let rank = 2 + self.conv.as_ref().map_or(0, |conv| conv.strides.len());
        self.layout.output_axis(rank).expect("a layer's weight has a rank that it can have")
    }

    /// The axis of `x` that is summed over.
    pub fn axis(&self, graph: &Graph) -> usize {
        match self.conv {
            Some(_) => 1,
            None => graph.ty(self.x).and_then(|ty| ty.rank()).map_or(1, |rank| rank.max(1) - 1),
        }
    }

    /// The columns that belong to position `place` along the channels of `x`.
    pub fn columns(&self, place: usize) -> Range<usize> {
        let kernel = self.conv.iter().flat_map(|conv| conv.kernel_shape.iter().flatten());
        let taps = kernel.map(|&side| side as usize).product::<usize>();
        place * taps..(place + 1) * taps
    }

    /// The columns whose channels `kept` says stay, and the bias's.
    pub fn kept_columns(&self, graph: &Graph, groups: &Groups, kept: impl Fn(Unit) -> bool) -> Vec<usize> {
        let axis = self.axis(graph);
        let mut columns: Vec<usize> = match groups.units_of(self.x, axis) {
            None => (0..self.inputs).collect(),
            Some(units) => {
                let places = units.iter().enumerate().filter(|(_, unit)| kept(**unit)).map(|(place, _)| place);
                places.flat_map(|place| self.columns(place)).collect()
            }
        };
        columns.extend(self.bias.map(|_| self.inputs));
        columns
    }

    /// The weights as a matrix of shape [row, outputs]; its last row is the bias, where there is one.
    pub fn weights(&self, graph: &Graph) -> Option<Array2<f64>> {
        let rows = self.layout.rows(graph.constant(self.weight)?.to_f64()?, RowOrder::ChannelsFirst)?;
        let bias = match self.bias {
            Some(bias) => graph.constant(bias)?.to_f64_vec()?,
            None => Vec::new(),
        };
        Some(matrix(self.row(), self.outputs, |i, j| if i < self.inputs { rows[(j, i)] } else { bias[j] }))
    }

    /// The edits that give the layer the weights `w`, of the shape that [`Layer::weights`] gives.
    pub fn set_weights(&self, graph: &Graph, w: &Array2<f64>, patch: &mut Patch) -> Option<()> {
        let old = graph.constant(self.weight)?;
        if w.dim() != (self.row(), self.outputs) {
            return None;
        }
        let rows = w.slice(s![..self.inputs, ..]).reversed_axes().as_standard_layout().into_owned();
        let array = self.layout.from_rows(rows, old.dims(), RowOrder::ChannelsFirst)?;
        patch.set_constant(self.weight, Tensor::from_f64(old.dtype(), &array)?);
        if let Some(bias) = self.bias {
            let old = graph.constant(bias)?;
            let numbers = (0..self.outputs).map(|j| w[(self.inputs, j)]).collect();
            let array = ArrayD::from_shape_vec(IxDyn(old.dims()), numbers).ok()?;
            patch.set_constant(bias, Tensor::from_f64(old.dtype(), &array)?);
        }
        Some(())
    }

    /// Rows of what the layer gives, from its output or anything of that shape; row-major, `outputs` numbers each.
    pub fn target_rows(&self, y: &[f32], dims: &[usize], positions: Positions) -> Vec<f64> {
        let mut rows = Vec::new();
        match self.conv {
            Some(_) => {
                let area: usize = dims[2..].iter().product();
                let channels = dims[1];
                for image in y.chunks_exact((channels * area).max(1)) {
                    for place in positions.of(area) {
                        rows.extend((0..channels).map(|channel| f64::from(image[channel * area + place])));
                    }
                }
            }
            None => {
                let width = dims.last().copied().unwrap_or(1).max(1);
                for place in positions.of(y.len() / width) {
                    rows.extend(y[place * width..(place + 1) * width].iter().map(|&y| f64::from(y)));
                }
            }
        }
        rows
    }

    /// Rows of what the layer sums over; row-major, [`Layer::row`] numbers each. `area` is the shape of the output's
    /// spatial axes. `None` when the tensor is not what the layer reads.
    pub fn input_rows(&self, x: &Tensor, area: &[usize], positions: Positions) -> Option<Vec<f64>> {
        let numbers = x.as_slice::<f32>()?;
        let mut rows = Vec::new();
        let one = self.bias.map(|_| 1.0);
        match &self.conv {
            None => {
                let count = numbers.len().checked_div(self.inputs)?;
                for place in positions.of(count) {
                    rows.extend(numbers[place * self.inputs..(place + 1) * self.inputs].iter().map(|&x| f64::from(x)));
                    rows.extend(one);
                }
            }
            Some(conv) => {
                let window = Window::of(conv, x.dims(), area)?;
                let [channels, height, width] = window.input;
                let total = window.output[0] * window.output[1];
                for image in numbers.chunks_exact((channels * height * width).max(1)) {
                    for place in positions.of(total) {
                        let at = [place / window.output[1], place % window.output[1]];
                        let start = |axis: usize| at[axis] as i64 * window.strides[axis] - window.begins[axis];
                        let (top, left) = (start(0), start(1));
                        for channel in 0..channels {
                            for i in 0..window.kernel[0] {
                                let row = top + i as i64 * window.dilations[0];
                                for j in 0..window.kernel[1] {
                                    let column = left + j as i64 * window.dilations[1];
                                    let inside =
                                        (0..height as i64).contains(&row) && (0..width as i64).contains(&column);
                                    let index =
                                        (channel * height + row.max(0) as usize) * width + column.max(0) as usize;
                                    rows.push(if inside { f64::from(image[index]) } else { 0.0 });
                                }
                            }
                        }
                        rows.extend(one);
                    }
                }
            }
        }
        Some(rows)
    }
}

/// A convolution on an input of known size, with two spatial axes.
struct Window {
    /// Channels, height, width
    input: [usize; 3],
    output: [usize; 2],
    kernel: [usize; 2],
    strides: [i64; 2],
    dilations: [i64; 2],
    begins: [i64; 2],
}

impl Window {
    fn of(conv: &Conv, dims: &[usize], area: &[usize]) -> Option<Window> {
        let rank = conv.strides.len();
        let &[_, channels, ref space @ ..] = dims else { return None };
        if space.len() != rank || area.len() != rank || channels == 0 {
            return None;
        }
        // The axes of a signal are the second of an image of height 1.
        let two = |list: Vec<i64>, missing: i64| if rank == 1 { [missing, list[0]] } else { [list[0], list[1]] };
        let size = |list: &[usize]| list.iter().map(|&k| k as i64).collect::<Vec<i64>>();
        let (space, area) = (two(size(space), 1), two(size(area), 1));
        let (strides, dilations) = (two(conv.strides.clone(), 1), two(conv.dilations.clone(), 1));
        let kernel = two(conv.kernel_shape.clone()?, 1);
        let begin = |axis: usize| {
            let total =
                ((area[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - space[axis]).max(0);
            match conv.auto_pad {
                AutoPad::NotSet => two(conv.pads[..rank].to_vec(), 0)[axis],
                AutoPad::Valid => 0,
                AutoPad::SameUpper => total / 2,
                AutoPad::SameLower => total - total / 2,
            }
        };
        let unsigned = |k: i64| usize::try_from(k).unwrap_or(0);
        Some(Window {
            input: [channels, unsigned(space[0]), unsigned(space[1])],
            output: [unsigned(area[0]), unsigned(area[1])],
            kernel: [unsigned(kernel[0]), unsigned(kernel[1])],
            strides,
            dilations,
            begins: [begin(0), begin(1)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Layer, Positions};
    use crate::testing::{Reference, parse, seeded};
    use onnx_shrink_ir::{DataType, Evaluate};

    /// Rows times weights are what the op gives, for each form of a layer.
    #[test]
    fn rows_times_weights_are_the_output() {
        for (model, dims) in [
            (
                "g (float[1,2,5,4] x) => (float[1,3,3,2] y) <float[3,2,3,2] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,
                7,8,9,1,2,3,4,5,6,7,8,9}, float[3] b = {1,2,3}> {
                y = Conv <kernel_shape = [3, 2], pads = [1,0,0,1], strides = [2, 2], dilations = [1, 2]> (x, w, b) }",
                vec![1, 2, 5, 4],
            ),
            (
                "g (float[2,1,6] x) => (float[2,2,6] y) <float[2,1,3] w = {1,2,3,4,5,6}> {
                y = Conv <auto_pad = \"SAME_UPPER\"> (x, w) }",
                vec![2, 1, 6],
            ),
            (
                "g (float[2,3] x) => (float[2,2] y) <float[2,3] w = {1,2,3,4,5,6}, float[2] b = {1,2}> {
                y = Gemm <transB = 1> (x, w, b) }",
                vec![2, 3],
            ),
            (
                "g (float[2,2,3] x) => (float[2,2,2] y) <float[3,2] w = {1,2,3,4,5,6}, float[2] b = {1,2}> {
                m = MatMul (x, w)  y = Add (m, b) }",
                vec![2, 2, 3],
            ),
        ] {
            let graph = parse(model).graph;
            let layer = Layer::of(&graph, graph.ops()[0]).expect("a layer");
            let x = seeded(DataType::Float, &dims, "x", 1).expect("a tensor");
            let ready = Reference.prepare(&graph).expect("it runs");
            let y = ready.run(&[Some(x.clone())], &mut |_, _| {}).expect("it runs").remove(0);
            for positions in [Positions { most: usize::MAX, offset: 0 }, Positions { most: 2, offset: 1 }] {
                let area = &y.dims()[2.min(y.dims().len())..];
                let rows = layer.input_rows(&x, area, positions).expect("rows");
                let targets = layer.target_rows(&y.as_slice::<f32>().expect("floats"), y.dims(), positions);
                let weights = layer.weights(&graph).expect("weights");
                assert_eq!(rows.len() / layer.row(), targets.len() / layer.outputs, "{model}");
                for (row, target) in rows.chunks(layer.row()).zip(targets.chunks(layer.outputs)) {
                    for (j, target) in target.iter().enumerate() {
                        let sum: f64 = row.iter().enumerate().map(|(i, x)| x * weights[(i, j)]).sum();
                        assert!((sum - target).abs() < 1e-4, "{sum} is not {target} in {model}");
                    }
                }
            }
        }
    }
}
