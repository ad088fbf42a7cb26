//! How far one model's outputs are from another's, over samples.
//!
//! Sums are f64, taken per sample and merged in the order of the samples: **never** in the order in which threads finish, so
//! a report is the same for any number of threads. **Never** holds more outputs than threads.
use std::collections::BTreeMap;

use onnx_shrink_ir::{Evaluate, EvaluateError, Graph, Prepared, Tensor, ValueId};
use rayon::prelude::*;
use serde::Serialize;

use crate::{
    gates::Gate,
    progress::Stage,
    request::Gates,
    samples::{Sample, SampleError, Samples},
};

/// Why two models could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A sample cannot be read
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A model does not run on a sample
    #[error("sample `{sample}`: the {model} model")]
    Run {
        /// The sample
        sample: String,
        /// "original" or "new"
        model: &'static str,
        /// Why not
        #[source]
        source: EvaluateError,
    },
}

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
        self.misshapen += other.misshapen;
    }

    fn of(before: &Tensor, after: &Tensor) -> Sums {
        let mut sums = Sums::default();
        if before.dims() != after.dims() || before.dtype() != after.dtype() {
            sums.misshapen = 1;
            return sums;
        }
        let (Some(a), Some(b)) = (before.to_f64_vec(), after.to_f64_vec()) else {
            // Strings and the like are equal or not.
            sums.elements = before.len() as u64;
            sums.unequal = if before == after { 0 } else { sums.elements };
            return sums;
        };
        sums.elements = a.len() as u64;
        for (&a, &b) in a.iter().zip(&b) {
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
                sums.rows += 1;
                sums.same_rows += u64::from(argmax(a) == argmax(b));
            }
        }
        sums
    }
}

/// The first place of the largest number; NaN counts as larger than all, as numpy has it.
fn argmax(row: &[f64]) -> usize {
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
    /// √(Σ (b−a)² / Σ a²); 1 when the original is zero everywhere and the other not
    pub rel_l2: f64,
    /// √(Σ (b−a)² / n)
    pub rms: f64,
    /// Σ a·b / √(Σ a² · Σ b²); 1 when one of them is zero everywhere
    pub cosine: f64,
    /// Largest |b−a|
    pub max_abs: f64,
    /// Share of rows of the last axis with the same largest element; `None` for scalars and columns
    pub top1_agreement: Option<f64>,
    /// Share of elements that are not equal
    pub unequal: f64,
    /// Elements that are finite on one side only
    pub not_finite: u64,
    /// Samples for which shape or type differ
    pub misshapen: u64,
}

impl OutputMetrics {
    fn new(name: &str, float: bool, sums: &Sums) -> OutputMetrics {
        let rel_l2 = match (sums.before > 0.0, sums.error > 0.0) {
            (true, _) => (sums.error / sums.before).sqrt(),
            (false, differs) => f64::from(u8::from(differs)),
        };
        let lengths = (sums.before * sums.after).sqrt();
        let count = sums.elements.max(1) as f64;
        OutputMetrics {
            name: name.to_owned(),
            float,
            sqnr_db: (sums.error > 0.0 && sums.before > 0.0).then(|| 10.0 * (sums.before / sums.error).log10()),
            rel_l2,
            rms: (sums.error / count).sqrt(),
            cosine: if lengths > 0.0 { sums.product / lengths } else { 1.0 },
            max_abs: sums.max_abs,
            top1_agreement: (sums.rows > 0).then(|| sums.same_rows as f64 / sums.rows as f64),
            unequal: sums.unequal as f64 / count,
            not_finite: sums.not_finite,
            misshapen: sums.misshapen,
        }
    }
}

/// Share of samples whose label the first output tells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Samples with a label
    pub samples: usize,
    /// Of the original
    pub before: f64,
    /// Of the new model
    pub after: f64,
    /// before − after
    pub drop: f64,
    /// Standard error of the paired difference
    pub standard_error: f64,
}

impl Accuracy {
    fn of(right: &[(bool, bool)]) -> Option<Accuracy> {
        if right.is_empty() {
            return None;
        }
        let count = right.len() as f64;
        let share = |which: fn(&(bool, bool)) -> bool| right.iter().filter(|pair| which(pair)).count() as f64 / count;
        let (before, after) = (share(|pair| pair.0), share(|pair| pair.1));
        let drop = before - after;
        let difference = |pair: &(bool, bool)| f64::from(u8::from(pair.0)) - f64::from(u8::from(pair.1));
        let variance = right.iter().map(|pair| (difference(pair) - drop).powi(2)).sum::<f64>() / count;
        Some(Accuracy { samples: right.len(), before, after, drop, standard_error: (variance / count).sqrt() })
    }

