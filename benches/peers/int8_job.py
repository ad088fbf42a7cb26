"""Wall time and peak memory of the whole int8 job, beside ONNX Runtime's own static quantizer.

usage: int8_job.py BENCH_DIR [--tool target/release/onnx-shrink] [--samples 64] [--runs 3] [--models NAME,NAME] [--no-growth]

BENCH_DIR is the bench with its models and data (bench_data.py, export_npz.py, ort_static.py). Each run is a process of its
own from start to exit; runs of the two tools take turns. Printed: the median, and the ratio of the medians (below 1: ours is
the smaller). Then our peak memory at 16, 64 and 500 samples (the same ones again where there are fewer): it must not grow.
Samples are exported before the clock starts: ort_static.py reads the bench's compact arrays, ours unpacks one .npz a sample.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = "resnet20_cifar10,squeezenet1_1,magika_v3_3"
GROWTH = (16, 64, 500)


def measured(command):
    """(seconds, peak MB, standard output) of one process; ends the program when that fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            err.seek(0)
            sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}: {err.read().decode()[-600:]}")
        out.seek(0)
        return seconds, usage.ru_maxrss / 1024, out.read().decode()


def exported(bench, model, count, folder):
    """A folder with `count` calibration samples of `model`, the first ones again when there are fewer."""
    subprocess.run([sys.executable, bench / "export_npz.py", model, "calib", str(count), folder], check=True, cwd=bench,
                   stdout=subprocess.DEVNULL)
    files = sorted(folder.glob("*.npz"))
    for number in range(len(files), count):
        shutil.copyfile(files[number % len(files)], folder / f"{number:05d}.npz")
    return folder


def compare(bench, tool, model, samples, runs, work):
    """One line: medians of both tools and their ratios."""
    source, data = bench / "models" / f"{model}.onnx", exported(bench, model, samples, work / f"{model}.{samples}")
    commands = {
        "ours": [tool, source, "-o", work / "ours.onnx", "--int8", "--data", data, "--quiet"],
        "peer": [sys.executable, bench / "ort_static.py", source, work / "peer.onnx", "--data", model, "--samples", samples],
    }
    found = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            found[name].append(measured(command)[:2])
    seconds, memory = ({name: statistics.median(run[which] for run in found[name]) for name in found} for which in (0, 1))
    print(f"{model:<20} {seconds['ours']:7.2f} s {seconds['peer']:7.2f} s {seconds['ours'] / seconds['peer']:6.2f} "
          f"{memory['ours']:8.0f} MB {memory['peer']:6.0f} MB {memory['ours'] / memory['peer']:6.2f} "
          f"{(work / 'ours.onnx').stat().st_size:10} B {(work / 'peer.onnx').stat().st_size:9} B", flush=True)


def growth(bench, tool, model, work):
    """One line: our peak memory by the number of samples."""
    line = f"{model:<20}"
    for samples in GROWTH:
        data = exported(bench, model, samples, work / f"{model}.growth.{samples}")
        seconds, memory, _ = measured([tool, bench / "models" / f"{model}.onnx", "-o", work / "o.onnx", "--int8", "--data", data, "-q"])
        line += f"  {samples:4}: {memory:5.0f} MB {seconds:6.2f} s"
        shutil.rmtree(data)
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, metavar="BENCH_DIR")
    parser.add_argument("--tool", type=Path, default=ROOT / "target/release/onnx-shrink")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--no-growth", action="store_true", help="leave out the memory by number of samples")
    arguments = parser.parse_args()
    bench, tool = arguments.bench.resolve(), arguments.tool.resolve()
    print(f"{os.cpu_count()} processors, {arguments.samples} samples, medians of {arguments.runs} runs: ours, the peer, ratio")
    with tempfile.TemporaryDirectory() as work:
        for model in arguments.models.split(","):
            compare(bench, tool, model, arguments.samples, arguments.runs, Path(work))
        if not arguments.no_growth:
            print("our peak memory and time by the number of samples")
            for model in arguments.models.split(","):
                growth(bench, tool, model, Path(work))


if __name__ == "__main__":
    main()
