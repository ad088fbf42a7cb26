//! The verifier: numbered invariants that every graph keeps, before and after every pass.
//!
//! | | |
//! |---|---|
//! | V1 | the values of a graph have different names, those that it captures included |
//! | V2 | no op waits for itself |
//! | V3 | ONNX's own ops have as many inputs and outputs as their schema in this opset says, and all that it requires |
//! | V4 | a constant, a captured value and a declared output have the type that the value is known to have |
//! | V5 | each captured value of a body comes from exactly one value outside |
//! | V6 | inputs and outputs of the model stay as they were ([`same_interface`]) |
//! | V7 | every value that is used has exactly one source: an op, an input, a constant or a capture |
//! | V8 | edges and the lists of inputs and outputs tell the same |
//! | V9 | bodies and the attributes that hold them tell the same |
//!
//! **Never** changes the graph, stops at no violation, and recurses over bodies only.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use onnx_shrink_proto::schema::{ValueInfoProto, attribute_proto::AttributeType};

use crate::{
    graph::{Edge, Graph, Op, OpId, ValueId},
    model::Model,
    op_schema::{self, Formal, Occurrence},
    types::{Dim, TensorType},
};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The body where it does not, "" for the main graph: "body `then_branch` of `y`"
    pub place: String,
    /// What is wrong
    pub problem: Problem,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{}: ", self.problem.rule())?;
        if !self.place.is_empty() {
            write!(f, "in {}: ", self.place)?;
        }
        write!(f, "{}", self.problem)
    }
}

