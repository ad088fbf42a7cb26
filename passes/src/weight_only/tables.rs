//! Which constants are tables: numbers that mean a place, a size or a scale of their own, and are no weights of a layer.
//!
//! An anchor grid, prior boxes, strides and windows reach an output, or the coordinates that an op samples at, by elementwise
//! arithmetic and data movement alone: no weighted layer sums over them, no normalization or saturation lies behind them, so that
//! what rounding adds is what the output is off by. Such a *coordinate* is stored exactly or stays. Other tables (positions that are
//! added in front of a normalization) stay exact where 16 bits hold them, and are rounded as weights are where not.
//!
//! Weights are what a weighted op reads, as it is or computed from constants alone, an embedding (rows that ids from an input look
//! up), and a bias: a vector that is added to what a weighted op gives.
//! **Never** runs anything: roles follow from the graph. In a body, what the body gives counts as an output.
use std::collections::BTreeSet;

use onnx_shrink_ir::{DataType, Graph, NewOp, OpId, Patch, Tensor, ValueId, attributes, ops::is_clip};

use crate::Miss;
use crate::weight_only::least_bits::Least;

/// Ops that sum products with weights, or look them up.
const WEIGHTED: [&str; 12] = [
    "Conv",
    "ConvTranspose",
    "DeformConv",
    "Gemm",
    "MatMul",
    "Einsum",
    "LSTM",
    "GRU",
    "RNN",
    "Attention",
    "ConvInteger",
    "MatMulInteger",
];

/// Elementwise arithmetic on all inputs, beside Relu and Clip.
const ARITHMETIC: [&str; 24] = [
    "Abs",
    "Add",
    "Ceil",
    "Cos",
    "Div",
    "Exp",
    "Floor",
    "Identity",
    "LeakyRelu",
    "Log",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Pow",
    "Reciprocal",
    "Round",
    "Sin",
    "Sqrt",
    "Sub",
    "Sum",
    "Cast",
];

/// Ops whose first input goes on as it is, in part, or summed.
const MOVEMENT: [&str; 25] = [
    "Transpose",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Split",
    "GatherElements",
    "GatherND",
    "Expand",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
    "Resize",
    "Upsample",
    "TopK",
    "Compress",
    "Trilu",
    "ReverseSequence",
    "CumSum",
    "MaxPool",
    "ReduceMax",
    "ReduceMin",
    "ReduceSum",
    "ReduceMean",
];

/// What a constant is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A layer's weights, a bias, an embedding
    Weight,
    /// A table that something other than coordinates is made of
    Table,
    /// A table that reaches an output, or coordinates, by arithmetic alone
    Coordinate,
}

/// The roles of a graph's constants.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Values that reach an output by arithmetic alone
    coordinates: BTreeSet<ValueId>,
    /// Constants that are weights
    weights: BTreeSet<ValueId>,
}

impl Roles {
    /// The roles in `graph`, its bodies' own constants aside.
    pub fn of(graph: &Graph) -> Roles {
        Roles { coordinates: coordinates(graph), weights: weights(graph) }
    }

    /// The role of the constant `value`.
    pub fn role(&self, value: ValueId) -> Role {
        if self.coordinates.contains(&value) {
            Role::Coordinate
        } else if self.weights.contains(&value) {
            Role::Weight
        } else {
            Role::Table
        }
    }
}

/// All values that reach an output or coordinates by arithmetic alone.
fn coordinates(graph: &Graph) -> BTreeSet<ValueId> {
    let mut work: Vec<ValueId> = graph.outputs().to_vec();
    let mut found = BTreeSet::new();
    for op in graph.ops_in_id_order() {
        let node = graph.op(op);
        let place = match node.op_type() {
            "GridSample" | "RoiAlign" => Some(1),
            "NonMaxSuppression" | "AffineGrid" => Some(0),
            "DeformConv" => Some(2),
            _ => None,
        };
        work.extend(place.filter(|_| node.domain().is_empty()).and_then(|place| node.input(place)));
    }
    while let Some(value) = work.pop() {
        if found.insert(value)
            && let Some(producer) = graph.producer(value)
        {
            work.extend(passed_on(graph, producer));
        }
    }
    found
}