    /// The drop that is beyond doubt: less two standard errors.
    pub fn certain_drop(&self) -> f64 {
        self.drop - 2.0 * self.standard_error
    }
}

/// Whether the first output `output` tells the integer `label`: a single number above 0.5 stands for a positive one;
/// otherwise the largest of the last row (of all, from rank 3 on) is the class.
fn is_right(output: &Tensor, label: i64) -> Option<bool> {
    let numbers = output.to_f64_vec()?;
    if let [number] = numbers[..] {
        return Some((number > 0.5) == (label > 0));
    }
    let row = match (output.dims().len(), output.dims().last()) {
        (..3, Some(&last)) if last > 0 => numbers.chunks_exact(last).next_back()?,
        _ => &numbers[..],
    };
    Some(i64::try_from(argmax(row)).ok()? == label)
}

/// The label as one whole number; `None` when it is something else.
fn class_of(sample: &Sample) -> Option<i64> {
    match sample.label.as_ref()?.to_i64_vec()?[..] {
        [label] => Some(label),
        _ => None,
    }
}

/// How far a model is from the original.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Samples that both ran on
    pub samples: usize,
    /// By output, in the graph's order
    pub outputs: Vec<OutputMetrics>,
    /// When samples have labels that are classes
    pub accuracy: Option<Accuracy>,
}

/// What one sample contributes.
struct One {
    sums: Vec<(bool, Sums)>,
    right: Option<(bool, bool)>,
}

fn run_one(before: &dyn Prepared, after: &dyn Prepared, sample: &Sample) -> Result<One, CompareError> {
    let run = |model: &dyn Prepared, which| {
        let failed = |source| CompareError::Run { sample: sample.name.clone(), model: which, source };
        model.run(&sample.inputs, &mut |_, _| {}).map_err(failed)
    };
    let (a, b) = (run(before, "original")?, run(after, "new")?);
    let sums = a.iter().zip(&b).map(|(a, b)| (a.dtype().is_float(), Sums::of(a, b))).collect();
    let right = class_of(sample)
        .zip(a.first().zip(b.first()))
        .and_then(|(label, (a, b))| Some((is_right(a, label)?, is_right(b, label)?)));
    Ok(One { sums, right })
}

/// Runs both models on every sample and compares their outputs. `graph` is the original, whose output names stand in the
/// result; `threads` 0 means rayon's own pool.
pub fn compare(
    graph: &Graph,
    before: &dyn Prepared,
    after: &dyn Prepared,
    samples: &Samples,
    threads: usize,
    stage: &dyn Stage,
) -> Result<Comparison, CompareError> {
    let work = || {
        let mut sums: Vec<(bool, Sums)> = vec![(false, Sums::default()); graph.outputs().len()];
        let mut right = Vec::new();
        let indices: Vec<usize> = (0..samples.len()).collect();
        let chunk = 4 * rayon::current_num_threads();
        for indices in indices.chunks(chunk) {
            let ones: Vec<Result<One, CompareError>> = indices
                .par_iter()
                .map(|&index| {
                    let one = run_one(before, after, &samples.get(index)?);
                    stage.advance(1);
                    one
                })
                .collect();
            for one in ones {
                let one = one?;
                right.extend(one.right);
                for ((float, sums), (is_float, sum)) in sums.iter_mut().zip(&one.sums) {
                    *float |= is_float;
                    sums.add(sum);
                }
            }
        }
        let outputs = graph.outputs().iter().zip(&sums);
        let outputs = outputs.map(|(&value, (float, sums))| OutputMetrics::new(graph.name_of(value), *float, sums));
        Ok(Comparison { samples: samples.len(), outputs: outputs.collect(), accuracy: Accuracy::of(&right) })
    };
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) if threads > 0 => pool.install(work),
        _ => work(),
    }
}

/// Prepares both graphs with `evaluator` and compares them; see [`compare`].
pub fn compare_graphs(
    evaluator: &dyn Evaluate,
    before: &Graph,
    after: &Graph,
    samples: &Samples,
    threads: usize,
    stage: &dyn Stage,
) -> Result<Comparison, CompareError> {
    let prepare = |graph, model| {
        let failed = |source| CompareError::Run { sample: "none yet".to_owned(), model, source };
        evaluator.prepare(graph).map_err(failed)
    };
    let (prepared, other) = (prepare(before, "original")?, prepare(after, "new")?);
    compare(before, prepared.as_ref(), other.as_ref(), samples, threads, stage)
}

