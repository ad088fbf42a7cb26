//! Labels of channels, and the classes that they fall into, each named by its least label.
//!
//! **No** order of hashing, **no** recursion: the same classes in the same order on every run.
use onnx_shrink_ir::DisjointSets;

/// The labels along one axis, one for each position.
pub(super) type Labels = Vec<u32>;

/// Labels, which of them are one class, which are one group, and which may not go.
#[derive(Debug)]
pub(super) struct Classes {
    class: DisjointSets,
    group: DisjointSets,
    /// By name of the class: why it may not go
    frozen: Vec<Option<String>>,
}

fn as_label(number: usize) -> u32 {
    u32::try_from(number).expect("a graph with 2^32 channels does not fit into memory")
}

impl Default for Classes {
    fn default() -> Classes {
        Classes { class: DisjointSets::new(0), group: DisjointSets::new(0), frozen: Vec::new() }
    }
}

impl Classes {
    /// Number of labels.
    pub(super) fn len(&self) -> usize {
        self.class.len()
    }

    /// `count` new labels of one group.
    pub(super) fn fresh(&mut self, count: usize) -> Labels {
        let first = self.class.len();
        for label in first..first + count {
            self.class.push();
            self.group.push();
            self.group.join(first, label);
            self.frozen.push(None);
        }
        (first..first + count).map(as_label).collect()
    }

    /// The two go together, or stay together.
    pub(super) fn unite(&mut self, a: u32, b: u32) {
        let (low, high) = self.class.join(a as usize, b as usize);
        self.group.join(a as usize, b as usize);
        if low != high {
            let reason = self.frozen[high].take();
            let kept = &mut self.frozen[low];
            *kept = kept.take().or(reason);
        }
    }

    /// None of `labels` may go; the first reason of each stays.
    pub(super) fn freeze(&mut self, labels: &[u32], reason: &str) {
        for &label in labels {
            let class = self.class_of(label);
            self.frozen[class as usize].get_or_insert_with(|| reason.to_owned());
        }
    }

    /// The name of its class.
    pub(super) fn class_of(&self, label: u32) -> u32 {
        as_label(self.class.least(label as usize))
    }

    /// The name of its group.
    pub(super) fn group_of(&self, label: u32) -> u32 {
        as_label(self.group.least(label as usize))
    }

    /// Why the class of `label` may not go.
    pub(super) fn reason(&self, label: u32) -> Option<&str> {
        let class = self.class_of(label);
        self.frozen[class as usize].as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::Classes;

    #[test]
    fn a_reason_holds_for_the_whole_class_and_the_first_one_stays() {
        let mut classes = Classes::default();
        let (a, b) = (classes.fresh(2), classes.fresh(2));
        classes.freeze(&[b[1]], "first");
        classes.unite(a[1], b[1]);
        classes.freeze(&[a[1]], "second");
        assert_eq!(classes.reason(a[1]), Some("first"));
        assert_eq!(classes.reason(a[0]), None);
        assert_eq!((classes.class_of(b[1]), classes.class_of(b[0])), (1, 2));
        assert_eq!(classes.group_of(b[0]), 0, "one member in common makes one group");
    }
}
