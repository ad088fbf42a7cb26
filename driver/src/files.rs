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

use crate::{ExitCode, Failure, report::Written};

/// Loads the model `path` (`-`: standard input), whatever fields it has: to look at, not to write.
pub fn load_to_read(path: &Path) -> Result<Loaded, Failure> {
    let loaded = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|error| Failure::input(anyhow!(error).context("standard input: cannot be read")))?;
        proto::load_bytes(Bytes::from(bytes), Path::new("standard input"), None, &Limits::default())
    } else {
        proto::load(path, &Limits::default())
    };
    loaded.map_err(Failure::input)
}

/// Loads the model `path` (`-`: standard input). Fields that this version of ONNX does not know are an error unless
/// `allow_unknown_fields`: writing the model would lose them.
pub fn load(path: &Path, allow_unknown_fields: bool) -> Result<Loaded, Failure> {
    let loaded = load_to_read(path)?;
    let Some(first) = loaded.unknown.first() else { return Ok(loaded) };
    if allow_unknown_fields {
        for field in &loaded.unknown {
            log::warn!("{}: {field} is unknown to this version of ONNX and is dropped", path.display());
        }
        return Ok(loaded);
    }
    let more = match loaded.unknown.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more kinds of them"),
    };
    Err(Failure::input(anyhow!(
        "{}: {first}{more} is unknown to this version of ONNX and would be lost; \
         to drop it, say --allow-unknown-fields",
        path.display()
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

    /// Writes it to `output` (`-`: standard output); `input` is where the model was read.
    pub fn write(&self, input: &Path, output: &Path, external: &ExternalData) -> Result<Saved, Failure> {
        let Written { input_kept, .. } = self.written;
        let has_external = proto::has_external_data(&self.loaded.model);
        let verbatim = input_kept && !has_external && self.loaded.unknown.is_empty();
        let chosen = if input_kept { &self.loaded.model } else { self.result };
        let failed = |error: proto::SaveError| Failure::new(ExitCode::Usage, error);
        if output == Path::new("-") {
            let mut out = std::io::stdout().lock();
            if verbatim {
                let written = out.write_all(&self.loaded.bytes).and_then(|()| out.flush());
                return written
                    .map(|()| Saved::default())
                    .map_err(|error| Failure::new(ExitCode::Usage, anyhow!(error).context("standard output")));
            }
            return proto::write_to(chosen, &mut out).map(|()| Saved::default()).map_err(failed);
        }
        let input_file = Some(input).filter(|input| *input != Path::new("-"));
        match external {
            ExternalData::Auto | ExternalData::Keep | ExternalData::Never if verbatim => {
                proto::save_as_read(&self.loaded.bytes, output, input_file).map_err(failed)
            }
            // In place, unchanged, with its data beside it: all is as it shall be.
            ExternalData::Auto | ExternalData::Keep if self.same && is_same_file(input, output) => Ok(Saved::default()),
            _ => {
                let options = SaveOptions { external: external.clone(), input: input_file.map(Path::to_owned) };
                proto::save(chosen, output, &options).map_err(failed)
            }
        }
    }
}

/// Whether both names lead to the same file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
