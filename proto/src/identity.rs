//! Which file a path leads to: whatever it is called, through links of both kinds.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What tells one file from another.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The path without links; for what is not there, its name in the folder without links.
    place: PathBuf,
    /// Where the system numbers files: device and number. Names of one file (hard links) share it.
    number: Option<(u64, u64)>,
}

impl Identity {
    /// The identity of what stands at `path`, or of what will.
    pub fn of(path: &Path) -> Identity {
        Identity { place: fs::canonicalize(path).unwrap_or_else(|_| entry(path)), number: number(path) }
    }

    /// Whether both are one file.
    pub fn is_same(&self, other: &Identity) -> bool {
        self.place == other.place || self.number.is_some() && self.number == other.number
    }

    /// Where the file lies, without links.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }
}

/// The place of the name `path` itself: its folder without links, and the name, which may be that of a link.
pub(crate) fn entry(path: &Path) -> PathBuf {
    let folder = path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    match (folder.map(absolute), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// `folder` without links; as far as it goes where it is not there.
fn absolute(folder: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(folder).or_else(|_| std::path::absolute(folder))
}

#[cfg(unix)]
fn number(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|there| (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn number(_: &Path) -> Option<(u64, u64)> {
    None // the place without links is all that can be told there
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Identity;

    #[test]
    fn one_file_has_one_identity_under_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        for name in ["a", "b", "in/a"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let is_same = |one: &str, other: &str| {
            Identity::of(&folder.path().join(one)).is_same(&Identity::of(&folder.path().join(other)))
        };
        assert!(is_same("a", "in/../a") && is_same("none", "in/../none") && is_same("no/none", "no/none"));
        assert!(!is_same("a", "b") && !is_same("a", "in/a") && !is_same("none", "in/none"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
            fs::hard_link(folder.path().join("a"), folder.path().join("hard")).unwrap();
            assert!(is_same("a", "link") && is_same("link", "hard") && !is_same("b", "hard"));
        }
    }
}
