//! Merges ops that compute the same value: common subexpressions.
//!
//! ```onnx before
//! # x: float[2,3]
//! a = Sigmoid (x)
//! b = Sigmoid (x)
//! y = Add (a, b)
//! ```
//! ```onnx after
//! a = Sigmoid (x)
//! y = Add (a, a)
//! ```
//! Exporters write the shape of a tensor, and what follows from it, once for each reader.
//!
//! **Class:** exact. **Legal when** both ops are of the same type of ONNX's own domain, with equal attributes and the same
//! inputs (small constants count as the same when their bytes are equal), neither is random nor has bodies, and the names of
//! graph outputs can stay.
//! **Does not** merge `DequantizeLinear` (engines look for one of its own before each quantized op); nor, below opset 13,
//! what is not an integer computation from shapes in a graph with attention: ONNX Runtime recognizes attention there by the
//! exact ops of its exporter (`docs/engines.md`).
use std::collections::BTreeMap;

use onnx_shrink_ir::{DataType, Graph, OpId, Patch, Tensor, ValueId, ops::is_random, proto::schema::AttributeProto};

use crate::{Class, Context, Description, Miss, Pass, Result, When, quantize::dynamic_int8::has_attention};

/// See the [module](self) for before, after and legality.
pub struct MergeEqualOps;

/// Constants of at most this many bytes are compared by what they hold.
const SMALL: usize = 1024;

/// The first opset in which ONNX Runtime does not look for attention as its exporter wrote it.
const WITHOUT_FUSED_ATTENTION: i64 = 13;

/// What an op reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Input {
    Omitted,
    Value(ValueId),
    /// The number of a small constant's content
    Content(usize),
}

/// Numbers for the contents of small constants: equal ones have the same.
#[derive(Default)]
struct Contents(BTreeMap<(DataType, Vec<usize>, Vec<u8>), usize>);

impl Contents {
    fn input(&mut self, graph: &Graph, value: Option<ValueId>) -> Input {
        let Some(value) = value else { return Input::Omitted };
        let small = graph.constant(value).filter(|tensor| tensor.byte_len() <= SMALL);
        let Some((tensor, bytes)) = small.and_then(|tensor: &Tensor| Some((tensor, tensor.bytes()?))) else {
            return Input::Value(value);
        };
        let next = self.0.len();
        Input::Content(*self.0.entry((tensor.dtype(), tensor.dims().to_vec(), bytes.to_vec())).or_insert(next))
    }
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "merge-equal-ops",
    class: Class::Exact,
    about: "merges ops that compute the same value",
    when: When::Lossless,
};

impl Pass for MergeEqualOps {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        let only_shapes = graph.opset() < WITHOUT_FUSED_ATTENTION && has_attention(graph);
        let mut contents = Contents::default();
        let mut first: BTreeMap<(String, Vec<Input>), Vec<OpId>> = BTreeMap::new();
        for op in graph.ops() {
            if !may_merge(graph, op) || only_shapes && !computes_a_shape(graph, op) {
                continue;
            }
            let node = graph.op(op);
            let inputs = node.inputs().iter().map(|value| contents.input(graph, *value)).collect();
            let alike = first.entry((node.op_type().to_owned(), inputs)).or_default();
            match alike.iter().find(|other| same_attributes(graph, **other, op)) {
                None => alike.push(op),
                Some(&other) => match merge(graph, op, other) {
                    Ok(patch) => {
                        cx.apply(graph, patch)?;
                    }
                    Err(miss) => cx.missed(graph, op, &miss),
                },
            }
        }
        Ok(())
    }
}

fn may_merge(graph: &Graph, op: OpId) -> bool {
    let node = graph.op(op);
    node.domain().is_empty()
        && node.regions().is_empty()
        && !node.inputs().is_empty()
        && !is_random(graph, op)
        && !node.is("Dropout")
        && !node.is("DequantizeLinear")
}

/// Whether `op` makes integers out of shapes alone.
fn computes_a_shape(graph: &Graph, op: OpId) -> bool {
    let mut work = vec![op];
    let mut steps = 0;
    while let Some(op) = work.pop() {
        steps += 1;
        let node = graph.op(op);
        let is_integer = |value: &ValueId| graph.ty(*value).is_some_and(|ty| ty.dtype.is_integer());
        if steps > 64 || !node.outputs().iter().flatten().all(is_integer) {
            return false;
        }
        if matches!(node.op_type(), "Shape" | "Size") {
            continue;
        }
        for value in node.inputs().iter().flatten().filter(|value| graph.constant(**value).is_none()) {
            match graph.producer(*value) {
                Some(producer) => work.push(producer),
                None => return false,
            }
        }
    }
    true
}

