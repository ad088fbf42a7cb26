//! Computes ops whose inputs are all constant, and shapes that are known from types.
//!
//! ```onnx before
//! # x: float[2,3]; a: int64[1] = {3}; b: int64[1] = {2}
//! s = Shape (x)
//! n = Mul (a, b)
//! y = Expand (x, s)
//! z = Reshape (x, n)
//! ```
//! ```onnx after
//! y = Expand (x, s)
//! z = Reshape (x, n)
//! ```
//! The engine computes; what it gives must fit the type that is known of the value. `Constant` nodes become initializers.
//! `Shape`, `Size`, and `Gather` from a `Shape` need no constant: known dimensions are enough, even if others are not.
//!
//! A Transpose of a quantized weight turns its integers, and the axis of the DequantizeLinear before it.
//!
//! **Class:** exact for integers and for ops that only move elements; rounding for float arithmetic: an engine may sum in
//! another order. The pass exists once per class. **Legal when** every input is constant (a graph input with a default is
//! not), the op is deterministic, and the new constants take no more bytes than what dies with the op.
//! **Does not** compute `DequantizeLinear`: a quantized weight must stay one, whatever its size. **Does not** make a constant
//! of a graph output: an Identity would have to stand before it.
use onnx_shrink_ir::{
    DataType, Dim, Graph, NewOp, OpId, Patch, Tensor, TensorType, ValueId, attributes,
    ops::{self, Constant, DequantizeLinear, Gather, Shape, Transpose},
    semantics,
};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When, net_bytes};

/// See the [module](self) for before, after and legality.
pub struct FoldConstants(Class);

impl FoldConstants {
    /// Folds integers, and ops that move elements.
    pub fn exact() -> FoldConstants {
        FoldConstants(Class::Exact)
    }

    /// Folds float arithmetic, too.
    pub fn rounding() -> FoldConstants {
        FoldConstants(Class::Rounding)
    }
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fold-constants",
    class: Class::Rounding,
    about: "computes ops whose inputs are all constant",
    when: When::Lossless,
};

impl Rewrite for FoldConstants {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn class(&self) -> Class {
        self.0
    }

    fn rewrite(&self, graph: &Graph, op: OpId, cx: &Context<'_>) -> Result<Patch, Miss> {
        match fold(graph, op, self.0, cx) {
            // The exact half of the pass has met it and said so.
            Err(_) if self.0 == Class::Rounding && !is_arithmetic(graph, op) => Err(Miss::NotThisPattern),
            done => done,
        }
    }
}

/// Whether an engine may round the result of `op` in its own way.
pub(super) fn is_arithmetic(graph: &Graph, op: OpId) -> bool {
    let node = graph.op(op);
    let is_float = |value: &ValueId| graph.ty(*value).is_none_or(|ty| ty.dtype.is_float());
    !semantics::of(node).is_some_and(|row| row.is_exact) && node.inputs().iter().flatten().any(is_float)
}

/// Whether `op` gives the same outputs for the same inputs each time, and is one of ONNX's own without a body.
pub(crate) fn is_deterministic(graph: &Graph, op: OpId) -> bool {
    let node = graph.op(op);
    node.domain().is_empty() && node.regions().is_empty() && !ops::is_random(graph, op) && !node.is("Dropout")
}

/// The edits that put constants in the place of the op's outputs, or why it stays.
fn fold(graph: &Graph, op: OpId, class: Class, cx: &Context<'_>) -> Result<Patch, Miss> {
    let node = graph.op(op);
    let foldable = is_deterministic(graph, op);
    let wanted: Vec<(usize, ValueId)> =
        node.outputs().iter().enumerate().filter_map(|(k, y)| Some((k, (*y)?))).collect();
    if !foldable || wanted.iter().any(|&(_, y)| graph.is_output(y)) || wanted.iter().all(|&(_, y)| graph.is_unused(y)) {
        return Err(Miss::NotThisPattern);
    }
    if class == Class::Exact
        && let Some(patch) = turned_pair(graph, op, cx.options.fold_growth)?
    {
        return Ok(patch);
    }
    let outputs = match from_types(graph, op) {
        Some(tensor) => vec![Some(tensor)],
        None => {
            let inputs = constant_inputs(graph, op)?;
            if node.is("DequantizeLinear") || (is_arithmetic(graph, op) && class == Class::Exact) {
                return Err(Miss::NotThisPattern);
            }
            check_known_size(graph, op, &wanted, cx.options.fold_growth)?;
            cx.evaluate(graph, op, &inputs)?
        }
    };
    let mut patch = Patch::new(op);
    for (index, y) in wanted {
        let tensor = outputs.get(index).cloned().flatten();
        let tensor = tensor.ok_or_else(|| Miss::NotComputed(format!("the engine gave no output {index}")))?;
        if let Some(ty) = graph.ty(y).filter(|ty| contradicts(ty, &tensor)) {
            let (name, found) = (graph.name_of(y), tensor.ty());
            return Err(Miss::NotComputed(format!("`{name}` is declared as {ty}, and is {found}")));
        }
        if graph.is_unused(y) {
            continue;
        }
        let constant = patch.constant(graph.name_of(y), tensor);
        patch.replace(y, constant);
    }
    // The tensor of a Constant stands in the file already.
    if !node.is("Constant") {
        net_bytes::check(graph, &patch, &[op], 0, cx.options.fold_growth)?;
    }
    Ok(patch)
}

