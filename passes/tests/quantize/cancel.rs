//! Pairs that meet and vanish, and the two ways to the same graph: placing, and wrapping and cancelling.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Graph, text};
use onnx_shrink_passes::{
    Class, Context, Exactness, Options, Pass,
    analysis::units::find_units,
    calibration::{calibrators::Calibrator, collect::calibrate},
    quantize::{CancelQdq, InsertQdq, WrapQdq},
    target::ORT_CPU,
    testing::{Reference, assert_same_values, check_missed, check_same, parse, run},
};
use proptest::{collection::vec, prelude::*};

use super::{constant, samples_of};

/// What `pass` makes of `model`, and its steps by what they lose.
fn cancelled(pass: &CancelQdq, model: &str) -> (Graph, BTreeMap<Exactness, usize>) {
    let original = parse(model).graph;
    let mut graph = original.detached();
    let mut cx = Context::new(Options { verify_each: true, ..Options::default() }, &Reference);
    cx.run(pass, &mut graph).unwrap_or_else(|error| panic!("{error}"));
    if pass.class() == Class::Exact {
        assert_same_values(&original, &graph, Class::Exact);
    }
    let mut again = graph.detached();
    run(pass, &mut again, Options::default());
    assert_eq!(text::print_graph(&again), text::print_graph(&graph), "a second run changed something");
    (graph, cx.cancelled)
}

fn count(graph: &Graph, op_type: &str) -> usize {
    graph.ops_of(op_type).len()
}

const PARAMETERS: &str = "float s = {0.5}, uint8 z = {3}, float t = {0.25}";

/// A chain of `body` over `d`, dequantized from the input, to a Quantize of `m`.
fn between(input: &str, output: &str, constants: &str, body: &str) -> String {
    format!(
        "g ({input} x) => ({output} y) <{PARAMETERS}{constants}> {{ d = DequantizeLinear (x, s, z)  {body}
         q = QuantizeLinear (m, s, z)  y = DequantizeLinear (q, s, z) }}"
    )
}

#[test]
fn pairs_meet_through_every_op_that_moves_selects_or_orders() {
    let bodies = [
        ("", "m = Transpose <perm = [0, 2, 3, 1]> (d)", "float[1,4,4,2]"),
        (", int64[2] r = {2, 16}", "m = Reshape (d, r)", "float[2,16]"),
        ("", "m = Flatten (d)", "float[1,32]"),
        (", int64[1] a = {0}", "m = Squeeze (d, a)", "float[2,4,4]"),
        (", int64[1] a = {0}", "m = Unsqueeze (d, a)", "float[1,1,2,4,4]"),
        (", int64[1] b = {1}, int64[1] e = {3}, int64[1] a = {2}", "m = Slice (d, b, e, a)", "float[1,2,2,4]"),
        (", int64[3] i = {3, 0, 0}", "m = Gather <axis = 3> (d, i)", "float[1,2,4,3]"),
        ("", "m = Concat <axis = 1> (d, d)", "float[1,4,4,4]"),
        (", int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}", "m = Pad (d, p)", "float[1,2,6,6]"),
        (", int64[5] r = {3, 1, 2, 4, 4}", "m = Expand (d, r)", "float[3,1,2,4,4]"),
        ("", "m = MaxPool <kernel_shape = [2, 2]> (d)", "float[1,2,3,3]"),
    ];
    for (constants, body, output) in bodies {
        let (graph, steps) = cancelled(&CancelQdq::exact(), &between("uint8[1,2,4,4]", output, constants, body));
        let printed = text::print_graph(&graph);
        assert_eq!((count(&graph, "QuantizeLinear"), count(&graph, "DequantizeLinear")), (0, 1), "{printed}");
        let wanted = if body.contains("MaxPool") { Exactness::Monotone } else { Exactness::Lossless };
        assert_eq!(steps.get(&wanted), Some(&1), "{body}: {steps:?}");
    }
}

#[test]
fn a_region_goes_at_once_and_float_readers_get_a_dequantize_of_their_own() {
    let model = format!(
        "g (uint8[2,3] x) => (float[3,2] y, float[6] z1) <{PARAMETERS}, int64[1] r = {{6}}> {{
            d = DequantizeLinear (x, s, z)
            a = Transpose (d)
            q = QuantizeLinear (a, s, z)  y = DequantizeLinear (q, s, z)
            b = Reshape (a, r)
            z1 = Exp (b) }}"
    );
    let (graph, _) = cancelled(&CancelQdq::exact(), &model);
    assert_eq!(
        (count(&graph, "QuantizeLinear"), count(&graph, "DequantizeLinear")),
        (0, 1),
        "{}",
        text::print_graph(&graph)
    );
}