/// Whether both ops have the same attributes, in whatever order.
fn same_attributes(graph: &Graph, one: OpId, other: OpId) -> bool {
    let (one, other) = (graph.op(one), graph.op(other));
    let bare = |attribute: &AttributeProto| AttributeProto { doc_string: None, ..attribute.clone() };
    let has_equal = |attribute: &AttributeProto| {
        other.attributes().iter().any(|other| other.name() == attribute.name() && bare(other) == bare(attribute))
    };
    one.attributes().len() == other.attributes().len() && one.attributes().iter().all(has_equal)
}

/// The edits that let all readers of `op` read what `first` makes, or why they do not.
fn merge(graph: &Graph, op: OpId, first: OpId) -> Result<Patch, Miss> {
    let mut patch = Patch::new(op);
    for (index, output) in graph.op(op).outputs().iter().enumerate() {
        let Some(output) = output.filter(|output| !graph.is_unused(*output)) else { continue };
        let same = graph.op(first).output(index).ok_or(Miss::NotThisPattern)?;
        if graph.is_output(output) && graph.is_output(same) {
            return Err(Miss::NotThisPattern); // an Identity would have to stand here
        }
        patch.replace(output, same);
    }
    if patch.is_empty() { Err(Miss::NotThisPattern) } else { Ok(patch) }
}

#[cfg(test)]
mod tests {
    use super::MergeEqualOps;
    use crate::testing::{check, check_same};

    #[test]
    fn chains_merge_from_the_front() {
        let before = "g (float[N,2,3] x) => (float[N,6] y, float[N,6] z) <int64 i = {0}, int64 j = {0}, int64[1] m = {-1}, int64[1] n = {-1}> {
            s = Shape (x)  a = Gather <axis = 0> (s, i)  b = Unsqueeze (a, m)  c = Concat <axis = 0> (b, n)  y = Reshape (x, c)
            t = Shape (x)  d = Gather <axis = 0> (t, j)  e = Unsqueeze (d, n)  f = Concat <axis = 0> (e, m)  r = Relu (x)  z = Reshape (r, f) }";
        let after = "g (float[N,2,3] x) => (float[N,6] y, float[N,6] z) <int64 i = {0}, int64[1] m = {-1}, int64[1] n = {-1}> {
            s = Shape (x)  a = Gather <axis = 0> (s, i)  b = Unsqueeze (a, m)  c = Concat <axis = 0> (b, n)  y = Reshape (x, c)
            r = Relu (x)  z = Reshape (r, c) }";
        check(&MergeEqualOps, before, after);
    }

    #[test]
    fn the_name_of_a_graph_output_stays() {
        let before = "g (float[2] x) => (float[2] y, float[2] z) { a = Neg (x)  y = Neg (x)  z = Exp (a) }";
        let after = "g (float[2] x) => (float[2] y, float[2] z) { y = Neg (x)  z = Exp (y) }";
        check(&MergeEqualOps, before, after);
        check_same(&MergeEqualOps, "g (float[2] x) => (float[2] y, float[2] z) { y = Neg (x)  z = Neg (x) }");
    }

    #[test]
    fn attributes_and_constants_tell_ops_apart() {
        check_same(
            &MergeEqualOps,
            "g (float[2,2] x) => (float[2,2] y) <float p = {0}, float n = {-0.0}> {
                a = Softmax <axis = 0> (x)  b = Softmax <axis = 1> (x)  c = Add (a, p)  d = Add (b, n)  e = Add (a, n)
                f = Add (c, d)  y = Add (f, e) }",
        );
        check_same(
            &MergeEqualOps,
            "g (float[2] x) => (float[2] y) { a = RandomNormalLike (x)  b = RandomNormalLike (x)  y = Add (a, b) }",
        );
    }

    #[test]
    fn several_outputs_merge_together() {
        let before = "g (float[4] x) => (float[2] y) {
            a, b = Split <num_outputs = 2> (x)  c, d = Split <num_outputs = 2> (x)  e = Add (a, d)  y = Add (e, b) }";
        let after =
            "g (float[4] x) => (float[2] y) { a, b = Split <num_outputs = 2> (x)  e = Add (a, b)  y = Add (e, b) }";
        check(
            &MergeEqualOps,
            &format!("<ir_version: 8, opset_import: [\"\": 18]> {before}"),
            &format!("<ir_version: 8, opset_import: [\"\": 18]> {after}"),
        );
    }

    #[test]
    fn attention_below_opset_13_keeps_the_form_that_the_engine_fuses() {
        let text = |opset: i64| {
            format!(
                "<ir_version: 7, opset_import: [\"\": {opset}]> g (float[1,4,8] q, float[1,4,8] v) => (float[1,4,8] y) {{
                    a = Identity (q)  b = Identity (q)  k = Transpose <perm = [0, 2, 1]> (b)  s = MatMul (a, k)
                    p = Softmax <axis = 2> (s)  y = MatMul (p, v) }}"
            )
        };
        check_same(&MergeEqualOps, &text(12));
        let mut graph = crate::testing::parse(&text(13)).graph;
        crate::testing::run(&MergeEqualOps, &mut graph, crate::Options::default());
        assert_eq!(graph.op_count(), 5);
    }
}
