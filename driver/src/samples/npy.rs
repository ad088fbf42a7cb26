//! numpy's .npy: a header of one Python dict, then the numbers.
//!
//! Why a reader of our own: 16-bit floats and strings, and a header that lies about the shape must not cost memory
//! (format: numpy/lib/format.py, "NEP 1"). **Never** allocates more than bytes that are really there.
use std::io::{self, Read};

use bytes::Bytes;
use onnx_shrink_ir::{DataType, Tensor, TensorType, element_count};

/// Longest header that is read. numpy's own are below 1 KiB.
const MAX_HEADER: usize = 64 << 10;
/// Largest array of one sample.
const MAX_ARRAY: u64 = 1 << 30;

/// How the elements of an array lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number(DataType),
    /// UTF-32, this many characters an element
    Unicode(usize),
    /// Bytes, this many an element
    Bytes(usize),
}

/// What stands in front of the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    kind: Kind,
    big_endian: bool,
    fortran: bool,
    pub(super) dims: Vec<usize>,
    /// Bytes of the header itself: where the numbers begin
    pub(super) len: u64,
}

impl Header {
    /// Reads a header.
    pub(super) fn read(file: &mut dyn Read) -> Result<Header, String> {
        let no_array = |_| "this is no .npy array, or it is cut off".to_owned();
        let mut magic = [0; 8];
        file.read_exact(&mut magic).map_err(no_array)?;
        if &magic[..6] != b"\x93NUMPY" {
            return Err("this is no .npy array".to_owned());
        }
        let (len, start) = match magic[6] {
            1 => {
                let mut len = [0; 2];
                file.read_exact(&mut len).map_err(no_array)?;
                (usize::from(u16::from_le_bytes(len)), 10)
            }
            2 | 3 => {
                let mut len = [0; 4];
                file.read_exact(&mut len).map_err(no_array)?;
                (u32::from_le_bytes(len) as usize, 12)
            }
            version => return Err(format!(".npy version {version} is unknown")),
        };
        if len > MAX_HEADER {
            return Err(format!("its header has {len} bytes: it is damaged"));
        }
        let mut text = vec![0; len];
        file.read_exact(&mut text).map_err(no_array)?;
        let text = String::from_utf8_lossy(&text);
        let descr = value_of(&text, "descr").ok_or("its header has no `descr`")?;
        let fortran = match value_of(&text, "fortran_order") {
            Some("True") => true,
            Some("False") => false,
            _ => return Err("its header has no `fortran_order`".to_owned()),
        };
        let dims = value_of(&text, "shape").and_then(parse_shape).ok_or("its header has no `shape`")?;
        let (kind, big_endian) = parse_descr(descr)?;
        Ok(Header { kind, big_endian, fortran, dims, len: (start + len) as u64 })
    }

    /// Bytes of one element.
    fn item(&self) -> usize {
        match self.kind {
            Kind::Number(dtype) => dtype.bits() / 8,
            Kind::Unicode(chars) => 4 * chars,
            Kind::Bytes(bytes) => bytes,
        }
    }

    /// Bytes of the elements.
    pub(super) fn byte_len(&self) -> Result<u64, String> {
        let len = element_count(&self.dims).and_then(|count| count.checked_mul(self.item()));
        match len {
            Some(len) => Ok(len as u64),
            None => Err(format!("its shape {:?} has too many elements", self.dims)),
        }
    }

    /// What the array is, for messages: `float[1,3]`.
    pub(super) fn describe(&self) -> String {
        let dtype = match self.kind {
            Kind::Number(dtype) => dtype,
            Kind::Unicode(_) | Kind::Bytes(_) => DataType::String,
        };
        TensorType::fixed(dtype, &self.dims).to_string()
    }

    /// The header of one element of the leading axis. An error if the elements do not lie together.
    pub(super) fn of_sample(&self) -> Result<Header, String> {
        let Some((_, rest)) = self.dims.split_first() else {
            return Err("it has no leading sample axis: its rank is 0".to_owned());
        };
        if self.fortran && !rest.is_empty() {
            return Err("it is in Fortran order; save numpy.ascontiguousarray of it".to_owned());
        }
        Ok(Header { dims: rest.to_vec(), fortran: false, ..self.clone() })
    }

