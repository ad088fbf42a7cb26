//! Which op of one graph is which of the other.
//!
//! First ops whose whole surroundings are equal, up to the inputs and down to the outputs: those are the same whatever they
//! are called. They also tell whether names can be trusted; if so, names of ops and of what they make come next, then equal
//! surroundings on one side, then neighbours of what is matched already. **Nothing** is matched by place in the file alone.
use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use onnx_shrink_ir::ops::is_clip;

use super::index::{Index, Source};

/// Pairs of ops, by place in the two indices.
pub(super) struct Matches {
    pub to_b: Vec<Option<usize>>,
    pub to_a: Vec<Option<usize>>,
}

/// What both sides share before any op is matched.
pub(super) struct Frame {
    /// For inputs of A the one of B
    pub inputs: Vec<Option<usize>>,
    /// For outputs of A the one of B
    pub outputs: Vec<Option<usize>>,
    /// For outer values of A the one of B
    pub outer: Vec<Option<usize>>,
    /// Whether names may be looked at
    pub names: bool,
}

impl Matches {
    fn pair(&mut self, a: usize, b: usize) {
        self.to_b[a] = Some(b);
        self.to_a[b] = Some(a);
    }

    fn free(&self, a: usize, b: usize) -> bool {
        self.to_b[a].is_none() && self.to_a[b].is_none()
    }

    /// The source in B that corresponds to `source` of A; constants have none.
    pub fn across(&self, frame: &Frame, source: Source) -> Option<Source> {
        match source {
            Source::Nothing => Some(Source::Nothing),
            Source::Input(place) => frame.inputs[place].map(Source::Input),
            Source::Outer(place) => frame.outer[place].map(Source::Outer),
            Source::Made(op, port) => self.to_b[op].map(|op| Source::Made(op, port)),
            Source::Constant(_) => None,
        }
    }
}

/// Matches the ops of `a` and `b`.
pub(super) fn match_ops(a: &Index<'_>, b: &Index<'_>, frame: &Frame) -> Matches {
    let mut state = State {
        a,
        b,
        frame,
        matches: Matches { to_b: vec![None; a.ops.len()], to_a: vec![None; b.ops.len()] },
        queue: VecDeque::new(),
    };
    // Numbers that both sides share: the place in A; what only one side has gets one that the other never has.
    let number = |kind: u64, place: Option<usize>| place.map_or(u64::MAX - kind, |place| kind + 10 * place as u64);
    let invert =
        |pairs: &[Option<usize>], other: usize| -> Option<usize> { pairs.iter().position(|&b| b == Some(other)) };
    let up_a = a.upward(&|source| match source {
        Source::Input(place) => number(1, frame.inputs[place].map(|_| place)),
        Source::Outer(place) => number(2, frame.outer[place].map(|_| place)),
        _ => 0,
    });
    let up_b = b.upward(&|source| match source {
        Source::Input(place) => number(1, invert(&frame.inputs, place)),
        Source::Outer(place) => number(2, invert(&frame.outer, place)),
        _ => 0,
    });
    let down_a = a.downward(&|exit| number(3, frame.outputs[exit].map(|_| exit)));
    let down_b = b.downward(&|exit| number(3, invert(&frame.outputs, exit)));
    let zip =
        |one: &[u64], other: &[u64]| -> Vec<(u64, u64)> { one.iter().copied().zip(other.iter().copied()).collect() };
    state.classes(&zip(&up_a, &down_a), &zip(&up_b, &down_b), true);
    let names = frame.names && names_agree(a, b, [(&up_a, &up_b), (&down_a, &down_b)]);
    if names {
        state.names();
    }
    state.classes(&up_a, &up_b, false);
    state.classes(&down_a, &down_b, false);
    state.seed();
    state.spread(false);
    let content = |index: &Index<'_>| (0..index.ops.len()).map(|op| index.content(op)).collect::<Vec<_>>();
    state.classes(&content(a), &content(b), false);
    state.spread(false);
    state.spread(true);
    state.weights();
    state.spread(true);
    state.behind_fused();
    state.spread(true);
    state.matches
}

