//! Rewrites chains of simple ops by identities, all at once, and keeps the cheapest form: equality saturation.
//!
//! ```onnx before
//! # x: float[1,2,3]
//! a = Transpose <perm = [0, 2, 1]> (x)
//! b = Relu (a)
//! c = Relu (b)
//! y = Transpose <perm = [0, 2, 1]> (c)
//! ```
//! ```onnx after
//! y = Relu (x)
//! ```
//! **Class:** exact, or rounding for [`SimplifyIslands::rounding`]. **Legal when** the condition of each rule holds; what
//! is used outside of an island stays. **Source:** Willsey et al. 2021, arXiv 2004.03082; Yang et al. 2021, arXiv 2101.01332.
//!
//! The graph is cut into [islands](crate::egg::island); the rules are those of [`crate::egg`]. Limits are numbers of rounds and of nodes, **never** time. Rules hold for all
//! numbers; for NaN, ONNX leaves open what Relu and Clip make of it, and so do they.
//! **Does not** look across islands, into bodies (they have their own run) or at ops with several outputs.
use std::{collections::BTreeMap, sync::LazyLock};

use onnx_shrink_ir::{Graph, OpId, Use, ValueId};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    egg::{
        Rule,
        analysis::Leaf,
        cost::{self, Cost},
        emit::{self, Emitted, Refused},
        exact,
        extract::Choices,
        island::{self, Island, Member},
        language::Kind,
        rounding, saturate,
    },
};

static EXACT: LazyLock<Vec<Rule>> = LazyLock::new(exact);
static ALL: LazyLock<Vec<Rule>> = LazyLock::new(|| [exact(), rounding()].concat());

/// See the [module](self) for before, after and legality.
pub struct SimplifyIslands {
    class: Class,
    rules: &'static [Rule],
}

/// What became of an island.
enum Found {
    Nothing,
    Better(Box<Emitted>),
    Worse(OpId, Miss),
}

/// What a run met, for the log.
#[derive(Default)]
struct Counts {
    islands: usize,
    rewritten: usize,
    /// The limit that the last island met
    limited: Option<String>,
}

impl SimplifyIslands {
    /// With the rules whose results are bit-equal.
    pub fn exact() -> SimplifyIslands {
        SimplifyIslands { class: Class::Exact, rules: &EXACT }
    }

    /// With all rules: those of the other run, and those that round differently.
    pub fn rounding() -> SimplifyIslands {
        SimplifyIslands { class: Class::Rounding, rules: &ALL }
    }

    /// With these rules, which are bit-equal.
    pub(crate) fn of(rules: &'static [Rule]) -> SimplifyIslands {
        SimplifyIslands { class: Class::Exact, rules }
    }

    /// With these rules alone.
    #[cfg(test)]
    pub(crate) fn only(rules: Vec<Rule>, class: Class) -> SimplifyIslands {
        SimplifyIslands { class, rules: rules.leak() }
    }

    /// What the rules make of the island of `ops`.
    fn simplify(&self, graph: &Graph, ops: &[OpId], positions: &[usize], counts: &mut Counts) -> Found {
        let mut island = Island::of(graph, ops);
        let roots: Vec<&Member> = island.members.iter().filter(|member| member.is_root).collect();
        if roots.is_empty() || island.egraph.analysis.clash {
            return Found::Nothing;
        }
        let classes = island.egraph.number_of_classes();
        let repeated = island.originals().len() < island.members.len();
        let (changed, limited) = saturate(&mut island.egraph, self.rules);
        counts.limited = limited;
        if island.egraph.analysis.clash {
            log::debug!("{}: an island has contradictory types and stays", self.name());
            return Found::Nothing;
        }
        if !changed && !repeated && classes == island.egraph.number_of_classes() {
            return Found::Nothing;
        }
        let choices = Choices::of(&island.egraph, &island.originals());
        let place = |member: &Member| choices.place(island.egraph.find(member.id));
        let roots: Vec<usize> = island.members.iter().filter(|member| member.is_root).map(place).collect();
        let Some((selection, cost)) = choices.best(&roots) else { return Found::Nothing };
        let before = island.members.iter().filter(|member| member.is_live).fold(Cost::default(), |sum, member| {
            sum.plus(cost::of_node(&island.egraph, &member.node, &island.egraph[member.id].data, false))
        });
        if cost.plus(identities(graph, &island, &choices)) >= before {
            return Found::Nothing;
        }
        match emit::emit(graph, &island, &choices, &selection, positions) {
            Ok(emitted) => match grows(graph, &island, &emitted, before.ops.saturating_sub(cost.ops)) {
                Some(miss) => Found::Worse(emitted.patch.anchor(), miss),
                None => Found::Better(Box::new(emitted)),
            },
            Err(Refused::Order) => Found::Nothing,
            Err(Refused::Misread(kind)) => {
                let made = format!("the {} that would be made is not what was meant", kind.name());
                ops.first().map_or(Found::Nothing, |&op| Found::Worse(op, Miss::Bug(made)))
            }
        }
    }
}

