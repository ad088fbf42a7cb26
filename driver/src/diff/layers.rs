//! Layers with weights: how many channels an op makes and reads, and its multiply-adds.
use onnx_shrink_ir::{
    Dim, TensorType, multiply_adds,
    ops::{WeightLayout, WeightedLayer},
};

use super::{change::Detail, constants::Computed, index::Index, view::View};

/// Name of the detail that holds multiply-adds before and after, as plain numbers.
pub const WORK: &str = "multiply-adds";

/// What a layer makes of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Channels that it makes
    pub channels: usize,
    /// Channels that it reads, those of all groups together
    pub inputs: usize,
}

/// Where a float op's input `port` stands in its integer form.
pub(super) fn integer_port(op_type: &str, port: usize) -> usize {
    match (op_type.rsplit('.').next().unwrap_or(op_type), port) {
        ("QLinearConv", 2) => 8,
        ("QGemm", 2) => 6,
        (name, 1) if name.starts_with("QLinear") || name == "QGemm" => 3,
        _ => port,
    }
}

/// The size of op `place`, when its weights are constant.
pub(super) fn size(index: &Index<'_>, computed: &Computed, place: usize) -> Option<Size> {
    let op = index.op(place);
    let kind = index.type_of(place);
    let port = integer_port(&kind, 1);
    let dims = computed.tensor(index, *index.inputs[place].get(port)?)?.dims();
    let layout = match WeightedLayer::of(index.graph, index.ops[place]) {
        Some(layer) => layer.layout,
        None if op.op_type() == "QGemm" => WeightLayout::Matrix { transposed: op.int("transB") == Some(1) },
        None => return None,
    };
    let shape = layout.shape(dims)?;
    Some(Size { channels: shape.outputs, inputs: shape.channels() })
}

/// "channels 32 → 24, inputs 16 → 12": what differs; `None` when nothing does or it cannot be told.
pub(super) fn resized(view: &View<'_, '_>, a: usize, b: usize) -> Option<String> {
    let (before, after) = (size(view.a, &view.computed_a, a)?, size(view.b, &view.computed_b, b)?);
    let part =
        |name: &str, before: usize, after: usize| (before != after).then(|| format!("{name} {before} → {after}"));
    let parts: Vec<String> =
        [part("channels", before.channels, after.channels), part("inputs", before.inputs, after.inputs)]
            .into_iter()
            .flatten()
            .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Multiply-adds of the ops `places` together, with open dimensions as 1.
fn work_of(index: &Index<'_>, places: &[usize]) -> Option<u64> {
    let length = |dim: &Dim| match dim {
        Dim::Known(length) => *length,
        _ => 1,
    };
    let dims = |value| match index.graph.constant(value) {
        Some(constant) => Some(constant.dims().to_vec()),
        None => {
            index.graph.ty(value).and_then(|ty: &TensorType| ty.shape.as_ref()).map(|s| s.iter().map(length).collect())
        }
    };
    places.iter().map(|&place| multiply_adds(index.graph, index.ops[place], &dims)).sum()
}

/// Multiply-adds of some ops of A and of what they are in B; `None` when they are equal or not known.
pub(super) fn work(view: &View<'_, '_>, a: &[usize], b: &[usize]) -> Option<Detail> {
    let (before, after) = (work_of(view.a, a)?, work_of(view.b, b)?);
    let detail = |before: u64, after: u64| Detail::Value {
        name: WORK.to_owned(),
        before: before.to_string(),
        after: after.to_string(),
    };
    (before != after).then(|| detail(before, after))
}
