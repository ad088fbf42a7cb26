//! Runs that are ended from outside, and runs that write one file at the same time: what is there is whole.
#![cfg(unix)]
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use onnx_shrink_ir::proto::{self, Limits};

use crate::support::{calib, folder, names, run};

fn start(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-shrink"));
    command.current_dir(folder).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Sends `signal` to `child` and gives back the number of the signal that ended it; `None`: it was done before.
fn interrupt(mut child: Child, signal: &str) -> Option<i32> {
    // (A process that is done has not been waited for: its number is no other's.)
    let sent =
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).stderr(Stdio::null()).status();
    assert!(sent.unwrap().success());
    let status = child.wait().unwrap();
    assert!(status.signal().is_some() || status.success(), "{status}");
    status.signal()
}

#[test]
fn an_interrupted_run_leaves_nothing_or_all_of_a_new_file() {
    let folder = folder();
    let data = calib("digits_cnn");
    let arguments = ["in.onnx", "-o", "out.onnx", "--int8", "--data", &data, "--report", "report.json"];
    let from = Instant::now();
    assert_eq!(run(folder.path(), &arguments).code, 0);
    let took = from.elapsed();
    let whole = fs::read(folder.path().join("out.onnx")).unwrap();
    let mut ended = 0;
    const TRIES: u32 = 24;
    for k in 0..TRIES {
        for name in ["out.onnx", "report.json"] {
            let _ = fs::remove_file(folder.path().join(name));
        }
        let child = start(folder.path(), &arguments);
        sleep(took * k / TRIES);
        let (signal, number) = if k % 2 == 0 { ("INT", 2) } else { ("TERM", 15) };
        if let Some(by) = interrupt(child, signal) {
            assert_eq!(by, number);
            ended += 1;
        }
        for name in names(folder.path()) {
            let bytes = fs::read(folder.path().join(&name)).unwrap();
            match name.as_str() {
                "in.onnx" => {}
                "out.onnx" => assert!(bytes == whole, "a part of a model"),
                "report.json" => drop(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()),
                other => panic!("{other} is left"),
            }
        }
    }
    assert!(ended > 0, "no run was interrupted");
}

#[test]
fn an_interrupted_run_leaves_the_old_model_with_its_data_or_the_new_one() {
    let folder = folder();
    let read = || {
        let loaded = proto::load(&folder.path().join("out.onnx"), &Limits::default()).unwrap();
        proto::encode(&loaded.model).concat()
    };
    let old = ["in.onnx", "-o", "out.onnx", "--external-data"];
    let new = ["in.onnx", "-o", "out.onnx", "--external-data", "--int8"];
    assert_eq!(run(folder.path(), &new).code, 0);
    let after = read();
    let from = Instant::now();
    assert_eq!(run(folder.path(), &old).code, 0);
    let took = from.elapsed().max(Duration::from_millis(20));
    let before = read();
    for k in 0..12 {
        assert_eq!(run(folder.path(), &old).code, 0);
        let child = start(folder.path(), &new);
        sleep(took * k / 8);
        interrupt(child, "INT");
        let there = read();
        assert!(there == before || there == after, "a model with the data of another");
    }
}

#[test]
fn two_runs_onto_one_model_do_not_mix() {
    let folder = folder();
    let forms = [
        &["in.onnx", "-o", "out.onnx", "--external-data"][..],
        &["in.onnx", "-o", "out.onnx", "--external-data", "--int8"],
    ];
    let read = || {
        let loaded = proto::load(&folder.path().join("out.onnx"), &Limits::default()).unwrap();
        proto::encode(&loaded.model).concat()
    };
    let results = forms.map(|arguments| {
        assert_eq!(run(folder.path(), arguments).code, 0);
        read()
    });
    assert!(results[0] != results[1]);
    for _ in 0..6 {
        let children = [0, 1, 0, 1].map(|form| start(folder.path(), forms[form]));
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert!(results.contains(&read()));
        assert_eq!(names(folder.path()), ["in.onnx", "out.onnx", "out.onnx.data"]);
    }
}
