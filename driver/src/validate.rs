//! Whether one model does what another does: both run on samples, and the gates of the main form judge.
//!
//! [`validate`] gives a [`Verdict`]; the command line shows it as text, and serde makes the documented JSON of it (`docs/validate.md`).
//! **Nothing** is written. The first model is the truth: a model that cannot be run here is a failure if it is the first, and
//! a difference if it is the second.
use anyhow::anyhow;
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{Dim, Evaluate, Graph, Model, proto::schema::ModelProto};
use onnx_shrink_passes::analysis::quantized::is_quantized;
use serde::Serialize;

use crate::{
    ExitCode, Failure, Gates, Progress, SampleOptions, Samples,
    coverage::{COVERED_SAMPLES, Coverage, MOST_NAMED, constant_named, coverage, reaching},
    files::UnknownFields,
    gates::Gate,
    metrics::{CompareError, Comparison, GateResult, OutputMetrics, Which, compare, compare_values},
    open::{Defaults, Functions, Opened, Opening},
    progress::Silent,
    random,
    report::Side,
    request::{io::Input, refuse_sample_options},
    samples::{BadSamples, Data, Examiner, Extent, SampleError},
};

/// Version of the JSON. It rises when a field changes its meaning or goes; new fields do not count.
pub const SCHEMA: u32 = 1;

/// Made-up samples when there are no real ones: at least, and where they cost little.
const GENERATED_SAMPLES: (usize, usize) = (4, 8);

/// Which gates judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standard {
    /// `int8` if one of the models has 8-bit weights or ops and the other has none, `lossless` otherwise
    #[default]
    Auto,
    /// The same results but for rounding
    Lossless,
    /// Near enough for quantized models
    Int8,
}

/// What is to be validated, and how.
#[derive(Clone, Debug)]
pub struct Validate {
    /// The model that is right
    pub before: Input,
    /// The model that is judged
    pub after: Input,
    /// Samples; `None`: made-up ones
    pub data: Option<Data>,
    /// How files become samples
    pub sample_options: SampleOptions,
    /// What becomes of samples that cannot be used
    pub bad_samples: BadSamples,
    /// What must hold
    pub gates: Gates,
    /// Which of the gates judge
    pub standard: Standard,
    /// Whether each value that both models have under one name is compared
    pub all_values: bool,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// [`SCHEMA`]
    pub schema: u32,
    /// Version of the program
    pub version: &'static str,
    /// The model that is right
    pub before: Side,
    /// The model that was judged
    pub after: Side,
    /// Whether everything holds
    pub passed: bool,
    /// Where the inputs and outputs of the models differ, a sentence each; nothing was run then
    pub interface: Vec<String>,
    /// Why the second model could not be run
    pub not_run: Option<String>,
    /// Whether the samples are made up: they tell whether both compute the same, nothing about accuracy
    pub made_up: bool,
    /// Constants of the first model on which no output depended on any sample: the comparison says nothing of them
    pub unreached: Vec<String>,
    /// Those that the second model has with other numbers: nothing shows that both compute the same
    pub unjudged: Vec<String>,
    /// Which gates judged
    pub standard: Standard,
    /// The outputs; `None` when the models were not run
    pub comparison: Option<Comparison>,
    /// Every gate that was judged
    pub gates: Vec<GateResult>,
    /// Values that both models have under one name, the worst first; `None` when that was not asked
    pub values: Option<Vec<OutputMetrics>>,
    /// What a user may want to know
    pub notes: Vec<String>,
}

/// A model and what it is. Defaults are overridden by no sample, and one of the models may have them as constants already.
fn read(input: &Input) -> Result<(Model, Side, ModelProto), Failure> {
    let opening = Opening { functions: Functions::Inlined, defaults: Defaults::All, conforms: false, shapes: None };
    let Opened { loaded, bytes, name, model, .. } = opening.read(input, UnknownFields::Ignored)?;
    let side = Side::of(&name, bytes, &model);
    Ok((model, side, loaded.model))
}

/// How models run here: random ops draw the same made-up numbers in both.
fn engine() -> onnx_shrink_exec::Options {
    onnx_shrink_exec::Options::default().with_random()
}

