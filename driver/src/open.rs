//! The one way to open a model: load, import, inline functions, freeze defaults, fix shapes, infer.
//!
//! **Never** gives a model that is taken less well than the one that was read: where the bodies of functions hold nodes that ONNX does not
//! have, or no graph comes of them, the calls stay as they are, and a note says so.

use anyhow::anyhow;
use onnx_shrink_ir::{
    Graph, ImportError, Inlined, Model, ValueId, conform, import, infer, inline_functions,
    proto::{Loaded, schema::ModelProto},
};

use crate::{
    Failure,
    files::{self, UnknownFields},
    report::Note,
    request::{control::Control, io::Input},
};

/// What becomes of calls of the model's own functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Functions {
    /// They are inlined
    Inlined,
    /// They stay as they are
    Kept,
}

/// What becomes of initializers that are inputs, too, and may be overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defaults {
    /// They stay inputs
    Kept,
    /// They become constants in files before version 4, in which every initializer had to be an input, and in others where one of
    /// them is large enough to be a layer's weights: that is how exporters wrote all of them, and nobody overrides it
    OfWeights,
    /// They become constants
    All,
}

/// How a model is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    /// Calls of functions
    pub functions: Functions,
    /// Initializers that are inputs, too
    pub defaults: Defaults,
    /// Whether nodes that ONNX does not have are refused
    pub conforms: bool,
    /// Shapes that the user fixed
    pub shapes: Option<&'a Control>,
}

/// A model to work on.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The file as it was read
    pub loaded: Loaded,
    /// Bytes of the model, its external data included
    pub bytes: u64,
    /// As messages and reports name it
    pub name: String,
    /// The model, inferred
    pub model: Model,
    /// Calls of functions that were inlined
    pub calls: usize,
    /// Initializers that became constants, in a file that did not have to have them as inputs
    pub frozen: usize,
    /// Calls that stay, and why
    pub notes: Vec<Note>,
}

impl Opening<'_> {
    /// Reads `input` and opens it.
    pub fn read(&self, input: &Input, unknown: UnknownFields) -> Result<Opened, Failure> {
        self.open(&input.to_string(), files::load(input, unknown)?)
    }

    /// Opens what was read of `name`.
    pub fn open(&self, name: &str, loaded: Loaded) -> Result<Opened, Failure> {
        let opened = with_functions(&loaded.model, self.functions);
        let (mut model, calls, notes) =
            opened.map_err(|error| Failure::input(anyhow!(error).context(name.to_owned())))?;
        if self.conforms {
            refuse_departures(&model, name)?;
        }
        let is_old = model.ir_version() < 4;
        let freezes = match self.defaults {
            Defaults::Kept => false,
            Defaults::OfWeights => is_old || has_weights_with_defaults(&model.graph),
            Defaults::All => true,
        };
        let frozen = if freezes { model.graph.freeze_defaults() } else { 0 };
        if let Some(control) = self.shapes {
            control.fix_shapes(&mut model.graph)?;
        }
        infer::infer_as_read(&mut model.graph);
        let bytes = files::size_of_input(&loaded);
        let frozen = if is_old { 0 } else { frozen };
        Ok(Opened { loaded, bytes, name: name.to_owned(), model, calls, frozen, notes })
    }
}

/// The model of `proto`, the number of calls that were inlined, and which were not and why.
fn with_functions(proto: &ModelProto, functions: Functions) -> Result<(Model, usize, Vec<Note>), ImportError> {
    let read = import(proto.clone())?;
    let inlined = match functions {
        Functions::Inlined => inline_functions(proto),
        Functions::Kept => None,
    };
    let Some(Inlined { model, calls, kept }) = inlined else { return Ok((read, 0, Vec::new())) };
    let mut notes: Vec<Note> = kept
        .iter()
        .map(|(name, reason)| Note::FunctionsKept { function: Some(name.clone()), reason: reason.to_string() })
        .collect();
    let reason = match (calls > 0).then(|| import(model)) {
        None => return Ok((read, 0, notes)),
        Some(Err(error)) => error.to_string(),
        Some(Ok(model)) => match conform::departures(&model).first() {
            None => return Ok((model, calls, notes)),
            Some(_) if !conform::departures(&read).is_empty() => return Ok((model, calls, notes)),
            Some(departure) => departure.to_string(),
        },
    };
    notes.push(Note::FunctionsKept { function: None, reason });
    Ok((read, 0, notes))
}

/// An error for the first node that ONNX does not have: no engine loads such a model, and none would load what becomes of it.
fn refuse_departures(model: &Model, name: &str) -> Result<(), Failure> {
    let departures = conform::departures(model);
    let Some(first) = departures.first() else { return Ok(()) };
    let more = match departures.len() {
        1 => String::new(),
        count => format!("; {} more nodes are none of ONNX's", count - 1),
    };
    let way_out = "if your engine takes such nodes in ONNX's domain, say --allow-unknown-ops";
    Err(Failure::input(anyhow!("{name}: {first}{more}; {way_out}")))
}

/// Numbers of an initializer that may be a layer's weights. (Smaller ones gain nothing, and a loop's initial state runs slower
/// in ONNX Runtime as a constant: x_scan_lstm 1.1 times.)
const LEAST_WEIGHTS: usize = 64;

/// Whether weights are inputs, too, which may be overridden and so cannot be rewritten.
fn has_weights_with_defaults(graph: &Graph) -> bool {
    let is_large = |input: &ValueId| graph.default_of(*input).is_some_and(|tensor| tensor.len() >= LEAST_WEIGHTS);
    graph.inputs().iter().any(is_large)
}
