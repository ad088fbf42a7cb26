//! How many channels each group keeps: the least damage for the multiply-adds that have to go.
//!
//! Each group has candidate counts with a measured loss. Steps are taken by loss for each multiply-add saved until the
//! share is reached, then what is left over is given back; multiply-adds are counted on the whole graph each time, as
//! groups share layers. **Never** goes below the least count of a group, and says what could be reached when that is not
//! enough. **Source:** `docs/methods.md` §9, recipe 4 to 6.
use std::collections::BTreeSet;

use onnx_shrink_ir::Graph;

use super::groups::{Groups, Unit};
use crate::target::channel_step;

/// A group that may lose channels.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Index into [`Groups::groups`]
    pub group: usize,
    /// The units that may go, the least missed first
    pub order: Vec<Unit>,
    /// How many of them go, ascending from 0, and what that costs; losses of different groups add up
    pub candidates: Vec<(usize, f64)>,
    /// Index into `candidates`
    pub chosen: usize,
}

impl Choice {
    /// The choice for a group of `total` channels of which `order` may go, with losses of 0.
    pub fn new(group: usize, total: usize, order: Vec<Unit>) -> Choice {
        let step = channel_step(total);
        let least = least_kept(total).max(total - order.len());
        // About eighths of the group, in steps.
        let wide = (total / 8).next_multiple_of(step).max(step);
        let mut candidates = vec![(0, 0.0)];
        let mut kept = total.saturating_sub(1) / wide * wide;
        while kept >= least && kept > 0 {
            candidates.push((total - kept, 0.0));
            kept -= wide.min(kept);
        }
        Choice { group, order, candidates, chosen: 0 }
    }

    /// The units that go when candidate `index` is chosen.
    pub fn gone(&self, index: usize) -> &[Unit] {
        &self.order[..self.candidates[index].0]
    }
}

/// Channels that stay in any case: an eighth, and a step of the target's blocks, or a quarter of small groups.
fn least_kept(total: usize) -> usize {
    match total {
        ..8 => total.div_ceil(4).max(1),
        _ => (total / 8).next_multiple_of(channel_step(total)).max(channel_step(total)),
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

    /// The units that go with the choices at hand.
    pub fn gone(&self) -> BTreeSet<Unit> {
        self.choices.iter().flat_map(|choice| choice.gone(choice.chosen)).copied().collect()
    }

    /// The share of multiply-adds that is gone.
    pub fn removed(&self) -> f64 {
        1.0 - self.groups.macs(self.graph, &self.gone()) / self.total
    }

    /// The share with candidate `index` of choice `place`.
    pub fn removed_with(&self, place: usize, index: usize) -> f64 {
        let units = self.choices.iter().enumerate();
        let gone = units.flat_map(|(k, choice)| choice.gone(if k == place { index } else { choice.chosen }));
        1.0 - self.groups.macs(self.graph, &gone.copied().collect()) / self.total
    }

    /// The most that can be removed.
    pub fn most(&self) -> f64 {
        let gone = self.choices.iter().flat_map(|choice| choice.gone(choice.candidates.len() - 1));
        1.0 - self.groups.macs(self.graph, &gone.copied().collect()) / self.total
    }

    /// Chooses until `ratio` is removed; whether it could be.
    pub fn choose(&mut self, ratio: f64) -> bool {
        self.choices.iter_mut().for_each(|choice| choice.chosen = 0);
        let mut removed = 0.0;
        while removed < ratio {
            let mut best: Option<(f64, usize, usize)> = None;
            for (place, choice) in self.choices.iter().enumerate() {
                let (_, now) = choice.candidates[choice.chosen];
                for index in choice.chosen + 1..choice.candidates.len() {
                    let saved = self.removed_with(place, index) - removed;
                    let price = (choice.candidates[index].1 - now).max(0.0) / saved.max(1e-12);
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
                let (_, now) = choice.candidates[choice.chosen];
                for index in 0..choice.chosen {
                    let gain = now - choice.candidates[index].1;
                    let better = gain > 0.0 && best.is_none_or(|(most, ..)| gain > most);
                    if better && self.removed_with(place, index) >= ratio {
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
        let kept = |total: usize| {
            let choice = Choice::new(0, total, (0..total as u32).collect());
            choice.candidates.iter().map(|(gone, _)| total - gone).collect::<Vec<_>>()
        };
        assert_eq!(kept(64), [64, 56, 48, 40, 32, 24, 16, 8]);
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
            let mut choice = Choice::new(group, 4, groups.free(&groups.groups[group]));
            let cost = if group == 0 { 1.0 } else { 3.0 };
            choice.candidates.iter_mut().for_each(|(gone, loss)| *loss = cost * *gone as f64);
            choice
        });
        let mut budget = Budget::new(&graph, &groups, choices.collect());
        assert!(budget.choose(0.3));
        let gone: Vec<usize> = budget.choices.iter().map(|choice| choice.candidates[choice.chosen].0).collect();
        assert_eq!(gone, [2, 0]);
        assert!((budget.removed() - 1.0 / 3.0).abs() < 1e-12);
        assert!(!budget.choose(0.9));
        assert!((budget.most() - 39.0 / 48.0).abs() < 1e-12);
    }
}
