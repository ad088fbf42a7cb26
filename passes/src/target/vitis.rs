//! AMD's Vitis AI (`docs/engines.md` §6).
use onnx_shrink_ir::DataType;

use crate::target::{generic::PLAIN, pairing::Pairing, row::Target};

/// Vitis AI.
pub const VITIS: Target = Target {
    name: "vitis",
    about: "AMD's Vitis AI: symmetric, scales are powers of two",
    activations: DataType::Int8,
    symmetric: true,
    per_channel: &[],
    pairing: Pairing::None,
    power_of_two: true,
    ..PLAIN
};
