//! What is summed up over one output's elements, and the figures that follow.
use onnx_shrink_ir::Tensor;
use serde::Serialize;

use super::{
    kind::Kind,
    parts::{Part, Slice, measured_parts, worst_slice},
    slices::{Axes, Totals, decibels},
};

/// Sums over the elements of one output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    /// Σ a², Σ b², Σ a·b, Σ (b−a)²
    before: f64,
    after: f64,
    product: f64,
    error: f64,
    max_abs: f64,
    elements: u64,
    /// Elements that are finite on one side only, or differ in kind
    not_finite: u64,
    /// Elements that are not equal
    unequal: u64,
    /// Rows of the last axis, and those whose largest element stands at the same place
    rows: u64,
    same_rows: u64,
    /// Where the largest elements of the original's rows stand
    classes: Classes,
    /// Samples whose shapes or types differ
    misshapen: u64,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.before += other.before;
        self.after += other.after;
        self.product += other.product;
        self.error += other.error;
        self.max_abs = self.max_abs.max(other.max_abs);
        self.elements += other.elements;
        self.not_finite += other.not_finite;
        self.unequal += other.unequal;
        self.rows += other.rows;
        self.same_rows += other.same_rows;
        self.classes = self.classes.and(other.classes);
        self.misshapen += other.misshapen;
    }

    fn of(before: &Tensor, after: &Tensor, numbers: Option<(&[f64], &[f64])>) -> Sums {
        let mut sums = Sums::default();
        if before.dims() != after.dims() || before.dtype() != after.dtype() {
            sums.misshapen = 1;
            return sums;
        }
        let Some((a, b)) = numbers else {
            // Strings and the like are equal or not.
            sums.elements = before.len() as u64;
            sums.unequal = if before == after { 0 } else { sums.elements };
            return sums;
        };
        sums.elements = a.len() as u64;
        for (&a, &b) in a.iter().zip(b) {
            if !a.is_finite() || !b.is_finite() {
                if a != b && !(a.is_nan() && b.is_nan()) {
                    sums.not_finite += 1;
                    sums.unequal += 1;
                }
                continue;
            }
            sums.before += a * a;
            sums.after += b * b;
            sums.product += a * b;
            sums.error += (b - a) * (b - a);
            sums.max_abs = sums.max_abs.max((b - a).abs());
            sums.unequal += u64::from(a != b);
        }
        if let Some(&last) = before.dims().last()
            && last > 1
        {
            for (a, b) in a.chunks_exact(last).zip(b.chunks_exact(last)) {
                let class = argmax(a);
                sums.rows += 1;
                sums.same_rows += u64::from(class == argmax(b));
                sums.classes = sums.classes.and(Classes::One(class));
            }
        }
        sums
    }
}

/// The places of the largest numbers of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Classes {
    #[default]
    None,
    One(usize),
    Several,
}

impl Classes {
    fn and(self, other: Classes) -> Classes {
        match (self, other) {
            (Classes::None, one) | (one, Classes::None) => one,
            (Classes::One(one), Classes::One(other)) if one == other => self,
            _ => Classes::Several,
        }
    }
}

/// All that is summed up over one output.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    float: bool,
    sums: Sums,
    axes: Axes,
}

impl Measured {
    /// Of one sample; with `slices`, those of a float output, too.
    pub(super) fn of(before: &Tensor, after: &Tensor, slices: bool) -> Measured {
        let float = before.dtype().is_float();
        let same = before.dims() == after.dims() && before.dtype() == after.dtype();
        let numbers = if same { before.to_f64_vec().zip(after.to_f64_vec()) } else { None };
        let numbers = numbers.as_ref().map(|(a, b)| (&a[..], &b[..]));
        let axes = match numbers.filter(|_| float && slices) {
            Some((a, b)) => Axes::of(before.dims(), a, b),
            None => Axes::default(),
        };
        Measured { float, sums: Sums::of(before, after, numbers), axes }
    }

