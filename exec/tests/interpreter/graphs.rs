//! Small graphs: constants, observers, inputs, refusals.
use half::f16;
use onnx_shrink_exec::{Interpreter, Options};
use onnx_shrink_ir::{
    DataType::{Float, Float16, Int64},
    Evaluate, EvaluateError, Tensor,
    attributes::{int, ints, string},
};

use crate::model::{bare, floats, graph, info, model, node, run};

#[test]
fn constants_are_computed_once_and_not_observed() {
    let graph = graph(
        vec![info("x", Float, &[2])],
        &[("a", floats(&[2], &[1.0, 2.0])), ("b", floats(&[2], &[10.0, 20.0]))],
        vec![
            node("Add", &["a", "b"], &["c"], vec![]),
            node("Mul", &["x", "c"], &["y"], vec![]),
            node("Neg", &["y"], &["z"], vec![]),
        ],
        vec![bare("z"), bare("c")],
    );
    let (outputs, seen) = run(&model(17, graph), &[floats(&[2], &[3.0, 4.0])]).unwrap();
    assert_eq!(outputs, [floats(&[2], &[-33.0, -88.0]), floats(&[2], &[11.0, 22.0])]);
    assert_eq!(seen, ["x", "y", "z"]);
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let graph =
        graph(vec![info("x", Float, &[2, -1])], &[], vec![node("Neg", &["x"], &["y"], vec![])], vec![bare("y")]);
    let model = model(17, graph);
    for (tensor, found) in [
        (Tensor::from_vec(&[2, 2], vec![1i64; 4]), "int64[2,2]"),
        (floats(&[4], &[1.0; 4]), "float[4]"),
        (floats(&[3, 2], &[1.0; 6]), "float[3,2]"),
    ] {
        let error = run(&model, &[tensor]).unwrap_err();
        let reason = format!("float[2,?] is expected, {found} is given");
        assert_eq!(error, EvaluateError::Input { input: "x".to_owned(), reason });
    }
    assert!(matches!(run(&model, &[]), Err(EvaluateError::Input { .. })));
    assert!(run(&model, &[floats(&[2, 0], &[])]).is_ok(), "unknown dimensions take any size");
}

