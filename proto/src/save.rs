//! Save: a model becomes a file, whole or not at all.
//!
//! Everything goes to a temporary file in the target's folder, is synced, gets the rights that a new file would get (or the
//! old file had) and is renamed. So `in.onnx -o in.onnx` works: the old file stays mapped until nobody needs it. A target
//! that is a link is replaced, not followed: links lead into caches that others share.
//!
//! A model and its data file are two names that cannot be changed at once. So where both are there already, a model that reads
//! the new data under a spare name comes first, then the data, then the model itself: whatever ends the process in between,
//! the model that is to be seen reads the data that it was written with. Runs onto one folder rename one after another.
//!
//! **Never** copies a large tensor, **never** changes an existing file in place, **never** leaves anything behind on failure.
use std::{
    borrow::Cow,
    ffi::OsStr,
    io::Write,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use prost::Message;

use crate::{
    atomic::{Staged, Target, TargetFile, Undo, io, write_device, write_parts},
    data_files::{self, Readers},
    error::{SaveError, SaveProblem},
    external_data::{Selection, any_external, place},
    rope,
    schema::ModelProto,
};

/// The largest message that every reader of ONNX takes: 2 GiB less one byte, and 1 MiB for what readers add.
const MESSAGE_LIMIT: usize = i32::MAX as usize - (1 << 20);

/// How to write a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// What goes to a file of its own.
    pub external: ExternalData,
    /// The model that was read, whose data files stay as they are unless the new model replaces it.
    pub input: Option<PathBuf>,
}

/// What became of data files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The new data file's name.
    pub data: Option<String>,
    /// The file that would have had this name, had not another model read it.
    pub avoided: Option<Spared>,
    /// The old data file that stays beside the model, because another may read it that cannot be looked into.
    pub kept: Option<Spared>,
}

/// A data file that was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spared {
    /// Its name.
    pub data: String,
    /// The model that reads it, or may.
    pub model: String,
}

/// When tensors are written to a data file beside the model.
///
/// That is one file, `<model's file name>.data`; each tensor in it is aligned to 64 bytes, the largest is the last. Where another
/// model of the folder reads a file of that name, it is the first of `<name>_1.data`, `<name>_2.data` … that is free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExternalData {
    /// If some were outside before, or the model would be larger than 2 GiB: then all initializers of 1 KiB or more.
    #[default]
    Auto,
    /// Always: all initializers of 1 KiB or more.
    Always {
        /// The data file's name, without a folder; `None`: the usual one. That of a file that another model reads is an error.
        file_name: Option<String>,
    },
    /// Those that were outside before, whatever their size, and no others.
    Keep,
    /// Never: a model larger than 2 GiB is an error.
    Never,
}

/// Writes `model` to the file `path`, and its data file if `options` say so. On failure nothing has changed on disk.
///
/// A data file that another model in the folder reads, or the input, is never overwritten. Those of the model that was at `path`
/// before, which nobody reads any more, are removed with it.
/// Tensors with both `raw_data` and `data_location` EXTERNAL (as [`load`](crate::load()) makes them) are written in one form.
/// What is not a regular file (`/dev/null`, a pipe) is written to directly, with all tensors inside.
pub fn save(model: &ModelProto, path: &Path, options: &SaveOptions) -> Result<Saved, SaveError> {
    save_within(MESSAGE_LIMIT, model, path, options).map_err(|problem| at(path, problem))
}

/// Writes `bytes`, which are a model without external data, to the file `path`, as [`save`] does.
pub fn save_as_read(bytes: &[u8], path: &Path, input: Option<&Path>) -> Result<Saved, SaveError> {
    let write = || match Target::of(path)? {
        Target::Device => write_device(path, [bytes]).map(|()| Saved::default()),
        Target::File(file) => alone(path, file.clone(), file.stage([bytes])?, input),
    };
    write().map_err(|problem| at(path, problem))
}

/// Writes `bytes`, which are no model, to the file `path`, whole or not at all.
pub fn save_bytes(bytes: &[u8], path: &Path) -> Result<(), SaveError> {
    let write = || match Target::of(path)? {
        Target::Device => write_device(path, [bytes]),
        Target::File(file) => file.stage([bytes])?.commit(),
    };
    write().map_err(|problem| at(path, problem))
}

