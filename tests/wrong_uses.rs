//! Wrong uses of gates, samples and `validate`: each ends with its exit code and a sentence, and writes nothing.
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::support::{calib, fixture, folder, model_of_text, names, run};

/// An .npy file.
fn npy(dtype: &str, dims: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {dims}, }}");
    while (11 + header.len()) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), bytes].concat()
}

/// An .npz file with the array `name`.
fn npz(path: &Path, name: &str, array: &[u8]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
    zip.write_all(array).unwrap();
    zip.finish().unwrap();
}

fn floats(numbers: impl Iterator<Item = f32>) -> Vec<u8> {
    numbers.flat_map(f32::to_le_bytes).collect()
}

/// Twelve samples `input` of the fixture, without labels, into the folder `name`.
fn plain(folder: &Path, name: &str) {
    fs::create_dir(folder.join(name)).unwrap();
    for sample in 0..12u32 {
        let number = |place: u32| (sample * 31 + place * 7) % 17;
        let bytes = floats((0..64).map(|place| number(place) as f32));
        npz(&folder.join(name).join(format!("{sample:02}.npz")), "input", &npy("<f4", "(1, 8, 8)", &bytes));
    }
}

/// A folder with `in.onnx` (`digits_cnn`), other models, and samples for them, sound ones and spoiled ones.
fn wrong_things() -> TempDir {
    let folder = folder();
    let at = folder.path();
    let write = |name: &str, text: &str| fs::write(at.join(name), model_of_text(text)).unwrap();
    let weights: Vec<String> = (0..4096).map(|place| format!("{}", (place * 37 % 101) as f32 / 50.0 - 1.0)).collect();
    let weights = format!("<float[64,64] w = {{{}}}>", weights.join(", "));
    let head = "<ir_version: 8, opset_import: [\"\" : 17]>";
    write(
        "sequence.onnx",
        &format!(
            "{head} g (float[n,64] x) => (float[n,64] y) {weights} {{ q = SequenceConstruct (x) i = Constant <value_int = 0> () s = SequenceAt (q, i) m = MatMul (s, w) z = Identity (m) y = Relu (z) }}"
        ),
    );
    write(
        "shorter.onnx",
        &format!(
            "{head} g (float[n,64] x) => (float[n,64] y) {weights} {{ q = SequenceConstruct (x) i = Constant <value_int = 0> () s = SequenceAt (q, i) m = MatMul (s, w) y = Relu (m) }}"
        ),
    );
    write(
        "argmax.onnx",
        &format!(
            "{head} g (float[n,64] x) => (int64[n] y) {weights} {{ m = MatMul (x, w) z = Identity (m) y = ArgMax <axis = 1, keepdims = 0> (z) }}"
        ),
    );
    write(
        "ids.onnx",
        &format!(
            "{head} g (int64[1,n] ids) => (float[1,n,64] y) {weights} {{ e = Gather (w, ids) z = Identity (e) y = MatMul (z, w) }}"
        ),
    );
    write(
        "rows.onnx",
        &format!(
            "{head} g (float[n] x) => (float[r,64] y) <float[64,64] w = {{{}}}, int64[2] rows = {{-1, 64}}> {{ a = Reshape (x, rows) z = Identity (a) y = MatMul (z, w) }}",
            weights_only(&weights)
        ),
    );
    assert_eq!(run(at, &["in.onnx", "-o", "small.onnx", "-q"]).code, 0);
    fs::create_dir(at.join("labelled")).unwrap();
    for entry in fs::read_dir(fixture("digits_cnn").join("calib")).unwrap().take(12) {
        let entry = entry.unwrap();
        fs::copy(entry.path(), at.join("labelled").join(entry.file_name())).unwrap();
    }
    for name in ["plain", "nan", "broken", "all"] {
        plain(at, name);
    }
    let not_finite = floats((0..64).map(|place| if place == 9 { f32::NAN } else { 1.0 }));
    npz(&at.join("nan/10.npz"), "input", &npy("<f4", "(1, 8, 8)", &not_finite));
    fs::write(at.join("broken/06.npz"), "PK").unwrap();
    for sample in 0..12 {
        npz(&at.join(format!("all/{sample:02}.npz")), "input", &npy("<f4", "(1, 8, 8)", &not_finite));
    }
    for (name, spoiled, sound, bad) in [("noise", 99, 64, 64), ("length", 9, 128, 100)] {
        fs::create_dir(at.join(name)).unwrap();
        for sample in 0..12 {
            let count = if sample == spoiled { bad } else { sound };
            let bytes = floats((0..count).map(|place| ((sample + place) % 13) as f32));
            let dims = if name == "noise" { "(1, 64)".to_owned() } else { format!("({count},)") };
            npz(&at.join(name).join(format!("{sample:02}.npz")), "x", &npy("<f4", &dims, &bytes));
        }
    }
    fs::create_dir(at.join("tokens")).unwrap();
    for sample in 0..12i64 {
        let ids = [sample, if sample == 5 { 64 } else { 3 }, 7];
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        npz(&at.join(format!("tokens/{sample:02}.npz")), "ids", &npy("<i8", "(1, 3)", &bytes));
    }
    fs::create_dir(at.join("photos")).unwrap();
    for sample in 0..8u8 {
        let image = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([sample * 16 + (x * y) as u8]));
        image.save(at.join(format!("photos/{sample}.png"))).unwrap();
    }
    let whole = fs::read(at.join("photos/5.png")).unwrap();
    fs::write(at.join("photos/5.png"), &whole[..whole.len() / 2]).unwrap();
    folder
}

