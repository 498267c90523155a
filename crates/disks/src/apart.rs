//! Files that are lent to a program which runs as nobody, because a stranger wrote them.

use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Whom such a program runs as: a number that no account and no other program has, and that containers have as well.
pub(crate) const NOBODY: u32 = 65_533;

/// Files that [`NOBODY`] may use for now.
#[must_use = "what is lent must be taken back"]
pub(crate) struct Lent {
    /// Each with its mode before.
    read: Vec<(PathBuf, u32)>,
    written: Option<PathBuf>,
}

/// Lets [`NOBODY`] read the files in `dir`, and write to the new file `writes` there; nothing else of `dir` can be changed by it. `None`
/// where we are not root, and could run nothing as somebody else.
///
/// # Errors
/// The file system's.
pub(crate) fn lend(dir: &Path, writes: Option<&str>) -> io::Result<Option<Lent>> {
    let own = std::fs::metadata(dir)?;
    // Whoever made the directory is who we are.
    if own.uid() != 0 {
        return Ok(None);
    }
    let mut read = vec![(dir.to_owned(), own.mode())];
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        read.push((entry.path(), entry.metadata()?.mode()));
    }
    for (path, _) in &read {
        chown(path, None, Some(NOBODY))?;
        let mode = if path == dir { 0o750 } else { 0o640 };
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    let written = writes.map(|name| dir.join(name));
    if let Some(path) = &written {
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(Some(Lent { read, written }))
}

impl Lent {
    /// All is ours alone again.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn take_back(self) -> io::Result<()> {
        for (path, mode) in &self.read {
            chown(path, None, Some(0))?;
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode & 0o7777))?;
        }
        match &self.written {
            Some(path) => chown(path, Some(0), Some(0)),
            None => Ok(()),
        }
    }
}
