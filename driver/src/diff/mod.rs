//! What changed between two models: which op became what, and what differs in those that stayed.
//!
//! [`diff`] matches the ops of both (`matching.rs`), explains the rest by what stands around it (`groups.rs`), compares the
//! pairs (`pairs.rs`), inputs, outputs and the model around the graph (`interface.rs`). A [`Diff`]'s
//! JSON is documented in docs/diff.md. **Nothing** that the names of values inside, the names of ops or their order alone
//! tell makes models different.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Evaluate, Graph, Model};
use serde::Serialize;

mod companions;
mod constants;
mod files;
mod function;
mod groups;
mod index;
mod interface;
mod layers;
mod matching;
mod moves;
mod pairs;
mod proposal;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod view;

pub use files::{Compared, diff_files};
pub use index::{Constant, Index, Source};
pub use layers::WORK;
pub use pairs::{input_name, show_attribute};

/// Version of the JSON. It rises when a field changes its meaning or goes; new fields do not count.
pub const SCHEMA: u32 = 1;

/// How to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Look at no name, not even at those of the graph's inputs and outputs: these correspond by their order then
    pub ignore_names: bool,
}

/// One of the two models.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Side {
    /// The file
    pub path: String,
    /// Bytes of the model, its external data included
    pub bytes: u64,
    /// Version of ONNX's own ops
    pub opset: i64,
    /// Number of ops, those in bodies included
    pub ops: usize,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An input of the graph: name, type, order, or that it is there
    Input,
    /// An output of the graph
    Output,
    /// The model around the graph: versions, metadata, functions
    Model,
    /// Several ops became one of them
    Fused,
    /// Ops became other ops
    Replaced,
    /// One op became several of its kind
    Split,
    /// The op computes in integers now
    Quantized,
    /// The op computes in float with constants that are stored in another type
    Stored,
    /// Computed before, a constant now
    Folded,
    /// An equal op does its work
    Merged,
    /// It is gone, and its readers read what it read
    Bypassed,
    /// It led to no output, and is gone
    Dead,
    /// It stands at another place
    Moved,
    /// It reads other values
    Rewired,
    /// Attributes or constants differ
    Changed,
    /// It stands between ops that were neighbours
    Inserted,
    /// It is new
    Added,
    /// It is gone
    Removed,
}

/// An op of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpRef {
    /// Place in the graph's order, `Constant` ops not counted
    pub index: usize,
    /// Its name, or that of its first output
    pub name: String,
    /// Its type, with the domain when it is not ONNX's own
    #[serde(rename = "type")]
    pub op_type: String,
}

/// Type and size of a constant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Element type and dimensions, as in `float[16,3,3,3]`
    #[serde(rename = "type")]
    pub ty: String,
    /// Bytes
    pub bytes: usize,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Detail {
    /// An attribute; `null` where it is not there
    Attribute {
        /// Its name
        name: String,
        /// In A
        before: Option<String>,
        /// In B
        after: Option<String>,
    },
    /// A constant that an op reads
    Constant {
        /// The input, by the name that the op's definition gives it, or its number
        input: String,
        /// In A, as it is stored; `null` when there was none
        before: Option<Facts>,
        /// In B, as it is stored; `null` when there is none
        after: Option<Facts>,
        /// ‖B − A‖ as a share of the larger of ‖A‖ and ‖B‖, of the numbers that are meant (integers by their scales); `null`
        /// where they cannot be compared
        relative_error: Option<f64>,
        /// Elements that differ; `null` where they cannot be compared
        elements: Option<usize>,
    },
    /// An input of an op that reads another value
    Reads {
        /// The input, as in `constant`
        input: String,
        /// The value in A
        before: String,
        /// The value in B
        after: String,
    },
    /// Anything else that has a before and an after
    Value {
        /// What it is
        name: String,
        /// In A
        before: String,
        /// In B
        after: String,
    },
    /// A sentence
    Note {
        /// The sentence
        text: String,
    },
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What it is
    pub kind: Kind,
    /// Where: "" is the main graph, else the body or function, as in `if_1.then_branch`
    pub scope: String,
    /// What happened, without the names of the ops
    pub title: String,
    /// The ops in A that it is about
    pub a: Vec<OpRef>,
    /// The ops in B
    pub b: Vec<OpRef>,
    /// What differs in particular
    pub details: Vec<Detail>,
    /// For changes in bodies, the op of the main graph around them, in A and B
    #[serde(skip)]
    pub around: Option<(usize, usize)>,
}