/// The Transpose `op` of a DequantizeLinear of constants as a DequantizeLinear of turned integers, along the axis where its scales went.
fn turned_pair(graph: &Graph, op: OpId, growth: usize) -> Result<Option<Patch>, Miss> {
    let Some(Transpose { x, y, perm, .. }) = Transpose::of(graph, op) else { return Ok(None) };
    let Some(pair) = graph.producer(x).filter(|_| graph.only_use(x).is_some()) else { return Ok(None) };
    let Some(dequantize) = DequantizeLinear::of(graph, pair) else { return Ok(None) };
    let (of_pair, integers) = (graph.op(pair), dequantize.x);
    let constants: Vec<Option<&Tensor>> =
        of_pair.inputs().iter().map(|input| input.and_then(|input| graph.constant(input))).collect();
    let Some(Some(tensor)) = constants.first().copied() else { return Ok(None) };
    if of_pair.inputs().iter().zip(&constants).any(|(input, constant)| input.is_some() && constant.is_none()) {
        return Ok(None);
    }
    let rank = tensor.dims().len();
    if perm.len() != rank {
        return Ok(None);
    }
    // The engine's Transpose is of floats here; through f64 all these types come back as they were.
    let turned = |tensor: &Tensor| -> Result<Tensor, Miss> {
        let numbers = tensor.to_f64().ok_or(Miss::NotThisPattern)?.permuted_axes(perm.clone());
        Tensor::from_f64(tensor.dtype(), &numbers.as_standard_layout().into_owned()).ok_or(Miss::NotThisPattern)
    };
    let place = dequantize.axis_of(rank).and_then(|axis| perm.iter().position(|from| *from == axis));
    let per_axis = constants.iter().skip(1).flatten().any(|parameters| !parameters.dims().is_empty());
    let mut patch = Patch::new(op);
    let mut inputs = vec![Some(patch.constant(graph.name_of(integers), turned(tensor)?))];
    for (input, constant) in of_pair.inputs().iter().zip(&constants).skip(1) {
        inputs.push(match (input, constant) {
            // Scales of blocks have the axes of what they scale.
            (Some(input), Some(constant)) if constant.dims().len() == rank && rank > 1 => {
                Some(patch.constant(graph.name_of(*input), turned(constant)?))
            }
            (input, _) => input.map(Into::into),
        });
    }
    let mut turned_pair = NewOp { node: of_pair.proto().clone() };
    if per_axis {
        let Some(place) = place else { return Ok(None) };
        turned_pair.node.attribute.retain(|attribute| attribute.name() != "axis");
        turned_pair = turned_pair.with(attributes::int("axis", place as i64));
    }
    let result = patch.op(turned_pair, &inputs, graph.name_of(y), graph.ty(y).cloned());
    patch.replace(y, result);
    net_bytes::check(graph, &patch, &[op, pair], 1, growth)?;
    Ok(Some(patch))
}

/// The inputs of `op`, if all are constant. Fails aloud only when nothing but a default that may be overridden is in the way.
fn constant_inputs(graph: &Graph, op: OpId) -> Result<Vec<Option<Tensor>>, Miss> {
    let node = graph.op(op);
    let given: Vec<ValueId> = node.inputs().iter().copied().flatten().collect();
    if given.is_empty() && !node.is("Constant") {
        return Err(Miss::NotThisPattern);
    }
    if Constant::of(graph, op).is_some_and(|constant| constant.is_sparse()) {
        return Err(Miss::Form("a sparse constant"));
    }
    if let Some(&other) = given.iter().find(|&&value| graph.constant(value).is_none()) {
        let all_have_numbers = given.iter().all(|&value| graph.default_of(value).is_some());
        let computes_something = graph.is_input(other) && all_have_numbers;
        return Err(if computes_something { Miss::NotConstant(other) } else { Miss::NotThisPattern });
    }
    Ok(node.inputs().iter().map(|value| value.and_then(|value| graph.constant(value).cloned())).collect())
}

