//! Wrong rewrites, planted into real models: `validate` tells them from the right ones, on made-up samples and on real ones.
//!
//! With `ONNX_SHRINK_MUTANTS=FOLDER` they are written there (as many as `ONNX_SHRINK_MUTANTS_COUNT` says, over the fixtures and the
//! bench), with a list of what they are: `tests/python/mutants.py` judges them, and lets ONNX Runtime say which are none.
#![allow(clippy::print_stderr, reason = "it says what it did, and what it skipped")]
use std::{
    fs,
    path::{Path, PathBuf},
};

use ndarray::{ArrayD, Axis};
use onnx_shrink_driver::{
    Gates, SampleOptions, Silent,
    validate::{Standard, Validate, Verdict, validate},
};
use onnx_shrink_ir::{
    Graph, Model, NewOp, OpId, Patch, Tensor, ValueId, attributes, export, import, infer,
    proto::{Limits, encode, load, schema::AttributeProto},
};

use crate::support::{FIXTURES, bench_models, fixture};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// All weights of one output channel are 0
    WeightZeroed,
    BiasDropped,
    /// A permutation, a softmax, a reduction or a square weight has two axes the other way round
    AxisSwapped,
    /// One place of a kernel, for all channels
    TapLost,
    /// The two cases of a Where, or the direction of a comparison
    MaskInverted,
    ScaleOffBy2,
    /// One row of what the last layer before an output makes
    ScoreRowZeroed,
}

const FAULTS: [Fault; 7] = [
    Fault::WeightZeroed,
    Fault::BiasDropped,
    Fault::AxisSwapped,
    Fault::TapLost,
    Fault::MaskInverted,
    Fault::ScaleOffBy2,
    Fault::ScoreRowZeroed,
];

/// splitmix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % count.max(1) as u64) as usize
    }
}

/// The constant of floats that `op` reads at `port`, used by nothing else.
fn constant(graph: &Graph, op: OpId, port: usize) -> Option<(ValueId, Tensor)> {
    let value = graph.op(op).input(port)?;
    let tensor = graph.constant(value).filter(|tensor| tensor.dtype().is_float())?;
    graph.only_use(value).map(|_| (value, tensor.clone()))
}

/// The axis of a weight that stands for output channels.
fn output_axis(graph: &Graph, op: OpId) -> Option<usize> {
    let node = graph.op(op);
    let rank = constant(graph, op, 1)?.1.dims().len();
    match node.op_type() {
        "Conv" => Some(0),
        "ConvTranspose" => Some(1),
        "Gemm" => Some(usize::from(node.int("transB") != Some(1))),
        "MatMul" if rank > 1 => Some(rank - 1),
        _ => None,
    }
}

/// `op` with other numbers in its input `port`; `None` where nothing changes.
fn with(graph: &Graph, op: OpId, port: usize, change: impl FnOnce(&mut ArrayD<f64>)) -> Option<Patch> {
    let (value, tensor) = constant(graph, op, port)?;
    let mut array = tensor.to_f64()?;
    change(&mut array);
    let changed = Tensor::from_f64(tensor.dtype(), &array)?;
    let mut patch = Patch::new(op);
    (changed != tensor).then(|| patch.set_constant(value, changed))?;
    Some(patch)
}

/// `op` as another type, or with other attributes.
fn as_other(graph: &Graph, op: OpId, op_type: Option<&str>, attribute: Option<AttributeProto>) -> Patch {
    let mut node = graph.op(op).proto().clone();
    if let Some(op_type) = op_type {
        node.op_type = Some(op_type.to_owned());
    }
    if let Some(attribute) = attribute {
        node.attribute.retain(|known| known.name() != attribute.name());
        node.attribute.push(attribute);
    }
    let mut patch = Patch::new(op);
    patch.set_node(op, NewOp { node });
    patch
}

fn swapped(graph: &Graph, op: OpId) -> Option<Patch> {
    let node = graph.op(op);
    let set = |attribute| Some(as_other(graph, op, None, Some(attribute)));
    match node.op_type() {
        "Transpose" => {
            let mut perm = node.ints("perm")?.to_vec();
            let last = perm.len().checked_sub(1).filter(|last| *last >= 2)?;
            perm.swap(last - 1, last);
            set(attributes::ints("perm", &perm))
        }
        "Softmax" | "LogSoftmax" => {
            let rank = graph.ty(node.output(0)?)?.rank().filter(|rank| *rank > 2)? as i64;
            let axis = node.int("axis").unwrap_or(-1).rem_euclid(rank);
            set(attributes::int("axis", if axis == rank - 1 { rank - 2 } else { rank - 1 }))
        }
        "ReduceMean" | "ReduceSum" | "ReduceMax" => {
            let axes = node.ints("axes")?;
            let rank = graph.ty(node.input(0)?)?.rank()? as i64;
            let [axis] = axes else { return None };
            let other = if axis.rem_euclid(rank) == rank - 1 { rank - 2 } else { rank - 1 };
            (other > 0).then(|| set(attributes::ints("axes", &[other])))?
        }
        "MatMul" | "Gemm" => {
            let (_, weight) = constant(graph, op, 1)?;
            let [rows, columns] = weight.dims() else { return None };
            (rows == columns && *rows > 1).then_some(())?;
            with(graph, op, 1, |array| *array = array.t().to_owned())
        }
        _ => None,
    }
}

