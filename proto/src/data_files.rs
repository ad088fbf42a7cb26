//! Which data files the models of a folder read: none of them may be overwritten, and what nobody reads any more may go.
//!
//! A folder may hold any number of models, of any size, and files that only look like one. So nothing is decoded: a walk over
//! the wire format finds the `location`s, and touches no payload. What cannot be walked over may read anything.
//!
//! **Never** fails for what lies in the folder, **never** waits for a pipe, **never** recurses.
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Component, Path, PathBuf},
};

use crate::{
    error::FileProblem,
    fields::FIELDS,
    identity::{Identity, entry},
    load::recognize,
    map_file::map_file,
    wire::{Wire, record},
};

/// Messages within messages that are walked into: more than any reader of ONNX takes.
const MAX_DEPTH: usize = 100;
/// The messages that tensors lie in.
const HOLDERS: [&str; 8] = [
    "ModelProto",
    "GraphProto",
    "NodeProto",
    "AttributeProto",
    "FunctionProto",
    "TrainingInfoProto",
    "SparseTensorProto",
    "TensorProto",
];
/// A file that is not called `.onnx`, as a copy `m.onnx.bak`, is looked at up to this size: it may be anything.
const MAX_COPY: usize = 64 << 20;

/// The files that the model `path` reads, itself among them, as far as it can be read.
pub fn files_of_model(path: &Path) -> Vec<PathBuf> {
    let Ok(bytes) = map_file(path) else { return vec![path.to_owned()] };
    let folder = path.parent().unwrap_or(Path::new(""));
    let data = locations(&bytes).0.into_iter().map(|location| folder.join(location));
    std::iter::once(path.to_owned()).chain(data).collect()
}

/// The `location`s of all tensors in a model's bytes, and whether these could be walked over to their end.
fn locations(bytes: &[u8]) -> (BTreeSet<String>, bool) {
    let mut found = BTreeSet::new();
    let kind = |name: &str| FIELDS.iter().position(|(message, _)| *message == name);
    let (Some(model), Some(pair), Some(tensor)) =
        (kind("ModelProto"), kind("StringStringEntryProto"), kind("TensorProto"))
    else {
        return (found, false);
    };
    let mut open = vec![(model, 0..bytes.len())];
    while let Some((message, rest)) = open.last_mut() {
        if rest.start == rest.end {
            open.pop();
            continue;
        }
        let message = *message;
        let Ok(record) = record(bytes, rest.start, rest.end) else { return (found, false) };
        rest.start = record.payload.end;
        let field = FIELDS[message].1.iter().find(|(tag, ..)| *tag == record.tag);
        let (Some(&(_, name, Some(inner))), Wire::Bytes) = (field, record.wire) else { continue };
        if message == tensor && inner == pair && name == "external_data" {
            found.extend(location(&bytes[record.payload]));
        } else if HOLDERS.contains(&FIELDS[inner].0) {
            if open.len() > MAX_DEPTH {
                return (found, false);
            }
            open.push((inner, record.payload));
        }
    }
    (found, true)
}

/// The value of an entry whose key is `location`.
fn location(entry: &[u8]) -> Option<String> {
    let (mut at, mut is_location, mut value) = (0, false, None);
    while at < entry.len() {
        let record = record(entry, at, entry.len()).ok()?;
        at = record.payload.end;
        match record.tag {
            1 => is_location = &entry[record.payload] == b"location",
            2 => value = std::str::from_utf8(&entry[record.payload]).ok().map(str::to_owned),
            _ => {}
        }
    }
    value.filter(|value| is_location && !value.is_empty())
}

/// The files beside the model `path` that it reads; none where there is no such model, or it cannot be read.
pub(crate) fn own(path: &Path) -> BTreeSet<String> {
    let Ok(bytes) = map_file(path) else { return BTreeSet::new() };
    locations(&bytes).0.iter().filter_map(|location| plain(location)).collect()
}

/// A model that stays, and what it reads.
struct Reader {
    name: String,
    files: Vec<Identity>,
}

/// Who reads the data files in the folder of a model that is to be written.
pub(crate) struct Readers {
    folder: PathBuf,
    /// Data files of the model that stands where the new one goes
    own: BTreeSet<String>,
    others: Vec<Reader>,
    /// A model that cannot be read, and so may read anything
    unclear: Option<String>,
}

impl Readers {
    /// Of the folder around `output`; `input` is the model that was read, which is another than `output` unless that replaces it.
    pub(crate) fn around(output: &Path, input: Option<&Path>) -> Readers {
        let place = entry(output);
        let folder = match output.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut readers = Readers { folder, own: own(output), others: Vec::new(), unclear: None };
        let mut models: Vec<PathBuf> = fs::read_dir(&readers.folder)
            .into_iter()
            .flatten()
            .filter_map(|there| Some(there.ok()?.path()))
            .filter(|path| is_model_name(path))
            .collect();
        models.sort(); // so that the same one is named each time
        for path in input.iter().copied().chain(models.iter().map(PathBuf::as_path)) {
            // (Links to what stands at `output` lead to the new model then.)
            if entry(path) != place && Identity::of(path).place() != place {
                readers.look_at(path, Some(path) == input);
            }
        }
        readers
    }

