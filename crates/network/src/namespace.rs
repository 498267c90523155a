//! Network namespaces: made, found, removed, and entered.
//!
//! A namespace is entered only by a thread of our own that ends right afterwards: so neither a tokio worker
//! nor a pooled thread can ever be left in the wrong namespace. A socket belongs to the namespace of
//! the thread that made it for ever, so servers open theirs this way and are then run by the ordinary runtime.

use crate::error::{NetworkError, Result};
use crate::names::{NETNS_DIR, netns_path};
use crate::sys;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};

/// An open network namespace; it lives at least as long as this handle.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    /// Its name below /run/netns.
    pub(crate) name: String,
    fd: Arc<OwnedFd>,
}

impl Namespace {
    /// Opens the namespace `name`, if it exists and is really one (not a file left by a reboot or a crash).
    pub(crate) fn open(name: &str) -> Result<Option<Self>> {
        let path = netns_path(name);
        let fd = match rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(NetworkError::io(format!("open {}", path.display()), e)),
        };
        const NSFS_MAGIC: i64 = 0x6e73_6673;
        let stat =
            rustix::fs::fstatfs(&fd).map_err(|e| NetworkError::io("look at the namespace's file", e))?;
        if stat.f_type as i64 != NSFS_MAGIC {
            return Ok(None);
        }
        Ok(Some(Self { name: name.to_owned(), fd: Arc::new(fd) }))
    }

    /// Makes the namespace, or opens the one that is there. Blocks; `true` = it was made now.
    pub(crate) fn open_or_create(name: &str) -> Result<(Self, bool)> {
        if let Some(found) = Self::open(name)? {
            return Ok((found, false));
        }
        prepare_directory()?;
        let path = netns_path(name);
        std::fs::File::create(&path)
            .map_err(|e| NetworkError::io(format!("create {}", path.display()), e))?;
        let target = path.clone();
        on_own_thread(move || {
            sys::unshare_network()?;
            rustix::mount::mount_bind("/proc/thread-self/ns/net", &target)
        })?
        .map_err(|e| {
            let _ = std::fs::remove_file(&path);
            NetworkError::io(format!("make the network namespace {name} (root is needed)"), e)
        })?;
        match Self::open(name)? {
            Some(made) => Ok((made, true)),
            None => Err(NetworkError::io(format!("find {} again", path.display()), Errno::NOENT)),
        }
    }

    /// What tells this namespace from a later one of its name, without keeping it.
    pub(crate) fn identity(&self) -> Weak<OwnedFd> {
        Arc::downgrade(&self.fd)
    }

    /// The descriptor, for netlink's "put that link into this namespace".
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. Blocks.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fd = self.fd.clone();
        let name = self.name.clone();
        on_own_thread(move || {
            enter(&fd).map_err(|e| NetworkError::io(format!("enter the namespace {name}"), e))?;
            work()
        })?
    }
}

fn enter(fd: &OwnedFd) -> rustix::io::Result<()> {
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind))
}

/// Runs `work` on a thread that ends with it, and waits. Blocks.
fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let thread = std::thread::Builder::new()
        .name("netns".into())
        .stack_size(512 * 1024)
        .spawn(work)
        .map_err(|e| NetworkError::io("start a thread for a namespace", e))?;
    thread
        .join()
        .map_err(|_| NetworkError::io("run in a namespace", std::io::Error::other("the thread panicked")))
}

/// Runs blocking work of this crate away from the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(NetworkError::io("run network work", std::io::Error::other(e.to_string()))),
    }
}

/// /run/netns as iproute2 makes it: a mount point of its own, shared, so that bind mounts reach other mount namespaces.
fn prepare_directory() -> Result<()> {
    let dir = Path::new(NETNS_DIR);
    if !dir.exists() {
        std::fs::create_dir_all(dir).map_err(|e| NetworkError::io(format!("create {NETNS_DIR}"), e))?;
    }
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match rustix::mount::mount_change(dir, shared) {
        Ok(()) => Ok(()),
        // It is no mount point yet. Shared with nobody first: where /run is shared, as systemd has it, each name would be mounted there as
        // well, below the other, and from there in each pod.
        Err(Errno::INVAL) => rustix::mount::mount_bind_recursive(dir, dir)
            .and_then(|()| rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE))
            .and_then(|()| rustix::mount::mount_change(dir, shared))
            .map_err(|e| NetworkError::io(format!("make {NETNS_DIR} a shared mount"), e)),
        Err(e) => Err(NetworkError::io(format!("make {NETNS_DIR} a shared mount"), e)),
    }
}

/// Takes the name away; the namespace itself ends with its last process and socket. Fine if it is gone already.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = netns_path(name);
    // A name may carry several mounts when two processes raced to make it.
    for _ in 0..8 {
        match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(NetworkError::io(format!("unmount {}", path.display()), e)),
        }
    }
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(NetworkError::io(format!("remove {}", path.display()), e)),
    }
}

/// The names of all namespaces that begin with `prefix`, sorted.
pub(crate) fn list(prefix: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(NetworkError::io(format!("list {NETNS_DIR}"), e)),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}

/// Writes a setting below /proc/sys for the calling thread's namespace; `false` = this kernel has no such setting.
pub(crate) fn sysctl(path: &str, value: &str) -> Result<bool> {
    match std::fs::write(format!("/proc/sys/{path}"), value) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(NetworkError::io(format!("set {path} to {value}"), e)),
    }
}
