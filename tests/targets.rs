//! Each target's files hold its row, whatever they were made with; what the row does not allow is refused by its name. The
//! checker is [`crate::target_row`], and [`crate::target_mutants`] shows that it can fail.
use std::path::Path;

use onnx_shrink_ir::{
    Model, import,
    proto::{Limits, load, load_bytes, schema::ModelProto},
};
use onnx_shrink_passes::{
    target::Pairing,
    target::{Bias, Places, TARGETS, Target, WANT_FLOAT},
};
use rayon::prelude::*;

use crate::{
    support::{calib, fixture, folder, folder_of, model_of_text, run},
    target_row::judge,
};

/// What the fixtures lack: a Sigmoid, whose scale is fixed on some targets, before a Concat, whose scales must be one
/// there; an AveragePool; a Pad; a bilinear Resize.
fn branches() -> Vec<u8> {
    let mut state = 7u64;
    let mut numbers = |count: usize| -> String {
        let mut one = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            format!("{:.4}", (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5)
        };
        (0..count).map(|_| one()).collect::<Vec<_>>().join(",")
    };
    model_of_text(&format!(
        r#"<ir_version: 8, opset_import: ["" : 13]>
g (float[1,4,8,8] x) => (float[1,16,8,8] y)
<float[32,4,3,3] w = {{{}}}, float[32] b = {{{}}}, float[16,64,3,3] v = {{{}}}, int64[8] pads = {{0,0,0,0,0,0,2,2}},
 float[4] scales = {{1,1,2,2}}> {{
  c = Conv <pads = [1,1,1,1]> (x, w, b)
  s = Sigmoid (c)
  p = AveragePool <kernel_shape = [2,2], strides = [2,2]> (c)
  r = Resize <mode = "linear"> (p, , scales)
  t = Concat <axis = 1> (r, s)
  u = Pad (t, pads)
  y = Conv (u, v)
}}"#,
        numbers(32 * 36),
        numbers(32),
        numbers(16 * 64 * 9)
    ))
}

