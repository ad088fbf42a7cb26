//! The kernels, by op. Exact by ONNX's definitions; what an op leaves open is done as ONNX Runtime does.
//!
//! Two sorts of ops are here: those that the float engine lacks or gets wrong, and those so small that its overhead
//! would be larger than the work. Heavy float ops are **not** here. `KernelError::Unsupported` means that another engine
//! may try; `Failed` means that the inputs do not fit the op.
mod attention;
mod binary;
mod cast;
mod cells;
mod constant;
mod dequantize;
mod gather;
mod grain;
mod integer_conv;
mod layout;
mod lp_pool;
mod matmul;
mod max_pool;
mod moves;
mod numbers;
mod order;
mod pad;
mod quantize;
pub(crate) mod random;
mod recurrent;
mod reduce;
mod reshape;
mod select;
mod small_float;
mod softmax;
mod tensor_scatter;
mod unary;
mod upsample;
mod variadic;
mod window;

use onnx_shrink_ir::Op;

use crate::kernel::Kernel;

/// The kernel of `op` in version `opset` of ONNX's ops; `None` for ops that have none here.
pub fn find(op: &Op, opset: i64) -> Option<Kernel> {
    if !op.domain().is_empty() {
        return None;
    }
    let kernel: Kernel = match op.op_type() {
        // Quantization
        "QuantizeLinear" => quantize::quantize_linear,
        "DequantizeLinear" => dequantize::dequantize_linear,
        "DynamicQuantizeLinear" => quantize::dynamic_quantize_linear,
        "QLinearConv" => integer_conv::qlinear_conv,
        "ConvInteger" => integer_conv::conv_integer,
        "QLinearMatMul" => matmul::qlinear_matmul,
        "MatMulInteger" => matmul::matmul_integer,
        "MatMul" => matmul::matmul,
        "Cast" => cast::cast,
        "CastLike" => cast::cast_like,
        // Dimensions and places
        "Identity" => reshape::identity,
        "Reshape" => reshape::reshape,
        "Flatten" => reshape::flatten,
        "Squeeze" => reshape::squeeze,
        "Unsqueeze" => reshape::unsqueeze,
        "Shape" => reshape::shape,
        "Size" => reshape::size,
        "Transpose" => moves::transpose,
        "Expand" => moves::expand,
        "Tile" => moves::tile,
        "Slice" => moves::slice,
        "Split" => moves::split,
        "Concat" => moves::concat,
        "DepthToSpace" => moves::depth_to_space,
        "SpaceToDepth" => moves::space_to_depth,
        "ReverseSequence" => moves::reverse_sequence,
        "Gather" => gather::gather,
        "GatherElements" => gather::gather_elements,
        "GatherND" => gather::gather_nd,
        "ScatterElements" | "Scatter" => gather::scatter_elements,
        "ScatterND" => gather::scatter_nd,
        "Pad" => pad::pad,
        "Upsample" => upsample::upsample,
        "Where" => select::where_,
        "Compress" => select::compress,
        "NonZero" => select::non_zero,
        "Trilu" => select::trilu,
        "Constant" => constant::constant,
        "ConstantOfShape" => constant::constant_of_shape,
        "Range" => constant::range,
        "EyeLike" => constant::eye_like,
        "OneHot" => constant::one_hot,
        // Elementwise
        "Add" => binary::add,
        "Sub" => binary::sub,
        "Mul" => binary::mul,
        "Div" => binary::div,
        "Mod" => binary::modulo,
        "Pow" => binary::pow,
        "Equal" => binary::equal,
        "Less" => binary::less,
        "LessOrEqual" => binary::less_or_equal,
        "Greater" => binary::greater,
        "GreaterOrEqual" => binary::greater_or_equal,
        "And" => binary::and,
        "Or" => binary::or,
        "Xor" => binary::xor,
        "BitwiseAnd" => binary::bitwise_and,
        "BitwiseOr" => binary::bitwise_or,
        "BitwiseXor" => binary::bitwise_xor,
        "BitShift" => binary::bit_shift,
        "Max" => variadic::max,
        "Min" => variadic::min,
        "Sum" => variadic::sum,
        "Mean" => variadic::mean,
        "Clip" => variadic::clip,
        "Relu" => unary::relu,
        "LeakyRelu" => unary::leaky_relu,
        "Sigmoid" => unary::sigmoid,
        "Tanh" => unary::tanh,
        "HardSigmoid" => unary::hard_sigmoid,
        "HardSwish" => unary::hard_swish,
        "Celu" => unary::celu,
        "Swish" => unary::swish,
        "Sqrt" => unary::sqrt,
        "Exp" => unary::exp,
        "Log" => unary::log,
        "Reciprocal" => unary::reciprocal,
        "Floor" => unary::floor,
        "Ceil" => unary::ceil,
        "Round" => unary::round,
        "Neg" => unary::neg,
        "Abs" => unary::abs,
        "Sign" => unary::sign,
        "Not" => unary::not,
        "BitwiseNot" => unary::bitwise_not,
        "IsNaN" => unary::is_nan,
        "IsInf" => unary::is_inf,
        "Dropout" => unary::dropout,
        // Along axes
        "ReduceSum" => reduce::sum,
        "ReduceMean" => reduce::mean,
        "ReduceMax" => reduce::max,
        "ReduceMin" => reduce::min,
        "ReduceProd" => reduce::prod,
        "ReduceL1" => reduce::l1,
        "ReduceL2" => reduce::l2,
        "ReduceSumSquare" => reduce::sum_square,
        "ReduceLogSum" => reduce::log_sum,
        "ReduceLogSumExp" => reduce::log_sum_exp,
        "ArgMax" => order::arg_max,
        "ArgMin" => order::arg_min,
        "TopK" => order::top_k,
        "CumSum" => order::cum_sum,
        "CumProd" => order::cum_prod,
        "Softmax" if opset < 13 => softmax::softmax,
        "LogSoftmax" if opset < 13 => softmax::log_softmax,
        "LpPool" => lp_pool::lp_pool,
        "MaxPool" => max_pool::max_pool,
        "RNN" => recurrent::rnn,
        "GRU" => recurrent::gru,
        "LSTM" => recurrent::lstm,
        "Attention" => attention::attention,
        "TensorScatter" => tensor_scatter::tensor_scatter,
        _ => return random::find(op),
    };
    Some(kernel)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::{
        Tensor, import,
        proto::schema::{AttributeProto, GraphProto, ModelProto, NodeProto},
    };

    use crate::kernel::{Call, KernelError};

    /// The only output of an op without attributes.
    pub(super) fn run(op_type: &str, opset: i64, inputs: &[Tensor]) -> Tensor {
        let inputs: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
        let outputs = run_with(op_type, opset, vec![], &inputs).unwrap_or_else(|error| panic!("{op_type}: {error}"));
        outputs[0].clone().expect("an output")
    }

    /// The outputs of an op.
    pub(super) fn run_with(
        op_type: &str,
        opset: i64,
        attributes: Vec<AttributeProto>,
        inputs: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, KernelError> {
        run_outputs(op_type, opset, attributes, inputs, 1)
    }

    /// The outputs of an op that has `count` of them.
    pub(super) fn run_outputs(
        op_type: &str,
        opset: i64,
        attributes: Vec<AttributeProto>,
        inputs: &[Option<Tensor>],
        count: usize,
    ) -> Result<Vec<Option<Tensor>>, KernelError> {
        let node = NodeProto {
            op_type: Some(op_type.to_owned()),
            attribute: attributes,
            output: (0..count).map(|n| format!("y{n}")).collect(),
            ..NodeProto::default()
        };
        let graph = GraphProto { node: vec![node], ..GraphProto::default() };
        let model = import(ModelProto { graph: Some(graph), ..ModelProto::default() }).expect("a model");
        let op = model.graph.op(model.graph.ops()[0]);
        let kernel = super::find(op, opset).expect("a kernel");
        kernel(&Call { op, opset, inputs, max_bytes: 1 << 30, random: None })
    }

    /// The first output of an op of opset 15 that draws by the name `random`.
    pub(super) fn run_random(
        op_type: &str,
        attribute: Vec<AttributeProto>,
        inputs: &[Tensor],
        random: Option<&str>,
    ) -> Result<Tensor, KernelError> {
        let (op_type, output) = (Some(op_type.to_owned()), vec!["y".to_owned()]);
        let node = NodeProto { op_type, attribute, output, ..NodeProto::default() };
        let graph = GraphProto { node: vec![node], ..GraphProto::default() };
        let model = import(ModelProto { graph: Some(graph), ..ModelProto::default() }).expect("a model");
        let op = model.graph.op(model.graph.ops()[0]);
        let inputs: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
        let call = Call { op, opset: 15, inputs: &inputs, max_bytes: 1 << 30, random };
        let mut outputs = super::find(op, 15).expect("a kernel")(&call)?;
        Ok(outputs.swap_remove(0).expect("an output"))
    }

    #[test]
    fn foreign_domains_have_no_kernels() {
        let node = NodeProto {
            op_type: Some("Add".to_owned()),
            domain: Some("com.acme".to_owned()),
            output: vec!["y".to_owned()],
            ..NodeProto::default()
        };
        let graph = GraphProto { node: vec![node], ..GraphProto::default() };
        let model = import(ModelProto { graph: Some(graph), ..ModelProto::default() }).expect("a model");
        assert!(super::find(model.graph.op(model.graph.ops()[0]), 13).is_none());
    }
}
