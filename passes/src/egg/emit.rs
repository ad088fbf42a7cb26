//! From the chosen terms of an island back to ops: one patch.
//!
//! An op whose term was chosen and whose inputs stay is kept; every other chosen term becomes a new op, made after an op
//! of the file with the same type and attributes where there is one. **Never** makes a cycle: a root may only read
//! values that are made before the op that it replaces.
use std::collections::{BTreeSet, HashMap};

use onnx_shrink_ir::{Graph, OpId, Patch, ValueId, ValueRef};

use super::{
    analysis::{Leaf, attr},
    draft::{Draft, Input, Term, type_of},
    extract::{Choices, Selection},
    island::{Island, Member},
    language::{Attr, Kind, Node, OpKind},
};

/// A patch, and where its ops stand in the topological order.
pub struct Emitted {
    /// The edits
    pub patch: Patch,
    /// Positions of the patch's new ops, in order
    pub new_positions: Vec<usize>,
    /// Ops that stay but move to an earlier position
    pub moved: Vec<(OpId, usize)>,
    /// Values that the patch's new ops read
    pub read: BTreeSet<ValueId>,
    /// Constants that the patch makes
    pub constants: usize,
}

/// Why no patch was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing would change, or the order of the graph forbids it
    Order,
    /// No op could be made that reads back as the term of this type: a bug
    Misread(OpKind),
}

/// What stands for a class in the new graph.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Made {
    /// An attribute
    Attr,
    /// A value that was there
    Existing(ValueId),
    /// A value that the patch makes
    New(ValueRef),
}

struct Emitter<'a> {
    graph: &'a Graph,
    island: &'a Island,
    choices: &'a Choices,
    /// Members by the place of their class, in topological order
    members: HashMap<usize, Vec<&'a Member>>,
    made: HashMap<usize, Made>,
    patch: Patch,
    new_positions: Vec<usize>,
    moved: Vec<(OpId, usize)>,
    read: BTreeSet<ValueId>,
    constants: usize,
}

/// The patch that makes `selection` of `island`.
/// `positions` are those of ops in a topological order, by index.
pub fn emit(
    graph: &Graph,
    island: &Island,
    choices: &Choices,
    selection: &Selection,
    positions: &[usize],
) -> Result<Emitted, Refused> {
    let place_of = |member: &Member| choices.place(island.egraph.find(member.id));
    let mut members: HashMap<usize, Vec<&Member>> = HashMap::new();
    for member in &island.members {
        members.entry(place_of(member)).or_default().push(member);
    }
    let chosen = |place: usize| selection.0[place].map(|node| &choices.classes[place].nodes[node]);
    let is_chosen = |member: &Member| {
        chosen(place_of(member)).is_some_and(|candidate| candidate.node == canonical(island, &member.node))
    };
    let changed = island.members.iter().find(|member| member.is_live && !is_chosen(member));
    let anchor = changed.or_else(|| island.members.iter().find(|member| member.is_live)).ok_or(Refused::Order)?.op;
    let mut emitter = Emitter {
        graph,
        island,
        choices,
        members,
        made: HashMap::new(),
        patch: Patch::new(anchor),
        new_positions: Vec::new(),
        moved: Vec::new(),
        read: BTreeSet::new(),
        constants: 0,
    };
    for root in island.members.iter().filter(|member| member.is_root) {
        let position = positions[root.op.index()];
        for place in choices.needed(selection, &[place_of(root)]).ok_or(Refused::Order)? {
            let chosen = chosen(place).ok_or(Refused::Order)?;
            emitter.class(place, &chosen.node, &chosen.children, position, positions)?;
        }
    }
    let mut named: BTreeSet<usize> = BTreeSet::new();
    for member in &island.members {
        let place = place_of(member);
        match emitter.made.get(&place) {
            Some(Made::Existing(value)) if member.is_root && *value != member.y => {
                emitter.patch.replace(member.y, *value)
            }
            // Inner values, too: what computes the same is called the same.
            Some(Made::New(value)) if member.is_root || !named.contains(&place) => {
                named.insert(place);
                emitter.patch.replace(member.y, *value);
            }
            _ => {}
        }
    }
    let Emitter { patch, new_positions, moved, read, constants, .. } = emitter;
    if patch.is_empty() {
        return Err(Refused::Order);
    }
    Ok(Emitted { patch, new_positions, moved, read, constants })
}

fn canonical(island: &Island, node: &Node) -> Node {
    use egg::Language;
    node.clone().map_children(|child| island.egraph.find(child))
}