    fn look_at(&mut self, path: &Path, is_input: bool) {
        let name = || path.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
        let is_called_model = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"));
        let bytes = match map_file(path) {
            Ok(bytes) if !is_called_model && !is_input && bytes.len() > MAX_COPY => return,
            Ok(bytes) => bytes,
            Err(FileProblem::Io(_)) if is_called_model => {
                self.unclear.get_or_insert_with(name);
                return;
            }
            Err(_) => return,
        };
        let (found, whole) = locations(&bytes);
        if !whole && is_called_model && recognize(&bytes).is_none() {
            self.unclear.get_or_insert_with(name);
        }
        // A link's data lie beside it, or beside what it leads to: readers differ.
        let real = path.is_symlink().then(|| fs::canonicalize(path).ok()).flatten();
        let folders = [path.parent(), real.as_deref().and_then(Path::parent)];
        let mut files: Vec<Identity> = folders
            .into_iter()
            .flatten()
            .flat_map(|folder| found.iter().map(move |location| Identity::of(&folder.join(location))))
            .collect();
        if is_called_model || is_input {
            files.push(Identity::of(path));
        }
        self.others.push(Reader { name: name(), files });
    }

    /// A model that reads the file called `name`, other than the one that is replaced.
    pub(crate) fn other(&self, name: &str) -> Option<&str> {
        let file = Identity::of(&self.folder.join(name));
        let reader = self.others.iter().find(|reader| reader.files.iter().any(|other| other.is_same(&file)));
        reader.map(|reader| reader.name.as_str())
    }

    /// A model that cannot be read, where there is a file `name`.
    pub(crate) fn unclear(&self, name: &str) -> Option<&str> {
        self.unclear.as_deref().filter(|_| self.is_there(name))
    }

    /// A model that reads `name`, or may.
    pub(crate) fn possible(&self, name: &str) -> Option<&str> {
        self.other(name).or_else(|| self.unclear(name))
    }

    /// Whether anything is called `name`.
    pub(crate) fn is_there(&self, name: &str) -> bool {
        fs::symlink_metadata(self.folder.join(name)).is_ok()
    }

    /// The files beside it that the model reads that is replaced.
    pub(crate) fn own(&self) -> impl Iterator<Item = &str> {
        self.own.iter().map(String::as_str)
    }

    /// Whether `name` is one of them.
    pub(crate) fn is_own(&self, name: &str) -> bool {
        self.own.contains(name)
    }
}

/// Whether the name is one that models have: `m.onnx`, and copies of them as `m.onnx.bak`.
fn is_model_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains(".onnx"))
}

