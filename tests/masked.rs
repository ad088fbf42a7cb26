//! Channels taken out of real models against zeros in their place, before any layer is solved for again.
//!
//! With `ONNX_SHRINK_PAIRS=FOLDER` every bench model (or the one that `ONNX_SHRINK_PAIRS_OF` names) is pruned by every
//! criterion at each ratio, and both sides of each pair are written there: `tests/python/masked.py` lets ONNX Runtime judge them.
#![allow(clippy::print_stderr, reason = "it says what it did, and what it skipped")]
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use onnx_shrink_driver::{Progress, Samples, Silent, metrics::compare_graphs, samples::MakeUp};
use onnx_shrink_exec::{Interpreter, Options as ExecOptions};
use onnx_shrink_ir::{
    Graph, Model, Patch, export, import, infer,
    proto::{Limits, encode, load},
};
use onnx_shrink_passes::{
    Context, Options, Statistics,
    pipeline::run_lossless,
    prune::{
        Branch, Groups, Unit,
        budget::{Budget, Choice},
        layer::Layer,
        orders::{Criterion, Inverses, Moments, order},
        trial::moments,
    },
};

use crate::support::{bench_models, fixture};

const RATIOS: [f64; 3] = [0.1, 0.3, 0.6];

const CRITERIA: [(&str, Criterion); 6] = [
    ("l1", Criterion::L1),
    ("l2", Criterion::L2),
    ("bn-gamma", Criterion::BnGamma),
    ("activation", Criterion::Activation),
    ("random", Criterion::Random),
    ("reconstruction", Criterion::Reconstruction),
];

/// Rows of a layer's inputs that are looked at for each sample.
const ROWS: usize = 64;

/// Samples that rank channels.
const SAMPLES: usize = 4;

/// A model without loss, and what is known of its channels.
struct Subject {
    model: Model,
    groups: Groups,
    statistics: BTreeMap<String, Statistics>,
    moments: Moments,
    /// Open dimensions that it runs with
    samples: Option<Samples>,
}

fn interpreter() -> Interpreter {
    Interpreter::new(ExecOptions::default())
}

/// What has channels to prune; `None` when there are none.
fn subject(path: &Path) -> Option<Subject> {
    let evaluator = interpreter();
    let loaded = load(path, &Limits::default()).ok()?;
    let mut model = import(loaded.model).ok()?;
    model.graph.freeze_defaults();
    infer::infer(&mut model.graph);
    let mut cx = Context::new(Options::default(), &evaluator);
    run_lossless(&mut model.graph, &mut cx).ok()?;
    let groups = Groups::of(&model.graph);
    if groups.groups.iter().all(|group| groups.free(group).is_empty()) {
        return None;
    }
    let mut seen = BTreeSet::new();
    let layers = groups.consumers.iter().filter_map(|consumer| Layer::of(&model.graph, consumer.op));
    let layers: Vec<(Layer, bool)> =
        layers.filter(|layer| seen.insert(layer.weight)).map(|layer| (layer, false)).collect();
    let mut known = Moments::new();
    let mut samples = None;
    for length in [1, 16, 64, 256] {
        let Ok(made) = Samples::generated_as(&model.graph, SAMPLES, &MakeUp::all(length)) else { continue };
        let indices: Vec<usize> = (0..SAMPLES).collect();
        if let Ok(found) = moments(&model.graph, &evaluator, &layers, &made, &indices, ROWS) {
            known = layers.iter().map(|(layer, _)| layer.weight).zip(found).collect();
            samples = Some(made);
            break;
        }
    }
    let statistics = cx.statistics;
    Some(Subject { model, groups, statistics, moments: known, samples })
}

/// The units that go at `ratio` by `criterion`, the same share of each group; `None` when the ratio cannot be reached.
fn gone(subject: &Subject, criterion: Criterion, ratio: f64) -> Option<BTreeSet<Unit>> {
    let Subject { model, groups, statistics, moments, .. } = subject;
    let open = (0..groups.groups.len()).filter(|&k| !groups.free(&groups.groups[k]).is_empty());
    let choice = |index: usize| {
        let group = &groups.groups[index];
        let order = order(&model.graph, groups, group, criterion, &mut Inverses::new(moments), statistics);
        let mut choice = Choice::new(index, group.units.len(), order, None, groups.block);
        for candidate in &mut choice.candidates {
            candidate.loss = (candidate.gone as f64).powi(2) / choice.order.len().max(1) as f64;
        }
        choice
    };
    let mut budget = Budget::new(&model.graph, groups, open.map(choice).collect());
    budget.choose(ratio, 1.0).then(|| budget.removal().gone).filter(|gone| !gone.is_empty())
}

