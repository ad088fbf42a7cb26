//! OpenVINO's CPU plugin (`docs/engines.md` §10).
use crate::target::{
    generic::PLAIN,
    row::{Ends, Target},
};

/// Ops that OpenVINO's CPU plugin runs in integers, or moves integers through (`docs/engines.md` §10).
const INTEGER_OPS: &[&str] = &[
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Concat",
    "GlobalAveragePool",
    "MaxPool",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Split",
    "Gather",
    "Resize",
    "DepthToSpace",
];

/// OpenVINO's CPU plugin.
pub const OPENVINO: Target = Target {
    name: "openvino",
    about: "OpenVINO's CPU plugin; sums as ONNX Runtime's",
    ops: INTEGER_OPS,
    ends: Ends::Weighted,
    pairs_behind_moves: false,
    scale_of_one: false,
    halves_beside_pairs: &["LSTM", "GRU", "RNN"],
    small: &["fp16", "int4"],
    opset: 21,
    ..PLAIN
};
