//! Which 8-bit weights of a file can give other sums on processors without VNNI.
//!
//! There ONNX Runtime adds the products of two neighbouring weights a, b in 16 bits: exact for every input if and only if
//! −128 ≤ a + b ≤ 128 ([`crate::numerics::weight_scales`]). So it is a property of the file alone. The weights are those of Conv, Gemm and
//! MatMul between Dequantizes, of QLinearConv, QLinearMatMul, ConvInteger and MatMulInteger.
//! **Source:** `docs/engines.md` §9. **Does not** look at ops of other domains; **never** at u8 weights, which are exact.
use ndarray::Array2;
use onnx_shrink_ir::{
    DataType, Graph, OpId, ValueId,
    ops::{LayerKind, Operands, RowOrder, WeightedLayer},
};

/// The flag that repairs such layers.
pub const FLAG: &str = "--fix-saturation";

/// A layer with weights that can saturate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Saturating {
    /// The op's label
    pub layer: String,
    /// Its type
    pub op: String,
    /// Pairs of weights that can
    pub pairs: usize,
    /// Of so many that meet
    pub of: usize,
}

/// The layers of `graph` and the bodies in it that can saturate, in the order of the graph.
pub fn saturating_layers(graph: &Graph) -> Vec<Saturating> {
    let mut found = Vec::new();
    for op in graph.ops() {
        for region in graph.op(op).regions() {
            found.extend(saturating_layers(&region.graph));
        }
        let Some((pairs, of)) = IntegerWeight::of(graph, op).and_then(|weight| weight.saturating_pairs(graph)) else {
            continue;
        };
        if pairs > 0 {
            let (layer, op) = (graph.label_of(op).to_owned(), graph.op(op).op_type().to_owned());
            found.push(Saturating { layer, op, pairs, of });
        }
    }
    found
}

/// One sentence for all of `layers`, with the way out; `None` when there are none.
pub fn warning(layers: &[Saturating]) -> Option<String> {
    const NAMED: usize = 8;
    let named = |layer: &Saturating| format!("`{}` ({} of {} pairs of weights)", layer.layer, layer.pairs, layer.of);
    let names: Vec<String> = layers.iter().take(NAMED).map(named).collect();
    let rest = layers.len().saturating_sub(NAMED);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    (!layers.is_empty()).then(|| {
        format!(
            "8-bit sums of {} can saturate, and the model then answers otherwise, on x86 processors without VNNI: {}{rest}; \
             {FLAG} gives their weights scales with which none can",
            if layers.len() == 1 { "1 layer".to_owned() } else { format!("{} layers", layers.len()) },
            names.join(", ")
        )
    })
}

/// How an integer layer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// A float op between Dequantizes; the one of the weight
    Pairs(OpId),
    /// QLinearConv, QLinearMatMul
    Operator,
    /// ConvInteger, MatMulInteger
    Accumulator,
}

/// An integer layer with its weight.
#[derive(Clone, Debug)]
pub(crate) struct IntegerWeight {
    /// The layer: of floats where it is written in pairs
    pub layer: WeightedLayer,
    /// The constant integers
    pub value: ValueId,
    /// How the layer is written
    pub written: Written,
    /// Whether it is depthwise: such kernels do not pair
    depthwise: bool,
}

impl IntegerWeight {
    /// The s8 weight of `op`, if it is an integer layer with one.
    pub fn of(graph: &Graph, op: OpId) -> Option<IntegerWeight> {
        let layer = WeightedLayer::of(graph, op).filter(|layer| layer.kind != LayerKind::ConvTranspose)?;
        let dequantized = |value: ValueId| graph.producer(value).filter(|by| graph.op(*by).is("DequantizeLinear"));
        let (value, written) = match layer.operands {
            Operands::Float => {
                dequantized(layer.x)?;
                let by = dequantized(layer.weight)?;
                (graph.op(by).input(0)?, Written::Pairs(by))
            }
            Operands::QLinear => (layer.weight, Written::Operator),
            Operands::Integer => (layer.weight, Written::Accumulator),
        };
        let tensor = graph.constant(value).filter(|tensor| tensor.dtype() == DataType::Int8 && !tensor.is_empty())?;
        layer.layout.output_axis(tensor.dims().len())?;
        let depthwise = layer.layout.shape(tensor.dims()).is_some_and(|shape| shape.is_depthwise());
        Some(IntegerWeight { layer, value, written, depthwise })
    }

