//! If, Loop and Scan.
use onnx_shrink_exec::{Interpreter, Options};
use onnx_shrink_ir::{
    DataType::{Bool, Float, Int64},
    Evaluate, Tensor,
    attributes::{int, ints},
    proto::schema::{AttributeProto, GraphProto},
};

use crate::model::{bare, floats, graph, info, model, node, run};

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    let graph_type = 5; // AttributeProto.AttributeType.GRAPH
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(graph_type),
        g: Some(Box::new(graph)),
        ..AttributeProto::default()
    }
}

#[test]
fn if_takes_one_branch_and_sees_the_outer_values() {
    let branch = |op: &str| graph(vec![], &[], vec![node(op, &["x", "k"], &["r"], vec![])], vec![bare("r")]);
    let attributes = vec![body("then_branch", branch("Add")), body("else_branch", branch("Mul"))];
    let graph = graph(
        vec![info("c", Bool, &[]), info("x", Float, &[1])],
        &[("k", floats(&[1], &[3.0]))],
        vec![node("If", &["c"], &["y"], attributes)],
        vec![bare("y")],
    );
    let model = model(17, graph);
    for (condition, expected) in [(true, 8.0), (false, 15.0)] {
        let inputs = [Tensor::from_bools(&[], &[condition]), floats(&[1], &[5.0])];
        let (outputs, seen) = run(&model, &inputs).unwrap();
        assert_eq!(outputs, [floats(&[1], &[expected])]);
        assert_eq!(seen, ["c", "x", "y"], "bodies are not observed");
    }
}

#[test]
fn a_branch_that_cannot_run_matters_only_when_taken() {
    let branch = |op: &str| graph(vec![], &[], vec![node(op, &["x"], &["r"], vec![])], vec![bare("r")]);
    let attributes = vec![body("then_branch", branch("Neg")), body("else_branch", branch("NoSuchOp"))];
    let graph = graph(
        vec![info("c", Bool, &[]), info("x", Float, &[1])],
        &[],
        vec![node("If", &["c"], &["y"], attributes)],
        vec![bare("y")],
    );
    let model = model(17, graph);
    assert!(run(&model, &[Tensor::from_bools(&[], &[true]), floats(&[1], &[5.0])]).is_ok());
    let error = run(&model, &[Tensor::from_bools(&[], &[false]), floats(&[1], &[5.0])]).unwrap_err();
    assert!(error.to_string().contains("NoSuchOp"), "{error}");
}

/// Adds `x` to the sum until it reaches 10, and lists the sums.
fn counting() -> GraphProto {
    graph(
        vec![info("i", Int64, &[]), info("go", Bool, &[]), info("sum", Float, &[])],
        &[("ten", Tensor::scalar(10f32))],
        vec![
            node("Add", &["sum", "x"], &["next"], vec![]),
            node("Less", &["next", "ten"], &["more"], vec![]),
            node("Neg", &["next"], &["listed"], vec![]),
        ],
        vec![bare("more"), bare("next"), info("listed", Float, &[])],
    )
}

#[test]
fn loop_carries_collects_and_stops() {
    let graph = graph(
        vec![info("m", Int64, &[]), info("x", Float, &[])],
        &[("zero", Tensor::scalar(0f32))],
        vec![node("Loop", &["m", "", "zero"], &["y", "list"], vec![body("body", counting())])],
        vec![bare("y"), bare("list")],
    );
    let model = model(17, graph);
    let (outputs, _) = run(&model, &[Tensor::scalar(100i64), Tensor::scalar(4f32)]).unwrap();
    assert_eq!(outputs, [Tensor::scalar(12f32), floats(&[3], &[-4.0, -8.0, -12.0])]);
    let (outputs, _) = run(&model, &[Tensor::scalar(2i64), Tensor::scalar(4f32)]).unwrap();
    assert_eq!(outputs, [Tensor::scalar(8f32), floats(&[2], &[-4.0, -8.0])]);
    let (outputs, _) = run(&model, &[Tensor::scalar(0i64), Tensor::scalar(4f32)]).unwrap();
    assert_eq!(outputs, [Tensor::scalar(0f32), floats(&[0], &[])]);
    let engine = Interpreter::new(Options { max_iterations: 2, ..Options::default() });
    let prepared = engine.prepare(&model.graph).unwrap();
    let inputs = [Some(Tensor::scalar(100i64)), Some(Tensor::scalar(4f32))];
    let error = prepared.run(&inputs, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("more than 2 times"), "{error}");
}

#[test]
fn scan_walks_axes_in_both_directions() {
    let step = graph(
        vec![info("s", Float, &[2]), info("v", Float, &[2])],
        &[],
        vec![node("Add", &["s", "v"], &["t"], vec![]), node("Neg", &["t"], &["o"], vec![])],
        vec![bare("t"), bare("o")],
    );
    let attributes = vec![
        body("body", step),
        int("num_scan_inputs", 1),
        ints("scan_input_axes", &[1]),
        ints("scan_input_directions", &[1]),
        ints("scan_output_axes", &[-1]),
        ints("scan_output_directions", &[1]),
    ];
    let graph = graph(
        vec![info("s0", Float, &[2]), info("x", Float, &[2, 3])],
        &[],
        vec![node("Scan", &["s0", "x"], &["s", "y"], attributes)],
        vec![bare("s"), bare("y")],
    );
    let inputs = [floats(&[2], &[0.0, 0.0]), floats(&[2, 3], &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0])];
    let (outputs, _) = run(&model(17, graph), &inputs).unwrap();
    assert_eq!(outputs[0], floats(&[2], &[6.0, 60.0]));
    assert_eq!(outputs[1], floats(&[2, 3], &[-6.0, -5.0, -3.0, -60.0, -50.0, -30.0]));
}
