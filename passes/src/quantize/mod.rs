//! Quantization: ranges from samples, a placement that pays, Quantize/Dequantize pairs that engines fuse.
pub mod accumulator;
pub mod bits;
pub mod calibration;
pub mod calibrators;
pub mod cancel_qdq;
mod draft;
pub mod dynamic_int8;
mod fix_saturation;
pub mod gptq;
pub mod histogram;
mod insert_qdq;
mod int4_forms;
pub mod integer_layers;
mod integer_moves;
pub mod largest;
mod layout_in_u8;
pub mod least_bits;
pub mod means;
pub mod model_ranges;
mod moments;
pub mod place;
mod requantize;
pub mod rounding;
pub mod saturation;
mod smooth;
mod store_fp16;
pub mod store_int4;
mod store_int8;
pub mod tables;
mod to_integer;
mod to_qoperator;
pub mod units;
pub mod weights;
mod wrap_qdq;

pub use cancel_qdq::{CancelQdq, Exactness};
pub use dynamic_int8::DynamicInt8;
pub use fix_saturation::FixSaturation;
pub use insert_qdq::InsertQdq;
pub use layout_in_u8::LayoutInU8;
pub use requantize::Requantize;
pub use store_fp16::StoreFp16;
pub use store_int4::StoreInt4;
pub use store_int8::StoreInt8;
pub use to_integer::ToInteger;
pub use to_qoperator::ToQoperator;
pub use wrap_qdq::WrapQdq;

use onnx_shrink_ir::Graph;

/// Whether someone quantized `graph` before: it then stays as it is.
pub fn is_quantized(graph: &Graph) -> bool {
    graph.ops_in_id_order().into_iter().any(|op| {
        let op = graph.op(op);
        let own = matches!(
            op.op_type(),
            "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" | "ConvInteger" | "MatMulInteger"
        );
        own || op.op_type().starts_with("QLinear") || op.regions().iter().any(|region| is_quantized(&region.graph))
    })
}
