//! What became of ops without a counterpart, told by what stands around them.
//!
//! Ops of one side that are connected form a group; groups of both sides that serve the same reader are one. A group on one
//! side alone was fused into a neighbour that changed, folded, merged with an equal op, was dead, or only passed a value on.
//! Only what none of this explains is "removed" or "added".
use std::{collections::BTreeMap, fmt::Write};

use onnx_shrink_ir::ValueId;

use super::{
    Change, Compare, Detail, Kind, OpRef,
    constants::Computed,
    index::{Index, Source},
    layers,
    matching::{Frame, Matches, converts, kin, through},
    pairs::{Delta, compare_pair, input_name},
};

/// What part an op has in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It has a counterpart
    Matched,
    /// It computes from constants, and has none
    Constant,
    /// It quantizes or dequantizes, and has none
    Conversion,
    /// It has none
    Free,
}

/// Two graphs, matched.
pub(super) struct View<'v, 'g> {
    pub a: &'v Index<'g>,
    pub b: &'v Index<'g>,
    pub frame: &'v Frame,
    pub matches: &'v Matches,
    pub computed_a: Computed,
    pub computed_b: Computed,
    pub roles_a: Vec<Role>,
    pub roles_b: Vec<Role>,
}

/// A change before it is put into words: ops by place.
struct Proposal {
    kind: Kind,
    a: Vec<usize>,
    b: Vec<usize>,
    /// Conversions and ops on constants in B that serve these
    helpers: Vec<usize>,
    /// The pair that the ops went into or came from
    host: Option<usize>,
    title: Option<String>,
    details: Vec<Detail>,
}

impl Proposal {
    fn new(kind: Kind, a: Vec<usize>, b: Vec<usize>) -> Proposal {
        Proposal { kind, a, b, helpers: Vec::new(), host: None, title: None, details: Vec::new() }
    }

    fn with_host(self, host: usize) -> Proposal {
        Proposal { host: Some(host), ..self }
    }

    fn titled(self, title: String) -> Proposal {
        Proposal { title: Some(title), ..self }
    }

    fn noted(mut self, detail: Option<Detail>) -> Proposal {
        self.details.extend(detail);
        self
    }
}

/// One use of what a group makes: the op, and what the reader's counterpart reads in its place.
struct Exit {
    op: usize,
    reader: Option<usize>,
    target: Source,
}

