//! Generates docs/PASSES.md from the registry and the headers of the passes, and wants it unchanged.
//!
//! `UPDATE_EXPECT=1 cargo test --release --workspace --test passes_page` writes it anew.
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use onnx_shrink_passes::{When, registry::passes};

const INTRODUCTION: &str = "\
# Passes

This page is generated from the headers of the passes in `passes/src` (`passes/tests/passes_page.rs`). The examples are run by
`passes/tests/doc_examples.rs`, the forms of quantized layers are tested in `passes/tests/quantize/`.

- The line `# x: float[2,3]; …` declares the values of an example: names that begin with `x` are graph inputs, all others are
  constants.
- **Class** is what a pass may do to values. *exact*: equal to the bit. *rounding*: the same function of real numbers, summed or
  rounded in another order. *approximate*: another function, close enough by measurement. `--exact` allows the first alone, no
  flag the first two, `--int8` and the other requests all.
- `--skip NAME` leaves a pass out; `--explain` and `--report` say where each rewrote something, and where and why not.
- Measured facts about engines are in [engines.md](engines.md), formulas in [methods.md](methods.md).

The lossless passes run in this order, again and again until nothing changes, at most 8 times. `fold-constants` and
`simplify-islands` run twice in each round: with their exact rewrites, then with those that round. The others run on request.
";

/// Files beside the passes whose headers belong on the page: title, file.
const RULES: [&str; 5] = ["activation", "elementwise", "layout", "cast", "qdq"];
const ANALYSES: [(&str, &str); 4] = [
    ("Which ops: units", "analysis/units.rs"),
    ("Which of them in integers: placement", "analysis/place.rs"),
    ("Ranges", "calibration/calibrators.rs"),
    ("Weights", "numerics/weight_scales.rs"),
];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The file of the pass `name`, from the folder of sources.
fn file_of(name: &str) -> String {
    let file = format!("{}.rs", name.replace('-', "_"));
    let mut rooms: Vec<String> = fs::read_dir(sources())
        .expect("the folder of sources")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .filter(|room| sources().join(room).join(&file).is_file())
        .collect();
    assert_eq!(rooms.len(), 1, "one file `{file}` in one room, and not {rooms:?}");
    format!("{}/{file}", rooms.remove(0))
}

/// The header of a source file as Markdown: examples are plain text, links of rustdoc are names.
fn header(file: &str) -> String {
    let source = fs::read_to_string(sources().join(file)).expect("a source file");
    let mut text = String::new();
    for line in source.lines().map_while(|line| line.strip_prefix("//!")) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        match line.strip_prefix("```onnx ") {
            Some("before") => text.push_str("\nBefore:\n\n```text\n"),
            Some("after") => text.push_str("\nAfter:\n\n```text\n"),
            _ => {
                let _ = writeln!(text, "{}", without_links(line));
            }
        }
    }
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text.trim_end().to_owned()
}

/// `line` with "[`name`]" and "[text](crate::path)" as "`name`" and "text"; links to pages stay.
fn without_links(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('[') {
        let end = rest[start..].find(']').map(|end| start + end);
        let Some(end) = end else { break };
        let (name, behind) = (&rest[start + 1..end], &rest[end + 1..]);
        let target = behind.strip_prefix('(').and_then(|behind| behind.split_once(')'));
        match target {
            Some((target, behind)) if !target.contains('/') && !target.contains('.') => {
                text.push_str(&rest[..start]);
                text.push_str(name);
                rest = behind;
            }
            None if name.starts_with('`') && name.ends_with('`') => {
                text.push_str(&rest[..start]);
                text.push_str(name);
                rest = behind;
            }
            _ => {
                text.push_str(&rest[..=end]);
                rest = behind;
            }
        }
    }
    text + rest
}

fn page() -> String {
    let mut page = format!("{INTRODUCTION}\n| pass | class | runs | what it does |\n|---|---|---|---|\n");
    for pass in passes() {
        let name = pass.name;
        let class = format!("{:?}", pass.class).to_lowercase();
        let runs = match pass.when {
            When::Lossless => "always".to_owned(),
            When::Requested(request) => format!("`{request}`"),
        };
        let runs = if runs.contains(' ') && !runs.contains("--") { runs.replace('`', "") } else { runs };
        let _ = writeln!(page, "| [{name}](#{name}) | {class} | {runs} | {} |", pass.about);
    }
    for pass in passes() {
        let _ = write!(page, "\n## {}\n\n{}\n", pass.name, header(&file_of(pass.name)));
        if pass.name == "simplify-islands" {
            for rules in RULES {
                let _ = write!(page, "\n### Rules: {rules}\n\n{}\n", header(&format!("egg/{rules}.rs")));
            }
        }
    }
    page.push_str("\n# What the quantizing passes share\n");
    for (title, file) in ANALYSES {
        let _ = write!(page, "\n## {title}\n\n{}\n", header(file));
    }
    page
}

#[test]
fn the_page_of_the_passes_is_what_their_headers_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PASSES.md");
    let page = page();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let stands = fs::read_to_string(&path).unwrap();
    let differs = page.lines().zip(stands.lines()).find(|(new, old)| new != old);
    assert!(page == stands, "docs/PASSES.md is not what the headers say (UPDATE_EXPECT=1 writes it): {differs:?}");
}
