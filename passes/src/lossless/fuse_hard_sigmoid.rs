//! Makes Add, Clip and Mul or Div one `HardSigmoid`, and `x · HardSigmoid (x)` a `HardSwish` where the model's opset has it.
//!
//! ```onnx before
//! # x, x2: float[1,2,4,4]; three: float = {3}; lo: float = {0}; six: float = {6}
//! a = Add (x, three)
//! c = Clip (a, lo, six)
//! m = Mul (x2, c)
//! y = Div (m, six)
//! ```
//! ```onnx after
//! c_1 = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)
//! y = Mul (x2, c_1)
//! ```
//! `Clip (a · x + b, 0, h) / h = max (0, min (1, a / h · x + b / h))`: the division may stand behind a product of which the Clip is a
//! factor. From opset 14 on the product of x and its `HardSigmoid <alpha = 1/6, beta = 0.5>` is a `HardSwish` (ONNX Runtime 1.32: 0.6
//! of the time of the parts, as HardSigmoid and Mul).
//!
//! **Class:** rounding: alpha and beta are rounded once. **Legal when** all is float32, the bounds are 0 and a number h, what comes behind
//! divides by h to within 1e-6, and nobody else reads the values between.
//! **Does not** fuse a Clip alone: engines fuse that with the layer before it.
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, ValueId, ValueRef,
    ops::{Binary, BinaryKind, Clip, HardSigmoid},
};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When, lossless::line::Line};

/// See the [module](self) for before, after and legality.
pub struct FuseHardSigmoid;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fuse-hard-sigmoid",
    class: Class::Rounding,
    about: "makes Add, Clip and Mul or Div a HardSigmoid or a HardSwish",
    when: When::Lossless,
};

/// Alpha and beta of the HardSigmoid of a HardSwish.
const SWISH: (f64, f64) = (1.0 / 6.0, 0.5);

/// The first opset with HardSwish.
const HARD_SWISH: i64 = 14;

impl Rewrite for FuseHardSigmoid {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        hard_sigmoid(graph, op).or_else(|| hard_swish(graph, op)).ok_or(Miss::NotThisPattern)
    }
}

fn is_near(number: f64, wanted: f64) -> bool {
    (number - wanted).abs() <= 1e-6 * wanted.abs()
}

fn is_float(graph: &Graph, value: ValueId) -> bool {
    graph.ty(value).is_some_and(|ty| ty.dtype == DataType::Float)
}

/// The edits that make the Clip `op`, with what is before and behind it, a HardSigmoid.
fn hard_sigmoid(graph: &Graph, op: OpId) -> Option<Patch> {
    let clip = Clip::of(graph, op).filter(|_| graph.opset() >= 6)?;
    let high = clip.max.filter(|high| clip.min == Some(0.0) && high.is_finite() && *high > 0.0)?;
    // What the Clip is a factor of, and what is divided by `high`.
    let product = || {
        let product = Binary::of(graph, graph.only_use(clip.y)?.0).filter(|binary| binary.kind == BinaryKind::Mul)?;
        let other = if product.a == clip.y { product.b } else { product.a };
        graph.constant(other).is_none().then_some((product.y, other))
    };
    let divided =
        |value| Line::behind(graph, value).filter(|line| line.shift == 0.0 && is_near(line.factor * high, 1.0));
    let (other, end) = match divided(clip.y) {
        Some(line) => (None, line.y),
        None => match product().and_then(|(value, other)| Some((other, divided(value)?.y))) {
            Some((other, end)) => (Some(other), end),
            None if high == 1.0 => (None, clip.y),
            None => return None,
        },
    };
    let (mut x, mut alpha, mut beta) = (clip.x, 1.0, 0.0);
    while let Some(line) = graph.producer(x).and_then(|op| Line::of(graph, op)).filter(|_| graph.only_use(x).is_some())
    {
        (x, alpha, beta) = (line.x, alpha * line.factor, alpha * line.shift + beta);
    }
    let (alpha, beta) = (alpha / high, beta / high);
    let is_tame = |number: f64| number.abs() <= 1000.0;
    if !is_float(graph, x) || (x == clip.x && end == clip.y) || !is_tame(alpha) || !is_tame(beta) || alpha == 0.0 {
        return None;
    }
    let mut patch = Patch::new(op);
    let node = HardSigmoid::plain(graph.op(op).name(), alpha as f32, beta as f32);
    let name = graph.name_of(if other.is_some() { clip.y } else { end });
    let gate = patch.op(node, &[Some(x.into())], name, graph.ty(clip.y).or(graph.ty(x)).cloned());
    let new = match other {
        Some(other) => {
            // Where the engine has both as one op, x comes first.
            patch.op(NewOp::new("Mul"), &[Some(other.into()), Some(gate)], graph.name_of(end), graph.ty(end).cloned())
        }
        None => gate,
    };
    patch.replace(end, new);
    Some(patch)
}

