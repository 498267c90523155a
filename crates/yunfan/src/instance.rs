//! The data directory of one cloud instance: who holds it, which format it has, and the instance's tag.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// Version of the directory's layout. One that is newer is refused.
const FORMAT: u32 = 1;

/// A process that was killed may have just forked a child, which holds its lock until it runs its own program. It is waited for that long.
const LAST_CHILDREN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A data directory that this process holds alone, until it is dropped or the process ends.
pub(crate) struct Instance {
    pub(crate) dir: PathBuf,
    /// Six hexadecimal digits that everything left on the host carries.
    pub(crate) tag: String,
    _lock: File,
}

impl Instance {
    /// Takes over a data directory, which is made where it is missing.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make the data directory {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("cannot use {}", dir.display()))?;
        let lock = take_lock(&dir)?;
        check_format(&dir)?;
        let tag = read_tag(&dir)?;
        let tag = match tag {
            Some(tag) => tag,
            None => {
                let tag = format!("{:06x}", rand::random::<u32>() & 0x00ff_ffff);
                write_private(&dir.join("instance"), tag.as_bytes())?;
                tag
            }
        };
        Ok(Self { dir, tag, _lock: lock })
    }

    /// The agent's own directory.
    pub(crate) fn agent_dir(&self) -> PathBuf {
        self.dir.join("agent")
    }
}

/// The instance's tag, if the directory ever was a cloud's.
pub(crate) fn read_tag(dir: &Path) -> anyhow::Result<Option<String>> {
    let path = dir.join("instance");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let tag = text.trim().to_owned();
    if tag.len() != 6 || !tag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!(
            "{} should hold six hexadecimal digits, the tag of this cloud's links and namespaces, but holds {tag:?}: \
             restore it from a backup, or take another data directory",
            path.display()
        );
    }
    Ok(Some(tag))
}

/// The process that holds the directory, if one does.
pub(crate) fn holder(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join("lock")).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return None;
    }
    read_pid(&mut file)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn take_lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let begun = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = read_pid(&mut file);
        let command = pid.map(crate::holder::command).unwrap_or_default();
        if command.is_empty() && begun.elapsed() < LAST_CHILDREN {
            std::thread::sleep(LOOK_AGAIN);
            continue;
        }
        let who = match pid {
            Some(pid) => format!("process {pid} ({command})"),
            None => "another process".to_owned(),
        };
        bail!(
            "the data directory {} is in use by {who}: stop it first with `yunfan down --data-dir {}`, or take another --data-dir",
            dir.display(),
            dir.display()
        );
    }
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(file)
}

fn check_format(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let found: u32 = text
                .trim()
                .parse()
                .with_context(|| format!("{} should hold a number, but holds {text:?}", path.display()))?;
            if found > FORMAT {
                bail!(
                    "the data directory {} has format {found}, and this yunfan {} knows formats up to {FORMAT}: use a newer yunfan",
                    dir.display(),
                    env!("CARGO_PKG_VERSION")
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_private(&path, format!("{FORMAT}\n").as_bytes())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("tmp");
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_and_keeps_its_tag() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::open(dir.path()).unwrap();
        let tag = first.tag.clone();
        let refused = Instance::open(dir.path()).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert_eq!(holder(dir.path()), Some(std::process::id()));
        drop(first);
        assert_eq!(holder(dir.path()), None);
        assert_eq!(Instance::open(dir.path()).unwrap().tag, tag);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Instance::open(dir.path()).unwrap());
        std::fs::write(dir.path().join("format"), "2\n").unwrap();
        let refused = Instance::open(dir.path()).err().unwrap().to_string();
        assert!(refused.contains("format 2"), "{refused}");
    }
}
