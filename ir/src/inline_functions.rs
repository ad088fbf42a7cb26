//! Inlining of model-local functions: a call becomes the nodes of the function's body.
//!
//! It works on the message, before import: names of the body are mapped to those of the call, all others are made unique; attribute
//! references take the call's attribute, or the function's default, or are left out. Whole trees are inlined: what a function calls,
//! too. A constant of a body that is more than a few numbers becomes one initializer for all calls.
//!
//! **Never** changes what a model computes. A call that cannot be inlined exactly stays, and so does the function, with a reason: where
//! the body's ops mean something else at the model's opset, a graph is an attribute of the call, names lead nowhere, or
//! the result would be too large.
//!
//! **Source:** ONNX's IR specification, "Functions".
use std::collections::{BTreeMap, HashMap, HashSet};

use onnx_shrink_proto::{
    prost::Message,
    schema::{
        AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
        attribute_proto::AttributeType,
    },
};

use crate::op_schema;

/// Functions that call each other this deep are not inlined.
const DEEPEST: usize = 64;
/// Nodes that inlining may make in all.
const MOST_NODES: u64 = 1 << 20;
/// Bytes of nodes that inlining may make in all, beyond the model's own.
const MOST_BYTES: u64 = 1 << 28;
/// A constant of a body with at least so many numbers is shared by all calls.
const SHARED_NUMBERS: i64 = 16;

/// A model whose calls are inlined.
#[derive(Clone, Debug)]
pub struct Inlined {
    /// The model; without functions that nothing calls any more
    pub model: ModelProto,
    /// Calls of the model's own graphs that were inlined
    pub calls: usize,
    /// Functions with a call that stayed, and why
    pub kept: BTreeMap<String, String>,
}

/// Domain, name and overload of a function.
type Key = (String, String, String);

/// What inlining a function costs, with all that it calls; or why it cannot be.
type Fate = Result<Cost, String>;

#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    nodes: u64,
    bytes: u64,
    depth: usize,
}

/// What the names of a scope are called in the model; "" for an input that the call leaves out.
type Scope = HashMap<String, String>;

/// `model` with its calls inlined; `None` when it has no functions. A function that calls itself is one that no engine takes: its
/// calls stay.
pub fn inline_functions(model: &ModelProto) -> Option<Inlined> {
    let graph = model.graph.as_ref().filter(|_| !model.functions.is_empty())?;
    let functions: HashMap<Key, &FunctionProto> =
        model.functions.iter().map(|function| (key_of(function), function)).collect();
    let mut inliner = Inliner {
        fates: HashMap::new(),
        opsets: opsets_of(model),
        imports: model.opset_import.clone(),
        names: Names::default(),
        labels: Names::default(),
        shared: HashMap::new(),
        initializers: Vec::new(),
        left: Cost { nodes: MOST_NODES, bytes: MOST_BYTES.saturating_add(model.encoded_len() as u64), depth: 0 },
        calls: 0,
        kept: BTreeMap::new(),
        functions,
    };
    if !model.training_info.is_empty() {
        let reason = "the model has training_info, whose graphs may call it".to_owned();
        let kept = model.functions.iter().map(|function| (shown(&key_of(function)), reason.clone())).collect();
        return Some(Inlined { model: model.clone(), calls: 0, kept });
    }
    inliner.take_names(graph);
    let mut graph = graph.clone();
    inliner.expand_graph(&mut graph);
    graph.initializer.append(&mut inliner.initializers);
    let called = inliner.reachable(&graph);
    let functions = model.functions.iter().filter(|function| called.contains(&key_of(function))).cloned().collect();
    let Inliner { imports, calls, kept, .. } = inliner;
    let model = ModelProto {
        graph: Some(graph),
        functions,
        opset_import: imports,
        ..ModelProto { graph: None, functions: Vec::new(), ..model.clone() }
    };
    Some(Inlined { model, calls, kept })
}