/// The inputs of `op` whose numbers go into its outputs by arithmetic and movement alone.
fn passed_on(graph: &Graph, op: OpId) -> Vec<ValueId> {
    let node = graph.op(op);
    let at = |places: &[usize]| places.iter().filter_map(|&place| node.input(place)).collect::<Vec<ValueId>>();
    if !node.regions().is_empty() {
        return through_bodies(graph, op);
    }
    if !node.domain().is_empty() {
        return Vec::new();
    }
    match node.op_type() {
        "Concat" => node.inputs().iter().flatten().copied().collect(),
        "Pad" => at(&[0, 2]),
        "Where" => at(&[1, 2]),
        "ScatterElements" | "ScatterND" => at(&[0, 2]),
        "Gather" if looks_up_ids(graph, op) => Vec::new(),
        "Gather" => at(&[0]),
        name if MOVEMENT.contains(&name) => at(&[0]),
        name if is_clip(node) || ARITHMETIC.contains(&name) => {
            node.inputs().iter().flatten().copied().filter(|value| !is_bias(graph, op, *value)).collect()
        }
        _ => Vec::new(),
    }
}

/// The same for If, Loop and Scan: what the bodies capture, and what their inputs begin with.
fn through_bodies(graph: &Graph, op: OpId) -> Vec<ValueId> {
    let node = graph.op(op);
    let mut reached = Vec::new();
    for (index, region) in node.regions().iter().enumerate() {
        let inside = coordinates(&region.graph);
        let captures = graph.captures(op).into_iter().filter(|capture| capture.0 == index);
        reached.extend(captures.filter(|capture| inside.contains(&capture.2)).map(|capture| capture.1));
        let begins = region.graph.inputs().iter().enumerate().filter(|(_, input)| inside.contains(input));
        reached.extend(begins.filter_map(|(place, _)| node.input(place)));
    }
    reached
}

/// Whether `value` is a vector that `op` adds to what a weighted op gives.
fn is_bias(graph: &Graph, op: OpId, value: ValueId) -> bool {
    let node = graph.op(op);
    let is_vector = graph.constant(value).is_some_and(|constant| {
        let long = constant.dims().iter().filter(|&&length| length > 1).count();
        long <= 1
    });
    (node.is("Add") || node.is("Sub"))
        && is_vector
        && node.inputs().iter().flatten().filter(|other| **other != value).any(|other| {
            graph.producer(*other).is_some_and(|producer| WEIGHTED.iter().any(|name| graph.op(producer).is(name)))
        })
}

/// Whether the Gather `op` looks up rows by numbers that come from an input as they are: words, not places.
fn looks_up_ids(graph: &Graph, op: OpId) -> bool {
    let mut value = graph.op(op).input(1);
    while let Some(ids) = value {
        if graph.is_input(ids) {
            return true;
        }
        let Some(producer) = graph.producer(ids) else { return false };
        let node = graph.op(producer);
        let moves = ["Cast", "Identity", "Clip", "Concat", "Where", "Add", "Max", "Min"];
        if !MOVEMENT.iter().chain(&moves).any(|name| node.is(name)) || node.is("TopK") {
            return false;
        }
        value = node.input(usize::from(node.is("Where")));
    }
    false
}

/// The constants that are weights.
fn weights(graph: &Graph) -> BTreeSet<ValueId> {
    let mut fixed = BTreeSet::new();
    let mut work = Vec::new();
    for op in graph.ops() {
        let node = graph.op(op);
        let is_fixed = |value: &ValueId| graph.constant(*value).is_some() || fixed.contains(value);
        let mut inputs = node.inputs().iter().flatten();
        if node.regions().is_empty() && node.inputs().iter().flatten().count() > 0 && inputs.all(is_fixed) {
            fixed.extend(node.outputs().iter().flatten().copied());
        }
        let is_known = node.domain().is_empty() && node.regions().is_empty();
        if !is_known || WEIGHTED.iter().any(|name| node.is(name)) {
            // Of an op that is not known, or of a body, constants are taken for weights.
            work.extend(node.inputs().iter().flatten().copied());
            work.extend(graph.captures(op).into_iter().map(|capture| capture.1));
        } else if node.is("Gather") && looks_up_ids(graph, op) {
            work.extend(node.input(0));
        } else {
            work.extend(node.inputs().iter().flatten().copied().filter(|value| is_bias(graph, op, *value)));
        }
    }
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    while let Some(value) = work.pop() {
        if !seen.insert(value) {
            continue;
        }
        if graph.constant(value).is_some() {
            found.insert(value);
        } else if fixed.contains(&value)
            && let Some(producer) = graph.producer(value)
        {
            work.extend(graph.op(producer).inputs().iter().flatten().copied());
        }
    }
    found
}

