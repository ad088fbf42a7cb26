//! Identities of ops that move elements without computing.
//!
//! ```onnx before
//! # x: float[2,3,4]
//! a = Transpose <perm = [1, 2, 0]> (x)
//! y = Transpose <perm = [1, 2, 0]> (a)
//! ```
//! ```onnx after
//! y = Transpose <perm = [2, 0, 1]> (x)
//! ```
//! Transposes sink through elementwise ops until two meet, and constants of one axis turn with them; where none meets, nothing
//! falls and nothing changes.
//! **Does not** merge a Reshape into one whose shape copies a dimension (a 0), nor Slices with steps below 1.
use egg::{Applier, Id, Language, PatternAst, SearchMatches, Searcher, Subst, Symbol, Var, rewrite};
use onnx_shrink_ir::Tensor;

use super::{
    EGraph, Rule,
    analysis::{Facts, attr},
    language::{Attr, Kind, Node, OpKind, Span},
    rule, var,
};

/// Elementwise ops of one input, as patterns over `?x`.
const UNARY: [&str; 11] = [
    "(Relu {})",
    "(Sigmoid {})",
    "(Tanh {})",
    "(Exp {})",
    "(Erf {})",
    "(Abs {})",
    "(Sqrt {})",
    "(Neg {})",
    "(Not {})",
    "(LeakyRelu ?a {})",
    "(Cast ?a {})",
];

/// Elementwise ops of two inputs.
const BINARY: [&str; 4] = ["Add", "Sub", "Mul", "Div"];

/// Ops that only give the elements another shape, as patterns over `?x`.
const VIEWS: [(&str, &str); 4] = [
    ("reshape-of-reshape", "(Reshape ?x ?s)"),
    ("reshape-of-flatten", "(Flatten ?a ?x)"),
    ("reshape-of-squeeze", "(Squeeze ?a ?x)"),
    ("reshape-of-unsqueeze", "(Unsqueeze ?a ?x)"),
];

/// Bit-equal rules.
#[rustfmt::skip]
pub fn exact() -> Vec<Rule> {
    let mut rules = vec![
        rewrite!("transpose-identity";   "(Transpose ?p ?x)"                  => "?x" if keeps_order("?p")),
        rewrite!("transpose-transpose";  "(Transpose ?p (Transpose ?q ?x))"   => { Composed { p: var("?p"), q: var("?q"), x: var("?x") } }),
        rewrite!("reshape-to-same";      "(Reshape ?x ?s)"                    => "?x" if same_shape("?x")),
        rewrite!("squeeze-unsqueeze";    "(Squeeze ?a (Unsqueeze ?a ?x))"     => "?x"),
        rewrite!("unsqueeze-squeeze";    "(Unsqueeze ?a (Squeeze ?a ?x))"     => "?x"),
        rewrite!("slice-of-slice";       "(Slice ?p (Slice ?q ?x))"           => { Within { p: var("?p"), q: var("?q"), x: var("?x") } }),
        rewrite!("clip-sinks";           "(Clip (Transpose ?p ?x) ?lo ?hi)"   => "(Transpose ?p (Clip ?x ?lo ?hi))"),
    ];
    for (name, view) in VIEWS {
        rules.push(rewrite!(name; { pattern(&format!("(Reshape {view} ?t)")) } => "(Reshape ?x ?t)" if copies_no_dimension("?t")));
    }
    for form in UNARY {
        let op = form.trim_start_matches('(').split(' ').next().unwrap_or(form);
        let (left, right) = (form.replace("{}", "(Transpose ?p ?x)"), form.replace("{}", "?x"));
        rules.push(rule(&format!("transpose-sinks-{op}"), &left, &format!("(Transpose ?p {right})")));
    }
    for op in BINARY {
        let both = format!("({op} (Transpose ?p ?x) (Transpose ?p ?y))");
        rules.push(rule(&format!("transposes-sink-{op}"), &both, &format!("(Transpose ?p ({op} ?x ?y))")));
        let kind = OpKind::of(op);
        let left = pattern(&format!("({op} (Transpose ?p ?x) ?c)"));
        let right = pattern(&format!("({op} ?c (Transpose ?p ?x))"));
        for (name, pattern, is_left) in [
            (format!("transpose-sinks-{op}-constant"), left, false),
            (format!("transpose-sinks-constant-{op}"), right, true),
        ] {
            let turned = Turned { op: kind, p: var("?p"), x: var("?x"), c: var("?c"), is_left };
            rules.push(rewrite!(name; pattern => turned));
        }
    }
    rules.push(rewrite!("concat-of-concat"; { Nested } => { Flattened }));
    rules
}

