//! What each op of ONNX does to the numbers of its inputs: one row an op, the one home of such facts.
//!
//! Passes, checks and samples ask here whether an op moves numbers, works elementwise, bounds its output, or multiplies by weights. An op
//! without a row is opaque: [`of`] gives `None`, and nothing is assumed of it. Attributes that change what an op does belong to the
//! typed views in [`crate::ops`]; here is what holds for all of them.
//!
//! **Source:** ONNX's operator reference, opset 1 to 28. A test wants a row, or a line among the opaque ops, for every op of the schema.
use crate::graph::Op;

/// What an op does to numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Gives all numbers of its input in their order, in another shape
    View,
    /// Gives numbers of its inputs as they are: all or some, once or more often, in any order, maybe with others between
    Movement,
    /// Makes a tensor of shapes, lengths or attributes alone
    Generator,
    /// Makes each number of the output of the numbers at its place, inputs broadcast
    Elementwise,
    /// Makes a number of those in a window, per channel
    Pool,
    /// Makes a number of all along some axes
    Reduction,
    /// Divides by a norm, or subtracts a mean, along some axes
    Normalization,
    /// Sums products of its first inputs: a layer, where one of them is a weight
    Product,
    /// Runs over a sequence, with weights
    Recurrence,
    /// Between floats and integers by scale and zero point
    Quantization,
}

/// Which inputs hold the numbers that an op works on; the others say how: indices, sizes, axes, scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// None
    None,
    /// These, by position
    At(&'static [usize]),
    /// All of them
    All,
}

/// A row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Semantics {
    /// The op's type, of ONNX's own domain
    pub op_type: &'static str,
    /// What it does
    pub effect: Effect,
    /// The inputs that it does it to
    pub data: Data,
    /// Least and largest number that it can give, whatever it reads
    pub range: Option<(f64, f64)>,
    /// Inputs that hold float weights where they are constant
    pub weights: &'static [usize],
    /// Whether its result is the same with every engine, to the bit, for the same inputs
    pub is_exact: bool,
}

impl Semantics {
    const fn new(op_type: &'static str, effect: Effect, data: Data) -> Semantics {
        let is_exact = matches!(effect, Effect::View | Effect::Movement | Effect::Generator);
        Semantics { op_type, effect, data, range: None, weights: &[], is_exact }
    }

    const fn between(self, low: f64, high: f64) -> Semantics {
        Semantics { range: Some((low, high)), ..self }
    }

    const fn weighs(self, weights: &'static [usize]) -> Semantics {
        Semantics { weights, ..self }
    }

    const fn rounding(self) -> Semantics {
        Semantics { is_exact: false, ..self }
    }

    const fn exact(self) -> Semantics {
        Semantics { is_exact: true, ..self }
    }

    /// Whether it moves data: its numbers are numbers of its inputs.
    pub fn is_movement(&self) -> bool {
        matches!(self.effect, Effect::View | Effect::Movement)
    }

    /// Whether the numbers of input `index` are among those that it works on.
    pub fn reads(&self, index: usize) -> bool {
        match self.data {
            Data::None => false,
            Data::At(places) => places.contains(&index),
            Data::All => true,
        }
    }

    /// Whether it works on one tensor, elementwise.
    pub fn is_unary(&self) -> bool {
        self.effect == Effect::Elementwise && self.data == Data::At(&[0])
    }
}

const fn view(op_type: &'static str) -> Semantics {
    Semantics::new(op_type, Effect::View, Data::At(&[0]))
}

const fn movement(op_type: &'static str, data: &'static [usize]) -> Semantics {
    Semantics::new(op_type, Effect::Movement, Data::At(data))
}

const fn generator(op_type: &'static str) -> Semantics {
    Semantics::new(op_type, Effect::Generator, Data::None)
}

const fn unary(op_type: &'static str) -> Semantics {
    Semantics::new(op_type, Effect::Elementwise, Data::At(&[0]))
}

const fn elementwise(op_type: &'static str) -> Semantics {
    Semantics::new(op_type, Effect::Elementwise, Data::All)
}

const fn first(op_type: &'static str, effect: Effect) -> Semantics {
    Semantics::new(op_type, effect, Data::At(&[0]))
}