#[test]
fn other_parameters_are_one_requantize_and_stay() {
    let model = format!(
        "g (uint8[2,3] x) => (float[3,2] y) <{PARAMETERS}> {{
            d = DequantizeLinear (x, s, z)  a = Transpose (d)  q = QuantizeLinear (a, t, z)  y = DequantizeLinear (q, t, z) }}"
    );
    check_same(&CancelQdq::exact(), &model);
    let model = format!(
        "g (uint8[2,3] x, uint8[2,3] x2) => (float[4,3] y) <{PARAMETERS}> {{
            d = DequantizeLinear (x, s, z)  e = DequantizeLinear (x2, t, z)
            m = Concat <axis = 0> (d, e)  q = QuantizeLinear (m, s, z)  y = DequantizeLinear (q, s, z) }}"
    );
    check_same(&CancelQdq::exact(), &model);
}

#[test]
fn without_moves_every_float_value_keeps_its_pair() {
    let model = between("uint8[1,2,4,4]", "float[1,2,3,3]", "", "m = MaxPool <kernel_shape = [2, 2]> (d)");
    check_same(&CancelQdq::local(), &model);
    let adjacent = format!(
        "g (uint8[2] x) => (float[2] y) <{PARAMETERS}> {{
            d = DequantizeLinear (x, s, z)  q = QuantizeLinear (d, s, z)  y = DequantizeLinear (q, s, z) }}"
    );
    assert_eq!(cancelled(&CancelQdq::local(), &adjacent).0.op_count(), 1);
}

/// `docs/engines.md` §2.1: ONNX Runtime makes fast u8 of s8 only between a Quantize and its Dequantize.
#[test]
fn signed_pairs_stay_around_their_ops() {
    check_missed(
        &CancelQdq::exact(),
        "g (int8[2,3] x) => (float[3,2] y) <float s = {0.5}, int8 z = {3}> {
            d = DequantizeLinear (x, s, z)  m = Transpose (d)  q = QuantizeLinear (m, s, z)  y = DequantizeLinear (q, s, z) }",
        "does not pay: the target runs signed integers fast between the ops of a pair alone",
    );
}

/// `docs/engines.md` §0.7: outside of an integer chain MaxPool is many times slower in integers.
#[test]
fn a_pool_that_float_ops_read_stays_float() {
    check_missed(
        &CancelQdq::exact(),
        &format!(
            "g (uint8[1,2,4,4] x) => (float[1,2,3,3] y, float[1,2,3,3] z1) <{PARAMETERS}> {{
                d = DequantizeLinear (x, s, z)  m = MaxPool <kernel_shape = [2, 2]> (d)
                q = QuantizeLinear (m, s, z)  y = DequantizeLinear (q, s, z)  z1 = Exp (m) }}"
        ),
        "does not pay: float ops read its result, too, and alone it runs slower in integers",
    );
}

#[test]
fn two_quantizes_in_a_row_merge_on_request_alone() {
    let model = format!(
        "g (float[2,3] x) => (float[2,3] y) <{PARAMETERS}> {{
            p = QuantizeLinear (x, s, z)  d = DequantizeLinear (p, s, z)
            q = QuantizeLinear (d, t, z)  y = DequantizeLinear (q, t, z) }}"
    );
    check_same(&CancelQdq::exact(), &model);
    let (graph, steps) = cancelled(&CancelQdq::approximate(), &model);
    assert_eq!((graph.op_count(), steps.get(&Exactness::Approximate)), (2, Some(&1)));
}

/// Two branches, a residual sum, a pool, a join, a second reader and a head that ends in floats.
fn network() -> String {
    format!(
        "g (float[1,3,8,8] x) => (float[1,5] y) <{}, {}, {}, {}, int64[2] r = {{1, 64}}> {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w0)  b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w1)  e = Add (c, b)  f = Relu (e)
            g0 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f)
            h = Conv (b, w2)  i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)
            j = Add (g0, i)  k = Reshape (j, r)
            y = Gemm <transB = 1> (k, w3) }}",
        constant("w0", &[4, 3, 3, 3], 0.2),
        constant("w1", &[4, 4, 3, 3], 0.2),
        constant("w2", &[4, 4, 1, 1], 0.2),
        constant("w3", &[5, 64], 0.1),
    )
}

