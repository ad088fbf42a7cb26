//! Units: what an engine runs as one integer kernel, found in the float graph.
//!
//! A convolution with the Relu behind it is one unit; so is a MatMul with the Add of its bias. Values inside a unit are
//! never quantized: the fusion would break (as ONNX Runtime 1.32 optimizes graphs). **Never** looks into bodies.
use std::collections::{BTreeMap, BTreeSet};

use onnx_shrink_ir::{
    DataType, Graph, Op, OpId, Use, ValueId, multiply_adds,
    ops::{LayerKind, MaxPool, Resize, ResizeMode, WeightedLayer, clip_bounds, weight_inputs},
    semantics::{self, Data, Effect},
};

use crate::{
    Miss,
    analysis::{computed::Computed, quantized::is_between_pairs},
    calibration::collect::Calibration,
    target::{Ends, Kind, Places, Target, Work},
};

/// How a unit is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Conv, Gemm or MatMul with a constant weight, of two axes in a product of matrices
    Weighted(LayerKind),
    /// Inputs and outputs have ranges of their own
    Own,
    /// Inputs and outputs share one range: values are moved or selected, never changed
    Shared,
}

/// One integer kernel to be.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The op that gives the unit its name
    pub op: OpId,
    /// How it is quantized
    pub form: Form,
    /// The Add of a MatMul's bias, with the bias
    pub bias: Option<(OpId, ValueId)>,
    /// The Relu or Clip at its end
    pub activation: Option<OpId>,
    /// The upper bound of that Clip
    pub upper: Option<f64>,
    /// Values that it reads in 8 bits: (input of `op`, value)
    pub inputs: Vec<(usize, ValueId)>,
    /// Values that it makes
    pub outputs: Vec<ValueId>,
    /// What it does
    pub work: Work,
    /// Whether its kernel can write floats, so that its end needs no Quantize
    pub ends_float: bool,
}

impl Unit {
    /// Whether it multiplies by constant weights.
    pub fn is_weighted(&self) -> bool {
        matches!(self.form, Form::Weighted(_))
    }

    /// Whether it multiplies by a constant matrix.
    pub fn is_linear(&self) -> bool {
        matches!(self.form, Form::Weighted(LayerKind::Gemm | LayerKind::MatMul))
    }
}

/// All units of a graph, and why the other multiplying ops are none.
#[derive(Clone, Debug, Default)]
pub struct Units {
    /// In the order of the graph
    pub units: Vec<Unit>,
    /// By op, every op inside a unit
    pub of_op: BTreeMap<OpId, usize>,
    /// Ops that multiply and stay float, with the reason
    pub misses: Vec<(OpId, Miss)>,
    /// Whose units they are
    pub target: &'static Target,
}

/// Finds what `target` runs as one integer kernel each in `graph`. Shapes come from `calibration`; a value that it did not see, or that is not finite, is in
/// no unit.
pub fn find_units(graph: &Graph, calibration: &Calibration, target: &'static Target) -> Units {
    let mut found = Units { target, ..Units::default() };
    let mut inside: BTreeSet<OpId> = BTreeSet::new();
    let sight = Sight { graph, calibration, target, computed: Computed::of(graph) };
    for op in graph.ops() {
        if inside.contains(&op) {
            continue;
        }
        match unit_of(&sight, op) {
            Ok(mut unit) => {
                unit.ends_float = match target.ends {
                    Ends::Never => false,
                    Ends::Linear => unit.is_linear() && unit.activation.is_none(),
                    Ends::Weighted => unit.is_weighted(),
                };
                let index = found.units.len();
                for part in [Some(unit.op), unit.bias.map(|(add, _)| add), unit.activation].into_iter().flatten() {
                    inside.insert(part);
                    found.of_op.insert(part, index);
                }
                found.units.push(unit);
            }
            Err(Miss::NotThisPattern) => {}
            Err(miss) => found.misses.push((op, miss)),
        }
    }
    found
}

/// Looks at one op with what calibration saw.
struct Sight<'a> {
    graph: &'a Graph,
    calibration: &'a Calibration,
    target: &'static Target,
    computed: Computed,
}

