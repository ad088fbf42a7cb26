//! TensorRT with explicit quantization (`docs/engines.md` §6).
use onnx_shrink_ir::DataType;

use crate::target::{
    generic::PLAIN,
    pairing::Pairing,
    row::{Bias, Ends, Target},
};

/// TensorRT.
pub const TENSORRT: Target = Target {
    name: "tensorrt",
    about: "TensorRT, explicit quantization; weights of float layers stay float: it wants a DequantizeLinear behind s8",
    activations: DataType::Int8,
    symmetric: true,
    pairing: Pairing::None,
    bias: Bias::Float,
    ends: Ends::Weighted,
    stores: false,
    small: &[],
    ..PLAIN
};