/// Runs two models, each with its graph, on every sample and compares the values that ops of both main graphs make under one
/// name and as one type, in the order of the first model. Values that both have, but never as one type and shape, are left
/// out. Holds the values of one sample per thread.
pub fn compare_values(
    models: [(&Graph, &dyn Prepared); 2],
    samples: &Samples,
    stage: &dyn Stage,
) -> Result<Vec<OutputMetrics>, CompareError> {
    let [(before, first), (after, second)] = models;
    let common: Vec<(ValueId, ValueId)> = before
        .ops()
        .into_iter()
        .flat_map(|op| before.op(op).outputs().iter().flatten().copied().collect::<Vec<_>>())
        .filter_map(|value| {
            let other = after.find(before.name_of(value))?;
            after.producer(other).map(|_| (value, other))
        })
        .collect();
    let place: BTreeMap<ValueId, usize> =
        common.iter().enumerate().map(|(place, (value, _))| (*value, place)).collect();
    let other_place: BTreeMap<ValueId, usize> =
        common.iter().enumerate().map(|(place, (_, value))| (*value, place)).collect();
    let one = |index: usize| {
        let sample = samples.get(index)?;
        let failed = |model| {
            let sample = sample.name.clone();
            move |source| CompareError::Run { sample, model, source }
        };
        let mut kept: BTreeMap<usize, Tensor> = BTreeMap::new();
        let keep = &mut |value, tensor: &Tensor| {
            if let Some(place) = place.get(&value) {
                kept.insert(*place, tensor.clone());
            }
        };
        first.run(&sample.inputs, keep).map_err(failed("original"))?;
        let mut sums: BTreeMap<usize, (bool, Sums)> = BTreeMap::new();
        let compare = &mut |value, tensor: &Tensor| {
            let Some(place) = other_place.get(&value) else { return };
            if let Some(expected) = kept.remove(place)
                && expected.dtype() == tensor.dtype()
            {
                sums.insert(*place, (tensor.dtype().is_float(), Sums::of(&expected, tensor)));
            }
        };
        second.run(&sample.inputs, compare).map_err(failed("new"))?;
        stage.advance(1);
        Ok(sums)
    };
    let mut totals: BTreeMap<usize, (bool, Sums)> = BTreeMap::new();
    let indices: Vec<usize> = (0..samples.len()).collect();
    for chunk in indices.chunks(rayon::current_num_threads().max(1)) {
        let parts: Vec<Result<_, CompareError>> = chunk.par_iter().map(|&index| one(index)).collect();
        for part in parts {
            for (place, (float, sum)) in part? {
                let total = totals.entry(place).or_default();
                total.0 |= float;
                total.1.add(&sum);
            }
        }
    }
    let metrics =
        totals.iter().map(|(&place, (float, sums))| OutputMetrics::new(before.name_of(common[place].0), *float, sums));
    Ok(metrics.collect())
}

/// Whether a gate holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateResult {
    /// "lossless-rel", "sqnr", "drop": the key of `--gate`
    pub gate: &'static str,
    /// The output that was judged, where it is about one
    pub output: Option<String>,
    /// What was measured; `None` when it is without bound or makes no number
    pub measured: Option<f64>,
    /// The limit
    pub limit: f64,
    /// Whether it holds
    pub passed: bool,
    /// Why not, in a sentence; empty when it holds
    pub reason: String,
}

impl GateResult {
    fn new(
        gate: &'static str,
        output: Option<&str>,
        measured: Option<f64>,
        limit: f64,
        problem: Option<String>,
    ) -> Self {
        let output = output.map(str::to_owned);
        GateResult { gate, output, measured, limit, passed: problem.is_none(), reason: problem.unwrap_or_default() }
    }
}

impl GateResult {
    /// What `gate` says of a model to which nothing was done that it judges.
    pub fn without_change(gate: Gate, limit: f64) -> GateResult {
        GateResult::new(gate.key(), None, None, limit, None)
    }
}

/// What no rewrite may change: shapes, types, and where numbers are finite.
fn form_problem(metrics: &OutputMetrics) -> Option<String> {
    let name = &metrics.name;
    if metrics.misshapen > 0 {
        return Some(format!("output `{name}` has another shape or type on {} samples", metrics.misshapen));
    }
    (metrics.not_finite > 0)
        .then(|| format!("{} elements of output `{name}` are finite in one model only", metrics.not_finite))
}

