//! The files of one layer: each entry of its tar becomes a file, or a reason to refuse the layer.
//!
//! Every path is resolved by the kernel, below the layer's root and never through a symbolic link. Whiteouts become
//! what overlayfs calls them.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::EntryType;

use super::unpack::Limits;

/// A name or attribute record longer than this is an attack.
const LONGEST_RECORD: u64 = 1 << 20;

/// Attributes that come in records before an entry.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    xattrs: Vec<(String, Vec<u8>)>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    sparse: bool,
}

pub(super) struct Unpacker {
    root: OwnedFd,
    limits: Limits,
    entries: u64,
    bytes: u64,
}

type Entry<'a, R> = tar::Entry<'a, R>;

impl Unpacker {
    pub(super) fn open(root: &Path, limits: Limits) -> std::result::Result<Self, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| e.to_string())?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(|e| e.to_string())?;
        Ok(Self { root, limits, entries: 0, bytes: 0 })
    }

    /// Unpacks a tar; returns the bytes of its files.
    pub(super) fn run(mut self, source: impl Read) -> std::result::Result<u64, String> {
        let mut archive = tar::Archive::new(source);
        let mut ahead = Ahead::default();
        // Raw: records that precede an entry come by themselves, so that their size can be limited.
        let entries = archive.entries().map_err(|e| e.to_string())?.raw(true);
        for entry in entries {
            let mut entry = entry.map_err(|error| format!("it is no valid tar: {error}"))?;
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(format!("it has more than {} entries", self.limits.entries));
            }
            match entry.header().entry_type() {
                EntryType::GNULongName => ahead.path = Some(record(&mut entry)?),
                EntryType::GNULongLink => ahead.link = Some(record(&mut entry)?),
                EntryType::XHeader => ahead.take_pax(&record(&mut entry)?)?,
                EntryType::XGlobalHeader => drop(record(&mut entry)?),
                _ => {
                    let known = std::mem::take(&mut ahead);
                    let path = known.path.clone().unwrap_or_else(|| entry.path_bytes().into_owned());
                    self.place(&path, &mut entry, &known)
                        .map_err(|reason| format!("entry {:?}: {reason}", lossy(&path)))?;
                }
            }
        }
        Ok(self.bytes)
    }

    fn place<R: Read>(
        &mut self,
        path: &[u8],
        entry: &mut Entry<'_, R>,
        ahead: &Ahead,
    ) -> std::result::Result<(), String> {
        let names = components(path)?;
        let Some((name, parents)) = names.split_last() else {
            return Ok(());
        };
        let parent = self.parent(parents)?;
        if let Some(hidden) = name.strip_prefix(".wh.") {
            return whiteout(&parent, hidden);
        }
        let header = entry.header();
        let size = header.entry_size().map_err(|e| e.to_string())?;
        if ahead.sparse || ahead.size.is_some_and(|given| given != size) {
            return Err("sparse files and files above 8 GiB are not supported".to_owned());
        }
        let mode = header.mode().map_err(|e| e.to_string())? & 0o7777;
        let kind = header.entry_type();
        match kind {
            EntryType::Directory => make_dir(&parent, name)?,
            EntryType::Regular | EntryType::Continuous => {
                self.bytes = self.bytes.saturating_add(size);
                if self.bytes > self.limits.bytes {
                    return Err(format!("the layer has more than {} bytes", self.limits.bytes));
                }
                clear(&parent, name)?;
                write_file(&parent, name, entry)?;
            }
            EntryType::Symlink => {
                let target = link_target(entry, ahead)?;
                clear(&parent, name)?;
                rustix::fs::symlinkat(target, &parent, *name).map_err(|e| e.to_string())?;
            }
            EntryType::Link => {
                let target = link_target(entry, ahead)?;
                return self.hard_link(&target, &parent, name);
            }
            EntryType::Fifo => {
                clear(&parent, name)?;
                rustix::fs::mknodat(&parent, *name, FileType::Fifo, Mode::RUSR, 0)
                    .map_err(|e| e.to_string())?;
            }
            EntryType::Char | EntryType::Block => {
                return Err("device nodes are not allowed in layers".to_owned());
            }
            other => return Err(format!("entries of type {other:?} are not supported")),
        }
        let owner = (
            ahead.uid.map_or_else(|| header_id(entry.header().uid()), Ok)?,
            ahead.gid.map_or_else(|| header_id(entry.header().gid()), Ok)?,
        );
        let mtime = entry.header().mtime().unwrap_or(0);
        attributes(&parent, name, kind, mode, owner, mtime)?;
        set_xattrs(&parent, name, kind, &ahead.xattrs)
    }

    /// Opens the directory at `names`, making what is missing; never through a symbolic link.
    fn parent(&self, names: &[&str]) -> std::result::Result<OwnedFd, String> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let path = if names.is_empty() { ".".to_owned() } else { names.join("/") };
        let open = |path: &str| rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve);
        let opened = match open(&path) {
            Err(Errno::NOENT) => {
                for end in 1..=names.len() {
                    let part = names[..end].join("/");
                    if matches!(open(&part), Err(Errno::NOENT)) {
                        let above = self.parent(&names[..end - 1])?;
                        rustix::fs::mkdirat(&above, names[end - 1], Mode::from_raw_mode(0o755))
                            .map_err(|e| e.to_string())?;
                    }
                }
                open(&path)
            }
            other => other,
        };
        opened.map_err(|errno| match errno {
            Errno::LOOP => "its path goes through a symbolic link".to_owned(),
            Errno::NOTDIR => "its path goes through a file".to_owned(),
            other => other.to_string(),
        })
    }

    fn hard_link(&self, target: &[u8], parent: &OwnedFd, name: &str) -> std::result::Result<(), String> {
        let names = components(target).map_err(|reason| format!("its link target: {reason}"))?;
        let Some((target, parents)) = names.split_last() else {
            return Err("it links to the root".to_owned());
        };
        let from = self.parent(parents)?;
        clear(parent, name)?;
        rustix::fs::linkat(&from, *target, parent, name, AtFlags::empty())
            .map_err(|errno| format!("hard link to {target:?}: {errno}"))
    }
}

