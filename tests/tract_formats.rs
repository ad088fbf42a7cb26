//! Each form of integer layers in tract, which runs the written file as a whole, beside the executor, which runs all of them.
//!
//! tract (0.23.9) takes every form but one: a DequantizeLinear whose scale a run finds, which `--requantize shrink` writes where
//! a float op reads what was quantized so.
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use onnx_shrink_driver::{SampleOptions, Samples};
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{
    Evaluate, Graph, Tensor, import,
    proto::{Limits, load},
};
use onnx_shrink_passes::target::TARGETS;
use tract_onnx::prelude::{
    DatumTypeExt, Framework, InferenceModelExt, IntoRunnable, IntoTValue, Tensor as TractTensor, TractResult,
};

use crate::support::{bench_models, calib, folder, folder_of, model, run};

/// The first output of the file `path` on float inputs in tract; why there is none.
fn in_tract(path: &Path, inputs: &[Tensor]) -> Result<Vec<f32>, String> {
    let work = || -> TractResult<Vec<f32>> {
        let mut model = tract_onnx::onnx().model_for_path(path)?;
        let mut values = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let value = TractTensor::from_shape(input.dims(), &input.as_slice::<f32>().unwrap())?;
            model.set_input_fact(index, value.datum_type().fact(input.dims()).into())?;
            values.push(value.into_tvalue());
        }
        let outputs = model.into_optimized()?.into_runnable()?.run(values.into())?;
        Ok(outputs[0].to_plain_array_view::<f32>()?.iter().copied().collect())
    };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(found) => found.map_err(|error| format!("{error:#}")),
        Err(_) => Err("a panic".to_owned()),
    }
}

const FORMS: [&[&str]; 3] =
    [&["--format", "qoperator"], &["--format", "integer"], &["--format", "integer", "--requantize", "shrink"]];

/// Whether a DequantizeLinear has a scale that is found in the run.
fn has_found_scale(graph: &Graph) -> bool {
    let found = |op| graph.op(op).input(1).is_some_and(|scale| graph.constant(scale).is_none());
    graph.ops_of("DequantizeLinear").into_iter().any(found)
}

/// Writes the model in `folder` in every form, with all its layers in integers, and runs it in both engines; how many forms tract ran.
fn runs_in_both(folder: &Path, data: &[&str], what: &str) -> usize {
    let mut ran = 0;
    for form in FORMS {
        let written = run(folder, &[&["in.onnx", "-o", "out.onnx", "--int8", "--place", "wrap"], data, form].concat());
        assert_eq!(written.code, 0, "{what} {form:?}: {}", written.stderr);
        let path = folder.join("out.onnx");
        let graph = import(load(&path, &Limits::default()).unwrap().model).unwrap().graph;
        let samples = match data {
            ["--data", path] => Samples::open(*path, &graph, &SampleOptions::default()).unwrap(),
            _ => Samples::generated(&graph, 1).unwrap(),
        };
        let inputs = samples.get(0).unwrap().inputs;
        let evaluator = Interpreter::new(onnx_shrink_exec::Options::default());
        let outputs = evaluator.prepare(&graph).unwrap().run(&inputs, &mut |_, _| {}).unwrap();
        let expected = outputs[0].to_f64_vec().unwrap();
        let inputs: Vec<Tensor> = inputs.into_iter().flatten().collect();
        match in_tract(&path, &inputs) {
            Ok(found) => {
                assert!(!has_found_scale(&graph), "{what} {form:?}: tract learned it: say so in docs/PASSES.md");
                assert_eq!(found.len(), expected.len());
                let noise: f64 = expected.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum();
                let relative = (noise / expected.iter().map(|a| a * a).sum::<f64>()).sqrt();
                // Float ops round otherwise there, which moves a number that lies between two steps.
                assert!(relative < 0.02, "{what} {form:?}: {relative}");
                ran += 1;
            }
            Err(error) => {
                assert!(has_found_scale(&graph) && error.contains("DequantizeLinear"), "{what} {form:?}: {error}");
            }
        }
    }
    ran
}

#[test]
fn every_form_of_the_fixtures_runs_in_the_executor_and_tract_lacks_one_op_alone() {
    for name in ["digits_cnn", "digits_mobile", "digits_mlp", "digits_attention"] {
        let folder = folder_of(name);
        assert!(runs_in_both(folder.path(), &["--data", &calib(name)], name) >= 2, "{name}");
    }
}

#[test]
fn every_form_of_bench_models_runs_in_the_executor_and_tract_lacks_one_op_alone() {
    let wanted = |path: &PathBuf| {
        path.file_stem().is_some_and(|name| name == "resnet20_cifar10" || name == "lenet300_100_mnist")
    };
    for path in bench_models().into_iter().filter(wanted) {
        let folder = folder();
        std::fs::copy(&path, folder.path().join("in.onnx")).unwrap();
        // Ranges of made-up samples do here: both engines run the same file.
        assert!(runs_in_both(folder.path(), &["--synthetic", "8"], &path.display().to_string()) >= 2);
    }
}

#[test]
fn each_target_refuses_the_forms_that_it_does_not_run() {
    let folder = folder();
    std::fs::write(folder.path().join("in.onnx"), model("digits_mlp")).unwrap();
    let data = calib("digits_mlp");
    for target in &TARGETS {
        for form in ["qoperator", "integer"] {
            let arguments =
                ["in.onnx", "-o", "o.onnx", "--int8", "--data", &data, "--target", target.name, "--format", form];
            let done = run(folder.path(), &arguments);
            let is_fit = target.formats.contains(&form);
            assert_eq!(done.code, if is_fit { 0 } else { 2 }, "{} {form}: {}", target.name, done.stderr);
            assert!(is_fit || done.error().contains(&format!("the target {}", target.name)), "{}", done.stderr);
        }
    }
}
