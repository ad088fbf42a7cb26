//! Tests of the rules and of the machinery around them.
use std::collections::BTreeSet;

use onnx_shrink_ir::{Graph, text};

use super::{exact, rounding};
use crate::{
    Class, Options, SimplifyIslands,
    testing::{assert_same_values, check, check_same, parse, run},
};

/// For every rule at least one graph on which it alone finds something.
const FIRES: &[(&str, &str)] = &[
    ("relu-of-relu", "g (float[2,3] x) => (float[2,3] y) { a = Relu (x)  y = Relu (a) }"),
    ("clip-absorbs-relu", "g (float[2,3] x) => (float[2,3] y) <float lo = {0}, float hi = {1}> { a = Relu (x)  y = Clip (a, lo, hi) }"),
    ("clip-absorbs-relu", r#"<ir_version: 7, opset_import: ["" : 10]> g (float[2,3] x) => (float[2,3] y) { a = Relu (x)  y = Clip <min = 0.0, max = 1.0> (a) }"#),
    ("relu-of-clip", "g (float[2,3] x) => (float[2,3] y) <float lo = {0.25}, float hi = {1}> { a = Clip (x, lo, hi)  y = Relu (a) }"),
    ("relu-of-clip", "g (float[2,3] x) => (float[2,3] y) <float lo = {0.25}> { a = Clip (x, lo)  y = Relu (a) }"),
    ("clip-of-clip", "g (float[9] x) => (float[9] y) <float a = {-1}, float b = {1}, float c = {0.5}, float d = {1.5}> { t = Clip (x, a, b)  y = Clip (t, c, d) }"),
    ("clip-of-clip", "g (float[9] x) => (float[9] y) <float a = {-1}, float d = {1}> { t = Clip (x, a)  y = Clip (t, , d) }"),
    ("clip-of-clip", r#"<ir_version: 7, opset_import: ["" : 9]> g (float[9] x) => (float[9] y) { t = Clip <min = -1.0> (x)  y = Clip <min = -1.5, max = 1.0> (t) }"#),
    ("abs-of-neg", "g (float[2,3] x) => (float[2,3] y) { a = Neg (x)  y = Abs (a) }"),
    ("neg-of-neg", "g (float[2,3] x) => (float[2,3] y) { a = Neg (x)  b = Neg (a)  y = Relu (b) }"),
    ("not-of-not", "g (bool[2,3] x) => (bool[2,3] y) { a = Not (x)  b = Not (a)  y = Not (b) }"),
    ("relu-of-sigmoid", "g (float[2,3] x) => (float[2,3] y) { a = Sigmoid (x)  y = Relu (a) }"),
    ("relu-of-exp", "g (float[2,3] x) => (float[2,3] y) { a = Exp (x)  y = Relu (a) }"),
    ("relu-of-abs", "g (float[2,3] x) => (float[2,3] y) { a = Abs (x)  y = Relu (a) }"),
    ("relu-of-softmax", "g (float[2,3] x) => (float[2,3] y) { a = Softmax <axis = 1> (x)  y = Relu (a) }"),
    ("relu-of-hardsigmoid", "g (float[2,3] x) => (float[2,3] y) { a = HardSigmoid <alpha = 0.5> (x)  y = Relu (a) }"),
    ("relu-of-sqrt", "g (float[2,3] x) => (float[2,3] y) { e = Exp (x)  a = Sqrt (e)  y = Relu (a) }"),
    ("abs-of-sigmoid", "g (float[2,3] x) => (float[2,3] y) { a = Sigmoid (x)  y = Abs (a) }"),
    ("abs-of-exp", "g (float[2,3] x) => (float[2,3] y) { a = Exp (x)  y = Abs (a) }"),
    ("abs-of-abs", "g (float[2,3] x) => (float[2,3] y) { a = Abs (x)  y = Abs (a) }"),
    ("abs-of-softmax", "g (float[2,3] x) => (float[2,3] y) { a = Softmax (x)  y = Abs (a) }"),
    ("abs-of-relu", "g (float[2,3] x) => (float[2,3] y) { a = Relu (x)  y = Abs (a) }"),
    ("abs-of-sqrt", "g (float[2,3] x) => (float[2,3] y) { e = Exp (x)  a = Sqrt (e)  y = Abs (a) }"),
    ("transpose-identity", "g (float[2,3] x) => (float[2,3] y) { a = Transpose <perm = [0, 1]> (x)  y = Relu (a) }"),
    ("transpose-transpose", "g (float[2,3,4] x) => (float[4,2,3] y) { a = Transpose <perm = [1, 2, 0]> (x)  y = Transpose <perm = [1, 2, 0]> (a) }"),
    ("reshape-to-same", "g (float[2,3] x) => (float[2,3] y) <int64[2] s = {2, -1}> { a = Reshape (x, s)  y = Relu (a) }"),
    ("squeeze-unsqueeze", "g (float[2,3] x) => (float[2,3] y) <int64[1] a = {1}, int64[1] b = {-2}, float[2,1,3] u> { u = Unsqueeze (x, a)  t = Squeeze (u, b)  y = Relu (t) }"),
    ("unsqueeze-squeeze", "g (float[2,1,3] x) => (float[2,1,3] y) <int64[1] a = {1}> { u = Squeeze (x, a)  t = Unsqueeze (u, a)  y = Relu (t) }"),
    ("slice-of-slice", "g (float[9,4] x) => (float[3,2] y) <int64[1] s = {2}, int64[1] e = {9}, int64[1] zero = {0}, int64[1] two = {2}, int64[2] s2 = {1, 1}, int64[2] e2 = {4, 3}> {
        a = Slice (x, s, e, zero, two)  y = Slice (a, s2, e2) }"),
    ("reshape-of-reshape", "g (float[2,6] x) => (float[3,4] y) <int64[1] s = {-1}, int64[2] t = {3, -1}> { a = Reshape (x, s)  y = Reshape (a, t) }"),
    ("reshape-of-flatten", "g (float[2,2,3] x) => (float[3,4] y) <int64[2] t = {3, -1}> { a = Flatten (x)  y = Reshape (a, t) }"),
    ("reshape-of-squeeze", "g (float[2,1,6] x) => (float[3,4] y) <int64[1] s = {1}, int64[2] t = {3, -1}> { a = Squeeze (x, s)  y = Reshape (a, t) }"),
    ("reshape-of-unsqueeze", "g (float[2,6] x) => (float[3,4] y) <int64[1] s = {1}, int64[2] t = {3, -1}> { a = Unsqueeze (x, s)  y = Reshape (a, t) }"),
    ("concat-of-concat", "g (float[2,3] x, float[2,1] z) => (float[2,9] y) { a = Concat <axis = 1> (x, z)  b = Concat <axis = -1> (z, z)  y = Concat <axis = 1> (a, x, b) }"),
    ("cast-to-same", "g (float[2,3] x) => (float[2,3] y) { a = Cast <to = 1> (x)  y = Relu (a) }"),
    ("cast-of-cast", "g (float16[2,3] x) => (double[2,3] y) { a = Cast <to = 1> (x)  y = Cast <to = 11> (a) }"),
    ("cast-of-cast", "g (uint8[2,3] x) => (int32[2,3] y) { a = Cast <to = 10> (x)  b = Cast <to = 5> (x)  y = Cast <to = 6> (b) }"),
    ("quantize-dequantize", "g (uint8[5] x) => (uint8[5] y) <float s = {0.1}, uint8 z = {1}> { a = DequantizeLinear (x, s, z)  y = QuantizeLinear (a, s, z) }"),
    ("quantize-dequantize", "g (uint8[5] x) => (uint8[5] y) <float s = {0.1}> { a = DequantizeLinear (x, s)  y = QuantizeLinear (a, s) }"),
    ("quantize-saturates-as-relu", "g (float[9] x) => (uint8[9] y) <float s = {0.1}, uint8 z = {0}> { a = Relu (x)  y = QuantizeLinear (a, s, z) }"),
    ("quantize-saturates-as-relu", "g (float[9] x) => (uint8[9] y) <float s = {0.1}> { a = Relu (x)  y = QuantizeLinear (a, s) }"),
    ("quantize-saturates-as-relu", "g (float[9] x) => (int8[9] y) <float s = {0.1}, int8 z = {-128}> { a = Relu (x)  y = QuantizeLinear (a, s, z) }"),
    ("quantize-saturates-as-clip", "g (float[9] x) => (uint8[9] y) <float s = {0.0039}, uint8 z = {0}, float lo = {0}, float hi = {1}> { a = Clip (x, lo, hi)  y = QuantizeLinear (a, s, z) }"),
    ("quantize-saturates-as-clip", r#"<ir_version: 7, opset_import: ["" : 10]> g (float[9] x) => (uint8[9] y) <float s = {0.0039}, uint8 z = {0}> { a = Clip <min = -0.5, max = 1.0> (x)  y = QuantizeLinear (a, s, z) }"#),
    ("relu-of-dequantize", "g (uint8[9] x) => (float[9] y) <float s = {0.1}, uint8 z = {0}> { a = DequantizeLinear (x, s, z)  y = Relu (a) }"),
    ("clip-of-dequantize", "g (uint8[9] x) => (float[9] y) <float s = {0.0039}, uint8 z = {128}, float lo = {-1}, float hi = {0.5}> { a = DequantizeLinear (x, s, z)  y = Clip (a, lo, hi) }"),
    ("mul-by-one", "g (float[2,3] x) => (float[2,3] y) <float[1] c = {1}> { a = Mul (x, c)  y = Relu (a) }"),
    ("one-mul-by", "g (float[2,3] x) => (float[2,3] y) <float c = {1}> { a = Mul (c, x)  y = Relu (a) }"),
    ("div-by-one", "g (float[2,3] x) => (float[2,3] y) <float c = {1}> { a = Div (x, c)  y = Relu (a) }"),
    ("sub-zero", "g (float[2,3] x) => (float[2,3] y) <float c = {0}> { a = Sub (x, c)  y = Relu (a) }"),
    ("Mul-right-right-constants", "g (float[2,3] x) => (float[2,3] y) <float c = {2}, float d = {-0.3}> { a = Mul (x, c)  y = Mul (a, d) }"),
    ("Mul-left-right-constants", "g (float[2,3] x) => (float[2,3] y) <float c = {2}, float[1] d = {3}> { a = Mul (c, x)  y = Mul (a, d) }"),
    ("Mul-right-left-constants", "g (float[2,3] x) => (float[2,3] y) <float c = {2}, float d = {3}> { a = Mul (x, c)  y = Mul (d, a) }"),
    ("Mul-left-left-constants", "g (double[2,3] x) => (double[2,3] y) <double c = {2}, double d = {3}> { a = Mul (c, x)  y = Mul (d, a) }"),
    ("Add-right-right-constants", "g (float[2,3] x) => (float[2,3] y) <float c = {2}, float d = {0.3}> { a = Add (x, c)  y = Add (a, d) }"),
    ("Add-left-right-constants", "g (float[2,3] x) => (float[2,3] y) <float c = {-2}, float d = {-3}> { a = Add (c, x)  y = Add (a, d) }"),
    ("Add-right-left-constants", "g (float[2,3] x) => (float[2,3] y) <float c = {2}, float d = {3}> { a = Add (x, c)  y = Add (d, a) }"),
    ("Add-left-left-constants", "g (float[2,3] x) => (float[2,3] y) <float c = {2}, float d = {3}> { a = Add (c, x)  y = Add (d, a) }"),
];

/// Rules that pay only together with `transpose-transpose`: they move a Transpose to where it meets another.
fn sinking() -> Vec<(String, String)> {
    let between = |op: &str| {
        format!(
            "g (float[2,3] x) => (float[2,3] y) <float c = {{2}}> {{ e = Exp (x)  a = Transpose <perm = [1, 0]> (e)  {op}  y = Transpose <perm = [1, 0]> (b) }}"
        )
    };
    let mut cases = vec![
        ("clip-sinks".to_owned(), between("b = Clip (a, c)")),
        ("transpose-sinks-LeakyRelu".to_owned(), between("b = LeakyRelu <alpha = 0.5> (a)")),
        ("transpose-sinks-Cast".to_owned(), between("b = Cast <to = 11> (a)").replace("(float[2,3] y)", "(double[2,3] y)")),
        ("transpose-sinks-Not".to_owned(), "g (bool[2,3] x) => (bool[2,3] y) { a = Transpose <perm = [1, 0]> (x)  b = Not (a)  y = Transpose <perm = [1, 0]> (b) }".to_owned()),
    ];
    for op in ["Relu", "Sigmoid", "Tanh", "Exp", "Erf", "Abs", "Sqrt", "Neg"] {
        cases.push((format!("transpose-sinks-{op}"), between(&format!("b = {op} (a)"))));
    }
    for op in ["Add", "Sub", "Mul", "Div"] {
        let both = format!(
            "g (float[2,3] x, float[1,3] z) => (float[3,2] y) {{ a = Transpose <perm = [1, 0]> (x)  e = Exp (z)  b = Transpose <perm = [1, 0]> (e)  y = {op} (a, b) }}"
        );
        cases.push((format!("transposes-sink-{op}"), both));
        cases.push((format!("transpose-sinks-{op}-constant"), between(&format!("b = {op} (a, c)"))));
        let vector = between(&format!("b = {op} (a, c)")).replace("<float c = {2}>", "<float[2] c = {2, 3}>");
        cases.push((format!("transpose-sinks-{op}-constant"), vector));
        let column = between(&format!("b = {op} (c, a)")).replace("<float c = {2}>", "<float[3,1] c = {2, 3, 4}>");
        cases.push((format!("transpose-sinks-constant-{op}"), column));
        cases.push((format!("transpose-sinks-constant-{op}"), between(&format!("b = {op} (c, a)"))));
    }
    cases
}

#[test]
fn rules_hold() {
    let mut cases: Vec<(String, String)> =
        FIRES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let sinking = sinking();
    cases.extend(sinking.iter().cloned());
    let mut untested: BTreeSet<String> = BTreeSet::new();
    for (class, rules) in [(Class::Exact, exact()), (Class::Rounding, rounding())] {
        for rule in rules {
            let name = rule.name.to_string();
            let of_rule: Vec<_> = cases.iter().filter(|(case, _)| *case == name).collect();
            if of_rule.is_empty() {
                untested.insert(name.clone());
            }
            for (_, source) in of_rule {
                let helper = exact().into_iter().find(|rule| rule.name.as_str() == "transpose-transpose");
                let identity = exact().into_iter().find(|rule| rule.name.as_str() == "transpose-identity");
                let mut rules = vec![rule.clone()];
                if sinking.iter().any(|(case, _)| *case == name) && !name.starts_with("transposes") {
                    rules.extend(helper.into_iter().chain(identity));
                }
                let original = parse(source).graph;
                let mut graph = original.detached();
                run(&SimplifyIslands::only(rules, class), &mut graph, Options::default());
                let (before, after) = (text::print_graph(&original), text::print_graph(&graph));
                assert_ne!(before, after, "{name} found nothing in\n{source}");
                assert!(graph.op_count() < original.op_count() || name == "transpose-sinks", "{name} made\n{after}");
                assert_same_values(&original, &graph, class);
            }
        }
    }
    assert!(untested.is_empty(), "no case for {untested:?}");
    for (name, _) in cases {
        assert!(exact().iter().chain(&rounding()).any(|rule| rule.name.as_str() == name), "{name} is no rule");
    }
}

/// Texts that every rule must leave as they are.
#[test]
fn conditions_refuse() {
    let refused = [
        // Clip and Relu: a bound that is negative, unknown, or wins below the other
        "g (float[3] x) => (float[3] y) <float lo = {-1}, float hi = {1}> { a = Relu (x)  y = Clip (a, lo, hi) }",
        "g (float[3] x, float lo) => (float[3] y) <float hi = {1}> { a = Relu (x)  y = Clip (a, lo, hi) }",
        "g (float[3] x) => (float[3] y) <float hi = {1}> { a = Relu (x)  y = Clip (a, , hi) }",
        "g (float[3] x) => (float[3] y) <float lo = {0}, float hi = {-1}> { a = Clip (x, lo, hi)  y = Relu (a) }",
        "g (float[3] x) => (float[3] y) <float lo = {-0.0}, float hi = {1}> { a = Clip (x, lo, hi)  y = Relu (a) }",
        "g (float[3] x) => (float[3] y) <float a = {-1}, float b = {0}, float c = {1}, float d = {2}> { t = Clip (x, a, b)  y = Clip (t, c, d) }",
        "g (float[3] x) => (float[3] y) <float a = {1}, float b = {0}, float c = {-1}, float d = {2}> { t = Clip (x, a, b)  y = Clip (t, c, d) }",
        "g (float[3] x, float b) => (float[3] y) <float a = {-1}, float c = {0}> { t = Clip (x, a, b)  y = Clip (t, c) }",
        // a sign of zero
        "g (float[3] x) => (float[3] y) { a = Tanh (x)  y = Abs (a) }",
        "g (float[3] x) => (float[3] y) { a = Tanh (x)  y = Relu (a) }",
        // Transpose
        "g (float[2,3] x) => (float[3,2] y) { a = Relu (x)  y = Transpose (a) }",
        "g (float[2,3] x, float[3,2] z) => (float[3,2] y) { a = Transpose (x)  y = Add (a, z) }",
        "g (float[3,3] x) => (float[3,3] y) <float[3,3] c = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { a = Transpose (x)  b = Add (a, c)  y = Transpose <perm = [1, 0]> (b) }",
        "g (float[2,2] x) => (float[2,1,2] y) <float[1,1,1] c = {2}> { a = Transpose (x)  b = Mul (a, c)  y = Transpose <perm = [2, 0, 1]> (b) }",
        "g (float[2,3] x, float[2,3] z) => (float[3,2,2,3] y) <int64[1] o = {0}> { a = Transpose <perm = [1, 0]> (x)  b = Transpose <perm = [0, 1]> (z)  y = Softmax (a) }",
        // Reshape that copies a dimension, or whose shape is not constant
        "g (float[N,6,4] x) => (float[N,2,3,4] y) <int64[3] s = {0, 2, -1}, int64[4] t = {0, 0, 3, 4}> { a = Reshape (x, s)  y = Reshape (a, t) }",
        "g (float[2,6] x, int64[2] t) => (float[] y) <int64[1] s = {-1}> { a = Reshape (x, s)  y = Reshape (a, t) }",
        "g (float[N,M] x) => (float[M,N] y, float[M,N] z) <int64[2] s = {-1, 2}> { y = Reshape (x, s)  z = Neg (y) }",
        // other axes
        "g (float[1,2,1] x) => (float[2,1,1] y) <int64[1] a = {0}, int64[1] b = {2}> { u = Squeeze (x, a)  y = Unsqueeze (u, b) }",
        // Slices
        "g (float[10] x) => (float[] y) <int64[1] s = {9}, int64[1] e = {-11}, int64[1] a = {0}, int64[1] p = {-2}, int64[1] s2 = {1}, int64[1] e2 = {4611686018427387904}, int64[1] p2 = {2}> {
            t = Slice (x, s, e, a, p)  y = Slice (t, s2, e2, a, p2) }",
        "g (float[N] x) => (float[] y) <int64[1] s = {1}, int64[1] e = {-1}> { t = Slice (x, s, e)  y = Slice (t, s, e) }",
        // Concats of different axes
        "g (float[2,2] x) => (float[4,4] y) { a = Concat <axis = 0> (x, x)  y = Concat <axis = 1> (a, a) }",
        // lossy and unknown casts
        "g (float[4] x) => (float[4] y) { a = Cast <to = 6> (x)  y = Cast <to = 1> (a) }",
        "g (float[4] x) => (float[4] y) { a = Cast <to = 10> (x)  y = Cast <to = 1> (a) }",
        "g (int64[4] x) => (int64[4] y) { a = Cast <to = 11> (x)  y = Cast <to = 7> (a) }",
        "g (int8[4] x) => (int32[4] y) { a = Cast <to = 4> (x)  y = Cast <to = 6> (a) }",
        "g (int16[4] x) => (float[4] y) { a = Cast <to = 10> (x)  y = Cast <to = 1> (a) }",
        // Q/DQ: the pair that rounds and clips, other scales, other types, scales that vanish
        "g (float[4] x) => (float[4] y) <float s = {0.1}, int8 z = {0}> { a = QuantizeLinear (x, s, z)  y = DequantizeLinear (a, s, z) }",
        "g (int8[4] x) => (int8[4] y) <float s = {0.1}, float t = {0.3}, int8 z = {3}> { a = DequantizeLinear (x, s, z)  y = QuantizeLinear (a, t, z) }",
        "g (int8[4] x) => (int8[4] y) <float s = {0.1}, int8 w = {0}, int8 z = {3}> { a = DequantizeLinear (x, s, w)  y = QuantizeLinear (a, s, z) }",
        "g (int8[4] x, float s) => (int8[4] y) <int8 z = {3}> { a = DequantizeLinear (x, s, z)  y = QuantizeLinear (a, s, z) }",
        "g (int8[4] x) => (int8[4] y) <float s = {1e-42}, int8 z = {3}> { a = DequantizeLinear (x, s, z)  y = QuantizeLinear (a, s, z) }",
        "g (uint8[4] x) => (uint8[4] y) <float[4] s = {0.1, 0.2, 0.3, 0.4}, uint8[4] z = {0, 0, 0, 0}> { a = DequantizeLinear <axis = 0> (x, s, z)  y = QuantizeLinear <axis = 0> (a, s, z) }",
        // Relu and Clip that do something
        "g (float[9] x) => (uint8[9] y) <float s = {0.1}, uint8 z = {1}> { a = Relu (x)  y = QuantizeLinear (a, s, z) }",
        "g (float[9] x) => (int8[9] y) <float s = {0.1}, int8 z = {0}> { a = Relu (x)  y = QuantizeLinear (a, s, z) }",
        "g (float[9] x) => (uint8[9] y) <float s = {0.004}, uint8 z = {0}, float lo = {0}, float hi = {1}> { a = Clip (x, lo, hi)  y = QuantizeLinear (a, s, z) }",
        "g (float[9] x) => (uint8[9] y) <float s = {0.0039}, uint8 z = {0}, float lo = {2}, float hi = {1}> { a = Clip (x, lo, hi)  y = QuantizeLinear (a, s, z) }",
        "g (float[9] x) => (uint8[9] y, float[9] a) <float s = {0.1}, uint8 z = {0}> { a = Relu (x)  y = QuantizeLinear (a, s, z) }",
        "g (uint8[9] x) => (float[9] y) <float s = {0.1}, uint8 z = {1}> { a = DequantizeLinear (x, s, z)  y = Relu (a) }",
        "g (uint8[9] x) => (float[9] y) <float s = {0.0039}, uint8 z = {128}, float lo = {-1}, float hi = {0.4}> { a = DequantizeLinear (x, s, z)  y = Clip (a, lo, hi) }",
        // neutral elements that broadcast
        "g (float[2] x) => (float[3,2] y) <float[3,2] c = {1, 1, 1, 1, 1, 1}> { t = Mul (x, c)  y = Relu (t) }",
        "g (float[A,1] x) => (float[] y) <float[1,5] c = {0, 0, 0, 0, 0}> { t = Sub (x, c)  y = Relu (t) }",
        "g (float[3] x) => (float[3] y) <float c = {-0.0}> { t = Sub (x, c)  y = Relu (t) }",
        // constants: float16, overflow, vectors, the rounding trick
        "g (float16[2] x) => (float16[2] y) <float16 a = {60000}, float16 b = {0.0001}> { t = Mul (x, a)  y = Mul (t, b) }",
        "g (float[2] x) => (float[2] y) <float a = {1e30}, float b = {1e30}> { t = Mul (x, a)  y = Mul (t, b) }",
        "g (float[2] x) => (float[2] y) <float a = {1e-30}, float b = {1e-30}> { t = Mul (x, a)  y = Mul (t, b) }",
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> { t = Mul (x, a)  y = Mul (t, b) }",
        "g (float[2] x) => (float[2] y) <float a = {8388608}, float b = {-8388608}> { t = Add (x, a)  y = Add (t, b) }",
        // a default that whoever runs the model may override
        "g (float[2] x, float[1] c) => (float[2] y) <float[1] c = {1}> { t = Mul (x, c)  y = Relu (t) }",
        // other domains
        r#"<ir_version: 8, opset_import: ["" : 17, "other" : 1]> g (float[2] x) => (float[2] y) { a = other.Relu (x)  y = other.Relu (a) }"#,
    ];
    for model in refused {
        check_same(&SimplifyIslands::rounding(), model);
    }
}

#[test]
fn transposes_meet_through_elementwise_ops() {
    let before = "g (float[1,2,3] x) => (float[1,2,3] y) { a = Transpose <perm = [0, 2, 1]> (x)  b = Relu (a)  c = Relu (b)  y = Transpose <perm = [0, 2, 1]> (c) }";
    check(&SimplifyIslands::exact(), before, "g (float[1,2,3] x) => (float[1,2,3] y) { y = Relu (x) }");
}

#[test]
fn a_value_that_others_use_stays() {
    let model = "g (float[2] x) => (float[2] y, float[2] a) { a = Relu (x)  y = Neg (a) }";
    check_same(&SimplifyIslands::rounding(), model);
    // The Relu in the middle stays for the body and for the output; only what read it twice goes.
    let before =
        "g (float[2] x, bool c) => (float[2] y, float[2] z) { a = Relu (x)  b = Relu (a)  z = Neg (b)  y = If (c) <
        then_branch = t () => (float[2] t) { t = Neg (b) }, else_branch = e () => (float[2] e) { e = Neg (a) }> }";
    let after = "g (float[2] x, bool c) => (float[2] y, float[2] z) { a = Relu (x)  z = Neg (a)  y = If (c) <
        then_branch = t () => (float[2] t) { t = Neg (a) }, else_branch = e () => (float[2] e) { e = Neg (a) }> }";
    check(&SimplifyIslands::exact(), before, after);
}

