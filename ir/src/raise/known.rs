//! Element types and ranks of the values of a graph as far as a single look at each op tells them.
//!
//! Old files rarely declare the types of inner values, and a few rules need them. This is no shape inference: where a type is declared, it
//! counts, and what is not obvious stays unknown.
use std::collections::HashMap;

use crate::{
    graph::{Graph, Op, ValueId},
    semantics::{self, Effect},
    types::{DataType, TensorType},
};

/// What is known of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) dtype: Option<DataType>,
    pub(super) rank: Option<usize>,
}

impl Fact {
    const NOTHING: Fact = Fact { dtype: None, rank: None };

    fn of(ty: Option<&TensorType>) -> Fact {
        Fact { dtype: ty.map(|ty| ty.dtype), rank: ty.and_then(TensorType::rank) }
    }

    /// This, filled up with that.
    fn or(self, other: Fact) -> Fact {
        Fact { dtype: self.dtype.or(other.dtype), rank: self.rank.or(other.rank) }
    }
}

/// Facts by value index. Values that came later have those of their declared type.
pub(super) struct Known(Vec<Fact>);

impl Known {
    /// `outer`: facts of the values that `graph` captures.
    pub(super) fn of(graph: &Graph, outer: &HashMap<ValueId, Fact>) -> Known {
        let mut known = Known(vec![Fact::NOTHING; graph.bound()]);
        for value in graph.values() {
            known.0[value.index()] = outer.get(&value).copied().unwrap_or(Fact::NOTHING);
        }
        for op in graph.ops() {
            let op = graph.op(op);
            if !op.domain().is_empty() {
                continue;
            }
            for (index, output) in op.outputs().iter().enumerate() {
                if let Some(output) = output {
                    known.0[output.index()] = known.made(graph, op, index);
                }
            }
        }
        known
    }

    /// What is known of `value`.
    pub(super) fn fact(&self, graph: &Graph, value: ValueId) -> Fact {
        Fact::of(graph.ty(value)).or(self.0.get(value.index()).copied().unwrap_or(Fact::NOTHING))
    }

    /// What `op` makes as its output `index`.
    fn made(&self, graph: &Graph, op: &Op, index: usize) -> Fact {
        use DataType::{Bool, Int64};
        let input = |index: usize| op.input(index).map_or(Fact::NOTHING, |value| self.fact(graph, value));
        let first = input(0);
        let any_dtype = || op.inputs().iter().flatten().find_map(|&value| self.fact(graph, value).dtype);
        let any_rank = || op.inputs().iter().flatten().find_map(|&value| self.fact(graph, value).rank);
        let most_ranks = || {
            let ranks = op.inputs().iter().map(|value| value.and_then(|value| self.fact(graph, value).rank));
            ranks.collect::<Option<Vec<usize>>>()?.into_iter().max()
        };
        let fact = |dtype, rank| Fact { dtype, rank };
        let axes = || op.ints("axes").map(<[i64]>::len);
        match (op.op_type(), index) {
            ("Split", _) => first,
            ("LSTM" | "GRU" | "RNN", 0) => fact(any_dtype(), Some(4)),
            ("LSTM" | "GRU" | "RNN", _) => fact(any_dtype(), Some(3)),
            ("TopK", 1) => fact(Some(Int64), first.rank),
            (_, 1..) => Fact::NOTHING,
            ("BatchNormalization" | "InstanceNormalization" | "PRelu", _) => fact(any_dtype(), first.rank),
            ("Conv" | "ConvTranspose", _) => fact(any_dtype(), first.rank.or(input(1).rank)),
            ("Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "Mean" | "Sum", _) => fact(any_dtype(), most_ranks()),
            ("Pow", _) => fact(first.dtype, most_ranks()),
            ("And" | "Or" | "Xor" | "Equal" | "Greater" | "Less", _) => fact(Some(Bool), most_ranks()),
            ("Where", _) => fact(input(1).dtype.or(input(2).dtype), most_ranks()),
            ("Concat", _) => fact(any_dtype(), any_rank()),
            ("Gemm", _) => fact(any_dtype(), Some(2)),
            ("MatMul", _) => {
                let ranks = first.rank.zip(input(1).rank);
                fact(any_dtype(), ranks.filter(|&(a, b)| a >= 2 && b >= 2).map(|(a, b)| a.max(b)))
            }
            ("Flatten", _) => fact(first.dtype, Some(2)),
            ("Reshape", _) => {
                let dims = op.input(1).and_then(|shape| graph.ty(shape)?.dims());
                let made = || self.constant_length(graph, op.input(1)?);
                fact(first.dtype, dims.and_then(|dims| dims.first().copied()).or_else(made))
            }
            ("Squeeze", _) => fact(first.dtype, first.rank.zip(axes()).and_then(|(rank, axes)| rank.checked_sub(axes))),
            ("Unsqueeze", _) => fact(first.dtype, first.rank.zip(axes()).map(|(rank, axes)| rank + axes)),
            ("Gather", _) => fact(first.dtype, first.rank.zip(input(1).rank).and_then(|(r, q)| (r + q).checked_sub(1))),
            ("Expand", _) => fact(first.dtype, None),
            ("Cast", _) => {
                let to = op.int("to").and_then(|to| DataType::from_number(i32::try_from(to).ok()?));
                fact(to, first.rank)
            }
            ("Constant", _) => Fact::of(op.tensor("value").map(|tensor| tensor.ty()).as_ref()),
            ("Shape", _) => fact(Some(Int64), Some(1)),
            ("Size", _) => fact(Some(Int64), Some(0)),
            ("NonZero", _) => fact(Some(Int64), Some(2)),
            ("ArgMax" | "ArgMin", _) => fact(Some(Int64), first.rank.filter(|_| op.int("keepdims") != Some(0))),
            _ if has_type_of_its_input(op) => first,
            (name, _) if name.starts_with("Reduce") => {
                fact(first.dtype, first.rank.filter(|_| op.int("keepdims") != Some(0)))
            }
            _ => Fact::NOTHING,
        }
    }

    /// Number of elements of what a Constant op makes.
    fn constant_length(&self, graph: &Graph, value: ValueId) -> Option<usize> {
        let op = graph.op(graph.producer(value)?);
        op.is("Constant").then(|| op.tensor("value")).flatten().map(|tensor| tensor.len())
    }
}

/// Whether the first output of `op` has the element type and the rank of its first input.
fn has_type_of_its_input(op: &Op) -> bool {
    let Some(row) = semantics::of(op) else { return false };
    match row.effect {
        Effect::Elementwise => row.is_unary() && !matches!(row.op_type, "CastLike" | "IsInf" | "IsNaN"),
        Effect::Pool | Effect::Normalization => true,
        Effect::Movement => matches!(
            row.op_type,
            "DepthToSpace"
                | "Pad"
                | "Scatter"
                | "ScatterElements"
                | "ScatterND"
                | "Slice"
                | "SpaceToDepth"
                | "Tile"
                | "TopK"
                | "Transpose"
        ),
        _ => matches!(row.op_type, "CumSum" | "Identity"),
    }
}
