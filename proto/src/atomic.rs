//! Files that appear whole or not at all.
//!
//! A file is staged (written beside its target under another name, and synced) and then committed (renamed).
//!
//! Where the system has files without a name (Linux, most file systems), the staged file has none: whatever ends the process
//! before the commit, nothing is left. Names of staged files are never given twice, so that runs onto one target do not mix.
//!
//! **Never** changes an existing file in place, **never** follows a link, **never** leaves anything behind on failure.
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::error::SaveProblem;

/// What stands at the path that is to be written.
pub(crate) enum Target {
    /// Something that cannot be replaced: written to directly.
    Device,
    /// A file, or nothing yet.
    File(TargetFile),
}

#[derive(Clone)]
pub(crate) struct TargetFile {
    path: PathBuf,
    folder: PathBuf,
    /// The rights of the file that is there.
    old: Option<Permissions>,
}

impl Target {
    pub(crate) fn of(path: &Path) -> Result<Target, SaveProblem> {
        let folder = match path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
            Some(folder) => folder.to_owned(),
            None => return Err(SaveProblem::Folder), // the root
        };
        let old = match fs::metadata(path) {
            Ok(there) if there.is_dir() => return Err(SaveProblem::Folder),
            Ok(there) if !there.is_file() || is_descriptor(path, &folder) => return Ok(Target::Device),
            Ok(there) if there.permissions().readonly() => return Err(SaveProblem::WriteProtected),
            Ok(there) => Some(there.permissions()),
            Err(_) if path.file_name().is_none() || !folder.is_dir() => return Err(SaveProblem::NoFolder { folder }),
            Err(_) => None, // a name that cannot be used fails when the file is created
        };
        Ok(Target::File(TargetFile { path: path.to_owned(), folder, old }))
    }
}

/// Whether `path` stands for what a process has open, as `/dev/stdout` does: nothing there can be replaced.
fn is_descriptor(path: &Path, folder: &Path) -> bool {
    let leads_to_proc = |path: &Path| fs::read_link(path).is_ok_and(|to| to.starts_with("/proc"));
    leads_to_proc(path) || fs::canonicalize(folder).is_ok_and(|folder| folder.starts_with("/proc"))
}

impl TargetFile {
    /// Whether something stands there now.
    pub(crate) fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Waits until no other run is renaming files in the target's folder; holds others off until it is dropped. `None` where
    /// the system has no such locks.
    pub(crate) fn lock(&self) -> Option<FolderLock> {
        lock(&self.folder)
    }

    /// Writes `parts` to a temporary file beside the target.
    pub(crate) fn stage<T: AsRef<[u8]>>(self, parts: impl IntoIterator<Item = T>) -> Result<Staged, SaveProblem> {
        self.stage_beside(parts)?.aim(self)
    }

