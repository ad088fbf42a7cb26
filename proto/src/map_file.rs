//! A file as bytes in memory, without reading it.
//!
//! A file that another program shortens while it is mapped ends this one (SIGBUS); replacing it by renaming is safe.
use std::{
    fs::{self, File},
    io,
    path::Path,
};

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::FileProblem;

/// The contents of a regular file, without reading them.
pub(crate) fn map_file(path: &Path) -> Result<Bytes, FileProblem> {
    let problem = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => FileProblem::Missing,
        _ => FileProblem::Io(error),
    };
    let kind = fs::metadata(path).map_err(problem)?; // before opening: that would wait for a pipe's other end
    if kind.is_dir() {
        return Err(FileProblem::Folder);
    }
    if !kind.is_file() {
        return Err(FileProblem::NotRegular);
    }
    let file = File::open(path).map_err(problem)?;
    if kind.len() == 0 {
        return Ok(Bytes::new());
    }
    #[expect(unsafe_code, reason = "mapping a file is unsafe, and copying it is what this crate is there to avoid")]
    // SAFETY: the map is only read. We never write to a file in place (`save` renames), so it changes only if another
    // program does that while we run, which this module's header names.
    let map = unsafe { Mmap::map(&file) };
    match map {
        Ok(map) => Ok(Bytes::from_owner(map)),
        Err(_) => fs::read(path).map(Bytes::from).map_err(problem), // a file system that cannot map
    }
}