impl Validate {
    /// Whether `after` does what `before` does, with every default: on made-up samples.
    pub fn new(before: impl Into<Input>, after: impl Into<Input>) -> Validate {
        Validate {
            before: before.into(),
            after: after.into(),
            data: None,
            sample_options: SampleOptions::default(),
            bad_samples: BadSamples::Refuse,
            gates: Gates::default(),
            standard: Standard::Auto,
            all_values: false,
        }
    }

    /// Refuses gates that nothing here can be judged by, and options of samples without samples.
    fn check(&self) -> Result<(), Failure> {
        let has_samples = self.data.is_some();
        if !has_samples {
            refuse_sample_options(self.bad_samples, &self.sample_options)?;
        }
        for &gate in &self.gates.given {
            let flag = self.gates.flag(gate);
            if gate.is_of_pruning() {
                return Err(Failure::usage(format_args!("{flag} is for runs with --prune: say sqnr or drop")));
            }
            if gate.wants_samples() && !has_samples {
                let why = "needs real samples to judge by, made-up ones tell nothing of accuracy: give --data DIR";
                return Err(Failure::usage(format_args!("{flag} {why}")));
            }
        }
        Ok(())
    }
}

/// Runs both models of `request` on its samples and judges. A second model that cannot be run is a difference, no error.
///
/// # Errors
/// Where a model cannot be read, the first does not run, the samples cannot be used, or a gate that was given cannot be judged.
pub fn validate(request: &Validate, progress: &dyn Progress) -> Result<Verdict, Failure> {
    request.check()?;
    let stage = progress.stage("loading", None);
    let (before, side, proto) = read(&request.before)?;
    let (after, other, other_proto) = read(&request.after)?;
    drop(stage);
    let standard = match request.standard {
        Standard::Auto if in_8_bits(&after.graph) != in_8_bits(&before.graph) => Standard::Int8,
        Standard::Auto => Standard::Lossless,
        chosen => chosen,
    };
    let mut verdict = Verdict {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        before: side,
        after: other,
        passed: false,
        interface: interface(&before.graph, &after.graph),
        not_run: None,
        made_up: request.data.is_none(),
        unreached: Vec::new(),
        unjudged: Vec::new(),
        standard,
        comparison: None,
        gates: Vec::new(),
        values: None,
        notes: Vec::new(),
    };
    if !verdict.interface.is_empty() {
        return Ok(verdict);
    }
    let evaluator = Interpreter::new(engine());
    let samples = match &request.data {
        Some(data) => {
            let (bad, extent) = (request.bad_samples, Extent::First);
            let examiner = Examiner { evaluator: &evaluator, progress, bad, extent };
            let usable = examiner.open(data, &before.graph, &request.sample_options).map_err(Failure::samples)?;
            verdict.notes.extend(usable.warning);
            usable.samples
        }
        None => made_up(&before.graph).map_err(Failure::samples)?,
    };
    if request.data.is_none() {
        verdict
            .notes
            .push("the samples are made up: they say nothing about accuracy; give real ones with --data".into());
    }
    verdict.notes.extend(random::note(&before.graph).iter().map(ToString::to_string));
    match verdict.run((&before, &after), &samples, request, &evaluator, progress) {
        Err(failure) if failure.code == ExitCode::Input && proto == other_proto => {
            // What cannot be run here can still be seen to be the same.
            verdict.passed = true;
            verdict.notes.push(format!("both files hold the same model; it was not run: {failure}"));
        }
        outcome => outcome?,
    }
    Ok(verdict)
}

