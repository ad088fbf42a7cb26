//! What a user may want to know of a run, beyond its numbers.
use std::fmt;

use serde::{Serialize, Serializer};

use super::Figures;
use crate::nothing_stored::{NothingStored, WithSamples};

/// One thing that a user may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// Calls of the model's own functions were inlined: how many
    FunctionsInlined(usize),
    /// Calls of a function of the model (of all of them where it has no name) were not inlined
    FunctionsKept {
        /// The function
        function: Option<String>,
        /// Why
        reason: String,
    },
    /// Initializers that were inputs, too, became constants
    Frozen {
        /// How many
        count: usize,
        /// Whether `--freeze-initializers` asked for it
        is_asked_for: bool,
    },
    /// The model draws random numbers
    RandomNumbers {
        /// What the first op that does makes
        first: String,
        /// Further ops that do
        more: usize,
    },
    /// `--keep-float` names no op with this
    KeepFloatUnused(String),
    /// `--int8` on a quantized model
    QuantizedAlready,
    /// `--weights` on a quantized model
    WeightsQuantizedAlready,
    /// The lossless part was not run: its rewrites are all exact, and a run would take so many multiply-adds
    ExactByConditions(u64),
    /// Nothing approximate was done, because the result could not be run against the input
    LeftFloat,
    /// Without samples nothing was stored in 8 bits
    NothingStored(NothingStored),
    /// What 8 bits without samples are
    StoredWithoutSamples {
        /// Layers with ranges of each run
        dynamic: usize,
        /// What samples would bring
        with_samples: WithSamples,
    },
    /// The shapes of all layers depend on what inputs leave open
    OpenShapes {
        /// Number of layers
        layers: usize,
        /// The dimensions that are left open
        dims: Vec<String>,
    },
    /// The ranges of these inputs are not known
    InputRangesUnknown(Vec<String>),
    /// Ranges follow from the model
    RangesOfModel,
    /// Ranges are those of made-up samples
    SyntheticRanges,
    /// No layer finds its ranges in each run, for a gate
    NoDynamicLayers,
    /// Layers stay float on made-up inputs' account
    DynamicTooFar {
        /// How many
        layers: usize,
        /// The relative error that they had
        error: f64,
        /// The largest that is taken
        most: f64,
    },
    /// The target wants all layers in 8 bits
    TargetWantsAll {
        /// The target
        target: &'static str,
        /// Layers that compute in float
        float: usize,
        /// Layers
        layers: usize,
    },
    /// The model cannot be run on the samples
    AsWithoutSamples,
    /// These constants went back to more bits for a gate
    InMoreBits(Vec<String>),
    /// `--weights`: nothing was large enough
    NothingSmaller,
    /// `--weights`: the model's opset is too old: why
    WeightsUnfit(String),
    /// The opset of 4-bit kernels was passed by, or taken
    OpsetOf4Bits {
        /// The opset before
        from: i64,
        /// The opset with the kernel
        to: i64,
        /// Layers that the kernel would run
        layers: usize,
        /// Whether the model was raised to it
        is_raised: bool,
    },
    /// What `--weights` brought and cost, by so many samples
    Weights(Box<Figures>, usize),
    /// The same in 8 bits, beside it
    WeightsIn8Bits(Box<Figures>),
    /// `--prune` without samples
    PrunedWithoutSamples,
    /// `--prune` with few samples: how many
    PrunedWithFewSamples(usize),
    /// `--svd` split nothing
    NothingSplit {
        /// The most frequent reason, and of how many layers; `None` where there is no fully connected layer
        most: Option<(String, usize)>,
        /// Number of layers
        layers: usize,
    },
    /// `--fix-saturation` found nothing to fix: the flag
    NothingSaturates(&'static str),
    /// The part of the model that runs does not fit the rest any more
    HalfDoesNotFit {
        /// What does not run
        reason: String,
        /// Why it does not fit
        error: String,
    },
    /// Only a part of the model runs here
    Half {
        /// What does not run
        reason: String,
        /// The values at which the part that runs was judged
        values: Vec<String>,
        /// Whether the rest has weights in fewer bits
        is_rest_stored: bool,
    },
    /// `--explain NAME`: nothing is called so
    NothingToExplain(String),
    /// The result was larger than the input
    Larger,
    /// The tensors are in another file than was to be expected
    TensorsElsewhere {
        /// The file
        data: String,
        /// The file that would have been written over
        avoided: String,
        /// The model that this file belongs to
        model: String,
    },
    /// A file of the old model's tensors was not removed
    OldDataKept {
        /// The file
        data: String,
        /// A model that cannot be read, and may need it
        model: String,
    },
}

