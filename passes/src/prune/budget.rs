//! How many channels each group keeps, and which branches become one convolution: the least damage for the multiply-adds
//! that have to go.
//!
//! Each group has candidates with a measured loss. Steps are taken by loss for each multiply-add saved until the share is
//! reached, then what is left over is given back; multiply-adds are counted on the whole graph each time, as groups share
//! layers. **Never** goes below the least count of a group but by a branch, and says what could be reached when that is not
//! enough. **Source:** `docs/methods.md` §9, recipe 4 to 6.
use std::collections::BTreeSet;

use onnx_shrink_ir::Graph;

use super::{
    branch::{Branch, Kernel, Removal},
    groups::{Groups, Unit},
};
use crate::target::{CHANNEL_ALIGNMENT, channel_step};

/// What may become of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// How many of its units go
    pub gone: usize,
    /// What stands for the branch that they are inside of, where all go, or for its second convolution
    pub kernel: Option<Kernel>,
    /// What that costs; losses of different groups add up
    pub loss: f64,
}

impl Candidate {
    fn is_nothing(&self) -> bool {
        self.gone == 0 && self.kernel.is_none()
    }
}

/// A group that may lose channels.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Index into [`Groups::groups`]
    pub group: usize,
    /// The units that may go, the least missed first
    pub order: Vec<Unit>,
    /// The branch that its channels are inside of, when one convolution may stand for it
    pub branch: Option<Branch>,
    /// The first one is that nothing goes
    pub candidates: Vec<Candidate>,
    /// Index into `candidates`
    pub chosen: usize,
}

impl Choice {
    /// The choice for a group of `total` channels of which `order` may go, with losses of 0; `block` channels are computed at once.
    pub fn new(group: usize, total: usize, order: Vec<Unit>, branch: Option<Branch>, block: usize) -> Choice {
        let step = channel_step(total, block);
        let least = least_kept(total, step).max(total - order.len());
        // About eighths of the group, in steps.
        let wide = (total / 8).next_multiple_of(step).max(step);
        let keep = |gone: usize| Candidate { gone, kernel: None, loss: 0.0 };
        let mut candidates = vec![keep(0)];
        let mut kept = total.saturating_sub(1) / wide * wide;
        while kept >= least && kept > 0 {
            candidates.push(keep(total - kept));
            // Below a block of inputs every step counts.
            let wide = if kept <= block { wide.min(CHANNEL_ALIGNMENT) } else { wide };
            kept -= wide.min(kept);
        }
        for kernel in branch.iter().flat_map(Branch::kernels) {
            let gone = if kernel.over_all { order.len() } else { 0 };
            candidates.push(Candidate { gone, kernel: Some(kernel), loss: 0.0 });
        }
        Choice { group, order, branch, candidates, chosen: 0 }
    }

    /// The units that are gone with candidate `index`.
    fn gone(&self, index: usize) -> &[Unit] {
        &self.order[..self.candidates[index].gone]
    }

    /// What goes with candidate `index`.
    pub fn removal(&self, index: usize) -> Removal {
        let mut removal = Removal::default();
        let kernel = self.candidates[index].kernel;
        if let (Some(branch), Some(kernel)) = (&self.branch, kernel) {
            removal.branches.push((branch.clone(), kernel));
        }
        if !kernel.is_some_and(|kernel| kernel.over_all) {
            removal.gone.extend(self.gone(index));
        }
        removal
    }
}

/// Channels that stay in any case: an eighth, and a step of the target's blocks, or a quarter of small groups.
fn least_kept(total: usize, step: usize) -> usize {
    match total {
        ..8 => total.div_ceil(4).max(1),
        _ => (total / 8).next_multiple_of(step).max(step),
    }
}

/// Choices for the groups of one graph.
#[derive(Clone, Debug)]
pub struct Budget<'a> {
    graph: &'a Graph,
    groups: &'a Groups,
    /// By group
    pub choices: Vec<Choice>,
    total: f64,
}