/// The first function of `model` that calls itself, by way of others or not: ONNX forbids that.
pub(crate) fn recursive(model: &ModelProto) -> Option<String> {
    let mut callers: HashMap<Key, usize> = model.functions.iter().map(|function| (key_of(function), 0)).collect();
    let calls_of = |function: &FunctionProto| {
        let mut called = Vec::new();
        each_node(&function.node, &mut |node| called.push(key_called(node)));
        called
    };
    let calls: HashMap<Key, Vec<Key>> =
        model.functions.iter().map(|function| (key_of(function), calls_of(function))).collect();
    for called in calls.values().flatten() {
        if let Some(count) = callers.get_mut(called) {
            *count += 1;
        }
    }
    // What nothing calls goes, and so on: what remains is in a cycle or called from one.
    let mut free: Vec<Key> = callers.iter().filter(|(_, count)| **count == 0).map(|(key, _)| key.clone()).collect();
    while let Some(key) = free.pop() {
        callers.remove(&key);
        for called in calls.get(&key).into_iter().flatten() {
            if let Some(count) = callers.get_mut(called) {
                *count -= 1;
                if *count == 0 {
                    free.push(called.clone());
                }
            }
        }
    }
    model.functions.iter().map(key_of).find(|key| callers.contains_key(key)).map(|key| shown(&key))
}

fn normal(domain: &str) -> String {
    if domain == "ai.onnx" { String::new() } else { domain.to_owned() }
}

fn key_of(function: &FunctionProto) -> Key {
    (normal(function.domain()), function.name().to_owned(), function.overload().to_owned())
}

fn key_called(node: &NodeProto) -> Key {
    (normal(node.domain()), node.op_type().to_owned(), node.overload().to_owned())
}

fn shown((domain, name, overload): &Key) -> String {
    let name = if domain.is_empty() { name.clone() } else { format!("{domain}.{name}") };
    if overload.is_empty() { name } else { format!("{name}:{overload}") }
}

/// The version of `domain` in `imports`.
fn version(imports: &[OperatorSetIdProto], domain: &str) -> Option<i64> {
    imports.iter().filter(|import| normal(import.domain()) == domain).map(OperatorSetIdProto::version).max()
}

/// By domain: the version that the model imports, or else the highest that one of its functions does.
fn opsets_of(model: &ModelProto) -> HashMap<String, i64> {
    let mut opsets = HashMap::new();
    for import in model.functions.iter().flat_map(|function| &function.opset_import) {
        let highest = opsets.entry(normal(import.domain())).or_insert(import.version());
        *highest = import.version().max(*highest);
    }
    for import in &model.opset_import {
        let domain = normal(import.domain());
        if let Some(opset) = version(&model.opset_import, &domain) {
            opsets.insert(domain, opset);
        }
    }
    opsets
}

/// Calls `visit` with each node, those of bodies included.
fn each_node<'a>(nodes: &'a [NodeProto], visit: &mut dyn FnMut(&'a NodeProto)) {
    for node in nodes {
        visit(node);
        for attribute in &node.attribute {
            for graph in attribute.g.iter().map(|graph| &**graph).chain(&attribute.graphs) {
                each_node(&graph.node, visit);
            }
        }
    }
}

/// Names in use.
#[derive(Default)]
struct Names {
    taken: HashSet<String>,
    next: HashMap<String, usize>,
}

