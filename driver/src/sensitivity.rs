//! Which layers must go back to float so that a gate holds: as few as a few dozen runs can find.
//!
//! Layers are ordered by the error that each was measured to add. The shortest head of that order that suffices is found by
//! doubling and bisection; then groups of it go back to integers, halves first, single layers last, wherever the gate still
//! holds (the idea of delta debugging: Zeller and Hildebrandt 2002). **Never** assumes that a gate is monotone: what is
//! returned was run.
use std::collections::BTreeSet;

/// The least set of `order`, the likeliest culprits first, that satisfies `holds`, as far as `budget` calls of it tell;
/// `None` when all of `order` do not satisfy it. The empty set is known not to.
pub fn fewest<E>(
    order: &[usize],
    budget: usize,
    holds: &mut dyn FnMut(&BTreeSet<usize>) -> Result<bool, E>,
) -> Result<Option<BTreeSet<usize>>, E> {
    let mut runs = 0;
    let mut ask = |kept: &BTreeSet<usize>| {
        runs += 1;
        holds(kept).map(|held| (held, runs))
    };
    let head = |count: usize| order[..count].iter().copied().collect::<BTreeSet<usize>>();
    let (mut fails, mut suffices) = (0, 1.min(order.len()));
    while suffices > 0 && !ask(&head(suffices))?.0 {
        if suffices == order.len() {
            return Ok(None);
        }
        fails = suffices;
        suffices = (suffices * 2).min(order.len());
    }
    if suffices == 0 {
        return Ok(None);
    }
    while fails + 1 < suffices {
        let middle = fails + (suffices - fails) / 2;
        if ask(&head(middle))?.0 {
            suffices = middle;
        } else {
            fails = middle;
        }
    }
    let mut kept = head(suffices);
    // The last one of the head was asked about: without it the gate fails.
    let mut size = suffices.saturating_sub(1).div_ceil(2);
    while size > 0 {
        // The least likely culprits first.
        let candidates: Vec<usize> =
            order[..suffices - 1].iter().rev().copied().filter(|layer| kept.contains(layer)).collect();
        for group in candidates.chunks(size) {
            let less: BTreeSet<usize> = kept.iter().copied().filter(|layer| !group.contains(layer)).collect();
            let (held, so_far) = ask(&less)?;
            if held {
                kept = less;
            }
            if so_far >= budget {
                return Ok(Some(kept));
            }
        }
        size /= 2;
    }
    Ok(Some(kept))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, convert::Infallible};

    use super::fewest;

    /// Layers whose errors add up to no more than `limit` when those of the set are float; calls, and what was found.
    fn search(errors: &[f64], order: &[usize], limit: f64, budget: usize) -> (usize, Option<BTreeSet<usize>>) {
        let mut runs = 0;
        let mut holds = |kept: &BTreeSet<usize>| -> Result<bool, Infallible> {
            runs += 1;
            let rest = errors.iter().enumerate().filter(|(layer, _)| !kept.contains(layer));
            Ok(rest.map(|(_, error)| error).sum::<f64>() <= limit)
        };
        let Ok(found) = fewest(order, budget, &mut holds);
        (runs, found)
    }

    #[test]
    fn in_the_true_order_the_head_is_the_answer() {
        let errors: Vec<f64> = (0..64).map(|layer| 2f64.powi(-layer)).collect();
        let order: Vec<usize> = (0..64).collect();
        let (runs, found) = search(&errors, &order, 0.3, 40);
        assert_eq!(found, Some(BTreeSet::from([0, 1, 2])));
        assert!(runs <= 12, "{runs}");
    }

    #[test]
    fn layers_that_were_suspected_wrongly_go_back_to_integers() {
        // Layer 9 matters alone, and eight others stand before it.
        let mut errors = vec![0.01; 40];
        errors[9] = 5.0;
        let order: Vec<usize> = (0..40).collect();
        let (runs, found) = search(&errors, &order, 1.0, 40);
        assert_eq!(found, Some(BTreeSet::from([9])));
        assert!(runs <= 20, "{runs}");
    }

    #[test]
    fn the_budget_ends_the_search_with_what_holds() {
        let errors = vec![1.0; 200];
        let order: Vec<usize> = (0..200).collect();
        let (runs, found) = search(&errors, &order, 50.0, 24);
        assert!(found.unwrap().len() >= 150);
        assert!(runs <= 24, "{runs}");
        assert_eq!(search(&errors, &order, -1.0, 24).1, None, "not even all of them suffice");
        assert_eq!(search(&[1.0], &[], 0.5, 24).1, None);
    }
}
