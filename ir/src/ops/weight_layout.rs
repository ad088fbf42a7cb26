//! Layouts of weights: which axes of the tensor are output and input channels; the tensor as a matrix of rows, and back.
//!
//! A matrix has **one row per output channel**, whatever the layout. **Never** guesses: a tensor of a rank that the layout
//! cannot have gives `None`.
use ndarray::{Array2, ArrayD, ArrayViewMutD, Axis, Ix2, IxDyn};

/// Layout of a weight's tensor.
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
    pub fn rows<T: Clone>(self, weight: ArrayD<T>, order: RowOrder) -> Option<Array2<T>> {
        let (apart, axes, outer) = self.rows_of(weight.shape(), order)?;
        let count: usize = axes[..outer].iter().map(|&axis| apart[axis]).product();
        let width: usize = axes[outer..].iter().map(|&axis| apart[axis]).product();
        let weight = into_shape(weight, &apart)?;
        into_shape(weight.permuted_axes(axes), &[count, width])?.into_dimensionality::<Ix2>().ok()
    }

    /// A weight of dimensions `dims` in standard layout, of the rows that [`WeightLayout::rows`] gives; `None` where they do
    /// not fit.
    pub fn from_rows<T: Clone>(self, rows: Array2<T>, dims: &[usize], order: RowOrder) -> Option<ArrayD<T>> {
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
        let scale = |mut part: ArrayViewMutD<'_, f64>, factors: &[f64]| {
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

#[cfg(test)]
mod tests {
    use ndarray::Array;

    use super::*;

    /// The numbers 0, 1, … in these dimensions.
    fn counted(dims: &[usize]) -> ArrayD<f64> {
        Array::from_iter((0..dims.iter().product::<usize>()).map(|k| k as f64))
            .into_shape_with_order(IxDyn(dims))
            .expect("as many numbers")
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
}