impl<'v, 'g> View<'v, 'g> {
    pub fn new(
        compare: &Compare<'_>,
        a: &'v Index<'g>,
        b: &'v Index<'g>,
        frame: &'v Frame,
        matches: &'v Matches,
    ) -> View<'v, 'g> {
        let computed_a = Computed::new(a, &matches.to_b, compare.evaluator);
        let computed_b = Computed::new(b, &matches.to_a, compare.evaluator);
        let roles = |index: &Index<'_>, matched: &[Option<usize>], computed: &Computed| {
            let role = |place: usize| match matched[place] {
                Some(_) => Role::Matched,
                None if computed.is[place] => Role::Constant,
                None if converts(index, place) => Role::Conversion,
                None => Role::Free,
            };
            (0..index.ops.len()).map(role).collect::<Vec<_>>()
        };
        let (roles_a, roles_b) = (roles(a, &matches.to_b, &computed_a), roles(b, &matches.to_a, &computed_b));
        View { a, b, frame, matches, computed_a, computed_b, roles_a, roles_b }
    }

    /// Whether a value of A is that of B. Constants by content.
    pub fn corresponds(&self, one: Source, other: Source) -> bool {
        match (one, other) {
            (Source::Constant(one), Source::Constant(other)) => {
                self.a.constants[one].tensor == self.b.constants[other].tensor
            }
            _ => self.matches.across(self.frame, one) == Some(other),
        }
    }

    pub fn is_free_a(&self, source: Source) -> bool {
        matches!(source, Source::Made(op, _) if self.roles_a[op] != Role::Matched)
    }

    pub fn is_free_b(&self, source: Source) -> bool {
        matches!(source, Source::Made(op, _) if self.roles_b[op] != Role::Matched)
    }

    pub fn describe_a(&self, source: Source) -> String {
        self.a.name_of(source)
    }

    pub fn describe_b(&self, source: Source) -> String {
        self.b.name_of(source)
    }

    /// Inner values of two bodies that stand for corresponding outer ones.
    pub fn captured(&self, place: usize, region: usize, twin: usize, twin_region: usize) -> Vec<(ValueId, ValueId)> {
        let list = |index: &Index<'_>, place: usize, region: usize| -> Vec<(ValueId, Source)> {
            let direct = index.op(place).inputs().len();
            let captures = index.graph.captures(index.ops[place]).into_iter().enumerate();
            let of_region = captures.filter(|(_, capture)| capture.0 == region);
            of_region.map(|(k, (_, _, inner))| (inner, index.inputs[place][direct + k])).collect()
        };
        let theirs = list(self.b, twin, twin_region);
        let mut pairs = Vec::new();
        for (inner, source) in list(self.a, place, region) {
            let source = through(self.a, &self.matches.to_b, source);
            let twin =
                theirs.iter().find(|(_, other)| self.corresponds(source, through(self.b, &self.matches.to_a, *other)));
            pairs.extend(twin.map(|(other, _)| (inner, *other)));
        }
        pairs
    }

    fn refs(index: &Index<'_>, places: &[usize]) -> Vec<OpRef> {
        let of =
            |&place: &usize| OpRef { index: place, name: index.label(place).to_owned(), op_type: index.type_of(place) };
        places.iter().map(of).collect()
    }

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
            change.a.extend(Self::refs(self.a, &of_a.unwrap_or_default()));
            changes.push(place_of(change));
        }
        for (place, delta) in deltas.iter().enumerate() {
            if let (Some(delta), Some(twin), false) = (delta, self.matches.to_b[place], by_host.contains_key(&place))
                && let Some(mut change) =
                    self.tell_pair(place, twin, delta, companions.remove(&place).unwrap_or_default())
            {
                change.a.extend(Self::refs(self.a, &former.remove(&place).unwrap_or_default()));
                changes.push(place_of(change));
            }
        }
        changes.sort_by_key(|(a, b, _)| (*a, *b));
        changes.into_iter().map(|(_, _, change)| change).collect()
    }

    /// Finds ops that stand elsewhere: without them, the rest is wired as before.
    fn moves(&self, deltas: &mut [Option<Delta>], proposals: &mut Vec<Proposal>) {
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

    /// Groups of ops without a counterpart.
    fn groups(&self, deltas: &[Option<Delta>], proposals: &mut Vec<Proposal>) {
        let (count, total) = (self.a.ops.len(), self.a.ops.len() + self.b.ops.len());
        let mut union = Union::new(total);
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
                groups.entry(union.root(place)).or_default().0.push(place);
            }
        }
        for (place, role) in self.roles_b.iter().enumerate() {
            if *role == Role::Free {
                groups.entry(union.root(count + place)).or_default().1.push(place);
            }
        }
        for exit in exits_a {
            groups.entry(union.root(exit.op)).or_default().2.push(exit);
        }
        for exit in exits_b {
            groups.entry(union.root(count + exit.op)).or_default().3.push(exit);
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
    fn exits(&self, second: bool, union: &mut Union) -> Vec<Exit> {
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

    /// Conversions and ops that compute from constants in B, by the pair that they serve; those that serve none are proposed.
    fn companions(&self, deltas: &[Option<Delta>], proposals: &mut Vec<Proposal>) -> BTreeMap<usize, Vec<usize>> {
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
    fn former_companions(
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
            helpers.extend(companions.remove(&host).unwrap_or_default());
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
            && matches!(index.op(op).op_type(), "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity")
            && let Some(&input) = index.inputs[op].first()
        {
            found.push(input);
            source = input;
        }
    }
    found
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

/// Disjoint sets.
struct Union(Vec<usize>);

impl Union {
    fn new(count: usize) -> Union {
        Union((0..count).collect())
    }

    fn root(&mut self, mut place: usize) -> usize {
        while self.0[place] != place {
            self.0[place] = self.0[self.0[place]];
            place = self.0[place];
        }
        place
    }

    /// The smaller root stays: groups come in the order of A.
    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.0[one.max(other)] = one.min(other);
    }
}
