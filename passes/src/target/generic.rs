//! Engines in general: what is right for any that reads Q/DQ pairs.
use crate::target::{
    onnx_runtime::ORT_CPU,
    row::{Bias, Ends, Places, Target},
};

/// Ops that engines in general run in integers, or move integers through.
const COMMON: &[&str] = &[
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
    "Resize",
    "DepthToSpace",
];

/// A row without costs: every layer in integers, Q/DQ pairs alone. Rows of engines that were not measured begin with it.
pub const PLAIN: Target = Target {
    places: Places::All,
    ops: COMMON,
    slow_in_integers: &[],
    quantizes_between_pairs: &[],
    ends: Ends::Never,
    small: &["fp16"],
    formats: &["qdq"],
    dynamic: false,
    opset: 13,
    ..ORT_CPU
};

/// Any engine that reads pairs with zero points.
pub const GENERIC: Target = Target {
    name: "generic",
    about: "any engine that reads Q/DQ with zero points (TensorRT does not): every layer with weights, float biases",
    bias: Bias::Float,
    ..PLAIN
};
