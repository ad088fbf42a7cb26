//! If, Loop and Scan: types flow into their bodies, and what all ways out agree on flows back.
//!
//! A body's own dimension names mean nothing outside: a name leaves a body only when the graph around it uses that name
//! for something that goes in.
use rten_shape_inference::{SymExpr, SymTensor, SymbolGen};

use super::{Facts, Inferred, infer_graph, node::resolve, symbols};
use crate::{
    graph::{Graph, OpId, ValueId},
    types::DataType,
};

/// Whether `op` is one of the three.
pub(super) fn is_control(graph: &Graph, op: OpId) -> bool {
    let op = graph.op(op);
    op.is("If") || op.is("Loop") || op.is("Scan")
}

/// Infers the bodies of `op` and then its outputs.
pub(super) fn infer(graph: &mut Graph, op: OpId, facts: &Facts, symbols: &mut SymbolGen) -> Vec<Inferred> {
    let mut returned = Vec::new();
    let mut names = Vec::new();
    for region in 0..graph.op(op).regions().len() {
        let mut seeds = Vec::new();
        for (place, outer, inner) in graph.captures(op) {
            if place == region {
                seeds.push((inner, Inferred { dtype: dtype(graph, outer), tensor: facts.of(outer).clone() }));
            }
        }
        for (index, given) in body_inputs(graph, op, facts, symbols).into_iter().enumerate() {
            if let (Some(given), Some(&inner)) = (given, graph.op(op).regions()[region].graph.inputs().get(index)) {
                seeds.push((inner, given));
            }
        }
        for (_, seed) in &seeds {
            collect_names(&seed.tensor, &mut names);
        }
        if let Some(body) = graph.region_mut(op, region) {
            let inside = infer_graph(body, seeds, symbols);
            facts.contradictions.borrow_mut().append(&mut inside.contradictions.borrow_mut());
            let outputs = body.outputs().to_vec();
            returned.push(
                outputs
                    .into_iter()
                    .map(|output| Inferred { dtype: dtype(body, output), tensor: inside.of(output).clone() })
                    .collect::<Vec<_>>(),
            );
        }
    }
    outputs(graph, op, facts, returned, &names, symbols)
}

fn dtype(graph: &Graph, value: ValueId) -> Option<DataType> {
    graph.ty(value).map(|ty| ty.dtype)
}

fn collect_names(tensor: &SymTensor, names: &mut Vec<String>) {
    for size in tensor.shape().into_iter().flatten() {
        if let SymExpr::Var(symbol) = &size
            && !names.contains(&symbol.name)
        {
            names.push(symbol.name.clone());
        }
    }
}

/// What the inputs of the body are, by position; `None` where only its own declaration counts.
fn body_inputs(graph: &Graph, op: OpId, facts: &Facts, symbols: &mut SymbolGen) -> Vec<Option<Inferred>> {
    let node = graph.op(op);
    let of = |index: usize| node.input(index).map(|value| (dtype(graph, value), facts.of(value)));
    if node.is("Loop") {
        let scalar = |dtype| Some(Inferred { dtype: Some(dtype), tensor: SymTensor::from_shape(Vec::new()) });
        let mut inputs = vec![scalar(DataType::Int64), scalar(DataType::Bool)];
        // The shape of a carried value may change from one round to the next: only its element type goes in.
        inputs.extend(
            (2..node.inputs().len())
                .map(|index| of(index).map(|(dtype, _)| Inferred { dtype, tensor: SymTensor::unknown("carried") })),
        );
        return inputs;
    }
    let Some((states, scans)) = scan_counts(graph, op) else { return Vec::new() };
    let axes = node.ints("scan_input_axes").unwrap_or(&[]);
    (0..states + scans)
        .map(|index| {
            let (dtype, tensor) = of(index)?;
            let Some(scan) = index.checked_sub(states) else {
                return Some(Inferred { dtype, tensor: symbols::shape_only(tensor.clone()) });
            };
            let tensor = tensor.shape().and_then(|shape| {
                let mut dims: Vec<SymExpr> = shape.collect();
                dims.remove(resolve(axes.get(scan).copied().unwrap_or(0), dims.len())?);
                Some(SymTensor::from_shape(dims))
            });
            Some(Inferred { dtype, tensor: tensor.unwrap_or_else(|| symbols::from_shape(None, symbols)) })
        })
        .collect()
}

