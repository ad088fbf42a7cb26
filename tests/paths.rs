//! One path for two things: refused before anything is written, whatever the file is called.
use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::support::{folder, model, names, run};

/// A folder with models, their data, samples and other names of some of them.
fn folder_of_all() -> tempfile::TempDir {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let made = run(folder.path(), &["in.onnx", "-o", "big.onnx", "--external-data"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    for name in ["calib", "photos", "cases", "cases/test_data_set_0"] {
        fs::create_dir(path(name)).unwrap();
    }
    for name in ["calib/0.npz", "all.npz", "r.ranges", "photos/0.png", "photos/labels.csv", "old.onnx"] {
        fs::write(path(name), name).unwrap();
    }
    fs::write(path("cases/test_data_set_0/input_0.pb"), "tensor").unwrap();
    fs::hard_link(path("in.onnx"), path("hard.json")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("calib/0.npz", path("link.json")).unwrap();
    folder
}

/// All files below `folder`, and what they hold.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in names(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            found.extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn no_file_is_two_things() {
    let folder = folder_of_all();
    let before = contents(folder.path());
    let int8 = |rest: &str| format!("in.onnx --int8 {rest}");
    for (arguments, one, other) in [
        ("in.onnx -o out.onnx --report in.onnx".to_owned(), "--report", "the input model"),
        ("in.onnx -o out.onnx --report ./calib/../in.onnx".into(), "--report", "the input model"),
        ("in.onnx -o out.onnx --report hard.json".into(), "--report", "the input model, `in.onnx`"),
        ("in.onnx -o in.onnx --report in.onnx".into(), "--report", "the input model"),
        ("in.onnx -o out.onnx --report out.onnx".into(), "--report", "the output"),
        ("in.onnx -o new.onnx --report new.onnx".into(), "--report", "the output"),
        ("in.onnx --dry-run --report in.onnx".into(), "--report", "the input model"),
        ("in.onnx -o out.onnx --external-data=r.json --report r.json".into(), "--report", "external data"),
        ("in.onnx -o out.onnx --external-data --report out.onnx.data".into(), "--report", "external data"),
        ("in.onnx -o out.onnx --external-data=in.onnx".into(), "external data", "the input model"),
        ("big.onnx -o out.onnx --report out.onnx.data".into(), "--report", "external data"),
        ("big.onnx -o out.onnx --report big.onnx.data".into(), "--report", "a data file of the input model"),
        ("big.onnx -o big.onnx.data".into(), "the output", "a data file of the input model"),
        ("in.onnx -o out.onnx --external-data=big.onnx.data".into(), "`big.onnx.data`", "`big.onnx` reads that file"),
        (int8("-o calib/0.npz --data calib"), "the output", "a sample of --data"),
        (int8("-o link.json --data calib"), "the output", "a sample of --data, `calib/0.npz`"),
        (int8("-o out.onnx --data calib --report calib/0.npz"), "--report", "a sample of --data"),
        (int8("-o all.npz --data all.npz"), "the output", "--data"),
        (
            int8("-o out.onnx --data all.npz --validation-data calib --report calib/0.npz"),
            "--report",
            "--validation-data",
        ),
        (int8("-o out.onnx --data photos --report photos/labels.csv"), "--report", "a sample of --data"),
        (int8("-o cases/test_data_set_0/input_0.pb --data cases"), "the output", "a sample of --data"),
        (int8("-o out.onnx --external-data=all.npz --data all.npz"), "external data", "--data"),
        (int8("-o r.ranges --ranges-in r.ranges"), "the output", "--ranges-in"),
        (int8("-o out.onnx --ranges-in r.ranges --report r.ranges"), "--report", "--ranges-in"),
        ("in.onnx -o new.onnx --dump-dir new.onnx".into(), "the output", "--dump-dir"),
        (int8("-o out.onnx --data calib --dump-dir calib"), "--dump-dir", "--data"),
        ("calibrate in.onnx --data calib --ranges-out in.onnx".into(), "--ranges-out", "the input model"),
        ("calibrate in.onnx --data calib --ranges-out calib/0.npz".into(), "--ranges-out", "a sample of --data"),
        ("calibrate big.onnx --data calib --ranges-out big.onnx.data".into(), "--ranges-out", "a data file"),
        ("diff in.onnx old.onnx --html old.onnx".into(), "--html", "the input model"),
        ("diff big.onnx in.onnx --html big.onnx.data".into(), "--html", "a data file"),
    ] {
        if !cfg!(unix) && arguments.contains("link.json") {
            continue;
        }
        let run = run(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(run.code, 2, "{arguments}: {}{}", run.text(), run.stderr);
        assert!(run.error().contains(one) && run.error().contains(other), "{arguments}: {}", run.error());
        assert!(contents(folder.path()) == before, "{arguments}: a file has changed");
    }
}

#[test]
fn files_beside_each_other_and_models_in_place_are_fine() {
    let folder = folder_of_all();
    for arguments in [
        "big.onnx -o big.onnx --report r.json",
        "in.onnx -o calib/in.onnx --report calib/r.json --dump-dir calib",
        "in.onnx -o hard.json",
        #[cfg(unix)]
        "in.onnx -o /dev/null --report /dev/null",
        "in.onnx -o out.onnx --report r.json --threads 100000",
        "diff in.onnx in.onnx --html page.html",
    ] {
        let run = run(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(run.code, 0, "{arguments}: {}", run.stderr);
    }
}

#[cfg(unix)]
#[test]
fn standard_output_that_is_a_file_is_one_of_them() {
    let folder = folder();
    let path = folder.path().join("in.onnx");
    let onto_input = fs::File::options().append(true).open(&path).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-shrink"));
    let output = command.current_dir(folder.path()).args(["inspect", "in.onnx"]).stdout(onto_input).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output and the input model"));
    assert!(fs::read(&path).unwrap() == model("digits_cnn"));
    // `/dev/stdout` is `-`: the model alone goes there.
    let file = fs::File::create(folder.path().join("out.onnx")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-shrink"));
    let arguments = ["in.onnx", "-o", "/dev/stdout"];
    let status = command.current_dir(folder.path()).args(arguments).stdout(file).stderr(std::process::Stdio::null());
    assert!(status.status().unwrap().success());
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "same.onnx"]).code, 0);
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("out.onnx") == read("same.onnx"));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_written_to_when_somebody_reads_and_refused_otherwise() {
    let folder = folder();
    assert!(Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap().success());
    for arguments in [["in.onnx", "-o", "pipe"].as_slice(), &["in.onnx", "-o", "out.onnx", "--report", "pipe"]] {
        let alone = run(folder.path(), arguments);
        assert_eq!(alone.code, 2, "{}", alone.stderr);
        assert!(alone.error().contains("pipe: cannot be written: nobody reads from this pipe"), "{}", alone.error());
    }
    let pipe = folder.path().join("pipe");
    let reader = std::thread::spawn(move || fs::read(pipe).unwrap());
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "pipe"]).code, 0);
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    assert!(reader.join().unwrap() == fs::read(folder.path().join("out.onnx")).unwrap());
}
