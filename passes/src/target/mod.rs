//! What each engine wants of a quantized model: one row each, as facts. What an op costs: [`costs`].
//!
//! Source: `docs/engines.md` §2 (types), §6 (other engines), §9 (saturation), §10 (OpenVINO). **Nothing** else knows an
//! engine: units, placement and insertion read the row.
pub mod costs;
mod pairing;

use onnx_shrink_ir::DataType;

pub use costs::{Kind, Work, dequantize_time, quantize_time};
pub use pairing::Pairing;

/// A kind of x86 processor, as far as 8-bit sums are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// With the dot-product instructions (AVX512-VNNI, AVX-VNNI)
    Vnni,
    /// Without them
    Avx2,
}

/// How biases stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// DequantizeLinear of int32 with the scale f32(s_x·s_w)
    Int32,
    /// Float: the engine refuses the other form, or quantizes it at load
    Float,
}

/// Which of the ops that have an integer form get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// What is fastest by the cost tables of these processors together, and slower on none
    Cheapest(&'static [Processor]),
    /// All of them: no cost of this engine is known
    All,
    /// All of them, and every other float op between pairs of its own: the engine runs nothing in float
    EveryTensor,
    /// None: the engine runs pairs in float, so that they would only cost time
    Nothing,
}

/// Which kernels may write floats, so that the tensor behind them needs no Quantize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// None
    Never,
    /// Gemm and MatMul without an activation
    Linear,
    /// All that multiply by weights
    Weighted,
}

/// What one engine wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Its name on the command line
    pub name: &'static str,
    /// What it stands for, and what the row does not know
    pub about: &'static str,
    /// Type of activations: u8 or s8
    pub activations: DataType,
    /// Whether their zero points must be the middle (0 in s8, 128 in u8)
    pub symmetric: bool,
    /// Type of weights: s8 with zero point 0, u8 with 128
    pub weights: DataType,
    /// Op types whose weights have a scale for each output channel; those of the others have one scale
    pub per_channel: &'static [&'static str],
    /// Whether sums of two products must fit 16 bits; if not, weights use their full range
    pub pairing: Pairing,
    /// Whether every scale must be a power of two
    pub power_of_two: bool,
    /// Form of biases
    pub bias: Bias,
    /// Which ops run in integers
    pub places: Places,
    /// Op types that have an integer form
    pub ops: &'static [&'static str],
    /// Which kernels may write floats
    pub ends: Ends,
    /// Op types all of whose inputs and outputs must have one scale, besides those that only move numbers
    pub one_scale: &'static [&'static str],
    /// Whether what only moves numbers has a pair behind it, too
    pub pairs_behind_moves: bool,
    /// Whether the scale of an activation may be exactly 1
    pub scale_of_one: bool,
    /// Scale and zero point of outputs whose range is fixed, by op type
    pub fixed: &'static [(&'static str, f32, i32)],
    /// Whether weights of float ops may be stored in 8 bits, as Cast and Mul of a constant
    pub stores: bool,
    /// Op types whose weights the engine does not read in 8 bits beside integer layers
    pub halves_beside_pairs: &'static [&'static str],
    /// Types of `--weights` whose constants the engine reads, and folds when it loads them
    pub small: &'static [&'static str],
    /// Forms of `--format` that the engine runs in integers; the first is the default
    pub formats: &'static [&'static str],
    /// Whether it has kernels for layers that find their ranges in each run (DynamicQuantizeLinear, MatMulInteger)
    pub dynamic: bool,
    /// The highest opset that a file is raised to for its sake; a model that has a higher one keeps it
    pub opset: i64,
    /// Channels that its convolutions compute at once, a power of two from 8 on: what is left of a block is computed all the
    /// same. Measured with ONNX Runtime 1.32 on AVX-512, residual blocks of 3×3 convolutions, time by inner channels, of 64:
    /// 56 1.01, 48 0.79, 40 0.79, 32 0.57, 16 0.34; of 32: 24 1.01, 16 0.56, 8 0.46; of 16: 12 0.99, 8 0.81, 4 0.67. Where files
    /// are for several kinds of processor it is the widest; engines that were not measured have that of ONNX Runtime
    pub channel_block: usize,
}

