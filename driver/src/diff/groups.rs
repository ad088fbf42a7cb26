//! What became of ops without a counterpart, told by what stands around them.
//!
//! Ops of one side that are connected form a group; groups of both sides that serve the same reader are one. A group on one
//! side alone was fused into a neighbour that changed, folded, merged with an equal op, was dead, or only passed a value on.
//! Only what none of this explains is "removed" or "added".
use std::collections::BTreeMap;

use onnx_shrink_ir::{
    DisjointSets,
    semantics::{self, Effect},
};

use super::{
    change::{Detail, Kind},
    index::{Index, Source},
    matching::{kin, through},
    pairs::Delta,
    proposal::{Proposal, joined_types},
    view::{Role, View},
};

/// One use of what a group makes: the op, and what the reader's counterpart reads in its place.
struct Exit {
    op: usize,
    reader: Option<usize>,
    target: Source,
}

impl View<'_, '_> {
    /// Groups of ops without a counterpart.
    pub(super) fn groups(&self, deltas: &[Option<Delta>], proposals: &mut Vec<Proposal>) {
        let (count, total) = (self.a.ops.len(), self.a.ops.len() + self.b.ops.len());
        // (The name of a group is its least member: groups come in the order of A.)
        let mut union = DisjointSets::new(total);
        for (index, roles, offset) in [(self.a, &self.roles_a, 0), (self.b, &self.roles_b, count)] {
            for place in 0..index.ops.len() {
                for &source in &index.inputs[place] {
                    let Source::Made(maker, _) = source else { continue };
                    let alike = roles[place] == roles[maker] && matches!(roles[place], Role::Free | Role::Constant);
                    // What is computed from constants for such ops alone is a part of them.
                    let part = offset == 0
                        && (roles[place], roles[maker]) == (Role::Free, Role::Constant)
                        && index.exits[maker].is_empty()
                        && index.readers[maker].iter().flatten().all(|&(reader, _)| roles[reader] == Role::Free);
                    if alike || part {
                        union.join(offset + place, offset + maker);
                    }
                }
            }
        }
        let exits_a = self.exits(false, &mut union);
        let exits_b = self.exits(true, &mut union);
        type Members = (Vec<usize>, Vec<usize>, Vec<Exit>, Vec<Exit>);
        let mut groups: BTreeMap<usize, Members> = BTreeMap::new();
        for (place, role) in self.roles_a.iter().enumerate() {
            if matches!(role, Role::Free | Role::Constant) {
                groups.entry(union.least(place)).or_default().0.push(place);
            }
        }
        for (place, role) in self.roles_b.iter().enumerate() {
            if *role == Role::Free {
                groups.entry(union.least(count + place)).or_default().1.push(place);
            }
        }
        for exit in exits_a {
            groups.entry(union.least(exit.op)).or_default().2.push(exit);
        }
        for exit in exits_b {
            groups.entry(union.least(count + exit.op)).or_default().3.push(exit);
        }
        let (upward, upward_b) = (upward(self.a), upward(self.b));
        for (a, b, exits_a, exits_b) in groups.into_values() {
            if a.is_empty() && b.is_empty() {
                continue;
            }
            proposals.push(match (a.is_empty(), b.is_empty()) {
                (false, false) => self.both(a, b),
                (false, true) => self.gone(a, &exits_a, deltas, &upward),
                _ => self.new_ones(b, &exits_b, deltas, &upward_b),
            });
        }
    }