/// Whether the model at `path` can have its data where `options` say: what [`save`] finds wrong with it, before the work.
pub fn check_data_name(path: &Path, options: &SaveOptions) -> Result<(), SaveError> {
    let check = || {
        let wanted = Wanted::of(path, &options.external)?;
        if let Wanted::Named(_) = wanted {
            wanted.choose(&Readers::around(path, options.input.as_deref()))?;
        }
        Ok(())
    };
    check().map_err(|problem| at(path, problem))
}

/// The bytes of `model` in one file, with all tensors inside: in parts, of which large tensors are not copied.
pub fn encode(model: &ModelProto) -> Vec<Bytes> {
    rope::encode(inline(model).as_ref())
}

/// Writes `model`, with all tensors inside, to a stream such as standard output.
pub fn write_to(model: &ModelProto, out: &mut dyn Write) -> Result<(), SaveError> {
    let mut write = || {
        let model = inline(model);
        fits(&model, MESSAGE_LIMIT)?;
        let parts = rope::encode(model.as_ref());
        write_parts(out, parts).and_then(|()| out.flush()).map_err(io("write"))
    };
    write().map_err(|problem| at(Path::new("standard output"), problem))
}

fn at(path: &Path, problem: SaveProblem) -> SaveError {
    SaveError { file: path.to_owned(), problem }
}

fn save_within(limit: usize, model: &ModelProto, path: &Path, options: &SaveOptions) -> Result<Saved, SaveProblem> {
    let file = match Target::of(path)? {
        Target::Device => return write_device(path, encode(model)).map(|()| Saved::default()),
        Target::File(file) => file,
    };
    let wanted = Wanted::of(path, &options.external)?;
    let input = options.input.as_deref();
    let outside = any_external(model);
    let selection = match options.external {
        ExternalData::Auto if outside || model.encoded_len() > limit => Selection::Initializers,
        ExternalData::Always { .. } => Selection::Initializers,
        ExternalData::Keep if outside => Selection::AsBefore,
        _ => Selection::Nothing,
    };
    if selection == Selection::Nothing {
        let model = inline(model);
        fits(&model, limit)?;
        return alone(path, file.clone(), file.stage(rope::encode(model.as_ref()))?, input);
    }
    let (data, selection) = {
        let (written, data) = placed(model, selection, wanted.usual());
        match selection {
            Selection::Initializers if written.encoded_len() > limit => {
                (placed(model, Selection::All, wanted.usual()).1, Selection::All)
            }
            _ => (data, selection),
        }
    };
    if data.is_empty() {
        let (written, _) = placed(model, selection, wanted.usual());
        fits(&written, limit)?;
        return alone(path, file.clone(), file.stage(rope::encode(&written))?, input);
    }
    wanted.target(path, wanted.usual())?;
    let staged = file.stage_beside(data)?;
    // From here on nobody else gives names in the folder: what is free stays so.
    let _lock = file.lock();
    let readers = Readers::around(path, input);
    let (name, avoided) = wanted.choose(&readers)?;
    let data_file = wanted.target(path, &name)?;
    let (written, _) = placed(model, selection, &name);
    fits(&written, limit)?;
    let pair = Pair { model: file.clone(), data: data_file.clone(), staged: staged.aim(data_file)? };
    let interim = |name: &str| rope::encode(&placed(model, selection, name).0);
    pair.commit(file.stage(rope::encode(&written))?, &interim, &mut || ())?;
    let kept = remove_left_over(&readers, path, Some(&name));
    Ok(Saved { data: Some(name), avoided, kept })
}

/// Names a model that has no data file, and removes those of the model that was there.
fn alone(path: &Path, file: TargetFile, staged: Staged, input: Option<&Path>) -> Result<Saved, SaveProblem> {
    if data_files::own(path).is_empty() {
        return staged.commit().map(|()| Saved::default());
    }
    let _lock = file.lock();
    let readers = Readers::around(path, input);
    staged.commit()?;
    Ok(Saved { kept: remove_left_over(&readers, path, None), ..Saved::default() })
}

