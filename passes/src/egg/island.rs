//! Islands: groups of neighbouring ops that the rules know, each small enough for an e-graph.
//!
//! Only ONNX's own ops with one output and without bodies belong to one. What they read from elsewhere is a leaf; what
//! others read of them (ops, bodies, graph outputs) is a root, and **never** disappears. Cutting is by a walk in
//! topological order, so it is the same on every run; a pattern that lies across a cut is not found.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use egg::{Id, Language};
use onnx_shrink_ir::{
    Graph, OpId, Use, ValueId,
    ops::{self, axis_from_front},
};

use super::{
    EGraph,
    analysis::Facts,
    language::{Attr, Kind, Node, OpKind, Span},
};

/// Ops of one island; with their leaves they are about 300 nodes.
pub const ISLAND_OPS: usize = 150;

/// A child of an op, as the graph has it.
#[derive(Clone, Debug)]
pub enum Child {
    /// An attribute
    Attr(Attr),
    /// An input
    Value(ValueId),
}

/// An op as the rules see it; `None` when they do not.
pub fn form(graph: &Graph, op: OpId) -> Option<(OpKind, Vec<Child>)> {
    let node = graph.op(op);
    let known = node.domain().is_empty() && node.regions().is_empty() && node.outputs().len() == 1;
    let kind = OpKind::of(node.op_type()).filter(|_| known)?;
    node.output(0)?;
    let input = |index: usize| node.input(index).map(Child::Value);
    let optional = |index: usize| input(index).unwrap_or(Child::Attr(Attr::Absent));
    let has_inputs = |count: usize| (node.inputs().len() == count).then_some(());
    let plain = || node.attributes().is_empty().then_some(());
    let children = match kind {
        OpKind::Abs
        | OpKind::Erf
        | OpKind::Exp
        | OpKind::Neg
        | OpKind::Not
        | OpKind::Relu
        | OpKind::Sigmoid
        | OpKind::Sqrt
        | OpKind::Tanh => {
            plain()?;
            has_inputs(1)?;
            vec![input(0)?]
        }
        OpKind::HardSigmoid | OpKind::LeakyRelu | OpKind::Softmax => {
            has_inputs(1)?;
            let known = ops::HardSigmoid::of(graph, op).is_some()
                || ops::LeakyRelu::of(graph, op).is_some()
                || ops::Softmax::of(graph, op).is_some();
            known.then_some(())?;
            vec![Child::Attr(Attr::Other(format!("{:?}", node.attributes()))), input(0)?]
        }
        OpKind::Add | OpKind::Sub | OpKind::Mul | OpKind::Div => {
            let binary = ops::Binary::of(graph, op)?;
            vec![Child::Value(binary.a), Child::Value(binary.b)]
        }
        OpKind::Cast => {
            let cast = ops::Cast::of(graph, op).filter(|_| node.attributes().len() == 1)?;
            vec![Child::Attr(Attr::To(cast.to)), Child::Value(cast.x)]
        }
        OpKind::Clip if graph.opset() < 11 => {
            let clip = ops::Clip::of(graph, op).filter(|_| node.inputs().len() == 1)?;
            let bound = |bound: Option<f64>| bound.map_or(Attr::Absent, |bound| Attr::Bound((bound as f32).to_bits()));
            vec![Child::Value(clip.x), Child::Attr(bound(clip.min)), Child::Attr(bound(clip.max))]
        }
        OpKind::Clip => {
            plain()?;
            vec![input(0)?, optional(1), optional(2)]
        }
        OpKind::QuantizeLinear | OpKind::DequantizeLinear => {
            if node.attributes().iter().any(|attribute| !matches!(attribute.name(), "axis" | "saturate")) {
                return None;
            }
            let attributes = Attr::Other(format!("{:?}", node.attributes()));
            vec![Child::Attr(attributes), input(0)?, input(1)?, optional(2)]
        }
        OpKind::Transpose => {
            let transpose = ops::Transpose::of(graph, op)?;
            vec![Child::Attr(Attr::Perm(transpose.perm)), Child::Value(transpose.x)]
        }
        OpKind::Reshape => {
            let reshape = ops::Reshape::of(graph, op).filter(|_| graph.opset() >= 5)?;
            let zeros = graph
                .constant(reshape.shape)
                .and_then(|shape| shape.to_i64_vec())
                .is_none_or(|shape| shape.contains(&0));
            if reshape.allowzero && zeros {
                return None;
            }
            vec![Child::Value(reshape.x), Child::Value(reshape.shape)]
        }
        OpKind::Squeeze => {
            let squeeze = ops::Squeeze::of(graph, op)?;
            let axes = from_front(&squeeze.axes?, rank(graph, squeeze.x))?;
            vec![Child::Attr(Attr::Axes(axes)), Child::Value(squeeze.x)]
        }
        OpKind::Unsqueeze => {
            let unsqueeze = ops::Unsqueeze::of(graph, op)?;
            let rank = rank(graph, unsqueeze.x).map(|rank| rank + unsqueeze.axes.len());
            vec![Child::Attr(Attr::Axes(from_front(&unsqueeze.axes, rank)?)), Child::Value(unsqueeze.x)]
        }
        OpKind::Flatten => {
            let flatten = ops::Flatten::of(graph, op)?;
            vec![Child::Attr(Attr::Axis(flatten.axis)), Child::Value(flatten.x)]
        }
        OpKind::Concat => {
            let concat = ops::Concat::of(graph, op).filter(|_| graph.opset() >= 4)?;
            let rank = rank(graph, concat.y).or_else(|| rank(graph, *concat.inputs.first()?));
            let axis =
                rank.and_then(|rank| axis_from_front(concat.axis, rank)).and_then(|axis| i64::try_from(axis).ok());
            let axis = Child::Attr(Attr::Axis(axis.unwrap_or(concat.axis)));
            std::iter::once(axis).chain(concat.inputs.into_iter().map(Child::Value)).collect()
        }
        OpKind::Slice => {
            let slice = ops::Slice::of(graph, op)?;
            vec![Child::Attr(Attr::Spans(spans(graph, &slice)?)), Child::Value(slice.x)]
        }
    };
    Some((kind, children))
}

