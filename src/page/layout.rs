//! Where the ops of both graphs stand on the page: layers from top to bottom, and what corresponds at the same height.
//!
//! Layers are the longest paths of both graphs at once, with pairs as one: so the sides are aligned as lines of a text diff
//! are. Within a layer, neighbours come near each other (barycenters), then as near as distances allow (pool adjacent
//! violators). **Nothing** here recurses; a pair that would make the joint graph cyclic is not aligned.

/// A graph to lay out: boxes with widths, and lines between them from top to bottom.
pub(super) struct Boxes {
    /// Width of each, in pixels
    pub widths: Vec<f64>,
    /// (from, to)
    pub lines: Vec<(usize, usize)>,
}

/// Where things are.
pub(super) struct Placed {
    /// Layer of each box
    pub layers: Vec<usize>,
    /// Middle of each box, in pixels
    pub x: Vec<f64>,
    /// For each line, the middles that it passes in the layers between
    pub bends: Vec<Vec<f64>>,
}

/// Lines with more points than this in all are drawn straight.
const MOST_BENDS: usize = 60_000;
const GAP: f64 = 18.0;

/// Lays out both sides, with `pairs` (a, b) at the same height where that is possible.
pub(super) fn place(a: &Boxes, b: &Boxes, pairs: &[(usize, usize)]) -> (Placed, Placed) {
    let mut pairs = pairs.to_vec();
    let layers = loop {
        match layer(a, b, &pairs) {
            Ok(layers) => break layers,
            Err(stuck) => {
                let count = pairs.len();
                pairs.retain(|&(one, other)| !stuck[one] && !stuck[a.widths.len() + other]);
                if pairs.len() == count {
                    pairs.clear();
                }
            }
        }
    };
    let (first, second) = layers.split_at(a.widths.len());
    (arrange(a, first.to_vec()), arrange(b, second.to_vec()))
}

/// Longest paths over both graphs; which boxes wait for each other when there are cycles.
fn layer(a: &Boxes, b: &Boxes, pairs: &[(usize, usize)]) -> Result<Vec<usize>, Vec<bool>> {
    let count = a.widths.len();
    let total = count + b.widths.len();
    let mut unit: Vec<usize> = (0..total).collect();
    for &(one, other) in pairs {
        unit[count + other] = one;
    }
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); total];
    let mut waiting = vec![0usize; total];
    let lines = a.lines.iter().copied().chain(b.lines.iter().map(|&(from, to)| (count + from, count + to)));
    for (from, to) in lines {
        below[unit[from]].push(unit[to]);
        waiting[unit[to]] += 1;
    }
    let own = |place: usize| unit[place] == place;
    let mut ready: Vec<usize> = (0..total).filter(|&place| own(place) && waiting[place] == 0).collect();
    let sources = ready.clone();
    let (mut layers, mut order) = (vec![0usize; total], Vec::new());
    while let Some(place) = ready.pop() {
        order.push(place);
        for &next in &below[place] {
            layers[next] = layers[next].max(layers[place] + 1);
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.push(next);
            }
        }
    }
    let done: usize = order.len();
    if done < (0..total).filter(|&place| own(place)).count() {
        return Err((0..total).map(|place| waiting[unit[place]] > 0).collect());
    }
    // What nothing leads to stands just above what it leads to.
    for place in sources {
        if let Some(nearest) = below[place].iter().map(|&next| layers[next]).min() {
            layers[place] = nearest.saturating_sub(1);
        }
    }
    Ok((0..total).map(|place| layers[unit[place]]).collect())
}

