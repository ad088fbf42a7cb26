//! What calibration saw of one shard of samples, in a file: `calibrate --ranges-out` writes it, `--ranges-in` merges many.
//!
//! Form: `onnx-shrink ranges`, then the version, then the fields in the order of [`encode`], then a digest of all before. Numbers are
//! LEB128, floats their bits, little end first. A file knows the model that was calibrated, by two digests: that of the model
//! that was read, and that of its lossless form, whose values the ranges are of.
//!
//! **Never** depends on the order of files or on which sample was in which. **Never** trusts a length: what a file does not have
//! is not allocated. A file that is cut off or changed is refused as a whole. The digest guards against mistakes, not malice.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use onnx_shrink_ir::{
    Graph, Tensor,
    proto::{self, schema::ModelProto},
};
use onnx_shrink_passes::{
    SampleSource,
    calibration::{
        collect::{Calibration, Observed},
        histogram::{BINS, Histogram},
        largest::Largest,
        means::{MOST_SAMPLES, Means},
    },
    samples::fold_in_order,
};

use crate::{Failure, Samples};

const MAGIC: &[u8] = b"onnx-shrink ranges\n";

/// Written into each file. Another number: other fields, or calibration that sees other things.
const VERSION: u64 = 3;

/// A digest of bytes: FNV-1a with 128 bits (Fowler, Noll, Vo; RFC 9923).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(u128);

impl Digest {
    const BYTES: usize = 16;

    /// The digest of `parts`, one behind the other.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        const PRIME: u128 = (1 << 88) + 0x13b;
        let step = |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
        Digest(parts.into_iter().flatten().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, step))
    }

    /// The digest of a model with its tensors, wherever they lie.
    pub fn of_model(model: &ModelProto) -> Digest {
        Digest::of(proto::encode(model).iter().map(|part| &part[..]))
    }
}

/// The model that ranges are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The model as it was read
    pub input: Digest,
    /// Its lossless form, which ran on the samples
    pub lossless: Digest,
}

/// Which samples were seen, as far as that tells whether two shards have some in common: the [`SKETCH`] smallest digests (after
/// Broder 1997, *On the resemblance and containment of documents*).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch(BTreeSet<u64>);

/// Digests that are kept: a file does not grow with the number of samples.
const SKETCH: usize = 256;

impl Sketch {
    /// The sketch of `samples`.
    pub fn of(samples: &Samples) -> Result<Sketch, Failure> {
        let one = |index: &usize| -> Result<u64, Failure> {
            let inputs = samples.inputs(*index)?;
            let tensors = inputs.iter().flatten();
            let Digest(digest) = Digest::of(tensors.filter_map(Tensor::bytes).map(|bytes| &bytes[..]));
            Ok((digest ^ digest >> 64) as u64)
        };
        let mut sketch = Sketch::default();
        let indices: Vec<usize> = (0..samples.len()).collect();
        fold_in_order(&indices, SKETCH, one, |_, digest| {
            sketch.0.insert(digest);
            if sketch.0.len() > SKETCH {
                sketch.0.pop_last();
            }
        })?;
        Ok(sketch)
    }

    /// The share of the smaller one's samples that the other has, too: exact up to [`SKETCH`] samples, an estimate beyond.
    fn common(&self, other: &Sketch) -> f64 {
        let last = |sketch: &Sketch| sketch.0.last().copied().filter(|_| sketch.0.len() == SKETCH).unwrap_or(u64::MAX);
        let most = last(self).min(last(other));
        let count = |sketch: &Sketch| sketch.0.range(..=most).count();
        self.0.intersection(&other.0).count() as f64 / count(self).min(count(other)).max(1) as f64
    }
}

