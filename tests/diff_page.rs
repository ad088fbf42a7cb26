//! The page of `onnx-shrink diff --html` in headless Chromium: it draws both graphs and answers clicks and keys.
//!
//! Chromium is found by its usual names, or where `CHROMIUM` says; without it these tests say that they skip.
#![allow(clippy::print_stderr, reason = "tests say what they measured and skipped")]
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{calib, folder, run};

fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let names = ["chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"];
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    named.into_iter().chain(found).find(|path| path.is_file())
}

/// What `page_driver.js` found on the page `html`; `None` without Chromium.
fn drive(folder: &Path, html: &str) -> Option<Value> {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: no Chromium (CHROMIUM=path names one)");
        return None;
    };
    let page = fs::read_to_string(folder.join(html)).unwrap();
    assert!(!page.contains("http:") && !page.contains("https:"), "the page loads nothing");
    let driver = include_str!("page_driver.js");
    fs::write(folder.join("driven.html"), page.replace("</body>", &format!("<script>{driver}</script></body>")))
        .unwrap();
    let url = format!("file://{}", folder.join("driven.html").display());
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,1000", "--virtual-time-budget=60000"])
        .args(["--disable-dev-shm-usage", "--run-all-compositor-stages-before-draw", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(url)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let dom = String::from_utf8(output.stdout).unwrap();
    let result = dom.split("<pre id=\"result\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let json = result.unwrap_or_else(|| panic!("no result in a page of {} bytes", dom.len()));
    Some(serde_json::from_str(&json.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).unwrap())
}

fn check(result: &Value, ops: [u64; 2]) {
    assert_eq!(result["errors"].as_array().unwrap().len(), 0, "{result:#}");
    for side in 0..2 {
        assert_eq!(result["ops"][side], ops[side], "{result:#}");
        assert!(result["colors"][side].as_u64().unwrap() > 10, "graph {side} is not drawn: {result:#}");
        assert_eq!(result["overlaps"][side], 0, "{result:#}");
    }
    assert_eq!(result["aligned"], result["pairs"], "{result:#}");
}

#[test]
fn a_click_on_a_fused_op_shows_what_became_of_it() {
    let folder = folder();
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx"]).code, 0);
    assert_eq!(run(folder.path(), &["diff", "in.onnx", "out.onnx", "--html", "diff.html"]).code, 5);
    let Some(result) = drive(folder.path(), "diff.html") else { return };
    check(&result, [16, 12]);
    let details = result["details"].as_str().unwrap();
    assert!(details.contains("Conv + BatchNormalization became Conv"), "{result:#}");
    assert_eq!(result["chosen"], serde_json::json!([2, 1]));
    assert_eq!(result["counterpartInView"], true);
    assert_eq!(result["steps"], serde_json::json!([0, 1, 2, 3, 2]));
    assert_eq!(result["found"], serde_json::json!([2, 2]), "/conv1/Conv and /block/conv1/Conv");
    let data = calib("digits_cnn");
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "int8.onnx", "--int8", "--data", &data]).code, 0);
    assert_eq!(run(folder.path(), &["diff", "in.onnx", "int8.onnx", "--html", "int8.html"]).code, 5);
    let result = drive(folder.path(), "int8.html").unwrap();
    assert_eq!(result["errors"].as_array().unwrap().len(), 0, "{result:#}");
}

#[test]
fn the_page_of_resnet20() {
    let bench = std::env::var_os("ONNX_SHRINK_BENCH")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/bench"), PathBuf::from);
    let model = bench.join("models/resnet20_cifar10.onnx");
    if !model.is_file() {
        eprintln!("skipped: no bench at {}", bench.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let model = model.to_str().unwrap();
    assert_eq!(run(folder.path(), &[model, "-o", "out.onnx", "--no-validate"]).code, 0);
    assert_eq!(run(folder.path(), &["diff", model, "out.onnx", "--html", "diff.html"]).code, 5);
    let Some(result) = drive(folder.path(), "diff.html") else { return };
    check(&result, [77, 54]);
    assert!(result["details"].as_str().unwrap().contains("Conv + BatchNormalization became Conv"), "{result:#}");
}

#[test]
fn two_thousand_ops_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let text = |alpha: &str| {
        let mut nodes = String::new();
        for k in 0..1000 {
            nodes.push_str(&format!("  a{k} = LeakyRelu <alpha = {}> (y{k})\n", if k == 500 { alpha } else { "0.1" }));
            nodes.push_str(&format!("  y{} = Add(a{k}, y{})\n", k + 1, if k > 3 { k - 3 } else { 0 }));
        }
        let head = "<ir_version: 8, opset_import: [\"\" : 17]>\ng (float[4] y0) => (float[4] y1000) {\n";
        onnx_shrink_ir::export(&onnx_shrink_ir::text::parse_model(&format!("{head}{nodes}}}")).unwrap())
    };
    for (name, alpha) in [("a.onnx", "0.1"), ("b.onnx", "0.2")] {
        fs::write(folder.path().join(name), prost::Message::encode_to_vec(&text(alpha))).unwrap();
    }
    assert_eq!(run(folder.path(), &["diff", "a.onnx", "b.onnx", "--html", "diff.html"]).code, 5);
    let Some(result) = drive(folder.path(), "diff.html") else { return };
    check(&result, [2000, 2000]);
    assert!(result["details"].as_str().unwrap().contains("alpha: 0.1 → 0.2"), "{result:#}");
    eprintln!("{} ms a frame", result["frame"]);
}
