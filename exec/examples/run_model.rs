//! Runs models on ONNX test data and compares.
//!
//!     run_model MODEL DATA_SET_DIR...          one line per data set (input_N.pb, output_N.pb)
//!     run_model --cases CASE_DIR...            one line per folder with model.onnx and test_data_set_*
//!     run_model --time COUNT MODEL DATA_SET    milliseconds per run after the first
//!
//! Lines: name, then `right`, `wrong` with the largest difference, or `refused` with the reason. A model of one op is run
//! as a graph and, once more, as a constant fold.
use std::{
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{
    DataType, Evaluate, Model, Tensor,
    convert::tensor_from_proto,
    import,
    proto::{Limits, load, read_tensor},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = io::stdout().lock();
    match arguments.first().map(String::as_str) {
        Some("--cases") => {
            for case in &arguments[1..] {
                let path = Path::new(case);
                let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
                let mut sets: Vec<PathBuf> = fs::read_dir(path)?
                    .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                    .filter(|path| path.is_dir())
                    .collect();
                sets.sort();
                let (verdict, detail) = judge(&path.join("model.onnx"), &sets);
                writeln!(out, "{name}\t{verdict}\t{detail}")?;
            }
        }
        Some("--time") if arguments.len() == 4 => {
            writeln!(out, "{}", time(arguments[1].parse()?, Path::new(&arguments[2]), Path::new(&arguments[3]))?)?;
        }
        Some(model) if arguments.len() > 1 => {
            for set in &arguments[1..] {
                let (verdict, detail) = judge(Path::new(model), &[PathBuf::from(set)]);
                writeln!(out, "{set}\t{verdict}\t{detail}")?;
            }
        }
        _ => return Err("usage: run_model MODEL DATA_SET_DIR... | --cases CASE_DIR...".into()),
    }
    Ok(())
}

fn judge(model: &Path, sets: &[PathBuf]) -> (&'static str, String) {
    match compare(model, sets) {
        Ok(None) => ("right", String::new()),
        Ok(Some(difference)) => ("wrong", difference),
        Err(error) => ("refused", error.to_string().replace('\n', " ")),
    }
}

fn numbered(set: &Path, kind: &str) -> Result<Vec<Option<Tensor>>> {
    let mut tensors = Vec::new();
    for index in 0.. {
        let path = set.join(format!("{kind}_{index}.pb"));
        if !path.exists() {
            break;
        }
        tensors.push(Some(tensor_from_proto(&read_tensor(&path)?)?));
    }
    Ok(tensors)
}

/// The inputs in the places of those that have no default, when there are as many of these.
fn placed(model: &Model, inputs: Vec<Option<Tensor>>) -> Vec<Option<Tensor>> {
    let graph = &model.graph;
    if inputs.len() == graph.inputs().len() {
        return inputs;
    }
    let mut inputs = inputs.into_iter();
    let place = |&input| if graph.default_of(input).is_some() { None } else { inputs.next().flatten() };
    graph.inputs().iter().map(place).collect()
}

fn open(path: &Path) -> Result<Model> {
    let model = import(load(path, &Limits::default())?.model)?;
    let graph = &model.graph;
    for &value in graph.inputs().iter().chain(graph.outputs()) {
        if graph.ty(value).is_none() {
            return Err(format!("`{}` is no tensor", graph.name_of(value)).into());
        }
    }
    Ok(model)
}

/// `None` when all outputs are right, or the first difference.
fn compare(path: &Path, sets: &[PathBuf]) -> Result<Option<String>> {
    let model = open(path)?;
    let engine = Interpreter::default();
    let prepared = engine.prepare(&model.graph)?;
    for set in sets {
        let inputs = placed(&model, numbered(set, "input")?);
        let expected = numbered(set, "output")?;
        for run in 0..2 {
            let outputs = prepared.run(&inputs, &mut |_, _| {})?;
            if let Some(difference) = differences(&outputs, &expected) {
                return Ok(Some(format!("run {run}: {difference}")));
            }
        }
        if let &[op] = model.graph.ops().as_slice() {
            let graph = &model.graph;
            let given = graph.op(op).inputs().iter().map(|input| {
                let input = (*input)?;
                let place = graph.inputs().iter().position(|other| *other == input);
                place.and_then(|place| inputs.get(place).cloned().flatten()).or_else(|| graph.constant(input).cloned())
            });
            let given: Vec<_> = given.collect();
            let outputs = engine.op(graph, op, &given)?;
            let wanted = graph.outputs().iter().filter_map(|output| {
                let place = graph.op(op).outputs().iter().position(|other| other == &Some(*output))?;
                outputs.get(place).cloned().flatten()
            });
            if let Some(difference) = differences(&wanted.collect::<Vec<_>>(), &expected) {
                return Ok(Some(format!("fold: {difference}")));
            }
        }
    }
    Ok(None)
}

fn differences(outputs: &[Tensor], expected: &[Option<Tensor>]) -> Option<String> {
    if outputs.len() != expected.len() {
        return Some(format!("{} outputs, {} expected", outputs.len(), expected.len()));
    }
    let pairs = outputs.iter().zip(expected.iter().flatten()).enumerate();
    pairs.filter_map(|(index, (got, want))| Some(format!("output {index}: {}", difference(got, want)?))).next()
}

/// The relative tolerance of ONNX's backend runner, 1e-3, and an absolute one of 1e-6 of the largest number: float noise.
fn difference(got: &Tensor, want: &Tensor) -> Option<String> {
    if got.ty() != want.ty() {
        return Some(format!("{} instead of {}", got.ty(), want.ty()));
    }
    let (Some(a), Some(b)) = (got.to_f64_vec(), want.to_f64_vec()) else {
        return (got != want).then(|| "other bytes".to_owned());
    };
    let largest = b.iter().map(|b| b.abs()).filter(|b| b.is_finite()).fold(1.0, f64::max);
    let absolute = match want.dtype() {
        DataType::Float16 => 1e-3,
        DataType::Bfloat16 => 1e-2,
        _ => 1e-6 * largest,
    };
    let relative = if want.dtype() == DataType::Bfloat16 { 1e-2 } else { 1e-3 };
    let bad = |&(a, b): &(&f64, &f64)| {
        let equal = a == b || (a.is_nan() && b.is_nan());
        !equal && !((a - b).abs() <= absolute + relative * b.abs())
    };
    let count = a.iter().zip(&b).filter(bad).count();
    let worst: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let first = a.iter().zip(&b).position(|(a, b)| bad(&(a, b)))?;
    Some(format!(
        "{count} of {} differ, at most by {worst:e} (largest {largest:e}); [{first}] {} for {}",
        a.len(),
        a[first],
        b[first]
    ))
}

fn time(count: usize, path: &Path, set: &Path) -> Result<String> {
    let model = open(path)?;
    let engine = Interpreter::default();
    let start = Instant::now();
    let prepared = engine.prepare(&model.graph)?;
    let prepare = start.elapsed().as_secs_f64() * 1e3;
    let inputs = placed(&model, numbered(set, "input")?);
    let mut runs = Vec::new();
    for _ in 0..=count {
        let start = Instant::now();
        prepared.run(&inputs, &mut |_, _| {})?;
        runs.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let best = runs[1..].iter().copied().fold(f64::INFINITY, f64::min);
    let mean = runs[1..].iter().sum::<f64>() / count as f64;
    Ok(format!("prepare {prepare:.2} ms, first {:.2} ms, then best {best:.2} ms, mean {mean:.2} ms", runs[0]))
}