/// The bytes of a file with what `calibration` saw of the values of `graph`.
pub fn encode(stamp: &Stamp, graph: &Graph, calibration: &Calibration, sketch: &Sketch) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    number(&mut out, VERSION);
    out.extend(stamp.input.0.to_le_bytes());
    out.extend(stamp.lossless.0.to_le_bytes());
    number(&mut out, calibration.samples as u64);
    number(&mut out, sketch.0.len() as u64);
    sketch.0.iter().for_each(|digest| out.extend(digest.to_le_bytes()));
    number(&mut out, calibration.values.len() as u64);
    for (value, observed) in &calibration.values {
        let name = graph.name_of(*value);
        number(&mut out, name.len() as u64);
        out.extend(name.as_bytes());
        number(&mut out, observed.dims.len() as u64);
        observed.dims.iter().for_each(|&dim| number(&mut out, dim as u64));
        let histogram = &observed.histogram;
        out.extend(histogram.exponent().to_le_bytes());
        out.extend(histogram.min.to_le_bytes());
        out.extend(histogram.max.to_le_bytes());
        [histogram.count, histogram.zeros, histogram.non_finite].into_iter().for_each(|count| number(&mut out, count));
        let filled = || histogram.counts().iter().enumerate().filter(|(_, count)| **count > 0);
        // 0: no bins at all, which is not the same as bins that are empty.
        let filled_count = filled().count() as u64;
        number(&mut out, if histogram.counts().is_empty() { 0 } else { filled_count + 1 });
        for (bin, &count) in filled() {
            number(&mut out, bin as u64);
            number(&mut out, count);
        }
        for means in [&observed.channel, &observed.last] {
            match means {
                Means::Unseen => number(&mut out, 0),
                Means::Unknown | Means::Told(_) => number(&mut out, 1),
                Means::Sums(sums, count) => {
                    number(&mut out, sums.len() as u64 + 1);
                    number(&mut out, *count);
                    sums.iter().for_each(|sum| out.extend(sum.to_le_bytes()));
                }
            }
        }
        match &observed.largest {
            Largest::Unseen => number(&mut out, 0),
            Largest::Unknown => number(&mut out, 1),
            Largest::Seen(magnitudes) => {
                number(&mut out, magnitudes.len() as u64 + 1);
                magnitudes.iter().for_each(|magnitude| out.extend(magnitude.to_le_bytes()));
            }
        }
    }
    let digest = Digest::of([&out[..]]);
    out.extend(digest.0.to_le_bytes());
    out
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Merges the shards in `files`, which must be of the model `stamp` with `graph`; another each time. With it a warning for each
/// shard that has samples of one before it: data may hold equal samples, so that is no error.
pub fn read_all(files: &[PathBuf], stamp: &Stamp, graph: &Graph) -> Result<(Calibration, Vec<String>), Failure> {
    let mut warnings = Vec::new();
    let mut sketches: Vec<(&Path, Sketch)> = Vec::new();
    let mut merged = Calibration::default();
    let mut seen: BTreeMap<Digest, &Path> = BTreeMap::new();
    for file in files {
        let at = |error: anyhow::Error| Failure::samples(error.context(format!("--ranges-in {}", file.display())));
        let bytes = fs::read(file).map_err(|error| at(anyhow!(error).context("cannot be read")))?;
        if let Some(other) = seen.insert(Digest::of([&bytes[..]]), file) {
            let other = other.display();
            return Err(at(anyhow!("the same as {other}: its samples would count twice; name each shard once")));
        }
        let (calibration, sketch) = decode(&bytes, stamp, graph).map_err(|error| at(anyhow!(error)))?;
        merged.merge(calibration);
        let common = sketches.iter().map(|(other, theirs)| (sketch.common(theirs), *other));
        if let Some((share, other)) = common.filter(|(share, _)| *share > 0.0).max_by(|a, b| a.0.total_cmp(&b.0)) {
            let (file, other) = (file.display(), other.display());
            let share = (100.0 * share).ceil();
            warnings.push(format!(
                "--ranges-in {file} and {other}: {share} % of the smaller one's samples are in both, and count twice: shards should \
                 have no sample in common"
            ));
        }
        sketches.push((file, sketch));
        if merged.samples as u64 > MOST_SAMPLES {
            return Err(at(anyhow!("with it there are more than {MOST_SAMPLES} samples: sums do not hold more")));
        }
    }
    Ok((merged, warnings))
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("this is no file of ranges; `onnx-shrink calibrate MODEL --data SHARD --ranges-out FILE` makes one")]
    Form,
    #[error("version {0} of the form; this program reads {VERSION}: calibrate with the same onnx-shrink")]
    Version(u64),
    #[error("the file is damaged or cut off: calibrate this shard again")]
    Damaged,
    #[error("it is of another model: calibrate the one that is quantized")]
    Model,
    #[error(
        "it is of this model after other lossless rewrites: give `calibrate` the same --skip, and use the same onnx-shrink"
    )]
    Rewrites,
}

