//! Options that take one of a few words: the words, what they mean, and their help.
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use onnx_shrink_driver::{
    request::{
        Calibrate,
        formats::{Format, Requantizing},
        qdq::{Cancel, Place},
        weights::Weights,
    },
    samples::{Channels, Layout},
    validate::Standard,
};
use onnx_shrink_passes::prune::orders::Criterion;

/// A word, what it stands for, and its line in the help.
type Choice<T> = (&'static str, T, &'static str);

/// Reads one of the words of `choices`.
pub fn one_of<T: Copy + Send + Sync + 'static>(choices: &'static [Choice<T>]) -> impl TypedValueParser<Value = T> {
    let words = choices.iter().map(|(word, _, help)| PossibleValue::new(*word).help(*help));
    PossibleValuesParser::new(words).map(|word| {
        let choice = choices.iter().find(|(known, ..)| *known == word);
        choice.expect("the parser takes no other word than these").1
    })
}

/// `--calibrate`
pub const CALIBRATE: &[Choice<Calibrate>] = &[
    ("auto", Calibrate::Auto, "The one that measures best"),
    ("minmax", Calibrate::MinMax, "From the least to the largest value seen"),
    ("percentile", Calibrate::Percentile, "Without the outermost values"),
    ("entropy", Calibrate::Entropy, "The range with the least Kullback-Leibler divergence"),
    ("mse", Calibrate::Mse, "The range with the least squared error"),
];

/// `--place`
pub const PLACE: &[Choice<Place>] = &[
    ("cut", Place::Cut, "Where the target gains from it: a minimum cut over its cost table"),
    (
        "wrap",
        Place::Wrap,
        "Every layer that has an integer form, each in pairs of its own that are cancelled where they meet",
    ),
];

/// `--cancel-qdq`
pub const CANCEL: &[Choice<Cancel>] = &[
    ("exact", Cancel::Exact, "Those without which every number is the same"),
    ("approximate", Cancel::Approximate, "Also two Quantizes in a row, of which the last one stays"),
];

/// `--format`
pub const FORMAT: &[Choice<Format>] = &[
    ("qdq", Format::Qdq, "As Quantize/Dequantize pairs, which engines fuse"),
    ("qoperator", Format::Qoperator, "As QLinearConv and QLinearMatMul"),
    ("integer", Format::Integer, "As ConvInteger and MatMulInteger, whose int32 sums are requantized by plain ops"),
];

/// `--requantize`
pub const REQUANTIZE: &[Choice<Requantizing>] = &[
    ("frozen", Requantizing::Frozen, "From the samples"),
    ("shrink", Requantizing::Shrink, "From the sums of each run: its outputs then depend on the batch"),
];

/// `--weights`
pub const WEIGHTS: &[Choice<Weights>] = &[
    ("fp16", Weights::Fp16, "16-bit floats"),
    ("int4", Weights::Int4, "4-bit integers in blocks, by GPTQ with samples"),
];

/// `--prune-criterion`
pub const CRITERION: &[Choice<Criterion>] = &[
    ("l1", Criterion::L1, "Sum of magnitudes of the weights that make a channel"),
    ("l2", Criterion::L2, "Sum of their squares"),
    ("bn-gamma", Criterion::BnGamma, "Factor of the batch norm after it"),
    ("activation", Criterion::Activation, "How much it varies and what its readers make of that"),
    ("random", Criterion::Random, "A fixed shuffle"),
    ("reconstruction", Criterion::Reconstruction, "Least-squares loss of its readers, solved for again"),
];

/// `--layout`
pub const LAYOUT: &[Choice<Layout>] = &[
    ("auto", Layout::Auto, "From the input's shape: the axis that is 1 or 3"),
    ("nchw", Layout::Nchw, "Batch, channels, height, width"),
    ("nhwc", Layout::Nhwc, "Batch, height, width, channels"),
];

/// `--channels`
pub const CHANNELS: &[Choice<Channels>] =
    &[("rgb", Channels::Rgb, "Red, green, blue"), ("bgr", Channels::Bgr, "Blue, green, red")];

/// `--as`
pub const STANDARD: &[Choice<Standard>] = &[
    (
        "auto",
        Standard::Auto,
        "`int8` if one of the models has 8-bit weights or ops and the other has none, `lossless` otherwise",
    ),
    ("lossless", Standard::Lossless, "The same results but for rounding"),
    ("int8", Standard::Int8, "Near enough for quantized models"),
];
