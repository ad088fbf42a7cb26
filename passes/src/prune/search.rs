//! Looks for better counts with the whole model pruned: what each group costs alone does not add up.
//!
//! Plans of several tempers (few groups that lose much, or many that lose little) are built whole, solved for on some
//! samples, and the one whose answers are nearest on others stays. Then groups exchange steps while that falls.
//! **Never** looks at the samples that judge the result in the end; **never** leaves less removed than is asked for.
use std::collections::BTreeSet;

use onnx_shrink_ir::{Evaluate, Graph};

use super::{
    budget::Budget,
    groups::Groups,
    reconstruct::rebuild,
    trial::{Judge, Known, PruneError, ROUGH, pruned},
};
use crate::SampleSource;

/// Pairs of groups that exchange steps at most.
const EXCHANGES: usize = 8;

/// Samples that a try is solved for on.
const FITTED: usize = 100;

/// Powers of the losses by which plans are made.
const TEMPERS: [f64; 4] = [1.0, 0.7, 0.5, 1.4];

/// Whole pruned models, measured.
pub(super) struct Search<'a> {
    pub graph: &'a Graph,
    pub groups: &'a Groups,
    pub evaluator: &'a dyn Evaluate,
    pub judge: &'a Judge,
    pub known: Option<&'a Known>,
    /// Samples to solve for layers on; `None`: they are not solved for
    pub samples: Option<&'a dyn SampleSource>,
    /// Those that may be fitted
    pub fitting: &'a [usize],
}

impl Search<'_> {
    /// The error with layers solved for by what the original sees.
    fn glance(&self, budget: &Budget<'_>) -> Result<f64, PruneError> {
        let copy = pruned(self.graph, self.groups, &budget.removal(), self.known)?;
        Ok(self.judge.error(&copy, self.evaluator, None)?)
    }

    /// The error with layers solved for one after the other, on some samples.
    fn whole(&self, budget: &Budget<'_>) -> Result<f64, PruneError> {
        let Some(samples) = self.samples else { return self.glance(budget) };
        let indices = &self.fitting[..self.fitting.len().min(FITTED)];
        let (removal, fitted) = (budget.removal(), (samples, indices, ROUGH));
        let (copy, _) = rebuild(self.graph, self.groups, &removal, self.evaluator, fitted, &|_, _| {})?;
        Ok(self.judge.error(&copy, self.evaluator, None)?)
    }

    /// Finds the choices; returns their error.
    pub fn run(&self, budget: &mut Budget<'_>, ratio: f64) -> Result<f64, PruneError> {
        let mut best: Option<(f64, Vec<usize>)> = None;
        let mut seen = BTreeSet::new();
        for temper in TEMPERS {
            budget.choose(ratio, temper);
            let chosen: Vec<usize> = budget.choices.iter().map(|choice| choice.chosen).collect();
            if !seen.insert(chosen.clone()) {
                continue;
            }
            let error = self.whole(budget)?;
            log::info!("plan of temper {temper}: {:.3} removed, error of the logits {error:.5}", budget.removed());
            if best.as_ref().is_none_or(|(least, _)| error < *least) {
                best = Some((error, chosen));
            }
        }
        let (least, chosen) = best.unwrap_or((f64::INFINITY, Vec::new()));
        budget.choices.iter_mut().zip(chosen).for_each(|(choice, chosen)| choice.chosen = chosen);
        self.exchange(budget, ratio, least)
    }

    /// With all groups pruned, each one's next step up and down is measured again; the best pairs change places while the
    /// error falls. Returns the error.
    fn exchange(&self, budget: &mut Budget<'_>, ratio: f64, first: f64) -> Result<f64, PruneError> {
        let mut best = first;
        let base = self.glance(budget)?;
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        for place in 0..budget.choices.len() {
            let chosen = budget.choices[place].chosen;
            for (index, list) in [(chosen.checked_sub(1), &mut ups), (chosen.checked_add(1), &mut downs)] {
                let held = index.filter(|&index| index < budget.choices[place].candidates.len());
                let Some(index) = held.filter(|&index| budget.allows(place, index)) else { continue };
                let saved = budget.removed_with(place, index) - budget.removed();
                budget.choices[place].chosen = index;
                let error = self.glance(budget);
                budget.choices[place].chosen = chosen;
                list.push(((error? - base) / saved.abs().max(1e-12), place, index));
            }
        }
        // Up: the most error taken away for a multiply-add; down: the least added.
        ups.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        downs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut moved: BTreeSet<usize> = BTreeSet::new();
        for _ in 0..EXCHANGES {
            let Some(&(_, up, to)) = ups.iter().find(|(_, place, _)| !moved.contains(place)) else { break };
            let before: Vec<usize> = budget.choices.iter().map(|choice| choice.chosen).collect();
            budget.choices[up].chosen = to;
            let mut touched = vec![up];
            for &(_, place, index) in &downs {
                if budget.removed() >= ratio {
                    break;
                }
                if !moved.contains(&place) && !touched.contains(&place) && budget.allows(place, index) {
                    budget.choices[place].chosen = index;
                    touched.push(place);
                }
            }
            let error = if budget.removed() >= ratio { self.whole(budget)? } else { f64::INFINITY };
            if error < best {
                best = error;
                moved.extend(touched);
            } else {
                budget.choices.iter_mut().zip(before).for_each(|(choice, chosen)| choice.chosen = chosen);
                moved.insert(up);
            }
        }
        log::info!("error of the logits {first:.5}, after exchanges {best:.5}");
        Ok(best)
    }
}
