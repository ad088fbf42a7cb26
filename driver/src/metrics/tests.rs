//! A toy engine stands for the real one: the model is a function from sample to outputs.
use onnx_shrink_ir::{DataType, EvaluateError, Graph, Observe, Prepared, Tensor};

use super::{
    Accuracy, Comparison, OutputMetrics,
    accuracy::is_right,
    compare,
    kind::Kind,
    structure::Structure,
    sums::{Measured, argmax},
};
use crate::{
    gates::Gates,
    progress::Silent,
    samples::{SampleOptions, Samples},
};

struct Toy(fn(&Tensor) -> Tensor);

impl Prepared for Toy {
    fn run(&self, inputs: &[Option<Tensor>], _: Observe<'_>) -> Result<Vec<Tensor>, EvaluateError> {
        Ok(vec![(self.0)(inputs[0].as_ref().unwrap())])
    }
}

/// x and its output y, and `count` samples of two numbers with a label each.
fn setting(count: usize) -> (tempfile::TempDir, Graph, Samples) {
    use onnx_shrink_ir::{TensorType, import, proto::schema::*};
    let info = |name: &str| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TensorType::fixed(DataType::Float, &[1, 2]).to_proto()),
        ..ValueInfoProto::default()
    };
    let node = NodeProto {
        op_type: Some("Softmax".to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["out".to_owned()],
        ..NodeProto::default()
    };
    let graph =
        GraphProto { input: vec![info("x")], output: vec![info("out")], node: vec![node], ..GraphProto::default() };
    let graph = import(ModelProto { graph: Some(graph), ..ModelProto::default() }).unwrap().graph;
    let folder = tempfile::tempdir().unwrap();
    let numbers = (0..2 * count).map(|number| (number as f32 * 0.7).sin()).collect::<Vec<_>>();
    let labels: Vec<u8> = (0..count).map(|index| u8::from(numbers[2 * index + 1] > numbers[2 * index])).collect();
    let path = folder.path().join("all.npz");
    crate::samples::testing::npz_file(&path, &[count, 2], &numbers, &labels);
    let samples = Samples::open(&path, &graph, &SampleOptions::default()).unwrap();
    (folder, graph, samples)
}

fn scaled(tensor: &Tensor, by: f64) -> Tensor {
    Tensor::from_f64(DataType::Float, &tensor.to_f64().unwrap().mapv(|x| x * by)).unwrap()
}

#[test]
fn error_accuracy_and_agreement_are_measured() {
    let (_folder, graph, samples) = setting(9);
    let same = Toy(Tensor::clone);
    let tenth = Toy(|x| scaled(x, 0.9));
    let turned = Toy(|x| scaled(x, -1.0));
    let got = compare(&graph, &same, &tenth, &samples, 2, &Silent).unwrap();
    let out = &got.outputs[0];
    assert!((out.sqnr_db.unwrap() - 20.0).abs() < 1e-4 && (out.rel_l2 - 0.1).abs() < 1e-6, "{out:?}");
    assert!((out.cosine - 1.0).abs() < 1e-9 && out.top1_agreement == Some(1.0) && out.name == "out");
    assert_eq!(got.accuracy.map(|accuracy| (accuracy.before, accuracy.after)), Some((1.0, 1.0)));
    let got = compare(&graph, &same, &turned, &samples, 1, &Silent).unwrap();
    assert_eq!(got.accuracy.map(|accuracy| (accuracy.before, accuracy.after, accuracy.drop)), Some((1.0, 0.0, 1.0)));
    assert_eq!(got.outputs[0].top1_agreement, Some(0.0));
    let got = compare(&graph, &same, &same, &samples, 0, &Silent).unwrap();
    assert_eq!((got.outputs[0].sqnr_db, got.outputs[0].rel_l2, got.outputs[0].unequal), (None, 0.0, 0.0));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (_folder, graph, samples) = setting(37);
    let (same, near) = (Toy(Tensor::clone), Toy(|x| scaled(x, 0.93)));
    let run = |threads| compare(&graph, &same, &near, &samples, threads, &Silent).unwrap();
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one);
    }
}

fn metrics(before: &[f32], after: &[f32]) -> OutputMetrics {
    let tensor = |numbers: &[f32]| Tensor::from_vec(&[numbers.len()], numbers.to_vec());
    OutputMetrics::new("y", &Kind::default(), &Measured::of(&tensor(before), &tensor(after), true))
}

fn comparison(metrics: OutputMetrics) -> Comparison {
    Comparison { samples: 1, made_up: false, outputs: vec![metrics], accuracy: None }
}