/// Whether ops that are surely the same have the same names, in at least half of the cases.
fn names_agree(a: &Index<'_>, b: &Index<'_>, hashes: [(&Vec<u64>, &Vec<u64>); 2]) -> bool {
    let (mut same, mut sure) = (0, 0);
    for (one, other) in hashes {
        let unique = |hashes: &[u64]| {
            let mut places: HashMap<u64, Option<usize>> = HashMap::new();
            for (place, &hash) in hashes.iter().enumerate() {
                places.entry(hash).and_modify(|first| *first = None).or_insert(Some(place));
            }
            places
        };
        let (places, others) = (unique(one), unique(other));
        for (place, hash) in one.iter().enumerate() {
            if let (Some(Some(_)), Some(Some(twin))) = (places.get(hash), others.get(hash)) {
                sure += 1;
                let outputs = || a.name_of(Source::Made(place, 0)) == b.name_of(Source::Made(*twin, 0));
                same += usize::from(a.label(place) == b.label(*twin) || outputs());
            }
        }
    }
    2 * same >= sure
}

struct State<'a, 'g> {
    a: &'a Index<'g>,
    b: &'a Index<'g>,
    frame: &'a Frame,
    matches: Matches,
    queue: VecDeque<(usize, usize)>,
}

impl State<'_, '_> {
    fn pair(&mut self, a: usize, b: usize) {
        self.matches.pair(a, b);
        self.queue.push_back((a, b));
    }

    /// Matches ops with equal keys: where there is one on each side, and with `all` also where there are several, then
    /// those that read the same first.
    fn classes<K: Hash + Eq + Copy>(&mut self, keys_a: &[K], keys_b: &[K], all: bool) {
        let mut others: HashMap<K, Vec<usize>> = HashMap::new();
        for (place, &key) in keys_b.iter().enumerate() {
            if self.matches.to_a[place].is_none() {
                others.entry(key).or_default().push(place);
            }
        }
        let mut counts: HashMap<K, usize> = HashMap::new();
        for (place, &key) in keys_a.iter().enumerate() {
            if self.matches.to_b[place].is_none() {
                *counts.entry(key).or_insert(0) += 1;
            }
        }
        for (place, key) in keys_a.iter().enumerate() {
            let Some(candidates) = others.get_mut(key) else { continue };
            if self.matches.to_b[place].is_some() || candidates.is_empty() {
                continue;
            }
            let chosen = if candidates.len() == 1 && counts[key] == 1 {
                Some(0)
            } else if all {
                Some(candidates.iter().position(|&candidate| self.reads_same(place, candidate)).unwrap_or(0))
            } else {
                None
            };
            if let Some(chosen) = chosen {
                let twin = candidates.remove(chosen);
                if self.a.type_of(place) == self.b.type_of(twin) {
                    self.pair(place, twin);
                }
            }
        }
    }

    fn reads_same(&self, a: usize, b: usize) -> bool {
        self.a.inputs[a].len() == self.b.inputs[b].len()
            && self.a.inputs[a].iter().zip(&self.b.inputs[b]).all(|(&one, &other)| match one {
                Source::Constant(_) => true,
                one => self.matches.across(self.frame, one) == Some(other),
            })
    }

    /// Matches by the names of ops, then by the names of what they make, then by the names that this has behind conversions:
    /// a value that was given them keeps its name for its readers.
    fn names(&mut self) {
        let node = |index: &Index<'_>, place: usize| index.op(place).name().to_owned();
        let made = |index: &Index<'_>, place: usize| index.name_of(Source::Made(place, 0));
        let behind = |index: &Index<'_>, place: usize| match converts(index, place) {
            true => String::new(),
            false => behind_conversions(index, place).unwrap_or_else(|| index.name_of(Source::Made(place, 0))),
        };
        for name in [&node as &dyn Fn(&Index<'_>, usize) -> String, &made, &behind] {
            let mut others: HashMap<String, Option<usize>> = HashMap::new();
            for place in 0..self.b.ops.len() {
                others.entry(name(self.b, place)).and_modify(|first| *first = None).or_insert(Some(place));
            }
            let mut own: HashMap<String, usize> = HashMap::new();
            for place in 0..self.a.ops.len() {
                *own.entry(name(self.a, place)).or_insert(0) += 1;
            }
            for place in 0..self.a.ops.len() {
                let name = name(self.a, place);
                if let (false, 1, Some(&Some(twin))) = (name.is_empty(), own[&name], others.get(&name))
                    && self.matches.free(place, twin)
                    && kin(&self.a.type_of(place), &self.b.type_of(twin))
                {
                    self.pair(place, twin);
                }
            }
        }
    }

