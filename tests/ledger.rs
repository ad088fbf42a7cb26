//! What each fixture becomes, in numbers: `ledger.txt`. `UPDATE_EXPECT=1 cargo test ledger` writes it anew; its diff is
//! reviewed like code.
use std::{fmt::Write, fs, path::Path};

use serde_json::Value;

use crate::support::{FIXTURES, calib, folder_of, model, run};

/// Bytes and ops agree to the last one on every machine; float sums do not, so the error may differ by this.
const DECIBELS: f64 = 0.5;

const HEAD: &str = "\
# bytes, ops and SQNR (dB, against the original; `equal`: to the bit) after: the lossless part, --int8 with the fixture's
# samples, --int8 without samples. UPDATE_EXPECT=1 cargo test --release --workspace ledger writes this file.
#                  input        | lossless            | --int8 --data       | --int8
";

/// Bytes, ops and error of one run.
struct Entry {
    bytes: u64,
    ops: u64,
    error: Option<f64>,
}

fn entry(name: &str, more: &[&str], part: &str) -> Entry {
    let folder = folder_of(name);
    let run = run(folder.path(), &[&["in.onnx", "-o", "out.onnx", "--report", "r.json"], more].concat());
    assert_eq!(run.code, 0, "{name}: {}", run.stderr);
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    let output = &report[part]["outputs"][0];
    assert!(output["unequal"].is_number(), "{name} {more:?}: the result was not run against the input");
    Entry {
        bytes: fs::metadata(folder.path().join("out.onnx")).unwrap().len(),
        ops: report["output"]["ops"].as_object().unwrap().values().filter_map(Value::as_u64).sum(),
        error: output["sqnr_db"].as_f64(),
    }
}

fn ops_of_input(name: &str) -> u64 {
    let folder = folder_of(name);
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx", "--report", "r.json"]).code, 0);
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    report["input"]["ops"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
}

fn line(name: &str) -> String {
    let calib = calib(name);
    let entries = [
        entry(name, &[], "lossless"),
        entry(name, &["--int8", "--data", &calib], "quantized"),
        entry(name, &["--int8"], "quantized"),
    ];
    let mut line = format!("{name:<18}{:>7} {:>3}", model(name).len(), ops_of_input(name));
    for Entry { bytes, ops, error } in entries {
        let error = error.map_or_else(|| "equal".to_owned(), |error| format!("{error:.1}"));
        let _ = write!(line, " |{bytes:>7} {ops:>3} {error:>6}");
    }
    line
}

/// Whether two lines agree: words alike, numbers with a decimal point within [`DECIBELS`].
fn agree(one: &str, other: &str) -> bool {
    let (one, other): (Vec<&str>, Vec<&str>) = (one.split_whitespace().collect(), other.split_whitespace().collect());
    let is_near = |(a, b): (&&str, &&str)| {
        let decibels = |word: &str| word.contains('.').then(|| word.parse::<f64>().ok()).flatten();
        a == b || matches!((decibels(a), decibels(b)), (Some(a), Some(b)) if (a - b).abs() <= DECIBELS)
    };
    one.len() == other.len() && one.iter().zip(&other).all(is_near)
}

#[test]
fn the_ledger_holds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ledger.txt");
    let found: Vec<String> = FIXTURES.into_iter().map(line).collect();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, format!("{HEAD}{}\n", found.join("\n"))).unwrap();
        return;
    }
    let text = fs::read_to_string(&path).unwrap();
    let expected: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let agrees = expected.len() == found.len() && expected.iter().zip(&found).all(|(one, other)| agree(one, other));
    assert!(
        agrees,
        "the ledger differs\n---- expected\n{}\n---- found\n{}\nUPDATE_EXPECT=1 writes it anew",
        expected.join("\n"),
        found.join("\n")
    );
}

#[test]
fn lines_agree_to_the_byte_and_to_half_a_decibel() {
    assert!(agree("a 10 2 | 9 2 equal | 5 3 40.1", "a 10 2 | 9 2 equal |  5 3 40.5"));
    for other in
        ["a 10 2 | 9 2 equal | 5 3 40.7", "a 10 2 | 9 2 equal | 6 3 40.1", "a 10 2 | 9 2 99.0 | 5 3 40.1", "a 10"]
    {
        assert!(!agree("a 10 2 | 9 2 equal | 5 3 40.1", other), "{other}");
    }
}
