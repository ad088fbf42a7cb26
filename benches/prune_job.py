#!/usr/bin/env python3
"""Time and peak memory of `--prune`, and where the time goes.

usage: prune_job.py BENCH_DIR [--model resnet56_cifar10] [--ratio 0.5] [--samples 500]

Runs the release build once on samples of the bench and reads the lines that `-v` prints as they come. The stages are: *moments* (the model
on the samples, second moments of every layer's input), *groups* (each group of channels alone, pruned step by step, solved for again and
run), *plans* (whole plans are tried, and groups exchange channels), *solving* (layer after layer on the pruned model's inputs), *judging and
writing*. Times depend on what else the machine does; the shares of the stages hardly do.
"""
import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A stage lasts until the first line with these words; the last one until the end.
STAGES = [("loading and lossless part", "samples in"), ("moments", "group 1 of"), ("groups", "group {all} of"), ("plans", "layer 1 of"),
          ("solving", "layer {all} of"), ("judging and writing", None)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bench", type=Path)
    p.add_argument("--model", default="resnet56_cifar10")
    p.add_argument("--ratio", default="0.5")
    p.add_argument("--samples", default="500")
    p.add_argument("--tool", default=str(ROOT / "target/release/onnx-shrink"))
    a = p.parse_args()
    bench = a.bench.resolve()
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "data", Path(folder) / "out.onnx"
        subprocess.run([sys.executable, bench / "export_npz.py", a.model, "calib", a.samples, data], check=True, stdout=subprocess.DEVNULL)
        model = bench / "models" / f"{a.model}.onnx"
        command = [a.tool, model, "-o", output, "--prune", a.ratio, "--data", data, "-v"]
        start = time.monotonic()
        run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lines = [(time.monotonic() - start, line) for line in run.stderr]
        code, seconds = run.wait(), time.monotonic() - start
        if code not in (0, 4):
            sys.exit(f"exit {code}: {lines[-1][1] if lines else ''}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{a.model}, --prune {a.ratio}, {a.samples} samples: exit {code}, {seconds:.1f} s, peak {used.ru_maxrss / 1024:.0f} MB")
    begin = 0.0
    for name, words in STAGES:
        kind = words.split()[0] if words else ""
        found = [at for at, line in lines if words and f"] {kind} " in line] if words and "{all}" in words else \
            [at for at, line in lines if words and words in line]
        end = seconds if words is None else found[-1] if "{all}" in words and found else found[0] if found else begin
        print(f"  {name:28} {end - begin:7.1f} s {100 * (end - begin) / seconds:5.1f} %")
        begin = end


if __name__ == "__main__":
    main()