pub(super) fn pattern(text: &str) -> egg::Pattern<Node> {
    match text.parse() {
        Ok(pattern) => pattern,
        Err(error) => panic!("{text}: {error}"), // a mistake in a list of rules, met by every test
    }
}

fn perm(egraph: &EGraph, id: Id) -> Option<&[usize]> {
    if let Some(Attr::Perm(perm)) = attr(egraph, id) { Some(perm) } else { None }
}

/// The permutation moves nothing.
fn keeps_order(p: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let p = var(p);
    move |egraph, _, subst| perm(egraph, subst[p]).is_some_and(|perm| perm.iter().copied().eq(0..perm.len()))
}

/// The result has the shape of `x`, provably.
fn same_shape(x: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let x = var(x);
    move |egraph, id, subst| egraph[id].data.same_shape(&egraph[subst[x]].data)
}

/// The target shape is constant and has no 0, which would mean a dimension of the direct input.
fn copies_no_dimension(t: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let t = var(t);
    move |egraph, _, subst| {
        let target = egraph[subst[t]].data.constant.as_ref().and_then(Tensor::to_i64_vec);
        target.is_some_and(|target| !target.contains(&0))
    }
}

/// `Transpose (x) op c` as `Transpose (x op c')`: the constant c' is c, turned back.
struct Turned {
    op: Option<OpKind>,
    p: Var,
    x: Var,
    c: Var,
    is_left: bool,
}

impl Applier<Node, Facts> for Turned {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        id: Id,
        subst: &Subst,
        _: Option<&PatternAst<Node>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let (Some(op), Some(perm)) = (self.op, perm(egraph, subst[self.p])) else { return Vec::new() };
        let Some(constant) = egraph[subst[self.c]].data.constant.clone() else { return Vec::new() };
        let c = if constant.len() == 1 && constant.dims().len() <= perm.len() {
            subst[self.c]
        } else {
            let leaf = egraph[subst[self.c]].nodes.iter().find_map(|node| match node.kind {
                Kind::Value(number) => Some(number),
                _ => None,
            });
            let turned = turned_back(&constant, perm);
            let Some(leaf) = leaf.zip(turned).and_then(|(like, tensor)| egraph.analysis.made(tensor, like)) else {
                return Vec::new();
            };
            egraph.add(Node::leaf(Kind::Value(leaf)))
        };
        let x = subst[self.x];
        let inner = egraph.add(Node::op(op, if self.is_left { vec![c, x] } else { vec![x, c] }));
        let new = egraph.add(Node::op(OpKind::Transpose, vec![subst[self.p], inner]));
        if egraph.union_trusted(id, new, rule) { vec![new] } else { Vec::new() }
    }

    fn vars(&self) -> Vec<Var> {
        vec![self.p, self.x, self.c]
    }
}

/// The constant of which `constant` is the Transpose by `perm`, where it varies along one axis at most: then its numbers stay in order.
pub(super) fn turned_back(constant: &Tensor, perm: &[usize]) -> Option<Tensor> {
    let outer = perm.len().checked_sub(constant.dims().len())?;
    let mut dims = vec![1; perm.len()];
    constant.dims().iter().enumerate().for_each(|(axis, &dim)| dims[perm[outer + axis]] = dim);
    (dims.iter().filter(|dim| **dim != 1).count() <= 1).then(|| constant.reshaped(&dims)).flatten()
}

/// Axis `k` of the result is axis `q[p[k]]` of x.
struct Composed {
    p: Var,
    q: Var,
    x: Var,
}

impl Applier<Node, Facts> for Composed {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        id: Id,
        subst: &Subst,
        _: Option<&PatternAst<Node>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let (Some(p), Some(q)) = (perm(egraph, subst[self.p]), perm(egraph, subst[self.q])) else { return Vec::new() };
        let Some(composed) = p.iter().map(|&axis| q.get(axis).copied()).collect::<Option<Vec<usize>>>() else {
            return Vec::new();
        };
        let attr = egraph.analysis.attr(Attr::Perm(composed));
        let attr = egraph.add(Node::leaf(Kind::Attr(attr)));
        let new = egraph.add(Node::op(OpKind::Transpose, vec![attr, subst[self.x]]));
        if egraph.union_trusted(id, new, rule) { vec![new] } else { Vec::new() }
    }

    fn vars(&self) -> Vec<Var> {
        vec![self.p, self.q, self.x]
    }
}

