//! Equality saturation: the rules, by theme, and the machinery that the pass [`SimplifyIslands`](crate::SimplifyIslands)
//! runs them with.
//!
//! A graph is cut into [islands](island) of ops that the rules know; an e-graph holds all forms that the rules find of one;
//! [`extract`] chooses the cheapest, what is shared counted once; [`emit`] makes a patch of it.
//! Limits are numbers of rounds and of nodes, **never** time. **Source:** Willsey et al. 2021, arXiv 2004.03082.
pub mod activation;
pub mod analysis;
pub mod cast;
pub mod cost;
pub mod draft;
pub mod elementwise;
pub mod emit;
pub mod extract;
pub mod island;
pub mod language;
pub mod layout;
#[cfg(test)]
mod properties;
pub mod qdq;
#[cfg(test)]
mod tests;

use egg::{Pattern, Rewrite, Var};

use analysis::Facts;
use language::Node;

/// The e-graph of an island.
pub type EGraph = egg::EGraph<Node, Facts>;

/// A rule.
pub type Rule = Rewrite<Node, Facts>;

/// Rounds of rules on one island.
const ITERATIONS: usize = 8;

/// Nodes at which an island stops growing that began with so many.
fn node_limit(nodes: usize) -> usize {
    1000 + 5 * nodes
}

/// Rules whose two sides are bit-equal.
pub fn exact() -> Vec<Rule> {
    [activation::exact(), layout::exact(), cast::exact(), qdq::exact(), elementwise::exact()].concat()
}

/// Rules whose two sides are the same real function.
pub fn rounding() -> Vec<Rule> {
    [activation::rounding(), elementwise::rounding()].concat()
}

/// A rule from the text of its sides.
///
/// # Panics
/// When a side is no pattern: a mistake in a list of rules, met by every test.
fn rule(name: &str, left: &str, right: &str) -> Rule {
    let side = |text: &str| match text.parse::<Pattern<Node>>() {
        Ok(pattern) => pattern,
        Err(error) => panic!("rule {name}: {error}"),
    };
    match Rewrite::new(name, side(left), side(right)) {
        Ok(rule) => rule,
        Err(error) => panic!("{error}"),
    }
}

/// The variable `name` of a pattern.
///
/// # Panics
/// When it is none: a mistake in a list of rules, met by every test.
fn var(name: &str) -> Var {
    match name.parse() {
        Ok(var) => var,
        Err(error) => panic!("`{name}`: {error}"),
    }
}

/// Applies `rules` until nothing changes or a limit is met: whether something changed, and the limit that was met.
pub fn saturate(egraph: &mut EGraph, rules: &[Rule]) -> (bool, Option<String>) {
    let limit = node_limit(egraph.total_size());
    let mut changed = false;
    for _ in 0..ITERATIONS {
        let matches: Vec<_> = rules.iter().map(|rule| rule.search(egraph)).collect();
        let mut applied = 0;
        for (rule, matches) in rules.iter().zip(&matches) {
            applied += rule.apply(egraph, matches).len();
            if egraph.total_size() > limit {
                egraph.rebuild();
                return (true, Some(format!("the rules made more than {limit} terms of this island")));
            }
        }
        egraph.rebuild();
        if applied == 0 {
            return (changed, None);
        }
        changed = true;
    }
    (changed, Some(format!("after {ITERATIONS} rounds the rules still changed this island")))
}
