//! Proof by region: where a model cannot be run as a whole, each part of it that was rewritten is run alone, before and after.
//!
//! Both graphs are walked from their outputs to their inputs, side by side. Two ops that are the same on inputs that are the
//! same make the same; where something else stands, the ops back to values that both graphs have under one name are a region.
//! It is cut out of both graphs, and run on the same made-up inputs. Where only the constants of an op differ, and the op cannot be run,
//! the constants themselves are held against each other. Bodies are walked like the graphs that they stand in.
//!
//! **Never** takes a name for a proof: what a region reads is proven in turn. **Never** proves what did not run.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{Evaluate, Graph, OpId, TensorType, ValueId, between};
use onnx_shrink_passes::{Class, Entry, Journal, RewriteId};
use serde::Serialize;

use crate::{
    Failure, Silent,
    metrics::Comparison,
    proof::{Compared, Proof},
};

/// A region that could not be proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Open {
    /// The value that it makes
    pub value: String,
    /// Why it is not proven
    pub reason: String,
    /// Labels of its ops, in both graphs
    #[serde(skip)]
    pub labels: BTreeSet<String>,
}

/// What came of the regions of two graphs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Regions {
    /// Regions that were run before and after
    pub proven: usize,
    /// Of these, those whose constants alone were compared: the op that reads them cannot be run
    pub constants: usize,
    /// Regions that are not proven: what was rewritten there was taken back
    pub open: Vec<Open>,
}

/// Rounds in which a region grows until both sides read the same values.
const ROUNDS: usize = 6;

/// Rows that are made up for a product with a constant matrix, where nothing tells how many there are.
const ROWS: usize = 4;

/// What of a comparison is wrong, in words; `None`: nothing.
pub type Judge<'a> = &'a dyn Fn(&Comparison) -> Option<String>;

/// Proves `after` against `before`, region by region.
pub fn prove(evaluator: &dyn Evaluate, before: &Graph, after: &Graph, judge: Judge<'_>) -> Result<Regions, Failure> {
    let mut found = Regions::default();
    Walk { evaluator, judge, before, after, found: &mut found }.run()?;
    Ok(found)
}

/// Rewrites of `journal` that regions without a proof are to go without, as pass and label: those in them that are not exact. A region
/// with exact rewrites alone needs no proof. `None`: nothing tells which rewrites made a region what it is.
pub fn denied(found: &Regions, journal: &Journal) -> Option<BTreeSet<RewriteId>> {
    let mut denied = BTreeSet::new();
    for open in &found.open {
        let mut of_it =
            journal.entries.iter().filter(|entry| entry.is_done() && open.labels.contains(&entry.op)).peekable();
        of_it.peek()?;
        let inexact = of_it.filter(|entry| entry.class != Class::Exact);
        denied.extend(inexact.map(Entry::id));
    }
    Some(denied)
}

impl Regions {
    /// Regions in all.
    pub fn count(&self) -> usize {
        self.proven + self.open.len()
    }

    /// Adds what came of another comparison.
    pub fn add(&mut self, other: Regions) {
        self.proven += other.proven;
        self.constants += other.constants;
        self.open.extend(other.open);
    }
}

/// Two graphs side by side.
struct Walk<'a> {
    evaluator: &'a dyn Evaluate,
    judge: Judge<'a>,
    before: &'a Graph,
    after: &'a Graph,
    found: &'a mut Regions,
}

/// What running a region gave.
enum Verdict {
    Holds,
    Fails(String),
    Unknown(String),
}