/// The name of the file beside the model that `location` is; `None` for what lies elsewhere, and for a model.
fn plain(location: &str) -> Option<String> {
    let mut parts = Path::new(location).components().filter(|part| *part != Component::CurDir);
    let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) else { return None };
    let is_model = Path::new(name).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"));
    name.to_str().filter(|_| !is_model).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use prost::Message;
    use tempfile::TempDir;

    use super::locations;
    use crate::{
        limits::Limits,
        load::load,
        save::{ExternalData, SaveOptions, Saved, check_data_name, save, save_as_read},
        schema::{AttributeProto, FunctionProto, GraphProto, ModelProto, SparseTensorProto, TrainingInfoProto},
        testing::{external, model, names, node, sentence, tensor},
    };

    fn always() -> SaveOptions {
        SaveOptions { external: ExternalData::Always { file_name: None }, input: None }
    }

    fn named(name: &str) -> SaveOptions {
        SaveOptions { external: ExternalData::Always { file_name: Some(name.to_owned()) }, input: None }
    }

    fn weights(byte: u8) -> ModelProto {
        model(vec![tensor("w", vec![byte; 5000])])
    }

    /// A folder with models that read `data`.
    fn folder(data: &str, models: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(data), [7; 5000]).unwrap();
        for name in models {
            let reading = model(vec![external("w", &[("location", data)])]);
            fs::write(folder.path().join(name), reading.encode_to_vec()).unwrap();
        }
        folder
    }

    /// The byte that a model's data consist of.
    fn read(folder: &TempDir, name: &str) -> u8 {
        let loaded = load(&folder.path().join(name), &Limits::default()).unwrap();
        let data = loaded.model.graph.unwrap().initializer[0].raw_data.clone().unwrap();
        assert_eq!((data.len(), data.iter().filter(|byte| **byte == data[0]).count()), (5000, 5000));
        data[0]
    }

    fn write(folder: &TempDir, name: &str, byte: u8, options: &SaveOptions) -> Saved {
        let saved = save(&weights(byte), &folder.path().join(name), options).unwrap();
        assert_eq!(read(folder, name), byte);
        saved
    }

    #[test]
    fn data_that_another_model_reads_stay_and_the_new_ones_get_a_free_name() {
        let folder = folder("m.onnx.data", &["a.onnx", "b.onnx"]);
        let options = SaveOptions { input: Some(folder.path().join("a.onnx")), ..always() };
        let saved = write(&folder, "m.onnx", 1, &options);
        assert_eq!(saved.data.as_deref(), Some("m.onnx_1.data"));
        let avoided = saved.avoided.unwrap();
        assert_eq!((avoided.data.as_str(), avoided.model.as_str()), ("m.onnx.data", "a.onnx"));
        assert_eq!((read(&folder, "a.onnx"), read(&folder, "b.onnx")), (7, 7));
        // Once more: the same names, and no more of them.
        let bytes = || fs::read(folder.path().join("m.onnx")).unwrap();
        let first = bytes();
        write(&folder, "m.onnx", 1, &options);
        assert_eq!(names(&folder), ["a.onnx", "b.onnx", "m.onnx", "m.onnx.data", "m.onnx_1.data"]);
        assert_eq!(bytes(), first);
        // When nobody is in the way any more, the usual name is taken again.
        for name in ["a.onnx", "b.onnx"] {
            fs::remove_file(folder.path().join(name)).unwrap();
        }
        write(&folder, "m.onnx", 2, &always());
        assert_eq!(names(&folder), ["m.onnx", "m.onnx.data"]);
    }

    #[test]
    fn a_model_in_place_leaves_the_data_of_a_second_one() {
        let folder = folder("m.onnx.data", &["m.onnx", "second.onnx"]);
        let options = SaveOptions { input: Some(folder.path().join("m.onnx")), ..always() };
        write(&folder, "m.onnx", 1, &options);
        assert_eq!(read(&folder, "second.onnx"), 7);
        // A copy of the model is one, too, whatever its ending; and the input, wherever it lies.
        for copy in ["copy.ONNX", "m.onnx.bak"] {
            let folder = self::folder("m.onnx.data", &["m.onnx", copy]);
            write(&folder, "m.onnx", 1, &options);
            assert_eq!(read(&folder, copy), 7, "{copy}");
        }
        let folder = self::folder("m.onnx.data", &["m.pb"]);
        write(&folder, "m.onnx", 1, &SaveOptions { input: Some(folder.path().join("m.pb")), ..always() });
        assert_eq!(read(&folder, "m.pb"), 7);
    }

    #[test]
    fn data_that_only_the_old_model_read_go_with_it() {
        let [never, as_read] = [ExternalData::Never, ExternalData::Auto];
        for external in [never, as_read] {
            let folder = folder("m.onnx.data", &["m.onnx"]);
            write(&folder, "m.onnx", 1, &SaveOptions { external, input: None });
            assert_eq!(names(&folder), ["m.onnx"]);
        }
        let folder = folder("m.onnx.data", &["m.onnx"]);
        let path = folder.path().join("m.onnx");
        save_as_read(&weights(1).encode_to_vec(), &path, Some(Path::new("elsewhere.onnx"))).unwrap();
        assert_eq!(names(&folder), ["m.onnx"]);
        // A name that someone else gave may have other uses.
        write(&folder, "m.onnx", 1, &named("w.bin"));
        write(&folder, "m.onnx", 2, &always());
        assert_eq!(names(&folder), ["m.onnx", "m.onnx.data", "w.bin"]);
        write(&folder, "m.onnx", 2, &named("v.bin"));
        assert_eq!(names(&folder), ["m.onnx", "v.bin", "w.bin"]);
        // What another model reads stays, and so does what no model has read.
        let folder = self::folder("m.onnx.data", &["m.onnx", "b.onnx"]);
        fs::write(folder.path().join("notes"), "").unwrap();
        write(&folder, "m.onnx", 1, &SaveOptions::default());
        assert_eq!(names(&folder), ["b.onnx", "m.onnx", "m.onnx.data", "notes"]);
        // A model is no data, even for one that reads it so.
        let folder = self::folder("b.onnx", &["m.onnx"]);
        write(&folder, "m.onnx", 1, &SaveOptions::default());
        assert_eq!(names(&folder), ["b.onnx", "m.onnx"]);
    }

    #[test]
    fn a_name_that_is_given_is_not_changed_but_refused() {
        let folder = folder("w.bin", &["b.onnx"]);
        let path = folder.path().join("m.onnx");
        let expected = "`w.bin` cannot be the name of the external data: `b.onnx` reads that file; choose another name";
        assert!(sentence(&save(&weights(1), &path, &named("w.bin")).unwrap_err()).ends_with(expected));
        assert!(sentence(&check_data_name(&path, &named("w.bin")).unwrap_err()).ends_with(expected));
        assert_eq!((names(&folder), read(&folder, "b.onnx")), (vec!["b.onnx".into(), "w.bin".into()], 7));
        check_data_name(&path, &named("v.bin")).unwrap();
        write(&folder, "b.onnx", 1, &named("w.bin")); // its own
    }

    #[test]
    fn what_lies_in_the_folder_never_fails_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("folder.onnx")).unwrap();
        fs::write(path("empty.onnx"), "").unwrap();
        fs::write(path("pointer.onnx"), "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n").unwrap();
        fs::write(path("text.onnx"), "no model").unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", path("dangling.onnx")).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(path("pipe.onnx")).status().unwrap().success());
        }
        for byte in 1..4 {
            assert_eq!(write(&folder, "m.onnx", byte, &always()).data.as_deref(), Some("m.onnx.data"));
        }
        // A damaged model may read anything that is there: it stays, and that is said.
        let damaged = model(vec![external("w", &[("location", "v.bin")])]).encode_to_vec();
        fs::write(path("damaged.onnx"), &damaged[..damaged.len() - 3]).unwrap();
        let saved = write(&folder, "m.onnx", 4, &always());
        assert_eq!(saved.data.as_deref(), Some("m.onnx_1.data"));
        assert_eq!(saved.kept.unwrap().model, "damaged.onnx");
        assert_eq!(fs::read(path("m.onnx.data")).unwrap(), [3; 5000]);
        write(&folder, "m.onnx", 5, &named("w.bin"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_other_names_of_a_model_or_of_data() {
        use std::os::unix::fs::symlink;
        let path = |folder: &TempDir, name: &str| folder.path().join(name);
        // What leads to the model that is replaced reads the new one then.
        let inner = folder("m.onnx.data", &["m.onnx"]);
        symlink("m.onnx", path(&inner, "link.onnx")).unwrap();
        let options = SaveOptions { input: Some(path(&inner, "link.onnx")), ..always() };
        assert_eq!(write(&inner, "m.onnx", 1, &options).data.as_deref(), Some("m.onnx.data"));
        assert_eq!(read(&inner, "link.onnx"), 1);
        // A link that is replaced leaves the model behind it, and so does a hard one.
        let inner = folder("m.onnx.data", &["m.onnx"]);
        symlink("m.onnx", path(&inner, "link.onnx")).unwrap();
        fs::hard_link(path(&inner, "m.onnx"), path(&inner, "hard.onnx")).unwrap();
        write(&inner, "link.onnx", 1, &SaveOptions::default());
        assert_eq!(read(&inner, "m.onnx"), 7);
        write(&inner, "m.onnx", 1, &always());
        assert_eq!(read(&inner, "hard.onnx"), 7);
        // Data under another name.
        let inner = folder("w.bin", &["b.onnx"]);
        symlink("w.bin", path(&inner, "m.onnx.data")).unwrap();
        write(&inner, "m.onnx", 1, &always());
        assert_eq!(read(&inner, "b.onnx"), 7);
        assert!(save(&weights(1), &path(&inner, "n.onnx"), &named("m.onnx.data")).is_err());
    }

    #[test]
    fn locations_are_found_in_all_tensors() {
        let w = |name: &str| external("w", &[("location", name), ("offset", "5")]);
        let sparse = |name: &str| SparseTensorProto { values: Some(w(name)), indices: Some(w("i")), dims: vec![100] };
        let attribute = |name: &str, g| AttributeProto {
            t: Some(Box::new(w(name))),
            tensors: vec![w("list")],
            sparse_tensor: Some(Box::new(sparse("sparse"))),
            g,
            ..Default::default()
        };
        let graph = |name: &str, attribute| GraphProto {
            initializer: vec![w(name), tensor("inside", vec![0; 9000])],
            sparse_initializer: vec![sparse("values")],
            node: vec![node(attribute)],
            ..Default::default()
        };
        let mut all = model(vec![]);
        all.graph = Some(graph("outer", attribute("a", Some(Box::new(graph("body", attribute("b", None)))))));
        all.functions = vec![FunctionProto { node: vec![node(attribute("function", None))], ..Default::default() }];
        let initialization = Some(graph("training", attribute("c", None)));
        all.training_info = vec![TrainingInfoProto { initialization, ..Default::default() }];
        let expected =
            ["a", "b", "body", "c", "function", "i", "list", "outer", "sparse", "training", "values"].map(String::from);
        let bytes = all.encode_to_vec();
        assert_eq!(locations(&bytes), (BTreeSet::from(expected), true));
        for cut in 0..bytes.len() {
            locations(&bytes[..cut]);
        }
    }
}
