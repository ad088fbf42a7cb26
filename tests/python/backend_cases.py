"""Runs ONNX's own node cases through the executor; fails when one result is wrong.

usage: backend_cases.py [--every N] [--verbose]

The cases come from the installed `onnx` package and are written once to target/onnx_cases. The runner is exec's example:
    cargo build --release --workspace --bins --example run_model
(with --workspace, so that the features are those of the whole program and nothing is compiled twice; `cargo test --release
--workspace` builds it, too). A refusal by name is right in its way: nothing is guessed. A wrong result is not.
"""
import argparse
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TRACT = {"right": 1055, "refused": 804, "wrong": 25}  # tract-onnx 0.23.9 alone on the 1,884 cases of onnx 1.23


def encoded(value, declared):
    """The bytes of a case's input or output as files hold them; None for what is neither tensor, sequence nor optional."""
    from onnx import numpy_helper

    if hasattr(value, "SerializeToString"):
        return value.SerializeToString()
    kind = declared.type.WhichOneof("value")
    make = {"tensor_type": numpy_helper.from_array, "sequence_type": numpy_helper.from_list,
            "optional_type": numpy_helper.from_optional}.get(kind)
    return make(value, declared.name).SerializeToString() if make else None


def write_case(case, folder):
    """One folder for a case: model.onnx, and a folder for each set of data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    graph = case.model.graph
    for number, sides in enumerate(case.data_sets):
        data = folder / f"test_data_set_{number}"
        data.mkdir(exist_ok=True)
        for word, values, declared in zip(("input", "output"), sides, (graph.input, graph.output)):
            for place, pair in enumerate(zip(values, declared)):
                blob = encoded(*pair)
                if blob is not None:
                    (data / f"{word}_{place}.pb").write_bytes(blob)


def case_folders():
    """Folders of all cases, sorted; generated when they are not there, or come from another version of onnx."""
    import onnx

    home = TARGET / "onnx_cases"
    stamp = home / "version.txt"
    if not stamp.exists() or stamp.read_text() != onnx.__version__:
        from onnx.backend.test.case.node import collect_testcases

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about overflows that the cases are about
            for case in collect_testcases():
                if case.model is not None and case.data_sets:
                    write_case(case, home / case.name)
        stamp.write_text(onnx.__version__)
    return sorted(path.parent for path in home.glob("*/model.onnx"))


def verdicts(runner, folders):
    """(name, verdict, detail) of each case. A run that dies is repeated one by one, so that it names its case."""
    done = subprocess.run([runner, "--cases", *folders], capture_output=True, text=True, errors="replace")
    lines = [line.split("\t", 2) for line in done.stdout.splitlines()]
    if done.returncode == 0 and len(lines) == len(folders):
        return lines
    if len(folders) == 1:
        return [[folders[0].name, "wrong", f"the runner ended with {done.returncode}: {done.stderr.strip()[-300:]}"]]
    return [line for folder in folders for line in verdicts(runner, [folder])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth case")
    parser.add_argument("--verbose", action="store_true", help="one line for each case")
    arguments = parser.parse_args()
    runner = TARGET / "release/examples/run_model"
    if not runner.exists():
        print(f"{runner} is not there: cargo build --release --workspace --bins --example run_model", file=sys.stderr)
        return 2
    every = max(arguments.every, 1)
    folders = case_folders()[::every]
    found = []
    for start in range(0, len(folders), 100):
        found += verdicts(runner, folders[start:start + 100])
    counts = Counter(verdict for _, verdict, _ in found)
    wrong = [(name, detail) for name, verdict, detail in found if verdict not in ("right", "refused")]
    if arguments.verbose:
        for name, verdict, detail in found:
            print(f"{name}: {verdict} {detail}".rstrip())
    # Reasons without what differs from case to case.
    reasons = Counter(re.sub(r"`[^`]*`|\d+", "…", detail) for _, verdict, detail in found if verdict == "refused")
    for reason, count in reasons.most_common(8):
        print(f"  {count} refused: {reason[:140]}")
    for name, detail in wrong:
        print(f"wrong: {name}: {detail}")
    ours = ", ".join(f"{counts[verdict]} {verdict}" for verdict in TRACT)
    tract = ", ".join(f"{count} {verdict}" for verdict, count in TRACT.items())
    print(f"{len(found)} of ONNX's node cases: {ours} (tract alone, of 1884: {tract})")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
