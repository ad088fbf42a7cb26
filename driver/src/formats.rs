//! In which form integer layers are written: the Quantize/Dequantize pairs that the quantizer makes, or what passes make of them.
//!
//! **Never** decides which layers are integer: that is done when this begins.
use onnx_shrink_ir::{
    Graph, Model, OpId, Use, infer,
    ops::{WeightLayout, is_clip},
};
use onnx_shrink_passes::{
    Context,
    analysis::integer_layers::layer_of,
    quantize::{LayoutInU8, Requantize, ToInteger, ToQoperator},
};

use crate::{
    Failure,
    request::formats::{Format, FormatOptions, Requantizing},
};

/// Bits of ONNX's integer sums.
const ACCUMULATOR_BITS: u32 = 32;

impl FormatOptions {
    /// `model` in this form; `None` when it is in it.
    pub fn write(&self, model: &Model, cx: &mut Context<'_>) -> Result<Option<Model>, Failure> {
        let mut model = match self.format {
            Format::Qdq => return Ok(None),
            _ => model.detached(),
        };
        cx.run(&LayoutInU8, &mut model.graph).map_err(Failure::bug)?;
        match self.format {
            Format::Qdq => {}
            Format::Qoperator => cx.run(&ToQoperator, &mut model.graph).map_err(Failure::bug)?,
            Format::Integer => {
                let requantize = match self.requantize {
                    Requantizing::Frozen => Requantize::Frozen,
                    Requantizing::Shrink => Requantize::Shrink,
                };
                let pass = ToInteger { requantize, bits: ACCUMULATOR_BITS };
                cx.run(&pass, &mut model.graph).map_err(Failure::bug)?;
            }
        }
        model.graph.sweep();
        infer::infer(&mut model.graph);
        Ok(Some(model))
    }

    /// Whether the layer `op` of a Quantize/Dequantize graph could leave its accumulator in this form.
    pub fn overflows(&self, graph: &Graph, op: OpId) -> bool {
        let Ok(layer) = layer_of(graph, op) else { return false };
        let splits =
            self.format == Format::Integer && !matches!(layer.float.layout, WeightLayout::Conv { groups: 2.. });
        !splits && layer.bound(graph).is_some_and(|bound| bound.bits() > ACCUMULATOR_BITS)
    }
}

/// Bits that the sums of the layer `op` of a Quantize/Dequantize graph need; `None` for what is no integer layer.
pub fn accumulator_bits(graph: &Graph, op: OpId) -> Option<u32> {
    layer_of(graph, op).ok()?.bound(graph).map(|bound| bound.bits())
}

/// Bytes of the constants of the layer named `name` in a graph that [`FormatOptions::write`] made; `None` when it is not there
/// in its form.
pub fn written_bytes(graph: &Graph, name: &str) -> Option<u64> {
    const PRODUCTS: [&str; 4] = ["QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"];
    const BEHIND: [&str; 5] = ["Add", "Cast", "Mul", "Round", "Reshape"];
    let named = |op: &OpId| graph.op(*op).name() == name && PRODUCTS.contains(&graph.op(*op).op_type());
    let mut op = graph.ops_in_id_order().into_iter().find(named)?;
    let is_qlinear = graph.op(op).op_type().starts_with("QLinear");
    let (mut bytes, mut last) = (0, op);
    loop {
        for &input in graph.op(op).inputs().iter().flatten() {
            // Scales that meet a run-time scale first.
            let scales = graph.producer(input).filter(|from| graph.op(*from).is("Mul") && *from != last);
            let scales = scales.map(|from| graph.op(from).inputs().iter().flatten().copied().collect::<Vec<_>>());
            let constants = scales.unwrap_or_else(|| vec![input]).into_iter().filter_map(|input| graph.constant(input));
            bytes += constants.map(|constant| constant.byte_len() as u64).sum::<u64>();
        }
        last = op;
        let next = graph.op(op).output(0).map(|output| graph.uses(output));
        match next.as_deref() {
            Some([Use::Input(next, _)])
                if !is_qlinear && (is_clip(graph.op(*next)) || BEHIND.contains(&graph.op(*next).op_type())) =>
            {
                op = *next
            }
            _ => return Some(bytes),
        }
    }
}