#[test]
fn a_merge_that_saves_no_op_is_not_made() {
    // t is an output, so both Muls stay whatever y reads.
    let model =
        "g (float[2] x) => (float[2] y, float[2] t) <float a = {2}, float b = {3}> { t = Mul (x, a)  y = Mul (t, b) }";
    check_same(&SimplifyIslands::rounding(), model);
}

#[test]
fn names_of_outputs_and_inputs_stay() {
    let before = "g (float[2,3] x) => (float[2,3] y) <float[3,2] a> { a = Transpose (x)  y = Transpose (a) }";
    check(&SimplifyIslands::exact(), before, "g (float[2,3] x) => (float[2,3] y) { y = Identity (x) }");
    let two = "g (float[2] x) => (float[2] y, float[2] z) { a = Relu (x)  y = Relu (a)  z = Relu (a) }";
    let same = "g (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)  z = Identity (y) }";
    check(&SimplifyIslands::exact(), two, same);
}

#[test]
fn a_constant_is_merged_and_named_after_the_first() {
    let before = "g (float[2] x) => (float[2] y) <float a = {2}, float b = {3}> { t = Mul (x, a)  y = Mul (t, b) }";
    let after = "g (float[2] x) => (float[2] y) <float a_1 = {6}> { y = Mul (x, a_1) }";
    check(&SimplifyIslands::rounding(), before, after);
    check_same(&SimplifyIslands::exact(), before);
}

