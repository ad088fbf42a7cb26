//! What a model is: inputs and outputs, ops, types, bytes, work, and what `--int8` would do to it.
//!
//! [`inspect`] gathers an [`Inspection`]; [`text`] shows it to people, and serde makes the documented JSON of it
//! (`docs/inspect.md`). **Nothing** is written and **nothing** is rewritten but copies. A number that is not known is `None`,
//! never 0.
use std::collections::BTreeMap;

use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{
    DataType, Dim, Evaluate, Graph, Model, OpId, Tensor, TensorType, ValueId, conform, multiply_adds,
    proto::schema::{ValueInfoProto, type_proto},
};
use onnx_shrink_passes::{
    analysis::{
        quantized::is_wholly_quantized,
        saturation::{Saturating, saturating_layers},
    },
    target::Target,
};
use serde::Serialize;

use crate::{
    Failure, Progress, SampleOptions, Samples,
    files::UnknownFields,
    open::{Defaults, Functions, Opened, Opening},
    request::io::Input,
    samples::{BadSamples, Data, Examiner, Extent},
    simplified::Simplified,
};

mod constants;
mod groups;
mod plan;

pub use constants::{Constants, Weights};
pub use groups::ChannelGroup;
pub use plan::{Outcome, Plan};

/// Version of the JSON. It rises when a field changes its meaning or goes; new fields do not count.
pub const SCHEMA: u32 = 1;

/// Nodes that ONNX does not have, of which a note tells, at most.
const MOST_NOTES: usize = 10;

/// What is to be inspected, and how.
#[derive(Clone, Debug)]
pub struct Inspect {
    /// The model
    pub input: Input,
    /// Samples: their shapes hold, and a plan for 8 bits is made with them
    pub data: Option<Data>,
    /// How files become samples
    pub sample_options: SampleOptions,
    /// What becomes of samples that cannot be used
    pub bad_samples: BadSamples,
    /// The target to find out for what `--int8` would do; `None`: do not
    pub plan: Option<&'static Target>,
    /// Whether to find out which channels go together
    pub groups: bool,
}

/// A graph input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its name
    pub name: String,
    /// Its type as in ONNX's own syntax: `float[N,3,224,224]`; `sequence`, `optional`, `map` for what is no tensor
    #[serde(rename = "type")]
    pub ty: String,
    /// Element type; `None` for what is no tensor
    pub dtype: Option<String>,
    /// Dimensions: a number, a name, or null; `None` when not even the rank is known
    pub dims: Option<Vec<Size>>,
    /// Whether it is an input with a default
    pub has_default: bool,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Size {
    /// A known number
    Known(usize),
    /// A named number
    Named(String),
    /// Unknown
    Free(()),
}

/// All ops of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// The type; `domain.type` for other domains than ONNX's own
    pub op: String,
    /// How many, those in bodies included
    pub count: usize,
    /// Of those whose multiply-adds are known, in the main graph
    pub multiply_adds: u64,
    /// Bytes of the constants that they read first
    pub bytes: u64,
}

/// One op that has constants or multiplies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpLine {
    /// Its name, or that of its output
    pub name: String,
    /// Its type
    pub op: String,
    /// Type of its first output
    pub output: Option<String>,
    /// Multiply-adds of one run; `None` when they are not known
    pub multiply_adds: Option<u64>,
    /// Bytes of the constants that it reads first, those in its bodies included
    pub bytes: u64,
    /// Share of zeros in its weights; `None` without weights
    pub zeros: Option<f64>,
}

/// Where values of one element type stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Type {
    /// Element type
    pub dtype: String,
    /// Values that ops make or the graph takes
    pub values: usize,
    /// Constants
    pub constants: usize,
    /// Bytes of those
    pub bytes: u64,
}

/// Work of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Multiply-adds of the ops that are counted
    pub multiply_adds: u64,
    /// Where the shapes come from: `model`, `made-up sample` (free dimensions are 1), `longer made-up
    /// sample` (the model does not run with 1) or `sample`
    pub shapes: &'static str,
    /// Ops that are not counted, by type: their sums or shapes are not known, or they stand in bodies
    pub not_counted: BTreeMap<String, usize>,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// [`SCHEMA`]
    pub schema: u32,
    /// Version of the program
    pub version: &'static str,
    /// The file
    pub path: String,
    /// Bytes of the model, its external data included
    pub bytes: u64,
    /// Version of the file format
    pub ir_version: i64,
    /// Versions of ops by domain; ONNX's own is `ai.onnx`
    pub opsets: BTreeMap<String, i64>,
    /// Who made the file, as it says
    pub producer: String,
    /// Inputs in order
    pub inputs: Vec<Port>,
    /// Outputs in order
    pub outputs: Vec<Port>,
    /// Names of free dimensions of the inputs; `input[axis]` for those without a name
    pub free_dims: Vec<String>,
    /// Ops, those in bodies included
    pub op_count: usize,
    /// Local functions
    pub functions: usize,
    /// Ops by type, the most first
    pub kinds: Vec<Kind>,
    /// Work of one run
    pub work: Work,
    /// Ops with constants or multiply-adds, the most bytes first
    pub ops: Vec<OpLine>,
    /// Values by element type, the most bytes first
    pub types: Vec<Type>,
    /// All constants
    pub constants: Constants,
    /// Layers whose 8-bit sums can saturate on x86 processors without VNNI
    pub saturating: Vec<Saturating>,
    /// Channels that `--prune` would keep or remove together; `None` when that was not asked
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<ChannelGroup>>,
    /// What `--int8` would do; `None` when that was not asked
    pub int8: Option<Plan>,
    /// What a user may want to know
    pub notes: Vec<String>,
}

