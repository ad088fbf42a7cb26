//! Element types and shapes of what ops make.
//!
//! Element types follow from the op-schema table, shapes from the rules of `rten-shape-inference` behind an adapter and
//! from our own; elements of small integer tensors are followed, so that chains which compute shapes end in shapes.
//! Dimensions keep their names. One walk in topological order, linear in the graph.
//!
//! **Never** wrong rather than unknown: a rule that is not sure, panics or would pass its number range says nothing.
//! **Never** makes a known type less known. A declared type is a hint: where the inferred one contradicts it, the
//! inferred one stands, with a warning.
mod algebra;
mod control;
mod element_types;
pub mod expressions;
mod foreign;
mod generate;
mod layout;
mod node;
mod outputs;
mod resize;
mod rules;
mod symbols;
mod values;
mod windows;

use std::{
    cell::RefCell,
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use log::{debug, warn};
use node::Node;
use rten_shape_inference::{SymTensor, SymbolGen};

use crate::{
    graph::{Graph, OpId, ValueId},
    types::{DataType, Dim, TensorType},
};

/// Contradictions of a file that are told one by one.
const TOLD: usize = 5;

/// Fills in the types of all values of `graph` and its bodies as far as they follow from inputs and constants.
pub fn infer(graph: &mut Graph) {
    for contradiction in infer_graph(graph, Vec::new(), &mut symbols::generator()).contradictions.into_inner() {
        debug!("{contradiction}");
    }
}

/// [`infer`] for a graph as it was read: warns of what the file declares wrongly.
pub fn infer_as_read(graph: &mut Graph) {
    let contradictions = infer_graph(graph, Vec::new(), &mut symbols::generator()).contradictions.into_inner();
    contradictions.iter().take(TOLD).for_each(|contradiction| warn!("{contradiction}"));
    if contradictions.len() > TOLD {
        warn!("{} more values are declared wrongly", contradictions.len() - TOLD);
    }
}

/// The types of the outputs of `op`, by position, as they follow from the types and constants of its inputs; `None` where
/// the element type is unknown. Reads the types that values have; looks neither at the ops before nor into bodies.
pub fn infer_op(graph: &Graph, op: OpId) -> Vec<Option<TensorType>> {
    let mut symbols = symbols::generator();
    let inputs = graph.op(op).inputs().iter().map(|input| Some(known(graph, (*input)?, &mut symbols))).collect();
    infer_node(graph, op, inputs, &mut symbols)
        .into_iter()
        .map(|inferred| Some(TensorType { dtype: inferred.dtype?, shape: symbols::dims(&inferred.tensor) }))
        .collect()
}

/// What is inferred of one value.
#[derive(Clone, Debug)]
struct Inferred {
    dtype: Option<DataType>,
    tensor: SymTensor,
}

impl Inferred {
    fn unknown() -> Inferred {
        Inferred { dtype: None, tensor: SymTensor::unknown("nothing") }
    }
}

/// What is known of the values of a graph so far.
struct Facts {
    /// By the value's index
    tensors: Vec<SymTensor>,
    /// Names of dimensions of what comes from outside: a declared name among them says more than an expression
    names: HashSet<String>,
    /// Declarations that are not so, as sentences
    contradictions: RefCell<Vec<String>>,
}

impl Facts {
    fn contradicts(&self, sentence: String) {
        self.contradictions.borrow_mut().push(sentence);
    }

    fn of(&self, value: ValueId) -> &SymTensor {
        &self.tensors[value.index()]
    }
}

/// Infers all of `graph`, beginning with `seeds` for values that come from outside.
fn infer_graph(graph: &mut Graph, seeds: Vec<(ValueId, Inferred)>, symbols: &mut SymbolGen) -> Facts {
    let tensors = vec![SymTensor::unknown("not yet"); graph.bound()];
    let mut facts = Facts { tensors, names: HashSet::new(), contradictions: RefCell::default() };
    for value in graph.values() {
        facts.tensors[value.index()] = known(graph, value, symbols);
    }
    let mut outside = graph.inputs().to_vec();
    for (value, seed) in seeds {
        settle(graph, value, seed, &mut facts, symbols);
        outside.push(value);
    }
    for value in outside {
        let dims = graph.ty(value).and_then(|ty| ty.shape.as_deref()).unwrap_or(&[]);
        facts.names.extend(dims.iter().filter_map(|dim| match dim {
            Dim::Symbol(name) => Some(name.clone()),
            _ => None,
        }));
    }
    for op in graph.ops() {
        let outputs = if control::is_control(graph, op) {
            control::infer(graph, op, &facts, symbols)
        } else {
            let inputs = graph.op(op).inputs().iter().map(|input| Some(facts.of((*input)?).clone())).collect();
            infer_node(graph, op, inputs, symbols)
        };
        for (index, inferred) in outputs.into_iter().enumerate() {
            if let Some(value) = graph.op(op).output(index) {
                settle(graph, value, inferred, &mut facts, symbols);
            }
        }
    }
    facts
}

/// What a value's constant or type says.
fn known(graph: &Graph, value: ValueId, symbols: &mut SymbolGen) -> SymTensor {
    match graph.constant(value) {
        Some(constant) => symbols::from_constant(constant, symbols),
        None => symbols::from_shape(graph.ty(value).and_then(|ty| ty.shape.as_deref()), symbols),
    }
}

/// The outputs of an op without bodies. Rules may panic: that is "unknown".
fn infer_node(graph: &Graph, op: OpId, inputs: Vec<Option<SymTensor>>, symbols: &mut SymbolGen) -> Vec<Inferred> {
    let op = graph.op(op);
    let inferred = catch_unwind(AssertUnwindSafe(|| {
        let mut node = Node { graph, op, inputs, symbols: &mut *symbols };
        let dtypes = element_types::infer(&node);
        (dtypes, rules::infer(&mut node))
    }));
    let (dtypes, tensors) = inferred.unwrap_or((Vec::new(), None));
    let mut tensors = tensors.into_iter().flatten();
    (0..op.outputs().len())
        .map(|index| {
            let dtype = dtypes.get(index).copied().flatten();
            let tensor = tensors.next().unwrap_or_else(|| SymTensor::unknown("no rule"));
            let followed = dtype.is_some_and(symbols::carries_values);
            let tensor = if followed { tensor } else { symbols::shape_only(tensor) };
            Inferred { dtype, tensor: symbols::tame(tensor, symbols) }
        })
        .collect()
}

/// Joins what is inferred of `value` with what is declared, into its type and into `facts`.
fn settle(graph: &mut Graph, value: ValueId, inferred: Inferred, facts: &mut Facts, symbols: &mut SymbolGen) {
    let declared = graph.ty(value).cloned();
    let Inferred { dtype, tensor } = inferred;
    let dtype = match (dtype, declared.as_ref().map(|ty| ty.dtype)) {
        (Some(inferred), Some(declared)) if inferred != declared => {
            facts.contradicts(format!("`{}` is declared as {declared}, but is {inferred}", graph.name_of(value)));
            Some(inferred)
        }
        (inferred, declared) => inferred.or(declared),
    };
    let old = declared.and_then(|ty| ty.shape);
    let new = symbols::dims(&tensor);
    let shape = match (new, &old) {
        (Some(new), Some(old)) if new.len() == old.len() => {
            Some(new.into_iter().zip(old).map(|(new, old)| join(new, old, facts, || graph.name_of(value))).collect())
        }
        (Some(new), Some(old)) => {
            let (name, declared, has) = (graph.name_of(value), old.len(), new.len());
            facts.contradicts(format!("`{name}` is declared with {declared} dimensions, but has {has}"));
            Some(new)
        }
        (Some(new), None) => Some(new),
        (None, old) => old.clone(),
    };
    facts.tensors[value.index()] = refine(tensor, shape.as_deref(), &facts.names, symbols);
    if let Some(dtype) = dtype {
        graph.value_mut(value).ty = Some(TensorType { dtype, shape });
    }
}

/// The surer of an inferred and a declared dimension; the inferred one when they contradict each other.
fn join<'a>(new: Dim, old: &Dim, facts: &Facts, name: impl FnOnce() -> &'a str) -> Dim {
    match (&new, old) {
        (Dim::Known(inferred), Dim::Known(declared)) if inferred != declared => {
            facts.contradicts(format!("`{}` is declared with a dimension of {declared}, but it is {inferred}", name()));
            new
        }
        (Dim::Unknown, _) | (Dim::Symbol(_), Dim::Known(_)) => old.clone(),
        _ => new,
    }
}

/// `tensor` with what its joined shape knows better. Elements that are followed stay.
fn refine(tensor: SymTensor, shape: Option<&[Dim]>, names: &HashSet<String>, symbols: &mut SymbolGen) -> SymTensor {
    let Some(shape) = shape else { return tensor };
    if tensor.values().is_some() {
        return tensor;
    }
    let Some(sizes) = tensor.shape() else { return symbols::from_shape(Some(shape), symbols) };
    SymTensor::from_shape(
        sizes
            .zip(shape)
            .map(|(size, dim)| match (symbols::dim(&size), dim) {
                (Dim::Unknown, Dim::Known(_)) => symbols::expr(dim, symbols),
                (Dim::Unknown, Dim::Symbol(name)) if symbols::is_fresh(&size) || names.contains(name) => {
                    symbols::expr(dim, symbols)
                }
                (Dim::Symbol(_), Dim::Known(_)) => symbols::expr(dim, symbols),
                _ => size,
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests;