/// Why a table is not rounded.
const COORDINATE: Miss = Miss::Form(
    "it is no weight: it reaches an output or coordinates by arithmetic alone, so its numbers stay as they are",
);

/// What is done with `tensor` before any rounding, by the `least` bits that it must have and its role: a form that holds it exactly, if
/// there is one; `None` where it may be rounded. A miss where it stays as it is.
pub(super) fn store_before_rounding(
    graph: &Graph,
    (value, tensor): (ValueId, &Tensor),
    op: OpId,
    role: Role,
    least: Option<Least>,
) -> Result<Option<Patch>, Miss> {
    if least == Some(Least::Float) {
        return Err(Miss::Form("in fewer bits a gate failed"));
    }
    let exactly = || store_two_values(graph, value, tensor, op);
    let in_16_bits = || (role != Role::Weight).then(|| store_in_16_bits(graph, value, tensor, op)).flatten();
    match exactly().or_else(in_16_bits) {
        None if role == Role::Coordinate => Err(COORDINATE),
        found => Ok(found),
    }
}

/// A constant of two values, one of them 0: bits times c, or the logarithm of bits.
fn store_two_values(graph: &Graph, value: ValueId, tensor: &Tensor, op: OpId) -> Option<Patch> {
    let numbers = tensor.as_slice::<f32>()?;
    let other = numbers.iter().copied().find(|x| *x != 0.0)?;
    if numbers.iter().any(|x| *x != other && x.to_bits() != 0) || other.is_nan() || other == f32::INFINITY {
        return None;
    }
    let is_log = other == f32::NEG_INFINITY;
    let bits: Vec<u8> = numbers.iter().map(|x| u8::from((*x == 0.0) == is_log)).collect();
    let mut patch = Patch::new(op);
    let ty = graph.ty(value).cloned();
    let bits = patch.constant("w", Tensor::from_vec(tensor.dims(), bits));
    let cast = NewOp::new("Cast").with(attributes::int("to", DataType::Float as i64));
    let cast = patch.op(cast, &[Some(bits)], "c", ty.clone());
    let result = if is_log {
        patch.op(NewOp::new("Log"), &[Some(cast)], "m", ty)
    } else {
        let factor = patch.constant("s", Tensor::scalar(other));
        patch.op(NewOp::new("Mul"), &[Some(cast), Some(factor)], "m", ty)
    };
    patch.replace(value, result);
    Some(patch)
}

/// The patch that stores `value`, a table, in at most 16 bits without any loss; `None` where they do not hold it.
fn store_in_16_bits(graph: &Graph, value: ValueId, tensor: &Tensor, op: OpId) -> Option<Patch> {
    let numbers = tensor.as_slice::<f32>()?;
    let (narrow, scale) = narrow(tensor.dims(), &numbers, graph.opset() >= LEAST_OPSET)?;
    let mut patch = Patch::new(op);
    let ty = graph.ty(value).cloned();
    let narrow = patch.constant("w", narrow);
    let cast = NewOp::new("Cast").with(attributes::int("to", DataType::Float as i64));
    let cast = patch.op(cast, &[Some(narrow)], "c", ty.clone());
    let result = match scale {
        Some(scale) => {
            let scale = patch.constant("s", Tensor::scalar(scale));
            patch.op(NewOp::new("Mul"), &[Some(cast), Some(scale)], "m", ty)
        }
        None => cast,
    };
    patch.replace(value, result);
    Some(patch)
}

/// The first opset whose Mul broadcasts.
const LEAST_OPSET: i64 = 7;

