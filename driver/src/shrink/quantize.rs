//! The step to 8 bits: which ranges it has, who judges it, and what happens when a gate fails.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use onnx_shrink_exec::Interpreter;
use onnx_shrink_ir::{Graph, Model, export};
use onnx_shrink_passes::{
    Options, Statistics,
    analysis::quantized::is_wholly_quantized,
    calibration::{calibrators::Calibrator, means::MOST_SAMPLES},
    pipeline::Pipeline,
    quantize::dynamic_int8,
    target::Places,
};

use super::{Job, Shard};
use crate::{
    Failure, Samples,
    int8::{Calibrated, Int8, Quantized},
    metrics::{Comparison, GateResult},
    plan::Reason,
    ranges_file::{self, Digest, Stamp},
    report::{Calibration, Fate, Note},
    request::{Calibrate, Request, formats::Dynamic, qdq::Place},
    samples::{Data, Examiner, Extent, Usable},
    sensitivity,
    simplified::Simplified,
};

/// Largest relative error on made-up inputs with which layers run in 8 bits without samples.
pub(super) const MOST_MADE_UP_ERROR: f64 = 0.05;

/// Least SQNR of what a layer in integers makes of the float model's values, in dB: half of the signal is left.
const LAYER_FLOOR: f64 = 6.0;

/// The key in the model's metadata that says what calibrated it, when that was no real sample.
const CALIBRATION_KEY: &str = "onnx-shrink.calibration";

/// Runs of the held-out samples that look for the layers to keep in float, at most (the first few may be more).
pub(super) const FALL_BACK_RUNS: usize = 30;

impl<'a> Job<'a> {
    /// The quantized model, when the gates hold for it, or its regions are proven; `None` when nothing was gained.
    pub(super) fn int8(
        &mut self,
        lossless: &Model,
        statistics: &BTreeMap<String, Statistics>,
    ) -> Result<Option<Model>, Failure> {
        if self.report.unproven.is_none() {
            let model = self.int8_as_a_whole(lossless, statistics)?;
            self.tell_of_float();
            if model.is_some() || self.report.unproven.is_none() {
                return Ok(model);
            }
            // Only now it was run, and could not be.
            self.report.notes.retain(|note| *note != Note::LeftFloat);
        }
        self.int8_by_region(lossless, statistics)
    }

    /// Says so where layers stay float for a target that runs nothing in it.
    fn tell_of_float(&mut self) {
        let target = self.request.target;
        let layers = &self.report.layers;
        let float = layers.iter().filter(|layer| layer.fate != Fate::Integer).count();
        if target.places == Places::EveryTensor && float > 0 {
            let note = Note::TargetWantsAll { target: target.name, float, layers: layers.len() };
            self.report.notes.push(note);
        }
    }

    /// The same for a model that can be run.
    fn int8_as_a_whole(
        &mut self,
        lossless: &Model,
        statistics: &BTreeMap<String, Statistics>,
    ) -> Result<Option<Model>, Failure> {
        let (evaluator, options) = (self.evaluator.clone(), self.options.clone());
        let int8 = self.quantizer(evaluator.as_ref(), &options, statistics);
        let ranges = &self.request.ranges;
        if ranges.from_model {
            let calibrated = int8.with_model_ranges(lossless, &ranges.inputs)?;
            let held_out = self.samples.clone().map(|(_, held_out)| held_out);
            let model = self.fall_back(calibrated, (Calibrator::MinMax, None), held_out, Some(Note::RangesOfModel))?;
            self.report.calibration = Some(Calibration { samples: 0, method: "model".to_owned() });
            return Ok(model);
        }
        if !ranges.files.is_empty() {
            return self.int8_of_shards(&int8, lossless);
        }
        if let Some(count) = ranges.synthetic {
            let samples =
                Samples::made_up(&self.original.graph, evaluator.as_ref(), count).map_err(Failure::samples)?;
            let calibrated = int8.calibrated(lossless, &samples, self.progress)?;
            let chosen = calibrated.choose(&calibrated.plan(&BTreeSet::new()), &samples, self.progress)?;
            let held_out = self.samples.clone().map(|(_, held_out)| held_out);
            let model = self.fall_back(calibrated, chosen, held_out, Some(Note::SyntheticRanges))?;
            return Ok(model.map(|mut model| {
                model.set_metadata(CALIBRATION_KEY, &format!("{count} synthetic samples"));
                model
            }));
        }
        let Some((calibrating, held_out)) = self.samples.clone().filter(|(calibrating, _)| !calibrating.is_empty())
        else {
            return self.without_samples(&int8, lossless);
        };
        let seen = int8.calibrated(lossless, &calibrating, self.progress);
        if !seen.as_ref().is_ok_and(Calibrated::has_run) {
            self.blame_samples()?;
        }
        let mut calibrated = seen?;
        let chosen = calibrated.choose(&calibrated.plan(&BTreeSet::new()), &calibrating, self.progress)?;
        let chosen = calibrated.smooth(chosen, &calibrating)?;
        self.fall_back(calibrated, chosen, Some(held_out), None)
    }

