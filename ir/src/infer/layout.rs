//! Ops that move, cut or join elements: Reshape, Slice, Concat, Split, Pad and their kin.
use rten_shape_inference::{SymExpr, SymTensor, SymbolGen, ops};

use super::{
    node::{Axes, Node, resolve},
    outputs::Outputs,
    symbols::{MAX_RANK, MAX_VALUES},
};

/// A vector of integers, when all fit.
pub(super) fn vector(numbers: &[i64]) -> Option<SymTensor> {
    let elements: Option<Vec<_>> = numbers.iter().map(|&number| small(number)).collect();
    elements.map(SymTensor::from_vec)
}

/// A number as an expression, when it fits.
pub(super) fn small(number: i64) -> Option<SymExpr> {
    i32::try_from(number).ok().map(SymExpr::Value)
}

/// Splits a product into its numbers, multiplied, and its other factors. `None` on overflow.
fn factors(expr: &SymExpr, number: &mut i64, others: &mut Vec<SymExpr>) -> Option<()> {
    match expr {
        SymExpr::Value(value) => *number = number.checked_mul(i64::from(*value))?,
        SymExpr::Mul(a, b) => {
            factors(a, number, others)?;
            factors(b, number, others)?;
        }
        other => others.push(other.clone()),
    }
    Some(())
}

/// The product of `over` by that of `under`, common factors cancelled; a fresh symbol when it is uncertain. Symbols are
/// taken as not 0: a -1 in Reshape has no meaning otherwise.
pub(super) fn quotient(over: &[SymExpr], under: &[SymExpr], symbols: &mut SymbolGen) -> SymExpr {
    let certain = || {
        let (mut top, mut above) = (1i64, Vec::new());
        let (mut bottom, mut below) = (1i64, Vec::new());
        over.iter().try_for_each(|expr| factors(expr, &mut top, &mut above))?;
        under.iter().try_for_each(|expr| factors(expr, &mut bottom, &mut below))?;
        below.retain(|factor| match above.iter().position(|other| other == factor) {
            Some(place) => {
                above.swap_remove(place);
                false
            }
            None => true,
        });
        if bottom == 0 {
            return None;
        }
        if below.is_empty() && top % bottom == 0 {
            let number = small(top / bottom)?;
            return Some(above.into_iter().fold(number, |product, factor| product * factor));
        }
        let product = |number: i64, others: Vec<SymExpr>| {
            Some(others.into_iter().fold(small(number)?, |product, factor| product * factor))
        };
        if above.is_empty() && below.is_empty() { None } else { Some(product(top, above)? / product(bottom, below)?) }
    };
    certain().unwrap_or_else(|| symbols.gen_positive())
}

/// Reshape, with the shape as attribute (opset 1) or input.
pub(super) fn reshape(node: &mut Node<'_>) -> Outputs {
    let target: Option<Vec<SymExpr>> = match node.op.ints("shape") {
        Some(shape) => shape.iter().map(|&size| small(size)).collect(),
        None => node.input(1)?.as_vector().map(<[SymExpr]>::to_vec),
    };
    let Some(target) = target else {
        return match node.input(1)?.size(0)? {
            SymExpr::Value(rank) if usize::try_from(rank).is_ok_and(|rank| rank <= MAX_RANK) => {
                Some(vec![SymTensor::from_shape(node.symbols.gen_shape(usize::try_from(rank).ok()?))])
            }
            _ => None,
        };
    };
    if target.len() > MAX_RANK {
        return None;
    }
    if let Some(elements) = node.input(0).and_then(SymTensor::values) {
        match (target.len(), elements) {
            (1, elements) => return Some(vec![SymTensor::from_vec(elements.to_vec())]),
            (0, [element]) => return Some(vec![SymTensor::from_scalar(element.clone())]),
            _ => {}
        }
    }
    let (data, zero_is_zero) = (node.shape(0), node.int_or("allowzero", 0) != 0);
    let mut dims = Vec::with_capacity(target.len());
    let mut hole = None;
    for (index, size) in target.iter().enumerate() {
        dims.push(match size {
            SymExpr::Value(0) if !zero_is_zero => match &data {
                Some(data) => data.get(index)?.clone(),
                None => node.symbols.gen_positive(),
            },
            SymExpr::Value(-1) => {
                if hole.replace(index).is_some() {
                    return None;
                }
                SymExpr::Value(1)
            }
            SymExpr::Value(size) if *size < 0 => return None,
            size if size.is_positive() => size.clone(),
            _ => node.symbols.gen_positive(),
        });
    }
    if let Some(hole) = hole {
        dims[hole] = match &data {
            Some(data) => quotient(data, &dims, node.symbols),
            None => node.symbols.gen_positive(),
        };
    }
    Some(vec![SymTensor::from_shape(dims)])
}

