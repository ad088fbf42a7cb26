//! Models with functions of their own, opened to be worked on: their calls are inlined.
//!
//! **Never** gives a model that is taken less well than the one that was read: where the bodies hold nodes that ONNX does not have, or
//! no graph comes of them, the calls stay as they are, and a note says so.
use onnx_shrink_ir::{ImportError, Inlined, Model, conform, import, inline_functions, proto::schema::ModelProto};

/// What becomes of calls of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Functions {
    /// They are inlined
    Inlined,
    /// They stay as they are
    Kept,
}

/// A model to work on.
#[derive(Debug)]
pub struct Opened {
    /// The model, not inferred yet
    pub model: Model,
    /// Calls that were inlined
    pub calls: usize,
    /// Calls that stay, and why
    pub notes: Vec<String>,
}

/// Opens `proto`.
pub fn open(proto: &ModelProto, functions: Functions) -> Result<Opened, ImportError> {
    let read = import(proto.clone())?;
    let inlined = match functions {
        Functions::Inlined => inline_functions(proto),
        Functions::Kept => None,
    };
    let Some(Inlined { model, calls, kept }) = inlined else {
        return Ok(Opened { model: read, calls: 0, notes: Vec::new() });
    };
    let mut notes: Vec<String> = kept
        .iter()
        .map(|(name, reason)| format!("calls of the model's function {name} stay as they are: {reason}"))
        .collect();
    let reason = match (calls > 0).then(|| import(model)) {
        None => return Ok(Opened { model: read, calls: 0, notes }),
        Some(Err(error)) => error.to_string(),
        Some(Ok(model)) => match conform::departures(&model).first() {
            None => return Ok(Opened { model, calls, notes }),
            Some(_) if !conform::departures(&read).is_empty() => return Ok(Opened { model, calls, notes }),
            Some(departure) => departure.to_string(),
        },
    };
    notes.push(format!("calls of the model's functions stay as they are: {reason}"));
    Ok(Opened { model: read, calls: 0, notes })
}

/// What is to be said of a model whose calls were inlined.
pub fn inlined_note(calls: usize) -> String {
    match calls {
        1 => "the call of one of the model's own functions was inlined".to_owned(),
        calls => format!("{calls} calls of the model's own functions were inlined"),
    }
}