fn applied(model: &Model, patch: Patch) -> Model {
    let mut model = model.detached();
    patch.apply(&mut model.graph).unwrap();
    model.graph.sweep();
    infer::infer(&mut model.graph);
    model
}

/// (with zeros in their place, without the channels).
fn pair(subject: &Subject, gone: &BTreeSet<Unit>) -> Option<(Model, Model)> {
    let graph: &Graph = &subject.model.graph;
    let removed = subject.groups.remove(graph, gone).ok()??;
    let masked = subject.groups.mask(graph, gone).unwrap()?;
    Some((applied(&subject.model, masked), applied(&subject.model, removed)))
}

/// The same for branches of two convolutions that become one (of weights 0, until they are solved for): all that the model has.
fn branches(subject: &Subject) -> Option<(Model, Model)> {
    let (graph, groups) = (&subject.model.graph, &subject.groups);
    let found: Vec<Branch> = (0..groups.groups.len()).filter_map(|index| Branch::of(graph, groups, index)).collect();
    let (mut removed, mut inner) = (subject.model.detached(), BTreeSet::new());
    let mut taken = BTreeSet::new(); // of a chain every other one
    for branch in found {
        if taken.contains(&branch.first) || taken.contains(&branch.last) {
            continue;
        }
        taken.extend([branch.first, branch.last]);
        let Some(kernel) = branch.kernels().find(|kernel| kernel.over_all) else { continue };
        branch.patch(&removed.graph, kernel)?.apply(&mut removed.graph).unwrap();
        inner.extend(groups.groups[branch.group].units.iter().copied());
    }
    removed.graph.sweep();
    infer::infer(&mut removed.graph);
    let masked = groups.mask(graph, &inner).unwrap()?;
    (!inner.is_empty()).then(|| (applied(&subject.model, masked), removed))
}

#[test]
fn what_is_removed_equals_what_is_zeroed() {
    let evaluator = interpreter();
    let mut judged = 0;
    for name in ["digits_attention", "digits_cnn", "digits_gru", "digits_mlp", "digits_mobile"] {
        let path = fixture(name).join("model.onnx");
        let Some(subject) = subject(&path) else { continue };
        let samples = subject.samples.as_ref().unwrap();
        for (criterion_name, criterion) in CRITERIA {
            let Some(gone) = gone(&subject, criterion, 0.3) else { continue };
            let (masked, removed) = pair(&subject, &gone).unwrap();
            let stage = Silent.stage("", None);
            let compared = compare_graphs(&evaluator, &masked.graph, &removed.graph, samples, 0, stage.as_ref());
            let compared = compared.unwrap_or_else(|error| panic!("{name} {criterion_name}: {error}"));
            let worst = compared.outputs.iter().map(|output| output.rel_l2).fold(0.0, f64::max);
            assert!(worst < 1e-4, "{name} {criterion_name}: {worst}");
            judged += 1;
        }
    }
    assert!(judged >= 12, "only {judged} pairs");
}

#[test]
fn pairs_for_onnx_runtime() {
    let Some(folder) = std::env::var_os("ONNX_SHRINK_PAIRS") else { return };
    let wanted = std::env::var("ONNX_SHRINK_PAIRS_OF").ok();
    for path in bench_models() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if wanted.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let Some(subject) = subject(&path) else {
            eprintln!("{name}: no channel may go");
            continue;
        };
        let write = |what: &str, masked: &Model, removed: &Model| {
            for (side, model) in [("masked", masked), ("removed", removed)] {
                let file = Path::new(&folder).join(format!("{what}.{side}.onnx"));
                fs::write(file, encode(&export(model)).concat()).unwrap();
            }
        };
        if let Some((masked, removed)) = branches(&subject) {
            write(&format!("{name}.branches"), &masked, &removed);
        }
        let mut known: BTreeSet<BTreeSet<Unit>> = BTreeSet::new();
        for (criterion_name, criterion) in CRITERIA {
            for ratio in RATIOS {
                let what = format!("{name}.{criterion_name}.{ratio}");
                let Some(gone) = gone(&subject, criterion, ratio) else {
                    eprintln!("{what}: cannot be reached");
                    continue;
                };
                if !known.insert(gone.clone()) {
                    eprintln!("{what}: the channels of another one");
                    continue;
                }
                let Some((masked, removed)) = pair(&subject, &gone) else {
                    eprintln!("{what}: refused");
                    continue;
                };
                write(&what, &masked, &removed);
            }
        }
    }
}
