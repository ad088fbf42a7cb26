//! Identities of elementwise arithmetic.
//!
//! ```onnx before
//! # x: float[2,3]; c: float = {2}; d: float = {3}
//! t = Mul (x, c)
//! y = Mul (t, d)
//! ```
//! ```onnx after
//! y = Mul (x, c_1)
//! ```
//! Constants merge in f64, rounded once to the type of both.
//! **Legal when** both are one number of float32 or float64 between 2^-32 and 2^32 in size (float16 passes its range too
//! easily), sums only of equal signs: `x + 2^23 - 2^23` rounds `x`, and someone may mean that.
//! **Does not** merge constants of more than one element.
use egg::{Applier, Id, PatternAst, Subst, Symbol, Var, rewrite};
use ndarray::{ArrayD, IxDyn};
use onnx_shrink_ir::{DataType, Tensor};

use super::{
    EGraph, Rule,
    analysis::Facts,
    language::{Kind, Node, OpKind},
    layout::pattern,
    var,
};

/// Bit-equal rules.
#[rustfmt::skip]
pub fn exact() -> Vec<Rule> { vec![
    rewrite!("mul-by-one";    "(Mul ?x ?c)" => "?x" if is_all("?c", 1.0) if is_single("?c") if is_no_wider("?x")),
    rewrite!("one-mul-by";    "(Mul ?c ?x)" => "?x" if is_all("?c", 1.0) if is_single("?c") if is_no_wider("?x")),
    rewrite!("div-by-one";    "(Div ?x ?c)" => "?x" if is_all("?c", 1.0) if is_no_wider("?x")),
    rewrite!("sub-zero";      "(Sub ?x ?c)" => "?x" if is_all("?c", 0.0) if is_no_wider("?x")),
]}

/// Rules that round once instead of twice.
pub fn rounding() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (op, name) in [(OpKind::Mul, "Mul"), (OpKind::Add, "Add")] {
        for (place, inner) in [("right", "?x ?c"), ("left", "?c ?x")] {
            for (outer_place, form) in [("right", "({op} ({op} {in}) ?d)"), ("left", "({op} ?d ({op} {in}))")] {
                let left = pattern(&form.replace("{op}", name).replace("{in}", inner));
                let merged = Merged { op, x: var("?x"), c: var("?c"), d: var("?d") };
                rules.push(rewrite!(format!("{name}-{place}-{outer_place}-constants"); left => merged));
            }
        }
    }
    rules
}

/// Every element of the small constant `c` is `number` (+0 for 0).
fn is_all(c: &str, number: f64) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let c = var(c);
    move |egraph, _, subst| {
        let numbers = egraph[subst[c]].data.constant.as_ref().and_then(Tensor::to_f64_vec);
        numbers.is_some_and(|numbers| {
            !numbers.is_empty() && numbers.iter().all(|found| found.to_bits() == number.to_bits())
        })
    }
}

/// The constant `c` is one number. A vector of ones stays: it may be the scale by which engines recognize a normalization.
fn is_single(c: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let c = var(c);
    move |egraph, _, subst| egraph[subst[c]].data.constant.as_ref().is_some_and(|constant| constant.len() == 1)
}

/// The result has the shape of `x`, provably: the other side does not broadcast it.
fn is_no_wider(x: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let x = var(x);
    move |egraph, id, subst| egraph[id].data.same_shape(&egraph[subst[x]].data)
}

/// `(x op c) op d` as `x op (c op d)`.
struct Merged {
    op: OpKind,
    x: Var,
    c: Var,
    d: Var,
}

impl Applier<Node, Facts> for Merged {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        id: Id,
        subst: &Subst,
        _: Option<&PatternAst<Node>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let constant = |v: Var| egraph[subst[v]].data.constant.as_ref();
        let like = egraph[subst[self.c]]
            .nodes
            .iter()
            .find_map(|node| if let Kind::Value(number) = node.kind { Some(number) } else { None });
        let Some(tensor) = constant(self.c).zip(constant(self.d)).and_then(|(c, d)| merged(self.op, c, d)) else {
            return Vec::new();
        };
        if egraph[subst[self.x]].data.constant.is_some() {
            return Vec::new(); // folding's business
        }
        let Some(leaf) = like.and_then(|like| egraph.analysis.made(tensor, like)) else { return Vec::new() };
        let leaf = egraph.add(Node::leaf(Kind::Value(leaf)));
        let new = egraph.add(Node::op(self.op, vec![subst[self.x], leaf]));
        if egraph.union_trusted(id, new, rule) { vec![new] } else { Vec::new() }
    }

    fn vars(&self) -> Vec<Var> {
        vec![self.x, self.c, self.d]
    }
}

/// The constant that stands for both; `None` when they may not be merged.
fn merged(op: OpKind, c: &Tensor, d: &Tensor) -> Option<Tensor> {
    let dtype = c.dtype();
    let fits = dtype == d.dtype() && matches!(dtype, DataType::Float | DataType::Double);
    let (a, b) = (c.to_scalar_f64()?, d.to_scalar_f64()?);
    let tame = |number: f64| (2f64.powi(-32)..=2f64.powi(32)).contains(&number.abs());
    let number = match op {
        OpKind::Mul => a * b,
        OpKind::Add => (a.signum() == b.signum()).then_some(a + b)?,
        _ => return None,
    };
    let dims = if c.dims().len() < d.dims().len() { d.dims() } else { c.dims() };
    let holds = fits && tame(a) && tame(b) && tame(number);
    holds.then(|| Tensor::from_f64(dtype, &ArrayD::from_elem(IxDyn(dims), number))).flatten()
}
