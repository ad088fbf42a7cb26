//! `ModelProto` → [`Model`]: names become edges, bodies become regions with explicit captures.
//!
//! What passes do not touch is carried along as it was, so that export can write it back: see [`crate::export()`].
//! **Never** guesses: a name that nothing makes, or that two things make, is an error that names it.
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use onnx_shrink_proto::schema::{AttributeProto, GraphProto, ModelProto, NodeProto};

use crate::{
    convert::{ConvertError, tensor_from_proto},
    graph::{Graph, Names, Region, ValueId},
    inline_functions::recursive,
    model::Model,
    types::TensorType,
};

/// Why a message is not a model that can be worked on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// No graph in the model
    #[error("the model has no graph: the file is empty or no ONNX model")]
    NoGraph,
    /// A malformed tensor
    #[error("initializer `{name}`: {problem}")]
    Initializer {
        /// Its name
        name: String,
        /// What is wrong with it
        problem: ConvertError,
    },
    /// A node without a type
    #[error("node {index} (`{name}`) has no op type")]
    NoType {
        /// Its place
        index: usize,
        /// Its name
        name: String,
    },
    /// A value with two makers
    #[error("value `{0}` is made more than once in the same graph")]
    MadeTwice(String),
    /// A value without a maker
    #[error("value `{value}` is used by {user}, but nothing makes it: no node, input or initializer has that name")]
    NotMade {
        /// The value's name
        value: String,
        /// Who uses it
        user: String,
    },
    /// Nodes in a cycle
    #[error("the graph has a cycle: {0} of its nodes wait for each other, node `{1}` among them")]
    Cycle(usize, String),
    /// A function that calls itself
    #[error(
        "the model's function `{0}` calls itself, by way of others or not: ONNX forbids that, and no engine takes it"
    )]
    Recursive(String),
    /// An input or output without a name
    #[error("graph {0} {1} has no name")]
    Unnamed(&'static str, usize),
}

/// The model that `proto` states.
pub fn import(mut proto: ModelProto) -> Result<Model, ImportError> {
    let graph = proto.graph.take().ok_or(ImportError::NoGraph)?;
    if let Some(function) = recursive(&proto) {
        return Err(ImportError::Recursive(function));
    }
    let default = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let opset = proto.opset_import.iter().filter(|set| default(set.domain())).map(|set| set.version()).max();
    let opset = opset.unwrap_or(if proto.opset_import.is_empty() { 1 } else { 0 });
    let names = Names::default();
    let (graph, free) = import_graph(graph, opset, &names)?;
    if let Some((name, _, user)) = free.into_iter().next() {
        return Err(ImportError::NotMade { value: name, user });
    }
    Ok(Model { graph, proto })
}

/// A name that a graph uses and does not make: its value there, and who uses it first.
type Free = (String, ValueId, String);

