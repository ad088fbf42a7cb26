//! Identities of Cast.
//!
//! ```onnx before
//! # x: uint8[2]
//! a = Cast <to = 10> (x)
//! y = Cast <to = 1> (a)
//! ```
//! ```onnx after
//! y = Cast <to = 1> (x)
//! ```
//! **Legal when** the inner cast keeps every number, and the outer one depends on the number alone.
//! **Does not** touch casts to or from strings and 8-bit floats, nor a narrowing inner cast: it rounds or clips.
use egg::{Id, Subst, rewrite};
use onnx_shrink_ir::DataType;

use super::{EGraph, Rule, analysis::attr, language::Attr, var};

/// Bit-equal rules.
#[rustfmt::skip]
pub fn exact() -> Vec<Rule> { vec![
    rewrite!("cast-to-same"; "(Cast ?t ?x)"            => "?x"           if is_of_type("?x", "?t")),
    rewrite!("cast-of-cast"; "(Cast ?t (Cast ?u ?x))"  => "(Cast ?t ?x)" if keeps_every_number("?x", "?u", "?t")),
]}

fn target(egraph: &EGraph, id: Id) -> Option<DataType> {
    if let Some(Attr::To(to)) = attr(egraph, id) { Some(*to) } else { None }
}

/// `x` has the element type `t` already.
fn is_of_type(x: &str, t: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let (x, t) = (var(x), var(t));
    move |egraph, _, subst| {
        let dtype = egraph[subst[x]].data.dtype;
        dtype.is_some() && dtype == target(egraph, subst[t])
    }
}

/// Type `u` holds every number of `x`, and casting to `t` looks at the number only.
fn keeps_every_number(x: &str, u: &str, t: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let (x, u, t) = (var(x), var(u), var(t));
    move |egraph, _, subst| {
        let (Some(from), Some(inner), Some(outer)) =
            (egraph[subst[x]].data.dtype, target(egraph, subst[u]), target(egraph, subst[t]))
        else {
            return false;
        };
        let plain = outer.is_float() || outer == DataType::Bool || whole(outer).is_some();
        plain && holds(inner, from)
    }
}

/// Bits of an integer of at least 8 bits, and whether it is signed.
fn whole(dtype: DataType) -> Option<(u32, bool)> {
    use DataType::*;
    Some(match dtype {
        Int8 => (8, true),
        Int16 => (16, true),
        Int32 => (32, true),
        Int64 => (64, true),
        Uint8 => (8, false),
        Uint16 => (16, false),
        Uint32 => (32, false),
        Uint64 => (64, false),
        _ => return None,
    })
}

/// Whether every number of type `from`, infinities and signed zero included, is one of type `to`.
fn holds(to: DataType, from: DataType) -> bool {
    use DataType::*;
    let significand = |dtype| match dtype {
        Bfloat16 => Some(8),
        Float16 => Some(11),
        Float => Some(24),
        Double => Some(53),
        _ => None,
    };
    if from == to {
        return from.is_float() || from == Bool || whole(from).is_some();
    }
    match (from, to) {
        (Float16 | Bfloat16, Float | Double) | (Float, Double) => true,
        (Bool, Float | Double | Float16 | Bfloat16) => true,
        (Bool, to) => whole(to).is_some(),
        (from, to) => match (whole(from), whole(to), significand(to)) {
            (Some((bits, _)), None, Some(significand)) => bits <= significand,
            (Some((bits, signed)), Some((to_bits, to_signed)), _) => {
                if signed == to_signed {
                    bits <= to_bits
                } else {
                    !signed && bits < to_bits
                }
            }
            _ => false,
        },
    }
}
