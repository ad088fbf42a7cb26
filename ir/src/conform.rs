//! Whether the nodes of a model are ones that ONNX has: op types and attributes of its own domain, at the model's opset.
//!
//! An engine refuses a model with a node that ONNX does not have, so a rewritten one would be of no use; and what such a node
//! computes cannot be known. Ops of other domains, local functions, opsets newer than the [table](crate::op_schema), and names
//! that engines are known to take in ONNX's domain, too, are **never** judged, nor are the bodies of local functions.
//!
//! **Source:** `OpSchema::Verify` and `check_node` of the onnx package, which ONNX Runtime calls as it loads a model.
use std::{collections::HashSet, fmt};

use onnx_shrink_proto::schema::TensorProto;

use crate::{
    convert::{ConvertError, tensor_from_proto},
    graph::{Graph, Op},
    model::Model,
    op_schema::{self, Attribute, Kind, Schema},
};

/// Ops that ONNX's domain had as experiments (before 1.5, without a schema since), or that ONNX Runtime defines in it
/// (`onnxruntime/core/graph/contrib_ops/contrib_defs.cc`).
const TOLERATED: [&str; 17] = [
    "ATen",
    "Affine",
    "ConstantFill",
    "Crop",
    "DynamicSlice",
    "GRUUnit",
    "GivenTensorFill",
    "ImageScaler",
    "LayerNormalization",
    "MeanVarianceNormalization",
    "MemcpyFromHost",
    "MemcpyToHost",
    "ParametricSoftplus",
    "Scale",
    "ScaledTanh",
    "SimplifiedLayerNormalization",
    "ThresholdedRelu",
];

/// How names of plugins of TensorRT end, which stand in ONNX's domain.
const PLUGIN: &str = "_TRT";

/// A node that ONNX does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Name of the node, or of its output
    pub node: String,
    /// Its op type
    pub op_type: String,
    /// What is wrong with it
    pub what: What,
}

/// What is wrong with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// No version of ONNX has such an op
    NoSuchOp {
        /// An op with nearly that name
        near: Option<&'static str>,
    },
    /// The op came with a later opset
    Later {
        /// The first that has it
        since: i64,
        /// The model's
        opset: i64,
    },
    /// The op was taken out of ONNX
    Gone {
        /// The first opset without it
        since: i64,
    },
    /// The op has no such attribute
    NoSuchAttribute {
        /// Its name
        name: String,
        /// The model's opset
        opset: i64,
        /// An attribute with nearly that name
        near: Option<&'static str>,
    },
    /// An attribute holds something else than the op wants
    WrongKind {
        /// Its name
        name: String,
        /// What it holds, in ONNX's words
        found: &'static str,
        /// What is wanted
        wanted: &'static str,
    },
    /// An attribute holds a tensor that is none
    NoTensor {
        /// Its name
        name: String,
        /// What is wrong with it
        problem: ConvertError,
    },
    /// An attribute is there twice
    Twice {
        /// Its name
        name: String,
    },
    /// An attribute that the op must have is not there
    Missing {
        /// Its name
        name: &'static str,
    },
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Departure { node, op_type, what } = self;
        write!(f, "node `{node}`: ")?;
        match what {
            What::NoSuchOp { near } => {
                write!(f, "ONNX has no op `{op_type}`")?;
                near.map_or(Ok(()), |near| write!(f, "; did you mean `{near}`?"))
            }
            What::Later { since, opset } => {
                write!(f, "ONNX has the op `{op_type}` from opset {since} on, the model states opset {opset}")
            }
            What::Gone { since } => write!(f, "ONNX has no op `{op_type}` any more from opset {since} on"),
            What::NoSuchAttribute { name, opset, near } => {
                write!(f, "`{op_type}` of opset {opset} has no attribute `{name}`")?;
                near.map_or(Ok(()), |near| write!(f, "; did you mean `{near}`?"))
            }
            What::WrongKind { name, found, wanted } => {
                write!(f, "attribute `{name}` of `{op_type}` holds {found}, {wanted} is wanted")
            }
            What::NoTensor { name, problem } => write!(f, "the tensor in attribute `{name}` of `{op_type}`: {problem}"),
            What::Twice { name } => write!(f, "attribute `{name}` of `{op_type}` is there twice"),
            What::Missing { name } => write!(f, "`{op_type}` must have an attribute `{name}`"),
        }
    }
}

/// The nodes of `model` that ONNX does not have, in the order of the graph, bodies included; at most one line a node.
pub fn departures(model: &Model) -> Vec<Departure> {
    let functions = &model.proto().functions;
    let own = functions.iter().filter(|function| matches!(function.domain(), "" | "ai.onnx"));
    let mut found = Vec::new();
    let judge = Judge { functions: own.map(|function| function.name()).collect(), untyped: model.ir_version() < 2 };
    judge.graph(&model.graph, &mut found);
    found
}

struct Judge<'a> {
    /// Local functions that stand in ONNX's domain
    functions: HashSet<&'a str>,
    /// Whether the file is so old that attributes do not state what they hold
    untyped: bool,
}

