//! What goes back to more bits, so that gates hold: a step at a time, from 4 bits to 8, to 16, to floats.
//!
//! Layers in 4 bits and all other constants are asked about alike: numbers in [`Returns::steps`] are those of the layers first, and of
//! the constants behind them.
use std::collections::BTreeSet;

use onnx_shrink_passes::weight_only::least_bits::{Least, LeastBits};

use super::{Planned, Size};
use crate::report::Note;
use crate::request::weights::Weights;

/// How many steps each layer, and each constant, goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returns {
    /// By number
    pub steps: Vec<u8>,
    /// How far size goes before the error
    pub size: Size,
}

impl Returns {
    /// One step more for each of `numbers`.
    pub fn with(&self, numbers: &BTreeSet<usize>) -> Returns {
        let mut more = self.clone();
        numbers.iter().for_each(|number| more.steps[*number] += 1);
        more
    }

    /// One step less for each of `numbers`.
    pub fn without(&self, numbers: &[usize]) -> Returns {
        let mut less = self.clone();
        numbers.iter().for_each(|number| less.steps[*number] = less.steps[*number].saturating_sub(1));
        less
    }
}

/// Bytes of the ops that unpack a layer's weights, and their names, at most.
const UNPACKING: usize = 600;

/// Steps from 4 bits to floats.
pub(crate) const MOST_STEPS: usize = 3;

impl Planned<'_> {
    /// Nothing goes back, but what `size` says.
    pub fn none_returned(&self, size: Size) -> Returns {
        let mut steps = vec![0; self.layers.len() + self.constants.len()];
        if size == Size::Plain {
            steps[..self.layers.len()].fill(1);
        }
        Returns { steps, size }
    }

    /// Whether the file may be larger than with everything in 8 bits.
    pub fn may_take_more_than_8_bits(&self) -> bool {
        let in_4_bits: usize =
            self.layers.iter().map(|(_, stored)| stored.layer().inputs * stored.layer().outputs).sum();
        let spared: usize = self
            .constants
            .iter()
            .filter(|constant| self.spared.contains(&constant.name))
            .map(|constant| constant.bytes / 4)
            .sum();
        // A third of a byte a number is left of what 4 bits save, with scales; the ops that unpack take some more.
        self.stage.weights == Weights::Int4 && in_4_bits / 3 < spared + self.layers.len() * UNPACKING
    }

    /// What may go back, the likeliest culprits first: weights of bodies, whose errors add up from step to step, then layers in 4 bits
    /// by their noise, then what takes the fewest bytes.
    pub fn suspects(&self) -> Vec<usize> {
        let first = self.layers.len();
        let mut layers: Vec<usize> = (0..first).collect();
        layers
            .sort_by(|&a, &b| self.layers[a].1.noise().total_cmp(&self.layers[b].1.noise()).reverse().then(a.cmp(&b)));
        let mut constants: Vec<usize> = (0..self.constants.len()).collect();
        constants.sort_by_key(|&index| (self.constants[index].bytes, index));
        let (in_bodies, others): (Vec<usize>, Vec<usize>) =
            constants.into_iter().partition(|&index| self.constants[index].in_body);
        let number = |index: usize| first + index;
        in_bodies.into_iter().map(number).chain(layers).chain(others.into_iter().map(number)).collect()
    }

    /// What the passes may not go below.
    pub(super) fn least_bits(&self, returns: &Returns) -> LeastBits {
        let graph = &self.model.graph;
        let mut least = LeastBits { alone: true, ..LeastBits::default() };
        if returns.size == Size::Spared {
            least.by_name.extend(self.spared.iter().map(|name| (name.clone(), Least::Sixteen)));
        }
        least.by_name.extend(self.kept.iter().map(|name| (name.clone(), Least::Sixteen)));
        // A constant begins with 8 bits, or 16 where nothing asks for fewer.
        let begins = if self.stage.weights == Weights::Fp16 { 2 } else { 1 };
        let layers = self.layers.iter().map(|(_, stored)| (graph.name_of(stored.layer().weight), 0));
        let constants = self.constants.iter().map(|constant| (constant.name.as_str(), begins));
        for ((name, begins), steps) in layers.chain(constants).zip(&returns.steps) {
            let found = match begins + steps {
                0 | 1 => continue,
                2 => Least::Sixteen,
                _ => Least::Float,
            };
            let entry = least.by_name.entry(name.to_owned()).or_insert(found);
            *entry = found.max(*entry);
        }
        least
    }

    /// What users should know of it.
    pub(super) fn note_of_returns(&self, returns: &Returns) -> Option<Note> {
        let steps = &returns.steps[self.layers.len()..];
        let returned = self.constants.iter().zip(steps).filter(|(_, steps)| **steps > 0);
        let names: Vec<String> = returned.map(|(constant, _)| constant.name.clone()).collect();
        (!names.is_empty()).then_some(Note::InMoreBits(names))
    }
}
