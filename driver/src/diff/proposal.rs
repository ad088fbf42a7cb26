//! All changes of ops: what was found, merged where it is one, and put into words.
use std::{collections::BTreeMap, fmt::Write};

use super::{
    change::{Change, Detail, Kind, OpRef},
    index::Index,
    layers,
    matching::through,
    pairs::{Delta, compare_pair},
    view::View,
};

/// A change before it is put into words: ops by place.
pub(super) struct Proposal {
    pub kind: Kind,
    pub a: Vec<usize>,
    pub b: Vec<usize>,
    /// Conversions and ops on constants in B that serve these
    pub helpers: Vec<usize>,
    /// The pair that the ops went into or came from
    pub host: Option<usize>,
    pub title: Option<String>,
    pub details: Vec<Detail>,
}

impl Proposal {
    pub fn new(kind: Kind, a: Vec<usize>, b: Vec<usize>) -> Proposal {
        Proposal { kind, a, b, helpers: Vec::new(), host: None, title: None, details: Vec::new() }
    }

    pub fn with_host(self, host: usize) -> Proposal {
        Proposal { host: Some(host), ..self }
    }

    pub fn titled(self, title: String) -> Proposal {
        Proposal { title: Some(title), ..self }
    }

    pub fn noted(mut self, detail: Option<Detail>) -> Proposal {
        self.details.extend(detail);
        self
    }
}

impl View<'_, '_> {
    /// All changes of ops, in the order of A, then of what is only in B.
    pub fn changes(&self) -> Vec<Change> {
        let mut deltas: Vec<Option<Delta>> = vec![None; self.a.ops.len()];
        for (place, twin) in self.matches.to_b.iter().enumerate() {
            deltas[place] = twin.map(|twin| compare_pair(self, place, twin));
        }
        let mut proposals = Vec::new();
        self.moves(&mut deltas, &mut proposals);
        self.groups(&deltas, &mut proposals);
        let mut companions = self.companions(&deltas, &mut proposals);
        let mut former = self.former_companions(&deltas, &mut proposals);
        let mut merged: Vec<Proposal> = Vec::new();
        let mut by_host: BTreeMap<usize, usize> = BTreeMap::new();
        for proposal in proposals {
            match proposal.host {
                Some(host) if by_host.contains_key(&host) => {
                    let first = &mut merged[by_host[&host]];
                    first.a.extend(proposal.a);
                    first.b.extend(proposal.b);
                    first.helpers.extend(proposal.helpers);
                    if first.kind != proposal.kind {
                        first.kind = Kind::Replaced;
                    }
                }
                host => {
                    if let Some(host) = host {
                        by_host.insert(host, merged.len());
                    }
                    merged.push(proposal);
                }
            }
        }
        let mut changes: Vec<(usize, usize, Change)> = Vec::new();
        for proposal in merged {
            let of_a = proposal.host.and_then(|host| former.remove(&host));
            let mut change = self.tell(proposal, &deltas, &mut companions);
            if let Some(of_a) = of_a {
                change.a.extend(Self::refs(self.a, &of_a));
            }
            changes.push(place_of(change));
        }
        for (place, delta) in deltas.iter().enumerate() {
            if let (Some(delta), Some(twin), false) = (delta, self.matches.to_b[place], by_host.contains_key(&place))
                && let helpers = companions.remove(&place).into_iter().flatten().collect()
                && let Some(mut change) = self.tell_pair(place, twin, delta, helpers)
            {
                if let Some(of_a) = former.remove(&place) {
                    change.a.extend(Self::refs(self.a, &of_a));
                }
                changes.push(place_of(change));
            }
        }
        changes.sort_by_key(|(a, b, _)| (*a, *b));
        changes.into_iter().map(|(_, _, change)| change).collect()
    }

    fn tell(
        &self,
        mut proposal: Proposal,
        deltas: &[Option<Delta>],
        companions: &mut BTreeMap<usize, Vec<usize>>,
    ) -> Change {
        let mut details = std::mem::take(&mut proposal.details);
        let mut suffix = String::new();
        let mut helpers = std::mem::take(&mut proposal.helpers);
        if let Some(host) = proposal.host {
            proposal.a.push(host);
            proposal.b.extend(self.matches.to_b[host]);
            helpers.extend(companions.remove(&host).into_iter().flatten());
            if let Some(delta) = &deltas[host] {
                details.extend(delta.details.iter().cloned());
                suffix = form_of(delta, proposal.kind != Kind::Split);
            }
        }
        // Weights into which other arithmetic went are no longer the same numbers: an error would mean nothing.
        let arithmetic = |&place: &usize| {
            let kind = self.a.op(place).op_type();
            matches!(kind, "BatchNormalization" | "Mul" | "Add" | "Div" | "Sub" | "MatMul" | "Gemm" | "Conv")
        };
        let others = proposal.a.iter().filter(|place| proposal.host != Some(**place)).any(arithmetic);
        if others || proposal.kind == Kind::Split {
            for detail in &mut details {
                if let Detail::Constant { relative_error, elements, .. } = detail {
                    (*relative_error, *elements) = (None, None);
                }
            }
        }
        proposal.a.sort_unstable();
        proposal.b.sort_unstable();
        proposal.b.dedup();
        if proposal.kind == Kind::Split
            && let [_, last] = proposal.b[..]
            && let Some(size) = layers::size(self.b, &self.computed_b, last)
        {
            let _ = write!(suffix, " of rank {}", size.inputs);
        }
        if matches!(proposal.kind, Kind::Split | Kind::Fused) {
            details.retain(|detail| !matches!(detail, Detail::Value { name, .. } if name == layers::WORK));
            details.extend(layers::work(self, &proposal.a, &proposal.b));
        }
        let title = proposal.title.take().unwrap_or_else(|| {
            format!("{} became {}{suffix}", joined_types(self.a, &proposal.a), joined_types(self.b, &proposal.b))
        });
        helpers.sort_unstable();
        proposal.b.extend(helpers);
        Change {
            kind: proposal.kind,
            scope: String::new(),
            title,
            a: Self::refs(self.a, &proposal.a),
            b: Self::refs(self.b, &proposal.b),
            details,
            around: None,
        }
    }