/// Removes the data files of the model that was at `path`, which reads `data` now, as far as they have names that are given here
/// and nobody else reads them: a file that someone else named may have other uses. One that stays because a model cannot be read
/// is the result.
fn remove_left_over(readers: &Readers, path: &Path, data: Option<&str>) -> Option<Spared> {
    let mut kept = None;
    for name in readers.own().filter(|name| Some(*name) != data && is_usual(path, name)) {
        match readers.unclear(name) {
            Some(model) => kept = Some(Spared { data: name.to_owned(), model: model.to_owned() }),
            None if readers.other(name).is_some() => {}
            None => drop(std::fs::remove_file(path.with_file_name(name))), // the new model is there already: no failure
        }
    }
    kept
}

/// `model` with the tensors of `selection` in the file `name`, and what that file holds.
fn placed(model: &ModelProto, selection: Selection, name: &str) -> (ModelProto, Vec<Bytes>) {
    let mut written = model.clone();
    let data = place(&mut written, selection, name);
    (written, data)
}

/// A model and its data file, about to get their names.
struct Pair {
    model: TargetFile,
    data: TargetFile,
    /// The new data
    staged: Staged,
}

impl Pair {
    /// Names the data and then `model`. `interim` gives the parts of a model that reads the data under another name. Calls
    /// `between` wherever the process may end.
    fn commit(
        self,
        model: Staged,
        interim: &dyn Fn(&str) -> Vec<Bytes>,
        between: &mut dyn FnMut(),
    ) -> Result<(), SaveProblem> {
        // An old model that reads other data, or none, is not spoilt by new data; nor is one that is not there.
        let spare = (self.model.exists() && self.data.exists()).then(|| self.staged.spare()).flatten();
        let mut undo = Vec::new();
        if let Some(name) = spare.as_deref().and_then(Path::file_name).and_then(OsStr::to_str) {
            undo.push(self.model.stage(interim(name))?.commit_undoably()?);
            between();
        }
        let back = |undo: Vec<Undo>| undo.into_iter().rev().for_each(Undo::run);
        match self.staged.commit_undoably() {
            Ok(data) => undo.push(data),
            Err(problem) => {
                back(undo);
                return Err(problem);
            }
        }
        between();
        model.commit().inspect_err(|_| back(undo))?;
        between();
        Ok(())
    }
}

/// `model` with all tensors inside; itself, if that is so already.
fn inline(model: &ModelProto) -> Cow<'_, ModelProto> {
    if !any_external(model) {
        return Cow::Borrowed(model);
    }
    let mut model = model.clone();
    place(&mut model, Selection::Nothing, "");
    Cow::Owned(model)
}

fn fits(model: &ModelProto, limit: usize) -> Result<(), SaveProblem> {
    match model.encoded_len() {
        size if size > limit => Err(SaveProblem::TooLarge { size, limit }),
        _ => Ok(()),
    }
}

/// The name that a data file shall have.
enum Wanted {
    /// The usual one, or the next that is free
    Usual(String),
    /// The one that the user gave
    Named(String),
}

