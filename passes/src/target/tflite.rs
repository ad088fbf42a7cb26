//! Converters to TensorFlow Lite: its 8-bit quantization specification (`docs/engines.md` §6).
use onnx_shrink_ir::DataType;

use crate::target::{
    generic::PLAIN,
    pairing::Pairing,
    row::{Places, Target},
};

/// TensorFlow Lite.
pub const TFLITE_STYLE: Target = Target {
    name: "tflite-style",
    about: "converters to TensorFlow Lite: its 8-bit specification, every tensor; one scale a matrix, as its first versions want",
    activations: DataType::Int8,
    per_channel: &["Conv"],
    pairing: Pairing::None,
    places: Places::EveryTensor,
    one_scale: &["Concat", "AveragePool", "Resize", "Pad", "Gather", "SpaceToDepth", "Max", "Min"],
    fixed: &[
        ("Sigmoid", 1.0 / 256.0, -128),
        ("Softmax", 1.0 / 256.0, -128),
        ("LogSoftmax", 16.0 / 256.0, 127),
        ("Tanh", 1.0 / 128.0, 0),
    ],
    ..PLAIN
};
