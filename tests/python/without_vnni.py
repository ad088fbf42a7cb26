"""Runs 8-bit files as a processor without VNNI does (emulated by qemu-user) and as this one does, and compares the outputs.

usage: without_vnni.py [--tool target/release/onnx-shrink] [FLOAT.onnx INT8.onnx DATA.npz ...]

There, ONNX Runtime adds products of 8-bit numbers in pairs in 16 bits, which saturate. Without models: on fixtures, what
--int8 writes, with all that can be in integers, gives the same top-1 on both kinds and nearly the same error; a file with weights that saturate is wrong
there, and as good as here once `--fix-saturation` has been over it. With models, three arguments each: only prints top-1 and errors against
the float model on both. Skips, with a line, where qemu-x86_64 is not installed or does not show a sum that is known to saturate.
"""
import argparse
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PROCESSOR = ["qemu-x86_64", "-cpu", "Haswell"]
FIXTURES = ["digits_cnn", "digits_mobile", "digits_mlp"]
SAMPLES = 128
SATURATED = 2**15 - 1


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def probe():
    """255·127 + 255·127, as one pair."""
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "pair",
                              [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])],
                              [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])],
                              [helper.make_tensor("w", TensorProto.INT8, [2, 1], [127, 127])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return int(session(model.SerializeToString()).run(None, {"x": np.full((1, 2), 255, np.uint8)})[0].item())


def outputs(model, data):
    """The first output for the samples of `data`, one row each."""
    run, arrays = session(str(model)), np.load(data)
    inputs = run.get_inputs()
    rows = []
    for index in range(min(SAMPLES, len(arrays[inputs[0].name]))):
        feed = {}
        for x in inputs:
            row = arrays[x.name][index]
            feed[x.name] = row[None] if row.ndim < len(x.shape) else row
        rows.append(run.run(None, feed)[0].astype(np.float64).ravel())
    return np.stack(rows)


def child(job):
    """Runs in the emulated process: what the pair gives, and the outputs of all pairs of model and data."""
    wanted = pickle.loads(Path(job).read_bytes())
    Path(job).write_bytes(pickle.dumps((probe(), [outputs(model, data) for model, data in wanted])))


def without_vnni(wanted, scratch):
    """Like `outputs` for each pair of model and data, under emulation; a sentence when that cannot be done."""
    if shutil.which(PROCESSOR[0]) is None:
        return f"{PROCESSOR[0]} is not installed"
    job = scratch / "job"
    job.write_bytes(pickle.dumps(wanted))
    done = subprocess.run([*PROCESSOR, sys.executable, __file__, "--child", str(job)], capture_output=True, text=True)
    if done.returncode:
        return f"{' '.join(PROCESSOR)} does not run ONNX Runtime ({done.stderr.strip().splitlines()[-1:]})"
    pair, found = pickle.loads(job.read_bytes())
    return found if pair == SATURATED else f"a pair that saturates gives {pair} under {' '.join(PROCESSOR)}, not {SATURATED}"


def error(reference, found):
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def figures(reference, here, there):
    """(top-1 equal to the float model's here, there; relative error here, there)."""
    same = [float((found.argmax(1) == reference.argmax(1)).mean()) for found in (here, there)]
    return (*same, error(reference, here), error(reference, there))


def shown(name, figures):
    return f"{name}: top-1 as float {figures[0]:.4f} here, {figures[1]:.4f} emulated; error {figures[2]:.5f}, {figures[3]:.5f}"


def plant(float_model, integer_model, data):
    """Two classes that sum three inputs each; those of the first meet in pairs, those of the second do not."""
    rows = np.array([[120, 120, 120, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 120, 0, 118, 0, 120, 0]], np.int8)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, rows.shape[1]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    pairs = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             helper.make_node("DequantizeLinear", ["w", "t", "k"], ["v"]), helper.make_node("Gemm", ["d", "v"], ["o"], transB=1),
             helper.make_node("QuantizeLinear", ["o", "u", "z"], ["p"]), helper.make_node("DequantizeLinear", ["p", "u", "z"], ["y"])]
    constants = {"s": np.float32(1 / 255), "t": np.float32(1 / 127), "u": np.float32(3 / 255), "z": np.uint8(0), "k": np.int8(0), "w": rows}
    graph = helper.make_graph(pairs, "planted", [x], [y], [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()])
    weights = numpy_helper.from_array(rows.astype(np.float32) / 127, "w")
    own = helper.make_graph([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], "float", [x], [y], [weights])
    for path, graph in ((integer_model, graph), (float_model, own)):
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    np.savez(data, x=np.random.default_rng(9).random((SAMPLES, rows.shape[1]), np.float32))


def made(tool, scratch):
    """(name, float model, 8-bit model, data) by the tool, from the fixtures."""
    def run(*arguments):
        subprocess.run([tool, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)

    rows = []
    for name in FIXTURES:
        home = ROOT / "fixtures" / name
        out = scratch / f"{name}.onnx"
        run(home / "model.onnx", "-o", out, "--int8", "--data", home / "calib.npz", "--place", "wrap")
        rows.append((name, home / "model.onnx", out, home / "eval.npz"))
    float_model, planted, repaired, data = (scratch / name for name in ("float.onnx", "planted.onnx", "repaired.onnx", "planted.npz"))
    plant(float_model, planted, data)
    run(planted, "-o", repaired, "--only", "fix-saturation", "--fix-saturation")
    rows += [("planted", float_model, planted, data), ("repaired", float_model, repaired, data)]
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tool", default=str(TARGET / "release/onnx-shrink"))
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("models", nargs="*")
    a = p.parse_args()
    if a.child:
        return child(a.child)
    if len(a.models) % 3:
        p.error("three arguments for each model: FLOAT.onnx INT8.onnx DATA.npz")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        given = [(Path(b).stem, f, b, d) for f, b, d in zip(a.models[::3], a.models[1::3], a.models[2::3])]
        rows = given or made(a.tool, scratch)
        there = without_vnni([(str(Path(model).resolve()), str(Path(data).resolve())) for _, _, model, data in rows], scratch)
        if isinstance(there, str):
            print(f"skipped: {there}")
            return
        found = {name: (model, figures(outputs(float_model, data), outputs(model, data), there[index]))
                 for index, (name, float_model, model, data) in enumerate(rows)}
    for name, (_, row) in found.items():
        print(shown(name, row))
    if given:
        return
    wrong = [f"{name} differs without VNNI" for name, (_, row) in found.items()
             if name != "planted" and (row[0] != row[1] or row[3] > 1.05 * row[2] + 1e-6)]
    planted = found["planted"][1]
    if planted[1] > planted[0] - 0.05 or planted[3] < 2 * planted[2] + 0.05:
        wrong.append("what was planted does not saturate: the test says nothing")
    if found["repaired"][1][1] < 0.97:
        wrong.append("what was planted is not repaired")
    if wrong:
        sys.exit("\n".join(wrong))


main()