impl Sight<'_> {
    /// Dimensions of a float value that calibration saw and that is finite.
    fn dims(&self, value: ValueId) -> Result<&[usize], Miss> {
        let unknown = if self.calibration.from_model { Miss::NoRange(value) } else { Miss::UnknownType(value) };
        let observed = self.calibration.values.get(&value).ok_or(unknown)?;
        if observed.histogram.non_finite > 0 {
            return Err(Miss::NotFinite(value));
        }
        Ok(&observed.dims)
    }

    fn float_constant(&self, value: ValueId) -> Result<&[usize], Miss> {
        let tensor = self.graph.constant(value).ok_or_else(|| {
            if !self.computed.has(value) {
                Miss::NotConstant(value)
            } else if self.computed.behind(self.graph, value).is_quantized(self.graph) {
                Miss::Quantized
            } else {
                Miss::Computed
            }
        })?;
        if tensor.dtype() != DataType::Float {
            return Err(Miss::Form("the weight is not float"));
        }
        Ok(tensor.dims())
    }

    /// Multiply-adds of `op` for the dimensions that calibration saw.
    fn multiply_adds(&self, op: OpId) -> f64 {
        let dims = |value: ValueId| match self.graph.constant(value) {
            Some(constant) => Some(constant.dims().to_vec()),
            None => self.dims(value).ok().map(<[usize]>::to_vec),
        };
        multiply_adds(self.graph, op, &dims).unwrap_or(0) as f64
    }

    /// The Relu, or Clip from 0, that alone reads `value`: the op, its output, its upper bound.
    fn activation(&self, value: ValueId) -> Option<(OpId, ValueId, Option<f64>)> {
        let (op, 0) = self.graph.only_use(value)? else { return None };
        let (_, high) = clip_bounds(self.graph, op).filter(|(low, high)| *low == 0.0 && *high > 0.0)?;
        let upper = (high < f64::INFINITY).then_some(high);
        let output = self.graph.op(op).output(0)?;
        self.dims(output).ok()?;
        Some((op, output, upper))
    }
}

fn count(dims: &[usize]) -> f64 {
    dims.iter().map(|&dim| dim as f64).product()
}

/// The parameters of the pair that the file has around `value`, in the target's type: it needs none of ours.
pub(crate) fn paired(graph: &Graph, value: ValueId, target: &Target) -> Option<(f32, i32)> {
    let before = graph.producer(value).filter(|op| graph.op(*op).is("DequantizeLinear"));
    let behind = || graph.only_use(value).map(|(op, _)| op).filter(|op| graph.op(*op).is("QuantizeLinear"));
    let pair = graph.op(before.or_else(behind)?);
    let scale = graph.constant(pair.input(1)?)?.to_scalar_f64()?;
    let zero = graph.constant(pair.input(2)?)?;
    (zero.dtype() == target.activations).then_some((scale as f32, zero.to_scalar_f64()? as i32))
}

/// Whether the file quantizes `value`, one way or the other.
fn is_paired(graph: &Graph, value: ValueId) -> bool {
    let next = |place: &Use| matches!(place, Use::Input(op, 0) if graph.op(*op).is("QuantizeLinear"));
    graph.producer(value).is_some_and(|op| graph.op(op).is("DequantizeLinear")) || graph.uses(value).iter().any(next)
}

const NO_KERNEL: Miss = Miss::Form("the target has no integer kernel for it");

fn unit_of(sight: &Sight<'_>, op: OpId) -> Result<Unit, Miss> {
    let node = sight.graph.op(op);
    if !node.domain().is_empty() {
        return Err(Miss::NotThisPattern);
    }
    let unit = match node.op_type() {
        op_type if !sight.target.has(op_type) && !weight_inputs(node).is_empty() => Err(NO_KERNEL),
        op_type if !sight.target.has(op_type) => Err(Miss::NotThisPattern),
        "Conv" | "Gemm" | "MatMul" => weighted(sight, op, node),
        "Add" | "Mul" | "Concat" | "Sigmoid" | "LeakyRelu" | "GlobalAveragePool" => own(sight, op, node),
        "MaxPool" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "Slice" | "Split" | "Gather"
        | "Resize" | "DepthToSpace" => shared(sight, op, node),
        _ => Err(Miss::NotThisPattern),
    };
    let unit = unit.and_then(|unit| beside_pairs(sight, unit));
    match unit {
        Err(Miss::NotThisPattern | Miss::NotConstant(_)) if sight.target.places == Places::EveryTensor => {
            any(sight, op, node)
        }
        unit => unit,
    }
}

/// `unit`, unless the file's own pairs are in its way.
fn beside_pairs(sight: &Sight<'_>, unit: Unit) -> Result<Unit, Miss> {
    let graph = sight.graph;
    let ends = || unit.inputs.iter().map(|(_, value)| *value).chain(unit.outputs.iter().copied());
    let mut theirs = ends().filter(|value| is_paired(graph, *value)).peekable();
    if theirs.peek().is_none() {
        return Ok(unit);
    }
    if !unit.is_weighted() {
        return Err(Miss::NotThisPattern);
    }
    if is_between_pairs(graph, unit.op) {
        return Err(Miss::Quantized);
    }
    if theirs.all(|value| paired(graph, value, sight.target).is_some()) {
        return Ok(unit);
    }
    Err(Miss::Form("it is beside Quantize/Dequantize pairs of another kind than the target's"))
}

