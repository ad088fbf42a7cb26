//! The main job: load, rewrite without loss, quantize, prove, write.
//!
//! Order: what is read is proven readable before anything is computed, and nothing is written before every gate holds.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::anyhow;
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{DataType, Graph, Model, export, import, infer};
use onnx_shrink_passes::{
    Context, Entry, Journal, Options, Outcome, Statistics, pipeline,
    quantize::{
        FixSaturation,
        calibrators::Calibrator,
        is_quantized,
        saturation::{self, saturating_layers},
    },
};

use crate::{
    Progress, Samples, files,
    int8::{Calibrated, Int8, Quantized},
    metrics::{CompareError, Comparison, GateResult, compare_graphs},
    report::{Calibration, Report, Side},
    request::{Failure, Request},
    sensitivity,
};

/// Made-up samples that show whether two models compute the same.
const GENERATED_SAMPLES: usize = 2;

/// The key in the model's metadata that says what calibrated it, when that was no real sample.
const CALIBRATION_KEY: &str = "onnx-shrink.calibration";

const FROM_MODEL: &str = "ranges follow from the model (batch norms, bounded activations), not from samples: its error is \
                          about twice as large as with --data DIR (100 to 300 samples), which also lets more layers run in 8 bits";

const SYNTHETIC: &str = "ranges are those of synthetic samples, which says the model's metadata, too: with --data DIR (100 to \
                         300 real samples) they would fit";

/// Runs of the held-out samples that look for the layers to keep in float, at most (the first few may be more).
const FALL_BACK_RUNS: usize = 30;

/// Real samples that judge the lossless part, at most: an error there is no matter of chance.
const LOSSLESS_SAMPLES: usize = 4;

/// Makes the model of `request` smaller and writes it.
pub fn shrink(request: &Request, progress: &dyn Progress) -> Result<Report, Failure> {
    let work = || Job::new(request, progress)?.run();
    match rayon::ThreadPoolBuilder::new().num_threads(request.threads).build() {
        Ok(pool) => pool.install(work),
        Err(_) => work(),
    }
}

/// One run.
struct Job<'a> {
    request: &'a Request,
    progress: &'a dyn Progress,
    evaluator: Arc<Interpreter>,
    options: Options,
    loaded: onnx_shrink_ir::proto::Loaded,
    original: Model,
    report: Report,
    /// Samples that calibrate, and those that judge
    samples: Option<(Samples, Samples)>,
}

