//! Convolutions.
use super::{Reader, set, set_int, set_ints};
use crate::{
    attributes,
    graph::{Graph, NewOp, OpId, ValueId},
};

/// How a convolution or a pool finds its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoPad {
    /// As `pads` says
    NotSet,
    /// Output size is input size over stride, rounded up; the odd cell at the end
    SameUpper,
    /// The same with the odd cell at the beginning
    SameLower,
    /// None
    Valid,
}

impl AutoPad {
    pub(super) fn parse(text: Option<&str>) -> Option<AutoPad> {
        Some(match text {
            None | Some("NOTSET") => AutoPad::NotSet,
            Some("SAME_UPPER") => AutoPad::SameUpper,
            Some("SAME_LOWER") => AutoPad::SameLower,
            Some("VALID") => AutoPad::Valid,
            Some(_) => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            AutoPad::NotSet => "NOTSET",
            AutoPad::SameUpper => "SAME_UPPER",
            AutoPad::SameLower => "SAME_LOWER",
            AutoPad::Valid => "VALID",
        }
    }
}

/// `Conv`: `y[n, m, …] = Σ x[n, c, …] · w[m, c, …] + b[m]`, `w` of shape [M, C/group, k…].
#[derive(Clone, Debug)]
pub struct Conv {
    /// Input of shape [N, C, d…]
    pub x: ValueId,
    /// Weights of shape [M, C/group, k…]
    pub w: ValueId,
    /// Bias of shape `[M]`
    pub b: Option<ValueId>,
    /// Output of shape [N, M, …]
    pub y: ValueId,
    /// Groups of channels
    pub group: i64,
    /// One per spatial axis
    pub strides: Vec<i64>,
    /// Begins, then ends, of the spatial axes
    pub pads: Vec<i64>,
    /// One per spatial axis
    pub dilations: Vec<i64>,
    /// Spatial shape of the kernel, when the node states it
    pub kernel_shape: Option<Vec<i64>>,
    /// How `pads` is found
    pub auto_pad: AutoPad,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

/// What `Conv` and `ConvTranspose` share.
struct Window {
    group: i64,
    strides: Vec<i64>,
    pads: Vec<i64>,
    dilations: Vec<i64>,
    kernel_shape: Option<Vec<i64>>,
    auto_pad: AutoPad,
    rank: usize,
}

/// The spatial rank comes from the weights, or from any attribute that has it; `None` when nothing tells it.
fn window(reader: &mut Reader<'_>, w: ValueId) -> Option<Window> {
    let kernel_shape = reader.ints("kernel_shape")?;
    let strides = reader.ints("strides")?;
    let dilations = reader.ints("dilations")?;
    let pads = reader.ints("pads")?;
    let group = reader.int_or("group", 1)?;
    let auto_pad = AutoPad::parse(reader.string("auto_pad")?)?;
    let from_type = reader.graph.ty(w).and_then(|ty| ty.rank()).map(|rank| rank.checked_sub(2));
    let rank = match from_type {
        Some(rank) => rank?,
        None => [&kernel_shape, &strides, &dilations].into_iter().flatten().next()?.len(),
    };
    let strides = strides.unwrap_or_else(|| vec![1; rank]);
    let dilations = dilations.unwrap_or_else(|| vec![1; rank]);
    let pads = pads.unwrap_or_else(|| vec![0; 2 * rank]);
    let lengths = strides.len() == rank && dilations.len() == rank && pads.len() == 2 * rank;
    let kernel = kernel_shape.as_ref().is_none_or(|kernel| kernel.len() == rank);
    let positive = group > 0 && strides.iter().chain(&dilations).all(|&number| number > 0);
    (lengths && kernel && positive).then_some(Window { group, strides, pads, dilations, kernel_shape, auto_pad, rank })
}

impl Conv {
    /// The op as a `Conv`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Conv> {
        let mut reader = Reader::of(graph, op, "Conv")?;
        let (x, w, b) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.input(2));
        let y = reader.op.output(0)?;
        let Window { group, strides, pads, dilations, kernel_shape, auto_pad, .. } = window(&mut reader, w)?;
        let node = reader.finish(3, 1)?;
        Some(Conv { x, w, b, y, group, strides, pads, dilations, kernel_shape, auto_pad, node })
    }