impl Verdict {
    fn run(
        &mut self,
        (before, after): (&Model, &Model),
        samples: &Samples,
        request: &Validate,
        evaluator: &Interpreter,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let refused = |path: &str, error: String| Failure::input(anyhow!(error).context(path.to_owned()));
        let first = evaluator.prepare(&before.graph).map_err(|error| refused(&self.before.path, error.to_string()))?;
        let second = match evaluator.prepare(&after.graph) {
            Ok(second) => second,
            Err(error) => {
                self.not_run = Some(format!("{}: {error}", self.after.path));
                return Ok(());
            }
        };
        let stage = progress.stage("validating", Some(samples.len() as u64));
        let compared = compare(&before.graph, first.as_ref(), second.as_ref(), samples, 0, stage.as_ref());
        if let (Some(data), Err(CompareError::Sample(_) | CompareError::Run { model: Which::Original, .. })) =
            (&request.data, &compared)
        {
            // Names each that is bad, where there is one.
            let examined = samples.examine(&before.graph, evaluator, &Silent);
            examined.choose(samples, BadSamples::Refuse, data).map_err(Failure::samples)?;
        }
        let comparison = match compared {
            Ok(comparison) => comparison,
            Err(CompareError::Sample(error)) => return Err(Failure::samples(error)),
            Err(CompareError::Run { sample, model: Which::Original, source }) => {
                let error = format!("does not run on the sample `{sample}`: {source}");
                return Err(refused(&self.before.path, error));
            }
            Err(CompareError::Run { sample, source, .. }) => {
                self.not_run = Some(format!("{}: does not run on the sample `{sample}`: {source}", self.after.path));
                return Ok(());
            }
        };
        drop(stage);
        self.gates = match self.standard {
            Standard::Int8 => request.gates.int8(&comparison),
            _ => request.gates.lossless(&comparison, crate::shrink::is_half(&before.graph)),
        };
        if self.standard == Standard::Lossless {
            self.gates.extend(request.gates.accuracy(&comparison));
        }
        let reached = samples.subset(&(0..samples.len().min(COVERED_SAMPLES)).collect::<Vec<_>>());
        self.cover(coverage(evaluator, &before.graph, first.as_ref(), &reached), &before.graph, &after.graph);
        self.judge_given(&request.gates, &comparison, crate::shrink::is_half(&before.graph))?;
        self.notes.extend(comparison.warning());
        self.passed = self.gates.iter().all(|gate| gate.passed) && self.unjudged.is_empty();
        self.comparison = Some(comparison);
        if request.all_values {
            let stage = progress.stage("comparing values", Some(samples.len() as u64));
            let models = [(&before.graph, first.as_ref()), (&after.graph, second.as_ref())];
            let mut values = compare_values(models, samples, stage.as_ref()).map_err(|error| match error {
                CompareError::Sample(error) => Failure::samples(error),
                error => Failure::bug(error),
            })?;
            // Stable: equal ones stay in the order of the first model.
            values.sort_by(|a, b| b.rel_l2.total_cmp(&a.rel_l2));
            self.values = Some(values);
        }
        Ok(())
    }
}