#[test]
fn gates_hold_and_fail() {
    let gates = Gates::default();
    let failed = |before: &[f32], after: &[f32]| {
        let comparison = comparison(metrics(before, after));
        let reason =
            |results: Vec<super::GateResult>| results.into_iter().find(|gate| !gate.passed).map(|gate| gate.reason);
        (reason(gates.lossless(&comparison, false)), reason(gates.int8(&comparison)))
    };
    assert_eq!(failed(&[1.0, 2.0], &[1.0, 2.0]), (None, None));
    assert_eq!(failed(&[1.0, 2.0], &[1.0, 2.0001]), (None, None));
    let (lossless, int8) = failed(&[1.0, 2.0], &[1.0, 2.01]);
    assert!(lossless.unwrap().contains("output `y` differs by 4.47e-3") && int8.is_none());
    assert!(failed(&[1.0, 2.0], &[1.0, 3.0]).1.unwrap().contains("SQNR of 7.0 dB, at least 14 are wanted"));
    assert!(failed(&[0.0, 0.0], &[0.0, 1.0]).1.unwrap().contains("SQNR of -inf dB"));
    assert!(failed(&[1e-12], &[-1e-12]).0.is_none());
    assert!(failed(&[1.0], &[f32::NAN]).0.unwrap().contains("finite in one model only"));
    assert_eq!(failed(&[f32::NAN, f32::INFINITY], &[f32::NAN, f32::INFINITY]), (None, None));
    assert!(failed(&[1.0], &[1.0, 1.0]).1.unwrap().contains("another shape"));
    let half = comparison(metrics(&[1.0], &[1.005]));
    assert!(gates.lossless(&half, true)[0].passed && !gates.lossless(&half, false)[0].passed);
}

#[test]
fn a_drop_counts_beyond_two_standard_errors() {
    // 10 of 100 lost, 2 won: 8 points, standard error 3.4 points: 1.2 beyond doubt.
    let mut right = vec![(true, true); 88];
    right.extend(vec![(true, false); 10]);
    right.extend(vec![(false, true); 2]);
    let accuracy = Accuracy::of(&right).unwrap();
    assert!((accuracy.drop - 0.08).abs() < 1e-12);
    assert!((accuracy.standard_error - (0.1136f64 / 100.0).sqrt()).abs() < 1e-12);
    let judged = |drop| {
        let comparison = Comparison { samples: 100, made_up: false, outputs: Vec::new(), accuracy: Some(accuracy) };
        Gates { drop, ..Gates::default() }.int8(&comparison).remove(0)
    };
    assert!(!judged(0.01).passed && judged(0.013).passed);
    assert!(judged(0.01).reason.contains("from 98.0 to 90.0 % on 100 samples"), "{}", judged(0.01).reason);
    assert_eq!(Accuracy::of(&[]), None);
}

#[test]
fn the_answer_is_read_as_the_judge_reads_it() {
    let tensor = |dims: &[usize], numbers: &[f32]| Tensor::from_vec(dims, numbers.to_vec());
    assert_eq!(is_right(&tensor(&[1, 1], &[0.7]), 1), Some(true));
    assert_eq!(is_right(&tensor(&[1, 1], &[0.2]), 1), Some(false));
    assert_eq!(is_right(&tensor(&[2, 2], &[9.0, 0.0, 1.0, 2.0]), 1), Some(true)); // the last row
    assert_eq!(is_right(&tensor(&[1, 2, 2], &[9.0, 0.0, 1.0, 2.0]), 0), Some(true)); // all of it
    assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    assert_eq!(argmax(&[1.0, f64::NAN, 3.0]), 1);
}

/// An output of several samples, each `[1, places]`.
fn of_samples(structure: Option<Structure>, before: &[Vec<f32>], after: &[Vec<f32>]) -> Comparison {
    let mut sums = Measured::default();
    for (a, b) in before.iter().zip(after) {
        let tensor = |numbers: &Vec<f32>| Tensor::from_vec(&[1, numbers.len()], numbers.clone());
        sums.add(&Measured::of(&tensor(a), &tensor(b), true));
    }
    let metrics = OutputMetrics::new("y", &Kind { structure, is_classes: false }, &sums);
    Comparison { samples: before.len(), ..comparison(metrics) }
}

fn reasons(results: Vec<super::GateResult>) -> Vec<String> {
    results.into_iter().filter(|gate| !gate.passed).map(|gate| gate.reason).collect()
}

/// Numbers from -1 to 1 that look like chance.
fn wave(index: usize) -> f32 {
    (index as f32 * 2.399).sin()
}