    /// The node; its inputs are x, w and b.
    pub fn to_op(&self) -> NewOp {
        let mut node = self.node.clone();
        set_int(&mut node, "group", self.group, 1);
        set_ints(&mut node, "strides", &self.strides, 1);
        set_ints(&mut node, "pads", &self.pads, 0);
        set_ints(&mut node, "dilations", &self.dilations, 1);
        if let Some(kernel_shape) = &self.kernel_shape {
            set(&mut node, attributes::ints("kernel_shape", kernel_shape), false);
        }
        set(&mut node, attributes::string("auto_pad", self.auto_pad.name()), self.auto_pad == AutoPad::NotSet);
        node
    }
}

/// `ConvTranspose`, `w` of shape [C, M/group, k…].
#[derive(Clone, Debug)]
pub struct ConvTranspose {
    /// Input of shape [N, C, d…]
    pub x: ValueId,
    /// Weights of shape [C, M/group, k…]; output channel `g·M/group + j` is made by rows of group `g`, column `j`
    pub w: ValueId,
    /// Bias of shape `[M]`
    pub b: Option<ValueId>,
    /// Output of shape [N, M, …]
    pub y: ValueId,
    /// Groups of channels
    pub group: i64,
    /// One per spatial axis
    pub strides: Vec<i64>,
    /// Begins, then ends, of the spatial axes
    pub pads: Vec<i64>,
    /// One per spatial axis
    pub dilations: Vec<i64>,
    /// Added to the output's size, at the end of each spatial axis
    pub output_padding: Vec<i64>,
    /// Spatial shape of the output, when the node states it
    pub output_shape: Option<Vec<i64>>,
    /// Spatial shape of the kernel, when the node states it
    pub kernel_shape: Option<Vec<i64>>,
    /// How `pads` is found
    pub auto_pad: AutoPad,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl ConvTranspose {
    /// The op as a `ConvTranspose`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<ConvTranspose> {
        let mut reader = Reader::of(graph, op, "ConvTranspose")?;
        let (x, w, b) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.input(2));
        let y = reader.op.output(0)?;
        let Window { group, strides, pads, dilations, kernel_shape, auto_pad, rank } = window(&mut reader, w)?;
        let output_padding = reader.ints("output_padding")?.unwrap_or_else(|| vec![0; rank]);
        let output_shape = reader.ints("output_shape")?;
        let node = reader.finish(3, 1)?;
        (output_padding.len() == rank).then_some(ConvTranspose {
            x,
            w,
            b,
            y,
            group,
            strides,
            pads,
            dilations,
            output_padding,
            output_shape,
            kernel_shape,
            auto_pad,
            node,
        })
    }

    /// The node, attributes as in the file; its inputs are x, w and b.
    pub fn to_op(&self) -> NewOp {
        let mut node = self.node.clone();
        set_int(&mut node, "group", self.group, 1);
        set_ints(&mut node, "strides", &self.strides, 1);
        set_ints(&mut node, "pads", &self.pads, 0);
        set_ints(&mut node, "dilations", &self.dilations, 1);
        set_ints(&mut node, "output_padding", &self.output_padding, 0);
        for (name, list) in [("output_shape", &self.output_shape), ("kernel_shape", &self.kernel_shape)] {
            if let Some(list) = list {
                set(&mut node, attributes::ints(name, list), false);
            }
        }
        set(&mut node, attributes::string("auto_pad", self.auto_pad.name()), self.auto_pad == AutoPad::NotSet);
        node
    }
}
