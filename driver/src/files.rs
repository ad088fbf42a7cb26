//! Models from and to files, standard input and standard output.
//!
//! **Never** writes more bytes than the input has, **never** drops a field without leave, **never** leaves half a file.
use std::{
    fs,
    io::{Read, Write},
    path::Path,
};

use anyhow::anyhow;
use bytes::Bytes;
use onnx_shrink_ir::proto::{self, ExternalData, Limits, Loaded, SaveOptions, Saved, schema::ModelProto};

use crate::{ExitCode, Failure, report::Written, request::io::Input};

/// What becomes of fields that this version of ONNX does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    /// They are an error: writing the model would lose them
    Refused,
    /// They are dropped, and the log warns
    Dropped,
    /// The model is only looked at
    Ignored,
}

fn read(input: &Input) -> Result<Loaded, Failure> {
    let limits = Limits::default();
    let loaded = match input {
        Input::File(path) => proto::load(path, &limits),
        Input::Stdin => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Failure::input(anyhow!(error).context("standard input: cannot be read")))?;
            proto::load_bytes(Bytes::from(bytes), Path::new("standard input"), None, &limits)
        }
        Input::Memory(bytes) => proto::load_bytes(bytes.clone(), Path::new(&input.to_string()), None, &limits),
    };
    loaded.map_err(Failure::input)
}

/// Loads the model `input`.
pub(crate) fn load(input: &Input, unknown: UnknownFields) -> Result<Loaded, Failure> {
    let loaded = read(input)?;
    let Some(first) = loaded.unknown.first() else { return Ok(loaded) };
    match unknown {
        UnknownFields::Refused => {}
        UnknownFields::Dropped => {
            for field in &loaded.unknown {
                log::warn!("{input}: {field} is unknown to this version of ONNX and is dropped");
            }
            return Ok(loaded);
        }
        UnknownFields::Ignored => return Ok(loaded),
    }
    let more = match loaded.unknown.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more kinds of them"),
    };
    Err(Failure::input(anyhow!(
        "{input}: {first}{more} is unknown to this version of ONNX and would be lost; \
         to drop it, say --allow-unknown-fields"
    )))
}

/// Bytes of `model` with its tensors, wherever they lie.
pub fn size_of(model: &ModelProto) -> u64 {
    proto::encode(model).iter().map(|part| part.len() as u64).sum()
}

/// Bytes of the model that was read, its external data included.
pub fn size_of_input(loaded: &Loaded) -> u64 {
    if proto::has_external_data(&loaded.model) { size_of(&loaded.model) } else { loaded.bytes.len() as u64 }
}

/// What is to be written: a result, or the input itself if the result is equal or would be larger.
pub struct Plan<'a> {
    result: &'a ModelProto,
    loaded: &'a Loaded,
    same: bool,
    written: Written,
}

impl<'a> Plan<'a> {
    /// Chooses between `result` and what was `loaded`; a result that `may_grow` is chosen even if it is larger.
    pub fn new(result: &'a ModelProto, loaded: &'a Loaded, may_grow: bool) -> Plan<'a> {
        let (before, after) = (size_of_input(loaded), size_of(result));
        let same = *result == loaded.model;
        let larger = after > before && !same && !may_grow;
        // Dropping fields is what the user asked for: then the input's own bytes are not what is wanted.
        let input_kept = larger || (same && loaded.unknown.is_empty());
        let bytes = if input_kept { before } else { after };
        Plan { result, loaded, same, written: Written { bytes, input_kept, larger } }
    }

    /// What will be written.
    pub fn written(&self) -> Written {
        self.written
    }

    /// The bytes of one file without external data, and for messages where they go.
    fn write_inline(&self, out: &mut dyn Write, name: &str) -> Result<(), Failure> {
        let failed = |error: anyhow::Error| Failure::new(ExitCode::Usage, error);
        if self.is_verbatim() {
            let written = out.write_all(&self.loaded.bytes).and_then(|()| out.flush());
            return written.map_err(|error| failed(anyhow!(error).context(name.to_owned())));
        }
        proto::write_to(self.chosen(), out).map_err(|error| failed(error.into()))
    }

    /// The model that is written.
    fn chosen(&self) -> &ModelProto {
        if self.written.input_kept { &self.loaded.model } else { self.result }
    }

    /// Whether the input's own bytes are written.
    fn is_verbatim(&self) -> bool {
        self.written.input_kept && !proto::has_external_data(&self.loaded.model) && self.loaded.unknown.is_empty()
    }

    /// The bytes of the model, its tensors inside.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        self.write_inline(&mut bytes, "memory")?;
        Ok(bytes)
    }

    /// Writes it to standard output.
    pub fn print(&self) -> Result<(), Failure> {
        self.write_inline(&mut std::io::stdout().lock(), "standard output")
    }

    /// Writes it to the file `output`; `input` is the file where the model was read, if it was one.
    pub fn write(&self, input: Option<&Path>, output: &Path, external: &ExternalData) -> Result<Saved, Failure> {
        let failed = |error: proto::SaveError| Failure::new(ExitCode::Usage, error);
        match external {
            ExternalData::Auto | ExternalData::Keep | ExternalData::Never if self.is_verbatim() => {
                proto::save_as_read(&self.loaded.bytes, output, input).map_err(failed)
            }
            // In place, unchanged, with its data beside it: all is as it shall be.
            ExternalData::Auto | ExternalData::Keep
                if self.same && input.is_some_and(|input| is_same_file(input, output)) =>
            {
                Ok(Saved::default())
            }
            _ => {
                let options = SaveOptions { external: external.clone(), input: input.map(Path::to_owned) };
                proto::save(self.chosen(), output, &options).map_err(failed)
            }
        }
    }
}

/// Whether both names lead to the same file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
