//! How a result is run against the original: on real samples, or on made-up ones of sizes that the model takes.
//!
//! The original runs once on each sample, however often results are compared with it. **Never** says that something was proven that
//! did not run: a model that the engine cannot run, or no made-up input suits, is [`Proof::unproven`], with the reason.
use std::{
    cell::{OnceCell, RefCell},
    sync::Mutex,
};

use onnx_shrink_ir::{Evaluate, EvaluateError, Graph, Observe, Prepared, Tensor, ValueId};

use crate::{
    Failure, Progress, Samples,
    coverage::{Coverage, coverage, reaching},
    metrics::{CompareError, Comparison, Which, compare},
};

/// Made-up samples that show whether two models compute the same: at least, and where they cost little.
const GENERATED_SAMPLES: (usize, usize) = (2, 4);

/// Real samples that judge the lossless part, at most: an error there is no matter of chance.
const LOSSLESS_SAMPLES: usize = 4;

/// Multiply-adds of a run up to which made-up samples check even rewrites that are equal to the bit by their conditions.
const MOST_WORK_FOR_EXACT: u64 = 4_000_000_000;

/// Bytes of the original's outputs that are kept, at most.
const MOST_KEPT: usize = 256 << 20;

/// Both models on the same samples, as often as it is asked for.
pub struct Proof<'a> {
    evaluator: &'a dyn Evaluate,
    progress: &'a dyn Progress,
    original: &'a Graph,
    /// Real samples; `None`: they are made up
    given: Option<Samples>,
    ready: OnceCell<Ready<'a>>,
    unproven: RefCell<Option<String>>,
}

/// The original with samples on which it runs.
struct Ready<'a> {
    original: Remembered<'a>,
    samples: Samples,
    coverage: OnceCell<Coverage>,
}

/// What running both gave.
pub enum Compared {
    /// Both ran
    Done(Comparison),
    /// The new model does not run where the original does, and why
    Fails(String),
    /// The original does not run
    Unproven,
}

impl<'a> Proof<'a> {
    /// A proof on some of `held_out`, or on made-up samples where there are none.
    pub fn new(
        evaluator: &'a dyn Evaluate,
        progress: &'a dyn Progress,
        original: &'a Graph,
        held_out: Option<&Samples>,
    ) -> Proof<'a> {
        let given = held_out.map(|samples| {
            let count = samples.len().min(LOSSLESS_SAMPLES);
            samples.subset(&(0..count).collect::<Vec<_>>())
        });
        // What can never be made up is known before anything runs.
        let problem = match given {
            Some(_) => None,
            None => Samples::generated(original, 1).err().map(|error| format!("{error:#}")),
        };
        Proof { evaluator, progress, original, given, ready: OnceCell::new(), unproven: RefCell::new(problem) }
    }

    /// Why nothing can be run against the original; `None` as long as that is not known.
    pub fn unproven(&self) -> Option<String> {
        self.unproven.borrow().clone()
    }

    /// `model` against the original.
    pub fn compare(&self, model: &Graph) -> Result<Compared, Failure> {
        let Some(Ready { original, samples, .. }) = self.ready() else { return Ok(Compared::Unproven) };
        let stage = self.progress.stage("validating", Some(samples.len() as u64));
        let failed = |error: &dyn std::error::Error| Ok(Compared::Fails(error_chain(error)));
        let new = match self.evaluator.prepare(model) {
            Ok(new) => new,
            Err(source) => {
                return failed(&CompareError::Run { sample: "none yet".to_owned(), model: Which::New, source });
            }
        };
        match compare(self.original, original, new.as_ref(), samples, 0, stage.as_ref()) {
            Ok(comparison) => Ok(Compared::Done(comparison)),
            Err(CompareError::Run { model: Which::Original, source, .. }) => {
                self.unproven.borrow_mut().get_or_insert_with(|| source.to_string());
                Ok(Compared::Unproven)
            }
            Err(CompareError::Sample(error)) => Err(Failure::samples(error)),
            Err(error @ CompareError::Run { .. }) => failed(&error),
        }
    }

    /// Multiply-adds of a run where that is too much to check rewrites that are equal to the bit by their conditions: those were tested
    /// on small graphs, and made-up samples tell no more. `None` where it is not, and with real samples.
    pub fn too_much_for_exact(&self) -> Option<u64> {
        if self.given.is_some() || self.ready.get().is_some() {
            return None;
        }
        Samples::work_of_a_run(self.original).filter(|work| *work > MOST_WORK_FOR_EXACT)
    }

    /// What the samples reach of the original; `None` where it does not run on them.
    pub fn coverage(&self) -> Option<&Coverage> {
        let Ready { original, samples, coverage: found } = self.ready()?;
        Some(found.get_or_init(|| coverage(self.evaluator, self.original, original.prepared.as_ref(), samples)))
    }

    /// Whether the original ran at least once, or may still do so.
    pub fn is_possible(&self) -> bool {
        self.unproven.borrow().is_none()
    }

    /// The original, prepared, with its samples; `None` where there are none, which [`Proof::unproven`] then tells.
    fn ready(&self) -> Option<&Ready<'a>> {
        if self.unproven.borrow().is_some() {
            return None;
        }
        if self.ready.get().is_none() {
            match self.prepared() {
                Ok(ready) => drop(self.ready.set(ready)),
                Err(reason) => *self.unproven.borrow_mut() = Some(reason),
            }
        }
        self.ready.get()
    }

    fn prepared(&self) -> Result<Ready<'a>, String> {
        let prepared = self.evaluator.prepare(self.original).map_err(|error| error.to_string())?;
        let original = Remembered { prepared, known: Mutex::default() };
        let coverage = OnceCell::new();
        let samples = match &self.given {
            Some(samples) => samples.clone(),
            None => {
                let made =
                    reaching(self.evaluator, self.original, &original, original.prepared.as_ref(), GENERATED_SAMPLES);
                let (samples, found) = made.map_err(|error| error.to_string())?;
                let _ = coverage.set(found); // it is empty
                samples
            }
        };
        Ok(Ready { original, samples, coverage })
    }
}

/// A model that runs once on the same inputs; values are shown in that run alone.
struct Remembered<'a> {
    prepared: Box<dyn Prepared + 'a>,
    known: Mutex<Vec<Run>>,
}

/// What came of a run.
struct Run {
    inputs: Vec<Option<Tensor>>,
    outputs: Vec<Tensor>,
}

impl Prepared for Remembered<'_> {
    fn run(&self, inputs: &[Option<Tensor>], observe: Observe<'_>) -> Result<Vec<Tensor>, EvaluateError> {
        let lock = || self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(run) = lock().iter().find(|run| run.inputs == inputs) {
            return Ok(run.outputs.clone());
        }
        let outputs = self.prepared.run(inputs, observe)?;
        let size = |tensors: &[Tensor]| tensors.iter().map(Tensor::byte_len).sum::<usize>();
        let mut known = lock();
        if known.iter().map(|run| size(&run.outputs)).sum::<usize>() + size(&outputs) <= MOST_KEPT {
            known.push(Run { inputs: inputs.to_vec(), outputs: outputs.clone() });
        }
        Ok(outputs)
    }

    fn run_part(&self, given: &[(ValueId, Tensor)], wanted: &[ValueId]) -> Result<Vec<Tensor>, EvaluateError> {
        self.prepared.run_part(given, wanted)
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
