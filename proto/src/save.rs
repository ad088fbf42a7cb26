//! Save: a model becomes a file, whole or not at all.
//!
//! Everything goes to a temporary file in the target's folder, is synced, gets the rights that a new file would get (or the
//! old file had) and is renamed. So `in.onnx -o in.onnx` works: the old file stays mapped until nobody needs it. A target
//! that is a link is replaced, not followed: links lead into caches that others share.
//!
//! **Never** copies a large tensor, **never** changes an existing file in place, **never** leaves anything behind on failure.
use std::{
    borrow::Cow,
    ffi::OsStr,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use prost::Message;
use tempfile::NamedTempFile;

use crate::{
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
}

/// When tensors are written to a data file beside the model.
///
/// That is one file, `<model's file name>.data`; each tensor in it is aligned to 64 bytes, the largest is the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExternalData {
    /// If some were outside before, or the model would be larger than 2 GiB: then all initializers of 1 KiB or more.
    #[default]
    Auto,
    /// Always: all initializers of 1 KiB or more.
    Always {
        /// The data file's name, without a folder; `None`: the usual one.
        file_name: Option<String>,
    },
    /// Those that were outside before, whatever their size, and no others.
    Keep,
    /// Never: a model larger than 2 GiB is an error.
    Never,
}

/// Writes `model` to the file `path`, and its data file if `options` say so. On failure nothing has changed on disk.
///
/// Tensors with both `raw_data` and `data_location` EXTERNAL (as [`load`](crate::load) makes them) are written in one form.
/// What is not a regular file (`/dev/null`, a pipe) is written to directly, with all tensors inside.
pub fn save(model: &ModelProto, path: &Path, options: &SaveOptions) -> Result<(), SaveError> {
    save_within(MESSAGE_LIMIT, model, path, options).map_err(|problem| at(path, problem))
}

