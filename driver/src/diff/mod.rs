//! What changed between two models: which op became what, and what differs in those that stayed.
//!
//! [`diff`] matches the ops of both (`matching.rs`), explains the rest by what stands around it (`groups.rs`), compares the
//! pairs (`pairs.rs`), inputs, outputs and the model around the graph (`interface.rs`). A [`Diff`]'s
//! JSON is documented in docs/diff.md. **Nothing** that the names of values inside, the names of ops or their order alone
//! tell makes models different.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Evaluate, Model};

mod change;
mod companions;
mod compare;
mod constants;
mod files;
mod function;
mod graphs;
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

pub use change::{Change, Detail, Diff, Facts, Kind, OpRef, Options, Side};
use compare::Compare;
pub use files::{Compared, diff_files};
pub use index::{Constant, Index, Source};
pub use layers::WORK;
pub use pairs::{input_name, show_attribute};

/// Version of the JSON. It rises when a field changes its meaning or goes; new fields do not count.
pub const SCHEMA: u32 = 1;

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