const fn product(op_type: &'static str, weights: &'static [usize]) -> Semantics {
    Semantics::new(op_type, Effect::Product, Data::At(&[0, 1, 2])).weighs(weights)
}

const fn recurrence(op_type: &'static str) -> Semantics {
    Semantics::new(op_type, Effect::Recurrence, Data::All).weighs(&[1, 2])
}

/// The rows, by op type.
#[rustfmt::skip]
const TABLE: &[Semantics] = &[
    unary("Abs"), unary("Acos"), unary("Acosh"), elementwise("Add"), elementwise("And").exact(),
    unary("Asin"), unary("Asinh"), unary("Atan"), unary("Atanh"), first("AveragePool", Effect::Pool),
    first("BatchNormalization", Effect::Normalization), elementwise("BitShift").exact(), elementwise("BitwiseAnd").exact(),
    unary("BitwiseNot").exact(), elementwise("BitwiseOr").exact(), elementwise("BitwiseXor").exact(),
    generator("BlackmanWindow").rounding(),
    unary("Cast").exact(), unary("CastLike").exact(), unary("Ceil"), unary("Celu"), movement("CenterCropPad", &[0]),
    unary("Clip"), movement("Compress", &[0]),
    Semantics::new("Concat", Effect::Movement, Data::All), generator("Constant"), generator("ConstantOfShape"),
    product("Conv", &[1]), product("ConvInteger", &[]), product("ConvTranspose", &[1]),
    unary("Cos").between(-1.0, 1.0), unary("Cosh"), first("CumProd", Effect::Reduction), first("CumSum", Effect::Reduction),
    product("DeformConv", &[]), movement("DepthToSpace", &[0]), first("DequantizeLinear", Effect::Quantization),
    elementwise("Div"), unary("Dropout"), first("DynamicQuantizeLinear", Effect::Quantization),
    product("Einsum", &[]), unary("Elu"), elementwise("Equal").exact(), unary("Erf").between(-1.0, 1.0), unary("Exp"),
    movement("Expand", &[0]), generator("EyeLike"), view("Flatten"), unary("Floor"), recurrence("GRU"),
    movement("Gather", &[0]), movement("GatherElements", &[0]), movement("GatherND", &[0]), unary("Gelu"), product("Gemm", &[0, 1]),
    first("GlobalAveragePool", Effect::Pool), first("GlobalLpPool", Effect::Pool), first("GlobalMaxPool", Effect::Pool),
    elementwise("Greater").exact(), elementwise("GreaterOrEqual").exact(), first("GroupNormalization", Effect::Normalization),
    generator("HammingWindow").rounding(), generator("HannWindow").rounding(),
    unary("HardSigmoid").between(0.0, 1.0), unary("HardSwish"), first("Hardmax", Effect::Normalization), view("Identity"),
    first("InstanceNormalization", Effect::Normalization), unary("IsInf").exact(), unary("IsNaN").exact(),
    first("LRN", Effect::Normalization), recurrence("LSTM"), first("LayerNormalization", Effect::Normalization),
    unary("LeakyRelu"), elementwise("Less").exact(), elementwise("LessOrEqual").exact(), unary("Log"),
    first("LogSoftmax", Effect::Normalization), first("LpNormalization", Effect::Normalization), first("LpPool", Effect::Pool),
    product("MatMul", &[0, 1]), product("MatMulInteger", &[]), elementwise("Max"), first("MaxPool", Effect::Pool),
    elementwise("Mean"), first("MeanVarianceNormalization", Effect::Normalization), elementwise("Min"), unary("Mish"),
    elementwise("Mod"), elementwise("Mul"), unary("Neg"), generator("NonZero"), unary("Not").exact(), movement("OneHot", &[2]),
    elementwise("Or").exact(), elementwise("PRelu"), movement("Pad", &[0, 2]), elementwise("Pow"),
    Semantics::new("QLinearConv", Effect::Product, Data::At(&[0, 3, 8])),
    Semantics::new("QLinearMatMul", Effect::Product, Data::At(&[0, 3])),
    first("QuantizeLinear", Effect::Quantization), first("RMSNormalization", Effect::Normalization), recurrence("RNN"),
    unary("Reciprocal"), first("ReduceL1", Effect::Reduction), first("ReduceL2", Effect::Reduction),
    first("ReduceLogSum", Effect::Reduction), first("ReduceLogSumExp", Effect::Reduction), first("ReduceMax", Effect::Reduction),
    first("ReduceMean", Effect::Reduction), first("ReduceMin", Effect::Reduction), first("ReduceProd", Effect::Reduction),
    first("ReduceSum", Effect::Reduction), first("ReduceSumSquare", Effect::Reduction),
    unary("Relu").between(0.0, f64::INFINITY), view("Reshape"), first("Resize", Effect::Pool), movement("ReverseSequence", &[0]),
    unary("Round"), movement("Scatter", &[0, 2]), movement("ScatterElements", &[0, 2]), movement("ScatterND", &[0, 2]),
    unary("Selu"), generator("Shape"), unary("Shrink"), unary("Sigmoid").between(0.0, 1.0), unary("Sign").between(-1.0, 1.0),
    unary("Sin").between(-1.0, 1.0), unary("Sinh"), generator("Size"), movement("Slice", &[0]),
    first("Softmax", Effect::Normalization).between(0.0, 1.0), unary("Softplus"), unary("Softsign").between(-1.0, 1.0),
    movement("SpaceToDepth", &[0]), movement("Split", &[0]), unary("Sqrt"), view("Squeeze"), elementwise("Sub"), elementwise("Sum"),
    unary("Swish"), unary("Tan"), unary("Tanh").between(-1.0, 1.0), movement("TensorScatter", &[0, 1]), unary("ThresholdedRelu"),
    movement("Tile", &[0]), movement("TopK", &[0]).rounding(), movement("Transpose", &[0]), movement("Trilu", &[0]), view("Unsqueeze"),
    first("Upsample", Effect::Pool), movement("Where", &[1, 2]), elementwise("Xor").exact(),
];

