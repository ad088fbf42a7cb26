//! Diffs of small models, by the titles of their changes.
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{Model, infer, text::parse_model};

use super::{Options, diff};

fn model(text: &str) -> Model {
    let mut model = parse_model(text).unwrap();
    infer::infer(&mut model.graph);
    model
}

const BEFORE: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y) {
  "</script><script>alert(1)</script>" = Relu(x)
  y = Neg("</script><script>alert(1)</script>")
}"#;

#[test]
fn a_renamed_copy_has_no_changes() {
    let a = model(BEFORE);
    let b = model(&BEFORE.replace("</script><script>alert(1)</script>", "v"));
    let found = diff(&a, &b, &Interpreter::default(), Options::default());
    assert!(found.equal, "{:?}", found.changes);
    assert!(found.notes.iter().any(|note| note.contains("1 op has another name")), "{:?}", found.notes);
}

/// Twins: two equal branches, which names or their places cannot tell apart.
#[test]
fn equal_branches_stay_apart() {
    let text = |first: &str, second: &str| {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y) {{
              a = Relu(x)  b = Relu(x)  c = Neg({first})  d = Neg({second})  y = Sub(c, d)
            }}"#
        )
    };
    let found = diff(&model(&text("a", "b")), &model(&text("b", "a")), &Interpreter::default(), Options::default());
    assert!(found.equal, "{:?}", found.changes);
    let found = diff(&model(&text("a", "b")), &model(&text("a", "a")), &Interpreter::default(), Options::default());
    assert!(!found.equal);
}

#[test]
fn a_gemm_that_became_two_is_split() {
    let a = model(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1, 2, 3, 4}> { h = Relu(x)  y = MatMul(h, w) }"#,
    );
    let b = model(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2] x) => (float[1,2] y) <float[2,1] u = {1, 2}, float[1,2] v = {3, 4}> {
          h = Relu(x)  t = MatMul(h, u)  y = MatMul(t, v) }"#,
    );
    let found = diff(&a, &b, &Interpreter::default(), Options::default());
    let titles: Vec<&str> = found.changes.iter().map(|change| change.title.as_str()).collect();
    assert_eq!(titles, ["MatMul became 2 MatMul of rank 1"]);
    assert_eq!(found.changes[0].kind, super::Kind::Split);
}

/// Titles of the changes from `a` to `b`.
fn titles(a: &str, b: &str) -> Vec<String> {
    let found = diff(&model(a), &model(b), &Interpreter::default(), Options::default());
    found.changes.iter().map(|change| change.title.clone()).collect()
}

const WEIGHTS: &str = "float[2,1,1,1] w = {1, 2}, float[1,2,1,1] v = {3, 4}";

#[test]
fn a_layer_with_fewer_channels_says_how_many() {
    let before =
        format!("g (float[1,1,2,2] x) => (float[1,1,2,2] y) <{WEIGHTS}> {{ a = Conv (x, w)  y = Conv (a, v) }}");
    let after = "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w = {1}, float[1,1,1,1] v = {3}> {
        a = Conv (x, w)  y = Conv (a, v) }";
    assert_eq!(titles(&before, after), ["Conv, channels 2 → 1", "Conv, inputs 2 → 1"]);
}

#[test]
fn a_default_that_is_left_out_is_no_change() {
    let gemm = |attributes: &str| {
        format!("g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {{1, 2, 3, 4}}> {{ y = Gemm {attributes} (x, w) }}")
    };
    assert_eq!(titles(&gemm("<alpha = 1.0, transB = 0>"), &gemm("")), [""; 0]);
    assert_eq!(titles(&gemm("<alpha = 2.0>"), &gemm("")), ["Gemm: attribute `alpha`"]);
    let pool = |attributes: &str| {
        format!("g (float[1,1,4,4] x) => (float[1,1,3,3] y) {{ y = MaxPool <kernel_shape = [2, 2]{attributes}> (x) }}")
    };
    assert_eq!(titles(&pool(", pads = [0, 0, 0, 0], strides = [1, 1]"), &pool("")), [""; 0]);
}

#[test]
fn what_was_a_constant_or_a_copy_is_said_to_be_so() {
    let constant = "g (float[1,2] x) => (float[2] y) <int64[1] s = {2}> { y = Reshape (x, s) }";
    let computed = "g (float[1,2] x) => (float[2] y) <int64[1] from = {1}, int64[1] to = {2}> {
        a = Shape (x)  s = Slice (a, from, to)  y = Reshape (x, s) }";
    assert_eq!(titles(constant, computed), ["a constant became Shape + Slice"]);
    assert_eq!(titles(computed, constant), ["Shape + Slice folded into a constant"]);
    let one = "g (float[2] x) => (float[2] y) { a = Relu (x)  b = Sin (a)  c = Cos (a)  y = Add (b, c) }";
    let two = "g (float[2] x) => (float[2] y) { a = Relu (x)  d = Relu (x)  b = Sin (a)  c = Cos (d)  y = Add (b, c) }";
    assert_eq!(titles(one, two), ["Relu: an equal op did the work before"]);
    assert_eq!(titles(two, one), ["Relu: an equal Relu does the work"]);
}

