//! Runs Gemm and MatMul with constant weights in integers, with ranges that each run finds for itself: no samples needed.
//!
//! ```onnx before
//! # x: float[16,256]; w: float[256,256]; b: float[256]
//! m = MatMul (x, w)
//! y = Add (m, b)
//! ```
//! ```onnx after
//! q, q_s, q_z = DynamicQuantizeLinear (x)
//! a = MatMulInteger (q, w_q, q_z)
//! f = Cast <to = 1> (a)
//! s_1 = Mul (q_s, w_s)
//! m = Mul (f, s_1)
//! y = Add (m, b)
//! ```
//! ONNX Runtime fuses all of it into one DynamicQuantizeMatMul (`docs/engines.md` §4.1). A value that several layers read is quantized
//! once, and they become one MatMulIntegerToFloat each. With samples, and where asked, x is divided by factors that take its outliers
//! into the weights (`numerics::smooth`): one Mul in front of DynamicQuantizeLinear. Weights are s8 a column, such that no pair of them saturates anywhere
//! ([`crate::numerics::weight_scales`]). With samples, the bias takes up what rounding the weights takes from the mean.
//!
//! **Class:** approximate. **Legal when** the weight is a float matrix, the other operand is a float value of two axes or more, Gemm has alpha = beta = 1
//! and no transA, and the sums provably fit 32 bits. Where **it pays**: `ratio`; [`DynamicInt8::always`] does without.
//! **Does not** touch what is quantized already.
use std::collections::BTreeMap;

use ndarray::{Array1, Array2};
use onnx_shrink_ir::{
    DataType, Dim, Graph, NewOp, OpId, Tensor, TensorType, ValueId, ValueRef,
    ops::{RowOrder, WeightedLayer},
};

use crate::{
    Class, Context, Description, Miss, Pass, Result, When,
    calibration::collect::Calibration,
    numerics::{
        accumulator::Bound,
        rounding::Inputs,
        smooth::factors,
        weight_scales::{output_shift, quantize_rows},
    },
    quantize::{
        draft::{Constants, Draft},
        requantize::cast,
    },
    target::Target,
};

/// See the [module](self).
#[derive(Default)]
pub struct DynamicInt8<'a> {
    /// What samples showed of the main graph's values, if there were any
    pub calibration: Option<&'a Calibration>,
    /// Also where it does not pay
    pub always: bool,
    /// Whether outliers of what samples showed go into the weights (`numerics::smooth`)
    pub smooths: bool,
    /// Ops of the main graph to leave float
    pub kept: &'a [OpId],
    /// The engine that runs the result
    pub target: &'a Target,
}

/// What the command line and docs/PASSES.md say of it.
pub const PASS: Description = Description {
    name: "dynamic-int8",
    class: Class::Approximate,
    about: "quantizes layers with a constant weight matrix dynamically",
    when: When::Requested("--int8"),
};

impl Pass for DynamicInt8<'_> {
    fn description(&self) -> &'static Description {
        &PASS
    }

    fn run(&self, graph: &mut Graph, cx: &mut Context<'_>) -> Result<()> {
        if graph.opset() < 11 {
            return Ok(()); // DynamicQuantizeLinear
        }
        let mut constants = Constants::of(graph);
        let mut quantized: BTreeMap<ValueId, [ValueId; 3]> = BTreeMap::new();
        let seen = self.calibration.filter(|_| !cx.is_in_body());
        let smooth = seen.filter(|_| self.smooths).map_or_else(Smoothed::new, |seen| self.smoothed(graph, seen));
        for op in graph.ops() {
            if !cx.is_in_body() && self.kept.contains(&op) {
                continue;
            }
            match self.rewrite(graph, op, seen, &smooth, &quantized, &mut constants) {
                Ok((draft, x, made)) => {
                    let Some(values) = draft.apply(graph, cx)? else { continue };
                    let id = |value: ValueRef| match value {
                        ValueRef::Existing(value) => value,
                        ValueRef::New(index) => values[index],
                    };
                    quantized.insert(x, made.map(id));
                }
                Err(miss) => cx.missed(graph, op, &miss),
            }
        }
        Ok(())
    }
}

