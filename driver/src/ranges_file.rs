//! The calibration statistics of one shard of samples, in a file: `calibrate --ranges-out` writes it, `--ranges-in` merges many.
//!
//! Form: `onnx-shrink ranges`, a byte with the version, a protobuf message ([`message::Ranges`]), and a digest of all before. A file
//! states the model that was calibrated by two digests: that of the model that was read, and that of its lossless form, whose values the
//! ranges are of.
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
    calibration::{collect::Calibration, means::MOST_SAMPLES},
    samples::fold_in_order,
};
use prost::Message;

mod message;

use crate::{Failure, Samples};

const MAGIC: &[u8] = b"onnx-shrink ranges\n";

/// Written into each file. Another number: other fields, or other statistics.
const VERSION: u8 = 4;

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

/// The bytes of a file with the calibration statistics of the values of `graph`.
pub fn encode(stamp: &Stamp, graph: &Graph, calibration: &Calibration, sketch: &Sketch) -> Vec<u8> {
    let message = message::Ranges {
        input: stamp.input.0.to_le_bytes().to_vec(),
        lossless: stamp.lossless.0.to_le_bytes().to_vec(),
        samples: calibration.samples as u64,
        sketch: sketch.0.iter().copied().collect(),
        values: calibration
            .values
            .iter()
            .map(|(value, seen)| message::Value::of(graph.name_of(*value), seen))
            .collect(),
    };
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    out.extend(message.encode_to_vec());
    let digest = Digest::of([&out[..]]);
    out.extend(digest.0.to_le_bytes());
    out
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
    Version(u8),
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
    let (version, _) = bytes.strip_prefix(MAGIC).ok_or(Wrong::Form)?.split_first().ok_or(Wrong::Damaged)?;
    if *version != VERSION {
        return Err(Wrong::Version(*version));
    }
    let (body, digest) = bytes.split_last_chunk::<{ Digest::BYTES }>().ok_or(Wrong::Damaged)?;
    if Digest::of([body]) != Digest(u128::from_le_bytes(*digest)) {
        return Err(Wrong::Damaged);
    }
    let body = body.get(MAGIC.len() + 1..).ok_or(Wrong::Damaged)?;
    let message = message::Ranges::decode(body).map_err(|_| Wrong::Damaged)?;
    if message.input != stamp.input.0.to_le_bytes() {
        return Err(Wrong::Model);
    }
    if message.lossless != stamp.lossless.0.to_le_bytes() {
        return Err(Wrong::Rewrites);
    }
    let samples = usize::try_from(message.samples).map_err(|_| Wrong::Damaged)?;
    let mut calibration = Calibration { samples, ..Calibration::default() };
    for value in message.values {
        let id = graph.find(&value.name).ok_or(Wrong::Damaged)?;
        calibration.values.insert(id, value.observed().ok_or(Wrong::Damaged)?);
    }
    Ok((calibration, Sketch(message.sketch.into_iter().collect())))
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
