//! Reductions along axes.
use super::Reader;
use crate::graph::{Graph, OpId, ValueId};

/// `ReduceMean`, `ReduceSum` and the others of their form, with constant axes: attributes first, inputs since opset 13
/// (ReduceSum) and 18.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// Input
    pub x: ValueId,
    /// Output
    pub y: ValueId,
    /// The axes that are reduced, as written; `None`: none is stated
    pub axes: Option<Vec<i64>>,
    /// Whether they stay, with length 1
    pub keeps_axes: bool,
    /// Whether no axes means that nothing is reduced, and not that all are
    pub none_is_identity: bool,
}

impl Reduce {
    /// The op as a reduction; `None` when it is none or its axes are not constant.
    pub fn of(graph: &Graph, op: OpId) -> Option<Reduce> {
        let name = graph.op(op).op_type();
        let mut reader = Reader::of(graph, op, name).filter(|_| name.starts_with("Reduce"))?;
        let keeps_axes = reader.int_or("keepdims", 1)? != 0;
        let none_is_identity = reader.flag("noop_with_empty_axes")?;
        let stated = reader.ints("axes")?;
        let axes = reader.ints_input(1)?.or(stated);
        let (x, y) = (reader.op.input(0)?, reader.op.output(0)?);
        reader.finish(2, 1)?;
        Some(Reduce { x, y, axes, keeps_axes, none_is_identity })
    }
}

#[cfg(test)]
mod tests {
    use super::Reduce;
    use crate::text::parse_graph;

    fn axes(op: &str, opset: i64) -> Option<(Option<Vec<i64>>, bool)> {
        let text = format!("g (float[1,2,4] x, int64[1] n) => (float y) <int64[1] a = {{-1}}> {{ y = {op} }}");
        let graph = parse_graph(&text, opset).expect("a graph").graph;
        Reduce::of(&graph, graph.ops()[0]).map(|reduce| (reduce.axes, reduce.keeps_axes))
    }

    #[test]
    fn axes_are_in_the_node_or_in_an_input() {
        assert_eq!(axes("ReduceMean <axes = [1, 2], keepdims = 0> (x)", 13), Some((Some(vec![1, 2]), false)));
        assert_eq!(axes("ReduceMean (x, a)", 18), Some((Some(vec![-1]), true)));
        assert_eq!(axes("ReduceMax (x)", 13), Some((None, true)));
        assert_eq!(axes("ReduceMean (x, n)", 18), None);
        assert_eq!(axes("Relu (x)", 18), None);
    }
}
