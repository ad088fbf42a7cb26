//! Pools.
use super::{AutoPad, Reader};
use crate::graph::{Graph, OpId, ValueId};

/// `MaxPool` without indices. Padding never wins.
#[derive(Clone, Debug)]
pub struct MaxPool {
    /// Input of shape [N, C, d…]
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Window, one per spatial axis
    pub kernel_shape: Vec<i64>,
    /// One per spatial axis
    pub strides: Vec<i64>,
    /// Begins, then ends
    pub pads: Vec<i64>,
    /// One per spatial axis
    pub dilations: Vec<i64>,
    /// Whether the output's size is rounded up
    pub ceil_mode: bool,
    /// How `pads` is found
    pub auto_pad: AutoPad,
    /// Whether indices, which this view has not, would count column by column
    pub column_major: bool,
}

/// `AveragePool`.
#[derive(Clone, Debug)]
pub struct AveragePool {
    /// Input of shape [N, C, d…]
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// Window, one per spatial axis
    pub kernel_shape: Vec<i64>,
    /// One per spatial axis
    pub strides: Vec<i64>,
    /// Begins, then ends
    pub pads: Vec<i64>,
    /// One per spatial axis
    pub dilations: Vec<i64>,
    /// Whether the output's size is rounded up
    pub ceil_mode: bool,
    /// Whether padding counts as zeros in the mean
    pub count_include_pad: bool,
    /// How `pads` is found
    pub auto_pad: AutoPad,
}

/// kernel_shape, strides, pads, dilations, ceil_mode, auto_pad.
type Window = (Vec<i64>, Vec<i64>, Vec<i64>, Vec<i64>, bool, AutoPad);

fn window(reader: &mut Reader<'_>) -> Option<Window> {
    let kernel = reader.ints("kernel_shape")??;
    let rank = kernel.len();
    let strides = reader.ints("strides")?.unwrap_or_else(|| vec![1; rank]);
    let pads = reader.ints("pads")?.unwrap_or_else(|| vec![0; 2 * rank]);
    let dilations = reader.ints("dilations")?.unwrap_or_else(|| vec![1; rank]);
    let ceil_mode = reader.flag("ceil_mode")?;
    let auto_pad = AutoPad::parse(reader.string("auto_pad")?)?;
    let fits = strides.len() == rank && pads.len() == 2 * rank && dilations.len() == rank;
    fits.then_some((kernel, strides, pads, dilations, ceil_mode, auto_pad))
}

impl MaxPool {
    /// The op as a `MaxPool`; `None` when it is none, gives indices, or is not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<MaxPool> {
        let mut reader = Reader::of(graph, op, "MaxPool")?;
        let (kernel_shape, strides, pads, dilations, ceil_mode, auto_pad) = window(&mut reader)?;
        let column_major = reader.flag("storage_order")?;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        Some(MaxPool { x, y, kernel_shape, strides, pads, dilations, ceil_mode, auto_pad, column_major })
    }
}

impl AveragePool {
    /// The op as an `AveragePool`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<AveragePool> {
        let mut reader = Reader::of(graph, op, "AveragePool")?;
        let (kernel_shape, strides, pads, dilations, ceil_mode, auto_pad) = window(&mut reader)?;
        let count_include_pad = reader.flag("count_include_pad")?;
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(1, 1)?;
        Some(AveragePool { x, y, kernel_shape, strides, pads, dilations, ceil_mode, count_include_pad, auto_pad })
    }
}