/// Whether the constant operands of `node` are numbers like those that they meet.
fn takes_constants(node: &Op) -> bool {
    semantics::of(node).is_some_and(|row| match row.effect {
        Effect::Elementwise => row.data == Data::All && !row.is_exact,
        _ => row.op_type == "Where" || row.op_type == "Concat",
    })
}

/// An op that computes in float between pairs of its own, for engines that take no float tensor.
fn any(sight: &Sight<'_>, op: OpId, node: &Op) -> Result<Unit, Miss> {
    let is_theirs = |value: &ValueId| is_paired(sight.graph, *value);
    if !node.regions().is_empty()
        || node.op_type().ends_with("uantizeLinear")
        || node.inputs().iter().chain(node.outputs()).flatten().any(is_theirs)
    {
        return Err(Miss::NotThisPattern);
    }
    let is_read = |value: ValueId| match sight.graph.constant(value) {
        Some(_) => takes_constants(node) && sight.float_constant(value).is_ok(),
        None => sight.dims(value).is_ok(),
    };
    let inputs: Vec<(usize, ValueId)> = (node.inputs().iter().enumerate())
        .filter_map(|(index, value)| value.filter(|value| is_read(*value)).map(|value| (index, value)))
        .collect();
    let outputs: Vec<ValueId> = node.outputs().iter().flatten().copied().filter(|y| sight.dims(*y).is_ok()).collect();
    if outputs.is_empty() || !inputs.iter().any(|(_, value)| sight.graph.constant(*value).is_none()) {
        return Err(Miss::NotThisPattern);
    }
    let numbers = |value: &ValueId| sight.dims(*value).map_or(0.0, count);
    let read = inputs.iter().map(|(_, value)| numbers(value)).sum();
    let work = Work { kind: Kind::Other, inputs: read, outputs: outputs.iter().map(numbers).sum(), macs: 0.0 };
    let form = if sight.target.one_scale.contains(&node.op_type()) { Form::Shared } else { Form::Own };
    Ok(Unit { op, form, bias: None, activation: None, upper: None, inputs, outputs, work, ends_float: false })
}

/// Input 0 and output 0, both seen and finite.
fn ends(sight: &Sight<'_>, node: &Op) -> Result<(ValueId, ValueId), Miss> {
    let (x, y) = node.input(0).zip(node.output(0)).ok_or(Miss::NotThisPattern)?;
    if sight.computed.has(x) {
        return Err(if sight.computed.has(y) { Miss::NotThisPattern } else { Miss::WeightFirst });
    }
    sight.dims(x)?;
    sight.dims(y)?;
    Ok((x, y))
}

fn finish(sight: &Sight<'_>, unit: Unit) -> Unit {
    match unit.outputs.first().and_then(|&y| sight.activation(y)) {
        Some((activation, output, upper)) => {
            Unit { activation: Some(activation), outputs: vec![output], upper, ..unit }
        }
        None => unit,
    }
}

fn weighted(sight: &Sight<'_>, op: OpId, node: &Op) -> Result<Unit, Miss> {
    let (x, y) = ends(sight, node)?;
    let layer = WeightedLayer::of(sight.graph, op).ok_or(Miss::Form("attributes that are not known"))?;
    let weight = sight.float_constant(layer.weight)?;
    let shape = layer.layout.shape(weight).filter(|_| !weight.contains(&0));
    let shape = match layer.kind {
        LayerKind::Conv | LayerKind::ConvTranspose => shape.ok_or(Miss::Form("a weight of this rank"))?,
        LayerKind::Gemm if layer.alpha != 1.0 || layer.beta != 1.0 => return Err(Miss::Form("alpha or beta is not 1")),
        LayerKind::Gemm if layer.trans_a => return Err(Miss::Form("transA")),
        LayerKind::MatMul if weight.len() > 2 => return Err(Miss::Form("a stack of weight matrices")),
        LayerKind::MatMul if sight.dims(x)?.len() < 2 => return Err(Miss::Form("an operand is a vector")),
        LayerKind::Gemm | LayerKind::MatMul => shape.ok_or(Miss::Form("an operand is a vector"))?,
    };
    if let Some(bias) = layer.bias {
        let (dims, n) = (sight.float_constant(bias)?, shape.outputs);
        if layer.kind == LayerKind::Gemm && (count(dims) as usize != n || dims.last().is_some_and(|last| *last != n)) {
            return Err(Miss::Form("C is not one number a column"));
        }
    }
    let (inputs, outputs) = (count(sight.dims(x)?), count(sight.dims(y)?));
    let kind = if layer.is_conv() {
        Kind::Conv { group_inputs: shape.inputs, filters: shape.outputs, groups: shape.groups, taps: shape.taps() }
    } else {
        let rows = (outputs as usize / shape.outputs).max(1);
        Kind::Linear { rows, k: shape.inputs, n: shape.outputs }
    };
    let work = Work { kind, inputs, outputs, macs: sight.multiply_adds(op) };
    let mut unit = Unit {
        op,
        form: Form::Weighted(layer.kind),
        bias: None,
        activation: None,
        upper: None,
        inputs: vec![(0, x)],
        outputs: vec![y],
        work,
        ends_float: false,
    };
    // The Add of a bias behind it belongs to it: with a float bias the engine would make a float Gemm of both.
    if layer.kind == LayerKind::MatMul
        && let Some(added) = layer.added_bias(sight.graph)
        && sight.float_constant(added.bias).is_ok_and(|dims| dims == [shape.outputs])
        && sight.dims(added.sum).is_ok()
    {
        unit.bias = Some((added.add, added.bias));
        unit.outputs = vec![added.sum];
    }
    Ok(finish(sight, unit))
}