fn decode(bytes: &[u8], stamp: &Stamp, graph: &Graph) -> Result<(Calibration, Sketch), Wrong> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(Wrong::Form)?);
    let version = reader.number()?;
    if version != VERSION {
        return Err(Wrong::Version(version));
    }
    let (body, digest) = bytes.split_last_chunk::<{ Digest::BYTES }>().ok_or(Wrong::Damaged)?;
    if Digest::of([body]) != Digest(u128::from_le_bytes(*digest)) {
        return Err(Wrong::Damaged);
    }
    reader.0 = &reader.0[..reader.0.len().checked_sub(Digest::BYTES).ok_or(Wrong::Damaged)?];
    let mut read_digest = || Ok::<_, Wrong>(Digest(u128::from_le_bytes(reader.array()?)));
    let found = Stamp { input: read_digest()?, lossless: read_digest()? };
    if found.input != stamp.input {
        return Err(Wrong::Model);
    }
    if found.lossless != stamp.lossless {
        return Err(Wrong::Rewrites);
    }
    let mut calibration = Calibration { samples: reader.size()?, ..Calibration::default() };
    let mut sketch = Sketch::default();
    for _ in 0..reader.number()? {
        sketch.0.insert(u64::from_le_bytes(reader.array()?));
    }
    for _ in 0..reader.number()? {
        let length = reader.size()?;
        let name = std::str::from_utf8(reader.take(length)?).map_err(|_| Wrong::Damaged)?;
        let value = graph.find(name).ok_or(Wrong::Damaged)?;
        calibration.values.insert(value, reader.observed()?);
    }
    if !reader.0.is_empty() {
        return Err(Wrong::Damaged);
    }
    Ok((calibration, sketch))
}