/// Fails when the types that are known already say that the result is too large to be worth computing.
fn check_known_size(graph: &Graph, op: OpId, wanted: &[(usize, ValueId)], growth: usize) -> Result<(), Miss> {
    if graph.op(op).is("Constant") {
        return Ok(());
    }
    let bytes = |y: ValueId| {
        let ty = graph.ty(y)?;
        ty.dtype.byte_len(onnx_shrink_ir::element_count(&ty.dims()?)?)
    };
    let used = wanted.iter().filter(|(_, y)| !graph.is_unused(*y));
    let added = used.filter_map(|&(_, y)| bytes(y)).fold(0usize, usize::saturating_add);
    let dying = net_bytes::dying_constants(graph, &[op]);
    let removed = net_bytes::OP
        + dying.into_iter().filter_map(|value| graph.constant(value)).map(Tensor::byte_len).sum::<usize>();
    if added > removed.saturating_add(growth) { Err(Miss::Grows { added, removed }) } else { Ok(()) }
}

/// Whether `tensor` is not of type `ty`.
pub(crate) fn contradicts(ty: &TensorType, tensor: &Tensor) -> bool {
    let dims_differ = ty.shape.as_ref().is_some_and(|shape| {
        let differs = |(dim, &number): (&Dim, &usize)| dim.known().is_some_and(|known| known != number);
        shape.len() != tensor.dims().len() || shape.iter().zip(tensor.dims()).any(differs)
    });
    ty.dtype != tensor.dtype() || dims_differ
}