    /// Readers of matched graph inputs.
    fn seed(&mut self) {
        for (place, twin) in self.frame.inputs.iter().enumerate() {
            if let Some(twin) = *twin {
                let (a, b) = (self.a, self.b);
                self.readers(&a.input_readers[place], &b.input_readers[twin], false);
            }
        }
        for (place, twin) in self.frame.outputs.iter().enumerate() {
            if let Some(twin) = *twin {
                self.makers(self.a.outputs[place], self.b.outputs[twin], false);
            }
        }
        for place in 0..self.a.ops.len() {
            if let Some(twin) = self.matches.to_b[place] {
                self.queue.push_back((place, twin));
            }
        }
    }

    /// Matches neighbours of what is matched, until nothing changes. With `loose`, types need only be kin.
    fn spread(&mut self, loose: bool) {
        if loose {
            self.seed_loosely();
        }
        while let Some((one, other)) = self.queue.pop_front() {
            let (a, b) = (self.a, self.b);
            for (&source, &twin) in a.inputs[one].iter().zip(&b.inputs[other]) {
                self.makers(source, twin, loose);
            }
            for (list, twins) in a.readers[one].iter().zip(&b.readers[other]) {
                self.readers(list, twins, loose);
            }
        }
    }

    fn seed_loosely(&mut self) {
        for place in 0..self.a.ops.len() {
            if let Some(twin) = self.matches.to_b[place] {
                self.queue.push_back((place, twin));
            }
        }
        for (place, twin) in self.frame.inputs.iter().enumerate() {
            if let Some(twin) = *twin {
                let (a, b) = (self.a, self.b);
                self.readers(&a.input_readers[place], &b.input_readers[twin], true);
            }
        }
        for (place, twin) in self.frame.outputs.iter().enumerate() {
            if let Some(twin) = *twin {
                self.makers(self.a.outputs[place], self.b.outputs[twin], true);
            }
        }
    }

    /// Matches what a matched op reads in B with what it reads in A behind ops that were fused into that.
    fn behind_fused(&mut self) {
        let (a, b) = (self.a, self.b);
        for one in (0..a.ops.len()).rev() {
            let Some(other) = self.matches.to_b[one] else { continue };
            for (&source, &twin) in a.inputs[one].iter().zip(&b.inputs[other]) {
                let source = self.unfused(source);
                self.makers(source, twin, true);
            }
        }
    }

    /// `source` of A without the unmatched batch norms and activations that it alone goes through.
    fn unfused(&self, source: Source) -> Source {
        let mut source = through(self.a, &self.matches.to_b, source);
        while let Source::Made(op, 0) = source
            && self.matches.to_b[op].is_none()
            && (self.a.op(op).is("BatchNormalization") || is_clip(self.a.op(op)))
            && let Some(&input) = self.a.inputs[op].first()
            && matches!(input, Source::Made(maker, 0) if self.a.readers[maker][0].len() == 1)
        {
            source = through(self.a, &self.matches.to_b, input);
        }
        source
    }

    fn makers(&mut self, one: Source, other: Source, loose: bool) {
        let (one, other) = match loose {
            true => (through(self.a, &self.matches.to_b, one), through(self.b, &self.matches.to_a, other)),
            false => (one, other),
        };
        if let (Source::Made(one, port), Source::Made(other, twin_port)) = (one, other)
            && port == twin_port
            && self.matches.free(one, other)
            && self.alike(one, other, loose)
        {
            self.pair(one, other);
        }
    }

    /// Matches readers of one value with those of its counterpart: where one of a type reads it at a place, and one there.
    fn readers(&mut self, list: &[(usize, usize)], twins: &[(usize, usize)], loose: bool) {
        let (mut ahead, mut ahead_b) = (Vec::new(), Vec::new());
        let (list, twins) = if loose {
            look_ahead(self.a, &self.matches.to_b, list, &mut ahead);
            look_ahead(self.b, &self.matches.to_a, twins, &mut ahead_b);
            (&ahead[..], &ahead_b[..])
        } else {
            (list, twins)
        };
        for &(one, port) in list {
            if self.matches.to_b[one].is_some() {
                continue;
            }
            let fits =
                |state: &Self, place: usize| state.matches.to_a[place].is_none() && state.alike(one, place, loose);
            let mut found = twins.iter().filter(|&&(place, twin)| twin == port && fits(self, place));
            let Some(&(twin, _)) = found.next() else { continue };
            let rivals = list.iter().filter(|&&(rival, place)| {
                rival != one
                    && place == port
                    && self.matches.to_b[rival].is_none()
                    && self.a.type_of(rival) == self.a.type_of(one)
            });
            if found.next().is_none() && rivals.count() == 0 {
                self.pair(one, twin);
            }
        }
    }

