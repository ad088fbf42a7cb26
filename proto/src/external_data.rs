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
    map_file::map_file,
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
pub fn any_external(model: &ModelProto) -> bool {
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
                let entries = [
                    ("location", location.to_owned()),
                    ("offset", offset.to_string()),
                    ("length", data.len().to_string()),
                ];
                let entry =
                    |(key, value): (&str, _)| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use prost::Message;
    use tempfile::TempDir;

    use crate::{
        limits::Limits,
        load::{Loaded, load, load_bytes},
        schema::{AttributeProto, FunctionProto, GraphProto, SparseTensorProto, TensorProto, TrainingInfoProto},
        testing::{external, model, node, sentence},
    };

    /// A folder `in/` with `w.bin` (0, 1, 2 … 99) and a model with this tensor.
    fn folder_with(tensor: TensorProto) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::write(folder.path().join("in/w.bin"), (0..100).collect::<Vec<u8>>()).unwrap();
        fs::write(folder.path().join("outside.bin"), [1; 100]).unwrap();
        fs::write(folder.path().join("in/m.onnx"), model(vec![tensor]).encode_to_vec()).unwrap();
        folder
    }

    fn load_with(entries: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        let folder = folder_with(external("w", entries));
        match load(&folder.path().join("in/m.onnx"), &Limits::default()) {
            Ok(loaded) => Ok(data(&loaded).to_vec()),
            Err(error) => Err(sentence(&error).replace(&folder.path().display().to_string(), "")),
        }
    }

    fn data(loaded: &Loaded) -> &[u8] {
        loaded.model.graph.as_ref().unwrap().initializer[0].raw_data.as_ref().unwrap()
    }

    #[test]
    fn offset_and_length_are_followed() {
        let all: Vec<u8> = (0..100).collect();
        assert_eq!(load_with(&[("location", "w.bin")]).unwrap(), all);
        assert_eq!(load_with(&[("location", "./w.bin"), ("offset", "90")]).unwrap(), all[90..]);
        assert_eq!(load_with(&[("location", "w.bin"), ("offset", "10"), ("length", "5")]).unwrap(), all[10..15]);
        assert_eq!(load_with(&[("location", "w.bin"), ("offset", "100"), ("length", "0")]).unwrap(), []);
    }

    #[test]
    fn the_original_form_stays() {
        let tensor = external("w", &[("location", "w.bin"), ("checksum", "x")]);
        let folder = folder_with(tensor.clone());
        let loaded = load(&folder.path().join("in/m.onnx"), &Limits::default()).unwrap();
        let mut found = loaded.model.graph.unwrap().initializer.remove(0);
        found.raw_data = None;
        assert_eq!(found, tensor);
    }

    #[test]
    fn ranges_outside_of_the_file_are_errors() {
        let start = "/in/m.onnx: initializer `w`: external data `w.bin`";
        let has =
            |needed: u64| format!("{start} has 100 bytes, {needed} are needed; copy the whole file next to the model");
        let range =
            |offset, length| load_with(&[("location", "w.bin"), ("offset", offset), ("length", length)]).unwrap_err();
        assert_eq!(range("96", "5"), has(101));
        assert_eq!(range("18446744073709551615", "2"), has(u64::MAX));
        assert_eq!(range("101", "0"), has(101));
        let wrong = |key, value| format!("{start}: {key} `{value}` is not a number of bytes; export the model again");
        assert_eq!(range("-4", "4"), wrong("offset", "-4"));
        assert_eq!(range("0", "4k"), wrong("length", "4k"));
        assert_eq!(load_with(&[("location", "w.bin"), ("offset", "101")]).unwrap_err(), has(101));
    }

    #[test]
    fn paths_out_of_the_folder_are_errors() {
        for location in ["../outside.bin", "/etc/hostname", "../in/w.bin", "a/../../outside.bin", ".."] {
            let error = load_with(&[("location", location)]).unwrap_err();
            assert!(error.contains("initializer `w`: external data") && error.contains("lies outside"), "{error}");
        }
        assert!(
            load_with(&[("location", "none.bin")]).unwrap_err().ends_with("external data `none.bin`: no such file")
        );
        assert!(load_with(&[("location", ".")]).unwrap_err().contains("`.`: this is a folder"));
        assert!(load_with(&[("location", "a\0b")]).unwrap_err().contains("cannot be read"));
        assert!(load_with(&[("offset", "0")]).unwrap_err().contains("without a `location`"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_inside_of_the_folder_only() {
        use std::os::unix::fs::symlink;
        let folder = folder_with(external("w", &[("location", "link.bin")]));
        let (model, link) = (folder.path().join("in/m.onnx"), folder.path().join("in/link.bin"));
        symlink("../outside.bin", &link).unwrap();
        assert!(sentence(&load(&model, &Limits::default()).unwrap_err()).contains("`link.bin` lies outside"));
        fs::remove_file(&link).unwrap();
        symlink("w.bin", &link).unwrap();
        assert_eq!(data(&load(&model, &Limits::default()).unwrap()).len(), 100);
    }

    #[cfg(unix)]
    #[test]
    fn a_cache_that_links_model_and_data_to_one_store_works() {
        use std::os::unix::fs::symlink;
        let folder = folder_with(external("w", &[("location", "model.data")]));
        let snapshot = folder.path().join("snapshot");
        fs::create_dir(&snapshot).unwrap();
        symlink("../in/m.onnx", snapshot.join("model.onnx")).unwrap();
        symlink("../in/w.bin", snapshot.join("model.data")).unwrap();
        assert_eq!(data(&load(&snapshot.join("model.onnx"), &Limits::default()).unwrap()).len(), 100);
    }

    #[test]
    fn a_model_without_a_folder_cannot_have_external_data() {
        let bytes = model(vec![external("w", &[("location", "w.bin")])]).encode_to_vec();
        let error = load_bytes(bytes.into(), Path::new("standard input"), None, &Limits::default()).unwrap_err();
        assert!(sentence(&error).starts_with("standard input: initializer `w`: its data lies in the file `w.bin`"));
    }

    #[test]
    fn data_inside_and_outside_is_an_error() {
        let folder = folder_with(TensorProto { raw_data: Some("x".into()), ..external("w", &[("location", "w.bin")]) });
        let error = load(&folder.path().join("in/m.onnx"), &Limits::default()).unwrap_err();
        assert!(sentence(&error).contains("data both in the model and in `w.bin`"));
    }

    #[test]
    fn every_tensor_is_resolved() {
        let w = || external("w", &[("location", "w.bin")]);
        let sparse = || SparseTensorProto { values: Some(w()), indices: Some(w()), dims: vec![100] };
        let attribute = |g| AttributeProto {
            name: Some("a".into()),
            t: Some(Box::new(w())),
            tensors: vec![w()],
            sparse_tensor: Some(Box::new(sparse())),
            sparse_tensors: vec![sparse()],
            g,
            ..Default::default()
        };
        let graph = |attribute| GraphProto {
            initializer: vec![w()],
            sparse_initializer: vec![sparse()],
            node: vec![node(attribute)],
            ..Default::default()
        };
        let body = || attribute(Some(Box::new(graph(attribute(None)))));
        let folder = folder_with(w());
        let path = folder.path().join("in/m.onnx");
        let mut model = model(vec![w()]);
        model.graph = Some(graph(body()));
        model.functions = vec![FunctionProto {
            node: vec![node(body())],
            attribute_proto: vec![attribute(None)],
            ..Default::default()
        }];
        let training = TrainingInfoProto {
            initialization: Some(graph(body())),
            algorithm: Some(graph(body())),
            ..Default::default()
        };
        model.training_info = vec![training];
        fs::write(&path, model.encode_to_vec()).unwrap();
        let loaded = load(&path, &Limits::default()).unwrap();
        let all = format!("{:?}", loaded.model).matches("external_data: [String").count();
        let mut resolved = 0;
        crate::tensors::shared::model(&loaded.model, &mut |tensor, _| {
            resolved += usize::from(tensor.raw_data.is_some());
            Ok::<(), ()>(())
        })
        .unwrap();
        assert_eq!((all, resolved), (75, 75));
    }
}
