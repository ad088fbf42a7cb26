//! A model in two: what does not depend on some of its ops, and the rest; and one model of both again.
//!
//! For a model with ops that no engine here runs: the half before them is a model that runs. Between the halves are values with
//! the same name in both, which keep their meaning as long as each half keeps what it computes.
use std::collections::{BTreeSet, HashMap, HashSet};

use onnx_shrink_proto::schema::{GraphProto, ModelProto, NodeProto, TensorProto};

use crate::{
    ImportError, export,
    graph::OpId,
    import,
    model::Model,
    raise::{self, RaiseError},
};

/// Two halves of a model.
#[derive(Clone, Debug)]
pub struct Halves {
    /// With all inputs of the model, and the values that the other half reads as outputs
    pub before: Model,
    /// With these, and what it reads of the model's inputs, as inputs
    pub behind: Model,
}

/// Why halves do not go together.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JoinError {
    /// One half is of another opset now, to which the other cannot go
    #[error("{0}")]
    Raise(#[from] RaiseError),
    /// They make no graph
    #[error("{0}")]
    Import(#[from] ImportError),
}

/// `model` in two: the ops that depend on none of `blocked`, and the others. `None` where one of them would be empty, or nothing
/// that the first computes is read by the second or is an output.
pub fn halves(model: &Model, blocked: &BTreeSet<OpId>) -> Option<Halves> {
    let graph = &model.graph;
    let (mut first, mut rest) = (BTreeSet::new(), BTreeSet::new());
    for op in graph.ops() {
        let captured = graph.captures(op).into_iter().map(|(_, outer, _)| outer);
        let mut read = graph.op(op).inputs().iter().flatten().copied().chain(captured);
        let depends = read.any(|value| graph.producer(value).is_some_and(|op| rest.contains(&op)));
        if depends || blocked.contains(&op) {
            rest.insert(op)
        } else {
            first.insert(op)
        };
    }
    if first.is_empty() || rest.is_empty() {
        return None;
    }
    let before = crate::part::kept_part(graph, &first, true);
    let behind = crate::part::kept_part(graph, &rest, false);
    let model = |graph| Model { graph, proto: model.proto.clone() };
    (!before.outputs().is_empty()).then(|| Halves { before: model(before), behind: model(behind) })
}

/// The halves of `whole` as one model again, after each was rewritten. One that is of a higher opset now raises the other.
pub fn join(whole: &Model, before: &Model, behind: &Model) -> Result<Model, JoinError> {
    let (mut before, mut behind) = (before.detached(), behind.detached());
    let opset = before.opset().max(behind.opset());
    for half in [&mut before, &mut behind] {
        if half.opset() != opset {
            raise::raise(half, opset)?;
        }
    }
    let ir_version = before.ir_version().max(behind.ir_version());
    let graph = |model: &Model| export(model).graph.expect("an exported model has a graph");
    let (first, mut rest, outer) = (graph(&before), graph(&behind), graph(whole));
    let made: HashSet<String> = names_of(&first);
    let between: HashSet<&str> = rest.input.iter().chain(&outer.output).map(|info| info.name()).collect();
    let mut taken: HashSet<String> = made.iter().cloned().chain(names_of(&rest)).chain(names_of(&outer)).collect();
    let shared: HashMap<&str, &TensorProto> = first.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
    let mut same: HashSet<String> = HashSet::new();
    rest.initializer.retain(|tensor| {
        let is_same = shared.get(tensor.name()).is_some_and(|other| *other == tensor);
        if is_same {
            same.insert(tensor.name().to_owned());
        }
        !is_same
    });
    let mut others: Vec<String> = names_of(&rest).into_iter().collect();
    others.sort_unstable();
    let mut renamed: HashMap<String, String> = HashMap::new();
    for name in others {
        if made.contains(&name) && !between.contains(name.as_str()) && !same.contains(&name) {
            let fresh = (1..).map(|n| format!("{name}_{n}")).find(|fresh| !taken.contains(fresh));
            let fresh = fresh.expect("of endless names one is free");
            taken.insert(fresh.clone());
            renamed.insert(name, fresh);
        }
    }
    rename(&mut rest, &renamed);
    let mut joined = GraphProto { node: first.node, initializer: first.initializer, ..outer };
    joined.node.extend(rest.node);
    joined.initializer.extend(rest.initializer);
    joined.sparse_initializer = first.sparse_initializer;
    joined.sparse_initializer.extend(rest.sparse_initializer);
    let known: HashSet<&str> = joined.input.iter().chain(&joined.output).map(|info| info.name()).collect();
    let mut seen = HashSet::new();
    let infos = first.value_info.into_iter().chain(rest.value_info);
    joined.value_info =
        infos.filter(|info| !known.contains(info.name()) && seen.insert(info.name().to_owned())).collect();
    let proto = ModelProto { graph: Some(joined), ir_version: Some(ir_version), ..before.proto.clone() };
    Ok(import(proto)?)
}

/// All names of values in `graph` and its bodies.
fn names_of(graph: &GraphProto) -> HashSet<String> {
    let mut names = HashSet::new();
    let mut open = vec![graph];
    while let Some(graph) = open.pop() {
        let sparse = graph.sparse_initializer.iter().flat_map(|sparse| &sparse.values);
        names.extend(graph.initializer.iter().chain(sparse).map(|tensor| tensor.name().to_owned()));
        names.extend(graph.input.iter().chain(&graph.output).map(|info| info.name().to_owned()));
        for node in &graph.node {
            names.extend(node.input.iter().chain(&node.output).filter(|name| !name.is_empty()).cloned());
            for attribute in &node.attribute {
                open.extend(attribute.g.iter().map(|graph| &**graph).chain(&attribute.graphs));
            }
        }
    }
    names
}

/// Gives values other names, in bodies, too.
fn rename(graph: &mut GraphProto, names: &HashMap<String, String>) {
    let change = |name: &mut String| {
        if let Some(new) = names.get(name.as_str()) {
            name.clone_from(new);
        }
    };
    let sparse = graph.sparse_initializer.iter_mut().flat_map(|sparse| &mut sparse.values);
    graph.initializer.iter_mut().chain(sparse).flat_map(|tensor| &mut tensor.name).for_each(change);
    let infos = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    infos.flat_map(|info| &mut info.name).for_each(change);
    for NodeProto { input, output, attribute, .. } in &mut graph.node {
        input.iter_mut().chain(output).for_each(change);
        for attribute in attribute {
            attribute.g.iter_mut().for_each(|body| rename(body, names));
            attribute.graphs.iter_mut().for_each(|body| rename(body, names));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::{halves, join};
    use crate::{
        Model,
        testing::{assert_same_graph, parse},
        verify::verify_graph,
    };

    const MODEL: &str = "<ir_version: 8, opset_import: [\"\" : 17, \"own\" : 1]>
        g (float[2,2] x, float[2,2] z) => (float[2,2] y, float[2,2] r) <float[2,2] w = {1, 2, 3, 4}> {
          a = MatMul (x, w)  r = Relu (a)  c = own.Strange (a, z)  d = MatMul (c, w)  y = Add (d, r) }";

    fn cut(model: &Model) -> super::Halves {
        let strange = model.graph.ops().into_iter().find(|op| model.graph.op(*op).op_type() == "Strange").unwrap();
        halves(model, &[strange].into()).unwrap()
    }

    #[test]
    fn halves_that_are_not_changed_make_the_same_model_again() {
        let model = parse(MODEL);
        let halves = cut(&model);
        assert!(verify_graph(&halves.before.graph).is_empty() && verify_graph(&halves.behind.graph).is_empty());
        let names = |model: &Model, values: &[crate::ValueId]| -> Vec<String> {
            values.iter().map(|value| model.graph.name_of(*value).to_owned()).collect()
        };
        assert_eq!(names(&halves.before, halves.before.graph.inputs()), ["x", "z"]);
        assert_eq!(names(&halves.before, halves.before.graph.outputs()), ["r", "a"]);
        assert_eq!(halves.behind.graph.op_count(), 3);
        assert_same_graph(&join(&model, &halves.before, &halves.behind).unwrap(), &model);
    }

    #[test]
    fn what_only_one_half_changed_has_a_name_of_its_own() {
        let model = parse(MODEL);
        let halves = cut(&model);
        let mut changed = crate::export(&halves.before);
        let graph = changed.graph.as_mut().unwrap();
        graph.initializer[0].raw_data = Some(vec![0; 16].into());
        graph.initializer[0].float_data.clear();
        let joined = join(&model, &crate::import(changed).unwrap(), &halves.behind).unwrap();
        let expected = MODEL
            .replace("w = {1, 2, 3, 4}", "w = {0, 0, 0, 0}, float[2,2] w_1 = {1, 2, 3, 4}")
            .replace("MatMul (c, w)", "MatMul (c, w_1)");
        assert_same_graph(&joined, &parse(&expected));
    }
}
