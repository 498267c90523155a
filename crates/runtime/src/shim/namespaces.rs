//! Makes this process the keeper of a pod: session, subreaper, namespaces, shared mounts, socket.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, move_mount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::{os, pause};
use crate::proto::SOCKET;
use crate::types::{SandboxConfig, TmpfsVolume};

const DEFAULT_SHM_BYTES: u64 = 64 << 20;
/// The node must lose containers before it loses those that watch them.
const OOM_SCORE_ADJ: &str = "-998";

/// Returns the socket to serve; the working directory is the pod's afterwards.
pub(super) fn enter(
    sandbox: &SandboxConfig,
    dir: &Path,
    memory: Option<(PathBuf, OwnedFd)>,
    netns: Option<OwnedFd>,
) -> Result<OwnedFd, String> {
    // Fails when it leads its session already, which is as good.
    let _ = rustix::process::setsid();
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me)).map_err(|e| format!("subreaper: {e}"))?;
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    std::env::set_current_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if let Some(path) = &sandbox.netns {
        // Opened by the agent: the names of network namespaces are not seen from here.
        let netns =
            netns.ok_or_else(|| format!("network namespace {}: it did not come along", path.display()))?;
        let kind = Some(LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(netns.as_fd(), kind)
            .map_err(|e| format!("network namespace {}: {e}", path.display()))?;
    }
    let ipc = if sandbox.host_ipc { UnshareFlags::empty() } else { UnshareFlags::NEWIPC };
    os::unshare(UnshareFlags::NEWUTS | UnshareFlags::NEWNS | ipc)
        .map_err(|e| format!("new namespaces: {e}"))?;
    rustix::system::sethostname(sandbox.hostname.as_bytes())
        .map_err(|e| format!("host name {:?}: {e}", sandbox.hostname))?;
    mounts(sandbox)?;
    if let Some((at, tree)) = memory {
        in_memory(&at, &tree).map_err(|e| format!("what it has in memory, at {}: {e}", at.display()))?;
    }
    // Of the namespaces that it is in by now.
    for (name, value) in &sandbox.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, value).map_err(|e| format!("sysctl {name}={value}: {e}"))?;
    }
    if sandbox.share_processes && !sandbox.host_pid {
        pause::start()?;
    }
    let _ = std::fs::remove_file(SOCKET);
    // Relative, because the address of a socket can't be long.
    let listener = UnixListener::bind(SOCKET).map_err(|e| format!("{SOCKET}: {e}"))?;
    listener.set_nonblocking(true).map_err(|e| format!("{SOCKET}: {e}"))?;
    Ok(OwnedFd::from(listener))
}

/// What is mounted from here on is seen in this pod only; what the host unmounts goes away here too.
fn mounts(sandbox: &SandboxConfig) -> Result<(), String> {
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).map_err(|e| format!("mount propagation: {e}"))?;
    let bytes = sandbox.shm_size_bytes.unwrap_or(DEFAULT_SHM_BYTES);
    tmpfs(Path::new("shm"), Some(bytes), "mode=1777")?;
    sandbox.tmpfs_volumes.iter().try_for_each(mount_tmpfs_volume)
}

/// Mounts what the pod has in memory, of which other pods' shims see nothing. What the host unmounts there goes here, too.
fn in_memory(at: &Path, tree: &OwnedFd) -> rustix::io::Result<()> {
    move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(at, slave)
}

/// Mounts a memory-backed volume in the mount namespace of this process.
///
/// # Errors
/// What the kernel has against it.
pub fn mount_tmpfs_volume(volume: &TmpfsVolume) -> Result<(), String> {
    match volume.group {
        Some(group) => tmpfs(&volume.path, volume.size_bytes, &format!("mode=2777,gid={group}")),
        None => tmpfs(&volume.path, volume.size_bytes, "mode=0777"),
    }
}

fn tmpfs(path: &Path, bytes: Option<u64>, owner: &str) -> Result<(), String> {
    let size = bytes.map_or_else(String::new, |bytes| format!(",size={bytes}"));
    let options = std::ffi::CString::new(format!("{owner}{size}")).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
        .map_err(|e| format!("tmpfs at {}: {e}", path.display()))
}