    pub(super) fn add(&mut self, other: &Measured) {
        self.float |= other.float;
        self.sums.add(&other.sums);
        self.axes.add(&other.axes);
    }
}

/// The first place of the largest number; NaN counts as larger than all, as numpy has it.
pub(super) fn argmax(row: &[f64]) -> usize {
    let mut best = 0;
    for (place, &number) in row.iter().enumerate() {
        if number > row[best] || (number.is_nan() && !row[best].is_nan()) {
            best = place;
        }
    }
    best
}

/// How far one output is from the original's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputMetrics {
    /// The output's name
    pub name: String,
    /// Whether it is a floating-point output: the gates for error hold for those alone
    pub float: bool,
    /// 10·log10(Σ a² / Σ (b−a)²), in dB; `None` when nothing differs, or the original is zero everywhere
    pub sqnr_db: Option<f64>,
    /// The same with the signal taken around its mean: over all rows, or positions, at each place of one axis. `None` when
    /// nothing differs, too little was seen to tell, or the output varies by less than 1 % of its size
    pub sqnr_around_mean_db: Option<f64>,
    /// √(Σ (b−a)² / Σ a²); 1 when the original is zero everywhere and the other not
    pub rel_l2: f64,
    /// √(Σ (b−a)² / n)
    pub rms: f64,
    /// Σ a·b / √(Σ a² · Σ b²); 1 when one of them is zero everywhere
    pub cosine: f64,
    /// Largest |b−a|
    pub max_abs: f64,
    /// Share of rows of the last axis with the same largest element; `None` for what is no scores of classes, or where the
    /// original's largest never changes its place
    pub top1_agreement: Option<f64>,
    /// Share of elements that are not equal
    pub unequal: f64,
    /// Elements that are finite on one side only
    pub not_finite: u64,
    /// Samples for which shape or type differ
    pub misshapen: u64,
    /// Whether a sample gives one row alone, not numbers at many positions
    pub row: bool,
    /// Its parts, the worst first, where there is more than one
    pub parts: Vec<Part>,
    /// What stands at one place of an axis and is furthest from the original's, by its own size
    pub worst_slice: Option<Slice>,
}

impl OutputMetrics {
    /// The figures of the output `name`, which is of the kind `kind`.
    pub(super) fn new(name: &str, kind: &Kind, measured: &Measured) -> OutputMetrics {
        let Measured { float, sums, axes } = measured;
        let parts = measured_parts(kind.structure.as_ref(), axes);
        let mean_axis = kind.structure.as_ref().map(|structure| structure.axis).or_else(|| axes.mean_axis());
        let whole = mean_axis.and_then(|axis| axes.along(axis));
        let variation = whole.and_then(|slices| Totals::whole(slices).variation);
        let worst_slice = worst_slice(&parts, axes);
        let rel_l2 = match (sums.before > 0.0, sums.error > 0.0) {
            (true, _) => (sums.error / sums.before).sqrt(),
            (false, differs) => f64::from(u8::from(differs)),
        };
        let lengths = (sums.before * sums.after).sqrt();
        let count = sums.elements.max(1) as f64;
        OutputMetrics {
            name: name.to_owned(),
            float: *float,
            sqnr_db: decibels(sums.before, sums.error),
            sqnr_around_mean_db: variation.and_then(|variation| decibels(variation, sums.error)),
            rel_l2,
            rms: (sums.error / count).sqrt(),
            cosine: if lengths > 0.0 { sums.product / lengths } else { 1.0 },
            max_abs: sums.max_abs,
            top1_agreement: (kind.is_classes && sums.classes == Classes::Several)
                .then(|| sums.same_rows as f64 / sums.rows as f64),
            unequal: sums.unequal as f64 / count,
            not_finite: sums.not_finite,
            misshapen: sums.misshapen,
            row: axes.is_row(),
            parts,
            worst_slice,
        }
    }
}