#[test]
fn a_layer_that_computes_in_float_again_takes_its_conversions_along() {
    let float = format!("g (float[1,1,2,2] x) => (float[1,2,2,2] y) <{WEIGHTS}> {{ y = Conv (x, w) }}");
    let integer =
        "g (float[1,1,2,2] x) => (float[1,2,2,2] y) <float s = {0.5}, uint8 z = {128}, int8[2,1,1,1] w = {1, 2},
        float one = {1.0}, int8 none = {0}> {
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  e = DequantizeLinear (w, one, none)
        a = Conv (d, e)  r = QuantizeLinear (a, s, z)  y = DequantizeLinear (r, s, z) }";
    assert_eq!(titles(&float, integer), ["Conv quantized (uint8 × int8)"]);
    assert_eq!(titles(integer, &float), ["Conv is float again (was uint8 × int8)"]);
}

#[test]
fn ops_that_left_a_body_moved() {
    let outside = "g (float[2] x, bool c) => (float[2] y) { a = Relu (x)  y = If (c) <
        then_branch = t () => (float[2] b) { b = Sin (a) }, else_branch = e () => (float[2] d) { d = Cos (a) }> }";
    let inside = "g (float[2] x, bool c) => (float[2] y) { y = If (c) <
        then_branch = t () => (float[2] b) { a = Relu (x)  b = Sin (a) }, else_branch = e () => (float[2] d) { d = Cos (x) }> }";
    let told = titles(outside, inside);
    assert!(!told.iter().any(|title| title.contains("added")), "{told:?}");
}

/// Batch norms that went into a chain of convolutions without names, whose values are named anew.
#[test]
fn convolutions_behind_fused_batch_norms_keep_their_counterparts() {
    let norm = "float[2] g = {1, 2}, float[2] h = {0, 1}, float[2] m = {0, 0}, float[2] n = {1, 1}";
    let a = format!(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] u = {{1, 2, 3, 4}}, float[2,2,1,1] v = {{5, 6, 7, 8}}, {norm}> {{
          a = Conv(x, u)  b = BatchNormalization(a, g, h, m, n)  c = Conv(b, v)  d = BatchNormalization(c, g, h, m, n)
          y = Relu(d) }}"#
    );
    let b = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] u = {1, 2, 6, 8}, float[2,2,1,1] v = {5, 6, 14, 16}, float[2] h = {0, 1}> {
          p = Conv(x, u, h)  q = Conv(p, v, h)  y = Relu(q) }"#;
    assert_eq!(titles(&a, b), ["Conv + BatchNormalization became Conv", "Conv + BatchNormalization became Conv"]);
}

/// The relative error of the constant input `input` in the diff of `a` and `b`.
fn error_of(a: &str, b: &str, input: &str) -> Option<f64> {
    let found = diff(&model(a), &model(b), &Interpreter::default(), Options::default());
    let details = found.changes.iter().flat_map(|change| &change.details);
    let named = details.filter_map(|detail| match detail {
        super::Detail::Constant { input: name, relative_error, .. } if name == input => Some(*relative_error),
        _ => None,
    });
    named.flatten().next()
}

#[test]
fn integers_are_compared_by_their_scales() {
    let header = r#"<ir_version: 8, opset_import: ["" : 17]>"#;
    let float = format!(
        "{header} g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {{1, 2, 3, 4}}> {{ h = Relu (x)  y = MatMul (h, w) }}"
    );
    let dynamic = format!(
        "{header} g (float[1,2] x) => (float[1,2] y) <int8[2,2] w = {{10, 10, 30, 20}}, float[2] s = {{0.1, 0.2}}, int8 z = {{0}}> {{
        h = Relu (x)  q, qs, qz = DynamicQuantizeLinear (h)  m = MatMulInteger (q, w, qz, z)  c = Cast <to = 1> (m)
        t = Mul (qs, s)  y = Mul (c, t) }}"
    );
    let error = error_of(&float, &dynamic, "B").expect("an error");
    assert!(error < 1e-6, "{error}");
}

#[test]
fn a_corrected_bias_is_a_share_of_the_larger_norm() {
    let conv = |bias: &str| {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[1,1,2,2] x) => (float[1,2,2,2] y) <float[2,1,1,1] w = {{1, 2}}, float[2] b = {{{bias}}}> {{ y = Conv (x, w, b) }}"#
        )
    };
    let error = error_of(&conv("0.001, 0"), &conv("0.02, 0"), "B").expect("an error");
    assert!((error - 0.95).abs() < 1e-6, "{error}");
}

/// Between pairs, but no engine has an integer GRU.
#[test]
fn a_stored_gru_is_stored() {
    let gru = |weights: &str, before: &str, x: &str| {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[3,1,2] x) => (float[3,1,1,1] y) <{weights}> {{ {before} y = GRU <hidden_size = 1> ({x}, w, r) }}"#
        )
    };
    let float = gru("float[1,3,2] w = {1, 2, 3, 4, 5, 6}, float[1,3,1] r = {1, 2, 3}", "a = Relu (x)", "a");
    let stored = gru(
        "int8[1,3,2] v = {1, 2, 3, 4, 5, 6}, float s = {1}, float[1,3,1] r = {1, 2, 3}, float t = {0.5}, uint8 z = {0}",
        "a = Relu (x)  q = QuantizeLinear (a, t, z)  d = DequantizeLinear (q, t, z)  w = DequantizeLinear (v, s)",
        "d",
    );
    let told = titles(&float, &stored);
    assert!(!told.iter().any(|title| title.contains("GRU quantized")), "{told:?}");
}