impl Ahead {
    fn take_pax(&mut self, records: &[u8]) -> std::result::Result<(), String> {
        for record in tar::PaxExtensions::new(records) {
            let record = record.map_err(|e| format!("bad extended header: {e}"))?;
            let Ok(key) = record.key() else { continue };
            let number = || record.value().ok().and_then(|value| value.parse::<u64>().ok());
            match key {
                "path" => self.path = Some(record.value_bytes().to_vec()),
                "linkpath" => self.link = Some(record.value_bytes().to_vec()),
                "size" => self.size = number(),
                "uid" => self.uid = number().and_then(|n| u32::try_from(n).ok()),
                "gid" => self.gid = number().and_then(|n| u32::try_from(n).ok()),
                _ if key.starts_with("GNU.sparse.") => self.sparse = true,
                _ => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        // Only those: overlayfs and the security modules act on others.
                        if name == "security.capability" || name.starts_with("user.") {
                            self.xattrs.push((name.to_owned(), record.value_bytes().to_vec()));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn record<R: Read>(entry: &mut Entry<'_, R>) -> std::result::Result<Vec<u8>, String> {
    if entry.size() > LONGEST_RECORD {
        return Err("it has a name or attribute record above 1 MiB".to_owned());
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// The names on a path; refuses what could lead out of the layer.
fn components(path: &[u8]) -> std::result::Result<Vec<&str>, String> {
    let text = std::str::from_utf8(path).map_err(|_| "its name is not UTF-8".to_owned())?;
    if text.starts_with('/') {
        return Err("absolute paths are not allowed".to_owned());
    }
    let mut names = Vec::new();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => return Err("paths with `..` are not allowed".to_owned()),
            _ => names.push(name),
        }
    }
    Ok(names)
}

fn link_target<R: Read>(entry: &Entry<'_, R>, ahead: &Ahead) -> std::result::Result<Vec<u8>, String> {
    ahead
        .link
        .clone()
        .or_else(|| entry.link_name_bytes().map(|name| name.into_owned()))
        .ok_or_else(|| "a link without a target".to_owned())
}

fn header_id(id: std::io::Result<u64>) -> std::result::Result<u32, String> {
    let id = id.map_err(|e| e.to_string())?;
    u32::try_from(id).map_err(|_| format!("owner {id} is out of range"))
}

/// `.wh..wh..opq` hides what lower layers have in this directory, `.wh.NAME` hides NAME.
fn whiteout(parent: &OwnedFd, hidden: &str) -> std::result::Result<(), String> {
    if hidden == ".wh..opq" {
        let path = format!("/proc/self/fd/{}", parent.as_raw_fd());
        let flags = rustix::fs::XattrFlags::empty();
        return rustix::fs::setxattr(path, "trusted.overlay.opaque", b"y", flags)
            .map_err(|errno| format!("opaque mark: {errno}"));
    }
    if hidden.starts_with(".wh.") {
        return Ok(()); // Bookkeeping of another file system.
    }
    if matches!(hidden, "" | "." | "..") {
        return Err("a whiteout of nothing".to_owned());
    }
    clear(parent, hidden)?;
    rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(|errno| format!("whiteout: {errno}"))
}

fn make_dir(parent: &OwnedFd, name: &str) -> std::result::Result<(), String> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => Ok(()),
        _ => {
            clear(parent, name)?;
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(|errno| errno.to_string())
        }
    }
}

/// Makes way for an entry that replaces an earlier one.
fn clear(parent: &OwnedFd, name: &str) -> std::result::Result<(), String> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
            .map_err(|errno| format!("it replaces a directory: {errno}")),
        Err(errno) => Err(errno.to_string()),
    }
}

fn write_file<R: Read>(
    parent: &OwnedFd,
    name: &str,
    entry: &mut Entry<'_, R>,
) -> std::result::Result<(), String> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| errno.to_string())?;
    let expected = entry.size();
    let written = std::io::copy(entry, &mut std::fs::File::from(file)).map_err(|e| e.to_string())?;
    if written != expected {
        return Err("the archive ends in the middle of it".to_owned());
    }
    Ok(())
}

fn attributes(
    parent: &OwnedFd,
    name: &str,
    kind: EntryType,
    mode: u32,
    (uid, gid): (u32, u32),
    mtime: u64,
) -> std::result::Result<(), String> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(parent, name, uid, gid, nofollow).map_err(|e| format!("owner: {e}"))?;
    if kind != EntryType::Symlink {
        // After the owner: changing that clears the set-uid bit.
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|e| format!("mode: {e}"))?;
    }
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(parent, name, &times, nofollow).map_err(|e| format!("time: {e}"))
}

fn set_xattrs(
    parent: &OwnedFd,
    name: &str,
    kind: EntryType,
    xattrs: &[(String, Vec<u8>)],
) -> std::result::Result<(), String> {
    if xattrs.is_empty() || !matches!(kind, EntryType::Regular | EntryType::Directory) {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| e.to_string())?;
    for (key, value) in xattrs {
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::fsetxattr(file.as_fd(), key.as_str(), value, flags) {
            // A file system without user attributes loses nothing that a program needs to run.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(format!("attribute {key}: {errno}")),
        }
    }
    Ok(())
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}