    /// Uses of what ops without a counterpart make, by ops that have one; and joins groups that serve the same use.
    fn exits(&self, second: bool, union: &mut DisjointSets) -> Vec<Exit> {
        let count = self.a.ops.len();
        let (index, other, roles, others, matched, twins) = match second {
            false => (self.a, self.b, &self.roles_a, &self.roles_b, &self.matches.to_b, &self.matches.to_a),
            true => (self.b, self.a, &self.roles_b, &self.roles_a, &self.matches.to_a, &self.matches.to_b),
        };
        let mut exits = Vec::new();
        let mut add = |op: usize, reader: Option<usize>, source: Source| {
            let target = through(other, twins, source);
            let (own, theirs) = if second { (count, 0) } else { (0, count) };
            if let Source::Made(maker, _) = target
                && others[maker] == Role::Free
                && roles[op] == Role::Free
            {
                union.join(own + op, theirs + maker);
            }
            exits.push(Exit { op, reader, target });
        };
        // The conversion of a constant is an op like others: what it made may be a constant on the other side.
        let origin = |source: Source| match source {
            Source::Made(maker, _) if roles[maker] == Role::Constant => source,
            source => through(index, matched, source),
        };
        for (reader, twin) in matched.iter().enumerate() {
            let Some(twin) = *twin else { continue };
            for (port, &source) in index.inputs[reader].iter().enumerate() {
                if let Source::Made(maker, _) = origin(source)
                    && roles[maker] != Role::Matched
                {
                    let target = other.inputs[twin].get(port).copied().unwrap_or(Source::Nothing);
                    add(maker, Some(reader), target);
                }
            }
        }
        for (place, &source) in index.outputs.iter().enumerate() {
            if let Source::Made(maker, _) = origin(source)
                && roles[maker] != Role::Matched
            {
                let twin = match second {
                    false => self.frame.outputs[place],
                    true => self.frame.outputs.iter().position(|twin| *twin == Some(place)),
                };
                if let Some(twin) = twin {
                    add(maker, None, other.outputs[twin]);
                }
            }
        }
        exits
    }

    fn both(&self, a: Vec<usize>, b: Vec<usize>) -> Proposal {
        let same_kind =
            a.len() == 1 && b.len() > 1 && b.iter().all(|&op| kin(&self.a.type_of(a[0]), &self.b.type_of(op)));
        let kind = match (same_kind, b.len() == 1 && a.len() > 1) {
            (true, _) => Kind::Split,
            (_, true) => Kind::Fused,
            _ => Kind::Replaced,
        };
        Proposal::new(kind, a, b)
    }

