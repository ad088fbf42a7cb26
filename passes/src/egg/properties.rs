//! Random graphs of all ops that islands hold, in all forms that the rules read: the values stay.
//!
//! What has to be emitted again differs from the op that it is copied from: in the number of its inputs, in axes and bounds
//! that count from the back of another shape, in attributes that no rule reads.
use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use onnx_shrink_ir::text;

use super::{language::OpKind, tests::Random};
use crate::{
    Class, Options, SimplifyIslands,
    testing::{assert_same_values, parse, run},
};

#[derive(Clone, Debug)]
struct Value {
    name: String,
    dtype: &'static str,
    dims: Vec<usize>,
}

/// A graph that is being written.
struct Writer {
    random: Random,
    opset: i64,
    values: Vec<Value>,
    constants: Vec<String>,
    body: String,
}

impl Writer {
    fn list(&mut self, base: &str, list: &[i64]) -> String {
        let name = format!("{base}{}", self.constants.len());
        let numbers: Vec<String> = list.iter().map(ToString::to_string).collect();
        self.constants.push(format!("int64[{}] {name} = {{{}}}", list.len(), numbers.join(", ")));
        name
    }

    fn number(&mut self, number: &str) -> String {
        let name = format!("c{}", self.constants.len());
        self.constants.push(format!("float {name} = {{{number}}}"));
        name
    }

    /// `axis` of `rank`, from the front or from the back.
    fn axis(&mut self, axis: usize, rank: usize) -> i64 {
        if self.random.below(2) == 0 { axis as i64 } else { axis as i64 - rank as i64 }
    }

    fn pick(&mut self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let found: Vec<&Value> = self.values.iter().filter(|value| fits(value)).collect();
        let recent = found.len().min(8);
        (recent > 0).then(|| found[found.len() - 1 - self.random.below(recent)].clone())
    }