/// How files are made: what it is called, flags, on which fixtures, and whether the row allows it.
type Way = (&'static str, &'static [&'static str], &'static [&'static str], fn(&Target) -> bool);

/// Stands for the path of the fixture's samples.
pub const DATA: &str = "DATA";
const ALL: &[&str] =
    &["digits_cnn", "digits_mobile", "digits_mlp", "digits_gru", "digits_attention", "digits_if", "branches"];
const BATCH_NORMS: &[&str] = &["digits_cnn", "digits_mobile"];
const LINEAR: &[&str] = &["digits_mlp", "digits_attention"];
const CONVOLUTIONS: &[&str] = &["digits_cnn", "digits_mobile", "branches"];

/// In the first ones all that can be has calibrated ranges.
const WHOLE: usize = 5;

const WAYS: [Way; 16] = [
    ("pairs", &["--int8", "--data", DATA], ALL, |_| true),
    ("wrapped", &["--int8", "--data", DATA, "--place", "wrap"], ALL, |_| true),
    ("synthetic", &["--int8", "--synthetic", "4"], CONVOLUTIONS, |_| true),
    ("split", &["--int8", "--data", DATA, "--svd=0.9"], LINEAR, |_| true),
    ("pruned", &["--int8", "--data", DATA, "--prune", "0.2", "--gate", "prune-drop=1"], &["digits_cnn"], |_| true),
    ("no samples", &["--int8"], ALL, |_| true),
    ("ranges of the model", &["--int8", "--ranges", "model", "--input-range", "input=0,1"], BATCH_NORMS, |_| true),
    ("some float", &["--int8", "--data", DATA, "--keep-float", "Gemm"], &["digits_cnn", "digits_mlp"], |_| true),
    ("gated", &["--int8", "--data", DATA, "--gate", "sqnr=32"], &["digits_cnn", "digits_mobile"], |_| true),
    ("dynamic", &["--int8", "--dynamic"], &["digits_gru", "digits_attention"], |target| target.dynamic),
    ("dynamic, with samples", &["--int8", "--dynamic", "--data", DATA], LINEAR, |target| target.dynamic),
    ("QLinear ops", &["--int8", "--data", DATA, "--place", "wrap", "--format", "qoperator"], ALL, |target| {
        target.formats.contains(&"qoperator")
    }),
    ("integer products", &["--int8", "--data", DATA, "--place", "wrap", "--format", "integer"], ALL, |target| {
        target.formats.contains(&"integer")
    }),
    (
        "shrunk at run time",
        &["--int8", "--data", DATA, "--place", "wrap", "--format", "integer", "--requantize", "shrink"],
        CONVOLUTIONS,
        |target| target.formats.contains(&"integer"),
    ),
    ("4 bits", &["--weights", "int4"], ALL, |target| target.small.contains(&"int4")),
    ("16-bit floats", &["--weights", "fp16"], &["digits_cnn", "digits_gru"], |target| target.small.contains(&"fp16")),
];

fn read(bytes: Vec<u8>) -> ModelProto {
    load_bytes(bytes.into(), Path::new("out.onnx"), None, &Limits::default()).unwrap().model
}

/// A model that the binary wrote for `target`, by one of the [`WAYS`].
pub fn written(name: &str, target: &str, arguments: &[&str]) -> Result<Model, String> {
    let (folder, data) = match name {
        "branches" => {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("in.onnx"), branches()).unwrap();
            (folder, String::new())
        }
        name => (folder_of(name), calib(name)),
    };
    let mut all = vec!["in.onnx", "-o", "out.onnx", "--quiet", "--target", target];
    for argument in arguments {
        match *argument {
            "--data" if name == "branches" => {}
            DATA if name == "branches" => all.extend(["--synthetic", "16"]),
            DATA => all.push(&data),
            argument => all.push(argument),
        }
    }
    let run = run(folder.path(), &all);
    if run.code != 0 {
        return Err(format!("{} {}", run.code, run.stderr));
    }
    let bytes = std::fs::read(folder.path().join("out.onnx")).unwrap();
    Ok(import(read(bytes)).unwrap())
}

/// The model that [`written`] begins with.
pub fn original(name: &str) -> Model {
    match name {
        "branches" => import(read(branches())).unwrap(),
        name => import(load(&fixture(name).join("model.onnx"), &Limits::default()).unwrap().model).unwrap(),
    }
}

#[test]
fn each_file_holds_the_row_of_its_target() {
    let ways = WAYS.iter().enumerate();
    let of_ways: Vec<(usize, &str)> =
        ways.flat_map(|(way, (_, _, names, _))| names.iter().map(move |name| (way, *name))).collect();
    let cases: Vec<(&Target, usize, &str)> =
        TARGETS.iter().flat_map(|target| of_ways.iter().map(move |(way, name)| (target, *way, *name))).collect();
    let one = |&(target, way, name): &(&'static Target, usize, &str)| -> (Vec<String>, usize) {
        let (called, arguments, _, allowed) = &WAYS[way];
        let at = format!("{} {name}, {called}", target.name);
        match (written(name, target.name, arguments), allowed(target)) {
            (Ok(output), true) => {
                let verdict = judge(target, &original(name), &output, way < WHOLE);
                let lines = verdict.violations.into_iter().map(|(rule, what)| format!("{at}: {rule}: {what}"));
                (lines.collect(), verdict.layers)
            }
            (Ok(_), false) => (vec![format!("{at}: not refused")], 0),
            (Err(why), false) if why.starts_with("2 ") && why.contains(&format!("the target {}", target.name)) => {
                (Vec::new(), 0)
            }
            (Err(why), _) => (vec![format!("{at}: {why}")], 0),
        }
    };
    let found: Vec<(Vec<String>, usize)> = cases.par_iter().map(one).collect();
    let wrong: Vec<&String> = found.iter().flat_map(|(lines, _)| lines).collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.iter().map(|line| format!("{line}\n")).collect::<String>()
    );
    for target in &TARGETS {
        let of_target = cases.iter().zip(&found).filter(|((of, ..), _)| of.name == target.name);
        let layers: usize = of_target.map(|(_, (_, layers))| layers).sum();
        let least = match target.places {
            Places::Nothing => 0,
            Places::Cheapest(_) => 50,
            Places::All | Places::EveryTensor => 100,
        };
        assert!(layers >= least, "{}: {layers} layers were looked at", target.name);
    }
}

#[test]
fn help_prints_every_row_and_needs_no_input() {
    let folder = folder();
    let run = run(folder.path(), &["--target", "help"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let text = run.text();
    let lines = |name: &str| -> Vec<&str> {
        text.lines().filter(|line| line.split_whitespace().next() == Some(name)).collect()
    };
    for target in &TARGETS {
        let [row, about] = lines(target.name)[..] else { panic!("{}: {text}", target.name) };
        assert!(about.ends_with(target.about), "{about}");
        let says = |part: &str, holds: bool| assert_eq!(row.contains(part), holds, "{part}: {row}");
        let runs = target.places != Places::Nothing;
        says(" asymmetric", runs && !target.symmetric);
        says("2^n", runs && target.power_of_two);
        says("16-bit pairs", runs && target.pairing == Pairing::Neighbours);
        says("full range", runs && target.pairing == Pairing::None);
        says("per tensor", runs && target.per_channel.is_empty());
        says("per channel of Conv", runs && target.per_channel == ["Conv"]);
        says(" s32 ", runs && target.bias == Bias::Int32);
        says("every tensor", target.places == Places::EveryTensor);
        says("what is faster", matches!(target.places, Places::Cheapest(_)));
        for form in ["qdq", "qoperator", "integer"] {
            says(form, target.formats.contains(&form));
        }
        says("dynamic", target.dynamic);
        for weights in ["fp16", "int4"] {
            says(weights, target.small.contains(&weights));
        }
        says("int8", target.stores);
    }
    for (engine, reason) in WANT_FLOAT {
        let [line] = lines(engine)[..] else { panic!("{engine}: {text}") };
        assert!(line.ends_with(reason) && reason.split(' ').count() > 5, "{line}");
    }
}