/// Ops with integer kernels in ONNX Runtime's CPU provider (`docs/engines.md` §1).
const ORT: &[&str] = &[
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

/// Ops that OpenVINO's CPU plugin runs in integers, or moves integers through (`docs/engines.md` §10).
const OPENVINO: &[&str] = &[
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

/// Op types with weights that 8 bits know.
const WEIGHTED: &[&str] = &["Conv", "Gemm", "MatMul"];

/// The default.
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
    ops: ORT,
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

/// A row without costs: everything in integers, pairs alone.
const PLAIN: Target = Target {
    places: Places::All,
    ops: COMMON,
    ends: Ends::Never,
    small: &["fp16"],
    formats: &["qdq"],
    dynamic: false,
    opset: 13,
    ..ORT_CPU
};

/// Every target, in the order in which they are listed.
pub const TARGETS: [Target; 11] = [
    ORT_CPU,
    Target {
        name: "ort-x86-vnni",
        about: "ONNX Runtime on x86 CPUs that have VNNI; wrong sums on others",
        pairing: Pairing::None,
        places: Places::Cheapest(&[Processor::Vnni]),
        ..ORT_CPU
    },
    Target {
        name: "ort-x86-avx2",
        about: "ONNX Runtime on x86 CPUs without VNNI",
        places: Places::Cheapest(&[Processor::Avx2]),
        channel_block: 8,
        ..ORT_CPU
    },
    Target {
        name: "ort-arm64",
        about: "ONNX Runtime on 64-bit ARM, where sums have 32 bits; placed by the costs with VNNI, none were measured there",
        activations: DataType::Int8,
        pairing: Pairing::None,
        places: Places::Cheapest(&[Processor::Vnni]),
        formats: &["qdq"],
        ..ORT_CPU
    },
    Target {
        name: "tract",
        about: "tract, which runs Q/DQ pairs in float (2.5 times slower): weights are stored in 8 bits, nothing runs in them",
        places: Places::Nothing,
        ops: &[],
        formats: &[],
        ..PLAIN
    },
    Target {
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
    },
    Target {
        name: "openvino",
        about: "OpenVINO's CPU plugin; sums as ONNX Runtime's",
        ops: OPENVINO,
        ends: Ends::Weighted,
        pairs_behind_moves: false,
        scale_of_one: false,
        halves_beside_pairs: &["LSTM", "GRU", "RNN"],
        small: &["fp16", "int4"],
        opset: 21,
        ..PLAIN
    },
    Target {
        name: "qnn",
        about: "ONNX Runtime's QNN provider (Qualcomm HTP): every tensor in 8 bits; s8 weights per channel are unverified there",
        weights: DataType::Uint8,
        per_channel: &[],
        pairing: Pairing::None,
        places: Places::EveryTensor,
        fixed: &[("Sigmoid", 1.0 / 256.0, 0), ("Tanh", 1.0 / 128.0, 128)],
        ..PLAIN
    },
    Target {
        name: "vitis",
        about: "AMD's Vitis AI: symmetric, scales are powers of two",
        activations: DataType::Int8,
        symmetric: true,
        per_channel: &[],
        pairing: Pairing::None,
        power_of_two: true,
        ..PLAIN
    },
    Target {
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
    },
    Target {
        name: "generic",
        about: "any engine that reads Q/DQ with zero points (TensorRT does not): every layer with weights, float biases",
        bias: Bias::Float,
        ..PLAIN
    },
];

/// Engines that want the float model, and why.
pub const WANT_FLOAT: [(&str, &str); 5] = [
    ("ncnn", "imports no Q/DQ; ncnn2table and ncnn2int8 calibrate the float model"),
    ("MNN", "its converter aborts on Q/DQ; it quantizes the float model itself"),
    ("MACE", "reads no quantized ONNX; its converter quantizes the float model"),
    ("RKNN", "rknn-toolkit2 quantizes the float model itself; its documents name no Q/DQ input"),
    ("TVM", "imports Q/DQ and computes in float: nothing gained but bytes"),
];

impl Target {
    /// The target `name`.
    pub fn named(name: &str) -> Option<&'static Target> {
        const ALL: &[Target] = &TARGETS;
        ALL.iter().find(|target| target.name == name)
    }

    /// All names, as one sentence lists them.
    pub fn names() -> String {
        TARGETS.map(|target| target.name).join(", ")
    }

    /// Processors whose cost tables placing weighs; none where costs do not decide.
    pub fn processors(&self) -> &'static [Processor] {
        match self.places {
            Places::Cheapest(processors) => processors,
            _ => &[],
        }
    }

    /// Whether ops of type `op_type` have an integer form.
    pub fn has(&self, op_type: &str) -> bool {
        self.ops.contains(&op_type)
    }

    /// Least and largest integer of an activation.
    pub fn span(&self) -> (i32, i32) {
        match (self.activations, self.symmetric) {
            (DataType::Int8, true) => (-127, 127),
            (DataType::Int8, false) => (-128, 127),
            _ => (0, 255),
        }
    }
}

impl Default for &Target {
    fn default() -> Self {
        &ORT_CPU
    }
}

/// Channels must come in such numbers for blocked kernels to be taken at all: 30 of 64 take 0.73 where 32 take 0.57.
pub const CHANNEL_ALIGNMENT: usize = 4;

/// Steps in which channels of a group of `count` are kept where kernels compute blocks of `block`: half a block where the group
/// has several, else [`CHANNEL_ALIGNMENT`]. (Whole blocks would leave no choice: the bench's nets have 16 to 64 channels.)
pub fn channel_step(count: usize, block: usize) -> usize {
    match count {
        ..8 => 1,
        _ if count >= 2 * block => (block / 2).max(CHANNEL_ALIGNMENT),
        _ => CHANNEL_ALIGNMENT,
    }
}