impl Names {
    /// A name that nothing has yet, `base` if possible.
    fn fresh(&mut self, base: &str) -> String {
        if self.taken.insert(base.to_owned()) {
            return base.to_owned();
        }
        let next = self.next.entry(base.to_owned()).or_insert(1);
        loop {
            let name = format!("{base}_{next}");
            *next += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

struct Inliner<'a> {
    functions: HashMap<Key, &'a FunctionProto>,
    fates: HashMap<Key, Fate>,
    /// By domain: what the model imports, or else the highest that a function does
    opsets: HashMap<String, i64>,
    imports: Vec<OperatorSetIdProto>,
    /// Names of values
    names: Names,
    /// Names of nodes
    labels: Names,
    /// The initializer of a constant of a body: function, and place among its nodes
    shared: HashMap<(Key, usize), String>,
    initializers: Vec<TensorProto>,
    /// What inlining may make yet
    left: Cost,
    calls: usize,
    kept: BTreeMap<String, String>,
}

impl Inliner<'_> {
    fn take_names(&mut self, graph: &GraphProto) {
        let infos = graph.input.iter().chain(&graph.output).chain(&graph.value_info).map(|info| info.name());
        let sparse = graph.sparse_initializer.iter().flat_map(|sparse| &sparse.values).map(TensorProto::name);
        let initializers = graph.initializer.iter().map(TensorProto::name);
        self.names.taken.extend(infos.chain(sparse).chain(initializers).map(str::to_owned));
        for node in &graph.node {
            self.names.taken.extend(node.input.iter().chain(&node.output).cloned());
            self.labels.taken.insert(node.name().to_owned());
            for attribute in &node.attribute {
                for body in attribute.g.iter().map(|graph| &**graph).chain(&attribute.graphs) {
                    self.take_names(body);
                }
            }
        }
    }

    /// Inlines the calls of `graph` and of its bodies.
    fn expand_graph(&mut self, graph: &mut GraphProto) {
        let mut nodes = Vec::with_capacity(graph.node.len());
        for node in std::mem::take(&mut graph.node) {
            let key = key_called(&node);
            if !self.functions.contains_key(&key) {
                nodes.push(self.with_expanded_bodies(node));
                continue;
            }
            let done = self.fate(&key, 0).and_then(|cost| self.pay(cost)).and_then(|()| self.expand(&node, &key));
            match done {
                Ok(made) => {
                    self.calls += 1;
                    self.import_for(&key);
                    nodes.extend(made);
                }
                Err(reason) => {
                    self.kept.entry(shown(&key)).or_insert(reason);
                    nodes.push(node);
                }
            }
        }
        graph.node = nodes;
    }

    fn with_expanded_bodies(&mut self, mut node: NodeProto) -> NodeProto {
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().for_each(|body| self.expand_graph(body));
            attribute.graphs.iter_mut().for_each(|body| self.expand_graph(body));
        }
        node
    }

    fn pay(&mut self, cost: Cost) -> Result<(), String> {
        let nodes = self.left.nodes.checked_sub(cost.nodes);
        let bytes = self.left.bytes.checked_sub(cost.bytes);
        let (Some(nodes), Some(bytes)) = (nodes, bytes) else {
            return Err("the model would be too large with all its calls inlined".to_owned());
        };
        self.left = Cost { nodes, bytes, depth: 0 };
        Ok(())
    }

    /// What inlining the function costs, or why it cannot be.
    fn fate(&mut self, key: &Key, depth: usize) -> Fate {
        if let Some(fate) = self.fates.get(key) {
            return fate.clone();
        }
        if depth > DEEPEST {
            return Err(format!("functions call each other more than {DEEPEST} deep"));
        }
        let Some(&function) = self.functions.get(key) else { return Err("there is no such function".to_owned()) };
        // For those that call this one meanwhile: ONNX forbids that.
        self.fates.insert(key.clone(), Err("it calls itself".to_owned()));
        let fate = self.judged(function, depth);
        self.fates.insert(key.clone(), fate.clone());
        fate
    }

    fn judged(&mut self, function: &FunctionProto, depth: usize) -> Fate {
        let mut cost = Cost::default();
        let mut called = Vec::new();
        let mut problem = None;
        let bytes: usize = function.node.iter().map(Message::encoded_len).sum();
        cost.bytes = bytes as u64;
        each_node(&function.node, &mut |node| {
            cost.nodes = cost.nodes.saturating_add(1);
            let key = key_called(node);
            if self.functions.contains_key(&key) {
                called.push(key);
            } else if problem.is_none() {
                problem = self.other_meaning(function, node);
            }
        });
        if let Some(problem) = problem {
            return Err(problem);
        }
        for key in called {
            let inner = self.fate(&key, depth + 1).map_err(|reason| format!("it calls {}: {reason}", shown(&key)))?;
            cost.nodes = cost.nodes.saturating_add(inner.nodes);
            cost.bytes = cost.bytes.saturating_add(inner.bytes);
            cost.depth = cost.depth.max(inner.depth + 1);
        }
        match cost.depth > DEEPEST {
            true => Err(format!("functions call each other more than {DEEPEST} deep")),
            false => Ok(cost),
        }
    }

