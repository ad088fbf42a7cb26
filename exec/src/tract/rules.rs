//! What tract may run: an allow-list, op by op, with the attributes that it honours.
//!
//! Why: tract ignores domains and attributes that it does not know and then computes something else
//! (`ONNX's backend cases` found reverse LSTM, windowed Attention, SpaceToDepth's mode …). The list is what passed those cases, without
//! the ops whose kernel of ours does every form: those that move elements, and those that make constants.
//! **Never** contains an op on the strength of its name alone: an attribute that is not listed refuses the op.
use onnx_shrink_ir::Op;

use crate::kernel::{Call, KernelError};

/// How element types that tract computes less exactly are given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Types {
    /// The op computes: 16-bit floats go as float, and the outputs that `float` marks (bit per output) are rounded back
    Computes {
        /// Outputs of the same type as the inputs, one bit each, the first in the lowest
        float: u32,
    },
    /// As they are
    AsIs,
}

/// What tract may do with an op.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// Attributes that tract honours, or that mean nothing for inference
    pub attributes: &'static [&'static str],
    /// Inputs that must be known when the op is built
    pub parameters: &'static [usize],
    /// Element types
    pub types: Types,
    /// Run as written: tract's rewrites would change the result (a division becomes a multiplication)
    pub plain: bool,
    /// What else must hold
    pub check: fn(&Call<'_>) -> Result<(), KernelError>,
}

fn nothing(_: &Call<'_>) -> Result<(), KernelError> {
    Ok(())
}

const fn computes(attributes: &'static [&'static str]) -> Rule {
    Rule { attributes, parameters: &[], types: Types::Computes { float: u32::MAX }, plain: false, check: nothing }
}

impl Rule {
    const fn with(self, parameters: &'static [usize]) -> Rule {
        Rule { parameters, ..self }
    }

    const fn when(self, check: fn(&Call<'_>) -> Result<(), KernelError>) -> Rule {
        Rule { check, ..self }
    }

    const fn first_is_float(self) -> Rule {
        Rule { types: Types::Computes { float: 1 }, ..self }
    }

    const fn as_is(self) -> Rule {
        Rule { types: Types::AsIs, ..self }
    }
}

const CONV: &[&str] = &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];
const TRANSPOSED: &[&str] =
    &["auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads", "strides"];
const AVERAGE: &[&str] =
    &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"];
const MAX: &[&str] = &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"];
const REDUCE: &[&str] = &["axes", "keepdims", "noop_with_empty_axes"];
const RECURRENT: &[&str] = &["activations", "direction", "hidden_size", "layout"];
const GRU: &[&str] = &["activations", "direction", "hidden_size", "layout", "linear_before_reset"];
const NORM: &[&str] = &["axis", "epsilon", "stash_type"];
const RESIZE: &[&str] = &[
    "antialias",
    "axes",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "mode",
    "nearest_mode",
];