#[test]
fn slices_compose() {
    let before = "g (float[20] x) => (float[3] y) <int64[1] s = {2}, int64[1] e = {-2}, int64[1] a = {0}, int64[1] p = {3}, int64[1] s2 = {1}, int64[1] e2 = {100}, int64[1] p2 = {2}> {
        t = Slice (x, s, e, a, p)  y = Slice (t, s2, e2, a, p2) }";
    let mut graph = parse(before).graph;
    run(&SimplifyIslands::exact(), &mut graph, Options::default());
    assert_eq!(graph.op_count(), 1);
    assert_same_values(&parse(before).graph, &graph, Class::Exact);
}

/// Every pair of small slices of 7 elements takes the same as its composition.
#[test]
fn slices_within_slices_take_the_same() {
    use super::{language::Span, layout::within};
    let take = |from: &[i64], span: &Span| -> Vec<i64> {
        let length = from.len() as i64;
        (span.start.min(length)..span.end.min(length))
            .step_by(span.step as usize)
            .map(|index| from[index as usize])
            .collect()
    };
    let all: Vec<i64> = (0..7).collect();
    let spans: Vec<Span> = (0..9)
        .flat_map(|start| (0..9).flat_map(move |end| (1..4).map(move |step| Span { axis: 0, start, end, step })))
        .collect();
    for inner in &spans {
        for outer in &spans {
            let merged = within(&[*outer], &[*inner]).unwrap();
            assert_eq!(take(&take(&all, inner), outer), take(&all, &merged[0]), "{outer:?} of {inner:?}");
        }
    }
}