/// The edits that make the Mul `op` of a value and its HardSigmoid a HardSwish.
fn hard_swish(graph: &Graph, op: OpId) -> Option<Patch> {
    let mul = Binary::of(graph, op).filter(|mul| mul.kind == BinaryKind::Mul && graph.opset() >= HARD_SWISH)?;
    let is_gate = |gate: ValueId, x: ValueId| {
        let sigmoid = graph.producer(gate).and_then(|op| HardSigmoid::of(graph, op));
        let is_swish =
            |found: &HardSigmoid| is_near(found.alpha.into(), SWISH.0) && is_near(found.beta.into(), SWISH.1);
        sigmoid.filter(is_swish).is_some_and(|sigmoid| sigmoid.x == x) && graph.only_use(gate).is_some()
    };
    let x = [(mul.a, mul.b), (mul.b, mul.a)].into_iter().find(|(x, gate)| is_gate(*gate, *x))?.0;
    is_float(graph, x).then_some(())?;
    let mut patch = Patch::new(op);
    let node = NewOp::new("HardSwish").named(graph.op(op).name());
    let y = patch.op(node, &[Some(ValueRef::from(x))], graph.name_of(mul.y), graph.ty(mul.y).cloned());
    patch.replace(mul.y, y);
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::FuseHardSigmoid;
    use crate::testing::{check_inferred as check, check_same_inferred as check_same, graph_of};

    const NUMBERS: [(&str, &str, &str); 5] = [
        ("three", "float", "{3}"),
        ("lo", "float", "{0}"),
        ("six", "float", "{6}"),
        ("sixth", "float", "{0.16666667}"),
        ("one", "float", "{1}"),
    ];

    fn graph(body: &str) -> String {
        graph_of("(float[1,2,3] x, float[1,2,3] z) => (float[1,2,3] y)", &NUMBERS, body)
    }

    fn after(body: &str) -> String {
        format!("g (float[1,2,3] x, float[1,2,3] z) => (float[1,2,3] y) {{ {body} }}")
    }

    #[test]
    fn a_clip_that_is_divided_by_its_bound_is_a_hard_sigmoid() {
        for scale in ["Mul (c, sixth)", "Mul (sixth, c)", "Div (c, six)"] {
            let before = graph(&format!("a = Add (x, three)  c = Clip (a, lo, six)  y = {scale}"));
            check(&FuseHardSigmoid, &before, &after("y = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)"));
        }
        let before = graph("m = Mul (x, sixth)  a = Sub (m, three)  y = Clip (a, lo, one)");
        check(&FuseHardSigmoid, &before, &after("y = HardSigmoid <alpha = 0.16666667, beta = -3.0> (x)"));
    }

    #[test]
    fn the_division_may_stand_behind_a_product() {
        let before = graph("a = Add (x, three)  c = Clip (a, lo, six)  m = Mul (c, z)  y = Div (m, six)");
        let wanted = after("c_1 = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)  y = Mul (z, c_1)");
        check(&FuseHardSigmoid, &before, &wanted);
    }

    #[test]
    fn the_product_with_its_own_input_is_a_hard_swish() {
        let before = graph("a = Add (x, three)  c = Clip (a, lo, six)  m = Mul (c, x)  y = Div (m, six)");
        let mut found = crate::testing::parse(&before).graph;
        onnx_shrink_ir::infer::infer(&mut found);
        let pass = FuseHardSigmoid;
        crate::testing::run(&pass, &mut found, crate::Options::default());
        crate::testing::run(&pass, &mut found, crate::Options::default());
        assert_eq!(found.count_by_type().into_keys().collect::<Vec<_>>(), ["HardSwish"]);
        check(
            &FuseHardSigmoid,
            &after("h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)  y = Mul (h, x)"),
            &after("y = HardSwish (x)"),
        );
        let older = |body: &str| format!("<ir_version: 8, opset_import: [\"\" : 13]> {}", after(body));
        check_same(&FuseHardSigmoid, &older("h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)  y = Mul (h, x)"));
    }

    #[test]
    fn other_bounds_other_scales_and_values_that_others_read_stay() {
        for body in [
            "a = Add (x, three)  c = Clip (a, lo, six)  y = Mul (c, three)",
            "a = Add (x, three)  c = Clip (a, one, six)  y = Mul (c, sixth)",
            "a = Add (x, three)  y = Clip (a, lo, six)",
            "y = Clip (x, lo, one)",
            "a = Add (x, three)  c = Clip (a, lo, six)  m = Mul (c, sixth)  y = Add (m, c)",
            "h = HardSigmoid (x)  y = Mul (h, x)",
            "h = HardSigmoid <alpha = 0.16666667> (x)  y = Mul (h, z)",
        ] {
            check_same(&FuseHardSigmoid, &graph(body));
        }
    }
}