/// Flatten.
pub(super) fn flatten(node: &mut Node<'_>) -> Outputs {
    let data = node.shape(0)?;
    let axis = node.int_or("axis", 1);
    let axis = if axis == i64::try_from(data.len()).ok()? { data.len() } else { resolve(axis, data.len())? };
    let dims = vec![quotient(&data[..axis], &[], node.symbols), quotient(&data[axis..], &[], node.symbols)];
    Some(vec![SymTensor::from_shape(dims)])
}

/// Size: the number of elements, as a scalar.
pub(super) fn size(node: &mut Node<'_>) -> Outputs {
    let Some(data) = node.shape(0) else { return Some(vec![SymTensor::from_shape(Vec::new())]) };
    Some(vec![SymTensor::from_scalar(quotient(&data, &[], node.symbols))])
}

/// Squeeze and Unsqueeze, with the axes as attribute or input.
pub(super) fn squeeze(node: &mut Node<'_>) -> Outputs {
    let axes = match node.axes("axes", 1) {
        Axes::Absent => None,
        Axes::Known(axes) => Some(vector(&axes)?),
        Axes::Unknown => Some(SymTensor::unknown("axes")),
    };
    let inputs = vec![node.input(0).cloned(), axes];
    match node.op.op_type() {
        "Squeeze" => node.by(&ops::Squeeze, inputs),
        _ => node.by(&ops::Unsqueeze, inputs),
    }
}

/// Transpose.
pub(super) fn transpose(node: &mut Node<'_>) -> Outputs {
    let perm: Option<Vec<usize>> = match node.op.ints("perm") {
        Some(perm) => {
            let perm: Option<Vec<usize>> = perm.iter().map(|&axis| usize::try_from(axis).ok()).collect();
            Some(perm.filter(|perm| perm.len() <= MAX_RANK && (0..perm.len()).all(|axis| perm.contains(&axis)))?)
        }
        None => None,
    };
    if perm.as_ref().is_some_and(|perm| node.rank(0).is_some_and(|rank| rank != perm.len())) {
        return None;
    }
    node.as_is(&ops::Transpose { perm: perm.as_deref() })
}

/// Concat. Along the other axes the surest dimension counts.
pub(super) fn concat(node: &mut Node<'_>) -> Outputs {
    let count = node.op.inputs().len();
    let rank = (0..count).find_map(|index| node.rank(index))?;
    let axis = resolve(node.int_or("axis", 1), rank)?;
    if rank == 1 {
        let parts: Option<Vec<&[SymExpr]>> =
            (0..count).map(|index| node.input(index).and_then(SymTensor::as_vector)).collect();
        if let Some(parts) = parts
            && parts.iter().map(|part| part.len()).sum::<usize>() <= MAX_VALUES
        {
            return Some(vec![SymTensor::from_vec(parts.concat())]);
        }
    }
    let (mut dims, mut number, mut others) = (vec![None; rank], 0i64, Some(Vec::new()));
    for index in 0..count {
        let Some(shape) = node.shape(index) else {
            others = None;
            continue;
        };
        if shape.len() != rank {
            return None;
        }
        for (place, size) in shape.into_iter().enumerate() {
            if place == axis {
                match size {
                    SymExpr::Value(size) => number += i64::from(size),
                    size => others.iter_mut().for_each(|others| others.push(size.clone())),
                }
            } else if surer(&size, dims[place].as_ref()) {
                dims[place] = Some(size);
            }
        }
    }
    dims[axis] = others
        .filter(|others| others.len() <= 8)
        .and_then(|others| Some(others.into_iter().fold(small(number)?, |sum, size| sum + size)));
    let dims = dims.into_iter().map(|dim| dim.unwrap_or_else(|| node.symbols.gen_positive())).collect();
    Some(vec![SymTensor::from_shape(dims)])
}