/// The difference of two models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// [`SCHEMA`]
    pub schema: u32,
    /// Version of the program
    pub version: &'static str,
    /// Whether there are no changes
    pub equal: bool,
    /// The one model
    pub a: Side,
    /// The other
    pub b: Side,
    /// Ops by type in A and B, those in bodies included
    pub op_types: BTreeMap<String, (usize, usize)>,
    /// All changes: the interface, the model, then ops in the order of A
    pub changes: Vec<Change>,
    /// What makes no difference but may be good to know
    pub notes: Vec<String>,
    /// Pairs of ops of the main graph, by place
    #[serde(skip)]
    pub pairs: Vec<(usize, usize)>,
}

/// The difference of `a` and `b`. `evaluator` computes what constants that are stored in another form stand for.
pub fn diff(a: &Model, b: &Model, evaluator: &dyn Evaluate, options: Options) -> Diff {
    let mut changes = Vec::new();
    let mut notes = Vec::new();
    interface::compare_models(a, b, &mut changes, &mut notes);
    let compare = Compare { evaluator, options };
    let outcome = compare.graphs(&a.graph, &b.graph, &[], "", None);
    changes.extend(outcome.changes);
    changes.extend(function::compare_functions(&compare, a, b));
    between_bodies(&mut changes);
    if outcome.renamed > 0 {
        let plural = if outcome.renamed == 1 { "op has another name" } else { "ops have other names" };
        notes.push(format!("{} {plural}", outcome.renamed));
    }
    notes.extend(outcome.notes);
    let side = |model: &Model| Side { opset: model.opset(), ..Side::default() };
    let mut diff = Diff {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        equal: changes.is_empty(),
        a: side(a),
        b: side(b),
        op_types: BTreeMap::new(),
        changes,
        notes,
        pairs: outcome.pairs,
    };
    for (op_type, count) in a.graph.count_by_type() {
        diff.op_types.entry(op_type).or_insert((0, 0)).0 = count;
    }
    for (op_type, count) in b.graph.count_by_type() {
        diff.op_types.entry(op_type).or_insert((0, 0)).1 = count;
    }
    diff.a.ops = diff.op_types.values().map(|count| count.0).sum();
    diff.b.ops = diff.op_types.values().map(|count| count.1).sum();
    diff
}

/// Ops that are gone in one body and new in another, or in the graph around, under the same names: they moved.
fn between_bodies(changes: &mut Vec<Change>) {
    let key = |ops: &[OpRef]| {
        let mut names: Vec<(String, String)> = ops.iter().map(|op| (op.op_type.clone(), op.name.clone())).collect();
        names.sort();
        names
    };
    let mut gone: BTreeMap<Vec<(String, String)>, usize> = BTreeMap::new();
    for (place, change) in changes.iter().enumerate() {
        if change.b.is_empty() && matches!(change.kind, Kind::Removed | Kind::Dead | Kind::Bypassed) {
            gone.insert(key(&change.a), place);
        }
    }
    let mut left: Vec<usize> = Vec::new();
    for place in 0..changes.len() {
        let change = &changes[place];
        if !(change.a.is_empty() && matches!(change.kind, Kind::Added | Kind::Inserted)) {
            continue;
        }
        let Some(&from) = gone.get(&key(&change.b)).filter(|&&from| changes[from].scope != change.scope) else {
            continue;
        };
        let name = |scope: &str| if scope.is_empty() { "the main graph".to_owned() } else { format!("`{scope}`") };
        let title =
            format!("{} ops moved from {} to {}", change.b.len(), name(&changes[from].scope), name(&change.scope));
        let a = changes[from].a.clone();
        let change = &mut changes[place];
        (change.kind, change.title, change.a) = (Kind::Moved, title, a);
        change.details.clear();
        left.push(from);
    }
    let mut place = 0;
    changes.retain(|_| {
        place += 1;
        !left.contains(&(place - 1))
    });
}