    fn tell_pair(&self, place: usize, twin: usize, delta: &Delta, mut helpers: Vec<usize>) -> Option<Change> {
        let (one, other) = (self.a.type_of(place), self.b.type_of(twin));
        let became = if one == other { one.clone() } else { format!("{one} became {other}") };
        let (kind, mut title) = if let Some(types) = &delta.quantized {
            (Kind::Quantized, format!("{became} quantized ({})", joined(types)))
        } else if let Some(stored) = delta.stored {
            (Kind::Stored, format!("{became}: constants stored as {stored}"))
        } else if one != other {
            (Kind::Replaced, became)
        } else if let Some(types) = &delta.dequantized {
            (Kind::Replaced, format!("{became} is float again (was {})", joined(types)))
        } else if let Some(was) = delta.unstored {
            (Kind::Stored, format!("{became}: constants stored as float again (were {was})"))
        } else if !delta.rewired.is_empty() && !delta.own {
            let title = match self.swapped(place, twin, &delta.rewired) {
                true => "inputs swapped",
                false if delta.outside => "reads what stands outside of its body in place of a constant",
                false => "reads other values",
            };
            (Kind::Rewired, format!("{became}: {title}"))
        } else if delta.details.is_empty() && helpers.is_empty() {
            return None;
        } else {
            let mut what: Vec<String> = Vec::new();
            for detail in &delta.details {
                let name = match detail {
                    Detail::Attribute { name, .. } => format!("attribute `{name}`"),
                    Detail::Constant { .. } | Detail::Value { .. } if delta.resized.is_some() => continue,
                    Detail::Constant { input, .. } => format!("constant `{input}`"),
                    Detail::Reads { input, .. } => format!("input `{input}`"),
                    Detail::Value { name, .. } if name != "output" => name.clone(),
                    _ => continue,
                };
                what.push(name);
            }
            let kind = if delta.details.is_empty() { Kind::Stored } else { Kind::Changed };
            if delta.resized.is_some() {
                (kind, [vec![became], what].concat().join(", "))
            } else {
                let what = if what.is_empty() {
                    "the same constants, stored in another form".to_owned()
                } else {
                    what.join(", ")
                };
                (kind, format!("{became}: {what}"))
            }
        };
        if let Some(resized) = &delta.resized {
            let _ = write!(title, ", {resized}");
        }
        let mut b = vec![twin];
        helpers.sort_unstable();
        b.extend(helpers);
        Some(Change {
            kind,
            scope: String::new(),
            title,
            a: Self::refs(self.a, &[place]),
            b: Self::refs(self.b, &b),
            details: delta.details.clone(),
            around: None,
        })
    }

    /// Whether the op reads the same values in another order.
    fn swapped(&self, place: usize, twin: usize, ports: &[usize]) -> bool {
        let (ours, theirs) = (&self.a.inputs[place], &self.b.inputs[twin]);
        ours.len() == theirs.len()
            && ports.len() > 1
            && ports.iter().all(|&port| {
                let one = through(self.a, &self.matches.to_b, ours[port]);
                ports.iter().any(|&port| self.corresponds(one, through(self.b, &self.matches.to_a, theirs[port])))
            })
    }
}

/// How the op computes, is stored, and, `sized`, how many channels it has, for the end of a title.
fn form_of(delta: &Delta, sized: bool) -> String {
    let mut text = match (&delta.quantized, delta.stored, &delta.dequantized) {
        (Some(types), ..) => format!(", quantized ({})", joined(types)),
        (None, Some(stored), _) => format!(", constants stored as {stored}"),
        (None, None, Some(types)) => format!(", float again (was {})", joined(types)),
        (None, None, None) if delta.unstored.is_some() => ", constants stored as float again".to_owned(),
        _ => String::new(),
    };
    if let Some(resized) = delta.resized.as_ref().filter(|_| sized) {
        let _ = write!(text, ", {resized}");
    }
    text
}

/// "uint8 × int8": element types of activations and weights.
fn joined((activations, weights): &(String, String)) -> String {
    if weights.is_empty() { activations.clone() } else { format!("{activations} × {weights}") }
}

fn place_of(change: Change) -> (usize, usize, Change) {
    let first = |ops: &[OpRef]| ops.iter().map(|op| op.index).min().unwrap_or(usize::MAX);
    (first(&change.a), first(&change.b), change)
}

/// "Conv + BatchNormalization + Relu": types in order, equal neighbours counted, long lists cut.
pub(super) fn joined_types(index: &Index<'_>, places: &[usize]) -> String {
    let mut runs: Vec<(String, usize)> = Vec::new();
    for &place in places {
        let kind = index.type_of(place);
        match runs.last_mut() {
            Some((last, count)) if *last == kind => *count += 1,
            _ => runs.push((kind, 1)),
        }
    }
    const LONGEST: usize = 6;
    let more: usize = runs.iter().skip(LONGEST).map(|(_, count)| count).sum();
    let mut texts: Vec<String> = runs
        .into_iter()
        .take(LONGEST)
        .map(|(kind, count)| if count == 1 { kind } else { format!("{count} {kind}") })
        .collect();
    if more > 0 {
        texts.push(format!("{more} more"));
    }
    texts.join(" + ")
}