/// The row of `op`; `None` for ops of other domains, with bodies, or that are opaque.
pub fn of(op: &Op) -> Option<&'static Semantics> {
    if !op.domain().is_empty() || !op.regions().is_empty() {
        return None;
    }
    let row = TABLE.binary_search_by(|row| row.op_type.cmp(op.op_type())).ok()?;
    Some(&TABLE[row])
}

/// Whether `op` only states another shape for its numbers. (An Identity states the same.)
pub fn is_reshape(op: &Op) -> bool {
    of(op).is_some_and(|row| row.effect == Effect::View && row.op_type != "Identity")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::TABLE;
    use crate::op_schema;

    /// Ops of which nothing is assumed.
    #[rustfmt::skip]
    const OPAQUE: [&str; 50] = [
        "AffineGrid", "ArgMax", "ArgMin", "Attention", "Bernoulli", "BitCast", "CausalConvWithState", "Col2Im", "ConcatFromSequence",
        "DFT", "Det", "GridSample", "If", "ImageDecoder", "LinearAttention", "Loop", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix",
        "Multinomial", "NegativeLogLikelihoodLoss", "NonMaxSuppression", "Optional", "OptionalGetElement", "OptionalHasElement",
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "RegexFullMatch", "RoiAlign",
        "RotaryEmbedding", "STFT", "Scan", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
        "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer",
        "StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique",
    ];

    #[test]
    fn every_op_of_the_schema_has_one_row_or_is_opaque() {
        assert!(TABLE.is_sorted_by(|a, b| a.op_type < b.op_type), "found by binary search");
        let own = op_schema::all().iter().filter(|schema| schema.domain.is_empty());
        let schema: BTreeSet<&str> = own.map(|schema| schema.op_type).collect();
        let rows: BTreeSet<&str> = TABLE.iter().map(|row| row.op_type).collect();
        let opaque: BTreeSet<&str> = OPAQUE.into();
        assert_eq!(rows.intersection(&opaque).collect::<Vec<_>>(), Vec::<&&str>::new());
        let known: BTreeSet<&str> = rows.union(&opaque).copied().collect();
        assert_eq!(schema.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "give these a row");
        assert_eq!(known.difference(&schema).collect::<Vec<_>>(), Vec::<&&str>::new(), "ONNX does not have these");
    }
}
