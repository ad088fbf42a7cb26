//! `calibrate` on shards of the samples, and `--ranges-in`, which merges them.
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
use std::{fs, path::Path, process::Command};

use onnx_shrink_ir::proto::{Limits, encode, load};
use tempfile::TempDir;

use crate::support::{calib, fixture, folder_of, model, run};

/// Puts the samples of `digits_cnn` into `count` folders, `0` and up, in turn.
fn shards(folder: &Path, count: usize) -> Vec<String> {
    let mut files: Vec<_> =
        fs::read_dir(fixture("digits_cnn").join("calib")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for (index, file) in files.iter().enumerate() {
        let shard = folder.join(format!("of{count}/{}", index % count));
        fs::create_dir_all(&shard).unwrap();
        fs::copy(file, shard.join(file.file_name().unwrap())).unwrap();
    }
    (0..count).map(|shard| format!("of{count}/{shard}")).collect()
}

fn calibrated(folder: &Path, data: &str, extra: &[&str]) -> String {
    let out = format!("{}.ranges", data.replace('/', "-"));
    let done = run(folder, &[&["calibrate", "in.onnx", "--data", data, "--ranges-out", &out], extra].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    out
}

/// The bytes of the model with these ranges.
fn merged(folder: &Path, files: &[String], extra: &[&str]) -> Vec<u8> {
    let mut arguments = vec!["in.onnx", "-o", "out.onnx", "--int8", "--target", "generic"];
    files.iter().for_each(|file| arguments.extend(["--ranges-in", file]));
    arguments.extend(extra);
    let done = run(folder, &arguments);
    assert_eq!(done.code, 0, "{}", done.stderr);
    fs::read(folder.join("out.onnx")).unwrap()
}

/// A folder with a model and the files of its shards: 1, 2 and 5.
fn sharded() -> (TempDir, Vec<Vec<String>>) {
    let folder = folder_of("digits_cnn");
    let files = |count| {
        let data = shards(folder.path(), count);
        data.iter().map(|data| calibrated(folder.path(), data, &[])).collect()
    };
    let files = [1, 2, 5].map(files).to_vec();
    (folder, files)
}

#[test]
fn any_split_and_order_of_the_samples_gives_the_same_bytes() {
    let (folder, files) = sharded();
    let data = calib("digits_cnn");
    for extra in [&[][..], &["--calibrate", "mse"], &["--validation-data", &data], &["--data", &data]] {
        let whole = merged(folder.path(), &files[0], extra);
        for files in &files[1..] {
            assert!(merged(folder.path(), files, extra) == whole, "{} shards, {extra:?}", files.len());
            let reversed: Vec<String> = files.iter().rev().cloned().collect();
            assert!(merged(folder.path(), &reversed, extra) == whole, "{} in reverse, {extra:?}", files.len());
        }
        assert!(whole.windows(14).any(|bytes| bytes == b"QuantizeLinear"), "{extra:?}");
        assert!(merged(folder.path(), &files[1][..1], extra) != whole, "half of the samples say less");
    }
}

#[test]
fn it_is_the_model_of_one_run_over_all_samples() {
    let (folder, files) = sharded();
    let samples = format!("{}/calib", fixture("digits_cnn").display());
    for method in ["minmax", "percentile", "entropy", "mse"] {
        // (With --validation-data all of --data calibrate.)
        let judged = ["--calibrate", method, "--validation-data", &samples];
        let one = [&["in.onnx", "-o", "one.onnx", "--int8", "--target", "generic", "--data", &samples], &judged[..]];
        let done = run(folder.path(), &one.concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        let one = fs::read(folder.path().join("one.onnx")).unwrap();
        assert!(merged(folder.path(), &files[2], &judged) == one, "{method}");
    }
}

#[test]
fn threads_make_no_difference_to_a_file() {
    let folder = folder_of("digits_cnn");
    let data = shards(folder.path(), 1);
    let file = |threads| fs::read(folder.path().join(calibrated(folder.path(), &data[0], &["--threads", threads])));
    assert!(file("1").unwrap() == file("3").unwrap());
}

#[test]
fn what_is_no_shard_of_this_model_is_refused() {
    let folder = folder_of("digits_cnn");
    let data = shards(folder.path(), 2);
    let file = calibrated(folder.path(), &data[0], &[]);
    let bytes = fs::read(folder.path().join(&file)).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("cut", &bytes[..bytes.len() / 2]);
    let mut other = bytes.clone();
    other[b"onnx-shrink ranges\n".len()] = 77;
    write("version", &other);
    write("text", b"hello");
    write("other.onnx", &model("digits_mlp"));
    let skipped = calibrated(folder.path(), &data[1], &["--skip", "fold-batch-norm"]);
    let refused = |model: &str, files: &[&str], part: &str| {
        let mut arguments = vec![model, "-o", "out.onnx", "--int8"];
        files.iter().for_each(|file| arguments.extend(["--ranges-in", file]));
        let run = run(folder.path(), &arguments);
        assert_eq!(run.code, 3, "{files:?}: {}", run.stderr);
        assert!(run.error().contains(part), "{files:?}: {}", run.error());
        assert!(!folder.path().join("out.onnx").exists());
    };
    refused("in.onnx", &["cut"], "damaged or cut off");
    refused("in.onnx", &["version"], "version 77");
    refused("in.onnx", &["text"], "no file of ranges");
    refused("in.onnx", &["missing"], "cannot be read");
    refused("in.onnx", &[&file, &file], "would count twice");
    refused("in.onnx", &[&file, &skipped], "other lossless rewrites");
    refused("other.onnx", &[&file], "of another model");
    // The same weights, and another opset.
    let mut raised = load(&fixture("digits_cnn").join("model.onnx"), &Limits::default()).unwrap().model;
    raised.opset_import[0].version = Some(17);
    write("raised.onnx", &encode(&raised).concat());
    refused("raised.onnx", &[&file], "of another model");
}

#[test]
fn shards_with_samples_in_common_are_named() {
    let folder = folder_of("digits_cnn");
    let halves = shards(folder.path(), 2);
    let fifths = shards(folder.path(), 5);
    let [half, other, fifth] = [&halves[0], &halves[1], &fifths[0]].map(|data| calibrated(folder.path(), data, &[]));
    let warned = |files: [&str; 2]| {
        let arguments = ["in.onnx", "-o", "out.onnx", "--int8", "--ranges-in", files[0], "--ranges-in", files[1]];
        let done = run(folder.path(), &arguments);
        assert_eq!(done.code, 0, "{}", done.stderr);
        done.text().contains("count twice")
    };
    assert!(!warned([&half, &other]));
    assert!(warned([&half, &fifth]) && warned([&fifth, &other]));
}

#[test]
fn samples_that_are_not_finite_are_refused_by_name() {
    let folder = folder_of("digits_cnn");
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut file: Vec<u8> = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 8, 8), }");
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    let numbers = (0..64).map(|k| if k == 3 { f32::NAN } else { 0.5 });
    file.extend(numbers.flat_map(f32::to_le_bytes));
    fs::write(data.join("bad.npy"), file).unwrap();
    let done = run(folder.path(), &["calibrate", "in.onnx", "--data", "data", "--ranges-out", "f"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(done.error().contains("bad.npy") && done.error().contains("NaN, at place 3"), "{}", done.error());
    assert!(!folder.path().join("f").exists());
}

#[test]
fn command_lines_that_make_no_sense_end_with_2() {
    let folder = folder_of("digits_cnn");
    for (arguments, part) in [
        (&["calibrate", "in.onnx", "--ranges-out", "f"][..], "--data"),
        (&["calibrate", "in.onnx", "--data", "d", "--ranges-out", "-"], "name a file"),
        (&["calibrate", "in.onnx", "--data", "d", "--ranges-out", "no/f"], "does not exist"),
        (&["in.onnx", "-o", "o.onnx", "--ranges-in", "f"], "--int8"),
        (&["in.onnx", "-o", "o.onnx", "--int8", "--ranges-in", "f", "--synthetic", "3"], "--synthetic"),
        (&["in.onnx", "-o", "o.onnx", "--int8", "--ranges-in", "f", "--prune", "0.3"], "--prune"),
    ] {
        let run = run(folder.path(), arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn the_recipe_for_gnu_parallel_works() {
    let is_gnu = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).contains("GNU parallel");
    if !Command::new("parallel").arg("--version").output().is_ok_and(is_gnu) {
        eprintln!("skipped: GNU parallel is not installed");
        return;
    }
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/calibrate.md")).unwrap();
    let (_, recipe) = text.split_once("## GNU parallel").unwrap();
    let recipe = recipe.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = folder_of("digits_cnn");
    fs::rename(folder.path().join("in.onnx"), folder.path().join("model.onnx")).unwrap();
    shards(folder.path(), 5);
    fs::rename(folder.path().join("of5"), folder.path().join("shards")).unwrap();
    fs::create_dir(folder.path().join("eval")).unwrap();
    for entry in fs::read_dir(fixture("digits_cnn").join("calib")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join("eval").join(entry.file_name())).unwrap();
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_onnx-shrink")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let done = Command::new("sh").args(["-ec", recipe]).current_dir(folder.path()).env("PATH", path).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(folder.path().join("small.onnx").exists());
}