impl Judge<'_> {
    fn graph(&self, graph: &Graph, found: &mut Vec<Departure>) {
        if graph.opset() < 1 || graph.opset() > op_schema::newest() {
            return;
        }
        for id in graph.ops() {
            let op = graph.op(id);
            let judged = op.domain().is_empty() && !self.functions.contains(op.op_type());
            if judged && let Some(what) = self.op(op, graph.opset()) {
                found.push(Departure { node: graph.label_of(id).to_owned(), op_type: op.op_type().to_owned(), what });
            }
            for region in op.regions() {
                self.graph(&region.graph, found);
            }
        }
    }

    fn op(&self, op: &Op, opset: i64) -> Option<What> {
        let name = op.op_type();
        match op_schema::find("", name, opset) {
            Some(schema) if schema.deprecated => Some(What::Gone { since: schema.since_version }),
            Some(schema) => self.attributes(op, schema, opset),
            None if TOLERATED.contains(&name) || name.ends_with(PLUGIN) => None,
            None => Some(match since(name) {
                Some(since) => What::Later { since, opset },
                None => What::NoSuchOp { near: nearest(name, ops_of(opset)) },
            }),
        }
    }

    fn attributes(&self, op: &Op, schema: &Schema, opset: i64) -> Option<What> {
        let mut seen: HashSet<&str> = HashSet::new();
        for attribute in op.attributes() {
            let name = attribute.name();
            if !seen.insert(name) {
                return Some(What::Twice { name: name.to_owned() });
            }
            let Some(declared) = schema.attribute(name) else {
                if name.starts_with("__") {
                    continue; // ONNX leaves such names to the programs that handle a model
                }
                let near = nearest(name, schema.attributes.iter().map(|attribute| attribute.name));
                return Some(What::NoSuchAttribute { name: name.to_owned(), opset, near });
            };
            let found = Kind::try_from(attribute.r#type.unwrap_or(0)).unwrap_or(Kind::Undefined);
            let silent = found == Kind::Undefined && self.untyped;
            if found != declared.kind && !silent {
                let (found, wanted) = (word(found), word(declared.kind));
                return Some(What::WrongKind { name: name.to_owned(), found, wanted });
            }
            if declared.kind == Kind::Tensor && attribute.ref_attr_name.is_none() {
                let none = TensorProto::default();
                if let Err(problem) = tensor_from_proto(attribute.t.as_deref().unwrap_or(&none)) {
                    return Some(What::NoTensor { name: name.to_owned(), problem });
                }
            }
        }
        let missing = |declared: &&Attribute| declared.required && !seen.contains(declared.name);
        schema.attributes.iter().find(missing).map(|declared| What::Missing { name: declared.name })
    }
}

/// The first opset with the op `name`.
fn since(name: &str) -> Option<i64> {
    let first = op_schema::all().iter().find(|schema| schema.domain.is_empty() && schema.op_type == name);
    first.map(|schema| schema.since_version)
}

/// The names of the ops that `opset` has.
fn ops_of(opset: i64) -> impl Iterator<Item = &'static str> {
    let own = op_schema::all().iter().filter(move |schema| schema.domain.is_empty() && schema.since_version <= opset);
    own.map(|schema| schema.op_type)
}

/// What an attribute of this kind holds, in words.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Undefined => "nothing of a known type",
        Kind::Float => "a float",
        Kind::Int => "an integer",
        Kind::String => "a string",
        Kind::Tensor => "a tensor",
        Kind::Graph => "a graph",
        Kind::SparseTensor => "a sparse tensor",
        Kind::TypeProto => "a type",
        Kind::Floats => "a list of floats",
        Kind::Ints => "a list of integers",
        Kind::Strings => "a list of strings",
        Kind::Tensors => "a list of tensors",
        Kind::Graphs => "a list of graphs",
        Kind::SparseTensors => "a list of sparse tensors",
        Kind::TypeProtos => "a list of types",
    }
}