    fn alike(&self, one: usize, other: usize, loose: bool) -> bool {
        let (one, other) = (self.a.type_of(one), self.b.type_of(other));
        one == other || (loose && kin(&one, &other))
    }

    /// Matches ops of one type that hold the same large constant.
    fn weights(&mut self) {
        const LARGE: usize = 16;
        let keys = |index: &Index<'_>| -> Vec<Option<(u64, String)>> {
            let key = |place: usize| {
                let large = index.inputs[place].iter().find_map(|source| match *source {
                    Source::Constant(constant) if index.constants[constant].tensor.len() >= LARGE => {
                        Some(index.constants[constant].hash)
                    }
                    _ => None,
                });
                large.map(|hash| (hash, index.type_of(place)))
            };
            (0..index.ops.len()).map(key).collect()
        };
        let (keys_a, keys_b) = (keys(self.a), keys(self.b));
        let mut others: HashMap<&(u64, String), Vec<usize>> = HashMap::new();
        for (place, key) in keys_b.iter().enumerate() {
            if let (Some(key), None) = (key, self.matches.to_a[place]) {
                others.entry(key).or_default().push(place);
            }
        }
        for (place, key) in keys_a.iter().enumerate() {
            if let (Some(key), None) = (key, self.matches.to_b[place])
                && let Some(&[twin]) = others.get(key).map(Vec::as_slice)
                && self.matches.free(place, twin)
            {
                self.pair(place, twin);
            }
        }
    }
}

/// Whether an op of one type may have become one of the other without being something else: the same op in float and in
/// integers, or MatMul and Gemm.
pub(super) fn kin(one: &str, other: &str) -> bool {
    fn core(name: &str) -> &str {
        let name = name.rsplit_once('.').map_or(name, |(_, name)| name);
        let name =
            name.strip_prefix("DynamicQuantize").filter(|rest| !rest.is_empty() && *rest != "Linear").unwrap_or(name);
        let name = name.strip_prefix("QLinear").unwrap_or(name);
        let name = name.strip_suffix("IntegerToFloat").unwrap_or(name);
        let name = name.strip_suffix("Integer").unwrap_or(name);
        match name {
            "Gemm" | "QGemm" | "MatMulNBits" => "MatMul",
            name => name,
        }
    }
    one == other || core(one) == core(other)
}

/// Whether the op only changes how numbers are stored.
pub(super) fn converts(index: &Index<'_>, place: usize) -> bool {
    matches!(index.op(place).op_type(), "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear")
}

/// The name of what op `place` makes behind the one QuantizeLinear and the one DequantizeLinear that read it.
fn behind_conversions(index: &Index<'_>, place: usize) -> Option<String> {
    let only_reader = |place: usize| match index.readers[place].first()?[..] {
        [(reader, 0)] => Some(reader),
        _ => None,
    };
    let quantize = only_reader(place).filter(|&op| index.op(op).op_type() == "QuantizeLinear")?;
    let dequantize = only_reader(quantize).filter(|&op| index.op(op).op_type() == "DequantizeLinear")?;
    Some(index.name_of(Source::Made(dequantize, 0)))
}

/// `source` without the unmatched conversions that it comes through.
pub(super) fn through(index: &Index<'_>, matched: &[Option<usize>], mut source: Source) -> Source {
    while let Source::Made(op, 0) = source
        && matched[op].is_none()
        && converts(index, op)
        && let Some(&input) = index.inputs[op].first()
    {
        source = input;
    }
    source
}

/// `list` with readers behind unmatched conversions in place of these.
fn look_ahead(index: &Index<'_>, matched: &[Option<usize>], list: &[(usize, usize)], found: &mut Vec<(usize, usize)>) {
    let mut work: Vec<(usize, usize)> = list.to_vec();
    work.reverse();
    while let Some((op, port)) = work.pop() {
        if matched[op].is_none() && port == 0 && converts(index, op) {
            work.extend(index.readers[op].first().into_iter().flatten().rev());
        } else if !found.contains(&(op, port)) {
            found.push((op, port));
        }
    }
}
