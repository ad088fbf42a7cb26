//! Help, version, and what is wrong with a command line.
use crate::support::{folder, names, run};

#[test]
fn help_shows_examples_and_exit_codes() {
    let folder = folder();
    let help = run(folder.path(), &["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for part in [
        "onnx-shrink model.onnx -o small.onnx --int8 --data",
        "Exit codes:\n  0   written",
        "--keep-float",
        "--explain",
    ] {
        assert!(help.text().contains(part), "{part} in {}", help.text());
    }
    let version = run(folder.path(), &["-V"]);
    assert_eq!((version.code, version.text()), (0, concat!("onnx-shrink ", env!("CARGO_PKG_VERSION"), "\n")));
    let more = run(folder.path(), &["--version"]);
    assert!(
        more.text().starts_with(version.text().trim_end()) && more.text().contains("ONNX opsets 1 to "),
        "{}",
        more.text()
    );
}

#[test]
fn a_wrong_command_line_ends_with_2_and_writes_nothing() {
    let folder = folder();
    for (arguments, part) in [
        (&["in.onnx"][..], "no output file: name one, as in `onnx-shrink in.onnx -o in.small.onnx`"),
        (&[], "<IN>"),
        (&["in.onnx", "-o", "out.onnx", "--int9"], "--int8"),
        (&["in.onnx", "out.onnx", "-o", "other.onnx"], "cannot be used with"),
        (&["in.onnx", "-o", "no/out.onnx"], "the folder `no` does not exist; create it first"),
        (&["in.onnx", "-o", "."], "this is a folder"),
        (&["in.onnx", "-o", ""], "a value is required"),
        (&["in.onnx", "-o", "out.onnx", "--gate", "sqnr"], "`sqnr` is not KEY=VALUE"),
        (
            &["in.onnx", "-o", "out.onnx", "--gate", "snr=1"],
            "there is no gate `snr` (did you mean `sqnr`?); keys: lossless-rel",
        ),
        (&["in.onnx", "-o", "out.onnx", "--calibrate", "guess"], "minmax"),
        (&["in.onnx", "-o", "out.onnx", "--crop", "5"], "write width and height as 224x224"),
        (&["in.onnx", "-o", "out.onnx", "--external-data=a/b.data"], "cannot be the name of the external data"),
        (
            &["in.onnx", "-o", "out.onnx", "--skip", "fold-everything"],
            "--skip fold-everything: there is no such pass; there are: ",
        ),
    ] {
        let run = run(folder.path(), arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{arguments:?}: {}", run.stderr);
        assert_eq!(run.text(), "");
        assert_eq!(names(folder.path()), ["in.onnx"], "{arguments:?}");
    }
}

#[test]
fn help_is_short_or_long_and_has_headings() {
    let folder = folder();
    let (short, long) = (run(folder.path(), &["-h"]), run(folder.path(), &["--help"]));
    assert!(short.text().lines().count() < long.text().lines().count());
    for heading in
        ["Commands:", "Arguments:", "Options:", "Quantization:", "Samples:", "Rewrites:", "Validation:", "Output:"]
    {
        assert!(short.text().contains(&format!("\n{heading}\n")), "{heading} in {}", short.text());
    }
    // Nobody looks: no colours.
    assert!(!long.text().contains('\x1b'));
    for command in ["calibrate", "inspect", "validate", "completions", "man"] {
        let help = run(folder.path(), &["help", command]);
        assert!(help.text().contains("\nExamples:\n  onnx-shrink "), "{command}: {}", help.text());
    }
}

#[test]
fn what_is_misspelt_is_answered_with_what_was_meant() {
    let folder = folder();
    for (arguments, code, tip) in [
        (&["in.onnx", "-o", "x", "--keepfloat", "a"][..], 2, "a similar argument exists: '--keep-float'"),
        (&["in.onnx", "-o", "x", "--calibrate", "minmx"], 2, "minmax"),
        (&["inspct", "in.onnx"], 1, "a command with a similar name exists: onnx-shrink inspect"),
        (&["completions", "bsh"], 2, "bash"),
    ] {
        let run = run(folder.path(), arguments);
        assert_eq!(run.code, code, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(tip), "{arguments:?}: {}", run.stderr);
    }
    // An option of other tools, spelt as they do.
    assert_eq!(run(folder.path(), &["in.onnx", "-o", "out.onnx", "--no_validate", "-q"]).code, 0);
}

#[test]
fn what_may_be_meant_is_suggested() {
    let folder = folder();
    for (arguments, meant) in [
        (&["valdate"][..], "onnx-shrink validate"),
        (&["in.onnx", "-o", "o.onnx", "--skip", "fold-batchnorm"], "did you mean `fold-batch-norm`?"),
        (&["in.onnx", "-o", "o.onnx", "--gate", "max-byte=1"], "did you mean `max-bytes`?"),
        (&["in.onnx", "-o", "o.onnx", "--target", "ortcpu"], "did you mean `ort-cpu`?"),
        (&["in.onnx", "-o", "o.onnx", "--int9"], "'--int8'"),
    ] {
        let told = run(folder.path(), arguments);
        assert_eq!(told.code, 2, "{arguments:?}");
        assert!(told.stderr.contains(meant), "{arguments:?}: {}", told.stderr);
    }
}
