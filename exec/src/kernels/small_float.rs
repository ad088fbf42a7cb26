//! The storage floats of 8 and 4 bits: decoding and encoding.
//!
//! One codec for all: a sign, an exponent field, a mantissa field, and which codes are not finite. Encoding rounds half
//! to even. Formats: Micikevicius et al. 2022, arXiv 2209.05433 (E4M3, E5M2); the `fnuz` variants of arXiv 2206.02915;
//! OCP Microscaling 1.0 (E2M1, E8M0).
use onnx_shrink_ir::DataType;

/// A format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    mantissa: u32,
    bias: i32,
    /// The largest finite code without its sign
    largest: u8,
    /// The code of infinity without its sign, if there is one
    infinity: Option<u8>,
    /// The code of NaN, if there is one
    nan: Option<u8>,
    sign: u8,
    /// Whether minus zero is a code of its own
    minus_zero: bool,
    /// Whether the sign bit alone is the only NaN
    unsigned_nan: bool,
}

impl Format {
    /// The format of `dtype`; `None` for types that are not of this family.
    pub(super) fn of(dtype: DataType) -> Option<Format> {
        let eight = Format {
            mantissa: 3,
            bias: 7,
            largest: 0x7E,
            infinity: None,
            nan: Some(0x7F),
            sign: 0x80,
            minus_zero: true,
            unsigned_nan: false,
        };
        let fnuz = Format { largest: 0x7F, nan: Some(0x80), minus_zero: false, unsigned_nan: true, ..eight };
        Some(match dtype {
            DataType::Float8e4m3fn => eight,
            DataType::Float8e4m3fnuz => Format { bias: 8, ..fnuz },
            DataType::Float8e5m2 => {
                Format { mantissa: 2, bias: 15, largest: 0x7B, infinity: Some(0x7C), nan: Some(0x7E), ..eight }
            }
            DataType::Float8e5m2fnuz => Format { mantissa: 2, bias: 16, ..fnuz },
            DataType::Float4e2m1 => Format { mantissa: 1, bias: 1, largest: 7, nan: None, sign: 8, ..eight },
            _ => return None,
        })
    }

    fn magnitude(self, code: u8) -> f64 {
        let fraction = f64::from(code & ((1 << self.mantissa) - 1)) / f64::from(1u32 << self.mantissa);
        match i32::from(code >> self.mantissa) {
            0 => fraction * 2f64.powi(1 - self.bias),
            exponent => (1.0 + fraction) * 2f64.powi(exponent - self.bias),
        }
    }

    /// The number that `code` stands for.
    pub(super) fn decode(self, code: u8) -> f32 {
        let (sign, code_without_sign) = (code & self.sign, code & (self.sign - 1));
        if self.unsigned_nan {
            if code == self.sign {
                return f32::NAN;
            }
        } else if self.nan.is_some() && code_without_sign > self.infinity.unwrap_or(self.largest) {
            return f32::NAN;
        }
        let magnitude = if Some(code_without_sign) == self.infinity {
            f32::INFINITY
        } else {
            self.magnitude(code_without_sign) as f32
        };
        if sign == 0 { magnitude } else { -magnitude }
    }

    /// The code nearest to `x`. Beyond the largest number: that number when `saturate`, else infinity or NaN. A format
    /// without NaN has no answer to it; minus zero is that of ONNX's own cases.
    pub(super) fn encode(self, x: f32, saturate: bool) -> u8 {
        let sign = if x.is_sign_negative() { self.sign } else { 0 };
        let signed = |code: u8| if code == 0 && !self.minus_zero { 0 } else { code | sign };
        if x.is_nan() {
            return match self.nan {
                Some(nan) if self.unsigned_nan => nan,
                Some(nan) => nan | sign,
                None => self.sign,
            };
        }
        let magnitude = f64::from(x.abs());
        // Codes grow with the numbers, so the nearest lies at the end of a binary search.
        let (mut low, mut high) = (0u8, self.largest);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.magnitude(middle) <= magnitude { low = middle } else { high = middle - 1 }
        }
        let below = self.magnitude(low);
        let above = self.magnitude(low + 1);
        let (down, up) = (magnitude - below, above - magnitude);
        let code = if up < down || (up == down && low % 2 == 1) { low + 1 } else { low };
        if code <= self.largest && x.is_finite() {
            return signed(code);
        }
        match (saturate, self.infinity, self.nan) {
            (true, ..) | (_, None, None) => signed(self.largest),
            (false, Some(infinity), _) => signed(infinity),
            (false, None, Some(nan)) if self.unsigned_nan => nan,
            (false, None, Some(nan)) => nan | sign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_a_round_trip() {
        for dtype in [
            DataType::Float8e4m3fn,
            DataType::Float8e4m3fnuz,
            DataType::Float8e5m2,
            DataType::Float8e5m2fnuz,
            DataType::Float4e2m1,
        ] {
            let format = Format::of(dtype).expect("a small float");
            for code in 0..=(format.sign | (format.sign - 1)) {
                let number = format.decode(code);
                if number.is_nan() {
                    assert!(format.decode(format.encode(number, true)).is_nan(), "{dtype} {code}");
                } else {
                    assert_eq!(format.encode(number, false), code, "{dtype} {code} {number}");
                }
            }
        }
    }

    #[test]
    fn known_numbers() {
        let format = |dtype| Format::of(dtype).expect("a small float");
        let e4m3 = format(DataType::Float8e4m3fn);
        assert_eq!(e4m3.decode(0x7E), 448.0);
        assert_eq!(e4m3.encode(1e6, true), 0x7E);
        assert_eq!(e4m3.encode(-1e6, false), 0xFF);
        assert_eq!(e4m3.encode(464.0, true), 0x7E);
        let e5m2 = format(DataType::Float8e5m2);
        assert_eq!(e5m2.decode(0x7B), 57344.0);
        assert_eq!(e5m2.encode(f32::INFINITY, true), 0x7B);
        assert_eq!(e5m2.encode(f32::INFINITY, false), 0x7C);
        assert_eq!(format(DataType::Float8e4m3fnuz).encode(-0.0, true), 0);
        // A tie between 2 and 3 goes to the even code.
        assert_eq!(format(DataType::Float4e2m1).encode(2.5, true), format(DataType::Float4e2m1).encode(2.0, true));
    }
}
