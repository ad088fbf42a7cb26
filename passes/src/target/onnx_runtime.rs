//! ONNX Runtime's CPU provider: what it runs in integers, what it fuses, and what that costs. Measured with versions 1.16 to 1.32
//! (`docs/engines.md` §1 to §4, §8, §9); times are in [`costs`](crate::target::costs).
use onnx_shrink_ir::DataType;

use crate::target::{
    costs::by_size,
    pairing::Pairing,
    processor::Processor,
    row::{Bias, Ends, Margins, Places, Target},
};

/// Ops with integer kernels in ONNX Runtime's CPU provider (`docs/engines.md` §1).
const INTEGER_OPS: &[&str] = &[
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Mul",
    "Concat",
    "Sigmoid",
    "LeakyRelu",
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

/// The tables are not exact to a tenth, and integers everywhere were the measured best where the two were near (13 models,
/// ONNX Runtime 1.32).
const MARGINS: Margins = Margins { all: 1.08, least_gain: 0.97, dynamic: 0.9 };

/// Op types with weights that 8 bits know.
const WEIGHTED: &[&str] = &["Conv", "Gemm", "MatMul"];

/// The default target.
pub const ORT_CPU: Target = Target {
    name: "ort-cpu",
    about: "ONNX Runtime on x86 CPUs, with and without VNNI; the default",
    activations: DataType::Uint8,
    symmetric: false,
    weights: DataType::Int8,
    per_channel: WEIGHTED,
    pairing: Pairing::Neighbours,
    power_of_two: false,
    bias: Bias::Int32,
    places: Places::Cheapest(&[Processor::Vnni, Processor::Avx2]),
    margins: MARGINS,
    ops: INTEGER_OPS,
    slow_in_integers: &["AveragePool", "Softmax"],
    quantizes_between_pairs: &["Conv", "ConvTranspose", "Gemm", "MatMul"],
    moves_signed: false,
    ends: Ends::Linear,
    one_scale: &[],
    pairs_behind_moves: true,
    scale_of_one: true,
    fixed: &[],
    stores: true,
    halves_beside_pairs: &[],
    small: &["fp16", "int4"],
    formats: &["qdq", "qoperator", "integer"],
    dynamic: true,
    opset: 21,
    channel_block: 16,
};

/// Processors with VNNI.
pub const ORT_X86_VNNI: Target = Target {
    name: "ort-x86-vnni",
    about: "ONNX Runtime on x86 CPUs that have VNNI; wrong sums on others",
    pairing: Pairing::None,
    places: Places::Cheapest(&[Processor::Vnni]),
    ..ORT_CPU
};

/// Processors without VNNI.
pub const ORT_X86_AVX2: Target = Target {
    name: "ort-x86-avx2",
    about: "ONNX Runtime on x86 CPUs without VNNI",
    places: Places::Cheapest(&[Processor::Avx2]),
    channel_block: 8,
    ..ORT_CPU
};

/// 64-bit ARM.
pub const ORT_ARM64: Target = Target {
    name: "ort-arm64",
    about: "ONNX Runtime on 64-bit ARM, where sums have 32 bits; placed by the costs with VNNI, none were measured there",
    activations: DataType::Int8,
    pairing: Pairing::None,
    places: Places::Cheapest(&[Processor::Vnni]),
    formats: &["qdq"],
    ..ORT_CPU
};

/// Activations that ONNX Runtime fuses into a Gemm before it considers the int4 weight.
pub const GEMM_ACTIVATIONS: [&str; 9] =
    ["Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Tanh", "ThresholdedRelu"];

/// The first opset in which ONNX Runtime 1.32 does not recognize attention when it loads a model (below, by the place of its scale:
/// BERT's takes 1.4 times as long where that moves into a weight).
pub const ATTENTION_NOT_RECOGNIZED: i64 = 13;

/// Time of a dynamically quantized layer over its float time, `rows` × k times k × n, DynamicQuantizeLinear included: ONNX Runtime 1.32, one
/// thread, chains of four layers with bias and Relu, by √(k·n). Without VNNI: `docs/engines.md` §9.6, and between its entries by judgement.
pub fn dynamic_ratio(processor: Processor, rows: usize, k: usize, n: usize) -> f64 {
    type Table = &'static [(f64, f64)];
    let table: Table = match (processor, rows) {
        (Processor::Vnni, 0..4) => &[(64.0, 1.5), (128.0, 1.3), (256.0, 0.8), (512.0, 0.5), (1024.0, 0.27)],
        (Processor::Vnni, 4..16) => &[(64.0, 1.4), (128.0, 1.15), (256.0, 0.7), (512.0, 0.5), (1024.0, 0.2)],
        (Processor::Vnni, 16..64) => &[(64.0, 1.12), (128.0, 0.72), (256.0, 0.5), (512.0, 0.35)],
        (Processor::Vnni, _) => &[(64.0, 0.8), (128.0, 0.52), (256.0, 0.4), (512.0, 0.33)],
        (Processor::Avx2, 0..4) => &[(64.0, 1.4), (128.0, 1.12), (256.0, 0.78), (512.0, 0.51), (1024.0, 0.24)],
        (Processor::Avx2, 4..16) => &[(64.0, 1.4), (128.0, 1.1), (256.0, 0.77), (512.0, 0.52), (1024.0, 0.24)],
        (Processor::Avx2, 16..64) => &[(64.0, 1.2), (128.0, 0.93), (256.0, 0.72), (512.0, 0.54)],
        (Processor::Avx2, _) => &[(64.0, 1.1), (128.0, 0.85), (256.0, 0.65), (512.0, 0.54)],
    };
    by_size(((k * n) as f64).sqrt(), table)
}