/// Whether `new` says more of a dimension than `old`: a number more than a name, a name more than an unknown.
fn surer(new: &SymExpr, old: Option<&SymExpr>) -> bool {
    let sureness = |size: &SymExpr| match size {
        SymExpr::Value(_) => 3,
        SymExpr::Var(symbol) if !symbol.synthetic => 2,
        _ => 1,
    };
    old.is_none_or(|old| sureness(new) > sureness(old))
}

/// Split, with the sizes as attribute, as input, or equal.
pub(super) fn split(node: &mut Node<'_>) -> Outputs {
    let (data, count) = (node.shape(0)?, node.op.outputs().len());
    let axis = resolve(node.int_or("axis", 0), data.len())?;
    let given: Option<Vec<SymExpr>> = match (node.op.ints("split"), node.op.input(1)) {
        (Some(sizes), _) => sizes.iter().map(|&size| small(size)).collect(),
        (None, Some(_)) => match node.input(1)?.as_vector() {
            Some(sizes) => Some(sizes.to_vec()),
            None => Some(node.symbols.gen_shape(count)),
        },
        (None, None) => {
            let parts = usize::try_from(node.int_or("num_outputs", i64::try_from(count).ok()?)).ok()?;
            (parts == count).then(|| equal_parts(&data[axis], count, node.symbols))
        }
    };
    let given = given.filter(|sizes| sizes.len() == count)?;
    let elements = node.input(0)?.as_vector().map(<[SymExpr]>::to_vec);
    let mut begin = Some(0);
    let mut outputs = Vec::with_capacity(count);
    for size in given {
        let end = match (&size, begin) {
            (SymExpr::Value(size), Some(begin)) => usize::try_from(*size).ok().map(|size| begin + size),
            _ => None,
        };
        let part = elements.as_ref().zip(begin.zip(end)).and_then(|(all, (begin, end))| all.get(begin..end));
        outputs.push(match part {
            Some(part) => SymTensor::from_vec(part.to_vec()),
            None => {
                let mut dims = data.clone();
                dims[axis] = size;
                SymTensor::from_shape(dims)
            }
        });
        begin = end;
    }
    Some(outputs)
}

/// Parts of which only the last may be smaller.
fn equal_parts(size: &SymExpr, count: usize, symbols: &mut SymbolGen) -> Vec<SymExpr> {
    let exact = || {
        let SymExpr::Value(size) = size else { return None };
        let (size, count) = (usize::try_from(*size).ok()?, count.max(1));
        let part = size.div_ceil(count);
        let last = size.checked_sub(part * (count - 1))?;
        let mut parts = vec![small(i64::try_from(part).ok()?)?; count];
        parts[count - 1] = small(i64::try_from(last).ok()?)?;
        Some(parts)
    };
    exact().unwrap_or_else(|| symbols.gen_shape(count))
}