#[test]
fn wrapping_and_cancelling_ends_where_placing_all_ends() {
    let original = parse(&network()).graph;
    let calibration =
        calibrate(&original, &Reference, &samples_of(&original, 4), &[], &|_| {}).expect("the model runs");
    let units = find_units(&original, &calibration, &ORT_CPU);
    let integer = vec![true; units.units.len()];
    let insert =
        || InsertQdq { calibration: &calibration, calibrator: Calibrator::MinMax, units: &units, integer: &integer };
    let (mut placed, mut wrapped) = (original.detached(), original.detached());
    run(&insert(), &mut placed, Options::default());
    run(&WrapQdq(insert()), &mut wrapped, Options::default());
    let counts = |graph: &Graph| ["QuantizeLinear", "DequantizeLinear"].map(|op| count(graph, op));
    assert!(counts(&wrapped)[0] > counts(&placed)[0], "nothing was wrapped twice");
    let before = wrapped.detached();
    for pass in [CancelQdq::local(), CancelQdq::exact()] {
        run(&pass, &mut placed, Options::default());
        run(&pass, &mut wrapped, Options::default());
        assert_eq!(counts(&wrapped), counts(&placed), "{}", text::print_graph(&wrapped));
        assert_same_values(&placed, &wrapped, Class::Exact);
        assert_same_values(&before, &wrapped, Class::Exact);
    }
    assert_eq!(placed.op_count(), wrapped.op_count());
}

/// A random chain: each step is (what, number), and what does not fit the shape is left out.
fn chain(steps: &[(u8, u8)]) -> String {
    let mut lines = Vec::new();
    let mut constants = Vec::new();
    let mut values = vec![("d".to_owned(), [2usize, 4, 4])];
    let mut outputs = Vec::new();
    for (index, &(what, number)) in steps.iter().enumerate() {
        let pick = values.len() - 1 - usize::from(number) % values.len().min(3);
        let (x, [channels, height, width]) = values[pick].clone();
        let y = format!("v{index}");
        let (line, dims) = match what % 9 {
            0 => (format!("{y} = Transpose <perm = [0, 1, 3, 2]> ({x})"), [channels, width, height]),
            1 if height >= 2 && width >= 2 => {
                (format!("{y} = MaxPool <kernel_shape = [2, 2]> ({x})"), [channels, height - 1, width - 1])
            }
            2 => {
                constants.push(format!("int64[4] r{index} = {{1, {channels}, {width}, {height}}}"));
                (format!("{y} = Reshape ({x}, r{index})"), [channels, width, height])
            }
            3 => {
                let (other, dims) = values[usize::from(number) % values.len()].clone();
                if dims[1..] != [height, width] || channels + dims[0] > 12 {
                    continue;
                }
                (format!("{y} = Concat <axis = 1> ({x}, {other})"), [channels + dims[0], height, width])
            }
            4 => (format!("{y} = Relu ({x})"), [channels, height, width]),
            5 if height >= 2 => (format!("{y} = Slice ({x}, one, many, two)"), [channels, height - 1, width]),
            6 if height < 8 => (format!("{y} = Pad ({x}, pads)"), [channels, height + 1, width]),
            7 => {
                let (scale, zero) = [("s", "z"), ("t", "z"), ("s", "o")][usize::from(number) % 3];
                lines.push(format!("q{index} = QuantizeLinear ({x}, {scale}, {zero})"));
                (format!("{y} = DequantizeLinear (q{index}, {scale}, {zero})"), [channels, height, width])
            }
            8 if number % 4 == 0 => {
                lines.push(format!("q{index} = QuantizeLinear ({x}, s, z)"));
                outputs.push(format!("uint8[1,{channels},{height},{width}] q{index}"));
                continue;
            }
            _ => continue,
        };
        lines.push(line);
        values.push((y, dims));
    }
    let (last, dims) = values.last().cloned().unwrap_or_default();
    lines.push(format!("q = QuantizeLinear ({last}, s, z)  y = DequantizeLinear (q, s, z)"));
    outputs.push(format!("float[1,{},{},{}] y", dims[0], dims[1], dims[2]));
    constants.push(format!(
        "{PARAMETERS}, uint8 o = {{0}}, int64[1] one = {{1}}, int64[1] many = {{99}}, int64[1] two = {{2}}, int64[8] pads = {{0, 0, 1, 0, 0, 0, 0, 0}}"
    ));
    format!(
        "g (uint8[1,2,4,4] x) => ({}) <{}> {{ d = DequantizeLinear (x, s, z)\n{} }}",
        outputs.join(", "),
        constants.join(", "),
        lines.join("\n")
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_algorithm: proptest::test_runner::RngAlgorithm::ChaCha,
        rng_seed: proptest::test_runner::RngSeed::Fixed(9),
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_chains_compute_the_same_with_no_more_conversions(steps in vec(any::<(u8, u8)>(), 1..12)) {
        let model = chain(&steps);
        let original = parse(&model).graph;
        let conversions = |graph: &Graph| count(graph, "QuantizeLinear") + count(graph, "DequantizeLinear");
        for pass in [CancelQdq::local(), CancelQdq::exact()] {
            let (graph, _) = cancelled(&pass, &model);
            prop_assert!(conversions(&graph) <= conversions(&original), "{model}");
        }
    }
}
