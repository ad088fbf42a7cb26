"""Channels taken out of the bench's models against zeros in their place, under ONNX Runtime; fails when one pair differs.

usage: masked.py [--bench ../shared/bench] [--models NAME,...|all] [--max-rel 1e-4]

`tests/masked.rs` writes the pairs of one model at a time (every criterion, 10, 30 and 60 % of the multiply-adds;
all branches that one convolution can stand for); this runs both
of each on the same two inputs, the bench's samples where it has some. Relative L2 over each float output; of an output that a
Sigmoid or Softmax bounds, over what that reads (where it saturates, nothing is left to compare).
"""
import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
FEW = "resnet20_cifar10,mlperf_tiny_resnet8,kws_dscnn,lenet300_100_mnist,lenet_caffe_mnist"


def write_pairs(name, bench, folder):
    """Lets the test write the pairs of one model; what it says of those it left out."""
    env = dict(os.environ, ONNX_SHRINK_PAIRS=str(folder), ONNX_SHRINK_PAIRS_OF=name, ONNX_SHRINK_BENCH=str(bench))
    command = ["cargo", "test", "--release", "--workspace", "--test", "main", "--", "masked::pairs", "--nocapture"]
    found = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if found.returncode != 0:
        sys.exit(f"{name}: {found.stdout[-2000:]}{found.stderr[-2000:]}")
    return [line for line in found.stderr.splitlines() if line.startswith(name)]


def unbounded(path):
    """The model's bytes with outputs before a last Sigmoid or Softmax."""
    model = onnx.load(path)
    makers = {output: node for node in model.graph.node for output in node.output}
    for k, output in enumerate(model.graph.output):
        maker = makers.get(output.name)
        if maker is not None and maker.op_type in ("Sigmoid", "Softmax"):
            model.graph.output[k].CopyFrom(onnx.helper.make_empty_tensor_value_info(maker.input[0]))
    return model.SerializeToString()


def inputs_of(session, name, benchlib):
    """Two inputs: samples of the bench, or made up."""
    try:
        return [benchlib.fit_feed(session, row) for row in benchlib.load_data(name, 2)[0]]
    except (SystemExit, Exception):  # the bench has no samples for this model
        return [benchlib.random_feed(session, seed) for seed in (0, 1)]


def worst_error(name, masked, removed, benchlib):
    """The largest relative error of an output, over two inputs; 0 when both are the same."""
    one, other = benchlib.session(unbounded(masked)), benchlib.session(unbounded(removed))
    worst = 0.0
    for feed in inputs_of(one, name, benchlib):
        for a, b in zip(one.run(None, feed), other.run(None, feed)):
            a, b = np.asarray(a), np.asarray(b)
            if a.shape != b.shape:
                return float("inf")
            if np.issubdtype(a.dtype, np.floating):
                size = np.linalg.norm(a.astype(np.float64))
                worst = max(worst, float(np.linalg.norm(a.astype(np.float64) - b) / (size or 1.0)))
    return worst


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bench", type=Path, default=Path(os.environ.get("ONNX_SHRINK_BENCH", ROOT.parent / "shared/bench")))
    p.add_argument("--models", default=FEW)
    p.add_argument("--max-rel", type=float, default=1e-4)
    a = p.parse_args()
    bench = a.bench.resolve()
    sys.path.insert(0, str(bench))
    import benchlib

    names = sorted(path.stem for path in (bench / "models").glob("*.onnx")) if a.models == "all" else a.models.split(",")
    counts, short = Counter(), []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            left_out = write_pairs(name, bench, folder)
            worst = 0.0
            masked_files = sorted(Path(folder).glob("*.masked.onnx"))
            for masked in masked_files:
                what = masked.name.removesuffix(".masked.onnx")
                try:
                    error = worst_error(name, masked, masked.with_name(f"{what}.removed.onnx"), benchlib)
                except Exception as failure:  # a model that does not load or run is what is looked for
                    short.append(f"{what}: {str(failure).splitlines()[0][:200]}")
                    continue
                worst = max(worst, error)
                if not error <= a.max_rel:
                    short.append(f"{what}: relative error {error:.2e}")
            counts["pairs"] += len(masked_files)
            counts["models"] += bool(masked_files)
            reasons = Counter(line.split(": ", 1)[1] for line in left_out)
            print(f"{name:28} {len(masked_files):3} pairs, worst {worst:.1e}  {dict(reasons) or ''}", flush=True)
    for line in short:
        print("differs:", line)
    print(f"{counts['models']} models with channels to prune, {counts['pairs']} pairs, {len(short)} differ")
    sys.exit(bool(short) or not counts["pairs"])


if __name__ == "__main__":
    main()