    /// A group that is only in A.
    fn gone(&self, a: Vec<usize>, exits: &[Exit], deltas: &[Option<Delta>], upward: &[u64]) -> Proposal {
        let plain = |kind, title: String, a: Vec<usize>| Proposal::new(kind, a, vec![]).titled(title);
        let names = joined_types(self.a, &a);
        let (its, they) = if a.len() == 1 { ("its", "it") } else { ("their", "they") };
        if exits.is_empty() {
            return match self.leads_out(&a) {
                true => plain(Kind::Removed, format!("{names}: gone"), a),
                false => plain(Kind::Dead, format!("{names}: led to no output, gone"), a),
            };
        }
        if exits.iter().all(|exit| self.computed_b.is_constant(exit.target)) {
            return plain(Kind::Folded, format!("{names} folded into a constant"), a);
        }
        // A chain of equal ops, as Concat of Concat, that became one with more inputs.
        let longer = |reader: &usize| {
            let kind = self.a.type_of(*reader);
            let rewired = deltas[*reader].as_ref().is_some_and(|delta| !delta.rewired.is_empty());
            rewired && a.iter().all(|&op| self.a.type_of(op) == kind)
        };
        if let Some(host) = exits.iter().filter_map(|exit| exit.reader).find(longer) {
            return Proposal::new(Kind::Fused, a, vec![]).with_host(host);
        }
        let entries: Vec<Source> = a
            .iter()
            .flat_map(|&op| &self.a.inputs[op])
            .map(|&source| through(self.a, &self.matches.to_b, source))
            .collect();
        // Ops that only pass numbers on go into a neighbour only if that does something else than before.
        let only_passes = a.iter().all(|&op| passes(self.a, op));
        let changed = |place: usize| {
            deltas[place].as_ref().is_some_and(|delta| {
                let attribute = delta.details.iter().any(|detail| matches!(detail, Detail::Attribute { .. }));
                (delta.own || delta.quantized.is_some()) && (!only_passes || delta.reshaped || attribute)
            })
        };
        let twin_of = |target: Source| match target {
            Source::Made(op, port) => self.matches.to_a[op].map(|op| Source::Made(op, port)),
            Source::Input(place) => self.frame.inputs.iter().position(|twin| *twin == Some(place)).map(Source::Input),
            _ => None,
        };
        for exit in exits {
            let Some(origin) = twin_of(exit.target) else { continue };
            if !entries.contains(&origin) {
                if only_passes && before_layout(self.a, &entries).contains(&origin) {
                    let note = Detail::Note { text: format!("they read `{}` now", self.a.name_of(origin)) };
                    let title = format!("{names}: gone, {its} readers read what stands before other ops of layout");
                    return plain(Kind::Bypassed, title, a).noted(Some(note));
                }
                if let Source::Made(op, _) = origin {
                    let equal = upward[op] == upward[exit.op];
                    let label = format!("{} `{}`", self.a.type_of(op), self.a.label(op));
                    let (kind, title) = match equal {
                        true => (Kind::Merged, format!("{names}: an equal {} does the work", self.a.type_of(op))),
                        false => (Kind::Removed, format!("{names}: gone, {its} readers read another value")),
                    };
                    let note = Detail::Note { text: format!("{label} takes {its} place") };
                    return plain(kind, title, a).noted(Some(note));
                }
                continue;
            }
            let hosts = [if let Source::Made(op, _) = origin { Some(op) } else { None }, exit.reader];
            if let Some(host) = hosts.into_iter().flatten().find(|&host| changed(host)) {
                return Proposal::new(Kind::Fused, a, vec![]).with_host(host);
            }
        }
        let passed = |exit: &Exit| twin_of(exit.target).is_some_and(|origin| entries.contains(&origin));
        let constant = |exit: &Exit| self.computed_b.is_constant(exit.target);
        if exits.iter().all(passed) {
            return plain(Kind::Bypassed, format!("{names}: gone, {its} readers read what {they} read"), a);
        }
        match exits.iter().all(|exit| passed(exit) || constant(exit)) {
            true => {
                plain(Kind::Bypassed, format!("{names}: gone, {its} readers read what {they} read, or constants"), a)
            }
            false => plain(Kind::Removed, format!("{names}: gone"), a),
        }
    }

    /// Whether a path leads from one of the ops to an output of A.
    fn leads_out(&self, ops: &[usize]) -> bool {
        let mut seen = vec![false; self.a.ops.len()];
        let mut work = ops.to_vec();
        while let Some(op) = work.pop() {
            if std::mem::replace(&mut seen[op], true) {
                continue;
            }
            if !self.a.exits[op].is_empty() {
                return true;
            }
            work.extend(self.a.readers[op].iter().flatten().map(|&(reader, _)| reader));
        }
        false
    }