/// Whether `name` is one that data of the model `path` get where none is given: `m.onnx.data`, `m.onnx_1.data` …
fn is_usual(path: &Path, name: &str) -> bool {
    let own = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
    let number = name.strip_prefix(own.as_ref()).and_then(|rest| rest.strip_suffix(".data"));
    number.is_some_and(|number| {
        let digits = number.strip_prefix('_').unwrap_or("");
        number.is_empty() || !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}

impl Wanted {
    /// For the model `path`.
    fn of(path: &Path, external: &ExternalData) -> Result<Wanted, SaveProblem> {
        let own = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
        let ExternalData::Always { file_name: Some(name) } = external else {
            return Ok(Wanted::Usual(format!("{own}.data")));
        };
        match Path::new(name).components().collect::<Vec<_>>()[..] {
            [Component::Normal(part)] if part == OsStr::new(name) && *name != own => Ok(Wanted::Named(name.clone())),
            _ => Err(SaveProblem::DataName { name: name.clone() }),
        }
    }

    /// The name where nothing is in the way.
    fn usual(&self) -> &str {
        let (Wanted::Usual(name) | Wanted::Named(name)) = self;
        name
    }

    /// The name with which no other model loses its data; and where it is not the usual one, the file that has that.
    fn choose(&self, readers: &Readers) -> Result<(String, Option<Spared>), SaveProblem> {
        let name = match self {
            Wanted::Named(name) => match readers.other(name) {
                Some(model) => return Err(SaveProblem::DataInUse { name: name.clone(), model: model.to_owned() }),
                None => return Ok((name.clone(), None)),
            },
            Wanted::Usual(name) => name,
        };
        let Some(model) = readers.possible(name) else { return Ok((name.clone(), None)) };
        let avoided = Spared { data: name.clone(), model: model.to_owned() };
        let stem = name.strip_suffix(".data").unwrap_or(name);
        let mut number = 1u64;
        loop {
            let other = format!("{stem}_{number}.data");
            if readers.possible(&other).is_none() && (readers.is_own(&other) || !readers.is_there(&other)) {
                return Ok((other, Some(avoided)));
            }
            number += 1;
        }
    }

    /// The file `name` beside the model `path`.
    fn target(&self, path: &Path, name: &str) -> Result<TargetFile, SaveProblem> {
        match Target::of(&path.with_file_name(name))? {
            Target::File(file) => Ok(file),
            Target::Device => Err(SaveProblem::DataName { name: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use bytes::Bytes;
    use prost::Message;

    use super::{ExternalData, SaveOptions, Target, encode, save, save_bytes, save_within, write_to};
    use crate::{
        limits::Limits,
        load::load,
        schema::{AttributeProto, ModelProto, TensorProto},
        testing::{external, model, names, node, sentence, tensor},
    };

    const ALWAYS: SaveOptions = SaveOptions { external: ExternalData::Always { file_name: None }, input: None };

    fn three() -> ModelProto {
        let mut model =
            model(vec![tensor("large", vec![1; 9000]), tensor("small", vec![2; 10]), tensor("middle", vec![3; 2001])]);
        let attribute = AttributeProto { t: Some(Box::new(tensor("c", vec![4; 3000]))), ..Default::default() };
        model.graph.as_mut().unwrap().node.push(node(attribute));
        model
    }

    fn entry(tensor: &TensorProto, key: &str) -> String {
        let entry = tensor.external_data.iter().find(|entry| entry.key() == key).unwrap();
        entry.value.clone().unwrap()
    }

    /// The model as others see it: read again, with all data inside.
    fn read(path: &Path) -> ModelProto {
        let bytes = encode(&load(path, &Limits::default()).unwrap().model).concat();
        ModelProto::decode(&bytes[..]).unwrap()
    }

    #[test]
    fn a_model_is_written_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        save(&three(), &path, &SaveOptions::default()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), three().encode_to_vec());
        save_bytes(b"abc", &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert_eq!(names(&folder), ["m.onnx"]);
        let mut out = Vec::new();
        write_to(&three(), &mut out).unwrap();
        assert_eq!(out, three().encode_to_vec());
    }

    #[test]
    fn input_and_output_may_be_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        for options in [SaveOptions::default(), ALWAYS, SaveOptions::default(), ALWAYS] {
            if !path.exists() {
                save(&three(), &path, &SaveOptions::default()).unwrap();
            }
            let loaded = load(&path, &Limits::default()).unwrap();
            save(&loaded.model, &path, &options).unwrap();
            assert_eq!(read(&path), three());
            assert_eq!(ModelProto::decode(&encode(&loaded.model).concat()[..]).unwrap(), three()); // the old map
        }
        assert_eq!(names(&folder), ["m.onnx", "m.onnx.data"]);
    }

    #[test]
    fn external_data_is_aligned_with_the_largest_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        save(&three(), &path, &ALWAYS).unwrap();
        let written = ModelProto::decode(&fs::read(&path).unwrap()[..]).unwrap().graph.unwrap();
        let [large, small, middle] = &written.initializer[..] else { panic!() };
        assert_eq!(small, &tensor("small", vec![2; 10]));
        assert_eq!((entry(middle, "offset"), entry(middle, "length")), ("0".into(), "2001".into()));
        assert_eq!((entry(large, "offset"), entry(large, "length")), ("2048".into(), "9000".into()));
        assert_eq!((entry(large, "location"), large.data_location), ("m.onnx.data".into(), Some(1)));
        assert_eq!(large.raw_data, None);
        assert!(written.node[0].attribute[0].t.as_ref().unwrap().external_data.is_empty());
        assert_eq!(fs::metadata(folder.path().join("m.onnx.data")).unwrap().len(), 2048 + 9000);
        assert_eq!(read(&path), three());
    }

    #[test]
    fn a_run_that_ends_between_two_renames_leaves_a_model_with_its_own_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        save(&three(), &path, &ALWAYS).unwrap();
        let other = model(vec![tensor("large", vec![7; 9000]), tensor("middle", vec![8; 2001])]);
        let target = |path: &Path| match Target::of(path).unwrap() {
            Target::File(file) => file,
            Target::Device => panic!(),
        };
        let (written, data) = super::placed(&other, super::Selection::Initializers, "m.onnx.data");
        let (file, data_file) = (target(&path), target(&folder.path().join("m.onnx.data")));
        let staged = data_file.clone().stage(data).unwrap();
        let pair = super::Pair { model: file.clone(), data: data_file, staged };
        let new = file.stage(crate::rope::encode(&written)).unwrap();
        let interim = |name: &str| crate::rope::encode(&super::placed(&other, super::Selection::Initializers, name).0);
        let mut seen = 0;
        pair.commit(new, &interim, &mut || {
            seen += 1;
            assert_eq!(read(&path), other, "after step {seen}");
        })
        .unwrap();
        assert!(seen >= 2);
        assert_eq!(names(&folder), ["m.onnx", "m.onnx.data"]);
    }

    #[test]
    fn runs_onto_one_pair_of_files_leave_one_of_the_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let models: Vec<ModelProto> =
            (1..=4).map(|byte| model(vec![tensor("w", vec![byte; 5000 * usize::from(byte)])])).collect();
        std::thread::scope(|scope| {
            for model in &models {
                scope.spawn(|| (0..20).for_each(|_| drop(save(model, &path, &ALWAYS).unwrap())));
            }
        });
        assert!(models.contains(&read(&path)));
        assert_eq!(names(&folder), ["m.onnx", "m.onnx.data"]);
    }

    #[test]
    fn models_that_are_external_stay_so_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["m.onnx", "other.onnx"].map(|name| folder.path().join(name));
        let file_name = Some("w.bin".to_owned());
        save(&three(), &path, &SaveOptions { external: ExternalData::Always { file_name }, input: None }).unwrap();
        let loaded = load(&path, &Limits::default()).unwrap().model;
        save(&loaded, &other, &SaveOptions::default()).unwrap();
        assert_eq!(names(&folder), ["m.onnx", "other.onnx", "other.onnx.data", "w.bin"]);
        assert_eq!(read(&other), three());
        fs::remove_file(folder.path().join("other.onnx.data")).unwrap();
        save(&loaded, &other, &SaveOptions { external: ExternalData::Never, input: None }).unwrap();
        assert_eq!(fs::read(&other).unwrap(), three().encode_to_vec());
        save(&three(), &other, &SaveOptions { external: ExternalData::Keep, input: None }).unwrap();
        assert_eq!(names(&folder), ["m.onnx", "other.onnx", "w.bin"]);
    }

    #[test]
    fn keep_keeps_each_tensor_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        fs::write(folder.path().join("w.bin"), [5; 8]).unwrap();
        let mixed = model(vec![external("out", &[("location", "w.bin")]), tensor("in", vec![1; 5000])]);
        fs::write(&path, mixed.encode_to_vec()).unwrap();
        let loaded = load(&path, &Limits::default()).unwrap().model;
        save(&loaded, &path, &SaveOptions { external: ExternalData::Keep, input: None }).unwrap();
        let written = ModelProto::decode(&fs::read(&path).unwrap()[..]).unwrap().graph.unwrap();
        assert_eq!(written.initializer[0].data_location, Some(1));
        assert_eq!(written.initializer[1], tensor("in", vec![1; 5000]));
        assert_eq!(fs::read(folder.path().join("m.onnx.data")).unwrap(), [5; 8]);
    }

    #[test]
    fn equal_slices_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let data = Bytes::from(vec![1; 5000]);
        let tied = model(vec![tensor("a", data.clone()), tensor("b", data)]);
        save(&tied, &path, &ALWAYS).unwrap();
        assert_eq!(fs::metadata(folder.path().join("m.onnx.data")).unwrap().len(), 5000);
        assert_eq!(read(&path), tied);
    }

    #[test]
    fn the_limit_moves_initializers_out_and_then_attributes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let sizes = |limit| {
            save_within(limit, &three(), &path, &SaveOptions::default()).unwrap();
            assert_eq!(read(&path), three());
            let data = fs::metadata(folder.path().join("m.onnx.data"));
            (fs::metadata(&path).unwrap().len() as usize <= limit, data.map_or(0, |data| data.len()))
        };
        assert_eq!(sizes(20_000), (true, 0));
        assert_eq!(sizes(5_000), (true, 2048 + 9000));
        assert_eq!(sizes(1_000), (true, 5056 + 9000));
        let never = SaveOptions { external: ExternalData::Never, input: None };
        let error = save_within(100, &three(), &path, &never).unwrap_err();
        assert!(sentence(&error).contains("an ONNX file at most 100; write it to a file with external data"));
    }

    #[test]
    fn data_names_are_one_file_beside_the_model() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../w", "a/b", "/w", "w/", "m.onnx"] {
            let options = SaveOptions { external: ExternalData::Always { file_name: Some(name.into()) }, input: None };
            let error = save(&three(), &folder.path().join("m.onnx"), &options).unwrap_err();
            assert!(sentence(&error).contains("cannot be the name of the external data"), "{name}");
        }
        assert_eq!(names(&folder), [""; 0]);
    }

    #[test]
    fn targets_that_cannot_be_written_are_named_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| sentence(&save(&three(), path, &ALWAYS).unwrap_err());
        assert!(refused(folder.path()).contains("this is a folder; name a file in it"));
        assert!(refused(&folder.path().join("no/m.onnx")).contains("no` does not exist; create it first"));
        assert!(refused(Path::new("/")).contains("this is a folder"));
        let path = folder.path().join("m.onnx");
        fs::create_dir(folder.path().join("m.onnx.data")).unwrap();
        assert!(refused(&path).contains("this is a folder"));
        assert_eq!(names(&folder), ["m.onnx.data"]);
        save_bytes(b"abc", &path).unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        assert!(refused(&path).contains("the file is write-protected"));
        assert_eq!(names(&folder), ["m.onnx", "m.onnx.data"]);
    }

    #[cfg(unix)]
    #[test]
    fn rights_are_those_of_a_new_file_or_of_the_old_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o7777;
        let path = folder.path().join("m.onnx");
        fs::write(folder.path().join("plain"), b"").unwrap();
        save(&three(), &path, &ALWAYS).unwrap();
        assert_eq!((mode("m.onnx"), mode("m.onnx.data")), (mode("plain"), mode("plain")));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        save(&three(), &path, &ALWAYS).unwrap();
        assert_eq!((mode("m.onnx"), mode("m.onnx.data")), (0o640, mode("plain")));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_replaced_and_what_it_led_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let [link, store] = ["link.onnx", "store"].map(|name| folder.path().join(name));
        fs::write(&store, b"abc").unwrap();
        std::os::unix::fs::symlink("store", &link).unwrap();
        save(&three(), &link, &SaveOptions::default()).unwrap();
        assert_eq!(fs::read(&store).unwrap(), b"abc");
        assert_eq!(read(&link), three());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_are_written_to_directly() {
        save(&three(), Path::new("/dev/null"), &ALWAYS).unwrap();
        let error = save(&three(), Path::new("/dev/full"), &ALWAYS).unwrap_err();
        assert!(sentence(&error).starts_with("/dev/full: cannot write: No space left"), "{}", sentence(&error));
        assert!(!Path::new("/dev/null.data").exists());
    }
}