    /// The model with the ranges of `--ranges-in`. Samples that are given choose among the range estimators, and judge.
    pub(super) fn int8_of_shards(&mut self, int8: &Int8<'_>, lossless: &Model) -> Result<Option<Model>, Failure> {
        let (folded, unfit) = int8.raised(lossless)?;
        if let Some(why) = unfit {
            return Err(Failure::input(anyhow!("{}: {why}", self.request.input)));
        }
        let read = ranges_file::read_all(&self.request.ranges.files, &self.stamp(&folded.model), &folded.model.graph)?;
        let (calibration, warnings) = read;
        self.report.warnings.extend(warnings);
        let mut calibrated = int8.with_calibration(folded, calibration)?;
        let samples = self.samples.clone();
        let chosen = match samples.as_ref().map(|(choosing, _)| choosing).filter(|choosing| !choosing.is_empty()) {
            Some(choosing) if self.request.calibrate == Calibrate::Auto => {
                calibrated.see_outputs(choosing)?;
                let chosen = calibrated.choose(&calibrated.plan(&BTreeSet::new()), choosing, self.progress)?;
                calibrated.smooth(chosen, choosing)?
            }
            _ => (calibrated.unmeasured(), None),
        };
        self.fall_back(calibrated, chosen, samples.map(|(_, held_out)| held_out), None)
    }

    /// The model of this job, whose form `model` runs on samples.
    pub(super) fn stamp(&self, model: &Model) -> Stamp {
        Stamp { input: Digest::of_model(&self.loaded.model), lossless: Digest::of_model(&export(model)) }
    }

    /// Runs the lossless passes and calibration on all samples in `data`; the bytes of a file of ranges and what it holds.
    pub(super) fn calibrate(mut self, pipeline: &Pipeline, data: &Data) -> Result<Shard, Failure> {
        let input = &self.request.input;
        if is_wholly_quantized(&self.original.graph) {
            return Err(Failure::input(anyhow!("{input}: the model is quantized already")));
        }
        let (request, progress, evaluator) = (self.request, self.progress, self.evaluator.clone());
        let open = |graph: &Graph, extent| {
            let examiner = Examiner { evaluator: evaluator.as_ref(), progress, extent, bad: request.bad_samples };
            examiner.open(data, graph, &request.sample_options).map_err(Failure::samples)
        };
        let Usable { samples, warning, not_run, .. } = open(&self.original.graph, Extent::First)?;
        let cannot = |why: String| Failure::input(anyhow!("{input}: the model cannot be calibrated: {why}"));
        if let Some(why) = not_run {
            return Err(cannot(why));
        }
        if samples.len() as u64 > MOST_SAMPLES {
            return Err(Failure::samples(anyhow!("{data}: more than {MOST_SAMPLES} samples")));
        }
        let options = self.options.clone();
        let (Simplified { model: lossless, statistics }, _) = self.lossless(pipeline)?;
        let int8 = self.quantizer(evaluator.as_ref(), &options, &statistics);
        let (folded, unfit) = int8.raised(&lossless)?;
        if let Some(why) = unfit {
            return Err(Failure::input(anyhow!("{input}: {why}")));
        }
        let seen = int8.seen(&folded.model, &samples, false, progress);
        if !matches!(seen, Ok(Ok(_))) {
            open(&self.original.graph, Extent::All)?; // names what is bad
        }
        let calibration = seen?.map_err(|why| cannot(why.to_string()))?;
        let sketch = ranges_file::Sketch::of(&samples)?;
        let bytes = ranges_file::encode(&self.stamp(&folded.model), &folded.model.graph, &calibration, &sketch);
        Ok(Shard { bytes, samples: calibration.samples, values: calibration.values.len(), warning })
    }

