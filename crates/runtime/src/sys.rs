//! Small dealings with the kernel that both the agent's side and the shim need.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;

use crate::error::{Result, RuntimeError};

/// Most file descriptors in one message; the kernel takes 253.
pub(crate) const MOST_FDS: usize = 128;

/// Replaces a file as a whole: a reader sees the old or the new content. `durable` waits for the disk.
pub fn write_atomic(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_data()?;
        }
        std::fs::rename(&temporary, path)
    };
    write().map_err(RuntimeError::io("write", path))
}

/// [`write_atomic`] of a value as JSON.
pub fn write_json(path: &Path, value: &impl Serialize, durable: bool) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| RuntimeError::io("encode", path)(error.into()))?;
    write_atomic(path, &bytes, durable)
}

/// A short path to a file in `dir`, valid while the descriptor is open: addresses of Unix sockets hold 107 bytes,
/// data directories may be deeper.
pub(crate) fn short_path(dir: &Path, name: &str) -> std::io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    Ok((dir, path))
}

/// Sends bytes with descriptors attached to the first of them. Returns how many bytes went.
pub(crate) fn send_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::INVAL);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// Receives bytes and the descriptors that come with them. Does not wait.
pub(crate) fn recv_fds(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(received.bytes)
}

/// Removes a directory of a pod's with all in it, but for what somebody mounted there, which is unmounted; a missing one is fine.
pub fn remove_with_mounts(path: &Path) -> Result<()> {
    crate::tree::remove_with_mounts(path).map_err(RuntimeError::io("remove", path))
}

/// Removes a directory with all in it; a missing one is fine.
pub fn remove_tree(path: &Path) -> Result<()> {
    crate::tree::remove(path).map_err(RuntimeError::io("remove", path))
}
