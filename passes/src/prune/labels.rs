//! Labels of channels, and the classes that they fall into: a union-find whose representative is the least label.
//!
//! **No** order of hashing, **no** recursion: the same classes in the same order on every run.

/// The labels along one axis, one for each position.
pub(super) type Labels = Vec<u32>;

/// Labels, which of them are one class, which are one group, and which may not go.
#[derive(Debug, Default)]
pub(super) struct Classes {
    class: Vec<u32>,
    group: Vec<u32>,
    /// By representative of the class: why it may not go
    frozen: Vec<Option<String>>,
}

fn find(parents: &mut [u32], mut label: u32) -> u32 {
    while parents[label as usize] != label {
        let above = parents[parents[label as usize] as usize];
        parents[label as usize] = above;
        label = above;
    }
    label
}

fn join(parents: &mut [u32], a: u32, b: u32) -> (u32, u32) {
    let (a, b) = (find(parents, a), find(parents, b));
    let (low, high) = (a.min(b), a.max(b));
    parents[high as usize] = low;
    (low, high)
}

impl Classes {
    /// Number of labels.
    pub(super) fn len(&self) -> usize {
        self.class.len()
    }

    /// `count` new labels of one group.
    pub(super) fn fresh(&mut self, count: usize) -> Labels {
        let first = u32::try_from(self.class.len()).unwrap_or(u32::MAX);
        let labels: Labels = (0..count).map(|k| first + k as u32).collect();
        self.class.extend(&labels);
        self.group.extend(labels.iter().map(|_| first));
        self.frozen.extend(labels.iter().map(|_| None));
        labels
    }

    /// The two go together, or stay together.
    pub(super) fn unite(&mut self, a: u32, b: u32) {
        let (low, high) = join(&mut self.class, a, b);
        join(&mut self.group, a, b);
        if low != high {
            let reason = self.frozen[high as usize].take();
            let kept = &mut self.frozen[low as usize];
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

    /// The representative of its class.
    pub(super) fn class_of(&mut self, label: u32) -> u32 {
        find(&mut self.class, label)
    }

    /// The representative of its group.
    pub(super) fn group_of(&mut self, label: u32) -> u32 {
        find(&mut self.group, label)
    }

    /// Why the class of `label` may not go.
    pub(super) fn reason(&mut self, label: u32) -> Option<&str> {
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
