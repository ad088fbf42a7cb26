"""Holds the forms of `--format` against the Quantize/Dequantize pairs under ONNX Runtime, end to end; fails where too many numbers differ.

usage: formats.py [--tool target/release/onnx-shrink] [--bench ../shared/bench]

Models: the fixtures that make up their inputs from arrays of floats, and two of the bench when it is there. Every form must load and run. Of
the frozen forms (qoperator, integer) 99.9 % of all output numbers of all models agree with those of the pairs, within 1e-4 of the
largest of the sample, each as ONNX Runtime runs it by default: it makes integer kernels of the pairs. Of the form whose ranges each run finds, the error against the float model is at most 1.1 times that of the pairs.
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
FIXTURES = ["digits_cnn", "digits_mobile", "digits_mlp", "digits_attention"]
FROM_BENCH = ["resnet20_cifar10", "lenet300_100_mnist"]
FORMS = {"qdq": [], "qoperator": ["--format", "qoperator"], "integer": ["--format", "integer"],
         "shrink": ["--format", "integer", "--requantize", "shrink"]}
AGREE = 0.999
SHRUNK = 1.1


def outputs(path, feeds):
    """The first output for every feed, flat."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed)[0].astype(np.float64).ravel() for feed in feeds]


def fixture(name):
    """Model, folder for --data, feeds to judge by."""
    home = ROOT / "fixtures" / name
    session = ort.InferenceSession(str(home / "model.onnx"), providers=["CPUExecutionProvider"])
    arrays = np.load(home / "eval.npz")
    inputs = [x for x in session.get_inputs()]
    feeds = []
    for index in range(min(64, len(arrays[inputs[0].name]))):
        feed = {}
        for x in inputs:
            row = arrays[x.name][index]
            feed[x.name] = row[None] if row.ndim < len(x.shape) else row
        feeds.append(feed)
    return home / "model.onnx", home / "calib.npz", feeds


def of_bench(bench, name, scratch):
    sys.path.insert(0, str(bench))
    import benchlib

    data = scratch / f"{name}_calib"
    subprocess.run([sys.executable, str(bench / "export_npz.py"), name, "calib", "64", str(data)], check=True, stdout=subprocess.DEVNULL)
    model = bench / "models" / f"{name}.onnx"
    return model, data, benchlib.feeds(benchlib.session(model), name, 64)[0]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tool", default=str(TARGET / "release" / "onnx-shrink"))
    p.add_argument("--bench", default=os.environ.get("ONNX_SHRINK_BENCH", str(ROOT / "../shared/bench")))
    a = p.parse_args()
    bench = Path(a.bench)
    agreed = {"qoperator": [0, 0], "integer": [0, 0]}
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        cases = [(name, *fixture(name)) for name in FIXTURES]
        if bench.is_dir():
            cases += [(name, *of_bench(bench, name, scratch)) for name in FROM_BENCH]
        else:
            print(f"the bench is not there ({bench}): its models are skipped")
        for name, model, data, feeds in cases:
            results = {"float": outputs(model, feeds)}
            for form, arguments in FORMS.items():
                out = scratch / f"{name}.{form}.onnx"
                subprocess.run([a.tool, str(model), "-o", str(out), "--int8", "--data", str(data), "--place", "wrap", "--quiet",
                                "--calibrate", "mse", *arguments], check=True)
                results[form] = outputs(out, feeds)

            def error(form):
                pairs = list(zip(results["float"], results[form]))
                return (sum(((x - y) ** 2).sum() for x, y in pairs) / sum((x ** 2).sum() for x, _ in pairs)) ** 0.5

            for form, counts in agreed.items():
                near = [np.abs(x - y) <= 1e-4 * np.abs(x).max() for x, y in zip(results["qdq"], results[form])]
                same, count = int(sum(n.sum() for n in near)), sum(n.size for n in near)
                counts[0] += same
                counts[1] += count
                print(f"{name}: {form} agrees with the pairs in {same} of {count} numbers; error {error(form):.5f}, of the pairs {error('qdq'):.5f}")
            shrunk, pairs = error("shrink"), error("qdq")
            print(f"{name}: ranges of each run: error {shrunk:.5f}, of the pairs {pairs:.5f}")
            bad += shrunk > SHRUNK * pairs
    for form, (same, count) in agreed.items():
        print(f"{form}: {same} of {count} ({100 * same / count:.3f} %)")
        bad += same < AGREE * count
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
