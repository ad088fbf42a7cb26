"""Holds every target in every form that it allows against the float model under ONNX Runtime: each file loads, runs, and is near.

usage: targets.py [--tool target/release/onnx-shrink] [--targets ort-cpu,qnn,...]

Models: the fixtures. Targets and what they allow are read from `--target help`, so that a new row is run, too. Near: the relative error over
64 samples that did not calibrate is at most 0.1 where layers run in integers or have 4-bit weights, 0.05 where weights alone are
stored. Engines other than ONNX Runtime are not here: that a file holds their row is judged by tests/targets.rs, on the file alone.
"""
import argparse
import itertools
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from formats import TARGET, fixture, outputs

FIXTURES = ["digits_cnn", "digits_mobile", "digits_mlp", "digits_gru", "digits_attention", "digits_if"]
BATCH_NORMS = {"digits_cnn", "digits_mobile"}
CALIBRATED, STORED = 0.1, 0.05
# What a form is called, the word of `--target help` that allows it, its arguments ({} is the path of the samples), and the error at most
FORMS = [
    ("pairs", "", ["--int8", "--data", "{}"], CALIBRATED),
    ("wrapped", "", ["--int8", "--data", "{}", "--place", "wrap"], CALIBRATED),
    ("qoperator", "qoperator", ["--int8", "--data", "{}", "--place", "wrap", "--format", "qoperator"], CALIBRATED),
    ("integer", "integer", ["--int8", "--data", "{}", "--place", "wrap", "--format", "integer"], CALIBRATED),
    ("shrink", "integer", ["--int8", "--data", "{}", "--place", "wrap", "--format", "integer", "--requantize", "shrink"], CALIBRATED),
    ("dynamic", "dynamic", ["--int8", "--dynamic"], CALIBRATED),
    ("no samples", "", ["--int8"], STORED),
    ("model ranges", "", ["--int8", "--ranges", "model", "--input-range", "input=0,1"], CALIBRATED),
    ("int4", "int4", ["--weights", "int4", "--data", "{}"], CALIBRATED),
    ("fp16", "fp16", ["--weights", "fp16"], STORED),
]


def rows(tool):
    """The words of each target's row of `--target help`."""
    text = subprocess.run([tool, "--target", "help"], check=True, capture_output=True, text=True).stdout
    table = text.split("\n\n")[0].splitlines()[1:]
    return {line.split()[0]: set(line.replace(",", " ").split()) for line in table}


def error(reference, found):
    return (sum(((x - y) ** 2).sum() for x, y in zip(reference, found)) / sum((x**2).sum() for x in reference)) ** 0.5


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tool", default=str(TARGET / "release" / "onnx-shrink"))
    p.add_argument("--targets", default="")
    a = p.parse_args()
    allowed = rows(a.tool)
    wanted = a.targets.split(",") if a.targets else list(allowed)
    fixtures = {name: fixture(name) for name in FIXTURES}
    floats = {name: outputs(model, feeds) for name, (model, _, feeds) in fixtures.items()}
    bad, worst, count = [], {}, 0
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:

        def one(case):
            target, name, (form, word, arguments, most) = case
            model, data, feeds = fixtures[name]
            out = Path(scratch) / f"{target}.{name}.{form}.onnx"
            arguments = [argument.format(data) for argument in arguments]
            run = subprocess.run([a.tool, str(model), "-o", str(out), "--quiet", "--target", target, *arguments], capture_output=True, text=True)
            if word and word not in allowed[target]:
                return case, None if run.returncode == 2 and f"the target {target}" in run.stderr else f"not refused: {run.returncode} {run.stderr}"
            if run.returncode:
                return case, run.stderr
            try:
                found = error(floats[name], outputs(out, feeds))
            except Exception as problem:  # whatever the engine says of the file
                return case, str(problem)
            return case, found if found <= most else f"error {found:.4f}, at most {most}"

        cases = [case for case in itertools.product(wanted, FIXTURES, FORMS) if case[2][0] != "model ranges" or case[1] in BATCH_NORMS]
        for (target, name, (form, *_)), found in pool.map(one, cases):
            if isinstance(found, str):
                bad.append(f"{target}, {name}, {form}: {found.strip()}")
            elif found is not None:
                count += 1
                worst[target, form] = max(worst.get((target, form), 0.0), found)
    for target in wanted:
        print(f"{target:13}" + ", ".join(f"{form} {found:.4f}" for (of, form), found in worst.items() if of == target))
    print(f"{count} files loaded, ran and were near; {len(bad)} did not")
    print("\n".join(bad))
    return 1 if bad or not count else 0


if __name__ == "__main__":
    sys.exit(main())