    /// Writes one op of type `kind`, if there is something for it to read.
    fn op(&mut self, kind: OpKind) -> Option<()> {
        let float = |value: &Value| value.dtype == "float";
        let op = kind.name();
        let (text, dtype, dims) = match kind {
            OpKind::Not => {
                let x = self.pick(|value| value.dtype == "bool")?;
                (format!("Not ({})", x.name), "bool", x.dims)
            }
            OpKind::Sqrt => {
                let x = self.pick(float)?;
                let square = format!("q{}", self.values.len());
                self.body += &format!("  {square} = Abs ({})\n", x.name);
                (format!("Sqrt ({square})"), "float", x.dims)
            }
            OpKind::Exp => {
                let x = self.pick(float)?;
                let small = format!("q{}", self.values.len());
                self.body += &format!("  {small} = Tanh ({})\n", x.name);
                (format!("Exp ({small})"), "float", x.dims)
            }
            OpKind::Abs | OpKind::Erf | OpKind::Neg | OpKind::Relu | OpKind::Sigmoid | OpKind::Tanh => {
                let x = self.pick(float)?;
                (format!("{op} ({})", x.name), "float", x.dims)
            }
            OpKind::HardSigmoid | OpKind::LeakyRelu => {
                let x = self.pick(float)?;
                let alpha = ["0.5", "0.25"][self.random.below(2)];
                (format!("{op} <alpha = {alpha}> ({})", x.name), "float", x.dims)
            }
            OpKind::Softmax => {
                let x = self.pick(|value| float(value) && !value.dims.is_empty()).filter(|_| self.opset >= 13)?;
                let axis = self.random.below(x.dims.len());
                let axis = self.axis(axis, x.dims.len());
                (format!("Softmax <axis = {axis}> ({})", x.name), "float", x.dims)
            }
            OpKind::Add | OpKind::Sub | OpKind::Mul | OpKind::Div => {
                let x = self.pick(float)?;
                let place = if kind == OpKind::Div { 0 } else { self.random.below(3) };
                let b = match (self.random.below(3), kind) {
                    (0, _) => self.number(["1", "0", "0.5"][place]),
                    (_, OpKind::Div) => self.number("2"),
                    _ => self.pick(|value| float(value) && value.dims == x.dims)?.name,
                };
                (format!("{op} ({}, {b})", x.name), "float", x.dims)
            }
            OpKind::Cast => {
                let x = self.pick(|value| value.dtype != "uint8")?;
                let (to, number) = [("float", 1), ("double", 11), ("bool", 9), ("float", 1)][self.random.below(4)];
                (format!("Cast <to = {number}> ({})", x.name), to, x.dims)
            }
            OpKind::Clip => {
                let x = self.pick(float)?;
                let (lo, hi) = [("0", "1"), ("-1", "1"), ("0.5", "2")][self.random.below(3)];
                let form = self.random.below(3);
                let text = if self.opset < 11 {
                    let lo = if lo.contains('.') { lo.to_owned() } else { format!("{lo}.0") };
                    let attributes =
                        [format!("min = {lo}, max = {hi}.0"), format!("min = {lo}"), format!("max = {hi}.0")];
                    format!("Clip <{}> ({})", attributes[form], x.name)
                } else {
                    let (lo, hi) = (self.number(lo), self.number(hi));
                    let inputs = [format!("{lo}, {hi}"), lo.clone(), format!(", {hi}")];
                    format!("Clip ({}, {})", x.name, inputs[form])
                };
                (text, "float", x.dims)
            }
            OpKind::Concat => {
                let first = self.pick(|value| !value.dims.is_empty())?;
                let axis = self.random.below(first.dims.len());
                let mut dims = first.dims.clone();
                let mut names = vec![first.name.clone()];
                for _ in 0..self.random.below(5) {
                    let fits = |value: &Value| {
                        let others = |dims: &[usize]| [&dims[..axis], &dims[axis + 1..]].concat();
                        value.dtype == first.dtype
                            && value.dims.len() == first.dims.len()
                            && others(&value.dims) == others(&first.dims)
                    };
                    let next = self.pick(fits)?;
                    dims[axis] += next.dims[axis];
                    names.push(next.name);
                }
                let axis = self.axis(axis, dims.len());
                (dims.iter().product::<usize>() < 300).then_some(())?;
                (format!("Concat <axis = {axis}> ({})", names.join(", ")), first.dtype, dims)
            }
            OpKind::QuantizeLinear => {
                let x = self.pick(float).filter(|_| self.opset >= 10)?;
                (format!("QuantizeLinear ({}, scale, zero)", x.name), "uint8", x.dims)
            }
            OpKind::DequantizeLinear => {
                let x = self.pick(|value| value.dtype == "uint8")?;
                (format!("DequantizeLinear ({}, scale, zero)", x.name), "float", x.dims)
            }
            OpKind::Flatten => {
                let x = self.pick(|value| !value.dims.is_empty())?;
                let axis = self.random.below(x.dims.len());
                let dims = vec![x.dims[..axis].iter().product(), x.dims[axis..].iter().product()];
                let axis = if self.opset < 11 { axis as i64 } else { self.axis(axis, x.dims.len()) };
                (format!("Flatten <axis = {axis}> ({})", x.name), x.dtype, dims)
            }
            OpKind::Reshape => {
                let x = self.pick(|value| !value.dims.is_empty())?;
                let count: usize = x.dims.iter().product();
                let (dims, list) = match self.random.below(4) {
                    0 => (vec![count], vec![-1]),
                    1 => (x.dims.clone(), vec![0; x.dims.len()]),
                    2 if count.is_multiple_of(2) => (vec![2, count / 2], vec![2, -1]),
                    _ => (x.dims.clone(), x.dims.iter().map(|&dim| dim as i64).collect()),
                };
                let zero = self.opset >= 14 && !list.contains(&0) && self.random.below(2) == 0;
                let list = self.list("s", &list);
                let attributes = if zero { "<allowzero = 1> " } else { "" };
                (format!("Reshape {attributes}({}, {list})", x.name), x.dtype, dims)
            }
            OpKind::Slice => {
                let x = self.pick(|value| !value.dims.is_empty())?;
                let (mut dims, mut axes, mut starts, mut ends) = (x.dims.clone(), Vec::new(), Vec::new(), Vec::new());
                let mut steps = Vec::new();
                for (axis, dim) in dims.iter_mut().enumerate() {
                    let length = *dim;
                    if length < 2 || self.random.below(2) == 0 {
                        continue;
                    }
                    let start = self.random.below(length - 1);
                    let end = start + 1 + self.random.below(length - start);
                    let step = if self.opset < 10 { 1 } else { 1 + self.random.below(2) };
                    *dim = (end - start).div_ceil(step);
                    axes.push(self.axis(axis, x.dims.len()));
                    starts.push(self.axis(start, length));
                    ends.push(if end == length {
                        [i64::MAX, end as i64][self.random.below(2)]
                    } else {
                        self.axis(end, length)
                    });
                    steps.push(step as i64);
                }
                if axes.is_empty() {
                    return None;
                }
                if self.opset < 10 {
                    (
                        format!("Slice <axes = {axes:?}, starts = {starts:?}, ends = {ends:?}> ({})", x.name),
                        x.dtype,
                        dims,
                    )
                } else {
                    let lists = [("b", &starts), ("e", &ends), ("a", &axes), ("p", &steps)]
                        .map(|(base, list)| self.list(base, list));
                    (format!("Slice ({}, {})", x.name, lists.join(", ")), x.dtype, dims)
                }
            }
            OpKind::Squeeze | OpKind::Unsqueeze => {
                let squeezes = kind == OpKind::Squeeze;
                let x = self.pick(|value| if squeezes { value.dims.contains(&1) } else { value.dims.len() < 4 })?;
                let rank = x.dims.len();
                let (axis, out) = if squeezes {
                    let axis = x.dims.iter().position(|&dim| dim == 1)?;
                    let mut dims = x.dims.clone();
                    dims.remove(axis);
                    (self.axis(axis, rank), dims)
                } else {
                    let axis = self.random.below(rank + 1);
                    let mut dims = x.dims.clone();
                    dims.insert(axis, 1);
                    (self.axis(axis, rank + 1), dims)
                };
                let text = if self.opset < 13 {
                    let axis =
                        if self.opset < 11 && axis < 0 { axis + x.dims.len().max(out.len()) as i64 } else { axis };
                    format!("{op} <axes = [{axis}]> ({})", x.name)
                } else {
                    format!("{op} ({}, {})", x.name, self.list("a", &[axis]))
                };
                (text, x.dtype, out)
            }
            OpKind::Transpose => {
                let x = self.pick(|value| !value.dims.is_empty())?;
                let rank = x.dims.len();
                let turn = self.random.below(rank);
                let reverse = self.random.below(2) == 0;
                let perm: Vec<usize> =
                    if reverse { (0..rank).rev().collect() } else { (0..rank).map(|k| (k + turn) % rank).collect() };
                let dims = perm.iter().map(|&axis| x.dims[axis]).collect();
                let attributes = if reverse { String::new() } else { format!("<perm = {perm:?}> ") };
                (format!("Transpose {attributes}({})", x.name), x.dtype, dims)
            }
        };
        let name = format!("v{}", self.values.len());
        self.body += &format!("  {name} = {text}\n");
        self.values.push(Value { name, dtype, dims });
        Some(())
    }
}