/// A Slice of a Slice, as one.
struct Within {
    p: Var,
    q: Var,
    x: Var,
}

impl Applier<Node, Facts> for Within {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        id: Id,
        subst: &Subst,
        _: Option<&PatternAst<Node>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let spans = |v: Var| if let Some(Attr::Spans(spans)) = attr(egraph, subst[v]) { Some(spans) } else { None };
        let Some(within) = spans(self.p).zip(spans(self.q)).and_then(|(outer, inner)| within(outer, inner)) else {
            return Vec::new();
        };
        let attr = egraph.analysis.attr(Attr::Spans(within));
        let attr = egraph.add(Node::leaf(Kind::Attr(attr)));
        let new = egraph.add(Node::op(OpKind::Slice, vec![attr, subst[self.x]]));
        if egraph.union_trusted(id, new, rule) { vec![new] } else { Vec::new() }
    }

    fn vars(&self) -> Vec<Var> {
        vec![self.p, self.q, self.x]
    }
}

/// What `outer` takes of what `inner` takes; `None` when an axis that both cut has bounds from the back.
/// Element `k` of `outer` is index `start + k · step` of the inner result, which is index `inner.start + that · inner.step`.
pub(super) fn within(outer: &[Span], inner: &[Span]) -> Option<Vec<Span>> {
    let mut spans = inner.to_vec();
    for span in outer {
        let Some(place) = spans.iter_mut().find(|inner| inner.axis == span.axis) else {
            spans.push(*span);
            continue;
        };
        if [place.start, place.end, span.start, span.end].iter().any(|&index| index < 0) {
            return None;
        }
        let at = |index: i64| index.saturating_mul(place.step).saturating_add(place.start);
        *place = Span {
            axis: span.axis,
            start: at(span.start),
            end: place.end.min(at(span.end)),
            step: place.step.checked_mul(span.step)?,
        };
    }
    spans.sort_unstable();
    Some(spans)
}

/// Finds Concats that have a Concat of the same axis among their inputs.
struct Nested;

/// Puts the inputs of the inner Concats in their place.
struct Flattened;

impl Searcher<Node, Facts> for Nested {
    fn search_with_limit(&self, egraph: &EGraph, limit: usize) -> Vec<SearchMatches<'_, Node>> {
        let Some(classes) = egraph.classes_for_op(&Kind::Op(OpKind::Concat)) else { return Vec::new() };
        classes.filter_map(|id| self.search_eclass_with_limit(egraph, id, limit)).take(limit).collect()
    }

    fn search_eclass_with_limit(&self, egraph: &EGraph, eclass: Id, _: usize) -> Option<SearchMatches<'_, Node>> {
        flattened(egraph, eclass)?;
        Some(SearchMatches { eclass, substs: vec![Subst::default()], ast: None })
    }

    fn vars(&self) -> Vec<Var> {
        Vec::new()
    }
}

impl Applier<Node, Facts> for Flattened {
    fn apply_one(&self, egraph: &mut EGraph, id: Id, _: &Subst, _: Option<&PatternAst<Node>>, rule: Symbol) -> Vec<Id> {
        let Some(node) = flattened(egraph, id) else { return Vec::new() };
        let new = egraph.add(node);
        if egraph.union_trusted(id, new, rule) { vec![new] } else { Vec::new() }
    }
}

fn concats(egraph: &EGraph, id: Id) -> impl Iterator<Item = &Node> {
    egraph[id].nodes.iter().filter(|node| node.kind == Kind::Op(OpKind::Concat))
}

/// A Concat of class `id` with the inputs of one inner level in their place; `None` when none has an inner Concat.
fn flattened(egraph: &EGraph, id: Id) -> Option<Node> {
    let own = egraph.find(id);
    concats(egraph, id).find_map(|node| {
        let (axis, inputs) = node.children().split_first()?;
        let axis = egraph.find(*axis);
        let inner = |input: Id| {
            concats(egraph, input).find(|inner| egraph.find(inner.children[0]) == axis && egraph.find(input) != own)
        };
        let mut children = vec![axis];
        for &input in inputs {
            match inner(input) {
                Some(inner) => children.extend_from_slice(&inner.children[1..]),
                None => children.push(input),
            }
        }
        let flat = Node::op(OpKind::Concat, children);
        (flat.children.len() > node.children.len() && egraph.lookup(flat.clone()).is_none()).then_some(flat)
    })
}
