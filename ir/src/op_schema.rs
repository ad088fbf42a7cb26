//! Signatures of ONNX's ops: inputs, outputs, types, attributes with their defaults, for every version.
//!
//! The table is generated from the `onnx` package by `ir/schema/generate.py` and checked in. It says what an op *looks*
//! like. It **never** says what an op computes, and holds no ops of other domains than ONNX's own.
#[rustfmt::skip]
mod table;

pub use onnx_shrink_proto::schema::attribute_proto::AttributeType as Kind;

use crate::types::DataType;

/// How often an input or output occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// Exactly once
    Single,
    /// At most once; may be left out in the middle
    Optional,
    /// The last one, any number of times
    Variadic,
}

/// An input or output as the op declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formal {
    /// ONNX's name of it
    pub name: &'static str,
    /// Its type: the name of a [`Constraint`] ("T"), or a type ("tensor(int64)")
    pub ty: &'static str,
    /// How often it occurs
    pub occurrence: Occurrence,
    /// Whether all occurrences have one type; false only for some variadic ones (Loop's, If's, Scan's)
    pub homogeneous: bool,
}

/// What a type name of an op may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// The type name ("T")
    pub name: &'static str,
    /// Allowed types, as ONNX writes them ("tensor(float)", "seq(tensor(int8))"), sorted
    pub allowed: &'static [&'static str],
}

/// The default of an attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// It has none, or one that is a tensor
    None,
    /// An integer
    Int(i64),
    /// A float
    Float(f32),
    /// A string
    String(&'static str),
    /// Integers
    Ints(&'static [i64]),
    /// Floats
    Floats(&'static [f32]),
    /// Strings
    Strings(&'static [&'static str]),
}

/// An attribute as the op declares it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribute {
    /// Its name
    pub name: &'static str,
    /// What it holds
    pub kind: Kind,
    /// Whether a node must have it
    pub required: bool,
    /// Its value in a node that does not have it
    pub default: Default,
}

/// One version of an op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schema {
    /// Domain, "" for ONNX's own
    pub domain: &'static str,
    /// Type of the op
    pub op_type: &'static str,
    /// First opset that has this version
    pub since_version: i64,
    /// Whether the op does not exist any more from this version on
    pub deprecated: bool,
    /// Inputs in order
    pub inputs: &'static [Formal],
    /// Outputs in order
    pub outputs: &'static [Formal],
    /// Fewest inputs that a node may list
    pub min_inputs: usize,
    /// Most inputs; `usize::MAX` when unbounded
    pub max_inputs: usize,
    /// Fewest outputs
    pub min_outputs: usize,
    /// Most outputs; `usize::MAX` when unbounded
    pub max_outputs: usize,
    /// Type names that inputs and outputs use
    pub constraints: &'static [Constraint],
    /// Attributes, sorted by name
    pub attributes: &'static [Attribute],
}

impl Schema {
    /// The declaration of input `index`, for variadic ones the last; `None` beyond the end.
    pub fn input(&self, index: usize) -> Option<&'static Formal> {
        at(self.inputs, index)
    }

    /// The declaration of output `index`, for variadic ones the last; `None` beyond the end.
    pub fn output(&self, index: usize) -> Option<&'static Formal> {
        at(self.outputs, index)
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// What the type name `name` may stand for; `None` when `name` is a type itself.
    pub fn constraint(&self, name: &str) -> Option<&'static Constraint> {
        self.constraints.iter().find(|constraint| constraint.name == name)
    }

    /// Whether a tensor of `dtype` may stand where `formal` stands.
    pub fn allows(&self, formal: &Formal, dtype: DataType) -> bool {
        let is = |ty: &str| tensor_type(ty) == Some(dtype);
        match self.constraint(formal.ty) {
            Some(constraint) => constraint.allowed.iter().any(|ty| is(ty)),
            None => is(formal.ty),
        }
    }
}

fn at(formals: &'static [Formal], index: usize) -> Option<&'static Formal> {
    formals.get(index).or_else(|| formals.last().filter(|last| last.occurrence == Occurrence::Variadic))
}

/// The element type of "tensor(…)"; `None` for sequences, maps, optionals and names of constraints.
pub fn tensor_type(ty: &str) -> Option<DataType> {
    let name = ty.strip_prefix("tensor(")?.strip_suffix(')')?;
    DataType::ALL.iter().copied().find(|dtype| dtype.name() == name)
}

/// The version of `op_type` that holds in `opset`: the newest that is not newer. `None` for unknown ops and domains, and
/// when every version is newer. `domain` is "" (or "ai.onnx"), "ai.onnx.ml" and so on.
pub fn find(domain: &str, op_type: &str, opset: i64) -> Option<&'static Schema> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    let end = table::TABLE
        .partition_point(|schema| (schema.domain, schema.op_type, schema.since_version) <= (domain, op_type, opset));
    let schema = table::TABLE.get(end.checked_sub(1)?)?;
    (schema.domain == domain && schema.op_type == op_type).then_some(schema)
}