/// The layer with weights whose values an output is made of, not far from it.
fn last_layers(graph: &Graph) -> Vec<OpId> {
    let mut found = Vec::new();
    for output in graph.outputs() {
        let mut value = *output;
        for _ in 0..8 {
            let Some(op) = graph.producer(value) else { break };
            if output_axis(graph, op).is_some() {
                found.push(op);
                break;
            }
            let made = graph.op(op).inputs().iter().flatten().copied().find(|input| graph.constant(*input).is_none());
            let Some(made) = made else { break };
            value = made;
        }
    }
    found
}

/// `op` with `fault`; `None` where it cannot have that.
fn plant(graph: &Graph, op: OpId, fault: Fault, random: &mut Random) -> Option<Patch> {
    let node = graph.op(op);
    if !node.domain().is_empty() {
        return None;
    }
    let zeroed = |random: &mut Random| {
        let axis = output_axis(graph, op)?;
        let rows = *constant(graph, op, 1)?.1.dims().get(axis)?;
        let row = random.below(rows);
        with(graph, op, 1, |array| array.index_axis_mut(Axis(axis), row).fill(0.0))
    };
    match fault {
        Fault::WeightZeroed => zeroed(random),
        Fault::ScoreRowZeroed => last_layers(graph).contains(&op).then(|| zeroed(random))?,
        Fault::BiasDropped => {
            let port = match node.op_type() {
                "Conv" | "ConvTranspose" | "Gemm" => 2,
                "Add" => (0..2).find(|port| constant(graph, op, *port).is_some_and(|(_, tensor)| tensor.len() > 1))?,
                _ => return None,
            };
            with(graph, op, port, |array| array.fill(0.0))
        }
        Fault::AxisSwapped => swapped(graph, op),
        Fault::TapLost => {
            let (_, weight) = constant(graph, op, 1)?;
            let spatial =
                weight.dims().get(2..).filter(|spatial| node.is("Conv") && spatial.iter().product::<usize>() > 1)?;
            let tap: Vec<usize> = spatial.iter().map(|length| random.below(*length)).collect();
            with(graph, op, 1, |array| {
                for (place, number) in array.indexed_iter_mut() {
                    if tap.iter().enumerate().all(|(axis, at)| place[axis + 2] == *at) {
                        *number = 0.0;
                    }
                }
            })
        }
        Fault::MaskInverted => match node.op_type() {
            "Where" => {
                let mut patch = Patch::new(op);
                patch.set_input(op, 1, Some(node.input(2)?.into()));
                patch.set_input(op, 2, Some(node.input(1)?.into()));
                Some(patch)
            }
            "Less" => Some(as_other(graph, op, Some("Greater"), None)),
            "Greater" => Some(as_other(graph, op, Some("Less"), None)),
            "LessOrEqual" => Some(as_other(graph, op, Some("GreaterOrEqual"), None)),
            "GreaterOrEqual" => Some(as_other(graph, op, Some("LessOrEqual"), None)),
            _ => None,
        },
        Fault::ScaleOffBy2 => {
            let port = match node.op_type() {
                "Mul" | "Div" => (0..2).find(|port| constant(graph, op, *port).is_some())?,
                "BatchNormalization" | "InstanceNormalization" | "LayerNormalization" | "DequantizeLinear" => 1,
                _ => return None,
            };
            with(graph, op, port, |array| *array *= 2.0)
        }
    }
}

/// A wrong rewrite of a model.
struct Mutant {
    number: usize,
    original: PathBuf,
    fault: Fault,
    op: String,
    bytes: Vec<u8>,
}

fn read(path: &Path) -> Option<Model> {
    let mut model = import(load(path, &Limits::default()).ok()?.model).ok()?;
    model.graph.freeze_defaults();
    infer::infer(&mut model.graph);
    Some(model)
}