/// The rule for `op`; why there is none.
pub(crate) fn rule(op: &Op) -> Result<Rule, String> {
    if !op.domain().is_empty() {
        return Err("ops of this domain are not known".to_owned());
    }
    let rule = match op.op_type() {
        "Abs" | "Acos" | "Asin" | "Atan" | "Atanh" | "Ceil" | "Cos" | "Cosh" | "Erf" | "Exp" | "Floor" | "Log"
        | "Neg" | "Reciprocal" | "Round" | "Sign" | "Sin" | "Sinh" | "Softsign" | "Sqrt" | "Tan" | "IsNaN" | "Add"
        | "Sub" | "Mul" | "Pow" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Mean" | "Sum"
        | "PRelu" | "GlobalAveragePool" => computes(&[]),
        "Max" | "Min" | "Relu" | "Sigmoid" | "Tanh" => computes(&[]).when(super::checks::no_nan),
        "Acosh" | "Asinh" | "HardSwish" | "Mish" | "Softplus" => computes(&[]).when(super::checks::magnitude),
        "GlobalMaxPool" => computes(&[]).when(super::checks::finite),
        "Not" | "And" | "Or" | "Xor" => computes(&[]).as_is(),
        "Div" => Rule { plain: true, ..computes(&[]).when(super::checks::divisor) },
        "Mod" => computes(&["fmod"]).when(super::checks::divisor),
        "ArgMax" | "ArgMin" => computes(&["axis", "keepdims", "select_last_index"]).when(super::checks::arg_max),
        "AveragePool" => computes(AVERAGE).when(super::checks::pool),
        "MaxPool" => computes(MAX).first_is_float().when(super::checks::pool),
        "BatchNormalization" => computes(&["epsilon", "momentum", "spatial", "training_mode"])
            .with(&[1, 2, 3, 4])
            .when(super::checks::batch_normalization),
        "Cast" => computes(&["to", "saturate"]).as_is(),
        "CastLike" => computes(&["saturate"]).as_is(),
        "Celu" => computes(&["alpha"]).when(super::checks::celu),
        "Elu" | "LeakyRelu" | "ThresholdedRelu" => computes(&["alpha"]),
        "Clip" => computes(&["max", "min"]).when(super::checks::clip),
        "Conv" => computes(CONV).when(super::checks::conv),
        "ConvInteger" => computes(CONV).with(&[2, 3]).as_is().when(super::checks::conv),
        "ConvTranspose" => computes(TRANSPOSED).when(super::checks::conv_transpose),
        "CumSum" => computes(&["exclusive", "reverse"]).with(&[1]),
        "DFT" => computes(&["axis", "inverse", "onesided"]).with(&[1, 2]),
        "STFT" => computes(&["onesided"]).with(&[1, 2, 3]),
        "BlackmanWindow" | "HammingWindow" | "HannWindow" => {
            computes(&["output_datatype", "periodic"]).with(&[0]).as_is().when(super::checks::window_function)
        }
        "MelWeightMatrix" => {
            computes(&["output_datatype"]).with(&[0, 1, 2, 3, 4]).as_is().when(super::checks::window_type)
        }
        "DequantizeLinear" => computes(&["axis"]).with(&[1, 2]).as_is().when(super::checks::dequantize),
        "Dropout" => computes(&["ratio", "seed"]).with(&[1, 2]).first_is_float().when(super::checks::dropout),
        "Einsum" => computes(&["equation"]).when(super::checks::einsum),
        "Gelu" => computes(&["approximate"]).when(super::checks::magnitude),
        "Gemm" => computes(&["alpha", "beta", "transA", "transB"]).when(super::checks::gemm),
        "GridSample" => computes(&["align_corners", "mode", "padding_mode"]).when(super::checks::grid_sample),
        "GroupNormalization" => computes(&["epsilon", "num_groups"]).when(super::checks::group_normalization),
        "GRU" => computes(GRU).with(&[1, 2, 3, 4]).when(super::checks::recurrent),
        "LSTM" | "RNN" => computes(RECURRENT).with(&[1, 2, 3, 4]).when(super::checks::recurrent),
        "HardSigmoid" => computes(&["alpha", "beta"]).when(super::checks::no_nan),
        "LogSoftmax" => computes(&["axis"]).when(super::checks::log_softmax),
        "Hardmax" | "Softmax" => computes(&["axis"]).when(super::checks::axis),
        "InstanceNormalization" => computes(&["epsilon"]),
        "IsInf" => computes(&["detect_negative", "detect_positive"]),
        "LRN" => computes(&["alpha", "beta", "bias", "size"]),
        "LayerNormalization" | "RMSNormalization" => computes(NORM).first_is_float().when(super::checks::norm),
        "LpNormalization" => computes(&["axis", "p"]).when(super::checks::axis),
        "MatMul" => computes(&[]).when(super::checks::mat_mul),
        "MatMulInteger" => computes(&[]).with(&[2, 3]).as_is(),
        "MeanVarianceNormalization" => computes(&["axes"]),
        "NonMaxSuppression" => computes(&["center_point_box"]).as_is(),
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => computes(REDUCE).with(&[1]).when(super::checks::reduce),
        "Resize" => computes(RESIZE).with(&[1, 2, 3]).when(super::checks::resize),
        "RotaryEmbedding" => computes(&["interleaved", "num_heads", "rotary_embedding_dim"]),
        "Selu" => computes(&["alpha", "gamma"]),
        "Shrink" => computes(&["bias", "lambd"]),
        "Swish" => computes(&["alpha"]).when(super::checks::swish),
        "TopK" => computes(&["axis", "k", "largest", "sorted"]).with(&[1]).first_is_float().when(super::checks::top_k),
        "Attention" => computes(&["is_causal", "kv_num_heads", "q_num_heads", "scale"]).when(super::checks::attention),
        _ => return Err("there is no kernel for it".to_owned()),
    };
    let known = |name: &str| rule.attributes.contains(&name);
    match op.attributes().iter().find(|attribute| !known(attribute.name())) {
        Some(attribute) => Err(format!("its attribute `{}` is not known", attribute.name())),
        None => Ok(rule),
    }
}
