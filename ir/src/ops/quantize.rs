//! Quantization: floats to integers and back, by stated scales.
use super::{Reader, axis_from_front};
use crate::graph::{Graph, OpId, ValueId};

/// `DequantizeLinear`: `y = (x - zero_point) · scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DequantizeLinear {
    /// Integers
    pub x: ValueId,
    /// One number for all, one for each position along `axis`, or one for each block
    pub scale: ValueId,
    /// Of the shape of `scale`; `None`: 0
    pub zero_point: Option<ValueId>,
    /// Floats
    pub y: ValueId,
    /// As written: negative counts from the back. It says nothing where there is one scale
    pub axis: i64,
    /// Numbers along `axis` that share a scale; 0: there are no blocks
    pub block_size: i64,
}

/// `QuantizeLinear`: `y = round(x / scale) + zero_point`, saturated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeLinear {
    /// Floats
    pub x: ValueId,
    /// One number for all, one for each position along `axis`, or one for each block
    pub scale: ValueId,
    /// Of the shape of `scale`; `None`: 0
    pub zero_point: Option<ValueId>,
    /// Integers
    pub y: ValueId,
    /// As written: negative counts from the back. It says nothing where there is one scale
    pub axis: i64,
    /// Numbers along `axis` that share a scale; 0: there are no blocks
    pub block_size: i64,
}

impl DequantizeLinear {
    /// The op as a `DequantizeLinear`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<DequantizeLinear> {
        let mut reader = Reader::of(graph, op, "DequantizeLinear")?;
        let (axis, block_size) = (reader.int_or("axis", 1)?, reader.int_or("block_size", 0)?);
        reader.ignore("output_dtype"); // the type of `y` says it
        let (x, scale, zero_point) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.input(2));
        let y = reader.op.output(0)?;
        reader.finish(3, 1)?;
        Some(DequantizeLinear { x, scale, zero_point, y, axis, block_size })
    }

    /// The `DequantizeLinear` that makes `value`.
    pub fn making(graph: &Graph, value: ValueId) -> Option<DequantizeLinear> {
        DequantizeLinear::of(graph, graph.producer(value)?)
    }

    /// `axis` counted from the front, of `rank` axes; `None` when it is out of bounds.
    pub fn axis_of(&self, rank: usize) -> Option<usize> {
        axis_from_front(self.axis, rank)
    }
}

impl QuantizeLinear {
    /// The op as a `QuantizeLinear`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<QuantizeLinear> {
        let mut reader = Reader::of(graph, op, "QuantizeLinear")?;
        let (axis, block_size) = (reader.int_or("axis", 1)?, reader.int_or("block_size", 0)?);
        for name in ["output_dtype", "saturate", "precision"] {
            reader.ignore(name); // the type of `y` says the first; the others are of floats of 8 bits and of how to divide
        }
        let (x, scale, zero_point) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.input(2));
        let y = reader.op.output(0)?;
        reader.finish(3, 1)?;
        Some(QuantizeLinear { x, scale, zero_point, y, axis, block_size })
    }
}

#[cfg(test)]
mod tests {
    use super::{DequantizeLinear, QuantizeLinear};
    use crate::text::parse_graph;

    fn read(attributes: &str) -> Option<DequantizeLinear> {
        let text = format!("g (int8[2,4] x, float[2] s) => (float y) {{ y = DequantizeLinear {attributes} (x, s) }}");
        let graph = parse_graph(&text, 21).expect("a graph").graph;
        assert!(QuantizeLinear::of(&graph, graph.ops()[0]).is_none());
        let found = DequantizeLinear::of(&graph, graph.ops()[0])?;
        assert_eq!(DequantizeLinear::making(&graph, found.y), Some(found));
        Some(found)
    }

    #[test]
    fn the_axis_counts_from_either_end() {
        assert_eq!(read("").and_then(|pair| pair.axis_of(2)), Some(1));
        assert_eq!(read("<axis = -2>").and_then(|pair| pair.axis_of(2)), Some(0));
        assert_eq!(read("<axis = 2>").and_then(|pair| pair.axis_of(2)), None);
        assert_eq!(read("<block_size = 2>").map(|pair| pair.block_size), Some(2));
        assert!(read("<twist = 1>").is_none());
    }
}
