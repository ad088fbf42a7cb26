//! Which channels hang together, as `--prune` sees them: on the model that the lossless passes leave.
use onnx_shrink_ir::Graph;
use onnx_shrink_passes::prune::Groups;
use serde::Serialize;

/// Channels that some ops make, and that go together with all that reads them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelGroup {
    /// The ops that make them, in the order of the graph
    pub producers: Vec<String>,
    /// The ops with weights that read them
    pub consumers: Vec<String>,
    /// How many sets of channels there are of which each goes whole or not at all
    pub channels: usize,
    /// How many of those may go
    pub free: usize,
    /// Why not all may; `None` when all may
    pub frozen: Option<String>,
}

/// The groups of `graph`, in its order; bodies aside.
pub(super) fn groups(graph: &Graph) -> Vec<ChannelGroup> {
    let groups = Groups::of(graph);
    let label = |op| graph.label_of(op).to_owned();
    let line = |group: &onnx_shrink_passes::prune::Group| ChannelGroup {
        producers: group.producers.iter().map(|&op| label(op)).collect(),
        consumers: group.consumers.iter().map(|&consumer| label(groups.consumers[consumer].op)).collect(),
        channels: group.units.len(),
        free: if group.frozen.is_some() { 0 } else { groups.free(group).len() },
        frozen: group
            .frozen
            .clone()
            .or_else(|| group.units.iter().find_map(|&unit| groups.reason(unit)).map(str::to_owned)),
    };
    groups.groups.iter().map(line).collect()
}
