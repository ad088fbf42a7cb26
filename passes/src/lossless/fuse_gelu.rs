//! Makes a decomposed GELU one `Gelu` where the model's opset has it.
//!
//! ```text
//! y = x · ½ · (1 + erf (x / √2))
//! ```
//! ```onnx before
//! # opset: 20; x: float[2,3]; root: float = {1.4142135}; one: float = {1}; half: float = {0.5}
//! d = Div (x, root)
//! e = Erf (d)
//! a = Add (e, one)
//! p = Mul (x, a)
//! y = Mul (p, half)
//! ```
//! ```onnx after
//! y = Gelu (x)
//! ```
//! The half may stand at x, at the sum or behind the product. ONNX Runtime 1.32 recognizes the last of these when it loads a model, and
//! not the others; Gelu it has.
//!
//! **Class:** rounding. **Legal when** the model's opset is 20 or later, all is float32, the numbers are right to within 1e-6, and nobody
//! else reads the values between.
use onnx_shrink_ir::{
    DataType, Graph, NewOp, OpId, Patch, ValueId, ValueRef,
    ops::{Binary, BinaryKind},
};

use crate::{Class, Context, Description, Miss, Result, Rewrite, When, lossless::line::Line};

/// See the [module](self) for before, after and legality.
pub struct FuseGelu;

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "fuse-gelu",
    class: Class::Rounding,
    about: "makes a decomposed GELU one op",
    when: When::Lossless,
};

/// The first opset with Gelu.
const GELU: i64 = 20;

impl Rewrite for FuseGelu {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn rewrite(&self, graph: &Graph, op: OpId, _: &Context<'_>) -> Result<Patch, Miss> {
        fuse(graph, op).ok_or(Miss::NotThisPattern)
    }
}

/// Whether `line` multiplies by `factor` and adds `shift`.
fn is(line: &Line, factor: f64, shift: f64) -> bool {
    (line.factor - factor).abs() <= 1e-6 * factor && line.shift == shift
}

/// The edits that make the Erf `op`, with what is around it, a Gelu.
fn fuse(graph: &Graph, op: OpId) -> Option<Patch> {
    let erf = Some(graph.op(op)).filter(|node| node.is("Erf") && graph.opset() >= GELU)?;
    let (input, output) = (erf.input(0)?, erf.output(0)?);
    let scaled = graph.producer(input).and_then(|op| Line::of(graph, op))?;
    let x = scaled.x;
    let ty = graph.ty(x).filter(|ty| ty.dtype == DataType::Float)?;
    (is(&scaled, std::f64::consts::FRAC_1_SQRT_2, 0.0) && graph.only_use(input).is_some()).then_some(())?;
    let sum = Line::behind(graph, output).filter(|line| is(line, 1.0, 1.0))?.y;
    let is_half = |line: &Line| is(line, 0.5, 0.0);
    let halved = Line::behind(graph, sum).filter(is_half).map(|line| line.y);
    let (product, other) = product(graph, halved.unwrap_or(sum))?;
    let half_of_x = || {
        let line = graph.producer(other).and_then(|op| Line::of(graph, op)).filter(is_half);
        line.is_some_and(|line| line.x == x) && graph.only_use(other).is_some()
    };
    let end = if other == x {
        if halved.is_some() { product } else { Line::behind(graph, product).filter(is_half)?.y }
    } else {
        (halved.is_none() && half_of_x()).then_some(product)?
    };
    let mut patch = Patch::new(op);
    let node = NewOp::new("Gelu").named(erf.name());
    let y = patch.op(node, &[Some(ValueRef::from(x))], graph.name_of(end), graph.ty(end).or(Some(ty)).cloned());
    patch.replace(end, y);
    Some(patch)
}

/// The product that alone reads `value`: what it makes, and its other side.
fn product(graph: &Graph, value: ValueId) -> Option<(ValueId, ValueId)> {
    let binary = Binary::of(graph, graph.only_use(value)?.0).filter(|binary| binary.kind == BinaryKind::Mul)?;
    Some((binary.y, if binary.a == value { binary.b } else { binary.a }))
}

#[cfg(test)]
mod tests {
    use super::FuseGelu;
    use crate::testing::{check_same_inferred, parse, run};

    fn graph(opset: i64, body: &str) -> String {
        format!(
            "<ir_version: 9, opset_import: [\"\" : {opset}]> g (float[2,3] x) => (float[2,3] y) <float root = {{1.4142135}},
            float recip = {{0.70710677}}, float one = {{1}}, float half = {{0.5}}> {{ {body} }}"
        )
    }

    #[test]
    fn the_half_may_stand_in_three_places() {
        for body in [
            "d = Div (x, root)  e = Erf (d)  a = Add (e, one)  p = Mul (x, a)  y = Mul (p, half)",
            "d = Mul (recip, x)  e = Erf (d)  a = Add (one, e)  h = Mul (half, a)  y = Mul (h, x)",
            "h = Mul (x, half)  d = Mul (x, recip)  e = Erf (d)  a = Add (e, one)  y = Mul (h, a)",
        ] {
            let mut graph = parse(&graph(20, body)).graph;
            run(&FuseGelu, &mut graph, crate::Options::default());
            assert_eq!(graph.count_by_type().into_keys().collect::<Vec<_>>(), ["Gelu"], "{body}");
        }
    }

    #[test]
    fn older_opsets_other_numbers_and_values_that_others_read_stay() {
        let gelu = "d = Div (x, root)  e = Erf (d)  a = Add (e, one)  p = Mul (x, a)  y = Mul (p, half)";
        check_same_inferred(&FuseGelu, &graph(19, gelu));
        check_same_inferred(&FuseGelu, &graph(20, &gelu.replace("(p, half)", "(p, recip)")));
        check_same_inferred(&FuseGelu, &graph(20, &gelu.replace("(p, half)", "(p, a)")));
        check_same_inferred(&FuseGelu, &graph(20, &gelu.replace("Div (x, root)", "Div (x, half)")));
    }
}