    /// The numbers, one row per output channel, in the order in which the kernel adds.
    pub fn rows(&self, graph: &Graph) -> Option<Array2<f64>> {
        self.layer.layout.rows(graph.constant(self.value)?.to_f64()?, RowOrder::ChannelsLast)
    }

    /// Pairs that can saturate, and all that meet; `None` when none meet.
    pub fn saturating_pairs(&self, graph: &Graph) -> Option<(usize, usize)> {
        if self.depthwise {
            return None;
        }
        let rows = self.rows(graph)?;
        Some((rows.outer_iter().map(|row| saturating(row.iter().copied())).sum(), rows.nrows() * (rows.ncols() / 2)))
    }
}

/// Neighbours in `row` whose sum leaves −128 … 128.
pub(crate) fn saturating(row: impl Iterator<Item = f64>) -> usize {
    let row: Vec<f64> = row.collect();
    row.chunks_exact(2).filter(|pair| (pair[0] + pair[1]).abs() > 128.0).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    #[test]
    fn pairs_are_counted_in_every_form() {
        let parameters = "float s = {0.5}, uint8 z = {3}, int8 wz = {0}";
        let weight = "int8[2,2] w = {100, 100, 100, -100}";
        let forms = [
            "d = DequantizeLinear (x, s, z)  v = DequantizeLinear (w, s)  y = MatMul (d, v)",
            "d = DequantizeLinear (x, s, z)  v = DequantizeLinear (w, s)  y = Gemm <transB = 1> (d, v)",
            "q = QLinearMatMul (x, s, z, w, s, wz, s, z)  y = DequantizeLinear (q, s, z)",
            "i = MatMulInteger (x, w, z)  y = Cast <to = 1> (i)",
        ];
        for form in forms {
            let text = format!("g (uint8[1,2] x) => (float[1,2] y) <{parameters}, {weight}> {{ {form} }}");
            let layers = saturating_layers(&parse(&text).graph);
            assert_eq!(layers.iter().map(|layer| (layer.pairs, layer.of)).collect::<Vec<_>>(), [(1, 2)], "{form}");
        }
    }

    #[test]
    fn what_no_integer_kernel_runs_cannot_saturate() {
        let weight = "int8[2,2] w = {100, 100, 100, -100}, float s = {0.5}";
        let text = format!(
            "g (float[1,2] x) => (float[1,2] y) <{weight}> {{ v = DequantizeLinear (w, s)  y = MatMul (x, v) }}"
        );
        assert_eq!(saturating_layers(&parse(&text).graph), []);
        let text = "g (uint8[1,2,3] x) => (uint8[1,2,3] y) <int8[2,1,2] w = {100, 100, 100, 100}, float s = {0.5}, uint8 z = {3}, int8 wz = {0}> {
            y = QLinearConv <group = 2, pads = [0, 1]> (x, s, z, w, s, wz, s, z) }";
        assert_eq!(saturating_layers(&parse(text).graph), [], "depthwise");
    }

    #[test]
    fn the_warning_names_layers_and_the_flag() {
        let layer = |name: &str| Saturating { layer: name.to_owned(), op: "Conv".to_owned(), pairs: 1, of: 9 };
        assert_eq!(warning(&[]), None);
        let sentence = warning(&[layer("a"), layer("b")]).unwrap_or_default();
        assert!(
            sentence.contains("2 layers") && sentence.contains("`b` (1 of 9") && sentence.contains(FLAG),
            "{sentence}"
        );
        let many: Vec<Saturating> = (0..10).map(|k| layer(&k.to_string())).collect();
        assert!(warning(&many).unwrap_or_default().contains("and 2 more"));
    }
}