#[test]
fn an_op_that_can_never_run_is_found_before_any_sample() {
    let mut foreign = node("Relu", &["x"], &["y"], vec![]);
    foreign.domain = Some("com.acme".to_owned());
    let cases = [
        (foreign, "com.acme.Relu"),
        (node("RandomNormalLike", &["x"], &["y"], vec![]), "RandomNormalLike"),
        (node("Swish", &["x"], &["y"], vec![string("shape", "round")]), "Swish"),
    ];
    for (op, expected) in cases {
        let graph = graph(vec![info("x", Float, &[2])], &[], vec![op], vec![bare("y")]);
        let model = model(17, graph);
        match Interpreter::default().prepare(&model.graph).map(|_| ()) {
            Err(EvaluateError::Unsupported { op_type, .. }) => assert_eq!(op_type, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn what_the_engine_panics_on_is_an_error() {
    let cases = [
        node("Div", &["x", "zero"], &["y"], vec![]),
        node("Transpose", &["x"], &["y"], vec![ints("perm", &[0, 5])]),
        node("Concat", &["x", "x"], &["y"], vec![int("axis", 7)]),
    ];
    for op in cases {
        let op_type = op.op_type().to_owned();
        let zero = ("zero", Tensor::from_vec(&[1], vec![0i64]));
        let graph = graph(vec![info("x", Int64, &[2, 2])], &[zero], vec![op], vec![bare("y")]);
        let error = run(&model(17, graph), &[Tensor::from_vec(&[2, 2], vec![1i64; 4])]).unwrap_err();
        assert!(matches!(error, EvaluateError::Failed { .. }), "{op_type}: {error}");
    }
}

#[test]
fn a_result_above_the_limit_is_refused_before_it_is_computed() {
    let shape = ("shape", Tensor::from_vec(&[2], vec![1i64 << 20, 1 << 20]));
    let graph = graph(vec![], &[shape], vec![node("Expand", &["one", "shape"], &["y"], vec![])], vec![bare("y")]);
    let mut graph = graph;
    graph.initializer.push(onnx_shrink_ir::convert::tensor_to_proto(&floats(&[1], &[1.0]), "one"));
    let model = model(17, graph);
    let error = Interpreter::default().prepare(&model.graph).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("limit"), "{error}");
    let small = Interpreter::new(Options { max_result_bytes: 4, ..Options::default() });
    let op = model.graph.ops()[0];
    let inputs = [Some(floats(&[1], &[1.0])), Some(Tensor::from_vec(&[1], vec![2i64]))];
    assert!(small.op(&model.graph, op, &inputs).is_err());
}

#[test]
fn half_floats_are_computed_in_float_and_rounded_once() {
    let half = |numbers: &[f32]| numbers.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
    let graph = graph(
        vec![info("x", Float16, &[1, 2])],
        &[("w", Tensor::from_vec(&[2, 1], half(&[2048.0, 1.0])))],
        vec![node("MatMul", &["x", "w"], &["y"], vec![]), node("Transpose", &["y"], &["z"], vec![])],
        vec![bare("z")],
    );
    let (outputs, _) = run(&model(17, graph), &[Tensor::from_vec(&[1, 2], half(&[1.0, 3.0]))]).unwrap();
    assert_eq!(outputs, [Tensor::from_vec(&[1, 1], half(&[2052.0]))], "2051 lies between two halves");
}

#[test]
fn automatic_padding_wins_over_pads() {
    let attributes = vec![string("auto_pad", "SAME_UPPER"), ints("pads", &[0, 0]), ints("kernel_shape", &[3])];
    let graph = graph(
        vec![info("x", Float, &[1, 1, 3])],
        &[("w", floats(&[1, 1, 3], &[1.0, 1.0, 1.0]))],
        vec![node("Conv", &["x", "w"], &["y"], attributes)],
        vec![bare("y")],
    );
    let (outputs, _) = run(&model(17, graph), &[floats(&[1, 1, 3], &[1.0, 2.0, 3.0])]).unwrap();
    assert_eq!(outputs, [floats(&[1, 1, 3], &[3.0, 6.0, 5.0])]);
}

#[test]
fn shapes_may_change_from_run_to_run() {
    let graph =
        graph(vec![info("x", Float, &[-1, 2])], &[], vec![node("Relu", &["x"], &["y"], vec![])], vec![bare("y")]);
    let model = model(17, graph);
    let engine = Interpreter::default();
    let prepared = engine.prepare(&model.graph).unwrap();
    for rows in [1usize, 100, 2, 1] {
        let x = floats(&[rows, 2], &vec![-1.0; rows * 2]);
        let outputs = prepared.run(&[Some(x)], &mut |_, _| {}).unwrap();
        assert_eq!(outputs, [floats(&[rows, 2], &vec![0.0; rows * 2])]);
    }
}

#[test]
fn a_product_takes_any_number_of_rows() {
    // The product is built once for all of them; with fixed rows, once for each.
    let weight: Vec<f32> = (0..35).map(|i| (i as f32 * 0.37).sin()).collect();
    let graph = |rows: i64| {
        let x = info("x", Float, &[1, rows, 7]);
        let product = node("MatMul", &["x", "w"], &["y"], vec![]);
        model(17, graph(vec![x], &[("w", floats(&[7, 5], &weight))], vec![product], vec![bare("y")]))
    };
    let open = graph(-1);
    let evaluator = Interpreter::default();
    let prepared = evaluator.prepare(&open.graph).unwrap();
    for rows in [3usize, 1, 40, 0, 3] {
        let x: Vec<f32> = (0..7 * rows).map(|i| (i as f32 * 0.11).cos()).collect();
        let x = floats(&[1, rows, 7], &x);
        let found = prepared.run(&[Some(x.clone())], &mut |_, _| ()).unwrap();
        let (expected, _) = run(&graph(rows as i64), &[x]).unwrap();
        assert_eq!(found[0].dims(), [1, rows, 5]);
        let (found, expected) = (found[0].as_slice::<f32>().unwrap(), expected[0].as_slice::<f32>().unwrap());
        assert!(found.iter().zip(expected.iter()).all(|(a, b)| (a - b).abs() < 1e-5), "{rows}");
    }
}

#[test]
fn several_threads_get_the_same_bits() {
    let weight: Vec<f32> = (0..64 * 64).map(|k| ((k * 37 % 101) as f32 - 50.0) / 77.0).collect();
    let graph = graph(
        vec![info("x", Float, &[8, 64])],
        &[("w", floats(&[64, 64], &weight))],
        vec![node("MatMul", &["x", "w"], &["y"], vec![]), node("Softmax", &["y"], &["z"], vec![int("axis", -1)])],
        vec![bare("z")],
    );
    let model = model(17, graph);
    let engine = Interpreter::default();
    let prepared = engine.prepare(&model.graph).unwrap();
    let x = [Some(floats(&[8, 64], &weight[..512]))];
    let first = prepared.run(&x, &mut |_, _| {}).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    assert_eq!(prepared.run(&x, &mut |_, _| {}).unwrap(), first);
                }
            });
        }
    });
}

#[test]
fn a_missing_initial_state_is_zeros_for_any_batch() {
    let constants = [
        ("w", floats(&[1, 4, 1], &[0.5, -0.25, 1.0, 0.75])),
        ("r", floats(&[1, 4, 1], &[0.25, 0.5, -0.5, 1.0])),
        ("h", floats(&[1, 2, 1], &[0.0, 0.0])),
    ];
    let outputs = |inputs: &[&str]| {
        let lstm = node("LSTM", inputs, &["y"], vec![int("hidden_size", 1)]);
        let graph = graph(vec![info("x", Float, &[3, 2, 1])], &constants, vec![lstm], vec![bare("y")]);
        run(&model(17, graph), &[floats(&[3, 2, 1], &[1.0, -1.0, 0.5, 2.0, 0.0, 1.0])]).unwrap().0
    };
    let (given, missing) = (outputs(&["x", "w", "r", "", "", "h", "h"]), outputs(&["x", "w", "r"]));
    let numbers = |tensors: &[Tensor]| tensors[0].to_f64_vec().unwrap();
    let differs = |(a, b): (f64, f64)| (a - b).abs() > 1e-6;
    assert!(!numbers(&given).into_iter().zip(numbers(&missing)).any(differs), "{given:?} {missing:?}");
}
