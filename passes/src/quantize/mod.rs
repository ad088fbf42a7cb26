//! Quantization: ranges from samples, a placement that pays, Quantize/Dequantize pairs that engines fuse.
pub mod calibration;
pub mod calibrators;
pub mod cancel_qdq;
mod fix_saturation;
pub mod histogram;
mod insert_qdq;
mod integer_moves;
pub mod place;
pub mod saturation;
mod store_int8;
pub mod units;
pub mod weights;

pub use cancel_qdq::{CancelQdq, Exactness};
pub use fix_saturation::FixSaturation;
pub use insert_qdq::InsertQdq;
pub use store_int8::StoreInt8;

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
