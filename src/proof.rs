//! How a result is run against the original: on real samples, or on made-up ones of sizes that the model takes.
//!
//! **Never** says that something was proven that did not run: a model that the engine cannot run, or no made-up input suits,
//! is [`Proof::unproven`], with the reason.
use std::cell::RefCell;

use onnx_shrink_ir::{Evaluate, Graph};

use crate::{
    Failure, Progress, Samples,
    metrics::{CompareError, Comparison, compare_graphs},
};

/// Made-up samples that show whether two models compute the same.
const GENERATED_SAMPLES: usize = 2;

/// Real samples that judge the lossless part, at most: an error there is no matter of chance.
const LOSSLESS_SAMPLES: usize = 4;

/// Both models on the same samples, as often as it is asked for.
pub struct Proof<'a> {
    evaluator: &'a dyn Evaluate,
    progress: &'a dyn Progress,
    original: &'a Graph,
    /// Whether the samples are ours: then one that does not suit the model says nothing of what the user gave
    made_up: bool,
    /// What may be tried, the best first; what the original does not run on is taken out
    samples: RefCell<Vec<Samples>>,
    unproven: RefCell<Option<String>>,
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
        let mut unproven: Option<String> = None;
        let samples = match held_out {
            Some(samples) => {
                let count = samples.len().min(LOSSLESS_SAMPLES);
                vec![samples.subset(&(0..count).collect::<Vec<_>>())]
            }
            None => Samples::generated_kinds(original, GENERATED_SAMPLES).unwrap_or_else(|error| {
                unproven = Some(format!("{error:#}"));
                Vec::new()
            }),
        };
        let made_up = held_out.is_none();
        Proof {
            evaluator,
            progress,
            original,
            made_up,
            samples: RefCell::new(samples),
            unproven: RefCell::new(unproven),
        }
    }

    /// Why nothing can be run against the original; `None` as long as that is not known.
    pub fn unproven(&self) -> Option<String> {
        self.unproven.borrow().clone()
    }

    /// `model` against the original.
    pub fn compare(&self, model: &Graph) -> Result<Compared, Failure> {
        loop {
            let Some(samples) = self.samples.borrow().first().cloned() else { return Ok(Compared::Unproven) };
            let stage = self.progress.stage("validating", Some(samples.len() as u64));
            match compare_graphs(self.evaluator, self.original, model, &samples, 0, stage.as_ref()) {
                Ok(comparison) => return Ok(Compared::Done(comparison)),
                Err(CompareError::Run { model: "original", source, .. }) => {
                    self.samples.borrow_mut().remove(0);
                    self.unproven.borrow_mut().get_or_insert_with(|| source.to_string());
                }
                Err(CompareError::Sample(error)) if self.made_up => {
                    self.samples.borrow_mut().remove(0);
                    self.unproven.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
                }
                Err(CompareError::Sample(error)) => return Err(Failure::samples(error)),
                Err(error @ CompareError::Run { .. }) => return Ok(Compared::Fails(error_chain(&error))),
            }
        }
    }

    /// Whether the original ran at least once, or may still do so.
    pub fn is_possible(&self) -> bool {
        !self.samples.borrow().is_empty()
    }
}

fn error_chain(error: &CompareError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
