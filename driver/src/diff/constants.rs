//! Constants: how far two are apart, and what a constant that is stored in another form stands for.
use std::borrow::Cow;

use onnx_shrink_ir::{DataType, Evaluate, Tensor};

use super::{
    change::{Detail, Facts},
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
            if let Some(result) = result {
                computed.tensors[place] = result;
            }
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

/// The numbers that input `port` of op `place` stands for, if it is constant and they are known: an integer op's weights and
/// bias by their scale and zero point. `None` where these are not known.
pub(super) fn meaning<'t>(
    index: &'t Index<'_>,
    computed: &'t Computed,
    place: usize,
    port: usize,
) -> Option<Cow<'t, Tensor>> {
    let op = index.op(place);
    let direct = &index.inputs[place][..op.inputs().len()];
    let tensor = computed.tensor(index, *direct.get(port)?)?;
    let input = |port: usize| direct.get(port).and_then(|source| computed.tensor(index, *source));
    let (scales, zero_points, axis) = match (op.op_type(), port) {
        ("MatMulInteger" | "ConvInteger", 1) => {
            let channels = if op.op_type() == "ConvInteger" { tensor.dims().first() } else { tensor.dims().last() };
            let scales = scales_behind(index, computed, place, *channels?)?;
            (scales, input(3).cloned(), if op.op_type() == "ConvInteger" { 0 } else { tensor.dims().len() - 1 })
        }
        (name, 3) if name.starts_with("QLinear") || name == "QGemm" => {
            let first = name == "QLinearConv" || name == "QGemm" && op.int("transB") == Some(1);
            let axis = if first { 0 } else { tensor.dims().len().checked_sub(1)? };
            (input(4)?.to_f64_vec()?, input(5).cloned(), axis)
        }
        ("QLinearConv", 8) | ("QGemm", 6) => {
            let step = input(1)?.to_scalar_f64()?;
            (input(4)?.to_f64_vec()?.into_iter().map(|scale| scale * step).collect(), None, 0)
        }
        _ => return Some(Cow::Borrowed(tensor)),
    };
    dequantized(tensor, &scales, zero_points.as_ref(), axis).map(Cow::Owned)
}

/// (q − z) · s, with one scale and zero point or one for each place of `axis`.
fn dequantized(tensor: &Tensor, scales: &[f64], zero_points: Option<&Tensor>, axis: usize) -> Option<Tensor> {
    let mut array = tensor.to_f64()?;
    let zero_points = match zero_points {
        Some(tensor) => tensor.to_f64_vec()?,
        None => vec![0.0],
    };
    let along = *array.shape().get(axis).unwrap_or(&1);
    let fits = |list: &[f64]| list.len() == 1 || list.len() == along;
    if !fits(scales) || !fits(&zero_points) {
        return None;
    }
    let at = |list: &[f64], place: usize| if list.len() == 1 { list[0] } else { list[place] };
    if array.ndim() == 0 {
        array.mapv_inplace(|q| (q - zero_points[0]) * scales[0]);
    } else {
        for (place, mut part) in array.axis_iter_mut(ndarray::Axis(axis)).enumerate() {
            part.mapv_inplace(|q| (q - at(&zero_points, place)) * at(scales, place));
        }
    }
    Tensor::from_f64(DataType::Float, &array)
}

/// Ops from an integer product to the product with its scales, at most.
const SCALES_WITHIN: usize = 4;

/// The constant scales by which what integer op `place` makes is multiplied behind it: one, or one for each of `channels`.
fn scales_behind(index: &Index<'_>, computed: &Computed, place: usize, channels: usize) -> Option<Vec<f64>> {
    let constant = |source: &Source| {
        let scales = computed.tensor(index, *source)?.to_f64_vec()?;
        (scales.len() == 1 || scales.len() == channels).then_some(scales)
    };
    let mut at = place;
    for _ in 0..SCALES_WITHIN {
        let &(reader, _) = index.readers[at].first()?.first()?;
        if index.op(reader).op_type() == "Mul" {
            let factors = &index.inputs[reader];
            if let Some(scales) = factors.iter().find_map(constant) {
                return Some(scales);
            }
            // The other factor: the scale of the run times that of the weights.
            let others = factors.iter().filter_map(|source| match *source {
                Source::Made(maker, _) if maker != at && index.op(maker).op_type() == "Mul" => Some(maker),
                _ => None,
            });
            if let Some(scales) = others.flat_map(|maker| &index.inputs[maker]).find_map(constant) {
                return Some(scales);
            }
        }
        at = reader;
    }
    None
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

/// Error as a share of the larger norm of both, and the number of elements that differ (NaN equals NaN); a matrix and its
/// transpose are compared as such. `None` for other dimensions, strings and types without numbers. No error where both are
/// all zeros.
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
    let (mut error, mut norms, mut count) = (0.0, (0.0, 0.0), 0);
    for (one, other) in one.iter().zip(&other) {
        norms = (norms.0 + one * one, norms.1 + other * other);
        if one != other && !(one.is_nan() && other.is_nan()) {
            count += 1;
            error += (other - one) * (other - one);
        }
    }
    // (Of the larger: what was almost zero, as a bias that was corrected, did not change by thousands of percent.)
    let relative = (error / f64::max(norms.0, norms.1)).sqrt();
    Some((relative.is_finite().then_some(relative), count))
}
