//! Real models through import, export, text and a patch that undoes itself: nothing may be lost.
//!
//! Fixtures are in the repository. The bench (`../shared/bench` beside it, or `ONNX_SHRINK_BENCH`) and ONNX's node cases
//! (`ONNX_NODE_CASES`) are not everywhere: each test says what it skipped.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "tests say what they measured and skipped")]
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use onnx_shrink_ir::{
    Graph, Model, NewOp, Patch, export, import,
    proto::{Limits, encode, load, schema::ModelProto},
    testing::textual,
    text::{parse_model, print_model},
    verify::{same_interface, verify},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn models_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "onnx") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Fixtures, bench models and node cases, as far as they are here.
fn models() -> Vec<PathBuf> {
    let mut models = models_in(&root().join("fixtures"));
    assert!(!models.is_empty(), "the fixtures are part of the repository");
    // A worktree may stand one level deeper than the repository itself.
    let near = ["../shared/bench", "../../shared/bench"].map(|path| root().join(path));
    let bench =
        std::env::var_os("ONNX_SHRINK_BENCH").map(PathBuf::from).or(near.into_iter().find(|path| path.is_dir()));
    let cases =
        std::env::var_os("ONNX_NODE_CASES").map_or_else(|| std::env::temp_dir().join("onnx_node_cases"), PathBuf::from);
    for (what, folder) in [("bench models", bench.map(|bench| bench.join("models"))), ("node cases", Some(cases))] {
        let found = folder.as_deref().map(models_in).unwrap_or_default();
        if found.is_empty() {
            eprintln!("skipped: no {what} at {folder:?}");
        } else {
            eprintln!("{} {what}", found.len());
        }
        models.extend(found);
    }
    models
}

/// Calls `check` with every model that loads and imports; it returns what is wrong with it.
fn for_all(check: impl Fn(&ModelProto, Model) -> Result<(), String>) {
    let mut problems = Vec::new();
    let mut checked = 0;
    for path in models() {
        let name = path.display().to_string();
        let proto = match load(&path, &Limits::default()) {
            Ok(loaded) => loaded.model,
            Err(error) => {
                problems.push(format!("{name}: load: {error}"));
                continue;
            }
        };
        match import(proto.clone()) {
            Ok(model) => {
                checked += 1;
                if let Err(problem) = check(&proto, model) {
                    problems.push(format!("{name}: {problem}"));
                }
            }
            Err(error) => problems.push(format!("{name}: import: {error}")),
        }
    }
    eprintln!("{checked} models checked");
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
}

/// `proto` with its nodes in an order that says nothing, if the file has them in none that can run: ONNX forbids that, and
/// export puts them right.
fn without_wrong_order(proto: &ModelProto, other: &ModelProto) -> [ModelProto; 2] {
    let sorted = proto.graph.as_ref().is_none_or(|graph| {
        let mut later: HashSet<&str> = graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        graph.node.iter().all(|node| {
            let ready = node.input.iter().all(|input| input.is_empty() || !later.contains(input.as_str()));
            node.output.iter().for_each(|output| _ = later.remove(output.as_str()));
            ready
        })
    });
    let mut pair = [proto.clone(), other.clone()];
    if !sorted {
        for graph in pair.iter_mut().filter_map(|proto| proto.graph.as_mut()) {
            graph.node.sort_by(|a, b| a.output.cmp(&b.output));
        }
    }
    pair
}

/// The first place where two debug prints differ, for a readable message.
fn difference(file: &ModelProto, ours: &ModelProto) -> Result<(), String> {
    let [a, b] = without_wrong_order(file, ours);
    // As bytes: a NaN is not equal to itself.
    if encode(&a).concat() == encode(&b).concat() {
        return Ok(());
    }
    let (a, b) = (format!("{a:?}"), format!("{b:?}"));
    let at = a.bytes().zip(b.bytes()).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let around = |text: &str| {
        let bytes = text.as_bytes();
        String::from_utf8_lossy(&bytes[at.saturating_sub(150)..bytes.len().min(at + 150)]).into_owned()
    };
    Err(format!("differs at character {at}\n    {}\n    {}", around(&a), around(&b)))
}

#[test]
fn import_and_export_change_nothing() {
    for_all(|proto, model| difference(proto, &export(&model)));
}

#[test]
fn every_model_keeps_the_invariants() {
    for_all(|_, model| {
        let violations: Vec<String> = verify(&model).iter().map(ToString::to_string).collect();
        if violations.is_empty() { Ok(()) } else { Err(violations.join("\n    ")) }
    });
}

#[test]
fn full_text_loses_only_what_text_cannot_say() {
    for_all(|proto, model| {
        if !proto.functions.is_empty() {
            return Ok(());
        }
        let text = print_model(&model);
        match parse_model(&text) {
            Ok(again) => difference(&textual(proto.clone()), &textual(export(&again))),
            Err(error) => Err(format!("does not parse: {}", error.render())),
        }
    });
}

/// An Identity before some op input in the middle of the graph, then the Identity goes again.
fn add_and_remove(graph: &mut Graph) -> Result<(), String> {
    let ops = graph.ops();
    let Some(&op) = ops.get(ops.len() / 2) else { return Ok(()) };
    let Some((index, value)) =
        graph.op(op).inputs().iter().enumerate().find_map(|(k, value)| value.map(|value| (k, value)))
    else {
        return Ok(());
    };
    let mut patch = Patch::new(op);
    let copy = patch.op(NewOp::new("Identity"), &[Some(value.into())], "copy", None);
    patch.set_input(op, index, Some(copy));
    let applied = patch.apply(graph).map_err(|error| error.to_string())?;
    let identity = applied.ops[0];
    if graph.op(op).input(index) != graph.op(identity).output(0) || graph.op(identity).input(0) != Some(value) {
        return Err("the Identity does not stand before the op".to_owned());
    }
    let made = graph.op(identity).output(0).unwrap();
    let mut patch = Patch::new(identity);
    patch.replace(made, value);
    let applied = patch.apply(graph).map_err(|error| error.to_string())?;
    if applied.removed == 1 { Ok(()) } else { Err(format!("{} ops went, not one", applied.removed)) }
}

#[test]
fn a_patch_and_its_undoing_change_nothing() {
    for_all(|proto, mut model| {
        let before = model.detached();
        add_and_remove(&mut model.graph)?;
        let violations = same_interface(&before, &model);
        if !violations.is_empty() {
            return Err(format!("{}", violations[0]));
        }
        difference(proto, &export(&model))
    });
}
