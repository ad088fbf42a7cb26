//! Dimensions ↔ symbolic expressions of `rten-shape-inference`, and the limits that keep those expressions right.
//!
//! Why limits: the expressions count in `i32` without checks and simplify by recursion. Whatever could pass either bound
//! becomes a fresh symbol, which is "unknown" again on the way out. So **no** number here is ever a wrapped one, and **no**
//! expression is deep.
use rten_shape_inference::{SymExpr, SymTensor, SymbolGen};

use crate::{
    tensor::Tensor,
    types::{DataType, Dim},
};

/// More dimensions than any real tensor has; ranks above are treated as unknown.
pub(super) const MAX_RANK: usize = 64;
/// Longest vector of integers that is followed element by element.
pub(super) const MAX_VALUES: usize = 1024;
/// Deepest expression that is kept between ops.
const MAX_DEPTH: u32 = 8;
/// Deepest expression that an op may return.
const MAX_RAW_DEPTH: u32 = 256;

/// A generator whose symbols cannot collide with names in a file.
pub(super) fn generator() -> SymbolGen {
    SymbolGen::with_prefix("\u{0}".into())
}

/// The expression of a dimension; a fresh symbol when it is unknown or does not fit.
pub(super) fn expr(dim: &Dim, symbols: &mut SymbolGen) -> SymExpr {
    match dim {
        Dim::Known(number) => i32::try_from(*number).map_or_else(|_| symbols.gen_positive(), SymExpr::Value),
        Dim::Symbol(name) => SymExpr::pos_var(name),
        Dim::Unknown => symbols.gen_positive(),
    }
}

/// The dimension of a simplified expression: a number, a name of the file, or unknown.
pub(super) fn dim(expr: &SymExpr) -> Dim {
    match expr {
        SymExpr::Value(number) => usize::try_from(*number).map_or(Dim::Unknown, Dim::Known),
        SymExpr::Var(symbol) if !symbol.synthetic => Dim::Symbol(symbol.name.clone()),
        _ => Dim::Unknown,
    }
}

/// The dimensions of `tensor`; `None` when the rank is unknown.
pub(super) fn dims(tensor: &SymTensor) -> Option<Vec<Dim>> {
    Some(tensor.shape()?.map(|size| dim(&size)).collect())
}

/// What a shape says.
pub(super) fn from_shape(shape: Option<&[Dim]>, symbols: &mut SymbolGen) -> SymTensor {
    match shape {
        Some(dims) if dims.len() <= MAX_RANK => {
            SymTensor::from_shape(dims.iter().map(|dim| expr(dim, symbols)).collect())
        }
        _ => SymTensor::unknown("no shape"),
    }
}

/// What a constant says: its elements when they are a few integers, else its dimensions.
pub(super) fn from_constant(constant: &Tensor, symbols: &mut SymbolGen) -> SymTensor {
    let small = constant.dims().len() <= 1 && constant.len() <= MAX_VALUES;
    if small
        && carries_values(constant.dtype())
        && let Some(numbers) = constant.to_i64_vec()
    {
        let elements: Option<Vec<_>> =
            numbers.iter().map(|&number| i32::try_from(number).ok().map(SymExpr::Value)).collect();
        if let Some(mut elements) = elements {
            return match constant.dims() {
                [] => elements.pop().map_or_else(|| SymTensor::unknown("empty scalar"), SymTensor::from_scalar),
                _ => SymTensor::from_vec(elements),
            };
        }
    }
    let dims: Vec<Dim> = constant.dims().iter().map(|&dim| Dim::Known(dim)).collect();
    from_shape(Some(&dims), symbols)
}

/// Whether elements of this type are followed.
pub(super) fn carries_values(dtype: DataType) -> bool {
    matches!(dtype, DataType::Int64 | DataType::Int32 | DataType::Bool)
}

/// The same without elements.
pub(super) fn shape_only(tensor: SymTensor) -> SymTensor {
    if tensor.values().is_none() {
        return tensor;
    }
    SymTensor::from_shape(tensor.shape().into_iter().flatten().collect())
}

/// Simplifies what an op returned, with fresh symbols for what is too deep, too large, or a negative dimension.
pub(super) fn tame(tensor: SymTensor, symbols: &mut SymbolGen) -> SymTensor {
    let is_plain = |size: SymExpr| match size {
        SymExpr::Value(number) => number >= 0,
        SymExpr::Var(_) => true,
        _ => false,
    };
    if tensor.values().is_none()
        && tensor.shape().is_some_and(|mut shape| shape.len() <= MAX_RANK && shape.all(is_plain))
    {
        return tensor;
    }
    if let Some(element) = tensor.as_scalar() {
        return SymTensor::from_scalar(tame_element(element, symbols));
    }
    if let Some(elements) = tensor.as_vector() {
        if elements.len() <= MAX_VALUES {
            return SymTensor::from_vec(elements.iter().map(|element| tame_element(element, symbols)).collect());
        }
        return from_shape(Some(&[Dim::Known(elements.len())]), symbols);
    }
    match tensor.shape() {
        Some(shape) if shape.len() <= MAX_RANK => {
            SymTensor::from_shape(shape.map(|size| tame_dim(&size, symbols)).collect())
        }
        _ => SymTensor::unknown("no shape"),
    }
}

/// An expression for a dimension, simplified and within the limits.
pub(super) fn tame_dim(size: &SymExpr, symbols: &mut SymbolGen) -> SymExpr {
    match simplified(size) {
        Some(SymExpr::Value(number)) if number < 0 => symbols.gen_positive(),
        Some(size) => size,
        None => symbols.gen_positive(),
    }
}

fn tame_element(element: &SymExpr, symbols: &mut SymbolGen) -> SymExpr {
    simplified(element).unwrap_or_else(|| symbols.generate())
}

/// The expression, simplified; `None` when it is beyond a limit.
fn simplified(expr: &SymExpr) -> Option<SymExpr> {
    match expr {
        SymExpr::Value(_) | SymExpr::Var(_) => Some(expr.clone()),
        _ if expr.exceeds_depth(MAX_RAW_DEPTH) || magnitude(expr) > f64::from(i32::MAX) => None,
        _ => Some(expr.simplify()).filter(|simple| !simple.exceeds_depth(MAX_DEPTH)),
    }
}

/// A bound of every number that simplifying `expr` can form: symbols count as 1, since only numbers are multiplied out.
fn magnitude(expr: &SymExpr) -> f64 {
    match expr {
        SymExpr::Value(number) => f64::from(*number).abs().max(1.0),
        SymExpr::Var(_) => 1.0,
        SymExpr::Neg(a) => magnitude(a),
        SymExpr::Add(a, b) | SymExpr::Sub(a, b) | SymExpr::Max(a, b) | SymExpr::Min(a, b) => {
            magnitude(a) + magnitude(b)
        }
        SymExpr::Mul(a, b) | SymExpr::Div(a, b) | SymExpr::DivCeil(a, b) => magnitude(a) * magnitude(b),
        SymExpr::Broadcast(a, b) => magnitude(a).max(magnitude(b)),
    }
}

/// Whether the expression is a symbol that stands for "unknown".
pub(super) fn is_fresh(expr: &SymExpr) -> bool {
    matches!(expr, SymExpr::Var(symbol) if symbol.synthetic)
}
