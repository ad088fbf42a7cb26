//! The main job: load, rewrite without loss, quantize, prove, write.
//!
//! Order: what is read is proven readable before anything is computed, and nothing is written before every gate holds.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use anyhow::anyhow;
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{DataType, Graph, Model, export, import, infer, verify};
use onnx_shrink_passes::{
    Context, Entry, Options, Statistics,
    pipeline::Pipeline,
    quantize::{
        CancelQdq, FixSaturation,
        calibrators::Calibrator,
        is_quantized,
        means::MOST_SAMPLES,
        saturation::{self, saturating_layers},
    },
};

use crate::{
    Progress, Samples,
    about::About,
    dump::Dump,
    files,
    formats::Dynamic,
    int8::{Calibrated, Int8, Quantized},
    lossless::Lossless,
    low_rank::{LowRank, Svd},
    metrics::{CompareError, Comparison, GateResult, compare_graphs},
    proof::{Compared, Proof},
    qdq::Cancel,
    ranges_file::{self, Digest, Stamp},
    report::{Calibration, Report, Side},
    request::{Calibrate, Failure, Request},
    sensitivity,
    small_weights::{SmallWeights, Weights},
    structure::Pruner,
};

/// Largest relative error on made-up inputs with which layers run in 8 bits without samples.
const MOST_MADE_UP_ERROR: f64 = 0.05;

/// The key in the model's metadata that says what calibrated it, when that was no real sample.
const CALIBRATION_KEY: &str = "onnx-shrink.calibration";

const FROM_MODEL: &str = "ranges follow from the model (batch norms, bounded activations), not from samples: its error is \
                          about twice as large as with --data DIR (100 to 300 samples), which also lets more layers run in 8 bits";

const SYNTHETIC: &str = "ranges are those of synthetic samples, which says the model's metadata, too: with --data DIR (100 to \
                         300 real samples) they would fit";

/// Runs of the held-out samples that look for the layers to keep in float, at most (the first few may be more).
const FALL_BACK_RUNS: usize = 30;

/// Makes the model of `request` smaller and writes it.
pub fn shrink(request: &Request, progress: &dyn Progress) -> Result<Report, Failure> {
    let mut pipeline = request.control.pipeline()?;
    let is_named = |only: &String| only.replace('_', "-") == "cancel-qdq";
    if request.qdq.cancel.is_some() || request.control.only.iter().any(is_named) {
        pipeline = pipeline.and(Box::new(CancelQdq::exact()));
    }
    shrink_with(request, progress, pipeline)
}

