//! The main job: load, rewrite without loss, quantize, prove, write.
//!
//! Order: what is read is proven readable before anything is computed, and nothing is written before every gate holds.
use std::{fmt, sync::Arc};

use anyhow::anyhow;
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{
    DataType, Graph, Model, export,
    proto::{Loaded, Saved},
    verify,
};
use onnx_shrink_passes::{
    Entry, Options,
    analysis::quantized::is_wholly_quantized,
    pipeline::Pipeline,
    quantize::{CancelQdq, cancel_qdq, fix_saturation},
};

use crate::{
    ExitCode, Failure, Progress, Request, Samples, coverage,
    dump::Dump,
    files::{Chosen, UnknownFields},
    lossless::Lossless,
    open::{Defaults, Functions, Opened, Opening},
    paths::{self, Paths},
    proof::Proof,
    random,
    report::Note,
    report::{About, Report, Side},
    request::io::Output,
    simplified::Simplified,
};

mod by_region;
mod check;
mod given;
mod half;
mod judge;
mod mend;
mod quantize;
mod storage;
mod structure;
mod weights;

use given::Given;

/// Why no model was written.
#[derive(Debug)]
pub struct ShrinkError {
    /// What went wrong
    pub failure: Failure,
    /// What was found out before, when a gate failed
    pub report: Option<Box<Report>>,
}

impl From<Failure> for ShrinkError {
    fn from(failure: Failure) -> ShrinkError {
        ShrinkError { failure, report: None }
    }
}

impl std::error::Error for ShrinkError {}

impl fmt::Display for ShrinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

/// What came of a request.
#[derive(Debug)]
pub struct Shrunk {
    /// What was done, and what not and why
    pub report: Report,
    /// The bytes of the model, where they were to go to memory: [`Output::Memory`]
    pub model: Option<Vec<u8>>,
}

/// Makes the model of `request` smaller and writes it.
///
/// # Errors
/// With the [`ExitCode`] of: an input that cannot be used, options that do not go together, samples that cannot be used, a gate that fails
/// (with the report so far), a bug. Nothing is written then.
pub fn shrink(request: &Request, progress: &dyn Progress) -> Result<Shrunk, ShrinkError> {
    let mut pipeline = request.control.pipeline()?;
    let is_named = |only: &String| only.replace('_', "-") == cancel_qdq::PASS.name;
    if request.qdq.cancel.is_some() || request.control.only.iter().any(is_named) {
        pipeline = pipeline.and(Box::new(CancelQdq::exact().on(request.target)));
    }
    shrink_with(request, progress, pipeline)
}

/// The same with other lossless passes: for tests that plant a wrong one.
#[doc(hidden)]
pub fn shrink_with(request: &Request, progress: &dyn Progress, pipeline: Pipeline) -> Result<Shrunk, ShrinkError> {
    request.checked_output()?;
    Paths::of(request).check()?;
    paths::check_data_name(request)?;
    request.gates.check(request)?;
    given::check(request)?;
    let run = |functions| -> Result<(Ran, Shrunk), ShrinkError> {
        let mut job = Job::new(request, progress, functions)?;
        match job.run(&pipeline) {
            Ok(ran) => Ok((ran, Shrunk { report: job.report, model: job.model })),
            Err(failure) if failure.code == ExitCode::Gate => {
                Err(ShrinkError { failure, report: Some(Box::new(job.report)) })
            }
            Err(failure) => Err(failure.into()),
        }
    };
    let work = || match run(Functions::Inlined)? {
        (Ran::Done, shrunk) => Ok(shrunk),
        (Ran::LargerInlined, _) => match run(Functions::Kept)? {
            (Ran::Done, shrunk) => Ok(shrunk),
            (Ran::LargerInlined, _) => Err(Failure::bug(anyhow!("{}: nothing was inlined", request.input)).into()),
        },
    };
    match rayon::ThreadPoolBuilder::new().num_threads(request.used_threads()).build() {
        Ok(pool) => pool.install(work),
        Err(_) => work(),
    }
}

