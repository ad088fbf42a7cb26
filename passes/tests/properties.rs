//! Properties of passes over random float graphs: what holds for every model, tried on small ones. The seed is fixed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
use onnx_shrink_ir::{DataType, Evaluate, Model, text, verify};
use onnx_shrink_passes::{
    Class, Context, Options,
    analysis::units::find_units,
    calibration::{calibrators::Calibrator, collect::calibrate, histogram::Histogram},
    pipeline,
    quantize::InsertQdq,
    target::ORT_CPU,
    testing::{Reference, Samples, assert_same_values, parse, run, seeded},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{RngAlgorithm, RngSeed},
};

/// A fixed seed and a few cases: the same test on every run.
fn few(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(20),
        ..ProptestConfig::default()
    }
}

/// Channels of the input of every random graph, and its height and width.
const INPUT: [usize; 3] = [3, 6, 6];

/// Builds the text of a graph: each step is (what, number), and what does not fit the shape is left out.
fn model(steps: &[(u8, u8)]) -> String {
    let mut constants = Vec::new();
    let mut lines = Vec::new();
    // Name and [channels, height, width] of every value so far.
    let mut values = vec![("x".to_owned(), INPUT)];
    let constant = |name: &str, dims: &[usize], factor: f64| {
        let numbers = seeded(DataType::Float, dims, name, 3).and_then(|tensor| tensor.to_f64_vec()).unwrap();
        let numbers: Vec<String> = numbers.into_iter().map(|x| (x * factor).to_string()).collect();
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        format!("float[{}] {name} = {{{}}}", dims.join(","), numbers.join(", "))
    };
    for (index, &(what, number)) in steps.iter().enumerate() {
        let y = format!("v{index}");
        let (x, dims) = values.last().unwrap().clone();
        let [channels, height, width] = dims;
        // Some other value, for ops of two.
        let (other, other_dims) = values[usize::from(number) % values.len()].clone();
        let side = if number % 2 == 0 || height < 3 || width < 3 { 1 } else { 3 };
        let (line, shape) = match what % 9 {
            0 | 1 => {
                let filters = 1 + usize::from(number) % 5;
                let factor = 0.5 / ((channels * side * side) as f64).sqrt();
                constants.push(constant(&format!("w{index}"), &[filters, channels, side, side], factor));
                constants.push(constant(&format!("b{index}"), &[filters], 0.2));
                let bias = if number % 3 == 0 { String::new() } else { format!(", b{index}") };
                let pads = side / 2;
                let line = format!("Conv <pads = [{pads}, {pads}, {pads}, {pads}]> ({x}, w{index}{bias})");
                (line, [filters, height, width])
            }
            2 => (format!("Relu ({x})"), dims),
            3 if other_dims == dims => (format!("Add ({x}, {other})"), dims),
            4 if other_dims[1..] == dims[1..] && channels + other_dims[0] <= 12 => {
                (format!("Concat <axis = 1> ({x}, {other})"), [channels + other_dims[0], height, width])
            }
            5 if height >= 2 && width >= 2 => {
                let line = format!("MaxPool <kernel_shape = [2, 2], strides = [1, 1]> ({x})");
                (line, [channels, height - 1, width - 1])
            }
            6 => {
                constants.push(format!("int64[4] s{index} = {{1, {channels}, {width}, {height}}}"));
                (format!("Reshape ({x}, s{index})"), [channels, width, height])
            }
            7 => {
                constants.push(constant(&format!("c{index}"), &[1, channels, 1, 1], 0.5));
                (format!("Add ({x}, c{index})"), dims)
            }
            8 if channels == 1 || number % 2 == 0 => (format!("Identity ({x})"), dims),
            _ => continue,
        };
        lines.push(format!("{y} = {line}"));
        values.push((y, shape));
    }
    let (x, [channels, height, width]) = values.last().unwrap().clone();
    let length = channels * height * width;
    constants.push(constant("wg", &[length, 4], 1.0 / (length as f64).sqrt()));
    constants.push(constant("bg", &[4], 0.2));
    lines.push(format!("f = Flatten ({x})"));
    lines.push("y = Gemm (f, wg, bg)".to_owned());
    let [channels, height, width] = INPUT;
    format!(
        "g (float[1,{channels},{height},{width}] x) => (float[1,4] y) <{}> {{\n{}\n}}",
        constants.join(", "),
        lines.join("\n")
    )
}