    /// Why `node` of `function` means something else in the model, whose opsets may be others.
    fn other_meaning(&self, function: &FunctionProto, node: &NodeProto) -> Option<String> {
        let domain = normal(node.domain());
        let op = || shown(&(domain.clone(), node.op_type().to_owned(), String::new()));
        let Some(own) = version(&function.opset_import, &domain) else {
            return Some(format!("it imports no opset for its op {}", op()));
        };
        let models = self.opsets.get(&domain).copied().unwrap_or(own);
        let since = |opset| op_schema::find(&domain, node.op_type(), opset).map(|schema| schema.since_version);
        let known = domain.is_empty() && own.max(models) <= op_schema::newest();
        if own == models || known && since(own).is_some() && since(own) == since(models) {
            return None;
        }
        let name = if domain.is_empty() { "ONNX" } else { &domain };
        Some(format!("its op {} is of opset {own} of {name}, the model imports {models}", op()))
    }

    /// Imports what the function and those that it calls need, and the model does not import yet.
    fn import_for(&mut self, key: &Key) {
        let mut open = vec![key.clone()];
        let mut seen = HashSet::new();
        while let Some(key) = open.pop() {
            let Some(&function) = self.functions.get(&key) else { continue };
            if !seen.insert(key) {
                continue;
            }
            let mut wanted = Vec::new();
            each_node(&function.node, &mut |node| {
                let key = key_called(node);
                match self.functions.contains_key(&key) {
                    true => open.push(key),
                    false => wanted.push(normal(node.domain())),
                }
            });
            for domain in wanted {
                if let (None, Some(&opset)) = (version(&self.imports, &domain), self.opsets.get(&domain)) {
                    self.imports.push(OperatorSetIdProto { domain: Some(domain), version: Some(opset) });
                }
            }
        }
    }

    /// The nodes for `call`, with those of the functions that it calls in turn.
    fn expand(&mut self, call: &NodeProto, key: &Key) -> Result<Vec<NodeProto>, String> {
        let Some(&function) = self.functions.get(key) else { return Err("there is no such function".to_owned()) };
        let mut done = Vec::new();
        for node in self.instance(call, function, key)? {
            let key = key_called(&node);
            match self.functions.contains_key(&key) {
                true => done.extend(self.expand(&node, &key)?),
                false => done.push(self.expand_bodies(node)?),
            }
        }
        Ok(done)
    }

    /// Inlines in the bodies of a node of a function: all of it or none.
    fn expand_bodies(&mut self, mut node: NodeProto) -> Result<NodeProto, String> {
        for attribute in &mut node.attribute {
            for body in attribute.g.iter_mut().map(|graph| &mut **graph).chain(&mut attribute.graphs) {
                let mut nodes = Vec::with_capacity(body.node.len());
                for node in std::mem::take(&mut body.node) {
                    let key = key_called(&node);
                    match self.functions.contains_key(&key) {
                        true => nodes.extend(self.expand(&node, &key)?),
                        false => nodes.push(self.expand_bodies(node)?),
                    }
                }
                body.node = nodes;
            }
        }
        Ok(node)
    }