impl<'a> Budget<'a> {
    /// Nothing goes yet.
    pub fn new(graph: &'a Graph, groups: &'a Groups, choices: Vec<Choice>) -> Budget<'a> {
        let total = groups.macs(graph, &BTreeSet::new()).max(f64::MIN_POSITIVE);
        Budget { graph, groups, choices, total }
    }

    /// What goes with the choices at hand.
    pub fn removal(&self) -> Removal {
        let mut all = Removal::default();
        for choice in &self.choices {
            let Removal { gone, branches } = choice.removal(choice.chosen);
            all.gone.extend(gone);
            all.branches.extend(branches);
        }
        all
    }

    /// The share of multiply-adds that is gone.
    pub fn removed(&self) -> f64 {
        self.share(|_, choice| choice.chosen)
    }

    /// The share with candidate `index` of choice `place`.
    pub fn removed_with(&self, place: usize, index: usize) -> f64 {
        self.share(|k, choice| if k == place { index } else { choice.chosen })
    }

    /// The most that can be removed.
    pub fn most(&self) -> f64 {
        let by_channels = |choice: &Choice| choice.candidates.iter().rposition(|c| c.kernel.is_none()).unwrap_or(0);
        let best = |choice: &Choice| {
            let share = |index| self.share(|_, other| if other.group == choice.group { index } else { 0 });
            let all = (0..choice.candidates.len()).filter(|&index| choice.candidates[index].kernel.is_some());
            all.fold(by_channels(choice), |best, index| if share(index) > share(best) { index } else { best })
        };
        let mut free = self.clone();
        for place in 0..free.choices.len() {
            let index = best(&self.choices[place]);
            free.choices[place].chosen =
                if free.allows(place, index) { index } else { by_channels(&self.choices[place]) };
        }
        free.removed()
    }

    fn share(&self, index: impl Fn(usize, &Choice) -> usize) -> f64 {
        let chosen: Vec<usize> = self.choices.iter().enumerate().map(|(k, choice)| index(k, choice)).collect();
        let units = self.choices.iter().zip(&chosen).flat_map(|(choice, &index)| choice.gone(index));
        let gone: BTreeSet<Unit> = units.copied().collect();
        let last = |branch: &Branch| self.groups.weighted.iter().find(|weighted| weighted.op == branch.last);
        let one = |(choice, &index): (&Choice, &usize)| match (&choice.branch, choice.candidates[index].kernel) {
            (Some(branch), Some(kernel)) => {
                // What is over all is beside layers without channels; another takes the place of the second convolution.
                let old = last(branch).filter(|_| !kernel.over_all);
                let old = old.map_or(0.0, |weighted| self.groups.macs_of(self.graph, weighted, &gone));
                branch.macs(self.graph, self.groups, kernel, &gone) - old
            }
            _ => 0.0,
        };
        let branches: f64 = self.choices.iter().zip(&chosen).map(one).sum();
        1.0 - (self.groups.macs(self.graph, &gone) + branches) / self.total
    }

    /// Whether choice `place` may take candidate `index`: a convolution that is gone has no kernel any more.
    pub fn allows(&self, place: usize, index: usize) -> bool {
        let choice = &self.choices[place];
        let (Some(branch), Some(kernel)) = (&choice.branch, choice.candidates[index].kernel) else { return true };
        self.choices.iter().enumerate().filter(|(k, _)| *k != place).all(|(_, other)| {
            let (Some(taken), Some(by)) = (&other.branch, other.candidates[other.chosen].kernel) else { return true };
            !(by.over_all && branch.last == taken.first || kernel.over_all && taken.last == branch.first)
        })
    }

    /// Orders the candidates of each group by what they save, and leaves out those that save less than one of no more loss.
    pub fn settle(&mut self) {
        for place in 0..self.choices.len() {
            let saved = |index| self.share(|k, _| if k == place { index } else { 0 });
            let mut list: Vec<(f64, Candidate)> =
                self.choices[place].candidates.iter().enumerate().map(|(k, c)| (saved(k), *c)).collect();
            list.retain(|(saved, candidate)| candidate.loss.is_finite() && (*saved > 0.0 || candidate.is_nothing()));
            list.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.loss.total_cmp(&a.1.loss)));
            let mut least = f64::INFINITY;
            let mut kept: Vec<Candidate> = Vec::new();
            for (_, candidate) in list.iter().rev() {
                if candidate.loss < least || candidate.is_nothing() {
                    least = least.min(candidate.loss);
                    kept.push(*candidate);
                }
            }
            kept.reverse();
            self.choices[place].candidates = kept;
            self.choices[place].chosen = 0;
        }
    }

    /// Chooses until `ratio` is removed, with losses to the power of `temper` (above 1, many small ones are taken rather than
    /// few large ones); whether it could be.
    pub fn choose(&mut self, ratio: f64, temper: f64) -> bool {
        self.choices.iter_mut().for_each(|choice| choice.chosen = 0);
        let mut removed = 0.0;
        while removed < ratio {
            let mut best: Option<(f64, usize, usize)> = None;
            for (place, choice) in self.choices.iter().enumerate() {
                let now = choice.candidates[choice.chosen].loss.powf(temper);
                for index in choice.chosen + 1..choice.candidates.len() {
                    let saved = self.removed_with(place, index) - removed;
                    if saved <= 0.0 || !self.allows(place, index) {
                        continue;
                    }
                    let price = (choice.candidates[index].loss.powf(temper) - now).max(0.0) / saved;
                    if best.is_none_or(|(least, ..)| price < least) {
                        best = Some((price, place, index));
                    }
                }
            }
            let Some((_, place, index)) = best else { return false };
            self.choices[place].chosen = index;
            removed = self.removed();
        }
        self.give_back(ratio);
        true
    }

    /// Takes back what is not needed, the most harmful first.
    fn give_back(&mut self, ratio: f64) {
        loop {
            let mut best: Option<(f64, usize, usize)> = None;
            for (place, choice) in self.choices.iter().enumerate() {
                let now = choice.candidates[choice.chosen].loss;
                for index in 0..choice.chosen {
                    let gain = now - choice.candidates[index].loss;
                    let better = gain > 0.0 && best.is_none_or(|(most, ..)| gain > most);
                    if better && self.allows(place, index) && self.removed_with(place, index) >= ratio {
                        best = Some((gain, place, index));
                    }
                }
            }
            let Some((_, place, index)) = best else { return };
            self.choices[place].chosen = index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Choice};
    use crate::{prune::Groups, testing::parse};
    use onnx_shrink_ir::infer;

    #[test]
    fn counts_follow_the_blocks_of_the_target() {
        let of_block = |total: usize, block: usize| {
            let choice = Choice::new(0, total, (0..total as u32).collect(), None, block);
            choice.candidates.iter().map(|candidate| total - candidate.gone).collect::<Vec<_>>()
        };
        let kept = |total| of_block(total, 16);
        assert_eq!(of_block(16, 8), [16, 12, 8, 4]);
        assert_eq!(of_block(32, 8), [32, 28, 24, 20, 16, 12, 8, 4]);
        assert_eq!(kept(64), [64, 56, 48, 40, 32, 24, 16, 12, 8]);
        assert_eq!(kept(16), [16, 12, 8, 4]);
        assert_eq!(kept(20), [20, 16, 12, 8, 4]);
        assert_eq!(kept(6), [6, 5, 4, 3, 2]);
        assert_eq!(kept(1), [1]);
    }

    #[test]
    fn the_cheap_group_goes_first_and_what_is_too_much_is_reported() {
        let ones = |count: usize| vec!["1"; count].join(",");
        let model = format!(
            "g (float[1,4,1,1] x) => (float[1,4,1,1] y) <float[4,4,1,1] w1 = {{{0}}}, float[4,4,1,1] w2 = {{{0}}},
            float[4,4,1,1] w3 = {{{0}}}> {{ a = Conv (x, w1)  b = Conv (a, w2)  y = Conv (b, w3) }}",
            ones(16)
        );
        let mut graph = parse(&model).graph;
        infer::infer(&mut graph);
        let groups = Groups::of(&graph);
        let choices = (0..2).map(|group| {
            let mut choice = Choice::new(group, 4, groups.free(&groups.groups[group]), None, groups.block);
            let cost = if group == 0 { 1.0 } else { 3.0 };
            choice.candidates.iter_mut().for_each(|candidate| candidate.loss = cost * candidate.gone as f64);
            choice
        });
        let mut budget = Budget::new(&graph, &groups, choices.collect());
        assert!(budget.choose(0.3, 1.0));
        let gone: Vec<usize> = budget.choices.iter().map(|choice| choice.candidates[choice.chosen].gone).collect();
        assert_eq!(gone, [2, 0]);
        assert!((budget.removed() - 1.0 / 3.0).abs() < 1e-12);
        assert!(!budget.choose(0.9, 1.0));
        assert!((budget.most() - 39.0 / 48.0).abs() < 1e-12);
    }
}