fn steps() -> impl Strategy<Value = Vec<(u8, u8)>> {
    vec((0u8..9, any::<u8>()), 1..10)
}

fn lossless(model: &Model) -> Model {
    let mut result = model.detached();
    let mut cx = Context::new(Options { verify_each: true, ..Options::default() }, &Reference);
    pipeline::run_lossless(&mut result.graph, &mut cx).expect("no pass fails");
    result
}

/// A copy of `model` with all its units in integers, and the ratio of signal to noise of its output in dB.
fn quantized(model: &Model) -> (Model, f64) {
    let [channels, height, width] = INPUT;
    let sample = |seed| vec![seeded(DataType::Float, &[1, channels, height, width], "x", seed)];
    let samples = Samples((0..4).map(sample).collect());
    let calibration = calibrate(&model.graph, &Reference, &samples, &[], &|_| {}).expect("the model runs");
    let units = find_units(&model.graph, &calibration, &ORT_CPU);
    let integer = vec![true; units.units.len()];
    let pass =
        InsertQdq { calibration: &calibration, calibrator: Calibrator::MinMax, units: &units, integer: &integer };
    let mut after = model.detached();
    run(&pass, &mut after.graph, Options::default());
    let (mut signal, mut noise) = (0.0, 0.0);
    for inputs in &samples.0 {
        let numbers = |model: &Model| {
            let ready = Reference.prepare(&model.graph).expect("it runs");
            ready.run(inputs, &mut |_, _| {}).expect("it runs")[0].to_f64_vec().expect("numbers")
        };
        for (a, b) in numbers(model).into_iter().zip(numbers(&after)) {
            signal += a * a;
            noise += (a - b) * (a - b);
        }
    }
    (after, 10.0 * (signal / noise.max(1e-300)).log10())
}

proptest! {
    #![proptest_config(few(64))]

    #[test]
    fn the_lossless_part_keeps_values_and_is_idempotent(steps in steps()) {
        let original = parse(&model(&steps));
        let once = lossless(&original);
        let violations = verify::new_violations(&original, &once);
        prop_assert!(violations.is_empty(), "{violations:?}");
        assert_same_values(&original.graph, &once.graph, Class::Rounding);
        let printed = text::print_graph(&once.graph);
        prop_assert_eq!(text::print_graph(&lossless(&once).graph), printed.clone(), "a second run changes something");
        prop_assert_eq!(text::print_graph(&lossless(&parse(&model(&steps))).graph), printed, "two runs differ");
        prop_assert!(once.graph.op_count() <= original.graph.op_count());
    }
}

proptest! {
    #![proptest_config(few(32))]

    #[test]
    fn all_in_integers_is_near(steps in steps()) {
        let original = lossless(&parse(&model(&steps)));
        let (after, ratio) = quantized(&original);
        let violations = verify::new_violations(&original, &after);
        prop_assert!(violations.is_empty(), "{violations:?}");
        prop_assert!(ratio >= 15.0, "{ratio} dB");
        prop_assert_eq!(text::print_graph(&quantized(&original).0.graph), text::print_graph(&after.graph));
    }

    #[test]
    fn merged_histograms_equal_the_whole(parts in vec(vec(-1e3f32..1e3, 0..40), 1..6), shift in -30i32..30) {
        let factor = (f64::from(shift)).exp2() as f32;
        let mut whole = Histogram::default();
        let mut merged = Histogram::default();
        for (index, part) in parts.iter().enumerate() {
            // Parts of very different size: each has its own width of bins.
            let part: Vec<f32> = part.iter().map(|x| if index % 2 == 0 { *x } else { x * factor }).collect();
            whole.add(&part);
            let mut one = Histogram::default();
            one.add(&part);
            merged.merge(one);
        }
        prop_assert_eq!(&whole.bins().map(|(_, count)| count).sum::<u64>(), &whole.count);
        prop_assert_eq!(whole, merged);
    }
}
