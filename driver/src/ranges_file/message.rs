//! The protobuf message in a file of ranges.
use onnx_shrink_passes::calibration::{
    collect::Observed,
    histogram::{BINS, Histogram},
    largest::Largest,
    means::Means,
};

/// All of one file.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ranges {
    /// Digest of the model as it was read, 16 bytes
    #[prost(bytes = "vec", tag = "1")]
    pub input: Vec<u8>,
    /// Digest of its lossless form, 16 bytes
    #[prost(bytes = "vec", tag = "2")]
    pub lossless: Vec<u8>,
    /// Number of samples
    #[prost(uint64, tag = "3")]
    pub samples: u64,
    /// The smallest digests of samples
    #[prost(fixed64, repeated, tag = "4")]
    pub sketch: Vec<u64>,
    /// Statistics by value
    #[prost(message, repeated, tag = "5")]
    pub values: Vec<Value>,
}

/// The statistics of one value.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Value {
    /// Its name in the lossless form
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its largest dimensions
    #[prost(uint64, repeated, tag = "2")]
    pub dims: Vec<u64>,
    /// Least number
    #[prost(float, tag = "3")]
    pub min: f32,
    /// Largest number
    #[prost(float, tag = "4")]
    pub max: f32,
    /// Numbers
    #[prost(uint64, tag = "5")]
    pub count: u64,
    /// Of these, zeros
    #[prost(uint64, tag = "6")]
    pub zeros: u64,
    /// Of these, not finite
    #[prost(uint64, tag = "7")]
    pub non_finite: u64,
    /// The exponent of the bins' width
    #[prost(sint32, tag = "8")]
    pub exponent: i32,
    /// The bins; absent where there are none, which is not the same as bins that are empty
    #[prost(message, optional, tag = "9")]
    pub bins: Option<Bins>,
    /// Means along axis 1; absent: no sample was added
    #[prost(message, optional, tag = "10")]
    pub channel: Option<Sums>,
    /// Means along the last axis
    #[prost(message, optional, tag = "11")]
    pub last: Option<Sums>,
    /// Largest magnitudes along the last axis
    #[prost(message, optional, tag = "12")]
    pub largest: Option<Magnitudes>,
}

/// Bins that hold numbers.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Bins {
    /// Which
    #[prost(uint32, repeated, tag = "1")]
    pub places: Vec<u32>,
    /// How many numbers each holds
    #[prost(uint64, repeated, tag = "2")]
    pub counts: Vec<u64>,
}

/// Sums per position of an axis.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sums {
    /// Whether they are not known
    #[prost(bool, tag = "1")]
    pub unknown: bool,
    /// Sums times 2^60, 16 bytes each, little end first
    #[prost(bytes = "vec", tag = "2")]
    pub sums: Vec<u8>,
    /// Of how many numbers each is the sum
    #[prost(uint64, tag = "3")]
    pub count: u64,
}

/// Magnitudes per position of an axis.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Magnitudes {
    /// Whether they are not known
    #[prost(bool, tag = "1")]
    pub unknown: bool,
    /// The largest of each position
    #[prost(float, repeated, tag = "2")]
    pub magnitudes: Vec<f32>,
}

impl Value {
    /// The message for the statistics `seen` of the value `name`.
    pub fn of(name: &str, seen: &Observed) -> Value {
        let histogram = &seen.histogram;
        let filled = histogram.counts().iter().enumerate().filter(|(_, count)| **count > 0);
        let (places, counts) = filled.map(|(place, count)| (place as u32, *count)).unzip();
        let sums = |means: &Means| match means {
            Means::Unseen => None,
            Means::Unknown | Means::Told(_) => Some(Sums { unknown: true, ..Sums::default() }),
            Means::Sums(sums, count) => {
                let sums = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
                Some(Sums { unknown: false, sums, count: *count })
            }
        };
        Value {
            name: name.to_owned(),
            dims: seen.dims.iter().map(|&dim| dim as u64).collect(),
            min: histogram.min,
            max: histogram.max,
            count: histogram.count,
            zeros: histogram.zeros,
            non_finite: histogram.non_finite,
            exponent: histogram.exponent(),
            bins: (!histogram.counts().is_empty()).then_some(Bins { places, counts }),
            channel: sums(&seen.channel),
            last: sums(&seen.last),
            largest: match &seen.largest {
                Largest::Unseen => None,
                Largest::Unknown => Some(Magnitudes { unknown: true, ..Magnitudes::default() }),
                Largest::Seen(magnitudes) => Some(Magnitudes { unknown: false, magnitudes: magnitudes.clone() }),
            },
        }
    }

    /// The statistics that the message states; `None` where it contradicts itself.
    pub fn observed(self) -> Option<Observed> {
        let dims = self.dims.into_iter().map(usize::try_from).collect::<Result<_, _>>().ok()?;
        let mut counts = Vec::new();
        if let Some(bins) = self.bins {
            if bins.places.len() != bins.counts.len() {
                return None;
            }
            counts = vec![0; BINS];
            for (place, count) in bins.places.into_iter().zip(bins.counts) {
                *counts.get_mut(place as usize)? = count;
            }
        }
        let mut histogram = Histogram::of_counts(self.exponent, counts)?;
        // -0 and 0 are equal, and which of them was the extreme would depend on the order: + 0 makes both 0.
        (histogram.min, histogram.max) = (self.min + 0.0, self.max + 0.0);
        (histogram.count, histogram.zeros, histogram.non_finite) = (self.count, self.zeros, self.non_finite);
        let largest = match self.largest {
            None => Largest::Unseen,
            Some(Magnitudes { unknown: true, .. }) => Largest::Unknown,
            Some(Magnitudes { magnitudes, .. }) => Largest::Seen(magnitudes),
        };
        Some(Observed { dims, histogram, channel: means(self.channel)?, last: means(self.last)?, largest })
    }
}

fn means(sums: Option<Sums>) -> Option<Means> {
    Some(match sums {
        None => Means::Unseen,
        Some(Sums { unknown: true, .. }) => Means::Unknown,
        Some(Sums { sums, count, .. }) => {
            let (chunks, rest) = sums.as_chunks::<16>();
            if !rest.is_empty() {
                return None;
            }
            Means::Sums(chunks.iter().map(|bytes| i128::from_le_bytes(*bytes)).collect(), count)
        }
    })
}
