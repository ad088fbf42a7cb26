//! Removing channels equals zeroing them where they are summed over: on random graphs, by the reference evaluator.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
use std::collections::BTreeSet;

use onnx_shrink_ir::{DataType, Graph, OpId, Patch, Tensor, infer, text, verify};
use onnx_shrink_passes::{
    Class,
    prune::{Branch, Groups, Unit, Window},
    testing::{assert_same_values, parse, seeded},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{RngAlgorithm, RngSeed},
};

/// A graph in the making: constants, ops, and [channels, height, width] of every value.
#[derive(Default)]
struct Builder {
    constants: Vec<String>,
    lines: Vec<String>,
    values: Vec<(String, [usize; 3])>,
}

impl Builder {
    fn constant(&mut self, name: &str, dims: &[usize], factor: f64) {
        let numbers = seeded(DataType::Float, dims, name, 3).and_then(|tensor| tensor.to_f64_vec()).unwrap();
        let numbers: Vec<String> = numbers.into_iter().map(|x| (x * factor).to_string()).collect();
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        self.constants.push(format!("float[{}] {name} = {{{}}}", dims.join(","), numbers.join(", ")));
    }

    fn ints(&mut self, name: &str, numbers: &[usize]) {
        let text: Vec<String> = numbers.iter().map(usize::to_string).collect();
        self.constants.push(format!("int64[{}] {name} = {{{}}}", numbers.len(), text.join(", ")));
    }

    fn push(&mut self, y: &str, op: &str, dims: [usize; 3]) {
        self.lines.push(format!("{y} = {op}"));
        self.values.push((y.to_owned(), dims));
    }

    fn conv(&mut self, y: &str, x: &str, dims: [usize; 3], filters: usize, group: usize, side: usize) {
        let inner = dims[0] / group;
        self.constant(&format!("{y}_w"), &[filters, inner, side, side], 0.7 / ((inner * side * side) as f64).sqrt());
        self.constant(&format!("{y}_b"), &[filters], 0.2);
        let pad = side / 2;
        let op = format!("Conv <pads = [{pad}, {pad}, {pad}, {pad}], group = {group}> ({x}, {y}_w, {y}_b)");
        self.push(y, &op, [filters, dims[1], dims[2]]);
    }

