//! Disjoint sets of numbers, each named by its least member.
//!
//! `petgraph`'s union-find names a set by a member that depends on the order of the joins. Here sets have an order of their own:
//! where numbers are places in a graph, results come in the graph's order, whatever was joined first.
use petgraph::unionfind::UnionFind;

/// A partition of the numbers below [`DisjointSets::len`].
#[derive(Clone, Debug)]
pub struct DisjointSets {
    sets: UnionFind<usize>,
    /// By `petgraph`'s representative: the least member
    least: Vec<usize>,
}

impl DisjointSets {
    /// `count` sets of one number each.
    pub fn new(count: usize) -> DisjointSets {
        DisjointSets { sets: UnionFind::new(count), least: (0..count).collect() }
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.least.len()
    }

    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.least.is_empty()
    }

    /// One more number, [`DisjointSets::len`] before, in a set of its own.
    pub fn push(&mut self) -> usize {
        let number = self.sets.new_set();
        self.least.push(number);
        number
    }

    /// The least member of the set of `number`. Panics when `number` is not below [`DisjointSets::len`].
    pub fn least(&self, number: usize) -> usize {
        self.least[self.sets.find(number)]
    }

    /// Makes one set of the sets of `a` and `b`; what [`DisjointSets::least`] was of both, the lower one first. Two equal numbers:
    /// they were in one set before. Panics like it.
    pub fn join(&mut self, a: usize, b: usize) -> (usize, usize) {
        let (a, b) = (self.least(a), self.least(b));
        let (low, high) = (a.min(b), a.max(b));
        self.sets.union(low, high);
        let representative = self.sets.find_mut(low);
        self.least[representative] = low;
        (low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::DisjointSets;

    #[test]
    fn a_set_is_named_by_its_least_member_in_any_order_of_joins() {
        let pairs = [(5, 6), (6, 7), (1, 5), (3, 4), (0, 3)];
        for start in 0..pairs.len() {
            let mut sets = DisjointSets::new(8);
            for k in 0..pairs.len() {
                let (a, b) = pairs[(start + k) % pairs.len()];
                sets.join(b, a);
            }
            let names: Vec<usize> = (0..8).map(|number| sets.least(number)).collect();
            assert_eq!(names, [0, 1, 2, 0, 0, 1, 1, 1]);
        }
    }

    #[test]
    fn a_join_says_which_sets_it_joined() {
        let mut sets = DisjointSets::new(2);
        assert_eq!(sets.push(), 2);
        assert_eq!(sets.join(2, 1), (1, 2));
        assert_eq!(sets.join(2, 0), (0, 1));
        assert_eq!(sets.join(1, 2), (0, 0));
        assert_eq!(sets.len(), 3);
    }
}
