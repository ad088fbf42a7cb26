//! The numbers of a tensor, between text and the bytes of `raw_data`.
//!
//! As in ONNX's own parser and printer, an integer in a tensor of float16, bfloat16 or one of the 8-bit, 6-bit and 4-bit
//! floats is a **bit pattern**: `float16[1] {15360}` is one. A float16 or bfloat16 tensor may also hold numbers with a
//! point or an exponent (`{1.0}`), which are rounded to nearest even: there ONNX's parser is narrower than this one.
use std::fmt::Write;

use half::{bf16, f16};

use super::lexer::Token;
use crate::{
    tensor::Tensor,
    types::DataType::{
        self, Bfloat16, Bool, Complex64, Complex128, Double, Float, Float16, Int2, Int4, Int8, Int16, Int32, Int64,
    },
};

/// Literals that `count` elements of `dtype` are written as: a complex number is two.
pub(super) fn literal_count(dtype: DataType, count: usize) -> Option<usize> {
    count.checked_mul(if matches!(dtype, Complex64 | Complex128) { 2 } else { 1 })
}

/// What a literal of `dtype` must be, for messages.
pub(super) fn literal_kind(dtype: DataType) -> String {
    match dtype {
        Float | Double | Complex64 | Complex128 => "a number".to_owned(),
        Float16 | Bfloat16 => format!("a number with a point, or the bit pattern of a {dtype} as an integer"),
        DataType::String => "a string in double quotes".to_owned(),
        Bool => "0 or 1".to_owned(),
        _ if is_signed(dtype) => {
            let half = 1i128 << (dtype.bits() - 1);
            format!("an integer from {} to {}", -half, half - 1)
        }
        _ => format!("an integer from 0 to {}", (1i128 << dtype.bits()) - 1),
    }
}

fn is_signed(dtype: DataType) -> bool {
    matches!(dtype, Int8 | Int16 | Int32 | Int64 | Int4 | Int2)
}

/// The bits of the element that `token` writes; `None` when it is no literal of `dtype`.
/// For complex types, the bits of one part. Not for strings, nor 128-bit elements.
pub(super) fn literal_bits(dtype: DataType, token: &Token<'_>) -> Option<u64> {
    match (dtype, token) {
        (Float | Complex64, Token::Integer(text) | Token::Real(text) | Token::Word(text)) => {
            text.parse::<f32>().ok().map(|number| u64::from(number.to_bits()))
        }
        (Double | Complex128, Token::Integer(text) | Token::Real(text) | Token::Word(text)) => {
            text.parse::<f64>().ok().map(f64::to_bits)
        }
        (Float16, Token::Real(text) | Token::Word(text)) => {
            text.parse().ok().map(|number| u64::from(f16::from_f64(number).to_bits()))
        }
        (Bfloat16, Token::Real(text) | Token::Word(text)) => {
            text.parse().ok().map(|number| u64::from(bf16::from_f64(number).to_bits()))
        }
        (DataType::String, _) => None,
        (_, Token::Integer(text)) => {
            let number: i128 = text.parse().ok()?;
            let bits = dtype.bits();
            let (low, high) = match dtype {
                Bool => (0, 1),
                _ if is_signed(dtype) => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
                _ => (0, (1i128 << bits) - 1),
            };
            (low..=high).contains(&number).then_some((number & ((1i128 << bits) - 1)) as u64)
        }
        _ => None,
    }
}

/// Elements one after the other, without gaps, the first in the low bits: what `raw_data` holds.
pub(super) struct Packer {
    width: usize,
    bytes: Vec<u8>,
    /// Bits of the last byte that are taken, 0 when it is full
    taken: usize,
}

impl Packer {
    /// For literals of `dtype`.
    pub(super) fn new(dtype: DataType) -> Packer {
        let width = if matches!(dtype, Complex64 | Complex128) { dtype.bits() / 2 } else { dtype.bits() };
        Packer { width, bytes: Vec::new(), taken: 0 }
    }

    pub(super) fn push(&mut self, bits: u64) {
        if self.width.is_multiple_of(8) {
            self.bytes.extend_from_slice(&bits.to_le_bytes()[..self.width / 8]);
            return;
        }
        for place in 0..self.width {
            if self.taken == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= (((bits >> place) & 1) as u8) << self.taken;
            }
            self.taken = (self.taken + 1) % 8;
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Writes the elements of `tensor` in braces: `{1, 2.5}`.
pub(super) fn write_values(out: &mut String, tensor: &Tensor) {
    out.push('{');
    if let Some(strings) = tensor.as_strings() {
        for (index, text) in strings.iter().enumerate() {
            separate(out, index);
            super::print::write_quoted(out, &String::from_utf8_lossy(text));
        }
    } else if let Some(bytes) = tensor.bytes() {
        let dtype = tensor.dtype();
        let parts = Packer::new(dtype).width;
        for index in 0..literal_count(dtype, tensor.len()).unwrap_or(0) {
            separate(out, index);
            write_number(out, dtype, unpack(bytes, index, parts));
        }
    }
    out.push('}');
}

fn separate(out: &mut String, index: usize) {
    if index > 0 {
        out.push_str(", ");
    }
}

fn unpack(bytes: &[u8], index: usize, width: usize) -> u64 {
    if width.is_multiple_of(8) {
        let size = width / 8;
        let mut word = [0; 8];
        word[..size].copy_from_slice(&bytes[index * size..(index + 1) * size]);
        return u64::from_le_bytes(word);
    }
    (0..width).fold(0, |bits, place| {
        let at = index * width + place;
        bits | u64::from((bytes[at / 8] >> (at % 8)) & 1) << place
    })
}

fn write_number(out: &mut String, dtype: DataType, bits: u64) {
    match dtype {
        Float | Complex64 => out.push_str(short(&real(f32::from_bits(bits as u32)))),
        Double | Complex128 => out.push_str(short(&real(f64::from_bits(bits)))),
        _ if is_signed(dtype) => {
            let unused = 64 - dtype.bits();
            let _ = write!(out, "{}", ((bits << unused) as i64) >> unused);
        }
        _ => {
            let _ = write!(out, "{bits}");
        }
    }
}

/// The shortest text that reads as the same number and is no integer: `1.0`, `1e-5`, `-inf`, `nan`.
pub(super) fn real<T: std::fmt::Debug + Copy + Into<f64>>(number: T) -> String {
    let wide: f64 = number.into();
    match wide.is_nan() {
        true if wide.is_sign_negative() => "-nan".to_owned(),
        true => "nan".to_owned(),
        false => format!("{number:?}"),
    }
}

/// Without a fraction of zero: in a tensor of floats an integer is a number, too.
fn short(text: &str) -> &str {
    text.strip_suffix(".0").unwrap_or(text)
}