fn arrange(boxes: &Boxes, layers: Vec<usize>) -> Placed {
    let count = boxes.widths.len();
    let height = layers.iter().max().map_or(0, |last| last + 1);
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); height];
    for (place, &layer) in layers.iter().enumerate() {
        rows[layer].push(place);
    }
    // A long line becomes a chain of points, one a layer, that find their way between the boxes.
    let long: usize = boxes.lines.iter().map(|&(from, to)| layers[to].saturating_sub(layers[from] + 1)).sum();
    let (mut widths, mut above, mut under) = (boxes.widths.clone(), vec![Vec::new(); count], vec![Vec::new(); count]);
    let mut chains: Vec<Vec<usize>> = Vec::with_capacity(boxes.lines.len());
    for &(from, to) in &boxes.lines {
        let (mut last, mut chain) = (from, Vec::new());
        if long <= MOST_BENDS {
            for row in rows.iter_mut().take(layers[to]).skip(layers[from] + 1) {
                let point = widths.len();
                widths.push(8.0);
                above.push(vec![last]);
                under.push(Vec::new());
                under[last].push(point);
                row.push(point);
                chain.push(point);
                last = point;
            }
        }
        above[to].push(last);
        under[last].push(to);
        chains.push(chain);
    }
    // What nothing leads to, as the conversion of a weight, stands beside the way of the data and does not bend it.
    let weight: Vec<f64> = above.iter().map(|above| if above.is_empty() { 0.02 } else { 1.0 }).collect();
    let mut x = vec![0.0; widths.len()];
    let spread = |row: &[usize], x: &mut [f64]| {
        let mut at = 0.0;
        for &place in row {
            x[place] = at + widths[place] / 2.0;
            at += widths[place] + GAP;
        }
        let middle = (at - GAP) / 2.0;
        row.iter().for_each(|&place| x[place] -= middle);
    };
    rows.iter().for_each(|row| spread(row, &mut x));
    let mean = |neighbours: &[usize], x: &[f64]| {
        let sum: f64 = neighbours.iter().map(|&place| weight[place]).sum();
        (sum > 0.0).then(|| neighbours.iter().map(|&place| weight[place] * x[place]).sum::<f64>() / sum)
    };
    for round in 0..6 {
        let down = round % 2 == 0;
        for step in 0..height {
            let row = &mut rows[if down { step } else { height - 1 - step }];
            let neighbours = if down { &above } else { &under };
            let mut keyed: Vec<(f64, usize)> =
                row.iter().map(|&place| (mean(&neighbours[place], &x).unwrap_or(x[place]), place)).collect();
            keyed.sort_by(|one, other| one.0.total_cmp(&other.0));
            *row = keyed.into_iter().map(|(_, place)| place).collect();
            spread(row, &mut x);
        }
    }
    for round in 0..8 {
        let down = round % 2 == 0;
        for step in 0..height {
            let row = &rows[if down { step } else { height - 1 - step }];
            let wish = |place: usize| {
                let near = if down { &above[place] } else { &under[place] };
                let both =
                    [near.as_slice(), if round < 6 { &[] } else { if down { &under[place] } else { &above[place] } }]
                        .concat();
                mean(&both, &x).unwrap_or(x[place])
            };
            let wishes: Vec<f64> = row.iter().map(|&place| wish(place)).collect();
            let half: Vec<f64> = row.iter().map(|&place| widths[place] / 2.0).collect();
            let weights: Vec<f64> = row.iter().map(|&place| weight[place]).collect();
            for (&place, at) in row.iter().zip(settle(&wishes, &half, &weights)) {
                x[place] = at;
            }
        }
    }
    let bends = chains.into_iter().map(|chain| chain.into_iter().map(|point| x[point]).collect()).collect();
    x.truncate(count);
    Placed { layers, x, bends }
}

/// The positions nearest to `wishes` (weighted least squares) that keep the order and the gaps between boxes of these half
/// widths.
fn settle(wishes: &[f64], half: &[f64], weights: &[f64]) -> Vec<f64> {
    // With offsets taken off, the positions only have to be non-decreasing: pool adjacent violators.
    let mut offset = 0.0;
    let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
    let mut offsets = Vec::with_capacity(wishes.len());
    for (place, &wish) in wishes.iter().enumerate() {
        if place > 0 {
            offset += half[place - 1] + GAP + half[place];
        }
        offsets.push(offset);
        blocks.push((wish - offset, weights[place], 1));
        while let [.., (one, weight, count), (other, heavier, more)] = blocks[..]
            && one > other
        {
            let sum = weight + heavier;
            blocks.truncate(blocks.len() - 2);
            blocks.push(((one * weight + other * heavier) / sum, sum, count + more));
        }
    }
    let flat = blocks.into_iter().flat_map(|(mean, _, count)| std::iter::repeat_n(mean, count));
    flat.zip(offsets).map(|(mean, offset)| mean + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::{Boxes, GAP, place, settle};

    #[test]
    fn what_corresponds_stands_at_the_same_height() {
        // A: 0 → 1 → 2 → 3; B: 0 → 1, where 0 is A's 0 and 1 is A's 3.
        let boxes =
            |count: usize| Boxes { widths: vec![10.0; count], lines: (1..count).map(|to| (to - 1, to)).collect() };
        let (a, b) = place(&boxes(4), &boxes(2), &[(0, 0), (3, 1)]);
        assert_eq!((a.layers, b.layers.clone()), (vec![0, 1, 2, 3], vec![0, 3]));
        assert_eq!(b.bends[0].len(), 2);
        // Crossed pairs cannot all be aligned, and the sides still are in order.
        let (a, b) = place(&boxes(2), &boxes(2), &[(0, 1), (1, 0)]);
        assert!(a.layers[0] < a.layers[1] && b.layers[0] < b.layers[1]);
    }

    #[test]
    fn boxes_keep_their_distance_and_come_near_to_where_they_want() {
        let settled = settle(&[0.0, 0.0, 100.0], &[5.0; 3], &[1.0; 3]);
        assert_eq!(settled, [-(10.0 + GAP) / 2.0, (10.0 + GAP) / 2.0, 100.0]);
    }
}
