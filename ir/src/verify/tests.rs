use onnx_shrink_proto::schema::{AttributeProto, attribute_proto::AttributeType};

use super::{Violation, new_violations, same_interface, verify, verify_graph};
use crate::{
    DataType, Graph, Model, NewOp, TensorType,
    testing::{parse, parse_graph},
};

const CHAIN: &str = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = Add (x, w) y = Relu (t) }";
const IF: &str = "g (bool c, float[2] x) => (float[2] y) {
  t = Relu (x)
  y = If (c) <then_branch = a () => (float[2] p) { p = Neg (t) }, else_branch = b () => (float[2] q) { q = Abs (t) }>
}";

fn sentences(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(ToString::to_string).collect()
}

/// `text`, changed by `change`, has exactly the violations `expected`.
#[track_caller]
fn check(text: &str, change: impl FnOnce(&mut Graph), expected: &[&str]) {
    let mut graph = parse_graph(text);
    assert_eq!(sentences(&verify_graph(&graph)), [""; 0], "before the change");
    change(&mut graph);
    assert_eq!(sentences(&verify_graph(&graph)), expected);
}

#[track_caller]
fn find(graph: &Graph, name: &str) -> crate::ValueId {
    graph.find(name).unwrap_or_else(|| panic!("no `{name}`"))
}

#[test]
fn v1_two_values_with_one_name() {
    check(
        CHAIN,
        |graph| graph.rename(find(graph, "t"), "w"),
        &["V1: `w` is not found by its name", "V1: two values are called `w`"],
    );
}

#[test]
fn v3_too_few_inputs_too_many_and_one_that_is_left_out() {
    let change = |at: usize, value: Option<&'static str>| {
        move |graph: &mut Graph| {
            let value = value.map(|name| find(graph, name));
            graph.set_input(graph.ops()[0], at, value);
        }
    };
    check(CHAIN, change(1, None), &["V3: op `t` (Add) has 1 inputs, its schema wants 2"]);
    check(CHAIN, change(2, Some("w")), &["V3: op `t` (Add) has 3 inputs, its schema wants 2"]);
    check(CHAIN, change(0, None), &["V3: op `t` (Add) has 2 inputs, its schema wants `A`, which is left out"]);
    let conv = "g (float[1,1,4,4] x, float[1,1,1,1] w) => (float[1,1,4,4] y) { y = Conv (x, w, x, x) }";
    assert_eq!(
        sentences(&verify_graph(&parse_graph(conv))),
        ["V3: op `y` (Conv) has 4 inputs, its schema wants 2 to 3"]
    );
    let unknown = "g (float[2] x) => (float[2] y) { t = NoSuchOp (x, x, x)  y = other.domain.Relu (t, t) }";
    assert_eq!(sentences(&verify_graph(&parse_graph(unknown))), [""; 0]);
}

#[test]
fn v1_a_renamed_outer_value_is_followed_by_its_captures() {
    // The body still calls it `t`; export does not.
    check(IF, |graph| graph.rename(find(graph, "t"), "u"), &[]);
    let collides = |graph: &mut Graph| graph.rename(find(graph, "t"), "p");
    check(IF, collides, &["V1: in body `then_branch` of `y`: two values are called `p`"]);
}

#[test]
fn v1_only_new_names_that_hide_one_outside_are_blamed_on_a_pass() {
    let before = parse(IF);
    let mut after = before.detached();
    let op = after.graph.ops()[1];
    let body = after.graph.region_mut(op, 0).unwrap();
    let p = find(body, "p");
    body.rename(p, "x");
    assert!(verify(&after).is_empty(), "exporters do it");
    let blamed = ["V1: in body `then_branch` of `y`: `x` has the name of a value outside, which it hides"];
    assert_eq!(sentences(&new_violations(&before, &after)), blamed);
    assert!(new_violations(&after, &after).is_empty());
}

#[test]
fn v2_a_cycle() {
    let cycle = |graph: &mut Graph| {
        let (op, y) = (graph.ops()[0], find(graph, "y"));
        graph.set_input(op, 0, Some(y));
    };
    check(CHAIN, cycle, &["V2: 2 ops wait for each other, `t` among them"]);
}

#[test]
fn v4_types_that_disagree() {
    let other = |graph: &mut Graph| {
        for (name, dims) in [("w", [3]), ("y", [4])] {
            let value = find(graph, name);
            graph.value_mut(value).ty = Some(TensorType::fixed(DataType::Float, &dims));
        }
    };
    check(
        CHAIN,
        other,
        &[
            "V4: `w` is known as float[3], but its tensor is float[2]",
            "V4: `y` is known as float[4], but the graph output is float[2]",
        ],
    );
}

#[test]
fn v4_a_captured_value_of_another_type() {
    let other = |graph: &mut Graph| {
        let t = find(graph, "t");
        graph.value_mut(t).ty = Some(TensorType::fixed(DataType::Float, &[2]));
        let body = graph.region_mut(graph.ops()[1], 1).unwrap();
        let t = find(body, "t");
        body.value_mut(t).ty = Some(TensorType::fixed(DataType::Int8, &[2]));
    };
    check(IF, other, &["V4: in body `else_branch` of `y`: `t` is known as int8[2], but the value outside is float[2]"]);
}