/// `numbers` as integers of a scale, or as 16-bit floats, whichever is smaller; the same to the bit.
fn narrow(dims: &[usize], numbers: &[f32], scales: bool) -> Option<(Tensor, Option<f32>)> {
    let integers = if scales { as_integers(numbers) } else { None };
    let fits = |low: i32, high: i32| {
        integers.as_ref().is_some_and(|(integers, _)| integers.iter().all(|q| (low..=high).contains(q)))
    };
    let scale = integers.as_ref().map(|(_, scale)| *scale);
    let list = || integers.iter().flat_map(|(integers, _)| integers.iter().copied());
    if fits(0, 255) {
        return Some((Tensor::from_vec(dims, list().map(|q| q as u8).collect()), scale));
    }
    if fits(-128, 127) {
        return Some((Tensor::from_vec(dims, list().map(|q| q as i8).collect()), scale));
    }
    let is_half = |x: &f32| !x.is_nan() && half::f16::from_f32(*x).to_f32().to_bits() == x.to_bits();
    if numbers.iter().all(is_half) {
        return Some((Tensor::from_vec(dims, numbers.iter().map(|x| half::f16::from_f32(*x)).collect()), None));
    }
    fits(i32::from(i16::MIN), i32::from(i16::MAX))
        .then(|| (Tensor::from_vec(dims, list().map(|q| q as i16).collect()), scale))
}

/// Integers of 16 bits and a scale whose products are `numbers` to the bit.
fn as_integers(numbers: &[f32]) -> Option<(Vec<i32>, f32)> {
    let largest = numbers.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    if !largest.is_finite() || largest == 0.0 || numbers.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let mut sorted: Vec<f32> = numbers.iter().map(|x| x.abs()).collect();
    sorted.sort_by(f32::total_cmp);
    let least = sorted.iter().copied().find(|x| *x > 0.0)?;
    // Not what rounding leaves between two of the same number.
    let gaps = sorted.windows(2).map(|pair| pair[1] - pair[0]);
    let gap = gaps.filter(|gap| *gap > largest * 1e-5).fold(f32::INFINITY, f32::min);
    let finest = numbers.iter().filter(|x| **x != 0.0).map(|x| lowest_bit(*x)).fold(f32::INFINITY, f32::min);
    let candidates = [finest, least, least * 2.0, gap, gap / 2.0];
    candidates.into_iter().filter(|scale| scale.is_normal() && largest / scale <= 32767.5).find_map(|scale| {
        let integers: Vec<i32> = numbers.iter().map(|x| (x / scale).round_ties_even() as i32).collect();
        let is_same = |(q, x): (&i32, &f32)| (*q as f32 * scale).to_bits() == x.to_bits();
        integers.iter().zip(numbers).all(is_same).then_some((integers, scale))
    })
}

