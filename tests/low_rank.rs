//! `--svd` as users run it: on the fixture with two layers that are large enough.
use std::{fs, path::Path};

use crate::support::{Run, calib, folder_of, run};

/// The MLP with `--svd` of `ranks` and more arguments, and the report.
fn split(folder: &Path, ranks: &str, more: &[&str]) -> (Run, serde_json::Value) {
    let flag = format!("--svd={ranks}");
    let arguments = [&["in.onnx", "-o", "out.onnx", &flag, "--report", "r.json"], more].concat();
    let run = run(folder, &arguments);
    let report = fs::read(folder.join("r.json")).map(|text| serde_json::from_slice(&text).unwrap());
    (run, report.unwrap_or_default())
}

/// (name, rank) of every layer that was split.
fn ranks(report: &serde_json::Value) -> Vec<(String, u64)> {
    let layers = report["low_rank"].as_array().unwrap().iter();
    layers.filter_map(|layer| Some((layer["name"].as_str()?.to_owned(), layer["rank"].as_u64()?))).collect()
}

fn size(folder: &Path, name: &str) -> u64 {
    fs::metadata(folder.join(name)).unwrap().len()
}

#[test]
fn a_share_of_the_rank_makes_the_file_smaller_and_samples_make_it_nearer() {
    let folder = folder_of("digits_mlp");
    let samples = calib("digits_mlp");
    let rel = |report: &serde_json::Value| report["split"]["outputs"][0]["rel_l2"].as_f64().unwrap();
    let (run, aware) = split(folder.path(), "25%", &["--data", &samples, "--gate", "sqnr=0", "--gate", "drop=1"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(ranks(&aware).iter().map(|(_, rank)| *rank).collect::<Vec<_>>(), [16, 16]);
    assert!(size(folder.path(), "out.onnx") < size(folder.path(), "in.onnx") * 6 / 10);
    let validate = ["--validation-data", samples.as_str(), "--gate", "sqnr=0", "--gate", "drop=1"];
    let (run, plain) = split(folder.path(), "25%", &validate);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(rel(&aware) < 0.7 * rel(&plain), "{} {}", rel(&aware), rel(&plain));
}

#[test]
fn what_is_not_split_says_why_and_a_rank_that_saves_nothing_changes_nothing() {
    let folder = folder_of("digits_mlp");
    let (run, report) = split(folder.path(), "100%", &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(ranks(&report), []);
    let reasons: Vec<&str> =
        report["low_rank"].as_array().unwrap().iter().map(|layer| layer["reason"].as_str().unwrap()).collect();
    assert!(reasons[0].contains("break-even rank of 42.7"), "{reasons:?}");
    assert!(reasons[2].contains("fewer than"), "{reasons:?}");
}

#[test]
fn measured_ranks_compose_with_8_bits() {
    let folder = folder_of("digits_mlp");
    let samples = calib("digits_mlp");
    let (run, report) = split(folder.path(), "auto", &["--data", &samples]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!ranks(&report).is_empty());
    let alone = size(folder.path(), "out.onnx");
    let (run, report) = split(folder.path(), "auto", &["--data", &samples, "--int8"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(size(folder.path(), "out.onnx") < alone / 2, "{report}");
    // Both steps are judged together, too: against the original the result is no nearer than its worse step.
    let rel = |step: &str| report[step]["outputs"][0]["rel_l2"].as_f64().unwrap();
    assert!(rel("total") > 0.9 * rel("split").max(rel("quantized")), "{report}");
    assert_eq!(report["total"]["samples"], report["quantized"]["samples"]);
}

#[test]
fn a_gate_holds_for_all_steps_together() {
    let folder = folder_of("digits_mlp");
    let samples = calib("digits_mlp");
    // (Where all runs in integers, 8 bits lose enough to be seen beside the ranks.)
    let both = ["--data", &samples, "--int8", "--target", "tensorrt", "--gate", "drop=1", "--gate"];
    let (_, report) = split(folder.path(), "60%", &[&both[..], &["sqnr=0"]].concat());
    // The gate holds for the error around the mean, too, which is the larger one.
    let sqnr = |step: &str| report[step]["outputs"][0]["sqnr_around_mean_db"].as_f64().unwrap();
    let least = sqnr("split").min(sqnr("quantized"));
    assert!(sqnr("total") < least, "{report}");
    // Between the worse step and both together lies a gate that only both together fail.
    let gate = format!("sqnr={}", f64::midpoint(sqnr("total"), least));
    fs::remove_file(folder.path().join("out.onnx")).unwrap();
    let (run, _) = split(folder.path(), "60%", &[&both[..], &[gate.as_str()]].concat());
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.error().contains("all steps together"), "{}", run.stderr);
    assert!(!folder.path().join("out.onnx").exists());
}

#[test]
fn a_gate_that_fails_writes_nothing_and_a_wrong_rank_is_a_mistake() {
    let folder = folder_of("digits_mlp");
    let samples = calib("digits_mlp");
    let (run, _) = split(folder.path(), "5%", &["--data", &samples, "--gate", "sqnr=60"]);
    assert_eq!(run.code, 4);
    assert!(run.error().contains("after --svd") && !folder.path().join("out.onnx").exists(), "{}", run.stderr);
    let (run, _) = split(folder.path(), "1.5", &[]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("a share of the rank as 25%"), "{}", run.stderr);
}