/// What is wrong. Strings name values and ops; numbers are positions from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's sentence says what it is and what its fields are")]
pub enum Problem {
    #[error("two values are called `{0}`")]
    NameTwice(String),
    #[error("`{0}` is not found by its name")]
    NameLost(String),
    #[error("a value has no name")]
    NameEmpty,
    #[error("`{0}` has the name of a value outside, which it hides")]
    Shadows(String),
    #[error("{count} ops wait for each other, `{op}` among them")]
    Cycle { count: usize, op: String },
    #[error("op `{op}` ({op_type}) has {found} {side}, its schema wants {wanted}")]
    Arity { op: String, op_type: String, side: &'static str, found: usize, wanted: String },
    #[error("`{value}` is known as {known}, but {what} is {other}")]
    Type { value: String, known: String, what: &'static str, other: String },
    #[error("the captured value `{0}` comes from {1} values outside, not from one")]
    CaptureSources(String, usize),
    #[error("`{0}` is captured, but there is no graph outside")]
    CaptureWithoutOutside(String),
    #[error("op `{op}` captures `{outer}` for region {region} as a value that is not there or not marked as captured")]
    CaptureTarget { op: String, outer: String, region: usize },
    #[error("{side} {index} was `{before}`, and is now `{after}`")]
    Interface { side: &'static str, index: usize, before: String, after: String },
    #[error("{side} {index}, `{name}`, was declared differently before")]
    Declaration { side: &'static str, index: usize, name: String },
    #[error("the model had {before} {side}, and has now {after}")]
    InterfaceCount { side: &'static str, before: usize, after: usize },
    #[error("`{value}` has {found} sources ({kinds}), not one")]
    Sources { value: String, found: usize, kinds: String },
    #[error("`{0}` is used, but nothing makes it")]
    NoSource(String),
    #[error("{side} {index} of op `{op}` is {listed} in its list and {linked} by its edges")]
    Edge { op: String, side: &'static str, index: usize, listed: String, linked: String },
    #[error("an edge does not lead from a value to an op or from an op to a value")]
    SenselessEdge,
    #[error("the graph has {values} {side}, but {declared} declarations of them")]
    Declarations { side: &'static str, values: usize, declared: usize },
    #[error("{side} {index} of the graph is a value that is not there any more")]
    Gone { side: &'static str, index: usize },
    #[error("region {region} of op `{op}` belongs to attribute {attribute}, which is not there or holds no graph")]
    RegionAttribute { op: String, region: usize, attribute: usize },
    #[error("attribute `{attribute}` of op `{op}` should hold a graph, but has no region")]
    RegionMissing { op: String, attribute: String },
    #[error("two regions of op `{op}` have the same place in attribute {attribute}, or their places leave a gap")]
    RegionPlaces { op: String, attribute: usize },
}

impl Problem {
    /// The number of the invariant.
    pub fn rule(&self) -> u32 {
        use Problem::*;
        match self {
            NameTwice(_) | NameLost(_) | NameEmpty | Shadows(_) => 1,
            Cycle { .. } => 2,
            Arity { .. } => 3,
            Type { .. } => 4,
            CaptureSources(..) | CaptureWithoutOutside(_) | CaptureTarget { .. } => 5,
            Interface { .. } | Declaration { .. } | InterfaceCount { .. } => 6,
            Sources { .. } | NoSource(_) => 7,
            Edge { .. } | SenselessEdge | Declarations { .. } | Gone { .. } => 8,
            RegionAttribute { .. } | RegionMissing { .. } | RegionPlaces { .. } => 9,
        }
    }
}

/// Every violation in `model`, V6 aside.
///
/// That a body's value hides one outside which the body does not use is none: ONNX forbids it, but exporters do it, and
/// every reader takes the inner one.
pub fn verify(model: &Model) -> Vec<Violation> {
    verify_graph(&model.graph)
}

/// Every violation in `graph` as a main graph, as [`verify`] does.
pub fn verify_graph(graph: &Graph) -> Vec<Violation> {
    let mut violations = all_violations(graph);
    violations.retain(|violation| !matches!(violation.problem, Problem::Shadows(_)));
    violations
}

/// What a pass that made `after` out of `before` is to blame for: violations that were not there, hidden names included,
/// and changes of the interface.
pub fn new_violations(before: &Model, after: &Model) -> Vec<Violation> {
    let old: HashSet<String> = all_violations(&before.graph).iter().map(ToString::to_string).collect();
    let mut new = all_violations(&after.graph);
    new.retain(|violation| !old.contains(&violation.to_string()));
    new.extend(same_interface(before, after));
    new
}

fn all_violations(graph: &Graph) -> Vec<Violation> {
    let mut verifier = Verifier::default();
    let main = Scope { graph, place: String::new(), captured: BTreeMap::new(), is_body: false };
    verifier.scope(&main, &mut Vec::new());
    verifier.violations
}

/// V6: what callers of the model see is the same in `after`: inputs and outputs by name, order and declaration. An input
/// with a default may be gone (it became a constant).
pub fn same_interface(before: &Model, after: &Model) -> Vec<Violation> {
    let mut problems = Vec::new();
    let (old, new) = (&before.graph, &after.graph);
    let kept: Vec<usize> = (0..old.inputs().len())
        .filter(|&index| {
            let input = old.inputs()[index];
            old.default_of(input).is_none()
                || new.inputs().iter().any(|&value| new.name_of(value) == old.name_of(input))
        })
        .collect();
    let old_inputs: Vec<_> =
        kept.iter().map(|&index| (old.name_of(old.inputs()[index]), old.rest.input.get(index))).collect();
    compare("input", &old_inputs, &interface(new, new.inputs(), &new.rest.input), &mut problems);
    let old_outputs = interface(old, old.outputs(), &old.rest.output);
    compare("output", &old_outputs, &interface(new, new.outputs(), &new.rest.output), &mut problems);
    problems.into_iter().map(|problem| Violation { place: String::new(), problem }).collect()
}

type Interface<'a> = Vec<(&'a str, Option<&'a ValueInfoProto>)>;

fn interface<'a>(graph: &'a Graph, values: &[ValueId], declared: &'a [ValueInfoProto]) -> Interface<'a> {
    values.iter().enumerate().map(|(index, &value)| (graph.name_of(value), declared.get(index))).collect()
}

fn compare(side: &'static str, before: &Interface<'_>, after: &Interface<'_>, problems: &mut Vec<Problem>) {
    if before.len() != after.len() {
        let side = if side == "input" { "inputs" } else { "outputs" };
        problems.push(Problem::InterfaceCount { side, before: before.len(), after: after.len() });
    }
    for (index, (old, new)) in before.iter().zip(after).enumerate() {
        if old.0 != new.0 {
            let (before, after) = (old.0.to_owned(), new.0.to_owned());
            problems.push(Problem::Interface { side, index, before, after });
        } else if old.1.map(|info| &info.r#type) != new.1.map(|info| &info.r#type) {
            problems.push(Problem::Declaration { side, index, name: old.0.to_owned() });
        }
    }
}

/// A graph with what the one around it says about it.
struct Scope<'a> {
    graph: &'a Graph,
    place: String,
    /// Captured values: the names and types of the values outside that they come from
    captured: BTreeMap<ValueId, Vec<(&'a str, Option<&'a TensorType>)>>,
    is_body: bool,
}

#[derive(Default)]
struct Verifier {
    violations: Vec<Violation>,
}

impl Verifier {
    fn scope<'a>(&mut self, scope: &Scope<'a>, outer_names: &mut Vec<HashSet<&'a str>>) {
        let mut problems = Vec::new();
        let edges = scope.graph.edges();
        let sound = check_lists(scope.graph, &edges, &mut problems);
        let names = check_names(scope, outer_names, &mut problems);
        if sound {
            check_sources(scope, &edges, &mut problems);
            check_order(scope.graph, &mut problems);
            check_types(scope, &mut problems);
        }
        let ops = scope.graph.ops_in_id_order();
        for &op in &ops {
            if sound {
                check_arity(scope.graph, op, &mut problems);
            }
            check_regions(scope.graph, op, &mut problems);
        }
        let place = &scope.place;
        self.violations.extend(problems.into_iter().map(|problem| Violation { place: place.clone(), problem }));

        outer_names.push(names);
        for op in ops {
            self.bodies(scope, op, outer_names);
        }
        outer_names.pop();
    }

    fn bodies<'a>(&mut self, scope: &Scope<'a>, id: OpId, outer_names: &mut Vec<HashSet<&'a str>>) {
        let graph = scope.graph;
        let op = graph.op(id);
        if op.regions.is_empty() {
            return;
        }
        let mut captured = vec![BTreeMap::new(); op.regions.len()];
        for (region, outer, inner) in graph.captures(id) {
            let body = op.regions.get(region).map(|region| &region.graph);
            if body.is_none_or(|body| !body.has_value(inner) || !body.value(inner).captured) {
                let (op, outer) = (graph.label_of(id).to_owned(), graph.name_of(outer).to_owned());
                let problem = Problem::CaptureTarget { op, outer, region };
                self.violations.push(Violation { place: scope.place.clone(), problem });
            } else {
                // A value that is captured itself is called what it is called further out: that is how export names it.
                let name = scope.captured.get(&outer).and_then(|outside| outside.first()).map(|(name, _)| *name);
                let source = (name.unwrap_or_else(|| graph.name_of(outer)), graph.ty(outer));
                captured[region].entry(inner).or_insert_with(Vec::new).push(source);
            }
        }
        for (region, captured) in op.regions.iter().zip(captured) {
            let attribute = op.node.attribute.get(region.attribute).map_or("?", |attribute| attribute.name());
            let mut place = format!("body `{attribute}` of `{}`", graph.label_of(id));
            if !scope.place.is_empty() {
                place = format!("{place} in {}", scope.place);
            }
            self.scope(&Scope { graph: &region.graph, place, captured, is_body: true }, outer_names);
        }
    }
}

/// V8. Returns whether the structure is sound enough for the checks that walk along edges.
fn check_lists(graph: &Graph, edges: &[Edge], problems: &mut Vec<Problem>) -> bool {
    let before = problems.len();
    let mut inputs: HashMap<(OpId, usize), Vec<ValueId>> = HashMap::new();
    let mut outputs: HashMap<(OpId, usize), Vec<ValueId>> = HashMap::new();
    for edge in edges {
        match *edge {
            Edge::In(value, op, index) => inputs.entry((op, index)).or_default().push(value),
            Edge::Out(op, value, index) => outputs.entry((op, index)).or_default().push(value),
            Edge::Capture(..) => {}
            Edge::Senseless => problems.push(Problem::SenselessEdge),
        }
    }
    let name =
        |value: ValueId| if graph.has_value(value) { graph.name_of(value).to_owned() } else { "gone".to_owned() };
    for op in graph.ops_in_id_order() {
        let node = graph.op(op);
        for (side, list, linked) in [("input", &node.inputs, &mut inputs), ("output", &node.outputs, &mut outputs)] {
            for (index, &listed) in list.iter().enumerate() {
                let found = linked.remove(&(op, index));
                let found = found.as_deref().unwrap_or(&[]);
                if found != listed.as_slice() {
                    let linked: Vec<String> = found.iter().copied().map(name).collect();
                    problems.push(Problem::Edge {
                        op: label(graph, op),
                        side,
                        index,
                        listed: listed.map_or_else(|| "left out".to_owned(), |value| format!("`{}`", name(value))),
                        linked: if linked.is_empty() {
                            "left out".to_owned()
                        } else {
                            format!("`{}`", linked.join("`, `"))
                        },
                    });
                }
            }
        }
    }
    for (side, rest) in [("input", inputs), ("output", outputs)] {
        let mut rest: Vec<_> = rest.into_iter().collect();
        rest.sort();
        for ((op, index), values) in rest {
            let (op, linked) = (label(graph, op), name(values[0]));
            problems.push(Problem::Edge { op, side, index, listed: "not".to_owned(), linked: format!("`{linked}`") });
        }
    }
    for (side, values, declared) in
        [("inputs", graph.inputs(), graph.rest.input.len()), ("outputs", graph.outputs(), graph.rest.output.len())]
    {
        if values.len() != declared {
            problems.push(Problem::Declarations { side, values: values.len(), declared });
        }
        for (index, &value) in values.iter().enumerate() {
            if !graph.has_value(value) {
                problems.push(Problem::Gone { side: side.trim_end_matches('s'), index });
            }
        }
    }
    problems.len() == before
}

/// As [`Graph::label_of`], for ops whose lists may be wrong.
fn label(graph: &Graph, id: OpId) -> String {
    let op = graph.op(id);
    let output = op.outputs.iter().flatten().find(|&&value| graph.has_value(value));
    match (op.name(), output) {
        ("", Some(&value)) => graph.name_of(value).to_owned(),
        ("", None) => op.op_type().to_owned(),
        (name, _) => name.to_owned(),
    }
}

/// V1. Returns the names, as export writes them.
fn check_names<'a>(scope: &Scope<'a>, outside: &[HashSet<&'a str>], problems: &mut Vec<Problem>) -> HashSet<&'a str> {
    let graph = scope.graph;
    let mut names = HashSet::new();
    for id in graph.values() {
        let source = scope.captured.get(&id).and_then(|sources| sources.first());
        let name = source.map_or(graph.name_of(id), |(name, _)| *name);
        if name.is_empty() {
            problems.push(Problem::NameEmpty);
        } else if !names.insert(name) {
            problems.push(Problem::NameTwice(name.to_owned()));
        } else if graph.find(graph.name_of(id)) != Some(id) {
            problems.push(Problem::NameLost(graph.name_of(id).to_owned()));
        }
        if source.is_none() && outside.iter().any(|outside| outside.contains(name)) {
            problems.push(Problem::Shadows(name.to_owned()));
        }
    }
    names
}

/// V7 and V5.
fn check_sources(scope: &Scope<'_>, edges: &[Edge], problems: &mut Vec<Problem>) {
    let graph = scope.graph;
    let inputs: HashSet<ValueId> = graph.inputs().iter().copied().collect();
    let sparse: HashSet<ValueId> = graph.sparse.iter().map(|(value, _)| *value).collect();
    let mut used: HashSet<ValueId> = graph.outputs().iter().copied().collect();
    let mut makers: HashMap<ValueId, usize> = HashMap::new();
    for edge in edges {
        match *edge {
            Edge::In(value, ..) | Edge::Capture(value, ..) => {
                used.insert(value);
            }
            Edge::Out(_, value, _) => *makers.entry(value).or_insert(0) += 1,
            Edge::Senseless => {}
        }
    }
    for id in graph.values() {
        let value = graph.value(id);
        let name = || value.name().to_owned();
        let (made, input) = (makers.get(&id).copied().unwrap_or(0), inputs.contains(&id));
        let constant = value.constant.is_some() && !input; // the default of an input is no second source
        let mut kinds = vec!["an op"; made];
        for (is, kind) in [
            (input, "an input"),
            (constant, "a constant"),
            (sparse.contains(&id), "a sparse constant"),
            (value.captured, "a capture"),
        ] {
            if is {
                kinds.push(kind);
            }
        }
        if kinds.len() > 1 {
            problems.push(Problem::Sources { value: name(), found: kinds.len(), kinds: kinds.join(", ") });
        } else if kinds.is_empty() && used.contains(&id) {
            problems.push(Problem::NoSource(name()));
        }
        if value.captured && !scope.is_body {
            problems.push(Problem::CaptureWithoutOutside(name()));
        } else if value.captured {
            let sources = scope.captured.get(&id).map_or(0, Vec::len);
            if sources != 1 {
                problems.push(Problem::CaptureSources(name(), sources));
            }
        }
    }
}

/// V2. Only for graphs that keep V7 and V8: otherwise [`Graph::ops`] has no meaning.
fn check_order(graph: &Graph, problems: &mut Vec<Problem>) {
    if problems.iter().any(|problem| matches!(problem.rule(), 7 | 8)) {
        return;
    }
    let ordered: HashSet<OpId> = graph.ops().into_iter().collect();
    let stuck: Vec<OpId> = graph.ops_in_id_order().into_iter().filter(|op| !ordered.contains(op)).collect();
    if let Some(&first) = stuck.first() {
        problems.push(Problem::Cycle { count: stuck.len(), op: label(graph, first) });
    }
}

/// V4.
fn check_types(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let graph = scope.graph;
    let mut check = |value: ValueId, what: &'static str, other: &TensorType, exact: bool| {
        let Some(known) = graph.ty(value) else { return };
        if (exact && known != other) || !may_be_same(known, other) {
            let (value, known) = (graph.name_of(value).to_owned(), known.to_string());
            problems.push(Problem::Type { value, known, what, other: other.to_string() });
        }
    };
    for id in graph.values() {
        if let Some(tensor) = &graph.value(id).constant {
            let input = graph.is_input(id);
            check(id, if input { "its default" } else { "its tensor" }, &tensor.ty(), !input);
        }
    }
    for (&inner, sources) in &scope.captured {
        for (_, ty) in sources {
            if let Some(ty) = ty {
                check(inner, "the value outside", ty, false);
            }
        }
    }
    for (&output, info) in graph.outputs().iter().zip(&graph.rest.output) {
        if let Some(ty) = info.r#type.as_ref().and_then(TensorType::from_proto) {
            check(output, "the graph output", &ty, false);
        }
    }
}

/// Whether a tensor could have both types: nothing that both know differs. Symbols of different names may be equal.
pub fn may_be_same(a: &TensorType, b: &TensorType) -> bool {
    let dims = |a: &Dim, b: &Dim| match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => a == b,
        _ => true,
    };
    a.dtype == b.dtype
        && match (&a.shape, &b.shape) {
            (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| dims(a, b)),
            _ => true,
        }
}

/// V3. Nothing is claimed of ops that the opset does not have (any more), nor of other domains: a graph does not know
/// their versions.
fn check_arity(graph: &Graph, id: OpId, problems: &mut Vec<Problem>) {
    let op = graph.op(id);
    let schema = op.domain().is_empty().then(|| op_schema::find("", op.op_type(), graph.opset())).flatten();
    let Some(schema) = schema.filter(|schema| !schema.deprecated) else { return };
    for (side, listed, formals, least, most) in [
        ("inputs", &op.inputs, schema.inputs, schema.min_inputs, schema.max_inputs),
        ("outputs", &op.outputs, schema.outputs, schema.min_outputs, schema.max_outputs),
    ] {
        let arity = |wanted: String| Problem::Arity {
            op: label(graph, id),
            op_type: op.op_type().to_owned(),
            side,
            found: listed.len(),
            wanted,
        };
        if !(least..=most).contains(&listed.len()) {
            let wanted = match most {
                usize::MAX => format!("at least {least}"),
                most if most == least => least.to_string(),
                most => format!("{least} to {most}"),
            };
            problems.push(arity(wanted));
            continue;
        }
        let required = |(listed, formal): &(&Option<ValueId>, &Formal)| {
            listed.is_none() && formal.occurrence == Occurrence::Single && side == "inputs"
        };
        if let Some((_, formal)) = listed.iter().zip(formals).find(required) {
            problems.push(arity(format!("`{}`, which is left out", formal.name)));
        }
    }
}

/// V9.
fn check_regions(graph: &Graph, id: OpId, problems: &mut Vec<Problem>) {
    let op: &Op = graph.op(id);
    let label = || label(graph, id);
    let mut places: BTreeMap<usize, Vec<Option<usize>>> = BTreeMap::new();
    for (index, region) in op.regions.iter().enumerate() {
        let wanted = if region.place.is_some() { AttributeType::Graphs } else { AttributeType::Graph };
        // Files of IR version 1 do not state attribute types.
        let fits = |kind: AttributeType| kind == wanted || kind == AttributeType::Undefined;
        match op.node.attribute.get(region.attribute) {
            Some(attribute) if fits(attribute.r#type()) => {
                places.entry(region.attribute).or_default().push(region.place)
            }
            _ => {
                let attribute = region.attribute;
                problems.push(Problem::RegionAttribute { op: label(), region: index, attribute });
            }
        }
    }
    for (index, attribute) in op.node.attribute.iter().enumerate() {
        let found = places.remove(&index);
        let found = found.as_deref().unwrap_or(&[]);
        if attribute.r#type() == AttributeType::Graph && attribute.ref_attr_name.is_none() && found.is_empty() {
            problems.push(Problem::RegionMissing { op: label(), attribute: attribute.name().to_owned() });
        }
        let ordered = found.iter().enumerate().all(|(place, found)| found.is_none_or(|found| found == place));
        if !ordered || (found.contains(&None) && found.len() > 1) {
            problems.push(Problem::RegionPlaces { op: label(), attribute: index });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