#[test]
fn v5_a_captured_value_without_an_edge() {
    let strands = |graph: &mut Graph| {
        let body = graph.region_mut(graph.ops()[1], 0).unwrap();
        let stray = body.insert_value("stray", None);
        body.value_mut(stray).captured = true;
    };
    check(
        IF,
        strands,
        &["V5: in body `then_branch` of `y`: the captured value `stray` comes from 0 values outside, not from one"],
    );
}

#[test]
fn v5_a_capture_into_nothing_and_one_too_many() {
    let doubles = |graph: &mut Graph| {
        let (op, x) = (graph.ops()[1], find(graph, "x"));
        let body = graph.region_mut(op, 0).unwrap();
        let (t, p) = (find(body, "t"), find(body, "p"));
        graph.insert_capture(op, 0, x, t);
        graph.insert_capture(op, 0, x, p);
        let body = graph.region_mut(op, 0).unwrap();
        body.value_mut(p).captured = false;
    };
    check(
        IF,
        doubles,
        &[
            "V5: op `y` captures `x` for region 0 as a value that is not there or not marked as captured",
            "V5: in body `then_branch` of `y`: the captured value `t` comes from 2 values outside, not from one",
        ],
    );
}

#[test]
fn v6_inputs_and_outputs_stay() {
    let check = |before: &str, after: &str, expected: &[&str]| {
        assert_eq!(sentences(&same_interface(&parse(before), &parse(after))), expected);
    };
    let base = "g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { y = Add (x, w) }";
    check(base, base, &[]);
    check(base, "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }", &[]);
    check(
        base,
        "g (float[2] w) => (float[2] y) { y = Add (w, w) }",
        &["V6: the model had 2 inputs, and has now 1", "V6: input 0 was `x`, and is now `w`"],
    );
    check(
        base,
        "g (float[3] x, float[2] w = {1, 2}) => (float[2] z) { z = Add (x, w) }",
        &["V6: input 0, `x`, was declared differently before", "V6: output 0 was `y`, and is now `z`"],
    );
}

#[test]
fn v7_values_without_a_source_or_with_two() {
    let unmake = |graph: &mut Graph| {
        let op = graph.ops()[1];
        graph.detach_output(op, 0);
    };
    check(CHAIN, unmake, &["V7: `y` is used, but nothing makes it"]);
    let constant = |graph: &mut Graph| {
        let (t, w) = (find(graph, "t"), find(graph, "w"));
        graph.value_mut(t).ty = graph.ty(w).cloned();
        graph.value_mut(t).constant = graph.constant(w).cloned();
    };
    check(CHAIN, constant, &["V7: `t` has 2 sources (an op, a constant), not one"]);
}

#[test]
fn v8_lists_and_edges_that_disagree() {
    let lie = |graph: &mut Graph| {
        let (op, x) = (graph.ops()[1], find(graph, "x"));
        graph.op_mut(op).inputs[0] = Some(x);
        graph.op_mut(op).outputs.push(Some(x));
        let first = graph.ops()[0];
        graph.op_mut(first).inputs.pop();
        graph.rest.output.clear();
    };
    check(
        CHAIN,
        lie,
        &[
            "V8: input 0 of op `y` is `x` in its list and `t` by its edges",
            "V8: output 1 of op `y` is `x` in its list and left out by its edges",
            "V8: input 1 of op `t` is not in its list and `w` by its edges",
            "V8: the graph has 1 outputs, but 0 declarations of them",
        ],
    );
}

#[test]
fn v9_bodies_whose_attribute_went() {
    let renew = |graph: &mut Graph| {
        let op = graph.ops()[1];
        graph.op_mut(op).node = NewOp::new("If").node;
    };
    check(
        IF,
        renew,
        &[
            "V9: region 0 of op `y` belongs to attribute 0, which is not there or holds no graph",
            "V9: region 1 of op `y` belongs to attribute 1, which is not there or holds no graph",
        ],
    );
    let add = |graph: &mut Graph| {
        let op = graph.ops()[1];
        let attribute = AttributeProto {
            name: Some("third".into()),
            r#type: Some(AttributeType::Graph as i32),
            ..AttributeProto::default()
        };
        graph.op_mut(op).node.attribute.push(attribute);
        graph.op_mut(op).regions[1].attribute = 0;
    };
    check(
        IF,
        add,
        &[
            "V9: two regions of op `y` have the same place in attribute 0, or their places leave a gap",
            "V9: attribute `else_branch` of op `y` should hold a graph, but has no region",
            "V9: attribute `third` of op `y` should hold a graph, but has no region",
        ],
    );
}

#[test]
fn nested_captures_are_followed_through_every_body() {
    let text = "g (bool c, float x) => (float y) {
      t = Relu (x)
      y = If (c) <then_branch = a () => (float p) {
          p = If (c) <then_branch = b () => (float q) { q = Neg (t) }, else_branch = d () => (float r) { r = Abs (t) }>
        }, else_branch = e () => (float s) { s = Abs (x) }>
    }";
    check(text, |graph| graph.rename(find(graph, "t"), "renamed"), &[]);
}

#[test]
fn a_model_is_its_graph() {
    let model: Model = parse(CHAIN);
    assert!(verify(&model).is_empty());
}