impl<'a> Emitter<'a> {
    /// Makes class `place` as `node` for a root at `position`.
    fn class(
        &mut self,
        place: usize,
        node: &Node,
        children: &[usize],
        position: usize,
        positions: &[usize],
    ) -> Result<(), Refused> {
        if let Kind::Value(number) = node.kind
            && let Leaf::Existing(value) = self.island.egraph.analysis.leaf_of(number)
        {
            let is_before = |op: OpId| positions.get(op.index()).is_some_and(|&before| before < position);
            if !self.graph.producer(*value).is_none_or(is_before) {
                return Err(Refused::Order);
            }
        }
        if self.made.contains_key(&place) {
            return Ok(());
        }
        let made = match node.kind {
            Kind::Attr(_) => Made::Attr,
            Kind::Value(number) => self.leaf(number).ok_or(Refused::Order)?,
            Kind::Op(kind) => match self.kept(place, node, children) {
                Some(member) => {
                    if positions[member.op.index()] > position {
                        self.moved.push((member.op, position));
                    }
                    Made::Existing(member.y)
                }
                None => {
                    self.new_positions.push(position);
                    Made::New(self.op(place, kind, node, children)?)
                }
            },
        };
        self.made.insert(place, made);
        Ok(())
    }

    fn leaf(&mut self, number: u32) -> Option<Made> {
        let facts = &self.island.egraph.analysis;
        Some(match facts.leaf_of(number) {
            Leaf::Existing(value) => Made::Existing(*value),
            Leaf::Made(tensor, like) => {
                let mut like = *like;
                let base = loop {
                    match facts.leaf_of(like) {
                        Leaf::Existing(value) => break self.graph.name_of(*value),
                        Leaf::Made(_, before) if *before < like => like = *before,
                        Leaf::Made(..) => return None,
                    }
                };
                self.constants += 1;
                Made::New(self.patch.constant(base, tensor.clone()))
            }
        })
    }

    /// The first op of the file that is `node`, with the inputs that it has.
    fn kept(&self, place: usize, node: &Node, children: &[usize]) -> Option<&'a Member> {
        let unchanged = |member: &&&'a Member| {
            canonical(self.island, &member.node) == *node
                && member.inputs.iter().zip(children).all(|(input, child)| match (input, self.made.get(child)) {
                    (Some(input), Some(Made::Existing(value))) => input == value || self.same_leaf(*input, *value),
                    (None, Some(Made::Attr)) => true,
                    _ => false,
                })
        };
        self.members.get(&place)?.iter().find(unchanged).copied()
    }

    fn same_leaf(&self, a: ValueId, b: ValueId) -> bool {
        let leaf = |value: ValueId| self.island.leaves.get(&value);
        leaf(a).is_some() && leaf(a) == leaf(b)
    }

    /// A new op for class `place`.
    fn op(&mut self, place: usize, kind: OpKind, node: &Node, children: &[usize]) -> Result<ValueRef, Refused> {
        let mut inputs: Vec<Option<Input>> = Vec::new();
        for (child, (made, &id)) in children.iter().map(|child| self.made.get(child)).zip(&node.children).enumerate() {
            match *made.ok_or(Refused::Order)? {
                Made::Attr if attr(&self.island.egraph, id) == Some(&Attr::Absent) => inputs.push(None),
                Made::Attr => {}
                Made::Existing(value) => inputs.push(Some(Input::Child { child, value: value.into() })),
                Made::New(value) => inputs.push(Some(Input::Child { child, value })),
            }
        }
        let data = &self.island.egraph[self.choices.classes[place].id].data;
        let term = Term { graph: self.graph, island: self.island, node, kind, data };
        let Draft { mut op, inputs } = term.draft(&inputs).ok_or(Refused::Misread(kind))?;
        let mut values: Vec<Option<ValueRef>> = Vec::with_capacity(inputs.len());
        for input in inputs {
            values.push(match input {
                None => None,
                Some(Input::Child { value, .. } | Input::Parameter(value, _)) => Some(value),
                Some(Input::Constant(name, tensor)) => {
                    self.constants += 1;
                    Some(self.patch.constant(name, tensor))
                }
            });
        }
        self.read.extend(
            values
                .iter()
                .flatten()
                .filter_map(|input| if let ValueRef::Existing(value) = input { Some(*value) } else { None }),
        );
        while values.last() == Some(&None) {
            values.pop();
        }
        let stands_for = self.members.get(&place).and_then(|members| members.first());
        let same_kind =
            self.members.get(&place).and_then(|members| members.iter().find(|member| member.node.kind == node.kind));
        op.node.name =
            same_kind.map(|member| self.graph.op(member.op).name()).filter(|name| !name.is_empty()).map(str::to_owned);
        op.node.doc_string = None;
        let base = stands_for.map_or("simplified", |member| self.graph.name_of(member.y)).to_owned();
        let ty = stands_for.and_then(|member| self.graph.ty(member.y).cloned()).or_else(|| type_of(data));
        Ok(self.patch.op(op, &values, &base, ty))
    }
}

/// Bytes that a constant takes in the file besides its data, about: name, type, dimensions.
pub const CONSTANT_OVERHEAD: usize = 24;

/// Bytes that an op takes in the file, about: type, names of inputs and of the output.
pub const OP_BYTES: usize = 32;