impl<'a> Job<'a> {
    fn new(request: &'a Request, progress: &'a dyn Progress) -> Result<Job<'a>, Failure> {
        request.checked_output()?;
        request.formats.check(request)?;
        let known: BTreeSet<&str> = pipeline::names();
        if let Some(pass) = request.skip.iter().find(|pass| !known.contains(pass.as_str())) {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Failure::usage(format_args!("--skip {pass}: there is no such pass; there are: {known}")));
        }
        let stage = progress.stage("loading", None);
        let loaded = files::load(&request.input, request.allow_unknown_fields)?;
        let name = request.input.display().to_string();
        let mut original =
            import(loaded.model.clone()).map_err(|error| Failure::input(anyhow!(error).context(name.clone())))?;
        let mut report = Report::new(Side::of(&name, files::size_of_input(&loaded), &original));
        let frozen = if original.ir_version() < 4 || request.int8 { original.graph.freeze_defaults() } else { 0 };
        if original.ir_version() >= 4 && frozen > 0 {
            // (Before version 4 every initializer had to be an input; none was meant to be given.)
            let note =
                "initializers that were inputs, too, and could be overridden, are constants now: 8 bits need that";
            report.notes.push(format!("{frozen} {note}"));
        }
        infer::infer(&mut original.graph);
        drop(stage);
        let samples = Self::open_samples(request, &original.graph)?;
        let options = Options {
            skip: request.skip.iter().cloned().collect(),
            exact: request.exact,
            verify_each: cfg!(debug_assertions),
            ..Options::default()
        };
        let evaluator = Arc::new(Interpreter::new(onnx_shrink_exec::Options::default()));
        Ok(Job { request, progress, evaluator, options, loaded, original, report, samples })
    }

    fn open_samples(request: &Request, graph: &Graph) -> Result<Option<(Samples, Samples)>, Failure> {
        let open = |path| Samples::open(path, graph, &request.sample_options).map_err(Failure::samples);
        let Some(data) = &request.data else {
            let validation = request.validation_data.as_deref().map(open).transpose()?;
            return Ok(validation.map(|samples| (samples.subset(&[]), samples)));
        };
        let samples = open(data)?;
        Ok(Some(match &request.validation_data {
            Some(path) => (samples, open(path)?),
            None => samples.split(),
        }))
    }

    fn run(mut self) -> Result<Report, Failure> {
        let evaluator = self.evaluator.clone();
        let mut cx = Context::new(self.options.clone(), evaluator.as_ref());
        let mut lossless = self.lossless(&mut cx)?;
        let statistics = std::mem::take(&mut cx.statistics);
        let mut changed = cx.journal.done() > 0;
        self.report.journal = std::mem::take(&mut cx.journal).entries;
        drop(cx);
        changed |= self.mend_saturation(&mut lossless)?;
        if self.request.int8 {
            if self.request.exact {
                return Err(Failure::usage(
                    "--exact forbids every rewrite that --int8 stands for: leave out one of them",
                ));
            }
            if is_quantized(&self.original.graph) {
                let note = "the model is quantized already: it is not quantized again";
                self.report.notes.push(note.to_owned());
            } else if let Some(model) = self.int8(&lossless, &statistics)? {
                lossless = model;
                changed = true;
            }
        }
        self.write(lossless, changed)
    }

    /// The model after the lossless passes, proven where it can be run.
    fn lossless(&mut self, cx: &mut Context<'_>) -> Result<Model, Failure> {
        let stage = self.progress.stage("rewriting", None);
        let mut model = self.original.detached();
        let in_file = |error: onnx_shrink_passes::PassError| {
            Failure::bug(anyhow!(error).context(self.request.input.display().to_string()))
        };
        pipeline::run_lossless(&mut model.graph, cx).map_err(in_file)?;
        drop(stage);
        if !self.request.validate || cx.journal.done() == 0 {
            return Ok(model);
        }
        let Some(comparison) = self.judge_lossless(&model)? else { return Ok(model) };
        let gates = self.request.gates.lossless(&comparison, is_half(&self.original.graph));
        if let Some(failed) = gates.iter().find(|gate| !gate.passed) {
            // The next best thing that is proven: the model as it was.
            self.report.warnings.push(format!(
                "the lossless rewrites changed the result, so all of them were left out: {}; this is a bug, please report it",
                failed.reason
            ));
            cx.journal = Journal::default();
            cx.statistics.clear();
            return Ok(self.original.detached());
        }
        self.report.lossless = Some(comparison);
        self.report.gates.extend(gates);
        Ok(model)
    }

    /// Weights of others that can saturate get other scales, where the user wants that; else a warning names them. Whether
    /// something changed.
    fn mend_saturation(&mut self, model: &mut Model) -> Result<bool, Failure> {
        let layers = saturating_layers(&model.graph);
        if !self.request.qdq.fix_saturation {
            self.report.warnings.extend(saturation::warning(&layers));
            return Ok(false);
        }
        if self.request.exact {
            return Err(Failure::usage("--exact forbids what --fix-saturation stands for: leave out one of them"));
        }
        let evaluator = self.evaluator.clone();
        let mut cx = Context::new(self.options.clone(), evaluator.as_ref());
        let mut mended = model.detached();
        cx.run(&FixSaturation, &mut mended.graph).map_err(Failure::bug)?;
        if cx.journal.done() == 0 {
            self.report.journal.extend(cx.journal.entries);
            let note = if layers.is_empty() { "--fix-saturation: no sums of 8-bit weights can saturate" } else { "" };
            self.report.notes.extend((!note.is_empty()).then(|| note.to_owned()));
            self.report.warnings.extend(saturation::warning(&layers));
            return Ok(false);
        }
        if self.request.validate
            && let Some(comparison) = self.judge_lossless(&mended)?
        {
            // Made-up samples show that it works; how near it is, real ones must tell.
            let judged = self.samples.as_ref().is_some_and(|(_, held_out)| !held_out.is_empty());
            let gates = if judged { self.request.gates.int8(&comparison) } else { Vec::new() };
            let failed = gates.iter().find(|gate| !gate.passed).map(|gate| gate.reason.clone());
            self.report.quantized = Some(comparison);
            self.report.gates.extend(gates);
            if let Some(reason) = failed {
                let input = self.request.input.display();
                return Err(Failure::gate(
                    format_args!("{input}: after --fix-saturation {reason}"),
                    self.report.clone(),
                ));
            }
        }
        self.report.warnings.extend(saturation::warning(&saturating_layers(&mended.graph)));
        self.report.journal.extend(cx.journal.entries);
        *model = mended;
        Ok(true)
    }

    /// The lossless result against the original, on real samples or made-up ones; `None` where neither can be run.
    fn judge_lossless(&mut self, model: &Model) -> Result<Option<Comparison>, Failure> {
        let samples = match &self.samples {
            Some((_, held_out)) => {
                let count = held_out.len().min(LOSSLESS_SAMPLES);
                held_out.subset(&(0..count).collect::<Vec<_>>())
            }
            None => match Samples::generated(&self.original.graph, GENERATED_SAMPLES) {
                Ok(samples) => samples,
                Err(error) => {
                    self.report.notes.push(format!("the result was not run against the input: {error:#}"));
                    return Ok(None);
                }
            },
        };
        self.compare(model, &samples)
    }

    /// Both models on `samples`; `None`, with a note, when the original does not run (the engine lacks an op, or made-up
    /// inputs do not suit it). An error when only the new model fails.
    fn compare(&mut self, model: &Model, samples: &Samples) -> Result<Option<Comparison>, Failure> {
        let stage = self.progress.stage("validating", Some(samples.len() as u64));
        let compared =
            compare_graphs(self.evaluator.as_ref(), &self.original.graph, &model.graph, samples, 0, stage.as_ref());
        match compared {
            Ok(comparison) => Ok(Some(comparison)),
            Err(CompareError::Run { model: "original", source, .. }) => {
                self.report.notes.push(format!("the result was not run against the input: {source}"));
                Ok(None)
            }
            Err(CompareError::Sample(error)) => Err(Failure::samples(error)),
            Err(error) => Err(Failure::bug(error)),
        }
    }

    /// The quantized model, when the gates hold for it; `None` when nothing was gained.
    fn int8(&mut self, lossless: &Model, statistics: &BTreeMap<String, Statistics>) -> Result<Option<Model>, Failure> {
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let int8 = Int8 {
            evaluator: evaluator.as_ref(),
            target: self.request.target,
            calibrate: self.request.calibrate,
            keep_float: &self.request.keep_float,
            formats: self.request.formats,
            options: &options,
            statistics,
        };
        let ranges = &self.request.ranges;
        if ranges.from_model {
            let calibrated = int8.from_model(lossless, &ranges.inputs)?;
            let held_out = self.samples.clone().map(|(_, held_out)| held_out);
            let model = self.fall_back(&calibrated, (Calibrator::MinMax, None), held_out, FROM_MODEL)?;
            self.report.calibration = Some(Calibration { samples: 0, method: "model".to_owned() });
            return Ok(model);
        }
        if let Some(count) = ranges.synthetic {
            let samples = Samples::generated(&self.original.graph, count).map_err(Failure::samples)?;
            let calibrated = int8.calibrated(lossless, &samples, self.progress)?;
            let chosen = calibrated.choose(&calibrated.placement(&BTreeSet::new()), &samples, self.progress)?;
            let held_out = self.samples.clone().map(|(_, held_out)| held_out);
            let model = self.fall_back(&calibrated, chosen, held_out, SYNTHETIC)?;
            return Ok(model.map(|mut model| {
                model.set_metadata(CALIBRATION_KEY, &format!("{count} synthetic samples"));
                model
            }));
        }
        let Some((calibrating, held_out)) = self.samples.clone().filter(|(calibrating, _)| !calibrating.is_empty())
        else {
            return match int8.without_samples(lossless)? {
                Ok(quantized) => self.accept_storage(quantized),
                Err(nothing) => {
                    self.report.notes.push(nothing);
                    Ok(None)
                }
            };
        };
        let calibrated = int8.calibrated(lossless, &calibrating, self.progress)?;
        let chosen = calibrated.choose(&calibrated.placement(&BTreeSet::new()), &calibrating, self.progress)?;
        self.fall_back(&calibrated, chosen, Some(held_out), "")
    }

    /// The model with as few units in float as the gates ask for, with the ranges that were chosen, and the model that was
    /// built with them on the way, if any; `note` tells how it was calibrated, if not on samples.
    fn fall_back(
        &mut self,
        calibrated: &Calibrated<'_>,
        (calibrator, chosen): (Calibrator, Option<Quantized>),
        held_out: Option<Samples>,
        note: &str,
    ) -> Result<Option<Model>, Failure> {
        if !note.is_empty() {
            self.report.notes.push(note.to_owned());
        }
        let none = BTreeSet::new();
        let first = match chosen {
            Some(quantized) => quantized,
            None => calibrated.build(&calibrated.placement(&none), calibrator, &none)?,
        };
        let Some(held_out) = held_out else { return self.accept_storage(first) };
        if !self.request.validate {
            return Ok(self.accept(first, None, Vec::new()));
        }
        let Some(comparison) = self.compare(&first.model, &held_out)? else {
            return Ok(self.accept(first, None, Vec::new()));
        };
        let gates = self.request.gates.int8(&comparison);
        if gates.iter().all(|gate| gate.passed) {
            return self.accept_measured(calibrated, first, &held_out, comparison, gates);
        }
        let placement = calibrated.placement(&none);
        let order = calibrated.worst(&first, &placement, &held_out)?;
        let mut holds = |kept: &BTreeSet<usize>| -> Result<bool, Failure> {
            let quantized = calibrated.build(&calibrated.placement(kept), calibrator, kept)?;
            let comparison = self.compare(&quantized.model, &held_out)?;
            let held = comparison.is_none_or(|found| self.request.gates.int8(&found).iter().all(|gate| gate.passed));
            log::info!("{} units in float: the gates {}", kept.len(), if held { "hold" } else { "fail" });
            Ok(held)
        };
        let kept =
            sensitivity::fewest(&order, FALL_BACK_RUNS, &mut holds)?.unwrap_or((0..placement.integer.len()).collect());
        let last = calibrated.build(&calibrated.placement(&kept), calibrator, &kept)?;
        let Some(comparison) = self.compare(&last.model, &held_out)? else {
            return Ok(self.accept(last, None, Vec::new()));
        };
        let gates = self.request.gates.int8(&comparison);
        if let Some(failed) = gates.iter().find(|gate| !gate.passed) {
            let message = format!("{}: {}", self.request.input.display(), failed.reason);
            self.report.quantized = Some(comparison);
            self.report.gates.extend(gates);
            return Err(Failure::gate(message, self.report.clone()));
        }
        self.accept_measured(calibrated, last, &held_out, comparison, gates)
    }

    /// Takes a model that the gates hold for, with the error of each layer.
    fn accept_measured(
        &mut self,
        calibrated: &Calibrated<'_>,
        mut quantized: Quantized,
        held_out: &Samples,
        comparison: Comparison,
        gates: Vec<GateResult>,
    ) -> Result<Option<Model>, Failure> {
        calibrated.measure_layers(&mut quantized, held_out)?;
        Ok(self.accept(quantized, Some(comparison), gates))
    }

    /// Takes a model whose constants alone were stored in 8 bits. Samples that only judge do so. Made-up inputs tell whether
    /// it runs and gives finite numbers of the right shapes; how near they are says little about real ones, so that is shown
    /// and not judged.
    fn accept_storage(&mut self, quantized: Quantized) -> Result<Option<Model>, Failure> {
        let judges = self.samples.as_ref().map(|(_, judges)| judges.clone());
        let judged = match judges {
            _ if !self.request.validate => None,
            Some(judges) => self.compare(&quantized.model, &judges)?,
            None => self.judge_lossless(&quantized.model)?,
        };
        if let Some(comparison) = &judged
            && self.samples.is_some()
        {
            let gates = self.request.gates.int8(comparison);
            let failed = gates.iter().find(|gate| !gate.passed).map(|gate| gate.reason.clone());
            self.report.gates.extend(gates);
            if let Some(reason) = failed {
                self.report.quantized = judged;
                let message = format!("{}: {reason}", self.request.input.display());
                return Err(Failure::gate(message, self.report.clone()));
            }
        }
        if let Some(comparison) = judged {
            let broken = comparison.outputs.iter().find(|output| output.misshapen > 0 || output.not_finite > 0);
            if let Some(output) = broken {
                let note = "8-bit storage was left out: with it this output is not finite or has another shape";
                self.report.warnings.push(format!("`{}`: {note}", output.name));
                return Ok(None);
            }
            self.report.quantized = Some(comparison);
        }
        self.report.layers = quantized.layers;
        self.report.journal.extend(quantized.journal.entries);
        self.report.notes.extend(quantized.notes);
        Ok(Some(quantized.model))
    }

    /// Takes a model with its layers as they were placed; `None` when no rewrite was done on the way.
    fn accept(
        &mut self,
        quantized: Quantized,
        comparison: Option<Comparison>,
        gates: Vec<GateResult>,
    ) -> Option<Model> {
        let changed = quantized.journal.done() > 0;
        self.report.layers = quantized.layers;
        self.report.quantized = comparison;
        self.report.gates.extend(gates);
        self.report.journal.extend(quantized.journal.entries);
        self.report.notes.extend(quantized.notes);
        let method = quantized.calibrator.map_or("none", |calibrator| calibrator.name()).to_owned();
        self.report.calibration = Some(Calibration { samples: quantized.samples, method });
        changed.then_some(quantized.model)
    }

    fn write(mut self, mut model: Model, changed: bool) -> Result<Report, Failure> {
        let _stage = self.progress.stage("writing", None);
        let output = self.request.checked_output()?;
        if changed && model.ir_version() < 4 {
            model.set_ir_version(4); // the first in which initializers need not be inputs
        }
        let result = if changed { export(&model) } else { self.loaded.model.clone() };
        // A repair is asked for, and worth the bytes of its scales.
        let is_repair = |entry: &Entry| entry.pass == "fix-saturation" && matches!(entry.outcome, Outcome::Done { .. });
        let may_grow = self.report.journal.iter().any(is_repair);
        let (input, external) = (&self.request.input, &self.request.external_data);
        let written = files::write(&result, &self.loaded, input, output, external, may_grow)?;
        self.report.finish(output, &written, &model);
        Ok(self.report)
    }
}

/// Whether the model computes in 16-bit floats.
fn is_half(graph: &Graph) -> bool {
    graph.values().into_iter().any(|value| graph.ty(value).is_some_and(|ty| ty.dtype == DataType::Float16))
}
