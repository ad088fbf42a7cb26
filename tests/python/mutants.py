"""Wrong rewrites planted into the fixtures and the bench's models: how many `validate` sees, without data and with real samples.

usage: mutants.py [--bench ../shared/bench] [--count 200] [--tool target/release/onnx-shrink,OTHER] [--folder DIR] [--samples 8]
                  [--min 0.95,0.99]

`tests/mutations.rs` writes the mutants into DIR (they are taken as they are where DIR/list.tsv exists). ONNX Runtime runs each on real
samples: one whose outputs are the same to the bit makes no difference and does not count, one whose outputs differ by less than what `validate` allows for rounding
(relative L2 of 1e-4, of 16-bit floats 1e-2) is counted apart. Fails when the first tool sees a smaller share than --min says.
"""
import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parents[2]
ROUNDING = {"tensor(float16)": 1e-2}  # by the type of the first input
MOST = 1e-4


def write_mutants(bench, folder, count):
    env = dict(os.environ, ONNX_SHRINK_MUTANTS=str(folder), ONNX_SHRINK_MUTANTS_COUNT=str(count), ONNX_SHRINK_BENCH=str(bench))
    command = ["cargo", "test", "--release", "--test", "main", "--", "mutations::mutants_for", "--nocapture"]
    found = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if found.returncode != 0:
        sys.exit(found.stdout[-2000:] + found.stderr[-2000:])


def session(path):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def real_samples(model, bench, count):
    """Feeds of the fixture or of the bench; none where there are none."""
    if (model.parent / "eval.npz").exists():
        with np.load(model.parent / "eval.npz") as arrays:
            x = arrays["input"]
            return [{"input": x[k:k + 1]} for k in range(min(count, len(x)))]
    sys.path.insert(0, str(bench))
    import benchlib
    try:
        one = session(model)
        return [benchlib.fit_feed(one, row) for row in benchlib.load_data(model.stem, count)[0]]
    except (SystemExit, Exception):  # the bench has no samples for this model
        return []


def error(original, mutant, feeds):
    """The largest relative error of an output; None where the mutant does not run, 0 where all is the same to the bit."""
    num, den, same = Counter(), Counter(), True
    for feed, expected in zip(feeds, original):
        try:
            found = mutant.run(None, feed)
        except Exception:
            return None
        for k, (a, b) in enumerate(zip(expected, found)):
            a, b = np.asarray(a), np.asarray(b)
            if a.shape != b.shape:
                return None
            same &= a.tobytes() == b.tobytes()
            if a.dtype.kind in "fiub":
                a, b = a.astype("f8"), b.astype("f8")
                good = np.isfinite(a) & np.isfinite(b)
                num[k] += float(((a - b)[good] ** 2).sum()) + float((np.isfinite(a) != np.isfinite(b)).sum())
                den[k] += float((a[good] ** 2).sum())
    return 0.0 if same else max([1e-30, *(np.sqrt(num[k] / den[k]) if den[k] else float(num[k] > 0) for k in num)])


def error_apart(expected, path, feeds):
    """`error` of the mutant at `path`, in a process of its own: a wrong shape can end the engine. None where it does not run."""
    context = multiprocessing.get_context("fork")
    answer, ask = context.Pipe(duplex=False)

    def work():
        try:
            ask.send(error(expected, session(path), feeds))
        except Exception:
            ask.send(None)

    process = context.Process(target=work)
    process.start()
    ask.close()
    try:
        return answer.recv()
    except EOFError:
        return None
    finally:
        process.join()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", type=Path, default=ROOT.parent / "shared" / "bench")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--tool", default=str(ROOT / "target" / "release" / "onnx-shrink"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--min", default="0.95,0.99")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "list.tsv").exists():
        write_mutants(arguments.bench.resolve(), folder, arguments.count)
    tools = arguments.tool.split(",")
    # by tool and kind of samples
    seen, counted, refused, below, equal = Counter(), Counter(), Counter(), Counter(), 0
    known = {}
    for line in (folder / "list.tsv").read_text().splitlines():
        number, path, fault, op = line.split("\t")
        model = Path(path)
        if path not in known:
            feeds = real_samples(model, arguments.bench, arguments.samples)
            data = folder / model.parent.name / model.stem
            data.mkdir(parents=True, exist_ok=True)
            for k, feed in enumerate(feeds):
                np.savez(data / f"{k:03}.npz", **feed)
            try:
                one = session(path)
                known[path] = (feeds, [one.run(None, feed) for feed in feeds], data, ROUNDING.get(one.get_inputs()[0].type, MOST))
            except Exception:
                known[path] = ([], [], data, MOST)
        feeds, expected, data, rounding = known[path]
        mutant = folder / f"{number}.onnx"
        far = error_apart(expected, mutant, feeds) if feeds else float("nan")
        if far == 0.0:
            equal += 1
            continue
        for tool in tools:
            for kind in ["made up"] + (["real"] if feeds else []):
                command = [tool, "validate", path, str(mutant)] + (["--data", str(data)] if kind == "real" else [])
                code = subprocess.run(command, capture_output=True, text=True).returncode
                if code not in (0, 5):
                    refused[tool, kind] += 1
                    continue
                if far is not None and far < rounding and code == 0:
                    below[tool, kind] += 1
                    print(f"below rounding ({far:.1e}), {kind}, {Path(tool).parent.name}/{Path(tool).name}: {number} {model.parent.name}/{model.stem}: {fault} at {op}")
                    continue
                counted[tool, kind] += 1
                seen[tool, kind] += code == 5
                if code == 0:
                    print(f"MISSED, {kind}, {Path(tool).parent.name}/{Path(tool).name}: {number} {model.parent.name}/{model.stem}: {fault} at {op}, real error {far}", flush=True)
    print(f"{equal} mutants make no difference on real samples")
    for tool in tools:
        for kind in ("made up", "real"):
            all_of_them = counted[tool, kind]
            share = seen[tool, kind] / max(1, all_of_them)
            print(f"{tool}, {kind}: {seen[tool, kind]} of {all_of_them} seen ({100 * share:.1f} %), {below[tool, kind]} below rounding, {refused[tool, kind]} not run")
    least = dict(zip(("made up", "real"), map(float, arguments.min.split(","))))
    first = tools[0]
    sys.exit(any(seen[first, kind] < least[kind] * counted[first, kind] for kind in least))


if __name__ == "__main__":
    main()