    pub(super) fn quantizer<'b>(
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
    pub(super) fn fall_back(
        &mut self,
        mut calibrated: Calibrated<'_>,
        (calibrator, chosen): (Calibrator, Option<Quantized>),
        held_out: Option<Samples>,
        note: Option<Note>,
    ) -> Result<Option<Model>, Failure> {
        self.report.notes.extend(note);
        let none = BTreeSet::new();
        let mut first = match chosen {
            Some(quantized) => quantized,
            None => calibrated.build(&calibrated.plan(&none), calibrator)?,
        };
        let Some(held_out) = held_out else { return self.accept_storage(first) };
        if !self.request.validate {
            return Ok(self.accept(first, None, Vec::new()));
        }
        loop {
            let Some(comparison) = self.compare(&first.model, &held_out)? else { return Ok(self.leave_float()) };
            let gates = self.request.gates.int8(&comparison);
            let Some(failed) = gates.iter().find(|gate| !gate.passed) else {
                return self.accept_measured(
                    &mut calibrated,
                    (calibrator, &none),
                    &held_out,
                    (first, comparison, gates),
                );
            };
            log::info!("no units in float: {}", failed.reason);
            if !calibrated.is_dynamic() {
                break;
            }
            calibrated.leave_out_dynamic();
            first = calibrated.build(&calibrated.plan(&none), calibrator)?;
        }
        if self.request.target.stores && self.return_constants(&mut calibrated, calibrator, &none, &held_out, true)? {
            first = calibrated.build(&calibrated.plan(&none), calibrator)?;
            let Some(comparison) = self.compare(&first.model, &held_out)? else { return Ok(self.leave_float()) };
            let gates = self.request.gates.int8(&comparison);
            return self.accept_measured(&mut calibrated, (calibrator, &none), &held_out, (first, comparison, gates));
        }
        let order = calibrated.worst(&first, &calibrated.plan(&none), &held_out)?;
        let all: BTreeSet<usize> = (0..calibrated.unit_count()).collect();
        let mut kept = self.fewest(&calibrated, calibrator, &order, &held_out)?;
        if kept.is_none() && self.request.target.stores {
            // Not even with none in integers: what is stored in 8 bits is at fault.
            if self.return_constants(&mut calibrated, calibrator, &all, &held_out, false)? {
                kept = self.fewest(&calibrated, calibrator, &order, &held_out)?;
            } else {
                calibrated.leave_returned_unstored();
                kept = self.fewest(&calibrated, calibrator, &order, &held_out)?;
            }
        }
        let kept = kept.unwrap_or(all);
        let last = calibrated.build(&calibrated.plan(&kept), calibrator)?;
        let Some(comparison) = self.compare(&last.model, &held_out)? else { return Ok(self.leave_float()) };
        let gates = self.request.gates.int8(&comparison);
        if let Some(failed) = gates.iter().find(|gate| !gate.passed) {
            let reason = failed.reason.clone();
            self.report.quantized = Some(comparison);
            self.report.gates.extend(gates);
            return Err(self.gate_failed(&reason));
        }
        self.accept_measured(&mut calibrated, (calibrator, &kept), &held_out, (last, comparison, gates))
    }

    /// The fewest units of `order`, the worst first, with which in float the gates hold; `None` when all of them are too few.
    fn fewest(
        &mut self,
        calibrated: &Calibrated<'_>,
        calibrator: Calibrator,
        order: &[usize],
        held_out: &Samples,
    ) -> Result<Option<BTreeSet<usize>>, Failure> {
        let mut holds = |kept: &BTreeSet<usize>| -> Result<bool, Failure> {
            let quantized = calibrated.build(&calibrated.plan(kept), calibrator)?;
            let comparison = self.compare(&quantized.model, held_out)?;
            let held = comparison.is_none_or(|found| self.request.gates.int8(&found).iter().all(|gate| gate.passed));
            log::info!("{} units in float: the gates {}", kept.len(), if held { "hold" } else { "fail" });
            Ok(held)
        };
        sensitivity::fewest(order, FALL_BACK_RUNS, &mut holds)
    }

