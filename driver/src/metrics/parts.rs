//! The parts of an output, each with its own error: one figure over boxes and scores says nothing of the scores.
use std::{fmt, ops::Range};

use serde::Serialize;

use super::{
    slices::{Axes, Totals, decibels},
    structure::Structure,
};

/// Parts below this share of the whole (120 dB) are noise of 32-bit floats.
const LEAST_PART: f64 = 1e-6;

/// A slice is held against this share (60 dB) of its part at least: below, the rounding of the others shows in it.
const LEAST_SLICE: f64 = 1e-3;

/// Ranges of a part that are shown.
const SHOWN: usize = 3;

/// A part of an output: what its last Concat joins, or what is of another scale than the rest in every sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// The axis of the output that it is a part of
    pub axis: usize,
    /// From where to where along it, ends not included
    pub ranges: Vec<(usize, usize)>,
    /// √(Σ a² / n), a the original
    pub rms: f64,
    /// As of an output
    pub sqnr_db: Option<f64>,
    /// As of an output
    pub sqnr_around_mean_db: Option<f64>,
    /// As of an output
    pub rel_l2: f64,
    /// √(Σ (b−a)² / n)
    pub error_rms: f64,
}

impl Part {
    fn new(axis: usize, ranges: &[Range<usize>], totals: &Totals) -> Part {
        Part {
            axis,
            ranges: ranges.iter().map(|range| (range.start, range.end)).collect(),
            rms: totals.rms(),
            sqnr_db: decibels(totals.before, totals.error),
            sqnr_around_mean_db: totals.variation.and_then(|variation| decibels(variation, totals.error)),
            rel_l2: (totals.error / totals.before).sqrt(),
            error_rms: (totals.error / totals.count.max(1) as f64).sqrt(),
        }
    }

    /// What a gate holds it by: the SQNR around the mean, where that is known; `None` when nothing differs.
    pub fn judged_db(&self) -> Option<f64> {
        self.sqnr_around_mean_db.or(self.sqnr_db)
    }
}

impl fmt::Display for Part {
    /// "4..84 of axis 1"
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (start, end)) in self.ranges.iter().take(SHOWN).enumerate() {
            write!(f, "{}{start}..{end}", if index > 0 { ", " } else { "" })?;
        }
        if self.ranges.len() > SHOWN {
            f.write_str(", …")?;
        }
        write!(f, " of axis {}", self.axis)
    }
}

/// What stands at one place of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slice {
    /// The axis
    pub axis: usize,
    /// The place along it
    pub index: usize,
    /// Its error by its own size (by 60 dB less than its part's, where it is smaller than that)
    pub rel: f64,
    /// √(Σ (b−a)² / n)
    pub error_rms: f64,
}

/// The parts of an output, the worst first; empty where there is one. Those without signal are left out.
pub(super) fn measured_parts(structure: Option<&Structure>, axes: &Axes) -> Vec<Part> {
    let (axis, groups) = match structure {
        Some(Structure { axis, parts }) => {
            let end = parts.iter().flatten().map(|range| range.end).max().unwrap_or(0);
            let Some(slices) = axes.along(*axis).filter(|slices| slices.len() == end) else { return Vec::new() };
            let by_scale = |ranges: &Vec<Range<usize>>| match axes.groups(slices, ranges) {
                Some((_, groups)) => groups,
                None => vec![ranges.clone()],
            };
            (*axis, parts.iter().flat_map(by_scale).collect())
        }
        None => match axes.by_scale() {
            Some(found) => found,
            None => return Vec::new(),
        },
    };
    let Some(slices) = axes.along(axis) else { return Vec::new() };
    let whole = Totals::whole(slices);
    let mut parts: Vec<Part> = groups
        .iter()
        .map(|ranges| (ranges, Totals::of(slices, ranges)))
        .filter(|(_, totals)| totals.rms() > LEAST_PART * whole.rms())
        .map(|(ranges, totals)| Part::new(axis, ranges, &totals))
        .collect();
    if parts.len() < 2 {
        return Vec::new();
    }
    let judged = |part: &Part| part.judged_db().unwrap_or(f64::INFINITY);
    parts.sort_by(|one, other| judged(one).total_cmp(&judged(other)).then(one.ranges.cmp(&other.ranges)));
    parts
}

/// The slice that is furthest from the original's by its own size, or its part's where it is far smaller than that.
pub(super) fn worst_slice(parts: &[Part], axes: &Axes) -> Option<Slice> {
    let mut worst: Option<Slice> = None;
    for (axis, slices) in axes.all() {
        let mut scale = vec![Totals::whole(slices).rms(); slices.len()];
        for part in parts.iter().filter(|part| part.axis == axis) {
            let places = part.ranges.iter().flat_map(|(start, end)| *start..*end);
            places.for_each(|index| scale[index] = part.rms);
        }
        for (index, slice) in slices.iter().enumerate() {
            let count = slice.count.max(1) as f64;
            let error_rms = (slice.error / count).sqrt();
            let rel = error_rms / (slice.before / count).sqrt().max(LEAST_SLICE * scale[index]);
            if error_rms > 0.0 && worst.is_none_or(|worst| rel > worst.rel) {
                worst = Some(Slice { axis, index, rel, error_rms });
            }
        }
    }
    worst
}
