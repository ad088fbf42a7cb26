//! Elements of integer tensors, for the chains that compute shapes (Shape → Gather → Mul → Concat → Reshape).
//!
//! Each rule answers only when the elements of all its inputs are followed; the caller falls back to shapes alone.
//! **Never** wraps: a product or sum of numbers beyond `i32` is not followed.
use rten_shape_inference::{SymExpr, SymTensor};

use super::node::Node;
use crate::types::DataType;

/// The elements of the op's first output, when they follow from those of the inputs.
pub(super) fn infer(node: &Node<'_>) -> Option<SymTensor> {
    let pair = |rule: fn(&SymExpr, &SymExpr) -> Option<SymExpr>| {
        elementwise(&[node.input(0)?, node.input(1)?], |x| rule(x[0], x[1]))
    };
    match node.op.op_type() {
        "Identity" => node.input(0).filter(|x| x.values().is_some()).cloned(),
        "Cast" => cast(node),
        "Neg" => elementwise(&[node.input(0)?], |x| match x[0] {
            SymExpr::Value(number) => number.checked_neg().map(SymExpr::Value),
            other => Some(-other.clone()),
        }),
        "Add" => pair(|a, b| match (a, b) {
            (SymExpr::Value(a), SymExpr::Value(b)) => a.checked_add(*b).map(SymExpr::Value),
            _ => Some(a.clone() + b.clone()),
        }),
        "Sub" => pair(|a, b| match (a, b) {
            (SymExpr::Value(a), SymExpr::Value(b)) => a.checked_sub(*b).map(SymExpr::Value),
            _ => Some(a.clone() - b.clone()),
        }),
        "Mul" => pair(|a, b| match (a, b) {
            (SymExpr::Value(a), SymExpr::Value(b)) => a.checked_mul(*b).map(SymExpr::Value),
            _ => Some(a.clone() * b.clone()),
        }),
        // Integer division truncates; the expression's division rounds down, which is the same for what is not negative.
        "Div" => pair(|a, b| match (a, b) {
            (SymExpr::Value(a), SymExpr::Value(b)) => a.checked_div(*b).map(SymExpr::Value),
            (a, SymExpr::Value(b)) if a.is_positive() && *b > 0 => Some(a.clone() / SymExpr::Value(*b)),
            (a, b) if a == b && a.is_positive() => Some(a.clone() / b.clone()),
            _ => None,
        }),
        "Mod" => pair(|a, b| match (a, b) {
            (SymExpr::Value(a), SymExpr::Value(b)) if *a >= 0 && *b > 0 => Some(SymExpr::Value(a % b)),
            _ => None,
        }),
        "Max" | "Min" => {
            let inputs: Option<Vec<&SymTensor>> = (0..node.op.inputs().len()).map(|index| node.input(index)).collect();
            let is_max = node.op.op_type() == "Max";
            elementwise(&inputs?, |x| {
                let pick = |a: i32, b: i32| if is_max { a.max(b) } else { a.min(b) };
                let numbers: Option<Vec<i32>> = x.iter().map(|x| number(x)).collect();
                numbers?.into_iter().reduce(pick).map(SymExpr::Value)
            })
        }
        "Equal" => pair(equal),
        "Less" => pair(|a, b| Some(truth(number(a)? < number(b)?))),
        "Greater" => pair(|a, b| Some(truth(number(a)? > number(b)?))),
        "LessOrEqual" => pair(|a, b| Some(truth(number(a)? <= number(b)?))),
        "GreaterOrEqual" => pair(|a, b| Some(truth(number(a)? >= number(b)?))),
        "Not" => elementwise(&[node.input(0)?], |x| Some(truth(number(x[0])? == 0))),
        "And" => pair(|a, b| Some(truth(number(a)? != 0 && number(b)? != 0))),
        "Or" => pair(|a, b| Some(truth(number(a)? != 0 || number(b)? != 0))),
        "Where" => elementwise(&[node.input(0)?, node.input(1)?, node.input(2)?], |x| match number(x[0]) {
            Some(0) => Some(x[2].clone()),
            Some(_) => Some(x[1].clone()),
            None => (x[1] == x[2]).then(|| x[1].clone()),
        }),
        "ReduceProd" => reduce(node, SymExpr::Value(1), |product, x| product * x),
        "ReduceSum" => reduce(node, SymExpr::Value(0), |sum, x| sum + x),
        _ => None,
    }
}

