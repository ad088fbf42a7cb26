//! What a target is: a row of facts.
use onnx_shrink_ir::DataType;

use crate::target::{pairing::Pairing, processor::Processor};

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

/// How far a cost model is trusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margins {
    /// All units in integers is taken instead of the cheapest placement when it costs at most so much more
    pub all: f64,
    /// The largest share of float's time that a placement may promise, or the model stays float: int8 costs accuracy
    pub least_gain: f64,
    /// The largest share of float's time, as the mean of the target's processors, that a dynamically quantized layer may promise
    pub dynamic: f64,
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
    /// How far the cost model is trusted
    pub margins: Margins,
    /// Op types that have an integer form
    pub ops: &'static [&'static str],
    /// Float op types that the engine runs in integers, many times slower, where they stand between Dequantize and Quantize
    pub slow_in_integers: &'static [&'static str],
    /// Float op types that the engine quantizes by itself, weights included, where they stand between Dequantize and Quantize:
    /// a Dequantize per axis before them keeps them float
    pub quantizes_between_pairs: &'static [&'static str],
    /// Whether ops that move signed integers are as fast alone as between the ops of a pair
    pub moves_signed: bool,
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

impl Target {
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
