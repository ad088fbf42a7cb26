//! Judges the kernels on ONNX's backend node cases: `kernel_cases FOLDER [WORD]`, where FOLDER holds one folder a case
//! with `model.onnx` and `test_data_set_0`, and WORD selects cases by name.
//!
//! A case counts when its model is one node that has a kernel. Integers and booleans must be equal, floats within the
//! suite's tolerance (1e-3 relative, 1e-7 absolute). Ends with an error when a kernel is wrong.
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use onnx_shrink_exec::{
    kernel::{Call, KernelError},
    kernels::find,
};
use onnx_shrink_ir::{
    DataType, Tensor, convert,
    proto::{
        prost::Message,
        schema::{ModelProto, TensorProto},
    },
};

/// What became of a case.
enum Verdict {
    Right(f64),
    Wrong(String),
    Refused(String),
    Failed(String),
    Skipped,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (folder, word) = (arguments.next(), arguments.next().unwrap_or_default());
    let mut out = io::stdout().lock();
    match folder.map(|folder| judge(Path::new(&folder), &word, &mut out)) {
        Some(Ok(0)) => ExitCode::SUCCESS,
        Some(Ok(_)) => ExitCode::FAILURE,
        Some(Err(error)) => {
            let _ = writeln!(out, "{error}");
            ExitCode::from(2)
        }
        None => {
            let _ = writeln!(out, "kernel_cases FOLDER [WORD]");
            ExitCode::from(2)
        }
    }
}

/// Number of wrong cases.
fn judge(folder: &Path, word: &str, out: &mut impl Write) -> io::Result<usize> {
    let mut cases: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    cases.sort_by_key(fs::DirEntry::file_name);
    let (mut right, mut refused, mut skipped, mut worst) = (0, 0, 0, (0f64, String::new()));
    let mut bad = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases {
        let name = case.file_name().to_string_lossy().into_owned();
        if !name.contains(word) || !case.path().join("model.onnx").is_file() {
            continue;
        }
        let verdict = std::panic::catch_unwind(|| run(&case.path()));
        match verdict.unwrap_or_else(|_| Ok(Verdict::Wrong("panic".to_owned())))? {
            Verdict::Right(difference) => {
                right += 1;
                if difference > worst.0 {
                    worst = (difference, name);
                }
            }
            Verdict::Wrong(why) => bad.push(format!("wrong {name}: {why}")),
            Verdict::Failed(why) => bad.push(format!("failed {name}: {why}")),
            Verdict::Refused(why) => {
                refused += 1;
                *reasons.entry(why).or_default() += 1;
            }
            Verdict::Skipped => skipped += 1,
        }
    }
    for (reason, count) in &reasons {
        writeln!(out, "refused {count}: {reason}")?;
    }
    for line in &bad {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "{right} right (largest relative difference {:e} in {}), {} wrong, {refused} refused, {skipped} without a kernel",
        worst.0,
        worst.1,
        bad.len()
    )?;
    Ok(bad.len())
}

fn damaged(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn read(path: &Path) -> io::Result<Option<Tensor>> {
    let Ok(bytes) = fs::read(path) else { return Ok(None) };
    let proto = TensorProto::decode(&bytes[..]).map_err(damaged)?;
    convert::tensor_from_proto(&proto).map(Some).map_err(damaged)
}

fn run(case: &Path) -> io::Result<Verdict> {
    let proto = ModelProto::decode(&fs::read(case.join("model.onnx"))?[..]).map_err(damaged)?;
    let Some(graph) = &proto.graph else { return Ok(Verdict::Skipped) };
    let names = |list: &[onnx_shrink_ir::proto::schema::ValueInfoProto]| -> Vec<String> {
        list.iter().map(|info| info.name().to_owned()).collect()
    };
    let (input_names, output_names) = (names(&graph.input), names(&graph.output));
    let opset = proto.opset_import.iter().find(|import| matches!(import.domain(), "" | "ai.onnx"));
    let opset = opset.map_or(0, |import| import.version());
    let [node] = &graph.node[..] else { return Ok(Verdict::Skipped) };
    let (node_inputs, node_outputs) = (node.input.clone(), node.output.clone());
    let Ok(model) = onnx_shrink_ir::import(proto) else { return Ok(Verdict::Skipped) };
    let op = model.graph.op(model.graph.ops()[0]);
    let Some(kernel) = find(op, opset) else { return Ok(Verdict::Skipped) };
    let data = case.join("test_data_set_0");
    let mut inputs = Vec::new();
    for name in &node_inputs {
        let constant = model.graph.find(name).and_then(|value| model.graph.constant(value)).cloned();
        let place = input_names.iter().position(|input| input == name);
        let Ok(tensor) = place.map_or(Ok(None), |place| read(&data.join(format!("input_{place}.pb")))) else {
            return Ok(Verdict::Skipped);
        };
        if !name.is_empty() && constant.is_none() && tensor.is_none() {
            return Ok(Verdict::Skipped);
        }
        inputs.push(constant.or(tensor));
    }
    let label = op.op_type().to_owned();
    let outputs = match kernel(&Call { op, opset, inputs: &inputs, max_bytes: 1 << 30 }) {
        Ok(outputs) => outputs,
        Err(KernelError::Unsupported(why)) => return Ok(Verdict::Refused(format!("{label}: {why}"))),
        Err(KernelError::Failed(why)) => return Ok(Verdict::Failed(why)),
    };
    let mut worst = 0f64;
    for (place, name) in output_names.iter().enumerate() {
        let Ok(Some(expected)) = read(&data.join(format!("output_{place}.pb"))) else { return Ok(Verdict::Skipped) };
        let found =
            node_outputs.iter().position(|output| output == name).and_then(|index| outputs.get(index)?.as_ref());
        let Some(found) = found else { return Ok(Verdict::Wrong(format!("output {name} is missing"))) };
        match difference(found, &expected) {
            Ok(difference) => worst = worst.max(difference),
            Err(why) => return Ok(Verdict::Wrong(format!("{name}: {why}"))),
        }
    }
    Ok(Verdict::Right(worst))
}

/// The largest relative difference, or what is wrong.
fn difference(found: &Tensor, expected: &Tensor) -> Result<f64, String> {
    if (found.dtype(), found.dims()) != (expected.dtype(), expected.dims()) {
        return Err(format!("{} instead of {}", found.ty(), expected.ty()));
    }
    if !expected.dtype().is_float() {
        let codes =
            |tensor: &Tensor| tensor.to_i64_vec().map_or_else(|| format!("{tensor:?}"), |list| format!("{list:?}"));
        return if found == expected {
            Ok(0.0)
        } else {
            Err(format!("{} instead of {}", codes(found), codes(expected)))
        };
    }
    let (Some(a), Some(b)) = (found.to_f64_vec(), expected.to_f64_vec()) else { return Err("no numbers".to_owned()) };
    let mut worst = 0f64;
    for (index, (a, b)) in a.into_iter().zip(b).enumerate() {
        if a == b || (a.is_nan() && b.is_nan()) {
            continue;
        }
        let gap = (a - b).abs();
        if gap.is_nan() || gap > 1e-7 + 1e-3 * b.abs() {
            return Err(format!("element {index} is {a} instead of {b}"));
        }
        if gap > 1e-7 && expected.dtype() == DataType::Float {
            worst = worst.max(gap / b.abs());
        }
    }
    Ok(worst)
}