    /// The body of `function` with the names and attributes of `call`.
    fn instance(&mut self, call: &NodeProto, function: &FunctionProto, key: &Key) -> Result<Vec<NodeProto>, String> {
        let holds_graph = |attribute: &AttributeProto| attribute.g.is_some() || !attribute.graphs.is_empty();
        if let Some(attribute) = call.attribute.iter().find(|attribute| holds_graph(attribute)) {
            return Err(format!("attribute `{}` of the call is a graph", attribute.name()));
        }
        let defaults = function.attribute_proto.iter().map(|attribute| (attribute.name(), attribute));
        let given = call.attribute.iter().map(|attribute| (attribute.name(), attribute));
        let attributes: HashMap<&str, &AttributeProto> = defaults.chain(given).collect();
        let base = match call.name() {
            "" => call.output.iter().find(|output| !output.is_empty()).map_or("", String::as_str),
            name => name,
        };
        let mut scope = Scope::new();
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            return Err("the call has more inputs or outputs than the function".to_owned());
        }
        for (index, formal) in function.input.iter().enumerate() {
            let actual = call.input.get(index).map_or("", String::as_str); // the last ones may be left out
            if scope.insert(formal.clone(), actual.to_owned()).is_some() {
                return Err(format!("its input `{formal}` is there twice"));
            }
        }
        let mut wanted: HashMap<&str, &str> = HashMap::new();
        for (formal, actual) in function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty()) {
            wanted.entry(formal).or_insert(actual);
        }
        let mut shared = HashSet::new();
        for (place, node) in function.node.iter().enumerate() {
            let constant = shared_constant(node).filter(|_| !function.output.contains(&node.output[0]));
            for output in node.output.iter().filter(|output| !output.is_empty()) {
                let name = match (constant, wanted.get(output.as_str())) {
                    (Some(tensor), _) => {
                        shared.insert(place);
                        self.initializer(key, place, tensor, output)
                    }
                    (None, Some(actual)) => (*actual).to_owned(),
                    (None, None) => self.names.fresh(&format!("{base}/{output}")),
                };
                if scope.insert(output.clone(), name).is_some() {
                    return Err(format!("its value `{output}` is made more than once"));
                }
            }
        }
        let mut renaming = Renaming { inliner: self, attributes, base, scopes: vec![scope] };
        let mut nodes = Vec::with_capacity(function.node.len());
        for (place, node) in function.node.iter().enumerate() {
            if !shared.contains(&place) {
                nodes.push(renaming.node(node)?);
            }
        }
        // An output that is an input, or another output, too.
        for (formal, actual) in function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty()) {
            let made = renaming.lookup(formal)?;
            if made.is_empty() {
                return Err(format!("its output `{formal}` is an input that the call leaves out"));
            }
            if made != *actual {
                let (input, output) = (vec![made], vec![actual.clone()]);
                let op_type = Some("Identity".to_owned());
                nodes.push(NodeProto { input, output, op_type, ..NodeProto::default() });
            }
        }
        Ok(nodes)
    }

    /// The initializer that stands for a constant of a body in all calls.
    fn initializer(&mut self, key: &Key, place: usize, tensor: &TensorProto, output: &str) -> String {
        let at = (key.clone(), place);
        if let Some(name) = self.shared.get(&at) {
            return name.clone();
        }
        let name = self.names.fresh(&format!("{}/{output}", key.1));
        self.initializers.push(TensorProto { name: Some(name.clone()), ..tensor.clone() });
        self.shared.insert(at, name.clone());
        name
    }

    /// Functions that `graph` calls, by way of others or not.
    fn reachable(&self, graph: &GraphProto) -> HashSet<Key> {
        let mut found = HashSet::new();
        let mut open = Vec::new();
        each_node(&graph.node, &mut |node| open.push(key_called(node)));
        while let Some(key) = open.pop() {
            if let Some(function) = self.functions.get(&key)
                && found.insert(key)
            {
                each_node(&function.node, &mut |node| open.push(key_called(node)));
            }
        }
        found
    }
}

/// The tensor of a constant that is the same in all calls, and large enough to be shared.
fn shared_constant(node: &NodeProto) -> Option<&TensorProto> {
    let [attribute] = node.attribute.as_slice() else { return None };
    let is_constant = node.op_type() == "Constant" && normal(node.domain()).is_empty();
    let own = attribute.ref_attr_name().is_empty() && attribute.name() == "value";
    let tensor = attribute.t.as_deref().filter(|_| is_constant && own && node.output.len() == 1)?;
    let numbers = tensor.dims.iter().try_fold(1_i64, |all, dim| all.checked_mul(*dim))?;
    (numbers >= SHARED_NUMBERS && !node.output[0].is_empty()).then_some(tensor)
}

/// The names and attributes of one call.
struct Renaming<'r, 'a> {
    inliner: &'r mut Inliner<'a>,
    attributes: HashMap<&'r str, &'r AttributeProto>,
    /// What new names begin with
    base: &'r str,
    /// Names of the function, and of the bodies that are open
    scopes: Vec<Scope>,
}

