//! ONNX Runtime's QNN provider for Qualcomm's HTP (`docs/engines.md` §6).
use onnx_shrink_ir::DataType;

use crate::target::{
    generic::PLAIN,
    pairing::Pairing,
    row::{Places, Target},
};

/// QNN.
pub const QNN: Target = Target {
    name: "qnn",
    about: "ONNX Runtime's QNN provider (Qualcomm HTP): every tensor in 8 bits; s8 weights per channel are unverified there",
    weights: DataType::Uint8,
    per_channel: &[],
    pairing: Pairing::None,
    places: Places::EveryTensor,
    fixed: &[("Sigmoid", 1.0 / 256.0, 0), ("Tanh", 1.0 / 128.0, 128)],
    ..PLAIN
};
