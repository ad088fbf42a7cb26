//! Identities of QuantizeLinear and DequantizeLinear.
//!
//! ```onnx before
//! # x: uint8[4]; s: float = {0.1}; z: uint8 = {3}
//! d = DequantizeLinear (x, s, z)
//! p = QuantizeLinear (d, s, z)
//! y = DequantizeLinear (p, s, z)
//! ```
//! ```onnx after
//! y = DequantizeLinear (x, s, z)
//! ```
//! In float32 both roundings together move an integer of 16 bits by less than 2^16 · 2^-23 < 1/2, so it comes back; with
//! the same zero point it cannot saturate.
//! **Never** drops DequantizeLinear of QuantizeLinear: that pair rounds and clips.
use egg::{Id, Subst, rewrite};
use onnx_shrink_ir::DataType;

use super::{EGraph, Rule, var};

/// Bit-equal rules.
#[rustfmt::skip]
pub fn exact() -> Vec<Rule> { vec![
    rewrite!("quantize-dequantize"; "(QuantizeLinear ?a (DequantizeLinear ?b ?q ?s ?z) ?s ?z)" => "?q"
        if same_small_integer("?q") if normal_scalar("?s") if one_zero_point("?z")),
]}

/// The result has the element type of `q`, an integer of 8 or 16 bits.
fn same_small_integer(q: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let q = var(q);
    move |egraph, id, subst| {
        let dtype = egraph[subst[q]].data.dtype;
        let small = matches!(dtype, Some(DataType::Uint8 | DataType::Int8 | DataType::Uint16 | DataType::Int16));
        small && egraph[id].data.dtype == dtype
    }
}

/// The scale is one constant float32, positive, and neither it nor 2^16 times it leaves the normal numbers.
fn normal_scalar(s: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let s = var(s);
    move |egraph, _, subst| {
        let data = &egraph[subst[s]].data;
        let scale = data.scalar().filter(|_| data.dtype == Some(DataType::Float));
        scale.is_some_and(|scale| scale >= f64::from(f32::MIN_POSITIVE) && scale * 65536.0 < f64::from(f32::MAX))
    }
}

/// The zero point is one constant, or left out.
fn one_zero_point(z: &str) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    let z = var(z);
    move |egraph, _, subst| {
        let data = &egraph[subst[z]].data;
        data.scalar().is_some() || data.attr.is_some()
    }
}