/// Numbers that depend on a seed alone.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

/// A graph of `count` random ops over square matrices.
fn random_graph(seed: u64, count: usize) -> String {
    let mut random = Random(seed);
    let mut values = vec!["x".to_owned()];
    let mut body = String::new();
    for index in 0..count {
        let recent = values.len().min(6);
        let pick = |random: &mut Random| values[values.len() - 1 - random.below(recent)].clone();
        let (a, b) = (pick(&mut random), pick(&mut random));
        let op = match random.below(11) {
            0 | 1 => format!("Relu ({a})"),
            2 => format!("Neg ({a})"),
            3 | 4 => format!("Transpose <perm = [1, 0]> ({a})"),
            5 => format!("Clip ({a}, lo, hi)"),
            6 => format!("Abs ({a})"),
            7 => format!("Mul ({a}, half)"),
            8 => format!("Reshape ({a}, s)"),
            9 => format!("Sub ({a}, zero)"),
            _ => format!("Add ({a}, {b})"),
        };
        body += &format!("  v{index} = {op}\n");
        values.push(format!("v{index}"));
    }
    let outputs: Vec<String> = (1..=3).map(|back| format!("float[3,3] v{}", count - back)).collect();
    format!(
        "g (float[3,3] x) => ({}) <float lo = {{-1}}, float hi = {{2}}, float half = {{0.5}}, float zero = {{0}}, int64[2] s = {{3, 3}}> {{\n{body}}}",
        outputs.join(", ")
    )
}

