//! Each target's files hold its row, whatever they were made with; what the row does not allow is refused by its name. The
//! checker is [`crate::target_row`], and [`crate::target_mutants`] shows that it can fail.
use std::path::Path;

use onnx_shrink_ir::{
    Model, import,
    proto::{Limits, load, load_bytes, schema::ModelProto},
};
use onnx_shrink_passes::{
    quantize::weights::Pairing,
    target::{Bias, Places, TARGETS, Target, WANT_FLOAT},
};
use rayon::prelude::*;

use crate::{
    support::{FIXTURES, calib, fixture, folder, folder_of, model_of_text, run},
    target_row::judge,
};

/// Ops of the fixtures lack these: a Sigmoid, whose scale is fixed on some targets, before a Concat, whose scales must be one
/// there; an AveragePool; a Pad; a bilinear Resize.
const BRANCHES: &str = r#"<ir_version: 8, opset_import: ["" : 13]>
g (float[1,4,8,8] x) => (float[1,4,4,4] y)
<float[4,4,1,1] w = {1,0.5,-0.5,0.25, 0,1,0.5,-1, 0.5,0.5,1,0, -1,0.25,0,1}, float[4] b = {0.1,-0.2,0.3,0},
 float[4,8,1,1] v = {1,0,0.5,0,-1,0,0.5,0, 0,1,0,0.5,0,1,0,0.5, 0.5,0,1,0,-0.5,0,1,0, 0,0.5,0,1,0,-0.5,0,1},
 int64[8] pads = {0,0,0,0,0,0,0,0}, float[4] sizes = {1,1,1,1}, float none = {0}> {
  c = Conv (x, w, b)
  s = Sigmoid (c)
  r = Relu (c)
  p = AveragePool <kernel_shape = [2,2], strides = [2,2]> (r)
  q = MaxPool <kernel_shape = [2,2], strides = [2,2]> (s)
  t = Concat <axis = 1> (p, q)
  y = Conv (t, v)
}"#;

/// How files are made: what it is called, flags, on which fixtures (all, where none is named), and whether the row allows it.
type Way = (&'static str, &'static [&'static str], &'static [&'static str], fn(&Target) -> bool);

const WITH_DATA: &str = "DATA";
const BATCH_NORMS: &[&str] = &["digits_cnn", "digits_mobile"];

const WAYS: [Way; 16] = [
    ("pairs", &["--int8", "--data", WITH_DATA], &[], |_| true),
    ("wrapped", &["--int8", "--data", WITH_DATA, "--place", "wrap"], &[], |_| true),
    ("no samples", &["--int8"], &[], |_| true),
    ("synthetic", &["--int8", "--synthetic", "4"], &[], |_| true),
    ("ranges of the model", &["--int8", "--ranges", "model", "--input-range", "input=0,1"], BATCH_NORMS, |_| true),
    ("some float", &["--int8", "--data", WITH_DATA, "--keep-float", "Gemm"], &[], |_| true),
    ("gated", &["--int8", "--data", WITH_DATA, "--gate", "sqnr=32"], &[], |_| true),
    ("split", &["--int8", "--data", WITH_DATA, "--svd=0.9"], &["digits_mlp", "digits_attention"], |_| true),
    ("pruned", &["--int8", "--data", WITH_DATA, "--prune", "0.2", "--gate", "prune-drop=1"], &["digits_cnn"], |_| true),
    ("dynamic", &["--int8", "--dynamic"], &[], |target| target.dynamic),
    ("dynamic, bias corrected", &["--int8", "--dynamic", "--data", WITH_DATA], &[], |target| target.dynamic),
    ("QLinear ops", &["--int8", "--data", WITH_DATA, "--place", "wrap", "--format", "qoperator"], &[], |target| {
        target.formats.contains(&"qoperator")
    }),
    ("integer products", &["--int8", "--data", WITH_DATA, "--place", "wrap", "--format", "integer"], &[], |target| {
        target.formats.contains(&"integer")
    }),
    (
        "shrunk at run time",
        &["--int8", "--data", WITH_DATA, "--place", "wrap", "--format", "integer", "--requantize", "shrink"],
        &[],
        |target| target.formats.contains(&"integer"),
    ),
    ("4 bits", &["--weights", "int4"], &[], |target| target.small.contains(&"int4")),
    ("16-bit floats", &["--weights", "fp16"], &[], |target| target.small.contains(&"fp16")),
];

fn read(bytes: Vec<u8>) -> ModelProto {
    load_bytes(bytes.into(), Path::new("out.onnx"), None, &Limits::default()).unwrap().model
}

/// A model that the binary wrote for `target`, by one of the [`WAYS`].
pub fn written(name: &str, target: &str, arguments: &[&str]) -> Result<Model, String> {
    let (folder, data) = match name {
        "branches" => {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("in.onnx"), model_of_text(BRANCHES)).unwrap();
            (folder, "--synthetic".to_owned())
        }
        name => (folder_of(name), calib(name)),
    };
    let mut all = vec!["in.onnx", "-o", "out.onnx", "--quiet", "--target", target];
    for argument in arguments {
        match *argument {
            "--data" if name == "branches" => {}
            WITH_DATA if name == "branches" => all.extend(["--synthetic", "16"]),
            WITH_DATA => all.push(&data),
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
        "branches" => import(read(model_of_text(BRANCHES))).unwrap(),
        name => import(load(&fixture(name).join("model.onnx"), &Limits::default()).unwrap().model).unwrap(),
    }
}

#[test]
fn each_file_holds_the_row_of_its_target() {
    let names: Vec<&str> = FIXTURES.into_iter().chain(["branches"]).collect();
    let cases: Vec<(&Target, &Way, &str)> = TARGETS
        .iter()
        .flat_map(|target| WAYS.iter().map(move |way| (target, way)))
        .flat_map(|(target, way)| names.iter().map(move |name| (target, way, *name)))
        .filter(|(_, way, name)| way.2.is_empty() || way.2.contains(name))
        .collect();
    let one = |&(target, (way, arguments, _, allowed), name): &(&'static Target, &Way, &str)| -> (Vec<String>, usize) {
        let at = format!("{} {name}, {way}", target.name);
        match (written(name, target.name, arguments), allowed(target)) {
            (Ok(output), true) => {
                let verdict = judge(target, &original(name), &output);
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
            Places::Cheapest(_) => 100,
            Places::All | Places::EveryTensor => 150,
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