    /// One more op on the last value: what does not fit its shape is left out.
    fn step(&mut self, index: usize, what: u8, number: u8) {
        let y = format!("v{index}");
        let (x, dims) = self.values.last().unwrap().clone();
        let (other, other_dims) = self.values[usize::from(number) % self.values.len()].clone();
        let [channels, height, width] = dims;
        let number = usize::from(number);
        let side = if number.is_multiple_of(2) { 1 } else { 3 };
        match what % 16 {
            0 | 1 => self.conv(&y, &x, dims, 2 + number % 6, 1, side),
            2 => self.push(&y, &format!("Relu ({x})"), dims),
            3 if other_dims == dims => self.push(&y, &format!("Add ({x}, {other})"), dims),
            3 => {
                // A residual branch of the shape at hand.
                self.conv(&format!("{y}a"), &x, dims, channels, 1, side);
                self.push(&y, &format!("Add ({x}, {y}a)"), dims);
            }
            4 if other_dims[1..] == dims[1..] && channels + other_dims[0] <= 16 => {
                self.push(&y, &format!("Concat <axis = 1> ({x}, {other})"), [channels + other_dims[0], height, width]);
            }
            5 => self.conv(&y, &x, dims, channels, channels, 3),
            6 if channels.is_multiple_of(2) => self.conv(&y, &x, dims, 2 * (1 + number % 4), 2, side),
            7 if height >= 2 => {
                let op = format!("MaxPool <kernel_shape = [2, 2]> ({x})");
                self.push(&y, &op, [channels, height - 1, width - 1]);
            }
            8 => {
                for name in ["s", "o", "m"] {
                    self.constant(&format!("{y}_{name}"), &[channels], 0.5);
                }
                let ones = vec!["1"; channels].join(", ");
                self.constants.push(format!("float[{channels}] {y}_v = {{{ones}}}"));
                self.push(&y, &format!("BatchNormalization ({x}, {y}_s, {y}_o, {y}_m, {y}_v)"), dims);
            }
            9 => {
                self.constant(&format!("{y}_c"), &[1, channels, 1, 1], 0.5);
                let op = ["Mul", "Add", "Sub"][number % 3];
                self.push(&y, &format!("{op} ({x}, {y}_c)"), dims);
            }
            10 => {
                // Squeeze and excite.
                self.push(&format!("{y}p"), &format!("GlobalAveragePool ({x})"), [channels, 1, 1]);
                self.conv(&format!("{y}a"), &format!("{y}p"), [channels, 1, 1], 3, 1, 1);
                self.conv(&format!("{y}e"), &format!("{y}a"), [3, 1, 1], channels, 1, 1);
                self.push(&format!("{y}g"), &format!("Sigmoid ({y}e)"), [channels, 1, 1]);
                self.push(&y, &format!("Mul ({x}, {y}g)"), dims);
            }
            11 if channels.is_multiple_of(2) => {
                // Channel shuffle.
                self.ints(&format!("{y}_1"), &[1, 2, channels / 2, height, width]);
                self.ints(&format!("{y}_2"), &[1, channels, height, width]);
                self.lines.push(format!("{y}r = Reshape ({x}, {y}_1)"));
                self.lines.push(format!("{y}t = Transpose <perm = [0, 2, 1, 3, 4]> ({y}r)"));
                self.push(&y, &format!("Reshape ({y}t, {y}_2)"), dims);
            }
            12 if channels >= 2 => {
                let cut = 1 + number % (channels - 1);
                self.ints(&format!("{y}_s"), &[cut, channels - cut]);
                self.lines.push(format!("{y}, {y}z = Split <axis = 1> ({x}, {y}_s)"));
                self.values.push((format!("{y}z"), [channels - cut, height, width]));
                self.values.push((y, [cut, height, width]));
            }
            13 if channels >= 3 => {
                let (from, to) = (1 + number % 2, channels);
                self.ints(&format!("{y}_f"), &[from]);
                self.ints(&format!("{y}_t"), &[to]);
                self.ints(&format!("{y}_x"), &[1]);
                self.push(&y, &format!("Slice ({x}, {y}_f, {y}_t, {y}_x)"), [to - from, height, width]);
            }
            14 => {
                let filters = 2 + number % 3;
                self.constant(&format!("{y}_w"), &[channels, filters, 2, 2], 0.5);
                let op = format!("ConvTranspose ({x}, {y}_w)");
                self.push(&y, &op, [filters, height + 1, width + 1]);
            }
            15 => {
                let places: Vec<usize> = (0..channels).map(|k| (k * 5 + number) % channels).collect();
                self.ints(&format!("{y}_i"), &places);
                self.push(&y, &format!("Gather <axis = 1> ({x}, {y}_i)"), dims);
            }
            _ => {}
        }
    }

    fn finish(mut self, flatten: bool) -> String {
        let (x, [channels, height, width]) = self.values.last().unwrap().clone();
        let length = if flatten { channels * height * width } else { channels };
        self.constant("wh", &[length, 5], 1.0 / (length as f64).sqrt());
        self.constant("wg", &[5, 4], 0.5);
        self.constant("bg", &[4], 0.2);
        if flatten {
            self.lines.push(format!("f = Flatten ({x})"));
        } else {
            self.lines.push(format!("p = GlobalAveragePool ({x})"));
            self.lines.push("f = Flatten (p)".to_owned());
        }
        self.lines.push("h = MatMul (f, wh)".to_owned());
        self.lines.push("r = Relu (h)".to_owned());
        self.lines.push("y = Gemm (r, wg, bg)".to_owned());
        let [c, h, w] = self.values[0].1;
        let constants = self.constants.join(", ");
        format!("g (float[1,{c},{h},{w}] x) => (float[1,4] y) <{constants}> {{\n{}\n}}", self.lines.join("\n"))
    }
}

fn model(steps: &[(u8, u8)], flatten: bool) -> String {
    let mut builder = Builder::default();
    builder.values.push(("x".to_owned(), [3, 4, 4]));
    let dims = builder.values[0].1;
    builder.conv("stem", "x", dims, 6, 1, 3);
    for (index, &(what, number)) in steps.iter().enumerate() {
        builder.step(index, what, number);
    }
    builder.finish(flatten)
}

