//! Why a rewrite did not happen: the third of three sorts of "no".
//!
//! Not my pattern, and no effect: both silent. A legal condition that failed: a [`Miss`], which names the value that
//! stood in the way and, where there is one, the way out.
use std::fmt;

use onnx_shrink_ir::{Graph, ValueId};
use serde::{Serialize, Serializer};

/// A legal condition that failed. A rewrite gives it with the values of its graph; the journal keeps it with their names
/// ([`Miss::named`]), which outlive the graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Miss<V = ValueId> {
    /// Not the pattern of this rewrite; never reported
    NotThisPattern,
    /// A value that would have to be constant
    NotConstant(V),
    /// A value that someone else uses, too
    OtherUses(V),
    /// A value that is not finite, or would not be
    NotFinite(V),
    /// A value whose shape or type would have to be known
    UnknownType(V),
    /// A value whose range does not follow from the model
    NoRange(V),
    /// An attribute or shape that this rewrite has no rule for
    Form(&'static str),
    /// The layer is quantized in the file: its weight is, or what it reads and makes
    Quantized,
    /// Its weight is computed from constants, and stays so: as one constant it would take more bytes
    Computed,
    /// The weight is the first operand
    WeightFirst,
    /// It would make the file larger, by so many bytes
    Grows {
        /// Bytes that would be added
        added: usize,
        /// Bytes that would go
        removed: usize,
    },
    /// The engine cannot compute it
    NotComputed(String),
    /// The user said so
    Kept(String),
    /// It does not pay on this target
    DoesNotPay(String),
    /// A limit on the work was met before nothing was left to do
    Limit(String),
    /// The result was wrong with it: what was wrong
    LeftOut(String),
    /// The rewrite contradicts itself, a mistake of this program: what it would have made
    Bug(String),
}

/// A value as a report names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// Its name; `None` when the graph has lost it
    pub name: Option<String>,
    /// Where it comes from
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An op makes it, or it is an initializer
    Graph,
    /// The caller gives it
    Input,
    /// The caller may give it; else it is an initializer
    InputWithDefault,
}

impl Miss {
    /// Whether it is worth a line in the report.
    pub fn is_worth_reporting(&self) -> bool {
        *self != Miss::NotThisPattern
    }

    /// The same with the names that values have in `graph`.
    pub fn named(&self, graph: &Graph) -> Miss<Named> {
        let named = |value: &ValueId| match graph.has_value(*value) {
            false => Named { name: None, origin: Origin::Graph },
            true => Named {
                name: Some(graph.name_of(*value).to_owned()),
                origin: match (graph.is_input(*value), graph.default_of(*value)) {
                    (false, _) => Origin::Graph,
                    (true, None) => Origin::Input,
                    (true, Some(_)) => Origin::InputWithDefault,
                },
            },
        };
        match self {
            Miss::NotThisPattern => Miss::NotThisPattern,
            Miss::NotConstant(value) => Miss::NotConstant(named(value)),
            Miss::OtherUses(value) => Miss::OtherUses(named(value)),
            Miss::NotFinite(value) => Miss::NotFinite(named(value)),
            Miss::UnknownType(value) => Miss::UnknownType(named(value)),
            Miss::NoRange(value) => Miss::NoRange(named(value)),
            Miss::Form(what) => Miss::Form(what),
            Miss::Quantized => Miss::Quantized,
            Miss::Computed => Miss::Computed,
            Miss::WeightFirst => Miss::WeightFirst,
            Miss::Grows { added, removed } => Miss::Grows { added: *added, removed: *removed },
            Miss::NotComputed(why) => Miss::NotComputed(why.clone()),
            Miss::Kept(why) => Miss::Kept(why.clone()),
            Miss::DoesNotPay(why) => Miss::DoesNotPay(why.clone()),
            Miss::Limit(what) => Miss::Limit(what.clone()),
            Miss::LeftOut(what) => Miss::LeftOut(what.clone()),
            Miss::Bug(what) => Miss::Bug(what.clone()),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "`{name}`"),
            None => f.write_str("a value"),
        }
    }
}

/// The sentence for the report.
impl fmt::Display for Miss<Named> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::NotThisPattern => f.write_str("not the pattern of this rewrite"),
            Miss::NotConstant(value) => match value.origin {
                Origin::Graph => write!(f, "{value} is not constant"),
                Origin::Input => write!(f, "{value} is a graph input, not constant"),
                Origin::InputWithDefault => write!(
                    f,
                    "{value} is a graph input with a default, so it may change; --freeze-initializers makes it constant"
                ),
            },
            Miss::OtherUses(value) => write!(f, "{value} has other uses"),
            Miss::NotFinite(value) => write!(f, "{value} has values that are not finite"),
            Miss::UnknownType(value) => write!(f, "the shape or type of {value} is not known"),
            Miss::NoRange(value) => write!(f, "no range of {value} follows from the model"),
            Miss::Form(what) => write!(f, "no rule for this form: {what}"),
            Miss::Quantized => f.write_str("it is quantized already"),
            Miss::Computed => f.write_str(
                "its weight is computed from constants, which take no more bytes than the weight in 8 bits would",
            ),
            Miss::WeightFirst => f.write_str("no rule for this form: the weight is the first operand"),
            Miss::Grows { added, removed } => write!(f, "the file would grow: {added} bytes come, {removed} go"),
            Miss::NotComputed(why) => write!(f, "not computed: {why}"),
            Miss::Kept(why) => write!(f, "kept: {why}"),
            Miss::DoesNotPay(why) => write!(f, "does not pay: {why}"),
            Miss::Limit(what) => write!(f, "a limit was met: {what}"),
            Miss::LeftOut(what) => write!(f, "left out: with it {what}"),
            Miss::Bug(what) => write!(f, "{what}: this is a bug, please report it with the model"),
        }
    }
}

/// As its sentence: reports are read by people, and by programs that show them to people.
impl Serialize for Miss<Named> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Miss;
    use crate::testing::parse;

    #[test]
    fn only_an_input_with_a_default_is_said_to_have_one() {
        let graph = parse("g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { t = Neg (x)  y = Add (t, w) }").graph;
        let sentence = |name: &str| Miss::NotConstant(graph.find(name).unwrap()).named(&graph).to_string();
        assert_eq!(sentence("x"), "`x` is a graph input, not constant");
        assert!(sentence("w").contains("a graph input with a default"), "{}", sentence("w"));
        assert_eq!(sentence("t"), "`t` is not constant");
    }
}
