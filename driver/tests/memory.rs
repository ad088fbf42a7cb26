//! A job from memory to memory gives the bytes that the same job gives from files to a file.
#![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]
use std::{fs, path::Path};

use onnx_shrink_driver::{
    ExitCode, Input, Output, Request, Sample, SampleOptions, Samples, Silent, calibrate, diff, diff_files,
    inspect::{Inspect, inspect},
    request::weights::{Weights, WeightsOptions},
    samples::BadSamples,
    shrink,
    validate::{Standard, Validate, validate},
};
use onnx_shrink_ir::{Tensor, import, infer, proto};

/// The model, and its samples as they stand in a file, read into memory.
fn model_and_samples(folder: &Path) -> (Vec<u8>, Vec<Sample>) {
    let bytes = fs::read(folder.join("model.onnx")).unwrap();
    let loaded = proto::load(&folder.join("model.onnx"), &proto::Limits::default()).unwrap();
    let mut model = import(loaded.model).unwrap();
    infer::infer(&mut model.graph);
    let graph = &model.graph;
    let samples = Samples::open(folder.join("calib.npz"), graph, &SampleOptions::default()).unwrap();
    let sample = |index: usize| {
        let fitted = samples.get(index).unwrap();
        let named = graph.inputs().iter().zip(fitted.inputs);
        let sample = named.fold(Sample::new(), |sample, (input, array)| match array {
            Some(array) => sample.with(graph.name_of(*input), array),
            None => sample,
        });
        fitted.label.into_iter().fold(sample, |sample, label| sample.with("y", label))
    };
    (bytes, (0..samples.len()).map(sample).collect())
}

#[test]
fn memory_and_files_give_the_same_bytes() {
    for name in ["digits_cnn", "digits_gru"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
        let (bytes, samples_in_memory) = model_and_samples(&fixture);
        let folder = tempfile::tempdir().unwrap();
        let int4 = WeightsOptions { weights: Some(Weights::Int4) };
        for (int8, weights) in [(true, WeightsOptions::default()), (false, int4)] {
            let output = folder.path().join("out.onnx");
            let from_files = Request {
                int8,
                weights,
                data: Some(fixture.join("calib.npz").into()),
                output: Some(output.clone().into()),
                ..Request::new(fixture.join("model.onnx"))
            };
            let written = shrink(&from_files, &Silent).unwrap();
            let from_memory = Request {
                int8,
                weights,
                data: Some(samples_in_memory.clone().into()),
                output: Some(Output::Memory),
                ..Request::new(bytes.clone())
            };
            let made = shrink(&from_memory, &Silent).unwrap();
            assert!(
                written.model.is_none() && made.model.as_deref() == Some(&fs::read(&output).unwrap()[..]),
                "{name}"
            );
            assert_eq!(made.report.gates, written.report.gates, "{name}");
            assert!(made.report.output.bytes < bytes.len() as u64, "{name}");
        }
    }
}

#[test]
fn samples_in_memory_are_checked_as_those_in_files_are() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits_cnn");
    let (bytes, mut samples_in_memory) = model_and_samples(&fixture);
    samples_in_memory.insert(1, Sample::new().with("image", Tensor::from_vec(&[2, 2], vec![0f32; 4])));
    let mut request = Request { int8: true, output: Some(Output::Memory), ..Request::new(bytes) };
    request.data = Some(samples_in_memory.into());
    let refused = shrink(&request, &Silent).unwrap_err();
    assert_eq!(refused.failure.code, ExitCode::Samples);
    let sentence = refused.to_string();
    assert!(sentence.starts_with("the samples in memory: 1 of ") && sentence.contains("`sample 1`: "), "{sentence}");
    request.bad_samples = BadSamples::Skip;
    let report = shrink(&request, &Silent).unwrap().report;
    assert_eq!(report.skipped_samples.len(), 1);
}

#[test]
fn the_other_commands_take_memory_too() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/digits_cnn");
    let (bytes, samples) = model_and_samples(&fixture);
    let request = Request { output: Some(Output::Memory), ..Request::new(bytes.clone()) };
    let small = shrink(&request, &Silent).unwrap().model.unwrap();
    let (original, small) = (Input::from(bytes), Input::from(small));
    let found = diff_files(&original, &small, diff::Options::default()).unwrap().diff;
    assert!(!found.equal && found.a.path == "the model in memory", "{:?}", found.changes);
    assert!(diff_files(&original, &original, diff::Options::default()).unwrap().diff.equal);
    let data = Some(samples.clone().into());
    let question = Validate { data, standard: Standard::Lossless, ..Validate::new(original.clone(), small) };
    assert!(validate(&question, &Silent).unwrap().passed);
    assert_eq!(inspect(&Inspect::new(original.clone()), &Silent).unwrap().inputs[0].name, "input");
    let shard = calibrate(&Request { data: Some(samples.into()), ..Request::new(original) }, &Silent).unwrap();
    assert!(shard.values > 0 && !shard.bytes.is_empty());
}

#[test]
fn what_is_no_model_is_refused() {
    let request = Request { output: Some(Output::Memory), ..Request::new(b"no model".to_vec()) };
    let refused = shrink(&request, &Silent).unwrap_err();
    assert_eq!(refused.failure.code, ExitCode::Input);
    assert!(refused.to_string().starts_with("the model in memory"), "{refused}");
}
