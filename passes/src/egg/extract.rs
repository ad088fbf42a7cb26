//! Choosing one node for every class so that the whole island costs least, what is shared counted once.
//!
//! Why not egg's extractor: it counts a shared term once per use, which doubles with every residual connection. Here each
//! class keeps the set of classes that its best term needs; a worklist over parents lowers them until nothing falls
//! (greedy, after which single choices are tried again on the whole island). **Never** chooses a cycle: a node whose
//! children need its own class is passed over. **No** clock and no recursion; every loop has a bound.
use std::collections::{BTreeSet, HashMap, VecDeque};

use egg::{Id, Language};

use super::{
    EGraph,
    cost::{self, Cost},
    language::Node,
};

/// Evaluations per class after which the worklist gives up.
const EVALUATIONS: usize = 64;

/// Rounds of trying single choices again.
const ROUNDS: usize = 4;

/// An e-graph laid out for choosing.
pub struct Choices {
    /// Classes by place
    pub classes: Vec<Class>,
    places: HashMap<Id, usize>,
}

/// A class of equal terms.
pub struct Class {
    /// Its id
    pub id: Id,
    /// Its nodes with their own costs, children by place
    pub nodes: Vec<Candidate>,
}

/// A node that a class may be.
pub struct Candidate {
    /// The node, with canonical children
    pub node: Node,
    /// Places of the children
    pub children: Vec<usize>,
    /// What it costs by itself
    pub cost: Cost,
}

/// The chosen node of each class, by place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(pub Vec<Option<usize>>);

/// A set of classes.
#[derive(Clone)]
struct Set(Vec<u64>);

impl Set {
    fn has(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }
    fn insert(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }
    fn join(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }
    fn places(&self) -> impl Iterator<Item = usize> {
        let bits = |(index, &word): (usize, &u64)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

impl Choices {
    /// The choices of `egraph`, which must be rebuilt; nodes in `originals` stand in the file.
    pub fn of(egraph: &EGraph, originals: &BTreeSet<Node>) -> Choices {
        let mut ids: Vec<Id> = egraph.classes().map(|class| class.id).collect();
        ids.sort_unstable();
        let places: HashMap<Id, usize> = ids.iter().enumerate().map(|(place, &id)| (id, place)).collect();
        let classes = ids.iter().map(|&id| {
            let class = &egraph[id];
            let nodes = class.nodes.iter().map(|node| {
                let node = node.clone().map_children(|child| egraph.find(child));
                let children = node.children().iter().map(|child| places[child]).collect();
                let cost = cost::of_node(egraph, &node, &class.data, !originals.contains(&node));
                Candidate { node, children, cost }
            });
            Class { id, nodes: nodes.collect() }
        });
        Choices { classes: classes.collect(), places }
    }

    /// The place of a canonical class.
    pub fn place(&self, id: Id) -> usize {
        self.places[&id]
    }

    /// A selection for the classes that `roots` need, with its cost; `None` when the bound on the work was passed.
    pub fn best(&self, roots: &[usize]) -> Option<(Selection, Cost)> {
        let mut selection = self.greedy()?;
        let mut cost = self.total(&selection, roots)?;
        for _ in 0..ROUNDS {
            let before = cost;
            for place in self.needed(&selection, roots)? {
                for node in 0..self.classes[place].nodes.len() {
                    let chosen = selection.0[place].replace(node);
                    match self.total(&selection, roots).filter(|total| *total < cost) {
                        Some(total) => cost = total,
                        None => selection.0[place] = chosen,
                    }
                }
            }
            if cost == before {
                break;
            }
        }
        Some((selection, cost))
    }

    fn greedy(&self) -> Option<Selection> {
        let count = self.classes.len();
        let mut parents: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (place, class) in self.classes.iter().enumerate() {
            for &child in class.nodes.iter().flat_map(|candidate| &candidate.children) {
                if parents[child].last() != Some(&place) {
                    parents[child].push(place);
                }
            }
        }
        let mut best: Vec<Option<(Cost, usize, Set)>> = vec![None; count];
        let mut waiting = vec![true; count];
        let mut work: VecDeque<usize> = (0..count).collect();
        let mut left = EVALUATIONS * count;
        while let Some(place) = work.pop_front() {
            waiting[place] = false;
            left = left.checked_sub(1)?;
            let mut fell = false;
            for (index, candidate) in self.classes[place].nodes.iter().enumerate() {
                let Some(set) = Self::needs(candidate, &best, place, count) else { continue };
                let own = |other: usize| {
                    best[other].as_ref().map_or(Cost::default(), |best| self.classes[other].nodes[best.1].cost)
                };
                let others = set.places().filter(|&other| other != place).map(own);
                let total = others.fold(candidate.cost, Cost::plus);
                if best[place].as_ref().is_none_or(|best| total < best.0) {
                    best[place] = Some((total, index, set));
                    fell = true;
                }
            }
            if fell {
                for &parent in &parents[place] {
                    if !std::mem::replace(&mut waiting[parent], true) {
                        work.push_back(parent);
                    }
                }
            }
        }
        Some(Selection(best.into_iter().map(|best| best.map(|best| best.1)).collect()))
    }

    /// The classes that `candidate` of class `place` needs; `None` when one has no term yet or needs `place` itself.
    fn needs(candidate: &Candidate, best: &[Option<(Cost, usize, Set)>], place: usize, count: usize) -> Option<Set> {
        let mut set = Set(vec![0; count.div_ceil(64)]);
        for &child in &candidate.children {
            set.join(&best[child].as_ref()?.2);
        }
        if set.has(place) {
            return None;
        }
        set.insert(place);
        Some(set)
    }

    /// What `selection` costs for `roots`, each class once; `None` when it has a gap or a cycle.
    pub fn total(&self, selection: &Selection, roots: &[usize]) -> Option<Cost> {
        let chosen = |place: usize| selection.0[place].map(|node| &self.classes[place].nodes[node]);
        self.needed(selection, roots)?
            .into_iter()
            .try_fold(Cost::default(), |sum, place| Some(sum.plus(chosen(place)?.cost)))
    }

    /// The classes that `selection` needs for `roots`, children before parents; `None` when it has a gap or a cycle.
    pub fn needed(&self, selection: &Selection, roots: &[usize]) -> Option<Vec<usize>> {
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        let mut state = vec![0u8; self.classes.len()];
        let mut order = Vec::new();
        let mut stack: Vec<(usize, usize)> = Vec::new();
        for &root in roots {
            if state[root] == 0 {
                state[root] = OPEN;
                stack.push((root, 0));
            }
            while let Some((place, next)) = stack.pop() {
                let candidate = &self.classes[place].nodes[selection.0[place]?];
                let Some(&child) = candidate.children.get(next) else {
                    state[place] = DONE;
                    order.push(place);
                    continue;
                };
                stack.push((place, next + 1));
                match state[child] {
                    OPEN => return None,
                    DONE => {}
                    _ => {
                        state[child] = OPEN;
                        stack.push((child, 0));
                    }
                }
            }
        }
        Some(order)
    }
}
