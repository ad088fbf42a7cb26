//! The report holds the fields that docs/report.md states, and no others.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use onnx_shrink_driver::{
    metrics::Part,
    report::{Culprit, Regions},
    samples::BadSample,
};
use onnx_shrink_passes::{Class, Entry, Miss, Outcome};
use serde_json::Value;

use crate::support::{calib, folder, run};

/// Fields by heading of docs/report.md.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/report.md")).unwrap();
    let mut fields: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title.to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let names = row.split(" | ").next().unwrap().split(", ").map(|name| name.trim_matches('`').to_owned());
            fields.entry(heading.clone()).or_default().extend(names);
        }
    }
    fields
}

/// What stands under a field, by the heading that describes it.
const OBJECTS: [(&str, &str); 18] = [
    ("input", "Side"),
    ("output", "Side"),
    ("journal", "Entry"),
    ("skipped_samples", "Bad sample"),
    ("culprits", "Culprit"),
    ("regions", "Regions"),
    ("layers", "Layer"),
    ("lossless", "Comparison"),
    ("split", "Comparison"),
    ("quantized", "Comparison"),
    ("total", "Comparison"),
    ("outputs", "Output"),
    ("parts", "Part"),
    ("accuracy", "Accuracy"),
    ("calibration", "Calibration"),
    ("gates", "Gate result"),
    ("timing", "Timing"),
    ("ops", ""),
];

fn gather(heading: &str, value: &Value, found: &mut BTreeMap<String, BTreeSet<String>>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| gather(heading, item, found)),
        Value::Object(fields) if !heading.is_empty() => {
            for (name, value) in fields {
                found.entry(heading.to_owned()).or_default().insert(name.clone());
                let of_field = OBJECTS.iter().find(|(field, _)| field == name).map(|(_, heading)| *heading);
                if let (Some(heading), true) = (of_field, value.is_object() || value.is_array()) {
                    gather(heading, value, found);
                }
            }
        }
        _ => {}
    }
}

#[test]
fn the_fields_are_those_that_are_documented() {
    let folder = folder();
    let data = calib("digits_cnn");
    let arguments = ["in.onnx", "-o", "out.onnx", "--int8", "--data", &data, "--report", "r.json"];
    assert_eq!(run(folder.path(), &arguments).code, 0);
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    let mut found = BTreeMap::new();
    gather("Report", &report, &mut found);
    // What a good run does not have.
    let outcome = Outcome::Missed { reason: Miss::Quantized };
    let missed = Entry { pass: "p", class: Class::Exact, op: String::new(), op_type: String::new(), outcome };
    gather("Entry", &serde_json::to_value(&missed).unwrap(), &mut found);
    let culprit = Culprit::new(&missed, false, String::new(), None);
    let part = Part {
        axis: 1,
        ranges: Vec::new(),
        rms: 1.0,
        sqnr_db: None,
        sqnr_around_mean_db: None,
        rel_l2: 0.0,
        error_rms: 0.0,
    };
    gather("Part", &serde_json::to_value(part).unwrap(), &mut found);
    gather("Regions", &serde_json::to_value(Regions::default()).unwrap(), &mut found);
    let bad = BadSample { sample: String::new(), reason: String::new() };
    gather("Bad sample", &serde_json::to_value(bad).unwrap(), &mut found);
    gather("Culprit", &serde_json::to_value(culprit).unwrap(), &mut found);
    assert_eq!(found, documented());
}