/// A value of the original, and what shall be the same in the new graph.
type Pair = (ValueId, ValueId);

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let (outputs, new) = (self.before.outputs(), self.after.outputs());
        let mut work: Vec<Pair> = outputs.iter().copied().zip(new.iter().copied()).collect();
        let mut seen: BTreeSet<Pair> = BTreeSet::new();
        let mut bodies: BTreeSet<(OpId, OpId)> = BTreeSet::new();
        while let Some(pair) = work.pop() {
            if !seen.insert(pair) {
                continue;
            }
            match self.same_op(pair) {
                Some(ops) => {
                    let (touched, same) = self.inputs(ops);
                    match touched.is_empty() {
                        true => work.extend(same),
                        false => work.extend(self.touched(pair, &touched, same)?),
                    }
                    if bodies.insert(ops) {
                        self.bodies(ops, &mut work)?;
                    }
                }
                None => work.extend(self.region(pair)?),
            }
        }
        Ok(())
    }

    /// The ops that make the pair, if they are the same but for what they read.
    fn same_op(&self, (old, new): Pair) -> Option<(OpId, OpId)> {
        let ((a, port), (b, other)) = (self.before.producer_port(old)?, self.after.producer_port(new)?);
        let (one, two) = (self.before.op(a), self.after.op(b));
        let by_name = |op: &onnx_shrink_ir::Op| -> BTreeMap<String, _> {
            op.attributes().iter().map(|attribute| (attribute.name().to_owned(), attribute.clone())).collect()
        };
        let left_out = |op: &onnx_shrink_ir::Op| op.inputs().iter().map(Option::is_none).collect::<Vec<_>>();
        (port == other
            && one.op_type() == two.op_type()
            && one.domain() == two.domain()
            && left_out(one) == left_out(two)
            && one.regions().len() == two.regions().len()
            && by_name(one) == by_name(two))
        .then_some((a, b))
    }

    /// Inputs of two ops that are alike: where a constant became another or is computed now, and the others.
    fn inputs(&self, (a, b): (OpId, OpId)) -> (Vec<Pair>, Vec<Pair>) {
        let (old, new) = (self.before.op(a).inputs(), self.after.op(b).inputs());
        let pairs = old.iter().flatten().copied().zip(new.iter().flatten().copied());
        let (mut touched, mut same) = (Vec::new(), Vec::new());
        for (old, new) in pairs {
            match (self.before.constant(old), self.after.constant(new)) {
                (Some(one), Some(other)) if one == other => {}
                (None, None) => same.push((old, new)),
                _ => touched.push((old, new)),
            }
        }
        (touched, same)
    }

    /// Walks the bodies of two ops that are alike; what they capture is to be the same, too.
    fn bodies(&mut self, (a, b): (OpId, OpId), work: &mut Vec<Pair>) -> Result<(), Failure> {
        let (old, new) = (self.before.captures(a), self.after.captures(b));
        for (region, outer, inner) in new {
            let name = |graph: &Graph, op, value| graph.op(op).regions()[region].graph.name_of(value).to_owned();
            let wanted = name(self.after, b, inner);
            let found = old.iter().find(|(of, _, value)| *of == region && name(self.before, a, *value) == wanted);
            // A capture that the original's body does not have shows as an input without a partner there.
            if let Some((_, before, _)) = found {
                let constants = (self.before.constant(*before), self.after.constant(outer));
                if !matches!(constants, (Some(one), Some(other)) if one == other) {
                    work.push((*before, outer));
                }
            }
        }
        for (one, two) in self.before.op(a).regions().iter().zip(self.after.op(b).regions()) {
            let (before, after) = (&one.graph, &two.graph);
            Walk { evaluator: self.evaluator, judge: self.judge, before, after, found: self.found }.run()?;
        }
        Ok(())
    }

    /// One op on other constants: run it, or else hold the constants against each other. The pairs to be proven yet.
    fn touched(&mut self, pair: Pair, touched: &[Pair], same: Vec<Pair>) -> Result<Vec<Pair>, Failure> {
        let reason = match self.grown(pair).map(|names| self.compare(pair, &names)).transpose()? {
            Some(Verdict::Holds) => {
                self.found.proven += 1;
                return Ok(same);
            }
            Some(Verdict::Fails(reason)) => {
                self.open(pair, reason);
                return Ok(same);
            }
            Some(Verdict::Unknown(reason)) => reason,
            None => "it reads other values than before".to_owned(),
        };
        for &constants in touched {
            let sides = [(self.before, constants.0), (self.after, constants.1)];
            let reason = match sides.iter().all(|(graph, value)| frontier(graph, *value, &|_| false).is_empty()) {
                false => Some(reason.clone()),
                true => match self.compare(constants, &[])? {
                    Verdict::Holds => None,
                    Verdict::Fails(reason) | Verdict::Unknown(reason) => Some(reason),
                },
            };
            if let Some(reason) = reason {
                self.open(pair, reason);
                return Ok(same);
            }
        }
        self.found.proven += 1;
        self.found.constants += 1;
        Ok(same)
    }

    /// Different ops: run both back to what both graphs have.
    fn region(&mut self, pair: Pair) -> Result<Vec<Pair>, Failure> {
        let (old, new) = pair;
        let is_given = |graph: &Graph, value| graph.producer(value).is_none() && graph.constant(value).is_none();
        if is_given(self.before, old) && is_given(self.after, new) {
            let (one, other) = (self.before.name_of(old), self.after.name_of(new));
            if one != other {
                self.open(pair, format!("`{other}` is read where `{one}` was"));
            }
            return Ok(Vec::new());
        }
        if let (Some(one), Some(other)) = (self.before.constant(old), self.after.constant(new))
            && one == other
        {
            return Ok(Vec::new());
        }
        let Some(names) = self.grown(pair) else {
            self.open(pair, "it reads other values than before".to_owned());
            return Ok(Vec::new());
        };
        match self.compare(pair, &names)? {
            Verdict::Holds => self.found.proven += 1,
            Verdict::Fails(reason) | Verdict::Unknown(reason) => self.open(pair, reason),
        }
        let both = names.iter().filter_map(|name| Some((self.before.find(name)?, self.after.find(name)?)));
        Ok(both.collect())
    }

    /// Names of what both sides of the region read, which grows until the new side reads nothing that the old one does not.
    fn grown(&self, (old, new): Pair) -> Option<Vec<String>> {
        let mut through: BTreeSet<String> =
            [self.before.name_of(old), self.after.name_of(new)].map(str::to_owned).into();
        for _ in 0..ROUNDS {
            let stops = |name: &str| {
                let is_value = |graph: &Graph| graph.find(name).is_some_and(|value| graph.constant(value).is_none());
                !through.contains(name) && is_value(self.before) && is_value(self.after)
            };
            let read = |graph: &Graph, value| -> BTreeSet<String> {
                frontier(graph, value, &stops).into_iter().map(|value| graph.name_of(value).to_owned()).collect()
            };
            let (before, after) = (read(self.before, old), read(self.after, new));
            if after.is_subset(&before) {
                return Some(before.into_iter().collect());
            }
            let count = through.len();
            through.extend(before.symmetric_difference(&after).cloned());
            if through.len() == count {
                return None;
            }
        }
        None
    }

    /// Runs both sides of a region that reads `names` on made-up inputs.
    fn compare(&self, (old, new): Pair, names: &[String]) -> Result<Verdict, Failure> {
        let ty = |name: &String| {
            let known = |graph: &Graph| graph.find(name).and_then(|value| graph.ty(value).cloned());
            let known = known(self.before).filter(|ty| ty.shape.is_some()).or_else(|| known(self.after));
            known.filter(|ty| ty.shape.is_some()).or_else(|| self.guessed(name))
        };
        let inputs: Vec<(String, Option<TensorType>)> = names.iter().map(|name| (name.clone(), ty(name))).collect();
        let (before, after) = (between(self.before, &inputs, old), between(self.after, &inputs, new));
        let proof = Proof::new(self.evaluator, &Silent, &before, None);
        Ok(match proof.compare(&after)? {
            Compared::Done(comparison) => match (self.judge)(&comparison) {
                None => Verdict::Holds,
                Some(reason) => Verdict::Fails(reason),
            },
            Compared::Fails(reason) => Verdict::Fails(reason),
            Compared::Unproven => Verdict::Unknown(proof.unproven().expect("a proof that fails to run says why")),
        })
    }

    /// What a product with a constant matrix takes, where the type of the value is not known.
    fn guessed(&self, name: &str) -> Option<TensorType> {
        let graph = self.before;
        let value = graph.find(name)?;
        graph.uses(value).into_iter().find_map(|place| {
            let op = graph.op(place.op()?);
            let matrix =
                op.input(1).and_then(|weight| graph.constant(weight)).filter(|_| op.input(0) == Some(value))?;
            match matrix.dims() {
                [k, _] if op.is("MatMul") => Some(TensorType::fixed(matrix.dtype(), &[ROWS, *k])),
                _ => None,
            }
        })
    }

    fn open(&mut self, (old, new): Pair, reason: String) {
        let mut labels = BTreeSet::new();
        for (graph, value, other) in [(self.before, old, self.after), (self.after, new, self.before)] {
            let has = |name: &str| other.find(name).is_some_and(|value| other.constant(value).is_none());
            let given: Vec<ValueId> =
                frontier(graph, value, &|name| name != graph.name_of(value) && has(name)).into_iter().collect();
            let ops = onnx_shrink_ir::ops_between(graph, &given, &[value]);
            let users = graph.uses(value).into_iter().filter_map(onnx_shrink_ir::Use::op);
            labels.extend(ops.into_iter().chain(users).map(|op| graph.label_of(op).to_owned()));
        }
        let value = self.before.name_of(old).to_owned();
        self.found.open.push(Open { value, reason, labels });
    }
}