    /// A group that is only in B.
    fn new_ones(&self, b: Vec<usize>, exits: &[Exit], deltas: &[Option<Delta>], upward: &[u64]) -> Proposal {
        let entries: Vec<Source> = b
            .iter()
            .flat_map(|&op| &self.b.inputs[op])
            .map(|&source| through(self.b, &self.matches.to_a, source))
            .collect();
        let readers = exits.iter().filter_map(|exit| exit.reader.and_then(|reader| self.matches.to_a[reader]));
        let makers = entries.iter().filter_map(|source| match *source {
            Source::Made(op, _) => self.matches.to_a[op],
            _ => None,
        });
        let neighbours: Vec<usize> = readers.chain(makers).collect();
        let names = joined_types(self.b, &b);
        let split = neighbours.iter().find(|&&place| {
            let kind = self.a.type_of(place);
            deltas[place].as_ref().is_some_and(|delta| delta.reshaped)
                && b.iter().any(|&op| kin(&kind, &self.b.type_of(op)))
        });
        if let Some(&host) = split {
            return Proposal::new(Kind::Split, vec![], b).with_host(host);
        }
        // A type that changed, or a constant that moved out of its op: the new ops took over a part of it.
        let part = neighbours.iter().find(|&&place| {
            deltas[place].as_ref().is_some_and(|delta| {
                let twin = self.matches.to_b[place].map(|twin| self.b.type_of(twin));
                delta.own && twin.is_some_and(|twin| twin != self.a.type_of(place))
            })
        });
        if let Some(&host) = part {
            return Proposal::new(Kind::Replaced, vec![], b).with_host(host);
        }
        let count = exits.len();
        let constant = |exit: &Exit| self.computed_a.is_constant(exit.target);
        let mut between = exits.iter().find(|exit| self.came_from(exit.target, &entries));
        if between.is_none() && b.iter().all(|&op| passes(self.b, op)) {
            let before = before_layout(self.b, &entries);
            between = exits.iter().find(|exit| self.came_from(exit.target, &before));
        }
        // What an op that stays did for the readers of these, too.
        let twin = |exit: &Exit| match exit.target {
            Source::Made(op, 0) => self.matches.to_b[op],
            _ => None,
        };
        let copied = |exit: &Exit| twin(exit).is_some_and(|twin| upward[twin] == upward[exit.op]);
        let (kind, title) = match (between, count) {
            (_, 1..) if exits.iter().all(constant) => (Kind::Replaced, format!("a constant became {names}")),
            (None, 1..) if exits.iter().all(copied) => {
                (Kind::Inserted, format!("{names}: an equal op did the work before"))
            }
            (Some(_), _) => (Kind::Inserted, format!("{names} inserted")),
            (None, 0) => {
                (Kind::Added, format!("{names} added, and nothing reads {}", if b.len() == 1 { "it" } else { "them" }))
            }
            _ => (Kind::Added, format!("{names} added")),
        };
        let mut detail = None;
        if let Some(exit) = between {
            let reader = match exit.reader {
                Some(reader) => format!("{} `{}`", self.b.type_of(reader), self.b.label(reader)),
                None => "an output".to_owned(),
            };
            detail = Some(Detail::Note { text: format!("between `{}` and {reader}", self.a.name_of(exit.target)) });
        }
        Proposal::new(kind, vec![], b).titled(title).noted(detail)
    }

    /// Whether `source` of A is the counterpart of one of B's `entries`.
    fn came_from(&self, source: Source, entries: &[Source]) -> bool {
        entries.iter().any(|&entry| self.corresponds(source, entry))
    }
}

/// Hashes of what each op is computed from, with inputs by place.
fn upward(index: &Index<'_>) -> Vec<u64> {
    index.upward(&|source| match source {
        Source::Input(place) => 10 * place as u64 + 1,
        Source::Outer(place) => 10 * place as u64 + 2,
        _ => 0,
    })
}

/// Whether op `place` only passes numbers on.
fn passes(index: &Index<'_>, place: usize) -> bool {
    const LAYOUT: [&str; 9] =
        ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Concat", "Cast", "Expand"];
    let kind = index.op(place).op_type();
    LAYOUT.contains(&kind) || matches!(kind, "Identity" | "Dropout")
}

/// The values that `sources` are with other shapes: what the ops of layout before them read.
fn before_layout(index: &Index<'_>, sources: &[Source]) -> Vec<Source> {
    let mut found = Vec::new();
    for &source in sources {
        let mut source = source;
        while let Source::Made(op, 0) = source
            && semantics::of(index.op(op)).is_some_and(|row| row.effect == Effect::View)
            && let Some(&input) = index.inputs[op].first()
        {
            found.push(input);
            source = input;
        }
    }
    found
}
