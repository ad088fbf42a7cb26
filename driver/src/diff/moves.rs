//! Ops that stand elsewhere: without them, the rest is wired as before.
use super::{
    change::{Detail, Kind},
    constants::Computed,
    index::{Index, Source},
    pairs::{Delta, input_name},
    proposal::Proposal,
    view::View,
};

impl View<'_, '_> {
    /// Finds ops that stand elsewhere: without them, the rest is wired as before.
    pub(super) fn moves(&self, deltas: &mut [Option<Delta>], proposals: &mut Vec<Proposal>) {
        for place in 0..deltas.len() {
            let Some(twin) = self.matches.to_b[place] else { continue };
            if !deltas[place].as_ref().is_some_and(|delta| !delta.rewired.is_empty() && !delta.own) {
                continue;
            }
            let data = |index: &Index<'_>, place: usize, computed: &Computed| -> Option<Source> {
                let inputs = &index.inputs[place];
                let mut varying =
                    inputs.iter().filter(|&&source| source != Source::Nothing && !computed.is_constant(source));
                let first = *varying.next()?;
                (varying.next().is_none() && index.readers[place].len() == 1).then_some(first)
            };
            let (Some(before), Some(after)) =
                (data(self.a, place, &self.computed_a), data(self.b, twin, &self.computed_b))
            else {
                continue;
            };
            if self.corresponds(before, after) {
                continue; // it stands where it stood, with its inputs in another order
            }
            // The values as they would be if the op were on neither side.
            let skip_a = |source: Source| if source == Source::Made(place, 0) { before } else { source };
            let skip_b = |source: Source| if source == Source::Made(twin, 0) { after } else { source };
            let get = |inputs: &[Source], port: usize| inputs.get(port).copied().unwrap_or(Source::Nothing);
            let fits = |reader: usize, port: usize| {
                let Some(other) = self.matches.to_b[reader] else { return false };
                let (one, two) = (get(&self.a.inputs[reader], port), get(&self.b.inputs[other], port));
                self.corresponds(skip_a(one), skip_b(two))
            };
            let mut touched: Vec<(usize, usize)> = self.a.readers[place][0].clone();
            touched.extend(
                self.b.readers[twin][0].iter().filter_map(|&(reader, port)| Some((self.matches.to_a[reader]?, port))),
            );
            let outputs_fit = (0..self.a.outputs.len()).all(|output| {
                self.frame.outputs[output].is_none_or(|other| {
                    let (one, two) = (self.a.outputs[output], self.b.outputs[other]);
                    let touches = one == Source::Made(place, 0) || two == Source::Made(twin, 0);
                    !touches || self.corresponds(skip_a(one), skip_b(two))
                })
            });
            if touched.is_empty() || !outputs_fit || !touched.iter().all(|&(reader, port)| fits(reader, port)) {
                continue;
            }
            for (reader, port) in touched.into_iter().chain([(place, usize::MAX)]) {
                if let Some(delta) = &mut deltas[reader] {
                    let name = input_name(self.a, reader, port);
                    let all = port == usize::MAX;
                    delta.rewired.retain(|&rewired| !all && rewired != port);
                    delta.details.retain(|detail| match detail {
                        Detail::Reads { input, .. } => !all && *input != name,
                        _ => true,
                    });
                }
            }
            let behind = |index: &Index<'_>, source: Source| match source {
                Source::Made(op, _) => format!("behind {} `{}`", index.type_of(op), index.label(op)),
                source => format!("at `{}`", index.name_of(source)),
            };
            let detail = Detail::Value {
                name: "place".to_owned(),
                before: behind(self.a, before),
                after: behind(self.b, after),
            };
            let moved = Proposal::new(Kind::Moved, vec![], vec![]).with_host(place);
            proposals.push(moved.titled(format!("{} moved", self.a.type_of(place))).noted(Some(detail)));
        }
    }
}
