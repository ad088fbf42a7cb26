//! Running the binary, and the files that it is run on.
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// What a run of the binary gave.
pub struct Run {
    /// Exit code; -1 when a signal ended it
    pub code: i32,
    /// Standard output
    pub stdout: Vec<u8>,
    /// Standard error
    pub stderr: String,
}

impl Run {
    /// Standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The one line of an error, after `error: `.
    pub fn error(&self) -> &str {
        let line = self.stderr.strip_prefix("error: ").unwrap_or_else(|| panic!("no error in {}", self.stderr));
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
        line.trim_end()
    }
}

/// Runs the binary with `arguments` in `folder`.
pub fn run(folder: &Path, arguments: &[&str]) -> Run {
    run_with_input(folder, arguments, &[])
}

/// The same, with `input` on standard input.
pub fn run_with_input(folder: &Path, arguments: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_onnx-shrink"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A run that reads nothing closes its end: that is no failure.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Run { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
}

/// A fixture's folder.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A fixture's model.
pub fn model(name: &str) -> Vec<u8> {
    fs::read(fixture(name).join("model.onnx")).unwrap()
}

/// All fixtures.
pub const FIXTURES: [&str; 6] =
    ["digits_cnn", "digits_mobile", "digits_mlp", "digits_gru", "digits_attention", "digits_if"];

/// The path of a fixture's samples for `--data`.
pub fn calib(name: &str) -> String {
    fixture(name).join("calib.npz").to_str().unwrap().to_owned()
}

/// A folder with the fixture `digits_cnn` as `in.onnx`.
pub fn folder() -> TempDir {
    folder_of("digits_cnn")
}

/// A folder with the fixture `name` as `in.onnx`.
pub fn folder_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in.onnx"), model(name)).unwrap();
    folder
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The models of the bench; none, and a line that says so, when it is not there.
pub fn bench_models() -> Vec<PathBuf> {
    let near = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/bench");
    let bench = std::env::var_os("ONNX_SHRINK_BENCH").map_or(near, PathBuf::from);
    let Ok(files) = fs::read_dir(bench.join("models")) else {
        eprintln!("skipped: the bench is not there (ONNX_SHRINK_BENCH names its folder)");
        return Vec::new();
    };
    let files = files.map(|entry| entry.unwrap().path());
    let mut models: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|name| name == "onnx")).collect();
    models.sort();
    models
}

/// The bytes of the model that ONNX text states.
pub fn model_of_text(text: &str) -> Vec<u8> {
    onnx_shrink_ir::proto::encode(&onnx_shrink_ir::export(&onnx_shrink_ir::text::parse_model(text).unwrap())).concat()
}