    /// Reads the elements that follow.
    pub(super) fn tensor(&self, file: &mut dyn Read) -> Result<Tensor, String> {
        let needed = self.byte_len()?;
        if needed > MAX_ARRAY {
            return Err(format!("{needed} bytes for one sample, at most {MAX_ARRAY} are read"));
        }
        let mut bytes = Vec::new(); // grows with what is there, not with what the header says
        file.take(needed).read_to_end(&mut bytes).map_err(|error: io::Error| format!("cannot be read: {error}"))?;
        if (bytes.len() as u64) < needed {
            return Err(format!("it is cut off: {needed} bytes by its header, {} are there", bytes.len()));
        }
        if self.fortran && self.dims.len() > 1 {
            bytes = from_fortran(&bytes, &self.dims, self.item());
        }
        let item = self.item();
        match self.kind {
            Kind::Number(dtype) => {
                if self.big_endian && item > 1 {
                    let unit =
                        if matches!(dtype, DataType::Complex64 | DataType::Complex128) { item / 2 } else { item };
                    bytes.chunks_exact_mut(unit).for_each(<[u8]>::reverse);
                }
                if dtype == DataType::Bool {
                    bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
                }
                Tensor::new(dtype, &self.dims, Bytes::from(bytes)).map_err(|error| error.to_string())
            }
            Kind::Bytes(_) | Kind::Unicode(_) => {
                let count = element_count(&self.dims).unwrap_or(0);
                let element = |index: usize| self.string(&bytes[index * item..(index + 1) * item]);
                let strings = (0..count).map(element).collect::<Result<Vec<_>, _>>()?;
                Tensor::strings(&self.dims, strings).map_err(|error| error.to_string())
            }
        }
    }

    /// One element of text, without the zeros that fill it up.
    fn string(&self, element: &[u8]) -> Result<Bytes, String> {
        if let Kind::Bytes(_) = self.kind {
            let end = element.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            return Ok(Bytes::copy_from_slice(&element[..end]));
        }
        let chars = element.chunks_exact(4).map(|four| {
            let four = [four[0], four[1], four[2], four[3]];
            let code = if self.big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) };
            char::from_u32(code).ok_or_else(|| format!("{code:#x} is no character"))
        });
        let text = chars.collect::<Result<String, _>>()?;
        Ok(Bytes::from(text.trim_end_matches('\0').to_owned()))
    }
}