fn own(sight: &Sight<'_>, op: OpId, node: &Op) -> Result<Unit, Miss> {
    let y = node.output(0).ok_or(Miss::NotThisPattern)?;
    let mut inputs = Vec::new();
    for (index, value) in node.inputs().iter().enumerate() {
        let value = value.ok_or(Miss::NotThisPattern)?;
        sight.dims(value).map_err(|_| Miss::NotThisPattern)?;
        inputs.push((index, value));
    }
    sight.dims(y).map_err(|_| Miss::NotThisPattern)?;
    let from_conv = |value: ValueId| {
        let fused = |op: OpId| sight.graph.op(op).is("Conv") && sight.graph.only_use(value).is_some();
        sight.graph.producer(value).is_some_and(fused)
    };
    let kind = match node.op_type() {
        "Add" => Kind::Add { fused: inputs.iter().any(|(_, value)| from_conv(*value)) },
        "Mul" => Kind::Mul,
        "Concat" => Kind::Concat,
        "Sigmoid" => Kind::Sigmoid,
        "LeakyRelu" => Kind::LeakyRelu,
        _ => Kind::GlobalAveragePool,
    };
    let read = inputs.iter().map(|(_, value)| sight.dims(*value).map_or(0.0, count)).sum();
    let work = Work { kind, inputs: read, outputs: count(sight.dims(y)?), macs: 0.0 };
    let form = if kind == Kind::Concat { Form::Shared } else { Form::Own };
    let outputs = vec![y];
    let unit = Unit { op, form, bias: None, activation: None, upper: None, inputs, outputs, work, ends_float: false };
    Ok(if node.is("Add") { finish(sight, unit) } else { unit })
}

fn shared(sight: &Sight<'_>, op: OpId, node: &Op) -> Result<Unit, Miss> {
    let x = node.input(0).ok_or(Miss::NotThisPattern)?;
    sight.dims(x).map_err(|_| Miss::NotThisPattern)?;
    let kind = match node.op_type() {
        "MaxPool" => {
            MaxPool::of(sight.graph, op).filter(|pool| !pool.column_major).ok_or(Miss::NotThisPattern)?;
            Kind::MaxPool
        }
        "Resize" => {
            let resize = Resize::of(sight.graph, op).filter(|resize| resize.mode == ResizeMode::Nearest);
            resize.ok_or(Miss::NotThisPattern)?;
            Kind::Resize
        }
        "Transpose" | "Slice" | "Split" | "Gather" | "DepthToSpace" => Kind::Move,
        _ => Kind::View,
    };
    let mut outputs = Vec::new();
    for &output in node.outputs() {
        let output = output.ok_or(Miss::NotThisPattern)?;
        sight.dims(output).map_err(|_| Miss::NotThisPattern)?;
        outputs.push(output);
    }
    let written = outputs.iter().map(|value| sight.dims(*value).map_or(0.0, count)).sum();
    let work = Work { kind, inputs: count(sight.dims(x)?), outputs: written, macs: 0.0 };
    let (form, inputs) = (Form::Shared, vec![(0, x)]);
    Ok(Unit { op, form, bias: None, activation: None, upper: None, inputs, outputs, work, ends_float: false })
}

/// Who uses `value`: the units that read it in 8 bits, and whether anyone else does (other ops, outputs, bodies).
pub fn readers(graph: &Graph, units: &Units, value: ValueId) -> (BTreeSet<usize>, bool) {
    let mut by = BTreeSet::new();
    let mut others = false;
    for place in graph.uses(value) {
        match place {
            Use::Input(op, index) => match units.of_op.get(&op) {
                Some(&unit) if units.units[unit].op == op && units.units[unit].inputs.contains(&(index, value)) => {
                    by.insert(unit);
                }
                _ => others = true,
            },
            Use::Capture(..) | Use::Output(_) => others = true,
        }
    }
    (by, others)
}