/// Finds out what the model of `request` is.
pub fn inspect(request: &Inspect, progress: &dyn Progress) -> Result<Inspection, Failure> {
    let stage = progress.stage("loading", None);
    let opening =
        Opening { functions: Functions::Inlined, defaults: Defaults::OfOldFiles, conforms: false, shapes: None };
    let Opened { loaded, bytes, name, model, notes, .. } = opening.read(&request.input, UnknownFields::Ignored)?;
    drop(stage);
    let evaluator = Interpreter::new(onnx_shrink_exec::Options::default().with_random());
    let mut found = Inspection::of(&name, bytes, &model);
    found.functions = loaded.model.functions.len();
    found.notes.extend(notes);
    let samples = match &request.data {
        Some(data) if request.bad_samples == BadSamples::Skip => {
            let (bad, extent) = (BadSamples::Skip, Extent::All);
            let examiner = Examiner { evaluator: &evaluator, progress, bad, extent };
            let usable = examiner.open(data, &model.graph, &request.sample_options).map_err(Failure::samples)?;
            found.notes.extend(usable.warning);
            Some(usable.samples)
        }
        Some(data) => Some(Samples::open(data, &model.graph, &request.sample_options).map_err(Failure::samples)?),
        None => None,
    };
    found.notes.extend(loaded.unknown.iter().map(|field| format!("{field} is unknown to this version of ONNX")));
    let departures = conform::departures(&model);
    found
        .notes
        .extend(departures.iter().take(MOST_NOTES).map(|departure| format!("no engine takes this model: {departure}")));
    let stage = progress.stage("counting", None);
    found.count(&model.graph, &evaluator, samples.as_ref())?;
    drop(stage);
    let planned = request.plan.filter(|_| !is_wholly_quantized(&model.graph));
    if planned.is_some() || request.groups {
        let stage = progress.stage("rewriting a copy", None);
        let simplified = Simplified::of(&model, &evaluator)?;
        drop(stage);
        if request.groups {
            found.groups = Some(groups::groups(&simplified.model.graph));
        }
        if let Some(target) = planned {
            let stage = progress.stage("planning for 8 bits", None);
            found.int8 = Some(plan::plan(&simplified, target, &evaluator, samples.as_ref(), progress)?);
            drop(stage);
        }
    }
    if let Some(target) = request.plan.filter(|_| planned.is_none()) {
        found.int8 = Some(Plan { made_up: samples.is_none(), ..Plan::of_quantized(target) });
    }
    Ok(found)
}

/// 0 for an op that has no multiply-adds, whatever its shapes; another number, if its shapes need only be known; or `None`.
fn multiply_adds_if_known(graph: &Graph, op: OpId) -> Option<u64> {
    multiply_adds(graph, op, &|_| Some(vec![1; 8]))
}

impl Port {
    fn of(graph: &Graph, value: ValueId, declared: Option<&ValueInfoProto>) -> Port {
        let ty = graph.ty(value);
        let other = || match declared.and_then(|info| info.r#type.as_ref()?.value.as_ref()) {
            Some(type_proto::Value::SequenceType(_)) => "sequence",
            Some(type_proto::Value::MapType(_)) => "map",
            Some(type_proto::Value::OptionalType(_)) => "optional",
            Some(type_proto::Value::SparseTensorType(_)) => "sparse tensor",
            _ => "unknown",
        };
        let size = |dim: &Dim| match dim {
            Dim::Known(number) => Size::Known(*number),
            Dim::Symbol(name) => Size::Named(name.clone()),
            Dim::Unknown => Size::Free(()),
        };
        Port {
            name: graph.name_of(value).to_owned(),
            ty: ty.map_or_else(|| other().to_owned(), TensorType::to_string),
            dtype: ty.map(|ty| ty.dtype.to_string()),
            dims: ty.and_then(|ty| ty.shape.as_ref()).map(|shape| shape.iter().map(size).collect()),
            has_default: graph.default_of(value).is_some(),
        }
    }
}

