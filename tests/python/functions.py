"""Models with functions of their own, as this tool writes them, against ONNX Runtime; fails when one gives other values.

usage: functions.py [--tool target/release/onnx-shrink]

The models call functions in functions, with attribute references and defaults, with inputs and outputs left out, in bodies and with
bodies, of an older opset. Each is shrunk without loss, in 8 bits, and in 16-bit floats; the original and the result run in ONNX Runtime.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
N = helper.make_node
WIDTH = 64
RNG = np.random.default_rng(0)
MODES = {"lossless": ([], 1e-5), "int8": (["--int8", "--data", "samples"], 0.05), "fp16": (["--weights", "fp16"], 1e-3)}


def opsets(opset=18):
    return [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]


def weights(*dims):
    return (RNG.standard_normal(dims) / 8).astype(np.float32)


def info(name, dims=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def call(name, inputs, outputs, **attributes):
    return N(name, inputs, outputs, domain="own", **attributes)


def function(name, inputs, outputs, nodes, opset=18, **more):
    return helper.make_function("own", name, inputs, outputs, nodes, opsets(opset), **more)


def referring(node, name, to, kind):
    """`node` with an attribute that is the function's attribute `to`."""
    attribute = node.attribute.add()
    attribute.name, attribute.ref_attr_name, attribute.type = name, to, kind
    return node


def loop_body(step):
    """A body that makes `t` of `s` by the node `step`."""
    condition = [info("i", [], TensorProto.INT64), info("c", [], TensorProto.BOOL), info("s")]
    return helper.make_graph([step, N("Identity", ["c"], ["d"])], "body", condition, [info("d", [], TensorProto.BOOL), info("t")])


def functions():
    shift = numpy_helper.from_array(weights(WIDTH))
    yes = numpy_helper.from_array(np.bool_(True))
    leaky = referring(N("LeakyRelu", ["x"], ["t"]), "alpha", "slope", onnx.AttributeProto.FLOAT)
    soft = referring(N("Softmax", ["t"], ["y"]), "axis", "dim", onnx.AttributeProto.INT)
    inner = referring(call("Act", ["l"], ["y"]), "dim", "axis", onnx.AttributeProto.INT)
    then = helper.make_graph([call("Linear", ["a", "w", "b"], ["q"]), N("Neg", ["q"], ["r"])], "then", [], [info("r")])
    other = numpy_helper.from_array(weights(WIDTH, WIDTH), "u")
    otherwise = helper.make_graph([N("MatMul", ["a", "u"], ["q"]), N("Abs", ["q"], ["r"])], "else", [], [info("r")], [other])
    return [
        function("Linear", ["x", "w", "b"], ["y"], [N("Constant", [], ["c"], value=shift), N("MatMul", ["x", "w"], ["m"]),
                                                    N("Add", ["m", "c"], ["n"]), N("Add", ["n", "b"], ["y"])]),
        function("Clamp", ["x", "low", "high"], ["y", "z", "same"],
                 [N("Clip", ["x", "low", "high"], ["y"]), N("Relu", ["y"], ["z"]), N("Identity", ["x"], ["same"])]),
        function("Act", ["x"], ["y"], [leaky, soft], attributes=["dim"], attribute_protos=[helper.make_attribute("slope", 0.3)]),
        function("Outer", ["x", "w", "b"], ["y", "l"], [call("Linear", ["x", "w", "b"], ["l"]), inner], attributes=["axis"]),
        function("Branch", ["x", "w", "b"], ["y"],
                 [N("ReduceMean", ["x"], ["mean"], keepdims=0), N("Constant", [], ["zero"], value_float=0.0),
                  N("Greater", ["mean", "zero"], ["c"]), N("Mul", ["x", "x"], ["a"]),
                  N("If", ["c"], ["y"], then_branch=then, else_branch=otherwise)]),
        function("Repeat", ["x", "w", "b", "times"], ["y"],
                 [N("Constant", [], ["yes"], value=yes),
                  N("Loop", ["times", "yes", "x"], ["y"], body=loop_body(call("Linear", ["s", "w", "b"], ["t"])))]),
        function("Old", ["x", "w"], ["y"], [N("MatMul", ["x", "w"], ["m"]), N("Sigmoid", ["m"], ["y"])], opset=14),
    ]


def models():
    """(name, nodes) of graphs from x to y with the constants w, v, b, low, two and yes."""
    yield "nested", [call("Outer", ["x", "w", "b"], ["p", "l"], axis=-1), call("Outer", ["p", "v", "b"], ["q", ""], axis=0),
                     N("Add", ["q", "l"], ["y"])]
    yield "left out", [call("Clamp", ["x", "low", ""], ["p", "a", "same"]), call("Clamp", ["p", "", ""], ["c", "z", "d"]),
                       N("MatMul", ["z", "w"], ["m"]), N("Add", ["m", "same"], ["y"])]
    yield "with bodies", [call("Branch", ["x", "w", "b"], ["p"]), call("Repeat", ["p", "v", "b", "two"], ["q"]),
                          call("Branch", ["q", "v", "b"], ["y"])]
    step = helper.make_node("Outer", ["s", "w", "b"], ["t", ""], domain="own", axis=-1)
    yield "in a body", [N("Loop", ["two", "yes", "x"], ["y"], body=loop_body(step))]
    yield "older opset", [call("Old", ["x", "w"], ["y"])]


def run(path, samples):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x})[0] for x in samples]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", type=Path, default=ROOT / "target/release/onnx-shrink")
    tool = parser.parse_args().tool.resolve()
    constants = {"w": weights(WIDTH, WIDTH), "v": weights(WIDTH, WIDTH), "b": weights(WIDTH), "low": np.float32(-0.1),
                 "two": np.int64(2), "yes": np.bool_(True)}
    samples = [RNG.standard_normal((5, WIDTH)).astype(np.float32) for _ in range(4)]
    known, wrong, runs = functions(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "samples").mkdir()
        for number, sample in enumerate(samples):
            np.savez(folder / "samples" / f"{number}.npz", x=sample)
        for name, nodes in models():
            tensors = [numpy_helper.from_array(value, key) for key, value in constants.items()]
            graph = helper.make_graph(nodes, "g", [info("x", ["n", WIDTH])], [info("y")], tensors)
            before, after = folder / "in.onnx", folder / "out.onnx"
            onnx.save(helper.make_model(graph, opset_imports=opsets(), functions=known, ir_version=10), before)
            wanted = run(before, samples)
            for mode, (flags, most) in MODES.items():
                subprocess.run([tool, "in.onnx", "-o", "out.onnx", *flags], cwd=folder, check=True, capture_output=True)
                error = max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in zip(wanted, run(after, samples)))
                runs += 1
                if not error <= most:
                    wrong += 1
                    print(f"wrong: {name}, {mode}: {error:.2e}")
    print(f"{runs} models with functions: {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