/// What calibration saw of a shard of samples.
pub struct Shard {
    /// The file of ranges
    pub bytes: Vec<u8>,
    /// Samples of the shard
    pub samples: usize,
    /// Values that were seen
    pub values: usize,
    /// Says which samples were left out, and why
    pub warning: Option<String>,
}

/// Runs the model of `request` on all samples of its `data`, and gives the statistics that a request with `int8` collects there: those of
/// several shards, in files that [`Ranges::files`](crate::request::Ranges::files) names, calibrate together. Nothing is judged or written.
pub fn calibrate(request: &Request, progress: &dyn Progress) -> Result<Shard, Failure> {
    let Some(data) = &request.data else {
        return Err(Failure::usage("no samples: name those of this shard with --data PATH"));
    };
    let request = &Request { int8: true, validate: false, data: None, validation_data: None, ..request.clone() };
    let pipeline = request.control.pipeline()?;
    Job::new(request, progress, Functions::Inlined)?.calibrate(&pipeline, data)
}

/// How a run ended.
enum Ran {
    /// All is done
    Done,
    /// The model would be larger than it was, with the calls of its functions inlined: they are to stay as they are
    LargerInlined,
}

/// One run.
struct Job<'a> {
    request: &'a Request,
    progress: &'a dyn Progress,
    evaluator: Arc<Interpreter>,
    options: Options,
    loaded: Loaded,
    /// The model as it was read, but for calls of its functions
    original: Model,
    /// Calls of its functions that are inlined
    calls: usize,
    /// What `--prune` and `--svd` made of it, once they did
    reference: Option<Model>,
    /// What stands aside while the half of the model that runs is worked on
    rest: Option<half::Rest>,
    report: Report,
    /// Samples that calibrate, and those that judge
    samples: Option<(Samples, Samples)>,
    /// Constants of the original that no sample of the check reached
    unreached: Vec<String>,
    /// Why the original runs on none of them, if so
    not_run: Option<String>,
    dump: Option<Dump>,
    /// The bytes that were written to memory
    model: Option<Vec<u8>>,
}