fn import_graph(mut proto: GraphProto, opset: i64, names: &Names) -> Result<(Graph, Vec<Free>), ImportError> {
    let mut graph = Graph::new(opset);
    graph.names = names.clone();
    let nodes = std::mem::take(&mut proto.node);
    let initializers = std::mem::take(&mut proto.initializer);
    let sparse = std::mem::take(&mut proto.sparse_initializer);
    let infos = std::mem::take(&mut proto.value_info);
    let inputs = std::mem::take(&mut proto.input);
    let outputs = std::mem::take(&mut proto.output);
    graph.rest = proto;

    for (index, info) in inputs.into_iter().enumerate() {
        let name = info.name().to_owned();
        if name.is_empty() {
            return Err(ImportError::Unnamed("input", index));
        }
        if graph.find(&name).is_some() {
            return Err(ImportError::MadeTwice(name));
        }
        let value = graph.insert_value(&name, info.r#type.as_ref().and_then(TensorType::from_proto));
        graph.push_input(value, info);
    }
    for (place, initializer) in (0u32..).zip(initializers) {
        let name = initializer.name().to_owned();
        let tensor = tensor_from_proto(&initializer)
            .map_err(|problem| ImportError::Initializer { name: name.clone(), problem })?;
        let value = match graph.find(&name) {
            Some(value) if graph.value(value).constant.is_some() => return Err(ImportError::MadeTwice(name)),
            Some(value) => value,
            None => graph.insert_value(&name, None),
        };
        // The default of an input says nothing about the shape of what overrides it.
        let declared = graph.is_input(value) && graph.ty(value).is_some();
        let node = graph.value_mut(value);
        if !declared {
            node.ty = Some(tensor.ty());
        }
        node.constant = Some(tensor);
        node.origin.initializer = Some(Arc::new(initializer));
        node.origin.initializer_place = Some(place);
    }
    for initializer in sparse {
        let name = initializer.values.as_ref().map_or("", |values| values.name()).to_owned();
        if graph.find(&name).is_some() {
            return Err(ImportError::MadeTwice(name));
        }
        let value = graph.insert_value(&name, None);
        graph.sparse.push((value, initializer));
    }

    let made: usize = graph.bound();
    let mut free: Vec<Free> = Vec::new();
    let mut maker: HashSet<ValueId> = graph.values().into_iter().collect();
    let mut first_user: HashMap<ValueId, String> = HashMap::with_capacity(made);
    for (index, node) in nodes.into_iter().enumerate() {
        import_node(&mut graph, node, index, &mut maker, &mut first_user)?;
    }
    for (index, info) in outputs.into_iter().enumerate() {
        let name = info.name().to_owned();
        if name.is_empty() {
            return Err(ImportError::Unnamed("output", index));
        }
        let ty = info.r#type.as_ref().and_then(TensorType::from_proto);
        let value = lookup(&mut graph, &name, || format!("graph output {index}"), &mut first_user);
        let known = &mut graph.value_mut(value).ty;
        if known.as_ref().is_none_or(|known| known.shape.is_none()) {
            *known = ty.or_else(|| known.clone());
        }
        graph.push_output(value, info);
    }
    for (place, info) in (0u32..).zip(infos) {
        let declared = info.r#type.as_ref().and_then(TensorType::from_proto);
        match graph.find(info.name()) {
            Some(value) if graph.value(value).origin.info.is_none() && !graph.is_input(value) => {
                let node = graph.value_mut(value);
                if node.ty.is_none() {
                    node.ty = declared;
                }
                node.origin.info = Some((place, Box::new(info)));
            }
            _ => graph.stray_info.push((place, info)),
        }
    }
    for value in graph.values() {
        if !maker.contains(&value) {
            graph.value_mut(value).captured = true;
            let user = first_user.remove(&value).expect("a value that nothing makes came with its first user");
            free.push((graph.name_of(value).to_owned(), value, user));
        }
    }
    let order = graph.ops().len();
    if order != graph.op_count() {
        let done: HashSet<_> = graph.ops().into_iter().collect();
        let stuck = graph.ops_in_id_order().into_iter().find(|op| !done.contains(op));
        let label = stuck.map_or_else(String::new, |op| graph.label_of(op).to_owned());
        return Err(ImportError::Cycle(graph.op_count() - order, label));
    }
    Ok((graph, free))
}

/// The value named `name`, made now if it is the first time that the name is seen.
fn lookup(
    graph: &mut Graph,
    name: &str,
    user: impl FnOnce() -> String,
    first_user: &mut HashMap<ValueId, String>,
) -> ValueId {
    graph.find(name).unwrap_or_else(|| {
        let value = graph.insert_value(name, None);
        first_user.insert(value, user());
        value
    })
}

fn import_node(
    graph: &mut Graph,
    mut node: NodeProto,
    index: usize,
    maker: &mut HashSet<ValueId>,
    first_user: &mut HashMap<ValueId, String>,
) -> Result<(), ImportError> {
    if node.op_type().is_empty() {
        return Err(ImportError::NoType { index, name: node.name().to_owned() });
    }
    let label = format!("node {index} (`{}`, {})", node.name(), node.op_type());
    let mut inputs = Vec::with_capacity(node.input.len());
    for name in std::mem::take(&mut node.input) {
        inputs.push((!name.is_empty()).then(|| lookup(graph, &name, || label.clone(), first_user)));
    }
    let mut outputs = Vec::with_capacity(node.output.len());
    for name in std::mem::take(&mut node.output) {
        if name.is_empty() {
            outputs.push(None);
            continue;
        }
        let value = lookup(graph, &name, String::new, first_user);
        if !maker.insert(value) {
            return Err(ImportError::MadeTwice(name));
        }
        outputs.push(Some(value));
    }
    let mut regions = Vec::new();
    let mut captured = Vec::new();
    let (opset, names) = (graph.opset(), graph.names.clone());
    for (attribute, place, body) in take_bodies(&mut node.attribute) {
        let (body, free) = import_graph(body, opset, &names)?;
        captured.push(free);
        regions.push(Region { attribute, place, graph: body });
    }
    let seq = graph.next_seq();
    names.reserve(node.name()); // a new value that is called so could not be told from the node in engines that mix them up
    let op = graph.insert_op(seq, node, inputs, outputs, regions);
    graph.op_mut(op).is_new = false;
    for (region, free) in captured.into_iter().enumerate() {
        for (name, inner, user) in free {
            let outer = lookup(graph, &name, || format!("{user} in a body of {label}"), first_user);
            if graph.value(outer).ty.is_some() {
                let ty = graph.value(outer).ty.clone();
                graph.op_mut(op).regions[region].graph.value_mut(inner).ty = ty;
            }
            graph.insert_capture(op, region, outer, inner);
        }
    }
    Ok(())
}

/// Takes the graphs out of the attributes: (attribute, place in its list, graph).
fn take_bodies(attributes: &mut [AttributeProto]) -> Vec<(usize, Option<usize>, GraphProto)> {
    let mut bodies = Vec::new();
    for (index, attribute) in attributes.iter_mut().enumerate() {
        if let Some(graph) = attribute.g.take() {
            bodies.push((index, None, *graph));
        }
        for (place, graph) in std::mem::take(&mut attribute.graphs).into_iter().enumerate() {
            bodies.push((index, Some(place), graph));
        }
    }
    bodies
}