    /// Takes a model that the gates hold for, which has `kept` float for them, with the error of each layer. Layers that 8 bits ruin
    /// go back to float before, though nobody may see it in the outputs of these samples.
    fn accept_measured(
        &mut self,
        calibrated: &mut Calibrated<'_>,
        (calibrator, kept): (Calibrator, &BTreeSet<usize>),
        held_out: &Samples,
        (mut quantized, comparison, gates): (Quantized, Comparison, Vec<GateResult>),
    ) -> Result<Option<Model>, Failure> {
        let floor = LAYER_FLOOR.min(self.request.gates.sqnr);
        let mut ruined = calibrated.measure_layers(&mut quantized, held_out, floor)?;
        if self.request.qdq.place == Place::Wrap || self.request.dynamic() == Dynamic::All {
            ruined.clear(); // They were asked for.
        }
        if !ruined.is_empty() {
            calibrated.leave_float(ruined);
            let mut next = calibrated.build(&calibrated.plan(kept), calibrator)?;
            if let Some(found) = self.compare(&next.model, held_out)? {
                let gates = self.request.gates.int8(&found);
                if gates.iter().all(|gate| gate.passed) {
                    calibrated.measure_layers(&mut next, held_out, floor)?;
                    return Ok(self.accept(next, Some(found), gates));
                }
            }
        }
        Ok(self.accept(quantized, Some(comparison), gates))
    }

    /// The model without samples: with layers whose ranges each run finds, unless made-up inputs show too much error.
    pub(super) fn without_samples(&mut self, int8: &Int8<'_>, lossless: &Model) -> Result<Option<Model>, Failure> {
        let quantized = match int8.without_samples(lossless, int8.dynamic, &Reason::NoSamples)? {
            Ok(quantized) => quantized,
            Err(nothing) => {
                self.report.notes.push(Note::NothingStored(nothing));
                return Ok(None);
            }
        };
        let count = quantized.journal.done_by(dynamic_int8::PASS.name);
        if count == 0 || !self.request.validate {
            let quantized = self.with_constants_returned(int8, lossless, int8.dynamic, quantized)?;
            return self.accept_storage(quantized);
        }
        let comparison = self.prove(&quantized.model)?;
        let error = comparison.iter().flat_map(|comparison| &comparison.outputs).filter(|output| output.float);
        let error =
            error.map(|output| if output.not_finite > 0 { f64::INFINITY } else { output.rel_l2 }).fold(0.0, f64::max);
        if error <= MOST_MADE_UP_ERROR {
            return self.accept_storage(quantized);
        }
        if int8.dynamic == Dynamic::All {
            self.report.warnings.push(format!(
                "--dynamic runs {count} layers in 8 bits, and on made-up inputs the error is {error:.3}: \
                 judge it on real ones with --validation-data DIR"
            ));
            return self.accept_storage(quantized);
        }
        let note = Note::DynamicTooFar { layers: count, error, most: MOST_MADE_UP_ERROR };
        self.report.notes.push(note);
        match int8.without_samples(lossless, Dynamic::None, &Reason::NoSamples)? {
            Ok(stored) => {
                let stored = self.with_constants_returned(int8, lossless, Dynamic::None, stored)?;
                self.accept_storage(stored)
            }
            Err(nothing) => {
                self.report.notes.push(Note::NothingStored(nothing));
                Ok(None)
            }
        }
    }

    /// Takes a model whose constants alone were stored in 8 bits. Samples that only judge do so. Made-up inputs tell whether
    /// it runs and gives finite numbers of the right shapes; how near they are says little about real ones, so that is shown
    /// and not judged.
    pub(super) fn accept_storage(&mut self, quantized: Quantized) -> Result<Option<Model>, Failure> {
        let judges = self.samples.as_ref().map(|(_, judges)| judges.clone());
        let judged = match judges {
            _ if !self.request.validate => None,
            Some(judges) => self.compare(&quantized.model, &judges)?,
            None => self.prove(&quantized.model)?,
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
                return Err(self.gate_failed(&reason));
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
            self.warn_of_few_samples();
        }
        self.report.layers = quantized.layers;
        self.report.journal.extend(quantized.journal.entries);
        self.report.notes.extend(quantized.notes);
        Ok(Some(quantized.model))
    }

    /// Takes a model with its layers as they were placed; `None` when no rewrite was done on the way.
    pub(super) fn accept(
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
        self.warn_of_few_samples();
        let method = quantized.calibrator.map_or("none", |calibrator| calibrator.name()).to_owned();
        self.report.calibration = Some(Calibration { samples: quantized.samples, method });
        changed.then_some(quantized.model)
    }
}