#[test]
fn a_dead_part_does_not_hide_behind_a_larger_one() {
    // Two boxes and three scores, and the scores are gone.
    let before: Vec<Vec<f32>> = (0..8)
        .map(|sample| {
            let boxes = (0..2).map(|place| 200.0 + 80.0 * wave(5 * sample + place));
            boxes.chain((2..5).map(|place| 0.5 + 0.4 * wave(5 * sample + place))).collect()
        })
        .collect();
    let dead = |row: &Vec<f32>| [&row[..2], &[0.0; 3]].concat();
    let after: Vec<Vec<f32>> = before.iter().map(dead).collect();
    let gates = Gates::default();
    for structure in [None, Some(Structure { axis: 1, parts: [0..2, 2..5].map(|range| vec![range]).to_vec() })] {
        let found = of_samples(structure, &before, &after);
        assert!(found.outputs[0].sqnr_db.unwrap() > 40.0 && found.outputs[0].parts.len() == 2, "{found:?}");
        assert_eq!(found.outputs[0].parts[0].ranges, [(2, 5)]);
        let failed = reasons(gates.int8(&found));
        assert!(failed.len() == 1 && failed[0].contains("2..5 of axis 1 of output `y` has an SQNR of -"), "{failed:?}");
        assert!(failed[0].contains("at least 6 are wanted of each part"), "{failed:?}");
        let failed = reasons(gates.lossless(&found, false));
        assert!(failed.iter().any(|reason| reason.contains("of axis 1, at most 1e-2")), "{failed:?}");
        let made_up = Comparison { made_up: true, ..found };
        assert_eq!(reasons(gates.int8(&made_up)).len(), 1, "dead on made-up samples, too");
    }
    // A part may be noisier than the whole.
    let noisy = |(sample, row): (usize, &Vec<f32>)| -> Vec<f32> {
        let places = row.iter().enumerate();
        places.map(|(place, x)| if place < 2 { *x } else { x + 0.1 * wave(77 * sample + 13 * place) }).collect()
    };
    let after: Vec<Vec<f32>> = before.iter().enumerate().map(noisy).collect();
    let found = of_samples(None, &before, &after);
    assert!(found.outputs[0].parts[0].judged_db().unwrap() < 14.0);
    assert_eq!(reasons(gates.int8(&found)), [""; 0]);
}

#[test]
fn one_wrong_place_is_no_lossless_rewrite() {
    let before: Vec<Vec<f32>> =
        (0..4).map(|sample| (0..2000).map(|place| wave(sample * 2000 + place)).collect()).collect();
    let mut after = before.clone();
    after.iter_mut().for_each(|row| row[7] *= 1.002);
    let gates = Gates::default();
    assert_eq!(reasons(gates.lossless(&of_samples(None, &before, &after), false)), [""; 0]);
    after.iter_mut().for_each(|row| row[7] *= 1.05);
    let found = of_samples(None, &before, &after);
    let failed = reasons(gates.lossless(&found, false));
    assert!(failed.iter().any(|reason| reason.contains("at 7 of axis 1")), "{failed:?}");
}

#[test]
fn the_mean_of_a_score_is_no_signal() {
    // A quality of about 3 that varies by 0.4, and a model that always says 3.
    let before: Vec<Vec<f32>> = (0..12).map(|sample| vec![3.0 + 0.6 * wave(sample)]).collect();
    let after = vec![vec![3.0]; 12];
    let gates = Gates::default();
    let found = of_samples(None, &before, &after);
    assert!(found.outputs[0].sqnr_db.unwrap() > 14.0);
    let failed = reasons(gates.int8(&found));
    assert!(failed.len() == 1 && failed[0].contains("dB around its mean, at least 14 are wanted there"), "{failed:?}");
    let made_up = Comparison { made_up: true, ..found };
    assert_eq!(reasons(gates.int8(&made_up)), [""; 0], "made-up samples do not tell how outputs vary");
    // What hardly varies is judged by its size.
    let still: Vec<Vec<f32>> = (0..12).map(|sample| vec![3.0 + 0.01 * wave(sample)]).collect();
    assert_eq!(reasons(gates.int8(&of_samples(None, &still, &after))), [""; 0]);
}

#[test]
fn few_samples_do_not_tell_how_a_score_varies() {
    let rows = |count: usize| (1..=count).map(|sample| vec![3.0 + 0.6 * wave(sample)]).collect::<Vec<_>>();
    let warning = |count| of_samples(None, &rows(count), &vec![vec![3.0]; count]).warning();
    assert!(warning(1).unwrap().contains("one sample judged, which does not tell how `y` varies"));
    assert!(warning(3).is_some() && warning(4).is_none());
    assert_eq!(of_samples(None, &rows(1), &rows(1)).warning(), None, "nothing differs");
}