/// `count` mutants of the models at `paths` in turn, each with another fault as long as there are some.
fn mutants(paths: &[PathBuf], count: usize) -> Vec<Mutant> {
    let mut random = Random(16);
    let models: Vec<(PathBuf, Model)> = paths.iter().filter_map(|path| Some((path.clone(), read(path)?))).collect();
    let mut open: Vec<Vec<(Fault, OpId)>> = models
        .iter()
        .map(|(_, model)| {
            let ops = model.graph.ops();
            let pairs = FAULTS.iter().flat_map(|fault| ops.iter().map(move |op| (*fault, *op)));
            pairs.filter(|(fault, op)| plant(&model.graph, *op, *fault, &mut Random(0)).is_some()).collect()
        })
        .collect();
    let mut made = Vec::new();
    let mut round = 0;
    while made.len() < count && open.iter().any(|pairs| !pairs.is_empty()) {
        for (place, (path, model)) in models.iter().enumerate() {
            let pairs = &mut open[place];
            if pairs.is_empty() || made.len() == count {
                continue;
            }
            // The fault whose turn it is, or the next that the model can have.
            let turn = |fault: Fault| {
                (FAULTS.iter().position(|one| *one == fault).unwrap() + FAULTS.len() - (round + place) % FAULTS.len())
                    % FAULTS.len()
            };
            let fault = pairs.iter().map(|(fault, _)| *fault).min_by_key(|fault| turn(*fault)).unwrap();
            let of_it: Vec<usize> = (0..pairs.len()).filter(|index| pairs[*index].0 == fault).collect();
            let (_, op) = pairs.remove(of_it[random.below(of_it.len())]);
            let mut mutant = model.detached();
            let Some(patch) = plant(&mutant.graph, op, fault, &mut random) else { continue };
            let label = mutant.graph.label_of(op).to_owned();
            patch.apply(&mut mutant.graph).unwrap();
            let bytes = encode(&export(&mutant)).concat();
            made.push(Mutant { number: made.len(), original: path.clone(), fault, op: label, bytes });
        }
        round += 1;
    }
    made
}

/// What `validate` says of a mutant; `None` where its original cannot be run.
fn judged(mutant: &Mutant, data: Option<PathBuf>) -> Option<Verdict> {
    let request = Validate {
        bad_samples: onnx_shrink_driver::samples::BadSamples::Refuse,
        before: mutant.original.as_path().into(),
        after: mutant.bytes.clone().into(),
        data: data.map(Into::into),
        sample_options: SampleOptions::default(),
        gates: Gates::default(),
        standard: Standard::Auto,
        all_values: false,
    };
    validate(&request, &Silent).ok()
}

#[test]
fn planted_faults_are_seen_on_made_up_samples_and_on_real_ones() {
    let paths: Vec<PathBuf> = FIXTURES.iter().map(|name| fixture(name).join("model.onnx")).collect();
    let (mut all, mut missed, mut missed_on_data) = (0, Vec::new(), Vec::new());
    for mutant in mutants(&paths, 48) {
        let name = format!("{:?} at {} of {}", mutant.fault, mutant.op, mutant.original.display());
        let on_data = judged(&mutant, Some(mutant.original.with_file_name("eval.npz"))).unwrap();
        let is_same = |verdict: &Verdict| {
            verdict.comparison.as_ref().is_some_and(|found| found.outputs.iter().all(|output| output.unequal == 0.0))
        };
        if is_same(&on_data) {
            continue; // it makes no difference
        }
        all += 1;
        missed_on_data.extend(on_data.passed.then(|| name.clone()));
        missed.extend(judged(&mutant, None).unwrap().passed.then_some(name));
    }
    assert!(all >= 40, "only {all} mutants");
    assert!(missed.len() * 20 <= all, "of {all} missed on made-up samples: {missed:#?}");
    assert!(missed_on_data.len() * 100 <= all, "of {all} missed on real samples: {missed_on_data:#?}");
}

#[test]
fn planted_faults_are_seen_in_small_models_of_the_bench() {
    let is_small = |path: &PathBuf| fs::metadata(path).unwrap().len() < 500_000;
    let paths: Vec<PathBuf> = bench_models().into_iter().filter(is_small).collect();
    let (mut all, mut missed) = (0, Vec::new());
    for mutant in mutants(&paths, 24) {
        let Some(verdict) = judged(&mutant, None) else { continue };
        all += 1;
        let name = format!("{:?} at {} of {}", mutant.fault, mutant.op, mutant.original.display());
        missed.extend(verdict.passed.then_some(name));
    }
    assert!(missed.len() * 10 <= all, "of {all} missed on made-up samples: {missed:#?}");
}

#[test]
fn mutants_for_onnx_runtime() {
    let Some(folder) = std::env::var_os("ONNX_SHRINK_MUTANTS").map(PathBuf::from) else { return };
    let count = std::env::var("ONNX_SHRINK_MUTANTS_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(200);
    let mut paths: Vec<PathBuf> = FIXTURES.iter().map(|name| fixture(name).join("model.onnx")).collect();
    paths.extend(bench_models());
    let mut list = String::new();
    for mutant in mutants(&paths, count) {
        fs::write(folder.join(format!("{:03}.onnx", mutant.number)), &mutant.bytes).unwrap();
        let (number, path) = (mutant.number, mutant.original.display());
        list.push_str(&format!("{number:03}\t{path}\t{:?}\t{}\n", mutant.fault, mutant.op));
    }
    fs::write(folder.join("list.tsv"), list).unwrap();
    eprintln!("mutants in {}", folder.display());
}