    /// The same for a file whose name in the target's folder is not known yet.
    pub(crate) fn stage_beside<T: AsRef<[u8]>>(
        &self,
        parts: impl IntoIterator<Item = T>,
    ) -> Result<StagedFile, SaveProblem> {
        if let Some(mut file) = unnamed(&self.folder) {
            write_parts(&mut file, parts).map_err(io("write"))?;
            file.sync_all().map_err(io("write to the disk"))?;
            return Ok(StagedFile::Unnamed(file));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask: the system does that
        let mut file = builder.tempfile_in(&self.folder).map_err(io("create a file in its folder"))?;
        write_parts(file.as_file_mut(), parts).map_err(io("write"))?;
        file.as_file().sync_all().map_err(io("write to the disk"))?;
        Ok(StagedFile::Named(file))
    }
}

/// Holds other runs off a folder. The system lets go of it, too, when the process ends in whatever way.
pub(crate) struct FolderLock(#[allow(dead_code)] File);

#[cfg(unix)]
fn lock(folder: &Path) -> Option<FolderLock> {
    use rustix::fs::{FlockOperation, flock};
    let folder = File::open(folder).ok()?;
    flock(&folder, FlockOperation::LockExclusive).ok()?;
    Some(FolderLock(folder))
}

#[cfg(not(unix))]
fn lock(_: &Path) -> Option<FolderLock> {
    None
}

/// How the names of staged files begin.
const PREFIX: &str = ".onnx-shrink-";

/// A new file in `folder` without a name; `None` where the system has no such files, or no way to give them one.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = File::from(open(folder, flags, Mode::from_raw_mode(0o666)).ok()?); // less the umask: the system does that
    descriptor_path(&file).exists().then_some(file)
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_: &Path) -> Option<File> {
    None
}

#[cfg(target_os = "linux")]
fn descriptor_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Gives `file`, which has no name, the name `path`, which must be free.
#[cfg(target_os = "linux")]
fn give_name(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    Ok(linkat(CWD, descriptor_path(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn give_name(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A file that is complete, but has no target yet. Dropped, it is gone.
pub(crate) enum StagedFile {
    Unnamed(File),
    Named(NamedTempFile),
}

impl StagedFile {
    /// Gives it the place that it shall have, and the rights of what it replaces.
    pub(crate) fn aim(self, target: TargetFile) -> Result<Staged, SaveProblem> {
        if let Some(old) = &target.old {
            let file = match &self {
                StagedFile::Unnamed(file) => file,
                StagedFile::Named(file) => file.as_file(),
            };
            file.set_permissions(old.clone()).map_err(io("set the file's permissions"))?;
            file.sync_all().map_err(io("write to the disk"))?;
        }
        Ok(Staged { file: self, target })
    }
}

/// A file that is complete, but has not its name yet. Dropped, it is gone.
pub(crate) struct Staged {
    file: StagedFile,
    target: TargetFile,
}

impl Staged {
    /// A second name of the file, beside its target, until it is dropped; `None` where the system has no links.
    pub(crate) fn spare(&self) -> Option<tempfile::TempPath> {
        let named = |spare: &Path| match &self.file {
            StagedFile::Unnamed(file) => give_name(file, spare),
            StagedFile::Named(file) => fs::hard_link(file.path(), spare),
        };
        let spare = tempfile::Builder::new().prefix(PREFIX).make_in(&self.target.folder, named);
        spare.ok().map(NamedTempFile::into_temp_path)
    }

    pub(crate) fn commit(self) -> Result<(), SaveProblem> {
        let path = &self.target.path;
        let renamed = match self.file {
            StagedFile::Named(file) => file.persist(path).map(|_| ()).map_err(|error| error.error),
            // Where nothing is there, the one name that it shall have: it has no other at any time.
            StagedFile::Unnamed(file) if give_name(&file, path).is_ok() => Ok(()),
            // Else a name beside the target first: linking cannot replace what is there.
            StagedFile::Unnamed(file) => tempfile::Builder::new()
                .prefix(PREFIX)
                .make_in(&self.target.folder, |spare| give_name(&file, spare))
                .and_then(|spare| spare.into_temp_path().persist(path).map_err(|error| error.error)),
        };
        renamed.map_err(io("rename the finished file"))?;
        if let Ok(folder) = File::open(&self.target.folder) {
            let _ = folder.sync_all(); // not every system can: the file itself is safe
        }
        Ok(())
    }

    pub(crate) fn commit_undoably(self) -> Result<Undo, SaveProblem> {
        let path = self.target.path.clone();
        let mut backup = None;
        if self.target.old.is_some() {
            let spare = tempfile::Builder::new()
                .prefix(PREFIX)
                .make_in(&self.target.folder, |spare| fs::hard_link(&path, spare));
            backup = spare.ok().map(NamedTempFile::into_temp_path); // not every system has links: then there is no way back
        }
        let undo = Undo { backup, existed: self.target.old.is_some(), path };
        self.commit()?;
        Ok(undo)
    }
}

/// How to bring back what was before a commit.
pub(crate) struct Undo {
    path: PathBuf,
    existed: bool,
    backup: Option<tempfile::TempPath>,
}

impl Undo {
    /// As far as possible: it runs when something else has failed already.
    pub(crate) fn run(self) {
        let _ = match (self.backup, self.existed) {
            (Some(backup), _) => backup.persist(&self.path).map_err(|error| error.error),
            (None, true) => Ok(()),
            (None, false) => fs::remove_file(&self.path),
        };
    }
}

/// The problem that `action` failed.
pub(crate) fn io(action: &'static str) -> impl Fn(io::Error) -> SaveProblem {
    move |source| SaveProblem::Io { action, source }
}

/// Writes one part after another.
pub(crate) fn write_parts<T: AsRef<[u8]>>(out: &mut dyn Write, parts: impl IntoIterator<Item = T>) -> io::Result<()> {
    parts.into_iter().try_for_each(|part| out.write_all(part.as_ref()))
}

/// Writes to what is there and cannot be replaced.
pub(crate) fn write_device<T: AsRef<[u8]>>(path: &Path, parts: impl IntoIterator<Item = T>) -> Result<(), SaveProblem> {
    let mut device = open_device(path)?;
    write_parts(&mut device, parts).map_err(io("write"))
}

/// How often, 20 ms apart, it is looked whether a pipe has got a reader: one that is started with us may come a little later.
#[cfg(target_os = "linux")]
const PIPE_TRIES: usize = 100;

/// Opens it without waiting for ever for the other end of a pipe.
#[cfg(target_os = "linux")]
fn open_device(path: &Path) -> Result<File, SaveProblem> {
    use rustix::{
        fs::{OFlags, fcntl_getfl, fcntl_setfl},
        io::Errno,
    };
    use std::os::unix::fs::OpenOptionsExt;
    let mut tries = 0;
    loop {
        // (`O_NONBLOCK` is a bit that an int has room for.)
        let flags = OFlags::NONBLOCK.bits() as i32;
        match OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Ok(device) => {
                let blocking = |flags: OFlags| fcntl_setfl(&device, flags - OFlags::NONBLOCK);
                fcntl_getfl(&device).and_then(blocking).map_err(|error| io("open")(error.into()))?;
                return Ok(device);
            }
            Err(error) if error.raw_os_error() != Some(Errno::NXIO.raw_os_error()) => return Err(io("open")(error)),
            Err(_) if tries == PIPE_TRIES => return Err(SaveProblem::NoPipeReader),
            Err(_) => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn open_device(path: &Path) -> Result<File, SaveProblem> {
    OpenOptions::new().write(true).open(path).map_err(io("open"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Target;
    use crate::testing::names;

    #[test]
    #[cfg(target_os = "linux")]
    fn nothing_is_to_be_seen_of_a_file_before_its_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let Target::File(file) = Target::of(&path).unwrap() else { panic!() };
        let staged = file.stage([b"model"]).unwrap();
        let has_unnamed = super::unnamed(folder.path()).is_some();
        assert_eq!(names(&folder).len(), usize::from(!has_unnamed), "{:?}", names(&folder));
        staged.commit().unwrap();
        assert_eq!(names(&folder), ["m.onnx"]);
        assert_eq!(fs::read(&path).unwrap(), b"model");
    }

    #[test]
    fn a_failed_second_rename_takes_the_first_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.data");
        let stage = |bytes: &'static [u8]| match Target::of(&path).unwrap() {
            Target::File(file) => file.stage([bytes]).unwrap(),
            Target::Device => panic!(),
        };
        stage(b"new").commit_undoably().unwrap().run();
        assert_eq!(names(&folder), [""; 0]);
        stage(b"old").commit().unwrap();
        let undo = stage(b"new").commit_undoably().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        undo.run();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(stage(b"new").commit_undoably().unwrap());
        assert_eq!(names(&folder), ["w.data"]);
    }
}
