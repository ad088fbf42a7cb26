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
//! A Relu or Clip goes where the range says as much: before a Quantize that saturates there, behind a Dequantize that makes
//! nothing beyond (pair rules 1 and 4 of `docs/methods.md` §3).
//!
//! In float32 both roundings together move an integer of 16 bits by less than 2^16 · 2^-23 < 1/2, so it comes back; with
//! the same zero point it cannot saturate.
//! **Never** drops DequantizeLinear of QuantizeLinear: that pair rounds and clips.
use egg::{Id, Subst, rewrite};
use onnx_shrink_ir::DataType;

use super::{EGraph, Rule, analysis::attr, language::Attr, var};

/// Bit-equal rules.
pub fn exact() -> Vec<Rule> {
    meeting().into_iter().chain(activations()).collect()
}

/// Those by which pairs meet: what they leave reads the same for whoever does not keep a range.
#[rustfmt::skip]
pub fn meeting() -> Vec<Rule> { vec![
    rewrite!("quantize-dequantize"; "(QuantizeLinear ?a (DequantizeLinear ?b ?q ?s ?z) ?s ?z)" => "?q"
        if same_small_integer("?q") if normal_scalar("?s") if one_zero_point("?z")),
]}

/// Those by which an activation goes that the range of a pair implies.
#[rustfmt::skip]
pub fn activations() -> Vec<Rule> { vec![
    rewrite!("quantize-saturates-as-relu"; "(QuantizeLinear ?a (Relu ?x) ?s ?z)"          => "(QuantizeLinear ?a ?x ?s ?z)"   if normal_scalar("?s") if saturates(None)),
    rewrite!("quantize-saturates-as-clip"; "(QuantizeLinear ?a (Clip ?x ?lo ?hi) ?s ?z)"  => "(QuantizeLinear ?a ?x ?s ?z)"   if normal_scalar("?s") if saturates(Some(("?lo", "?hi")))),
    rewrite!("relu-of-dequantize";         "(Relu (DequantizeLinear ?a ?q ?s ?z))"         => "(DequantizeLinear ?a ?q ?s ?z)" if normal_scalar("?s") if within(None)),
    rewrite!("clip-of-dequantize";         "(Clip (DequantizeLinear ?a ?q ?s ?z) ?lo ?hi)" => "(DequantizeLinear ?a ?q ?s ?z)" if normal_scalar("?s") if within(Some(("?lo", "?hi")))),
]}

/// Least and largest number of an integer type of 8 or 16 bits.
fn span(dtype: DataType) -> Option<(f64, f64)> {
    Some(match dtype {
        DataType::Uint8 => (0.0, 255.0),
        DataType::Int8 => (-128.0, 127.0),
        DataType::Uint16 => (0.0, 65535.0),
        DataType::Int16 => (-32768.0, 32767.0),
        _ => return None,
    })
}

/// The bounds of a Relu (`None`) or a Clip; `None` when they are not known, or cross.
fn bounds(egraph: &EGraph, subst: &Subst, clip: Option<(&str, &str)>) -> Option<(f32, f32)> {
    let Some((lo, hi)) = clip else { return Some((0.0, f32::INFINITY)) };
    let bound = |name: &str, absent: f32| {
        let id = subst[var(name)];
        match attr(egraph, id) {
            Some(Attr::Absent) => Some(absent),
            Some(Attr::Bound(bits)) => Some(f32::from_bits(*bits)),
            Some(_) => None,
            None => egraph[id].data.scalar().map(|bound| bound as f32),
        }
    };
    let (lo, hi) = (bound(lo, f32::NEG_INFINITY)?, bound(hi, f32::INFINITY)?);
    (lo <= hi).then_some((lo, hi))
}

/// The scale ?s and the zero point ?z of a pair.
fn parameters(egraph: &EGraph, subst: &Subst) -> Option<(f32, f64)> {
    let scale = egraph[subst[var("?s")]].data.scalar()? as f32;
    let zero_point = &egraph[subst[var("?z")]].data;
    Some((scale, if zero_point.attr.is_some() { 0.0 } else { zero_point.scalar()? }))
}

/// The Quantize makes its least number of all up to the lower bound, and its largest of all from the upper one on.
fn saturates(clip: Option<(&'static str, &'static str)>) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    move |egraph, id, subst| {
        let known = || {
            let (low, high) = span(egraph[id].data.dtype?)?;
            let (scale, zero_point) = parameters(egraph, subst)?;
            let (lo, hi) = bounds(egraph, subst, clip)?;
            let made = |x: f32| f64::from((x / scale).round_ties_even()) + zero_point;
            Some(made(lo) <= low && made(hi) >= high)
        };
        known().unwrap_or(false)
    }
}

/// The Dequantize makes nothing beyond the bounds.
fn within(clip: Option<(&'static str, &'static str)>) -> impl Fn(&mut EGraph, Id, &Subst) -> bool + use<> {
    move |egraph, _, subst| {
        let known = || {
            let (low, high) = span(egraph[subst[var("?q")]].data.dtype?)?;
            let (scale, zero_point) = parameters(egraph, subst)?;
            let (lo, hi) = bounds(egraph, subst, clip)?;
            let made = |q: f64| (q - zero_point) as f32 * scale;
            // (Which zero is less than the other, ONNX leaves open.)
            let plain = |bound: f32| bound != 0.0 || bound.is_sign_positive();
            Some(plain(lo) && plain(hi) && made(low) >= lo && made(high) <= hi)
        };
        known().unwrap_or(false)
    }
}

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