/// The one of `names` that `word` most likely means: the first of those with the fewest letters to change, if these are at
/// most two and at most a third of the name. Capitals do not count.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).map(|letter| letter.to_ascii_lowercase()).collect();
    let near = names.filter_map(|name| {
        let letters: Vec<char> = name.chars().map(|letter| letter.to_ascii_lowercase()).collect();
        let distance = distance(&letters, &word);
        (distance <= 2 && 3 * distance <= letters.len()).then_some((distance, name))
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Letters to insert, remove or change until `word` is `name` (Levenshtein).
fn distance(name: &[char], word: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=word.len()).collect();
    for (i, a) in name.iter().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in word.iter().enumerate() {
            let other = before + usize::from(a != b);
            let least = other.min(row[j] + 1).min(row[j + 1] + 1);
            before = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use onnx_shrink_proto::schema::TensorProto;

    use super::{departures, nearest};
    use crate::{attributes, text::parse_model};

    /// What is said of the nodes in `body`, of a model from x to y.
    fn told(opset: i64, body: &str) -> Vec<String> {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : {opset}, \"other\" : 1]> g (float[1,2] x) => (float[1,2] y) {{ {body} }}"
        );
        departures(&parse_model(&text).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ops_that_onnx_does_not_have_are_named_with_what_may_be_meant() {
        assert_eq!(told(13, "y = Rellu (x)"), ["node `y`: ONNX has no op `Rellu`; did you mean `Relu`?"]);
        assert_eq!(told(13, "y = RELU (x)"), ["node `y`: ONNX has no op `RELU`; did you mean `Relu`?"]);
        assert_eq!(told(13, "y = NoSuchOp (x)"), ["node `y`: ONNX has no op `NoSuchOp`"]);
        assert_eq!(
            told(13, "y = Mish (x)"),
            ["node `y`: ONNX has the op `Mish` from opset 18 on, the model states opset 13"]
        );
        assert_eq!(
            told(11, "s = Shape (x)  y = Upsample (x, s)"),
            ["node `y`: ONNX has no op `Upsample` any more from opset 10 on"]
        );
    }

    #[test]
    fn attributes_that_an_op_does_not_have_are_named() {
        assert_eq!(
            told(13, "y = Softmax <axes = 1> (x)"),
            ["node `y`: `Softmax` of opset 13 has no attribute `axes`; did you mean `axis`?"]
        );
        assert_eq!(
            told(13, "y = Softmax <axis = 1.0> (x)"),
            ["node `y`: attribute `axis` of `Softmax` holds a float, an integer is wanted"]
        );
        assert_eq!(told(13, "y = Concat (x)"), ["node `y`: `Concat` must have an attribute `axis`"]);
        assert_eq!(told(6, "y = Upsample <mode = \"nearest\"> (x)").len(), 1);
        // Squeeze had the attribute until opset 12.
        assert_eq!(told(12, "y = Squeeze <axes = [0]> (x)").len(), 0);
        assert_eq!(told(13, "y = Squeeze <axes = [0]> (x)").len(), 1);
    }

    #[test]
    fn an_attribute_that_is_there_twice_is_named_and_old_files_state_no_types() {
        let mut model = parse_model(
            "<ir_version: 8, opset_import: [\"\" : 13]> g (float[1,2] x) => (float[1,2] y) {
            y = Softmax <axis = 1> (x) }",
        )
        .unwrap();
        let op = model.graph.ops()[0];
        model.graph.op_mut(op).node.attribute[0].r#type = None;
        assert_eq!(
            departures(&model)[0].to_string(),
            "node `y`: attribute `axis` of `Softmax` holds nothing of a known type, an integer is wanted"
        );
        model.proto.ir_version = Some(1);
        assert_eq!(departures(&model), []);
        model.graph.op_mut(op).node.attribute.push(attributes::int("axis", 1));
        assert_eq!(departures(&model)[0].to_string(), "node `y`: attribute `axis` of `Softmax` is there twice");
    }

    #[test]
    fn a_tensor_in_an_attribute_has_a_type_and_the_bytes_of_its_dims() {
        let mut model = parse_model(
            "<ir_version: 8, opset_import: [\"\" : 13]> g (float[2] x) => (float[2] y) {
            c = Constant <value = float[2] {1, 2}> ()  y = Add (x, c) }",
        )
        .unwrap();
        assert_eq!(departures(&model), []);
        let op = model.graph.ops()[0];
        let held = |model: &mut crate::Model, change: &dyn Fn(&mut TensorProto)| {
            change(model.graph.op_mut(op).node.attribute[0].t.as_mut().unwrap());
            departures(model).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let told = held(&mut model, &|tensor| tensor.dims = vec![3]);
        assert!(told[0].starts_with("node `c`: the tensor in attribute `value` of `Constant`: "), "{told:?}");
        assert_eq!(held(&mut model, &|tensor| *tensor = TensorProto::default()).len(), 1);
    }

    #[test]
    fn bodies_are_judged_and_what_is_not_onnxs_is_not() {
        let body = "c = Constant <value_int = 1> ()  d = Cast <to = 9> (c)
            y = If <then_branch = t () => (a) { a = Rellu (x) }, else_branch = e () => (b) { b = Relu (x) }> (d)";
        assert_eq!(told(13, body), ["node `a`: ONNX has no op `Rellu`; did you mean `Relu`?"]);
        for body in [
            "y = other.Rellu <anything = 1> (x)",
            "y = LayerNormalization (x, x, x)",
            "y = ImageScaler <scale = 1.0> (x)",
            "y = EfficientNMS_TRT (x)",
            "y = Relu <__mine = 1> (x)",
        ] {
            assert_eq!(told(13, body), [""; 0], "{body}");
        }
        assert_eq!(told(99, "y = OfTheFuture <new = 1> (x)"), [""; 0]);
    }

    #[test]
    fn the_nearest_name_is_meant_unless_none_is_near() {
        let names = || ["Conv", "ConvInteger", "ConvTranspose"].into_iter();
        assert_eq!(nearest("Cnnv", names()), Some("Conv"));
        assert_eq!(nearest("CONV", names()), Some("Conv"));
        assert_eq!(nearest("ConvTranspos", names()), Some("ConvTranspose"));
        assert_eq!(nearest("Gemm", names()), None);
        assert_eq!(nearest("", names()), None);
    }
}