/// Slice, with starts, ends, axes and steps as attributes (before opset 10) or inputs.
pub(super) fn slice(node: &mut Node<'_>) -> Outputs {
    let mut dims = node.shape(0)?;
    let list = |name: &str, index: usize| match node.op.ints(name) {
        Some(numbers) => Some(numbers.iter().map(|&number| small_or_edge(number)).collect()),
        None => bounds(node, index),
    };
    let (starts, ends) = (list("starts", 1), list("ends", 2));
    let count = starts.as_ref().or(ends.as_ref()).map_or(dims.len(), Vec::len);
    let axes = match node.axes("axes", 3) {
        Axes::Absent => (0..count).map(|axis| i64::try_from(axis).unwrap_or(i64::MAX)).collect(),
        Axes::Known(axes) => axes,
        Axes::Unknown => return Some(vec![SymTensor::from_shape(node.symbols.gen_shape(dims.len()))]),
    };
    let steps: Vec<Option<i64>> = match node.op.input(4) {
        None => vec![Some(1); axes.len()],
        Some(_) => match node.ints(4) {
            Some(steps) => steps.into_iter().map(Some).collect(),
            None => vec![None; axes.len()],
        },
    };
    for (index, &axis) in axes.iter().enumerate() {
        let axis = resolve(axis, dims.len())?;
        let start = starts.as_ref().and_then(|starts: &Vec<SymExpr>| starts.get(index));
        let end = ends.as_ref().and_then(|ends: &Vec<SymExpr>| ends.get(index));
        let step = steps.get(index).copied().flatten();
        if let (SymExpr::Value(size), Some(SymExpr::Value(start)), Some(SymExpr::Value(end)), Some(step)) =
            (&dims[axis], start, end, step)
        {
            let picked = picked(i64::from(*size), i64::from(*start), i64::from(*end), step)?;
            if let ([_], Some(elements)) = (axes.as_slice(), node.input(0).and_then(SymTensor::as_vector)) {
                let part: Option<Vec<_>> = picked.iter().map(|place| elements.get(place).cloned()).collect();
                return part.map(|part| vec![SymTensor::from_vec(part)]);
            }
            dims[axis] = small(picked.count)?;
        } else {
            let size = &dims[axis];
            let from_begin = start.is_some_and(|start| *start == SymExpr::Value(0)) && step == Some(1);
            dims[axis] = match end {
                Some(SymExpr::Value(i32::MAX)) if from_begin => continue,
                Some(end) if from_begin && end == size => continue,
                Some(end) if from_begin && end.is_positive() => end.min(size),
                _ => node.symbols.gen_positive(),
            };
        }
    }
    Some(vec![SymTensor::from_shape(dims)])
}

/// A bound of Slice as an expression: beyond `i32` it means the edge, on whichever side.
fn small_or_edge(number: i64) -> SymExpr {
    SymExpr::Value(i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX }))
}

fn bounds(node: &Node<'_>, index: usize) -> Option<Vec<SymExpr>> {
    if let Some(elements) = node.input(index)?.as_vector() {
        return Some(elements.to_vec());
    }
    let numbers = node.ints(index)?;
    Some(numbers.into_iter().map(small_or_edge).collect())
}

/// The places that a slice picks.
struct Picked {
    start: i64,
    step: i64,
    count: i64,
}

impl Picked {
    fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let (start, step) = (self.start, self.step);
        (0..self.count).filter_map(move |index| usize::try_from(start + index * step).ok())
    }
}

/// What `start:end:step` picks of `size` elements, by the clamping rules of ONNX's Slice. `None` for a step of 0.
fn picked(size: i64, start: i64, end: i64, step: i64) -> Option<Picked> {
    let from_end = |place: i64| if place < 0 { place + size } else { place };
    let (start, end) = (from_end(start), from_end(end));
    let (start, end, span) = match step {
        0 => return None,
        1.. => {
            let (start, end) = (start.clamp(0, size), end.clamp(0, size));
            (start, end, end - start)
        }
        _ => {
            let (start, end) = (start.clamp(0, (size - 1).max(0)), end.clamp(-1, size - 1));
            (start, end, start - end)
        }
    };
    debug_assert!(start >= 0 && end >= -1);
    let step = step.clamp(-i64::from(i32::MAX), i64::from(i32::MAX));
    let count = if size == 0 || span <= 0 { 0 } else { (span - 1) / step.abs() + 1 };
    Some(Picked { start, step, count })
}

/// Pad, with the pads as attribute (before opset 11) or input.
pub(super) fn pad(node: &mut Node<'_>) -> Outputs {
    let pads = match node.op.ints("pads").or_else(|| node.op.ints("paddings")) {
        Some(pads) => Some(vector(pads)?),
        None => node.input(1).cloned(),
    };
    let axes = node.input(3).cloned();
    let inputs = vec![node.input(0).cloned(), pads, None, axes];
    node.by(&ops::Pad, inputs)
}
