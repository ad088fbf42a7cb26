//! Whether a written file holds the row of its target: read from the file alone, by other code than wrote it. The row is data:
//! one checker judges every file.
use std::collections::BTreeSet;

use onnx_shrink_ir::{DataType, Graph, Model, Op, OpId, Tensor, Use, ValueId, infer};
use onnx_shrink_passes::{
    target::Pairing,
    target::{Bias, Ends, Places, Target},
};

use crate::int8_graph::{dequantize, graphs_with_bodies, numbers, reduction_rows};

/// What a file breaks: the rule, and where.
pub type Violation = (&'static str, String);

/// What was found.
#[derive(Default)]
pub struct Verdict {
    /// Empty when the row holds
    pub violations: Vec<Violation>,
    /// Layers with weights in 8 bits that compute in integers
    pub layers: usize,
}

/// Ops that move numbers: the same integers before and after.
const MOVES: [&str; 9] =
    ["MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "DepthToSpace"];

/// Layers that compute in float everywhere; so do those in bodies.
const RECURRENT: [&str; 3] = ["GRU", "LSTM", "RNN"];

/// Judges `output`, which `target`'s run made of `input`; `whole`: all that can be has calibrated ranges.
pub fn judge(target: &Target, input: &Model, output: &Model, whole: bool) -> Verdict {
    let mut verdict = Verdict::default();
    whole_file(target, input, output, &mut verdict);
    let mut output = output.detached();
    infer::infer(&mut output.graph); // what is float is not written for every value
    for graph in graphs_with_bodies(&output.graph) {
        let mut check = Check { target, graph, verdict: &mut verdict };
        for op in graph.ops() {
            check.op(op);
        }
        if whole && target.places == Places::EveryTensor && std::ptr::eq(graph, &raw const output.graph) {
            check.every_tensor();
        }
    }
    verdict
}

fn is_4_bit(tensor: &Tensor) -> bool {
    [DataType::Int4, DataType::Uint4].contains(&tensor.dtype())
}

/// Domains, opset and version of the file.
fn whole_file(target: &Target, input: &Model, output: &Model, verdict: &mut Verdict) {
    let domains = |model: &Model| -> BTreeSet<String> {
        let own = |domain: &str| if domain == "ai.onnx" { String::new() } else { domain.to_owned() };
        model.proto().opset_import.iter().map(|entry| own(entry.domain())).collect()
    };
    for domain in domains(output).difference(&domains(input)) {
        verdict.violations.push(("domain", format!("`{domain}` is imported")));
    }
    let mut ops = [input, output].map(|model| {
        let graphs = graphs_with_bodies(&model.graph);
        let of = |graph: &&Graph| -> Vec<(String, String)> {
            let name = |op: OpId| (graph.op(op).domain().to_owned(), graph.op(op).op_type().to_owned());
            graph.ops().into_iter().map(name).collect()
        };
        graphs.iter().flat_map(of).filter(|(domain, _)| !domain.is_empty()).collect::<BTreeSet<_>>()
    });
    let before = std::mem::take(&mut ops[0]);
    for (domain, op) in ops[1].difference(&before) {
        verdict.violations.push(("domain", format!("{domain}.{op}")));
    }
    let has_4_bits = graphs_with_bodies(&output.graph)
        .iter()
        .any(|graph| graph.values().into_iter().any(|value| graph.constant(value).is_some_and(is_4_bit)));
    let (needed, version) = if has_4_bits { (21, 10) } else { (13, 7) };
    let most = input.opset().max(target.opset.min(needed));
    if output.opset() > most {
        verdict.violations.push(("opset", format!("{} where {most} does", output.opset())));
    }
    let most = input.ir_version().max(version);
    if output.ir_version() > most {
        verdict.violations.push(("opset", format!("version {} of the format where {most} does", output.ir_version())));
    }
}

struct Check<'a> {
    target: &'a Target,
    graph: &'a Graph,
    verdict: &'a mut Verdict,
}

impl Check<'_> {
    fn wrong(&mut self, rule: &'static str, op: &Op, what: &str) {
        let name = if op.name().is_empty() { "without a name" } else { op.name() };
        let at = format!("{} {} {name}: {what}", self.target.name, op.op_type());
        self.verdict.violations.push((rule, at));
    }

    fn holds(&mut self, holds: bool, rule: &'static str, op: &Op, what: &str) {
        if !holds {
            self.wrong(rule, op, what);
        }
    }

    fn constant(&self, value: Option<ValueId>) -> Option<&Tensor> {
        self.graph.constant(value?)
    }

    fn floats(&self, value: Option<ValueId>) -> Option<Vec<f64>> {
        self.constant(value)?.to_f64_vec()
    }

    fn op(&mut self, id: OpId) {
        let graph = self.graph;
        let op = graph.op(id);
        match op.op_type() {
            "QuantizeLinear" => self.quantize(op),
            "DequantizeLinear" => self.dequantize(op),
            "QLinearConv" | "QLinearMatMul" => self.qlinear(op),
            "ConvInteger" | "MatMulInteger" => self.integer(op),
            "DynamicQuantizeLinear" => self.holds(self.target.dynamic, "form", op, "ranges of each run"),
            "Cast" => self.stored(op),
            "Conv" | "Gemm" | "MatMul" => self.layer(op),
            _ => {}
        }
        self.one_scale(op);
    }

    /// Inputs `scale` and `zero` of `op` as parameters of activations.
    fn activation(&mut self, op: &Op, scale: usize, zero: usize) {
        let target = self.target;
        let Some(scales) = self.constant(op.input(scale)).and_then(Tensor::to_f64) else {
            // The form whose ranges each run finds computes them.
            return self.holds(target.formats.contains(&"integer"), "form", op, "a scale that is computed");
        };
        let valid = scales.iter().all(|scale| (*scale as f32).is_normal() && *scale > 0.0);
        self.holds(valid, "scale", op, &format!("{scales}"));
        let one = scales.iter().any(|scale| *scale == 1.0);
        self.holds(target.scale_of_one || !one, "scale of one", op, &format!("{scales}"));
        let power = scales.iter().all(|scale| scale.log2().fract() == 0.0);
        self.holds(!target.power_of_two || power, "power of two", op, &format!("{scales}"));
        let equal = scales.iter().all(|scale| Some(scale) == scales.first());
        // Pairs per axis keep ONNX Runtime from making integer kernels of its own; the scales are one all the same.
        let per_axis = matches!(target.places, Places::Cheapest(_)) && op.is("DequantizeLinear");
        self.holds(equal && (scales.ndim() == 0 || per_axis), "one scale", op, &format!("{scales}"));
        let Some(zeros) = self.constant(op.input(zero)) else {
            return self.wrong("activation type", op, "no zero point: u8");
        };
        let (dtype, zeros) = (zeros.dtype(), zeros.to_f64_vec().unwrap_or_default());
        self.holds(dtype == target.activations, "activation type", op, &format!("{dtype:?}"));
        let middle = if target.activations == DataType::Int8 { 0.0 } else { 128.0 };
        let centred = zeros.iter().all(|zero| *zero == middle);
        self.holds(!target.symmetric || centred, "zero point", op, &format!("{zeros:?}"));
    }

    fn quantize(&mut self, op: &Op) {
        let (target, graph) = (self.target, self.graph);
        self.holds(target.places != Places::Nothing, "nothing in integers", op, "a pair");
        self.activation(op, 1, 2);
        let maker = op.input(0).and_then(|value| graph.producer(value)).map(|maker| graph.op(maker));
        let fixed = target.fixed.iter().find(|(name, ..)| maker.is_some_and(|maker| maker.is(name)));
        if let Some((_, scale, zero)) = fixed {
            let found = (self.floats(op.input(1)), self.floats(op.input(2)));
            let wanted = (Some(vec![f64::from(*scale)]), Some(vec![f64::from(*zero)]));
            self.holds(found == wanted, "fixed output", op, &format!("{found:?}"));
        }
        for place in op.output(0).map(|q| graph.uses(q)).unwrap_or_default() {
            let Use::Input(reader, index) = place else { continue };
            let reader = graph.op(reader);
            if index == 0 && reader.is("DequantizeLinear") {
                let same = [1, 2].iter().all(|&parameter| {
                    let (ours, theirs) = (self.floats(op.input(parameter)), self.floats(reader.input(parameter)));
                    let (ours, theirs) = (ours.unwrap_or_default(), theirs.unwrap_or_default());
                    theirs.iter().all(|number| Some(number) == ours.first())
                });
                self.holds(same, "pair", op, "its Dequantize has other parameters");
            } else if target.formats == ["qdq"] {
                self.wrong("pair", op, &format!("{} reads it", reader.op_type()));
            }
        }
    }

    fn dequantize(&mut self, op: &Op) {
        let (target, graph) = (self.target, self.graph);
        let Some(integers) = self.constant(op.input(0)) else { return self.activation(op, 1, 2) };
        let (four, dtype) = (is_4_bit(integers), integers.dtype());
        if four {
            return self.holds(target.small.contains(&"int4"), "storage", op, "4 bits");
        }
        if dtype == DataType::Int32 {
            return; // a bias: its layer looks at it
        }
        let uses = op.output(0).map(|output| graph.uses(output)).unwrap_or_default();
        let is_weight = |place: &Use| match place {
            Use::Input(reader, 1) => ["Conv", "Gemm", "MatMul"].contains(&graph.op(*reader).op_type()),
            _ => false,
        };
        if !uses.is_empty() && uses.iter().all(is_weight) {
            for place in &uses {
                let alone = place.op().is_some_and(|reader| self.read(graph.op(reader)).is_none());
                self.holds(!alone, "weights alone", op, "a float layer reads 8-bit weights through a DequantizeLinear");
            }
        } else {
            self.activation(op, 1, 2);
        }
    }

    /// A Cast of a constant: weights of a float layer.
    fn stored(&mut self, op: &Op) {
        let Some(dtype) = self.constant(op.input(0)).map(Tensor::dtype) else { return };
        let target = self.target;
        // Two 4-bit integers to a byte are taken apart by a division.
        let reader = op.output(0).and_then(|output| self.graph.uses(output).first().and_then(|place| place.op()));
        let packed = matches!(dtype, DataType::Int8 | DataType::Uint8)
            && reader.is_some_and(|reader| self.graph.op(reader).is("Div"));
        match dtype {
            _ if packed => self.holds(target.small.contains(&"int4"), "storage", op, "4 bits"),
            DataType::Int8 | DataType::Uint8 => self.holds(target.stores, "storage", op, "8 bits"),
            DataType::Float16 => {
                let reads = target.stores || target.small.contains(&"fp16");
                self.holds(reads, "storage", op, "16-bit floats");
            }
            DataType::Int4 | DataType::Uint4 => {
                self.holds(target.small.contains(&"int4"), "storage", op, "4 bits");
            }
            _ => {}
        }
    }

    /// The Dequantize that the layer `op` reads: behind what moves numbers, where the engine wants no pair there.
    fn read(&self, op: &Op) -> Option<OpId> {
        let graph = self.graph;
        let passes = |op: &Op| MOVES.contains(&op.op_type()) || ["Concat", "Gather", "Resize"].contains(&op.op_type());
        let mut op = op;
        loop {
            let from = graph.producer(op.input(0)?)?;
            if self.target.pairs_behind_moves || !passes(graph.op(from)) {
                return dequantize(graph, op, 0);
            }
            op = graph.op(from);
        }
    }

    /// A layer of the Quantize/Dequantize form.
    fn layer(&mut self, op: &Op) {
        let (target, graph) = (self.target, self.graph);
        let ends = self.read(op).zip(dequantize(graph, op, 1));
        let Some((x, w)) = ends else { return };
        let weight = graph.op(w);
        if self.constant(weight.input(0)).is_none() {
            return;
        }
        self.verdict.layers += 1;
        self.holds(target.has(op.op_type()), "op", op, "no integer kernel");
        let count = self.weights(op, weight.input(0), weight.input(1), weight.input(2), Some(weight));
        // A MatMul's bias is an Add behind it.
        let (mut end, mut bias) = (op.output(0), op.input(2).map(|_| (op, 2)));
        if let Some((add, index)) = end.and_then(|end| graph.only_use(end))
            && op.is("MatMul")
            && graph.op(add).is("Add")
        {
            let add = graph.op(add);
            let other = dequantize(graph, add, 1 - index).map_or(add.input(1 - index), |d| graph.op(d).input(0));
            let dims = self.constant(other).map(|bias| bias.dims().to_vec());
            if dims == Some(vec![count]) {
                (end, bias) = (add.output(0), Some((add, 1 - index)));
            }
        }
        if let Some((reader, index)) = bias {
            self.bias(op, reader, index, (graph.op(x), weight));
        }
        let mut activation = false;
        while let Some((next, _)) = end.and_then(|end| graph.only_use(end))
            && (graph.op(next).is("Relu") || graph.op(next).is("Clip"))
        {
            activation = true;
            end = graph.op(next).output(0);
        }
        let may_be_float = match target.ends {
            Ends::Never => false,
            Ends::Linear => !op.is("Conv") && !activation,
            Ends::Weighted => true,
        };
        let uses = end.map(|end| graph.uses(end)).unwrap_or_default();
        let is_quantized = matches!(uses[..], [Use::Input(reader, 0)] if graph.op(reader).is("QuantizeLinear"));
        self.holds(may_be_float || is_quantized, "end", op, &format!("{uses:?}"));
    }

    /// Integers, scales and zero points of the weight of `op`; the number of its output channels.
    fn weights(
        &mut self,
        op: &Op,
        integers: Option<ValueId>,
        scales: Option<ValueId>,
        zeros: Option<ValueId>,
        pair: Option<&Op>,
    ) -> usize {
        let target = self.target;
        let (Some(tensor), Some(scales)) = (self.constant(integers).cloned(), self.constant(scales).cloned()) else {
            self.wrong("weight type", op, "no constant");
            return 0;
        };
        let is_conv = op.op_type().contains("Conv");
        let axis = match op.int("transB") {
            Some(1) => 0,
            _ => usize::from(!is_conv),
        };
        let count = tensor.dims().get(axis).copied().unwrap_or(0);
        self.holds(tensor.dtype() == target.weights, "weight type", op, &format!("{:?}", tensor.dtype()));
        let base = match op.op_type() {
            "QLinearConv" => "Conv",
            "QLinearMatMul" => "MatMul",
            base => base,
        };
        let per_channel = target.per_channel.contains(&base);
        let fits = if per_channel { scales.dims() == [count] } else { scales.dims().is_empty() };
        self.holds(fits, "weight scales", op, &format!("{:?} for {count} channels", scales.dims()));
        let of_axis = pair.is_none_or(|pair| pair.int("axis").unwrap_or(1) == axis as i64);
        self.holds(of_axis || !per_channel, "weight axis", op, "another axis than that of its outputs");
        let steps = scales.to_f64_vec().unwrap_or_default();
        let power = steps.iter().all(|scale| scale.log2().fract() == 0.0);
        self.holds(!target.power_of_two || power, "power of two", op, "its weight");
        let valid = steps.iter().all(|scale| (*scale as f32).is_normal() && *scale > 0.0);
        self.holds(valid, "scale", op, "its weight");
        let middle = if target.weights == DataType::Uint8 { 128.0 } else { 0.0 };
        let zeros = self.constant(zeros).map(|zeros| (zeros.dtype(), zeros.to_f64_vec().unwrap_or_default()));
        let zero = match &zeros {
            Some((dtype, zeros)) => *dtype == tensor.dtype() && zeros.iter().all(|zero| *zero == middle),
            // ONNX Runtime up to 1.24 cannot run a Gemm without it.
            None => middle == 0.0 && is_conv,
        };
        self.holds(zero, "weight zero point", op, &format!("{zeros:?}"));
        let weight = tensor.to_f64().unwrap_or_default().mapv(|w| w - middle);
        self.holds(weight.iter().all(|w| w.abs() <= 127.0), "weight range", op, "-128");
        let rows = reduction_rows(op, &weight);
        if target.pairing == Pairing::Neighbours && tensor.dtype() == DataType::Int8 {
            let saturates = |row: &Vec<i64>| row.chunks_exact(2).any(|pair| (pair[0] + pair[1]).abs() > 128);
            self.holds(!rows.iter().flatten().any(saturates), "pairs", op, "two weights whose sum leaves 16 bits");
        }
        if target.pairing == Pairing::None {
            // Unless its bias would not fit, or there is nothing in it.
            let least = if target.power_of_two { 63 } else { 126 };
            let largest = |row: &Vec<i64>| row.iter().map(|w| w.abs()).max().unwrap_or(0);
            let mut rows: Vec<i64> = rows.iter().flatten().map(largest).filter(|largest| *largest > 0).collect();
            if !per_channel {
                rows = rows.iter().copied().max().into_iter().collect();
            }
            self.holds(rows.iter().all(|largest| *largest >= least), "full range", op, &format!("{rows:?}"));
        }
        count
    }

    /// Input `index` of `reader`, the bias of `op`.
    fn bias(&mut self, op: &Op, reader: &Op, index: usize, (x, w): (&Op, &Op)) {
        let graph = self.graph;
        let pair = dequantize(graph, reader, index);
        if self.target.bias == Bias::Float {
            return self.holds(pair.is_none(), "bias", op, "in integers");
        }
        let Some(pair) = pair.map(|pair| graph.op(pair)) else { return self.wrong("bias", op, "in float") };
        let dtype = self.constant(pair.input(0)).map(Tensor::dtype);
        self.holds(dtype == Some(DataType::Int32), "bias", op, &format!("{dtype:?}"));
        let product = |op: &Op| -> Vec<f32> { numbers(graph, op.input(1)).iter().map(|s| *s as f32).collect() };
        let (Some(&scale), weights, found) = (product(x).first(), product(w), product(pair)) else { return };
        let wanted: Vec<f32> = weights.iter().map(|w| scale * w).collect();
        self.holds(found == wanted, "bias scale", op, "not f32(s_x·s_w)");
        let zeros = self.floats(pair.input(2)).unwrap_or_default();
        self.holds(zeros.iter().all(|zero| *zero == 0.0), "bias", op, "a zero point");
    }

    fn qlinear(&mut self, op: &Op) {
        self.holds(self.target.formats.contains(&"qoperator"), "form", op, "a QLinear op");
        self.verdict.layers += 1;
        self.activation(op, 1, 2);
        self.weights(op, op.input(3), op.input(4), op.input(5), None);
        self.activation(op, 6, 7);
        if op.input(8).is_some() {
            let dtype = self.constant(op.input(8)).map(Tensor::dtype);
            self.holds(dtype == Some(DataType::Int32), "bias", op, &format!("{dtype:?}"));
        }
    }

    fn integer(&mut self, op: &Op) {
        let graph = self.graph;
        let maker = op.input(0).and_then(|x| graph.producer(x)).map(|maker| graph.op(maker));
        let dynamic = maker.is_some_and(|maker| maker.is("DynamicQuantizeLinear"));
        let allowed = if dynamic { self.target.dynamic } else { self.target.formats.contains(&"integer") };
        self.holds(allowed, "form", op, "an integer product");
        let Some(tensor) = self.constant(op.input(1)).cloned() else {
            return self.wrong("weight type", op, "no constant");
        };
        self.verdict.layers += 1;
        let weight = tensor.to_f64().unwrap_or_default();
        if tensor.dtype() == DataType::Int8 {
            self.holds(weight.iter().all(|w| w.abs() <= 127.0), "weight range", op, "-128");
            let rows = reduction_rows(op, &weight);
            if self.target.pairing == Pairing::Neighbours {
                let saturates = |row: &Vec<i64>| row.chunks_exact(2).any(|pair| (pair[0] + pair[1]).abs() > 128);
                self.holds(!rows.iter().flatten().any(saturates), "pairs", op, "two weights whose sum leaves 16 bits");
            }
        } else {
            // Products of unsigned numbers saturate nowhere.
            let zeros = self.floats(op.input(3)).unwrap_or_default();
            let centred = tensor.dtype() == DataType::Uint8 && !zeros.is_empty() && zeros.iter().all(|z| *z == 128.0);
            self.holds(centred, "weight zero point", op, &format!("{:?} {zeros:?}", tensor.dtype()));
        }
    }

    /// Ops whose result has the scale of what they read.
    fn one_scale(&mut self, op: &Op) {
        let (target, graph) = (self.target, self.graph);
        let moves = MOVES.contains(&op.op_type()) && !matches!(target.places, Places::Cheapest(_));
        if !moves && !target.one_scale.contains(&op.op_type()) {
            return;
        }
        let parameters = |pair: OpId| [1, 2].map(|index| self.floats(graph.op(pair).input(index)));
        let mut found: Vec<[Option<Vec<f64>>; 2]> =
            (0..op.inputs().len()).filter_map(|index| dequantize(graph, op, index)).map(parameters).collect();
        for output in op.outputs().iter().flatten() {
            if let [Use::Input(reader, 0)] = graph.uses(*output)[..]
                && graph.op(reader).is("QuantizeLinear")
            {
                found.push(parameters(reader));
            }
        }
        let equal = found.windows(2).all(|two| two[0] == two[1]);
        self.holds(equal, "scales of an op that moves numbers", op, &format!("{found:?}"));
    }

    /// No op reads a float that is not dequantized, and no result is float that is not quantized at once.
    fn every_tensor(&mut self) {
        let graph = self.graph;
        let is_float = |value: ValueId| graph.ty(value).is_some_and(|ty| ty.dtype == DataType::Float);
        let maker = |value: ValueId| graph.producer(value).map(|maker| graph.op(maker));
        let is_constant = |value: ValueId| graph.constant(value).is_some();
        // Cast, Mul and Log of constants: stored weights of recurrent layers, and of what has no pairs.
        let decodes = |op: &Op| {
            let from_constant = |value: ValueId| {
                is_constant(value)
                    || maker(value).is_some_and(|op| op.inputs().iter().flatten().all(|x| is_constant(*x)))
            };
            !op.inputs().is_empty() && op.inputs().iter().flatten().all(|value| from_constant(*value))
        };
        for id in graph.ops() {
            let op = graph.op(id);
            let apart = RECURRENT.contains(&op.op_type()) || !op.regions().is_empty();
            if op.op_type().ends_with("uantizeLinear") || apart || decodes(op) {
                continue;
            }
            for value in op.inputs().iter().flatten().copied().filter(|value| is_float(*value) && !is_constant(*value))
            {
                let Some(from) = maker(value) else {
                    self.wrong("every tensor", op, "reads a float input");
                    continue;
                };
                let layer = ["Conv", "Gemm", "MatMul", "Add"].iter().any(|name| from.is(name));
                let inside = (op.is("Relu") || op.is("Clip") || op.is("Add") && from.is("MatMul")) && layer;
                let ok = from.is("DequantizeLinear") || decodes(from) || inside && graph.only_use(value).is_some();
                self.holds(ok, "every tensor", op, &format!("reads {} in float", graph.name_of(value)));
            }
        }
        for &output in graph.outputs().iter().filter(|output| is_float(**output)) {
            let apart = |op: &Op| RECURRENT.contains(&op.op_type()) || !op.regions().is_empty();
            if let Some(from) = maker(output).filter(|from| !apart(from)) {
                self.holds(from.is("DequantizeLinear"), "every tensor", from, "a float output");
            }
        }
    }
}