impl Renaming<'_, '_> {
    fn lookup(&self, name: &str) -> Result<String, String> {
        if name.is_empty() {
            return Ok(String::new());
        }
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(name));
        found.cloned().ok_or_else(|| format!("it reads `{name}`, which is no input of it, and no node of it makes"))
    }

    fn lookup_all(&self, names: &[String]) -> Result<Vec<String>, String> {
        names.iter().map(|name| self.lookup(name)).collect()
    }

    fn node(&mut self, node: &NodeProto) -> Result<NodeProto, String> {
        let name = node.name.as_deref().filter(|name| !name.is_empty());
        let name = name.map(|name| self.inliner.labels.fresh(&format!("{}/{name}", self.base)));
        let mut attribute = Vec::with_capacity(node.attribute.len());
        for own in &node.attribute {
            attribute.extend(self.attribute(own)?);
        }
        Ok(NodeProto {
            input: self.lookup_all(&node.input)?,
            output: self.lookup_all(&node.output)?,
            name,
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            overload: node.overload.clone(),
            attribute,
            doc_string: node.doc_string.clone(),
            metadata_props: node.metadata_props.clone(),
            device_configurations: Vec::new(), // they name values
        })
    }

    /// The attribute as the call has it; `None` where it is left out.
    fn attribute(&mut self, own: &AttributeProto) -> Result<Option<AttributeProto>, String> {
        if !own.ref_attr_name().is_empty() {
            let Some(&given) = self.attributes.get(own.ref_attr_name()) else { return Ok(None) };
            if own.r#type() != AttributeType::Undefined && own.r#type() != given.r#type() {
                let (wanted, found) = (own.r#type().as_str_name(), given.r#type().as_str_name());
                return Err(format!("its attribute `{}` is {wanted}, the call's is {found}", own.ref_attr_name()));
            }
            return Ok(Some(AttributeProto { name: own.name.clone(), ref_attr_name: None, ..given.clone() }));
        }
        if own.g.is_none() && own.graphs.is_empty() {
            return Ok(Some(own.clone()));
        }
        let g = own.g.as_deref().map(|body| self.body(body)).transpose()?.map(Box::new);
        let graphs = own.graphs.iter().map(|body| self.body(body)).collect::<Result<_, _>>()?;
        Ok(Some(AttributeProto { g, graphs, ..own.clone() }))
    }

    /// A body of a node, whose own names are new ones, too: a name of the model must not be hidden by one of the body's.
    fn body(&mut self, body: &GraphProto) -> Result<GraphProto, String> {
        let mut scope = Scope::new();
        let sparse = body.sparse_initializer.iter().flat_map(|sparse| &sparse.values).map(TensorProto::name);
        let made = body.input.iter().map(|info| info.name()).chain(sparse);
        let made = made.chain(body.initializer.iter().map(TensorProto::name));
        for name in made.chain(body.node.iter().flat_map(|node| &node.output).map(String::as_str)) {
            if !name.is_empty() && !scope.contains_key(name) {
                scope.insert(name.to_owned(), self.inliner.names.fresh(&format!("{}/{name}", self.base)));
            }
        }
        self.scopes.push(scope);
        let done = self.renamed(body);
        self.scopes.pop();
        done
    }

    fn renamed(&mut self, body: &GraphProto) -> Result<GraphProto, String> {
        let mut graph = GraphProto { node: Vec::new(), quantization_annotation: Vec::new(), ..body.clone() };
        for node in &body.node {
            graph.node.push(self.node(node)?);
        }
        for info in graph.input.iter_mut().chain(&mut graph.output) {
            info.name = Some(self.lookup(info.name())?);
        }
        // Declarations of what the body does not have say nothing.
        graph.value_info.retain_mut(|info| match self.lookup(info.name()) {
            Ok(name) => {
                info.name = Some(name);
                true
            }
            Err(_) => false,
        });
        let sparse = graph.sparse_initializer.iter_mut().flat_map(|sparse| &mut sparse.values);
        for tensor in graph.initializer.iter_mut().chain(sparse) {
            tensor.name = Some(self.lookup(tensor.name())?);
        }
        Ok(graph)
    }
}

#[cfg(test)]
#[path = "inline_functions/tests.rs"]
mod tests;