/// The op as a Gemm or MatMul of floats with a constant weight, or why it stays.
fn linear_of(graph: &Graph, op: OpId) -> Result<WeightedLayer, Miss> {
    let layer = WeightedLayer::of_floats(graph, op).filter(|layer| !layer.is_conv()).ok_or(Miss::NotThisPattern)?;
    let tensor = layer.constant(graph).ok_or(Miss::NotThisPattern)?;
    if tensor.dtype() != DataType::Float || tensor.dims().len() != 2 || tensor.is_empty() {
        return Err(Miss::NotThisPattern);
    }
    let quantized = graph.producer(layer.x).is_some_and(|from| graph.op(from).is("DequantizeLinear"));
    if quantized || graph.constant(layer.x).is_some() {
        return Err(Miss::NotThisPattern);
    }
    let rank = graph.ty(layer.x).and_then(TensorType::rank).ok_or(Miss::UnknownType(layer.x))?;
    if rank < 2 {
        return Err(Miss::Form("a vector times a matrix"));
    }
    if !layer.is_plain() {
        return Err(Miss::Form("alpha, beta or transA"));
    }
    Ok(layer)
}

/// Whether the layer `op` of the main graph has a form for which it pays on `target`.
pub fn pays(graph: &Graph, op: OpId, calibration: Option<&Calibration>, target: &Target) -> bool {
    let Ok(linear) = linear_of(graph, op) else { return false };
    let Some(shape) = linear.shape(graph) else { return false };
    does_not_pay(target, rows_of(graph, linear.x, calibration), shape.inputs, shape.outputs).is_none()
}

/// Why `rows` × k times k × n does not pay on `target`, if it does not.
fn does_not_pay(target: &Target, rows: Option<usize>, k: usize, n: usize) -> Option<Miss> {
    let ratios = target.dynamic_ratios(rows.unwrap_or(1), k, n);
    let mean = ratios.iter().map(|(_, ratio)| ratio).sum::<f64>() / ratios.len() as f64;
    if mean <= target.margins.dynamic && ratios.iter().all(|(_, ratio)| *ratio <= 1.0) {
        return None;
    }
    let rows = rows.map_or("unknown rows".to_owned(), |rows| format!("rows {rows}"));
    let times: Vec<String> = ratios.iter().map(|(processor, ratio)| format!("{ratio:.2} {processor}")).collect();
    let times = times.join(", ");
    let name = target.name;
    Some(Miss::DoesNotPay(format!("a {k}×{n} weight, {rows}: time over float {times}, by the cost model of {name}")))
}

/// Rows of `x`: the product of all dimensions but the last.
fn rows_of(graph: &Graph, x: ValueId, seen: Option<&Calibration>) -> Option<usize> {
    if let Some(seen) = seen.and_then(|seen| seen.values.get(&x)) {
        return Some(seen.dims.iter().rev().skip(1).product());
    }
    let dims = graph.ty(x)?.shape.as_ref()?;
    dims.iter().rev().skip(1).map(Dim::known).product()
}

/// By value: what it is divided by before it is quantized ([`crate::numerics::smooth`]).
type Smoothed = BTreeMap<ValueId, Vec<f64>>;