fn rank(graph: &Graph, value: ValueId) -> Option<usize> {
    graph.ty(value)?.rank()
}

/// `axes` from the front, ascending; `None` when one is counted from the back of an unknown rank, or stands twice.
fn from_front(axes: &[i64], rank: Option<usize>) -> Option<Vec<usize>> {
    let place = |&axis: &i64| match rank {
        Some(rank) => axis_from_front(axis, rank),
        None => usize::try_from(axis).ok(),
    };
    let sorted: BTreeSet<usize> = axes.iter().map(place).collect::<Option<_>>()?;
    (sorted.len() == axes.len()).then(|| sorted.into_iter().collect())
}

/// What a Slice takes, by ascending axis; `None` for a step below 1.
fn spans(graph: &Graph, slice: &ops::Slice) -> Option<Vec<Span>> {
    let dims = graph.ty(slice.x).and_then(|ty| ty.shape.as_ref());
    let mut spans = Vec::new();
    for (k, &axis) in slice.axes.iter().enumerate() {
        let axis = from_front(&[axis], dims.map(Vec::len))?[0];
        if slice.steps[k] < 1 {
            return None;
        }
        let span = Span { axis, start: slice.starts[k], end: slice.ends[k], step: slice.steps[k] };
        spans.push(span.within(dims.and_then(|dims| dims[axis].known())));
    }
    spans.sort_unstable();
    spans.windows(2).all(|pair| pair[0].axis != pair[1].axis).then_some(spans)
}

/// Cuts the ops of `order`, which is topological, into islands of at least two.
pub fn cut(graph: &Graph, order: &[OpId]) -> Vec<Vec<OpId>> {
    const NONE: usize = usize::MAX;
    let mut island_of = vec![NONE; graph.bound()];
    let mut merged_into: Vec<usize> = Vec::new();
    let mut sizes: Vec<usize> = Vec::new();
    for &op in order {
        if form(graph, op).is_none() {
            continue;
        }
        let mut target = NONE;
        for producer in graph.op(op).inputs().iter().flatten().filter_map(|&value| graph.producer(value)) {
            let island = island_of[producer.index()];
            if island == NONE {
                continue;
            }
            let island = find(&merged_into, island);
            if target == NONE && sizes[island] < ISLAND_OPS {
                target = island;
            } else if target != NONE && target != island && sizes[target] + sizes[island] < ISLAND_OPS {
                merged_into[island] = target;
                sizes[target] += sizes[island];
            }
        }
        if target == NONE {
            target = sizes.len();
            sizes.push(0);
            merged_into.push(target);
        }
        sizes[target] += 1;
        island_of[op.index()] = target;
    }
    let mut islands: Vec<Vec<OpId>> = vec![Vec::new(); sizes.len()];
    for &op in order {
        if island_of[op.index()] != NONE {
            islands[find(&merged_into, island_of[op.index()])].push(op);
        }
    }
    islands.retain(|island| island.len() > 1);
    islands
}

fn find(merged_into: &[usize], mut island: usize) -> usize {
    while merged_into[island] != island {
        island = merged_into[island];
    }
    island
}