/// Bytes that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Wrong::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        self.take(N)?.try_into().map_err(|_| Wrong::Damaged)
    }

    fn number(&mut self) -> Result<u64, Wrong> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Wrong::Damaged)
    }

    fn size(&mut self) -> Result<usize, Wrong> {
        usize::try_from(self.number()?).map_err(|_| Wrong::Damaged)
    }

    fn observed(&mut self) -> Result<Observed, Wrong> {
        let dims = (0..self.number()?).map(|_| self.size()).collect::<Result<_, _>>()?;
        let exponent = i32::from_le_bytes(self.array()?);
        // -0 and 0 are equal, and which of them was the extreme would depend on the order: + 0 makes both 0.
        let (min, max) = (f32::from_le_bytes(self.array()?) + 0.0, f32::from_le_bytes(self.array()?) + 0.0);
        let (count, zeros, non_finite) = (self.number()?, self.number()?, self.number()?);
        let mut counts = Vec::new();
        if let Some(filled) = self.number()?.checked_sub(1) {
            counts = vec![0; BINS];
            for _ in 0..filled {
                let bin = self.size()?;
                *counts.get_mut(bin).ok_or(Wrong::Damaged)? = self.number()?;
            }
        }
        let mut histogram = Histogram::of_counts(exponent, counts).ok_or(Wrong::Damaged)?;
        (histogram.min, histogram.max) = (min, max);
        (histogram.count, histogram.zeros, histogram.non_finite) = (count, zeros, non_finite);
        Ok(Observed { dims, histogram, channel: self.means()?, last: self.means()?, largest: self.largest()? })
    }

    fn largest(&mut self) -> Result<Largest, Wrong> {
        Ok(match self.number()? {
            0 => Largest::Unseen,
            1 => Largest::Unknown,
            more => {
                Largest::Seen((1..more).map(|_| Ok(f32::from_le_bytes(self.array()?))).collect::<Result<_, Wrong>>()?)
            }
        })
    }

    fn means(&mut self) -> Result<Means, Wrong> {
        Ok(match self.number()? {
            0 => Means::Unseen,
            1 => Means::Unknown,
            more => {
                let count = self.number()?;
                let sums = (1..more).map(|_| Ok(i128::from_le_bytes(self.array()?))).collect::<Result<_, Wrong>>()?;
                Means::Sums(sums, count)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let text = "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1,2] x) => (float[1,2] y) { y = Relu (x) }";
        onnx_shrink_ir::text::parse_model(text).unwrap().graph
    }

    fn file(graph: &Graph, stamp: &Stamp) -> (Vec<u8>, Calibration) {
        let mut calibration = Calibration { samples: 3, ..Calibration::default() };
        let observed = calibration.values.entry(graph.find("y").unwrap()).or_default();
        observed.dims = vec![1, 2];
        observed.histogram.add(&[0.5, 3.0, -1e-9, 0.0]);
        observed.last.add(&[0.25, -7.5], 4);
        observed.largest.add(vec![0.5, 3.0]);
        (encode(stamp, graph, &calibration, &Sketch(BTreeSet::from([3, 5]))), calibration)
    }

    #[test]
    fn what_was_written_is_read_and_every_change_is_refused() {
        let (graph, other) = (graph(), Digest(7));
        let stamp = Stamp { input: Digest(1), lossless: Digest(2) };
        let (bytes, calibration) = file(&graph, &stamp);
        let (read, sketch) = decode(&bytes, &stamp, &graph).unwrap();
        assert_eq!(sketch.0, BTreeSet::from([3, 5]));
        assert_eq!((read.values, read.samples), (calibration.values, 3));
        assert_eq!(decode(&bytes, &Stamp { input: other, ..stamp }, &graph).unwrap_err(), Wrong::Model);
        assert_eq!(decode(&bytes, &Stamp { lossless: other, ..stamp }, &graph).unwrap_err(), Wrong::Rewrites);
        for cut in 0..bytes.len() {
            decode(&bytes[..cut], &stamp, &graph).unwrap_err();
            let mut changed = bytes.clone();
            changed[cut] ^= 0x10;
            decode(&changed, &stamp, &graph).unwrap_err();
        }
        let mut newer = bytes.clone();
        newer[MAGIC.len()] = 9;
        assert_eq!(decode(&newer, &stamp, &graph).unwrap_err(), Wrong::Version(9));
    }

    #[test]
    fn sketches_tell_the_share_of_common_samples() {
        let of = |digests: std::ops::Range<u64>| {
            // Spread like digests are, the smallest of them kept.
            let all: BTreeSet<u64> = digests.map(|k| (k + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            Sketch(all.into_iter().take(SKETCH).collect())
        };
        assert_eq!(of(0..100).common(&of(100..200)), 0.0);
        assert_eq!(of(0..100).common(&of(75..175)), 0.25);
        assert_eq!(of(0..2000).common(&of(2000..9000)), 0.0);
        let share = of(0..2000).common(&of(1000..9000));
        assert!((0.4..0.6).contains(&share), "{share}");
    }

    #[test]
    fn a_file_that_lies_with_a_right_digest_ends_in_an_error() {
        let graph = graph();
        let stamp = Stamp { input: Digest(1), lossless: Digest(2) };
        let (bytes, _) = file(&graph, &stamp);
        for at in MAGIC.len() + 33..bytes.len() - Digest::BYTES {
            for byte in [0, 0x7f, 0xff] {
                let mut changed = bytes[..bytes.len() - Digest::BYTES].to_vec();
                changed[at] = byte;
                let digest = Digest::of([&changed[..]]);
                changed.extend(digest.0.to_le_bytes());
                let _ = decode(&changed, &stamp, &graph); // neither a panic nor memory without end
            }
        }
    }
}