/// Writes `bytes` to the file `path`, as [`save`] does.
pub fn save_bytes(bytes: &[u8], path: &Path) -> Result<(), SaveError> {
    let write = || match Target::of(path)? {
        Target::Device => write_device(path, [bytes]),
        Target::File(file) => file.stage([bytes])?.commit(),
    };
    write().map_err(|problem| at(path, problem))
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

fn io(action: &'static str) -> impl Fn(io::Error) -> SaveProblem {
    move |source| SaveProblem::Io { action, source }
}

fn save_within(limit: usize, model: &ModelProto, path: &Path, options: &SaveOptions) -> Result<(), SaveProblem> {
    let file = match Target::of(path)? {
        Target::Device => return write_device(path, encode(model)),
        Target::File(file) => file,
    };
    let name = data_name(path, &options.external)?;
    let outside = any_external(model);
    let selection = match options.external {
        ExternalData::Auto if outside || model.encoded_len() > limit => Selection::Initializers,
        ExternalData::Always { .. } => Selection::Initializers,
        ExternalData::Keep if outside => Selection::AsBefore,
        _ => Selection::Nothing,
    };
    let (model, data) = match selection {
        Selection::Nothing => (inline(model), Vec::new()),
        _ => {
            let mut written = model.clone();
            let mut data = place(&mut written, selection, &name);
            if selection == Selection::Initializers && written.encoded_len() > limit {
                written = model.clone();
                data = place(&mut written, Selection::All, &name);
            }
            (Cow::Owned(written), data)
        }
    };
    fits(&model, limit)?;
    if data.is_empty() {
        return file.stage(rope::encode(model.as_ref()))?.commit();
    }
    let Target::File(data_file) = Target::of(&path.with_file_name(&name))? else {
        return Err(SaveProblem::DataName { name });
    };
    let data = data_file.stage(data)?;
    let model = file.stage(rope::encode(model.as_ref()))?;
    // Between the two renames a crash would leave the new data with the old model: nothing but another name could help.
    let undo = data.commit_undoably()?;
    model.commit().inspect_err(|_| undo.run())
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

/// The name of the data file of the model `path`.
fn data_name(path: &Path, external: &ExternalData) -> Result<String, SaveProblem> {
    let own = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let ExternalData::Always { file_name: Some(name) } = external else { return Ok(format!("{own}.data")) };
    match Path::new(name).components().collect::<Vec<_>>()[..] {
        [Component::Normal(part)] if part == OsStr::new(name) && *name != own => Ok(name.clone()),
        _ => Err(SaveProblem::DataName { name: name.clone() }),
    }
}

fn write_parts<T: AsRef<[u8]>>(out: &mut dyn Write, parts: impl IntoIterator<Item = T>) -> io::Result<()> {
    parts.into_iter().try_for_each(|part| out.write_all(part.as_ref()))
}

fn write_device<T: AsRef<[u8]>>(path: &Path, parts: impl IntoIterator<Item = T>) -> Result<(), SaveProblem> {
    let mut device = OpenOptions::new().write(true).open(path).map_err(io("open"))?;
    write_parts(&mut device, parts).map_err(io("write"))
}

/// What stands at the path that is to be written.
enum Target {
    /// Something that cannot be replaced: written to directly.
    Device,
    /// A file, or nothing yet.
    File(TargetFile),
}

struct TargetFile {
    path: PathBuf,
    folder: PathBuf,
    /// The rights of the file that is there.
    old: Option<Permissions>,
}

impl Target {
    fn of(path: &Path) -> Result<Target, SaveProblem> {
        let folder = match path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
            Some(folder) => folder.to_owned(),
            None => return Err(SaveProblem::Folder), // the root
        };
        let old = match fs::metadata(path) {
            Ok(there) if there.is_dir() => return Err(SaveProblem::Folder),
            Ok(there) if !there.is_file() => return Ok(Target::Device),
            Ok(there) if there.permissions().readonly() => return Err(SaveProblem::WriteProtected),
            Ok(there) => Some(there.permissions()),
            Err(_) if path.file_name().is_none() || !folder.is_dir() => return Err(SaveProblem::NoFolder { folder }),
            Err(_) => None, // a name that cannot be used fails when the file is created
        };
        Ok(Target::File(TargetFile { path: path.to_owned(), folder, old }))
    }
}

impl TargetFile {
    /// Writes `parts` to a temporary file beside the target.
    fn stage<T: AsRef<[u8]>>(self, parts: impl IntoIterator<Item = T>) -> Result<Staged, SaveProblem> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".onnx-shrink-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask: the system does that
        let mut file = builder.tempfile_in(&self.folder).map_err(io("create a file in its folder"))?;
        write_parts(file.as_file_mut(), parts).map_err(io("write"))?;
        if let Some(old) = &self.old {
            file.as_file().set_permissions(old.clone()).map_err(io("set the file's permissions"))?;
        }
        file.as_file().sync_all().map_err(io("write to the disk"))?;
        Ok(Staged { file, target: self })
    }
}

/// A file that is complete, but has not its name yet. Dropped, it is gone.
struct Staged {
    file: NamedTempFile,
    target: TargetFile,
}

impl Staged {
    fn commit(self) -> Result<(), SaveProblem> {
        self.file.persist(&self.target.path).map_err(|error| io("rename the finished file")(error.error))?;
        if let Ok(folder) = File::open(&self.target.folder) {
            let _ = folder.sync_all(); // not every system can: the file itself is safe
        }
        Ok(())
    }

    fn commit_undoably(self) -> Result<Undo, SaveProblem> {
        let path = self.target.path.clone();
        let mut backup = None;
        if self.target.old.is_some() {
            let spare = tempfile::Builder::new().prefix(".onnx-shrink-").make_in(&self.target.folder, |spare| {
                fs::hard_link(&path, spare)
            });
            backup = spare.ok().map(NamedTempFile::into_temp_path); // not every system has links: then there is no way back
        }
        let undo = Undo { backup, existed: self.target.old.is_some(), path };
        self.commit()?;
        Ok(undo)
    }
}

/// How to bring back what was before a commit.
struct Undo {
    path: PathBuf,
    existed: bool,
    backup: Option<tempfile::TempPath>,
}

impl Undo {
    /// As far as possible: it runs when something else has failed already.
    fn run(self) {
        let _ = match (self.backup, self.existed) {
            (Some(backup), _) => backup.persist(&self.path).map_err(|error| error.error),
            (None, true) => Ok(()),
            (None, false) => fs::remove_file(&self.path),
        };
    }
}