/// About `share` of the free units of each group.
fn some_units(groups: &Groups, share: u64, seed: u64) -> BTreeSet<Unit> {
    let chosen = |unit: &Unit| {
        let bits = (u64::from(*unit) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed << 40);
        (bits >> 33) % 10 < share
    };
    groups.groups.iter().flat_map(|group| groups.free(group)).filter(chosen).collect()
}

fn applied(graph: &Graph, patch: onnx_shrink_ir::Patch) -> Graph {
    let mut graph = graph.detached();
    patch.apply(&mut graph).unwrap();
    graph
}

/// Removes units and holds the result against the masked graph; whether anything was removed.
fn removed_equals_masked(source: &str, share: u64, seed: u64) -> bool {
    let mut original = parse(source).graph;
    infer::infer(&mut original);
    let groups = Groups::of(&original);
    let gone = some_units(&groups, share, seed);
    let Ok(Some(patch)) = groups.remove(&original, &gone) else { return false };
    let pruned = applied(&original, patch);
    let violations = verify::verify_graph(&pruned);
    assert!(violations.is_empty(), "{violations:?}\n{}", text::print_graph(&pruned));
    let masked = groups.mask(&original, &gone).unwrap().unwrap();
    assert_same_values(&applied(&original, masked), &pruned, Class::Rounding);
    // Inference agrees with the types that were written.
    let mut inferred = parse(&text::print_graph(&pruned)).graph;
    infer::infer(&mut inferred);
    for value in pruned.values() {
        let name = pruned.name_of(value);
        let other = inferred.find(name).and_then(|value| inferred.ty(value));
        assert_eq!(pruned.ty(value), other, "`{name}`");
    }
    assert!(groups.macs(&original, &gone) < groups.macs(&original, &BTreeSet::new()));
    assert_eq!(groups.macs(&original, &gone), Groups::of(&pruned).macs(&pruned, &BTreeSet::new()));
    true
}

/// Sets the taps of a 3 × 3 kernel to zero that `window` leaves out.
fn keep_centre(graph: &mut Graph, op: OpId, window: Window) {
    let weight = graph.op(op).input(1).unwrap();
    let tensor = graph.constant(weight).unwrap().clone();
    let mut numbers = tensor.to_f64().unwrap();
    for (index, number) in numbers.indexed_iter_mut() {
        let out = match window {
            Window::Whole => false,
            Window::Row => index[2] != 1,
            Window::Column => index[3] != 1,
            Window::Point => index[2] != 1 || index[3] != 1,
        };
        if out {
            *number = 0.0;
        }
    }
    let mut patch = Patch::new(op);
    patch.set_constant(weight, Tensor::from_f64(tensor.dtype(), &numbers).unwrap());
    patch.apply(graph).unwrap();
}

