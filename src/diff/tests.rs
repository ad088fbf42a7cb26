//! The page and the text on models whose names mean harm, and the time that large models take.
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{Model, text::parse_model};

use super::{Options, diff, html, text};

fn model(text: &str) -> Model {
    parse_model(text).unwrap()
}

const BEFORE: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y) {
  "</script><script>alert(1)</script>" = Relu(x)
  y = Neg("</script><script>alert(1)</script>")
}"#;

#[test]
fn names_of_a_model_are_no_markup() {
    let (a, b) = (model(BEFORE), model(&BEFORE.replace("Relu", "Tanh")));
    let found = diff(&a, &b, &Interpreter::default(), Options::default());
    let page = html::render(&found, &a, &b).unwrap();
    assert!(!page.contains("<script>alert"));
    assert!(page.contains(r"\u003c/script\u003e\u003cscript\u003ealert(1)"));
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains("http://") && !page.contains("https://"), "nothing is loaded");
    assert!(!page.contains("innerHTML") && !page.contains("{{"));
}

#[test]
fn a_renamed_copy_has_no_changes() {
    let a = model(BEFORE);
    let b = model(&BEFORE.replace("</script><script>alert(1)</script>", "v"));
    let found = diff(&a, &b, &Interpreter::default(), Options::default());
    assert!(found.equal, "{:?}", found.changes);
    assert!(text::render(&found, text::Style::default()).contains("1 op has another name"));
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
    assert_eq!(titles, ["MatMul became 2 MatMul"]);
    assert_eq!(found.changes[0].kind, super::Kind::Split);
}