impl Inspection {
    /// All that needs no run and no look at the tensors.
    fn of(path: &str, bytes: u64, model: &Model) -> Inspection {
        let (graph, proto) = (&model.graph, model.proto());
        let opsets = proto.opset_import.iter().map(|import| {
            let domain = if import.domain().is_empty() { "ai.onnx" } else { import.domain() };
            (domain.to_owned(), import.version())
        });
        let inputs = graph.inputs().iter().enumerate();
        let inputs: Vec<Port> =
            inputs.map(|(index, &value)| Port::of(graph, value, graph.input_declaration(index))).collect();
        let outputs = graph.outputs().iter().enumerate();
        let outputs = outputs.map(|(index, &value)| Port::of(graph, value, graph.output_declaration(index)));
        let mut free_dims = Vec::new();
        for input in &inputs {
            for (axis, dim) in input.dims.iter().flatten().enumerate() {
                let name = match dim {
                    Size::Known(_) => continue,
                    Size::Named(name) => name.clone(),
                    Size::Free(()) => format!("{}[{axis}]", input.name),
                };
                if !free_dims.contains(&name) {
                    free_dims.push(name);
                }
            }
        }
        Inspection {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            path: path.to_owned(),
            bytes,
            ir_version: model.ir_version(),
            opsets: opsets.collect(),
            producer: format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned(),
            outputs: outputs.collect(),
            inputs,
            free_dims,
            op_count: 0,
            functions: proto.functions.len(),
            kinds: Vec::new(),
            work: Work { multiply_adds: 0, shapes: "model", not_counted: BTreeMap::new() },
            ops: Vec::new(),
            types: Vec::new(),
            constants: Constants::default(),
            saturating: saturating_layers(graph),
            groups: None,
            int8: None,
            notes: Vec::new(),
        }
    }

    /// Fills in what is counted: ops, types, bytes, work.
    fn count(&mut self, graph: &Graph, evaluator: &dyn Evaluate, samples: Option<&Samples>) -> Result<(), Failure> {
        let shapes = self.shapes(graph, evaluator, samples)?;
        let dims = |value: ValueId| match (graph.constant(value), shapes.get(&value)) {
            (Some(constant), _) => Some(constant.dims().to_vec()),
            (None, Some(seen)) => Some(seen.clone()),
            (None, None) => graph.ty(value)?.dims(),
        };
        let mut tally = Tally::default();
        tally.graph(graph, &|op| multiply_adds(graph, op, &dims), &mut self.constants);
        for (line, _) in &tally.lines {
            self.work.multiply_adds += line.multiply_adds.unwrap_or(0);
        }
        self.op_count = tally.kinds.values().map(|kind| kind.count).sum();
        self.kinds = tally.kinds.into_values().collect();
        self.kinds.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.op.cmp(&b.op)));
        self.types = tally.types.into_values().collect();
        self.types.sort_by(|a, b| {
            b.bytes.cmp(&a.bytes).then_with(|| b.values.cmp(&a.values)).then_with(|| a.dtype.cmp(&b.dtype))
        });
        self.work.not_counted = tally.not_counted;
        // Stable: equal ones stay in the order of the graph.
        tally.lines.sort_by(|(a, _), (b, _)| {
            b.bytes.cmp(&a.bytes).then_with(|| b.multiply_adds.unwrap_or(0).cmp(&a.multiply_adds.unwrap_or(0)))
        });
        self.ops = tally.lines.into_iter().filter(|(_, worth)| *worth).map(|(line, _)| line).collect();
        Ok(())
    }

    /// Dimensions of values as a run shows them: on the first sample, or a made-up one where the model's own shapes leave
    /// multiply-adds open. Empty when the model does not run here.
    fn shapes(
        &mut self,
        graph: &Graph,
        evaluator: &dyn Evaluate,
        samples: Option<&Samples>,
    ) -> Result<BTreeMap<ValueId, Vec<usize>>, Failure> {
        let inferred = |value: ValueId| match graph.constant(value) {
            Some(constant) => Some(constant.dims().to_vec()),
            None => graph.ty(value)?.dims(),
        };
        // (Ops that are never counted do not call for a run, nor do those of other domains.)
        let open =
            |op: &OpId| multiply_adds_if_known(graph, *op).is_some() && multiply_adds(graph, *op, &inferred).is_none();
        let mut seen = BTreeMap::new();
        if samples.is_none() && !graph.ops_in_id_order().iter().any(open) {
            return Ok(seen);
        }
        let sample = match samples {
            Some(samples) => samples.get(0).map_err(Failure::samples)?,
            None => match Samples::shortest_made_up(graph, evaluator).and_then(|samples| samples.get(0)) {
                Ok(sample) => sample,
                Err(error) => {
                    self.notes.push(format!("some shapes are not known: {error:#}"));
                    return Ok(seen);
                }
            },
        };
        let run = evaluator.prepare(graph).and_then(|prepared| {
            prepared.run(&sample.inputs, &mut |value, tensor: &Tensor| {
                seen.insert(value, tensor.dims().to_vec());
            })
        });
        match run {
            Ok(_) if samples.is_some() => self.work.shapes = "sample",
            Ok(_) => {
                let ones = graph.inputs().iter().zip(&sample.inputs).all(|(input, tensor)| {
                    let shape = graph.ty(*input).and_then(|ty| ty.shape.as_ref());
                    let dims = shape.into_iter().flatten().zip(tensor.iter().flat_map(|tensor| tensor.dims()));
                    dims.into_iter().all(|(dim, length)| dim.known().is_some() || *length == 1)
                });
                self.work.shapes = if ones { "made-up sample" } else { "longer made-up sample" };
            }
            Err(error) => {
                let what = if samples.is_some() { &sample.name } else { "a made-up sample" };
                self.notes.push(format!("some shapes are not known: the model does not run on {what}: {error}"));
                seen.clear();
            }
        }
        Ok(seen)
    }
}

