//! A job from memory to memory gives the bytes that the same job gives from files to a file.
#![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]
use std::{fs, path::Path};

use onnx_shrink_driver::{
    ExitCode, Feed, Output, Request, SampleOptions, Samples, Silent,
    request::weights::{Weights, WeightsOptions},
    samples::BadSamples,
    shrink,
};
use onnx_shrink_ir::{Tensor, import, infer, proto};

/// The model, and its samples as they stand in a file, read into memory.
fn model_and_feeds(folder: &Path) -> (Vec<u8>, Vec<Feed>) {
    let bytes = fs::read(folder.join("model.onnx")).unwrap();
    let loaded = proto::load(&folder.join("model.onnx"), &proto::Limits::default()).unwrap();
    let mut model = import(loaded.model).unwrap();
    infer::infer(&mut model.graph);
    let graph = &model.graph;
    let samples = Samples::open(folder.join("calib.npz"), graph, &SampleOptions::default()).unwrap();
    let feed = |index: usize| {
        let sample = samples.get(index).unwrap();
        let named = graph.inputs().iter().zip(sample.inputs);
        let feed = named.fold(Feed::new(), |feed, (input, array)| match array {
            Some(array) => feed.with(graph.name_of(*input), array),
            None => feed,
        });
        sample.label.into_iter().fold(feed, |feed, label| feed.with("y", label))
    };
    (bytes, (0..samples.len()).map(feed).collect())
}

#[test]
fn memory_and_files_give_the_same_bytes() {
    for name in ["digits_cnn", "digits_gru"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
        let (bytes, feeds) = model_and_feeds(&fixture);
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
                data: Some(feeds.clone().into()),
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
    let (bytes, mut feeds) = model_and_feeds(&fixture);
    feeds.insert(1, Feed::new().with("image", Tensor::from_vec(&[2, 2], vec![0f32; 4])));
    let mut request = Request { int8: true, output: Some(Output::Memory), ..Request::new(bytes) };
    request.data = Some(feeds.into());
    let refused = shrink(&request, &Silent).unwrap_err();
    assert_eq!(refused.failure.code, ExitCode::Samples);
    let sentence = refused.to_string();
    assert!(sentence.starts_with("the samples in memory: 1 of ") && sentence.contains("`sample 1`: "), "{sentence}");
    request.bad_samples = BadSamples::Skip;
    let report = shrink(&request, &Silent).unwrap().report;
    assert_eq!(report.skipped_samples.len(), 1);
}

#[test]
fn what_is_no_model_is_refused() {
    let request = Request { output: Some(Output::Memory), ..Request::new(b"no model".to_vec()) };
    let refused = shrink(&request, &Silent).unwrap_err();
    assert_eq!(refused.failure.code, ExitCode::Input);
    assert!(refused.to_string().starts_with("the model in memory"), "{refused}");
}