fn simplified(pass: &SimplifyIslands, source: &str) -> Graph {
    let mut graph = parse(source).graph;
    run(pass, &mut graph, Options::default());
    graph
}

#[test]
fn random_graphs_keep_their_values_and_come_out_the_same_twice() {
    let mut fewer = 0;
    for seed in 0..60 {
        let source = random_graph(seed, 12 + seed as usize);
        let mut original = parse(&source).graph;
        original.sweep(); // what is dead is another pass's business
        let source = text::print_graph(&original);
        for (pass, class) in [(SimplifyIslands::exact(), Class::Exact), (SimplifyIslands::rounding(), Class::Rounding)]
        {
            let (first, second) = (simplified(&pass, &source), simplified(&pass, &source));
            assert_eq!(text::print_graph(&first), text::print_graph(&second));
            assert_eq!(first.ops().len(), first.op_count(), "a cycle in\n{source}");
            assert!(first.op_count() <= original.op_count(), "{source}\n{}", text::print_graph(&first));
            assert_same_values(&original, &first, class);
            fewer += usize::from(first.op_count() < original.op_count());
        }
    }
    assert!(fewer > 60, "only {fewer} of 120 got smaller");
}

#[test]
fn graphs_over_several_islands_keep_their_values() {
    for seed in 0..4 {
        let source = random_graph(1000 + seed, 900);
        let after = simplified(&SimplifyIslands::exact(), &source);
        assert_eq!(after.ops().len(), after.op_count());
        assert_same_values(&parse(&source).graph, &after, Class::Exact);
    }
}