/// All versions of all ops, sorted by domain, type and version.
pub fn all() -> &'static [Schema] {
    table::TABLE
}

/// The newest opset of ONNX's own domain that the table knows.
pub fn newest() -> i64 {
    table::NEWEST
}

const fn formal(name: &'static str, ty: &'static str, occurrence: Occurrence, homogeneous: bool) -> Formal {
    Formal { name, ty, occurrence, homogeneous }
}
const fn single(name: &'static str, ty: &'static str) -> Formal {
    formal(name, ty, Occurrence::Single, true)
}
const fn optional(name: &'static str, ty: &'static str) -> Formal {
    formal(name, ty, Occurrence::Optional, true)
}
const fn variadic(name: &'static str, ty: &'static str) -> Formal {
    formal(name, ty, Occurrence::Variadic, true)
}
const fn mixed(name: &'static str, ty: &'static str) -> Formal {
    formal(name, ty, Occurrence::Variadic, false)
}
const fn attribute(name: &'static str, kind: Kind, required: bool, default: Default) -> Attribute {
    Attribute { name, kind, required, default }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_is_not_newer_is_found() {
        assert_eq!(find("", "Conv", 10).map(|schema| schema.since_version), Some(1));
        assert_eq!(find("", "Conv", 11).map(|schema| schema.since_version), Some(11));
        assert_eq!(find("ai.onnx", "Conv", 21).map(|schema| schema.since_version), Some(11));
        assert_eq!(find("", "LayerNormalization", 16), None);
        assert_eq!(find("", "NoSuchOp", 99), None);
        assert_eq!(find("com.microsoft", "Conv", 1), None);
        assert!(find("ai.onnx.ml", "Scaler", 3).is_some());
        assert!(find("", "Upsample", 10).is_some_and(|schema| schema.deprecated));
        assert!(all().iter().all(|schema| !schema.domain.is_empty() || schema.since_version <= newest()));
        assert!(find("", "Upsample", 9).is_some_and(|schema| !schema.deprecated));
    }

    #[test]
    fn arity_types_and_defaults_are_those_of_the_standard() {
        let conv = find("", "Conv", 11).expect("Conv");
        assert_eq!((conv.min_inputs, conv.max_inputs, conv.min_outputs, conv.max_outputs), (2, 3, 1, 1));
        assert_eq!(conv.input(2).map(|bias| (bias.name, bias.occurrence)), Some(("B", Occurrence::Optional)));
        assert_eq!(conv.attribute("group").map(|group| group.default), Some(Default::Int(1)));
        assert!(conv.allows(&conv.inputs[0], DataType::Float16) && !conv.allows(&conv.inputs[0], DataType::Int8));

        let concat = find("", "Concat", 13).expect("Concat");
        assert_eq!((concat.max_inputs, concat.input(7).map(|input| input.name)), (usize::MAX, Some("inputs")));
        assert!(concat.attribute("axis").is_some_and(|axis| axis.required && axis.kind == Kind::Int));
        assert!(!find("", "Loop", 13).expect("Loop").inputs[2].homogeneous);
        let elu = find("", "HardSigmoid", 6).expect("HardSigmoid");
        assert_eq!(elu.attribute("alpha").map(|alpha| alpha.default), Some(Default::Float(0.2)));
    }

    #[test]
    fn the_table_is_sorted_and_every_type_in_it_is_known() {
        let key = |schema: &Schema| (schema.domain, schema.op_type, schema.since_version);
        assert!(all().windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
        for schema in all() {
            for formal in schema.inputs.iter().chain(schema.outputs) {
                let known = schema.constraint(formal.ty).is_some() || formal.ty.contains('(');
                assert!(known, "{}: {}", schema.op_type, formal.ty);
            }
            for ty in schema.constraints.iter().flat_map(|constraint| constraint.allowed) {
                assert!(!ty.starts_with("tensor(") || tensor_type(ty).is_some(), "{}: {ty}", schema.op_type);
            }
        }
    }
}
