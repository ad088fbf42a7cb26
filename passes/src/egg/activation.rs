//! Identities of activations.
//!
//! ```onnx before
//! # x: float[2,3]; lo: float = {0}; hi: float = {6}
//! a = Relu (x)
//! y = Clip (a, lo, hi)
//! ```
//! ```onnx after
//! y = Clip (x, lo, hi)
//! ```
//! Clip is `min(max(x, lo), hi)`, so `hi` where `lo > hi`: the conditions know that.
//! **Does not** drop an op whose only effect is the sign of zero, among the exact rules.
use egg::{Applier, Id, PatternAst, Subst, Symbol, Var, rewrite};

use super::{
    EGraph, Rule,
    analysis::{Facts, attr},
    language::{Attr, Node, OpKind},
    rule, var,
};

/// Ops whose results are never below +0.
const NEVER_NEGATIVE: [(&str, &str); 4] = [
    ("relu-of-sigmoid", "(Sigmoid ?x)"),
    ("relu-of-exp", "(Exp ?x)"),
    ("relu-of-abs", "(Abs ?x)"),
    ("relu-of-softmax", "(Softmax ?a ?x)"),
];

/// Ops of which Abs takes nothing away: no result has a sign.
const WITHOUT_SIGN: [(&str, &str); 4] = [
    ("abs-of-sigmoid", "(Sigmoid ?x)"),
    ("abs-of-exp", "(Exp ?x)"),
    ("abs-of-abs", "(Abs ?x)"),
    ("abs-of-softmax", "(Softmax ?a ?x)"),
];

/// Bit-equal rules.
#[rustfmt::skip]
pub fn exact() -> Vec<Rule> {
    let mut rules = vec![
        rewrite!("relu-of-relu";      "(Relu (Relu ?x))"                => "(Relu ?x)"),
        rewrite!("clip-absorbs-relu"; "(Clip (Relu ?x) ?lo ?hi)"        => "(Clip ?x ?lo ?hi)" if at_least_zero("?lo")),
        rewrite!("relu-of-clip";      "(Relu (Clip ?x ?lo ?hi))"        => "(Clip ?x ?lo ?hi)" if both_at_least_zero("?lo", "?hi")),
        rewrite!("clip-of-clip";      "(Clip (Clip ?x ?a ?b) ?c ?d)"    => { Intersect { x: var("?x"), inner: [var("?a"), var("?b")], outer: [var("?c"), var("?d")] } }),
        rewrite!("abs-of-neg";        "(Abs (Neg ?x))"                  => "(Abs ?x)"),
        rewrite!("neg-of-neg";        "(Neg (Neg ?x))"                  => "?x"),
        rewrite!("not-of-not";        "(Not (Not ?x))"                  => "?x"),
    ];
    rules.extend(NEVER_NEGATIVE.map(|(name, made)| rule(name, &format!("(Relu {made})"), made)));
    rules.extend(WITHOUT_SIGN.map(|(name, made)| rule(name, &format!("(Abs {made})"), made)));
    rules
}

/// Rules that may change the sign of zero.
#[rustfmt::skip]
pub fn rounding() -> Vec<Rule> { vec![
    rewrite!("abs-of-relu";         "(Abs (Relu ?x))"           => "(Relu ?x)"),
    rewrite!("abs-of-sqrt";         "(Abs (Sqrt ?x))"           => "(Sqrt ?x)"),
    rewrite!("relu-of-sqrt";        "(Relu (Sqrt ?x))"          => "(Sqrt ?x)"),
    rewrite!("relu-of-hardsigmoid"; "(Relu (HardSigmoid ?a ?x))" => "(HardSigmoid ?a ?x)"),
]}

/// A bound of a Clip.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    Absent,
    Number(f64),
}

/// The bound that class `id` is; `None` when it is not constant, or not a number.
fn bound(egraph: &EGraph, id: Id) -> Option<Bound> {
    let number = match attr(egraph, id) {
        Some(Attr::Absent) => return Some(Bound::Absent),
        Some(Attr::Bound(bits)) => f64::from(f32::from_bits(*bits)),
        _ => egraph[id].data.scalar()?,
    };
    (!number.is_nan()).then_some(Bound::Number(number))
}

/// The bound is a number of at least +0.
fn at_least_zero(name: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let name = var(name);
    move |egraph, _, subst| matches!(bound(egraph, subst[name]), Some(Bound::Number(number)) if number >= 0.0 && number.is_sign_positive())
}

/// No result of the Clip is below +0: also not its upper bound, which wins where it is the lower one.
fn both_at_least_zero(lo: &str, hi: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let (lo_holds, hi_holds, hi) = (at_least_zero(lo), at_least_zero(hi), var(hi));
    move |egraph, id, subst| {
        let open = bound(egraph, subst[hi]) == Some(Bound::Absent);
        lo_holds(egraph, id, subst) && (open || hi_holds(egraph, id, subst))
    }
}

/// A Clip of a Clip whose intervals overlap becomes one with the narrower bounds, which both exist already.
struct Intersect {
    x: Var,
    inner: [Var; 2],
    outer: [Var; 2],
}

impl Applier<Node, Facts> for Intersect {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        id: Id,
        subst: &Subst,
        _: Option<&PatternAst<Node>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let Some([lo, hi]) = intersection(egraph, self.inner.map(|v| subst[v]), self.outer.map(|v| subst[v])) else {
            return Vec::new();
        };
        let clip = egraph.add(Node::op(OpKind::Clip, vec![subst[self.x], lo, hi]));
        if egraph.union_trusted(id, clip, rule) { vec![clip] } else { Vec::new() }
    }

    fn vars(&self) -> Vec<Var> {
        vec![self.x, self.inner[0], self.inner[1], self.outer[0], self.outer[1]]
    }
}

/// The bounds of both; `None` when one is not constant or the intervals do not overlap.
fn intersection(egraph: &EGraph, inner: [Id; 2], outer: [Id; 2]) -> Option<[Id; 2]> {
    let number = |id: Id, absent: f64| {
        bound(egraph, id).map(|bound| if let Bound::Number(number) = bound { number } else { absent })
    };
    let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
    let (a, b, c, d) =
        (number(inner[0], low)?, number(inner[1], high)?, number(outer[0], low)?, number(outer[1], high)?);
    let overlap = a <= b && c <= d && a.max(c) <= b.min(d);
    let is_absent = |id: Id| bound(egraph, id) == Some(Bound::Absent);
    let lo = if is_absent(outer[0]) || a >= c && !is_absent(inner[0]) { inner[0] } else { outer[0] };
    let hi = if is_absent(outer[1]) || b <= d && !is_absent(inner[1]) { inner[1] } else { outer[1] };
    overlap.then_some([lo, hi])
}
