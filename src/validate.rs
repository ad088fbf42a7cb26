//! Whether one model does what another does: both run on samples, and the gates of the main form judge.
//!
//! [`validate`] gives a [`Verdict`]; [`text`] shows it, and serde makes the documented JSON of it (`docs/validate.md`).
//! **Nothing** is written. The first model is the truth: a model that cannot be run here is a failure if it is the first, and
//! a difference if it is the second.
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{Dim, Evaluate, Graph, Model, import, infer, proto::schema::ModelProto};
use onnx_shrink_passes::quantize::is_quantized;
use serde::Serialize;

use crate::{
    Failure, Gates, Progress, SampleOptions, Samples, files,
    metrics::{CompareError, Comparison, GateResult, OutputMetrics, compare, compare_values},
    report::Side,
    request::ExitCode,
};

pub mod text;

/// Version of the JSON. It rises when a field changes its meaning or goes; new fields do not count.
pub const SCHEMA: u32 = 1;

/// Made-up samples when there are no real ones.
const GENERATED_SAMPLES: usize = 4;

/// Which gates judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
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
    pub before: PathBuf,
    /// The model that is judged
    pub after: PathBuf,
    /// Samples; `None`: made-up ones
    pub data: Option<PathBuf>,
    /// How files become samples
    pub sample_options: SampleOptions,
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

fn load(path: &Path) -> Result<(Model, Side, ModelProto), Failure> {
    let loaded = files::load_to_read(path)?;
    let name = path.display().to_string();
    let mut model =
        import(loaded.model.clone()).map_err(|error| Failure::input(anyhow!(error).context(name.clone())))?;
    infer::infer(&mut model.graph);
    let side = Side::of(&name, files::size_of_input(&loaded), &model);
    Ok((model, side, loaded.model))
}

/// Runs both models of `request` on its samples and judges.
pub fn validate(request: &Validate, progress: &dyn Progress) -> Result<Verdict, Failure> {
    let stage = progress.stage("loading", None);
    let (mut before, side, proto) = load(&request.before)?;
    let (mut after, other, other_proto) = load(&request.after)?;
    // Defaults are overridden by no sample, and one of the models may have them as constants already.
    before.graph.freeze_defaults();
    after.graph.freeze_defaults();
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
        standard,
        comparison: None,
        gates: Vec::new(),
        values: None,
        notes: Vec::new(),
    };
    if !verdict.interface.is_empty() {
        return Ok(verdict);
    }
    let samples = match &request.data {
        Some(data) => Samples::open(data, &before.graph, &request.sample_options),
        None => Samples::made_up(&before.graph, &Interpreter::new(Default::default()), GENERATED_SAMPLES),
    };
    let samples = samples.map_err(Failure::samples)?;
    if request.data.is_none() {
        verdict
            .notes
            .push("the samples are made up: they say nothing about accuracy; give real ones with --data".into());
    }
    match verdict.run(&before, &after, &samples, request, progress) {
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
        before: &Model,
        after: &Model,
        samples: &Samples,
        request: &Validate,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let evaluator = Interpreter::new(onnx_shrink_exec::Options::default());
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
        let comparison = match compare(&before.graph, first.as_ref(), second.as_ref(), samples, 0, stage.as_ref()) {
            Ok(comparison) => comparison,
            Err(CompareError::Sample(error)) => return Err(Failure::samples(error)),
            Err(CompareError::Run { sample, model: "original", source }) => {
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
        self.notes.extend(comparison.warning());
        self.passed = self.gates.iter().all(|gate| gate.passed);
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

/// Whether `graph` holds weights of 8 bits, or ops for them.
fn in_8_bits(graph: &Graph) -> bool {
    let is_small = |value| {
        let constant = graph.constant(value);
        constant
            .is_some_and(|tensor| tensor.dims().len() >= 2 && tensor.dtype().is_integer() && tensor.dtype().bits() <= 8)
    };
    is_quantized(graph) || graph.values().into_iter().any(is_small)
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