/// A random graph of about `count` ops, nothing in it dead but what no output needs.
fn random_model(seed: u64, count: usize) -> String {
    let opset = [9, 11, 12, 13, 17, 21][seed as usize % 6];
    let value = |name: &str, dims: &[usize]| Value { name: name.to_owned(), dtype: "float", dims: dims.to_vec() };
    let inputs = [value("x", &[2, 3]), value("z", &[3, 1, 2]), value("w", &[4]), value("u", &[1, 2, 3])];
    let mut writer = Writer {
        random: Random(seed),
        opset,
        values: inputs.to_vec(),
        constants: vec!["float scale = {0.1}".to_owned(), "uint8 zero = {3}".to_owned()],
        body: String::new(),
    };
    while writer.values.len() < count + inputs.len() {
        let kind = OpKind::ALL[writer.random.below(OpKind::ALL.len())];
        // What moves and what cancels itself is what the rules are about.
        let kind = if writer.random.below(3) == 0 {
            [OpKind::Relu, OpKind::Neg, OpKind::Reshape, OpKind::Concat, OpKind::Slice, OpKind::Transpose]
                [writer.random.below(6)]
        } else {
            kind
        };
        writer.op(kind);
    }
    let declared = |value: &Value| {
        let dims: Vec<String> = value.dims.iter().map(ToString::to_string).collect();
        format!("{}[{}] {}", value.dtype, dims.join(","), value.name)
    };
    let outputs = &writer.values[writer.values.len() - 5..];
    format!(
        "<ir_version: 10, opset_import: [\"\" : {opset}]>\ng ({}) => ({}) <{}> {{\n{}}}",
        inputs.iter().map(declared).collect::<Vec<_>>().join(", "),
        outputs.iter().map(declared).collect::<Vec<_>>().join(", "),
        writer.constants.join(", "),
        writer.body
    )
}

#[test]
fn what_is_emitted_computes_the_same() {
    let (mut rewritten, mut kinds) = (0, BTreeSet::new());
    for seed in 0..600 {
        let source = random_model(seed, 10 + (seed as usize % 30));
        let mut original = parse(&source).graph;
        original.sweep();
        let mut typed = original.detached();
        onnx_shrink_ir::infer::infer(&mut typed);
        let class = if seed % 2 == 0 { Class::Exact } else { Class::Rounding };
        let pass = if seed % 2 == 0 { SimplifyIslands::exact() } else { SimplifyIslands::rounding() };
        // Half of them with the types of all values, as in the pipeline; half with those of inputs and outputs alone.
        let mut graph = if seed % 3 == 0 { original.detached() } else { typed.detached() };
        let misses = run(&pass, &mut graph, Options::default());
        assert!(!misses.iter().any(|miss| miss.contains("bug")), "seed {seed}: {misses:?}\n{source}");
        let (before, after) = (text::print_graph(&original), text::print_graph(&graph));
        let same = catch_unwind(AssertUnwindSafe(|| assert_same_values(&original, &graph, class)));
        assert!(same.is_ok(), "seed {seed}\n{before}\nbecame\n{after}");
        if before != after {
            rewritten += 1;
            kinds.extend(graph.ops().into_iter().filter_map(|op| OpKind::of(graph.op(op).op_type())));
        }
    }
    assert!(rewritten > 400, "only {rewritten} of 600 were rewritten");
    let missing: Vec<_> = OpKind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "no rewritten graph has {missing:?}");
}