/// An op of an island.
#[derive(Clone, Debug)]
pub struct Member {
    /// The op
    pub op: OpId,
    /// Its output
    pub y: ValueId,
    /// The class of its output when it was added
    pub id: Id,
    /// Its node when it was added
    pub node: Node,
    /// Values that are children, by their place among the children
    pub inputs: Vec<Option<ValueId>>,
    /// Whether the output is used outside of the island
    pub is_root: bool,
    /// Whether a root needs it
    pub is_live: bool,
}

/// An island with its e-graph.
pub struct Island {
    /// Its ops, in topological order
    pub members: Vec<Member>,
    /// Its terms
    pub egraph: EGraph,
    /// The ops with this type and these attributes, one of which may be copied
    pub origins: HashMap<(OpKind, Vec<u32>), Vec<OpId>>,
    /// Leaf numbers of the values from outside
    pub leaves: BTreeMap<ValueId, u32>,
}

impl Island {
    /// The island of `ops`, in topological order; ops that the rules do not know (any more) are left out.
    pub fn of(graph: &Graph, ops: &[OpId]) -> Island {
        let mut island = Island {
            members: Vec::new(),
            egraph: EGraph::new(Facts::default()),
            origins: HashMap::new(),
            leaves: BTreeMap::new(),
        };
        let mut class_of: HashMap<ValueId, Id> = HashMap::new();
        for &op in ops {
            island.add(graph, op, &mut class_of);
        }
        island.egraph.rebuild();
        island.mark(graph);
        island
    }

    fn add(&mut self, graph: &Graph, op: OpId, class_of: &mut HashMap<ValueId, Id>) {
        let (Some((kind, children)), Some(y)) = (form(graph, op), graph.op(op).output(0)) else { return };
        let (mut ids, mut inputs, mut attrs) = (Vec::new(), Vec::new(), Vec::new());
        for child in children {
            match child {
                Child::Attr(attr) => {
                    let number = self.egraph.analysis.attr(attr);
                    attrs.push(number);
                    ids.push(self.egraph.add(Node::leaf(Kind::Attr(number))));
                    inputs.push(None);
                }
                Child::Value(value) => {
                    let id = match class_of.get(&value) {
                        Some(&id) => id,
                        None => {
                            let number = self.egraph.analysis.value(graph, value);
                            self.leaves.insert(value, number);
                            *class_of.entry(value).or_insert(self.egraph.add(Node::leaf(Kind::Value(number))))
                        }
                    };
                    ids.push(id);
                    inputs.push(Some(value));
                }
            }
        }
        self.origins.entry((kind, attrs)).or_default().push(op);
        let node = Node::op(kind, ids);
        let id = self.egraph.add(node.clone());
        self.state_type(graph, y, id);
        class_of.insert(y, id);
        self.members.push(Member { op, y, id, node, inputs, is_root: false, is_live: false });
    }

    /// The class of `y` has the type that the graph knows.
    fn state_type(&mut self, graph: &Graph, y: ValueId, id: Id) {
        use egg::Analysis;
        let Some(ty) = graph.ty(y) else { return };
        let stated = super::analysis::Data {
            dtype: Some(ty.dtype),
            shape: ty.shape.as_deref().map(Into::into),
            ..Default::default()
        };
        let mut data = self.egraph[id].data.clone();
        let before = data.clone();
        self.egraph.analysis.merge(&mut data, stated);
        if data != before {
            self.egraph.set_analysis_data(id, data);
        }
    }

    /// Finds roots and what they need.
    fn mark(&mut self, graph: &Graph) {
        let place_of: HashMap<OpId, usize> =
            self.members.iter().enumerate().map(|(place, member)| (member.op, place)).collect();
        for place in (0..self.members.len()).rev() {
            let uses = graph.uses(self.members[place].y);
            let inside = |place: &Use| if let Use::Input(op, _) = place { place_of.get(op).copied() } else { None };
            let member_is_live = |used: &Use| inside(used).is_some_and(|user| self.members[user].is_live);
            let is_live = uses.iter().any(member_is_live);
            let is_root = uses.iter().any(|used| inside(used).is_none());
            self.members[place].is_root = is_root;
            self.members[place].is_live = is_live || is_root;
        }
    }

    /// The nodes that stand in the file, with canonical children.
    pub fn originals(&self) -> BTreeSet<Node> {
        let canonical = |member: &Member| member.node.clone().map_children(|child| self.egraph.find(child));
        self.members.iter().map(canonical).collect()
    }

    /// Numbers of the attributes among the children of `node`.
    pub fn attrs(&self, node: &Node) -> Vec<u32> {
        node.children().iter().filter_map(|&child| self.egraph[child].data.attr).collect()
    }
}