/// What the Identities cost that must stand before graph outputs: one op makes one of them, and a graph input none.
fn identities(graph: &Graph, island: &Island, choices: &Choices) -> Cost {
    let mut outputs: BTreeMap<usize, u64> = BTreeMap::new();
    for member in island.members.iter().filter(|member| graph.is_output(member.y)) {
        *outputs.entry(choices.place(island.egraph.find(member.id))).or_default() += 1;
    }
    let mut sum = Cost::default();
    for (place, count) in outputs {
        let class = &choices.classes[place];
        let leaf = class.nodes.iter().find_map(|candidate| match candidate.node.kind {
            Kind::Value(number) => Some(island.egraph.analysis.leaf_of(number)),
            _ => None,
        });
        let may_take_the_name = match leaf {
            None => true,
            Some(Leaf::Existing(value)) => graph.producer(*value).is_some() && !graph.is_output(*value),
            Some(Leaf::Made(..)) => false,
        };
        for _ in u64::from(may_take_the_name)..count {
            sum = sum.plus(cost::of_identity(&island.egraph[class.id].data));
        }
    }
    sum
}

/// Whether the patch would add more bytes than go: `ops` ops, and constants that nothing else reads.
fn grows(graph: &Graph, island: &Island, emitted: &Emitted, ops: u64) -> Option<Miss> {
    let count = emitted.constants;
    let added = emitted.patch.constant_bytes() + count * emit::CONSTANT_OVERHEAD;
    if count == 0 {
        return None;
    }
    let members: Vec<OpId> = island.members.iter().map(|member| member.op).collect();
    let dies = |value: ValueId| {
        graph.constant(value).is_some()
            && graph.uses(value).iter().all(|used| matches!(used, Use::Input(op, _) if members.contains(op)))
            && !emitted.read.contains(&value)
    };
    let mut dying: Vec<_> = members.iter().flat_map(|&op| graph.op(op).inputs().iter().flatten().copied()).collect();
    dying.sort_unstable();
    dying.dedup();
    let bytes = |value: ValueId| graph.constant(value).map_or(0, |constant| constant.byte_len());
    let freed: usize =
        dying.into_iter().filter(|&value| dies(value)).map(|value| bytes(value) + emit::CONSTANT_OVERHEAD).sum();
    let removed = freed + usize::try_from(ops).unwrap_or(0) * emit::OP_BYTES;
    (added > removed).then_some(Miss::Grows { added, removed })
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "simplify-islands",
    class: Class::Rounding,
    about: "rewrites chains of simple ops by identities and keeps the cheapest form",
    when: When::Lossless,
};

impl Pass for SimplifyIslands {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn class(&self) -> Class {
        self.class
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let order = graph.ops();
        let mut positions = vec![usize::MAX; graph.bound()];
        for (position, op) in order.iter().enumerate() {
            positions[op.index()] = position;
        }
        let mut counts = Counts::default();
        let mut is_new: Vec<bool> = Vec::new(); // an id of a removed op may be given to a new one
        for ops in island::cut(graph, &order) {
            let is_same = |op: &OpId| graph.has_op(*op) && !is_new.get(op.index()).copied().unwrap_or(false);
            let ops: Vec<OpId> = ops.into_iter().filter(is_same).collect();
            counts.islands += 1;
            let found = self.simplify(graph, &ops, &positions, &mut counts);
            if let (Some(limit), Some(&op)) = (counts.limited.take(), ops.first()) {
                cx.missed(graph, op, &Miss::Limit(limit));
            }
            let emitted = match found {
                Found::Nothing => continue,
                Found::Worse(op, miss) => {
                    cx.missed(graph, op, &miss);
                    continue;
                }
                Found::Better(emitted) => *emitted,
            };
            let Some(applied) = cx.apply(graph, emitted.patch)? else { continue };
            counts.rewritten += 1;
            positions.resize(graph.bound().max(positions.len()), usize::MAX);
            is_new.resize(positions.len(), false);
            for (op, position) in emitted.moved {
                positions[op.index()] = position;
            }
            for (op, position) in applied.ops.into_iter().zip(emitted.new_positions) {
                if graph.has_op(op) {
                    positions[op.index()] = position;
                    is_new[op.index()] = true;
                }
            }
        }
        log::debug!("{}: {} islands, {} rewritten", self.name(), counts.islands, counts.rewritten);
        Ok(())
    }
}
