//! Why a rewrite did not happen: the third of three sorts of "no".
//!
//! Not my pattern, and no effect: both silent. A legal condition that failed: a [`Miss`], which names the value that
//! stood in the way and, where there is one, the way out.
use onnx_shrink_ir::{Graph, ValueId};

/// A legal condition that failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Miss {
    /// Not the pattern of this rewrite; never reported
    NotThisPattern,
    /// A value that would have to be constant
    NotConstant(ValueId),
    /// A value that someone else uses, too
    OtherUses(ValueId),
    /// A value that is not finite, or would not be
    NotFinite(ValueId),
    /// A value whose shape or type would have to be known
    UnknownType(ValueId),
    /// A value whose range does not follow from the model
    NoRange(ValueId),
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
}

impl Miss {
    /// Whether it is worth a line in the report.
    pub fn is_worth_reporting(&self) -> bool {
        *self != Miss::NotThisPattern
    }

    /// The sentence for the report.
    pub fn sentence(&self, graph: &Graph) -> String {
        let name = |value: &ValueId| if graph.has_value(*value) { graph.name_of(*value) } else { "a value" };
        match self {
            Miss::NotThisPattern => "not the pattern of this rewrite".to_owned(),
            Miss::NotConstant(value) if graph.has_value(*value) && graph.is_input(*value) => {
                match graph.default_of(*value) {
                    Some(_) => format!(
                        "`{}` is a graph input with a default, so it may change; --freeze-initializers makes it constant",
                        name(value)
                    ),
                    None => format!("`{}` is a graph input, not constant", name(value)),
                }
            }
            Miss::NotConstant(value) => format!("`{}` is not constant", name(value)),
            Miss::OtherUses(value) => format!("`{}` has other uses", name(value)),
            Miss::NotFinite(value) => format!("`{}` has values that are not finite", name(value)),
            Miss::UnknownType(value) => format!("the shape or type of `{}` is not known", name(value)),
            Miss::NoRange(value) => format!("no range of `{}` follows from the model", name(value)),
            Miss::Form(what) => format!("no rule for this form: {what}"),
            Miss::Quantized => "it is quantized already".to_owned(),
            Miss::Computed => {
                "its weight is computed from constants, which take no more bytes than the weight in 8 bits would"
                    .to_owned()
            }
            Miss::WeightFirst => "no rule for this form: the weight is the first operand".to_owned(),
            Miss::Grows { added, removed } => format!("the file would grow: {added} bytes come, {removed} go"),
            Miss::NotComputed(why) => format!("not computed: {why}"),
            Miss::Kept(why) => format!("kept: {why}"),
            Miss::DoesNotPay(why) => format!("does not pay: {why}"),
            Miss::Limit(what) => format!("a limit was met: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Miss;
    use crate::testing::parse;

    #[test]
    fn only_an_input_with_a_default_is_said_to_have_one() {
        let graph = parse("g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { t = Neg (x)  y = Add (t, w) }").graph;
        let sentence = |name: &str| Miss::NotConstant(graph.find(name).unwrap()).sentence(&graph);
        assert_eq!(sentence("x"), "`x` is a graph input, not constant");
        assert!(sentence("w").contains("a graph input with a default"), "{}", sentence("w"));
        assert_eq!(sentence("t"), "`t` is not constant");
    }
}