impl<'a> Job<'a> {
    fn new(request: &'a Request, progress: &'a dyn Progress, functions: Functions) -> Result<Job<'a>, Failure> {
        request.formats.check(request)?;
        request.weights.check(request)?;
        if request.exact && request.int8 {
            return Err(Failure::usage("--exact forbids every rewrite that --int8 stands for: leave out one of them"));
        }
        let options = request.options()?;
        let defaults = match request.control.freeze_initializers {
            true => Defaults::All,
            false => Defaults::OfWeights,
        };
        let conforms = !request.allow_unknown_ops;
        let opening = Opening { functions, defaults, conforms, shapes: Some(&request.control) };
        let unknown = if request.allow_unknown_fields { UnknownFields::Dropped } else { UnknownFields::Refused };
        let stage = progress.stage("loading", None);
        let Opened { loaded, bytes, name, model: original, calls, frozen, notes } =
            opening.read(&request.input, unknown)?;
        drop(stage);
        let mut report = Report::new(Side::of(&name, bytes, &original));
        report.notes.extend(notes);
        if frozen > 0 {
            report.notes.push(Note::Frozen { count: frozen, is_asked_for: request.control.freeze_initializers });
        }
        let evaluator = Arc::new(Interpreter::new(onnx_shrink_exec::Options::default().with_random()));
        let given = Given::open(request, &original.graph, evaluator.as_ref(), progress)?;
        report.warnings.extend(given.warnings);
        report.skipped_samples = given.skipped;
        let dump = request.control.dump_dir.as_deref().map(Dump::new).transpose()?;
        Ok(Job {
            request,
            progress,
            evaluator,
            options,
            loaded,
            original,
            calls,
            reference: None,
            rest: None,
            report,
            samples: given.samples,
            unreached: Vec::new(),
            not_run: given.not_run,
            dump,
            model: None,
        })
    }

    fn run(&mut self, pipeline: &Pipeline) -> Result<Ran, Failure> {
        let (Simplified { model: mut lossless, statistics }, mut changed) = self.lossless(pipeline)?;
        if self.request.control.stops_early() {
            return self.write(lossless, changed);
        }
        let structure = self.request.structure;
        let approximates = self.request.int8
            || self.request.weights.weights.is_some()
            || structure.prune.is_some()
            || structure.svd.is_some();
        if approximates && self.request.validate && self.report.unproven.is_none() {
            // (Where nothing was rewritten nothing was run yet.)
            self.report.unproven = self.not_run.clone();
        }
        changed |= self.mend(&mut lossless)?;
        let mut model = self.runnable(lossless)?;
        if self.report.unproven.is_some() && (structure.prune.is_some() || structure.svd.is_some()) {
            self.leave_float();
            let model = self.rest.take().map_or(model, |rest| rest.whole);
            return self.write(model, changed);
        }
        let mut steps = 0;
        if structure.prune.is_some()
            && let Some(pruned) = self.prune(&model, &statistics)?
        {
            model = self.step("prune", pruned);
            steps += 1;
        }
        if let Some(svd) = structure.svd
            && let Some(split) = self.split_low_rank(&model, svd)?
        {
            model = self.step("svd", split);
            steps += 1;
        }
        if self.request.int8 {
            if is_wholly_quantized(&self.original.graph) {
                self.report.notes.push(Note::QuantizedAlready);
            } else if let Some(quantized) = self.int8(&model, &statistics)? {
                if let Some(dump) = &self.dump {
                    dump.at("int8", &quantized.graph);
                }
                model = quantized;
                steps += 1;
            }
        }
        if let Some(weights) = self.request.weights.weights
            && let Some(small) = self.small_weights(&model, weights)?
        {
            model = small;
            steps += 1;
        }
        if steps > 1 {
            self.judge_total(&model)?;
        }
        if let Some(rest) = self.rest.take() {
            let whole = self.whole(rest, (steps > 0).then_some(model), &statistics)?;
            return self.write(whole.0, changed || whole.1);
        }
        changed |= steps > 0;
        self.write(model, changed)
    }

    /// Takes `model` as what the steps after `name` are judged against.
    fn step(&mut self, name: &str, model: Model) -> Model {
        if let Some(dump) = &self.dump {
            dump.at(name, &model.graph);
        }
        self.reference = Some(model.detached());
        model
    }

    /// The model after the lossless passes, proven where it can be run, and whether a rewrite was done.
    fn lossless(&mut self, pipeline: &Pipeline) -> Result<(Simplified, bool), Failure> {
        let stage = self.progress.stage("rewriting", None);
        let judges = self.samples.as_ref().map(|(_, judges)| judges.clone());
        let evaluator = self.evaluator.clone();
        let proof = Proof::new(evaluator.as_ref(), self.progress, &self.original.graph, judges.as_ref());
        let proof = self.request.validate.then_some(&proof);
        let work = Lossless {
            original: &self.original,
            pipeline,
            options: &self.options,
            evaluator: evaluator.as_ref(),
            proof,
            gates: &self.request.gates,
            is_half: is_half(&self.original.graph),
            dump: self.dump.as_ref(),
        };
        let proven = work.run()?;
        drop(stage);
        self.report.unproven = proof.filter(|proof| !proof.is_possible()).and_then(Proof::unproven);
        if self.report.unproven.is_some() && self.samples.is_some() {
            self.blame_samples()?;
        }
        let rewrites_weights = self.request.int8 || self.request.weights.weights.is_some();
        if let Some(proof) = proof.filter(|_| rewrites_weights || proven.comparison.is_some()) {
            self.unreached = proof.coverage().map_or_else(Vec::new, |found| found.unreached.clone());
        }
        self.report.warnings.extend(proven.culprits.iter().map(|culprit| culprit.sentence()));
        self.report.culprits = proven.culprits;
        self.report.lossless = proven.comparison;
        self.report.regions = proven.regions;
        self.report.notes.extend(proven.not_run.map(Note::ExactByConditions));
        self.report.gates.extend(proven.gates);
        self.report.cancelled = proven.cancelled;
        let changed = proven.journal.done() > 0;
        self.report.journal = proven.journal.entries;
        // What is guilty stays out of later runs of the same passes.
        self.options = Options { exact: self.options.exact, ..proven.options };
        Ok((Simplified { model: proven.model, statistics: proven.statistics }, changed))
    }

    fn write(&mut self, mut model: Model, changed: bool) -> Result<Ran, Failure> {
        let _stage = self.progress.stage("writing", None);
        let report = &self.report;
        let compared = [&report.lossless, &report.quantized, &report.split, &report.total];
        if compared.iter().any(|comparison| comparison.is_some()) || report.structure.is_some() {
            self.report.notes.extend(random::note(&self.original.graph));
        }
        let control = &self.request.control;
        let is_fixed = !control.input_shapes.is_empty() || !control.dims.is_empty();
        let changed = changed || is_fixed || control.freeze_initializers;
        if changed && model.ir_version() < 4 {
            model.set_ir_version(4); // the first in which initializers need not be inputs
        }
        if let Some(violation) = verify::new_violations(&self.original, &model).first() {
            let input = &self.request.input;
            return Err(Failure::bug(anyhow!("{input}: the result breaks an invariant: {violation}")));
        }
        self.report.unreached = coverage::differing(&self.unreached, &self.original.graph, &model.graph);
        self.report.warnings.extend(coverage::warning(&self.report.unreached));
        self.judge_given(&model, changed)?;
        let result = if changed { export(&model) } else { self.loaded.model.clone() };
        // A repair is asked for, and worth the bytes of its scales.
        let is_repair = |entry: &Entry| entry.pass == fix_saturation::PASS.name && entry.is_done();
        let may_grow = self.report.journal.iter().any(is_repair);
        let chosen = Chosen::new(&result, &self.loaded, may_grow);
        if self.calls > 0 && chosen.written().larger {
            return Ok(Ran::LargerInlined);
        }
        if self.calls > 0 && !chosen.written().input_kept {
            self.report.notes.push(Note::FunctionsInlined(self.calls));
        }
        if let Some(name) = &control.explain {
            self.report.about = About::of(name, &self.original.graph, &model.graph, &self.report);
        }
        let output = self.request.checked_output()?;
        let place = output.map_or_else(String::new, ToString::to_string);
        self.report.finish(place, &chosen.written(), &model);
        self.report.written = !control.dry_run;
        let gate = self.request.gates.size(chosen.written().bytes);
        let failed = gate.as_ref().filter(|gate| !gate.passed).map(|gate| gate.reason.clone());
        self.report.gates.extend(gate);
        if let Some(reason) = failed {
            self.report.written = false;
            return Err(self.gate_failed(&reason));
        }
        match output.filter(|_| !control.dry_run) {
            None => {}
            Some(Output::Memory) => self.model = Some(chosen.to_bytes()?),
            Some(Output::Stdout) => chosen.print()?,
            Some(Output::File(file)) => {
                let saved = chosen.write(self.request.input.file(), file, &self.request.external_data)?;
                self.report.notes.extend(notes_of(saved));
            }
        }
        Ok(Ran::Done)
    }
}

/// What a user may want to know of files that were written.
fn notes_of(saved: Saved) -> Vec<Note> {
    let mut notes = Vec::new();
    if let (Some(data), Some(avoided)) = (saved.data, saved.avoided) {
        notes.push(Note::TensorsElsewhere { data, avoided: avoided.data, model: avoided.model });
    }
    if let Some(kept) = saved.kept {
        notes.push(Note::OldDataKept { data: kept.data, model: kept.model });
    }
    notes
}

/// Whether the model computes in 16-bit floats.
pub fn is_half(graph: &Graph) -> bool {
    graph.values().into_iter().any(|value| graph.ty(value).is_some_and(|ty| ty.dtype == DataType::Float16))
}