/// Puts kernels in the places of branches, beside a removal of other channels. One over all has weights of 0: it is the
/// graph in which all that the branch's second convolution reads is 0. Another is the second convolution with zeros in the
/// taps that are left out. How many there were, of either kind.
fn branches_equal_masked(source: &str, share: u64, seed: u64) -> [usize; 2] {
    let mut original = parse(source).graph;
    infer::infer(&mut original);
    let groups = Groups::of(&original);
    let mut count = [0; 2];
    for index in 0..groups.groups.len() {
        let Some(branch) = Branch::of(&original, &groups, index) else { continue };
        let inner = &groups.groups[index].units;
        let mut gone = some_units(&groups, share, seed);
        gone.retain(|unit| !inner.contains(unit));
        for kernel in branch.kernels() {
            let all: BTreeSet<Unit> = gone.iter().chain(inner).copied().collect();
            let zeroed = if kernel.over_all { &all } else { &gone };
            let copy =
                |patch: Option<Patch>| patch.map_or_else(|| original.detached(), |patch| applied(&original, patch));
            let Ok(removal) = groups.remove(&original, &gone) else { continue };
            let (mut pruned, mut masked) = (copy(removal), copy(groups.mask(&original, zeroed).unwrap()));
            branch.patch(&pruned, kernel).unwrap().apply(&mut pruned).unwrap();
            assert!(verify::verify_graph(&pruned).is_empty(), "{}", text::print_graph(&pruned));
            if !kernel.over_all {
                keep_centre(&mut masked, branch.last, kernel.window);
            }
            assert_same_values(&masked, &pruned, Class::Rounding);
            let mut inferred = parse(&text::print_graph(&pruned)).graph;
            infer::infer(&mut inferred);
            let old = groups.weighted.iter().find(|weighted| weighted.op == branch.last && !kernel.over_all);
            let others = groups.macs(&original, zeroed) - old.map_or(0.0, |old| groups.macs_of(&original, old, &gone));
            let counted = others + branch.macs(&original, &groups, kernel, &gone);
            assert_eq!(counted, Groups::of(&inferred).macs(&inferred, &BTreeSet::new()), "{kernel:?}\n{source}");
            count[usize::from(!kernel.over_all)] += 1;
        }
    }
    count
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(21),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_graph_without_channels_equals_one_with_zeros_in_their_place(
        steps in vec((0u8..16, any::<u8>()), 1..9), flatten: bool, share in 1u64..6, seed in 0u64..100
    ) {
        removed_equals_masked(&model(&steps, flatten), share, seed);
    }

    #[test]
    fn one_convolution_for_a_branch_equals_one_with_zeros_inside(
        steps in vec((0u8..16, any::<u8>()), 1..9), share in 0u64..4, seed in 0u64..100
    ) {
        branches_equal_masked(&model(&steps, false), share, seed);
    }
}

#[test]
fn plain_and_residual_branches_take_one_convolution_and_a_depthwise_one_between_does_not_hinder() {
    // Convolution, Relu; then another, or a depthwise one before it.
    for (steps, kernels) in
        [(vec![(2, 0), (0, 3)], [4, 3]), (vec![(2, 0), (5, 0), (2, 0), (1, 2)], [4, 0]), (vec![(10, 0)], [1, 0])]
    {
        assert_eq!(branches_equal_masked(&model(&steps, false), 2, 1), kernels, "{steps:?}");
    }
}

/// Every kind of step takes part in at least one removal: the property above is no empty promise.
#[test]
fn each_form_is_pruned() {
    let is_pruned = |what: &u8| {
        (0..40u64).any(|seed| {
            let steps = [(*what, (seed * 7) as u8), (0, 3)];
            removed_equals_masked(&model(&steps, seed % 2 == 0), 3, seed)
        })
    };
    let never: Vec<u8> = (0..16).filter(|what| !is_pruned(what)).collect();
    assert!(never.is_empty(), "never pruned: {never:?}");
}

#[test]
fn channels_whose_weights_no_sample_reaches_stay() {
    // Two experts of four channels, and what chooses between them.
    let matrix = |name: &str, rows: usize, columns: usize| {
        let numbers =
            seeded(DataType::Float, &[rows, columns], name, 3).and_then(|tensor| tensor.to_f64_vec()).unwrap();
        format!(
            "float[{rows},{columns}] {name} = {{{}}}",
            numbers.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")
        )
    };
    let text = format!(
        "g (float[2,3] x, bool[2,1] route) => (float[2,2] y) <{}, {}, {}, {}> {{
           a = MatMul (x, first)  b = MatMul (x, second)  e = Where (route, a, b)  r = Relu (e)
           h = MatMul (r, w)  z = Relu (h)  y = MatMul (z, v) }}",
        matrix("first", 3, 4),
        matrix("second", 3, 4),
        matrix("w", 4, 5),
        matrix("v", 5, 2)
    );
    let mut graph = parse(&text).graph;
    infer::infer(&mut graph);
    let mut groups = Groups::of(&graph);
    let free = |groups: &Groups| groups.groups.iter().map(|group| groups.free(group).len()).sum::<usize>();
    assert_eq!(free(&groups), 4 + 5);
    groups.freeze_unreached(&graph, &BTreeSet::from([graph.find("second").unwrap()]));
    assert_eq!(free(&groups), 5);
    let reasons: Vec<&str> = groups.groups.iter().filter_map(|group| group.frozen.as_deref()).collect();
    assert!(reasons.contains(&"no sample reaches `second`"), "{reasons:?}");
}