/// The same with other lossless passes: for tests that plant a wrong one.
#[doc(hidden)]
pub fn shrink_with(request: &Request, progress: &dyn Progress, pipeline: Pipeline) -> Result<Report, Failure> {
    let work = || Job::new(request, progress)?.run(&pipeline);
    match rayon::ThreadPoolBuilder::new().num_threads(request.threads).build() {
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
}

/// What calibration for `request`, which asks for no samples, sees on all samples in `data`.
pub fn calibrate_shard(request: &Request, data: &Path, progress: &dyn Progress) -> Result<Shard, Failure> {
    let pipeline = request.control.pipeline()?;
    Job::new(request, progress)?.calibrate(&pipeline, data)
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
    dump: Option<Dump>,
}

/// What the lossless part gives to what follows it.
struct Lean {
    model: Model,
    statistics: BTreeMap<String, Statistics>,
    /// Whether a rewrite was done
    changed: bool,
}

impl<'a> Job<'a> {
    fn new(request: &'a Request, progress: &'a dyn Progress) -> Result<Job<'a>, Failure> {
        request.checked_output()?;
        request.formats.check(request)?;
        request.weights.check(request)?;
        if request.exact && request.int8 {
            return Err(Failure::usage("--exact forbids every rewrite that --int8 stands for: leave out one of them"));
        }
        let options = request.options()?;
        let stage = progress.stage("loading", None);
        let loaded = files::load(&request.input, request.allow_unknown_fields)?;
        let name = request.input.display().to_string();
        let mut original =
            import(loaded.model.clone()).map_err(|error| Failure::input(anyhow!(error).context(name.clone())))?;
        let mut report = Report::new(Side::of(&name, files::size_of_input(&loaded), &original));
        let asked = request.int8 || request.weights.weights.is_some() || request.control.freeze_initializers;
        let frozen = if original.ir_version() < 4 || asked { original.graph.freeze_defaults() } else { 0 };
        if original.ir_version() >= 4 && frozen > 0 {
            // (Before version 4 every initializer had to be an input; none was meant to be given.)
            let note = "initializers that were inputs, too, and could be overridden, are constants now";
            let why = if request.control.freeze_initializers { "" } else { ": fewer bits need that" };
            report.notes.push(format!("{frozen} {note}{why}"));
        }
        request.control.fix_shapes(&mut original.graph)?;
        infer::infer(&mut original.graph);
        drop(stage);
        let samples = Self::open_samples(request, &original.graph)?;
        let dump = request.control.dump_dir.as_deref().map(Dump::new).transpose()?;
        let evaluator = Arc::new(Interpreter::new(onnx_shrink_exec::Options::default()));
        Ok(Job { request, progress, evaluator, options, loaded, original, report, samples, dump })
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

    fn run(mut self, pipeline: &Pipeline) -> Result<Report, Failure> {
        let Lean { model: mut lossless, statistics, mut changed } = self.lossless(pipeline)?;
        if self.request.control.stops_early() {
            return self.write(lossless, changed);
        }
        changed |= self.mend(&mut lossless)?;
        if self.report.unproven.is_some()
            && (self.request.structure.prune.is_some() || self.request.structure.svd.is_some())
        {
            self.leave_float();
            return self.write(lossless, changed);
        }
        if self.request.structure.prune.is_some()
            && let Some(model) = self.prune(&lossless, &statistics)?
        {
            // What follows is judged against the pruned model: that itself has been judged against the original.
            self.original = model.detached();
            lossless = model;
            changed = true;
        }
        if let Some(svd) = self.request.structure.svd
            && let Some(model) = self.split_low_rank(&lossless, svd)?
        {
            self.original = model.detached();
            lossless = model;
            changed = true;
        }
        if self.request.int8 {
            if is_quantized(&self.original.graph) {
                let note = "the model is quantized already: it is not quantized again";
                self.report.notes.push(note.to_owned());
            } else if let Some(model) = self.int8(&lossless, &statistics)? {
                if let Some(dump) = &self.dump {
                    dump.at("int8", &model.graph);
                }
                lossless = model;
                changed = true;
            }
        }
        if let Some(weights) = self.request.weights.weights
            && let Some(model) = self.small_weights(&lossless, weights)?
        {
            lossless = model;
            changed = true;
        }
        self.write(lossless, changed)
    }

    /// The model with weights in fewer bits, as many as the gates hold for; `None` when none got smaller.
    fn small_weights(&mut self, model: &Model, weights: Weights) -> Result<Option<Model>, Failure> {
        if self.report.unproven.is_some() {
            return Ok(self.leave_float());
        }
        if is_quantized(&self.original.graph) {
            self.report.notes.push("the model is quantized already: --weights leaves it as it is".to_owned());
            return Ok(None);
        }
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let request = self.request;
        let keep_float = &request.keep_float;
        let stage = SmallWeights { evaluator: evaluator.as_ref(), options: &options, weights, keep_float };
        let planned = stage.plan(model, self.samples.as_ref(), self.progress)?;
        let mut stored = planned.build(&BTreeSet::new())?;
        let held_out = self.samples.clone().map(|(_, held_out)| held_out).filter(|held_out| !held_out.is_empty());
        let layers = planned.worst();
        if let Some(held_out) = held_out.filter(|_| self.request.validate && !layers.is_empty()) {
            let mut holds = |kept: &BTreeSet<usize>| -> Result<bool, Failure> {
                let Some(stored) = planned.build(kept)? else { return Ok(true) };
                let comparison = self.compare(&stored.model, &held_out)?;
                Ok(comparison.is_none_or(|found| self.request.gates.int8(&found).iter().all(|gate| gate.passed)))
            };
            if !holds(&BTreeSet::new())?
                && let Some(kept) = sensitivity::fewest(&layers, FALL_BACK_RUNS, &mut holds)?
            {
                stored = planned.build(&kept)?;
            }
        }
        match stored {
            Some(stored) => self.accept_storage(stored),
            None => {
                self.report.notes.push("--weights: no weight is large enough to be stored in fewer bits".to_owned());
                Ok(None)
            }
        }
    }

    /// The model after the lossless passes, proven where it can be run.
    fn lossless(&mut self, pipeline: &Pipeline) -> Result<Lean, Failure> {
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
        self.report.warnings.extend(proven.culprits.iter().map(|culprit| culprit.sentence()));
        self.report.culprits = proven.culprits;
        self.report.lossless = proven.comparison;
        self.report.gates.extend(proven.gates);
        self.report.cancelled = proven.cancelled;
        let changed = proven.journal.done() > 0;
        self.report.journal = proven.journal.entries;
        // What is guilty stays out of later runs of the same passes.
        self.options = Options { exact: self.options.exact, ..proven.options };
        Ok(Lean { model: proven.model, statistics: proven.statistics, changed })
    }

    /// What cannot be run against the original is not approximated.
    fn leave_float(&mut self) -> Option<Model> {
        let note = "nothing approximate was done (8 bits, pruning, low rank): the result could not be run against the input; \
                    --no-validate does it all the same";
        if !self.report.notes.iter().any(|known| known == note) {
            self.report.notes.push(note.to_owned());
        }
        None
    }

    fn gate_failed(&self, reason: &str) -> Failure {
        Failure::gate(format_args!("{}: {reason}", self.request.input.display()), self.report.clone())
    }

    /// What the user wants mended in a model that others quantized, beyond what is exact: weights that can saturate get other
    /// scales (else a warning names them), and of two Quantizes in a row the last stays. Whether something changed.
    fn mend(&mut self, model: &mut Model) -> Result<bool, Failure> {
        let layers = saturating_layers(&model.graph);
        let merges = self.request.qdq.cancel == Some(Cancel::Approximate);
        let fixes = self.request.qdq.fix_saturation;
        if self.request.exact && (fixes || merges) {
            let flag = if fixes { saturation::FLAG } else { "--cancel-qdq=approximate" };
            return Err(Failure::usage(format_args!("--exact forbids what {flag} stands for: leave out one of them")));
        }
        if fixes && layers.is_empty() {
            self.report.notes.push(format!("{}: no sums of 8-bit weights can saturate", saturation::FLAG));
        }
        if self.report.unproven.is_some() {
            self.report.warnings.extend(saturation::warning(&layers));
            if fixes || merges {
                self.leave_float();
            }
            return Ok(false);
        }
        let evaluator = self.evaluator.clone();
        let mut cx = Context::new(self.options.clone(), evaluator.as_ref());
        let mut mended = model.detached();
        if merges {
            cx.run(&CancelQdq::approximate(), &mut mended.graph).map_err(Failure::bug)?;
        }
        if fixes {
            cx.run(&FixSaturation, &mut mended.graph).map_err(Failure::bug)?;
        }
        self.report.warnings.extend(saturation::warning(&saturating_layers(&mended.graph)));
        let changed = cx.journal.done() > 0;
        if changed
            && self.request.validate
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
                return Err(Failure::gate(format_args!("{input}: {reason}"), self.report.clone()));
            }
        }
        for (exactness, steps) in cx.cancelled {
            *self.report.cancelled.entry(exactness).or_default() += steps;
        }
        self.report.journal.extend(cx.journal.entries);
        if changed {
            *model = mended;
        }
        Ok(changed)
    }

    /// The model without a share of its channels, when the gates hold for it; `None` when none can go.
    fn prune(&mut self, lossless: &Model, statistics: &BTreeMap<String, Statistics>) -> Result<Option<Model>, Failure> {
        if self.request.exact {
            return Err(Failure::usage("--exact forbids what --prune stands for: leave out one of them"));
        }
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let pruner =
            Pruner { evaluator: evaluator.as_ref(), options: &options, structure: self.request.structure, statistics };
        let samples = self.samples.clone().filter(|(calibrating, _)| !calibrating.is_empty());
        let calibrating = samples.as_ref().map(|(calibrating, _)| calibrating);
        let mut pruned = match pruner.prune(lossless, calibrating, self.progress)? {
            Ok(pruned) => pruned,
            Err(why) => {
                self.report.warnings.push(format!("--prune: {why}"));
                return Ok(None);
            }
        };
        let held_out =
            self.samples.as_ref().map(|(_, held_out)| held_out.clone()).filter(|held_out| !held_out.is_empty());
        let comparison = match &held_out {
            _ if !self.request.validate => None,
            Some(held_out) => self.compare(&pruned.model, held_out)?,
            None => self.judge_lossless(&pruned.model)?,
        };
        let mut reason = None;
        if let Some(comparison) = &comparison {
            let mut gates = self.request.gates.structure(comparison);
            if held_out.is_none() {
                // Made-up samples show that it runs; how near it is, real ones must tell.
                let broken = comparison.outputs.iter().any(|output| output.misshapen > 0 || output.not_finite > 0);
                gates.retain(|gate| broken && !gate.passed);
            }
            reason = gates.iter().find(|gate| !gate.passed).map(|gate| gate.reason.clone());
            self.report.gates.extend(gates);
        }
        pruned.structure.comparison = comparison;
        let removed = 100.0 * pruned.structure.removed;
        let mut note = format!("pruning removed {removed:.1} % of the multiply-adds");
        if let Some(output) = pruned.structure.comparison.as_ref().and_then(|comparison| comparison.outputs.first()) {
            let sqnr = output.sqnr_db.map_or_else(String::new, |sqnr| format!(", SQNR {sqnr:.1} dB"));
            let agrees = output
                .top1_agreement
                .map_or_else(String::new, |share| format!(", top-1 agrees {:.1} %", 100.0 * share));
            note += &format!(": output `{}`{sqnr}{agrees}", output.name);
        }
        self.report.structure = Some(pruned.structure);
        self.report.notes.push(note);
        self.report.notes.extend(pruned.notes);
        self.report.journal.extend(pruned.journal);
        if let Some(reason) = reason {
            let input = self.request.input.display();
            return Err(Failure::gate(format_args!("{input}: after --prune: {reason}"), self.report.clone()));
        }
        Ok(Some(pruned.model))
    }

    /// The model with fully connected layers in two, when the gates hold for it; `None` when none is.
    fn split_low_rank(&mut self, model: &Model, svd: Svd) -> Result<Option<Model>, Failure> {
        if self.request.exact {
            return Err(Failure::usage("--exact forbids what --svd stands for: leave out one of them"));
        }
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let low_rank = LowRank { evaluator: evaluator.as_ref(), options: &options, svd };
        let split = low_rank.split(model, self.samples.as_ref(), self.progress)?;
        self.report.low_rank = split.layers;
        self.report.journal.extend(split.journal);
        let Some(model) = split.model else {
            let note = "--svd: no layer was split: the report says why for each (--report)";
            self.report.notes.push(note.to_owned());
            return Ok(None);
        };
        let held_out =
            self.samples.as_ref().map(|(_, held_out)| held_out.clone()).filter(|held_out| !held_out.is_empty());
        let comparison = match &held_out {
            _ if !self.request.validate => None,
            Some(held_out) => self.compare(&model, held_out)?,
            None => self.judge_lossless(&model)?,
        };
        if let Some(comparison) = comparison {
            let mut gates = self.request.gates.int8(&comparison);
            if held_out.is_none() {
                // As after pruning: made-up samples show that it runs.
                let broken = comparison.outputs.iter().any(|output| output.misshapen > 0 || output.not_finite > 0);
                gates.retain(|gate| broken && !gate.passed);
            }
            let failed = gates.iter().find(|gate| !gate.passed).map(|gate| gate.reason.clone());
            self.report.gates.extend(gates);
            self.report.quantized = Some(comparison);
            if let Some(reason) = failed {
                let input = self.request.input.display();
                return Err(Failure::gate(format_args!("{input}: after --svd: {reason}"), self.report.clone()));
            }
        }
        Ok(Some(model))
    }

    /// The lossless result against the original, on real samples or made-up ones; `None` where neither can be run.
    fn judge_lossless(&mut self, model: &Model) -> Result<Option<Comparison>, Failure> {
        let judges = self.samples.as_ref().map(|(_, judges)| judges.clone());
        let proof = Proof::new(self.evaluator.as_ref(), self.progress, &self.original.graph, judges.as_ref());
        let unproven = match proof.compare(&model.graph)? {
            Compared::Done(comparison) => return Ok(Some(comparison)),
            Compared::Fails(reason) => return Err(Failure::bug(anyhow!("the result does not run: {reason}"))),
            Compared::Unproven => proof.unproven(),
        };
        drop(proof);
        self.report.unproven = unproven;
        Ok(None)
    }

    /// Both models on `samples`; `None` when the original does not run (the engine lacks an op, or made-up
    /// inputs do not suit it). An error when only the new model fails.
    fn compare(&mut self, model: &Model, samples: &Samples) -> Result<Option<Comparison>, Failure> {
        let stage = self.progress.stage("validating", Some(samples.len() as u64));
        let compared =
            compare_graphs(self.evaluator.as_ref(), &self.original.graph, &model.graph, samples, 0, stage.as_ref());
        match compared {
            Ok(comparison) => Ok(Some(comparison)),
            Err(CompareError::Run { model: "original", source, .. }) => {
                self.report.unproven = Some(source.to_string());
                Ok(None)
            }
            Err(CompareError::Sample(error)) => Err(Failure::samples(error)),
            Err(error) => Err(Failure::bug(error)),
        }
    }

    /// The quantized model, when the gates hold for it; `None` when nothing was gained.
    fn int8(&mut self, lossless: &Model, statistics: &BTreeMap<String, Statistics>) -> Result<Option<Model>, Failure> {
        if self.report.unproven.is_some() {
            return Ok(self.leave_float());
        }
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let int8 = self.quantizer(evaluator.as_ref(), &options, statistics);
        let ranges = &self.request.ranges;
        if ranges.from_model {
            let calibrated = int8.from_model(lossless, &ranges.inputs)?;
            let held_out = self.samples.clone().map(|(_, held_out)| held_out);
            let model = self.fall_back(calibrated, (Calibrator::MinMax, None), held_out, FROM_MODEL)?;
            self.report.calibration = Some(Calibration { samples: 0, method: "model".to_owned() });
            return Ok(model);
        }
        if !ranges.files.is_empty() {
            return self.int8_of_shards(&int8, lossless);
        }
        if let Some(count) = ranges.synthetic {
            let samples = Samples::generated(&self.original.graph, count).map_err(Failure::samples)?;
            let calibrated = int8.calibrated(lossless, &samples, self.progress)?;
            let chosen = calibrated.choose(&calibrated.placement(&BTreeSet::new()), &samples, self.progress)?;
            let held_out = self.samples.clone().map(|(_, held_out)| held_out);
            let model = self.fall_back(calibrated, chosen, held_out, SYNTHETIC)?;
            return Ok(model.map(|mut model| {
                model.set_metadata(CALIBRATION_KEY, &format!("{count} synthetic samples"));
                model
            }));
        }
        let Some((calibrating, held_out)) = self.samples.clone().filter(|(calibrating, _)| !calibrating.is_empty())
        else {
            return self.without_samples(&int8, lossless);
        };
        let calibrated = int8.calibrated(lossless, &calibrating, self.progress)?;
        let chosen = calibrated.choose(&calibrated.placement(&BTreeSet::new()), &calibrating, self.progress)?;
        self.fall_back(calibrated, chosen, Some(held_out), "")
    }

    /// The model with the ranges of `--ranges-in`. Samples that are given choose among the range estimators, and judge.
    fn int8_of_shards(&mut self, int8: &Int8<'_>, lossless: &Model) -> Result<Option<Model>, Failure> {
        let (model, unfit) = int8.raised(lossless)?;
        if let Some(why) = unfit {
            return Err(Failure::input(anyhow!("{}: {why}", self.request.input.display())));
        }
        let calibration = ranges_file::read_all(&self.request.ranges.files, &self.stamp(&model), &model.graph)?;
        let mut calibrated = int8.from_calibration(model, calibration)?;
        let samples = self.samples.clone();
        let chosen = match samples.as_ref().map(|(choosing, _)| choosing).filter(|choosing| !choosing.is_empty()) {
            Some(choosing) if self.request.calibrate == Calibrate::Auto => {
                calibrated.see_outputs(choosing)?;
                calibrated.choose(&calibrated.placement(&BTreeSet::new()), choosing, self.progress)?
            }
            _ => (calibrated.unmeasured(), None),
        };
        self.fall_back(calibrated, chosen, samples.map(|(_, held_out)| held_out), "")
    }

    /// The model of this job, whose form `model` runs on samples.
    fn stamp(&self, model: &Model) -> Stamp {
        Stamp { input: Digest::of_model(&self.loaded.model), lossless: Digest::of_model(&export(model)) }
    }

    /// Runs the lossless passes and calibration on all samples in `data`; the bytes of a file of ranges and what it holds.
    fn calibrate(mut self, pipeline: &Pipeline, data: &Path) -> Result<Shard, Failure> {
        let input = self.request.input.display();
        if is_quantized(&self.original.graph) {
            return Err(Failure::input(anyhow!("{input}: the model is quantized already")));
        }
        let samples = Samples::open(data, &self.original.graph, &self.request.sample_options);
        let samples = samples.map_err(Failure::samples)?;
        if samples.len() as u64 > MOST_SAMPLES {
            return Err(Failure::samples(anyhow!("{}: more than {MOST_SAMPLES} samples", data.display())));
        }
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let Lean { model: lossless, statistics, .. } = self.lossless(pipeline)?;
        let int8 = self.quantizer(evaluator.as_ref(), &options, &statistics);
        let (model, unfit) = int8.raised(&lossless)?;
        if let Some(why) = unfit {
            return Err(Failure::input(anyhow!("{input}: {why}")));
        }
        let calibration = int8
            .seen(&model, &samples, false, self.progress)?
            .map_err(|why| Failure::input(anyhow!("{input}: the model cannot be calibrated: {why}")))?;
        let bytes = ranges_file::encode(&self.stamp(&model), &model.graph, &calibration);
        Ok(Shard { bytes, samples: calibration.samples, values: calibration.values.len() })
    }

    fn quantizer<'b>(
        &self,
        evaluator: &'b Interpreter,
        options: &'b Options,
        statistics: &'b BTreeMap<String, Statistics>,
    ) -> Int8<'b>
    where
        'a: 'b,
    {
        let request: &'a Request = self.request;
        Int8 {
            evaluator,
            target: request.target,
            calibrate: request.calibrate,
            keep_float: &request.keep_float,
            place: request.qdq.place,
            formats: request.formats,
            dynamic: request.dynamic(),
            options,
            statistics,
        }
    }

    /// The model with as few units in float as the gates ask for, with the ranges that were chosen, and the model that was
    /// built with them on the way, if any; `note` tells how it was calibrated, if not on samples.
    fn fall_back(
        &mut self,
        mut calibrated: Calibrated<'_>,
        (calibrator, chosen): (Calibrator, Option<Quantized>),
        held_out: Option<Samples>,
        note: &str,
    ) -> Result<Option<Model>, Failure> {
        if !note.is_empty() {
            self.report.notes.push(note.to_owned());
        }
        let none = BTreeSet::new();
        let mut first = match chosen {
            Some(quantized) => quantized,
            None => calibrated.build(&calibrated.placement(&none), calibrator, &none)?,
        };
        let Some(held_out) = held_out else { return self.accept_storage(first) };
        if !self.request.validate {
            return Ok(self.accept(first, None, Vec::new()));
        }
        loop {
            let Some(comparison) = self.compare(&first.model, &held_out)? else { return Ok(self.leave_float()) };
            let gates = self.request.gates.int8(&comparison);
            let Some(failed) = gates.iter().find(|gate| !gate.passed) else {
                return self.accept_measured(&calibrated, first, &held_out, comparison, gates);
            };
            log::info!("no units in float: {}", failed.reason);
            if !calibrated.is_dynamic() {
                break;
            }
            calibrated.leave_out_dynamic();
            first = calibrated.build(&calibrated.placement(&none), calibrator, &none)?;
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
        let Some(comparison) = self.compare(&last.model, &held_out)? else { return Ok(self.leave_float()) };
        let gates = self.request.gates.int8(&comparison);
        if let Some(failed) = gates.iter().find(|gate| !gate.passed) {
            let message = format!("{}: {}", self.request.input.display(), failed.reason);
            self.report.quantized = Some(comparison);
            self.report.gates.extend(gates);
            return Err(Failure::gate(message, self.report.clone()));
        }
        self.accept_measured(&calibrated, last, &held_out, comparison, gates)
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

    /// The model without samples: with layers whose ranges each run finds, unless made-up inputs show too much error.
    fn without_samples(&mut self, int8: &Int8<'_>, lossless: &Model) -> Result<Option<Model>, Failure> {
        let quantized = match int8.without_samples(lossless, int8.dynamic)? {
            Ok(quantized) => quantized,
            Err(nothing) => {
                self.report.notes.push(nothing);
                return Ok(None);
            }
        };
        let count = quantized.journal.done_by("dynamic-int8");
        if count == 0 || !self.request.validate {
            return self.accept_storage(quantized);
        }
        let comparison = self.judge_lossless(&quantized.model)?;
        let error = comparison.iter().flat_map(|comparison| &comparison.outputs).filter(|output| output.float);
        let error =
            error.map(|output| if output.not_finite > 0 { f64::INFINITY } else { output.rel_l2 }).fold(0.0, f64::max);
        if error <= MOST_MADE_UP_ERROR {
            return self.accept_storage(quantized);
        }
        let note = format!("{count} layers stay float: in 8 bits the error on made-up inputs was {error:.3}");
        self.report.notes.push(note);
        match int8.without_samples(lossless, Dynamic::None)? {
            Ok(stored) => self.accept_storage(stored),
            Err(nothing) => {
                self.report.notes.push(nothing);
                Ok(None)
            }
        }
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
        if judged.is_none() && self.request.validate {
            return Ok(self.leave_float());
        }
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
                let note = "storage in fewer bits was left out: with it this output is not finite or has another shape";
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
        let control = &self.request.control;
        let is_fixed = !control.input_shapes.is_empty() || !control.dims.is_empty();
        let changed = changed || is_fixed || control.freeze_initializers;
        if changed && model.ir_version() < 4 {
            model.set_ir_version(4); // the first in which initializers need not be inputs
        }
        if let Some(violation) = verify::new_violations(&self.original, &model).first() {
            let input = self.request.input.display();
            return Err(Failure::bug(anyhow!("{input}: the result breaks an invariant: {violation}")));
        }
        let result = if changed { export(&model) } else { self.loaded.model.clone() };
        // A repair is asked for, and worth the bytes of its scales.
        let is_repair = |entry: &Entry| entry.pass == "fix-saturation" && entry.is_done();
        let may_grow = self.report.journal.iter().any(is_repair);
        let plan = files::Plan::new(&result, &self.loaded, may_grow);
        if let Some(name) = &control.explain {
            self.report.about = About::of(name, &self.original.graph, &model.graph, &self.report);
        }
        let output = self.request.checked_output()?;
        self.report.finish(output, &plan.written(), &model);
        self.report.written = !control.dry_run;
        let gate = self.request.gates.size(plan.written().bytes);
        let failed = gate.as_ref().filter(|gate| !gate.passed).map(|gate| gate.reason.clone());
        self.report.gates.extend(gate);
        if let Some(reason) = failed {
            self.report.written = false;
            return Err(self.gate_failed(&reason));
        }
        if !control.dry_run {
            plan.write(&self.request.input, output, &self.request.external_data)?;
        }
        Ok(self.report)
    }
}

/// Whether the model computes in 16-bit floats.
pub fn is_half(graph: &Graph) -> bool {
    graph.values().into_iter().any(|value| graph.ty(value).is_some_and(|ty| ty.dtype == DataType::Float16))
}