/// The elements in row-major order.
fn from_fortran(bytes: &[u8], dims: &[usize], item: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut place = vec![0; dims.len()];
    let count = element_count(dims).unwrap_or(0);
    for _ in 0..count {
        let offset = place.iter().zip(dims).rev().fold(0, |offset, (&at, &dim)| offset * dim + at);
        out.extend_from_slice(&bytes[offset * item..(offset + 1) * item]);
        for axis in (0..dims.len()).rev() {
            place[axis] += 1;
            if place[axis] < dims[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    out
}

/// The text behind `'key':` in a Python dict of simple values.
fn value_of<'a>(dict: &'a str, key: &str) -> Option<&'a str> {
    let at = ["'", "\""].iter().find_map(|quote| {
        let quoted = format!("{quote}{key}{quote}");
        dict.find(&quoted).map(|at| at + quoted.len())
    })?;
    let value = dict[at..].trim_start().strip_prefix(':')?.trim_start();
    let end = match value.chars().next()? {
        '(' => value.find(')')? + 1,
        '[' => value.find(']')? + 1,
        quote @ ('\'' | '"') => value[1..].find(quote)? + 2,
        _ => value.find([',', '}'])?,
    };
    Some(value[..end].trim())
}

fn parse_shape(text: &str) -> Option<Vec<usize>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    inner.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

/// Element type and whether it is big-endian, from numpy's `<f4`.
fn parse_descr(text: &str) -> Result<(Kind, bool), String> {
    let unsupported = || {
        let plain = text.trim_matches(['\'', '"']);
        match plain.trim_start_matches(['|', '<', '>', '=']).chars().next() {
            Some('O') => "it holds Python objects; save an array of numbers".to_owned(),
            Some('V') | None => format!("its element type {text} is no type of numpy's own; save it as float32"),
            _ => format!("its element type {text} is no type of tensors"),
        }
    };
    let plain = text
        .strip_prefix(['\'', '"'])
        .and_then(|text| text.strip_suffix(['\'', '"']))
        .ok_or_else(|| format!("its element type {text} has several fields; save an array for each"))?;
    let big_endian = plain.starts_with('>');
    let code = plain.trim_start_matches(['|', '<', '>', '=']);
    let dtype = match code {
        "f2" => DataType::Float16,
        "f4" => DataType::Float,
        "f8" => DataType::Double,
        "b1" | "?" => DataType::Bool,
        "i1" => DataType::Int8,
        "i2" => DataType::Int16,
        "i4" => DataType::Int32,
        "i8" => DataType::Int64,
        "u1" => DataType::Uint8,
        "u2" => DataType::Uint16,
        "u4" => DataType::Uint32,
        "u8" => DataType::Uint64,
        "c8" => DataType::Complex64,
        "c16" => DataType::Complex128,
        _ => {
            let count = code.get(1..).and_then(|digits| digits.parse::<usize>().ok()).filter(|&count| count < 1 << 20);
            return match (code.chars().next(), count) {
                (Some('U'), Some(count)) => Ok((Kind::Unicode(count), big_endian)),
                (Some('S'), Some(count)) => Ok((Kind::Bytes(count), big_endian)),
                _ => Err(unsupported()),
            };
        }
    };
    Ok((Kind::Number(dtype), big_endian))
}

#[cfg(test)]
pub(super) mod tests {
    use onnx_shrink_ir::{DataType, Tensor};

    use super::Header;

    /// An .npy file.
    pub(crate) fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let mut dict = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        while !(10 + dict.len() + 1).is_multiple_of(64) {
            dict.push(' ');
        }
        dict.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((dict.len() as u16).to_le_bytes());
        bytes.extend(dict.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Tensor, String> {
        let mut rest = bytes;
        Header::read(&mut rest)?.tensor(&mut rest)
    }

    #[test]
    fn numbers_of_every_kind_are_read() {
        let floats: Vec<u8> = [1.0f32, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(read(&npy("<f4", false, "(2,)", &floats)).unwrap(), Tensor::from_vec(&[2], vec![1.0f32, -2.5]));
        let big: Vec<u8> = [1i16, -2].iter().flat_map(|x| x.to_be_bytes()).collect();
        assert_eq!(read(&npy(">i2", false, "(1, 2)", &big)).unwrap(), Tensor::from_vec(&[1, 2], vec![1i16, -2]));
        let half = half::f16::from_f32(0.5);
        assert_eq!(read(&npy("<f2", false, "()", &half.to_le_bytes())).unwrap(), Tensor::scalar(half));
        assert_eq!(read(&npy("|b1", false, "(2,)", &[1, 0])).unwrap(), Tensor::from_bools(&[2], &[true, false]));
        assert_eq!(read(&npy("<i8", false, "(0, 3)", &[])).unwrap().dims(), [0, 3]);
    }

    #[test]
    fn fortran_order_is_turned() {
        // [[1, 2, 3], [4, 5, 6]]
        let tensor = read(&npy("|u1", true, "(2, 3)", &[1, 4, 2, 5, 3, 6])).unwrap();
        assert_eq!(tensor, Tensor::from_vec(&[2, 3], vec![1u8, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn text_is_read() {
        let utf32: Vec<u8> = "ab\0ä\0\0".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        let tensor = read(&npy("<U3", false, "(2,)", &utf32)).unwrap();
        assert_eq!(tensor.dtype(), DataType::String);
        assert_eq!(tensor.as_strings().unwrap(), ["ab", "ä"]);
        assert_eq!(read(&npy("|S2", false, "(2,)", b"x\0yz")).unwrap().as_strings().unwrap(), ["x", "yz"]);
    }

    #[test]
    fn lies_and_damage_are_errors_that_cost_no_memory() {
        for (bytes, part) in [
            (npy("<f4", false, "(1000000, 12)", &[0; 8]), "cut off: 48000000 bytes by its header, 8 are there"),
            (npy("<f4", false, "(4000000000, 3000000000)", &[]), "too many elements"),
            (npy("<f4", false, "(3000000000,)", &[]), "at most"),
            (npy("<f4", false, "(1, -2)", &[]), "no `shape`"),
            (npy("|O", false, "(1,)", &[]), "Python objects"),
            (npy("<V2", false, "(1,)", &[]), "no type of numpy's own"),
            (npy("<M8[ns]", false, "(1,)", &[]), "no type of tensors"),
            (b"PK\x03\x04, not an array".to_vec(), "no .npy array"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "damaged"),
            (b"\x93NUMPY\x01\x00\x05\x00{}".to_vec(), "cut off"),
        ] {
            let error = read(&bytes).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
