//! Conversions, and ops on constants, that serve ops with a counterpart: they are told with those.
use std::collections::BTreeMap;

use super::{
    change::{Detail, Kind},
    index::Source,
    matching::through,
    pairs::Delta,
    proposal::{Proposal, joined_types},
    view::{Role, View},
};

impl View<'_, '_> {
    /// Conversions and ops that compute from constants in B, by the pair that they serve; those that serve none are proposed.
    pub(super) fn companions(
        &self,
        deltas: &[Option<Delta>],
        proposals: &mut Vec<Proposal>,
    ) -> BTreeMap<usize, Vec<usize>> {
        let quantized = |place: usize| deltas[place].as_ref().is_some_and(|delta| delta.quantized.is_some());
        let mut served: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut group_of: BTreeMap<usize, usize> = BTreeMap::new();
        for (number, proposal) in proposals.iter().enumerate() {
            group_of.extend(proposal.b.iter().map(|&op| (op, number)));
        }
        let mut loose = Vec::new();
        // Readers first: what reads a conversion is often one, too.
        let mut host: Vec<Option<Result<usize, usize>>> = vec![None; self.b.ops.len()];
        for place in (0..self.b.ops.len()).rev() {
            let role = self.roles_b[place];
            if !matches!(role, Role::Conversion | Role::Constant) {
                continue;
            }
            let mut candidates: Vec<Result<usize, usize>> = Vec::new();
            for &(reader, _) in self.b.readers[place].iter().flatten() {
                match (self.matches.to_a[reader], group_of.get(&reader)) {
                    (Some(pair), _) => candidates.push(Ok(pair)),
                    (None, Some(&group)) => candidates.push(Err(group)),
                    (None, None) => candidates.extend(host[reader]),
                }
            }
            if role == Role::Conversion
                && let Source::Made(maker, _) = through(self.b, &self.matches.to_a, Source::Made(place, 0))
                && let Some(pair) = self.matches.to_a[maker]
            {
                candidates.push(Ok(pair));
            }
            let fits = |candidate: &&Result<usize, usize>| match candidate {
                Ok(pair) => role == Role::Constant || quantized(*pair),
                Err(_) => true,
            };
            host[place] = candidates.iter().find(fits).copied();
            match host[place] {
                Some(Ok(pair)) => served.entry(pair).or_default().push(place),
                Some(Err(group)) => proposals[group].helpers.push(place),
                None => loose.push(place),
            }
        }
        loose.reverse();
        let mut chains: Vec<Vec<usize>> = Vec::new();
        for place in loose {
            let reads = |chain: &&mut Vec<usize>| {
                chain.iter().any(|&op| {
                    self.b.inputs[place].iter().any(|source| matches!(source, Source::Made(maker, _) if *maker == op))
                })
            };
            match chains.iter_mut().find(reads) {
                Some(chain) => chain.push(place),
                None => chains.push(vec![place]),
            }
        }
        for chain in chains {
            let source = through(self.b, &self.matches.to_a, self.b.inputs[chain[0]][0]);
            let note = Detail::Note { text: format!("on `{}`", self.b.name_of(source)) };
            let title = format!("{} inserted", joined_types(self.b, &chain));
            proposals.push(Proposal::new(Kind::Inserted, vec![], chain).titled(title).noted(Some(note)));
        }
        served
    }

    /// Conversions of A, and ops on constants, by the pair that is float without them; conversions that served none are
    /// proposed. The groups of ops on constants that have a pair go.
    pub(super) fn former_companions(
        &self,
        deltas: &[Option<Delta>],
        proposals: &mut Vec<Proposal>,
    ) -> BTreeMap<usize, Vec<usize>> {
        let float_again = |place: usize| {
            deltas[place].as_ref().is_some_and(|delta| delta.dequantized.is_some() || delta.unstored.is_some())
        };
        let is_conversion = |place: usize| matches!(self.roles_a[place], Role::Conversion | Role::Constant);
        let mut served: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut host: Vec<Option<usize>> = vec![None; self.a.ops.len()];
        for place in (0..self.a.ops.len()).rev().filter(|&place| is_conversion(place)) {
            let readers = self.a.readers[place].iter().flatten();
            let mut candidates: Vec<usize> = readers
                .filter_map(|&(reader, _)| if is_conversion(reader) { host[reader] } else { Some(reader) })
                .collect();
            if let Source::Made(maker, _) = through(self.a, &self.matches.to_b, Source::Made(place, 0)) {
                candidates.push(maker);
            }
            host[place] = candidates.into_iter().find(|&candidate| float_again(candidate));
            if let Some(host) = host[place] {
                served.entry(host).or_default().push(place);
            }
        }
        proposals.retain(|proposal| {
            let only = proposal.b.is_empty() && proposal.host.is_none() && !proposal.a.is_empty();
            !(only && proposal.a.iter().all(|&op| host[op].is_some()))
        });
        for (place, host) in host.iter().enumerate() {
            if self.roles_a[place] == Role::Conversion && host.is_none() {
                let title = format!("{}: gone", self.a.type_of(place));
                proposals.push(Proposal::new(Kind::Bypassed, vec![place], vec![]).titled(title));
            }
        }
        served
    }
}
