//! Two graphs, matched: what stands for what, and what part each op has.
use onnx_shrink_ir::ValueId;

use super::{
    change::OpRef,
    compare::Compare,
    constants::Computed,
    index::{Index, Source},
    matching::{Frame, Matches, converts, through},
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

    pub fn refs(index: &Index<'_>, places: &[usize]) -> Vec<OpRef> {
        let of =
            |&place: &usize| OpRef { index: place, name: index.label(place).to_owned(), op_type: index.type_of(place) };
        places.iter().map(of).collect()
    }
}