/// An error that is below the resolution of f32 for numbers around 1 is none, however small the output is.
const NO_ERROR: f64 = 1e-7;

impl Gates {
    /// The gates for rewrites that keep the function; `half` says that the model computes in 16-bit floats. `lossless-rel` that
    /// was given holds for these, too.
    pub fn lossless(&self, comparison: &Comparison, half: bool) -> Vec<GateResult> {
        let mut gates = vec![if half { Gate::LosslessRelFp16 } else { Gate::LosslessRel }];
        if half && self.given.contains(&Gate::LosslessRel) {
            gates.push(Gate::LosslessRel);
        }
        let judge = |gate: Gate, metrics: &OutputMetrics| {
            let limit = self.limit(gate);
            let holds = metrics.rel_l2 <= limit || metrics.rms <= NO_ERROR;
            let far = || {
                let (name, rel) = (&metrics.name, metrics.rel_l2);
                format!("output `{name}` differs by {rel:.2e} (relative L2), at most {limit:.0e} is allowed")
            };
            let problem = form_problem(metrics).or_else(|| (!holds).then(far));
            GateResult::new(gate.key(), Some(&metrics.name), Some(metrics.rel_l2), limit, problem)
        };
        gates.iter().flat_map(|gate| comparison.outputs.iter().map(|metrics| judge(*gate, metrics))).collect()
    }

    /// The gate for the bytes of the written model, where there is one.
    pub fn size(&self, bytes: u64) -> Option<GateResult> {
        let limit = self.max_bytes?;
        let problem = (bytes > limit).then(|| format!("the result has {bytes} bytes, at most {limit} are allowed"));
        Some(GateResult::new("max-bytes", None, Some(bytes as f64), limit as f64, problem))
    }

    /// The gates for quantization.
    pub fn int8(&self, comparison: &Comparison) -> Vec<GateResult> {
        self.approximate(comparison, ("sqnr", self.sqnr), ("drop", self.drop))
    }

    /// The gates for pruning: its error is larger than quantization's, so that accuracy counts where it can be told.
    pub fn structure(&self, comparison: &Comparison) -> Vec<GateResult> {
        self.approximate(comparison, ("prune-sqnr", self.prune_sqnr), ("prune-drop", self.prune_drop))
    }

    fn approximate(
        &self,
        comparison: &Comparison,
        (gate, least): (&'static str, f64),
        drop: (&'static str, f64),
    ) -> Vec<GateResult> {
        let judge = |metrics: &OutputMetrics| {
            let sqnr = metrics.sqnr_db;
            // No SQNR: nothing differs, or the original is zero everywhere.
            let holds = sqnr.map_or(metrics.rel_l2 == 0.0 || metrics.rms <= NO_ERROR, |sqnr| sqnr >= least);
            let far = || {
                let (name, sqnr) = (&metrics.name, sqnr.unwrap_or(f64::NEG_INFINITY));
                format!("output `{name}` has an SQNR of {sqnr:.1} dB, at least {least} are wanted")
            };
            let problem = form_problem(metrics).or_else(|| (!holds).then(far));
            GateResult::new(gate, Some(&metrics.name), sqnr, least, problem)
        };
        let mut results: Vec<GateResult> =
            comparison.outputs.iter().filter(|metrics| metrics.float).map(judge).collect();
        for metrics in comparison.outputs.iter().filter(|metrics| !metrics.float) {
            if let Some(problem) = form_problem(metrics) {
                results.push(GateResult::new(gate, Some(&metrics.name), None, least, Some(problem)));
            }
        }
        results.extend(accuracy_gate(comparison, drop));
        results
    }

    /// The gate for accuracy, where there are labels.
    pub fn accuracy(&self, comparison: &Comparison) -> Option<GateResult> {
        accuracy_gate(comparison, ("drop", self.drop))
    }
}

fn accuracy_gate(comparison: &Comparison, (gate, most): (&'static str, f64)) -> Option<GateResult> {
    let accuracy = comparison.accuracy.as_ref()?;
    let certain = accuracy.certain_drop();
    let far = || {
        let (before, after, samples) = (100.0 * accuracy.before, 100.0 * accuracy.after, accuracy.samples);
        format!(
            "accuracy falls from {before:.1} to {after:.1} % on {samples} samples: {:.1} points beyond two \
             standard errors, at most {:.1} are allowed",
            100.0 * certain,
            100.0 * most
        )
    };
    let problem = (certain > most).then(far);
    Some(GateResult::new(gate, None, Some(certain), most, problem))
}

#[cfg(test)]
mod tests;