/// The power of two that the last bit of `x` stands for.
fn lowest_bit(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xFF) as i32;
    let mantissa = bits & 0x7F_FFFF | 0x80_0000;
    let place = exponent - 127 - 23 + mantissa.trailing_zeros() as i32;
    if exponent == 0 { 0.0 } else { 2f32.powi(place) }
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::DataType;

    use super::{Role, Roles, as_integers, narrow};
    use crate::testing::parse;

    /// The role of `k`, a constant of [2, 3], in a graph of x of [1, 3] and ids of [2].
    fn role(body: &str) -> Role {
        let source = format!(
            "g (float[1,3] x, int64[2] ids) => (float y) <float[2,3] k = {{1,2,3,4,5,6}}, float[3,2] w = {{1,2,3,4,5,6}},
             float[1,3] v = {{1,2,3}}, float[3] s = {{1,1,1}}> {{ {body} }}"
        );
        let graph = parse(&source).graph;
        Roles::of(&graph).role(graph.find("k").expect("it is there"))
    }

    #[test]
    fn what_reaches_an_output_by_arithmetic_and_movement_is_a_coordinate() {
        for body in [
            "y = Add (x, k)",
            "t = Sub (k, x) u = Mul (t, v) r = Transpose (u) y = Concat <axis = 0> (r, r)",
            "i = ArgMax <axis = 1> (x) t = Gather (k, i) y = Exp (t)",
            "t = Sigmoid (x) u = Mul (t, k) y = Clip (u)",
            "m = MatMul (x, w) n = MatMul (k, w) y = Add (x, k)",
        ] {
            assert_eq!(role(body), Role::Coordinate, "{body}");
        }
    }

    #[test]
    fn behind_a_layer_a_normalization_or_a_saturation_it_is_a_table() {
        for body in [
            "t = Add (x, k) y = MatMul (t, w)",
            "t = Add (x, k) y = LayerNormalization (t, s)",
            "t = Add (x, k) y = Sigmoid (t)",
            "t = Add (x, k) y = Softmax (t)",
        ] {
            assert_eq!(role(body), Role::Table, "{body}");
        }
    }

    #[test]
    fn what_a_layer_reads_computed_from_constants_alone_or_looked_up_by_ids_is_a_weight() {
        for body in [
            "t = Transpose (k) y = MatMul (x, t)",
            "n = ReduceL2 (k) d = Div (k, n) t = Transpose (d) y = MatMul (x, t)",
            "y = Gather (k, ids)",
            "c = Cast <to = 6> (ids) t = Gather (k, c) y = Mul (t, x)",
        ] {
            assert_eq!(role(body), Role::Weight, "{body}");
        }
    }

    #[test]
    fn a_vector_added_to_a_layers_output_is_its_bias_and_one_that_multiplies_it_is_not() {
        let of = |op: &str| {
            let source = format!(
                "g (float[1,3] x) => (float[1,2] y) <float[3,2] w = {{1,2,3,4,5,6}}, float[2] b = {{1,2}}> {{
                 m = MatMul (x, w)  y = {op} (m, b) }}"
            );
            let graph = parse(&source).graph;
            Roles::of(&graph).role(graph.find("b").expect("it is there"))
        };
        assert_eq!((of("Add"), of("Mul")), (Role::Weight, Role::Coordinate));
    }

    #[test]
    fn bodies_pass_on_what_they_capture_and_begin_with() {
        let of = |body: &str| {
            let source = format!(
                "g (float[2,3] x, bool c) => (float[2,3] y) <float[2,3] k = {{1,2,3,4,5,6}}, float[3,3] w =
                 {{1,2,3,4,5,6,7,8,9}}> {{ y = If (c) <
                 then_branch = a () => (float[2,3] t) {{ {body} }},
                 else_branch = b () => (float[2,3] u) {{ u = Identity (x) }} > }}"
            );
            let graph = parse(&source).graph;
            Roles::of(&graph).role(graph.find("k").expect("it is there"))
        };
        assert_eq!(of("t = Add (x, k)"), Role::Coordinate);
        assert_eq!(of("m = Add (x, k) t = MatMul (m, w)"), Role::Weight, "a body's reader is not looked into for less");
    }

    #[test]
    fn narrow_numbers_are_the_same_to_the_bit_or_none() {
        let grid: Vec<f32> = (0..80).map(|k| k as f32 + 0.5).collect();
        let of = |numbers: &[f32]| {
            narrow(&[numbers.len()], numbers, true).map(|(tensor, scale)| {
                let again = tensor.to_f64_vec().unwrap_or_default();
                let again: Vec<f32> = again.iter().map(|x| *x as f32 * scale.unwrap_or(1.0)).collect();
                assert_eq!(again, numbers);
                tensor.dtype()
            })
        };
        assert_eq!(of(&grid), Some(DataType::Uint8));
        let shares: Vec<f32> = (0..80).map(|k| k as f32 * (1.0f32 / 160.0)).collect();
        assert_eq!(of(&shares), Some(DataType::Uint8));
        let wide: Vec<f32> = (0..2000).map(|k| k as f32 * 8.0 + 4.0).collect();
        assert_eq!(of(&wide), Some(DataType::Int16), "16-bit floats have no 8195 × 4");
        let halves: Vec<f32> = (0..500).map(|k| half::f16::from_f32((k as f32).sin()).to_f32()).collect();
        assert_eq!(of(&halves), Some(DataType::Float16));
        let any: Vec<f32> = (0..50).map(|k| (k as f32).sin()).collect();
        assert_eq!(of(&any), None);
        assert!(as_integers(&[-0.0, 1.0]).is_none_or(|_| of(&[-0.0, 1.0]).is_some()));
        assert_eq!(of(&[f32::NAN, 1.0]), None);
    }
}