#[test]
fn a_clash_of_types_leaves_the_island() {
    // y is declared wrongly: what the rules would conclude from that is worth nothing.
    check_same(&SimplifyIslands::exact(), "g (float[2] x) => (float[3] y) { a = Relu (x)  y = Relu (a) }");
}

#[test]
fn residual_connections_do_not_blow_up() {
    let mut body = String::from("  v0 = Relu (x)\n");
    for index in 1..=200 {
        let before = index - 1;
        body += &format!("  a{index} = Relu (v{before})\n  v{index} = Add (a{index}, v{before})\n");
    }
    let source = format!("g (float[2] x) => (float[2] v200) {{\n{body}}}");
    let after = simplified(&SimplifyIslands::exact(), &source);
    // That a sum of what is not negative is not negative is no rule's business: only the Relu of a Relu goes.
    assert_eq!(after.op_count(), 400);
}

fn chain(count: usize, op: impl Fn(usize) -> &'static str) -> String {
    let mut body = String::from("  v0 = Relu (x)\n");
    for index in 1..count {
        body += &format!("  v{index} = {} (v{})\n", op(index), index - 1);
    }
    format!("g (float[2] x) => (float[2] v{}) {{\n{body}}}", count - 1)
}

/// A chain of Transposes and Relus.
fn random_turns(count: usize) -> String {
    let mut random = Random(5);
    let mut body = String::from("  v0 = Relu (x)\n");
    for index in 1..count {
        let perm = ["0, 2, 1", "1, 0, 2", "1, 2, 0", "2, 1, 0"][random.below(4)];
        let before = index - 1;
        let op = if random.below(3) == 0 {
            format!("Neg (v{before})")
        } else {
            format!("Transpose <perm = [{perm}]> (v{before})")
        };
        body += &format!("  v{index} = {op}\n");
    }
    format!("g (float[2,2,2] x) => (float[2,2,2] v{}) {{\n{body}}}", count - 1)
}

#[test]
fn a_long_chain_needs_no_stack() {
    let source = chain(20_000, |index| if index % 3 == 0 { "Relu" } else { "Neg" });
    let after = simplified(&SimplifyIslands::exact(), &source);
    assert!(after.op_count() < 300, "{}", after.op_count());
    // One island of Transposes grows to its limit and is still right.
    let turned = random_turns(140);
    let after = simplified(&SimplifyIslands::exact(), &turned);
    assert!(after.op_count() < 140);
    assert_same_values(&parse(&turned).graph, &after, Class::Exact);
    let nothing = chain(20_000, |index| if index % 2 == 0 { "Relu" } else { "Neg" });
    assert_eq!(simplified(&SimplifyIslands::exact(), &nothing).op_count(), 20_000);
}