/// The result of a Shape, a Size, or a Gather from a Shape, as far as the type of a value tells it.
fn from_types(graph: &Graph, op: OpId) -> Option<Tensor> {
    let dims_of = |value: ValueId| graph.ty(value)?.shape.as_ref();
    let number = |dim: &Dim| dim.known().and_then(|dim| i64::try_from(dim).ok());
    match graph.op(op).op_type() {
        "Shape" => {
            let shape = Shape::of(graph, op)?;
            let dims = dims_of(shape.x)?;
            let dims = dims[shape.axes(dims.len())].iter().map(number).collect::<Option<Vec<i64>>>()?;
            Some(Tensor::from_vec(&[dims.len()], dims))
        }
        "Size" => {
            let dims = graph.ty(graph.op(op).input(0)?)?.dims()?;
            let size = onnx_shrink_ir::element_count(&dims)?;
            Some(Tensor::scalar(i64::try_from(size).ok()?))
        }
        "Gather" => {
            let gather = Gather::of(graph, op)?;
            let shape = Shape::of(graph, graph.producer(gather.x)?)?;
            let dims = dims_of(shape.x)?;
            let dims = &dims[shape.axes(dims.len())];
            let indices = graph.constant(gather.indices).filter(|indices| {
                matches!(indices.dtype(), DataType::Int64 | DataType::Int32) && matches!(gather.axis, 0 | -1)
            })?;
            let chosen = indices.to_i64_vec()?.into_iter().map(|index| {
                let index = onnx_shrink_ir::ops::axis_from_front(index, dims.len())?;
                number(&dims[index])
            });
            Some(Tensor::from_vec(indices.dims(), chosen.collect::<Option<Vec<i64>>>()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::FoldConstants;
    use crate::{
        Class, Options,
        testing::{check, check_missed, check_same, check_with},
    };

    #[test]
    fn computes_chains_and_drops_what_they_used() {
        let before = "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> {
            t = Add (a, b)  u = Mul (t, a)  y = Add (x, u) }";
        let after = "g (float[2] x) => (float[2] y) <float[2] u = {4, 12}> { y = Add (x, u) }";
        check(&FoldConstants::rounding(), before, after);
        check_same(&FoldConstants::exact(), before);
    }

    #[test]
    fn constants_become_initializers() {
        let before = "g (float[2] x) => (float[2] y) { c = Constant <value_floats = [1.0, 2.0]> ()
            t = Add (x, c)  d = Constant <value = float[2] {3, 4}> ()  y = Add (t, d) }";
        let after = "g (float[2] x) => (float[2] y) <float[2] d = {3, 4}, float[2] c = {1, 2}> {
            t = Add (x, c)  y = Add (t, d) }";
        check(&FoldConstants::exact(), before, after);
    }

    #[test]
    fn integers_wrap() {
        let before = "g (int32[1] x) => (int32[1] y) <int32[1] a = {1073741824}, int32[1] b = {6}> {
            c = Mul (a, b)  y = Add (x, c) }";
        let after = "g (int32[1] x) => (int32[1] y) <int32[1] c = {-2147483648}> { y = Add (x, c) }";
        check(&FoldConstants::exact(), before, after);
        let before = "g (uint8[1] x) => (uint8[1] y) <uint8[1] a = {200}, uint8[1] b = {100}> { c = Add (a, b)  y = Add (x, c) }";
        let after = "g (uint8[1] x) => (uint8[1] y) <uint8[1] c = {44}> { y = Add (x, c) }";
        check(&FoldConstants::exact(), before, after);
    }

    #[test]
    fn shapes_follow_from_types() {
        let before = "g (float[N,3,4] x) => (float[N,12] y) <int64[2] i = {1, -1}, int64[1] m = {-1}> {
            s = Shape (x)  d = Gather (s, i)  p = ReduceProd <keepdims = 1> (d)  t = Concat <axis = 0> (m, d)  y = Reshape (x, t) }";
        let mut graph = crate::testing::parse(before).graph;
        crate::testing::run(&FoldConstants::exact(), &mut graph, Options::default());
        assert_eq!(graph.constant(graph.find("t").unwrap()).unwrap().to_i64_vec().unwrap(), [-1, 3, 4]);
        let before = "g (float[N,3] x, float[2,3] z) => (float[6] y) { s = Shape <start = 1> (x)  n = Size (z)
            k = Mul (s, n)  f = Cast <to = 1> (k)  g = Expand (f, k)  y = Add (g, f) }";
        let mut graph = crate::testing::parse(before).graph;
        crate::testing::run(&FoldConstants::exact(), &mut graph, Options::default());
        assert_eq!(graph.constant(graph.find("f").unwrap()).unwrap().to_f64_vec().unwrap(), [18.0]);
        check_same(&FoldConstants::exact(), "g (float[N,3] x) => (int64[2] y) { s = Shape (x)  y = Add (s, s) }");
    }

    #[test]
    fn keeps_what_would_make_the_file_larger() {
        let bomb =
            "g (float[1,1] x) => (float[64,64] y) <int64[2] s = {64, 64}> { c = ConstantOfShape (s)  y = Add (x, c) }";
        check_missed(&FoldConstants::exact(), bomb, "the file would grow: 16384 bytes come, 80 go");
        let tile = "g (float[1,1] x) => (float[64,64] y) <float[1,1] w = {1}, int64[2] r = {64, 64}, float[64,64] c> {
            c = Tile (w, r)  y = Add (x, c) }";
        check_missed(&FoldConstants::exact(), tile, "the file would grow: 16384 bytes come, 84 go");
        let allowed = Options { fold_growth: 16, ..Options::default() };
        let small =
            "g (float[5,5] x) => (float[5,5] y) <int64[2] s = {5, 5}> { c = ConstantOfShape (s)  y = Add (x, c) }";
        let numbers = vec!["0"; 25].join(", ");
        let after = format!("g (float[5,5] x) => (float[5,5] y) <float[5,5] c = {{{numbers}}}> {{ y = Add (x, c) }}");
        check_missed(&FoldConstants::exact(), small, "the file would grow: 100 bytes come, 80 go");
        check_with(&FoldConstants::exact(), small, &after, Options { fold_growth: 20, ..allowed });
    }

    #[test]
    fn a_shared_constant_does_not_die() {
        let numbers = vec!["1"; 32].join(", ");
        let model = format!(
            "g (float[32] x) => (float[32] y) <float[32] w = {{{numbers}}}> {{
            t = Neg (w)  u = Mul (x, w)  y = Add (t, u) }}"
        );
        check_missed(&FoldConstants::rounding(), &model, "the file would grow: 128 bytes come, 64 go");
    }

    #[test]
    fn keeps_inputs_with_defaults_outputs_and_random_numbers() {
        let overridable = "g (float[2] x, float[2] c) => (float[2] y) <float[2] c = {1, 2}, float[2] d = {1, 2}> {
            t = Add (c, d)  y = Add (x, t) }";
        check_missed(
            &FoldConstants::rounding(),
            overridable,
            "`c` is a graph input with a default, so it may change; --freeze-initializers makes it constant",
        );
        check_same(
            &FoldConstants::rounding(),
            "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { y = Add (a, a) }",
        );
        let random = "g (float[2] x) => (float[2] y) { a = RandomNormal <shape = [2]> ()  y = Add (x, a) }";
        let mut graph = crate::testing::parse(random).graph;
        crate::testing::run(&FoldConstants::rounding(), &mut graph, Options::default());
        assert_eq!(graph.op_count(), 2);
    }

    #[test]
    fn keeps_quantized_weights() {
        check_same(
            &FoldConstants::rounding(),
            "g (float[N,2] x) => (float[N,2] y) <int8[2,2] q = {1, 2, 3, 4}, float s = {0.5}> {
            w = DequantizeLinear (q, s)  y = MatMul (x, w) }",
        );
        let before = "g (float[N,1] x) => (float[N,1] y) <float[1,1] w = {1}, float s = {0.5}, int8 z = {0}> {
            q = QuantizeLinear (w, s, z)  d = DequantizeLinear (q, s, z)  y = MatMul (x, d) }";
        let after = "g (float[N,1] x) => (float[N,1] y) <float s = {0.5}, int8 z = {0}, int8[1,1] q = {2}> {
            d = DequantizeLinear (q, s, z)  y = MatMul (x, d) }";
        check(&FoldConstants::rounding(), before, after);
    }

    #[test]
    fn a_transpose_turns_quantized_weights() {
        let before = "g (float[N,2] x) => (float[N,3] y) <int8[3,2] q = {1, 2, 3, 4, 5, 6}, float[3] s = {0.5, 1, 2}> {
            d = DequantizeLinear <axis = 0> (q, s)  w = Transpose <perm = [1, 0]> (d)  y = MatMul (x, w) }";
        let after = "g (float[N,2] x) => (float[N,3] y) <float[3] s = {0.5, 1, 2}, int8[2,3] q = {1, 3, 5, 2, 4, 6}> {
            w = DequantizeLinear <axis = 1> (q, s)  y = MatMul (x, w) }";
        let original = crate::testing::parse(before).graph;
        let mut graph = original.detached();
        crate::testing::run(&FoldConstants::exact(), &mut graph, Options::default());
        let ops: Vec<String> = graph.ops().into_iter().map(|op| graph.op(op).op_type().to_owned()).collect();
        assert_eq!(ops, ["DequantizeLinear", "MatMul"]);
        crate::testing::assert_same_values(&original, &graph, Class::Exact);
        crate::testing::assert_same_values(&crate::testing::parse(after).graph, &graph, Class::Exact);
        // What someone else reads, too, stays.
        check_same(
            &FoldConstants::exact(),
            "g (float[N,2] x, float[N,3] z) => (float[N,3] y, float[N,2] u) <int8[3,2] q = {1, 2, 3, 4, 5, 6}, float s = {0.5}> {
            d = DequantizeLinear (q, s)  w = Transpose (d)  y = MatMul (x, w)  u = MatMul (z, d) }",
        );
    }

    #[test]
    fn keeps_a_value_whose_declaration_is_wrong() {
        let model = "g (float[3] x) => (float[3] y) <float[2] a = {1, 2}, float[3] t> { t = Neg (a)  y = Add (x, t) }";
        let mut graph = crate::testing::parse(model).graph;
        let misses = crate::testing::run(&FoldConstants::rounding(), &mut graph, Options::default());
        assert_eq!(misses, ["not computed: `t` is declared as float[3], and is float[2]"]);
    }

    #[test]
    fn folds_in_bodies() {
        let before = "g (float[2] x, bool c) => (float[2] y) { y = If (c) <
            then_branch = a () => (float[2] t) <float[2] k = {1, 2}> { u = Neg (k)  t = Add (x, u) },
            else_branch = b () => (float[2] e) { e = Identity (x) }> }";
        let after = "g (float[2] x, bool c) => (float[2] y) { y = If (c) <
            then_branch = a () => (float[2] t) <float[2] u = {-1, -2}> { t = Add (x, u) },
            else_branch = b () => (float[2] e) { e = Identity (x) }> }";
        check(&FoldConstants::rounding(), before, after);
    }
}