/// What comparing two graphs gives.
#[derive(Default)]
struct Outcome {
    changes: Vec<Change>,
    notes: Vec<String>,
    pairs: Vec<(usize, usize)>,
    /// Pairs with different names
    renamed: usize,
}

/// A comparison under way.
struct Compare<'a> {
    evaluator: &'a dyn Evaluate,
    options: Options,
}

impl Compare<'_> {
    /// Compares two graphs, bodies included. `captured` are the values of the graph around that correspond; `around` is the
    /// op of the main graph that the bodies belong to.
    fn graphs(
        &self,
        a: &Graph,
        b: &Graph,
        captured: &[(onnx_shrink_ir::ValueId, onnx_shrink_ir::ValueId)],
        scope: &str,
        around: Option<(usize, usize)>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let inputs = interface::match_ports(a, b, false, self.options.ignore_names || !scope.is_empty());
        let outputs = interface::match_ports(a, b, true, self.options.ignore_names || !scope.is_empty());
        // An input with a default that the other side does not have was made a constant.
        let index_a = Index::new(a, &|place| inputs[place].is_none());
        let index_b = Index::new(b, &|place| !inputs.contains(&Some(place)));
        let outer = index_a.outer.iter().map(|outer| {
            let twin = captured.iter().find(|(one, _)| one == outer).map(|(_, other)| *other);
            let twin = twin.or_else(|| b.find(a.name_of(*outer)));
            twin.and_then(|twin| index_b.outer.iter().position(|other| *other == twin))
        });
        let outer = outer.collect();
        interface::compare_ports(a, b, false, &inputs, scope.is_empty() && !self.options.ignore_names, &mut outcome);
        interface::compare_ports(a, b, true, &outputs, scope.is_empty() && !self.options.ignore_names, &mut outcome);
        let frame = matching::Frame { inputs, outputs, outer, names: !self.options.ignore_names };
        let matches = matching::match_ops(&index_a, &index_b, &frame);
        if index_a.constant_ops != index_b.constant_ops {
            let text = format!(
                "{} → {} Constant ops (other constants are initializers)",
                index_a.constant_ops, index_b.constant_ops
            );
            outcome.notes.push(text);
        }
        let view = view::View::new(self, &index_a, &index_b, &frame, &matches);
        outcome.changes.extend(view.changes());
        for (place, twin) in matches.to_b.iter().enumerate() {
            let Some(twin) = *twin else { continue };
            outcome.pairs.push((place, twin));
            outcome.renamed += usize::from(index_a.label(place) != index_b.label(twin));
            self.bodies(&view, place, twin, scope, around, &mut outcome);
        }
        for change in &mut outcome.changes {
            if change.scope.is_empty() {
                scope.clone_into(&mut change.scope);
                change.around = around;
            }
        }
        outcome
    }

    fn bodies(
        &self,
        view: &view::View<'_, '_>,
        place: usize,
        twin: usize,
        scope: &str,
        around: Option<(usize, usize)>,
        outcome: &mut Outcome,
    ) {
        let (op, other) = (view.a.op(place), view.b.op(twin));
        for (number, region) in op.regions().iter().enumerate() {
            let name = op.region_name(region);
            let same = |other_region: &onnx_shrink_ir::Region| other.region_name(other_region) == name;
            let Some(twin_number) = other.regions().iter().position(same) else { continue };
            let captured = view.captured(place, number, twin, twin_number);
            let inner = format!("{scope}{}{}.{name}", if scope.is_empty() { "" } else { "." }, view.a.label(place));
            let body = &other.regions()[twin_number].graph;
            let around = around.or(Some((place, twin)));
            let found = self.graphs(&region.graph, body, &captured, &inner, around);
            outcome.renamed += found.renamed;
            outcome.changes.extend(found.changes);
        }
    }
}
