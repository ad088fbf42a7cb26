//! External data: tensors that lie in files beside the model.
//!
//! Why: a protobuf message ends at 2 GiB, so ONNX moves large tensors out (spec: docs/ExternalData.md).
//!
//! **Never** leaves the model's folder (`..`, absolute paths, links), **never** copies a tensor: results are slices of the
//! memory map. Where the model's file is itself a link, the folder that it leads to is the model's folder as well: package
//! caches link model and data to one store.
use std::{
    collections::HashMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;

use crate::{
    error::{FileProblem, Problem},
    load::map_file,
    schema::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation},
    tensors::{self, Owner},
};

/// Each tensor of a data file starts at a multiple of this.
const ALIGNMENT: u64 = 64;
/// Smaller tensors stay in the model.
const MIN_SIZE: usize = 1024;

/// Whether the tensor's data lies outside of the model.
pub(crate) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == Some(DataLocation::External as i32)
}

/// Whether any tensor's data lies outside of the model.
pub(crate) fn any_external(model: &ModelProto) -> bool {
    let mut stop_at_external = |tensor: &TensorProto, _: Owner<'_>| if is_external(tensor) { Err(()) } else { Ok(()) };
    tensors::shared::model(model, &mut stop_at_external).is_err()
}

/// Reads the data files of one model.
#[derive(Default)]
pub(crate) struct Reader {
    /// The folder that `location`s start from; `None`: there is none.
    folder: Option<PathBuf>,
    /// Where files may lie, without links.
    roots: Vec<PathBuf>,
    /// What is mapped, by `location`.
    maps: HashMap<String, Bytes>,
}

impl Reader {
    /// For a model in `folder`; with `model`, its file, also where that leads to if it is a link.
    pub(crate) fn new(folder: Option<&Path>, model: Option<&Path>) -> Reader {
        let folder = folder.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        let mut roots: Vec<PathBuf> = folder.and_then(|folder| folder.canonicalize().ok()).into_iter().collect();
        let real = model.and_then(|model| model.canonicalize().ok());
        roots.extend(real.and_then(|model| model.parent().map(Path::to_owned)));
        Reader { folder: folder.map(Path::to_owned), roots, maps: HashMap::new() }
    }

    /// Sets `raw_data` of an external tensor; all else of it stays as it is.
    pub(crate) fn resolve(&mut self, tensor: &mut TensorProto) -> Result<(), Problem> {
        let entry = |key: &str| {
            let entry = tensor.external_data.iter().rev().find(|entry| entry.key.as_deref() == Some(key));
            entry.and_then(|entry| entry.value.clone())
        };
        let location = entry("location").filter(|at| !at.is_empty()).ok_or(Problem::ExternalDataNoLocation)?;
        let number = |key: &'static str| match entry(key) {
            Some(value) => match value.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Problem::ExternalDataNumber { location: location.clone(), key, value }),
            },
            None => Ok(None),
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        if tensor.raw_data.as_ref().is_some_and(|data| !data.is_empty()) {
            return Err(Problem::ExternalDataTwice { location });
        }
        let map = self.map(&location)?;
        let found = map.len() as u64;
        let length = length.unwrap_or_else(|| found.saturating_sub(offset)); // as the specification has it: to the end
        let needed = offset.saturating_add(length);
        if needed > found {
            return Err(Problem::ExternalDataShort { location, needed, found });
        }
        // both are at most `found`, the length of a slice: no cast cuts
        tensor.raw_data = Some(map.slice(offset as usize..needed as usize));
        Ok(())
    }

    fn map(&mut self, location: &str) -> Result<Bytes, Problem> {
        if let Some(map) = self.maps.get(location) {
            return Ok(map.clone());
        }
        let folder = self.folder.as_ref();
        let folder = folder.ok_or_else(|| Problem::ExternalDataNoFolder { location: location.to_owned() })?;
        let path = Path::new(location);
        let outside = || Problem::ExternalDataOutside { location: location.to_owned() };
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let problem = |source| Problem::ExternalDataFile { location: location.to_owned(), source };
        let real = fs::canonicalize(folder.join(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => problem(FileProblem::Missing),
            _ => problem(FileProblem::Io(error)),
        })?;
        if !self.roots.iter().any(|root| real.starts_with(root)) {
            return Err(outside());
        }
        let map = map_file(&real).map_err(problem)?;
        self.maps.insert(location.to_owned(), map.clone());
        Ok(map)
    }
}

/// Which tensors go to the data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// None.
    Nothing,
    /// Those that lay outside before.
    AsBefore,
    /// Initializers of 1 KiB or more, and such attributes only as lay outside before: not all readers look there.
    Initializers,
    /// All of 1 KiB or more.
    All,
}

impl Selection {
    fn takes(self, tensor: &TensorProto, owner: Owner<'_>) -> bool {
        let size = tensor.raw_data.as_ref().map_or(0, Bytes::len);
        let before = is_external(tensor);
        match self {
            Selection::Nothing => false,
            Selection::AsBefore => before,
            Selection::Initializers => size >= MIN_SIZE && (before || matches!(owner, Owner::Initializer)),
            Selection::All => size >= MIN_SIZE,
        }
    }
}

/// Moves the data of the tensors that `selection` takes to the file `location`, whose parts are the result, and that of all
/// others into the model. Largest last; equal slices once.
pub(crate) fn place(model: &mut ModelProto, selection: Selection, location: &str) -> Vec<Bytes> {
    static ZEROS: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];
    let mut chosen: Vec<Bytes> = Vec::new();
    visit(model, |tensor, owner| {
        if let Some(data) = &tensor.raw_data
            && selection.takes(tensor, owner)
        {
            chosen.push(data.clone());
        }
    });
    chosen.sort_by_key(Bytes::len); // stable: equal sizes stay in the model's order
    let mut offsets = HashMap::new();
    let (mut parts, mut end) = (Vec::new(), 0u64);
    for data in chosen {
        let padding = end.next_multiple_of(ALIGNMENT) - end;
        let slice = (data.as_ptr() as usize, data.len());
        if offsets.contains_key(&slice) {
            continue;
        }
        offsets.insert(slice, end + padding);
        end += padding + data.len() as u64;
        if padding > 0 {
            parts.push(Bytes::from_static(&ZEROS[..padding as usize]));
        }
        if !data.is_empty() {
            parts.push(data);
        }
    }
    visit(model, |tensor, owner| {
        let taken = selection.takes(tensor, owner);
        let Some(data) = &tensor.raw_data else { return };
        match offsets.get(&(data.as_ptr() as usize, data.len())) {
            Some(offset) if taken => {
                let entries =
                    [("location", location.to_owned()), ("offset", offset.to_string()), ("length", data.len().to_string())];
                let entry = |(key, value): (&str, _)| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
                tensor.external_data = entries.map(entry).into();
                tensor.data_location = Some(DataLocation::External as i32);
                tensor.raw_data = None;
            }
            _ if is_external(tensor) => {
                tensor.external_data.clear();
                tensor.data_location = None;
            }
            _ => {}
        }
    });
    parts
}

fn visit(model: &mut ModelProto, mut each: impl FnMut(&mut TensorProto, Owner<'_>)) {
    let Ok(()) = tensors::unique::model(model, &mut |tensor, owner| {
        each(tensor, owner);
        Ok::<(), std::convert::Infallible>(())
    });
}