/// `rule` on each group of elements that meet under broadcasting. `None` unless all inputs are followed, of rank 0 or 1.
fn elementwise(inputs: &[&SymTensor], rule: impl Fn(&[&SymExpr]) -> Option<SymExpr>) -> Option<SymTensor> {
    let values: Option<Vec<&[SymExpr]>> = inputs.iter().map(|input| input.values()).collect();
    let values = values?;
    if inputs.iter().all(|input| input.as_scalar().is_some()) {
        let group: Vec<&SymExpr> = values.iter().map(|values| &values[0]).collect();
        return rule(&group).map(SymTensor::from_scalar);
    }
    let length = values.iter().map(|values| values.len()).find(|&length| length != 1).unwrap_or(1);
    if values.iter().any(|values| values.len() != 1 && values.len() != length) {
        return None;
    }
    let elements: Option<Vec<SymExpr>> = (0..length)
        .map(|index| {
            let group: Vec<&SymExpr> =
                values.iter().map(|values| if values.len() == 1 { &values[0] } else { &values[index] }).collect();
            rule(&group)
        })
        .collect();
    elements.map(SymTensor::from_vec)
}

fn number(x: &SymExpr) -> Option<i32> {
    match x {
        SymExpr::Value(number) => Some(*number),
        _ => None,
    }
}

fn truth(truth: bool) -> SymExpr {
    SymExpr::Value(i32::from(truth))
}

/// Equality where it is certain: of numbers, of equal expressions, and of a size with a negative number.
fn equal(a: &SymExpr, b: &SymExpr) -> Option<SymExpr> {
    match (a, b) {
        (SymExpr::Value(a), SymExpr::Value(b)) => Some(truth(a == b)),
        (a, b) if a == b => Some(truth(true)),
        (a, SymExpr::Value(b)) | (SymExpr::Value(b), a) if *b < 0 && a.is_positive() => Some(truth(false)),
        _ => None,
    }
}

/// Casts between the integer types that are followed; to a narrower one, or from numbers to booleans, only numbers.
fn cast(node: &Node<'_>) -> Option<SymTensor> {
    let to = DataType::from_number(i32::try_from(node.op.int("to")?).ok()?)?;
    match (node.dtype(0)?, to) {
        (from, to) if from == to => node.input(0).filter(|x| x.values().is_some()).cloned(),
        (DataType::Int64 | DataType::Int32 | DataType::Bool, DataType::Int64 | DataType::Int32) => {
            node.input(0).filter(|x| x.values().is_some()).cloned()
        }
        (DataType::Int64 | DataType::Int32, DataType::Bool) => {
            elementwise(&[node.input(0)?], |x| Some(truth(number(x[0])? != 0)))
        }
        _ => None,
    }
}

/// A reduction of a followed vector over its one axis.
fn reduce(node: &Node<'_>, start: SymExpr, step: fn(SymExpr, SymExpr) -> SymExpr) -> Option<SymTensor> {
    let elements = node.input(0)?.as_vector().filter(|elements| elements.len() <= super::symbols::MAX_RANK)?;
    let whole = match node.axes("axes", 1) {
        super::node::Axes::Absent => node.int_or("noop_with_empty_axes", 0) == 0,
        super::node::Axes::Known(axes) => matches!(axes.as_slice(), [0 | -1]),
        super::node::Axes::Unknown => false,
    };
    if !whole {
        return None;
    }
    let total = elements.iter().cloned().fold(start, step);
    Some(if node.int_or("keepdims", 1) == 0 { SymTensor::from_scalar(total) } else { SymTensor::from_vec(vec![total]) })
}