impl DynamicInt8<'_> {
    /// The values that are worth it, with the factors of each.
    fn smoothed(&self, graph: &Graph, seen: &Calibration) -> Smoothed {
        let rows = |op: OpId| -> Option<Array2<f64>> { linear_of(graph, op).ok()?.rows(graph, RowOrder::ChannelsLast) };
        let mut readers: BTreeMap<ValueId, Vec<OpId>> = BTreeMap::new();
        for op in graph.ops().into_iter().filter(|op| !self.kept.contains(op)) {
            if let Ok(linear) = linear_of(graph, op)
                && (self.always || pays(graph, op, Some(seen), self.target))
            {
                readers.entry(linear.x).or_default().push(op);
            }
        }
        let factors = |(x, readers): (ValueId, Vec<OpId>)| {
            let weights: Vec<Array2<f64>> = readers.into_iter().filter_map(rows).collect();
            Some((x, factors(seen.values.get(&x)?.largest.magnitudes(), &weights)?))
        };
        readers.into_iter().filter_map(factors).collect()
    }

    /// The patch, with what it reads and that in 8 bits: numbers, scale, zero point.
    fn rewrite<'c>(
        &self,
        graph: &Graph,
        op: OpId,
        seen: Option<&Calibration>,
        smooth: &Smoothed,
        quantized: &BTreeMap<ValueId, [ValueId; 3]>,
        constants: &'c mut Constants,
    ) -> Result<(Draft<'c>, ValueId, [ValueRef; 3]), Miss> {
        let linear = linear_of(graph, op)?;
        let mut rows = linear.rows(graph, RowOrder::ChannelsLast).ok_or(Miss::NotThisPattern)?;
        if rows.iter().any(|w| !w.is_finite()) {
            return Err(Miss::NotFinite(linear.weight));
        }
        let shape = linear.shape(graph).ok_or(Miss::UnknownType(linear.weight))?;
        let (n, k) = rows.dim();
        let factors = smooth.get(&linear.x).map(|factors| Array1::from(factors.clone()));
        if let Some(factors) = &factors {
            rows *= factors;
        }
        if let Some(miss) = does_not_pay(self.target, rows_of(graph, linear.x, seen), k, n).filter(|_| !self.always) {
            return Err(miss);
        }
        let rounded = quantize_rows(&rows, &Inputs::centred(&[]), self.target.pairing, &[]);
        let bound = rounded.integers.outer_iter().map(|row| Bound::of(row.iter().copied(), None)).reduce(Bound::or);
        if bound.is_some_and(|bound| bound.bits() > 32) {
            return Err(Miss::Form("its sums could leave 32 bits"));
        }
        let mean = seen.and_then(|seen| seen.values.get(&linear.x)).map(|seen| seen.last_axis_mean());
        let mean = mean.map(|mean| match &factors {
            Some(factors) => mean.iter().zip(factors).map(|(mean, factor)| mean / factor).collect(),
            None => mean,
        });
        let shift = mean.and_then(|mean| output_shift(&(&rows - &rounded.dequantized()), &mean, &shape));

        let mut draft = Draft::new(op, constants);
        let x_ty = |dtype| graph.ty(linear.x).map(|ty| TensorType { dtype, ..ty.clone() });
        let y_ty = |dtype| graph.ty(linear.y).map(|ty| TensorType { dtype, ..ty.clone() });
        let x: [ValueRef; 3] = match quantized.get(&linear.x) {
            Some(known) => known.map(Into::into),
            None => {
                let outputs = [
                    Some(("q", x_ty(DataType::Uint8))),
                    Some(("q_s", Some(TensorType::fixed(DataType::Float, &[])))),
                    Some(("q_z", Some(TensorType::fixed(DataType::Uint8, &[])))),
                ];
                let quantize = NewOp::new("DynamicQuantizeLinear");
                let x = match &factors {
                    Some(factors) => {
                        let parts: Vec<f32> = factors.iter().map(|factor| (1.0 / factor) as f32).collect();
                        let parts = draft.constant(graph, "f", Tensor::from_vec(&[k], parts));
                        draft.op(NewOp::new("Mul"), &[linear.x.into(), parts], "x", x_ty(DataType::Float))
                    }
                    None => linear.x.into(),
                };
                let made = draft.patch.op_with_outputs(quantize, &[Some(x)], &outputs);
                [made[0], made[1], made[2]]
            }
        };
        let integers: Vec<i8> = rounded.integers.t().iter().copied().collect();
        let integers = draft.constant(graph, "w", Tensor::from_vec(&[k, n], integers));
        let scales = draft.constant(graph, "s", Tensor::from_vec(&[n], rounded.scales.clone()));
        let product = NewOp::new("MatMulInteger").named(graph.label_of(op));
        let sums = draft.op(product, &[x[0], integers, x[2]], "a", y_ty(DataType::Int32));
        let sums = draft.op(cast(DataType::Float), &[sums], "f", y_ty(DataType::Float));
        let scale = draft.op(NewOp::new("Mul"), &[x[1], scales], "s", Some(TensorType::fixed(DataType::Float, &[n])));
        let mut y = draft.op(NewOp::new("Mul"), &[sums, scale], "m", y_ty(DataType::Float));
        if let Some(bias) = linear.bias {
            let bias = match shift.and_then(|shift| shifted(graph, bias, &shift)) {
                Some(bias) => draft.constant(graph, "b", bias),
                None => bias.into(),
            };
            y = draft.op(NewOp::new("Add"), &[y, bias], "y", y_ty(DataType::Float));
        } else if let Some(shift) = shift
            && let Some(added) = linear.added_bias(graph)
            && let Some(bias) = shifted(graph, added.bias, &shift)
        {
            let bias = draft.constant(graph, "b", bias);
            draft.patch.set_input(added.add, added.input, Some(bias));
        }
        draft.patch.replace(linear.y, y);
        Ok((draft, linear.x, x))
    }
}

