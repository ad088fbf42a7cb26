//! Matrix products.
use super::{Reader, set_float, set_int};
use crate::graph::{Graph, NewOp, OpId, ValueId};

/// `Gemm`: `y = alpha · A' · B' + beta · C`, A' and B' transposed where the flags say so.
#[derive(Clone, Debug)]
pub struct Gemm {
    /// Matrix of shape [M, K], or [K, M] when `trans_a`
    pub a: ValueId,
    /// Matrix of shape [K, N], or [N, K] when `trans_b`
    pub b: ValueId,
    /// Broadcast to [M, N]
    pub c: Option<ValueId>,
    /// Output of shape [M, N]
    pub y: ValueId,
    /// Factor of the product
    pub alpha: f32,
    /// Factor of `c`
    pub beta: f32,
    /// Whether `a` is transposed
    pub trans_a: bool,
    /// Whether `b` is transposed
    pub trans_b: bool,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl Gemm {
    /// The op as a `Gemm`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<Gemm> {
        let mut reader = Reader::of(graph, op, "Gemm")?;
        let (a, b, c) = (reader.op.input(0)?, reader.op.input(1)?, reader.op.input(2));
        let y = reader.op.output(0)?;
        let alpha = reader.float("alpha")?.unwrap_or(1.0);
        let beta = reader.float("beta")?.unwrap_or(1.0);
        let (trans_a, trans_b) = (reader.flag("transA")?, reader.flag("transB")?);
        if graph.opset() < 7 {
            reader.ignore("broadcast"); // C is broadcast to the right in every version
        }
        let node = reader.finish(3, 1)?;
        Some(Gemm { a, b, c, y, alpha, beta, trans_a, trans_b, node })
    }

    /// A new Gemm node without attributes but these, named `name`; its inputs are A, B and C.
    pub fn plain(name: &str, trans_b: bool) -> NewOp {
        let mut node = NewOp::new("Gemm").named(name);
        set_int(&mut node, "transB", i64::from(trans_b), 0);
        node
    }

    /// The node; its inputs are A, B and C.
    pub fn to_op(&self) -> NewOp {
        let mut node = self.node.clone();
        set_float(&mut node, "alpha", self.alpha, 1.0);
        set_float(&mut node, "beta", self.beta, 1.0);
        set_int(&mut node, "transA", i64::from(self.trans_a), 0);
        set_int(&mut node, "transB", i64::from(self.trans_b), 0);
        node
    }
}

/// `MatMul`, as numpy's `matmul`.
#[derive(Clone, Debug)]
pub struct MatMul {
    /// Left
    pub a: ValueId,
    /// Right
    pub b: ValueId,
    /// Output
    pub y: ValueId,
    /// The node as in the file; `to_op` writes the fields above into it
    pub node: NewOp,
}

impl MatMul {
    /// The op as a `MatMul`; `None` when it is none or not understood.
    pub fn of(graph: &Graph, op: OpId) -> Option<MatMul> {
        let reader = Reader::of(graph, op, "MatMul")?;
        let (a, b) = (reader.op.input(0)?, reader.op.input(1)?);
        let y = reader.op.output(0)?;
        let node = reader.finish(2, 1)?;
        Some(MatMul { a, b, y, node })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.node.name()
    }

    /// The node; its inputs are A and B.
    pub fn to_op(&self) -> NewOp {
        self.node.clone()
    }
}