/// The numbers in a list of constants.
fn weights_only(constants: &str) -> &str {
    constants.split_once(" = {").unwrap().1.trim_end_matches("}>")
}

/// What it is · the arguments · the exit code · a part of the sentence.
type Row = (&'static str, &'static str, i32, &'static str);

const GATES: [Row; 18] = [
    ("sqnr, made-up samples", "in.onnx -o o.onnx --int8 --gate sqnr=60", 2, "--gate sqnr=60 needs real samples"),
    ("drop, made-up samples", "in.onnx -o o.onnx --int8 --gate drop=0.01", 2, "needs real samples with labels"),
    ("sqnr, synthetic samples", "in.onnx -o o.onnx --int8 --synthetic 8 --gate sqnr=60", 2, "needs real samples"),
    ("sqnr, lossless, no samples", "in.onnx -o o.onnx --gate sqnr=60", 2, "give --data DIR or --validation-data DIR"),
    ("sqnr, lossless, not reached", "in.onnx -o o.onnx --data plain --gate sqnr=400", 4, "at least 400 are wanted"),
    (
        "drop, no labels",
        "in.onnx -o o.onnx --int8 --data plain --gate drop=0.01",
        4,
        "no sample that judges has a label",
    ),
    (
        "drop, lossless, no labels",
        "in.onnx -o o.onnx --data plain --gate drop=0.01",
        4,
        "no sample that judges has a label",
    ),
    ("prune-sqnr, no --prune", "in.onnx -o o.onnx --int8 --data plain --gate prune-sqnr=9", 2, "judges --prune"),
    (
        "prune-drop, no labels",
        "in.onnx -o o.onnx --prune 0.1 --data plain --gate prune-sqnr=-99 --gate prune-drop=0.5",
        4,
        "prune-drop=0.5 was given and could not be judged",
    ),
    (
        "sqnr, --prune alone",
        "in.onnx -o o.onnx --prune 0.1 --data plain --gate prune-sqnr=-99 --gate sqnr=200",
        4,
        "at least 200 are wanted",
    ),
    (
        "sqnr, --no-validate",
        "in.onnx -o o.onnx --int8 --data plain --no-validate --gate sqnr=60",
        2,
        "--no-validate judges no --gate sqnr=60",
    ),
    ("max-bytes, dry run", "in.onnx -o o.onnx --dry-run --gate max-bytes=10", 4, "at most 10 are allowed"),
    (
        "fp16's gate, 32-bit model",
        "in.onnx -o o.onnx --gate lossless-rel-fp16=0.1",
        4,
        "the model has no 16-bit floats",
    ),
    ("drop in per cent", "in.onnx -o o.onnx --int8 --data labelled --gate drop=5", 2, "5 points are drop=0.05"),
    ("an error below 0", "in.onnx -o o.onnx --gate lossless-rel=-1", 2, "an error of 0 or more"),
    (
        "two values for one gate",
        "in.onnx -o o.onnx --data plain --gate sqnr=400 --gate sqnr=0",
        4,
        "at least 400 are wanted",
    ),
    (
        "sqnr, no float output",
        "argmax.onnx -o o.onnx --int8 --data noise --gate sqnr=60",
        4,
        "no output of the model is a tensor of floats",
    ),
    (
        "sqnr, an op without a kernel",
        "sequence.onnx -o o.onnx --int8 --data noise --gate sqnr=20",
        4,
        "the model cannot be run here",
    ),
];

const VALIDATE: [Row; 10] = [
    ("sqnr, made-up samples", "validate in.onnx small.onnx --gate sqnr=60", 2, "needs real samples to judge by"),
    ("sqnr, two float models", "validate in.onnx small.onnx --data plain --gate sqnr=400", 5, ""),
    (
        "drop, no labels",
        "validate in.onnx small.onnx --data plain --gate drop=0.01",
        4,
        "no sample that judges has a label",
    ),
    ("a gate of --prune", "validate in.onnx small.onnx --data plain --gate prune-sqnr=3", 2, "say sqnr or drop"),
    ("max-bytes, too large", "validate in.onnx small.onnx --gate max-bytes=10", 5, ""),
    ("another standard's gate", "validate in.onnx small.onnx --data plain --as int8 --gate lossless-rel=0", 5, ""),
    (
        "two folders",
        "validate in.onnx small.onnx --data plain --validation-data labelled",
        2,
        "leave out --validation-data",
    ),
    (
        "one bad sample",
        "validate in.onnx small.onnx --data nan",
        3,
        "`nan/10.npz`: array `input` has a value that is not finite",
    ),
    ("all bad", "validate in.onnx small.onnx --data all --skip-bad-samples", 3, "none of the 12 samples can be used"),
    ("no kernel", "validate sequence.onnx shorter.onnx", 1, "there is no"),
];

const SAMPLES: [Row; 20] = [
    (
        "NaN, lossless",
        "in.onnx -o o.onnx --data nan",
        3,
        "1 of 12 samples cannot be used: `nan/10.npz`: array `input` has",
    ),
    (
        "NaN, int8",
        "in.onnx -o o.onnx --int8 --data nan",
        3,
        "`nan/10.npz`: array `input` has a value that is not finite",
    ),
    (
        "NaN, among those that judge",
        "in.onnx -o o.onnx --int8 --data plain --validation-data nan",
        3,
        "`nan/10.npz`: array",
    ),
    (
        "a broken archive, prune",
        "in.onnx -o o.onnx --prune 0.1 --data broken",
        3,
        "`broken/06.npz`: this is no .npz archive",
    ),
    (
        "a broken archive, int4",
        "in.onnx -o o.onnx --weights int4 --data broken",
        3,
        "`broken/06.npz`: this is no .npz archive",
    ),
    ("a broken archive, svd", "in.onnx -o o.onnx --svd --data broken", 3, "`broken/06.npz`: this is no .npz archive"),
    (
        "a broken archive, calibrate",
        "calibrate in.onnx --data broken --ranges-out o.ranges",
        3,
        "`broken/06.npz`: this is no",
    ),
    ("a broken image", "in.onnx -o o.onnx --int8 --data photos", 3, "`photos/5.png`: not an image that can be read: "),
    (
        "a wrong length, lossless",
        "rows.onnx -o o.onnx --data length",
        3,
        "`length/09.npz`: the model does not run on it: op `a`",
    ),
    (
        "a wrong length, int8",
        "rows.onnx -o o.onnx --int8 --data length",
        3,
        "`length/09.npz`: the model does not run on it: op `a`",
    ),
    (
        "a wrong length, calibrate",
        "calibrate rows.onnx --data length --ranges-out o.ranges",
        3,
        "`length/09.npz`: the model does",
    ),
    (
        "an index out of range, int8",
        "ids.onnx -o o.onnx --int8 --data tokens",
        3,
        "`tokens/05.npz`: the model does not run on it: op",
    ),
    (
        "an index out of range, fp16",
        "ids.onnx -o o.onnx --weights fp16 --data tokens",
        3,
        "`tokens/05.npz`: the model does not",
    ),
    (
        "all bad",
        "in.onnx -o o.onnx --int8 --data all",
        3,
        "none of the 12 samples can be used; the first is `all/00.npz`: array",
    ),
    (
        "all bad, to be skipped",
        "in.onnx -o o.onnx --int8 --data all --skip-bad-samples",
        3,
        "none of the 12 samples can be used",
    ),
    ("nothing to skip", "in.onnx -o o.onnx --skip-bad-samples", 2, "there are none: give --data DIR"),
    (
        "flags for images, arrays",
        "in.onnx -o o.onnx --int8 --data plain --mean 0.5",
        3,
        "--mean is for images, and arrays are taken as they are",
    ),
    ("flags for images, no samples", "in.onnx -o o.onnx --resize 8", 2, "--resize says how images become samples"),
    (
        "judges, nothing judged",
        "in.onnx -o o.onnx --no-validate --validation-data plain",
        2,
        "--no-validate judges nothing",
    ),
    (
        "no kernel, calibrate",
        "calibrate sequence.onnx --data noise --ranges-out o.ranges",
        1,
        "the model cannot be calibrated: op",
    ),
];

#[test]
fn each_ends_with_its_code_and_a_sentence_and_writes_nothing() {
    let folder = wrong_things();
    let before = names(folder.path());
    for (name, arguments, code, part) in GATES.into_iter().chain(VALIDATE).chain(SAMPLES) {
        let told = run(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(told.code, code, "{name} ({arguments}): {}{}", told.stderr, told.text());
        assert!(told.stderr.contains(part), "{name} ({arguments}): {}", told.stderr);
        assert_eq!(names(folder.path()), before, "{name} ({arguments})");
    }
}

#[test]
fn skipping_a_bad_sample_is_as_if_it_were_not_there() {
    let folder = wrong_things();
    let modes = ["", "--int8", "--weights int4", "--prune 0.1 --gate prune-sqnr=-99", "--svd 50%"];
    for (mode, data, bad, reason) in
        modes.into_iter().zip(["nan", "broken", "nan", "broken", "nan"]).map(|(mode, data)| {
            if data == "nan" { (mode, data, "10.npz", "not finite") } else { (mode, data, "06.npz", "no .npz archive") }
        })
    {
        let arguments = format!("in.onnx -o skipped.onnx --report r.json --skip-bad-samples --data {data} {mode}");
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let told = run(folder.path(), &arguments);
        assert_eq!(told.code, 0, "{mode}: {}", told.stderr);
        let warning = format!("{data}: 1 of 12 samples was skipped: `{data}/{bad}`: ");
        assert!(told.text().contains(&warning), "{mode}: {}", told.text());
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
        assert!(report["skipped_samples"][0]["reason"].as_str().unwrap().contains(reason), "{report}");
        assert!(report["warnings"].to_string().contains(&warning), "{}", report["warnings"]);

        let kept = fs::read(folder.path().join(data).join(bad)).unwrap();
        fs::remove_file(folder.path().join(data).join(bad)).unwrap();
        let arguments = format!("in.onnx -o without.onnx --data {data} {mode}");
        assert_eq!(run(folder.path(), &arguments.split_whitespace().collect::<Vec<_>>()).code, 0);
        fs::write(folder.path().join(data).join(bad), kept).unwrap();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("skipped.onnx"), read("without.onnx"), "{mode}");
    }
    let told =
        run(folder.path(), &["calibrate", "rows.onnx", "--data", "length", "--ranges-out", "o", "--skip-bad-samples"]);
    assert_eq!((told.code, told.text().ends_with("on 11 samples\n")), (0, true), "{}{}", told.stderr, told.text());
    assert!(told.stderr.contains("1 of 12 samples was skipped: `length/09.npz`"), "{}", told.stderr);
    let told = run(folder.path(), &["validate", "in.onnx", "small.onnx", "--data", "nan", "--skip-bad-samples"]);
    assert_eq!((told.code, told.text().contains("on 11 samples")), (0, true), "{}{}", told.stderr, told.text());
    assert!(told.text().contains("1 of 12 samples was skipped: `nan/10.npz`"), "{}", told.text());
}

#[test]
fn samples_that_judge_themselves_are_warned_of() {
    let folder = wrong_things();
    let arguments = ["in.onnx", "-o", "o.onnx", "--int8", "--data", "plain", "--validation-data"];
    for (judges, warned) in [("./plain", true), ("labelled", false)] {
        let told = run(folder.path(), &[&arguments[..], &[judges]].concat());
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert_eq!(told.text().contains("warning: --validation-data is --data"), warned, "{}", told.text());
    }
}

#[test]
fn a_model_that_cannot_be_run_ends_with_one_code_in_all_modes() {
    let folder = wrong_things();
    for mode in ["", "--int8", "--weights int4", "--weights fp16", "--prune 0.3", "--svd 25%"] {
        for data in ["", "--data noise"] {
            let arguments = format!("sequence.onnx -o o.onnx {data} {mode}");
            let told = run(folder.path(), &arguments.split_whitespace().collect::<Vec<_>>());
            assert_eq!(told.code, 0, "{mode} {data}: {}", told.stderr);
            assert!(told.text().contains("SequenceConstruct"), "{mode} {data}: {}", told.text());
        }
    }
}

#[test]
fn a_gate_that_holds_is_in_the_report_whichever_step_judges_it() {
    let folder = wrong_things();
    let data = calib("digits_cnn");
    for (mode, gate, key) in [
        ("--int8", "sqnr=10", "sqnr"),
        ("--int8 --dynamic", "sqnr=10", "sqnr"),
        ("--weights int4", "sqnr=5", "sqnr"),
        ("", "sqnr=10", "sqnr"),
        ("", "drop=0.01", "drop"),
        ("", "lossless-rel=1e-3", "lossless-rel"),
        ("--prune 0.1", "prune-sqnr=3", "prune-sqnr"),
        ("", "max-bytes=1M", "max-bytes"),
    ] {
        let arguments = format!("in.onnx -o o.onnx --report r.json --data {data} {mode} --gate {gate}");
        let told = run(folder.path(), &arguments.split_whitespace().collect::<Vec<_>>());
        assert_eq!(told.code, 0, "{mode} {gate}: {}", told.stderr);
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
        let gates = report["gates"].as_array().unwrap();
        assert!(gates.iter().any(|gate| gate["gate"] == key && gate["passed"] == true), "{mode} {gate}: {gates:?}");
    }
}
