//! README.md and docs/guide.md tell the truth: each ```` ```console ```` block in them is run, and what it prints is compared.
//!
//! A line that begins with `$ ` is run by `sh` in a folder of its own that holds a copy of `fixtures/`, with the built program
//! first in PATH; all lines of all blocks in order, so that what one writes, a later one finds. A `\` at the end of a line goes
//! on in the next. The lines up to the next `$ ` are what it prints on standard output, all of it, and it must end with 0.
//!
//! Equal means equal to the letter, but for numbers that float sums decide: a number before ` dB` may be off by 0.5, and one
//! that is written as `1.23e-4` by a tenth (of two such below 1e-6, noise alone, anything goes). They differ between kinds of
//! processor. **Nothing** else is forgiven. `UPDATE_EXPECT=1 cargo test --release --workspace readme` writes the blocks anew.
use std::{env, fs, path::Path, process::Command};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A command of the README with what it says the command prints.
struct Example {
    command: String,
    expected: String,
}

/// The README cut into text and examples, in order.
enum Piece {
    Text(String),
    Example(Example),
}

fn pieces(readme: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut inside = false;
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if inside && let Some(first) = line.strip_prefix("$ ") {
            let mut command = first.to_owned();
            while command.ends_with('\\') {
                command += "\n";
                command += lines.next().unwrap();
            }
            pieces.push(Piece::Example(Example { command, expected: String::new() }));
            continue;
        }
        inside = if inside { line != "```" } else { line == "```console" };
        match pieces.last_mut() {
            Some(Piece::Example(example)) if inside => example.expected += &format!("{line}\n"),
            _ => pieces.push(Piece::Text(format!("{line}\n"))),
        }
    }
    pieces
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs `command` in `folder`; what it printed on standard output.
fn output_of(command: &str, folder: &Path) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_onnx-shrink")).parent().unwrap().to_owned();
    let path = env::join_paths([programs].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap()))).unwrap();
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", path)
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether two outputs are equal, as the module says.
fn is_same(expected: &str, found: &str) -> bool {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let (expected, found) = (words(expected), words(found));
    expected.len() == found.len()
        && (0..expected.len()).all(|index| {
            let (one, other) = (expected[index].as_str(), found[index].as_str());
            let bare = |word: &str| word.trim_matches([',', '(', ')', '\n']).parse::<f64>().ok();
            let (Some(a), Some(b)) = (bare(one), bare(other)) else { return one == other };
            let is_decibel = expected.get(index + 1).is_some_and(|unit| unit.starts_with("dB"));
            one == other
                || (is_decibel && (a - b).abs() <= 0.5)
                || (one.contains("e-") && other.contains("e-") && ((a - b).abs() <= 0.1 * a.abs() || a.max(b) < 1e-6))
        })
}

#[test]
fn only_what_float_sums_decide_may_differ() {
    assert!(is_same("SQNR 38.3 dB, relative L2 1.22e-2, largest", "SQNR 38.0 dB, relative L2 1.20e-2, largest"));
    assert!(!is_same("SQNR 38.3 dB", "SQNR 37.3 dB"));
    assert!(!is_same("18.2 kB (-70.4 %)", "18.3 kB (-70.4 %)"));
    assert!(!is_same("3 layers", "4 layers"));
    assert!(!is_same("error 1.22e-2", "error 1.82e-2"));
}

/// In the order in which they are read: what the first writes, the second finds.
const PAGES: [&str; 2] = ["README.md", "docs/guide.md"];

#[test]
fn every_command_of_the_readme_and_the_guide_prints_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    copy(&Path::new(ROOT).join("fixtures"), &folder.path().join("fixtures"));
    let (mut examples, mut wrong) = (0, Vec::new());
    for page in PAGES {
        let file = Path::new(ROOT).join(page);
        let mut anew = String::new();
        for piece in pieces(&fs::read_to_string(&file).unwrap()) {
            match piece {
                Piece::Text(text) => anew += &text,
                Piece::Example(Example { command, expected }) => {
                    let found = output_of(&command, folder.path());
                    if !is_same(&expected, &found) {
                        wrong.push(format!("$ {command}\n-- {page} says\n{expected}-- it prints\n{found}"));
                    }
                    anew += &format!("$ {command}\n{found}");
                    examples += 1;
                }
            }
        }
        if env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&file, anew).unwrap();
        }
    }
    assert!(examples > 5, "the examples were not found");
    let is_wrong = !wrong.is_empty() && env::var_os("UPDATE_EXPECT").is_none();
    assert!(!is_wrong, "{}\n(UPDATE_EXPECT=1 writes the pages anew)", wrong.join("\n"));
}

#[test]
fn the_first_command_and_the_test_command_are_on_the_first_screen() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let screen: Vec<&str> = readme.lines().take(40).collect();
    for command in ["cargo install --path .", "cargo test --release --workspace", "$ onnx-shrink "] {
        assert!(screen.iter().any(|line| line.starts_with(command)), "{command}");
    }
}