/// Numbers of state variables and of scanned inputs. `None` unless it is a Scan of opset 9 or later (before, it had a batch
/// axis).
fn scan_counts(graph: &Graph, op: OpId) -> Option<(usize, usize)> {
    let node = graph.op(op);
    if !node.is("Scan") || graph.opset() < 9 {
        return None;
    }
    let scans = usize::try_from(node.int("num_scan_inputs")?).ok()?;
    Some((node.inputs().len().checked_sub(scans)?, scans))
}

fn outputs(
    graph: &Graph,
    op: OpId,
    facts: &Facts,
    mut returned: Vec<Vec<Inferred>>,
    names: &[String],
    symbols: &mut SymbolGen,
) -> Vec<Inferred> {
    let node = graph.op(op);
    let count = node.outputs().len();
    if node.is("If") {
        let [first, second] = returned.as_slice() else { return vec![Inferred::unknown(); count] };
        return (0..count)
            .map(|index| match (first.get(index), second.get(index)) {
                (Some(a), Some(b)) => Inferred {
                    dtype: a.dtype.filter(|_| a.dtype == b.dtype),
                    tensor: merged(&a.tensor, &b.tensor, names, symbols),
                },
                _ => Inferred::unknown(),
            })
            .collect();
    }
    let Some(body) = returned.pop() else { return vec![Inferred::unknown(); count] };
    if node.is("Loop") {
        let carried = node.inputs().len().saturating_sub(2);
        return (0..count)
            .map(|index| {
                let Some(inner) = body.get(index + 1) else { return Inferred::unknown() };
                if index < carried {
                    let Some(first) = node.input(index + 2) else { return Inferred::unknown() };
                    let tensor = merged(&inner.tensor, facts.of(first), names, symbols);
                    return Inferred { dtype: inner.dtype.or(dtype(graph, first)), tensor };
                }
                let tensor = stacked(&inner.tensor, 0, symbols.gen_positive(), names, symbols);
                Inferred { dtype: inner.dtype, tensor }
            })
            .collect();
    }
    let Some((states, scans)) = scan_counts(graph, op) else { return vec![Inferred::unknown(); count] };
    let in_axes = node.ints("scan_input_axes").unwrap_or(&[]);
    let length = (0..scans).find_map(|scan| {
        let shape: Vec<SymExpr> = facts.of(node.input(states + scan)?).shape()?.collect();
        let axis = resolve(in_axes.get(scan).copied().unwrap_or(0), shape.len())?;
        Some(shape[axis].clone())
    });
    let out_axes = node.ints("scan_output_axes").unwrap_or(&[]);
    (0..count)
        .map(|index| {
            let Some(inner) = body.get(index) else { return Inferred::unknown() };
            match index.checked_sub(states) {
                None => {
                    let first =
                        node.input(index).map_or_else(|| SymTensor::unknown("state"), |state| facts.of(state).clone());
                    Inferred { dtype: inner.dtype, tensor: symbols::shape_only(first) }
                }
                Some(scan) => {
                    let axis = out_axes.get(scan).copied().unwrap_or(0);
                    let length = length.clone().unwrap_or_else(|| symbols.gen_positive());
                    Inferred { dtype: inner.dtype, tensor: stacked(&inner.tensor, axis, length, names, symbols) }
                }
            }
        })
        .collect()
}

/// What both say; nothing when their ranks differ.
fn merged(a: &SymTensor, b: &SymTensor, names: &[String], symbols: &mut SymbolGen) -> SymTensor {
    let (Some(a), Some(b)) = (a.shape(), b.shape()) else { return SymTensor::unknown("branches") };
    if a.len() != b.len() {
        return SymTensor::unknown("branches");
    }
    SymTensor::from_shape(
        a.zip(b).map(|(a, b)| if a == b { outside(a, names, symbols) } else { symbols.gen_positive() }).collect(),
    )
}

/// The shape of as many tensors as `length` says, stacked along a new axis.
fn stacked(one: &SymTensor, axis: i64, length: SymExpr, names: &[String], symbols: &mut SymbolGen) -> SymTensor {
    let Some(shape) = one.shape() else { return SymTensor::unknown("stacked") };
    let mut dims: Vec<SymExpr> = shape.map(|size| outside(size, names, symbols)).collect();
    match resolve(axis, dims.len() + 1) {
        Some(axis) => {
            dims.insert(axis, length);
            SymTensor::from_shape(dims)
        }
        None => SymTensor::unknown("axis"),
    }
}

/// A body's dimension as the graph around it can read it.
fn outside(size: SymExpr, names: &[String], symbols: &mut SymbolGen) -> SymExpr {
    match &size {
        SymExpr::Value(_) => size,
        SymExpr::Var(symbol) if names.contains(&symbol.name) => size,
        _ => symbols.gen_positive(),
    }
}
