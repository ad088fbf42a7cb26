//! `fixtures/pipeline`: the program as a build step, with a gate that holds and with one that does not.
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
use std::{fs, path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::fixture;

/// Runs `make` in `fixtures/pipeline` with the built program, into `out`; `None` when there is no make.
fn make(out: &Path, arguments: &[&str]) -> Option<std::process::Output> {
    let mut command = Command::new("make");
    command.arg("-C").arg(fixture("pipeline")).arg(format!("OUT={}", out.display())).args(arguments);
    command.arg(format!("ONNX_SHRINK={}", env!("CARGO_BIN_EXE_onnx-shrink")));
    // (A make around this one shall not speak to it.)
    match command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: make does not run: {error}");
            None
        }
    }
}

fn report(out: &TempDir) -> Value {
    serde_json::from_slice(&fs::read(out.path().join("report.json")).unwrap()).unwrap()
}

#[test]
fn a_gate_that_holds_leaves_the_model_and_the_report() {
    let out = tempfile::tempdir().unwrap();
    let Some(made) = make(out.path(), &["all", "check"]) else { return };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let report = report(&out);
    let bytes = fs::metadata(out.path().join("model.onnx")).unwrap().len();
    assert_eq!(report["output"]["bytes"], bytes);
    assert!(report["gates"].as_array().unwrap().iter().all(|gate| gate["passed"] == true));
    let verdict: Value = serde_json::from_slice(&fs::read(out.path().join("validate.json")).unwrap()).unwrap();
    assert_eq!((&verdict["passed"], &verdict["made_up"]), (&true.into(), &false.into()));
}

#[test]
fn a_gate_that_fails_ends_the_build_and_leaves_the_report_alone() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("model.onnx"), "of an earlier build").unwrap();
    // (-B: whatever the times of the files.)
    let Some(made) = make(out.path(), &["-B", "GATES=sqnr=300"]) else { return };
    assert!(!made.status.success());
    assert!(!out.path().join("model.onnx").exists());
    let failed: Vec<Value> = report(&out)["gates"].as_array().unwrap().clone();
    let failed = failed.iter().find(|gate| gate["passed"] == false).unwrap();
    assert_eq!(failed["gate"], "sqnr");
    let error = String::from_utf8_lossy(&made.stderr);
    assert!(error.contains("at least 300 are wanted"), "{error}");
}

#[test]
fn the_other_entries_run_the_same_build_and_keep_the_report() {
    let read = |name: &str| fs::read_to_string(fixture("pipeline").join(name)).unwrap();
    let job = read("github-actions.yml");
    assert!(job.contains("run: make -C fixtures/pipeline all check"), "{job}");
    let upload = job.find("path: fixtures/pipeline/build/*.json").unwrap();
    assert!(job[..upload].rfind("if: always()").is_some_and(|place| upload - place < 120), "{job}");
    assert!(read("pre-commit-config.yaml").contains("entry: make -C fixtures/pipeline\n"));
}