impl Verdict {
    /// Says what the samples did not reach.
    fn cover(&mut self, found: Coverage, before: &Graph, after: &Graph) {
        // (What has another name or type became something else: rewritten, as far as can be told.)
        let is_other = |name: &&String| {
            let both = constant_named(before, name).zip(constant_named(after, name));
            both.is_some_and(|(one, other)| one.ty() == other.ty() && one != other)
        };
        self.unjudged = found.unreached.iter().filter(is_other).cloned().collect();
        if !found.unreached.is_empty() {
            let names: Vec<String> = found.unreached.iter().take(MOST_NAMED).map(|name| format!("`{name}`")).collect();
            let more = match found.unreached.len().saturating_sub(MOST_NAMED) {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            let names = names.join(", ");
            self.notes.push(format!("no output depended on {names}{more} on these samples: nothing is said of them"));
        }
        if found.is_partial {
            self.notes.push("not all was examined that the samples may not reach: it would take too long".to_owned());
        }
        self.unreached = found.unreached;
    }

    /// Judges by the gates that were given and that the standard leaves out; an error where one cannot be judged.
    fn judge_given(&mut self, gates: &Gates, comparison: &Comparison, half: bool) -> Result<(), Failure> {
        for gate in gates.not_among(&self.gates) {
            let mut results = match gate {
                Gate::MaxBytes => gates.size(self.after.bytes).into_iter().collect(),
                Gate::LosslessRel | Gate::LosslessRelFp16 => gates.lossless(comparison, half),
                _ => gates.int8(comparison),
            };
            results.retain(|result| result.gate == gate.key());
            if results.is_empty() {
                let why = gates.not_judged(gate, gate.lacks());
                return Err(Failure::new(ExitCode::Gate, anyhow!("{}: {why}", self.after.path)));
            }
            self.gates.extend(results);
        }
        Ok(())
    }
}

/// Whether `graph` holds weights of 8 bits, or ops for them.
fn in_8_bits(graph: &Graph) -> bool {
    let is_small = |value| {
        let constant = graph.constant(value);
        constant
            .is_some_and(|tensor| tensor.dims().len() >= 2 && tensor.dtype().is_integer() && tensor.dtype().bits() <= 8)
    };
    is_quantized(graph) || graph.values().into_iter().any(is_small)
}

/// Made-up samples that reach as much of `graph` as can be had.
fn made_up(graph: &Graph) -> Result<Samples, SampleError> {
    let evaluator = Interpreter::new(engine());
    let plain = Samples::generated(graph, GENERATED_SAMPLES.0)?;
    let Ok(prepared) = evaluator.prepare(graph) else { return Ok(plain) };
    Ok(reaching(&evaluator, graph, prepared.as_ref(), prepared.as_ref(), GENERATED_SAMPLES)
        .map_or(plain, |(samples, _)| samples))
}

/// Where inputs and outputs differ in number, name, order, element type or known dimensions, a sentence each.
fn interface(before: &Graph, after: &Graph) -> Vec<String> {
    let mut problems = Vec::new();
    for (what, ours, theirs) in
        [("input", before.inputs(), after.inputs()), ("output", before.outputs(), after.outputs())]
    {
        let names = |graph: &Graph, values: &[onnx_shrink_ir::ValueId]| -> Vec<String> {
            values.iter().map(|value| graph.name_of(*value).to_owned()).collect()
        };
        let (one, other) = (names(before, ours), names(after, theirs));
        if one != other {
            let list = |names: &[String]| match names {
                [] => "none".to_owned(),
                names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            };
            problems.push(format!(
                "the {what}s differ: {} in the first model, {} in the second",
                list(&one),
                list(&other)
            ));
            continue;
        }
        for ((name, one), other) in one.iter().zip(ours).zip(theirs) {
            let (Some(one), Some(other)) = (before.ty(*one), after.ty(*other)) else { continue };
            let fits = |(a, b): (&Dim, &Dim)| a.known().zip(b.known()).is_none_or(|(a, b)| a == b);
            let same = match (&one.shape, &other.shape) {
                (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(fits),
                _ => true,
            };
            if one.dtype != other.dtype || !same {
                problems.push(format!("the {what} `{name}` is {one} in the first model, {other} in the second"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use onnx_shrink_ir::text::parse_graph;

    use super::{in_8_bits, interface};

    fn problems(before: &str, after: &str) -> Vec<String> {
        let graph = |text| parse_graph(text, 17).unwrap().graph;
        interface(&graph(before), &graph(after))
    }

    #[test]
    fn an_interface_is_names_order_types_and_known_dimensions() {
        let model = "g (float[N,3] x, int64[2] n) => (float[N,3] y) { y = Relu (x) }";
        assert_eq!(problems(model, model), [""; 0]);
        // A dimension that one model leaves open fits any number.
        let fixed = "g (float[1,3] x, int64[2] n) => (float[1,3] y) { y = Relu (x) }";
        assert_eq!(problems(model, fixed), [""; 0]);
        let swapped = "g (int64[2] n, float[N,3] x) => (float[N,3] y) { y = Relu (x) }";
        assert_eq!(
            problems(model, swapped),
            ["the inputs differ: `x`, `n` in the first model, `n`, `x` in the second"]
        );
        let half = "g (float16[N,3] x, int64[2] n) => (float16[N,3] y) { y = Relu (x) }";
        assert_eq!(problems(model, half).len(), 2);
        let other = "g (float[N,4] x, int64[2] n) => (float[N,4] y) { y = Relu (x) }";
        assert_eq!(
            problems(model, other)[0],
            "the input `x` is float[N,3] in the first model, float[N,4] in the second"
        );
    }

    #[test]
    fn stored_weights_are_8_bits() {
        let stored = "g (float[1,2] x) => (float[1,2] y) <int8[2,2] q = {1, 0, 0, 2}> { w = Cast <to = 1> (q) y = MatMul (x, w) }";
        assert!(in_8_bits(&parse_graph(stored, 17).unwrap().graph));
        let float = "g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1, 0, 0, 2}> { y = MatMul (x, w) }";
        assert!(!in_8_bits(&parse_graph(float, 17).unwrap().graph));
    }
}
