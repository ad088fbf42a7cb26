//! Arrays to the element type that a model's input has.
//!
//! Rounding to a narrower float is allowed; **nothing** else that would change a value: an integer out of range, a float with
//! a fraction for an integer input, an overflow to infinity.
use onnx_shrink_ir::{DataType, Tensor};

/// `tensor` as `dtype`; the error says which value stands in the way.
pub(super) fn convert(tensor: &Tensor, dtype: DataType) -> Result<Tensor, String> {
    let from = tensor.dtype();
    if from == dtype {
        return Ok(tensor.clone());
    }
    let impossible = || format!("{from} does not become {dtype}");
    if from == DataType::String || dtype == DataType::String {
        return Err(impossible());
    }
    if (from.is_integer() || from == DataType::Bool) && (dtype.is_integer() || dtype == DataType::Bool) {
        let numbers = tensor.to_i64_vec().ok_or_else(impossible)?;
        return integers(tensor.dims(), &numbers, dtype).ok_or_else(impossible)?;
    }
    let array = tensor.to_f64().ok_or_else(impossible)?;
    let made = Tensor::from_f64(dtype, &array).ok_or_else(impossible)?;
    let narrows = from.is_float() && dtype.is_float();
    let back = made.to_f64_vec().ok_or_else(impossible)?;
    let differs = |(before, after): (&f64, &f64)| match narrows {
        true => before.is_finite() && !after.is_finite(),
        false => before != after, // NaN differs from itself, and is none of the integers
    };
    match array.iter().zip(&back).enumerate().find(|(_, pair)| differs(*pair)) {
        Some((place, (value, _))) => Err(format!("{value} (at place {place}) cannot be {dtype} without loss")),
        None => Ok(made),
    }
}

fn integers(dims: &[usize], numbers: &[i64], dtype: DataType) -> Option<Result<Tensor, String>> {
    macro_rules! checked {
        ($type:ty) => {{
            let place = numbers.iter().position(|&number| <$type>::try_from(number).is_err());
            match place {
                Some(place) => Err(format!("{} (at place {place}) is out of the range of {dtype}", numbers[place])),
                None => Ok(Tensor::from_vec(dims, numbers.iter().map(|&number| number as $type).collect())),
            }
        }};
    }
    Some(match dtype {
        DataType::Uint8 => checked!(u8),
        DataType::Int8 => checked!(i8),
        DataType::Uint16 => checked!(u16),
        DataType::Int16 => checked!(i16),
        DataType::Uint32 => checked!(u32),
        DataType::Int32 => checked!(i32),
        DataType::Uint64 => checked!(u64),
        DataType::Int64 => checked!(i64),
        DataType::Bool => match numbers.iter().position(|number| !matches!(number, 0 | 1)) {
            Some(place) => Err(format!("{} (at place {place}) is neither 0 nor 1", numbers[place])),
            None => Ok(Tensor::from_bools(dims, &numbers.iter().map(|&number| number != 0).collect::<Vec<_>>())),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use half::f16;
    use onnx_shrink_ir::{DataType, Tensor};

    use super::convert;

    #[test]
    fn floats_round_and_integers_keep_their_value() {
        let doubles = Tensor::from_vec(&[2], vec![0.1f64, -3.0]);
        assert_eq!(convert(&doubles, DataType::Float).unwrap(), Tensor::from_vec(&[2], vec![0.1f32, -3.0]));
        let halves = Tensor::from_vec(&[2], vec![f16::from_f64(0.1), f16::from_f64(-3.0)]);
        assert_eq!(convert(&doubles, DataType::Float16).unwrap(), halves);
        let longs = Tensor::from_vec(&[2], vec![255i64, 0]);
        assert_eq!(convert(&longs, DataType::Uint8).unwrap(), Tensor::from_vec(&[2], vec![255u8, 0]));
        assert_eq!(convert(&longs, DataType::Float).unwrap(), Tensor::from_vec(&[2], vec![255f32, 0.0]));
        let bools = Tensor::from_bools(&[1], &[true]);
        assert_eq!(convert(&bools, DataType::Int64).unwrap(), Tensor::from_vec(&[1], vec![1i64]));
        let whole = Tensor::from_vec(&[1], vec![7f32]);
        assert_eq!(convert(&whole, DataType::Int32).unwrap(), Tensor::from_vec(&[1], vec![7i32]));
        let large = Tensor::from_vec(&[1], vec![i64::MAX]);
        assert_eq!(convert(&large, DataType::Uint64).unwrap(), Tensor::from_vec(&[1], vec![i64::MAX as u64]));
    }

    #[test]
    fn what_would_change_a_value_is_refused() {
        for (tensor, dtype, part) in [
            (Tensor::scalar(256i64), DataType::Uint8, "256 (at place 0) is out of the range of uint8"),
            (Tensor::scalar(-1i64), DataType::Uint64, "out of the range"),
            (Tensor::scalar(2u8), DataType::Bool, "neither 0 nor 1"),
            (Tensor::scalar(0.5f32), DataType::Int64, "0.5 (at place 0) cannot be int64"),
            (Tensor::scalar(f32::NAN), DataType::Int64, "without loss"),
            (Tensor::scalar(1e5f32), DataType::Float16, "100000 (at place 0) cannot be float16"),
            (Tensor::scalar((1i64 << 24) + 1), DataType::Float, "16777217"),
            (Tensor::scalar(1f32), DataType::String, "float does not become string"),
        ] {
            let error = convert(&tensor, dtype).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
