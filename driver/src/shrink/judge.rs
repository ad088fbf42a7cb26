//! How a step is judged: the model after it against the one before, and the result of several steps against the original.
use anyhow::anyhow;
use onnx_shrink_ir::{Graph, Model};

use super::{Job, is_half};
use crate::{
    Failure, Gates, Samples,
    gates::Gate,
    metrics::{CompareError, Comparison, GateResult, Which, compare_graphs},
    proof::{Compared, Proof},
    report::Note,
};

/// What is said of a step.
pub(super) struct Verdict {
    /// Both models on the same samples; `None` when that could not be run, or was not to be
    pub comparison: Option<Comparison>,
    /// The first gate that fails
    pub failed: Option<String>,
}

impl Job<'_> {
    /// What a step is judged against: the original, or its half that runs, or the model that `--prune` and `--svd` made of it,
    /// which itself has been judged.
    pub(super) fn reference(&self) -> &Graph {
        let half = self.rest.as_ref().map(|rest| &rest.before);
        &self.reference.as_ref().or(half).unwrap_or(&self.original).graph
    }

    /// Held-out samples, when there are any.
    pub(super) fn held_out(&self) -> Option<Samples> {
        self.samples.as_ref().map(|(_, held_out)| held_out.clone()).filter(|held_out| !held_out.is_empty())
    }

    /// Judges a step by `gates`, and puts them into the report. Made-up samples show that the model runs and gives finite
    /// numbers of the right shapes; how near those are, real ones must tell.
    pub(super) fn judge(
        &mut self,
        model: &Model,
        gates: impl Fn(&Gates, &Comparison) -> Vec<GateResult>,
    ) -> Result<Verdict, Failure> {
        let held_out = self.held_out();
        let comparison = match &held_out {
            _ if !self.request.validate => None,
            Some(held_out) => self.compare(model, held_out)?,
            None => self.prove(model)?,
        };
        let mut failed = None;
        if let Some(comparison) = &comparison {
            let mut gates = gates(&self.request.gates, comparison);
            if held_out.is_none() {
                let broken = comparison.outputs.iter().any(|output| output.misshapen > 0 || output.not_finite > 0);
                gates.retain(|gate| broken && !gate.passed);
            }
            failed = gates.iter().find(|gate| !gate.passed).map(|gate| gate.reason.clone());
            self.report.gates.extend(gates);
        }
        Ok(Verdict { comparison, failed })
    }

    /// Says so where too few samples judged what 8 bits made of scores.
    pub(super) fn warn_of_few_samples(&mut self) {
        let warning = self.report.quantized.as_ref().and_then(Comparison::warning);
        self.report.warnings.extend(warning.filter(|warning| !self.report.warnings.contains(warning)));
    }

    /// Judges what several steps did together: the gates that hold for each hold for all of them, too.
    pub(super) fn judge_total(&mut self, model: &Model) -> Result<(), Failure> {
        self.reference = None;
        let pruned = self.report.structure.is_some();
        let verdict =
            self.judge(model, |gates, found| if pruned { gates.structure(found) } else { gates.int8(found) })?;
        self.report.total = verdict.comparison;
        verdict.failed.map_or(Ok(()), |reason| Err(self.gate_failed(&format!("all steps together: {reason}"))))
    }

    /// Judges what the user gave gates for and no step judged: `model` against the original. Where that cannot be done, the run
    /// ends. What holds by itself is put into the report, too: `changed` says whether anything was done.
    pub(super) fn judge_given(&mut self, model: &Model, changed: bool) -> Result<(), Failure> {
        let gates = &self.request.gates;
        let mut open = gates.not_among(&self.report.gates);
        open.remove(&Gate::MaxBytes); // the file is judged as it is written
        if open.is_empty() {
            return Ok(());
        }
        let fails = |job: &Self, gate: Gate, why: &str| Err(job.gate_failed(&gates.not_judged(gate, why)));
        let half = is_half(&self.original.graph);
        if let Some(gate) = open.iter().find(|gate| **gate == Gate::LosslessRelFp16 && !half) {
            return fails(self, *gate, gate.lacks());
        }
        if let (Some(reason), Some(gate), true) = (self.report.unproven.clone(), open.first(), changed) {
            let way_out = if self.samples.is_none() { "; with --data DIR it may be" } else { "" };
            return fails(self, *gate, &format!("the model cannot be run here ({reason}){way_out}"));
        }
        // Without lossless rewrites there is no error of theirs, and without pruning none of that.
        let (rewritten, pruned) = (self.report.lossless.is_some(), self.report.structure.is_some());
        let holds = |gate: Gate| match gate {
            _ if !changed => true,
            Gate::LosslessRel | Gate::LosslessRelFp16 => !rewritten,
            gate => gate.is_of_pruning() && !pruned,
        };
        let (by_itself, rest): (Vec<Gate>, Vec<Gate>) = open.into_iter().partition(|gate| holds(*gate));
        self.report.gates.extend(by_itself.into_iter().map(|gate| GateResult::without_change(gate, gates.limit(gate))));
        if rest.is_empty() {
            return Ok(());
        }
        self.reference = None;
        let comparison = match self.held_out() {
            Some(held_out) => self.compare(model, &held_out)?,
            None => None,
        };
        for gate in rest {
            let Some(comparison) = &comparison else {
                let reason = self.report.unproven.clone().unwrap_or_else(|| "there are no samples".to_owned());
                return fails(self, gate, &format!("the model cannot be run here ({reason})"));
            };
            let mut results = gates.int8(comparison);
            results.retain(|result| result.gate == gate.key());
            if results.is_empty() {
                return fails(self, gate, gate.lacks());
            }
            let failed = results.iter().find(|result| !result.passed).map(|result| result.reason.clone());
            self.report.gates.extend(results);
            if let Some(reason) = failed {
                return Err(self.gate_failed(&reason));
            }
        }
        Ok(())
    }

    /// The failure of a gate, for the file at hand.
    pub(super) fn gate_failed(&self, reason: &str) -> Failure {
        Failure::gate(format_args!("{}: {reason}", self.request.input))
    }

    /// What cannot be run against the original is not approximated.
    pub(super) fn leave_float(&mut self) -> Option<Model> {
        if !self.report.notes.contains(&Note::LeftFloat) {
            self.report.notes.push(Note::LeftFloat);
        }
        None
    }

    /// `model` against the reference, on a few real samples or made-up ones; `None` where neither can be run.
    pub(super) fn prove(&mut self, model: &Model) -> Result<Option<Comparison>, Failure> {
        let judges = self.samples.as_ref().map(|(_, judges)| judges.clone());
        let proof = Proof::new(self.evaluator.as_ref(), self.progress, self.reference(), judges.as_ref());
        let unproven = match proof.compare(&model.graph)? {
            Compared::Done(comparison) => return Ok(Some(comparison)),
            Compared::Fails(reason) => return Err(Failure::bug(anyhow!("the result does not run: {reason}"))),
            Compared::Unproven => proof.unproven(),
        };
        drop(proof);
        self.report.unproven = unproven;
        Ok(None)
    }

    /// `model` against the reference on `samples`; `None` when the reference does not run (the engine lacks an op, or
    /// made-up inputs do not suit it). An error when only the new model fails.
    pub(super) fn compare(&mut self, model: &Model, samples: &Samples) -> Result<Option<Comparison>, Failure> {
        let stage = self.progress.stage("validating", Some(samples.len() as u64));
        let compared =
            compare_graphs(self.evaluator.as_ref(), self.reference(), &model.graph, samples, 0, stage.as_ref());
        match compared {
            Ok(comparison) => Ok(Some(comparison)),
            Err(CompareError::Run { model: Which::Original, source, .. }) => {
                self.blame_samples()?;
                self.report.unproven = Some(source.to_string());
                Ok(None)
            }
            Err(CompareError::Sample(error)) => {
                self.blame_samples()?;
                Err(Failure::samples(error))
            }
            Err(error) => Err(Failure::bug(error)),
        }
    }
}