/// The first `most` of `names`, quoted, and how many more there are.
fn some(names: &[String], most: usize, what: &str) -> String {
    let shown: Vec<String> = names.iter().take(most).map(|name| format!("`{name}`")).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more{what}", shown.join(", ")),
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::FunctionsInlined(1) => f.write_str("the call of one of the model's own functions was inlined"),
            Note::FunctionsInlined(calls) => write!(f, "{calls} calls of the model's own functions were inlined"),
            Note::FunctionsKept { function: Some(name), reason } => {
                write!(f, "calls of the model's function {name} stay as they are: {reason}")
            }
            Note::FunctionsKept { function: None, reason } => {
                write!(f, "calls of the model's functions stay as they are: {reason}")
            }
            Note::Frozen { count, is_asked_for } => {
                let why = if *is_asked_for { "" } else { ": what rewrites weights needs that" };
                write!(f, "{count} initializers that were inputs, too, and could be overridden, are constants now{why}")
            }
            Note::RandomNumbers { first, more } => {
                let more = if *more > 0 { format!(" and {more} more") } else { String::new() };
                write!(
                    f,
                    "the model draws random numbers, {first}{more}: where it was run here, they were made up, and the same for \
                     both models"
                )
            }
            Note::KeepFloatUnused(word) => write!(f, "--keep-float {word} names no op"),
            Note::QuantizedAlready => f.write_str("the model is quantized already: it is not quantized again"),
            Note::WeightsQuantizedAlready => {
                f.write_str("the model is quantized already: --weights leaves it as it is")
            }
            Note::ExactByConditions(work) => write!(
                f,
                "the lossless part was not run: all its rewrites are equal to the bit by their conditions, and a run takes {:.1} \
                 billion multiply-adds; --data DIR or a --gate on it runs both models",
                *work as f64 / 1e9
            ),
            Note::LeftFloat => f.write_str(
                "nothing approximate was done (8 bits, pruning, low rank): the result could not be run against the input; \
                 --no-validate does it all the same",
            ),
            Note::NothingStored(nothing) => write!(f, "{nothing}"),
            Note::StoredWithoutSamples { dynamic, with_samples } => {
                f.write_str("no samples were given: weights are stored in 8 bits, ")?;
                match dynamic {
                    0 => f.write_str("layers run in float")?,
                    1 => f.write_str("one layer runs in 8 bits with ranges of each run, the others in float")?,
                    count => write!(f, "{count} layers run in 8 bits with ranges of each run, the others in float")?,
                }
                write!(f, "; {with_samples}")
            }
            Note::OpenShapes { layers, dims } => write!(
                f,
                "the shapes of all {layers} layers depend on what the inputs leave open ({}): made-up samples cannot judge what \
                 8 bits gain and lose there; --data DIR is needed for that",
                dims.join(", ")
            ),
            Note::InputRangesUnknown(inputs) => {
                let flags: Vec<String> = inputs.iter().map(|name| format!("--input-range {name}=LO,HI")).collect();
                let flags = flags.join(" ");
                write!(f, "layers that read an input stay float, as its range is not known: {flags} states it")
            }
            Note::RangesOfModel => f.write_str(
                "ranges follow from the model (batch norms, bounded activations), not from samples: its error is about twice as \
                 large as with --data DIR (100 to 300 samples), which also lets more layers run in 8 bits",
            ),
            Note::SyntheticRanges => f.write_str(
                "ranges are those of synthetic samples, which says the model's metadata, too: with --data DIR (100 to 300 real \
                 samples) they would fit",
            ),
            Note::NoDynamicLayers => {
                f.write_str("no layer finds its ranges in each run: with that a gate failed")
            }
            Note::DynamicTooFar { layers, error, most } => write!(
                f,
                "{layers} layers stay float: in 8 bits the error on made-up inputs was {error:.3} (more than {most}); --dynamic \
                 has them in 8 bits all the same"
            ),
            Note::TargetWantsAll { target, float, layers } => write!(
                f,
                "the target {target} wants every tensor in 8 bits, and {float} of {layers} layers compute in float: it may not \
                 run them"
            ),
            Note::AsWithoutSamples => {
                f.write_str("the model cannot be run on the samples: it was made smaller as without any")
            }
            Note::InMoreBits(names) => {
                write!(f, "in more bits, so that the gates hold: {}", some(names, 3, " constants"))
            }
            Note::NothingSmaller => f.write_str("--weights: no weight is large enough to be stored in fewer bits"),
            Note::WeightsUnfit(why) => f.write_str(why),
            Note::OpsetOf4Bits { from, to, layers, is_raised: false } => write!(
                f,
                "opset {from} stays: from {to} on a kernel for 4 bits is faster for {layers} of the layers, but ONNX Runtime does \
                 not fuse attention there"
            ),
            Note::OpsetOf4Bits { from, to, layers, is_raised: true } => write!(
                f,
                "opset {from} → {to}: a kernel for 4 bits, which is faster, runs {layers} of the layers there"
            ),
            Note::Weights(figures, samples) => figures.write_stored(f, *samples),
            Note::WeightsIn8Bits(figures) => figures.write_in_8_bits(f),
            Note::PrunedWithoutSamples => f.write_str(
                "no samples were given: channels were chosen by their weights, and no layer was solved for again; with --data \
                 DIR (500 samples) far less is lost",
            ),
            Note::PrunedWithFewSamples(samples) => {
                write!(f, "pruning was fitted to {samples} samples: 500 lose less, 100 are the least")
            }
            Note::NothingSplit { most, layers } => {
                f.write_str("--svd: no layer was split; ")?;
                match most {
                    None => f.write_str("the model has no fully connected layer")?,
                    Some((reason, count)) => write!(f, "{count} of {layers}: {reason}")?,
                }
                f.write_str(" (all of them: --report)")
            }
            Note::NothingSaturates(flag) => write!(f, "{flag}: no sums of 8-bit weights can saturate"),
            Note::HalfDoesNotFit { reason, error } => {
                write!(f, "the part before {reason} was made smaller, but does not fit the rest: {error}")
            }
            Note::Half { reason, values, is_rest_stored } => {
                let rest = match is_rest_stored {
                    true => "has weights in fewer bits where its regions prove them",
                    false => "stays as it is",
                };
                write!(
                    f,
                    "the model does not run here as a whole: {reason}; what does not depend on that was made smaller and judged at \
                     {}, the rest {rest}",
                    some(values, 4, "")
                )
            }
            Note::NothingToExplain(name) => {
                write!(f, "--explain {name}: no op, tensor or pass has this name")
            }
            Note::Larger => f.write_str(
                "the result was larger than the input, so the input's own model was written; rewrites and errors are told of the \
                 result",
            ),
            Note::TensorsElsewhere { data, avoided, model } => {
                write!(f, "the tensors are in `{data}`: `{avoided}` is data of `{model}`")
            }
            Note::OldDataKept { data, model } => write!(
                f,
                "`{data}`, the old model's data, was not removed: `{model}` cannot be read, and may need it"
            ),
        }
    }
}

/// As its sentence.
impl Serialize for Note {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
