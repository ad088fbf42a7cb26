//! Constants: how far two are apart, and what a constant that is stored in another form stands for.
use onnx_shrink_ir::{DataType, Evaluate, Tensor};

use super::{
    Detail, Facts,
    index::{Index, Source},
};

/// Values of ops that compute from constants alone, by the op's place; `None` inside: it cannot be computed here.
pub(super) struct Computed {
    /// Whether the op is one of them
    pub is: Vec<bool>,
    tensors: Vec<Vec<Option<Tensor>>>,
}

impl Computed {
    /// Finds and computes ops of `index` without a counterpart that read constants alone.
    pub fn new(index: &Index<'_>, matched: &[Option<usize>], evaluator: &dyn Evaluate) -> Computed {
        let mut computed = Computed { is: vec![false; index.ops.len()], tensors: vec![Vec::new(); index.ops.len()] };
        for (place, matched) in matched.iter().enumerate() {
            let random =
                ["Random", "Bernoulli", "Multinomial"].iter().any(|name| index.op(place).op_type().starts_with(name));
            let inputs = &index.inputs[place];
            let constant = |source: &Source| match *source {
                Source::Nothing | Source::Constant(_) => true,
                Source::Made(op, _) => computed.is[op],
                _ => false,
            };
            if matched.is_some() || random || inputs.is_empty() || !inputs.iter().all(constant) {
                continue;
            }
            let direct = &inputs[..index.op(place).inputs().len()];
            let tensors: Vec<Option<Tensor>> =
                direct.iter().map(|&source| computed.tensor(index, source).cloned()).collect();
            let known =
                direct.iter().zip(&tensors).all(|(source, tensor)| *source == Source::Nothing || tensor.is_some());
            let result = if known { evaluator.op(index.graph, index.ops[place], &tensors).ok() } else { None };
            computed.is[place] = true;
            computed.tensors[place] = result.unwrap_or_default();
        }
        computed
    }

    /// Whether `source` is constant.
    pub fn is_constant(&self, source: Source) -> bool {
        match source {
            Source::Constant(_) => true,
            Source::Made(op, _) => self.is[op],
            _ => false,
        }
    }

    /// The numbers behind `source`, if it is constant and they are known.
    pub fn tensor<'t>(&'t self, index: &'t Index<'_>, source: Source) -> Option<&'t Tensor> {
        match source {
            Source::Constant(place) => Some(&index.constants[place].tensor),
            Source::Made(op, port) => self.tensors[op].get(port)?.as_ref(),
            _ => None,
        }
    }

    /// What is stored for `source`: the largest constant behind it, and the bytes of all.
    pub fn stored(&self, index: &Index<'_>, source: Source) -> Option<Facts> {
        let mut work = vec![source];
        let mut seen = Vec::new();
        let mut largest: Option<&Tensor> = None;
        let mut bytes = 0;
        while let Some(source) = work.pop() {
            if seen.contains(&source) {
                continue;
            }
            seen.push(source);
            match source {
                Source::Constant(place) => {
                    let tensor = &index.constants[place].tensor;
                    bytes += tensor.byte_len();
                    if largest.is_none_or(|largest| largest.len() < tensor.len()) {
                        largest = Some(tensor);
                    }
                }
                Source::Made(op, _) if self.is[op] => work.extend(&index.inputs[op]),
                _ => {}
            }
        }
        largest.map(|tensor| Facts { ty: tensor.ty().to_string(), bytes })
    }

    /// The element type of the largest constant behind `source`.
    pub fn stored_type(&self, index: &Index<'_>, source: Source) -> Option<DataType> {
        let mut work = vec![source];
        let mut largest: Option<&Tensor> = None;
        while let Some(source) = work.pop() {
            match source {
                Source::Constant(place) => {
                    let tensor = &index.constants[place].tensor;
                    if largest.is_none_or(|largest| largest.len() < tensor.len()) {
                        largest = Some(tensor);
                    }
                }
                Source::Made(op, _) if self.is[op] => work.extend(&index.inputs[op]),
                _ => {}
            }
        }
        largest.map(Tensor::dtype)
    }
}

/// How `after` differs from `before` for input `input`; `None` when they are equal. `stored` is what the files hold.
pub(super) fn compare(
    input: String,
    before: Option<&Tensor>,
    after: Option<&Tensor>,
    stored: (Option<Facts>, Option<Facts>),
) -> Option<Detail> {
    let (mut relative_error, mut elements) = (None, None);
    if let (Some(before), Some(after)) = (before, after) {
        if before == after && stored.0 == stored.1 {
            return None;
        }
        if let Some((error, count)) = distance(before, after) {
            (relative_error, elements) = (error, Some(count));
        }
    } else if before.is_none() && after.is_none() && stored.0 == stored.1 {
        return None; // computed by equal ops that cannot be run here
    }
    Some(Detail::Constant { input, before: stored.0, after: stored.1, relative_error, elements })
}

/// Relative L2 error and the number of elements that differ (NaN equals NaN); a matrix and its transpose are compared as
/// such. `None` for other dimensions, strings and types without numbers. No relative error where A is all zeros.
fn distance(before: &Tensor, after: &Tensor) -> Option<(Option<f64>, usize)> {
    let (one, mut other) = (before.to_f64_vec()?, after.to_f64_vec()?);
    if let ([rows, columns], [height, width]) = (before.dims(), after.dims())
        && (rows, columns) == (width, height)
        && rows != columns
    {
        other =
            (0..*rows).flat_map(|row| (0..*columns).map(move |column| column * rows + row)).map(|k| other[k]).collect();
    } else if before.dims() != after.dims()
        && (one.len() != other.len() || one.len() != before.dims().iter().copied().max()?)
    {
        return None;
    }
    let (mut error, mut norm, mut count) = (0.0, 0.0, 0);
    for (one, other) in one.iter().zip(&other) {
        norm += one * one;
        if one != other && !(one.is_nan() && other.is_nan()) {
            count += 1;
            error += (other - one) * (other - one);
        }
    }
    let relative = (error / norm).sqrt();
    Some((relative.is_finite().then_some(relative), count))
}