/// What is added up over a graph and its bodies.
#[derive(Default)]
struct Tally {
    kinds: BTreeMap<String, Kind>,
    types: BTreeMap<&'static str, Type>,
    not_counted: BTreeMap<String, usize>,
    /// Ops of the main graph in its order, with whether they are worth a line
    lines: Vec<(OpLine, bool)>,
}

impl Tally {
    /// Adds up the main graph.
    fn graph(&mut self, graph: &Graph, work: &dyn Fn(OpId) -> Option<u64>, constants: &mut Constants) {
        for (op, weights) in self.ops(graph, work, constants) {
            let output = graph.op(op).outputs().iter().flatten().next();
            let multiply_adds = work(op);
            let line = OpLine {
                name: graph.label_of(op).to_owned(),
                op: graph.op(op).full_type(),
                output: output.and_then(|value| graph.ty(*value)).map(TensorType::to_string),
                multiply_adds,
                bytes: weights.bytes,
                zeros: weights.zero_share(),
            };
            let worth = line.bytes > 0 || multiply_adds.is_some_and(|count| count > 0);
            self.lines.push((line, worth));
        }
    }

    /// Adds up `graph` and its bodies. Gives back each op of `graph` with the constants that are its own, those in its
    /// bodies included.
    fn ops(
        &mut self,
        graph: &Graph,
        work: &dyn Fn(OpId) -> Option<u64>,
        constants: &mut Constants,
    ) -> Vec<(OpId, Weights)> {
        for value in graph.values() {
            let (dtype, bytes) = match (graph.constant(value), graph.ty(value)) {
                (Some(constant), _) => (constant.dtype(), Some(constant.byte_len() as u64)),
                (None, Some(ty)) if !graph.value(value).is_captured() => (ty.dtype, None),
                _ => continue,
            };
            self.add_type(dtype, bytes);
        }
        let (owned, spare) = constants::owners(graph);
        constants.add(&spare);
        let mut result = Vec::new();
        for op in graph.ops() {
            let mut weights = owned.get(&op).cloned().unwrap_or_default();
            constants.add(&weights);
            let kind = graph.op(op).full_type();
            let multiply_adds = work(op);
            if multiply_adds.is_none() {
                *self.not_counted.entry(kind.clone()).or_insert(0) += 1;
            }
            let entry = self.kinds.entry(kind.clone()).or_insert_with(|| Kind { op: kind, ..Kind::default() });
            entry.count += 1;
            entry.multiply_adds += multiply_adds.unwrap_or(0);
            entry.bytes += weights.bytes;
            if graph.op(op).is("Constant")
                && let Some(tensor) = graph.op(op).tensor("value")
            {
                self.add_type(tensor.dtype(), Some(tensor.byte_len() as u64));
            }
            for region in graph.op(op).regions() {
                // How often a body runs is not known.
                let in_body = |inner: OpId| match multiply_adds_if_known(&region.graph, inner) {
                    Some(0) => Some(0),
                    _ => None,
                };
                for (_, inner) in self.ops(&region.graph, &in_body, constants) {
                    weights.add(&inner);
                }
            }
            result.push((op, weights));
        }
        result
    }

    fn add_type(&mut self, dtype: DataType, constant: Option<u64>) {
        let entry = self.types.entry(dtype.name()).or_default();
        entry.dtype = dtype.name().to_owned();
        match constant {
            Some(bytes) => {
                entry.constants += 1;
                entry.bytes += bytes;
            }
            None => entry.values += 1,
        }
    }
}