/// The constant vector `bias` plus `shift`.
fn shifted(graph: &Graph, bias: ValueId, shift: &Array1<f64>) -> Option<Tensor> {
    let bias = graph.constant(bias)?;
    if bias.dtype() != DataType::Float || bias.dims() != [shift.len()] {
        return None;
    }
    let sum = Array1::from(bias.to_f64_vec()?) + shift;
    Some(Tensor::from_vec(&[sum.len()], sum.iter().map(|b| *b as f32).collect()))
}

/// Whether `graph` has attention: a Softmax whose result is multiplied by another value.
pub fn has_attention(graph: &Graph) -> bool {
    graph.ops_in_id_order().into_iter().any(|op| {
        let multiplies = |op: OpId| {
            let node = graph.op(op);
            node.is("MatMul") && node.inputs().iter().flatten().all(|input| graph.constant(*input).is_none())
        };
        let readers = graph.op(op).output(0).filter(|_| graph.op(op).is("Softmax")).map(|y| graph.uses(y));
        readers.into_iter().flatten().any(|place| matches!(place, onnx_shrink_ir::Use::Input(op, _) if multiplies(op)))
    })
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::DataType;

    use super::*;
    use crate::{
        calibration::collect::calibrate,
        target::ORT_CPU,
        testing::{Reference, Samples, parse, run, seeded},
    };

    fn model(rows: &str, k: usize, n: usize, tail: &str) -> Graph {
        let numbers = |name: &str, dims: &[usize]| {
            let all = seeded(DataType::Float, dims, name, 3).and_then(|tensor| tensor.to_f64_vec()).expect("numbers");
            all.iter().map(f64::to_string).collect::<Vec<_>>().join(",")
        };
        let text = format!(
            "g (float[{rows},{k}] x) => (float[{rows},{n}] y) <float[{k},{n}] w = {{{}}}, float[{n}] b = {{{}}}> {{ {tail} }}",
            numbers("w", &[k, n]),
            numbers("b", &[n])
        );
        parse(&text).graph
    }

    fn ops(graph: &Graph) -> Vec<String> {
        graph.ops().into_iter().map(|op| graph.op(op).op_type().to_owned()).collect()
    }

    #[test]
    fn the_form_that_the_engine_fuses() {
        let mut graph = model("4", 8, 6, "m = MatMul (x, w)  y = Add (m, b)");
        run(&DynamicInt8 { always: true, ..DynamicInt8::default() }, &mut graph, crate::Options::default());
        let wanted = ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul", "Add"];
        let mut found = ops(&graph);
        found.sort();
        let mut sorted = wanted.map(str::to_owned).to_vec();
        sorted.sort();
        assert_eq!(found, sorted);
        let integer = graph.ops_of("MatMulInteger")[0];
        assert_eq!(graph.op(integer).inputs().len(), 3, "no zero point of the weight");
        // The scales are multiplied apart from the sums, and a Gemm's bias is added behind them.
        let mut gemm = model("4", 6, 6, "y = Gemm <transB = 1> (x, w, b)");
        run(&DynamicInt8 { always: true, ..DynamicInt8::default() }, &mut gemm, crate::Options::default());
        assert_eq!(ops(&gemm).last().map(String::as_str), Some("Add"));
        let weight = |graph: &Graph| {
            let op = graph.ops_of("MatMulInteger")[0];
            graph.op(op).input(1).and_then(|w| graph.constant(w)).and_then(Tensor::to_i64_vec).expect("integers")
        };
        let mut plain = model("4", 6, 6, "m = MatMul (x, w)  y = Add (m, b)");
        run(&DynamicInt8 { always: true, ..DynamicInt8::default() }, &mut plain, crate::Options::default());
        let (turned, straight) = (weight(&gemm), weight(&plain));
        let differ = turned.iter().zip(&straight).any(|(a, b)| a != b);
        assert!(differ, "transB turns the weight");
    }

    #[test]
    fn one_quantization_for_all_that_read_a_value() {
        let mut graph = model("4", 6, 6, "a1 = MatMul (x, w)  b1 = Gemm (x, w, b)  y = Add (a1, b1)");
        run(&DynamicInt8 { always: true, ..DynamicInt8::default() }, &mut graph, crate::Options::default());
        assert_eq!(graph.ops_of("DynamicQuantizeLinear").len(), 1);
        assert_eq!(graph.ops_of("MatMulInteger").len(), 2);
    }

    #[test]
    fn outliers_go_into_the_weights_of_all_that_read_the_value() {
        let (k, n) = (8, 300);
        let mut x: Vec<f32> = (0..4 * k).map(|i| (i as f32 * 0.9).sin()).collect();
        x.iter_mut().skip(3).step_by(k).for_each(|x| *x *= 60.0);
        let x = Tensor::from_vec(&[4, k], x);
        let before = model("4", k, n, "a1 = MatMul (x, w)  b1 = Gemm (x, w, b)  y = Add (a1, b1)");
        let seen = calibrate(&before, &Reference, &Samples(vec![vec![Some(x)]]), &[], &|_| {}).expect("the model runs");
        let mut graph = before.detached();
        let pass = DynamicInt8 { calibration: Some(&seen), always: true, smooths: true, kept: &[], target: &ORT_CPU };
        run(&pass, &mut graph, crate::Options::default());
        let &[quantize] = graph.ops_of("DynamicQuantizeLinear").as_slice() else { panic!("one for both layers") };
        let smooth = graph.op(quantize).input(0).and_then(|x| graph.producer(x)).expect("a Mul");
        assert_eq!(graph.op(smooth).input(0), Some(graph.inputs()[0]));
        let parts = graph.op(smooth).input(1).and_then(|parts| graph.constant(parts)).expect("a constant");
        let parts = parts.to_f64_vec().expect("numbers");
        assert!((0..k).filter(|j| *j != 3).all(|j| parts[3] < 0.3 * parts[j]), "{parts:?}");
        // What the weights stand for, times the parts, is what they were.
        let layer = graph.op(graph.ops_of("MatMulInteger")[0]);
        let weights = layer.input(1).and_then(|w| graph.constant(w)).and_then(Tensor::to_f64_vec).expect("integers");
        let wanted = before.find("w").and_then(|w| before.constant(w)).and_then(Tensor::to_f64_vec).expect("numbers");
        for column in 0..n {
            let of = |numbers: &[f64], j: usize| numbers[j * n + column];
            let (top, row) =
                (0..k).map(|j| (of(&weights, j).abs(), j)).fold((0.0, 0), |a, b| if b.0 > a.0 { b } else { a });
            let scale = of(&wanted, row) / parts[row] / of(&weights, row);
            let near =
                |j: usize| (of(&weights, j) * scale * parts[j] - of(&wanted, j)).abs() <= 1.1 * scale.abs() * parts[j];
            assert!(top >= 63.0 && (0..k).all(near), "column {column}");
        }
    }

    #[test]
    fn small_layers_stay_float_and_say_why() {
        let mut graph = model("1", 64, 64, "y = MatMul (x, w)");
        let misses = run(&DynamicInt8::default(), &mut graph, crate::Options::default());
        assert_eq!(ops(&graph), ["MatMul"]);
        assert!(misses[0].starts_with("does not pay: a 64×64 weight, rows 1"), "{misses:?}");
        assert!(
            does_not_pay(&ORT_CPU, None, 784, 300).is_none() && does_not_pay(&ORT_CPU, Some(64), 64, 172).is_none()
        );
        assert!(
            does_not_pay(&ORT_CPU, Some(1), 128, 128).is_some() && does_not_pay(&ORT_CPU, Some(16), 64, 64).is_some()
        );
    }

    #[test]
    fn the_target_is_asked_what_pays() {
        let pays = |target: &str| does_not_pay(Target::named(target).expect("a target"), Some(1), 210, 210).is_none();
        assert!(pays("ort-x86-avx2") && !pays("ort-x86-vnni") && !pays("ort-cpu"));
        let miss = does_not_pay(Target::named("ort-x86-vnni").expect("a target"), Some(1), 210, 210).expect("a miss");
        let sentence = "a 210×210 weight, rows 1: time over float 0.94 with VNNI, by the cost model of ort-x86-vnni";
        assert_eq!(miss, Miss::DoesNotPay(sentence.to_owned()));
    }

    #[test]
    fn attention_is_a_softmax_that_multiplies() {
        let attention = "g (float[2,4] x, float[4,3] v) => (float[2,3] y) { s = Softmax (x)  y = MatMul (s, v) }";
        assert!(has_attention(&parse(attention).graph));
        assert!(!has_attention(&model("2", 4, 3, "s = Softmax (x)  y = MatMul (s, w)")));
    }
}
