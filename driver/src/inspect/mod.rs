//! What a model is: inputs and outputs, ops, types, bytes, work, and what `--int8` would do to it.
//!
//! [`inspect`] gathers an [`Inspection`]; the command line shows it as text, and serde makes the documented JSON of it
//! (`docs/inspect.md`). **Nothing** is written and **nothing** is rewritten but copies. A number that is not known is `None`,
//! never 0.
use std::collections::BTreeMap;

use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{Evaluate, Graph, Model, OpId, Tensor, ValueId, conform, multiply_adds};
use onnx_shrink_passes::{
    analysis::{quantized::is_wholly_quantized, saturation::saturating_layers},
    target::Target,
};

use self::tally::{Tally, multiply_adds_if_known};
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
mod inspection;
mod plan;
mod tally;

pub use constants::{Constants, Weights};
pub use groups::ChannelGroup;
pub use inspection::{Inspection, Kind, OpLine, Port, Size, Type, Work};
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

impl Inspect {
    /// What `input` is, without a plan.
    pub fn new(input: impl Into<Input>) -> Inspect {
        Inspect {
            input: input.into(),
            data: None,
            sample_options: SampleOptions::default(),
            bad_samples: BadSamples::Refuse,
            plan: None,
            groups: false,
        }
    }
}

/// Finds out what the model of `request` is.
///
/// # Errors
/// Where the model or the samples cannot be used.
pub fn inspect(request: &Inspect, progress: &dyn Progress) -> Result<Inspection, Failure> {
    let stage = progress.stage("loading", None);
    let opening =
        Opening { functions: Functions::Inlined, defaults: Defaults::OfWeights, conforms: false, shapes: None };
    let Opened { loaded, bytes, name, model, notes, .. } = opening.read(&request.input, UnknownFields::Ignored)?;
    drop(stage);
    let evaluator = Interpreter::new(onnx_shrink_exec::Options::default().with_random());
    let mut found = Inspection::of(&name, bytes, &model);
    found.functions = loaded.model.functions.len();
    found.notes.extend(notes.iter().map(ToString::to_string));
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