/// What the ops that make `value` read, back to values whose name `stops` and to what no op makes; constants aside.
fn frontier(graph: &Graph, value: ValueId, stops: &dyn Fn(&str) -> bool) -> BTreeSet<ValueId> {
    let (mut read, mut seen) = (BTreeSet::new(), BTreeSet::from([value]));
    let mut work = vec![value];
    while let Some(value) = work.pop() {
        if graph.constant(value).is_some() {
            continue;
        }
        let Some(op) = graph.producer(value).filter(|_| !stops(graph.name_of(value))) else {
            read.insert(value);
            continue;
        };
        let captured = graph.captures(op).into_iter().map(|(_, outer, _)| outer);
        work.extend(
            graph.op(op).inputs().iter().flatten().copied().chain(captured).filter(|value| seen.insert(*value)),
        );
    }
    read
}

#[cfg(test)]
mod tests {
    use onnx_shrink_exec::{Interpreter, Options};
    use onnx_shrink_ir::testing::parse_graph;

    use super::{Regions, prove};
    use crate::metrics::Comparison;

    /// What is proven when at most 1 % of each region may change.
    fn regions(before: &str, after: &str) -> Regions {
        let far = |comparison: &Comparison| {
            comparison.outputs.iter().any(|output| output.rel_l2 > 0.01).then(|| "far".to_owned())
        };
        prove(&Interpreter::new(Options::default()), &parse_graph(before), &parse_graph(after), &far).unwrap()
    }

    /// A graph with an op that nothing here runs, and `body` around it.
    fn around(body: &str) -> String {
        let opset = "<opset_import: [\"\" : 17, \"own\" : 1]>";
        format!("{opset} g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {{1, 2, 3, 4}}> {{ {body} }}")
    }

    #[test]
    fn what_is_the_same_needs_no_proof_and_what_is_not_is_run_alone() {
        let before = around("a = Neg (x)  b = Neg (a)  c = own.Strange (b)  d = Add (c, w)  y = Relu (d)");
        assert_eq!(regions(&before, &before), Regions::default());
        let shorter = around("b = Identity (x)  c = own.Strange (b)  d = Add (c, w)  y = Relu (d)");
        let found = regions(&before, &shorter);
        assert_eq!((found.proven, found.open.len()), (1, 0), "{found:?}");
        let wrong = around("b = Neg (x)  c = own.Strange (b)  d = Add (c, w)  y = Relu (d)");
        let found = regions(&before, &wrong);
        assert_eq!((found.proven, found.open.len()), (0, 1), "{found:?}");
        assert!(found.open[0].value == "a" && found.open[0].reason == "far", "{found:?}");
        assert_eq!(found.open[0].labels, ["a", "b"].map(str::to_owned).into());
    }

    #[test]
    fn a_name_is_no_proof() {
        // Between names that both have, the ops stay as they were: what is called `a` is not the same.
        let before = around("a = Neg (x)  c = own.Strange (a)  y = Relu (c)");
        let after = around("a = Abs (x)  c = own.Strange (a)  y = Relu (c)");
        assert_eq!(regions(&before, &after).open.len(), 1);
        // Of an op that cannot be run, no other input than before is taken.
        let other = around("a = Neg (x)  c = own.Strange (x)  y = Relu (c)");
        let found = regions(&before, &other);
        assert_eq!((found.proven, found.open.len()), (0, 1), "{found:?}");
    }

    #[test]
    fn constants_of_an_op_that_cannot_be_run_are_held_against_each_other() {
        let before = around("c = own.Strange (x, w)  y = Relu (c)");
        let near = around(
            "h = Constant <value = float[2,2] {1, 2, 3.001, 4}> ()  m = Neg (h)  n = Neg (m)  c = own.Strange (x, n)  y = Relu (c)",
        );
        let found = regions(&before, &near);
        assert_eq!((found.proven, found.constants, found.open.len()), (1, 1, 0), "{found:?}");
        let far = around("h = Constant <value = float[2,2] {1, 2, 3, -4}> ()  c = own.Strange (x, h)  y = Relu (c)");
        assert_eq!(regions(&before, &far).open.len(), 1);
        let computed = around("h = Neg (x)  c = own.Strange (x, h)  y = Relu (c)");
        assert_eq!(regions(&before, &computed).open.len(), 1, "it depends on an input");
    }

    #[test]
    fn bodies_are_walked_like_the_graph_around_them() {
        let graph = |inner: &str| {
            around(&format!(
                "c = own.Loops <body = b (float[2,2] i) => (float[2,2] o) <float[2,2] v = {{1, 2, 3, 4}}> {{
                   {inner}  s = own.Strange (p)  o = Relu (s) }}> (x)  y = Relu (c)"
            ))
        };
        let before = graph("q = Neg (i)  p = Neg (q)");
        assert_eq!(regions(&before, &graph("p = Identity (i)")).proven, 1);
        assert_eq!(regions(&before, &graph("p = MatMul (i, v)")).open.len(), 1);
    }
}
